"""Options of Locust: given on its command line, in the environment or in the start form of its web UI."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from loadtest.errors import ScenarioError
from loadtest.monitor.process import METRICS_ADDRESS
from loadtest.scenario import (
    ANY,
    OPTION,
    Key,
    Scenario,
    keys_of,
    parse_whole,
    read_seconds,
    read_share,
    sendable,
    short_repr,
)

Number = TypeVar("Number", int, float)
NAME = "a name in UTF-8 without control characters"
# What the start form of the web UI asks: what people change from one test to the next. Locust shows fields without groups.
IN_FORM = frozenset(
    {
        *("model", "data", "input_tokens", "output_tokens", "turns", "think_time", "patience", "out"),
        *("max_failure_ratio", "max_ttft_p95", "min_tokens_per_s"),
    }
)
TRUTH = {"true": True, "false": False}  # "True" and "False", too, as `Settings.of` writes them back
# Help that differs from the scenario's own, because levels and requests of a Locust test come from its users and tasks.
LOCUST_HELP = {
    "endpoint": "What a plain ask() of a user sends to.",
    "input_tokens": "Length of made-up prompts, tokens, or a distribution like lognormal(800, 0.6).",
    "output_tokens": "Answer length asked for, tokens, or a distribution.",
    "stop_after_errors": "End the test after this many requests of one worker have failed in a row. Default: the user "
    "class's, else never.",
}


def _one_line(text: str) -> str:
    if not sendable(text):
        raise ValueError
    return text


def _within(read: Callable[[str], Number], low: float, high: float = math.inf) -> Callable[[str], Number]:
    """Return a reader of numbers that raises ValueError for one out of bounds; nan is out of any."""

    def bounded(text: str) -> Number:
        value = read(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return bounded


_positive_whole = _within(parse_whole, 1)
_positive = _within(float, math.ulp(0.0), sys.float_info.max)


def _or_distribution(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of a number or a distribution; the scenario made from it checks the distribution."""
    return lambda text: _one_line(text) if "(" in text or "@" in text or text == ANY else read(text)


# type of a key -> its reader; what a text must be; its metavar
READERS: dict[type, tuple[Callable[[str], Any], str, str]] = {
    str: (_one_line, NAME, "TEXT"),
    int: (parse_whole, "a whole number", "N"),
    float: (float, "a number", "X"),
    bool: (lambda text: TRUTH[text.lower()], "true or false", "true|false"),
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its key in Locust's parsed options, how its text is read, and the words of its help and error."""

    key: str
    read: Callable[[str], Any]
    wanted: str
    metavar: str
    help: str
    default: str | None = None
    choices: tuple[str, ...] | None = None
    repeated: bool = False  # may be given again

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @classmethod
    def of(cls, key: Key) -> Self:
        """Return the option of a scenario's key. The scenario made from the value checks most bounds."""
        read, wanted, metavar = READERS[key.kind]
        if key.kind is int and key.bounds is not None and key.bounds.low == 1:
            read, wanted = _positive_whole, "a whole number above 0"
        if key.length:
            read, wanted = (
                _or_distribution(_positive_whole),
                "a whole number above 0 or a distribution like lognormal(800, 0.6)",
            )
        if key.span:
            read, wanted = (
                _or_distribution(read_seconds),
                "a number of seconds or a distribution like lognormal(20, 0.8)",
            )
        if key.share:
            read, wanted = read_share, "a share like 5% or 0.05"
        text = LOCUST_HELP.get(key.name, key.help)
        if key.many:
            text += f" Default: the user class's, else {key.default[0]}."
        repeated = key.repeat is not None
        # Without a default the start form's field would choose the first of them.
        choices = None if repeated or key.default is None else key.choices or None
        default = key.default if choices else None
        metavar = key.repeat or key.metavar or metavar
        return cls(key.name, read, wanted, metavar, text, default, choices, repeated)

    def value(self, given: Any) -> Any:
        """Return the value of a text; for an empty one, such as an empty field of the web form, the default."""
        if self.repeated:
            texts = given if isinstance(given, list | tuple) else [given] * (given is not None)
            return [self._one(text) for text in texts if str(text)] or None
        return self._one(given)

    def _one(self, given: Any) -> Any:
        text = "" if given is None else str(given).strip()
        if not text:
            return self.default
        try:
            value = self.read(text)
        except (ValueError, KeyError):  # KeyError: neither true nor false
            raise ScenarioError(f"{self.flag} must be {self.wanted}, not {short_repr(text)}.") from None
        if self.choices and value not in self.choices:
            raise ScenarioError(f"{self.flag} must be one of {', '.join(self.choices)}, not {short_repr(text)}.")
        return value


KEY_OPTIONS = tuple(Option.of(key) for key in keys_of(Scenario) if OPTION in key.locust)
TEST_OPTIONS = (
    Option(
        "out",
        _one_line,
        "a path in UTF-8 without control characters",
        "FOLDER",
        "Run folder to make. Default: runs/<time>-<locustfile>.",
    ),
    Option(
        "max_failure_ratio",
        _within(float, 0, 1),
        "a number from 0 to 1",
        "RATIO",
        "Gate: exit code 1 when more than this share of the requests failed (cancelled ones do not count).",
    ),
    Option(
        "max_ttft_p95",
        _positive,
        "a number above 0",
        "SECONDS",
        "Gate: exit code 1 when TTFT p95 is above this, seconds.",
    ),
    Option(
        "min_tokens_per_s",
        _positive,
        "a number above 0",
        "TOKENS/S",
        "Gate: exit code 1 when the median stream decodes slower than this, tokens/s.",
    ),
)
PROCESS_OPTIONS = (
    Option(
        "metrics_port",
        _within(parse_whole, 0, 65535),
        "a port from 0 to 65535",
        "PORT",
        "Serve the figures of all processes to Prometheus at this port; 0 takes a free one.",
    ),
    Option(
        "metrics_address",
        _one_line,
        "an address in UTF-8 without control characters",
        "HOST",
        f"Address of --metrics-port; any other than {METRICS_ADDRESS} lets everybody who can reach it read the figures.",
    ),
)
OPTIONS = KEY_OPTIONS + TEST_OPTIONS + PROCESS_OPTIONS


def add_options(parser: Any) -> None:
    """Add our options to Locust's parser; each has a LOCUST_… variable, and those of IN_FORM a field in the web UI's start form.

    Values stay text here, because the form gives text too; `Settings.of` reads both. A locustfile may have an option of
    the same name, whose value is then ours too.
    """
    parser._optionals.conflict_handler = "resolve"  # noqa: SLF001
    for option in OPTIONS:
        parser.add_argument(
            option.flag,
            default=option.default,
            choices=option.choices,
            metavar=None if option.choices else option.metavar,
            env_var=f"LOCUST_{option.key.upper()}",
            help=option.help.replace("%", "%%"),  # argparse fills in names after a %
            include_in_web_ui=option.key in IN_FORM,
            **({"action": "append"} if option.repeated else {}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options' values; None where an option was not given."""

    keys: Mapping[str, Any] = field(default_factory=dict)  # the scenario's keys that were given
    out: str | None = None
    max_failure_ratio: float | None = None
    max_ttft_p95: float | None = None
    min_tokens_per_s: float | None = None

    @classmethod
    def of(cls, options: argparse.Namespace | None) -> Self:
        """Read Locust's parsed options and write the values back, for code of the test that reads them there.

        The start form always gives an option with choices a value, so its default counts as not given. Raises
        ScenarioError, naming the option, for a value that makes no sense.
        """
        given = vars(options) if options is not None else {}
        keys, others = (
            {option.key: option.value(given.get(option.key)) for option in these}
            for these in (KEY_OPTIONS, TEST_OPTIONS)
        )
        given.update(keys | others)
        asked = {option.key: keys[option.key] for option in KEY_OPTIONS if keys[option.key] != option.default}
        return cls(keys=asked, **others)


def text_again(options: argparse.Namespace | None) -> None:
    """Make text of what `Settings.of` wrote back, for Locust reads a start form's fields as the types that the values have."""
    if options is not None:
        known = ((option.key, getattr(options, option.key, None)) for option in OPTIONS if not option.repeated)
        vars(options).update((key, str(value)) for key, value in known if value is not None)


def metrics_of(options: argparse.Namespace | None) -> tuple[int | None, str]:
    """Return the port of --metrics-port (None where it was not given) and its address; raise ScenarioError."""
    given = vars(options) if options is not None else {}
    port, address = (option.value(given.get(option.key)) for option in PROCESS_OPTIONS)
    if port is None and address is not None:
        raise ScenarioError("--metrics-address does nothing without --metrics-port; leave it out.")
    return port, METRICS_ADDRESS if address is None else address
