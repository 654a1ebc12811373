"""Schedules: as regular or as bursty as asked for, the same in every process, and traces read as they are."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.jobs import first_job

from loadtest.errors import ScenarioError
from loadtest.metrics import NS_PER_S
from loadtest.scenario import Scenario
from loadtest.workloads.files.trace import Trace
from loadtest.workloads.schedule import PlanShare, instants, schedule_of
from loadtest.workloads.tokens import Counter
from loadtest.workloads.workload import Workload, check_files

WINDOW = 10_000_000  # ns
MOONCAKE = "timestamp,input_length,output_length\n"


def planned(**keys: Any) -> Sequence[int]:
    scenario = Scenario(**({"seed": 1} | keys))
    return schedule_of(scenario, scenario.levels()[0])


def dispersion(due: Sequence[int], seconds: float) -> float:
    """Variance over mean of the arrivals in windows of 10 ms: 1 of independent ones, 0 of regular ones."""
    counts = np.bincount(np.asarray(due) // WINDOW, minlength=round(seconds * NS_PER_S / WINDOW))
    return float(counts.var() / counts.mean())


@pytest.mark.parametrize("workers", [1, 4])
def test_poisson_arrivals_are_independent_however_many_processes_send_them(workers: int) -> None:
    whole = planned(rate=(500.0,), duration=60.0)
    shares = [PlanShare(worker, workers).pick(whole) for worker in range(workers)]
    due = sorted(itertools.chain.from_iterable(shares))
    assert due == list(whole)
    assert len(due) == pytest.approx(30_000, abs=4 * math.sqrt(30_000))
    assert dispersion(due, 60.0) == pytest.approx(1.0, abs=0.05)
    assert all(abs(len(share) - len(due) / workers) < 1 for share in shares)


def test_the_index_of_dispersion_tells_patterns_apart() -> None:
    assert dispersion(planned(rate=(500.0,), duration=60.0, arrivals="constant"), 60.0) < 0.01
    assert dispersion(planned(rate=(500.0,), duration=60.0, arrivals="gamma", burstiness=0.25), 60.0) > 1.5


def test_constant_arrivals_are_exact_to_the_nanosecond_and_never_drift() -> None:
    due = planned(rate=(500.0,), duration=60.0, arrivals="constant")
    assert len(due) == 30_000
    assert due[0] == 0
    assert due[-1] == 59_998_000_000
    assert planned(rate=(3.0,), requests=4, arrivals="constant") == array("q", [0, 333_333_333, 666_666_667, NS_PER_S])


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_vary_by_their_burstiness(burstiness: float) -> None:
    gaps = np.diff(planned(rate=(100.0,), requests=20_000, arrivals="gamma", burstiness=burstiness)) / NS_PER_S
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1 / burstiness, rel=0.1)


def test_each_level_has_a_pattern_of_its_own_and_keeps_it() -> None:
    scenario = Scenario(rate=(10.0, 20.0), requests=50, seed=4)
    slow, fast = scenario.levels()
    assert schedule_of(scenario, slow) == schedule_of(scenario, slow)
    assert [2 * at for at in schedule_of(scenario, fast)] != list(schedule_of(scenario, slow))
    assert schedule_of(scenario.replace(seed=5), slow) != schedule_of(scenario, slow)


@pytest.mark.parametrize(("start", "end"), [(10.0, 90.0), (90.0, 10.0)])
def test_a_ramp_changes_its_rate_evenly(start: float, end: float) -> None:
    due = np.asarray(planned(rate=(start,), rate_to=end, duration=8.0, arrivals="constant")) / NS_PER_S
    assert len(due) == 400  # 50 a second on average
    for second in range(8):
        middle = start + (end - start) * (second + 0.5) / 8
        assert ((due >= second) & (due < second + 1)).sum() == pytest.approx(middle, abs=1.5)


def test_a_ramp_over_a_number_of_requests_takes_the_time_that_these_need() -> None:
    due = planned(rate=(10.0,), rate_to=90.0, requests=400, arrivals="constant")
    assert len(due) == 400
    assert due[-1] / NS_PER_S == pytest.approx(8.0, abs=0.02)
    assert due == planned(rate=(10.0,), rate_to=90.0, duration=8.0, arrivals="constant")


def test_after_its_time_a_ramp_goes_on_at_the_rate_it_reached() -> None:
    due = list(itertools.islice(instants(1.0, "constant", 0, rate_to=3.0, over=2.0), 11))
    assert due[4] == 2 * NS_PER_S  # 1 to 3 a second over 2 s: four requests
    assert [at - due[4] for at in due[4:]] == pytest.approx([i / 3 * NS_PER_S for i in range(7)], abs=1)


def test_without_end_or_number_a_level_lasts_a_minute() -> None:
    assert planned(rate=(2.0,), arrivals="constant")[-1] == 59_500_000_000


@pytest.mark.parametrize(
    ("content", "inputs", "outputs"),
    [
        ("0.5\n1\n\n 2.25 \n", None, None),
        ("t,output_tokens\n0.5,7\n1.0,8\n2.25,9\n", None, [7, 8, 9]),
        (
            (
                "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5000000,10,7\n2023-11-16 18:15:47.0000000,20,8\n"
                "2023-11-16 18:15:48.2500000,30,9\n"
            ),
            [10, 20, 30],
            [7, 8, 9],
        ),
        (
            "\n".join(
                f'{{"timestamp": {ms}, "input_length": {n}, "output_length": 5, "hash_ids": [1]}}'
                for ms, n in ((500, 10), (1000, 20), (2250, 30))
            ),
            [10, 20, 30],
            [5, 5, 5],
        ),
        ('\ufefft;output_tokens\r\n0.5;7.0\r\n\r\n1.0;"8"\r\n2.25;9e0\r\n', None, [7, 8, 9]),
        ('"t","input_tokens"\n"0.5","1"\n"1.0","2"\n"2.25","3"\n', [1, 2, 3], None),
        ("t,output_tokens\n-0.5,0\n0,3\n1.25,0\n", None, [1, 3, 1]),
        (f't,prompt\n0.5,"{"a" * 200_000}"\n1,"b\nc"\n2.25,d\n', None, None),
        (
            '{"T": 0.5, "output_tokens": 16.0}\n{"T": 1, "output_tokens": "16"}\n{"T": 2.25, "output_tokens": 16}',
            None,
            [16] * 3,
        ),
        ('{"t": 0.5, "input_tokens": 3}\n{"t": 1, "input_tokens": 4}\n{"t": 2.25, "input_tokens": 5}', [3, 4, 5], None),
        ("Timestamp,Model,Request tokens,Response tokens\n5,x,1,2\n5.5,x,3,4\n6.75,x,5,6", [1, 3, 5], [2, 4, 6]),
        ("# of a load balancer\n0.5\n1\n2.25\n", None, None),
        ("timestamp_ms,prompt_len\n500,1\n1000,2\n2250,3\n", [1, 2, 3], None),
        ("Arrival Time (us),maxTokens\n500000,1\n1000000,2\n2250000,3\n", None, [1, 2, 3]),
        ("ts,isl\n1700000000000,1\n1700000000500,2\n1700000001750,3\n", [1, 2, 3], None),
        ("ts,isl\n1700000000.0,1\n1700000000.5,2\n1700000001.75,3\n", [1, 2, 3], None),
        ("timestamp,prompt_tokens\n1700000000000,1\n1700000000500,2\n1700000001750,3\n", [1, 2, 3], None),
        ("created_at,promptTokens\n1700000000000000,1\n1700000000500000,2\n1700000001750000,3\n", [1, 2, 3], None),
        (
            "\n".join(
                f'{{"chat_id": 1, "timestamp": {s}, "input_length": {n}, "output_length": 5}}'
                for s, n in ((61, 10), (61.5, 20), (62.75, 30))
            ),
            [10, 20, 30],
            [5, 5, 5],
        ),
        (
            "\n".join(
                f'{{"timestamp": {s}, "prompt_tokens": {n}, "completion_tokens": 5}}'
                for s, n in ((61, 10), (61.5, 20), (62.75, 30))
            ),
            [10, 20, 30],
            [5, 5, 5],
        ),
    ],
)
def test_traces_of_every_make_give_the_same_instants(
    tmp_path: Path, content: str, inputs: list[int] | None, outputs: list[int] | None
) -> None:
    path = tmp_path / "trace"
    path.write_text(content)
    trace = Trace.read(path)
    assert list(trace.offsets) == [0, 500_000_000, 1_750_000_000]
    assert [list(said) if said is not None else None for said in (trace.input_tokens, trace.output_tokens)] == [
        inputs,
        outputs,
    ]


def test_a_schedule_written_as_a_trace_is_that_schedule(tmp_path: Path) -> None:
    due = planned(rate=(50.0,), requests=200)
    path = tmp_path / "trace.txt"
    path.write_text("".join(f"{at / NS_PER_S:.9f}\n" for at in due))
    assert list(Trace.read(path).offsets) == list(due)
    scenario = Scenario(trace=str(path), requests=20)
    assert list(schedule_of(scenario, scenario.levels()[0], Trace.read(path))) == list(due[:20])
    scenario = Scenario(trace=str(path), duration=1.0)
    assert list(schedule_of(scenario, scenario.levels()[0], Trace.read(path))) == [at for at in due if at < NS_PER_S]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        (
            "a,b\n1,2\n",
            "line 1, has no instant; name its column timestamp (or timestamp_ms, time, arrival_time, created_at, …), for it has 'a, b'.",
        ),
        ("t\n", "line 1, is a head, and no arrival follows."),
        ("1\n0.5\n", "line 2, is earlier than the one before"),
        ("1\nsoon\n", "line 2, has 'soon' for an instant"),
        ("1\nnan\n", "line 2, has 'nan' for an instant"),
        ("t,input_tokens\n1,5\n2,0\n", "line 3, has a length of '0' (column input_tokens)"),
        ("t,output_tokens\n1,5\n2,-1\n", "line 3, has a length of '-1'"),
        ("t,output_tokens\n1,5\n2,1.5\n", "line 3, has a length of '1.5'"),
        ("t,output_tokens\n1,5\n2,1.000\n", "line 3, has a length of '1.000'"),
        ("t,output_tokens\n1,5\n2,1e30\n", "line 3, has a length of '1e30'"),
        ("t,output_tokens\n1,5\n2,\n3,4\n", "line 3 has none"),
        ("0\n1e30\n", "line 2, is due 1.16e+25 days after the first"),
        (
            "5\n3105\n9405\n",
            "as seconds they would be 4700 s apart on average; name their column timestamp_s or timestamp_ms.",
        ),
        (f"{MOONCAKE}0,9,5\n1733.25,9,5\n", "does not say the unit of its instants, and some have fractions;"),
        (f"{MOONCAKE}0,9,5\n1,9,5\n1,9,5\n2,9,5\n", "as milliseconds they would be 0.67 ms apart on average;"),
        ('{"t_ms": 0}\n{"t": 1}\n', "line 2, has its instant in another unit than the rows before it"),
        ("t\n5\n2026-01-01\n", "line 3, has its instant in another unit than the rows before it"),
        ("0\n1e400\n", "line 2, has '1e400' for an instant (column t)"),
        ('{"t": 0}\n{"t": ' + "9" * 400 + "}\n", "line 2, has a number of about 400 digits for an instant"),
        ('{"t": 0}\n{"t": ' + "9" * 5000 + "}\n", "line 2, column 7, is not JSON: number"),
        ('{"t": NaN}\n', "line 1, has nan for an instant"),
        ('[{"t": 1}]\n', "looks like a JSON array"),
        ("when;what\n1;2\n", "it has 'when, what'"),
        ("1\n\0\n", "holds a NUL byte (line 2)"),
        ('t,x\n1,"a"\n2,"b\n3,c\n', "line 3, is not CSV: unexpected end of data; close every quote"),
        ('t,x\n1,"a\nb"\n2,"b" c\n', "line 4, is not CSV: "),
        ("t,output_tokens\n1,5\n2,\n", "length of 1 of 2 requests"),
        ('{"t": 1}\n{"t": \n', "line 2, column 6, is not JSON: unexpected end of data"),
        ('{"t": 1},\n{"t": 2}\n', "column 9, is not JSON: unexpected content after document; write each row"),
        ('{"t": 1} // the first\n', "column 10, is not JSON: unexpected content after document; write each row"),
        ('{"t": 1}\n{"when": 2}\n', "line 2, has no instant"),
        ("t,input_tokens\n1,5\n2\n", "line 3, has 1 cell and the file's first line 2; give it as many"),
        ("t,t,input_tokens\n1,2,5\n", "line 1, names the column 't' twice; rename one of them."),
    ],
)
def test_a_trace_that_makes_no_sense_is_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "trace"
    path.write_text(content)
    with pytest.raises(ScenarioError) as error:
        Trace.read(path)
    assert words in str(error.value)
    assert str(error.value).endswith((".", "?"))
    with pytest.raises(ScenarioError, match="cannot read the trace"):
        Trace.read(tmp_path / "none")


def test_each_request_of_a_trace_has_its_own_lengths(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("t,input_tokens,output_tokens\n0,40,7\n1,60,8\n")
    workload = Workload(Scenario(trace=str(path), seed=1), Counter("estimate"))
    (level,) = workload.scenario.levels()
    assert (level.label, level.concurrency, level.rate) == ("trace trace.csv", None, None)
    jobs = [first_job(workload, level, i) for i in range(2)]
    assert [(job.input_tokens, job.output_tokens) for job in jobs] == [(40, 7), (60, 8)]
    assert len(jobs[1].prompt) > len(jobs[0].prompt)
    assert first_job(workload, level, 0, warmup=True).output_tokens == 7
    assert workload.trace is not None
    assert workload.trace.longest == 68


def test_what_a_trace_lacks_is_said_before_it_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("t,output_tokens\n0,7\n1,0\n1,0\n")
    few, empty, unit = check_files(Scenario(trace=str(path), requests=10))
    assert "has 3 requests, fewer than the 10 asked for: 3 are sent" in few
    assert "gives 2 of 3 requests 0 output tokens" in empty
    assert unit == f"The instants of the trace {path} are read in seconds, as the file names no unit: it lasts 1.00 s."
    own = check_files(Scenario(trace=str(path), output_tokens=(9, 64)))
    assert f"The trace {path} has output_tokens of its own; those asked for (9 and 64) are not used." in own
    path.write_text("time_s\n0\n1\n")
    assert check_files(Scenario(trace=str(path), requests=2)) == []
    path.write_text("time_s,in,out\n0,1,2\n")
    (unread,) = check_files(Scenario(trace=str(path)))
    assert unread.endswith("nor one of a like name. Nothing is read of its further columns: in and out.")
    path.write_text("time_s,isl,osl,Prompt,model\n0,1,2,Hello,m\n")
    (texts,) = check_files(Scenario(trace=str(path)))
    assert texts.endswith(
        f"has texts (Prompt), and those that are sent are made up; --data {path} sends its own when they are due."
    )
    both = check_files(Scenario(trace=str(path), data=str(path)))
    assert not any("made up" in note or "not sent" in note for note in both)
    path.write_text("time_s,isl,osl,prompt,input\n0,1,2,,7\n")  # columns of such names without a text
    assert check_files(Scenario(trace=str(path))) == []
    path.write_text("id,time_ms,prompt_len,in,output_len\na,0,1,2,3\nb,250,1,2,3\n")
    assert check_files(Scenario(trace=str(path))) == [
        f"The instants of the trace {path} are read in milliseconds, as their column is named: it lasts 250 ms."
    ]


def test_a_pipe_is_read_once_though_it_is_asked_for_twice(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        pool.submit((tmp_path / "pipe").write_text, "time_s\n0\n2\n")
        assert check_files(Scenario(trace=str(tmp_path / "pipe"))) == []
    assert list(Trace.read(tmp_path / "pipe").offsets) == [0, 2 * NS_PER_S]


def test_a_plan_too_long_for_the_clock_is_one_sentence() -> None:
    scenario = Scenario(rate=(1e-6,), requests=2, arrivals="constant")
    level = dataclasses.replace(scenario.levels()[0], requests=10_000)
    with pytest.raises(ScenarioError, match="beyond the next 290 years"):
        schedule_of(scenario, level)
