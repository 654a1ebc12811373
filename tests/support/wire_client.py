"""Both shells of the wire, asked the same: what tests of real sockets share."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from loadtest.dialects.base import EndMarks
from loadtest.wire import AsyncWire, Order, Origin, Received, SyncWire, Timeouts
from loadtest.wire.connecting.address import Addresses
from loadtest.wire.poller import Poller
from support.received import Reader

T = TypeVar("T")

KINDS = ["sync", "asyncio", "uvloop"]
WAITERS = [*KINDS, "gevent"]  # every way to wait that there is
PATIENT = Timeouts(connect=10, first_token=10, idle=10, total=20)  # what hangs fails


def run(kind: str, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on the loop that `kind` names; what hangs fails."""

    async def limited() -> T:
        async with asyncio.timeout(20):
            return await main

    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if kind == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(limited())


@dataclass
class Got:
    """What became of one request and of what was received."""

    received: Received = field(default_factory=Received)
    error: httpx.TransportError | None = None


def ask(
    kind: str,
    *requests: httpx.Request,
    addresses: Addresses | None = None,
    received: Received | None = None,
    ends: EndMarks | None = None,
    limits: Timeouts | None = None,
    origin: Origin | None = None,
    **options: Any,
) -> list[Got]:
    """Have requests measured one after the other over one wire, each to its end; `received` is the first one's.

    With `ends` all the others look for these. With `origin` requests go there, whatever their URLs say.
    """
    options.setdefault("timeouts", PATIENT)
    if kind == "gevent":
        waiter = gevent_waiter()
        try:
            return ask(
                "sync",
                *requests,
                addresses=addresses,
                received=received,
                ends=ends,
                limits=limits,
                origin=origin,
                waiter=waiter,
                **options,
            )
        finally:
            waiter.close()
    wire = SyncWire(**options) if kind == "sync" else AsyncWire(**options)
    wire._addresses = addresses or wire._addresses
    got = [
        Got(received if received is not None and i == 0 else Received(Reader(ends=ends))) for i in range(len(requests))
    ]
    if isinstance(wire, SyncWire):
        with wire:
            for request, one in zip(requests, got, strict=True):
                try:
                    wire.fetch(Order.of(request, one.received, limits, origin=origin))
                except httpx.TransportError as error:
                    one.error = error
        return got

    async def main() -> None:
        async with wire:
            for request, one in zip(requests, got, strict=True):
                try:
                    await wire.fetch(Order.of(request, one.received, limits, origin=origin))
                except httpx.TransportError as error:
                    one.error = error

    run(kind, main())
    return got


def trusting(authority: Path | None) -> ssl.SSLContext:
    """Return a context that trusts this authority; None: anybody."""
    context = ssl.create_default_context(cafile=authority)
    if authority is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def gevent_waiter() -> Any:
    """Return a waiter on gevent's hub; without Locust's patches, under which the tests' threads would be greenlets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
        from loadtest.users.processes.gevent_hub import GeventWaiter

    return GeventWaiter()


class Echo:
    """Sockets of which each arrival makes the next, until told to rest."""

    def __init__(self, poller: Poller, count: int) -> None:
        self.pairs = [socket.socketpair() for _ in range(count)]
        self.read = [0] * count
        self.resting = False
        for i, (ours, _) in enumerate(self.pairs):
            ours.setblocking(False)
            poller.add(ours.fileno(), self._reader(i))

    def _reader(self, i: int) -> Callable[[], None]:
        def arrived() -> None:
            self.read[i] += len(self.pairs[i][0].recv(10))
            if not self.resting:
                self.send(i)

        return arrived

    def send(self, i: int) -> None:
        self.pairs[i][1].send(b"x")

    def close(self, poller: Poller) -> None:
        for ours, theirs in self.pairs:
            poller.remove(ours.fileno())
            ours.close()
            theirs.close()
