"""Command-line options made from the scenario's own keys, so that keys and options cannot drift apart."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from loadtest.cli.options import Decorator, together
from loadtest.cli.options.environment import is_from_environment
from loadtest.cli.options.param_types import (
    LISTS_OF,
    PARAM_TYPES,
    SHARE,
    ReadParam,
    read_lengths,
    seconds_param,
)
from loadtest.errors import ScenarioError
from loadtest.reach import secrets_apart
from loadtest.scenario import (
    FORMER,
    LENGTHS,
    TIMES,
    ConnectionKeys,
    Key,
    Scenario,
    check_idle,
    keys_of,
    laid_over,
    short_repr,
)
from loadtest.urls import is_socket, without_secrets

SCENARIO_KEYS = {key.name: key for key in keys_of(Scenario)}
CONNECTION = tuple(key.name for key in keys_of(ConnectionKeys))
SERVER_OPTIONS = ("api", *CONNECTION, "connect_timeout")  # what server is asked, and how it is reached
# A key in a sentence, and its value. A name in quotes or in a path is no key; one in brackets has its option before it.
_KEY_IN_SENTENCE = re.compile(
    rf"""(?<![\w/'"(-])({"|".join(SCENARIO_KEYS)})(?: = (\[[^\]]*\]|[^\s,;]*[^\s,;.]))?(?![\w/'"-])"""
)
_OF_FLAGS = ("true", "false", "yes", "no", "on", "off")
_VALUES = re.compile(r"[\d.,%]+|\w+=\S*")  # of an option, behind a blank
_HOST_AND_PORT = re.compile(r"localhost|(\d{1,3}\.){3}\d{1,3}|[\w.-]*:\d{1,5}(/\S*)?|\[[0-9a-fA-F:]+\](:\d{1,5})?")


def option_of(key: Key) -> Decorator:
    kind, default = key.kind, key.default
    text = key.help + (f" [{key.unit}]" if key.unit not in ("", "s") else "")  # of seconds the metavar speaks
    if key.listed:
        default = ",".join(map(str, default))
    if default not in (None, "", False):
        text += f"  [default: {default}]"
    if kind is bool:
        return click.option(key.flag, key.name, is_flag=True, default=None, help=text)
    if key.joined is not None or key.repeat is not None:
        return click.option(
            key.flag,
            key.name,
            multiple=True,
            metavar=key.repeat or key.metavar,
            callback=functools.partial(_given_again, key.joined),
            help=text,
        )
    taken: Any = click.Choice(key.choices, case_sensitive=False) if key.choices else PARAM_TYPES.get(kind, kind)
    if key.many:
        taken = ReadParam(read_lengths, "n,n,…") if key.length else LISTS_OF[kind]
    elif key.length:
        taken = ReadParam(LENGTHS.read, "length")
    elif key.span:
        taken = ReadParam(TIMES.read, "seconds")
    elif key.share:
        taken = SHARE
    elif key.unit == "s" and kind is float:
        taken = seconds_param()
    return click.option(key.flag, key.name, type=taken, default=None, metavar=key.metavar, help=text)


def _given_again(
    between: str | None, _: click.Context, option: click.Parameter, given: Sequence[str]
) -> Sequence[str] | str | None:
    """Return the values of an option that may be given again, joined by `between`; where that is a blank none may hold one."""
    if between == " " and (odd := next((one for one in given if " " in one.strip(" \t\r\n\"'")), None)):
        raise click.BadParameter(
            f"{short_repr(without_secrets(odd))} holds a blank; give one URL at a time.", param=option
        )
    return (given if between is None else between.join(given)) or None


def key_options(*names: str) -> Decorator:
    return together(*(option_of(SCENARIO_KEYS[name]) for name in names))


# an option for every key, all None by default so that a file's values stand, and one for every former name of a key
scenario_options = together(
    key_options(*SCENARIO_KEYS),
    *(
        click.option(
            f"--{former.replace('_', '-')}", former, type=PARAM_TYPES.get(SCENARIO_KEYS[name].kind), hidden=True
        )
        for former, name in FORMER.items()
    ),
)
# of the commands that connect to a server, with the same help and checks as in `loadtest run`
connection_options = key_options(*CONNECTION)
server_options = key_options(*SERVER_OPTIONS)


def is_url(text: str) -> bool:
    """Whether an argument is a server's URL rather than a file: http://host, host:11434, :11434, localhost, unix:/run/x.sock."""
    return "://" in text or is_socket(text) or (_HOST_AND_PORT.fullmatch(text) is not None and not Path(text).exists())


def file_and_url(given: Sequence[str], url: str | None) -> tuple[Path | None, str | None]:
    """Return the scenario file and the URL of `[SCENARIO.toml] [URL]`, in any order; `url` is that of --url.

    Raises ScenarioError for two of a kind.
    """
    urls = [text for text in given if is_url(text)]
    files = [text for text in given if not is_url(text)]
    if stray := next((text for text in files if _VALUES.fullmatch(text) and not Path(text).exists()), None):
        port = f" A port of this machine is written :{stray}." if stray.isdecimal() and len(stray) > 3 else ""
        raise ScenarioError(
            f"{short_repr(stray)} is neither a scenario file nor a URL; several values of an option have commas between, and no "
            f"blanks: --concurrency 1,2,4.{port}"
        )
    if word := next((text for text in files if text.lower() in _OF_FLAGS and not Path(text).exists()), None):
        raise ScenarioError(
            f"{short_repr(word)} is neither a scenario file nor a URL; an option such as --insecure takes no value: leave "
            f"{word} out."
        )
    if len(files) > 1:
        raise ScenarioError(
            f"{short_repr(files[0])} and {short_repr(files[1])} both name a scenario file: give one, in quotes where its path "
            "holds a blank; a server's URL begins with http://."
        )
    if files and not files[0].endswith(".toml") and files[0] and not Path(files[0]).exists():
        raise ScenarioError(
            f"cannot read the scenario {short_repr(files[0])}: there is no such file; a server is written like "
            "http://HOST:11434, and a model --model NAME."
        )
    if len(urls) + (url is not None) > 1:
        raise ScenarioError("two URLs are given: give one, or for several servers each with --url.")
    return Path(files[0]) if files else None, urls[0] if urls else url


def one_url(argument: str | None, option: str | None) -> str | None:
    """Return the URL of an argument or of --url; raise ScenarioError where both are given."""
    if argument is not None and option is not None:
        raise ScenarioError("URL and --url both name a server: give one.")
    return option if argument is None else argument


def make_scenario(path: Any, values: dict[str, Any]) -> Scenario:
    """Lay the options given over the scenario file, or build a scenario of options alone."""
    given = {key: value for key, value in values.items() if value is not None}
    from_environment = {key: value for key, value in given.items() if is_from_environment(key)}
    given = laid_over(from_environment, {key: given[key] for key in given.keys() - from_environment.keys()})
    if path is not None:
        return Scenario.load(path, say=_warn, **given)
    try:
        check_idle(given, given, "the command line")
        return Scenario.from_dict(given, where="the command line", say=_warn)
    except ScenarioError as error:
        raise ScenarioError(_KEY_IN_SENTENCE.sub(_as_option, str(error))) from None


def _as_option(found: re.Match[str]) -> str:
    """Write a scenario's key as the option that was typed, or is to be: max_in_flight, or rate = [4].

    A key of one word may be a word alone, but not at the sentence's beginning, nor as what is to be added.
    """
    key, value = found.groups()
    sentence, end = found.string, found.string[found.end() :]
    named = sentence[: found.start()].endswith(("add ", " with ", " or ")) and end.startswith((",", ";", ".", " or "))
    known = value is not None or "_" in key or found.start() == 0 or named or end.startswith(" exclude each other")
    given = "" if value is None else f" {value.strip('[]').replace(', ', ',')}"
    return f"{SCENARIO_KEYS[key].flag}{given}" if known else found[0]


def connection_of(values: dict[str, Any]) -> Scenario:
    """Take the options of a connection out of a command's, as a scenario; raise ScenarioError where they make no sense."""
    return secrets_apart(make_scenario(None, {name: values.pop(name, None) for name in SERVER_OPTIONS}))


def _warn(sentence: str) -> None:
    print(f"loadtest: {sentence}", file=sys.stderr)
