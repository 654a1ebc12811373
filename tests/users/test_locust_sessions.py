"""Conversations of Locust's users: the same turns and the same records as those of the other driver."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from support.locust_runs import Run, Start, starting

from loadtest.records import Outcome, Record

TALKING = """
from locust import task
from loadtest.users import ModelUser

class Person(ModelUser):
    abstract = True
    turns = 3
    input_tokens = 50
    follow_up_tokens = 20
    output_tokens = 6
    think_time = "uniform(0.02, 0.06)"
    save_text = True

class BySession(Person):
    @task
    def talk(self):
        session = self.client.session()
        while not session.over:
            session.chat(name="made up")
        assert session.over

class ByAsk(Person):
    @task
    def talk(self):
        self.client.ask(name="ask")

class OwnWords(Person):
    turns = None
    follow_up_tokens = None

    @task
    def talk(self):
        session = self.client.session(output_tokens=4)
        session.chat("How are you?", name="own")
        with session.chat("And now?", name="own", catch_response=True) as answer:
            if not answer.text:
                answer.failure("no text")
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


@pytest.fixture(scope="module")
def talk(start: Start, simulated_url: str) -> Run:
    run = start(TALKING, "-u", "6", "-r", "50", "-t", "6s", "--host", simulated_url)
    assert run.code in (0, 1, 3), run.said
    assert "Traceback" not in run.said, run.said
    return run


def sessions_of(run: Run) -> list[list[Record]]:
    """Return the turns of each session that was not cut off by the test's end."""
    found: dict[int | None, list[Record]] = {}
    for record in sorted(run.records, key=lambda record: record.t_sched):
        found.setdefault(record.session, []).append(record)
    return [turns for turns in found.values() if turns[-1].outcome is not Outcome.CANCELLED]


def test_turns_follow_each_other_as_in_the_other_driver(talk: Run) -> None:
    sessions = sessions_of(talk)
    assert len(sessions) > 6
    for turns in sessions:
        assert [turn.turn for turn in turns] == list(range(len(turns)))
        assert len({turn.user for turn in turns}) == 1
        assert {turn.outcome for turn in turns} == {Outcome.OK}
        for before, after in itertools.pairwise(turns):
            assert (after.prompt_tokens or 0) > (before.prompt_tokens or 0)
            if (before.asked or 0) == 6:
                assert after.t_sched - before.t_end >= 20_000_000
    assert {len(turns) for turns in sessions} <= {1, 2, 3}
    assert sum(len(turns) == 3 for turns in sessions) > 3
    assert {turn.user for turns in sessions for turn in turns} >= {0, 1, 2, 3, 4, 5}
    assert {"made up", "ask", "own"} <= set(talk.stats)


def test_a_users_first_session_is_its_warm_up(talk: Run) -> None:
    first: dict[int | None, int | None] = {}
    for record in sorted(talk.records, key=lambda record: record.t_sched):
        if record.session == first.setdefault(record.user, record.session):
            assert record.warmup
    assert any(not record.warmup for record in talk.records)


def test_a_session_says_words_of_ones_own(talk: Run) -> None:
    own = [record for turns in sessions_of(talk) for record in turns if record.asked == 4]
    assert {record.prompt for record in own if record.turn} == {"And now?"}
    assert all((record.prompt or "").endswith("] How are you?") for record in own if not record.turn)
