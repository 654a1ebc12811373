"""Stamps onto the monotonic clock, gaps of the loop, and the kernel's stamping itself."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Self

import psutil
import pytest

from loadtest.wire import Heartbeat, LagLog, WallClock, kernel_stamping, now
from loadtest.wire.clock import GAP, SO_TIMESTAMPNS, stamps_ns

MS = 1_000_000
S = 1_000_000_000


def clock(*samples: tuple[int, int]) -> WallClock:
    """A WallClock that knows only these (monotonic, offset) samples."""
    wall = WallClock()
    del wall._at[:], wall._offsets[:]
    wall._stepped.clear()
    for at, offset in samples:
        wall.add(at, offset)
    return wall


def test_a_wall_clock_sampled_now_converts_now() -> None:
    wall = WallClock()
    before = now()
    t = wall.to_monotonic(time.time_ns(), now())
    assert before - 100_000 <= t <= now()
    assert wall.steps == []


def test_the_offset_is_that_of_the_time_of_the_read_interpolated_between_samples() -> None:
    wall = clock((1 * S, 1000 * S), (2 * S, 1000 * S + 400_000))
    assert wall.to_monotonic(1001 * S, at=1 * S) == 1 * S
    assert wall.to_monotonic(1001 * S + 500 * MS, at=1 * S + 500 * MS) == 1 * S + 500 * MS - 200_000
    assert wall.to_monotonic(1003 * S, at=4 * S) == 3 * S - 400_000
    assert wall.to_monotonic(1000 * S + 500 * MS, at=600 * MS) == 500 * MS
    assert wall.steps == []


def test_no_stamp_is_later_than_its_read() -> None:
    assert clock((1 * S, 0)).to_monotonic(2 * S + 5, at=2 * S) == 2 * S


@pytest.mark.parametrize("jump", [3600 * S, -3600 * S, 50 * MS, -50 * MS])
def test_a_step_of_the_wall_clock_is_noticed_and_spoils_no_stamp(jump: int) -> None:
    wall = clock((1 * S, 100 * S), (2 * S, 100 * S + jump))
    assert wall.steps == [(2 * S, jump)]
    stepped_at = 1 * S + 500 * MS
    for arrival in (1 * S + 100 * MS, 1 * S + 900 * MS):
        offset = 100 * S + (jump if arrival >= stepped_at else 0)
        assert wall.to_monotonic(arrival + offset, at=arrival + 1 * MS) == arrival


def test_a_stamp_is_a_timespec() -> None:
    assert stamps_ns(struct.pack("@qqqq", 5, 7, 0, 1)) == [5 * S + 7, 1]


def test_only_gaps_that_can_have_delayed_a_read_count_and_only_their_part_since_the_last_read() -> None:
    lag = LagLog()
    assert lag.worst(0, 10 * S) == 0
    lag.add(end=1 * S, gap=50 * MS)
    lag.add(end=2 * S, gap=200 * MS)
    assert lag.worst(0, 2 * S + 1 * MS) == 200 * MS  # read just after the gap
    assert lag.worst(0, 2 * S - 50 * MS) == 150 * MS  # read inside it: the rest came later
    assert lag.worst(2 * S - 30 * MS, 2 * S + 1 * MS) == 30 * MS  # the previous read was a poll
    assert lag.worst(2 * S, 2 * S + 1 * MS) == 0
    assert lag.worst(0, 3 * S) == 0  # a gap long before the read kept nothing from being read
    assert lag.worst(0, 1 * S) == 50 * MS
    assert lag.worst(0, 500 * MS) == 0


def test_gaps_in_a_row_all_count_as_far_as_a_read_can_have_waited() -> None:
    lag = LagLog()
    for end, gap in ((1000, 500), (1100, 100), (1110, 10), (1120, 10)):
        lag.add(end * MS, gap * MS)
    assert lag.worst(0, 1115 * MS) == 100 * MS  # three back: the poll before the one that found it is within them
    assert lag.worst(0, 1105 * MS) == 500 * MS
    assert lag.worst(1095 * MS, 1115 * MS) == 10 * MS


@pytest.mark.parametrize("factory", ["asyncio", "uvloop"])
def test_the_heartbeat_logs_a_blocked_loop_and_samples_the_wall_clock(factory: str) -> None:
    async def main() -> tuple[LagLog, WallClock, int, int, int, int]:
        log, wall = LagLog(), WallClock()
        heartbeat = Heartbeat(log, wall).start()
        heartbeat._next_sample = 0
        await asyncio.sleep(0.02)
        heartbeat.take()
        t0 = now()
        time.sleep(0.05)  # noqa: ASYNC251 - the loop is to be blocked
        t1 = now()
        during = heartbeat.take()
        await asyncio.sleep(0.01)
        after = heartbeat.take()
        heartbeat.take()
        heartbeat.stop()
        return log, wall, t0, t1, during, after

    with asyncio.Runner(loop_factory=loop_factory(factory)) as runner:
        log, wall, t0, t1, during, after = runner.run(main())
    assert log.worst(t0, t1) >= 50 * MS
    assert during >= 50 * MS  # also while the gap is still open
    assert after >= 50 * MS
    assert len(wall._at) == 2


def test_a_stopped_heartbeat_beats_no_more_and_keeps_the_gap_that_was_open() -> None:
    async def main() -> tuple[int, int]:
        log = LagLog()
        heartbeat = Heartbeat(log).start()
        time.sleep(0.02)  # noqa: ASYNC251
        heartbeat.stop()
        noted = len(log)
        time.sleep(0.02)  # noqa: ASYNC251
        await asyncio.sleep(0.01)
        return noted, len(log)

    assert asyncio.run(main()) == (1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="SO_TIMESTAMPNS is Linux's")
def test_with_a_keeper_every_socket_that_asks_gets_stamps_from_its_first_read() -> None:
    with kernel_stamping() as stamping, WallClockPair() as pair:
        assert stamping
        sent_from = now()
        pair.writer.send(b"x")
        _, ancillary, _, _ = pair.reader.recvmsg(10, 64)
        read_at = now()
        ((_, _, found),) = ancillary
        assert sent_from - GAP <= pair.wall.to_monotonic(stamps_ns(found)[0], read_at) <= read_at


def test_a_keeper_leaves_no_socket_behind() -> None:
    with kernel_stamping():
        held = len(psutil.Process().net_connections("tcp"))
    assert len(psutil.Process().net_connections("tcp")) == held - 2


class WallClockPair:
    """A loopback connection whose reader asks for stamps."""

    def __enter__(self) -> Self:
        self.wall = WallClock()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.reader = socket.create_connection(listener.getsockname())
            self.reader.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self.writer, _ = listener.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        self.writer.close()


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        factory: Callable[[], asyncio.AbstractEventLoop] = pytest.importorskip("uvloop").new_event_loop
        return factory
    return asyncio.new_event_loop


def test_all_reads_of_a_stream_are_converted_as_each_one_is() -> None:
    rng = random.Random(3)
    for _ in range(200):
        wall = WallClock()
        at = wall._at[0]
        offset = wall._offsets[0]
        for _ in range(rng.randrange(5)):
            at += rng.randrange(S // 2, 2 * S)
            offset += rng.choice([rng.randrange(-200_000, 200_000), 5 * S])  # slewed, or stepped
            wall.add(at, offset)
        handled = sorted(rng.randrange(wall._at[0] - S, at + S) for _ in range(30))
        stamps = [
            rng.choice([0, t + offset - rng.randrange(2_000_000), t + wall._offsets[0] + 50_000]) for t in handled
        ]
        each = [wall.to_monotonic(stamp, t) if stamp else t for stamp, t in zip(stamps, handled, strict=True)]
        assert wall.instants(stamps, handled) == list(itertools.accumulate(each, max))
