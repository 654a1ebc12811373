"""Workers and users that come and go: the folder, the verdict and the exit code say so."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.locust_runs import CHAT, USERS, Run, Start, children_of, eventually, free_port, reasons, starting

from loadtest.analyse.summary import analyse
from loadtest.records import Outcome

ORPHANED = f"""{CHAT}
from loadtest.users.processes import worker

worker.ORPHAN_S /= 5  # of 10 s, for which nothing would happen here
"""
TOLD_AT_ITS_END = f"""{CHAT}
import signal
from locust import events

@events.test_stop.add_listener
def interrupt(environment, **_):
    if environment.parsed_options.worker:
        os.kill(os.getpid(), signal.SIGINT)
        gevent.sleep(60)  # in which Locust ends this worker
"""
LATE = f"""{CHAT}
from locust import events

@events.test_start.add_listener
def late(environment, **_):
    if getattr(environment.runner, "worker_index", 0) == 1:
        gevent.sleep(3)
"""
COUNTS = f"""{CHAT}
from locust import argument_parser, events

made, make = [], argument_parser.setup_parser_arguments
argument_parser.setup_parser_arguments = lambda parser: made.append(parser) or make(parser)

@events.test_stop.add_listener
def say(environment, **_):
    if environment.parsed_options.worker:
        print("parsers made:", len(made))
"""
QUITS = CHAT.replace(
    "self.client.ask()\n",
    "if [self.client.ask() for _ in range(3)]:\n            gevent.spawn(self.environment.runner.quit)\n",
)
LAST_REQUESTS = f"""{CHAT}
import signal
from loadtest.users.processes import worker_watch

worker_watch.GRACE_NS //= 10  # of 5 s, for which nothing would happen here
told = []

def last(self):
    if self.environment.parsed_options.worker and not told:
        told.append(os.kill(os.getpid(), signal.SIGINT))
    gevent.sleep(4)  # longer than the 3 s in which Locust's workers report their users
    self.client.ask(output_tokens=5)

Chat.on_stop = last
"""
NEVER_ENDS = f"""{CHAT}
from loadtest.users.processes import worker_watch

worker_watch.ON_STOP_NS //= 30  # of 60 s, for which nothing would happen here
Chat.on_stop = lambda self: gevent.sleep(600)
"""


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


def worker(place: Path, port: str, **how: Any) -> subprocess.Popen[bytes]:
    place.mkdir()
    (place / "chat.py").write_text(CHAT)
    command = [sys.executable, "-m", "locust", "-f", "chat.py", "--worker", "--master-port", port]
    with (place / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=place, stdout=log, stderr=log, **how)


def test_a_worker_that_joins_a_running_test_records_its_share(start: Start, simulated_url: str) -> None:
    """Locust asks such a worker for users before its init event is fired."""
    port = str(free_port())
    master = ("--master", "--expect-workers", "1", "--master-bind-port", port, "--master-bind-host", "127.0.0.1")
    run = start(CHAT, *USERS, "--host", simulated_url, *master)
    workers = [worker(run.place / "first", port)]
    try:
        run.wait_for(lambda: len(run.records) > 4)
        workers.append(worker(run.place / "late", port))
        late = run.place / "run" / "requests-1.jsonl"
        eventually(run, lambda: late.exists() and late.read_bytes().count(b"\n") > 8)
        run.process.send_signal(signal.SIGINT)
        assert run.code == 130
        assert [one.wait(30) for one in workers] == [0, 0]
    finally:
        for one in workers:
            one.kill()
            one.wait()
    said = (run.place / "late" / "log").read_text()
    assert "Traceback" not in said
    assert "Unknown message" not in said
    assert "lost_workers" not in run.facts["locust"]
    ids = [record.id for record in run.records]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("added", "why"),
    [
        ("class Added(Chat):\n    pass\n", "user class Added is missing here"),
        ("Chat.wait_time = lambda self: 1.0\n", "the file of user class Chat is not the master's"),
    ],
)
def test_a_worker_with_another_locustfile_is_refused(start: Start, simulated_url: str, added: str, why: str) -> None:
    """Locust printed a traceback there, or users did other things; and the level seemed to have all its users."""
    port = str(free_port())
    named = ("--master", "--master-bind-port", port, "--expect-workers", "1", "--host", simulated_url)
    run = start(f"{CHAT}\n{added}", *USERS, "-t", "9", *named)
    other = worker(run.place / "other", port)
    assert (run.code, other.wait(40)) == (2, 2), run.said
    assert f"{why}; give every worker the master's locustfile" in run.said
    assert "Traceback" not in (run.place / "other" / "log").read_text()


def test_what_a_worker_sent_that_leaves_in_order_is_in_locust_s_table(start: Start, simulated_url: str) -> None:
    """Locust drops what a worker reports after it has said that it quits."""
    port = str(free_port())
    master = ("--master", "--expect-workers", "2", "--master-bind-port", port, "--master-bind-host", "127.0.0.1")
    run = start(CHAT, *USERS, "--host", simulated_url, *master)
    workers = [worker(run.place / name, port) for name in ("leaves", "stays")]
    try:
        run.wait_for(lambda: len(run.records) > 8)
        workers[0].terminate()
        workers[0].wait(30)
        run.process.send_signal(signal.SIGINT)
        assert run.code == 130
    finally:
        for one in workers:
            one.kill()
            one.wait()
    assert run.locust_requests == sum(record.outcome is not Outcome.CANCELLED for record in run.records)


def test_workers_do_not_outlive_a_master_that_was_killed(start: Start, simulated_url: str) -> None:
    run = start(ORPHANED, *USERS, "--host", simulated_url, "--processes", "2", stats=False)
    run.wait_for(lambda: len(run.records) > 8)
    children = children_of(run)
    run.process.kill()
    assert run.code == -signal.SIGKILL
    until = time.monotonic() + 40  # Locust itself notices after 60
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert run.said.count("the connection to the master was lost 2 s ago: this worker ends") == 2
    assert "Traceback" not in run.said


def test_workers_that_cannot_record_end_the_test_with_their_sentence(start: Start, simulated_url: str) -> None:
    few = (120, 120)  # descriptors: enough for Locust, not for a hundred users of one worker
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (few[0], before[1]))
    port = str(free_port())
    try:
        master = ("--master", "--expect-workers", "1", "--master-bind-port", port, "--master-bind-host", "127.0.0.1")
        run = start(CHAT, "-u", "200", "-r", "200", "--host", simulated_url, *master)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    one = worker(run.place / "w", port, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few))
    try:
        assert run.code == 2, run.said
    finally:
        one.kill()
        one.wait()
    assert "worker 0 cannot record: 200 streams need 264 open files" in run.said
    assert run.facts["state"] == "failed"
    assert "nothing was sent" in run.said


def test_a_refused_test_leaves_no_folder(tmp_path: Path, simulated_url: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    command = [sys.executable, "-m", "locust", "-f", "chat.py", "--headless", "-u", "200", "-r", "200", "-t", "2"]
    (tmp_path / "chat.py").write_text(CHAT)
    done = subprocess.run(
        [*command, "--host", simulated_url, "--out", "run"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )
    assert before == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("200 streams need 264 open files") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("staying", "gone", "how"),
    [("1", 3, ("-t", "4")), ("3", 1, ("-t", "4")), ("1", 2, ("-t", "8", "--processes", "2"))],
    ids=["three", "one", "of workers"],
)
def test_users_that_end_by_themselves_are_missed(
    start: Start, simulated_url: str, staying: str, gone: int, how: tuple[str, ...]
) -> None:
    run = start(CHAT, *USERS, *how, "--host", simulated_url, env={"STAYING": staying})
    assert run.code in ({3} if gone > 1 else {0, 3}), run.said
    assert [level["users_gone"] for level in run.facts["levels"]] == [gone]
    assert any(f"{gone} of 4 users ended by themselves" in reason for reason in reasons(run)), run.said


def test_users_of_a_worker_that_starts_late_are_waited_for(start: Start, simulated_url: str) -> None:
    """Locust waits for them for one second, and requests counted although fewer users ran than the level says."""
    run = start(LATE, *USERS, "--host", simulated_url, "--processes", "2", stats=False)
    eventually(run, lambda: grown(run, [16, 16]))
    run.process.send_signal(signal.SIGINT)
    assert run.code == 130
    began, counted = [], []  # wall clock, ns, by worker
    for path in (run.place / "run").glob("requests-*"):
        head, *records = map(json.loads, path.read_text().splitlines())
        began.append(head["wall_ns"] + min(record["t_sched"] for record in records))
        counted.append(head["wall_ns"] + min(record["t_sched"] for record in records if not record.get("warmup")))
    assert max(began) < min(counted)


def test_a_worker_does_not_make_its_options_anew_whenever_users_start(start: Start, simulated_url: str) -> None:
    """Locust made them for each of a hundred options and each message: 0.4 s in which no answer was read."""
    run = start(COUNTS, *USERS, "-t", "3", "--host", simulated_url, "--processes", "2", stats=False)
    assert run.code in (0, 3), run.said
    counts = [int(line.rpartition(" ")[2]) for line in run.said.splitlines() if line.startswith("parsers made:")]
    assert len(counts) == 2
    assert max(counts) < 5


def test_a_terminal_s_ctrl_c_loses_no_worker(start: Start, simulated_url: str) -> None:
    """It goes to the master and to every worker at once."""
    run = start(CHAT, *USERS, "--host", simulated_url, "--processes", "2", stats=False)
    eventually(run, lambda: grown(run, [4, 4]))
    children = children_of(run)
    for pid in (*map(int, children), run.process.pid):
        os.kill(pid, signal.SIGINT)
    interrupted_whole(run)


@pytest.mark.parametrize("text", [TOLD_AT_ITS_END, LAST_REQUESTS], ids=["ended", "last requests"])
def test_a_worker_that_is_interrupted_while_its_master_ends_it_is_not_lost(
    start: Start, simulated_url: str, text: str
) -> None:
    """It left without a report, or users who were at their last requests were stopped again."""
    run = start(text, *USERS, "--host", simulated_url, "--processes", "2", stats=False)
    eventually(run, lambda: grown(run, [4, 4]))
    run.process.send_signal(signal.SIGINT)
    interrupted_whole(run)
    last = [record.outcome for record in run.records if record.asked == 5]
    assert last == ([Outcome.OK] * 4 if text is LAST_REQUESTS else [])


def test_a_last_request_that_never_ends_does_not_keep_the_test_alive(start: Start, simulated_url: str) -> None:
    run = start(NEVER_ENDS, *USERS, "--host", simulated_url, "--processes", "2", stats=False)
    eventually(run, lambda: grown(run, [4, 4]))
    run.process.send_signal(signal.SIGINT)
    assert run.code == 130, run.said
    assert {lost["why"] for lost in run.facts["locust"]["lost_workers"]} == {"it did not report its end"}


def interrupted_whole(run: Run) -> None:
    assert run.code == 130, run.said
    assert run.facts["state"] == "interrupted"
    assert "lost_workers" not in run.facts["locust"], run.said
    assert "Traceback" not in run.said


def test_a_test_that_users_of_all_workers_end_was_not_interrupted(start: Start, simulated_url: str) -> None:
    run = start(QUITS, *USERS, "-t", "60", "--host", simulated_url, "--processes", "2", stats=False)
    assert run.code in (0, 3), run.said
    assert run.facts["state"] == "done"


def test_a_test_whose_workers_are_ended_was_interrupted(start: Start, simulated_url: str) -> None:
    """It was done, with exit code 0, however early that was."""
    run = start(CHAT, *USERS, "-t", "60", "--host", simulated_url, "--processes", "2", stats=False)
    eventually(run, lambda: grown(run, [4, 4]))
    for pid in children_of(run):
        os.kill(int(pid), signal.SIGTERM)
    assert run.code == 130, run.said
    assert run.facts["state"] == "interrupted"


@pytest.mark.parametrize("how", [(), ("--processes", "2")], ids=["alone", "workers"])
def test_what_is_sent_after_the_stop_counts_nowhere(start: Start, simulated_url: str, how: tuple[str, ...]) -> None:
    """Users leave one by one in --stop-timeout, so that its requests are not of the level; those of workers counted."""
    text = CHAT.replace("self.client.ask()\n", "[self.client.ask() for _ in range(9999)]\n")
    run = start(text, *USERS, "--host", simulated_url, *how, "--stop-timeout", "1", stats=False)
    eventually(run, lambda: grown(run, [8] * (2 if how else 1)))
    run.process.send_signal(signal.SIGINT)
    assert run.code == 130
    last = {record.user: record.warmup for record in run.records if record.outcome is Outcome.OK}
    assert list(last.values()) == [True] * 4


@pytest.mark.parametrize("how", [(), ("--processes", "2")], ids=["alone", "workers"])
def test_a_process_that_was_stopped_is_told_of(start: Start, simulated_url: str, how: tuple[str, ...]) -> None:
    run = start(CHAT, *USERS, "--host", simulated_url, *how, stats=False)
    run.wait_for(lambda: len(run.records) > 16)
    children = children_of(run)
    pid = int(children[-1]) if how else run.process.pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)  # what is measured: a process that does nothing for so long
    os.kill(pid, signal.SIGCONT)
    eventually(run, lambda: longest_gap(run) > 1.4)
    run.process.send_signal(signal.SIGINT)
    assert run.code == 130
    (level,) = analyse(run.folder.path).summary["levels"]
    assert level["verdict"] == "void"
    assert any("the client stood still for up to 1." in reason for reason in level["reasons"]), level["reasons"]


def test_a_worker_that_comes_back_is_told_of_and_its_records_stay(start: Start, simulated_url: str) -> None:
    run = start(CHAT, *USERS, "--host", simulated_url, "--processes", "2", stats=False)
    eventually(run, lambda: grown(run, [4, 4]))
    pid = int(children_of(run)[-1])
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(run, lambda: "was lost (it stopped answering)" in run.said)
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(run, lambda: "is back: what its users sent meanwhile is recorded" in run.said)
    before = [path.read_bytes().count(b"\n") for path in sorted((run.place / "run").glob("requests-*"))]
    eventually(run, lambda: grown(run, before))
    run.process.send_signal(signal.SIGINT)
    assert run.code == 130
    (lost,) = run.facts["locust"]["lost_workers"]
    assert lost["t_ns"] < lost["back_ns"]
    ids = [record.id for record in run.records]
    assert len(ids) == len(set(ids))
    assert "Traceback" not in run.said


def test_users_of_a_test_that_lost_all_its_workers_do_not_start_again(start: Start, simulated_url: str) -> None:
    """Locust ends such a test, and may go on asking for users."""
    run = start(CHAT, "-u", "40", "-r", "2", "--host", simulated_url, "--processes", "2", stats=False)
    eventually(run, lambda: grown(run, [0, 0]))
    pids = [int(pid) for pid in children_of(run)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        eventually(run, lambda: "The last worker went missing" in run.said)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert run.code == 3, run.said
    assert "File exists" not in run.said
    assert "Traceback" not in run.said
    assert len(run.facts["locust"]["lost_workers"]) == 2
    assert run.facts["failure"] == "no worker was left."


def grown(run: Run, before: list[int]) -> bool:
    """Whether each of a run's requests files has more lines than before."""
    after = [path.read_bytes().count(b"\n") for path in sorted((run.place / "run").glob("requests-*"))]
    return len(after) == len(before) and all(now > then for now, then in zip(after, before, strict=True))


def longest_gap(run: Run) -> float:
    """Return the longest time, s, for which a process of the run did not look at its sockets."""
    lines = [line for path in (run.place / "run").glob("samples-driver*") for line in path.read_text().splitlines()[1:]]
    return max((json.loads(line)["loop_gap_us"] * 1e-6 for line in lines), default=0.0)
