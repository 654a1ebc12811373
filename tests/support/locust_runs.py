"""Locust as people run it: processes of `locust --headless`, and what each leaves on disk."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loadtest.records import Record
from loadtest.run_folder import RunFolder

CHAT = """
import os
import gevent
from locust import LoadTestShape, task
from locust.exception import StopUser
from loadtest.users import ModelUser

begun = 0

class Chat(ModelUser):
    input_tokens, output_tokens = 16, 4

    def on_start(self):
        global begun
        begun += 1
        if begun > int(os.environ.get("STAYING", "1000")):
            raise StopUser

    @task
    def ask(self):
        self.client.ask()
        gevent.sleep(float(os.environ.get("HOLD", "0")))
"""
USERS = ("-u", "4", "-r", "9")


@dataclass(frozen=True, slots=True)
class Run:
    """A Locust run that is under way, then everything it left."""

    place: Path
    process: subprocess.Popen[bytes]

    @property
    def code(self) -> int:
        return self.process.wait(150)

    @property
    def said(self) -> str:
        return (self.place / "log").read_text()

    @property
    def folder(self) -> RunFolder:
        return RunFolder.open(self.place / "run")

    @property
    def records(self) -> list[Record]:
        return list(self.folder.records())

    @property
    def facts(self) -> dict[str, Any]:
        return self.folder.read_run()

    @property
    def stats(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads((self.place / "stats.json").read_text())}

    @property
    def streams(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads((self.place / "stats_streams.json").read_text())}

    @property
    def locust_requests(self) -> int:
        return sum(row["num_requests"] for row in self.stats.values())

    def wait_for(self, true: Callable[[], bool]) -> None:
        """Poll what the process leaves on disk until it is true: it gives no other sign."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            assert self.process.poll() is None, self.said
            begun = (self.place / "run" / "run.json").exists() and next(iter(self.folder.requests()), None)
            if begun and true():
                return
            time.sleep(0.02)
        raise AssertionError(self.said)


Start = Callable[..., Run]


@contextlib.contextmanager
def starting(places: pytest.TempPathFactory) -> Iterator[Start]:
    """Give what starts headless runs, several at a time; none is left behind.

    Locust prints its tables where `stats` is False, else writes them to stats.json.
    """
    runs: list[Run] = []

    def begin(locustfile: Path | str, *options: str, env: dict[str, str] | None = None, stats: bool = True) -> Run:
        place = places.mktemp("locust")
        if isinstance(locustfile, str):
            (place / "locustfile.py").write_text(locustfile)
            locustfile = place / "locustfile.py"
        command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary"]
        command += ["--out", "run", *(("--json-file", "stats") if stats else ()), *options]
        if "--processes" in options:
            port = str(free_port())
            command += ["--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log, env={**os.environ, **(env or {})})
        runs.append(Run(place, process))
        return runs[-1]

    try:
        yield begin
    finally:
        for run in runs:
            if run.process.poll() is None:
                run.process.kill()
            run.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def eventually(run: Run, true: Callable[[], bool]) -> None:
    until = time.monotonic() + 40
    while not true():
        assert run.process.poll() is None, run.said
        assert time.monotonic() < until, run.said
        time.sleep(0.02)


def children_of(run: Run) -> list[str]:
    return Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children").read_text().split()


def reasons(run: Run) -> list[str]:
    return [line.strip() for line in run.said.partition("Verdict:")[2].splitlines()]
