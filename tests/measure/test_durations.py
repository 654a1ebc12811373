"""The durations that a server says of an answer, beside the time in which it came: what that refutes is unknown, and said."""

from __future__ import annotations

from typing import Any

import pytest
from support import recorded
from support.odd_streams import CHAT, V1, A, B, C, delta, finish, last, message, ndjson, sse, usage
from support.recorded import T_SEND, framed

from loadtest.dialects import Dialect
from loadtest.measure.durations import TOO_LONG, TOO_SHORT

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


CASES: dict[str, tuple[Dialect, str, str | None]] = {
    "ns": (CHAT, counted(**TRUE), None),
    "µs": (CHAT, counted(**in_unit(1e-3)), TOO_SHORT),
    "of an answer that a cache replays": (CHAT, counted(**in_unit(10)), TOO_LONG),
    "timings": (V1, timed(1), None),
    "timings in s": (V1, timed(1e-3), TOO_SHORT),
    "timings in µs": (V1, timed(1e3), TOO_LONG),
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
    known = [part == part for part in (said.prefill_s, said.decode_s)]  # noqa: PLR0124 - nan is unknown
    assert known == [doubt is None and name not in ("neither", "one piece, at once")] * 2
    assert record.output_tokens == (1 if "one" in name else 3)
