"""The loops that people write: each stream a coroutine or greenlet, lines parsed as they come, the clock read when one is.

    plain.py httpx|aiohttp|wire|wire-gevent URL STREAMS REQUESTS TOKENS PATH OUT

`wire` and `wire-gevent` are this project's sockets alone: no records, nothing decoded while streams run. Runs in a venv
of its own for aiohttp, so nothing of loadtest is imported before it is needed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

WORDS = "The old river found the young village. " * 7


@dataclass(frozen=True)
class Task:
    """What to send where."""

    url: str
    streams: int
    requests: int
    tokens: int
    path: str

    def body(self, number: int) -> dict[str, Any]:
        """Return the number-th request's body."""
        said = [{"role": "user", "content": f"[{number:012d}] {WORDS}"}]
        body: dict[str, Any] = {"model": "llama3.2:1b", "messages": said, "stream": True}
        if self.path.startswith("/v1"):
            return body | {"max_tokens": self.tokens, "stream_options": {"include_usage": True}}
        return body | {"options": {"num_predict": self.tokens}}


@dataclass
class Seen:
    """What was measured, ms; `done_ns` is the end of the last answer on the monotonic clock."""

    ttft_ms: list[float] = field(default_factory=list)
    gaps_ms: list[float] = field(default_factory=list)
    ok: int = 0
    done_ns: int = 0

    def add(self, sent: int, at: list[int]) -> None:
        """Take one answer: when it was sent and when each token was seen, ns."""
        self.done_ns = time.perf_counter_ns()
        if at:
            self.ok += 1
            self.ttft_ms.append((at[0] - sent) / 1e6)
            self.gaps_ms += [(late - early) / 1e6 for early, late in pairwise(at)]


def has_token(line: str) -> bool:
    """Whether a line of either wire carries text."""
    if line.startswith("data: "):
        if line == "data: [DONE]":
            return False
        choices = json.loads(line[6:])["choices"]
        return bool(choices and choices[0]["delta"].get("content"))
    return bool(line) and bool(json.loads(line)["message"]["content"])


async def with_httpx(task: Task, seen: Seen) -> None:
    """Stream through httpx's own transport."""
    import httpx

    async def user(client: httpx.AsyncClient, number: int) -> None:
        for turn in range(task.requests):
            body = task.body(number * task.requests + turn)
            sent = time.perf_counter_ns()
            try:
                async with client.stream("POST", task.url + task.path, json=body) as response:
                    at = [time.perf_counter_ns() async for line in response.aiter_lines() if has_token(line)]
            except httpx.HTTPError:
                continue  # it loses some of a burst: they are missing from `ok`
            seen.add(sent, at)

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=None) as client:
        await asyncio.gather(*(user(client, number) for number in range(task.streams)))


async def with_aiohttp(task: Task, seen: Seen) -> None:
    """Stream through aiohttp, without its limit of 100 connections."""
    import aiohttp

    async def user(session: aiohttp.ClientSession, number: int) -> None:
        for turn in range(task.requests):
            body = task.body(number * task.requests + turn)
            sent = time.perf_counter_ns()
            async with session.post(task.url + task.path, json=body) as response:
                at = [time.perf_counter_ns() async for line in response.content if has_token(line.decode().rstrip())]
            seen.add(sent, at)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        await asyncio.gather(*(user(session, number) for number in range(task.streams)))


def _decoded(task: Task, seen: Seen, wall: Any, all_received: list[Any]) -> None:
    """Turn what the wires received into what was seen, once all is over: that is not the wire's cost."""
    from loadtest.dialects import OllamaChat, OpenAIChat
    from loadtest.measure.request import decode, reads_of

    dialect = (OpenAIChat if task.path.startswith("/v1") else OllamaChat)("llama3.2:1b")
    done = seen.done_ns
    for received in all_received:
        reads = received.reads(wall)
        events, _ = decode(dialect, reads.body)
        seen.add(received.t_send or 0, [reads.t[i] for i in reads_of(events, reads)])
    seen.done_ns = done


async def with_wire(task: Task, seen: Seen) -> None:
    """This project's wire on asyncio, and nothing above it."""
    from loadtest.wire import AsyncWire, Order, Posts, kernel_stamping

    kept = []

    async def user(wire: AsyncWire, orders: list[Order]) -> None:
        for order in orders:
            await wire.fetch(order)
            kept.append(order.received)
            seen.done_ns = time.perf_counter_ns()

    with kernel_stamping():
        async with AsyncWire() as wire:
            plan = _orders(task, Posts(task.url))
            await wire.prepare(task.url, task.streams)
            gc.collect()
            gc.disable()
            await asyncio.gather(*(user(wire, orders) for orders in plan))
            _decoded(task, seen, wire.heartbeat.wall, kept)


def with_wire_gevent(task: Task, seen: Seen) -> None:
    """This project's wire on gevent's hub, and nothing above it."""
    import gevent

    from loadtest.users.processes.gevent_hub import GeventWaiter
    from loadtest.wire import Order, Posts, SyncWire, WallClock, kernel_stamping

    kept = []

    def user(wire: SyncWire, orders: list[Order]) -> None:
        for order in orders:
            wire.fetch(order)
            kept.append(order.received)
            seen.done_ns = time.perf_counter_ns()

    wall = WallClock()
    wire = SyncWire(waiter=GeventWaiter())
    with kernel_stamping():
        plan = _orders(task, Posts(task.url))
        wire.prepare(task.url, task.streams)
        gc.collect()
        gc.disable()
        gevent.joinall([gevent.spawn(user, wire, orders) for orders in plan])
        wall.sample()
        _decoded(task, seen, wall, kept)


def _orders(task: Task, posts: Any) -> list[list[Any]]:
    """Return each stream's requests, built before the clock."""
    from loadtest.wire import Received

    return [
        [
            posts.order(task.path, json.dumps(task.body(number * task.requests + turn)).encode(), Received())
            for turn in range(task.requests)
        ]
        for number in range(task.streams)
    ]


LOOPS: dict[str, Callable[[Task, Seen], Coroutine[Any, Any, None]]] = {
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
    "wire": with_wire,
}


def main() -> None:
    """Run one loop and write what it saw."""
    name, url, streams, requests, tokens, path, out = sys.argv[1:]
    task, seen = Task(url, int(streams), int(requests), int(tokens), path), Seen()
    if name == "wire-gevent":
        with_wire_gevent(task, seen)
    else:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(LOOPS[name](task, seen))
    Path(out).write_text(json.dumps(vars(seen)))


if __name__ == "__main__":
    main()
