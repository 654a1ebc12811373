"""What the wire saw of one request: instants and raw reads, interpreted afterwards.

While a stream runs, a read costs one append; framing is parsed at once only until the first content event, and then
when a read may hold the answer's end. Kernel stamps are turned into instants at the very end, by `reads`.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Self

import httpx

from loadtest.measure.wire.clock import STAMP_SIZE, Ancillary, LagLog, WallClock, stamps_ns
from loadtest.measure.wire.core import AnswerParser, end_of_answer

# So many reads may wait for their parsing, which is several times cheaper for many than for one (cold caches). At a
# stream's end they are 15 µs of work: streams end in waves, and 1000 times 128 reads kept the sockets waiting for 60 ms.
PENDING = 32
NO_STAMP = bytes(STAMP_SIZE)


@dataclass(frozen=True, slots=True)
class Reads:
    """The reads that carried body bytes, column by column: one entry a read."""

    body: bytes  # of all reads, HTTP framing removed
    ends: Sequence[int]  # where in the body each read's bytes end
    t: Sequence[int]  # arrival, monotonic ns: the kernel's stamp, else the time of the read
    lag: Sequence[
        int
    ]  # client lag, ns: max(handling − stamp, longest gap between polls since the stream's previous read)

    def __len__(self) -> int:
        return len(self.t)


class Arrivals:
    """One request's instants and reads, filled by a wire (or `replay`).

    Instants are monotonic ns. t_headers, t_first_byte and t_end are the time of the read until `reads` has moved them
    to the kernel's stamp. `live` is given body bytes as they come, until it returns True; without it nothing is
    parsed ahead of need once the headers are there.
    """

    __slots__ = (
        "_body",
        "_end_at",
        "_ends",
        "_handled",
        "_headers_at",
        "_hinted",
        "_live",
        "_parser",
        "_pending",
        "_room",
        "_stamps",
        "_unstamped",
        "ended",
        "failure",
        "new_conn",
        "t_connect",
        "t_end",
        "t_first_byte",
        "t_headers",
        "t_send",
        "whole",
    )

    def __init__(self, live: Callable[[bytes], bool] | None = None) -> None:
        self.whole = False  # nobody waits for the headers alone
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
        # Of every read its raw stamp and its time; of every parsed one where its body bytes end. Columns, not objects: a
        # read costs 32 bytes beside its body, and the garbage collector has nothing to walk through.
        self._stamps, self._handled, self._ends = bytearray(), array("q"), array("q")
        self._unstamped = 0
        self._pending: list[bytes] = []  # reads not parsed yet
        self._room = 0  # how many of them there may be
        self._body = bytearray()
        self._hinted = False  # a read looked as if the end began in it: from then on each is parsed as it comes
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
    def packed(self) -> str | None:
        """How the server compressed the body; None where it did not."""
        return self._parser.packed

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
        return len(self._handled)

    @property
    def stamped_count(self) -> int:
        """How many of all reads carry a kernel stamp."""
        return len(self._handled) - self._unstamped

    @property
    def last_read(self) -> int | None:
        """When the latest read was handled, monotonic ns."""
        return self._handled[-1] if self._handled else None

    def add(self, data: bytes, ancillary: Ancillary, t: int) -> bool:
        """Take one read, its ancillary data and its time; True when somebody waits for what it brought: headers, end."""
        pending = self._pending
        pending.append(data)
        self._handled.append(t)
        if ancillary:
            self._stamps += ancillary[0][2]
        else:
            self._stamps += NO_STAMP
            self._unstamped += 1
        # The end of a chunked answer is a chunk size that starts with 0, and a chunk size starts a line: wherever reads
        # are cut, the 0 is the first byte of a read or follows a newline in it. Wrong only in saying yes; what comes
        # behind (trailers, line ends) may take more reads.
        if b"\n0" in data or data[0] == 48:
            self._hinted = True
        elif len(pending) < self._room:
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
        elif not self._handled:
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

    def reads(self, wall: WallClock | None = None, lag: LagLog | None = None) -> Reads:
        """Return the reads that carried body bytes, and move t_headers, t_first_byte and t_end to their stamps.

        Stamps need `wall`; without it, or where the kernel gave none, a read's instant is the time of the read.
        """
        self._parse()
        handled, ends = self._handled.tolist(), self._ends.tolist()
        times = handled if wall is None else wall.instants(stamps_ns(self._stamps), handled)
        lags = list(map(operator.sub, handled, times))
        if lag is not None and self.t_send is not None:
            for i, gap in lag.worst_of_each(self.t_send, handled):
                lags[i] = max(lags[i], gap)
        carried = list(map(operator.gt, ends, [0, *ends]))
        out = Reads(bytes(self._body), *(list(compress(column, carried)) for column in (ends, times, lags)))
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
        return bytes(self._body)

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
        all_body, feed, ends = self._body, parser.feed, self._ends
        for data in self._pending:
            body = feed(data)
            all_body += body
            ends.append(len(all_body))
            if self._live is not None or self._headers_at is None or parser.complete or parser.error:
                self._take(body)
        self._pending.clear()
        # An answer with a length ends at a byte that no look at a read can tell.
        lazy = parser.headers_done and self._live is None and parser.length is None and not self._hinted
        # The first lot is of any size, or streams that began together would all be parsed together.
        self._room = 0 if not lazy else PENDING if self._room else 1 + self._handled[-1] // 1000 % PENDING
        return self.ended != had_ended or (parser.headers_done != had_headers and not self.whole)

    def _take(self, body: bytes) -> None:
        parser, i = self._parser, len(self._ends) - 1
        t = self._handled[i]
        if i == 0:
            self.t_first_byte = t
        if self._headers_at is None and parser.headers_done:
            self._headers_at, self.t_headers = i, t
        if body and self._live is not None and self._live(body):
            self._live = None
        if not self.ended and (parser.complete or parser.error):
            self._end_at = i
            self._end(parser.error, t)

    def _end(self, failure: str | None, t: int) -> None:
        self.ended = True
        self.failure = failure
        self.t_end = t
        self._live = None
        self._parser.stop()
