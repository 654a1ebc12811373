"""What Locust's users expect to work as it always did: --reset-stats, --class-picker, waits, run_single_user."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from support.locust_runs import Start, free_port, starting
from support.places import SCENARIOS

from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder

TWO_KINDS = """
from locust import constant, task
from loadtest.users import OllamaUser, OpenAIUser

class Native(OllamaUser):
    @task
    def ask(self):
        self.client.chat(output_tokens=4)

class Compatible(OpenAIUser):
    wait_time = constant(0.05)

    @task
    def complete(self):
        self.client.completions(output_tokens=4)
"""
QUITS = """
from locust import events, task
from loadtest.users import OllamaUser

class Quits(OllamaUser):
    sent = 0

    @task
    def ask(self):
        self.client.ask(output_tokens=4)
        self.sent += 1
        if self.sent > 5:
            self.environment.runner.quit()

@events.test_stop.add_listener
def stopped(environment, **_):
    print("seen at the stop:", environment.stats.total.num_requests)
"""
BESIDE = """
from locust import HttpUser, constant, task
from loadtest.users import OllamaUser, OpenLoopUser

class Model(OllamaUser):
    @task
    def ask(self):
        self.client.ask(output_tokens=4)

class Due(OpenLoopUser):
    fixed_count, rate, output_tokens = 1, 5, 4

class Page(HttpUser):
    weight = 2
    wait_time = constant(0.1)

    @task
    def look(self):
        self.client.get("/api/version", name="look")
"""
SCHEDULED = """
from locust import LoadTestShape
from loadtest.users import OpenLoopUser

class Often(OpenLoopUser):
    arrivals, rate, output_tokens = "constant", 20, 2

class Seldom(Often):
    rate = 10

class Fewer(LoadTestShape):
    def tick(self):
        at = self.get_run_time()
        return (6, 99) if at < 2 else (2, 4) if at < 4 else None
"""
SLOWLY_TRIED = """
import gevent
from loadtest.users.processes import coordinator

prepare = coordinator.prepare

def as_if_a_model_were_loaded(*how):
    gevent.sleep(1.5)
    return prepare(*how)

coordinator.prepare = as_if_a_model_were_loaded
"""
SINGLE = """
from locust import run_single_user, task
from locust.exception import StopUser
from loadtest.users import OllamaUser

class One(OllamaUser):
    host = "{url}"

    @task
    def once(self):
        print("said", len(self.client.chat(output_tokens=3).text) > 0)
        self.client.generate(output_tokens=2)
        raise StopUser

if __name__ == "__main__":
    run_single_user(One)
"""


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


def test_reset_stats_resets_our_figures_with_those_of_locust_and_keeps_the_records(
    start: Start, simulated_url: str
) -> None:
    options = ("-u", "4", "-r", "2", "-t", "3s", "--host", simulated_url, "--output-tokens", "4", "--reset-stats")
    run = start(SCENARIOS / "chat.py", *options)
    assert run.code in (0, 3), run.said  # 3: a busy test machine may void what it could not measure
    total = run.streams["Aggregated"]
    ended = sum(record.outcome is not Outcome.CANCELLED for record in run.records)
    assert total["requests"] + total["warmup"] == run.locust_requests
    assert 0 < run.locust_requests < ended - 4


def test_the_class_picker_runs_who_was_picked_and_each_start_is_a_run(simulated_url: str, tmp_path: Path) -> None:
    (tmp_path / "locustfile.py").write_text(TWO_KINDS)
    port = free_port()
    command = [sys.executable, "-m", "locust", "--class-picker", "--web-host", "127.0.0.1", "--web-port", str(port)]
    with subprocess.Popen([*command, "--host", simulated_url, "--out", "run"], cwd=tmp_path) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as web:
                for picked, dialect, path in (
                    ("Compatible", "openai-completions", "run"),
                    ("Native", "ollama-chat", "run-2"),
                ):
                    records = swarm(web, process, picked, tmp_path / path)
                    assert {record.dialect for record in records} == {dialect}
                    assert RunFolder.open(tmp_path / path).read_run()["locust"]["user_classes"] == [picked]
        finally:
            process.terminate()
    spans = [(record.t_sched, record.t_end) for record in RunFolder.open(tmp_path / "run").records()]
    assert all(after[0] - before[1] >= 50_000_000 for before, after in pairwise(spans))  # wait_time of its one user


def test_a_start_from_the_web_ui_is_timed_stopped_and_interrupted_as_its_page_says(
    simulated_url: str, tmp_path: Path
) -> None:
    """While a server was tried the run time ran out, or was forgotten, and a second test could not be stopped."""
    (tmp_path / "locustfile.py").write_text(TWO_KINDS + SLOWLY_TRIED)
    port = free_port()
    command = [sys.executable, "-m", "locust", "--web-host", "127.0.0.1", "--web-port", str(port)]
    process = subprocess.Popen([*command, "--host", simulated_url, "--out", "run"], cwd=tmp_path)

    def eventually(path: str, state: str) -> None:
        until = time.monotonic() + 30
        file = tmp_path / path / "run.json"
        while not (file.exists() and RunFolder.open(file.parent).read_run()["state"] == state):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)  # polling another process

    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, transport=httpx.HTTPTransport(retries=8)
        ) as web:
            users = {"user_count": "2", "spawn_rate": "2"}
            for path in ("run", "run-2"):
                assert web.post("/swarm", data={**users, "run_time": "1"}).json()["success"]
                eventually(path, "done")
            web.post("/swarm", data=users)
            web.post("/stop")
            web.post("/swarm", data=users)
            eventually("run-3", "running")
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
    finally:
        process.kill()
    assert RunFolder.open(tmp_path / "run-3").read_run()["state"] == "interrupted"


def swarm(web: httpx.Client, process: subprocess.Popen[bytes], picked: str, folder: Path) -> list[Record]:
    """Start one user of the picked class from the web UI, see some records on disk, stop, and return them all."""
    started = False
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert process.poll() is None
        if not started:
            with contextlib.suppress(httpx.ConnectError):  # not yet listening
                answer = web.post("/swarm", data={"user_count": 1, "spawn_rate": 1, "user_classes": picked}).json()
                assert answer["success"], answer
                started = True
        elif (folder / "run.json").exists() and len(list(RunFolder.open(folder).records())) > 3:
            break
        time.sleep(0.05)  # polling another process
    else:
        raise AssertionError(picked)
    assert web.post("/stop").json()["success"]
    return list(RunFolder.open(folder).records())


def test_a_task_that_quits_ends_its_test_whole(start: Start, simulated_url: str) -> None:
    """Locust kills the task by its own call, in the middle of what ends the records."""
    run = start(QUITS, "-u", "1", "-t", "20", "--host", simulated_url)
    assert run.code in (0, 3), run.said  # 3: of six requests one is warm-up, so a busy test machine may void the level
    assert run.facts["state"] == "done"
    assert len(run.records) == run.locust_requests == 6
    assert "seen at the stop: 6" in run.said


def test_a_task_that_exits_loses_no_record(start: Start, simulated_url: str) -> None:
    """SystemExit ends Locust without any of its events; the last records were in no file."""
    run = start(QUITS.replace("self.environment.runner.quit()", "raise SystemExit(7)"), "--host", simulated_url)
    assert run.code == 7, run.said
    assert run.facts["state"] == "interrupted"
    assert len(run.records) == 6
    assert "Traceback" not in run.said


def test_the_users_of_a_level_are_those_of_models(start: Start, simulated_url: str) -> None:
    """Users of other classes were counted with them, as if they sent streams too, and so were those of an open loop."""
    run = start(BESIDE, "-u", "7", "-r", "99", "-t", "2", "--host", simulated_url)
    assert run.code in (0, 3), run.said
    assert [(level["concurrency"], level["rate"]) for level in run.facts["levels"]] == [(2, 5.0)]
    assert len({record.user for record in run.records}) == 3  # None of them is of the open loop
    assert run.stats["look"]["num_requests"] == run.locust_requests - len(run.records) + cancelled(run.records) > 0


def test_each_open_loop_keeps_its_schedule_while_users_are_stopped(start: Start, simulated_url: str) -> None:
    """One class alone sent, and whoever took over from a stopped user sent again all that had been due since the start."""
    run = start(SCHEDULED, "--host", simulated_url)
    assert run.code in (0, 3), run.said
    assert {(level["concurrency"], level["rate"]) for level in run.facts["levels"]} == {(None, 30.0)}
    due = Counter(record.t_sched for record in run.records)
    assert max(due.values()) <= 2, due  # one of each class
    assert len(run.records) < 30 * (max(due) - min(due)) / 1e9 + 3


def cancelled(records: list[Record]) -> int:
    return sum(record.outcome is Outcome.CANCELLED for record in records)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_single_user_runs_without_a_runner(tmp_path: Path, simulated_url: str, recorded: bool) -> None:
    (tmp_path / "single.py").write_text(SINGLE.format(url=simulated_url))
    more = {"LOCUST_OUT": "run"} if recorded else {}
    done = subprocess.run(
        [sys.executable, "single.py"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "said True" in done.stdout
    assert done.stdout.count("/api/") == 2  # Locust's own listing: one event a request
    assert not (tmp_path / "runs").exists()
    if recorded:
        folder = RunFolder.open(tmp_path / "run")
        assert [record.asked for record in folder.records()] == [3, 2]
        assert folder.read_run()["state"] == "done"


def test_a_single_user_that_is_interrupted_leaves_a_marked_folder(tmp_path: Path, simulated_url: str) -> None:
    (tmp_path / "single.py").write_text(SINGLE.replace("        raise StopUser\n", "").format(url=simulated_url))
    run = subprocess.Popen([sys.executable, "single.py"], cwd=tmp_path, env={**os.environ, "LOCUST_OUT": "run"})
    requests = tmp_path / "run" / "requests-0.jsonl"
    until = time.monotonic() + 40
    while not (requests.exists() and requests.read_bytes().count(b"\n") > 3):
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    assert run.wait(40) != 0
    assert RunFolder.open(tmp_path / "run").read_run()["state"] == "interrupted"
