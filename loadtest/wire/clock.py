"""The wire's clock: monotonic instants, kernel stamps converted to it, and how late the loop was."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import accumulate
from typing import Self

from loadtest.errors import ScenarioError
from loadtest.metrics import NS_PER_S
from loadtest.records import Clock

# As socket.recvmsg gives it: the kernel's raw arrival stamp, the last item of the one entry, or no entry.
Ancillary = list[tuple[int, int, bytes]]

SO_TIMESTAMPNS = 35  # Linux asm-generic; Python's socket module does not name it
ANCILLARY_SIZE = socket.CMSG_SPACE(16)
_TIMESPEC = struct.Struct("@qq")
STAMP_SIZE = _TIMESPEC.size

BEAT = 0.002  # seconds between two heartbeats
GAP = 4_000_000  # ns; beats come 2 to 3 ms apart on an idle loop, for uvloop's timers count whole milliseconds
SLEW = 500e-6  # the fastest drift of a wall clock that NTP disciplines
STEP = 1_000_000  # ns; an offset that moved by more than this beyond what SLEW explains is a step
STAMPS_WITHIN_S = 0.25  # of asking for them: later ones are not waited for

now = time.perf_counter_ns  # this instant on the monotonic clock (CLOCK_MONOTONIC on Linux), ns


def stamps_ns(raw: bytes | bytearray) -> list[int]:
    """Return raw stamps (SCM_TIMESTAMPNS: a struct timespec each), end to end, as ns on the wall clock."""
    return [seconds * NS_PER_S + nanoseconds for seconds, nanoseconds in _TIMESPEC.iter_unpack(raw)]


def stamps_wanted() -> bool:
    """Whether to ask for kernel stamps: on Linux, unless LOADTEST_STAMPS=user says otherwise; raises ScenarioError for any other word."""
    asked = os.environ.get("LOADTEST_STAMPS") or "kernel"
    if asked not in ("kernel", "user"):
        raise ScenarioError(f"LOADTEST_STAMPS must be kernel or user, not {asked!r}.")
    return sys.platform == "linux" and asked == "kernel"


def ask_for_stamps(sock: socket.socket) -> bool:
    """Switch kernel stamps on for `sock`; False where there are none, as on macOS and in some sandboxes."""
    if not stamps_wanted():
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


class WallClock:
    """How far the wall clock is ahead of the monotonic clock, over time, so that a step of the wall clock spoils no stamp.

    `steps` lists (monotonic ns, ns moved) of every jump that slewing does not explain.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self._at = array("q")
        self._offsets = array("q")
        self._stepped: set[int] = set()  # indices of the samples before which the clock stepped
        self.sample()

    def sample(self) -> None:
        """Take one more offset, the best of several pairs (about 3 µs of work)."""
        pair = Clock.now()
        self.add(pair.monotonic_ns, pair.wall_ns - pair.monotonic_ns)

    def add(self, at: int, offset: int) -> None:
        """Note that wall − monotonic was `offset` at the monotonic instant `at`, later than all before; both ns."""
        if self._at:
            span, moved = at - self._at[-1], offset - self._offsets[-1]
            if abs(moved) > STEP + SLEW * span:
                self._stepped.add(len(self._at))
                self.steps.append((at, moved))
        self._at.append(at)
        self._offsets.append(offset)

    def to_monotonic(self, wall_ns: int, at: int) -> int:
        """Return a wall instant on the monotonic clock, by the offset valid at the monotonic instant `at` of the read.

        Between two samples the offset is interpolated. Where the clock stepped between them, either offset may be the
        right one: of the two results, the later one that does not exceed `at` is taken, for no stamp is later than its
        read.
        """
        since, until, before, moved, stepped = self._samples_around(at)
        if stepped:
            candidates = (wall_ns - before, wall_ns - before - moved)
            return max((t for t in candidates if t <= at), default=at)
        return min(at, wall_ns - before - moved * (at - since) // (until - since))

    def instants(self, stamps: Sequence[int], handled: Sequence[int]) -> list[int]:
        """Return when each read of a stream arrived: its kernel stamp, wall ns, on the monotonic clock.

        A read without a stamp (0) arrived when it was handled. Instants never go back: the conversion is exact to about a
        µs, which does not keep the order of two stamps.
        """
        out: list[int] = []
        i = 0
        while i < len(handled):
            since, until, before, moved, stepped = self._samples_around(handled[i])
            end = bisect_left(handled, until, i)
            pairs = zip(stamps[i:end], handled[i:end], strict=True)
            if stepped:
                out += [self.to_monotonic(stamp, at) if stamp else at for stamp, at in pairs]
            else:  # as in to_monotonic, without a search for each read
                span = until - since
                out += [
                    t if stamp and (t := stamp - before - moved * (at - since) // span) < at else at
                    for stamp, at in pairs
                ]
            i = end
        return out if sorted(out) == out else list(accumulate(out, max))

    def _samples_around(self, at: int) -> tuple[int, int, int, int, bool]:
        """Return the two samples around `at`, the offset at the first, how far it moved by the second, and whether in a step."""
        after = bisect_right(self._at, at)
        until = self._at[after] if after < len(self._at) else 1 << 62
        if after == 0:
            return at, until, self._offsets[0], 0, False
        since, before = self._at[after - 1], self._offsets[after - 1]
        moved = self._offsets[after] - before if after < len(self._at) else 0
        return since, until, before, moved, after in self._stepped


class LagLog:
    """Gaps of 4 ms and more between two heartbeats, in which the loop polled nothing, in order of time; 16 bytes each."""

    # Between two beats the loop polls at least once. What is handled at t was found by one poll, and had not yet come at the poll
    # before it. Both lie within the last three gaps before t, so that no older gap can have delayed it.
    _BACK = 3

    def __init__(self) -> None:
        self._starts = array("q")
        self._ends = array("q")

    def add(self, end: int, gap: int) -> None:
        """Note that nothing was polled from `end − gap` to `end` (monotonic ns); ends must not go back."""
        self._starts.append(end - gap)
        self._ends.append(end)

    def worst(self, t0: int, t1: int) -> int:
        """Return the longest gap, ns, that can have delayed what was read at `t1`; `t0` is the stream's previous read.

        Only the part of a gap between the two counts, for a read is itself a poll of that stream. 0 where the loop polled
        in time.
        """
        newest = bisect_left(self._starts, t1) - 1
        reach = t1 - self._BACK * GAP
        if newest < 0 or self._ends[newest] < reach:
            return 0  # by far the most frequent case
        longest = 0
        for i in range(newest, max(newest - self._BACK, -1), -1):
            if self._ends[i] < reach or self._ends[i] <= t0:
                break
            longest = max(longest, min(self._ends[i], t1) - max(self._starts[i], t0))
            reach = self._starts[i] - self._BACK * GAP
        return longest

    def worst_of_each(self, t_send: int, handled: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield (index, `worst`) for each of a stream's reads that a gap can have delayed.

        The request was sent at `t_send`, its reads handled at these instants, which do not go back.
        """
        if not handled:
            return
        done = 0
        first = bisect_left(self._ends, handled[0] - self._BACK * GAP)
        for gap in range(first, bisect_left(self._starts, handled[-1])):
            near = bisect_right(handled, self._ends[gap] + self._BACK * GAP)
            for i in range(max(done, bisect_right(handled, self._starts[gap])), near):
                yield i, self.worst(handled[i - 1] if i else t_send, handled[i])
            done = near

    def __len__(self) -> int:
        return len(self._ends)


class Heartbeat:
    """A 2 ms beat on the running asyncio loop that fills its LagLog and samples its WallClock once a second."""

    def __init__(self, lag: LagLog | None = None, wall: WallClock | None = None) -> None:
        self.lag = LagLog() if lag is None else lag
        self.wall = wall or WallClock()
        self._worst = 0
        self._last = 0
        self._next_sample = 0
        self._handle: asyncio.TimerHandle

    def start(self) -> Self:
        """Begin to beat on the running loop."""
        self._last = now()
        self._next_sample = self._last + NS_PER_S
        self._set_timer()
        return self

    def stop(self) -> None:
        """Stop beating; a gap that is still open goes into the log."""
        self._handle.cancel()
        self._note(now())

    def take(self) -> int:
        """Return the longest gap between beats since the last take, ns (2-3 ms on an idle loop: the beat itself)."""
        worst, self._worst = self._worst, 0
        return max(worst, now() - self._last)

    def _set_timer(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(BEAT, self._beat)

    def _beat(self) -> None:
        self._note(now())
        self._set_timer()

    def _note(self, t: int) -> None:
        """Take a beat, or the end of all, at `t`."""
        gap = t - self._last
        self._last = t
        self._worst = max(self._worst, gap)
        if gap >= GAP:
            self.lag.add(t, gap)
        if t >= self._next_sample:
            self.wall.sample()
            self._next_sample = t + NS_PER_S


@contextmanager
def kernel_stamping() -> Iterator[bool]:
    """Keep the kernel's stamping switched on; give whether reads on loopback soon carried stamps.

    The kernel stamps only while some socket asks for it, and a new process misses stamps for its first milliseconds
    (measured: 2.9). Hence one socket that asks, held open throughout. Enter before the clock starts: it blocks.
    """
    with ExitStack() as sockets:
        stamping = False
        with suppress(OSError), socket.create_server(("127.0.0.1", 0)) as listener:
            reader = sockets.enter_context(socket.create_connection(listener.getsockname(), timeout=1))
            asked = ask_for_stamps(reader)
            writer = sockets.enter_context(listener.accept()[0])
            stamping = asked and _stamps_arrive(reader, writer)
        yield stamping


def _stamps_arrive(reader: socket.socket, writer: socket.socket) -> bool:
    deadline = time.monotonic() + STAMPS_WITHIN_S
    while time.monotonic() < deadline:
        writer.send(b"?")
        _, ancillary, _, _ = reader.recvmsg(1, ANCILLARY_SIZE)
        if ancillary:
            return True
    return False
