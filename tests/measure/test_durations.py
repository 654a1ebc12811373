"""The durations that a server says of an answer, beside the time in which it came: what that refutes is unknown, and said."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support import recorded
from support.odd_streams import CHAT, V1, A, B, C, delta, finish, last, message, ndjson, sse, usage
from support.recorded import T_SEND, framed

from loadtest.dialects import Dialect
from loadtest.measure.server_figures import TOO_LONG, TOO_SHORT, WITHOUT_TEXT

SPAN_NS = 400_000_000  # from the first of three tokens to the last
TRUE = {
    "load_duration": 10**6,
    "prompt_eval_duration": 5 * 10**7,
    "eval_duration": 6 * 10**8,
    "total_duration": 7 * 10**8,
}
TIMINGS = {"prompt_n": 20, "prompt_ms": 50.0, "predicted_n": 3, "predicted_ms": 600.0}


def in_unit(share: float) -> dict[str, int]:
    return {name: int(ns * share) for name, ns in TRUE.items()}


def timed(share: float) -> str:
    timings = TIMINGS | {"prompt_ms": 50.0 * share, "predicted_ms": 600.0 * share}
    return sse(A, B, C, finish(usage=usage(), timings=timings))


def counted(**durations: Any) -> str:
    return ndjson(message("a"), message("b"), message("c"), last(**durations))


NAMES = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
CASES: dict[str, tuple[Dialect, str, str | None]] = {
    "ns": (CHAT, counted(**TRUE), None),
    "µs": (CHAT, counted(**in_unit(1e-3)), TOO_SHORT),
    "ms but for the whole (rkllama)": (
        CHAT,
        counted(**TRUE | {"eval_duration": 600, "prompt_eval_duration": 50}),
        TOO_SHORT,
    ),
    "constants": (CHAT, counted(**dict.fromkeys(NAMES, 1)), TOO_SHORT),
    "zeros": (CHAT, counted(**dict.fromkeys(NAMES, 0)), TOO_SHORT),
    "zeros, not counted (aimock)": (CHAT, counted(**dict.fromkeys(NAMES, 0), eval_count=None), TOO_SHORT),
    "a prefill of a few ns": (CHAT, counted(**TRUE | {"prompt_eval_duration": 350}), TOO_SHORT),
    "a load longer than all": (CHAT, counted(**TRUE | {"load_duration": 10**9}), TOO_LONG),
    "of an answer that a cache replays": (CHAT, counted(**in_unit(10)), TOO_LONG),
    "of tokens without text": (
        CHAT,
        ndjson(*map(message, [" something"] * 3), last(**TRUE | {"eval_count": 24})),
        WITHOUT_TEXT,
    ),
    "timings": (V1, timed(1), None),
    "timings in s": (V1, timed(1e-3), TOO_SHORT),
    "timings in µs": (V1, timed(1e3), TOO_LONG),
    "timings of nothing": (V1, timed(0), TOO_SHORT),
    "neither": (V1, sse(A, B, C, finish(usage=usage())), None),
    "one piece, at once": (V1, sse(delta("a"), finish(usage=usage(1))), None),
}


@pytest.mark.parametrize("name", CASES)
def test_durations_that_the_arrivals_refute_are_unknown(name: str) -> None:
    dialect, body, doubt = CASES[name]
    lines = body.encode().splitlines(keepends=True)
    pieces = [line for line in lines if line.strip()]
    first = T_SEND + 10**8
    reads = [(first + min(i, 2) * SPAN_NS // 2, piece) for i, piece in enumerate(pieces[:-1])]
    reads.append((first + SPAN_NS + SPAN_NS // 2, pieces[-1] + b"\n"))
    record, _ = recorded.replay(dialect, framed(reads), None)
    assert record.doubts == (None if doubt is None else [doubt])
    said = dialect.server_said(record.server or {})
    unknown = [math.isnan(part) for part in (said.prefill_s, said.decode_s)]
    assert unknown == [doubt is not None or name in ("neither", "one piece, at once")] * 2
    assert (record.prompt_tokens, record.token_source) == (20, "chunks" if "not counted" in name else "server")


def test_one_token_has_no_decode() -> None:
    body = ndjson(message("a"), last(**TRUE | {"eval_count": 1, "eval_duration": 0})).encode()
    record, _ = recorded.replay(CHAT, framed([(T_SEND + 10**9, body)]), None)
    assert record.doubts is None
