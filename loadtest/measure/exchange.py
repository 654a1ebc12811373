"""One request's life: instants in, exactly one Record out. No I/O."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from loadtest.measure.dialects.base import Dialect, Ending, Events
from loadtest.measure.dialects.faults import http_sentence
from loadtest.measure.wire.arrivals import Arrivals, Reads
from loadtest.measure.workload import Job
from loadtest.records import Clock, Outcome, Record

OK_STATUS = 200


@dataclass(frozen=True, slots=True)
class Content:
    """What an answer's body held: its events, each with the read that completed it, and how it ended."""

    events: Events
    read_of: list[int]  # per event: index of its read
    ending: Ending


def decode(dialect: Dialect, reads: Reads | None) -> Content:
    """Decode the body of an answer that arrived in these reads; cut or joined otherwise, the events are the same."""
    decoder = dialect.decoder()
    if reads is not None:
        decoder.feed(reads.body)
    ending = decoder.close()
    read_of, i = [], 0
    for end in decoder.events.ends:
        assert reads is not None
        while reads.ends[i] < end:
            i += 1
        read_of.append(i)
    return Content(decoder.events, read_of, ending)


class Exchange:
    """One request from its release to its Record.

    Give `arrivals` to the wire; while the answer comes, `waiting` and `decoding` say how far it is. Once it is over,
    `record` is called once, at leisure: everything that costs time happens there.
    """

    __slots__ = ("_probe", "arrivals", "clock", "decoding", "dialect", "first_seen", "job", "t_sched")

    def __init__(self, job: Job, dialect: Dialect, clock: Clock, t_sched: int) -> None:
        self.job = job
        self.dialect = dialect
        self.clock = clock
        self.t_sched = t_sched  # monotonic ns, like all instants until they are written
        self.decoding = False  # the first content event came, the answer has not ended
        self.first_seen: int | None = None  # when we saw that event, monotonic ns: for live figures only
        self._probe = dialect.decoder()
        self.arrivals = Arrivals(live=self.live)

    @property
    def waiting(self) -> bool:
        """Whether the request was sent and no content has come yet."""
        return self.first_seen is None and self.arrivals.t_send is not None and not self.arrivals.ended

    def live(self, body: bytes) -> bool:
        """Take body bytes as they come; True once the first content event was seen, and no more bytes are wanted."""
        self._probe.feed(body)
        if self._probe.events and self.arrivals.status in (OK_STATUS, None):
            self.decoding = True
            self.first_seen = time.perf_counter_ns()
        return self.decoding

    def record(
        self,
        reads: Reads,
        *,
        outcome: Outcome | None = None,
        error: str | None = None,
        count: Callable[[str], int] | None = None,
        save_text: bool = False,
        t_end: int | None = None,
    ) -> Record:
        """Return the request's one Record.

        `reads` is what `arrivals.reads(wall, lag)` returned. `outcome` and `error` are the caller's, where it knows
        better than the bytes: connect_error, timeout, cancelled. `count` counts tokens where the server does not (pass
        None unless it is a tokenizer's count); `t_end` is when the caller gave up, where the wire does not say.
        """
        self.decoding = False
        arrivals, job = self.arrivals, self.job
        content = decode(self.dialect, reads if arrivals.status == OK_STATUS else None)
        verdict, sentence = self._outcome(content.ending, reads, outcome, error)
        return Record(
            id=job.id,
            level=job.level,
            seed=job.seed,
            dialect=self.dialect.name,
            model=self.dialect.model,
            outcome=verdict,
            error=sentence,
            status=arrivals.status,
            finish_reason=content.ending.finish_reason,
            server=content.ending.server or None,
            asked=job.output_tokens,
            asked_input=job.input_tokens,
            warmup=job.warmup,
            new_conn=arrivals.new_conn,
            bytes=len(reads.body),
            prompt=job.prompt if save_text else None,
            answer=content.events.answer if save_text else None,
            t_sched=self.t_sched - self.clock.monotonic_ns,
            t_connect=self._since(arrivals.t_connect),
            t_send=self._since(arrivals.t_send),
            t_headers=self._since(arrivals.t_headers),
            t_first_byte=self._since(arrivals.t_first_byte),
            t_end=self._ended(reads, t_end) - self.clock.monotonic_ns,
            **self._arrival_of(content, reads),
            **_lag(content, reads),
            **_server_clock(content.events.created),
            **self._tokens(content, count),
        )

    def _since(self, instant: int | None) -> int | None:
        """Count an instant from the file's anchor."""
        return None if instant is None else instant - self.clock.monotonic_ns

    def _ended(self, reads: Reads, t_end: int | None) -> int:
        arrivals = self.arrivals
        known = (arrivals.t_end, t_end, reads.t[-1] if reads else None, arrivals.t_send, arrivals.t_connect)
        return next((instant for instant in known if instant is not None), self.t_sched)

    def _outcome(
        self, ending: Ending, reads: Reads, outcome: Outcome | None, error: str | None
    ) -> tuple[Outcome, str | None]:
        """Return how the request ended, and one sentence on why where it did not end well."""
        arrivals = self.arrivals
        if outcome is not None:
            return outcome, error or arrivals.failure
        if arrivals.status is not None and arrivals.status != OK_STATUS:
            return Outcome.HTTP_ERROR, http_sentence(arrivals.status, reads.body)
        if (packed := arrivals.packed) is not None:
            return Outcome.STREAM_ERROR, f"the server compressed the answer ({packed}), which it was asked not to do"
        if ending.error is not None:
            return Outcome.STREAM_ERROR, ending.error
        if ending.done:
            return Outcome.OK, None
        if not arrivals.complete:
            return Outcome.TRUNCATED, error or arrivals.failure or "the connection ended inside the answer"
        return Outcome.TRUNCATED, ending.hint or "the answer ended without saying that it is whole"

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

    def _tokens(self, content: Content, count: Callable[[str], int] | None) -> dict[str, Any]:
        """Return the counts and their source: the server's, else a tokenizer's, else chunks (which are not tokens)."""
        ending = content.ending
        if ending.output_tokens is not None:
            source, output, prompt = "server", ending.output_tokens, ending.prompt_tokens
        elif self.arrivals.status != OK_STATUS:
            return {}
        elif count is not None:
            source, output = "tiktoken", count("".join(content.events.texts))
            prompt = ending.prompt_tokens if ending.prompt_tokens is not None else count(self.job.prompt)
        else:
            source, output, prompt = "chunks", len(content.events), ending.prompt_tokens
        return {"token_source": source, "output_tokens": output, "prompt_tokens": prompt}


def _lag(content: Content, reads: Reads) -> dict[str, Any]:
    """Return the client's lag over the reads with body bytes, and how many of them lagged by more than a token gap.

    The gap is the median one between this stream's distinct arrivals of content: past it the kernel merges segments
    and their stamps are late too. A stream that arrived at fewer than two instants has no gap, and no late reads.
    """
    if not reads:
        return {}
    lags, worst = reads.lag, max(reads.lag)
    instants = list(dict.fromkeys(map(reads.t.__getitem__, content.read_of)))  # arrivals do not go back
    gap = median(map(operator.sub, instants[1:], instants)) if len(instants) > 1 else worst
    return {
        "lag_us": worst // 1000,
        "lag_mean_us": sum(lags) // len(lags) // 1000,
        "late": 0 if worst <= gap else sum(lag > gap for lag in lags),
    }


def _server_clock(created: Sequence[int | None]) -> dict[str, Any]:
    """Return created_at of every event, µs from the first one's; nothing where any event lacks it."""
    stamps = [stamp for stamp in created if stamp is not None]
    if not stamps or len(stamps) < len(created):
        return {}
    return {"server_us": [(stamp - stamps[0]) // 1000 for stamp in stamps], "server_first": stamps[0]}
