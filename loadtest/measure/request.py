"""One request's life: instants in, exactly one Record out. No I/O."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

from loadtest.dialects.base import Dialect, Ending, Events
from loadtest.dialects.server_errors import http_sentence
from loadtest.measure.failure import Failure, bug
from loadtest.records import Clock, Outcome, Record
from loadtest.text import seconds
from loadtest.wire.clock import LagLog, WallClock
from loadtest.wire.received import Arrivals, Reads
from loadtest.workloads.synthetic import Job

EARLY_NS = 50_000  # an answer stamped further before its request was sent is of no clock that can be believed
SHORT = 4096  # bytes of an answer that is decoded at once: an error fits, and to decode so much takes some 0.1 ms


@dataclass(frozen=True, slots=True)
class Content:
    """What an answer's body held: its events, each with the read that completed it, and how it ended."""

    events: Events
    read_of: list[int]  # per event: index of its read
    ending: Ending


def decode(dialect: Dialect, reads: Reads | None) -> Content:
    """Decode the body of an answer that arrived in these reads; cut or joined otherwise, the events are the same."""
    events, ending = _decoded(dialect, reads.body if reads is not None else b"")
    read_of, i = [], 0
    for end in events.ends:
        assert reads is not None
        while reads.ends[i] < end:
            i += 1
        read_of.append(i)
    return Content(events, read_of, ending)


def _decoded(dialect: Dialect, body: bytes) -> tuple[Events, Ending]:
    decoder = dialect.decoder()
    if body:
        decoder.feed(body)
    return decoder.events, decoder.close()


class Exchange:
    """One request from its release to its Record.

    Give `arrivals` to the wire; while the answer comes, `waiting` and `decoding` say how far it is. Once it is over,
    `finish` makes its record, at leisure: everything that costs time happens there. `count` counts tokens where the
    server does not (None unless it is the model's own tokenizer).
    """

    __slots__ = (
        "_content",
        "_probe",
        "_reads",
        "arrivals",
        "clock",
        "count",
        "decoding",
        "dialect",
        "failure",
        "first_seen",
        "job",
        "save_text",
        "t_sched",
        "target",
    )

    def __init__(
        self,
        job: Job,
        dialect: Dialect,
        clock: Clock,
        t_sched: int,
        *,
        count: Callable[[str], int] | None = None,
        save_text: bool = False,
        target: int = 0,
    ) -> None:
        self.job = job
        self.dialect = dialect
        self.clock = clock
        self.t_sched = t_sched  # monotonic ns, like all instants until they are written
        self.count = count
        self.save_text = save_text
        self.target = target
        self.failure: Failure | None = None  # what the driver knows of its end, where that was not the answer's
        self.decoding = False  # the first content event came, the answer has not ended
        self.first_seen: int | None = None  # when we saw that event, monotonic ns: for live figures only
        self._probe = dialect.decoder()
        self._reads: Reads | None = None
        self._content: Content | None = None
        self.arrivals = Arrivals(live=self.live, ends=dialect.ends)

    @property
    def waiting(self) -> bool:
        """Whether the request was sent and no content has come yet."""
        return self.first_seen is None and self.arrivals.t_send is not None and not self.arrivals.ended

    @property
    def plainly_failed(self) -> bool:
        """Whether the request failed, as far as that shows at once: by its end, its status, or a short answer's text."""
        arrivals = self.arrivals
        if (self.failure is not None and arrivals.marked is None) or not arrivals.success:
            return True
        if self.first_seen is not None and arrivals.marked is not None and arrivals.size > SHORT:
            return False
        try:
            ending = _decoded(self.dialect, arrivals.body())[1]
        except Exception:  # noqa: BLE001 - the record will say so
            return True
        return ending.error is not None or not ending.done

    def live(self, body: bytes) -> bool:
        """Take body bytes as they come; True once the first content event was seen, and no more bytes are wanted."""
        if self.arrivals.status is not None and not self.arrivals.success:
            return False
        self._probe.feed(body)
        if self._probe.events:
            self.decoding = True
            self.first_seen = time.perf_counter_ns()
        return self.decoding

    def reads(self, wall: WallClock | None = None, lag: LagLog | None = None) -> Reads:
        """Return the answer's reads, their stamps taken to our clock by the first call."""
        if self._reads is None:
            self._reads = self.arrivals.reads(wall, lag)
        return self._reads

    def content(self, reads: Reads) -> Content:
        """Return what the body of these reads holds, decoded by the first call; nothing of an error's body."""
        if self._content is None:
            self._content = decode(self.dialect, reads if self.arrivals.success else None)
        return self._content

    def finish(self, wall: WallClock | None = None, lag: LagLog | None = None) -> Record:
        """Return the request's one Record, whatever went wrong; None for both clocks means stamps of our own."""
        self.decoding = False
        self.arrivals.forsake()
        try:
            return self._record(self.reads(wall, lag))
        except Exception as error:  # noqa: BLE001 - a bug costs this request, no other
            self.failure = bug(error)
        return self._bare(self.failure)

    def _record(self, reads: Reads) -> Record:
        arrivals, content = self.arrivals, self.content(reads)
        ending = content.ending
        return self._bare(
            self._failure(ending, reads),
            status=arrivals.status,
            finish_reason=ending.finish_reason,
            server=ending.server or None,
            notes=ending.notes or None,
            doubts=ending.doubts or None,
            new_conn=arrivals.new_conn,
            bytes=len(reads.body),
            prompt=self.job.prompt if self.save_text else None,
            answer=content.events.answer if self.save_text else None,
            t_connect=self._since(arrivals.t_connect),
            t_send=self._since(arrivals.t_send),
            send_us=(arrivals.send_ns or 0) // 1000,
            resent=self._since(arrivals.t_resent),
            t_headers=self._since(arrivals.t_headers),
            t_first_byte=self._since(arrivals.t_first_byte),
            **self._arrival_of(content, reads),
            **_lag(content, reads, stamped=arrivals.stamped_count == arrivals.read_count),
            **_server_clock(cast("list[int]", content.events.created)),  # after close there is no None among them
            **self._tokens(content),
        )

    def _bare(self, failure: Failure | None, **more: Any) -> Record:
        """Return a record of what is known of every request, and `more`."""
        job = self.job
        return Record(
            id=job.id,
            level=job.level,
            seed=job.seed,
            dialect=self.dialect.name,
            model=self.dialect.model,
            outcome=failure.outcome if failure is not None else Outcome.OK,
            error=failure.sentence if failure is not None else None,
            asked=job.output_tokens,
            asked_input=job.input_tokens,
            target=self.target,
            warmup=job.warmup,
            t_sched=self.t_sched - self.clock.monotonic_ns,
            t_end=self._ended() - self.clock.monotonic_ns,
            **more,
        )

    def _since(self, instant: int | None) -> int | None:
        """Count an instant from the file's anchor."""
        return None if instant is None else instant - self.clock.monotonic_ns

    def _ended(self) -> int:
        arrivals = self.arrivals
        known = (arrivals.t_end, arrivals.last_read, arrivals.t_send, arrivals.t_connect)
        return next((instant for instant in known if instant is not None), self.t_sched)

    def _failure(self, ending: Ending, reads: Reads) -> Failure | None:
        """Return why the request failed; None where its answer is whole, whatever came behind it."""
        arrivals, known = self.arrivals, self.failure
        if known is not None and known.outcome is Outcome.CLIENT_ERROR:
            return known
        if arrivals.early_ns > EARLY_NS:
            early = f"the answer is stamped {seconds(arrivals.early_ns / 1e9)} before its request was sent"
            return Failure(Outcome.CLIENT_ERROR, f"{early}: one of the clocks is wrong")
        if arrivals.excessive is not None:
            return Failure(Outcome.STREAM_ERROR, arrivals.excessive)
        if known is not None and arrivals.marked is None:
            return known if known.sentence else Failure(known.outcome, arrivals.failure or "")
        if arrivals.status is not None and not arrivals.success:
            return Failure(Outcome.HTTP_ERROR, http_sentence(arrivals.status, reads.body, arrivals.headers))
        wrong = ending.error
        if arrivals.packed is not None:
            wrong = f"the server compressed the answer ({arrivals.packed}), which it was asked not to do"
        if wrong is not None:
            return Failure(Outcome.STREAM_ERROR, wrong)
        if ending.done:
            return None
        if not arrivals.complete and arrivals.marked is None:
            return Failure(Outcome.TRUNCATED, arrivals.failure or "the connection ended inside the answer")
        return Failure(Outcome.TRUNCATED, ending.hint or "the answer ended without saying that it is whole")

    def _arrival_of(self, content: Content, reads: Reads) -> dict[str, Any]:
        """Return the fields on when content arrived: µs from t_send, one entry an event, never going back."""
        start = self.arrivals.t_send if self.arrivals.t_send is not None else self.t_sched
        visible = content.events.first_visible
        read_of, at = content.read_of, reads.t
        return {
            "chunks": [(at[i] - start) // 1000 for i in read_of],
            "reads": len(set(read_of)),
            "first_coalesced": len(read_of) > 1 and read_of[0] == read_of[1],
            "t_first_token": self._since(at[read_of[0]]) if read_of else None,
            "t_first_visible": self._since(at[read_of[visible]]) if visible is not None else None,
            "stamped": self.arrivals.stamped_count,
            "arrivals": self.arrivals.read_count,
        }

    def _tokens(self, content: Content) -> dict[str, Any]:
        """Return the counts and their source: the server's, else a tokenizer's, else chunks (which are not tokens)."""
        ending, count = content.ending, self.count
        if ending.output_tokens is not None:
            source, output, prompt = "server", ending.output_tokens, ending.prompt_tokens
        elif not self.arrivals.success:
            return {}
        elif count is not None:
            source, output = "tiktoken", count(content.events.said)
            prompt = ending.prompt_tokens if ending.prompt_tokens is not None else count(self.job.prompt)
        else:
            source, output, prompt = "chunks", len(content.events), ending.prompt_tokens
        return {
            "token_source": source,
            "output_tokens": output,
            "prompt_tokens": prompt,
            "unsent_tokens": ending.unsent_tokens,
        }


def _lag(content: Content, reads: Reads, *, stamped: bool) -> dict[str, Any]:
    """Return the client's lag over the reads with body bytes, how many lagged by more than a token gap, and what that spoilt.

    The gap is the median one between this stream's distinct arrivals of content: past it the kernel merges segments. What
    was merged has the stamp of its last segment, which is right for the last token alone; without a stamp (`stamped`:
    every read has one) the last token is late as well. A stream that arrived at fewer than two instants has no gap, and no
    late reads.
    """
    if not reads:
        return {}
    lags, worst = reads.lag, max(reads.lag)
    instants = list(dict.fromkeys(map(reads.t.__getitem__, content.read_of)))  # arrivals do not go back
    gap = median(map(operator.sub, instants[1:], instants)) if len(instants) > 1 else worst
    found = {"lag_us": worst // 1000, "lag_mean_us": sum(lags) // len(lags) // 1000}
    if worst <= gap:
        return {**found, "late": 0}
    read_of = content.read_of
    last = [after != read for read, after in zip(read_of, [*read_of[1:], -1], strict=False)]
    late = [lags[read] > gap and not (stamped and at_end) for read, at_end in zip(read_of, last, strict=True)]
    return {
        **found,
        "late": sum(lag > gap for lag in lags),
        "late_tokens": sum(late),
        "late_gaps": sum(map(operator.or_, late, late[1:])),
    }


def _server_clock(created: Sequence[int]) -> dict[str, Any]:
    """Return created_at of every event, µs from the first one's; nothing where the server's stamps are no such column."""
    if not created:
        return {}
    return {"server_us": [(stamp - created[0]) // 1000 for stamp in created], "server_first": created[0]}
