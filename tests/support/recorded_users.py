"""Locust users whose requests are recorded without a file, as in a test that runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loadtest.users.processes.user_target import UserTarget


@contextmanager
def recorded(user_class: str, target: UserTarget, *, users: int = 2) -> Iterator[None]:
    """Record what users of this class send to a target; whoever imports Locust first says whether it patches sockets."""
    from loadtest.users.processes import recording
    from loadtest.users.processes.levels import CurrentLevel

    recording.open_recorder(
        user_targets={user_class: target},
        folder=None,
        worker=0,
        users=users,
        source="x",
        current_level=lambda: CurrentLevel(0, steady=True),
    )
    try:
        yield
    finally:
        recording.close_recorder()
