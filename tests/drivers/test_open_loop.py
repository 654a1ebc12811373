"""The open loop end to end: every due request a record, none early, what is shed said, and a report with charts of it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.foreign_server import ForeignServer, foreign_server
from support.jobs import first_job
from support.plans import MADE_UP, Run, counted, planned

from loadtest.asyncio_driver.driver import Driver
from loadtest.asyncio_driver.worker import loop_factory
from loadtest.cli.demo import simulated_server
from loadtest.cli.output.printing import live_sentence
from loadtest.measure import pacing
from loadtest.measure.progress import Tally
from loadtest.records import Clock, Outcome
from loadtest.run_folder import RecordWriter, RunFolder, SampleWriter
from loadtest.scenario import Scenario
from loadtest.targets.prepare import prepare_targets
from loadtest.targets.server.control import control_client
from loadtest.wire import AsyncWire, Timerfd, now
from loadtest.workloads.schedule import PlanShare, schedule_of

Call = Callable[..., tuple[int, str, str]]


def summary_of(out: Path) -> dict[str, Any]:
    return dict(orjson.loads((out / "summary.json").read_bytes()))


def test_all_that_is_due_is_recorded_at_its_instant_and_none_is_early(run: Run) -> None:
    out = run("--rate", "150", "--duration", "1", "--warmup", "2")
    records = counted(out)
    start = records[0].t_sched
    assert [record.t_sched - start for record in records] == planned(out)
    assert len(records) > 100
    assert all(record.t_send is not None and record.t_send >= record.t_sched for record in records)
    assert {record.outcome for record in records} == {Outcome.OK}
    warm = [record for record in RunFolder.open(out).records() if record.warmup]
    assert len(warm) == 2
    assert max(record.t_end for record in warm) <= start


def test_a_slow_server_holds_no_request_back(run: Run) -> None:
    """One slot at its own speed: in a closed loop the twelfth request would leave when the eleventh was answered."""
    with simulated_server("--slots", "1", "--speed", "5", "--warm") as url:
        out = run("--rate", "100", "--requests", "12", "--arrivals", "constant", "--warmup", "0", url=url)
    records = counted(out)
    assert [record.t_sched - records[0].t_sched for record in records] == [i * 10_000_000 for i in range(12)]
    ends = sorted(record.t_end for record in records)
    assert records[-1].t_send is not None
    assert records[-1].t_send < ends[-2]
    (level,) = summary_of(out)["levels"]
    assert level["offered_per_s"] == pytest.approx(100.0)
    assert level["shed"] == 0


def test_what_is_over_max_in_flight_is_a_record_and_a_doubt_never_forgotten(run: Run) -> None:
    with simulated_server("--slots", "1", "--speed", "5", "--warm") as url:
        out = run("--rate", "400", "--requests", "30", "--arrivals", "constant", "--max-in-flight", "3", url=url)
    records = counted(out)
    assert [record.t_sched - records[0].t_sched for record in records] == planned(out)
    shed = [record for record in records if record.was_shed]
    sent = [record for record in records if not record.was_shed]
    assert len(sent) >= 3
    assert len(shed) > 10
    assert all(record.t_send is None and record.outcome is Outcome.CANCELLED for record in shed)
    assert {record.error for record in shed} == {"not sent: 3 requests were in flight (--max-in-flight)"}
    assert {record.outcome for record in sent} == {Outcome.OK}
    for one in sent:
        assert sum((other.t_send or 0) <= (one.t_send or 0) < other.t_end for other in sent) <= 3
    (level,) = summary_of(out)["levels"]
    assert level["shed"] == len(shed)
    assert level["ttft_s"]["n"] == len(sent)
    assert level["requests"] == 30
    assert level["verdict"] != "valid"
    assert any(f"{len(shed)} of 30 requests were not sent" in reason for reason in level["reasons"])


class CountsConnections(ForeignServer):
    """Knows how many connections were opened, and which of them had a request to answer."""

    def __init__(self) -> None:
        super().__init__(sequences=None, ttft_s=0.001, gap_s=0.0, tokens=(2, 3))
        self.opened = 0
        self.answered: set[asyncio.StreamWriter] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        await super()._serve(reader, writer)

    async def _answer(self, asked: dict[str, object], writer: asyncio.StreamWriter) -> None:
        self.answered.add(writer)
        await super()._answer(asked, writer)


def test_connections_that_nothing_is_sent_on_are_few(run: Run) -> None:
    """They were up to 64. Each of them holds a thread of llama.cpp's server for 5 s, and requests then wait for a thread."""
    with foreign_server(CountsConnections()) as server:
        assert isinstance(server, CountsConnections)
        run("--rate", "100", "--requests", "60", "--warmup", "0", "--model", "emulated", url=server.url)
        assert len(server.answered) >= 1
        assert server.opened - len(server.answered) < 10


def test_a_trace_is_replayed_with_its_lengths(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    path.write_text("t,input_tokens,output_tokens\n10.0,40,3\n10.05,60,4\n10.05,50,5\n10.2,40,6\n")
    out = run("--trace", str(path), "--warmup", "0", "--report")
    records = counted(out)
    assert [record.t_sched - records[0].t_sched for record in records] == [0, 50_000_000, 50_000_000, 200_000_000]
    assert [(record.asked_input, record.output_tokens) for record in records] == [(40, 3), (60, 4), (50, 5), (40, 6)]
    summary = summary_of(out)
    assert summary["levels"][0]["label"] == "trace day.csv"
    assert (out / "throughput.png").stat().st_size > 10_000


def test_a_run_of_rates_has_every_chart_over_the_rate(run: Run) -> None:
    out = run("--rate", "20,40", "--requests", "25", "--report")
    summary = summary_of(out)
    assert [(level["rate"], level["concurrency"]) for level in summary["levels"]] == [(20.0, None), (40.0, None)]
    assert [level["label"] for level in summary["levels"]] == [
        "20 requests/s · 32 in · 5 out",
        "40 requests/s · 32 in · 5 out",
    ]
    for name in ("ttft", "throughput", "timeline", "ttft-distribution", "itl", "streams"):
        assert (out / f"{name}.png").stat().st_size > 10_000, name
    page = (out / "report.md").read_text()
    assert "The server kept up at 40 requests/s" in page or "void" in page
    assert "None" not in page
    assert "0 streams" not in page
    assert "p95 from t\\_sched" in page
    assert RunFolder.open(out).read_run()["comparability"]["arrivals"] == "poisson"


def test_a_ramp_grows_over_its_level(run: Run) -> None:
    out = run("--rate", "20", "--rate-to", "120", "--duration", "1", "--arrivals", "constant", "--report")
    due = [record.t_sched for record in counted(out)]
    assert len(due) == 70
    assert due[1] - due[0] > 3 * (due[-1] - due[-2])
    assert summary_of(out)["levels"][0]["label"] == "20 to 120 requests/s · 32 in · 5 out"


def test_a_stop_keeps_what_was_due_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*MADE_UP, "--rate", "50", "--duration", "60", "--warmup", "0", "--out", str(out)]
    with simulated_server("--speed", "20", "--warm") as url:
        command = [sys.executable, "-m", "loadtest", "run", "--url", url, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        requests = out / "requests-0.jsonl"
        while process.poll() is None and not (requests.exists() and requests.read_bytes().count(b"\n") > 20):
            os.sched_yield()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130, err
    records = counted(out)
    assert 20 <= len(records) < 3000
    assert [record.t_sched - records[0].t_sched for record in records] == planned(out)[: len(records)]
    assert {record.outcome for record in records} <= {Outcome.OK, Outcome.CANCELLED}
    assert not any(record.was_shed for record in records)


def test_the_live_line_says_what_is_due_and_what_is_late() -> None:
    (level,) = Scenario(rate=(10.0,), requests=40, input_tokens=(8,), output_tokens=(4,)).levels()
    tally = Tally(level, 40, started=0, schedule=range(0, 4_000_000_000, 100_000_000))
    tally.counted_from = 1_000_000_000
    tally.released, tally.shed, tally.done = 10, 2, 5
    at = tally.progress(2_150_000_000, levels=1, in_flight=3, decoding=1, duration=4.0)
    assert (at.due, at.behind, at.failed) == (12, 2, 0)
    assert at.eta == pytest.approx(2.75)
    assert live_sentence(at).startswith(
        "[1/1] 10 requests/s · 8 in · 4 out  12 due  8 sent  5/40 done  2 not sent (--max-in-flight)  2 late  1 decoding"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rate", "4", "--concurrency", "2"), "both concurrency (closed loop) and rate or trace (open loop)"),
        (("--rate", "0"), "rate must be above 0, not 0."),
        (("--rate", "fast"), "is not a list of numbers"),
        (("--rate", "5/s"), "'5/s' is not a list of numbers like 0.5,1,2 (a second, without the unit)"),
        (
            ("--rate", "4,8", "--find-max", "--slo", "ttft_p95=2"),
            "--find-max begins with one level; give one --rate",
        ),
        (("--trace", "/nowhere/x.csv"), "cannot read the trace /nowhere/x.csv"),
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


@pytest.mark.parametrize("kernel", [True, False])
def test_an_alarm_never_rings_early(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernel's timer, and where there is none by the loop's, which is off by more than a millisecond."""
    if not kernel:
        monkeypatch.setattr(Timerfd, "open", lambda: None)

    async def ring() -> list[int]:
        start = now()
        early = []
        with pacing.Alarm() as alarm:
            for i in range(40):
                due = start + i * 700_000
                await alarm.until(due)
                early.append(due - now())
        return early

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        assert max(runner.run(ring())) <= 0


@pytest.mark.parametrize(
    ("options", "requests"),
    [
        ({"concurrency": (3,), "requests": 11, "warmup": 2}, 6 + 11),
        ({"rate": (200.0,), "requests": 21, "warmup": 1}, 1 + 21),
    ],
)
def test_two_processes_shares_make_up_the_whole_plan(
    simulated_url: str, tmp_path: Path, options: dict[str, Any], requests: int
) -> None:
    scenario = Scenario(url=simulated_url, input_tokens=(32,), output_tokens=(4,), seed=3, **options)
    with control_client(scenario) as control:
        _, (ready,) = prepare_targets(control, scenario, lambda _: None)
    folder = RunFolder.create(tmp_path / "run")

    async def drive(share: PlanShare) -> None:
        clock = Clock.now()
        records = folder.record_writer(clock, worker=str(share.worker))
        samples = folder.sample_writer(clock, source=f"driver-{share.worker}")
        with closing(records), closing(samples):
            await measure(share, records, samples)

    async def measure(share: PlanShare, records: RecordWriter, samples: SampleWriter) -> None:
        async with AsyncWire() as wire:
            driver = Driver(
                targets=[ready],
                wire=wire,
                records=records,
                samples=samples,
                on_progress=lambda _: None,
                share=share,
            )
            await driver.run()

    for worker in range(2):
        asyncio.run(drive(PlanShare(worker, 2)))
    records = list(folder.records())
    (level,) = scenario.levels()
    plan = [first_job(ready.workload, level, i).seed for i in range(level.requests)]
    assert sorted(record.seed for record in records if not record.warmup) == sorted(plan)
    assert len({record.id for record in records}) == len(records) == requests
    for worker, (_, rows) in enumerate(folder.requests()):
        assert rows
        assert all(row["id"] % 2 == worker for row in rows)
        if level.rate is not None:
            due = list(schedule_of(scenario, level))[worker::2]
            mine = sorted(row["t_sched"] for row in rows if not row["warmup"])
            assert [at - mine[0] for at in mine] == [at - due[0] for at in due]
