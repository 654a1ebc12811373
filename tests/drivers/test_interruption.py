"""What ends a run before its plan is done, under both drivers: the folder says so, one sentence does, and the exit code."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.places import SCENARIOS

from loadtest.measure.interruption import SIGNALS
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder

CHAT = SCENARIOS / "chat.py"
DRIVERS = ("asyncio", "locust")
LIMIT = 80_000  # bytes that a file may have, as on a small disk; more than is tried beforehand
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def start(simulated_url: str, out: Path) -> Iterator[Start]:
    """Give what starts a run of one driver without an end, and waits until it has recorded some requests."""
    started: list[subprocess.Popen[str]] = []

    def begin(driver: str, *, records: int = 8, **how: Any) -> subprocess.Popen[str]:
        if driver == "asyncio":
            options = ["loadtest", "run", "--url", simulated_url, "--concurrency", "4", "--duration", "600"]
        else:
            options = ["locust", "-f", str(CHAT), "--headless", "-u", "4", "-r", "9", "--host", simulated_url]
        command = [sys.executable, "-m", *options, "--output-tokens", "12", "--out", str(out)]
        process: subprocess.Popen[str] = subprocess.Popen(
            command, text=True, cwd=out.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how
        )
        started.append(process)
        requests = out / "requests-0.jsonl"
        until = time.monotonic() + 60
        while process.poll() is None and not (requests.exists() and requests.read_bytes().count(b"\n") > records):
            assert time.monotonic() < until
            os.sched_yield()
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_locust_ends_on_each_signal_as_loadtest_run_does(start: Start, out: Path, number: int) -> None:
    process = start("locust")
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert RunFolder.open(out).read_run()["state"] == "interrupted"
    outcomes = {record.outcome for record in RunFolder.open(out).records()}
    assert Outcome.OK in outcomes
    assert outcomes <= {Outcome.OK, Outcome.CANCELLED}


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_folder_that_is_removed_ends_the_run(start: Start, out: Path, driver: str) -> None:
    process = start(driver)
    shutil.rmtree(out)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert said.count(f"{out} was removed while the run wrote to it") >= 1, said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_full_disk_ends_the_run_and_costs_no_whole_line(start: Start, out: Path, driver: str) -> None:
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))

    process = start(driver, preexec_fn=small_disk)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert f"cannot write {out / 'requests-0.jsonl'}: file too large" in said, said
    assert "Traceback" not in said
    assert (out / "requests-0.jsonl").read_bytes().endswith(b"\n")
    assert len(list(RunFolder.open(out).records())) > 8
    facts = RunFolder.open(out).read_run()
    assert facts["state"] == "failed"
    assert "lost" in facts["failure"]
    assert not (out / "run.json.partial").exists()


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_was_ignored_stays_ignored(start: Start, out: Path, driver: str) -> None:
    """A run under nohup outlives its terminal."""
    process = start(driver, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    before = (out / "requests-0.jsonl").stat().st_size
    until = time.monotonic() + 60
    while (out / "requests-0.jsonl").stat().st_size == before:
        assert process.poll() is None
        assert time.monotonic() < until
        os.sched_yield()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_a_signal_while_modules_are_imported_is_one_sentence(tmp_path: Path, number: int) -> None:
    (tmp_path / "click.py").write_text(f"import os, signal\nos.kill(os.getpid(), {int(number)})\nsignal.pause()\n")
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    command = [sys.executable, "-m", "loadtest", "--help"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "loadtest: interrupted.\n")
