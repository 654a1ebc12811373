"""What to run: one schema, the one source of TOML keys, command-line options and Locust options.

schema: a scenario's keys, each with its help, its unit and its bounds · level: one cell of its grid · checks: what keys
must be together · values: what a single value must be · files: text files that a user names.
"""

from loadtest.scenario.checks import APIS, ARRIVALS, ENDPOINTS, MAX_TOKENS_KEYS
from loadtest.scenario.files import looks_like, read_text, stamp
from loadtest.scenario.level import Level
from loadtest.scenario.schema import FORMER, OPEN_LOOP_S, Scenario
from loadtest.scenario.values import (
    BURSTINESS,
    MOST_REQUESTS,
    MOST_S,
    MOST_STREAMS,
    RATE,
    TOKENS,
    Range,
    number,
    said,
    sendable,
    whole,
)

__all__ = [
    "APIS",
    "ARRIVALS",
    "BURSTINESS",
    "ENDPOINTS",
    "FORMER",
    "MAX_TOKENS_KEYS",
    "MOST_REQUESTS",
    "MOST_S",
    "MOST_STREAMS",
    "OPEN_LOOP_S",
    "RATE",
    "TOKENS",
    "Level",
    "Range",
    "Scenario",
    "looks_like",
    "number",
    "read_text",
    "said",
    "sendable",
    "stamp",
    "whole",
]
