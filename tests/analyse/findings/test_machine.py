"""What monitors sampled, on the run's axis: alignment, gaps, and sentences held to figures that are known."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import made_runs
from support.made_samples import MONOTONIC, S, add, beats

from loadtest.analyse.charts import machine as chart
from loadtest.analyse.findings import machine_findings
from loadtest.analyse.findings.step_findings import steps_findings
from loadtest.analyse.run import frames
from loadtest.analyse.run.files import samples
from loadtest.analyse.summary import analyse
from loadtest.monitor.prometheus import KNOWN_METRICS

GB = 10**9


def said(path: Path) -> str:
    return "\n".join(machine_findings.machine_findings(frames.load(path)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A made-up run of 1, 4 and 8 streams."""
    path = tmp_path / "run"
    made_runs.make(path, users=(1, 4, 8))
    return path


def test_without_monitors_nothing_is_said_or_drawn(run: Path, tmp_path: Path) -> None:
    assert frames.load(run).machine.empty
    assert said(run) == ""
    assert chart.draw(tmp_path / "machine.png", analyse(run)) is None
    assert not (tmp_path / "machine.png").exists()


@pytest.mark.parametrize(
    "anchor",
    [
        {"monotonic_ns": MONOTONIC + 3 * S, "wall_ns": made_runs.WALL},  # one boot: the wall clock has stepped
        {"host": "elsewhere", "monotonic_ns": 77, "wall_ns": made_runs.WALL + 3 * S},
        {"monotonic_ns": 77, "wall_ns": made_runs.WALL + 10**6 * S},  # this host after a restart, long after
    ],
    ids=["same clock", "another host", "another boot"],
)
def test_samples_stand_on_the_runs_axis(run: Path, anchor: dict[str, Any]) -> None:
    add(run, "host", [{"t": 0.5, "cores": [0.5], "memory_used": 1}], **anchor)
    (frame,) = frames.load(run).machine.hosts.values()
    assert frame["t"].tolist() == pytest.approx([10**6 + 0.5 if anchor["wall_ns"] > made_runs.WALL + 4 * S else 3.5])


def test_missing_samples_break_the_line_and_a_gap_is_said(run: Path) -> None:
    why = "http://h/metrics answers 500: it has no such page."
    lines: list[dict[str, Any]] = [{"t": t, "cores": [0.5], "memory_used": 1} for t in (0.0, 0.1, 0.2)]
    lines += [{"t": 0.3, "gap": why}, {"t": 0.9, "facts": {"cores": 1}}, {"t": 1.0, "cores": [0.5], "memory_used": 1}]
    add(run, "host", lines)
    seen = frames.load(run).machine
    (frame,) = seen.hosts.values()
    assert frame["busiest"].isna().tolist() == [False, False, False, True, False]
    (gap,) = seen.gaps
    assert (gap.source, gap.sentence) == ("host", why)
    assert (gap.start, gap.end) == pytest.approx((0.3, 1.0))
    assert f"No samples of host from the start, until 1 s: {why}" in said(run)


def test_busy_cores_are_said_by_their_figures(run: Path) -> None:
    """Was "all 8 cores are busy" beside an idle one, and "only one of 4 cores is busy" where each other was half busy."""
    facts = {"t": 0, "facts": {"cores": 4}}
    one = [{**beat, "cores": np.roll([0.95, 0.1, 0.05, 0.0], i).tolist()} for i, beat in enumerate(beats(run))]
    add(run, "host", [facts, *one], host="box", wall_ns=made_runs.WALL)
    start = "At 8 streams, the busiest of 4 cores of box is at "
    assert f"{start}95 %, the next at 10 % and their mean at 28 %." in said(run)  # whichever core it is at the moment
    add(run, "host", [facts, *beats(run, cores=[1.0, 0.5, 0.5, 0.0])], host="box", wall_ns=made_runs.WALL)
    assert f"{start}100 %, the next at 50 % and their mean at 50 %." in said(run)


def test_client_and_server_are_told_apart(run: Path) -> None:
    add(run, "host", beats(run, cores=[0.5], server_cpu=lambda n: n / 4, client_cpu=0.125))
    assert "At 8 streams, the server's process uses 2.00 cores and this client uses 0.12 of a core." in said(run)


def test_what_other_programs_use_is_said(run: Path) -> None:
    """Two cores at 100 % beside a server that got a quarter of one: nothing said that others had the rest."""
    facts = {"t": 0, "facts": {"cores": 2, "cpu": "Xeon"}}
    add(run, "host", [facts, *beats(run, cores=[1.0, 1.0], server_cpu=0.25, client_cpu=0.05)])
    assert (
        "At 8 streams, the server's process uses 0.25 cores and this client uses 0.05 of a core; other programs use 1.70 of the "
        "2 cores, which the server may lack."
    ) in said(run)
    assert frames.load(run).machine.hardware[0].endswith(": 2 cores of Xeon")


def test_host_memory_stays_or_grows(run: Path) -> None:
    add(run, "host", beats(run, cores=[0.5], memory_used=12 * GB, swap_used=0), host="box", wall_ns=made_runs.WALL)
    assert "Memory in use on box was 12 GB to 12 GB." in said(run)
    grown = beats(run, cores=[0.5], memory_used=lambda n: (12 + n) * GB, swap_used=lambda n: n * GB)
    add(run, "host", grown, host="box", wall_ns=made_runs.WALL)
    assert "Memory in use on box was 13 GB to 20 GB; 7 GB went to swap" in said(run)
    falling = beats(run, cores=[0.5], memory_used=lambda n: (20 - n) * GB, swap_used=lambda n: (8 - n) * GB)
    add(run, "host", falling, host="box", wall_ns=made_runs.WALL)
    assert "Memory in use on box was 12 GB to 19 GB." in said(run)  # was "went from 12 GB to 19 GB; 7 GB went to swap"


def test_gpu_memory_that_stays_and_that_grows(run: Path) -> None:
    add(run, "nvidia", beats(run, gpus=[{"gpu": 0, "memory_used": 42 * GB, "utilisation": 0.98, "power": 300.0}]))
    assert "GPU memory in use: 42 GB at 1 stream and 42 GB at 8 streams, 42 GB at most." in said(run)
    assert "GPU at 98 % utilisation and 300 W at 8 streams (medians)." in said(run)
    two = beats(run, gpus=lambda n: [{"gpu": 0, "memory_used": 20 * GB}, {"gpu": 1, "memory_used": (20 + n) * GB}])
    add(run, "nvidia", two)
    said_of_two = "GPU memory of 2 GPUs together in use: 41 GB at 1 stream and 48 GB at 8 streams, 48 GB at most."
    assert said_of_two in said(run)


def test_an_exporter_says_the_same_as_the_driver_and_what_is_simulated_says_so(run: Path) -> None:
    values = {'DCGM_FI_DEV_FB_USED{gpu="0"}': 40_000, 'DCGM_FI_DEV_GPU_UTIL{gpu="0"}': 97}
    facts = {"t": 0, "facts": {"url": "http://h/metrics", "simulated": "profile=x; speed=1"}}
    add(run, "dcgm", [facts, *beats(run, values=values)])
    assert "GPU memory (simulated) in use: 41.9 GB at 1 stream and 41.9 GB at 8 streams, 41.9 GB at most." in said(run)
    assert "GPU (simulated) at 97 % utilisation at 8 streams (medians)." in said(run)
    add(run, "nvidia", beats(run, gpus=[{"gpu": 0, "memory_used": 42 * GB}]))
    assert "GPU memory in use: 42 GB" in said(run)  # the same card twice is not twice the memory
    assert "simulated" not in said(run)


def test_a_sum_without_one_of_its_gpus_is_no_sum(run: Path) -> None:
    lines = beats(run, gpus=lambda n: [{"gpu": 0, "memory_used": 20 * GB}, {"gpu": 1}])
    add(run, "nvidia", lines)
    assert "GPU memory" not in said(run)


@pytest.mark.parametrize("prefix", ["vllm", "llamacpp"])
def test_the_servers_own_count_and_a_full_kv_cache(run: Path, prefix: str) -> None:
    names = {
        "vllm": ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
        "llamacpp": ("llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:kv_cache_usage_ratio"),
    }[prefix]
    label = '{engine="0"}'

    def values(full: float) -> Any:
        return lambda n: {
            names[0] + label: min(n, 4),
            names[1] + label: max(n - 4, 0),
            names[2] + label: full * n / 8,
        }

    add(run, prefix, beats(run, values=values(1.0)))
    assert "The KV cache was at most 100 % full when it was sampled, at 8 streams." in said(run)
    assert "the server itself counted up to 4 requests running, and up to 4 waiting at 8 streams." in said(run)
    add(run, prefix, beats(run, values=values(0.5)))
    assert "The KV cache was at most 50 % full when it was sampled, at 8 streams." in said(run)
    assert machine_findings.others_finding(frames.load(run)) is None


def test_a_page_that_shows_no_request_of_the_run_says_nothing_of_queue_and_cache(run: Path) -> None:
    """Of another replica: "the KV cache was at most 0 % full", "up to 0 requests running, and none waiting"."""
    counts = ("llamacpp:requests_processing", "llamacpp:requests_deferred", "llamacpp:kv_cache_usage_ratio")
    add(run, "llamacpp", beats(run, values=dict.fromkeys(counts, 0)))
    found = said(run)
    assert "The page of metrics shows no request while this run's were answered" in found
    assert not any(words in found for words in ("KV cache was", "running"))


def test_where_a_server_counts_more_requests_than_the_run_sent_no_step_time_is_said(run: Path) -> None:
    """With a stranger's two streams beside it the law was 54.6 ms a step where 32 + 8n were true."""
    assert steps_findings(analyse(run))
    counts = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
    add(run, "llamacpp", beats(run, values=lambda n: dict(zip(counts, (n, 2), strict=True))))
    found = str(machine_findings.others_finding(frames.load(run)))
    assert "it counted up to 3 requests at once where this run had no more than 1." in found
    assert steps_findings(analyse(run)) == []


def test_the_servers_own_counters_are_said(run: Path) -> None:
    """A vLLM whose KV cache was too small preempted, and had half of the prompts cached: nothing said either."""
    counts = {
        "vllm:num_preemptions_total": 3,
        "vllm:prefix_cache_queries_total": 200,
        "vllm:prefix_cache_hits_total": 90,
    }
    lines = beats(run, values={"vllm:num_requests_running": 1})
    rising = [{**line, "values": {name: i * each for name, each in counts.items()}} for i, line in enumerate(lines)]
    add(run, "vllm", rising)
    assert re.search(
        r"the server itself counted \d+ preemptions at 8 streams\. It takes the cache from a request", said(run)
    )
    assert "The server itself counted up to 45 % of the prompt tokens as cached, at 1 stream" in said(run)
    add(run, "vllm", [{**line, "values": dict.fromkeys(counts, 7)} for line in lines])
    assert said(run) == ""


def test_a_model_that_was_reloaded_is_said_with_its_time(run: Path) -> None:
    model = {"name": "m", "size": 40 * GB, "size_vram": 40 * GB, "context_length": 2048}
    longer = {**model, "context_length": 8192}
    lines = [{"t": t, "models": models} for t, models in ((0.0, [model]), (1.0, []), (3.0, [model]), (4.0, [longer]))]
    add(run, "ollama", lines, every=1.0)
    # made_runs.WALL is 15:06:40 UTC
    assert said(run).splitlines() == [
        "m was reloaded at 15:06:43 UTC (3 s into the run): it was gone from the server for about 2 s.",
        "m was reloaded at 15:06:44 UTC (4 s into the run): its context went from 2048 to 8192 tokens.",
    ]
    add(run, "ollama", [{"t": 0.0, "models": []}, {"t": 1.0, "models": [model]}], every=1.0)
    assert said(run) == ""  # the first load is none


@pytest.mark.parametrize(
    ("counts", "in_turn"),
    [
        ((100, 7, 120, 130, 9, 140), True),
        ((100, 110, 2, 5, 120, 130), False),  # one restart, and a busy server then
        ((100, 110, 0, 1, 2, 3), False),
        ((1, 2, 3, 4, 5, 6), False),
    ],
)
def test_a_counter_that_goes_back_and_forth_is_of_several_servers(
    run: Path, counts: tuple[int, ...], *, in_turn: bool
) -> None:
    lines = [
        {"t": i * 0.1, "values": {"llamacpp:prompt_tokens_total": count, "llamacpp:requests_processing": 1}}
        for i, count in enumerate(counts)
    ]
    add(run, "llamacpp", lines)
    seen = frames.load(run)
    assert (seen.machine.server is None) == in_turn
    assert any("of several servers in turn" in one for one in seen.trouble) == in_turn


def test_a_reload_between_two_samples_is_said_by_the_requests_that_waited_for_it(tmp_path: Path) -> None:
    levels, truth = made_runs.grid(made_runs.Made(prefill_ms=2000), (1, 2))
    late = [record.id for record in truth.records if record.level == 1 and not record.warmup][6:8]  # two wait for one
    records = made_runs.loading(truth.records, late, load_ms=800)
    first, second = (record for record in records if record.id in late)
    assert (second.t_send or 0) < (first.t_first_token or 0)
    path = made_runs.write(tmp_path / "run", records, levels)
    (sentence,) = said(path).splitlines()
    answered = (first.t_first_token or 0) / S
    loaded = (first.t_send or 0) / S + 0.8  # was the instant of the answer, which comes a prompt later
    assert sentence.startswith("made was reloaded at 15:0")
    assert sentence.endswith(f"({loaded:.0f} s into the run): a request waited 800 ms for it.")
    gone = [{"t": answered - 0.5, "models": [{"name": "made"}]}, {"t": answered - 0.4, "models": []}]
    add(path, "ollama", [*gone, {"t": answered, "models": [{"name": "made"}]}])
    assert said(path).count("was reloaded") == 1  # the samples saw it: said once
    assert "it was gone from the server" in said(path)


def test_a_model_partly_on_the_gpu_is_said(run: Path) -> None:
    model = {"name": "m", "size": 40 * GB, "size_vram": 30 * GB}
    add(run, "ollama", [{"t": 0.0, "models": [model]}])
    assert "m is not all on a GPU: 10 GB of 40 GB lie in host memory." in said(run)


def test_every_metric_that_is_read_is_one_that_is_sampled() -> None:
    sampled = {name for names in KNOWN_METRICS.values() for name in names}
    assert set(samples.GPU_METRICS) | set(samples.SERVER_METRICS) <= sampled


def test_the_panels_are_those_that_there_is_something_to_see_in(run: Path, tmp_path: Path) -> None:
    add(run, "host", beats(run, cores=[0.5, 0.1], client_cpu=0.1, memory_used=1))
    add(run, "nvidia", beats(run, gpus=[{"gpu": 0, "memory_used": 42 * GB}]))
    add(run, "prometheus", beats(run, values={"node_load1": 0.7}))
    seen = frames.load(run).machine
    assert [label for label, _ in chart._panels(seen)] == [
        f"cores of\n{platform.node()}",
        "GPU memory\n(GB)",
        "node_load1",
    ]
    assert chart.draw(tmp_path / "machine.png", analyse(run)) == tmp_path / "machine.png"
    assert (tmp_path / "machine.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "line",
    [
        {"cores": "many"},
        {"cores": ["1"]},
        {"values": ["a"]},
        {"values": {"a": None}},
        {"gpus": [{"gpu": "x"}]},
        {"gpus": 1},
        {"models": [{}]},
        {"models": 5},
        {"gap": 1, "t": "soon"},
    ],
    ids=str,
)
def test_a_line_that_is_no_sample_costs_that_line_and_is_said(run: Path, line: dict[str, Any]) -> None:
    add(run, "nvidia", beats(run, gpus=[{"gpu": 0, "memory_used": 42 * GB}]))
    with (run / "samples-nvidia.jsonl").open("a") as file:
        file.write(json.dumps({"t": 5, **line}) + "\n")
    assert said(run) == "GPU memory in use: 42 GB at 1 stream and 42 GB at 8 streams, 42 GB at most."
    assert analyse(run).summary["trouble"] == ["1 line of samples-nvidia.jsonl holds no sample and is left out."]


def test_a_file_that_does_not_parse_is_no_reason_to_refuse_a_run(run: Path) -> None:
    (run / "samples-host.jsonl").write_text("not json\n")
    assert said(run) == ""
    left_out = "samples-host.jsonl does not begin with a header that can be read and is left out."
    assert analyse(run).summary["trouble"] == [left_out]


def test_a_load_that_several_waited_for_is_said_with_one_figure(tmp_path: Path) -> None:
    """Was "waited up to 415 ms for a load" in the verdict, and "a request waited 403 ms" of the first that was sent below it."""
    levels, truth = made_runs.grid(made_runs.Made(prefill_ms=2000), (1, 2))
    late = [record.id for record in truth.records if record.level == 1 and not record.warmup][6:8]
    records = made_runs.loading(truth.records, late, load_ms=800)
    longer = [
        dataclasses.replace(record, server={**(record.server or {}), "load_duration": 815_000_000})
        if record.id == late[1]
        else record
        for record in records
    ]
    one = analyse(made_runs.write(tmp_path / "run", longer, levels))
    (sentence,) = machine_findings.machine_findings(one.run)
    assert "2 of 16 requests waited up to 815 ms for the model to load" in one.levels[1]["reasons"][0]
    assert sentence.endswith("a request waited 815 ms for it.")
