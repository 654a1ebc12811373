"""The prefix cache of the modelled server, and people in conversations on it."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import defaultdict

import pytest

from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.prefix_cache import HostCache
from loadtest.simulate.model.prompts import Prompt, TokenRun, common_prefix, first_tokens, of_pieces, token_count
from loadtest.simulate.model.stream import EngineRequest
from loadtest.simulate.model.timing import BEFORE, BESIDE, SLICED, StepLaw, Timing
from loadtest.simulate.model.virtual import EngineTurn, PlayedTurn, closed_loop, open_loop, people

TIMING = Timing(step=StepLaw(0.01), prefill_s=0.001, handling_s=0.0, handover_s=0.0)
SCRIPT = (EngineTurn(100, 20), EngineTurn(150, 20, 0.5), EngineTurn(200, 20, 0.5), EngineTurn(250, 20, 0.5))
CTX = 4096


def engine(slots: int, host: HostCache | None = None) -> Engine:
    return Engine(TIMING, slots=slots, loaded=CTX, host=host)


def talking(users: int, slots: int, host: HostCache | None = None, sessions: int = 8) -> list[PlayedTurn]:
    starts = [0.25 * user for user in range(users)]
    return people(engine(slots, host), [SCRIPT] * sessions, starts_s=starts, num_ctx=CTX)


def cached(played: list[PlayedTurn]) -> dict[int, set[int]]:
    """Return by turn how many tokens were cached."""
    found = defaultdict(set)
    for one in played:
        found[one.turn].add(one.stream.cached)
    return dict(found)


def test_two_prompts_share_runs_up_to_the_first_that_differs() -> None:
    begin, end = TokenRun("begin", 150), TokenRun("end", 50)
    assert common_prefix((begin, end), (begin, end)) == 200
    assert common_prefix((begin, end), (begin, TokenRun("end", 30), TokenRun("x", 9))) == 180
    assert common_prefix((begin, end), (TokenRun("begin", 100), end)) == 100
    assert common_prefix((), (begin,)) == 0


def test_runs_share_what_their_tokens_share() -> None:
    """Runs are an abbreviation: against the tokens that they stand for."""
    draw = random.Random(5)

    def tokens(prompt: Prompt) -> list[tuple[object, int]]:
        return [(run.key, place) for run in prompt for place in range(run.length)]

    for _ in range(400):
        one, other = (
            [TokenRun(draw.choice("ab"), draw.randint(1, 4)) for _ in range(draw.randint(0, 4))] for _ in range(2)
        )
        plain = list(zip(tokens(one), tokens(other), strict=False))
        expected = next((n for n, (left, right) in enumerate(plain) if left != right), len(plain))
        assert common_prefix(one, other) == expected
        cut = draw.randint(0, 12)
        assert tokens(first_tokens(one, cut)) == tokens(one)[:cut]
        assert token_count(one) == len(tokens(one))


def test_a_slot_holds_prompt_and_answer_less_its_last_token() -> None:
    turns = cached(talking(users=1, slots=1))
    assert turns == {0: {0}, 1: {119}, 2: {169}, 3: {219}}


@pytest.mark.parametrize("way", [SLICED, BEFORE, BESIDE])
def test_a_slot_holds_them_however_prompts_are_evaluated(way: str) -> None:
    """Of prompts evaluated beside the steps nothing was kept: a prediction with a host cache that is never full had 0 % cached."""
    server = Engine(dataclasses.replace(TIMING, prefill_way=way), slots=1, loaded=CTX)
    played = people(server, [SCRIPT], starts_s=[0.0], num_ctx=CTX)
    assert cached(played) == {0: {0}, 1: {119}, 2: {169}, 3: {219}}


def test_an_answer_that_comes_back_as_other_tokens_is_read_again() -> None:
    played = people(engine(1), [SCRIPT], starts_s=[0.0], num_ctx=CTX, answers_kept=False)
    assert cached(played) == {0: {0}, 1: {100}, 2: {150}, 3: {200}}


def test_what_all_conversations_begin_with_is_cached_for_the_first_turn_too() -> None:
    played = people(engine(1), [SCRIPT, SCRIPT], starts_s=[0.0], num_ctx=CTX, shared=40)
    assert [one.stream.cached for one in played if one.turn == 0] == [0, 40]


def test_as_many_conversations_are_kept_as_there_are_slots_and_none_beyond() -> None:
    """Four people who take turns on three slots: each turn finds its own slot given to another."""
    assert cached(talking(users=3, slots=3, sessions=3))[3] == {219}
    assert cached(talking(users=4, slots=3, sessions=4)) == {0: {0}, 1: {0}, 2: {0}, 3: {0}}


def test_the_next_conversation_takes_the_longest_idle_slot_though_its_owner_only_thinks() -> None:
    assert 0 in cached(talking(users=3, slots=3, sessions=9))[3]


def test_a_host_cache_keeps_them_until_it_is_full() -> None:
    assert cached(talking(users=4, slots=3, host=HostCache(None)))[3] == {219}
    assert cached(talking(users=4, slots=3, host=HostCache(50), sessions=4))[3] == {0}


def test_copies_leave_the_host_cache_oldest_first() -> None:
    host = HostCache(250)
    one, two, three = ((TokenRun(key, 100),) for key in "abc")
    for content in (one, two, three):
        host.save(content)
    assert host.copies == [two, three]
    host.save(two)  # is there already: its place stays
    assert host.copies == [two, three]
    longer = (*two, TokenRun("d", 10))
    host.save(longer)  # the copy that is a part of it goes
    assert host.copies == [three, longer]


def test_a_copy_is_restored_where_it_serves_better_than_the_slot_and_a_quarter_is_kept() -> None:
    host = HostCache(None)
    session = (TokenRun("system", 20), TokenRun("a", 100))
    host.save(session)
    assert host.restore((*session, TokenRun("b", 5)), ()) == session
    assert host.copies == []
    host.save(session)
    other = (TokenRun("system", 20), TokenRun("c", 100))
    assert host.restore(other, ()) == ()  # a sixth of the copy would be kept
    assert host.restore(session, session) == session
    assert host.copies == [session]


def test_a_restored_copy_is_counted() -> None:
    played = talking(users=4, slots=3, host=HostCache(None))
    assert all(one.stream.restored == one.stream.cached for one in played if one.turn == 3)


def test_a_stream_cancelled_in_mid_prompt_leaves_what_was_evaluated() -> None:
    server = Engine(Timing(step=StepLaw(0.01), prefill_s=0.001, n_batch=64, handling_s=0, handover_s=0), slots=1)
    server = Engine(server.timing, slots=1, loaded=CTX)
    prompt = (TokenRun("long", 300),)
    gone = server.submit(EngineRequest(0, prompt, 5), 0)
    while gone.todo != 300 - 128:
        server.advance(server.due() or 0)
    server.cancel(gone, server.due() or 0)
    again = server.submit(EngineRequest(1, prompt, 5), server.due() or 0)
    while (due := server.due()) is not None:
        server.advance(due)
    assert again.cached in (128, 192)  # the batch in flight is evaluated to its end


def test_a_text_split_into_tokens_shares_what_it_begins_with() -> None:
    server = engine(1)
    first = EngineRequest(0, of_pieces(["the", "ship", "sails"]), 3)
    later = EngineRequest(1, of_pieces(["the", "ship", "waits"]), 3)
    assert [stream.cached for stream in open_loop(server, [first, later], [0.0, 1.0])] == [0, 2]


def test_people_think_and_take_the_next_conversation() -> None:
    played = talking(users=2, slots=2, sessions=5)
    assert len(played) == 20
    assert {one.session for one in played} == set(range(5))
    by_session = defaultdict(list)
    for one in played:
        by_session[one.session].append(one)
    for turns in by_session.values():
        assert [one.turn for one in turns] == [0, 1, 2, 3]
        assert len({one.user for one in turns}) == 1
        for before, after in itertools.pairwise(turns):
            assert after.stream.arrived == (before.stream.ended or 0) + 500_000_000


def test_ten_thousand_tokens_of_history_are_a_few_runs() -> None:
    long = [EngineTurn(1000 * (n + 1), 500) for n in range(10)]
    played = people(engine(1), [long], starts_s=[0.0], num_ctx=20_000)
    assert len(played[-1].stream.request.prompt) <= 20
    assert played[-1].stream.prompt_tokens == 10_000


def test_single_requests_are_as_before() -> None:
    plan = [EngineRequest(n, (TokenRun(n, 50),), 5) for n in range(6)]
    assert [stream.cached for stream in closed_loop(engine(2), plan, starts_s=[0.0, 0.0])] == [0] * 6
