"""The backlog: what can wait is done when the sockets are quiet, and never all at the cost of what cannot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from loadtest.measure import backlog as module
from loadtest.measure.backlog import AsyncioBacklog, Backlog


def after(milliseconds: int, prepare: Callable[[Backlog], object]) -> int:
    """Give a backlog work, let the loop turn for a while and return how many pieces of it were done."""
    done: list[int] = []

    async def main() -> None:
        backlog = AsyncioBacklog()
        prepare(backlog)
        backlog.add(lambda: done.append(1))
        end = time.perf_counter() + milliseconds / 1000
        while time.perf_counter() < end and not done:  # noqa: ASYNC110 - that nothing happens has no event
            await asyncio.sleep(0.001)

    asyncio.run(main())
    return len(done)


def test_work_is_done_on_a_quiet_loop() -> None:
    assert after(5000, lambda _: None) == 1


@pytest.mark.parametrize(
    "prepare",
    [
        lambda backlog: backlog.released(time.perf_counter_ns() + 10**12),  # a wave that does not end
        lambda backlog: setattr(backlog, "due", time.perf_counter_ns()),  # a request is due at every slice
    ],
    ids=["in a wave", "before what is due"],
)
def test_no_work_is_begun_while_requests_leave(prepare: Callable[[Backlog], object]) -> None:
    assert after(30, prepare) == 0


def test_no_work_is_begun_on_a_busy_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SHARE", -1.0)  # any use of the core is too much
    assert after(30, lambda _: None) == 0


def test_work_that_waited_long_is_done_whatever_else_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_SHARE", -1.0)
    monkeypatch.setattr(module, "LONGEST_NS", 20_000_000)
    assert after(5000, lambda _: None) == 1


def test_flush_does_all() -> None:
    done: list[int] = []

    async def main() -> None:
        backlog = AsyncioBacklog()
        for i in range(5):
            backlog.add(lambda i=i: done.append(i))  # type: ignore[misc]
        backlog.flush()

    asyncio.run(main())
    assert done == [0, 1, 2, 3, 4]


def test_the_longer_work_is_overdue_the_more_of_it_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a core that is full a slice is all that work gets: one of fixed length would let the backlog grow for ever."""
    t = 10**12
    monkeypatch.setattr(time, "perf_counter_ns", lambda: t)
    queue = module.Backlog()
    queue.add(bool)
    slices = []
    for overdue in (10**7, 10**8, 5 * 10**9, 10**11):
        instant = t + module.LONGEST_NS + overdue
        queue._looked = instant - 1_000_000, 0
        slices.append(queue._end(instant) - instant)
    first, second, third, last = slices
    assert first > module.SLICE_NS
    assert second > 4 * first
    assert third == module.LONGEST_SLICE_NS
    assert last > third  # so long overdue, as much is done in a turn as the turn itself takes, and more


def test_the_backlog_of_a_loop_that_seldom_comes_round_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others take the core, a turn of the loop lasts longer than the longest slice, and so does its turn's work."""
    t = 10**12

    def work() -> None:
        nonlocal t
        t += 5_000_000

    monkeypatch.setattr(time, "perf_counter_ns", lambda: t)
    queue = module.Backlog()
    waiting = []
    for _ in range(300):
        queue.rest()
        for _ in range(100):  # half a second of work in each turn of a second
            t += 10_000_000
            queue.add(work)
        queue.work_a_slice()
        waiting.append(len(queue))
    assert max(waiting[150:]) <= max(waiting[:150])
    assert max(waiting) < 2000


def test_a_wave_does_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where others take the core, every look at the clock finds a request that left within the last 2 ms."""
    monkeypatch.setattr(time, "thread_time_ns", lambda: 0)
    queue = module.Backlog()
    queue.add(bool)
    came = queue._work[0][0]
    for waited, works in ((module.LONGEST_WAVE_NS // 2, False), (module.LONGEST_WAVE_NS, True)):
        queue.released(came + waited - 1_000_000)
        assert (queue._end(came + waited) > came + waited) == works
