"""Data: prompts from a file of the user's own, and what all prompts begin with."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from loadtest.errors import ScenarioError
from loadtest.scenario.files import MOST_PROMPT, cached_text, file_version, refuse_file_name
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key
from loadtest.scenario.values import TOKEN_COUNTS, Range, Text

TABLE = "data"
PREFIX_COUNTS = Range(1, 100_000, above_zero=True)
ZIPF = Range(0.01, 10, above_zero=True)

_data_key = functools.partial(key, table=TABLE, locust=(ATTRIBUTE, OPTION))


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """Keys that decide which file prompts come from, and what they share."""

    data: str | None = _data_key(
        "Send the prompts of this file, row by row: JSON lines, CSV, ShareGPT conversations or an OpenAI batch file.",
        None,
        text=Text(4096, "name a data file, or leave it out"),
        file="",
        metavar="FILE",
    )
    data_column: str | None = _data_key(
        "Column of --data that holds the prompt; default: prompt, text, question, messages, …",
        None,
        text=Text(200, "name a column, or leave it out"),
        metavar="NAME",
    )
    data_once: bool = key("Let each level send every row of --data once.", default=False, table=TABLE)
    system: str | None = _data_key(
        "System prompt of every request: a text, or @FILE. It stands in front of the prompt where an endpoint takes no "
        "messages.",
        None,
        text=Text(MOST_PROMPT, "write a system prompt, or leave it out", lines=True),
        file="@",
    )
    system_tokens: int | None = _data_key(
        "Length of a made-up system prompt, the same for every request.",
        None,
        unit="tokens",
        bounds=TOKEN_COUNTS,
    )
    prefixes: int | None = _data_key(
        "Make up this many system prompts of --system-tokens; each request draws one.  [default: 1]",
        None,
        bounds=PREFIX_COUNTS,
    )
    prefix_zipf: float | None = _data_key(
        "Draw prefixes by Zipf's law with this exponent S, the k-th in proportion to 1/k^S. Default: all equally often.",
        None,
        bounds=ZIPF,
    )

    @property
    def shares_prefix(self) -> bool:
        """Whether prompts begin with a system prompt."""
        return self.system is not None or self.system_tokens is not None

    def system_text(self) -> str | None:
        """Return the system prompt that the user wrote, read from its file where it has one."""
        if self.system is None or not self.system.startswith("@"):
            return self.system
        path = Path(self.system[1:])
        text = cached_text(path, "system prompt's file", file_version(path))
        if not text.strip():
            raise ScenarioError(f"the system prompt's file {path} is empty.")
        return text

    @property
    def prefix_pattern(self) -> str | None:
        """Name what prompts share, None where they share nothing: two runs that differ in it cannot be compared."""
        if self.system_tokens is not None:
            drawn = "" if self.prefix_zipf is None else f", drawn by Zipf {self.prefix_zipf:g}"
            return f"{self.prefixes or 1} × {self.system_tokens} tokens{drawn}"
        return None if self.system is None else "a text of the user's"


def check_data(data: DataKeys) -> None:
    if data.system is not None and not data.system.startswith("@"):
        refuse_file_name("system", data.system, f"a file's name follows an @: @{data.system.strip()}")
    if data.prefix_zipf is not None and (data.prefixes or 1) < 2:
        raise ScenarioError("prefix_zipf says which of several prefixes is drawn; add prefixes, e.g. prefixes = 20.")
