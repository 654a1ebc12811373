"""Whether the durations that a server says of its work on an answer can be, by the time in which the answer came."""

from __future__ import annotations

import math

from loadtest.dialects.answers.rows.counts import SLACK, without_durations
from loadtest.dialects.base import Ending
from loadtest.metrics import NS_PER_S, ServerSaid

SLACK_S = 0.05  # beyond the share SLACK: by so much a server's clock may say more than the answer took here
LEAST_S = 1e-6  # no server decodes a token or reads a prompt faster
OTHER_UNIT = 100  # a decode so many times shorter than its tokens took to come is in µs or ms, said as if it were in ns
TOO_SHORT = "the server's durations are too short for its tokens, as of another unit: unknown"
TOO_LONG = "the server's durations are longer than the whole answer took, as of another answer or unit: unknown"


def hold_durations(ending: Ending, said: ServerSaid, sent: int | None, first: int, last: int, end: int) -> None:
    """Take what a server said of its durations for unknown where they cannot be.

    The request was `sent`, its text came from `first` to `last`, and the answer was over at the `end`: monotonic ns.
    """
    parts = (said.load_s, said.prefill_s, said.decode_s)
    worked_s = sum(part for part in parts if not math.isnan(part))
    least_s = max((last - first) / NS_PER_S / OTHER_UNIT, LEAST_S * ((ending.output_tokens or 1) - 1))
    if said.decode_s < least_s or said.prefill_s < LEAST_S:
        why = TOO_SHORT
    elif sent is not None and worked_s > (end - sent) / NS_PER_S * (1 + SLACK) + SLACK_S:
        why = TOO_LONG
    else:
        return
    ending.doubts.append(why)
    ending.server = without_durations(ending.server)
