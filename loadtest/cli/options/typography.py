"""Commands pasted from a page: with dashes and quotes of its own, with comments, with line ends that the shell kept."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loadtest.errors import ScenarioError

QUOTES = "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u00ab\u00bb"
_DASHED = re.compile("(?=.?[\u2010-\u2015\u2212])[-\u2010-\u2015\u2212]+(?=[a-z])")
_TEXTS = ("--prompt", "--system", "--stop", "--name", "--header", "--body")  # may hold any of them


def check_typography(args: Sequence[str]) -> None:
    """Raise ScenarioError for a dash or quotes of another kind, for a comment, and for a blank where a name should be."""
    for before, arg in zip(("", *args), args, strict=False):
        option, equals, value = arg.partition("=")
        named, said = (option, value) if equals and option.startswith("--") else (before, arg)
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
        if said and (said[0] in QUOTES or said[-1] in QUOTES):
            plain = said.strip(QUOTES)
            raise ScenarioError(
                f"{said[:60]!r} has typographic quotes, which the shell takes for letters; write straight ones: '{plain[:60]}'."
            )
