"""One process, --processes, and a master with workers: real Locust runs whose figures are those of the records on disk."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtest.analyse.run import frames
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder

HALF_BUCKET = 1 / 256
LOCUSTFILE = """
from itertools import count
from locust import constant, task
from loadtest.users import OllamaUser

turns = count()

class Chat(OllamaUser):
    wait_time = constant(0)
    input_tokens, output_tokens = 16, 12

    @task
    def ask(self):
        turn = next(turns) % 5  # not by chance, so that every name has its requests however few there are
        if turn == 1:
            self.client.chat(name="long", output_tokens=40)
        elif turn == 2:
            with self.client.chat(name="wrong", catch_response=True) as answer:
                answer.failure("never right")
        else:
            self.client.chat(name="short")
"""


@dataclass(frozen=True, slots=True)
class Done:
    """A Locust run that has ended, and everything it left."""

    place: Path
    code: int
    said: str

    @property
    def folder(self) -> Path:
        return self.place / "run"

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads((self.place / "out_streams.json").read_text())}

    @property
    def total(self) -> dict[str, Any]:
        return self.rows["Aggregated"]

    @property
    def locust_requests(self) -> int:
        return sum(row["num_requests"] for row in json.loads((self.place / "out.json").read_text()))

    @property
    def records(self) -> list[Record]:
        return list(RunFolder.open(self.folder).records())


class Started:
    """A Locust run under way: the process that decides, and workers of their own."""

    def __init__(self, place: Path, url: str, *options: str, workers: int = 0) -> None:
        self.place = place
        place.mkdir()
        file = place / "locustfile.py"
        file.write_text(LOCUSTFILE)
        port = str(_free_port())
        deciding = ["--headless", "-u", "6", "-r", "100", "--host", url, "--only-summary", *options]
        deciding += ["--out", str(place / "run"), "--json-file", str(place / "out"), "--csv", str(place / "out")]
        if workers:
            deciding += ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
            deciding += ["--expect-workers", str(workers)]
        joining = ["--worker", "--master-host", "127.0.0.1", "--master-port", port]
        self.log = (place / "log").open("wb")
        self.decider = self._start(file, *deciding)
        self.workers = [self._start(file, *joining) for _ in range(workers)]

    def _start(self, file: Path, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "locust", "-f", str(file), *options]
        return subprocess.Popen(command, cwd=self.place, stdout=self.log, stderr=self.log)

    def end(self) -> Done:
        """Wait for the run's end; whatever happens, none of its processes is left behind."""
        try:
            code = self.decider.wait(40)
            for worker in self.workers:
                worker.wait(10)
        finally:
            self.kill()
        return Done(self.place, code, (self.place / "log").read_text())

    def kill(self) -> None:
        for process in (self.decider, *self.workers):
            if process.poll() is None:
                process.kill()
                process.wait()
        self.log.close()

    def recorded(self) -> list[int]:
        """How many requests each worker has on disk, now."""
        return [len(path.read_bytes().splitlines()) - 1 for path in sorted(self.place.glob("run/requests-*.jsonl"))]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _until(true: Callable[[], bool], limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, simulated_url: str) -> dict[str, Done]:
    """The same test run in every way, all at once: the server has room for what they ask."""
    base = tmp_path_factory.mktemp("locust")
    html = ("--html", "page.html")
    short, slow = ("-t", "9s"), ("-t", "9s", "--stop-timeout", "9", "--output-tokens", "200")
    started = {
        "alone": Started(base / "alone", simulated_url, *short, *html, "--max-failure-ratio", "0.9"),
        "processes": Started(
            base / "processes", simulated_url, *short, "--processes", "2", "--min-tokens-per-s", "1e9"
        ),
        "workers": Started(base / "workers", simulated_url, *slow, workers=2),
        "killed": Started(base / "killed", simulated_url, workers=2),
    }
    try:
        _kill_one_worker(started["killed"])
        return {name: one.end() for name, one in started.items()}
    finally:
        for one in started.values():
            one.kill()


def _kill_one_worker(run: Started) -> None:
    """Kill a worker once both have recorded some requests, and end the run once the other has recorded more."""
    _until(lambda: len(run.recorded()) == 2 and min(run.recorded()) > 7)
    os.kill(run.workers[0].pid, signal.SIGKILL)
    before = sum(run.recorded())
    _until(lambda: sum(run.recorded()) > before + 10)
    run.decider.terminate()


@pytest.mark.parametrize("how", ["alone", "processes", "workers"])
def test_totals_are_those_of_the_records_on_disk(done: dict[str, Done], how: str) -> None:
    run = done[how]
    records = run.records
    cancelled = [record for record in records if record.outcome == Outcome.CANCELLED]
    assert run.total["requests"] + run.total["warmup"] + run.total["cancelled"] == len(records) >= 6  # one a user
    assert run.total["cancelled"] == len(cancelled)
    assert run.locust_requests == len(records) - len(cancelled)
    *names, total = run.rows.values()
    assert [row["name"] for row in names] == ["long", "short", "wrong"]
    for key in ("requests", "failures", "cancelled", "warmup", "output_tokens"):
        assert total[key] == sum(row[key] for row in names)
    assert [row["failures"] for row in names] == [0, 0, names[2]["requests"]]  # the test's own code said so


@pytest.mark.parametrize("how", ["alone", "processes", "workers"])
def test_percentiles_are_those_of_all_records(done: dict[str, Done], how: str) -> None:
    total, run = done[how].total, frames.load(done[how].folder)
    good = np.asarray(run.requests["ok"] & ~run.requests["warmup"], dtype=np.bool_)
    for key, values, share in (
        ("ttft_p50_s", run.column("ttft_s")[good], 0.50),
        ("ttft_p95_s", run.column("ttft_s")[good], 0.95),
        ("itl_p50_s", run.itl.of(good), 0.50),
        ("itl_p99_s", run.itl.of(good), 0.99),
        ("tpot_p50_s", run.column("tpot_s")[good], 0.50),
        ("stream_tokens_per_s_p50", run.column("stream_tokens_per_s")[good], 0.50),
        ("queue_wait_p95_s", run.column("queue_wait_s")[good], 0.95),
    ):
        known = values[np.isfinite(values)]
        if not len(known) or (share > 0.5 and len(known) * (1 - share) < 1 - 1e-9):  # a busy machine: warm-ups only
            assert total[key] is None, key
        else:
            assert total[key] == pytest.approx(np.quantile(known, share), rel=HALF_BUCKET, abs=1e-6), key
    tokens, end, send = run.column("output_tokens")[good], run.column("end")[good], run.column("send")[good]
    assert total["output_tokens_per_s"] == pytest.approx(tokens.sum() / (end.max() - send.min()), rel=1e-3)


def test_requests_that_end_within_the_stop_timeout_are_waited_for_and_counted(done: dict[str, Done]) -> None:
    """Locust's master leaves half a second after it told its workers to quit."""
    assert done["workers"].total["cancelled"] == 0


def test_a_killed_worker_loses_no_finished_request(done: dict[str, Done]) -> None:
    run = done["killed"]
    files = sorted(run.folder.glob("requests-*.jsonl"), key=lambda path: path.stat().st_mtime)
    killed, survivor = (len(path.read_bytes().splitlines()) - 1 for path in files)  # less the header
    assert len(run.records) == killed + survivor
    assert killed > 7
    counted = run.total["requests"] + run.total["warmup"] + run.total["cancelled"]
    assert survivor <= counted <= killed + survivor  # what the killed one had not reported is on disk alone
    assert "Traceback" not in run.said


def test_the_table_the_gates_and_the_exit_code(done: dict[str, Done]) -> None:
    for run in done.values():
        assert "Streaming figures (SIMULATED SERVER: profile " in run.said
        assert "Traceback" not in run.said
    assert "gate --max-failure-ratio 0.9: passed" in done["alone"].said
    assert "gate --min-tokens-per-s 1e+09: FAILED" in done["processes"].said
    # Failed requests make Locust exit with 1, a gate that passes makes it 0, and a level that is void 3, as a busy machine may.
    codes = {name: {run.code} for name, run in done.items()}
    assert codes["alone"] <= {0, 3}
    assert codes["processes"] | codes["workers"] <= {1, 3}
    assert codes["killed"] == {130}  # by SIGTERM; the lost worker is said all the same
    assert (
        "was lost (it stopped answering)" in done["killed"].said or "was lost (it did not report" in done["killed"].said
    )


def test_the_page_of_html_carries_the_figures_and_the_charts(done: dict[str, Done]) -> None:
    page = (done["alone"].place / "page.html").read_text(encoding="utf-8")
    _, _, section = page.partition('<section class="loadtest">')
    assert "SIMULATED SERVER" in section
    assert section.count("data:image/png;base64,") == 8  # one level: no lines over load
    assert re.search(r"<td[^>]*>short</td>", section)
