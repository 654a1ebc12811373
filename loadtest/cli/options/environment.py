"""Options from the environment: LOADTEST_<OPTION> stands for an option of `loadtest run` that was not given.

The same variables stand for the connection's options of `check` and `memory`. An option that was given wins over its
variable, and the variable over the scenario file.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Collection, Iterable, Iterator

import click
from click.core import ParameterSource

from loadtest.scenario.keys import KEY_OF
from loadtest.scenario.toml_tables import INSTEAD_OF
from loadtest.urls import without_passwords, without_secrets

PREFIX = "LOADTEST_"
# Names in use for other things: those that end in _ begin the names of variables that hold what was written out.
RESERVED = (
    "STAMPS",
    "CALIBRATION",
    "BASIC_AUTH",
    "SECRETS",
    "SECRET_TEXTS",
    "BENCH_HERE",
    "URL_KEY_",
    "BODY_",
    "HEADER_",
    "QUERY_",
)
# options that change nothing in what is measured
SHOWING = (
    *("report", "no_report", "quiet", "as_json", "junit", "github_summary"),
    *("price_per_hour", "price_per_kwh", "out"),
)


def flag_of(option: click.Option) -> str:
    """Return the long name of an option: --quiet of -q and --quiet."""
    return max(option.opts, key=len)


def variable_of(option: click.Option) -> str:
    """Return the variable of an option: --input-tokens has LOADTEST_INPUT_TOKENS."""
    return PREFIX + flag_of(option).lstrip("-").replace("-", "_").upper()


def named_in_environment(command: click.Command, only: Iterable[str] | None = None) -> None:
    """Give each of a command's options its variable; `only` those of these names, where given."""
    wanted = None if only is None else set(only)
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden and (wanted is None or option.name in wanted):
            option.envvar = variable_of(option)
            if option.multiple:
                option.type = _TextPerLine()


def words_given(but: Collection[str]) -> list[str]:
    """Return the running command's options that are not at their default, as words, but for those named and for SHOWING.

    Addresses in them are without passwords and queries.
    """
    context = click.get_current_context()
    words: list[str] = []
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if not isinstance(option, click.Option) or option.hidden or option.name in {*but, *SHOWING}:
            continue
        if value in (None, (), option.get_default(context)):
            continue
        for one in value if isinstance(value, tuple) else (value,):
            word = without_secrets(without_passwords(one)) if isinstance(one, str) else str(one)
            words += [flag_of(option)] if option.is_flag else [flag_of(option), word]
    return words


class _TextPerLine(click.types.StringParamType):
    """A text of an option that may be given again; in a variable each line is one."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line.strip() for line in rv.splitlines() if line.strip()]


def is_from_environment(name: str | None) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name or "") is ParameterSource.ENVIRONMENT


def url_taken(url: str | None, *, argument: bool) -> str | None:
    """Return --url, but not the environment's where an argument names a server.

    What the running command takes from the environment is named on stderr.
    """
    beaten = argument and is_from_environment("url")
    say_what_is_taken(["url"] if beaten else [])
    return None if beaten else url


def say_what_is_taken(beaten: Iterable[str] = ()) -> None:
    """Name on stderr the variables that the running command takes; not their values, which may be secrets.

    `beaten` are options whose place an argument takes.
    """
    context = click.get_current_context()
    command, typed = context.command, [one for one in context.params if not is_from_environment(one)]
    instead = {other for one in typed if context.params[one] for other in INSTEAD_OF.get(one, ())}
    kept_out = {*SHOWING, *beaten, *instead}
    options = [option for option in command.params if isinstance(option, click.Option) and option.name not in kept_out]
    if names := [variable_of(option) for option in options if is_from_environment(option.name)]:
        print(f"loadtest: from the environment: {', '.join(names)}.", file=sys.stderr)
    for name, meant in _misspelt(command):
        print(f"loadtest: {name} in the environment is not used; {meant} is an option's.", file=sys.stderr)


def _misspelt(command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield variables that look like one of a command's, and which they look like."""
    if command.name != "run":
        return  # of other commands some variables are options of `run`
    known = [variable_of(option) for option in command.params if isinstance(option, click.Option)]
    for name in sorted(os.environ):
        own = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and name not in known and not own.startswith(RESERVED):
            other = f"{PREFIX}{KEY_OF.get(own.lower(), '').upper()}"
            near = [other] if other in known else difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            yield from ((name, meant) for meant in near)
