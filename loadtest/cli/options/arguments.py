"""What is wrong with arguments as they were typed or pasted, before any command reads them."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

import click
from click.core import ParameterSource

from loadtest.cli.options.environment import flag_of
from loadtest.errors import ScenarioError
from loadtest.text import encodable

NEVER_EMPTY = ("url", "model", "server", "profile", "metrics_address")  # options whose empty text means nothing
QUOTES = "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u00ab\u00bb"
_DASHED = re.compile("(?=.?[\u2010-\u2015\u2212])[-\u2010-\u2015\u2212]+(?=[a-z])")
_TEXTS = ("--prompt", "--system", "--stop", "--name", "--header", "--body")  # may hold any of them


def check_typed(args: Sequence[str]) -> None:
    """Raise ScenarioError for an argument that no page or JSON could hold, and for what a page puts into a pasted command.

    The first is one that is not UTF-8 or holds a NUL byte. The second is a dash or quotes of another kind, a comment, and
    a blank where a name should be, of a line end that the shell kept.
    """
    for before, arg in zip(("", *args), args, strict=False):
        option, equals, value = arg.partition("=")
        named, given = (option, value) if equals and option.startswith("--") else (before, arg)
        what = named if named.startswith("-") else "an argument"
        if not encodable(what + arg):
            here = sys.getfilesystemencoding()
            hint = "write it in UTF-8, or rename the file" if here == "utf-8" else "set PYTHONUTF8=1"
            raise ScenarioError(f"{ascii(what)[1:-1]} is not {here.upper()} text ({arg[:60]!a}); {hint}.")
        if "\0" in arg:
            raise ScenarioError(f"{what} holds a NUL byte; take it out.")
        if named in _TEXTS:
            continue
        if arg == "#":
            raise ScenarioError(
                "'#' and what follows came as arguments, for zsh knows no comments where commands are typed; leave them out."
            )
        if not named.startswith("-") and arg and not arg.strip():
            raise ScenarioError(
                f"an argument is a blank ({arg!r}); a backslash that joins lines must be the last character of its line."
            )
        if found := _DASHED.match(arg):
            right = ("-" if len(arg) - found.end() == 1 else "--") + arg[found.end() :]
            raise ScenarioError(f"{arg[:60]!r} begins with a dash that is not the keyboard's; write {right[:60]}.")
        if given and (given[0] in QUOTES or given[-1] in QUOTES):
            plain = given.strip(QUOTES)
            raise ScenarioError(
                f"{given[:60]!r} has typographic quotes, which the shell takes for letters; write straight ones: '{plain[:60]}'."
            )


def check_given(command: click.Command, args: Sequence[str], parent: click.Context) -> None:
    """Raise ScenarioError for an option given twice, of which click would take the last, and for an empty name.

    pathlib takes an empty path for the working folder, and an empty URL would mean the default server.
    """
    # click makes a command's help option once, from the first context: without the parent it would lack -h.
    with click.Context(command, parent=parent, resilient_parsing=True) as context:
        try:
            values, _, order = command.make_parser(context).parse_args(list(args))
        except click.UsageError:
            return  # click says it when the command is made
    given = Counter(param for param in order if isinstance(param, click.Option) and not param.multiple)
    for option, times in given.items():
        if times > 1 and not option.is_flag:
            flag, metavar = flag_of(option), option.metavar or option.type.name.upper()
            many = f", with commas between: {flag} {metavar}" if "," in metavar else ""
            raise ScenarioError(f"{flag} is given {'twice' if times == 2 else f'{times} times'}; give it once{many}.")
    for param in set(order):
        value = values.get(param.name or "")
        named = isinstance(param.type, click.Path) or param.name in NEVER_EMPTY or isinstance(param, click.Argument)
        if named and "" in (value if isinstance(value, list | tuple) else (value,)):
            # of "[SCENARIO.toml] [URL]" two
            names = dict.fromkeys(re.findall(r"\b[A-Z][\w.]*\w", param.human_readable_name))
            what = flag_of(param) if isinstance(param, click.Option) else " or ".join(names)
            raise ScenarioError(f"{what} is empty; give it a value, or leave it out.")


def refuse_idle(names: Iterable[str], where: str) -> None:
    """Raise ScenarioError for an option of these names that was typed: it does nothing where it stands, as `where` says."""
    context = click.get_current_context()
    for option in context.command.params:
        typed = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if typed and option.name in names and isinstance(option, click.Option):
            raise ScenarioError(f"{flag_of(option)} does nothing {where}; leave it out.")
