"""The verdict on answers whose tokens come together: each case spoils one thing in a valid run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.judged import Spoil, judged
from support.made_runs import Made, grid, write

from loadtest import metrics
from loadtest.analyse.summary import analyse
from loadtest.records import Record


def in_reads(reads: int, *after_us: int) -> Spoil:
    """Return answers whose tokens after the first came so long after it, in so many reads with it."""

    def spoilt(record: Record) -> dict[str, Any]:
        chunks = [record.chunks[0], *(record.chunks[0] + each for each in after_us)]
        return {"chunks": chunks, "t_end": (record.t_send or 0) + chunks[-1] * 1000, "reads": reads, "server_us": None}

    return spoilt


FIVE_A_STEP = tuple(40_000 * (1 + i // 5) for i in range(399))


def at_once(gap_us: int, *, told: bool = False) -> Spoil:
    """Return answers whose tokens came so close together, in a read each, when all of them had been made."""

    def spoilt(record: Record) -> dict[str, Any]:
        chunks = [record.chunks[-1] + gap_us * i for i in range(len(record.chunks))]
        known = {name: value for name, value in (record.server or {}).items() if told or name != "eval_duration"}
        first, start = (record.t_send or 0) + chunks[0] * 1000, record.t_send or 0
        end = {"t_first_token": first, "t_first_visible": first, "t_end": start + chunks[-1] * 1000}
        return {"chunks": chunks, "server": known, "server_us": None, "server_first": None, **end}

    return spoilt


def in_pieces(pieces: int, **more: Any) -> Spoil:
    """Return answers whose tokens came in so few pieces, all at once, as a tool call does; the server says no durations."""

    def spoilt(record: Record) -> dict[str, Any]:
        late = at_once(40)(record)
        return {**late, "chunks": late["chunks"][:pieces], "reads": pieces, **more}

    return spoilt


@pytest.mark.parametrize(
    ("spoil", "every", "verdict", "said"),
    [
        (
            in_reads(2, *[400_000] * 19),  # a gateway that gathers; was valid, with a median token gap of 0
            1,
            "suspect",
            "18 or more tokens of an answer came together, though the first came by itself, in 32 of 32 requests",
        ),
        (
            # a server that falls behind with sending; was valid, with a median token gap of 0
            in_reads(9, *[50_000 * (1 + i) for i in range(7)], *[500_000] * 32),
            1,
            "suspect",
            "18 or more tokens of an answer came together, though the first came by itself, in 32 of 32 requests",
        ),
        (in_reads(6, *[38_000 * (1 + i // 16) for i in range(80)]), 1, "valid", ""),  # 16 accepted at each step
        # four or five accepted at each step of a long answer, of which any 18 tokens are a small part
        (lambda r: {**in_reads(81, *FIVE_A_STEP)(r), "output_tokens": 400, "asked": 400, "server": {}}, 1, "valid", ""),
        (
            # a tool call, its name first: void for the client, with 500,000 tokens/s
            in_pieces(2, late=1, late_tokens=1, late_gaps=1),
            1,
            "suspect",
            "all tokens of an answer came together and faster than models write them, in 32 of 32 requests",
        ),
        (
            # some of them read late, which spoils nothing; the level was void
            lambda r: in_pieces(2, late=1, late_tokens=1, late_gaps=1, lag_us=0 if r.id % 4 else 200_000)(r),
            1,
            "suspect",
            "all tokens of an answer came together and faster than models write them, in 24 of 32 requests",
        ),
        (in_pieces(2, output_tokens=8, asked=8), 1, "valid", ""),  # of few, which one step may make
        (in_reads(2, *[400_000] * 19), 3, "valid", ""),  # of some, as where a machine paused
        (
            in_reads(5, *[200_000 * (1 + i // 5) for i in range(19)]),  # Apache's mod_ratelimit; was valid
            1,
            "suspect",
            "several tokens came at a time, over 800 ms, although the server says that it wrote them over 190 ms, in 32 of 32",
        ),
        (in_reads(6, *[20_000 * (1 + i // 4) for i in range(19)]), 1, "valid", ""),  # four accepted at each step
        (in_reads(20, *[400_000 + 500 * i for i in range(19)]), 1, "valid", ""),  # a stall: others come one by one
        (
            at_once(80),  # a gateway that waits for the whole answer and sends it on piece by piece; was valid
            1,
            "suspect",
            "all tokens of an answer came together and faster than models write them, in 32 of 32 requests: a proxy on the",
        ),
        (
            lambda r: {**at_once(80)(r), "late": 2, "late_tokens": 19, "late_gaps": 19},
            1,
            "suspect",
            "came together and",
        ),
        (
            lambda r: {**at_once(80)(r), "late": 2, "late_tokens": 19, "late_gaps": 19, "lag_us": 200_000},
            1,
            "void",  # the client slept meanwhile: was a gateway's doing
            "the client read ",
        ),
        (
            lambda r: {**at_once(80, told=True)(r), "late": 2, "late_tokens": 19, "late_gaps": 19, "lag_us": 200_000},
            1,
            "void",
            "the client read ",
        ),
        (at_once(80, told=True), 1, "suspect", "although the server says that it wrote them over 190 ms, in 32 of 32"),
        (at_once(330), 1, "valid", ""),  # the fastest services write so fast
    ],
)
def test_tokens_that_come_together(tmp_path: Path, spoil: Spoil, every: int, verdict: str, said: str) -> None:
    found, reasons = judged(tmp_path / "run", spoil, every=every)
    assert (found, len(reasons)) == (verdict, 1 if said else 0), reasons
    assert not said or said in reasons[0]


@pytest.mark.parametrize(
    ("pieces", "ttft_s", "span_s", "decode_s", "held"),
    [
        (20, 1.0, 0.001, 0.5, True),
        (20, 1.0, -0.01, 0.5, False),  # the last is said to come before the first
        (20, 0.3, 0.001, 2.0, False),  # it took longer to write than to come: by another clock
        (7, 1.0, 0.001, 0.5, False),  # few pieces, which one step may make
    ],
)
def test_an_answer_was_held_back_only_where_it_can_have_been(
    pieces: int, ttft_s: float, span_s: float, decode_s: float, held: bool
) -> None:
    assert metrics.held_back(pieces, 0, ttft_s, span_s, decode_s, 0.0) is held


def test_a_first_token_was_made_before_it_came_only_where_many_came_together() -> None:
    assert metrics.made_before_s(20, math.nan, 0.1, 0.5) == pytest.approx(0.4)
    assert metrics.made_before_s(20, 20, 0.45, 0.5) == 0.0
    assert metrics.made_before_s(7, math.nan, 0.1, 0.5) == 0.0
    assert metrics.made_before_s(1, 20, 0.0, 0.5) == 0.5


def test_an_answer_that_comes_faster_than_any_is_written_has_no_decode_speed(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (4,))
    late = [replace(each, **in_pieces(2, lag_us=200_000)(each)) for each in truth.records]
    level = analyse(write(tmp_path / "run", late, levels)).summary["levels"][0]
    assert level["stream_tokens_per_s"] is None or level["stream_tokens_per_s"]["n"] == 0  # was 500,000 tokens/s
