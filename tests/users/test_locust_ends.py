"""How a Locust test ends otherwise than at its time: signals in each phase, too many errors, no users."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psutil
import pytest
from support.locust_runs import CHAT, USERS, Start, children_of, eventually, free_port, reasons, starting
from support.odd_answers import Wire, control, is_trial, plain
from support.odd_server import odd_server

SHAPE = """
class Steps(LoadTestShape):
    def tick(self):
        return 2, 9
"""


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


@pytest.mark.parametrize(
    ("how", "second"), [((), signal.SIGINT), (("--processes", "2"), signal.SIGTERM)], ids=["alone", "workers"]
)
def test_a_second_signal_ends_at_once_and_leaves_a_marked_folder(
    start: Start, simulated_url: str, how: tuple[str, ...], second: signal.Signals
) -> None:
    more = ("--stop-timeout", "300", *how)
    run = start(CHAT, *USERS, "--host", simulated_url, *more, env={"HOLD": "300"}, stats=False)
    run.wait_for(lambda: len(run.records) == 4)
    run.process.send_signal(signal.SIGINT)
    time.sleep(0.5)  # the first may not be over: it waits for tasks that are not
    assert run.process.poll() is None
    workers = [psutil.Process(int(pid)) for pid in children_of(run)]
    run.process.send_signal(second)
    assert run.code == 130, run.said
    assert not psutil.wait_procs(workers, timeout=30)[1]  # they waited for their tasks, as long as --stop-timeout
    assert run.facts["state"] == "interrupted"
    assert f"interrupted again, by {second.name}: ending at once" in run.said
    assert "Traceback" not in run.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_test_with_a_shape_is_interrupted_as_any_other(
    start: Start, simulated_url: str, number: signal.Signals
) -> None:
    """Locust's main is not far enough yet to heed SIGTERM while a shape runs, and calls the test complete after SIGINT."""
    run = start(CHAT + SHAPE, "--host", simulated_url)
    run.wait_for(lambda: len(run.records) > 4)
    run.process.send_signal(number)
    assert run.code == 130, run.said
    assert run.facts["state"] == "interrupted"
    assert "Traceback" not in run.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=lambda number: number.name)
def test_a_signal_while_a_server_is_tried_is_an_interruption(start: Start, number: signal.Signals) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        run = start(CHAT, *USERS, "--host", f"http://127.0.0.1:{silent.getsockname()[1]}", "--api", "ollama")
        silent.settimeout(40)
        asked, _ = silent.accept()
        run.process.send_signal(number)
        assert run.code == 130, run.said
        asked.close()
    assert run.said.count(f"interrupted by {number.name} before the test had begun") == 1
    assert "Traceback" not in run.said
    assert not (run.place / "run").exists()


def test_a_signal_while_a_master_waits_for_workers_is_an_interruption(start: Start, simulated_url: str) -> None:
    port = str(free_port())
    run = start(CHAT, *USERS, "--host", simulated_url, "--master", "--expect-workers", "1", "--master-bind-port", port)
    eventually(run, lambda: "counts tokens: " in run.said)
    time.sleep(0.5)
    run.process.send_signal(signal.SIGTERM)
    assert run.code == 130, run.said
    assert "before the test had begun" in run.said


@pytest.mark.parametrize("how", [(), ("--processes", "2")], ids=["alone", "workers"])
def test_a_hopeless_test_ends_and_says_so(start: Start, how: tuple[str, ...]) -> None:
    wire, calls = Wire("ollama-chat"), iter(range(10**9))

    def answer(request: Any) -> Any:
        if is_trial(request) or next(calls) < 8:
            return wire.good(3)
        return plain(b'{"error": "no GPU now"}', status=b"500 No")

    with odd_server({**control(wire), wire.path: answer}) as server:
        run = start(CHAT, *USERS, "--host", server.url, "--stop-after-errors", "5", *how)
        assert run.code == 3, run.said
    (level,) = run.facts["levels"]
    assert "5 requests in a row failed (--stop-after-errors); the last one: no GPU now" in level["stopped"]
    assert any("5 requests in a row failed" in reason for reason in reasons(run)), run.said
    assert run.said.count("the test ends here") >= 1


def test_a_test_without_users_says_that_nothing_was_sent(start: Start, simulated_url: str) -> None:
    run = start(CHAT, "-u", "0", "-t", "1", "--host", simulated_url)
    assert run.code == 3, run.said
    assert "nothing was sent" in run.said
