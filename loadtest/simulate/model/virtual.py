"""Load on an engine in virtual time: what a closed or an open loop would see, without waiting for it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from loadtest.simulate.model.stream import Emission, EngineProtocol, EngineRequest, Stream
from loadtest.simulate.model.timing import NS_PER_S


def cold_prompt(tokens: int, key: int) -> range:
    """Return a prompt of `tokens` tokens that shares none with a prompt of another `key`."""
    return range(key << 32, (key << 32) + tokens)


def closed_loop(
    engine: EngineProtocol,
    plan: Sequence[EngineRequest],
    *,
    starts_s: Sequence[float],
    turnaround_s: float = 0.001,
    see: Callable[[Emission], None] | None = None,
) -> list[Stream]:
    """Run `plan` with a user for each entry of `starts_s`, who sends the next request when the last answer has ended.

    `starts_s` are the instants of the users' first requests: requests that start together are prefilled together, and a
    closed loop keeps that pattern for long. `turnaround_s` passes between an answer's end and the user's next request.
    `see` is called with every token. Returns the streams in the order sent.
    """
    sends = [round(start * NS_PER_S) for start in starts_s]
    return _play(engine, sends, list(reversed(plan)), round(turnaround_s * NS_PER_S), see)


def open_loop(
    engine: EngineProtocol,
    plan: Sequence[EngineRequest],
    arrivals_s: Sequence[float],
    *,
    see: Callable[[Emission], None] | None = None,
) -> list[Stream]:
    """Run `plan`, each request at its instant in `arrivals_s`, whatever the others do; `see` as in closed_loop."""
    return _play(engine, [round(instant * NS_PER_S) for instant in arrivals_s], list(reversed(plan)), None, see)


def _play(
    engine: EngineProtocol,
    sends: list[int],
    queue: list[EngineRequest],
    again_ns: int | None,
    see: Callable[[Emission], None] | None,
) -> list[Stream]:
    heapq.heapify(sends)
    streams: list[Stream] = []
    while True:
        due = engine.due()
        if sends and queue and (due is None or sends[0] <= due):
            now = heapq.heappop(sends)
            streams.append(engine.submit(queue.pop(), now))
        elif due is None:
            return streams
        else:
            for emission in engine.advance(due):
                if see is not None:
                    see(emission)
                if emission.done and again_ns is not None:
                    heapq.heappush(sends, emission.at + again_ns)
