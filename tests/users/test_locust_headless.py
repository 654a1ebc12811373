"""Locust run as people run it, headless, against real servers: what is on disk is what Locust counted, and is true."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from support.locust_runs import Run, Start, starting
from support.places import SCENARIOS

from loadtest.analyse.reports.run_again import command
from loadtest.analyse.run import frames
from loadtest.analyse.summary import analyse
from loadtest.cli.demo import simulated_server
from loadtest.records import Outcome, Record, read_lines
from loadtest.workloads.source import nonce_of

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from loadtest.workloads.schedule import instants

# How long runs last from which answers are wanted: on a busy machine 2 s are too few, and `queue` takes longer anyway.
LONG = "8s"
EVERYTHING = """
import sys
from locust import between, constant, events, tag, task
from locust.user.task import TaskSet
from loadtest.users import OllamaUser, OpenAIUser

class Native(OllamaUser):
    wait_time = constant(0.01)
    warmup = 0
    output_tokens = 4

    @tag("kept")
    @task
    class Talk(TaskSet):
        @task
        def talk(self):
            first = self.client.chat("Who are you?", output_tokens=6, name="question")
            said = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": first.text}]
            said.append({"role": "user", "content": "Why?"})
            with self.client.chat(said, name="conversation", catch_response=True) as answer:
                if answer.ok and answer.text:
                    answer.failure("judged")

    @tag("dropped")
    @task
    def never(self):
        self.client.generate(name="dropped")

class Compatible(OpenAIUser):
    wait_time = between(0.01, 0.02)
    warmup = 0

    @tag("kept")
    @task
    def complete(self):
        self.client.completions(input_tokens=20, output_tokens=5, name="completion")

under_way = False

def audit(event, args):
    if under_way and event in ("import", "open") and not str(args[0]).startswith("/proc"):
        print("late:", event, args[0])

@events.spawning_complete.add_listener
def begin(**_):
    global under_way
    under_way = True

def end(**_):
    global under_way
    under_way = False

events.test_stop._handlers.insert(0, end)
sys.addaudithook(audit)
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A simulated server that logs what really happened."""
    path = tmp_path_factory.mktemp("truth") / "truth.jsonl"
    with simulated_server("--slots", "4", "--speed", "5", "--truth", str(path)) as url:
        yield url, path


@pytest.fixture(scope="module")
def runs(start: Start, truth: tuple[str, Path], simulated_url: str, llamacpp_url: str) -> dict[str, Run]:
    """Every run of this module; they share the time of the longest, `queue`, which takes 12 s on a quiet machine."""
    url, _ = truth
    six = ("-u", "6", "-r", "100")
    simulated = ("--host", simulated_url)
    begun = {
        "chat": start(SCENARIOS / "chat.py", *six, "-t", "3s", "--host", url, "--output-tokens", "16"),
        "output": start(SCENARIOS / "output_length.py", "-u", "2", "-t", LONG, *simulated, "--stop-timeout", "30"),
        "input": start(SCENARIOS / "input_length.py", "-u", "2", "-t", LONG, *simulated),
        "everything": start(EVERYTHING, *six, "-t", LONG, *simulated, "--tags", "kept", "dropped", "--exclude-tags", "dropped"),
        "queue": start(
            SCENARIOS / "queue_past_four.py", "--host", llamacpp_url, "--input-tokens", "32", "--output-tokens", "12",
            "-t", "60", env={"STEP": f"{step_s(llamacpp_url):.2f}"},
        ),
        "open": start(
            SCENARIOS / "open_loop.py", "-u", "3", "-r", "9", "-t", LONG, *simulated, "--processes", "2",
            env={"RATE": "15"},
        ),
    }  # fmt: skip
    for run in begun.values():
        assert run.code in (0, 1, 3), run.said  # 3: a busy test machine may void what it could not measure
    return begun


def step_s(url: str) -> float:
    """Return how long a step of `queue` must last here and now, beside the runs before it, so that requests end in each."""
    asked = {"messages": [{"role": "user", "content": "Why? " * 16}], "max_tokens": 12}
    took = []
    for _ in range(2):  # the first one may find the engine cold
        began = time.monotonic()
        httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=60).raise_for_status()
        took.append(time.monotonic() - began)
    return max(1.5, 5 * took[-1])


def measured(records: list[Record]) -> list[Record]:
    return [record for record in records if record.outcome == Outcome.OK and not record.warmup]


def test_what_is_on_disk_is_what_locust_counted(runs: dict[str, Run]) -> None:
    for name in ("chat", "output", "input", "everything", "queue", "open"):
        run = runs[name]
        ended = Counter(record.outcome for record in run.records)
        assert run.locust_requests == ended.total() - ended[Outcome.CANCELLED] > 3, name
        assert set(ended) <= {Outcome.OK, Outcome.CANCELLED}, (name, ended)
        assert run.facts["state"] == "done", name
        assert "Traceback" not in run.said, name


def test_a_stream_in_flight_at_the_stop_is_cancelled_and_no_failure(runs: dict[str, Run]) -> None:
    run = runs["chat"]
    assert run.code in (0, 3)
    assert (
        0 < sum(record.outcome == Outcome.CANCELLED for record in run.records) <= 6
    )  # a user may be between two answers
    assert sum(row["num_failures"] for row in run.stats.values()) == 0


def test_with_a_stop_timeout_streams_in_flight_end_by_themselves(runs: dict[str, Run]) -> None:
    assert all(record.outcome == Outcome.OK for record in runs["output"].records)


def test_first_tokens_are_stamped_as_the_server_sent_them(runs: dict[str, Run], truth: tuple[str, Path]) -> None:
    rows = [json.loads(line) for line in truth[1].read_text().splitlines()]
    sent = {row["prompt"].partition("]")[0] + "]": row["monotonic_ns"] for row in rows}
    ((header, lines),) = runs["chat"].folder.requests()
    ok = [Record.from_json(row) for row in lines if row["outcome"] == Outcome.OK]
    assert len(ok) > 10
    errors = []
    for record in ok:
        true = sent[nonce_of(record.seed)]
        assert record.t_first_token is not None
        assert record.t_send is not None
        errors.append((record.t_first_token + header.monotonic_ns - true["first_token"]) / 1e6)
        assert errors[-1] < record.lag_us / 1e3 + 2  # who reads late may stamp late, but then says by how much
        assert record.stamped >= record.arrivals - 1
    assert abs(median(errors)) < 5  # the server itself notes an instant only once it has written


def test_made_up_prompts_are_as_long_as_asked_and_never_the_same(runs: dict[str, Run]) -> None:
    for name in ("chat", "open"):
        records = runs[name].records
        assert len({record.seed for record in records}) == len({record.id for record in records}) == len(records)
        assert {record.asked_input for record in records} == {128}
        assert all(abs((record.prompt_tokens or 0) - 128) <= 8 for record in measured(records))
        assert all(record.output_tokens == record.asked for record in measured(records))


def test_the_first_request_of_each_user_is_warm_up(runs: dict[str, Run]) -> None:
    assert sum(record.warmup for record in runs["chat"].records) == 6


def test_a_run_says_who_measured_what(runs: dict[str, Run]) -> None:
    facts = runs["chat"].facts
    assert (facts["driver"], facts["client"]["loop"], facts["name"]) == ("locust", "gevent", "chat")
    assert facts["server"]["simulated"]["speed"] == 5
    assert facts["target"]["dialect"] == "ollama-chat"
    assert facts["locust"]["user_classes"] == ["Chat"]
    (path,) = facts["locust"]["files"]
    assert (runs["chat"].place / path).samefile(SCENARIOS / "chat.py")
    assert facts["locust"]["options"] == {"output_tokens": 16}
    assert {"locust", "gevent", "loadtest", "httpx"} <= set(facts["versions"])
    (level,) = facts["levels"]
    assert (level["concurrency"], level["input_tokens"], level["output_tokens"]) == (6, 128, 16)
    assert 0 <= level["started_ns"] < level["ended_ns"]
    samples, _ = read_lines(runs["chat"].folder.path / "samples-driver.jsonl")
    assert {row["in_flight"] for row in samples[1:]} == {6}
    assert facts["scenario"]["duration"] == 3
    assert runs["queue"].facts["scenario"]["duration"] is None  # its shape says how long, whatever -t does


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chat", "chat.py Chat --headless --host {} -u 6 -r 100 -t 3s --output-tokens 16"),
        ("everything", f"--headless --host {{}} -u 6 -r 100 -t {LONG} --tags kept dropped --exclude-tags dropped"),
        ("queue", "--headless --host {} --input-tokens 32 --output-tokens 12"),  # its shape has users and time
    ],
)
def test_the_command_to_run_it_again_is_that_of_the_test(runs: dict[str, Run], name: str, said: str) -> None:
    """Was "locust -f chat.py Chat", which opens a web page and asks another host."""
    path = runs[name].folder.path
    assert str(command(analyse(path).run)).endswith(said.format(runs[name].facts["target"]["url"]))


def test_workers_write_a_file_each_and_make_one_run(runs: dict[str, Run]) -> None:
    files = list(runs["open"].folder.requests())
    assert [header.worker for header, _ in files] == ["0", "1"]
    assert all(header.driver == "locust" and len(rows) > 5 for header, rows in files)
    (level,) = runs["open"].facts["levels"]
    assert (level["rate"], level["input_tokens"], level["output_tokens"]) == (15.0, 128, 64)


def test_names_tags_task_sets_and_judged_answers_work(runs: dict[str, Run]) -> None:
    run = runs["everything"]
    stats = run.stats
    assert set(stats) == {"question", "conversation", "completion"}
    assert stats["conversation"]["num_failures"] == stats["conversation"]["num_requests"] > 0
    assert stats["question"]["num_failures"] == 0
    assert run.code in (1, 3)
    assert {(record.dialect, record.asked) for record in run.records} == {
        ("ollama-chat", 6),
        ("ollama-chat", 4),
        ("openai-completions", 5),
    }


def test_nothing_is_imported_while_streams_are_in_flight_and_their_stop_is_prepared(runs: dict[str, Run]) -> None:
    late = [line.rpartition("/")[2] for line in runs["everything"].said.splitlines() if line.startswith("late:")]
    assert set(late) <= {"main.py"}  # a line of the source of Locust's own timer: the rest of inspect.stack() was done


def test_lengths_get_a_row_each(runs: dict[str, Run]) -> None:
    assert {"25 words", "50 words"} <= set(runs["output"].stats)
    assert set(runs["input"].stats) == {"60 words", "120 words", "240 words", "484 words"}
    texts = {record.asked: record for record in runs["output"].records}
    assert texts[44].finish_reason == "stop"  # the limit of 25 words: the story ended by itself


def test_past_four_users_requests_wait_for_a_slot_of_a_real_engine(runs: dict[str, Run]) -> None:
    run = runs["queue"]
    assert [level["concurrency"] for level in run.facts["levels"]] == [1, 2, 4, 5, 6, 8, 12, 16]
    frame = frames.load(run.place / "run").requests
    frame = frame[frame["ok"]]
    within, past = frame[frame["concurrency"] <= 4], frame[frame["concurrency"] >= 8]
    assert past["queue_wait_s"].median() > 3 * within["queue_wait_s"].median()
    assert run.facts["server"]["kind"] == "llama.cpp"


def test_a_report_is_made_of_it_like_of_any_run(runs: dict[str, Run], loadtest: Callable[..., Any]) -> None:
    place = runs["queue"].place / "run"
    code, _, _ = loadtest("report", place)
    assert code in (0, 3)
    summary = json.loads((place / "summary.json").read_text())
    assert summary["driver"] == "locust"
    assert summary["slots"]["estimate"] == 4
    waits = {level["concurrency"]: (level["slot_wait_s"] or {}).get("mean") for level in summary["levels"]}
    known = {users: wait for users, wait in waits.items() if wait is not None}  # a busy machine may leave a level empty
    assert len(known) > 2, waits
    assert all((wait > 0) == (users > 4) for users, wait in known.items()), waits  # from the fifth on
    assert len(list(place.glob("*.png"))) >= 5
    assert (place / "ttft.png").stat().st_size > 10_000
    assert all("locust" in (place / f"report.{kind}").read_text() for kind in ("html", "md"))


def test_an_open_loop_sends_the_whole_schedule_once_and_when_due(runs: dict[str, Run]) -> None:
    run = runs["open"]
    sent = [(header.monotonic_ns, record) for header, rows in run.folder.requests() for record in rows]
    first = min(zero + record["t_sched"] for zero, record in sent if record["outcome"] == Outcome.OK)
    # On a busy machine the second worker may come late: the schedule then begins anew, and what was under way is cut off.
    due = sorted(zero + record["t_sched"] for zero, record in sent if zero + record["t_end"] >= first)
    asked = list(itertools.islice(instants(15.0, "poisson", f"{run.facts['scenario']['seed']} Arrivals"), len(due)))
    off = [mine - theirs - due[0] for mine, theirs in zip(due, asked, strict=True)]
    assert max(map(abs, off)) < 1_000_000  # the workers' clocks agree to microseconds
    assert len(due) > 20
    for header, rows in run.folder.requests():
        assert rows, header.worker
        assert all(row["t_send"] >= row["t_sched"] for row in rows if "t_send" in row)
    assert [(level["concurrency"], level["rate"]) for level in run.facts["levels"]] == [(None, 15.0)]
    assert run.said.count("arrivals left late") == 2
