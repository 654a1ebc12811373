"""The slots in seconds: bursts against llama.cpp's own server and the simulated one, and what a burst may not be taken for."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support import llamacpp
from support.simulated import PROFILE

from loadtest.cli.demo import simulated_server
from loadtest.dialects.openai import OpenAIChat
from loadtest.reach import located
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.targets.server.control import control_client
from loadtest.targets.server.probe import ServedModel, Server
from loadtest.targets.slot_probe import SlotProbe, _Probing, full_length, probe_slots, seen_in
from loadtest.targets.target import Target, find_targets
from loadtest.wire import AsyncWire
from loadtest.workloads.tokens import load_counter
from loadtest.workloads.workload import Workload

Command = Callable[..., tuple[int, str, str]]
MS = 1_000_000


def probed(url: str, *, told: bool = False) -> SlotProbe:
    """Probe the slots of a server; unless `told`, without listening to what it says of them."""
    scenario = located(Scenario(name="probe", url=url, seed=3))
    with control_client(scenario) as control:
        ((target, _),) = find_targets(control, scenario, print)
    if not told:
        target = dataclasses.replace(target, server=dataclasses.replace(target.server, slots=None))
    return probe_slots(target, Workload(scenario, load_counter(target.model.name, fetch=False)))


@pytest.mark.parametrize("slots", [1, 2, 4, 6])
def test_the_slots_of_llama_cpp_are_found_without_asking(slots: int, llamacpp_model: Path) -> None:
    with llamacpp.serving(llamacpp_model, slots=slots) as url:
        found = probed(url)
    assert found.limit == slots, found.witnesses
    assert found.seen == slots
    assert all(record.level == -1 for record in found.records)


def test_llama_cpp_says_its_slots_and_gets_no_request(llamacpp_url: str) -> None:
    found = probed(llamacpp_url, told=True)
    assert found.limit == 4
    assert found.how == "The server says that it has 4 slots."
    assert found.records == ()
    assert found.cost == "no request was sent"


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5, 6, 7, 8])
def test_the_slots_of_the_simulated_server_are_found(slots: int) -> None:
    with simulated_server("--slots", str(slots), "--speed", "5", "--warm") as url:
        found = probed(url)
    assert found.limit == slots, found.witnesses
    handled = "one request at a time" if slots == 1 else f"{slots} requests in parallel"
    assert found.how == f"The server handles {handled}; further requests wait."
    assert re.fullmatch(r"another \d+ requests sent together showed the same", found.witnesses[-1])


def test_of_a_server_without_a_limit_none_is_seen(tmp_path: Path) -> None:
    profile = tmp_path / "unlimited.json"
    profile.write_text(json.dumps(PROFILE | {"slots": None}), encoding="utf-8")
    with simulated_server("--profile", str(profile), "--warm") as url:
        found = probed(url)
    assert found.limit is None
    assert found.seen == 16
    assert found.how == "No limit seen up to 16 requests at once."


def record(first_ms: float, last_ms: float, *, sent_ms: float = 0, **more: object) -> Record:
    """A request sent at `sent_ms` with 16 tokens evenly between its first and its last."""
    send = round(sent_ms * MS)
    chunks = [round((first_ms - sent_ms + (last_ms - first_ms) * i / 15) * 1000) for i in range(16)]
    whole = Record(
        id=0,
        level=-1,
        seed=0,
        dialect="openai-chat",
        model="m",
        outcome=Outcome.OK,
        t_sched=send,
        t_send=send,
        t_first_token=round(first_ms * MS),
        t_end=round(last_ms * MS),
        chunks=chunks,
        status=200,
    )
    return dataclasses.replace(whole, **more)  # type: ignore[arg-type]


def burst(*lives: tuple[float, float]) -> Sequence[Record]:
    return [record(first, last) for first, last in lives]


def test_who_begins_only_when_another_ends_was_passed_over() -> None:
    found = seen_in(burst((10, 400), (12, 402), (410, 800), (412, 802)), idle=0.010)
    assert (found.at_work, found.limit, found.tells) == (2, 2, True)


def test_what_a_burst_shows_is_said_in_plain_words() -> None:
    assert seen_in(burst((10, 400), (410, 800)), idle=0.010).sentence == (
        "of 2 requests sent together, 1 got its first token; the other got none until that answer ended, and so waited "
        "390 ms or more"
    )
    assert seen_in(burst((10, 400), (12, 402), (410, 800), (412, 802)), idle=0.010).sentence == (
        "of 4 requests sent together, 2 got their first token; the other 2 got none until the first of these answers "
        "ended, and so waited 388 ms or more"
    )
    short = seen_in(burst((10, 40), (50, 90)), idle=0.030).sentence
    assert short.startswith(
        "of 2 requests sent together, 1 got its first token; the other got none until that answer ended"
    )
    assert short.endswith(", but answers last 30.0 ms, which is too short beside 30.0 ms that a request takes to begin")
    both = "requests sent together got their first token before the first answer ended"
    assert seen_in(burst((10, 400), (12, 402)), idle=0.010).sentence == f"both {both}"
    assert seen_in(burst((10, 400), (12, 402), (14, 404)), idle=0.010).sentence == f"all 3 {both}"
    found = seen_in(burst((400, 400), (402, 402)), idle=0.010)
    assert (found.at_work, found.tells) == (0, False)
    assert found.sentence == (
        "of 2 requests sent together, none is known to have begun before the first one ended: answers are too short to tell"
    )


def test_a_burst_that_the_next_one_would_fail_like_is_not_sent_again() -> None:
    """It was sent three times: a status that says no is no matter of longer answers, a reset or an empty answer may be."""
    ends: list[tuple[dict[str, object], bool]] = [
        ({"outcome": Outcome.HTTP_ERROR, "status": 429}, True),
        ({"outcome": Outcome.HTTP_ERROR, "status": 400}, True),
        ({"outcome": Outcome.TIMEOUT}, True),
        ({"outcome": Outcome.STREAM_ERROR}, True),
        ({"outcome": Outcome.TRUNCATED}, False),
        ({"outcome": Outcome.OK}, False),
    ]
    for end, hopeless in ends:
        gone = dataclasses.replace(record(1, 2), chunks=[], t_first_token=None, **end)  # type: ignore[arg-type]
        assert seen_in([*burst((10, 400)), gone], idle=0.010).hopeless is hopeless, end
    assert not seen_in(burst((10, 40), (50, 90)), idle=0.030).hopeless  # too short: longer answers may tell


@pytest.mark.parametrize(("outcome", "bursts"), [(Outcome.HTTP_ERROR, 1), (Outcome.TRUNCATED, 3)])
def test_a_burst_that_fails_is_sent_again_where_another_may_pass(
    outcome: Outcome, bursts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    failed = record(1, 2, outcome=outcome, chunks=[], t_first_token=None)

    async def send(_: _Probing, __: AsyncWire, size: int, ___: int) -> list[Record]:
        sent.append(size)
        return [failed] if size > 1 else [record(10, 400)]

    monkeypatch.setattr(_Probing, "_send", send)
    target = Target(Server("http://h", "openai", None, (), None), ServedModel("m"), OpenAIChat("m"))
    probing = _Probing(target, Workload(Scenario(), load_counter("m", fetch=False)))
    probing._records.append(record(10, 400))
    asyncio.run(probing._telling_burst(AsyncWire(), 2, 0.01))
    assert sent == [2] * bursts


def test_all_at_work_is_no_limit() -> None:
    found = seen_in(burst((10, 400), (12, 402), (14, 404)), idle=0.010)
    assert (found.at_work, found.limit, found.tells) == (3, None, True)


def test_prompts_read_one_after_another_are_no_limit() -> None:
    """Each prompt takes 100 ms, each answer 250: the fourth begins after the first has ended, and nothing kept it out."""
    found = seen_in(burst((100, 350), (200, 450), (300, 550), (400, 650)), idle=0.100)
    assert found.limit is None
    assert not found.tells
    assert "too short" in found.sentence


def test_answers_in_one_piece_tell_nothing() -> None:
    found = seen_in(burst((400, 400), (402, 402), (800, 800)), idle=0.400)
    assert (found.limit, found.tells) == (None, False)


def test_sends_that_are_far_apart_tell_nothing() -> None:
    late = record(420, 800, sent_ms=410)
    found = seen_in([*burst((10, 400)), late], idle=0.010)
    assert (found.limit, found.tells) == (None, False)


def test_a_server_that_turns_requests_away_ends_it() -> None:
    refused = record(1, 2, outcome=Outcome.HTTP_ERROR, status=429, chunks=[], t_first_token=None)
    found = seen_in([*burst((10, 400), (12, 402)), refused], idle=0.010)
    assert (found.limit, found.tells) == (None, False)
    assert "1 of 3 sent together were turned away with status 429, and 2 answered" in found.sentence


def test_other_failures_end_it_too() -> None:
    failed = record(1, 2, outcome=Outcome.STREAM_ERROR, error="out of memory\x1b[2J", chunks=[], t_first_token=None)
    found = seen_in([*burst((10, 400)), failed], idle=0.010)
    assert (found.limit, found.tells) == (None, False)
    assert "1 of 2 failed (out of memory" in found.sentence
    assert "\x1b" not in found.sentence


def test_an_answer_without_text_is_not_said_to_have_failed_because_it_is_ok() -> None:
    """Of a real vLLM, whose model ended at once: "1 of 8 failed (ok)"."""
    empty = record(1, 2, chunks=[], t_first_token=None)
    assert seen_in([*burst((10, 400)), empty], idle=0.010).sentence == "1 of 2 failed (the answer has no token)"


@pytest.mark.parametrize(("kind", "asked"), [("vllm", {"ignore_eos": True}), ("openai", {})])
def test_where_it_can_a_burst_asks_for_answers_of_full_length(kind: str, asked: dict[str, bool]) -> None:
    """A model that answers in ten tokens ends before the others begin: "too short beside"."""
    target = Target(Server("http://h", kind, None, (), None), ServedModel("m"), OpenAIChat("m", {"seed": 1}))
    assert full_length(target).options == {"seed": 1, **asked}


def test_check_says_the_slots_and_what_it_cost(loadtest: Command) -> None:
    with simulated_server("--slots", "3", "--speed", "5", "--warm") as url:
        code, out, _ = loadtest("check", url, "--slots")
        assert code == 0
        assert "slots      The server handles 3 requests in parallel; further requests wait." in out
        assert re.search(r"cost: \d+ requests, \d+ tokens, ", out)
        assert "does not say how many requests it handles" not in out  # it was just found
        unasked = loadtest("check", url)[1]
        assert "--slots looks for them" in unasked
        assert "does not say how many requests it handles" in unasked


def test_what_the_probe_has_loaded_is_not_called_unloaded(loadtest: Command) -> None:
    with simulated_server("--slots", "3", "--speed", "20") as url:
        before = loadtest("check", url)[1]
        code, out, err = loadtest("check", url, "--slots")
    assert "is not loaded" in before
    assert "unknown until the model is loaded" in before
    assert code == 0, err
    assert "is not loaded" not in out
    assert "(loaded)" in out
    assert "unknown until" not in out


def test_a_run_keeps_the_probe_apart_from_its_records(loadtest: Command, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with simulated_server("--slots", "3", "--speed", "5", "--warm") as url:
        args: list[str | os.PathLike[str]] = ["run", "--url", url, "--concurrency", "1,2", "--output-tokens", "16"]
        code, _, err = loadtest(*args, "--requests", "8", "--probe-slots", "--out", folder)
    assert code in (0, 3), err
    facts = json.loads((folder / "run.json").read_text())
    assert facts["slot_probe"]["limit"] == 3
    assert facts["slot_probe"]["requests"] >= 12
    assert "The server handles 3 requests in parallel" in err
    lines = [json.loads(line) for line in (folder / "probe-slots.jsonl").read_text().splitlines()]
    assert len(lines) == facts["slot_probe"]["requests"] + 1
    assert {line["level"] for line in lines[1:]} == {-1}
    assert all(each.level >= 0 for each in RunFolder(folder).records())


@pytest.mark.parametrize("more", [("--unload", "--concurrency", "1", "--requests", "3"), ("--endpoint", "embeddings")])
def test_what_cannot_be_probed_is_said_beforehand(more: tuple[str, ...], loadtest: Command) -> None:
    code, _, err = loadtest("run", "--url", "http://127.0.0.1:9", "--probe-slots", *more)
    assert code == 2
    assert "--probe-slots needs a loaded model that answers in tokens" in err
