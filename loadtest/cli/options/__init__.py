"""Options of commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Gives = Callable[[Callable[..., Any]], Callable[..., Any]]  # what gives a command an option, or several


def together(*options: Gives) -> Gives:
    """Return what gives a command all of these options, in this order."""

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return give
