"""One request's life: instants in, exactly one Record out. No I/O."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.dialects.answers import gateway_headers
from loadtest.dialects.answers.answer_reader import AnswerReader
from loadtest.dialects.answers.decoded import other_model
from loadtest.dialects.answers.errors.refusals import with_advice
from loadtest.dialects.answers.errors.server_errors import http_sentence, trailer_sentence
from loadtest.dialects.base import ContentEvents, Dialect, Ending
from loadtest.doubts import CONNECTION_WAIT
from loadtest.measure.failure import Failure, bug, with_server_words
from loadtest.measure.server_figures import drop_character_count, drop_impossible_durations, token_fields
from loadtest.metrics import NS_PER_S
from loadtest.records import Clock, Outcome, Record
from loadtest.wire import Heartbeat, Order, Posts
from loadtest.wire.receiving.received import Reads, Received
from loadtest.workloads.conversations import Conversation
from loadtest.workloads.job import Job
from loadtest.workloads.source import Answered, Session

IMPOSSIBLE_NS = 50_000  # an answer stamped this much before its request was sent shows that one of the clocks is wrong
# Tokens nearer than that are of one step of the server where the mean gap is longer than the median one: it speculates.
LONGEST_BURST_GAP_NS = 1_000_000
# bytes; an answer up to this long is decoded at once: an error fits, and decoding it takes about 0.1 ms
SHORT_ANSWER = 4096
LEFT_OPEN = "the server did not close the answer soon behind its end: what it may have sent later is not known"


@dataclass(frozen=True, slots=True)
class Stay:
    """How long one user stays with one request."""

    patience: float | None = None  # s, for the first token; None: for ever
    pieces: int | None = None  # of the answer, after which the user hangs up; None: to its end
    expected: int = 0  # tokens of the answer, of which `pieces` are those before the user hangs up


STAYS = Stay()


EventsAndEnding = tuple[ContentEvents, Ending]  # of one answer


def decode(dialect: Dialect, body: bytes) -> EventsAndEnding:
    """Decode an answer's body; how its reads cut it makes no difference."""
    decoder = dialect.decoder()
    if body:
        decoder.feed(body)
    return decoder.events, dialect.closed(decoder)


def reads_of(events: ContentEvents, reads: Reads) -> list[int]:
    """Return for each event the index of the read that completed it."""
    read_of, i, read_ends = [], 0, reads.ends
    for end in events.ends:
        while read_ends[i] < end:
            i += 1
        read_of.append(i)
    return read_of


class Request:
    """One attempt at a job, from its bytes to its Record.

    The wire is given `order`, the bytes to send and `received` to fill. Once the answer is over, `finish` makes its record
    in a quiet moment: everything that costs time happens there. `count` counts tokens where the server does not (None unless
    it is the model's own tokenizer). Without `posts` nothing can be sent. `stay` says when the user hangs up. `session` gives
    the next job, where the job is one turn of several. `heartbeat` has the clocks of the wire's stamps; without it reads arrived
    when they were handled.
    """

    __slots__ = (
        "_decoded",
        "_heartbeat",
        "_reads",
        "_short",
        "clock",
        "count",
        "dialect",
        "failure",
        "job",
        "number",
        "order",
        "received",
        "remark",
        "save_text",
        "session",
        "t_sched",
        "target",
        "user",
    )

    order: Order

    def __init__(
        self,
        job: Job,
        dialect: Dialect,
        clock: Clock,
        t_sched: int,
        *,
        number: int | None = None,
        posts: Posts | None = None,
        session: Session | None = None,
        count: Callable[[str], int] | None = None,
        save_text: bool = False,
        target: int = 0,
        stay: Stay = STAYS,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self.job = job
        self.dialect = dialect
        self.clock = clock
        self.t_sched = t_sched  # monotonic ns, like all instants until they are written
        self.count = count
        self.save_text = save_text
        self.target = target
        self._heartbeat = heartbeat
        self.user: int | None = None  # of its level
        self.number = job.id if number is None else number  # in the whole plan
        self.session = session if job.session is not None else None
        # what the driver knows of the request's end, where the answer does not say it
        self.failure: Failure | None = None
        self.remark: str | None = None  # what the record notes besides what the answer says
        self._reads: Reads | None = None
        self._decoded: EventsAndEnding | None = None
        self._short: tuple[int, EventsAndEnding] | None = None  # a short answer's size, and it decoded
        self.received = Received(AnswerReader(dialect, stay.pieces, stay.expected))
        if posts is not None:
            self.order = posts.order(dialect.posted_to, dialect.body(job), self.received)
            self.order.patience = stay.patience

    @property
    def left(self) -> bool:
        known = self.failure
        return known is not None and known.outcome is Outcome.LEFT and self.received.marked is None

    @property
    def plainly_failed(self) -> bool:
        """Whether the request has visibly failed: by how it ended, by its status, or by what a short answer says.

        An answer with content and an end mark is not looked into: its user would send late.
        """
        received = self.received
        if self.left:
            return False
        if (self.failure is not None and received.marked is None) or not received.success:
            return True
        if not self.dialect.streams and received.size > SHORT_ANSWER:
            return not received.complete
        if received.began and received.marked is not None:
            return False
        try:
            self._short = received.size, decode(self.dialect, received.body())
        except Exception:  # noqa: BLE001 - the record will say so
            return True
        ending = self._short[1][1]
        return ending.error is not None or not ending.done

    @property
    def reads(self) -> Reads:
        """The answer's reads, their stamps taken to our clock when first asked for."""
        if self._reads is None:
            beat = self._heartbeat
            self._reads = self.received.reads() if beat is None else self.received.reads(beat.wall, beat.lag)
        return self._reads

    @property
    def decoded(self) -> EventsAndEnding:
        """The answer's events and how it ended, decoded when first asked for; nothing of an error's body."""
        if self._decoded is None:
            body = self.reads.body if self.received.success else b""
            short = self._short
            whole = short[1] if short is not None and short[0] == len(body) else None
            self._decoded = whole or decode(self.dialect, body)
        return self._decoded

    def answered(self) -> Answered | None:
        """Return the answer as the request's session takes it; None where it has none, or this turn failed."""
        if self.session is None or self.left or self.plainly_failed:
            return None
        if isinstance(self.session, Conversation) and not self.session.hears:
            return Answered("", None, None)
        try:
            events, ending = self.decoded
            text = events.answer
        except Exception:  # noqa: BLE001 - the record will say so
            return None
        return Answered(text, ending.prompt_tokens, ending.output_tokens) if ending.error is None else None

    def finish(self) -> Record:
        """Return the request's one Record, whatever went wrong."""
        try:
            return self._record(self.reads, *self.decoded)
        except Exception as error:  # noqa: BLE001 - a bug costs this request, no other
            self.failure = bug(error)
        return self._bare(self.failure)

    def _record(self, reads: Reads, events: ContentEvents, ending: Ending) -> Record:
        received, read_of = self.received, reads_of(events, reads)
        at = list(map(reads.t.__getitem__, read_of))  # when each event arrived
        if received.success:
            waited = (received.t_headers or 0) - (received.t_send or 0)
            gateway_headers.remark(ending, received.header_lines, waited / NS_PER_S)
            if received.marked is not None and not (received.complete or received.broke_off):
                ending.notes.append(LEFT_OPEN)
        if not self.dialect.streams:
            drop_character_count(ending, self.job)
        if ending.vectors not in (None, len(self.job.inputs) or 1):
            ending.doubts.append("the answer holds another number of embeddings than it was asked for")
        if at and not ending.server.keys() <= {"usage"}:  # which has no durations
            said = self.dialect.server_said(ending.server)
            drop_impossible_durations(ending, said, received.t_send, at, self._ended())
        tokens: dict[str, Any] = {}
        if received.success or ending.output_tokens is not None:  # of an answer that is an error nothing is counted
            tokens = token_fields(events, ending, self.job, self.count, streams=self.dialect.streams)
        return self._bare(
            self._failure(ending, reads),
            status=received.status,
            finish_reason=ending.finish_reason,
            server=ending.server or None,
            said_model=other_model(ending.model, self.dialect.model),
            notes=[*ending.notes, *filter(None, (self.remark,))] or None,
            doubts=[
                *ending.doubts,
                *filter(None, (self._cut(ending), CONNECTION_WAIT if received.connection_wait else None)),
            ]
            or None,
            new_conn=received.new_conn,
            bytes=len(reads.body),
            prompt=self.job.prompt if self.save_text else None,
            answer=events.answer if self.save_text else None,
            t_connect=self._since(received.t_connect),
            # of a burst all connections are there before the first turn
            connect_us=0 if received.t_turn else self._connecting() // 1000,
            t_send=self._since(received.t_send),
            send_us=(received.send_ns or 0) // 1000,
            resent=self._since(received.t_resent),
            t_headers=self._since(received.t_headers),
            t_first_byte=self._since(received.t_first_byte),
            **self._arrival_of(events, at),
            **_lag(read_of, at, reads, stamped=received.stamped_count == received.read_count),
            **events.server_clock,
            **tokens,
        )

    def _cut(self, ending: Ending) -> str | None:
        """Say why the prompt's count shows that the server cut the conversation, None where it does not."""
        turn, session = self.job.turn, self.session
        if turn is None or ending.prompt_tokens is None or not isinstance(session, Conversation):
            return None
        return session.doubt(turn, ending.prompt_tokens, self.job.sure_tokens)

    def _bare(self, failure: Failure | None, **more: Any) -> Record:
        """Return a record of what is known of every request, and `more`."""
        job = self.job
        return Record(
            id=self.number,
            level=job.level,
            seed=job.seed,
            dialect=self.dialect.name,
            model=self.dialect.model,
            outcome=failure.outcome if failure is not None else Outcome.OK,
            error=failure.sentence if failure is not None else None,
            asked=job.output_tokens,
            asked_input=job.input_tokens,
            target=self.target,
            user=self.user,
            session=job.session,
            turn=job.turn,
            row=job.row,
            warmup=job.warmup,
            t_sched=(self.received.t_turn or self.t_sched) - self.clock.monotonic_ns,
            t_end=self._ended() - self.clock.monotonic_ns,
            **more,
        )

    def _since(self, instant: int | None) -> int | None:
        return None if instant is None else instant - self.clock.monotonic_ns

    def _connecting(self) -> int:
        """Return how long opening the connection took, ns, without what the client itself let lie of it."""
        took, opened = self.received.connect_ns, self.received.t_connect
        if self._heartbeat is None or opened is None:
            return took
        return max(took - self._heartbeat.lag.worst(opened - took, opened), 0)

    def _ended(self) -> int:
        received = self.received
        known = (received.t_end, received.last_read, received.t_send, received.t_connect)
        return next((instant for instant in known if instant is not None), self.t_sched)

    def _failure(self, ending: Ending, reads: Reads) -> Failure | None:
        """Return why the request failed; None where its answer is whole, whatever came behind it."""
        received, known = self.received, self.failure
        if known is not None and known.outcome is Outcome.CLIENT_ERROR:
            return known
        if received.early_ns > IMPOSSIBLE_NS and received.success:  # some gateways refuse a connection before they read
            early = f"the answer is stamped {received.early_ns / 1e6:.2f} ms before its request was sent"
            return Failure(Outcome.CLIENT_ERROR, f"{early}: one of the clocks is wrong")
        if received.excessive is not None:
            return Failure(Outcome.STREAM_ERROR, received.excessive)
        refused = received.status is not None and received.status >= 300
        if known is not None and known.outcome is Outcome.TRUNCATED and refused and not received.malformed:
            known = None  # the status says more than that the connection broke behind it
        if known is not None and received.marked is None:
            known = with_server_words(known, ending.error if received.success else None)
            return known if known.sentence else Failure(known.outcome, received.failure or "")
        if received.status is not None and not received.success:
            sentence = http_sentence(received.status, reads.body, received.headers)
            return Failure(
                Outcome.HTTP_ERROR, with_advice(self.dialect, self.job.output_tokens, received.status, sentence)
            )
        wrong = ending.error
        readable = ending.done and wrong is None  # some servers name a coding that they do not use
        if received.packed is not None and not readable:
            wrong = f"the server compressed the answer ({received.packed}), which it was asked not to do"
        if wrong is not None:
            return Failure(Outcome.STREAM_ERROR, wrong)
        if ending.done and not (ending.went_on and received.broke_off):
            return None
        if ending.done and received.marked is not None:
            return Failure(Outcome.TRUNCATED, "the answer went on behind its finish_reason and was cut off")
        if (said := trailer_sentence(received.trailers)) is not None:
            return Failure(Outcome.STREAM_ERROR, said)
        if not received.complete and received.marked is None:
            return Failure(Outcome.TRUNCATED, received.failure or "the connection ended inside the answer")
        return Failure(Outcome.TRUNCATED, ending.hint or "the answer ended without saying that it is whole")

    def _arrival_of(self, events: ContentEvents, at: Sequence[int]) -> dict[str, Any]:
        """Return the fields on when content arrived: µs from t_send, one entry an event, never going back."""
        start = self.received.t_send if self.received.t_send is not None else self.t_sched
        visible = events.first_visible
        chunks = [(t - start) // 1000 for t in at]
        return {
            "chunks": chunks,
            "reads": len(set(chunks)),  # what came together may take us two reads, which have one stamp
            "first_coalesced": len(chunks) > 1 and chunks[0] == chunks[1],
            "t_first_token": self._since(at[0]) if at else None,
            "t_first_visible": self._since(at[visible]) if visible is not None else None,
            "stamped": self.received.stamped_count,
            "arrivals": self.received.read_count,
        }


def _lag(read_of: Sequence[int], at: Sequence[int], reads: Reads, *, stamped: bool) -> dict[str, Any]:
    """Return the client's lag over the reads with body bytes, how many reads were late, and which events that spoilt.

    A read is late when its lag exceeds the median gap between the instants at which content arrived: by then the kernel has
    merged segments. Where content comes in bursts, the median gap is one inside of a burst, which nobody needs: up to 1 ms
    of lag, or the mean gap, is not late there. Merged segments carry the stamp of the last one, which is right for the last
    token alone; unless every read has a stamp (`stamped`), the last token counts as late as well. A stream that arrived at
    fewer than two instants has no gap, and so no late reads.
    """
    if not reads:
        return {}
    lags, worst = reads.lag, max(reads.lag)
    gaps = sorted(map(operator.sub, at[1:], at))  # instants do not go back
    gaps = gaps[bisect_right(gaps, 0) :]
    gap = max(median(gaps), min(sum(gaps) / len(gaps), LONGEST_BURST_GAP_NS)) if gaps else worst
    found = {"lag_us": worst // 1000, "lag_mean_us": sum(lags) // len(lags) // 1000}
    if worst <= gap:
        return {**found, "late": 0}
    last = [after != read for read, after in zip(read_of, [*read_of[1:], -1], strict=False)]
    late = [lags[read] > gap and not (stamped and at_end) for read, at_end in zip(read_of, last, strict=True)]
    return {
        **found,
        "late": sum(lag > gap for lag in lags),
        "late_tokens": sum(late),
        "late_gaps": sum(map(operator.or_, late, late[1:])),
    }
