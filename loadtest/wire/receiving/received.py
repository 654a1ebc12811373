"""What the wire received of one answer: raw reads and their instants.

While a stream runs, a read that ends like those before it is only kept; any other is looked through for the answer's end.
All else waits until the answer is over.
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, cycle

import httpx

from loadtest.dialects.answers.answer_reader import AnswerReader
from loadtest.dialects.answers.lines.framing import is_dataless
from loadtest.dialects.base import End, EndMarks
from loadtest.wire.clock import STAMP_SIZE, Ancillary, LagLog, WallClock, stamps_ns
from loadtest.wire.receiving.end_search import EndSearch
from loadtest.wire.receiving.parser import AnswerParser
from loadtest.wire.receiving.send_instants import SendInstants

NO_STAMP = bytes(STAMP_SIZE)
MARK_NS = 50_000_000  # how long to wait for the framing's end after an end mark; most often it comes within 0.2 ms
FINISH_NS = 1_000_000_000  # without an end mark an answer is over when no data came for so long, for each finish_reason
MOST_BEHIND_NS = 10_000_000_000  # how long data events without text may follow a finish_reason
ORDINARY_END = 9  # bytes at the end of a read: `null}]}` or `false}` with line ends, but no text
# So many reads of an answer may wait to be taken out of their HTTP framing. Taking many at a time finds code and data in the
# core's cache, which between two reads of a stream holds other streams: at 1000 streams that saves 0.5 of 12 µs a read. The
# number differs from answer to answer: else streams that begin together would take theirs in the same step of the server, which
# takes 20 ms for 1000 of them, and tokens of the next step would be read late.
MOST_WAITING = range(24, 41)
_most_waiting = cycle(MOST_WAITING).__next__


@dataclass(frozen=True, slots=True)
class Reads:
    """The reads of an answer that carried body bytes, in columns with an entry for each read."""

    body: bytes  # the bodies of all reads, joined, without HTTP framing
    ends: Sequence[int]  # where in the body each read's bytes end
    t: Sequence[int]  # arrival, monotonic ns: the kernel's stamp, else the time of the read
    # client lag, ns: max(handling − stamp, longest gap between polls since the stream's previous read)
    lag: Sequence[int]

    def __len__(self) -> int:
        return len(self.t)


class Received:
    """The instants (monotonic ns) and reads of one request, filled by a wire.

    t_send, t_headers, t_first_byte and t_end are the client's own until `reads` replaces them by kernel stamps. `reader` is told
    of the body as far as it listens; without one the framing alone ends the answer.
    """

    __slots__ = (
        *("_asked", "_behind_text", "_body", "_content_at", "_end_at", "_ends", "_handled", "_headers_at"),
        *("_most_waiting", "_ordinary_end", "_parser", "_quiet_ns", "_reader", "_search", "_sent"),
        *("_stamps", "_unstamped", "_waiting", "broke_off", "early_ns", "ended", "failure", "hung_up", "marked"),
        *("connect_ns", "new_conn", "send_ns", "t_connect", "t_end", "t_first_byte", "t_headers", "t_over", "t_resent"),
        *("connection_wait", "t_send", "t_turn", "until"),
    )

    def __init__(self, reader: AnswerReader | None = None) -> None:
        self.new_conn = False
        self.t_connect: int | None = None  # TCP, and TLS, ready; None unless a connection was opened for this request
        self.connect_ns = 0  # how long that took, where it was before the first send
        self.connection_wait = False  # whether it was answered only once the server had closed an idle connection
        # of a request that was sent in a burst (see Order.in_burst): when its turn came
        self.t_turn: int | None = None
        self.t_send: int | None = None  # the request's last byte handed to the kernel
        self.t_resent: int | None = None  # of the second send, where the server had closed the first connection
        self.t_headers: int | None = None
        self.t_first_byte: int | None = None
        self.t_end: int | None = None  # the arrival of the end mark, else of the finish_reason, else of the last byte
        # when the end was known: from then on the connection carries the next request, or it is closed
        self.t_over: int | None = None
        self.send_ns: int | None = None  # t_send is known this exactly: as a rule as long as the last send(2) took
        self.early_ns = 0  # by how much the answer's first stamp lies before the request's first byte was sent
        self.ended = False  # nothing more will come: complete, cut off, or given up
        self.failure: str | None = None  # why the answer is incomplete, one sentence
        self.broke_off = False  # the connection ended before the answer's framing did, be its end marked or not
        self.marked: End | None = None  # how the answer announced its end: the strongest sign so far
        self.until: int | None = None  # when the answer counts as over though its framing goes on, as after an end mark
        self.hung_up: str | None = None  # why the user has left in mid-answer
        self._reader = reader
        self._parser = AnswerParser()
        # Of every read its raw stamp, its time and where its body bytes end, in columns that garbage collection need not walk.
        self._stamps, self._handled, self._ends = bytearray(), array("q"), array("q")
        self._unstamped = 0
        self._body = bytearray()
        self._search = EndSearch(EndMarks() if reader is None else reader.ends, self._body)
        self._asked = 0  # how many reads had come, up to the last with data, when the reader was asked whether the answer is whole
        self._waiting: list[bytes] = []  # the latest reads, still in their HTTP framing
        self._most_waiting = _most_waiting()
        # The last bytes of the latest read without a needle. A read that ends in the same bytes waits, and only `look` searches
        # it: a search takes a µs, and a line that ends an answer, or its framing, nearly always ends in other bytes. b"": every
        # read is searched at once.
        self._ordinary_end = b""
        # Those bytes without what may be text: a read that ends so waits unless a needle is in it. (): every such read is searched.
        self._behind_text: bytes | tuple[()] = ()
        self._quiet_ns = 0  # an answer is over when so long after its finish_reason no data came
        self._sent: SendInstants | None = None
        self._headers_at: int | None = None
        self._end_at: int | None = None
        self._content_at: int | None = None  # index of the latest read known to hold content: see content_seen

    @property
    def began(self) -> bool:
        """Whether content has come; True where nothing tells content from other bytes."""
        return self._reader is None or self._reader.began

    @property
    def has_tokens(self) -> bool:
        """Whether the answer comes in pieces, which say when it ends; embeddings come all at once."""
        return bool(self._search)

    @property
    def status(self) -> int | None:
        return self._parser.status

    @property
    def success(self) -> bool:
        """Whether the status is 2xx."""
        return self._parser.status is not None and 200 <= self._parser.status < 300

    @property
    def headers(self) -> httpx.Headers:
        """The answer's headers, empty until they came."""
        return httpx.Headers(self._parser.headers)

    @property
    def header_lines(self) -> list[tuple[bytes, bytes]]:
        """The same as they came."""
        return self._parser.headers

    @property
    def trailers(self) -> httpx.Headers:
        """The headers behind the body."""
        return httpx.Headers(self._parser.trailers)

    @property
    def packed(self) -> str | None:
        """How the server compressed the body; None where it did not."""
        return self._parser.packed

    @property
    def complete(self) -> bool:
        """Whether the whole answer came, by its framing: length, chunks, or the end of the connection."""
        return self._parser.complete

    @property
    def malformed(self) -> bool:
        """Whether the answer is not HTTP/1.1."""
        return self._parser.error is not None and not self._parser.excessive

    @property
    def excessive(self) -> str | None:
        """Which limit on an answer's size was exceeded, as a sentence; None where none was."""
        return self.failure if self._parser.excessive else None

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self._parser.complete and self._parser.keep_alive and not self._parser.excess

    @property
    def read_count(self) -> int:
        """How many reads there were, those without body bytes included."""
        return len(self._handled)

    @property
    def stamped_count(self) -> int:
        """How many of all reads carry a kernel stamp."""
        return len(self._handled) - self._unstamped

    @property
    def size(self) -> int:
        """How many body bytes came."""
        self._unframe()
        return len(self._body)

    @property
    def last_read(self) -> int | None:
        """When the latest read was handled, monotonic ns."""
        return self._handled[-1] if self._handled else None

    @property
    def content_seen(self) -> int | None:
        """When the latest content was handled, as far as `catch_up` has looked; any read's, where nothing tells content."""
        if self.began and self._content_at is None:
            return self.last_read
        return None if self._content_at is None else self._handled[self._content_at]

    def sent(self, began: int, before: int, after: int) -> None:
        """Take the instants of a send; see SendInstants."""
        if self.t_send is None:
            self.t_send, self._sent, self.send_ns = after, SendInstants(began, before, after), after - before
        else:
            self.t_resent = after

    def add(self, data: bytes, ancillary: Ancillary, t: int) -> bool:
        """Take one read, its ancillary data and its time; True when the answer has ended or `until` was set."""
        self._handled.append(t)
        if ancillary:
            self._stamps += ancillary[0][2]
        else:
            self._stamps += NO_STAMP
            self._unstamped += 1
        waiting = self._waiting
        waiting.append(data)
        if len(waiting) < self._most_waiting and (
            data[-ORDINARY_END:] == self._ordinary_end  # endswith takes twice as long
            or (data.endswith(self._behind_text) and not self._search.holds(data))
        ):
            return False
        return self._unframe()

    def _unframe(self) -> bool:
        """Take the reads that wait out of their HTTP framing; True when the answer has ended or `until` was set."""
        if not self._waiting:
            return False
        body, all_body, feed, ends = b"", self._body, self._parser.feed, self._ends
        for data in self._waiting:
            body = feed(data)
            all_body += body
            ends.append(len(all_body))
        self._waiting.clear()
        return self._consider(data, body)

    def eof(self, t: int) -> None:
        """Take the connection's end at `t`, which completes an answer without length and chunks."""
        self._unframe()
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
        """End the answer, of which nothing more will come: a time limit, a reset, a cancelled request."""
        self._unframe()
        if not self.ended:
            self._end(failure, t)

    def expire(self, t: int) -> bool:
        """End an answer whose `until` has passed at `t`, or `look` at one that fell silent; False where it goes on."""
        if self.until is None:
            return self.look()
        self._unframe()
        if self.ended:
            return True
        if self.marked is End.FINISH:
            self.catch_up()
            assert self._content_at is not None
            content = self._handled[self._content_at]
            if (data := self._latest(text=False)) is not None:  # counts, as a rule
                self.until = max(self.until, min(self._handled[data] + self._quiet_ns, content + MOST_BEHIND_NS))
            self.until = max(self.until, content + self._quiet_ns)
        if t >= self.until:
            self._end(None, t)
        return self.ended

    @property
    def look_at(self) -> int | None:
        """When to call `look` unless a read with data comes before; None where that would find nothing."""
        count = self._with_data
        return None if self.marked is not None or self._asked == count else self._handled[count - 1] + FINISH_NS

    @property
    def _with_data(self) -> int:
        """How many reads came up to the latest that may have brought a part of the answer."""
        end = None if self._waiting else self._search.latest_data(0, None)
        return len(self._handled) if self._waiting else 0 if end is None else bisect_left(self._ends, end) + 1

    def look(self) -> bool:
        """Have the last lines of an answer that fell silent decoded; True when it has ended, or they say that it is over.

        Some servers end answers by words that are no mark's, or by a line that ends like any other. Signs of life are silence.
        """
        if self.look_at is None:
            return False
        was = self.marked, self.ended
        self._unframe()
        self._asked = self._with_data
        reader = self._reader
        if self.success and self.marked is None and reader is not None and (end := reader.end_in(self._search.tail())):
            last = self._latest(text=False)
            self._mark(end, self._ends[-1 if last is None else last])
        return (self.marked, self.ended) != was

    def catch_up(self) -> None:
        """Find the latest read that brought content: text, where it can be told from other data."""
        found = self._latest(text=True)
        self._content_at = self._content_at if found is None else found

    def _latest(self, *, text: bool) -> int | None:
        """Return the latest read, behind the latest known content, that brought data, or data that may be text."""
        self._unframe()
        known = -1 if self._content_at is None else self._ends[self._content_at]
        end = self._search.latest_data(known, self._reader.is_empty if text and self._reader is not None else None)
        return None if end is None else bisect_left(self._ends, end)

    def reads(self, wall: WallClock | None = None, lag: LagLog | None = None) -> Reads:
        """Return the reads that carried body bytes, and replace t_send, t_headers, t_first_byte and t_end by kernel stamps.

        Stamps need `wall`. Without it, and for reads without a stamp, the time of the read is the instant.
        """
        self._unframe()
        handled, ends = self._handled.tolist(), self._ends.tolist()
        times = handled if wall is None else wall.instants(stamps_ns(self._stamps), handled)
        if times:
            self._decide_send(times[0])
        lags = list(map(operator.sub, handled, times))
        if lag is not None and self.t_send is not None:
            for i, gap in lag.worst_of_each(self.t_send, handled):
                lags[i] = max(lags[i], gap)
        carried = list(map(operator.gt, ends, [0, *ends]))
        if times:
            self.t_first_byte = times[0]
        if self._headers_at is not None:
            self.t_headers = times[self._headers_at]
        if self._end_at is not None:
            self.t_end = times[self._end_at]
        return Reads(bytes(self._body), *(list(compress(column, carried)) for column in (ends, times, lags)))

    def body(self) -> bytes:
        """Return all body bytes that came."""
        self._unframe()
        return bytes(self._body)

    def _decide_send(self, first: int) -> None:
        """Decide when the request was sent, now that the answer's first stamp is known."""
        if self._sent is None:
            return
        self.t_send, self.send_ns, self.early_ns = self._sent.held_against(first)
        if self.t_connect is not None and self.t_resent is None:
            self.t_connect = min(self.t_connect, self.t_send)

    def _consider(self, data: bytes, body: bytes) -> bool:
        """Take in what the latest read has brought, as it came and without its framing."""
        parser, reader, i = self._parser, self._reader, len(self._ends) - 1
        t, had_ended, was_marked, was_open = self._handled[i], self.ended, self.marked, self.until is None
        self.t_first_byte = t if i == 0 else self.t_first_byte
        if self._headers_at is None and parser.headers_done:
            self._headers_at, self.t_headers = i, t
        if body and reader is not None and reader.listens and self.success and not self.ended:
            began = reader.began
            reader.take(body)
            if reader.began and not began:
                self._content_at = i
        # Only a read that ends like JSON lets others wait: signs of life are looked at one by one, as they do not put off the end.
        end = data[-ORDINARY_END:]
        end = self._ordinary_end = end if self._is_ordinary(body) and (b"}" in end or b'"' in end) else b""
        self._behind_text = end[end.rfind(b'"') :] if b'"' in end else ()
        if parser.over and not self.ended:
            self._end_at = i if self._end_at is None else self._end_at
            self._end(parser.error, t)
        is_error = parser.headers_done and self.marked is None and not (self.ended or self.success)
        if is_error and (self.until is None or not all(map(is_dataless, body.splitlines()))):
            self.until = t + FINISH_NS  # some servers leave open what they sent with an error status
        if reader is not None and not self.ended and self.marked is None:
            self.hung_up = reader.hung_up()
        changed = self.ended != had_ended or self.marked is not was_marked or (self.until is None) != was_open
        return changed or self.hung_up is not None

    def _is_ordinary(self, body: bytes) -> bool:
        """Look through the latest read for what ends the answer; return whether reads like it may wait."""
        if not self._search or self.marked is End.MARK:
            return False
        for said, end in self._search.take(body):
            self._mark(said, end)
        by_length = self._parser.length is not None  # its last read may end like any other
        listens = self._reader is not None and self._reader.listens
        return self._search.quiet and len(body) > ORDINARY_END and not (by_length or listens)

    def _mark(self, said: End, end: int) -> None:
        """Take what the line that ends at `end` says of the answer's end.

        Some servers say a finish_reason in every piece, or before any text: the last one counts, and says little of the end.
        """
        if self.marked is End.MARK:
            return
        i = bisect_left(self._ends, end)
        self.marked, self._end_at, self._content_at = End.FINISH if said is End.FAILED else said, i, i
        more = FINISH_NS if self.began or said is End.FAILED else MOST_BEHIND_NS
        self._quiet_ns = MARK_NS if said is End.MARK else min(self._quiet_ns + more, MOST_BEHIND_NS)
        self.until = self._handled[i] + self._quiet_ns

    def _end(self, failure: str | None, t: int) -> None:
        self.look()
        self.ended, self.broke_off = True, failure is not None
        self.failure = None if self.marked is not None else failure  # complete, whatever happens to the connection
        self.t_end = t if self._end_at is None else self._handled[self._end_at]
        self.t_over = t
        self.until = None
