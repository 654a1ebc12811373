"""Options of commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]  # of a command: gives it an option, or several


def together(*options: Decorator) -> Decorator:
    """Return what gives a command all of these options, in this order."""

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return give
