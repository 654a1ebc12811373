"""What to run: one schema, the one source of TOML keys, command-line options and Locust options.

schema              Scenario, its levels, reading and writing, and what keys of several parts must be together
parts/              its keys: request, connection, load, prompts, data, limits; and what those of one part must be
keys                what a key says of itself, how its value is read, and what others call it
values              what a single value must be
distributions       lengths and times: a number, or a distribution that each request's is drawn from
request_additions   headers, query, path and body that are added to requests
several_targets     servers and models, where there is more than one
price               prices in any currency
toml_tables         TOML files and former names
files               text files that a user names, and what they are where they are none
"""

from loadtest.scenario.distributions import (
    LENGTHS,
    TIMES,
    as_sentence,
    distribution_text,
    lengths_of,
    split_outside_brackets,
    times_of,
    whole_lengths,
)
from loadtest.scenario.files import file_version, read_text
from loadtest.scenario.keys import ATTRIBUTE, OPTION, Key, keys_of
from loadtest.scenario.parts.connection import ConnectionKeys, hosts_without_proxy
from loadtest.scenario.parts.load import OPEN_LOOP_S
from loadtest.scenario.parts.prompts import ANY, DEFAULT_OUTPUT
from loadtest.scenario.parts.request import (
    ADDED_KEYS,
    EMBEDDINGS,
    MAX_TOKENS_KEYS,
    ONE_API,
    SAID_KEYS,
    THINK,
    RequestKeys,
)
from loadtest.scenario.schema import Level, Scenario, check_idle
from loadtest.scenario.several_targets import ModelShare, even_weights, rotation
from loadtest.scenario.toml_tables import FORMER, laid_over
from loadtest.scenario.values import (
    BURSTINESS,
    MOST_REQUESTS,
    MOST_S,
    MOST_STREAMS,
    RATE,
    TIME_UNITS,
    TOKEN_COUNTS,
    parse_whole,
    read_seconds,
    read_share,
    sendable,
    short_repr,
)

__all__ = [
    "ADDED_KEYS",
    "ANY",
    "ATTRIBUTE",
    "BURSTINESS",
    "DEFAULT_OUTPUT",
    "EMBEDDINGS",
    "FORMER",
    "LENGTHS",
    "MAX_TOKENS_KEYS",
    "MOST_REQUESTS",
    "MOST_S",
    "MOST_STREAMS",
    "ONE_API",
    "OPEN_LOOP_S",
    "OPTION",
    "RATE",
    "SAID_KEYS",
    "THINK",
    "TIMES",
    "TIME_UNITS",
    "TOKEN_COUNTS",
    "ConnectionKeys",
    "Key",
    "Level",
    "ModelShare",
    "RequestKeys",
    "Scenario",
    "as_sentence",
    "check_idle",
    "distribution_text",
    "even_weights",
    "file_version",
    "hosts_without_proxy",
    "keys_of",
    "laid_over",
    "lengths_of",
    "parse_whole",
    "read_seconds",
    "read_share",
    "read_text",
    "rotation",
    "sendable",
    "short_repr",
    "split_outside_brackets",
    "times_of",
    "whole_lengths",
]
