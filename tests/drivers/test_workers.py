"""Several driver processes: one plan shared exactly, levels in step, and a death that costs its own part only."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import orjson
import psutil
import pytest
from support.jobs import first_job
from support.plans import SHORT, Run, counted, planned

from loadtest.cli.demo import simulated_server
from loadtest.measure import pacing
from loadtest.measure.pacing import Permits
from loadtest.measure.progress import Progress, Tally
from loadtest.records import Outcome, read_lines
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.wire import now
from loadtest.workloads.schedule import PlanShare
from loadtest.workloads.tokens import Counter as Tokens
from loadtest.workloads.workload import Workload

Call = Callable[..., tuple[int, str, str]]
WORKERS = ("--workers", "2")


@pytest.fixture
def run(run: Run) -> Run:
    """Run with two workers."""
    return partial(run, *WORKERS)


@contextmanager
def running(out: Path, *options: str, records: int = 5) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Start a run that its server holds up; give it, and its workers' pids once each has left so many records."""
    with simulated_server("--speed", "20", "--warm") as url:
        command = [sys.executable, "-m", "loadtest", "run", "--url", url, *SHORT, *WORKERS, *options, "--out", str(out)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            files = [out / f"requests-{worker}.jsonl" for worker in range(2)]
            while process.poll() is None and not all(
                file.exists() and file.read_bytes().count(b"\n") > records for file in files
            ):
                os.sched_yield()
            assert process.poll() is None, process.communicate()[1]
            pids = [worker["pid"] for worker in RunFolder.open(out).read_run()["workers"]]
            try:
                yield process, pids
            finally:
                process.kill()


def seeds(out: Path, level: int, requests: int) -> list[int]:
    """Return the seeds of the plan's jobs; they do not depend on the prompts' lengths."""
    scenario = Scenario.from_dict(RunFolder.open(out).read_run()["scenario"])
    workload = Workload(scenario, Tokens("none"))
    return [first_job(workload, scenario.levels()[level], i).seed for i in range(requests)]


def summary_of(out: Path) -> dict[str, Any]:
    return dict(orjson.loads((out / "summary.json").read_bytes()))


def most_at_once(intervals: list[tuple[int, int]]) -> int:
    edges = sorted(itertools.chain.from_iterable(((start, 1), (end, -1)) for start, end in intervals))
    return max(itertools.accumulate(step for _, step in edges))


def test_a_closed_loop_is_its_plan_once_and_never_more_streams_than_asked(run: Run, tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    with simulated_server("--slots", "8", "--speed", "5", "--warm", "--truth", str(truth)) as url:
        out = run("--concurrency", "1,5", "--requests", "30", url=url)
    records = list(RunFolder.open(out).records())
    assert len({record.id for record in records}) == len(records) == 1 + 30 + 5 + 30
    assert {record.outcome for record in records} == {Outcome.OK}
    for level in range(2):
        assert sorted(record.seed for record in counted(out, level)) == sorted(seeds(out, level, 30))
    both = [record for record in records if record.level == 1]
    assert most_at_once([(record.t_send or 0, record.t_end) for record in both]) == 5
    prompts = {record.seed for record in both}
    assert len(prompts) == len(both)
    served = [row["monotonic_ns"] for row in map(orjson.loads, truth.read_bytes().splitlines())]
    assert most_at_once([(row["arrived"], row["slot_freed"]) for row in served if "slot_freed" in row]) == 5
    per_worker = Counter(
        header.worker for header, rows in RunFolder.open(out).requests() for row in rows if row["level"]
    )
    assert per_worker == {"0": 3 + 18, "1": 2 + 12}  # of five streams the first has three


def test_all_begin_a_level_when_all_are_ready(run: Run) -> None:
    out = run("--concurrency", "2,4", "--requests", "8")
    facts = RunFolder.open(out).read_run()
    for level, other in itertools.pairwise(facts["levels"]):
        assert level["ended_ns"] < other["started_ns"]
    for _, rows in RunFolder.open(out).requests():
        for level in facts["levels"]:
            mine = [row for row in rows if row["level"] == level["index"]]
            assert min(row["t_sched"] for row in mine) >= level["started_ns"]
            assert max(row["t_end"] for row in mine) <= level["ended_ns"]
    headers = [header for header, _ in RunFolder.open(out).requests()]
    assert len({header.clock for header in headers}) == 1
    assert [header.worker for header in headers] == ["0", "1"]


def test_an_open_loop_is_one_schedule_to_the_nanosecond_and_none_is_early(run: Run) -> None:
    out = run("--rate", "150", "--duration", "1", "--warmup", "3")
    records = counted(out)
    start = records[0].t_sched
    assert [record.t_sched - start for record in records] == planned(out)
    assert [record.seed for record in records] == seeds(out, 0, len(records))
    assert all(record.t_send is not None and record.t_send >= record.t_sched for record in records)
    warm = [record for record in RunFolder.open(out).records() if record.warmup]
    assert len(warm) == 3
    assert max(record.t_end for record in warm) <= start
    workers = {header.worker: rows for header, rows in RunFolder.open(out).requests()}
    assert {row["t_sched"] - start for row in workers["1"]} == set(planned(out)[1::2])
    cpus = [[row["cpu"] for row in read_lines(out / f"samples-driver-{worker}.jsonl")[0][1:]] for worker in range(2)]
    assert summary_of(out)["levels"][0]["client"]["cpu"] == pytest.approx(max(map(fmean, cpus)))  # the busiest's


def test_max_in_flight_is_shared(run: Run) -> None:
    with simulated_server("--slots", "1", "--speed", "5", "--warm") as url:
        out = run("--rate", "400", "--requests", "30", "--arrivals", "constant", "--max-in-flight", "3", url=url)
    records = counted(out)
    assert [record.t_sched - records[0].t_sched for record in records] == planned(out)
    sent = [(record.t_send or 0, record.t_end) for record in records if not record.was_shed]
    assert most_at_once(sent) <= 3
    assert {record.error for record in records if record.was_shed} == {
        f"not sent: {count} requests of worker {worker} were in flight (--max-in-flight)"
        for worker, count in ((0, 2), (1, 1))
    }


def test_a_rate_is_shared_and_no_permit_lies_ready() -> None:
    """Two processes' permits are those of one grid: none early, and none twice."""

    async def take() -> tuple[int, list[int]]:
        origin, begin = now() - 1_234_567_890, now()
        both = [Permits(500.0, PlanShare(worker, 2), origin) for worker in range(2)]

        async def one(permits: Permits) -> int:
            await permits.take()
            return now()

        return begin - origin, [at - origin for at in await asyncio.gather(*(one(p) for p in both * 10))]

    begin, taken = asyncio.run(take())
    first = math.ceil(begin / 2_000_000)
    assert all(at >= (first + i) * 2_000_000 for i, at in enumerate(sorted(taken)))


@pytest.mark.parametrize(("late_ns", "asked_late"), [(0, False), (700_000, False), (5_000_000, False), (0, True)])
def test_one_processs_permits_are_on_the_grid_and_a_late_timer_loses_none(
    monkeypatch: pytest.MonkeyPatch, late_ns: int, asked_late: bool
) -> None:
    """In virtual time, with timers that are late by as much: the n-th of those who wait leaves at instant n, or late."""
    clock = 1_000_000_000

    async def sleep(seconds: float) -> None:
        nonlocal clock
        await asyncio.sleep(0)  # all have asked by now
        clock += round(seconds * 1e9) + late_ns

    monkeypatch.setattr(pacing, "now", lambda: clock)
    monkeypatch.setattr(pacing, "asyncio", SimpleNamespace(Lock=asyncio.Lock, sleep=sleep))
    permits = Permits(1000.0, PlanShare(), origin=clock - 300_000)

    async def take() -> tuple[int, int]:
        return await permits.take(), clock

    async def together() -> list[tuple[int, int]]:
        return await asyncio.gather(*(take() for _ in range(50)))

    taken = asyncio.run(together())
    grid = [1_000_700_000 + 1_000_000 * i for i in range(50)]
    assert [due for due, _ in taken] == grid
    assert all(due <= at <= due + late_ns for due, at in taken)
    if asked_late:  # instants that nobody waited for are over
        clock += 10_200_000
        assert asyncio.run(take())[0] == grid[-1] + 11_000_000


def test_a_limit_of_the_rate_holds_for_all_together(run: Run) -> None:
    records = counted(run("--concurrency", "6", "--requests", "12", "--max-rate", "40", "--warmup", "0"))
    due = sorted(record.t_sched for record in records)
    assert len(due) == 12
    assert all(after - before >= 1e9 / 40 - 1 for before, after in itertools.pairwise(due))


def test_a_duration_is_one_for_all(run: Run) -> None:
    """Worker 1's warm-up waits behind worker 0's: its own first counted request comes later, and ends nothing later."""
    with simulated_server("--slots", "1", "--speed", "5", "--warm") as url:
        out = run("--concurrency", "4", "--duration", "1", url=url)
    due = [record.t_sched for record in counted(out)]
    assert len(due) > 4
    assert max(due) - min(due) < 1_000_000_000


def test_a_search_tells_the_workers_each_level(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ("--find-max", "2", "--slo", "ttft_p95=20", "--out", out)
    code, _, err = loadtest("run", "--url", simulated_url, *SHORT, *WORKERS, *asked)
    assert code in (0, 3), err
    facts = RunFolder.open(out).read_run()
    tried = [one["concurrency"] for one in facts["find_max"]["tried"]]
    assert tried[0] == 1
    assert [level["concurrency"] for level in facts["levels"]] == tried
    for index, streams in enumerate(tried):
        assert most_at_once([(record.t_send or 0, record.t_end) for record in counted(out, index)]) <= streams


def test_a_worker_that_dies_ends_its_part_and_nothing_else(tmp_path: Path, loadtest: Call) -> None:
    out = tmp_path / "run"
    options = ["--concurrency", "5,3", "--requests", "120"]
    with running(out, *options) as (process, pids):
        os.kill(pids[1], signal.SIGKILL)
        _, err = process.communicate()
    assert process.returncode == 3, err
    said = r"worker 1 died \(killed by signal 9, SIGKILL\): its 2 of 5 streams are missing from \d\d:\d\d:\d\d UTC on; "
    assert len(re.findall(said + "the other workers go on", err)) == 1
    assert "Traceback" not in err
    facts = RunFolder.open(out).read_run()
    assert facts["state"] == "done"
    assert [worker.get("died", {}).get("level") for worker in facts["workers"]] == [None, 0]
    files = {
        header.worker: [row for row in rows if not row["warmup"]] for header, rows in RunFolder.open(out).requests()
    }
    assert Counter(row["level"] for row in files["0"]) == {0: 72, 1: 80}
    assert 0 < len(files["1"]) < 48
    first, second = summary_of(out)["levels"]
    assert first["verdict"] == second["verdict"] == "void"
    killed = r"\(killed by signal 9, SIGKILL\)"
    assert re.search(
        rf"worker 1 died at \d\d:\d\d:\d\d UTC {killed}: 2 of 5 streams are missing", str(first["reasons"])
    )
    assert re.search(rf"worker 1 died in an earlier level {killed}: 1 of 3 streams is missing", str(second["reasons"]))
    code, _, err = loadtest("report", out)
    assert code == 3, err
    assert "worker 1 died" in (out / "report.md").read_text()


def test_a_run_whose_workers_have_all_died_says_so(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(out, "--rate", "50", "--duration", "60") as (process, pids):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        _, err = process.communicate()
    assert process.returncode == 3
    assert "one request in every 2 is missing from" in err
    assert "every worker has died; what they had recorded is kept." in err
    assert "Traceback" not in err
    facts = RunFolder.open(out).read_run()
    assert facts["state"] == "failed"
    assert facts["failure"] == "every worker has died; what they had recorded is kept."
    assert all("died" in worker for worker in facts["workers"])
    assert len(list(RunFolder.open(out).records())) > 8


def test_ctrl_c_keeps_what_all_have_ended(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(out, "--rate", "60", "--duration", "60", "--warmup", "0") as (process, pids):
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    assert "died" not in err
    facts = RunFolder.open(out).read_run()
    assert facts["state"] == "interrupted"
    assert len(facts["levels"]) == 1
    assert not any(psutil.pid_exists(pid) for pid in pids)
    plan = planned(out)
    for worker, (_, rows) in enumerate(RunFolder.open(out).requests()):
        assert len(rows) > 4
        due = sorted(row["t_sched"] for row in rows)
        assert [at - due[0] for at in due] == [at - plan[worker] for at in plan[worker::2][: len(due)]]
        assert {row["outcome"] for row in rows} <= {"ok", "cancelled"}


def test_a_second_ctrl_c_waits_for_nobody(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(out, "--concurrency", "4", "--duration", "600") as (process, pids):
        os.kill(pids[1], signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        while psutil.Process(pids[0]).status() != psutil.STATUS_ZOMBIE:
            os.sched_yield()
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert RunFolder.open(out).read_run()["state"] == "interrupted"
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_workers_do_not_outlive_their_parent(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(out, "--concurrency", "4", "--duration", "600") as (process, _):
        process.kill()
        process.communicate()  # to the end of stderr, which the workers hold as well
    records = list(RunFolder.open(out).records())
    assert Outcome.CANCELLED in {record.outcome for record in records}


def test_what_several_say_adds_up() -> None:
    (level,) = Scenario(rate=(10.0,), requests=40, input_tokens=(8,), output_tokens=(4,)).levels()
    parts = []
    for worker, ttft in enumerate((0.1, 0.3)):
        tally = Tally(level, 20, started=0, schedule=range(worker * 100_000_000, 4_000_000_000, 200_000_000))
        tally.counted_from = 1_000_000_000
        tally.released, tally.shed, tally.done, tally.output_tokens = 5, worker, 4, 10
        tally.ttfts.append(ttft)
        parts.append(tally.progress(2_050_000_000, levels=0, in_flight=2, decoding=1, duration=None))
    both = Progress.together(parts, levels=3)
    assert (both.levels, both.done, both.planned, both.in_flight, both.waiting, both.shed) == (3, 8, 40, 4, 2, 1)
    assert (both.due, both.behind) == (11, 1)
    assert both.ttft_p50 == pytest.approx(0.2)
    assert both.tokens_per_s == pytest.approx(20 / 2.05)
    assert both.eta == pytest.approx(2.85)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--workers", "0"), "workers must be 1 or more, not 0."),
        (("--workers", "9"), "8 streams cannot be shared by 9 workers; ask for 8 or fewer."),
        (("--workers", "2", "--concurrency", "1"), "one stream cannot be shared by several workers"),
        (("--workers", "4", "--rate", "4", "--max-in-flight", "3"), "--max-in-flight 3 cannot be shared by 4 workers"),
    ],
)
def test_a_mistake_is_one_sentence(
    loadtest: Call, simulated_url: str, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "run"
    code, _, err = loadtest("run", "--url", simulated_url, *options, "--out", out)
    assert code == 2
    assert words in err
    assert not out.exists()


def test_levels_with_fewer_streams_than_workers_are_named_once(
    loadtest: Call, simulated_url: str, tmp_path: Path
) -> None:
    asked = ("--concurrency", "1,2", "--requests", "2", "--warmup", "0", "--out", tmp_path / "run")
    code, _, err = loadtest("run", "--url", simulated_url, *SHORT, *WORKERS, *asked)
    assert code in (0, 3)
    assert err.count("1 stream keeps 1 of 2 workers busy.") == 1
