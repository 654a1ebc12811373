"""Limits: how long a request may take, and how many may fail."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.scenario.keys import ATTRIBUTE, OPTION, key, request_key
from loadtest.scenario.values import MOST_REQUESTS, SECONDS, Range


@dataclass(frozen=True, kw_only=True)
class LimitKeys:
    """Keys that end a request or a level early, or put a level in doubt."""

    connect_timeout: float = key("Longest wait for a connection.", 10.0, unit="s", bounds=SECONDS)
    first_token_timeout: float = key(
        "Longest wait for the first token, the server's whole queue included.",
        3600.0,
        unit="s",
        bounds=SECONDS,
        locust=(ATTRIBUTE,),
    )
    idle_timeout: float = key("Longest silence inside an answer.", 300.0, unit="s", bounds=SECONDS, locust=(ATTRIBUTE,))
    total_timeout: float | None = key(
        "Longest time for a whole request.", None, unit="s", bounds=SECONDS, locust=(ATTRIBUTE,)
    )
    patience: float | str | None = request_key(
        "How long users wait for the first token before they hang up: seconds, or a distribution like uniform(5, 15).",
        None,
        unit="s",
        bounds=SECONDS,
        span=True,
    )
    leave: float | None = request_key(
        "Share of the answers in which the user hangs up, like 0.05, at a random point of the answer.",
        None,
        bounds=Range(0, 1, instead="5 % is 5% or 0.05"),
        share=True,
    )
    max_error_ratio: float = key(
        "Share of failed requests above which a level is suspect; default: 0.",
        0.0,
        bounds=Range(0, 1, instead="5 % is 0.05"),
        share=True,
    )
    stop_after_errors: int | None = key(
        "End a level after this many requests have failed in a row (with --workers, in any one process).",
        None,
        bounds=Range(1, MOST_REQUESTS),
        locust=(ATTRIBUTE, OPTION),
    )
