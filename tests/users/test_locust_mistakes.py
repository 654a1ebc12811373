"""What goes wrong with a Locust run: one sentence and exit code 2 before it, rows and one sentence a kind within it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.locust_runs import Run, Start, starting
from support.places import SCENARIOS

from loadtest.cli.demo import simulated_server
from loadtest.measure.pacing import BACK_OFF_S
from loadtest.records import Outcome

CHAT = SCENARIOS / "chat.py"
NOWHERE = "http://127.0.0.1:9"
ALONE = """
from locust import run_single_user, task
from loadtest.users import OllamaUser

class Alone(OllamaUser):
    @task
    def once(self):
        self.client.chat()

run_single_user(Alone)
"""
UNTOLD = """
from loadtest.users import OllamaUser

class Untold(OllamaUser):
    pass
"""
AS_HTTP = """
from typing import final
from locust import task
from loadtest.users import OllamaUser, OpenLoopUser

class Web({base}):
    @{mark}
    def {name}(self, *_):
        self.client.get("/")

    @task
    def other(self):
        self.client.ask(output_tokens=4)
"""
FAILS = """
import importlib
from locust import events, task
from loadtest.errors import StorageError
from loadtest.users import OllamaUser

class Chat(OllamaUser):
    @task
    def ask(self):
        self.client.ask(output_tokens=4)

def planted(*_, **__):
    raise {error}

{how}
"""
JUDGES = """
from locust import events, task
from loadtest.users import OllamaUser

class Chat(OllamaUser):
    @task
    def ask(self):
        self.client.ask()

@events.quitting.add_listener
def judge(environment, **_):  # as Locust's documentation has it
    environment.process_exit_code = 1 if environment.stats.total.fail_ratio > 0.01 else 0
"""
PLANT = "setattr(importlib.import_module('loadtest.users.{module}'), '{name}', planted)"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


@pytest.fixture(scope="module")
def refused(start: Start, simulated_url: str) -> dict[str, Run]:
    """Runs that cannot begin, all at once."""
    there = ("-t", "3s", "--host", simulated_url)
    runs = {
        "no host": start(CHAT, "-t", "3s", env={"OLLAMA_HOST": NOWHERE}),
        "down, though no request failed": start(JUDGES, "-t", "3s", "--host", NOWHERE),
        "down, by shape": start(SCENARIOS / "queue_past_four.py", "--host", NOWHERE),
        "no model": start(CHAT, *there, "--model", "nope", "--processes", "2"),
        "no number": start(CHAT, *there, env={"LOCUST_OUTPUT_TOKENS": "many"}),
        "no folder": start(CHAT, *there, "--out", "stats.json/run"),
        "no task": start(CHAT, *there, "--tags", "other"),
        "no task at all": start(UNTOLD, *there),
        "no rate": start(SCENARIOS / "open_loop.py", *there, env={"RATE": "x"}),
    }
    for run in runs.values():
        (run.place / "stats.json").touch()
    return runs


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no host", f"cannot reach {NOWHERE}"),
        ("down, though no request failed", f"cannot reach {NOWHERE}"),
        ("down, by shape", f"cannot reach {NOWHERE}"),
        ("no model", "has no model 'nope'"),
        (
            "no number",
            "--output-tokens must be a whole number above 0 or a distribution like lognormal(800, 0.6), not 'many'.",
        ),
        ("no folder", "stats.json; choose another --out."),
        ("no task", "user class Chat has no task with these tags"),
        (
            "no task at all",
            "user class Untold has no task: mark a method with @task, or the class with abstract = True.",
        ),
        ("no rate", "user class Arrivals: rate must be a number of requests/s, not 'x'."),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(refused: dict[str, Run], name: str, sentence: str) -> None:
    run = refused[name]
    assert run.code == 2, run.said
    assert run.said.count(sentence) == 1, run.said
    assert "Traceback" not in run.said
    assert not (run.place / "run").exists()
    assert not (run.place / "runs").exists()


@pytest.mark.parametrize(
    ("base", "mark", "name", "how"),
    [
        ("OllamaUser", "task", "fetch", ()),
        ("OllamaUser", "final", "on_start", ()),
        ("OpenLoopUser", "final", "arrive", ()),
        ("OllamaUser", "task", "fetch", ("--processes", "2")),
    ],
    ids=["task", "on_start", "open loop", "workers"],
)
def test_a_task_that_uses_its_client_wrongly_ends_the_test_with_a_sentence(
    start: Start, simulated_url: str, base: str, mark: str, name: str, how: tuple[str, ...]
) -> None:
    """It printed a traceback for every iteration, to the end of the test."""
    text = AS_HTTP.format(base=base, mark=mark, name=name)
    run = start(text, "-u", "8", "-r", "99", "-t", "40", "--host", simulated_url, *how)
    assert run.code == 2, run.said
    why = "user class Web (locustfile.py, line 9): Client has no get: a task sends with self.client.chat()"
    assert run.said.count("the test ends here") == 1
    assert "Traceback" not in run.said
    assert run.facts["failure"].startswith(why)


@pytest.mark.parametrize(
    ("how", "error", "sentence", "recorded"),
    [
        (("results.tables", "board_lines"), "KeyError('planted')", "Run folder: ", True),
        (
            ("processes.coordinator", "LocustRun"),
            "KeyError('planted')",
            "loadtest itself failed (KeyError: 'planted').",
            False,
        ),
        (
            ("processes.worker", "_records_folder"),
            "StorageError('planted')",
            "cannot record: planted; the test ends",
            False,
        ),
        ("events.request.add_listener(planted)", "KeyError('planted')", "failed outside of its tasks", True),
        ("events.request.add_listener(planted)  # workers", "KeyError('planted')", "failed outside of its tasks", True),
    ],
    ids=["at the end", "at the begin", "a worker's disk", "a listener", "a listener of workers"],
)
def test_what_fails_outside_of_tasks_is_not_the_exit_code_of_a_mistake(
    start: Start, simulated_url: str, how: tuple[str, str] | str, error: str, sentence: str, *, recorded: bool
) -> None:
    """Locust ends with 2 where a listener of an event raises, and a begin that failed was a test without records."""
    planted = how if isinstance(how, str) else PLANT.format(module=how[0], name=how[1])
    workers = ("--processes", "2") if "worker" in planted else ()
    run = start(
        FAILS.format(how=planted, error=error), "-u", "2", "-r", "9", "-t", "3", "--host", simulated_url, *workers
    )
    assert run.code == 3, run.said
    assert sentence in run.said
    assert bool((run.place / "run").exists() and run.records) == recorded


def test_a_single_user_without_a_server_is_one_sentence_too(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(ALONE)
    done = subprocess.run(
        [sys.executable, "alone.py"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OLLAMA_HOST": NOWHERE},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 2
    assert done.stderr.count(f"cannot reach {NOWHERE}") == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def bereft(start: Start) -> dict[str, Run]:
    """Runs whose server dies under them: one that Locust judges, one that a gate does."""
    three = ("-u", "3", "-r", "9", "--output-tokens", "200")
    with simulated_server("--speed", "20", "--slots", "8", "--warm") as url:
        runs = {
            "plain": start(CHAT, *three, "--host", url, stats=False),
            "gate": start(CHAT, *three, "--host", url, "--max-failure-ratio", "1"),
        }
        for run in runs.values():
            run.wait_for(lambda run=run: len(run.records) > 4)  # type: ignore[misc]
    for run in runs.values():
        run.wait_for(lambda run=run: outcomes(run)[Outcome.CONNECT_ERROR] >= 4)  # type: ignore[misc]
        run.process.terminate()
    return runs


def outcomes(run: Run) -> Counter[Outcome]:
    return Counter(record.outcome for record in run.records)


def test_who_ends_a_run_gets_the_exit_code_of_an_interrupted_one_and_hears_of_its_gates(bereft: dict[str, Run]) -> None:
    assert {name: run.code for name, run in bereft.items()} == {"plain": 130, "gate": 130}
    assert "gate --max-failure-ratio 1: passed" in bereft["gate"].said


def test_a_server_that_dies_leaves_rows_and_a_sentence_for_each_kind_of_failure(bereft: dict[str, Run]) -> None:
    for run in bereft.values():
        assert run.code == 130
        ended = outcomes(run)
        assert set(ended) <= {Outcome.OK, Outcome.TRUNCATED, Outcome.CONNECT_ERROR, Outcome.CANCELLED}
        assert run.facts["state"] == "interrupted"
        (why,) = {record.error for record in run.records if record.outcome == Outcome.CONNECT_ERROR}
        assert why == f"cannot connect to {run.facts['target']['url'].removeprefix('http://')}: connection refused"
        assert "Traceback" not in run.said
    ended = outcomes(bereft["gate"])
    assert bereft["gate"].locust_requests == ended.total() - ended[Outcome.CANCELLED]
    assert bereft["plain"].said.count("connection refused") == 1  # with how often it occurred


def test_a_dead_server_is_not_hammered(bereft: dict[str, Run]) -> None:
    run = bereft["plain"]
    assert run.code == 130
    tried = [record.t_sched for record in run.records if record.outcome == Outcome.CONNECT_ERROR]
    assert len(tried) <= 3 * (1 + (max(tried) - min(tried)) / 1e9 / BACK_OFF_S)
