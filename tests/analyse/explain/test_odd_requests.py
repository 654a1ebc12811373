"""`loadtest explain` of requests that gave up, broke off, were left, sent twice or never sent."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from support.explained import TIMING, explained, text
from support.made_runs import MS, Made, grid, unanswered, write
from support.scored import command
from support.virtual_runs import Load, play

from loadtest.analyse.explain import time_parts as parts
from loadtest.analyse.reports import explain_report as words
from loadtest.analyse.summary import analyse
from loadtest.doubts import CONNECTION_WAIT
from loadtest.records import Outcome


@pytest.mark.usefixtures("no_what_ifs")
def test_what_had_no_first_token_did_not_take_as_long_to_it_as_others(queued: Path) -> None:
    found = explained(queued, 47)
    usual = dataclasses.replace(found, usual_s=found.parts.total_s)
    assert (usual.usual, dataclasses.replace(usual, ttft_s=math.nan).usual) == (True, False)


@pytest.mark.usefixtures("no_what_ifs")
def test_a_request_that_gave_up_while_others_held_the_slots_waited_for_one(tmp_path: Path) -> None:
    """Was unexplained for 573 of 700 ms: its own load was not known, so that a slot seemed free for the 4 ms of the others'."""
    levels, truth = grid(Made(slots=2, load_ms=4, batch_ms=40), (4,))
    (late,) = (one for one in truth.records if one.id == 3)
    gone = unanswered(late, Outcome.TIMEOUT, t_headers=None, t_first_byte=None, t_end=late.t_sched + 200 * MS)
    records = [gone if one.id == 3 else one for one in truth.records]
    found = explained(write(tmp_path / "run", records, levels), 3)
    held = next(part for part in found.parts.first if part.name == parts.SLOT)
    assert held.seconds == pytest.approx(0.2, abs=0.005)
    assert {each.id for each in held.causes} == {0, 1}


@pytest.mark.filterwarnings("error")
def test_a_request_that_was_never_sent_has_one_part_and_says_why(tmp_path: Path) -> None:
    """Was "0 ms unexplained: the parts come to more", and a warning of the chart."""
    levels, truth = grid(Made(), (8,))
    gone = {"t_send": None, "t_headers": None, "t_first_byte": None, "error": "connection refused."}
    records = [
        unanswered(one, Outcome.CONNECT_ERROR, **gone, t_end=one.t_sched) if one.id == 30 else one
        for one in truth.records
    ]
    code, said = command("explain", write(tmp_path / "run", records, levels), "--request", "30")
    assert code == 0
    assert "no token in 0 ms, then connect error (connection refused)" in " ".join(said.split())
    assert "0 ms  unexplained" in said
    assert "come to more" not in said


@pytest.mark.usefixtures("no_what_ifs")
@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome.STREAM_ERROR, "Its answer broke off (stream_error: out of memory)"),
        (Outcome.LEFT, "Its user hung up in mid-answer"),
        (Outcome.CANCELLED, "The run stopped it in mid-answer"),
    ],
)
def test_an_answer_without_its_end_is_said_to_be_one(queued: Path, outcome: Outcome, said: str) -> None:
    """Nothing told a user that what was explained had failed."""
    found = dataclasses.replace(explained(queued, 47), outcome=outcome, error="out of memory")
    assert next(iter(words.notes(found))).startswith(said)


def test_users_who_hung_up_are_the_slowest_and_failed_requests_are_said_to_be_left_out(tmp_path: Path) -> None:
    """Of a level whose TTFT p95 is that of a user who left, explain took a quick answer for the one at p95."""
    levels, truth = grid(Made(), (8,))
    ends = {0: Outcome.LEFT, 1: Outcome.TIMEOUT}
    records = [unanswered(one, ends[one.id % 10]) if one.id % 10 in ends else one for one in truth.records]
    run = write(tmp_path / "run", records, levels)
    code, said = command("explain", run, "--percentile", "p95")
    assert code == 0
    assert ": no token in 480 ms, then its user hung up" in " ".join(said.split())
    assert "of 64 requests failed and are left out: name one of them with --request." in said
    code, said = command("explain", run, "--slowest", "2", "--by", "e2e")
    assert "users hung up in" in said
    assert json.loads(command("explain", run, "--json")[1])["left_out"].startswith("7 of 64 requests failed")


@pytest.mark.usefixtures("no_what_ifs")
def test_the_time_before_a_second_send_is_a_part_of_its_own(tmp_path: Path) -> None:
    """Was "198 ms waiting for a slot; slots were held by #4 and #5", for it came when its first send had gone to a dead connection."""
    levels, truth = grid(Made(), (2,))
    first = truth.records[7]
    sent = (first.t_send or 0) - 200 * MS
    chunks = [chunk + 200_000 for chunk in first.chunks]
    records = [*truth.records]
    records[7] = dataclasses.replace(first, t_sched=sent, t_send=sent, chunks=chunks, resent=first.t_send)
    found = explained(write(tmp_path / "run", records, levels), 7)
    assert "200 ms until it was sent again: the connection that was kept had died" in text(found)
    assert sum(part.seconds for part in found.parts.first) == pytest.approx(found.parts.total_s)


@pytest.mark.usefixtures("no_what_ifs")
def test_a_request_without_a_connection_waited_for_no_slot(tmp_path: Path) -> None:
    """Was "9.34 s unexplained" behind HAProxy with maxconn 2, and its level "Answers were not as the protocol says"."""
    run = play(TIMING, [Load(users=5, requests=40)], slots=2)
    records = [dataclasses.replace(one, doubts=[CONNECTION_WAIT]) if one.id == 30 else one for one in run.records]
    folder = dataclasses.replace(run, records=records).write(tmp_path / "run")
    found = explained(folder, 30)
    assert sum(part.seconds for part in found.parts.first) == pytest.approx(found.parts.total_s)
    assert "until an idle connection had been closed" in text(found)
    assert "slot" not in text(found)
    (reason,) = [
        one for one in analyse(folder).summary["levels"][0]["causes"] if one["cause"] in ("connection_wait", "doubted")
    ]
    assert reason == {"cause": "connection_wait", "verdict": "suspect"}
