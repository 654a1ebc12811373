"""Which turns of a level's conversations count: those from when every user has ended its first sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from loadtest.measure.request import Request


class TurnCount:
    """Counts the turns that one process releases in a level."""

    __slots__ = ("_left", "_on_warm", "_owing", "counts")

    def __init__(self, users: Iterable[int], warmup: int, requests: int | None, on_warm: Callable[[], object]) -> None:
        """Each user ends `warmup` sessions first, and `on_warm` is called when all have done so.

        Then `counts` is to be set, and `requests` turns count, None where time ends the level.
        """
        self._owing = dict.fromkeys(users, warmup)
        self._left = requests
        self._on_warm = on_warm
        self.counts = not warmup
        if not self._owing:
            on_warm()

    @property
    def over(self) -> bool:
        """Whether no further turn counts."""
        return self.counts and self._left == 0

    def take(self, request: Request) -> bool:
        """Mark a turn that is about to be released as warm-up or not; return False where none is left to be sent."""
        if self.over:
            return False
        request.job = dataclasses.replace(request.job, warmup=not self.counts)
        if self.counts and self._left is not None:
            self._left -= 1
        return True

    def session_ended(self, user: int) -> None:
        """Note that a user's session is over, however it ended."""
        if self.counts or user not in self._owing:
            return
        self._owing[user] -= 1
        if not self._owing[user]:
            del self._owing[user]
            if not self._owing:
                self._on_warm()
