"""A command's work on each model and server of a run of several."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from loadtest.errors import LoadTestError

One = TypeVar("One")
Result = TypeVar("Result")


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
