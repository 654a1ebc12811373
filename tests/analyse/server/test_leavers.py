"""Whether a server worked on for users who hung up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.made_runs import unanswered, write
from support.virtual_runs import Load, play

from loadtest.analyse.server.queue.leavers import WorkedOn
from loadtest.analyse.summary import analyse
from loadtest.records import Outcome
from loadtest.simulate.model.timing import StepLaw, Timing


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


def test_a_server_with_more_slots_than_were_seen_may_work_on_unseen(tmp_path: Path) -> None:
    """16 slots, four users: "the server stops working for a user who hangs up", while it wrote all answers whole."""
    timing = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.002)
    played = play(timing, [Load(users=4, requests=80, output=(40, 60))], slots=16)
    gone = [
        dataclasses.replace(
            one, outcome=Outcome.LEFT, chunks=one.chunks[:9], t_end=(one.t_send or 0) + one.chunks[8] * 1000
        )
        if one.id % 4 == 1
        else one
        for one in played.records
    ]
    level = analyse(write(tmp_path / "run", gone, played.levels)).summary["levels"][0]
    assert level["left"]["worked_on_s_reason"] == "the server's slots are not known"


def test_users_who_left_behind_others_in_the_queue_show_nothing_of_a_server_that_works_on(tmp_path: Path) -> None:
    """Was "the server stops working for a user who hangs up" of a real Ollama that had begun work for none of those who did."""
    timing = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.002)
    played = play(timing, [Load(users=9, requests=72, output=(40, 60))], slots=3)
    queued = [
        one for one in played.records if one.t_first_token and one.t_send and one.t_first_token - one.t_send > 10**9
    ]
    gone = [
        dataclasses.replace(
            unanswered(one, Outcome.LEFT, t_headers=None, t_first_byte=None),
            id=1000 + one.id,
            t_sched=(one.t_send or 0) + 10**6,
            t_send=(one.t_send or 0) + 10**6,
            t_end=(one.t_send or 0) + 40 * 10**6,
        )
        for one in queued
    ]
    level = analyse(write(tmp_path / "run", [*played.records, *gone], played.levels)).summary["levels"][0]
    assert (level["left"]["waiting"], level["left"]["slots"], level["left"]["worked_on"]) == (72, 3, None)
