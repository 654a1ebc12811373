"""Predictions of the very conversations of a run to come, which its seed says."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.virtual_runs import SessionLoad, play_sessions

from loadtest.analyse.comparison import comparable
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.whatif.model.seeded_people import PromptTokens, SeededPeople
from loadtest.analyse.whatif.model.seeded_run import SeededRun
from loadtest.analyse.whatif.predictions.predict_loads import predict_loads
from loadtest.errors import PredictionError
from loadtest.scenario import Level, Scenario
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.simulate.model.virtual import EngineScript

TALK = ("--turns", "uniform(2, 5)", "--think-time", "lognormal(0.02, 0.5)", "--concurrency", "2,3", "--requests", "20")
LENGTHS = (
    "--input-tokens",
    "uniform(30, 60)",
    "--follow-up-tokens",
    "uniform(10, 30)",
    "--output-tokens",
    "uniform(3, 9)",
)
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def sent(simulated_url: str, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """A run of conversations as the asyncio driver held them, some of which end before the context would be passed."""
    from click.testing import CliRunner

    from loadtest.cli import cli

    out = tmp_path_factory.mktemp("people") / "run"
    say = ["run", simulated_url, *TALK, *LENGTHS, "--num-ctx", "160", "--out", str(out), "--quiet"]
    CliRunner().invoke(cli, say, standalone_mode=False)
    return analyse(out)


def planned(analysis: Analysis, place: int, seed: int | None = None) -> SeededPeople:
    kept = analysis.run.scenario["seed"]
    return SeededPeople.of(analysis.run, analysis.run.levels[0], SeededRun(20, seed or kept), place)


def held(analysis: Analysis, place: int) -> dict[int, list[tuple[float, float]]]:
    """Return (prompt, answer) of the turns of each conversation of a level that was held to its end."""
    rows = analysis.run.requests
    mine = rows[(rows["level"] == place) & rows["ok"]].sort_values(["session", "turn"])
    last = mine.groupby("user")["session"].max()  # which the level's end may have broken off
    found: dict[int, list[tuple[float, float]]] = {}
    whole = mine[~mine["session"].isin(last)]
    for session, *lengths in whole[["session", "prompt_tokens", "output_tokens"]].to_numpy(dtype=np.float64).tolist():
        found.setdefault(int(session), []).append((lengths[0], lengths[1]))
    return found


@pytest.mark.parametrize("place", [0, 1])
def test_the_conversations_of_a_seed_are_known_before_a_run_holds_them(sent: Analysis, place: int) -> None:
    came = held(sent, place)
    said = planned(sent, place).conversations(40, 3, random.Random(0))
    assert len(came) >= 4
    for session, turns in came.items():
        assert [turn.answer for turn in said[session]] == [answer for _, answer in turns]
        np.testing.assert_allclose([turn.prompt for turn in said[session]], [prompt for prompt, _ in turns], atol=6)
    assert any(len(said[each]) < planned_turns(sent, place, each) for each in came), "none met the context"
    other = planned(sent, place, seed=1).conversations(40, 3, random.Random(0))
    assert [list(each) for each in other[:4]] != [list(each) for each in said[:4]]


def planned_turns(analysis: Analysis, place: int, session: int) -> int:
    free = dataclasses.replace(planned(analysis, place), context=None)
    return len(free.conversations(200, session + 1, random.Random(0))[session])


def test_they_think_as_long_before_each_turn_as_its_seed_says(sent: Analysis) -> None:
    said = planned(sent, 0).conversations(40, 3, random.Random(0))
    thought = [turn.think_s for each in said for turn in each]
    assert len(set(thought)) == len(thought)
    assert 0.01 < float(np.median(thought)) < 0.04
    assert planned(sent, 0).joined_over_s == pytest.approx(0.02 * np.exp(0.125), rel=0.01)


def test_answers_that_end_by_themselves_are_as_long_as_those_seen(sent: Analysis) -> None:
    seen = dataclasses.replace(planned(sent, 0), answers=np.array([77.0]))
    said = seen.conversations(10, 2, random.Random(0))
    assert {turn.answer for each in said for turn in each} == {77}


@pytest.mark.parametrize(
    ("facts", "scenario", "why"),
    [
        ({"driver": "locust"}, {}, "Locust"),
        ({}, {"data": "talks.jsonl"}, "talks.jsonl, which may be another file"),
        ({}, {"follow_up_tokens": "empirical(said.csv)"}, "said.csv"),
        ({}, {"seed": None}, "does not say the seed"),
        ({}, {"a_key_of_later": 1}, "what .* was asked to do is not known"),
    ],
)
def test_what_a_next_run_does_not_repeat_is_refused(
    sent: Analysis, facts: dict[str, Any], scenario: dict[str, Any], why: str
) -> None:
    run = dataclasses.replace(
        sent.run, facts={**sent.run.facts, "scenario": {**sent.run.scenario, **scenario}, **facts}
    )
    with pytest.raises(PredictionError, match=why):
        SeededPeople.of(run, run.levels[0], SeededRun(20, 1), 0)


# -- held against the engine's own answer ------------------------------------------------------------------------------------

TIMING = Timing(step=StepLaw(0.02, 0.005), prefill_s=0.002, jitter=0.05, prompt_jitter=0.05)
COUNTED = PromptTokens(first=9.0, later=7.0, answer=1.0)
SCENARIO: dict[str, Any] = {
    "input_tokens": ["uniform(200, 800)"],
    "follow_up_tokens": "uniform(20, 60)",
    "output_tokens": ["uniform(20, 80)"],
    "turns": "uniform(2, 6)",
    "think_time": "lognormal(5, 0.6)",
}


def scripts(seed: int, place: int, turns: int, users: int) -> list[EngineScript]:
    level = Level(
        index=place,
        concurrency=users,
        requests=turns,
        input_lengths=SCENARIO["input_tokens"][0],
        output_lengths=SCENARIO["output_tokens"][0],
    )
    scenario = Scenario.from_dict({**SCENARIO, "seed": seed})
    people = SeededPeople(SeededRun(turns, seed), scenario, level, COUNTED, None, None)
    return people.conversations(turns, users, random.Random(0))


def talked(path: Path, seed: int, users: tuple[int, ...], turns: int, server: int = 0) -> Analysis:
    """Hold the conversations of a seed on a server in virtual time."""
    loads = [
        SessionLoad(users=each, scripts=tuple(scripts(seed, place, turns, each))) for place, each in enumerate(users)
    ]
    made = play_sessions(TIMING, loads, slots=2, seed=server)
    lengths = {"input_lengths": SCENARIO["input_tokens"][0], "output_lengths": SCENARIO["output_tokens"][0]}
    for level in made.levels:
        level |= {**lengths, "requests": turns}
    return analyse(made.write(path, driver="asyncio", scenario={**SCENARIO, "concurrency": list(users), "seed": seed}))


def test_the_tail_of_the_very_conversations_is_said_closer_than_that_of_any(tmp_path: Path) -> None:
    """Which conversations are long decides who waits long: of any, the tail was up to 19 % off, of the very ones 6 %."""
    fit = talked(tmp_path / "fit", 1, (2, 3, 4), 64)
    facts = comparable.asked_facts(fit.run)
    errors: dict[bool, list[float]] = {True: [], False: []}
    for seed in (5, 6):
        measured = talked(tmp_path / f"run{seed}", seed, (6, 8), 100, server=seed)
        for very in (True, False):
            document = predict_loads(
                fit.run,
                fit.slots,
                fit.steps,
                fit.summary["levels"],
                facts,
                concurrencies=(6, 8),
                seeded=SeededRun(100, seed) if very else None,
            )
            for load, level in zip(document.loads, measured.summary["levels"], strict=True):
                errors[very].append(abs(load.cases[0].figures["ttft_s.p95"] / level["ttft_s"]["p95"] - 1))
    assert max(errors[True]) < 0.1, errors
    assert np.mean(errors[True]) < np.mean(errors[False])
