"""summary.json, report.md, report.html, PNGs and the console table."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import report_pages as pages
from support.made_runs import MS, Made, grid, make, unanswered, write
from support.places import FOLDERS

from loadtest.analyse import report
from loadtest.analyse.charts import sheet
from loadtest.analyse.comparison import many_report
from loadtest.analyse.comparison.many import compare_many
from loadtest.analyse.reports import gate_report, tables
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.summary import analyse
from loadtest.errors import RunFolderError
from loadtest.records import Outcome, Record
from loadtest.text import number, percent, seconds

REAL: dict[str, Any] = {"kind": "ollama", "version": "0.33.0", "simulated": None}
SIMULATED: dict[str, Any] = {"kind": "ollama", "version": "0.33.0", "simulated": {"profile": "a100", "speed": 20.0}}


def sent_late(record: Record, late_ms: int) -> Record:
    return dataclasses.replace(record, t_sched=(record.t_send or 0) - late_ms * MS)


class Page(HTMLParser):
    """Collects what a page fetches and checks that its tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.seen: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.ids |= {value or "" for name, value in attrs if name == "id"}
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "srcset"}]
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_commands_of_a_page_can_be_pasted_where_the_folder_has_a_blank_in_its_name(tmp_path: Path) -> None:
    make(tmp_path / "a run", Made(batch_ms=5), users=(1,))
    page = pages.html(analyse(tmp_path / "a run"))
    assert f"<code>loadtest explain &#39;{tmp_path / 'a run'}&#39;</code>" in page


@pytest.mark.parametrize(("folder", "load"), [("closed", "--concurrency N"), ("open", "--rate R")])
def test_a_page_offers_to_predict_the_kind_of_load_that_was_measured(folder: str, load: str) -> None:
    """Was `--rate 12`, where 5 a second were too many."""
    page = pages.html(analyse(FOLDERS / folder))
    assert re.search(rf"<code>loadtest predict \S+/{folder} {load}</code>", page)


@pytest.mark.parametrize("kind", [{"verdict": "void"}, {"concurrency": None, "rate": 2.0, "rate_to": 9.0}])
def test_a_page_offers_no_command_that_would_refuse_the_run(kind: dict[str, Any]) -> None:
    analysis = analyse(FOLDERS / "closed")
    for level in analysis.summary["levels"]:
        level.update(kind)
    page = pages.html(analysis)
    offered = {name for name in ("advise", "predict", "explain") if f"<code>loadtest {name} " in page}
    assert offered == {"explain"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make(tmp_path / "run", Made(batch_ms=5), users=(1, 8))
    return tmp_path / "run"


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, report.Report]:
    """A run folder with its whole report in it, made once."""
    path = tmp_path_factory.mktemp("reported") / "run"
    make(path, Made(batch_ms=5), users=(1, 8))
    return path, report.write_report(path)


def test_a_report_writes_everything_into_the_run_folder(reported: tuple[Path, report.Report]) -> None:
    run, written = reported
    assert {path.name for path in written.files} >= {"summary.json", "report.md", "report.html", "ttft.png"}
    assert all(path.parent == run and path.stat().st_size > 0 for path in written.files)
    assert json.loads((run / "summary.json").read_bytes()) == written.summary
    assert not list(run.glob("*.partial"))


def test_a_report_can_be_made_again_and_says_the_same(run: Path) -> None:
    report.write_report(run, charts=False)
    first = (run / "summary.json").read_bytes()
    report.write_report(run, charts=False)
    assert (run / "summary.json").read_bytes() == first


def test_without_charts_only_the_summary_is_written(run: Path) -> None:
    written = report.write_report(run, charts=False)
    assert [path.name for path in written.files] == ["summary.json"]


def test_html_is_one_file_that_fetches_nothing(reported: tuple[Path, report.Report]) -> None:
    page = Page()
    page.feed((reported[0] / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert len([source for source in page.fetched if source.startswith("data:image/png;base64,")]) == 11
    inside = [source.removeprefix("#") for source in page.fetched if source.startswith("#")]
    assert inside
    assert set(inside) <= page.ids
    assert len(page.fetched) == 11 + len(inside)


def test_html_and_markdown_escape_what_servers_and_users_name(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>|`*'
    make(tmp_path / "run", users=(2,), name=evil, target={"url": evil, "model": evil, "dialect": evil})
    analysis = analyse(tmp_path / "run")
    page = Page()
    page.feed(pages.html(analysis, []))
    assert "script" not in page.seen
    text = pages.markdown(analysis, [])
    assert "<script" not in text
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_findings_formulas_and_verdict_are_in_both(reported: tuple[Path, report.Report]) -> None:
    run, _ = reported
    for name in ("report.html", "report.md"):
        text = (run / name).read_text(encoding="utf-8")
        assert "The server handles 4 requests in parallel; further requests queue." in text
        assert "Past 4 streams requests queue" in text
        assert "valid" in text
        assert re.search(r"t\\?_first\\?_token − t\\?_send", text)


@pytest.mark.parametrize("server", [SIMULATED, REAL], ids=["simulated", "real"])
def test_every_artefact_says_simulated_when_it_was(tmp_path: Path, server: dict[str, Any]) -> None:
    simulated = server is SIMULATED
    make(tmp_path / "run", users=(2,), server=server)
    written = report.write_report(tmp_path / "run", charts=False)
    for text in (pages.html(written.analysis, []), pages.markdown(written.analysis, [])):
        assert ("SIMULATED SERVER" in text) == simulated
    assert (json.loads((tmp_path / "run/summary.json").read_bytes())["simulated"] is not None) == simulated
    assert ("simulated: profile a100 at 20× speed" in printed(written)) == simulated


def printed(written: report.Report) -> str:
    out = io.StringIO()
    report.console_report(written, Console(file=out, width=200))
    return out.getvalue()


def test_the_console_shows_levels_findings_and_doubts(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(batch_ms=5), users=(1, 8), clock_steps=1)
    text = printed(report.write_report(tmp_path / "run", charts=False))
    assert "made · ollama 0.33.0 · made · 100 in · 20 out" in text
    assert "TTFT p99" not in text  # no level has the 100 requests that it needs
    assert "64 / 0" in text
    assert "Do not quote the figures of void levels. Both levels are void." in text
    assert "Past 4 streams requests queue" not in text  # that level is void
    assert "Void at 1 and 8 streams. At 1 stream: a clock of the client jumped 1 time during the run" in text
    assert "Most output tokens/s: not known (every level is void)" in text
    assert text.index("Verdict: void") < text.index("What to do: Let the machine's clock settle") < text.index("64 / 0")


def test_the_console_table_fits_80_columns(run: Path) -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(report.console_table(report.write_report(run, charts=False).summary))
    assert "8 streams" in out.getvalue()
    assert "64 / 0" in out.getvalue()
    assert "valid" in out.getvalue()
    assert "…" not in out.getvalue()


def test_console_markup_in_names_is_text(tmp_path: Path) -> None:
    make(tmp_path / "run", users=(1,), name="[bold]x[/bold]")
    assert "[bold]x[/bold]" in printed(report.write_report(tmp_path / "run", charts=False))


def test_several_runs_get_a_folder_each() -> None:
    folders, out = [Path("a/run"), Path("b/run"), Path("other")], Path("out")
    assert report.places(folders, out) == [out / "0-run", out / "1-run", out / "other"]


@pytest.mark.parametrize(
    ("most", "said"), [(2.0, "102 ms to 1.05 s"), (0.327, "102 ms to over 327 ms"), (0.1021, "102 ms or more")]
)
def test_no_interval_is_said_to_end_past_all_that_was_seen(most: float, said: str) -> None:
    """Was "102 ms to 1.05 s", of answers of which none took more than 327 ms."""
    level = LevelData(stall_s={"p95": 0.3, "ci95_p95": [0.102, 1.05], "max": most})
    assert level.interval_in_words("stall_s", "p95") == said
    assert level.interval("stall_s", "p95") == (0.102, min(1.05, most))


def test_an_end_past_the_largest_value_is_no_other_where_both_are_written_alike() -> None:
    """README's gate said "1.65 s or more" of 1.6538 to 1.6549 s, with 1.6541 s the largest."""
    level = LevelData({"ttft_s": {"ci95_p95": [1.6538, 1.6549], "max": 1.6541}})
    assert level.interval_in_words("ttft_s", "p95") == "1.65 s to 1.65 s"


def test_tables_show_how_sure_p95_is_and_the_lag_that_the_verdict_judges(tmp_path: Path) -> None:
    """The tile had an interval of p95 and the tables none; the lag in the table was the longest, and the limit that of p99."""
    path = tmp_path / "run"
    lag_ms = [0] * 195 + [30, 30, 30, 30, 50]
    levels, truth = grid(Made(jitter_ms=lambda i: i * 7 % 23), (1,), each=200)
    at = iter(lag_ms)
    records = [each if each.warmup else sent_late(each, next(at)) for each in truth.records]
    level = (summary := analyse(write(path, records, levels)).summary)["levels"][0]
    low, high = level["ttft_s"]["ci95_p95"]
    (row,) = tables.overview(summary).rows
    assert f"({seconds(low)} to {seconds(high)})" in row[5]
    figures = tables.level_table(level, summary)
    assert (
        figures.rows[0][figures.heads.index("95 % interval of p95")] == f"{number(low * 1e3)} to {number(high * 1e3)}"
    )
    (judged,) = [each for each in level["reasons"] if each.startswith("schedule lag p99 is ")]
    client = tables.client_table(summary)
    assert (
        client.rows[0][client.heads.index("schedule lag p99 (limit)")].split(" (")[0]
        == judged.split("is ")[1].split(",")[0]
    )


@pytest.mark.usefixtures("short_reports")
def test_plot_writes_pictures_alone(run: Path, tmp_path: Path) -> None:
    drawn = report.plot([run], tmp_path / "pictures")
    assert sorted((tmp_path / "pictures").iterdir()) == sorted(drawn)
    assert all(path.suffix == ".png" for path in drawn)


@pytest.mark.usefixtures("short_reports")
def test_plot_of_several_runs_draws_each_ones_own_only_where_asked(run: Path, tmp_path: Path) -> None:
    """Twelve runs made about 130 pictures."""
    other = Path(shutil.copytree(run, tmp_path / "other"))
    of_all = report.plot([run, other], tmp_path / "pictures")
    assert [path.name for path in of_all] == ["throughput.png", "ttft.png", "tradeoff.png", "itl.png"]
    assert {path.parent.name for path in report.plot([other, run], each=True)} == {run.name, "other"}


def test_a_folder_that_is_no_run_is_one_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(RunFolderError, match="is not a run folder"):
        report.write_report(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_run_is_reported_as_void(tmp_path: Path) -> None:
    written = report.write_report(write(tmp_path / "run", [], []), charts=False)
    assert written.summary["verdict"] == "void"
    assert "No request was recorded" in pages.markdown(written.analysis, [])


def test_a_percentile_that_is_not_told_says_how_many_requests_it_needs(reported: tuple[Path, report.Report]) -> None:
    """64 requests at 8 streams and 8 at one: p99 needs 100, p95 needs 20."""
    run, _ = reported
    page = (run / "report.md").read_text()
    assert "too few (64 of 100)" in page
    assert "too few (8 of 20)" in page
    assert "needs 20" in page  # in the tables of every figure, beside n


def test_a_page_says_how_sure_the_output_is(reported: tuple[Path, report.Report]) -> None:
    """The figure on top, the most output tokens/s, had its interval in a chart alone, as a bar too short to be seen."""
    run, written = reported
    low, high = map(number, written.summary["levels"][-1]["output_tokens_per_s_ci95"])
    page = (run / "report.md").read_text()
    assert "95 % interval of output tokens/s" in page
    assert f"| {low} to {high} |" in page


def shapes(made: Made) -> dict[str, tuple[list[dict[str, Any]], list[Record]]]:
    """Return levels and records of a closed loop, of one at a rate and of a search: what tables are made of."""
    levels, truth = grid(made, (1, 8, 32), each=40)  # long enough for a p99 in every level but the first
    at_rates = [
        {**level, "concurrency": None, "rate": rate} for level, rate in zip(levels, (0.5, 12.25, 100.0), strict=True)
    ]
    again, more = grid(made, (1, 2, 4, 4, 4, 8, 6, 5), each=40)
    mixed = [{**level, "output_tokens": tokens} for level, tokens in zip(levels, (20, 200, 2000), strict=True)]
    replayed = [{**level, "concurrency": None, "trace": f"{'long' * 12}.csv"} for level in levels]
    return {
        "closed": (levels, truth.records),
        "rate": (at_rates, truth.records),
        "find-max": (again, more.records),
        "lengths": (mixed, truth.records),
        "trace": (replayed, truth.records),
    }


@pytest.mark.parametrize("shape", ["closed", "rate", "find-max", "lengths", "trace"])
def test_the_verdict_is_the_last_column_to_go(tmp_path: Path, shape: str) -> None:
    levels, records = shapes(Made(batch_ms=5))[shape]
    written = report.write_report(write(tmp_path / "run", records, levels), charts=False)
    for width in (80, 60, 40):
        out = io.StringIO()
        report.console_report(written, Console(file=out, width=width))
        lines = out.getvalue().splitlines()
        table = lines[: next(i for i, line in enumerate(lines) if line.startswith("•"))]
        table = table[len(table) - table[::-1].index("", 1) :] if "" in table else table  # the answers stand above
        heads = next(i for i, line in enumerate(table) if set(line.strip()) == {"─"})
        assert any(line.rstrip().endswith("verdict") for line in table[:heads]), width
        assert sum(line.rstrip().split(" ")[-1] in {"valid", "suspect", "void"} for line in table) == len(levels), width
        assert all(len(line) <= width for line in table)
        assert "…" not in "".join(table), width
        assert f"left out at {width} columns: TTFT p99" in " ".join(table)


def test_a_command_in_a_sentence_is_set_as_one(tmp_path: Path) -> None:
    """Commands stood in their backticks in the page; what failed and why was in no table."""
    levels, truth = grid(Made(), (2,))
    records = [unanswered(each, Outcome.HTTP_ERROR) for each in truth.records]
    page = pages.html(analyse(write(tmp_path / "run", records, levels)), [])
    assert "Do what the error says; <code>loadtest check --try</code> asks" in page
    assert '<h2 id="run-1">Failed requests</h2>' in page
    assert "16 of 16" in page
    assert "<p>16 requests at 2 streams · 100 in · 20 out" in page


def test_a_level_of_many_failed_requests_has_one_mark_in_every_table_and_chart(tmp_path: Path) -> None:
    """Its percentiles are of those that succeeded, and look good."""
    levels, truth = grid(Made(), (1, 8))
    records = [unanswered(one, Outcome.TIMEOUT) if one.level and one.id % 10 < 3 else one for one in truth.records]
    one = analyse(write(tmp_path / "run", records, levels))
    failed = one.summary["levels"][1].failed
    mark = f"suspect ({percent(failed / 64)} failed)"
    console = io.StringIO()
    Console(file=console, width=120).print(report.console_table(one.summary, 120))
    several = many_report.level_table(compare_many([one, one]))
    for shown in (
        console.getvalue(),
        *map("\n".join, (each.markdown() for each in (tables.overview(one.summary), several))),
    ):
        assert mark in shown
        assert "valid (" not in shown
    assert mark in gate_report.step_summary(one.summary, ())
    figure, _ = sheet.new(1)
    sheet.save(figure, tmp_path / "chart.png", one, "title", "subtitle")
    said = f"subtitle; figures leave out requests that failed: {percent(failed / 64)} at 8 streams"
    assert said in " ".join(each.get_text() for each in figure.texts).replace("\N{NO-BREAK SPACE}", " ")
