"""The faults that a simulated server can be told to have."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.simulated import Answer, ask, chat, raw, recorded, request, run, shape, take_apart, write_profile

from loadtest.errors import ScenarioError
from loadtest.simulate.api.answer_writer import EQUAL_PIECES, Fault
from loadtest.simulate.server import SimulatedServer


@pytest.fixture
def profile(tmp_path: Path) -> str:
    return write_profile(tmp_path)


def faulty(profile: str, text: str, path: str = "/api/chat", tokens: int = 40, **fields: Any) -> tuple[bytes, Answer]:
    fault = replace(Fault.parse(text), stall_s=0.05)
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, **fields}
    body |= {"options": {"num_predict": tokens}} if path.startswith("/api") else {"max_tokens": tokens}
    data = request("POST", path, json.dumps({"model": "tiny", **body}))
    received = run(profile, lambda server: raw(server, data), faults=(fault,))
    return received, take_apart(received.removesuffix(b"!RESET"))


def test_fault_truncate_ends_inside_the_body_and_reset_resets(profile: str) -> None:
    _, cut = faulty(profile, "truncate=1")
    assert not cut.whole
    assert 0 < len(cut.lines) < 40
    received, _ = faulty(profile, "reset=1")
    assert received.endswith(b"!RESET")


def test_fault_error_line_is_an_error_natively_and_is_lost_on_v1(profile: str) -> None:
    _, native = faulty(profile, "error-line=1")
    assert native.whole
    assert native.lines[-1] == {"error": "an error was encountered while running the model: unexpected EOF"}
    _, v1 = faulty(profile, "error-line=1", "/v1/chat/completions")
    assert v1.whole
    assert (v1.events[-1]["model"], v1.events[-1]["choices"][0]["finish_reason"]) == ("", None)
    assert b"[DONE]" not in v1.body
    _, real = recorded("v1-chat-runner-died-0")
    assert shape(v1.events[-1]) == shape(real.events[-1])


@pytest.mark.parametrize(("text", "status"), [("http-500", 500), ("http-503", 503)])
def test_fault_http_refuses_at_once(profile: str, text: str, status: int) -> None:
    _, answer = faulty(profile, text)
    assert answer.status.startswith(f"HTTP/1.1 {status} ")
    assert "error" in answer.lines[0]


def test_fault_silent_end_is_clean_but_not_done(profile: str) -> None:
    _, answer = faulty(profile, "silent-end=1")
    assert answer.whole
    assert not any(line["done"] for line in answer.lines)


def test_fault_repeat_guard_sends_31_equal_pieces_and_no_end(profile: str) -> None:
    _, answer = faulty(profile, "repeat-guard=1", tokens=400)
    texts = [line["message"]["content"] for line in answer.lines]
    assert answer.whole
    assert len(set(texts[-EQUAL_PIECES:])) == 1
    assert not any(line["done"] for line in answer.lines)


def test_fault_stall_holds_and_then_goes_on(profile: str) -> None:
    _, answer = faulty(profile, "stall=1", tokens=10)
    stamps = [datetime.fromisoformat(line["created_at"]).timestamp() for line in answer.lines]
    assert max(later - earlier for earlier, later in itertools.pairwise(stamps)) > 0.045
    assert answer.lines[-1]["eval_count"] == 10


def test_faults_hit_every_nth_request(profile: str) -> None:
    async def work(server: SimulatedServer) -> list[str]:
        return [(await ask(server, "/api/chat", **chat(1))).status[9:12] for _ in range(6)]

    assert run(profile, work, faults=(Fault.parse("http-500=every:3"),)) == ["200", "200", "500"] * 2


@pytest.mark.parametrize("text", ["", "nonsense=1", "truncate=2", "truncate=x", "stall=every:0", "reset=-0.1"])
def test_a_fault_that_makes_no_sense_is_one_sentence(text: str) -> None:
    with pytest.raises(ScenarioError, match="fault"):
        Fault.parse(text)
