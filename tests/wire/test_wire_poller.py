"""The poller: every socket that has something is read, at once while arrivals are few, on ticks while they are many."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.wire_client import Echo, run

from loadtest.wire.poller import EPOLL, Poller

LOOPS = ["asyncio", "uvloop"]


async def until(happened: Callable[[], bool]) -> None:
    while not happened():  # noqa: ASYNC110 - what is waited for has no event; `run` bounds it
        await asyncio.sleep(0.001)


def polling(
    loop: str, work: Callable[[Poller], Awaitable[None]], *, ticks: bool, epoll: Callable[[], Any] | None = EPOLL
) -> None:
    async def main() -> None:
        poller = Poller(asyncio.get_running_loop(), ticks=ticks, epoll=epoll)
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
@pytest.mark.parametrize("epoll", [EPOLL, None], ids=["epoll", "without epoll"])
def test_without_ticks_every_arrival_is_read_at_once(loop: str, epoll: Callable[[], Any] | None) -> None:
    async def work(poller: Poller) -> None:
        echo = Echo(poller, 20)
        for i in range(20):
            echo.send(i)
        await until(lambda: min(echo.read) > 100)
        assert not poller.ticking
        echo.close(poller)

    polling(loop, work, ticks=False, epoll=epoll)


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


@pytest.mark.parametrize("epoll", [EPOLL, None], ids=["epoll", "without epoll"])
def test_a_socket_may_be_removed_after_the_end(epoll: Callable[[], Any] | None) -> None:
    async def work(poller: Poller) -> None:
        echo = Echo(poller, 3)
        poller.close()
        assert not poller._callbacks
        echo.close(poller)

    async def main() -> None:
        await work(Poller(asyncio.get_running_loop(), ticks=False, epoll=epoll))

    run("asyncio", main())
