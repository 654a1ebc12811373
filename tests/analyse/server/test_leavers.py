"""Whether a server worked on for users who hung up."""

from __future__ import annotations

import pytest

from loadtest.analyse.server.queue.leavers import WorkedOn


@pytest.mark.parametrize(
    ("seconds", "error_s", "rest_s", "seen"),
    [
        (1.4, 0.01, 1.3, True),  # llama.cpp behind a deaf proxy: was said to stop, since 0.16 s each are not long
        (0.08, 0.01, 1.3, False),
        (0.5, 0.3, 1.3, None),  # too rough to tell
        (0.08, 0.01, 0.1, None),  # the answers were over by then
        (0.08, 0.01, 0.0, None),  # no answer shows how long they would have been
        (9.0, 0.01, 0.0, True),  # a second each, whatever was left
    ],
)
def test_a_server_worked_on_where_it_worked_for_most_of_the_rest(
    seconds: float, error_s: float, rest_s: float, seen: bool | None
) -> None:
    found = WorkedOn(2, 9, seconds, error_s, 1.0, 1000.0, 26, 0.002, 0.0033, rest_s)
    assert found.seen is seen
