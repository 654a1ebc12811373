"""A mistake on stderr: one sentence that says what to do, without secrets, in the same words from click and from us."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import click
from click.core import ParameterSource

from loadtest.cli.options.environment import flag_of
from loadtest.credentials import redacted
from loadtest.errors import LoadTestError
from loadtest.scenario.keys import KEY_OF, OPTION_OF
from loadtest.urls import KEY_SHAPE, without_passwords

QUOTED_MOST = 300  # characters without a blank that an error sentence quotes in full
One = TypeVar("One")
Result = TypeVar("Result")
_ONE_DASH = re.compile("-[a-z][a-z-]{2,}")
_NUMBERS = {"integer": "whole number", "float": "number"}  # click's words -> ours


def print_mistake(sentence: str) -> None:
    """Print a mistake without secrets; what the user gave is quoted in it, so long words are shortened.

    A key that was typed in the place of something else is known by its shape alone.
    """
    open_words = KEY_SHAPE.sub(r"\1\2…", without_passwords(redacted(sentence)))
    short = re.sub(rf"\S{{{QUOTED_MOST},}}", lambda found: f"{found[0][:60]}… ({len(found[0])} characters)", open_words)
    print(f"loadtest: {short}", file=sys.stderr)


def print_usage_error(error: click.ClickException, command: str = "loadtest", args: Sequence[str] = ()) -> None:
    """Print a mistake that click has found in `args` as one sentence; where no command was given, print the help.

    `command` is whose help is named where click does not say of which command it is.
    """
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # a class that click 8.1 does not have
        error.show()
        return
    sentence = _otherwise_named(error, args) or _in_plain_words(_with_variable(error, error.format_message().strip()))
    path = context.command_path if context is not None else command
    if context is not None and (isinstance(error, click.MissingParameter) or "unexpected extra" in sentence):
        usage = " ".join([path, *context.command.collect_usage_pieces(context)])
        sentence = f"{sentence.rstrip('.')}; write `{usage}`."
    elif not sentence.endswith(("?", "?)")):
        sentence = f"{sentence.rstrip('.')}; see `{path} --help`."
    print_mistake(sentence)


def _otherwise_named(error: click.ClickException, args: Sequence[str]) -> str | None:
    """Return a sentence on an option that another tool has, where the command has one for the same; None for any other mistake."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return None
    # -rate, as tools in Go have it: click reads letters
    typed = (one.partition("=")[0] for one in args if error.option_name[1:] in one)
    given = next((one for one in typed if _ONE_DASH.fullmatch(one)), error.option_name)
    name = given.lstrip("-").replace("-", "_").lower()
    names = (OPTION_OF.get(given.lstrip("-")), OPTION_OF.get(name), KEY_OF.get(name), name)
    options = (one for one in error.ctx.command.params if one.name in names and isinstance(one, click.Option))
    if (option := next(options, None)) is not None:
        return f"No such option '{given}'; give it with {flag_of(option)}"
    return None if given == error.option_name else f"No such option '{given}'"


def _in_plain_words(sentence: str) -> str:
    """Return a sentence of click's in the words of the other ones."""
    sentence = re.sub(r"is not a valid boolean\..*", "is neither yes nor no; write 1 or 0", sentence)
    return re.sub(r"is not a valid (integer|float)( range)?", lambda found: f"is not a {_NUMBERS[found[1]]}", sentence)


def _with_variable(error: click.ClickException, sentence: str) -> str:
    """Name the environment's variable in place of the option where a wrong value comes from there."""
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option) and error.ctx is not None:
        option = error.param
        if error.ctx.get_parameter_source(option.name or "") is ParameterSource.ENVIRONMENT and option.envvar:
            return sentence.replace(f"'{flag_of(option)}'", f"the variable {option.envvar}", 1)
    return sentence


def for_each(named: Iterable[tuple[str, One]], work: Callable[[One], Result]) -> list[Result]:
    """Return what `work` makes of each one, by name; those of which it makes nothing are named on stderr.

    Raises LoadTestError, with every reason, where it makes nothing of any.
    """
    made, refused = [], []
    for name, one in named:
        try:
            made.append(work(one))
        except LoadTestError as error:
            refused.append(f"{name}: {error}")
    if not made:
        raise LoadTestError(" ".join(refused))
    for sentence in refused:
        print(f"loadtest: {sentence}", file=sys.stderr)
    return made
