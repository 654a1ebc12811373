"""Users who hang up, over real sockets: both drivers, and what the server then does, with llama.cpp's /slots as witness."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import llamacpp
from support.locust_runs import Start, starting

from loadtest.cli.demo import simulated_server
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.wire import now

Call = Callable[..., tuple[int, str, str]]
S = 1_000_000_000


@pytest.fixture(scope="module")
def one_slot() -> Iterator[str]:
    """An answer of 64 tokens takes this server two seconds, and it gives one at a time."""
    with simulated_server("--profile", "cpu-98m", "--slots", "1", "--warm") as url:
        yield url


def left_of(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """Return who left before the first token, and who left in mid-answer."""
    left = [record for record in records if record.outcome is Outcome.LEFT]
    return [one for one in left if one.t_first_token is None], [one for one in left if one.t_first_token is not None]


def pieces_of(record: Record) -> int:
    """Return after how many pieces of the answer its user left."""
    found = re.search(r"after (\d+) of 24 expected tokens", record.error or "")
    assert found is not None, record.error
    return int(found[1])


def test_the_asyncio_driver_hangs_up_in_time_and_in_mid_answer(loadtest: Call, one_slot: str, tmp_path: Path) -> None:
    keys = ("--concurrency", "4", "--requests", "24", "--input-tokens", "16", "--output-tokens", "24")
    how = ("--patience", "0.8", "--leave", "50%", "--seed", "2", "--stop-after-errors", "2")
    code, _, err = loadtest("run", one_slot, *keys, *how, "--out", tmp_path / "a", "--no-report")
    assert code in (0, 3), err
    records = list(RunFolder.open(tmp_path / "a").records())
    waiting, reading = left_of(records)
    assert len(records) == 28, "each of them is a row, and nobody gave the level up for users who left"
    assert waiting
    assert reading
    for record in waiting:
        assert (record.t_end - (record.t_send or 0)) / S == pytest.approx(0.8, abs=0.2)
        assert "hung up after 0.8 s without a token" in (record.error or "")
    for record in reading:
        assert pieces_of(record) <= len(record.chunks) <= 24  # a read may bring more than one
    loadtest("run", one_slot, *keys, *how, "--out", tmp_path / "b", "--no-report")
    again = {one.id: pieces_of(one) for one in left_of(list(RunFolder.open(tmp_path / "b").records()))[1]}
    assert again.keys() & {one.id for one in reading}
    assert all(again.get(one.id, pieces_of(one)) == pieces_of(one) for one in reading), "the same seed, the same place"
    (level,) = json.loads((tmp_path / "a" / "summary.json").read_bytes())["levels"]
    assert level["left"]["waiting"] + level["left"]["in_answer"] == level["outcomes"]["left"]
    assert level["ttft_s"]["left"] == level["left"]["waiting"]
    assert not any(one["cause"] == "too_many_failed" for one in level["causes"])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


LOCUSTFILE = """
from loadtest.users import ModelUser
from locust import task

class Chat(ModelUser):
    warmup = 0
    leave = "40%"

    @task
    def ask(self):
        answer = self.client.chat()
        assert answer.left != answer.ok
"""


def test_locust_users_hang_up_alike_and_no_failure_is_counted(start: Start, one_slot: str) -> None:
    options = ("-u", "3", "-r", "10", "-t", "8s", "--host", one_slot, "--patience", "0.7", "--output-tokens", "16")
    run = start(LOCUSTFILE, *options, "--input-tokens", "16", "--max-failure-ratio", "0")
    assert run.code in (0, 3), run.said
    waiting, reading = left_of(run.records)
    assert waiting
    assert reading
    assert all((one.t_end - (one.t_send or 0)) / S == pytest.approx(0.7, abs=0.3) for one in waiting)
    assert sum(row["num_failures"] for row in run.stats.values()) == 0, run.said
    assert "users hung up" in run.said
    assert "gate --max-failure-ratio 0: passed" in run.said


@contextlib.contextmanager
def deaf_hop(port: int) -> Iterator[str]:
    """A hop that goes on reading from the server when its client has gone, as some proxies do."""
    opened: list[socket.socket] = []

    def pass_on(source: socket.socket, sink: socket.socket, *, end: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with contextlib.suppress(OSError):
                    sink.sendall(data)
            if end:
                sink.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = gate.accept()[0]
                server = socket.create_connection(("127.0.0.1", port))
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    opened.append(one)
                for pair, end in (((client, server), False), ((server, client), True)):
                    threading.Thread(target=pass_on, args=pair, kwargs={"end": end}, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=64) as gate:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{gate.getsockname()[1]}"
        gate.shutdown(socket.SHUT_RDWR)
    for one in opened:
        one.close()


@contextlib.contextmanager
def watching(url: str) -> Iterator[list[tuple[int, int]]]:
    """Sample how many slots are at work while inside: (monotonic ns, slots)."""
    seen: list[tuple[int, int]] = []
    over = threading.Event()

    def watch() -> None:
        with httpx.Client(trust_env=False) as client:
            while not over.wait(0.01):
                before = now()
                with contextlib.suppress(httpx.TransportError):
                    rows = client.get(f"{url}/slots").json()
                    seen.append(((before + now()) // 2, sum(row["is_processing"] for row in rows)))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def unseen_s(seen: list[tuple[int, int]], folder: Path) -> float:
    """Return for how many slot-seconds slots were at work without a stream of ours, from the first to the last answer."""
    ((header, _),) = RunFolder.open(folder).requests()
    records = list(RunFolder.open(folder).records())
    begin = min(record.t_send for record in records if record.t_send is not None) + header.monotonic_ns
    until = max(record.t_end for record in records) + header.monotonic_ns
    busy = sum(n * max(min(at, until) - max(before, begin), 0) for (before, n), (at, _) in itertools.pairwise(seen))
    ours = sum(record.t_end - record.t_headers for record in records if record.t_headers is not None)
    return (busy - ours) / S


@pytest.mark.parametrize("deaf", [False, True])
def test_how_long_llama_cpp_works_for_nobody_agrees_with_its_own_slots(
    loadtest: Call, llamacpp_model: Path, tmp_path: Path, *, deaf: bool
) -> None:
    keys = ("--concurrency", "4", "--requests", "40", "--input-tokens", "32", "--output-tokens", "80", "--warmup", "0")
    with llamacpp.serving(llamacpp_model, slots=2, context=512) as url, contextlib.ExitStack() as stack:
        port = int(url.rpartition(":")[2])
        asked = stack.enter_context(deaf_hop(port)) if deaf else url
        with watching(url) as seen:
            loadtest("run", asked, *keys, "--leave", "30%", "--seed", "5", "--out", tmp_path / "run", "--no-report")
    summary: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_bytes())
    left = summary["levels"][0]["left"]
    assert left["in_answer"] >= 5
    assert left["worked_on"] is deaf
    witness = unseen_s(seen, tmp_path / "run")
    assert left["worked_on_s"] == pytest.approx(witness, rel=0.25, abs=1.0)
