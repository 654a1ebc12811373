"""`loadtest report`: what its options add, and what its exit code says."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

import click
import orjson
import pytest
from support.a100 import Machine
from support.made_runs import Made, make, write

from loadtest.analyse.reports.run_again import command
from loadtest.analyse.summary import analyse
from loadtest.cli import cli
from loadtest.cli.options.environment import SHOWING, flag_of, words_given
from loadtest.cli.run import IN_OTHER_FACTS

pytestmark = pytest.mark.usefixtures("bare_reports")

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(("slo", "expected"), [("ttft_p50=10", 0), ("ttft_p50=1ms", 1)])
def test_an_objective_sets_the_exit_code_and_goodput(slo: str, expected: int, tmp_path: Path, loadtest: Call) -> None:
    make(tmp_path / "run", Made(), users=(4, 8))
    code, out, _ = loadtest("report", tmp_path / "run", "--slo", slo)
    assert code == expected
    assert out.count("TTFT p50 is ") == 2  # a line a level
    levels = orjson.loads((tmp_path / "run" / "summary.json").read_bytes())["levels"]
    assert [level["goodput"]["share"] for level in levels] == [1.0 - expected] * 2


def test_the_pages_say_what_came_of_each_objective(tmp_path: Path, loadtest: Call) -> None:
    """Who was sent the HTML alone saw figures, and no word of the gate that the run was made for."""
    make(tmp_path / "run", Made(), users=(4, 8))
    _, out, _ = loadtest("report", tmp_path / "run", "--slo", "ttft_p50=1ms,errors=0.01")
    for name in ("report.md", "report.html"):
        page = html.unescape((tmp_path / "run" / name).read_text(encoding="utf-8"))
        assert "Objectives" in page
        said = re.findall(r"^(.+?): (?:TTFT p50|error rate) is (.+\)), (.+): (.+)$", out, re.MULTILINE)
        assert len(said) == 4
        for level, figure, objective, outcome in said:
            row = ".{1,40}".join(map(re.escape, (level, objective, outcome, figure)))
            assert re.search(row, page, re.DOTALL), row
    table = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert "| 4 streams · 100 in · 20 out | goodput | 0 of 32 requests | 0.00 requests/s |" in table
    make(tmp_path / "void", Made(), users=(4,), clock_steps=1)
    loadtest("report", tmp_path / "void", "--slo", "ttft_p50=10")
    void = (tmp_path / "void" / "report.md").read_text(encoding="utf-8")
    assert "| met, but void |" in void
    assert "| goodput |" not in void
    loadtest("report", tmp_path / "run")
    assert "Objectives" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_the_page_says_how_large_the_model_is_and_how_its_weights_are_kept(tmp_path: Path, loadtest: Call) -> None:
    make(tmp_path / "run", Made(), users=(4,))
    facts = orjson.loads((tmp_path / "run" / "run.json").read_bytes())
    facts["server"] = {**facts["server"], "facts": {"details": {"parameter_size": "70.6B"}}}
    for kept, said in (("Q4_0", "70.6B parameters, Q4_0"), ("unknown", "70.6B parameters<")):
        facts["comparability"] = {**facts.get("comparability", {}), "quantization": kept}
        (tmp_path / "run" / "run.json").write_bytes(orjson.dumps(facts))
        loadtest("report", tmp_path / "run")
        assert said in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kept", "shown"), [("ttft_p50=1ms", True), ("ttft=", False), (None, False)])
def test_a_report_made_anew_holds_the_run_against_its_own_objectives(
    kept: str | None, shown: bool, tmp_path: Path, loadtest: Call
) -> None:
    """It said "no limit was set" of a run that was made with --slo."""
    make(tmp_path / "run", Made(), users=(4,))
    facts = orjson.loads((tmp_path / "run" / "run.json").read_bytes())
    (tmp_path / "run" / "run.json").write_bytes(orjson.dumps({**facts, "asked": {"slo": kept}}))
    code, _, _ = loadtest("report", tmp_path / "run")
    assert code == 0  # a gate is what --slo of this command asks for
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert ("Objectives" in page, "no limit was set" in page) == (shown, not shown)


def test_an_objective_that_cannot_be_judged_says_so_and_fails(tmp_path: Path, loadtest: Call) -> None:
    make(tmp_path / "run", Made(), users=(1, 2))
    code, out, _ = loadtest("report", tmp_path / "run", "--slo", "ttft_p99=10")
    assert code == 1
    assert "1 stream · 100 in · 20 out: TTFT p99 needs 100 requests and has 8, TTFT p99 ≤ 10 s: not judged" in out


def test_an_empty_run_is_no_success(tmp_path: Path, loadtest: Call) -> None:
    write(tmp_path / "run", [], [])
    assert loadtest("report", tmp_path / "run")[0] == 3


def test_a_run_of_the_published_test_is_set_beside_it(tmp_path: Path, loadtest: Call) -> None:
    Machine().run("published_input_484_words", tmp_path / "run")
    code, out, _ = loadtest("report", tmp_path / "run", "--published")
    assert code == 0
    assert "3 of 3 cells are within 5 %" in out
    assert (tmp_path / "run" / "published.md").read_text() in out


def test_another_run_has_nothing_to_set_beside_it(tmp_path: Path, loadtest: Call) -> None:
    make(tmp_path / "run", Made(), users=(1,))
    code, _, err = loadtest("report", tmp_path / "run", "--published")
    assert code == 2
    assert err.count("\n") == 1
    assert not (tmp_path / "run" / "published.md").exists()


def test_the_command_of_a_run_has_every_option_that_it_was_given() -> None:
    """It left out --probe-slots, --monitor and whatever else no key of the scenario holds."""
    given = {  # by option: what is typed, what the report's command has
        "--probe-slots": ((), ()),
        "--monitor": (("host,dcgm=http://u:p@box/m?key=s", "rapl"), ("host,dcgm=http://box/m?…", "rapl")),
        "--monitor-every": (("0.5",), ("0.5",)),
        "--monitor-idle": (("3",), ("3.0",)),
        "--metrics-port": (("1",), ("1",)),
        "--metrics-address": (("0.0.0.0",), ("0.0.0.0",)),
    }
    with click.Context(cli, **cli.context_settings) as parent:
        run = cli.get_command(parent, "run")
        assert run is not None
        typed = [
            word for flag, (values, _) in given.items() for value in values or [None] for word in (flag, value) if word
        ]
        with run.make_context("run", [*typed, "--seed", "7"], parent=parent):
            said = words_given(IN_OTHER_FACTS)
        with run.make_context("run", ["--quiet", "--slo", "errors=0.1"], parent=parent):
            assert words_given(IN_OTHER_FACTS) == []
        named = {flag_of(one) for one in run.params if isinstance(one, click.Option) and one.name not in IN_OTHER_FACTS}
        shown = {flag_of(one) for one in run.params if one.name in SHOWING and isinstance(one, click.Option)}
    assert named - shown - {"--help", "--first-byte-timeout"} == given.keys(), "does a report name what is new?"
    words = [[flag, *([value] if value else [])] for flag, (_, kept) in given.items() for value in kept or [None]]
    assert sorted(said) == sorted(word for pair in words for word in pair)


def test_a_report_names_the_whole_command(run: Callable[..., Path], loadtest: Call) -> None:
    folder = run("--probe-slots", "--monitor", "host", "--monitor-every", "0.05")
    loadtest("report", folder)
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert {"--probe-slots", "--monitor host", "--monitor-every 0.05"} <= {
        *re.findall(r"--probe-slots|--monitor\S* \S+", next(row for row in page.splitlines() if "run it again" in row))
    }


def test_a_command_keeps_the_prediction_that_the_run_kept_or_the_one_to_be_scored(tmp_path: Path) -> None:
    kept = {"sha256": "0", "made": "2026-11-28", "kept": "2026-11-28"}
    make(tmp_path / "run", users=(1,), scenario={"concurrency": [1]}, prediction=kept)
    run = analyse(tmp_path / "run").run
    assert str(command(run)).endswith(f"--concurrency 1 --prediction {tmp_path}/run/prediction.json")
    assert str(command(run, "promise.json")).endswith("--concurrency 1 --prediction promise.json")
