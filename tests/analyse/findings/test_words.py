"""What reports say in words: what each sentence must have seen, and what a reader would otherwise take it for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from matplotlib.figure import Figure
from support.made_runs import Made, grid, make, unanswered, write
from support.two_models import FAST, SLOW, mixed, target
from support.virtual_runs import Load, play

from loadtest.analyse.charts import against_load, distributions
from loadtest.analyse.figures import stats
from loadtest.analyse.findings import step_findings, waiting_findings
from loadtest.analyse.findings.measured_on import simulated_warning
from loadtest.analyse.reports import pages, prediction_report, run_table
from loadtest.analyse.reports.answers import verdict_in_words
from loadtest.analyse.reports.run_again import command
from loadtest.analyse.run.levels import LevelData, Series
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.whatif.model.fit import predicted_curve
from loadtest.records import Outcome
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.020, 0.004), prefill_s=0.0005)


def summary(speed: float | None, verdict: str = "valid", **more: Any) -> dict[str, Any]:
    simulated = speed and {"profile": "quick", "speed": speed}
    return {"verdict": verdict, "simulated": simulated, "levels": [{"verdict": verdict}], **more}


def group(name: str, speed: float | None) -> dict[str, Any]:
    return {"name": name, "server": {"simulated": speed and {"profile": "quick", "speed": speed}}}


def test_figures_of_a_simulated_server_are_quoted_as_a_simulation() -> None:
    assert verdict_in_words(summary(None)) == "These figures can be quoted: the client kept up with every level."
    assert verdict_in_words(summary(2.0)).endswith("the server was simulated, so quote these figures as a simulation.")
    some = verdict_in_words(summary(2.0, groups=[group("a", 2.0), group("b", None)]))
    assert some.endswith("quote the figures of what was simulated as a simulation.")
    assert verdict_in_words(summary(2.0, "suspect")).startswith(
        "Quote these figures as a simulation, with their reasons"
    )
    assert verdict_in_words(summary(2.0, "void")) == "Do not quote the figures of void levels. The only level is void."


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["void"], "The only level is void."),
        (["suspect"], "The only level is suspect."),
        (["void", "void"], "Both levels are void."),
        (["void"] * 3, "All 3 levels are void."),
        (["void", "valid", "valid", "valid"], "1 of 4 levels is void."),
        (["void", "suspect", "void"], "2 of 3 levels are void and 1 is suspect."),
    ],
)
def test_the_number_of_levels_is_said_as_people_say_it(verdicts: list[str], said: str) -> None:
    levels = [{"verdict": each} for each in verdicts]
    one = {"verdict": "void" if "void" in verdicts else "suspect", "simulated": None, "levels": levels}
    assert verdict_in_words(one).endswith(f". {said}")


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (1.0, "not a server."),
        (2.0, "At 2× speed every time of the server is half of the profile's, and every rate 2 times as high."),
        (20.0, "At 20× speed every time of the server is 1/20 of the profile's, and every rate 20 times as high."),
        (0.5, "At 0.5× speed every time of the server is twice the profile's, and every rate 0.5 times as high."),
        (0.25, "At 0.25× speed every time of the server is 4 times the profile's, and every rate 0.25 times as high."),
    ],
)
def test_a_speed_says_what_it_does_to_times(speed: float, said: str) -> None:
    assert simulated_warning(summary(speed)).endswith(said)


def test_speeds_that_differ_are_not_said_as_one() -> None:
    several = summary(2.0, groups=[group("a", 2.0), group("b", 20.0), group("c", None)])
    assert simulated_warning(several).endswith("not a server.")


def level(**more: Any) -> LevelData:
    return LevelData(index=0, label="8 streams", concurrency=8, rate=None, **more)


def run_of(**columns: list[float]) -> RunData:
    """Stand in for a run whose requests all ended well."""
    known = {name: np.array(values) for name, values in columns.items()}
    n = len(next(iter(known.values())))
    known["send"] = np.zeros(n)

    def every(_: int) -> Any:
        return np.ones(n, dtype=np.bool_)

    return cast("RunData", SimpleNamespace(column=known.__getitem__, good=every, of_level=every, itl=None))


@pytest.mark.parametrize(
    ("stalls", "said"),
    [
        ([0.1, 0.1, 0.1, 0.32, 0, 0, 0, 0.34], "a stream loses 120 ms on average to others' prompts, 12 %"),
        ([0.1] * 8, "a stream loses 100 ms on average to others' prompts, 10 % of its decode time."),
    ],
)
def test_what_streams_lose_to_prompts_is_said_of_their_mean(stalls: list[float], said: str) -> None:
    means = {"stall_s": float(np.mean(stalls)), "e2e_s": 2.0, "ttft_s": 1.0}
    one = level(**{name: {"mean": mean} for name, mean in means.items()})
    begun = [float(i) for i in range(len(stalls))]
    run = run_of(stall_s=stalls, first_token=begun, last=[at + 1.5 for at in begun])
    found = step_findings.stalling(run, Series("", (one,)))
    assert found is not None
    assert found.startswith(f"At 8 streams, {said}")
    # of a server that 133 of 137 users left, two answers had lost 9 of 10 s of their time, "and the others next to nothing"
    unseen = run_of(stall_s=stalls, first_token=[*begun[:-1], float("nan")], last=[at + 1.5 for at in begun])
    assert step_findings.stalling(unseen, Series("", (one,))) is None
    # llama-cpp-python's server answers one at a time: what waits there interrupts nobody
    alone = run_of(stall_s=stalls, first_token=begun, last=[at + 0.9 for at in begun])
    assert step_findings.stalling(alone, Series("", (one,))) is None


@pytest.mark.parametrize(
    ("gaps", "title", "tail"),
    [
        (
            [0.030] * 989 + [0.346] * 11,
            "the median gap between tokens is 30.0 ms",
            "1.1 % of the gaps are longer than 60.0 ms (twice the median), the longest is 346 ms",
        ),
        ([0.03] * 99 + [0.061], "between tokens is 30.0 ms", "longer than 60.0 ms (twice the median)"),
        (
            [0.03] * 99 + [0.059],
            "between tokens is 30.0 ms",
            "of 100 gaps between tokens the longest is 59.0 ms",
        ),
        ([0.0] * 60 + [0.3] * 40, "the median gap between tokens is 0 ms", "the longest is 300 ms, the median 0 ms"),
    ],
)
def test_long_gaps_are_counted(gaps: list[float], title: str, tail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ITL p99 between two humps is a gap that nobody saw."""
    monkeypatch.setattr(stats, "ranked", lambda *_: np.sort(gaps))
    one = level(itl_s={"p50": float(np.median(gaps)), "p99": 0.2})
    analysis = cast("Analysis", SimpleNamespace(levels=[one], run=run_of(x=gaps)))
    assert distributions.itl_title(analysis).endswith(title)
    assert tail in distributions.itl_tail_title(analysis)


def test_titles_say_the_figures_of_the_highest_load(tmp_path: Path) -> None:
    make(tmp_path / "same", Made(), users=(1,), each=30)
    same = analyse(tmp_path / "same")
    assert against_load.percentiles_title(same).endswith(": TTFT p50 52.0 ms and p95 52.0 ms")
    assert distributions.ttft_title(same).endswith(
        ": the median time to the first token is 52.0 ms, the longest 52.0 ms"
    )
    make(tmp_path / "apart", Made(jitter_ms=lambda i: 30 * (i % 3)), users=(1,), each=30)
    apart = analyse(tmp_path / "apart")
    assert "TTFT p50 82.0 ms and p95 112 ms" in against_load.percentiles_title(apart)
    assert distributions.ttft_title(apart).endswith("the median time to the first token is 82.0 ms, the longest 112 ms")


def test_a_context_that_was_known_at_the_end_alone_is_said(tmp_path: Path) -> None:
    make(tmp_path / "real", users=(1, 8), server_at_end={"context_length": 1024})
    facts = run_table.facts_table(analyse(tmp_path / "real"))
    assert ("context", "1024 tokens") in facts.rows  # was "unknown tokens": it was not loaded before


def test_the_table_of_the_run_says_what_was_asked_and_which_request_waited_longest(tmp_path: Path) -> None:
    make(tmp_path / "run", users=(1, 8), scenario={"concurrency": [1, 8]})
    facts = {row[0]: row[1] for row in run_table.facts_table(analyse(tmp_path / "run")).rows}
    assert facts["prompts"] == (
        "made up, each behind a number of its own, so that no prefix cache answers it; how many of their tokens the server had "
        "cached is not known"
    )
    make(tmp_path / "again", users=(1, 8), scenario={"concurrency": [1, 8]}, sent_before="first")
    again = {row[0]: row[1] for row in run_table.facts_table(analyse(tmp_path / "again")).rows}
    assert again["prompts"].startswith(
        "made up, each behind a number of its own; how many"
    )  # a cache may have all of them
    slowest = r"\d+, at 8 streams: TTFT 2\d\d ms \(slot wait \d+ ms and prefill 50.0 ms\); loadtest explain says more"
    assert re.fullmatch(slowest, facts["slowest request"])


@pytest.mark.parametrize(
    ("texts", "prompts"),
    [
        (lambda i: i % 2 == 0, "made up; those of the locustfile in 9 of 18 requests; how many"),
        (lambda _: True, "those of the locustfile; how many"),
        (lambda _: False, "made up, each behind a number of its own"),
    ],
)
def test_what_a_locustfile_sends_is_not_said_to_be_made_up(
    tmp_path: Path, texts: Callable[[int], bool], prompts: str
) -> None:
    levels, truth = grid(Made(), (2,))
    more: dict[str, Any] = {"asked_input": None, "dialect": "ollama-embeddings"}
    records = [dataclasses.replace(one, **more) if texts(one.id) else one for one in truth.records]
    write(tmp_path / "run", records, levels, driver="locust", scenario={"concurrency": [2]})
    facts = {row[0]: row[1] for row in run_table.facts_table(analyse(tmp_path / "run")).rows}
    assert facts["prompts"].startswith(prompts)
    assert ("ollama-embeddings" in facts["wire"]) == ("locustfile" in prompts)


def test_the_table_of_the_run_says_no_more_of_people_who_hold_conversations_and_hang_up(tmp_path: Path) -> None:
    """Was "no prefix cache answers it" of turns that begin with what was said before, and the slowest of those who stayed."""
    levels, truth = grid(Made(), (8,))
    talks = [dataclasses.replace(one, session=one.id // 2, turn=one.id % 2) for one in truth.records]
    records = [unanswered(one, Outcome.LEFT) if one.id == 30 else one for one in talks]
    write(tmp_path / "run", records, levels, scenario={"concurrency": [8]})
    facts = {row[0]: row[1] for row in run_table.facts_table(analyse(tmp_path / "run")).rows}
    assert (
        "each conversation behind a number of its own, so that no prefix cache answers its first prompt;"
        in facts["prompts"]
    )
    assert "; not among these are users who hung up before their first token;" in facts["slowest request"]


def test_the_command_of_a_run_of_every_row_once_leaves_their_number_to_the_file(tmp_path: Path) -> None:
    """Was --requests 30 --least-requests 20 beside --data-once, which `loadtest run` refuses."""
    rows = {"data": "rows.jsonl", "data_once": True, "requests": 30, "least_requests": 20}
    make(tmp_path / "run", users=(1,), scenario={"url": "http://gpu:11434", "concurrency": [1], **rows})
    said = str(command(analyse(tmp_path / "run").run))
    assert "--data rows.jsonl --data-once" in said
    assert "--requests" not in said


@pytest.mark.parametrize(("more", "said"), [({}, True), ({"rate": [2.0]}, False), ({"trace": "a.csv"}, False)])
def test_the_streams_of_a_closed_loop_are_spelt_out(tmp_path: Path, more: dict[str, Any], said: bool) -> None:
    scenario = {"url": "http://gpu:11434", "concurrency": [1, 2, 4, 8], **more}
    make(tmp_path / "run", users=(1,), scenario=scenario)
    assert ("--concurrency 1,2,4,8" in str(command(analyse(tmp_path / "run").run))) is said


@pytest.mark.parametrize("title", ["Queueing (plain)", "8 streams · ≥ 1 %: “late”"])
def test_a_chart_keeps_its_title_as_text(tmp_path: Path, title: str) -> None:
    figure = Figure()
    figure.savefig(tmp_path / "itl.png", metadata={"Title": title, "Software": None})
    assert pages.captioned(tmp_path / "itl.png")[0] == f"{title}. Distribution of the gaps between tokens"
    figure.savefig(tmp_path / "itl.png")
    assert pages.captioned(tmp_path / "itl.png")[0] == "Distribution of the gaps between tokens"


def test_what_is_predicted_is_in_a_table_where_it_gives_back_what_was_measured(tmp_path: Path) -> None:
    play(TIMING, [Load(users=1, requests=20), Load(users=4, requests=80)], slots=4).write(tmp_path / "run")
    found = analyse(tmp_path / "run")
    curve = predicted_curve(found.run, found.slots, found.steps, found.summary["levels"])
    assert curve is not None
    grid = prediction_report.curve_table(found, curve)
    assert grid is not None
    assert [row[0] for row in grid.rows if row[1] == "yes"] == ["1", "4"]
    assert [row[-1].startswith("the server has slots for as many; up to") for row in grid.rows[-2:]] == [True, True]
    assert {row[-1] for row in grid.rows[:4]} == {""}
    assert prediction_report.curve_table(found, dataclasses.replace(curve, predictions=(), missed="it misses")) is None


@pytest.mark.parametrize(
    ("kept", "said"), [(6, "14 of 20 requests at 4 streams"), (19, None), (0, "All 20 requests at 4 streams")]
)
def test_who_still_waited_when_the_run_ended_is_counted(kept: int, said: str | None, tmp_path: Path) -> None:
    """Was "the median TTFT is 33.7 s" of 53 requests, where 73 that were cut off had waited longer."""
    levels, truth = grid(Made(), (4,), each=4)
    cut = [unanswered(one, Outcome.CANCELLED) for one in truth.records[kept:]]
    one = analyse(write(tmp_path / "run", [*truth.records[:kept], *cut], levels))
    found = waiting_findings.cut_off(one.run)
    assert (found or "").startswith(said or "")
    assert (found is None) == (said is None)


def test_who_still_waited_is_counted_of_the_load_of_all_models(tmp_path: Path) -> None:
    """Was "3 of 10 requests at 2 streams" of a real Ollama whose two models had two streams each: the 10 were of all four."""
    levels, records = mixed(FAST, SLOW)
    cut = [unanswered(one, Outcome.CANCELLED) if one.level and one.id % 2 else one for one in records]
    one = analyse(write(tmp_path / "run", cut, levels, targets=[target("made"), target("other")]))
    assert (waiting_findings.cut_off(one.run) or "").partition(" had ")[0].endswith("of 108 requests at 12 streams")


def test_of_a_level_whose_users_mostly_hung_up_before_a_token_no_share_of_waiting_is_said(tmp_path: Path) -> None:
    """29 of 30 had left after 2.5 s: "waiting is 0 % of the mean TTFT of users who stayed, and at most 0 ms for one request"."""
    levels, truth = grid(Made(slots=8), (2, 8))
    records = [unanswered(one, Outcome.LEFT) if one.level and one.id % 4 else one for one in truth.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    finding = waiting_findings.queueing(analysis, analysis.series[0])
    assert finding is None or "8 streams" not in finding, finding
