"""The answer to one request of a Locust user, and what Locust's request event says of it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

from locust.exception import (
    CatchResponseError,
    InterruptTaskSet,
    LocustError,
    RescheduleTask,
    RescheduleTaskImmediately,
    ResponseError,
    StopTest,
    StopUser,
)

from loadtest import metrics
from loadtest.errors import ScenarioError
from loadtest.live import durations_of
from loadtest.measure.failure import Failure
from loadtest.measure.request import Request
from loadtest.records import Outcome, Record
from loadtest.users.processes import recording

# exceptions that steer a user
CONTROL = (StopUser, StopTest, RescheduleTask, RescheduleTaskImmediately, InterruptTaskSet)
WITH_BLOCK = "with self.client.chat(…, catch_response=True) as answer."

logger = logging.getLogger(__name__)


class RequestFailedError(LocustError):
    """Why a request failed: its outcome and one sentence, as in its record."""


Fire = Callable[["Answer", Record, Exception | None], None]


class Answer:
    """The answer to one request; its record is made in a quiet moment, or as soon as somebody looks at it.

    With catch_response, as Locust's own:

        with self.client.chat("Capital of France?", catch_response=True) as answer:
            if "Paris" not in answer.text:
                answer.failure("wrong answer")
    """

    def __init__(
        self,
        request: Request,
        name: str,
        url: str,
        recorder: recording.Recorder,
        fire: Fire,
    ) -> None:
        self.request = request
        self.name = name
        self.url = url
        self._recorder = recorder
        self._fire = fire
        self._record: Record | None = None
        self._waits = False  # whether its event waits for the verdict of a with block
        self._entered = False  # whether that block has begun
        self._fired = False
        self._verdict: Exception | Literal[True] | None = None

    @property
    def record(self) -> Record:
        """The request's record, on disk."""
        if self._record is None:
            self._record = self._recorder.ledger.record(self.request, self.name)
        return self._record

    @property
    def exchange(self) -> Request:
        """Former name of `request`."""
        say_once("Answer.exchange is a former name: use Answer.request.")
        return self.request

    @property
    def ok(self) -> bool:
        """Whether the answer came whole."""
        return self.record.outcome is Outcome.OK

    @property
    def left(self) -> bool:
        """Whether the user hung up, or the test's own code gave the request up: neither a whole answer nor a failure."""
        return self.record.outcome is Outcome.LEFT

    @property
    def failed_on_the_wire(self) -> bool:
        """Former way to ask what `ok` says of every request, without the record."""
        say_once("Answer.failed_on_the_wire is a former name: use `not answer.ok`.")
        return self.request.plainly_failed

    def fail(self, outcome: Outcome, error: str) -> None:
        """Former way to say how a request ended, before its record is made; a test's own verdict is `failure`."""
        say_once("Answer.fail(outcome, error) is a former name: use failure(why) with catch_response=True.")
        self.request.failure = Failure(outcome, error)

    @property
    def text(self) -> str:
        """What the model said, reasoning left out; as far as it came."""
        return self.request.decoded[0].answer

    @property
    def status(self) -> int | None:
        """The HTTP status, None where no answer began."""
        return self.request.received.status

    @property
    def status_code(self) -> int:
        """The HTTP status as Locust's listeners know it, 0 where no answer began."""
        return self.status or 0

    def success(self) -> None:
        self._judge(True)

    def failure(self, why: Exception | str) -> None:
        """Count the request as a failure; in a with block."""
        self._judge(why if isinstance(why, Exception) else CatchResponseError(why))

    def _judge(self, verdict: Exception | Literal[True]) -> None:
        if not self._entered:  # its event may have been fired already
            raise ScenarioError(f"an answer is judged in a with block: {WITH_BLOCK}")
        self._verdict = verdict

    def expect_verdict(self) -> None:
        """Hold the event back for the end of a with block."""
        self._waits = True

    def lapse(self) -> None:
        """Have the event fired after all, where no with block has begun since the answer was returned."""
        if self._waits and not self._entered:
            say_once(f"catch_response=True judges in a with block alone: {WITH_BLOCK} Others count as they ended.")
            self._waits = False
            self.settle()

    def settle(self) -> None:
        """Have the request recorded, and its event fired unless a with block has yet to judge it."""
        record = self.record
        if not self._waits and not self._fired and record.outcome is not Outcome.CANCELLED:
            self._fired = True
            self._fire(self, record, self._exception(record))

    def __enter__(self) -> Self:
        if not self._waits:
            raise ScenarioError(f"an answer is judged in a with block that begins with its request: {WITH_BLOCK}")
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._verdict is None and isinstance(error, Exception) and not isinstance(error, CONTROL):
            self._verdict = error
        self._waits = self._entered = False
        self.settle()
        return isinstance(error, ResponseError)

    def _exception(self, record: Record) -> Exception | None:
        if self._verdict is not None:
            return None if self._verdict is True else self._verdict
        return RequestFailedError(f"{record.outcome}: {record.error}") if record.failed else None


@functools.cache
def say_once(sentence: str) -> None:
    logger.warning(sentence)


def response_time(record: Record) -> float:
    """Return a request's E2E in ms, as Locust wants it; to the end of the attempt where no content came."""
    start = record.t_send if record.t_send is not None else record.t_sched
    last = start + record.chunks[-1] * 1000 if record.chunks else record.t_end
    return float(metrics.e2e(last, start) * 1000)


def event_context(record: Record) -> dict[str, Any]:
    """Return what listeners of the request event may want of a record; durations in seconds, None where unknown."""
    known = dict(durations_of(record))
    return {name: known.get(name) for name in ("ttft_s", "tpot_s", "stream_tokens_per_s")} | {
        "outcome": str(record.outcome),
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "token_source": record.token_source,
        "level": record.level,
        "warmup": record.warmup,
        "lag_s": record.lag_us * 1e-6,
        "model": record.model,
        "dialect": record.dialect,
    }
