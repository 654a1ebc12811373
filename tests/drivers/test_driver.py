"""The driver against the simulated server: closed loop, limits, faults; every request a row, however it ends."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadtest.cli.demo import simulated_server
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.wire import AsyncWire

Call = Callable[..., tuple[int, str, str]]


def records_of(out: Path) -> list[Record]:
    return list(RunFolder.open(out).records())


def summary_of(out: Path) -> dict[str, Any]:
    return dict(orjson.loads((out / "summary.json").read_bytes()))


@pytest.fixture
def run(loadtest: Call, simulated_url: str, tmp_path: Path) -> Callable[..., Path]:
    """Run with options against the simulated server; gives the folder."""

    def call(*options: str, url: str = simulated_url) -> Path:
        out = tmp_path / "run"
        length = () if "--output-tokens" in options else ("--output-tokens", "12")
        code, _, err = loadtest("run", "--url", url, *length, *options, "--out", out)
        assert code in (0, 3), err  # 3: a busy test machine may void what it could not measure
        return out

    return call


def test_a_level_is_its_warm_up_and_its_requests_each_once(run: Callable[..., Path]) -> None:
    records = records_of(run("--concurrency", "1,3", "--requests", "9", "--warmup", "2"))
    assert [record.id for record in sorted(records, key=lambda record: record.id)] == list(range(2 + 9 + 6 + 9))
    per_level = Counter((record.level, record.warmup) for record in records)
    assert per_level == {(0, True): 2, (0, False): 9, (1, True): 6, (1, False): 9}
    assert len({record.seed for record in records}) == len(records)


def test_never_more_in_flight_than_asked_and_each_sent_when_its_user_was_free(run: Callable[..., Path]) -> None:
    records = records_of(run("--concurrency", "5", "--requests", "30"))
    edges = sorted(itertools.chain.from_iterable(((r.t_send or 0, 1), (r.t_end, -1)) for r in records))
    assert max(itertools.accumulate(step for _, step in edges)) == 5
    assert all(record.t_send is not None and record.t_sched <= record.t_send for record in records)
    ends = {record.t_end for record in records}
    later = [record for record in records if record.t_sched > min(ends)]
    assert later
    # a user is free when its last answer was over: within the time that the client took to see that
    assert all(min(abs(record.t_sched - end) for end in ends) < 50_000_000 for record in later)


def test_connections_are_kept(run: Callable[..., Path]) -> None:
    records = records_of(run("--concurrency", "4", "--requests", "24"))
    assert sum(record.new_conn for record in records) <= 4


@pytest.mark.parametrize(
    ("options", "together"),
    [
        (("--warmup", "0"), 4),  # the first request of each user
        (("--warmup", "0", "--max-rate", "40"), 0),  # each has an instant of its own
        (("--warmup", "0", "--turns", "2", "--think-time", "0.1"), 0),  # people join one after another
    ],
)
def test_users_who_begin_together_send_in_a_burst(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], together: int
) -> None:
    sent: list[AsyncWire] = []
    in_burst = AsyncWire.send_in_burst

    def send(wire: AsyncWire, call: Any, payload: bytes) -> None:
        sent.append(wire)
        in_burst(wire, call, payload)

    monkeypatch.setattr(AsyncWire, "send_in_burst", send)
    records = records_of(run("--concurrency", "4", "--requests", "8", *options))
    assert {record.outcome for record in records} == {Outcome.OK}
    assert len(sent) == together


def test_the_rate_is_a_ceiling(run: Callable[..., Path]) -> None:
    records = records_of(run("--concurrency", "8", "--requests", "16", "--max-rate", "40", "--warmup", "0"))
    due = sorted(record.t_sched for record in records)
    assert all(after - before >= 1e9 / 40 - 1 for before, after in itertools.pairwise(due))
    assert all((record.t_send or 0) >= record.t_sched for record in records)


def test_a_duration_ends_by_itself_and_lets_answers_finish(run: Callable[..., Path]) -> None:
    out = run("--concurrency", "3", "--duration", "0.8")
    records = records_of(out)
    assert {record.outcome for record in records} == {Outcome.OK}
    counted = [record for record in records if not record.warmup]
    begin = min(record.t_send or 0 for record in counted)
    assert all(record.t_sched - begin < 0.8e9 for record in counted)


def test_literal_prompts_and_words(run: Callable[..., Path]) -> None:
    options = [
        "--prompt",
        "tell a story in {words} words:",
        "--words",
        "25,50",
        "--concurrency",
        "1",
        "--requests",
        "2",
    ]
    prompts = [record.prompt or "" for record in records_of(run(*options, "--save-text", "--warmup", "0"))]
    assert [prompt.partition("] ")[2] for prompt in prompts] == [
        f"tell a story in {words} words:" for words in (25, 25, 50, 50)
    ]


def test_text_is_kept_only_when_asked(run: Callable[..., Path]) -> None:
    assert all(record.prompt is None and record.answer is None for record in records_of(run("--concurrency", "2")))


@pytest.mark.parametrize(
    ("fault", "outcome", "words"),
    [
        ("truncate", Outcome.TRUNCATED, "closed the connection"),
        ("error-line", Outcome.STREAM_ERROR, "an error was encountered"),
        ("http-500", Outcome.HTTP_ERROR, "no longer running"),
        ("http-503", Outcome.HTTP_ERROR, "server busy"),
        ("reset", Outcome.TRUNCATED, "reset"),
        ("silent-end", Outcome.TRUNCATED, "without"),
        ("repeat-guard", Outcome.TRUNCATED, "repeat"),
    ],
)
def test_every_fault_is_a_row_of_its_kind_and_never_a_success(
    run: Callable[..., Path], fault: str, outcome: Outcome, words: str
) -> None:
    with simulated_server("--speed", "50", "--warm", "--fault", f"{fault}=every:3") as url:
        out = run("--concurrency", "2", "--requests", "10", "--output-tokens", "120", url=url)
    records = records_of(out)
    failed = [record for record in records if record.outcome is not Outcome.OK]
    assert len(records) == 12
    assert len(failed) == 4
    assert {record.outcome for record in failed} == {outcome}
    assert all(words in (record.error or "") for record in failed), [record.error for record in failed]
    level = summary_of(out)["levels"][0]
    assert level["verdict"] != "valid"
    assert sum(level["outcomes"].values()) == level["requests"]


def test_an_idle_stream_is_a_timeout(run: Callable[..., Path]) -> None:
    with simulated_server("--speed", "50", "--warm", "--fault", "stall=every:4") as url:
        records = records_of(
            run("--concurrency", "1", "--requests", "4", "--warmup", "0", "--idle-timeout", "0.05", url=url)
        )
    timeouts = [record for record in records if record.outcome is Outcome.TIMEOUT]
    assert len(timeouts) == 1
    assert "idle" in (timeouts[0].error or "")
    assert timeouts[0].chunks  # what came before the silence is kept


def test_a_server_that_goes_away_in_mid_run_leaves_rows_and_a_complete_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--concurrency", "3", "--requests", "27", "--output-tokens", "12", "--out", str(out)]
    with simulated_server("--speed", "20", "--warm") as url:
        command = [sys.executable, "-m", "loadtest", "run", "--url", url, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        requests = out / "requests-0.jsonl"
        while process.poll() is None and not (requests.exists() and requests.read_bytes().count(b"\n") > 12):
            os.sched_yield()
    _, err = process.communicate()
    assert process.returncode in (0, 3), err
    assert "Traceback" not in err
    records = records_of(out)
    outcomes = Counter(record.outcome for record in records)
    assert len(records) == 30
    assert outcomes[Outcome.OK] >= 12
    assert outcomes[Outcome.CONNECT_ERROR] >= 5
    assert set(outcomes) <= {Outcome.OK, Outcome.CONNECT_ERROR, Outcome.TRUNCATED}
    assert RunFolder.open(out).read_run()["state"] == "done"


def test_everything_a_simulated_run_says_is_labelled(run: Callable[..., Path]) -> None:
    out = run("--concurrency", "1,2", "--requests", "4", "--report")
    assert RunFolder.open(out).read_run()["server"]["simulated"] == {
        "profile": "a100-80g-llama3.1-70b-q4",
        "speed": 20.0,
    }
    assert summary_of(out)["server"]["simulated"]
    for name in ("report.md", "report.html"):
        assert "imulated" in (out / name).read_text()


def test_a_rate_does_not_hold_the_end_of_a_level_back(run: Callable[..., Path]) -> None:
    """Streams without a job left must not wait for a permit first: 8 of them at 4/s would idle for two seconds."""
    out = run("--concurrency", "8", "--requests", "8", "--warmup", "0", "--max-rate", "4")
    level = RunFolder.open(out).read_run()["levels"][0]
    last = max(record.t_end for record in records_of(out))
    assert level["ended_ns"] - last < 1e9
    lags = [(record.t_send or 0) - record.t_sched for record in records_of(out)]
    assert max(lags) < 100_000_000  # waiting for a permit is not the client's lag


def test_a_duration_begins_when_counting_does(run: Callable[..., Path]) -> None:
    records = records_of(run("--concurrency", "4", "--duration", "0.05"))
    assert sum(record.warmup for record in records) == 4
    assert sum(not record.warmup for record in records) >= 4


def test_a_server_that_dies_between_levels_costs_only_what_was_not_measured(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--concurrency", "1,2,4", "--requests", "8", "--output-tokens", "12", "--warmup", "0", "--out", str(out)]
    with simulated_server("--speed", "20", "--warm") as url:
        command = [sys.executable, "-m", "loadtest", "run", "--url", url, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        requests = out / "requests-0.jsonl"
        while process.poll() is None and not (requests.exists() and requests.read_bytes().count(b"\n") > 6):
            os.sched_yield()
    _, err = process.communicate()
    assert "Traceback" not in err
    assert process.returncode == 3, err
    assert len(records_of(out)) == 24
    assert summary_of(out)["levels"][-1]["verdict"] == "void"


def test_prompts_that_a_run_beside_it_sent_are_said_to_be_known_to_a_cache(
    loadtest: Call, simulated_url: str, tmp_path: Path
) -> None:
    """Of a real vLLM, which counts no cached tokens: the second of two runs of one seed read next to nothing, and no word of it."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"scenario": [], "target": null}')

    def said(name: str, *more: str) -> str:
        asked = ("--url", simulated_url, "--concurrency", "1", "--requests", "1", "--output-tokens", "1", "--no-report")
        return loadtest("run", *asked, *more, "--out", tmp_path / name)[2]

    warm = f"{tmp_path / 'first'} sent prompts of this seed to this model before"
    assert warm not in said("first", "--seed", "7")
    assert warm in " ".join(said("again", "--seed", "7").split())
    assert RunFolder.open(tmp_path / "again").read_run()["sent_before"] == "first"
    assert "seed_drawn" not in RunFolder.open(tmp_path / "again").read_run()
    for number, others in enumerate((("--seed", "8"), (), ("--seed", "7", "--prompt", "Hello"))):
        assert warm not in " ".join(said(f"new{number}", *others).split())
        assert RunFolder.open(tmp_path / f"new{number}").read_run().get("seed_drawn", False) == ("--seed" not in others)
