"""What Locust is told on its command line, in the environment or in the start form of its web UI."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from loadtest.errors import ScenarioError
from loadtest.scenario import APIS, ENDPOINTS, said, sendable, whole

GROUP = "loadtest"
NAMED = "a name in UTF-8 without control characters"
INPUT_TOKENS, OUTPUT_TOKENS = 128, 64  # where neither the option nor the user class says


def _text(text: str) -> str:
    if not sendable(text):
        raise ValueError
    return text


def _length(text: str) -> int:
    value = whole(text)
    if value < 1:
        raise ValueError
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _port(text: str) -> int:
    value = whole(text)
    if not 0 <= value <= 65535:
        raise ValueError
    return value


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its key in Locust's parsed options, how text becomes its value, what that must be, how help names it."""

    key: str
    read: Callable[[str], Any]
    wanted: str
    metavar: str
    help: str
    default: str | None = None
    choices: tuple[str, ...] | None = None
    of_process: bool = False  # no field in the start form: it holds for every test of the process

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    def value(self, given: Any) -> Any:
        """Return what was given as a value; empty text (a field of the web form left empty) is None."""
        text = "" if given is None else str(given).strip()
        if not text:
            return self.default
        try:
            value = self.read(text)
        except ValueError:
            raise ScenarioError(f"{self.flag} must be {self.wanted}, not {said(text)}.") from None
        if self.choices and value not in self.choices:
            raise ScenarioError(f"{self.flag} must be one of {', '.join(self.choices)}, not {said(text)}.")
        return value


OPTIONS = (
    Option("model", _text, NAMED, "NAME", "Model name. Default: the one that is loaded, else the only one."),
    Option("api", _text, "a name", "API", "Wire of the server, where the user class does not fix it.", "auto", APIS),
    Option("endpoint", _text, "a name", "ENDPOINT", "What a plain ask() of a user sends to.", "chat", ENDPOINTS),
    Option(
        "output_tokens",
        _length,
        "a whole number above 0",
        "TOKENS",
        f"Answer length asked for, tokens. Default: the user class's, else {OUTPUT_TOKENS}.",
    ),
    Option(
        "input_tokens",
        _length,
        "a whole number above 0",
        "TOKENS",
        f"Length of made-up prompts, tokens. Default: the user class's, else {INPUT_TOKENS}.",
    ),
    Option(
        "out",
        _text,
        "a path in UTF-8 without control characters",
        "FOLDER",
        "Run folder to make. Default: runs/<time>-<locustfile>.",
    ),
    Option(
        "stop_after_errors",
        _length,
        "a whole number above 0",
        "N",
        "End the test after so many requests of one worker failed in a row. Default: the user class's, else never.",
    ),
    Option(
        "max_failure_ratio",
        _share,
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
    Option(
        "metrics_port",
        _port,
        "a port from 0 to 65535",
        "PORT",
        "Serve the figures of all processes to Prometheus at this port; 0 takes a free one.",
        of_process=True,
    ),
    Option(
        "metrics_address",
        _text,
        "an address in UTF-8 without control characters",
        "HOST",
        "Address that --metrics-port is on; another one is open to whoever reaches it.",
        "127.0.0.1",
        of_process=True,
    ),
)


def add_options(parser: Any) -> None:
    """Add our group to Locust's parser: LOCUST_… in the environment, a field each in the web UI's start form.

    Values stay text here: the form fills them in as text too, and `Settings.of` reads both alike.
    """
    group = parser.add_argument_group(GROUP, "What the users of loadtest send, where records go, and when a run fails.")
    for option in OPTIONS:
        action: Any = group.add_argument(
            option.flag,
            default=option.default,
            choices=option.choices,
            metavar=None if option.choices else option.metavar,
            env_var=f"LOCUST_{option.key.upper()}",
            help=option.help,
        )
        action.include_in_web_ui = not option.of_process  # Locust hides what comes through a group


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options' values; None where nothing was said."""

    model: str | None = None
    api: str = "auto"
    endpoint: str = "chat"
    output_tokens: int | None = None
    input_tokens: int | None = None
    out: str | None = None
    stop_after_errors: int | None = None
    max_failure_ratio: float | None = None
    max_ttft_p95: float | None = None
    min_tokens_per_s: float | None = None

    @classmethod
    def of(cls, options: argparse.Namespace | None) -> Self:
        """Read Locust's parsed options and write the values back into them, for whoever looks there.

        Raises ScenarioError, naming the option, for a value that makes no sense.
        """
        given = vars(options) if options is not None else {}
        values = {option.key: option.value(given.get(option.key)) for option in OPTIONS if not option.of_process}
        given.update(values)
        return cls(**values)


def metrics_of(options: argparse.Namespace | None) -> tuple[int | None, str]:
    """Return port (None where none was asked for) and address of --metrics-port; raise ScenarioError."""
    given = vars(options) if options is not None else {}
    port, address = (option.value(given.get(option.key)) for option in OPTIONS if option.of_process)
    return port, address
