"""Which turns of a level's conversations count: those from when every user has ended its first sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from loadtest.measure.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class InStep:
    """How one of several processes keeps step with the others."""

    agree: Callable[[], Awaitable[int]]  # once a level is prepared: when all of them begin it, monotonic ns
    counted: Callable[[int], object]  # told when this process's first counted request was released
    hopeless: Callable[[str], object]  # told why this process gave the level up
    warm: Callable[[], object]  # told when this process's users have ended their first sessions


class TurnCount:
    """Counts the turns that one process releases in a level."""

    __slots__ = ("_in_step", "_left", "_owing", "counts")

    def __init__(self, users: Iterable[int], warmup: int, requests: int | None, in_step: InStep | None) -> None:
        """Each user ends `warmup` sessions first; `requests` turns count, None where time ends the level."""
        self._owing = dict.fromkeys(users, warmup)
        self._left = requests
        self._in_step = in_step
        self.counts = not warmup
        if not self._owing:
            self._warm()

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
                self._warm()

    def _warm(self) -> None:
        """Let turns count, where no other process has users who still owe a session."""
        if self._in_step is None:
            self.counts = True
        else:
            self._in_step.warm()
