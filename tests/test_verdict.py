"""Every rule of the verdict: each case spoils one thing in a valid run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import MS, RECORDED, Made, grid, recorded, write

from loadtest.analyse.summary import analyse
from loadtest.records import Outcome, Record
from loadtest.scenario import Scenario

Spoil = Callable[[Record], dict[str, Any]]


def judged(
    path: Path, spoil: Spoil, *, every: int = 1, made: Made | None = None, **facts: Any
) -> tuple[str, list[str]]:
    """Judge a run of 4 users, 32 requests, with `spoil` applied to each `every`-th measured request."""
    levels, truth = grid(made or Made(), (4,))
    records = [dataclasses.replace(r, **spoil(r)) if not r.warmup and r.id % every == 0 else r for r in truth.records]
    level = analyse(write(path, records, levels, **facts)).summary["levels"][0]
    return level["verdict"], level["reasons"]


def nothing(_: Record) -> dict[str, Any]:
    return {}


def server(record: Record, **changes: Any) -> dict[str, Any]:
    return {"server": {**(record.server or {}), **changes}}


def test_a_clean_run_is_valid(tmp_path: Path) -> None:
    assert judged(tmp_path / "run", nothing) == ("valid", [])


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in RECORDED.glob("ollama-*-c*.jsonl") if "mixed" not in path.stem)
)
def test_recorded_runs_of_real_ollama_are_valid(tmp_path: Path, name: str) -> None:
    """Ollama at times makes two tokens within 10 µs: they come in one read, and that is no fault of the client."""
    level = analyse(recorded(tmp_path / "run", [name])).summary["levels"][0]
    assert (level["verdict"], level["reasons"]) == ("valid", [])


def late(ms: float) -> Spoil:
    return lambda record: {"t_sched": record.t_sched - round(ms * MS)}


def unstamped(lag_us: int) -> Spoil:
    return lambda _: {"stamped": 0, "lag_us": lag_us}


def without_answer(_: Record) -> dict[str, Any]:
    return {
        "outcome": Outcome.HTTP_ERROR,
        "t_first_token": None,
        "t_first_visible": None,
        "chunks": [],
        "server": None,
        "server_us": None,
        "server_first": None,
        "output_tokens": None,
    }


@pytest.mark.parametrize(
    ("spoil", "every", "verdict", "said"),
    [
        (late(6), 1, "void", "schedule lag p99 is 6.0 ms, above the limit of 5.0 ms"),
        (late(3), 1, "suspect", "schedule lag p99 is 3.0 ms, above half the limit of 5.0 ms"),
        (late(2), 1, "valid", ""),
        (lambda _: {"late": 1}, 1, "void", "32 of 640 arrivals (5 %), above the limit of 1 %"),
        (lambda _: {"late": 1}, 7, "suspect", "above half the limit of 1 %"),
        (unstamped(6000), 1, "void", "no kernel stamps and client lag p99 is 6.0 ms"),
        (unstamped(3000), 1, "suspect", "no kernel stamps"),
        (unstamped(1000), 1, "valid", ""),
        (lambda _: {"lag_us": 6000}, 1, "valid", ""),  # the kernel's stamps are right all the same
        (lambda r: server(r, load_duration=800 * MS), 8, "void", "reloaded in mid-run: 4 of 32 requests"),
        (lambda r: server(r, load_duration=25 * MS), 8, "valid", ""),
        (lambda _: {"first_coalesced": True}, 4, "suspect", "one read with a later one in 8 of 32 requests (25 %)"),
        (lambda _: {"output_tokens": 12}, 1, "suspect", "output length is not as asked: 12.0 tokens a request instead"),
        (lambda _: {"prompt_tokens": 140}, 1, "suspect", "input length is not as asked: 140.0"),
        (
            lambda r: {"asked_input": None, "prompt_tokens": 4096, **server(r, prompt_eval_duration=2000 * MS)},
            1,
            "suspect",
            "cut to the context of 4096 tokens in 32",
        ),
        (lambda r: server(r, prompt_eval_duration=2 * MS), 1, "suspect", "the prefix cache probably answered"),
        (without_answer, 1, "void", "no request ended well (32 http_error)"),
        (without_answer, 8, "suspect", "4 of 32 requests failed (4 http_error), above the allowed 0 %"),
        (lambda _: {"outcome": Outcome.CANCELLED}, 8, "valid", ""),
    ],
)
def test_each_rule(tmp_path: Path, spoil: Spoil, every: int, verdict: str, said: str) -> None:
    found, reasons = judged(tmp_path / "run", spoil, every=every)
    assert (found, len(reasons)) == (verdict, 1 if said else 0), reasons
    assert not said or said in reasons[0]


def test_the_schedule_lag_limit_grows_with_ttft(tmp_path: Path) -> None:
    verdict, reasons = judged(tmp_path / "run", late(6), made=Made(prefill_ms=2000))
    assert (verdict, reasons) == ("valid", [])


def test_first_tokens_that_the_server_made_together_are_not_coalesced(tmp_path: Path) -> None:
    def together(record: Record) -> dict[str, Any]:
        assert record.server_us is not None
        return {"first_coalesced": True, "server_us": [0, 5, *record.server_us[2:]]}

    assert judged(tmp_path / "run", together) == ("valid", [])


def test_a_clock_that_jumped_voids_the_run(tmp_path: Path) -> None:
    assert judged(tmp_path / "run", nothing, clock_steps=1)[0] == "void"
    assert judged(tmp_path / "two", nothing, client={"clock_steps": [[1, 2], [3, 4]]})[1] == [
        "a clock of the client jumped 2 times during the run"
    ]


def test_a_busy_client_is_suspect(tmp_path: Path) -> None:
    samples = [{"t": i * 100 * MS, "level": 0, "cpu": 0.97} for i in range(5)]
    verdict, reasons = judged(tmp_path / "run", nothing, samples=samples)
    assert verdict == "suspect"
    assert "97 % of a core" in reasons[0]


def test_a_simulated_server_at_speed_reloads_faster(tmp_path: Path) -> None:
    simulated = {"kind": "ollama", "context": None, "simulated": {"profile": "x", "speed": 20.0}}
    reload = lambda record: server(record, load_duration=40 * MS)  # noqa: E731
    assert judged(tmp_path / "run", reload, every=8, server=simulated)[0] == "void"
    assert judged(tmp_path / "real", reload, every=8)[0] == "valid"


def test_a_load_without_warm_up_is_suspect_not_void(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (4,))
    records = [dataclasses.replace(record, warmup=False) for record in truth.records]
    records[0] = dataclasses.replace(records[0], **server(records[0], load_duration=900 * MS))
    level = analyse(write(tmp_path / "run", records, levels)).summary["levels"][0]
    assert level["verdict"] == "suspect"
    assert "had no warm-up" in level["reasons"][0]


def test_cached_prompt_tokens_are_suspect_unless_asked_for(tmp_path: Path) -> None:
    cached = {"usage": {"prompt_tokens_details": {"cached_tokens": 90}}}
    verdict, reasons = judged(tmp_path / "run", lambda _: {"server": cached, "dialect": "openai-chat"})
    assert verdict == "suspect"
    assert "prefix cache answered unasked: in 32 of 32" in reasons[0]
    warm = Scenario(name="warm", warm_cache=True).to_dict()
    spoil: Spoil = lambda _: {"server": cached}  # noqa: E731
    assert judged(tmp_path / "warm", spoil, scenario=warm) == ("valid", [])


def test_an_allowed_share_of_errors_is_valid(tmp_path: Path) -> None:
    scenario = Scenario(name="made", max_error_ratio=0.2).to_dict()
    assert judged(tmp_path / "run", without_answer, every=8, scenario=scenario) == ("valid", [])


def test_a_queue_that_grows_in_an_open_loop_is_suspect(tmp_path: Path) -> None:
    """Requests every 10 ms to a server that takes 20 ms each: the queue only grows."""
    template = grid(Made(), (1,))[1].records[0]
    names = ("t_sched", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible")
    records = [
        dataclasses.replace(
            template,
            id=i,
            warmup=False,
            t_end=(i + 1) * 20 * MS + 300 * MS,
            **{name: getattr(template, name) + i * 10 * MS for name in names},
        )
        for i in range(60)
    ]
    level = {"index": 0, "concurrency": None, "rate": 100.0, "input_tokens": 100, "output_tokens": 20, "words": None}
    reasons = analyse(write(tmp_path / "run", records, [level])).summary["levels"][0]["reasons"]
    assert any("the queue was still growing" in reason for reason in reasons)


def test_the_gravest_reason_comes_first(tmp_path: Path) -> None:
    def spoil(record: Record) -> dict[str, Any]:
        return {**late(3)(record), **(server(record, load_duration=800 * MS) if record.id % 8 == 0 else {})}

    verdict, reasons = judged(tmp_path / "run", spoil)
    assert verdict == "void"
    assert [reason.split()[0] for reason in reasons] == ["the", "schedule"]


def test_a_literal_prompt_has_an_answer_of_its_own_length(tmp_path: Path) -> None:
    scenario = Scenario(name="made", prompt="tell a story").to_dict()
    assert judged(tmp_path / "run", lambda _: {"output_tokens": 12}, scenario=scenario) == ("valid", [])


def test_one_slip_does_not_void_a_small_level(tmp_path: Path) -> None:
    """Of 32 requests p99 is the worst one, and of 32 arrivals one is 3 %: neither is evidence enough to void."""
    verdict, reasons = judged(tmp_path / "lag", late(40), every=32)
    assert verdict == "suspect", reasons
    assert judged(tmp_path / "one", lambda _: {"late": 1, "arrivals": 1}, every=32)[0] == "valid"
    assert judged(tmp_path / "two", lambda _: {"late": 1, "arrivals": 1}, every=16)[0] == "valid"
    assert judged(tmp_path / "all", lambda _: {"late": 1, "arrivals": 2})[0] == "void"


def test_a_level_that_never_counted_says_why(tmp_path: Path) -> None:
    def only_warm(record: Record) -> dict[str, Any]:
        return {"warmup": True}

    assert judged(tmp_path / "run", only_warm, state="interrupted")[1] == [
        "the run ended before a request of this level counted"
    ]
