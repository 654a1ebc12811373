"""The poller: every socket that has something is read, at once while arrivals are few, on ticks while they are many."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest
from wire_client import run

from loadtest.measure.wire import poller as module
from loadtest.measure.wire.poller import Poller

LOOPS = ["asyncio", "uvloop"]


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


async def until(happened: Callable[[], bool]) -> None:
    while not happened():  # noqa: ASYNC110 - what is waited for has no event; `run` bounds it
        await asyncio.sleep(0.001)


def polling(loop: str, work: Callable[[Poller], Awaitable[None]], *, ticks: bool) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop(), ticks=ticks)
        try:
            await work(poller)
        finally:
            poller.close()

    run(loop, main())


@pytest.mark.skipif(sys.platform != "linux", reason="ticks need a timer of the Linux kernel")
@pytest.mark.parametrize("loop", LOOPS)
def test_many_arrivals_are_read_on_ticks_and_few_at_once_again(loop: str) -> None:
    async def work(poller: Poller) -> None:
        echo = Echo(poller, 50)
        for i in range(50):
            echo.send(i)
        await until(lambda: poller.ticking)
        before = sum(echo.read)
        await until(lambda: sum(echo.read) > before + 500)  # it reads on while it ticks
        echo.resting = True
        await until(lambda: not poller.ticking)
        rest = sum(echo.read)
        echo.send(7)
        await until(lambda: sum(echo.read) == rest + 1)
        assert min(echo.read) > 0
        echo.close(poller)

    polling(loop, work, ticks=True)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_without_ticks_every_arrival_is_read_at_once(loop: str, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if platform != sys.platform:
        monkeypatch.setattr(module, "sys", SimpleNamespace(platform=platform))

    async def work(poller: Poller) -> None:
        echo = Echo(poller, 20)
        for i in range(20):
            echo.send(i)
        await until(lambda: min(echo.read) > 100)
        assert not poller.ticking
        echo.close(poller)

    polling(loop, work, ticks=False)


@pytest.mark.parametrize("loop", LOOPS)
def test_who_is_removed_by_another_s_callback_is_not_called(loop: str) -> None:
    async def work(poller: Poller) -> None:
        called: list[int] = []
        pairs = [socket.socketpair() for _ in range(2)]

        def first_of(i: int) -> Callable[[], None]:
            def arrived() -> None:
                called.append(i)
                for ours, _ in pairs:
                    poller.remove(ours.fileno())

            return arrived

        for i, (ours, theirs) in enumerate(pairs):
            poller.add(ours.fileno(), first_of(i))
            theirs.send(b"x")
        await until(lambda: bool(called))
        await asyncio.sleep(0)
        assert len(called) == 1
        for pair in pairs:
            for one in pair:
                one.close()

    polling(loop, work, ticks=False)
