"""`loadtest compare` of three runs and more, `plot -o` of several: what differs, pairwise verdicts, what is not compared."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from matplotlib.image import imread
from support.made_runs import Made, grid, unanswered, write
from support.two_models import FAST, SLOW, THERE, mixed, target
from support.virtual_runs import Load, play

from loadtest.analyse.charts import compare as chart
from loadtest.analyse.charts import sheet
from loadtest.analyse.comparison import many as many_runs
from loadtest.analyse.comparison import many_report, traits
from loadtest.analyse.comparison.compare import BETTER, NOT_COMPARABLE, SAME, WORSE, Change, compare
from loadtest.analyse.comparison.differences import chance
from loadtest.analyse.comparison.estimates import estimate_of
from loadtest.analyse.comparison.many import Many, Pair, compare_many
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.summary import analyse
from loadtest.cli import cli
from loadtest.doubts import VOID
from loadtest.errors import LoadTestError
from loadtest.records import Outcome
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.012, 0.002), prefill_s=0.001, jitter=0.05)
QUICK = {"profile": "quick", "speed": 1.0}
Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a function that measures in virtual time: a name, how much slower, what run.json says of model and server."""

    def make(
        name: str,
        *,
        slower: float = 0.0,
        seed: int = 0,
        users: tuple[int, ...] = (2, 8),
        each: int = 8,
        slots: int = 4,
        model: str = "llama3.1:8b",
        quantization: str = "Q4_0",
        version: str = "0.33.0",
        simulated: dict[str, Any] | None = None,
        asked: dict[str, Any] | None = None,
        **facts: Any,
    ) -> Path:
        loads = [Load(users=count, requests=each * count, prompt=(128, 128), output=(64, 64)) for count in users]
        played = play(TIMING.scaled(1 + slower), loads, slots=slots, seed=seed)
        here = {"model": model, "quantization": quantization, "server": f"ollama {version}", "warm_cache": False}
        said = {
            "comparability": {"dialect": "ollama-chat", **here, **(asked or {})},
            "target": {"url": "http://10.0.0.1:11434", "api": "ollama", "dialect": "ollama-chat", "model": model},
            "server": {"kind": "ollama", "version": version, "context": 4096, "simulated": simulated, "facts": {}},
        }
        return played.write(tmp_path / name, name=name, **{**said, **facts})

    return make


def many(*folders: Path, **options: Any) -> Many:
    return compare_many([analyse(path) for path in folders], **options)


def run(command: str, *args: str | Path) -> Result:
    return CliRunner().invoke(cli, [command, *map(str, args)], standalone_mode=False, env={"COLUMNS": "80"})


def verdict(found: Many, pair: str, key: str, streams: int = 8) -> str | None:
    (one,) = (one for one in found.pairs if one.name == pair)
    return next(row.verdict for row in one.rows if row.metric.id == key and row.level["concurrency"] == streams)


def test_every_pair_gets_a_verdict_and_the_legend_is_what_differs(folder: Folder) -> None:
    found = many(
        folder("one", quantization="F16"),
        folder("two", quantization="F32", slower=0.9, seed=1),
        folder("three", quantization="Q8_0", slower=0.01, seed=2),
    )
    assert [entry.name for entry in found.entries] == ["F16", "F32", "Q8_0"]
    for key in ("ttft_s.mean", "output_tokens_per_s", "stream_tokens_per_s.mean"):
        assert [verdict(found, pair, key) for pair in ("A → B", "A → C", "B → C")] == [WORSE, SAME, BETTER]
    assert list(found.named.sentences(found.letters)) == ["The runs differ in quantization (A: F16; B: F32; C: Q8_0)."]
    assert many_report.outcome(found)[0].startswith("At 8 streams, A (F16) has the most output tokens/s (")
    assert "no difference from C (Q8_0) was seen" in many_report.outcome(found)[0]


def test_slots_server_version_and_gpu_are_found_and_several_differences_are_said(folder: Folder) -> None:
    slots = many(folder("two", slots=2), folder("four", slots=4))
    assert [entry.name for entry in slots.entries] == ["2 slots", "4 slots"]
    both = many(folder("old", version="0.24.0", slots=2), folder("new", version="0.33.0", slots=4))
    assert [entry.name for entry in both.entries] == ["ollama 0.24.0", "ollama 0.33.0"]
    said = " ".join(both.named.sentences(both.letters))
    assert "They differ besides in slots (A: 2 slots; B: 4 slots): a difference may come from any of it." in said
    analyses = [analyse(folder("a")), analyse(folder("b", seed=1))]
    for one, name in zip(analyses, ("NVIDIA A100", "NVIDIA H100"), strict=True):
        one.summary["hardware"] = [name, "box: 16 cores, 135 GB"]
    assert traits.names_of(analyses).names == ("NVIDIA A100", "NVIDIA H100")


def test_the_model_is_named_also_where_something_else_would_tell_the_runs_apart(folder: Folder) -> None:
    big = folder("big", model="llama:70b", slots=2), folder("more", model="llama:70b", slots=4, seed=1)
    assert [entry.name for entry in many(*big, folder("small", model="llama:1b", slots=6, seed=2)).entries] == [
        "llama:70b · 2 slots",
        "llama:70b · 4 slots",
        "llama:1b · 6 slots",
    ]


def test_a_quantization_that_ollama_does_not_know_is_no_name(folder: Folder) -> None:
    runs = (folder("mine", quantization="unknown"), folder("two", quantization="Q4_0", seed=1))
    assert traits.names_of([analyse(path) for path in runs]).names == ("mine", "two")


def test_settings_name_runs_and_other_work_gets_no_verdict(folder: Folder) -> None:
    found = many(folder("low", asked={"think": "low"}), folder("high", asked={"think": "high"}, slower=0.5, seed=1))
    assert [entry.name for entry in found.entries] == ["think low", "think high"]
    assert verdict(found, "A → B", "output_tokens_per_s") == WORSE
    runs = folder("made"), folder("data", asked={"prompt": "data"}, slower=0.5, seed=1)
    other = many(*runs)
    assert {row.verdict for row in other.pairs[0].rows} == {NOT_COMPARABLE}
    assert any("--across prompt compares all the same" in said for said in other.named.sentences(other.letters))
    both = [folder(name, asked={"prompt": name, "data": name}, seed=i) for i, name in enumerate("xy")]
    assert list(many(*both).named.sentences("AB"))[-1] == (
        "Runs that differ in any of data and prompt get no verdict (--across data,prompt compares all the same)."
    )
    assert any("the runs differ in prompt (made up → data)" in said for said in many_report.unjudged(other))
    assert verdict(many(*runs, across=frozenset(["prompt"])), "A → B", "output_tokens_per_s") == WORSE


def test_runs_of_other_numbers_of_requests_are_told_how_to_compare_them(folder: Folder) -> None:
    """One measured with --slo, which says how many requests a level has, and one without."""
    said = many_report.unjudged(many(folder("few"), folder("many", each=12, seed=1)))
    assert said == [
        "No verdict on A → B: the runs differ in requests a user (--across requests_a_user compares all the same)."
    ]


def test_a_name_says_what_a_run_lacks_only_where_nothing_else_tells_it_apart(folder: Folder) -> None:
    """A closed loop beside runs at a rate and of a file was "no arrivals · no data" in legends."""
    asked: tuple[dict[str, Any], ...] = ({}, {"data": "chats.jsonl"}, {"arrivals": "poisson"})
    runs = [folder(f"r{i}", asked=each, seed=i) for i, each in enumerate(asked)]
    names = many(*runs).named
    assert names.names == ("closed loop", "closed loop · data chats.jsonl", "poisson arrivals")
    assert "arrivals (A, B: closed loop; C: poisson)" in " ".join(names.sentences("ABC"))
    assert many(*runs[:2]).named.names == ("no data", "data chats.jsonl")


def test_runs_that_differ_in_nothing_have_their_own_names(folder: Folder) -> None:
    found = many(folder("monday"), folder("tuesday", seed=1), folder("friday", seed=2))
    assert [entry.name for entry in found.entries] == ["monday", "tuesday", "friday"]
    assert next(found.named.sentences(found.letters)).startswith("Nothing that run.json says")
    assert {row.verdict for pair in found.pairs for row in pair.rows if row.chance is not None} == {SAME}


def test_a_void_level_is_not_compared_and_the_reason_is_said(folder: Folder) -> None:
    found = many(folder("a"), folder("b", seed=1, slower=0.9, client={"clock_steps": [1]}), folder("c", seed=2))
    reasons = {row.reason for pair in found.pairs[:1] for row in pair.rows}
    assert reasons == {"void in B"}
    assert many_report.unjudged(found)[0].startswith(
        "B is void at 2 and 8 streams, so no time or rate of it is compared there: a clock of the client jumped 1 time"
    )
    assert "Without B: void there" in many_report.outcome(found)[0]
    assert verdict(found, "A → C", "output_tokens_per_s") == SAME


def test_a_simulated_run_is_named_and_never_judged_against_a_real_one(folder: Folder, tmp_path: Path) -> None:
    runs = [folder("real"), folder("real too", seed=1), folder("made", simulated=QUICK, slower=0.9, seed=2)]
    found = many(*runs)
    assert {row.verdict for pair in found.pairs if pair.second.letter == "C" for row in pair.rows} == {NOT_COMPARABLE}
    said = run("compare", *runs, "-o", tmp_path / "out").output
    words = " ".join(said.split())
    assert "C simulated quick at 1×: " in words
    assert "made,simulated:profilequickat1×speed" in "".join(said.split())  # the folder's path may be broken anywhere
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "> **SIMULATED**: run C measured a simulated server" in page
    assert [one.label for one in chart.styled_series(found)] == ["A real", "B real too", "C simulated quick at 1×"]
    alike = many(folder("x", simulated=QUICK), folder("y", simulated=QUICK, seed=3))
    assert [one.label for one in chart.styled_series(alike)] == ["A x", "B y"]  # the badge says it of all


def test_a_chart_of_void_levels_names_no_line_that_is_not_there(folder: Folder) -> None:
    """Its legend had "dotted: TTFT p95" above crosses alone, and a panel said that no level has a rate."""
    analyses = [analyse(folder("a")), analyse(folder("b", slower=0.5))]
    for level in (level for one in analyses for level in one.summary["levels"]):
        level["verdict"] = VOID
    found = compare_many(analyses)
    lines, said = [], []
    for _, _, panel in chart._panels(found):
        _, (axes,) = sheet.new(1)
        panel(axes, chart.styled_series(found))
        lines += [str(line.get_label()) for line in axes.lines]
        said += [text.get_text() for text in axes.texts]
    assert "A a: void, not compared" in lines
    assert not any("dotted" in label for label in lines)
    assert "No level that is not void has a TTFT and a rate." in " ".join(said)
    assert chart._subtitle(found).split("; ")[1][0].islower()  # behind the lengths that all share


def test_one_entry_of_the_legend_explains_the_crosses_of_all_lines(folder: Folder) -> None:
    """With twelve runs a legend was longer than its chart: each cross had an entry beside that of its line."""
    analyses = [analyse(folder(name, slower=slower)) for name, slower in (("a", 0.0), ("b", 0.5), ("c", 1.0))]
    for level in (analyses[0].summary["levels"][0], analyses[1].summary["levels"][0], *analyses[2].summary["levels"]):
        level["verdict"] = VOID
    figure, (axes,) = sheet.new(1)
    found = compare_many(analyses)
    _, _, throughput = chart._panels(found)[0]
    throughput(axes, chart.styled_series(found))
    assert list(sheet._legend(figure)[0]) == ["A a", "B b", "C c: void, not compared", "void, not compared"]


def test_a_line_of_output_against_wait_says_at_its_ends_which_loads_they_are(folder: Folder) -> None:
    found = many(folder("a"), folder("b", slower=0.5))
    _, (axes,) = sheet.new(1)
    next(panel for name, _, panel in chart._panels(found) if name == "tradeoff")(axes, chart.styled_series(found))
    ends = [f"{level['concurrency']}" for level in (found.entries[0].levels[0], found.entries[0].levels[-1])]
    assert [text.get_text() for text in axes.texts] == 2 * ends


def test_a_legend_of_long_names_takes_as_many_columns_as_fit_side_by_side() -> None:
    """Columns are as wide as what they hold: one long name kept all of them in a single column."""
    figure, (axes,) = sheet.new(1)
    for name in ("A " + "x" * 60, "B " + "x" * 60, "C " + "x" * 30, "D " + "x" * 30):
        axes.plot([1, 2], [1, 2], label=name)
    assert sheet._legend(figure)[1] == 2


def test_values_that_differ_from_run_to_run_are_counted_and_not_listed(folder: Folder, tmp_path: Path) -> None:
    """With twelve runs twenty lines of them stood above the table."""
    runs = [
        folder(f"r{i}", model=f"model-{i}", simulated={"profile": f"p{i}", "speed": 1.0}, users=(2,)) for i in range(6)
    ]
    said = list(many(*runs).named.sentences("ABCDEF"))
    assert said[0] == "The runs differ in model (6 values)."
    assert said[1] == (
        "They differ besides in simulated (6 values; compare.json has them): a difference may come from any of it."
    )
    before = " ".join(run("compare", *runs, "-o", tmp_path / "out").output.split("level")[0].split())
    assert "All of them measured a simulated server." in before
    assert "• A model-0: " in before
    assert "2026" not in before


def test_three_runs_on_the_command_line(folder: Folder, tmp_path: Path) -> None:
    runs = [folder(name, model=f"model-{name}", slower=slower) for name, slower in (("a", 0.0), ("b", 0.5), ("c", 1.0))]
    result = run("compare", *runs, "-o", tmp_path / "out")
    assert result.return_value == 0
    assert max(map(len, result.output.split("wrote ")[0].splitlines())) <= 80
    assert "A → C" in result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.json", "compare.md", "compare.png"]
    assert imread(tmp_path / "out" / "compare.png").std() > 0.01
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "| level | A model-a | B model-b | vs A | C model-c | vs A |" in page
    cells = {row[1] for row in many_report.level_table(many(*runs), most=6).rows}
    assert cells == {"A model…", "B model…", "C model…"}  # a table has no room for long names, which stand above it
    said = json.loads(run("compare", *runs, "-o", tmp_path / "out", "--json").output)
    assert [one["name"] for one in said["runs"]] == ["model-a", "model-b", "model-c"]
    assert {pair["second"] for pair in said["pairs"]} == {"B", "C"}
    for args, mistake in (((runs[0], runs[1], runs[0]), "are the same run"), ((runs[0],), "name two runs")):
        error = run("compare", *args).exception
        assert isinstance(error, LoadTestError)
        assert mistake in str(error)


@pytest.mark.usefixtures("short_predictions")
def test_plot_draws_several_runs_over_each_other(folder: Folder, tmp_path: Path) -> None:
    runs = [folder("a"), folder("b", slower=0.5, seed=1)]
    drawn = [Path(line) for line in run("plot", *runs, "-o", tmp_path / "out", "--each").output.splitlines()]
    names = [path.name for path in drawn if path.parent == tmp_path / "out"]
    assert names == ["throughput.png", "ttft.png", "tradeoff.png", "itl.png"]
    assert all(imread(path).std() > 0.01 for path in drawn[:4])
    assert {path.parent.name for path in drawn[4:]} == {"a", "b"}


def test_the_models_of_one_run_stand_side_by_side(tmp_path: Path) -> None:
    levels, records = mixed(FAST, SLOW)
    path = write(tmp_path / "run", records, levels, targets=[target("made"), target("other", THERE)])
    result = run("compare", path)
    assert result.return_value == 0
    assert "The runs differ in model (A: made; B: other)" in " ".join(result.output.split())


def test_chances_are_adjusted_step_by_step() -> None:
    """Holm: the smallest of m chances counts m times, the next m − 1 times, and none less than the one before."""
    tested = [Change(LevelData(), many_runs.OF_TOKENS[0], 1.0, 2.0, 2.0, chance=p) for p in (0.004, 0.001, 0.5, None)]
    found = many_runs.holm(tested, 0.05)
    assert [row.chance for row in found] == [pytest.approx(0.008), pytest.approx(0.003), 0.5, None]
    assert [row.verdict for row in found] == [WORSE, WORSE, SAME, None]


def test_the_mean_of_changes_that_were_not_seen_is_not_shown() -> None:
    """Below two levels of one server in which no difference was seen stood a mean of −49.7 %."""
    metric = many_runs.OF_TOKENS[0]

    def pair(*verdicts: str) -> Pair:
        rows = [Change(LevelData(), metric, 1.0, 0.5, 0.5, verdict=verdict, chance=0.1) for verdict in verdicts]
        return Pair(None, None, tuple(rows))  # type: ignore[arg-type]

    assert pair(SAME, SAME).overall(metric) is None
    assert pair(SAME, BETTER).overall(metric) == 0.5


def test_equal_servers_are_seldom_said_to_differ(folder: Folder) -> None:
    """Twelve runs of one server, with 3 % between runs, in a hundred tables of four: one table in a hundred may say so."""
    runs = [analyse(folder(str(seed), seed=seed)) for seed in range(4)]
    metric = many_runs.OF_TOKENS[-1]
    draw = random.Random(1)
    false = 0
    for _ in range(100):
        figures = [
            figure.scaled(math.exp(draw.gauss(0, 0.03)))
            for one in runs
            for level in one.summary["levels"][-1:]
            if (figure := estimate_of(one.run, level, metric))
        ]
        chances = sorted(chance(one, other, noise=0.03) for i, one in enumerate(figures) for other in figures[:i])
        false += chances[0] * len(chances) < 0.01
    assert false <= 4


def test_a_chart_of_several_runs_says_of_which_run_many_requests_failed(tmp_path: Path) -> None:
    """Was "30 % at 8 streams", of whichever run."""
    levels, truth = grid(Made(), (1, 8))
    records = [unanswered(one, Outcome.TIMEOUT) if one.level and one.id % 10 < 3 else one for one in truth.records]
    whole = analyse(write(tmp_path / "whole", truth.records, levels))
    failed = analyse(write(tmp_path / "failed", records, levels))
    for framed, whose in (
        (chart._framed_many(compare_many([whole, failed])), "B"),
        (chart._framed(compare([whole], [failed])), "NEW"),
    ):
        figure, _ = sheet.new(1)
        sheet.save(figure, tmp_path / "chart.png", framed, "title")
        said = " ".join(each.get_text() for each in figure.texts).replace("\N{NO-BREAK SPACE}", " ")
        assert f"at 8 streams of {whose}" in said


def test_the_best_of_several_runs_is_said_to_be_of_the_requests_that_were_answered(tmp_path: Path) -> None:
    """The lowest TTFT was that of a run of which 40 % failed, without a word; nor of users who hung up."""
    levels, truth = grid(Made(), (8,))
    for name, outcome in (("whole", None), ("failed", Outcome.TIMEOUT), ("left", Outcome.LEFT)):
        cut = [unanswered(one, outcome) if outcome and one.id % 10 < 3 else one for one in truth.records]
        write(tmp_path / name, cut, levels)
    said = many_report.outcome(compare_many([analyse(tmp_path / name) for name in ("whole", "failed", "left")]))
    assert said[-1] == (
        "These are figures of the requests that were answered: of B 20 of 64 requests failed and are left out; "
        "of C users hung up in 20 of 64 requests."
    )
