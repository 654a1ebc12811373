"""Errors that a server or gateway says as text of the answer, with a finish_reason of success behind them."""

from __future__ import annotations

import re

from loadtest.dialects.answers.errors.server_errors import alike, quoted
from loadtest.dialects.base import ContentEvents

# "Internal error: …", "[Proxy Error] …", "**NETWORK ERROR DUE TO …", "Error code: 429 - …", "litellm.Timeout…Error: …",
# '{"error": {…'; a model's own words come in smaller pieces
_ERROR = re.compile(
    r"""\W*(?:\w+\ ){0,2}[\w.]*(?:error|exception)(?:\ code|\ occurred)?(?:\s*[\]:*]|\s+due\ to)\W*\w+\W+\w+
    | \W*request\ failed\ with\ status
    | \s*\{\s*"error"\s*:\s*[{"]""",
    re.IGNORECASE | re.VERBOSE,
)


def doubts(events: ContentEvents) -> tuple[str, ...]:
    """Return what is to be doubted of an answer whose last piece reads like an error, nothing of any other."""
    last = next((i for i in range(len(events) - 1, -1, -1) if i not in events.hidden), None)
    if last is None or _ERROR.match(events.texts[last]) is None:
        return ()
    return (f"the answer's last piece reads like an error: {quoted(alike(events.texts[last]))}",)
