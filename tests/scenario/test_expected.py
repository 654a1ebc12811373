"""Requests that objectives need: a level sends them, the run says how many and how long, and the README's gate passes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from support.places import ROOT

from loadtest.cli.run.expected_time import (
    TimeNotice,
    requests_sentence,
    say_how_long,
    search_sentence,
    with_enough_requests,
)
from loadtest.measure.progress import Progress
from loadtest.scenario import Scenario
from loadtest.slo import parse_objectives
from loadtest.workloads.schedule import schedule_of

Call = Callable[..., tuple[int, str, str]]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("slo", "keys", "requests"),
    [
        ("ttft_p95=2", {"concurrency": (1, 2, 3, 4, 16)}, [20, 20, 24, 32, 128]),
        ("ttft_p99=2", {"concurrency": (1, 8, 16)}, [100, 104, 128]),
        ("ttft_p50=2", {"concurrency": (1, 2)}, [8, 16]),
        ("errors=0.02", {"concurrency": (1,)}, [50]),
        ("ttft_p95=2", {"concurrency": (1, 2), "requests": 8}, [8, 8]),
        ("ttft_p95=2", {"concurrency": (1, 2), "duration": 5.0}, [0, 0]),
        ("ttft_p95=2", {"concurrency": (1,), "least_requests": 60}, [60]),
        ("ttft_p95=2", {"concurrency": (1, 2), "requests_per_stream": 2}, [20, 20]),
    ],
)
def test_a_level_sends_what_its_objective_needs_in_whole_rounds(
    slo: str, keys: dict[str, object], requests: list[int]
) -> None:
    scenario = with_enough_requests(Scenario(**keys), parse_objectives(slo), by_time=False)  # type: ignore[arg-type]
    assert [level.requests for level in scenario.levels()] == requests
    assert all(level.requests % (level.concurrency or 1) == 0 for level in scenario.levels())


def test_at_a_rate_a_level_lasts_until_enough_were_sent() -> None:
    plain = Scenario(rate=(0.1, 5.0), seed=1)
    scenario = with_enough_requests(plain, parse_objectives("ttft_p95=2"), by_time=False)
    slow, fast = (len(schedule_of(scenario, level)) for level in scenario.levels())
    assert (slow, fast) == (20, len(schedule_of(plain, plain.levels()[1])))
    assert (
        with_enough_requests(
            Scenario(rate=(0.1,), duration=60.0), parse_objectives("ttft_p95=2"), by_time=True
        ).least_requests
        is None
    )
    assert requests_sentence(scenario, parse_objectives("ttft_p95=2")) == (
        "The 2 levels will take about 5 min, plus the time for the last answers."
    )


def test_it_is_said_beforehand_what_will_be_sent_or_cannot_be_judged() -> None:
    objectives = parse_objectives("ttft_p95=2")
    assert requests_sentence(Scenario(), ()) is None
    assert requests_sentence(
        with_enough_requests(Scenario(concurrency=(1, 4)), objectives, by_time=False), objectives
    ) == ("The 2 levels will send 20, 32 requests; how long that takes is said after the first answers.")
    assert requests_sentence(Scenario(concurrency=(1,), requests=8), objectives) == (
        "--slo ttft_p95: a level needs 20 requests, and this run sends 8; leave out --requests, or ask for 20."
    )


def test_what_a_rate_or_a_file_decides_is_said_of_these() -> None:
    """How long 20 requests at 5 a second take was to be said later, and never was; no --requests was given to leave out."""
    objectives = parse_objectives("ttft_p95=2")
    said = requests_sentence(Scenario(rate=(5.0, 2.0), requests=20), objectives)
    assert said == "The 2 levels will take about 14 s, plus the time for the last answers."
    rows = Scenario(concurrency=(1,), data="rows.jsonl", data_once=True, requests=12)
    said = requests_sentence(rows, objectives)
    assert said is not None
    assert said.endswith(
        "sends 12, one for each row of the file; give it more rows, or send rows again without --data-once."
    )


def test_after_the_first_answers_the_time_is_said_once() -> None:
    """One stream does a request in 2 s: 21 requests take 42 s; four streams' 36 take 18 s, or 72 s one by one."""
    said: list[str] = []
    scenario = Scenario(concurrency=(1, 4), least_requests=20)
    expected = TimeNotice(scenario, said.append)
    level = scenario.levels()[0]
    facts = {"levels": 2, "failed": 0, "planned": 21, "in_flight": 1, "decoding": 1, "ttfts": (), "tokens_per_s": 9.0}
    refused = facts | {"failed": 5}  # was "this takes 1 s" of a level of 13 s, whose first requests got a 503
    expected(Progress(level=level, done=5, elapsed=0.1, eta=None, **refused))  # type: ignore[arg-type]
    expected(Progress(level=level, done=9, elapsed=8.0, eta=None, **refused))  # type: ignore[arg-type]
    assert said == []  # nor "84 s" behind four answers: those that are refused need no answer
    for done in range(6):
        expected(Progress(level=level, done=done, elapsed=2.0 * done, eta=None, **facts))  # type: ignore[arg-type]
        assert len(said) == (done >= 2)
    assert said == [
        (
            "At the pace of the first answers this takes 60 s in all if streams do not slow each other down, 2 min if they wait for "
            "each other."
        )
    ]


def test_a_run_without_objectives_says_how_long_it_takes_too() -> None:
    """docs/ollama.md promised it; only runs with --slo said it, and ten minutes passed without a word of the whole."""
    said: list[str] = []
    scenario = Scenario(concurrency=(1,), requests=10, warmup=0)
    watch, level = say_how_long(scenario, (), said.append), scenario.levels()[0]
    facts = {"levels": 1, "failed": 0, "planned": 10, "in_flight": 1, "decoding": 1, "ttfts": (), "tokens_per_s": 9.0}
    watch(Progress(level=level, done=2, elapsed=6.0, eta=None, **facts))  # type: ignore[arg-type]
    assert said == ["At the pace of the first answers this takes 30 s."]


def test_a_search_says_beforehand_how_long_it_is() -> None:
    """Ten minutes passed without a word of the whole."""
    plain = search_sentence(Scenario(concurrency=(1,), requests=60))
    assert plain == "The search measures some 4 to 12 levels of 60 requests or more, one after another."
    rate = search_sentence(Scenario(rate=(4.0,), requests=128))
    assert rate == (
        "The search measures some 4 to 12 levels of 128 requests or more, one after another. "
        "At its rate each sends for 32 s, or for 64 s where it is measured with twice the requests."
    )
    people = Scenario.from_dict({"turns": 4, "think_time": 10, "concurrency": [4], "requests": 60})
    assert search_sentence(people) == (
        f"{plain} People join within 10 s; each level counts once everybody has ended a conversation of about 4 turns. "
        "Thinking alone takes 4 min of the first; answers come on top of that."
    )


def test_the_gate_of_the_readme_passes_as_pasted(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    """`loadtest serve` is the server; here it is 20 times faster, and another URL."""
    line, *_ = re.findall(r"^loadtest (run --concurrency .*--slo \S+)", README, flags=re.MULTILINE)
    code, said, err = loadtest(*shlex.split(line), "--url", simulated_url, "--out", tmp_path / "run")
    assert code in (0, 3), err  # 3: a busy test machine may void what it could not measure
    assert len(re.findall(r"[≤≥] \S+(?: \S+)?: met", " ".join(said.split()))) == 6
    assert "missed" not in said
    assert "not judged" not in said
    assert "at the pace of the first answers" in err.lower()
