"""What to run: one schema, the one source of TOML keys, command-line options and Locust options.

schema: Scenario, its grid, reading and writing · request, load, prompts, limits: the parts that hold its keys, each with
what they must be together · checks: what keys of several parts must be together · keys: what a key says of itself ·
tables: TOML files and former names · values: what a single value must be · level: one cell of the grid · files: text
files that a user names.
"""

from loadtest.scenario.files import file_version, read_text, record_format
from loadtest.scenario.keys import ATTRIBUTE, OPTION, Key, key, keys_of
from loadtest.scenario.level import Level
from loadtest.scenario.limits import Limits
from loadtest.scenario.load import OPEN_LOOP_S, Load
from loadtest.scenario.prompts import Prompts
from loadtest.scenario.request import APIS, ENDPOINTS, Request
from loadtest.scenario.schema import Scenario
from loadtest.scenario.tables import FORMER
from loadtest.scenario.values import (
    BURSTINESS,
    MOST_REQUESTS,
    MOST_S,
    MOST_STREAMS,
    RATE,
    TOKENS,
    Range,
    parse_whole,
    quoted,
    sendable,
)

__all__ = [
    "APIS",
    "ATTRIBUTE",
    "BURSTINESS",
    "ENDPOINTS",
    "FORMER",
    "MOST_REQUESTS",
    "MOST_S",
    "MOST_STREAMS",
    "OPEN_LOOP_S",
    "OPTION",
    "RATE",
    "TOKENS",
    "Key",
    "Level",
    "Limits",
    "Load",
    "Prompts",
    "Range",
    "Request",
    "Scenario",
    "file_version",
    "key",
    "keys_of",
    "parse_whole",
    "quoted",
    "read_text",
    "record_format",
    "sendable",
]
