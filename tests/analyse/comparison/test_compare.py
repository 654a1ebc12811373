"""`loadtest compare`: what it says of equal servers, of slower ones, and of levels that tell nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from support.compared import PROFILE, TIMING, Folder, run
from support.made_runs import Made, grid, unanswered, write
from support.virtual_runs import SessionLoad, play_sessions

from loadtest.analyse.charts import style
from loadtest.analyse.charts.compare import changes_panel
from loadtest.analyse.comparison import many_report
from loadtest.analyse.comparison.compare import BETTER, NOT_COMPARABLE, SAME, TOO_FEW, WORSE, Change, compare
from loadtest.analyse.comparison.compare_report import interval_text, markdown, method, outcome, to_dict
from loadtest.analyse.comparison.estimates import METRICS, OF_REQUESTS
from loadtest.analyse.comparison.many import compare_many
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.summary import analyse
from loadtest.cli.compare import EXPENDABLE
from loadtest.errors import LoadTestError, RunFolderError
from loadtest.records import Outcome, Record


def test_ratios_are_new_over_base_and_each_metric_knows_its_better_side(folder: Folder) -> None:
    found = compare(analyse(folder("base")), analyse(folder("new", slower=-0.2, seed=1)))
    assert found.verdict == BETTER
    assert not found.regressions
    rows = {(row.level["concurrency"], row.metric.id): row for row in found.headline}
    assert rows[8, "ttft_s.mean"].ratio == pytest.approx(0.8, rel=0.02)
    assert rows[8, "stream_tokens_per_s.mean"].ratio == pytest.approx(1.25, rel=0.02)
    assert rows[8, "output_tokens_per_s"].ratio == pytest.approx(1.25, rel=0.02)
    for row in (rows[8, "ttft_s.mean"], rows[8, "output_tokens_per_s"]):
        assert row.interval is not None
        assert row.interval[0] < (row.ratio or 0) < row.interval[1]


def test_all_headline_intervals_hold_together(folder: Folder) -> None:
    found = compare(analyse(folder("base")), analyse(folder("new", seed=1)))
    judged = [row for row in found.headline if row.verdict != NOT_COMPARABLE]
    assert found.tests == len(judged) >= 6  # at two streams p95 has too few samples
    assert found.confidence == pytest.approx(1 - 0.01 / found.tests)


def test_exactly_equal_runs_are_no_proof_of_the_last_thousandth(tmp_path: Path) -> None:
    """Without any jitter inside the runs a difference of 0.3 % is still within what two runs differ by."""
    for name, gap in (("base", 1000), ("new", 1003)):
        levels, truth = grid(Made(gap_ms=gap, prefill_ms=5000, jitter_ms=lambda i: i % 2), (1, 4), each=8)
        write(tmp_path / name, truth.records, levels)
    found = compare(analyse(tmp_path / "base"), analyse(tmp_path / "new"))
    assert found.verdict == SAME


@pytest.mark.parametrize(("tolerance", "code"), [("2%", 1), ("0.15", 0)])
def test_a_regression_is_past_the_tolerance(folder: Folder, tolerance: str, code: int) -> None:
    base, new = folder("base"), folder("new", slower=0.1, seed=1)
    result = run(base, new, "--tolerance", tolerance, "--run-noise", "0.5%")
    assert result.return_value == code
    assert ("NEW is worse in " in result.output) == (code == 1)
    assert "within these two runs" in " ".join(result.output.split())


def test_no_difference_exits_0_and_writes_the_files(folder: Folder, tmp_path: Path) -> None:
    result = run(folder("base"), folder("new", seed=1), "-o", tmp_path / "out")
    assert result.return_value == 0
    assert result.output.startswith("No difference seen in 6 headline figures within these two runs, where a ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.json", "compare.md", "compare.png"]
    said = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert said["verdict"] == SAME
    assert said["regression"] is False
    assert len([row for row in said["rows"] if row["headline"]]) == 8
    assert imread(tmp_path / "out" / "compare.png").std() > 0.01
    assert "![" in (tmp_path / "out" / "compare.md").read_text()


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_says_what_it_leaves_out(folder: Folder, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Was a table at 60 columns without BASE and interval, and no word of them."""
    sides = folder("base"), folder("new", seed=1)
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run(*sides).output.split("The headline figures")[0]
    heads = next(line for line in shown.splitlines() if "figure" in line and "verdict" in line)
    said = " ".join(shown.partition("left out at")[2].split())
    assert [head for head in EXPENDABLE if head not in heads] == [head for head in EXPENDABLE if head in said]
    assert max(map(len, shown.splitlines())) <= width
    assert shown.count("\n 8 streams") == 1


def test_the_chart_shows_the_verdict_in_colour(folder: Folder) -> None:
    found = compare(analyse(folder("base")), analyse(folder("new", slower=0.2, seed=1)))
    rows = [row for row in found.headline if row.metric.id == "output_tokens_per_s"]
    axes = Figure().subplots()
    changes_panel(axes, rows[0].metric, rows, [row.level["label"] for row in rows], found.tolerance)
    points = [line for line in axes.lines if line.get_marker() == "o"]
    assert {line.get_color() for line in points} == {style.VERMILLION}
    assert [float(np.asarray(line.get_xdata())[0]) for line in points] == pytest.approx(
        [(row.ratio or 0) - 1 for row in rows]
    )
    assert axes.get_xlabel() == "← worse: change, %"


def test_a_change_beyond_the_axis_is_an_arrow(folder: Folder) -> None:
    """A dot at the edge of the axis, at +100 %, stood for +502 %."""
    found = compare(analyse(folder("base")), analyse(folder("new", slower=5, seed=1)))
    rows = [row for row in found.headline if row.metric.id == "ttft_s.mean"]
    axes = Figure().subplots()
    changes_panel(axes, rows[0].metric, rows, [row.level["label"] for row in rows], found.tolerance)
    assert {line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1} == {">"}  # type: ignore[arg-type]


def test_files_go_to_the_new_run_by_default(folder: Folder) -> None:
    new = folder("new", seed=1)
    run(folder("base"), new)
    assert (new / "compare.md").exists()


def test_simulated_runs_are_labelled_everywhere(folder: Folder) -> None:
    server = {"kind": "ollama", "version": "0.33.0", "simulated": PROFILE}
    base, new = (folder(name, seed=i, server=server) for i, name in enumerate(("base", "new")))
    found = compare(analyse(base), analyse(new))
    assert "SIMULATED SERVER" in markdown(found, None)
    assert to_dict(found)["simulated"] == "simulated: profile a100-80g-llama3.1-70b-q4 at 10× speed"
    assert "(simulated: profile" in run(base, new).output


def test_levels_are_matched_by_what_they_ask_for(folder: Folder) -> None:
    found = compare(analyse(folder("base", users=(2, 4))), analyse(folder("new", users=(4, 8), seed=1)))
    assert {row.level["concurrency"] for row in found.rows} == {4}
    assert any(note.startswith("Only BASE has 2 streams") for note in found.notes)
    assert any(note.startswith("Only NEW has 8 streams") for note in found.notes)


def test_no_level_in_common_is_a_mistake(folder: Folder) -> None:
    with pytest.raises(RunFolderError, match="no level in common"):
        compare(analyse(folder("base", users=(2,))), analyse(folder("new", users=(4,))))


def test_few_requests_are_not_judged(folder: Folder) -> None:
    found = compare(analyse(folder("base", each=2, users=(2,))), analyse(folder("new", each=2, users=(2,), slower=1.0)))
    assert {row.reason for row in found.headline} == {TOO_FEW}


def failing(records: list[Record], share: int) -> list[Record]:
    """Return the records with every `share`-th of the measured ones refused."""
    return [
        record if record.warmup or number % share else unanswered(record, Outcome.HTTP_ERROR, status=503)
        for number, record in enumerate(records)
    ]


def test_waits_of_users_who_stayed_are_compared_also_where_they_are_few(tmp_path: Path) -> None:
    """TTFT p95 was what users who hung up had waited at least, beside a note that it is of those who stayed."""
    levels, truth = grid(Made(slots=2), (8,), each=4)
    records = [unanswered(one, Outcome.LEFT) if one.id % 5 == 0 else one for one in truth.records]
    for name in ("base", "new"):
        write(tmp_path / name, records, levels)
    found = compare(analyse(tmp_path / "base"), analyse(tmp_path / "new"))
    stayed = [truth.ttft[one.id] for one in records if one.outcome is Outcome.OK and not one.warmup]
    (row,) = (row for row in found.headline if row.metric.id == "ttft_s.p95")
    assert row.base == pytest.approx(np.quantile(stayed, 0.95))


def test_more_failures_are_a_regression(tmp_path: Path) -> None:
    for name, share in (("base", 1000), ("new", 4)):
        levels, truth = grid(Made(jitter_ms=lambda i: i % 5), (4,), each=16)
        write(tmp_path / name, failing(truth.records[1:], share), levels)
    found = compare(analyse(tmp_path / "base"), analyse(tmp_path / "new"))
    row = next(row for row in found.headline if row.metric.id == "failed")
    assert row.verdict == WORSE
    assert row.regression
    assert run(tmp_path / "base", tmp_path / "new").return_value == 1


def test_a_void_level_is_not_judged(folder: Folder, tmp_path: Path) -> None:
    base = folder("base")
    new = folder("new", seed=1, slower=0.5, client={"clock_steps": [1]})
    found = compare(analyse(base), analyse(new))
    assert {row.reason for row in found.headline} == {"void in NEW"}
    assert method(found) == "No figure was judged, so no interval was made; the reason stands beside each level."
    said = " ".join(run(base, new).output.split())
    assert "No verdict at 2 streams · 128 in · 64 out: void in NEW (a clock of the client jumped 1 time" in said


def test_one_run_a_side_is_judged_only_past_tolerance_and_run_noise(folder: Folder) -> None:
    """10 % may be two runs of one server, whose differences two runs cannot show; several a side can."""
    base, new = folder("base"), folder("new", slower=0.1, seed=1)
    found = compare(analyse(base), analyse(new))
    assert found.verdict == SAME
    assert "within these two runs, where a difference of " in outcome(found)
    assert found.visible is not None
    assert found.visible[0] > 0.10
    assert f"The smallest change that shows in nine of ten such comparisons is {found.visible[0] * 100:.0f}" in method(
        found
    )
    assert compare(analyse(base), analyse(new), run_noise=0.005).verdict == WORSE


def test_runs_too_short_to_show_a_doubling_say_so(folder: Folder) -> None:
    """Was "a difference of 200 % shows nine times in ten"."""
    base, new = analyse(folder("base")), analyse(folder("new", seed=1))
    found = compare(base, new, run_noise=0.2)
    assert outcome(found).startswith("No difference seen within these two runs, but not even a doubled figure")
    assert "smallest change" not in method(found)


def test_a_server_whose_levels_went_at_other_paces_may_do_so_between_runs(folder: Folder) -> None:
    """Six equal runs on a busy machine differed by up to 80 %, and each showed as much between its own levels."""
    base, new = analyse(folder("base")), analyse(folder("new", slower=0.5, seed=1))
    assert compare(base, new).verdict == WORSE
    restless = dataclasses.replace(new, steps=dataclasses.replace(new.steps, pace_error=0.6))
    for found in (compare(base, restless), compare(restless, base)):
        assert found.verdict == SAME
        assert "the 24 % by which runs of one server are taken to differ" in method(found)
        assert any("by 24 % within a run" in note and "Compare several a side" in note for note in found.notes)
    wandering = dataclasses.replace(new, steps=dataclasses.replace(new.steps, pace_scatter=0.3))
    assert compare(base, wandering).verdict == SAME
    assert compare_many([base, restless]).run_noise == pytest.approx(0.240, abs=0.001)
    assert compare(base, restless, run_noise=0.5).run_noise == 0.5


def test_an_interval_without_a_bound_on_either_side_is_not_written_as_one() -> None:
    row = Change(LevelData(), METRICS[0], 1.0, 1.0, 1.0, interval=(1e-5, 1e5))
    assert interval_text(row) == "any"
    assert interval_text(dataclasses.replace(row, interval=(0.5, 20.0))) == "−50.0 % or more"


def test_embeddings_are_compared_by_what_they_have(folder: Folder) -> None:
    """Every figure of two runs of embeddings had "too few samples", for they were asked for TTFT and tokens/s."""
    paths = [folder("base"), folder("new", slower=0.5, seed=1)]
    for path in paths:
        for file in path.glob("requests-*.jsonl"):
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            for row in rows[1:]:
                row.update(dialect="ollama-embeddings", chunks=[], reads=0, stamped=1, arrivals=1)
                for key in ("t_first_token", "t_first_visible", "output_tokens", "server", "server_us", "server_first"):
                    row.pop(key, None)
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(*map(analyse, paths))
    assert {row.metric.id for row in found.headline} == {metric.id for metric in OF_REQUESTS}
    assert found.verdict == WORSE
    chat = folder("chat", users=(2,))
    assert many_report.outcome(compare_many([analyse(chat), *map(analyse, paths)])) == [
        "At 2 streams the runs have no figure in common."
    ]


def test_several_runs_a_side_show_how_much_they_differ(folder: Folder, tmp_path: Path) -> None:
    """Five runs a side that differ by 2 % each: 10 % is seen, and so is nothing where there is nothing."""
    noise = np.random.default_rng(3).normal(0, 0.02, 15)
    runs = [folder(f"run{i}", seed=i, slower=float(off) + (0.1 if i >= 10 else 0.0)) for i, off in enumerate(noise)]
    same = compare([analyse(path) for path in runs[:5]], [analyse(path) for path in runs[5:10]])
    assert same.verdict == SAME
    assert "these two runs" not in outcome(same)
    slower = compare([analyse(path) for path in runs[:5]], [analyse(path) for path in runs[10:]])
    assert slower.verdict == WORSE
    assert len(slower.regressions) >= 6
    result = run(*runs[:2], "--against", *runs[10:12], "-o", tmp_path / "out")
    assert result.return_value in (0, 1)
    said = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [len(said[key]) for key in ("base_runs", "new_runs")] == [2, 2]
    assert "Intervals come from how much the 2 and 2 runs differ" in (tmp_path / "out" / "compare.md").read_text()


@pytest.mark.parametrize("names", [("one",), ("one", "--against")])
def test_sides_that_cannot_be_told_apart_are_a_mistake(folder: Folder, names: tuple[str, ...]) -> None:
    result = run(*(name if name.startswith("-") else folder(name, users=(2,)) for name in names))
    assert result.exception is not None
    assert "name two runs" in str(result.exception) or "names no run" in str(result.exception)


@pytest.mark.parametrize("text", ["five", "5", "-1%", "100%"])
def test_a_tolerance_that_makes_no_sense_is_a_mistake(folder: Folder, text: str) -> None:
    result = run(folder("base"), folder("new"), "--tolerance", text)
    assert result.exception is not None
    assert "write 5% or 0.05" in str(result.exception)


@pytest.mark.parametrize("names", ["base base", "base copy --against new slow", "new slow --against base copy"])
def test_no_run_stands_for_two(folder: Folder, tmp_path: Path, names: str) -> None:
    """Of copies of two equal runs, two a side, seven of seven figures were worse: copies do not scatter."""
    shutil.copytree(folder("base", users=(2,)), tmp_path / "copy")
    folder("new", users=(2,), seed=1)
    folder("slow", users=(2,), slower=0.2)
    result = run(*(name if name == "--against" else tmp_path / name for name in names.split()))
    assert isinstance(result.exception, LoadTestError)
    assert "are the same run: name two" in str(result.exception)


def test_it_is_said_why_a_level_is_suspect(folder: Folder, tmp_path: Path) -> None:
    """Nothing was said of it beside the verdict on its figures."""
    levels, truth = grid(Made(jitter_ms=lambda i: i % 5), (1, 4), each=8)
    odd = [dataclasses.replace(one, doubts=["its end is odd"]) if one.level else one for one in truth.records]
    runs = [analyse(write(tmp_path / name, odd, levels, name=name)) for name in ("base", "new")]
    said = "NEW is suspect at 4 streams: 32 of 32 answers: its end is odd."
    assert said in compare(*runs).notes
    assert said.replace("NEW", "B") in many_report.unjudged(compare_many(runs))


def test_a_run_without_its_facts_is_compared_as_far_as_its_records_tell(folder: Folder, tmp_path: Path) -> None:
    """It was refused as no run, which report reads."""
    whole, *runs = (folder(name, seed=seed) for seed, name in enumerate(("whole", "base", "new")))
    for path in runs:
        (path / "run.json").unlink()
    lost = "run.json is missing: what was run is only known as far as the records tell."
    assert f"NEW: {lost}" in " ".join(run(*runs).output.split())
    assert lost in str(run(whole, runs[0]).exception)  # not that both have to be measured with one scenario


def test_a_name_is_text_in_both_pages(folder: Folder, tmp_path: Path) -> None:
    """A comparison of two had it as HTML, and broke the line at its newline."""
    runs = [analyse(folder("base")), analyse(folder("new", seed=1))]
    for number, one in enumerate(runs):
        one.summary["name"] = f"<script>\n# {number}"
    for page in (markdown(compare(*runs), None), many_report.markdown(compare_many(runs), None)):
        assert "&#60;script&#62; \\# 1" in page
        assert "<script" not in page


def test_people_are_no_streams(tmp_path: Path) -> None:
    """The first line named "6 streams" beside a table of "6 people"."""
    load = SessionLoad(users=6, sessions=40, turns=2)
    runs = [
        analyse(play_sessions(TIMING.scaled(pace), [load], slots=4, seed=seed).write(tmp_path / str(seed)))
        for seed, pace in enumerate((1.0, 2.0))
    ]
    assert " at 6 people: " in outcome(compare(*runs))
