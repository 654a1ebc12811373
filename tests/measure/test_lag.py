"""How late the client handled the reads of an answer, as its record says it."""

from __future__ import annotations

import dataclasses

from support import recorded
from support.received import feed
from support.recorded import DONE, MS, T_SEND, at, framed, line

from loadtest.dialects import OllamaChat

CHAT = OllamaChat("m")


def test_lag_is_the_worst_and_the_mean_of_the_reads_and_late_counts_those_above_a_token_gap() -> None:
    made = recorded.request(CHAT)
    bodies = at((10, line("a")), (30, line("b") * 2), (50, line("c")), (71, line("d")), (72, DONE))
    feed(made.received, framed(bodies))
    lags = [1 * MS, 19 * MS, 20 * MS + 1, 400 * MS, 20 * MS]
    made._reads = dataclasses.replace(made.received.reads(), lag=lags)
    record = made.finish()
    assert record.lag_us == 400_000
    assert record.lag_mean_us == 92_000
    assert record.late == 2  # the median gap between arrivals of content is 20 ms
    assert record.reads == 4
    assert (record.late_tokens, record.late_gaps) == (2, 2)  # without stamps the token of a late read is late itself


def test_of_a_late_read_with_its_stamp_all_tokens_but_the_last_are_late() -> None:
    made = recorded.request(CHAT)
    bodies = at((10, line("a")), (30, line("b")), (50, line("c") * 3), (70, line("d")), (90, line("e")), (91, DONE))
    feed(made.received, framed(bodies))
    made.received._unstamped = 0
    late = dataclasses.replace(made.received.reads(), lag=[0, 0, 25 * MS, 0, 25 * MS, 0])
    made._reads = late
    record = made.finish()
    assert (record.late, record.late_tokens, record.late_gaps) == (2, 2, 3)  # "e" alone in its read is not spoilt
    assert made.finish().late_gaps == 3
    made._reads = dataclasses.replace(late, lag=[0] * 6)
    on_time = made.finish()
    assert (on_time.late, on_time.late_tokens, on_time.late_gaps) == (0, None, None)


def test_tokens_that_a_server_speculates_are_not_late_by_less_than_a_millisecond() -> None:
    """Was void: of llama.cpp five tokens come within 0.2 ms, and a read 0.3 ms late was later than the median gap."""
    made = recorded.request(CHAT)
    bursts = [(at_ms + i * 0.05, line("a")) for at_ms in (10, 35, 60, 85) for i in range(5)]
    feed(made.received, framed(at(*bursts, (86, DONE))))
    lags = [MS // 3] * 21
    made._reads = dataclasses.replace(made.received.reads(), lag=lags)
    assert made.finish().late == 0
    made._reads = dataclasses.replace(made.received.reads(), lag=[2 * MS, *lags[1:]])
    assert made.finish().late == 1


def test_tokens_that_come_evenly_and_fast_are_late_by_less_than_a_millisecond() -> None:
    made = recorded.request(CHAT)
    feed(made.received, framed(at(*((10 + i * 0.4, line("a")) for i in range(20)), (18, DONE))))
    made._reads = dataclasses.replace(made.received.reads(), lag=[MS // 2, *[0] * 20])
    assert made.finish().late == 1


def test_one_arrival_alone_has_no_gap_to_be_late_by() -> None:
    made = recorded.request(CHAT)
    feed(made.received, framed(at((10, line("a") * 3 + DONE))))
    made._reads = dataclasses.replace(made.received.reads(), lag=[5 * MS])
    record = made.finish()
    assert (record.late, record.lag_us) == (0, 5000)
    record, _ = recorded.replay(CHAT, [], T_SEND)
    assert (record.late, record.lag_us, record.lag_mean_us) == (0, 0, 0)
