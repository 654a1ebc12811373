"""Whether the durations that a server says of its work on an answer can be, by the time in which the answer came."""

from __future__ import annotations

import math

from loadtest.dialects.answers.rows.counts import SLACK, SLACK_NS, without_durations
from loadtest.dialects.base import Ending
from loadtest.metrics import NS_PER_S, ServerSaid

OTHER_UNIT = 100  # a decode so many times shorter than its tokens took to come is in µs or ms, said as if it were in ns
TOO_SHORT = "the server's durations are too short for the time over which its tokens came, as of another unit: unknown"
TOO_LONG = "the server's durations are longer than the whole answer took, as of another answer or unit: unknown"


def hold_durations(ending: Ending, said: ServerSaid, sent: int | None, first: int, last: int, end: int) -> None:
    """Take what a server said of its durations for unknown where the arrivals refute it.

    The request was `sent`, its text came from `first` to `last`, and the answer was over at the `end`: monotonic ns.
    """
    parts = (said.load_s, said.prefill_s, said.decode_s)
    worked_ns = sum(part for part in parts if not math.isnan(part)) * NS_PER_S
    if last - first > OTHER_UNIT * said.decode_s * NS_PER_S:
        why = TOO_SHORT
    elif sent is not None and worked_ns > (end - sent) * (1 + SLACK) + SLACK_NS:
        why = TOO_LONG
    else:
        return
    ending.doubts.append(why)
    ending.server = without_durations(ending.server)
