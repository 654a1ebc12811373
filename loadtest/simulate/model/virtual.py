"""Load on an engine in virtual time: what a closed or an open loop, or people in conversations, would see, without waiting."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeVar

from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.prompts import Prompt, TokenRun, first_tokens, token_count
from loadtest.simulate.model.stream import Emission, EngineRequest, Stream
from loadtest.simulate.model.timing import NS_PER_S


def cold_prompt(tokens: int, key: int) -> Prompt:
    """Return a prompt of `tokens` tokens that shares none with a prompt of another `key`."""
    return (TokenRun(key, tokens),)


class EngineTurn(NamedTuple):
    """One turn of a conversation. Its prompt holds the turns before it, with their answers, unless it is too short for that."""

    prompt: int  # tokens, history included
    answer: int
    think_s: float = 0.0  # from the end of the answer before it, of whichever conversation, to this turn


EngineScript = Sequence[EngineTurn]
Due = TypeVar("Due", bound=tuple[Any, ...])


class PlayedTurn(NamedTuple):
    stream: Stream
    user: int
    session: int
    turn: int


def closed_loop(
    engine: Engine,
    requests: Sequence[EngineRequest],
    *,
    starts_s: Sequence[float],
    turnaround_s: float = 0.001,
    see: Callable[[Emission], None] | None = None,
) -> list[Stream]:
    """Run `requests` with a user for each entry of `starts_s`, who sends the next request when the last answer has ended.

    `starts_s` are the instants of the users' first requests: requests that start together are prefilled together, and a
    closed loop keeps that pattern for long. `turnaround_s` passes between an answer's end and the user's next request.
    `see` is called with every token. Returns the streams in the order sent.
    """
    sends = [round(start * NS_PER_S) for start in starts_s]
    return _play(engine, sends, requests, round(turnaround_s * NS_PER_S), see)


def open_loop(
    engine: Engine,
    requests: Sequence[EngineRequest],
    arrivals_s: Sequence[float],
    *,
    see: Callable[[Emission], None] | None = None,
) -> list[Stream]:
    """Run `requests`, each at its instant in `arrivals_s`, whatever the others do; `see` as in closed_loop."""
    return _play(engine, [round(instant * NS_PER_S) for instant in arrivals_s], requests, None, see)


def _play(
    engine: Engine,
    sends: list[int],
    requests: Sequence[EngineRequest],
    again_ns: int | None,
    see: Callable[[Emission], None] | None,
) -> list[Stream]:
    """Run requests in order: one at each instant of `sends`, and one `again_ns` after each answer's end."""
    instants = sorted((at,) for at in sends)
    streams: list[Stream] = []
    left = iter(requests)
    for event in _events(engine, instants, see):
        if isinstance(event, Emission):
            if again_ns is not None:
                heapq.heappush(instants, (event.at + again_ns,))
        elif (request := next(left, None)) is not None:
            streams.append(engine.submit(request, event[0]))
    return streams


def _events(engine: Engine, sends: list[Due], see: Callable[[Emission], None] | None) -> Iterator[Due | Emission]:
    """Run the engine until nothing is left to do; yield each entry of the heap `sends` when it is due, and last tokens.

    An entry's first item is its instant. Who takes what is yielded may add to `sends`.
    """
    while True:
        due = engine.due()
        if sends and (due is None or sends[0][0] <= due):
            yield heapq.heappop(sends)
        elif due is None:
            return
        else:
            for emission in engine.advance(due):
                if see is not None:
                    see(emission)
                if emission.done:
                    yield emission


def people(
    engine: Engine,
    conversations: Iterable[EngineScript],
    *,
    starts_s: Sequence[float],
    num_ctx: int,
    shared: int = 0,
    answers_kept: bool = True,
    turnaround_s: float = 0.001,
    see: Callable[[Emission], None] | None = None,
    prefix: Hashable = 0,
) -> list[PlayedTurn]:
    """Run `conversations` with a user for each entry of `starts_s`: a user who is free takes the next one.

    Args:
        starts_s: the instants of the users' first turns.
        shared: tokens at the beginning of every prompt that are the same in all conversations: a system prompt, a template.
        answers_kept: False where an answer comes back in the history as other tokens than it was made of, so that the
            prefix cache ends before it (reasoning that is left out).
        turnaround_s: between an answer's end and the next turn where nobody thinks.
        prefix: tells the conversations from those that the engine had before.
    """
    waiting = enumerate(conversations)
    ids = count()
    sends: list[tuple[int, int, EngineSession]] = []
    running: dict[Stream, EngineSession] = {}
    played: list[PlayedTurn] = []

    def next_turn(user: int, session: EngineSession | None, at: int) -> None:
        if session is None or not session.left():
            following = next(waiting, None)
            if following is None:
                return
            session = EngineSession(user, following[0], following[1], (prefix, following[0]), shared, answers_kept)
        think = (
            max(round(session.turns[session.turn].think_s * NS_PER_S), round(turnaround_s * NS_PER_S)) if played else 0
        )
        heapq.heappush(sends, (at + think, next(ids), session))

    for user, start in enumerate(starts_s):
        next_turn(user, None, round(start * NS_PER_S))
    for event in _events(engine, sends, see):
        if isinstance(event, Emission):
            session = running.pop(event.stream)
            next_turn(session.user, session, event.at)
        else:
            now, number, session = event
            stream = engine.submit(session.request(number, num_ctx), now)
            running[stream] = session
            played.append(PlayedTurn(stream, session.user, session.session, session.turn - 1))
    return played


class EngineSession:
    """A conversation on its way: which turn is next, and all that was said."""

    def __init__(
        self, user: int, session: int, turns: EngineScript, key: Hashable, shared: int, answers_kept: bool
    ) -> None:
        self.user, self.session, self.turns, self.turn = user, session, turns, 0
        self._key, self._kept = key, answers_kept
        self._history: Prompt = (TokenRun("shared", shared),) if shared else ()

    def left(self) -> bool:
        return self.turn < len(self.turns)

    def request(self, number: int, num_ctx: int) -> EngineRequest:
        turn, name = self.turns[self.turn], (self._key, self.turn)
        before = first_tokens(self._history, max(turn.prompt - 1, 0))  # at least one token is new
        prompt = (*before, TokenRun((*name, "said"), max(turn.prompt - token_count(before), 1)))
        kept = (*name, "answer" if self._kept else "as told again")
        self._history = (*prompt, TokenRun(kept, turn.answer))
        self.turn += 1

        def answer(tokens: int) -> Prompt:
            return (TokenRun((*name, "answer"), tokens),)

        return EngineRequest(number, prompt, turn.answer, num_ctx=num_ctx, answer=answer)
