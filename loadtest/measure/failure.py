"""Why a request failed: the one place where an exception becomes an outcome and a sentence, for both drivers.

It also says when so many requests have failed in a row that their level is hopeless.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from loadtest.dialects.answers.errors.server_errors import is_ours
from loadtest.records import Outcome, Record
from loadtest.wire import HungUpError

logger = logging.getLogger(__name__)

STOPPED = "stopped by us"


@dataclass(frozen=True, slots=True)
class Failure:
    """How a request failed, as its record says it."""

    outcome: Outcome
    sentence: str


class GivenUpError(BaseException):
    """An exception that other code threw into a task waiting for its answer; tells it from what the wire itself raises."""

    def __init__(self, thrown: BaseException) -> None:
        super().__init__(thrown)
        self.thrown = thrown


def failure_of(error: BaseException, stops: tuple[type[BaseException], ...]) -> Failure:
    """Return what an exception out of a request means; `stops` are the exceptions with which the driver ends requests.

    Any other exception is loadtest's own fault: it costs that request its success, and no other request.
    """
    match error:
        case _ if isinstance(error, stops):
            return Failure(Outcome.CANCELLED, STOPPED)
        case HungUpError():
            return Failure(Outcome.LEFT, str(error))
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return Failure(Outcome.CONNECT_ERROR, str(error))
        case httpx.TimeoutException():
            return Failure(Outcome.TIMEOUT, str(error))
        case httpx.TransportError():
            return Failure(Outcome.TRUNCATED, str(error))
        case Exception():
            return bug(error)
    thrown = error.thrown if isinstance(error, GivenUpError) else error
    words = f"{type(thrown).__name__}: {thrown}".rstrip(": ")
    return Failure(Outcome.LEFT, f"given up by the test's own code ({words})")


def with_server_words(known: Failure, server_words: str | None) -> Failure:
    """Return a failure; a time limit that passed gives way to `server_words` on what was wrong before the silence."""
    if known.outcome is not Outcome.TIMEOUT or server_words is None or is_ours(server_words):
        return known
    return Failure(Outcome.STREAM_ERROR, server_words)


def bug(error: Exception) -> Failure:
    """Return the failure of a request that loadtest itself failed over; the log gets the traceback."""
    logger.error("loadtest failed over a request", exc_info=error)
    words = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
    return Failure(Outcome.CLIENT_ERROR, f"loadtest itself failed over this request ({words})")


class FailedInARow:
    """Counts requests that failed in a row, by target and level: a success of another target ends no row."""

    def __init__(self, most: Mapping[int, int]) -> None:
        """`most` says by target with how many a level is hopeless; a target that it lacks gives no level up."""
        self._most = most
        self._rows: Counter[tuple[int, int]] = Counter()

    def hopeless(self, record: Record) -> str | None:
        """Count a record; return why its level is hopeless, once, when it has become so."""
        most, where = self._most.get(record.target), (record.target, record.level)
        if record.outcome is not Outcome.OK and not record.failed:
            return None  # loadtest or the user ended it: that says nothing of the server
        self._rows[where] = 0 if record.outcome is Outcome.OK else self._rows[where] + 1
        if self._rows[where] != most:
            return None
        return f"{most} requests in a row failed (--stop-after-errors); the last one: {record.error}"
