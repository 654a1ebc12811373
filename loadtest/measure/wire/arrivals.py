"""What the wire saw of one request: instants and raw reads, interpreted afterwards.

While a stream runs, a read costs one append; framing is parsed at once only until the first content event, and then
when a read may hold the answer's end. Kernel stamps are turned into instants at the very end, by `reads`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import httpx

from loadtest.measure.wire.clock import Ancillary, LagLog, WallClock, raw_stamp, stamp_ns
from loadtest.measure.wire.core import AnswerParser, end_of_answer

# Reads may wait for their parsing up to PENDING bytes, each read counting as READ_COST: 1 MiB or 128 reads. That
# bounds both the memory and the work (0.2 ms) that a stream's end leaves to be done at once.
PENDING = 1 << 20
READ_COST = PENDING // 128


@dataclass(frozen=True, slots=True)
class Read:
    """One read of the answer that carried body bytes, HTTP framing removed."""

    t: int  # arrival, monotonic ns: the kernel's stamp, else the time of the read
    lag: int  # client lag, ns: max(handling − stamp, longest gap between two polls since the stream's previous read)
    stamped: bool
    body: bytes


class Arrivals:
    """One request's instants and reads, filled by a wire (or `replay`).

    Instants are monotonic ns. t_headers, t_first_byte and t_end are the time of the read until `reads` has moved them
    to the kernel's stamp. `live` is given body bytes as they come, until it returns True; without it nothing is
    parsed ahead of need once the headers are there.
    """

    __slots__ = (
        "_budget",
        "_end_at",
        "_headers_at",
        "_lazy",
        "_live",
        "_log",
        "_parsed",
        "_parser",
        "_settled",
        "ended",
        "failure",
        "new_conn",
        "t_connect",
        "t_end",
        "t_first_byte",
        "t_headers",
        "t_send",
    )

    def __init__(self, live: Callable[[bytes], bool] | None = None) -> None:
        self.new_conn = False
        self.t_connect: int | None = None  # TCP (and TLS) ready, where a connection was opened for this request
        self.t_send: int | None = None  # the request's last byte handed to the kernel
        self.t_headers: int | None = None
        self.t_first_byte: int | None = None
        self.t_end: int | None = None
        self.ended = False  # nothing more will come: complete, cut off, or given up
        self.failure: str | None = None  # why the answer is not whole, one sentence
        self._live = live
        self._parser = AnswerParser()
        # Every read: its bytes, which become its body once parsed; its stamp; its time. Only bytes and numbers: the
        # garbage collector stops tracking such a tuple, and a pass over a million reads would make the loop late.
        self._log: list[tuple[bytes, bytes | None, int]] = []
        self._parsed = 0
        self._lazy = False
        self._settled = False  # whether it has been decided to be lazy, or not
        self._budget = 0
        self._headers_at: int | None = None
        self._end_at: int | None = None

    @property
    def status(self) -> int | None:
        return self._parser.status

    @property
    def headers(self) -> httpx.Headers:
        """The answer's headers, empty until they came."""
        return httpx.Headers(self._parser.headers if self._parser.headers_done else [])

    @property
    def complete(self) -> bool:
        """Whether the whole answer came, as its framing (length, chunks, end of connection) has it."""
        return self._parser.complete

    @property
    def malformed(self) -> bool:
        """Whether the answer is not HTTP/1.1."""
        return self._parser.error is not None

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self._parser.complete and self._parser.keep_alive and not self._parser.excess

    def expect_no_body(self) -> None:
        """Take note that the request is a HEAD: the answer ends with its headers."""
        self._parser.head = True

    @property
    def read_count(self) -> int:
        """How many reads there were, those without body bytes included."""
        return len(self._log)

    @property
    def stamped_count(self) -> int:
        """How many of all reads carry a kernel stamp."""
        return sum(stamp is not None for _, stamp, _ in self._log)

    @property
    def last_read(self) -> int | None:
        """When the latest read was handled, monotonic ns."""
        return self._log[-1][2] if self._log else None

    def add(self, data: bytes, ancillary: Ancillary, t: int) -> bool:
        """Take one read, its ancillary data and its time; True when the headers have just come or all has ended."""
        self._log.append((data, raw_stamp(ancillary), t))
        if self._lazy:
            self._budget -= len(data) + READ_COST
            if _may_end(data):
                self._lazy = False
            elif self._budget > 0:
                return False
        return self._parse()

    def eof(self, t: int) -> None:
        """Take the connection's end at `t`: it completes an answer that has neither length nor chunks."""
        self._parse()
        if self.ended:
            return
        self._parser.eof()
        if self._parser.complete:
            self._end(None, t)
        elif not self._log:
            self._end("the server closed the connection without an answer", t)
        else:
            where = "body" if self._parser.headers_done else "headers"
            self._end(f"the server closed the connection inside the {where} of the answer", t)

    def abort(self, failure: str, t: int) -> None:
        """Take the shell's word that nothing more will come (a time limit, a reset, a cancelled request)."""
        self._parse()
        if not self.ended:
            self._end(failure, t)

    def parse(self) -> bool:
        """Parse what is pending; True when that ended the answer. `add` does it in time by itself."""
        self._parse()
        return self.ended

    def reads(self, wall: WallClock | None = None, lag: LagLog | None = None) -> list[Read]:
        """Return the reads that carried body bytes, and move t_headers, t_first_byte and t_end to their stamps.

        Stamps need `wall`; without it, or where the kernel gave none, a read's instant is the time of the read.
        """
        self._parse()
        out: list[Read] = []
        times: list[int] = []
        t, previous = 0, self.t_send
        for body, raw, handled in self._log:
            stamp = None if wall is None else raw
            arrived = handled if stamp is None or wall is None else wall.to_monotonic(stamp_ns(stamp), handled)
            t = max(t, arrived)  # the conversion is good to about a µs, not to the order of two stamps
            times.append(t)
            if body:
                gap = 0 if lag is None or previous is None else lag.worst(previous, handled)
                out.append(Read(t, max(handled - t, gap), stamp is not None, body))
            previous = handled
        if times:
            self.t_first_byte = times[0]
        if self._headers_at is not None:
            self.t_headers = times[self._headers_at]
        if self._end_at is not None:
            self.t_end = times[self._end_at]
        return out

    def body(self) -> bytes:
        """Return all body bytes that came."""
        self._parse()
        return b"".join(body for body, _, _ in self._log)

    @classmethod
    def replay(
        cls,
        reads: Sequence[tuple[int, bytes]],
        t_eof: int | None = None,
        *,
        t_send: int = 0,
        live: Callable[[bytes], bool] | None = None,
    ) -> tuple[Self, list[tuple[int, bytes]]]:
        """Return the Arrivals that these (ns, bytes) would have made without a socket, and the reads left over.

        See `play` for what is left over. Replayed reads carry no stamps.
        """
        arrivals = cls(live)
        arrivals.t_send = t_send
        return arrivals, arrivals.play(reads, t_eof)

    def play(self, reads: Sequence[tuple[int, bytes]], t_eof: int | None = None) -> list[tuple[int, bytes]]:
        """Feed recorded reads as a wire would, up to this answer's end, and return those of the next answer.

        A read that holds the end of this answer and the beginning of the next is cut between the two. With `t_eof`
        the connection ends there, if the answer has not ended before.
        """
        for i, (t, data) in enumerate(reads):
            self.add(data, [], t)
            if self.ended:
                if not self._parser.excess:
                    return list(reads[i + 1 :])
                self._parser.excess = False
                cut = end_of_answer(b"".join(data for _, data in reads[:i]), data)
                return [(t, data[cut:]), *reads[i + 1 :]]
        if t_eof is not None:
            self.eof(t_eof)
        return []

    def _parse(self) -> bool:
        parser, had_headers, had_ended = self._parser, self._parser.headers_done, self.ended
        data = b""
        for i in range(self._parsed, len(self._log)):
            data, stamp, t = self._log[i]
            body = parser.feed(data)
            self._log[i] = (body, stamp, t)
            self._take(i, body, t)
        self._parsed = len(self._log)
        if self._lazy:
            self._refill()
        elif data and parser.headers_done and self._live is None and not self._settled:
            self._settled = True  # once only: after the first hint of an end every read is parsed at once
            self._lazy = not _may_end(data)
            self._refill()
        return parser.headers_done != had_headers or self.ended != had_ended

    def _take(self, i: int, body: bytes, t: int) -> None:
        parser = self._parser
        if i == 0:
            self.t_first_byte = t
        if self._headers_at is None and parser.headers_done:
            self._headers_at, self.t_headers = i, t
        if body and self._live is not None and self._live(body):
            self._live = None
        if not self.ended and (parser.complete or parser.error):
            self._end_at = i
            self._end(parser.error, t)

    def _refill(self) -> None:
        left = self._parser.left
        self._budget = PENDING if left is None else min(PENDING, left)

    def _end(self, failure: str | None, t: int) -> None:
        self.ended = True
        self.failure = failure
        self.t_end = t
        self._live = None
        self._parser.stop()


def _may_end(data: bytes) -> bool:
    """Whether the end of a chunked answer may begin in this read; wrong only in saying yes.

    The end is a chunk size that starts with 0, and a chunk size starts a line: wherever reads are cut, the 0 is the
    first byte of a read or follows a newline in it. What comes behind (trailers, line ends) may take more reads.
    """
    return b"\n0" in data or data[0] == 48
