"""Monitors: sources against real servers, gaps, and a process of its own that ends with its run."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.exporter import Exporter, eventually, opened

from loadtest.errors import RunFolderError, ScenarioError
from loadtest.monitor import process
from loadtest.monitor.host import Host, ProcessTree, listening_pid
from loadtest.monitor.process import SourceSpec, child_monitor, parse_sources
from loadtest.monitor.prometheus import Prometheus
from loadtest.monitor.sampler import Watch, writer_for
from loadtest.monitor.scraped_page import ScrapedPage


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- what the user writes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("host", SourceSpec("host")),
        ("ollama=http://h:11434", SourceSpec("ollama", "http://h:11434")),
        ("dcgm=http://h:9400", SourceSpec("dcgm", "http://h:9400/metrics")),
        ("dcgm=http://h/exporter", SourceSpec("dcgm", "http://h/exporter")),
        (
            "prometheus=http://h:9100/metrics:a,vllm:b",
            SourceSpec("prometheus", "http://h:9100/metrics", ("a", "vllm:b")),
        ),
        ("prometheus=http://[::1]:9100:a", SourceSpec("prometheus", "http://[::1]:9100/metrics", ("a",))),
        ("prometheus=http://h:a", SourceSpec("prometheus", "http://h/metrics", ("a",))),
    ],
)
def test_a_source_is_read_as_written(text: str, asked: SourceSpec) -> None:
    assert parse_sources([text]) == [asked]
    assert parse_sources([str(asked)]) == [asked]


def test_sources_may_be_joined_by_commas_and_stand_for_the_measured_server() -> None:
    found = parse_sources(
        ["host,ollama,prometheus=http://h/m:a,b,nvidia", "vllm", "host"], servers=["http://s:8000/v1"]
    )
    assert found == [
        SourceSpec("host"),
        SourceSpec("ollama", "http://s:8000"),
        SourceSpec("prometheus", "http://h/m", ("a", "b")),
        SourceSpec("nvidia"),
        SourceSpec("vllm", "http://s:8000/metrics"),
    ]


def test_blanks_may_stand_behind_commas() -> None:
    assert parse_sources(["host, nvidia,"]) == parse_sources(["host", "nvidia"])


@pytest.mark.parametrize(
    "text", ["gpu", "host=http://h", "ollama", "dcgm=h:9400", "dcgm=http://h:99999", "ollama=http://h:1:metric", ""]
)
def test_a_mistake_is_a_sentence(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"\.$"):
        parse_sources([text])


def test_a_run_does_not_begin_with_a_source_that_is_none(
    loadtest: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = loadtest("run", "--url", "http://127.0.0.1:9", "--monitor", "host, gpu", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "'gpu' is not a source to monitor" in err
    assert not (tmp_path / "run").exists()


# -- host -----------------------------------------------------------------------------------------------------------


def test_host_samples_every_core_and_keeps_the_client_apart() -> None:
    host = Host(client=os.getpid())
    with opened(host) as facts:
        assert facts["cores"] == psutil.cpu_count()
        eventually(lambda: "cores" in host.sample())
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        seen = host.sample()
    assert len(seen["cores"]) == facts["cores"]
    assert all(0 <= share <= 1 for share in seen["cores"])
    assert 0 < seen["memory_used"] < facts["memory_total"]
    assert seen["client_cpu"] > 0
    assert seen["client_memory"] > 10e6
    assert "server_cpu" not in seen  # nobody asked


def test_the_listening_process_is_found_and_others_are_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert listening_pid(url) == os.getpid()
        assert (
            listening_pid(url.replace("127.0.0.1", "192.0.2.1")) is None
        )  # no address of ours: another machine's server
    assert listening_pid(url) is None


def test_a_familys_use_counts_its_children_and_ends_with_it() -> None:
    # os.times() counts in the ticks that a monitor reads, process_time() in finer ones
    burn = "import os, sys\nwhile sum(os.times()[:2]) < 0.3: pass\nprint(1, flush=True)\nsys.stdin.read()"
    wait = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        tree = ProcessTree(parent.pid)
        tree.use()
        assert parent.stdout is not None
        began = time.perf_counter()
        parent.stdout.readline()  # the grandchild has burned its 0.3 s
        tree._listed = -1e9
        tree.use()
        assert len(tree._members) == 2
        assert sum(tree._used.values()) >= 0.3
        assert time.perf_counter() > began
        parent.communicate()
    assert tree.use() is None


# -- gaps -----------------------------------------------------------------------------------------------------------


def test_a_failing_source_leaves_one_gap_and_comes_back(exporter: Exporter, tmp_path: Path) -> None:
    exporter.body = b"a 1\n"
    said: list[str] = []
    source, writer = Prometheus("prometheus", ScrapedPage(exporter.url), ("a",)), writer_for(tmp_path, "it", 1.0)
    watch = Watch(source, writer, 1.0, said.append)
    holds = [watch.beat(), watch.beat()]
    exporter.status = 500
    holds += [watch.beat() for _ in range(4)]
    exporter.status = 200
    holds += [watch.beat()]
    exporter.status = 500
    holds += [watch.beat()]
    exporter.status = 200
    watch.beat()
    source.close()
    writer.close()
    assert holds == [0, 0, 0, 1, 3, 7, 0, 0]  # beyond the next beat: ever more rarely
    why = f"{exporter.url} answers 500: it does not give the page now."
    assert said == [why]  # once, though it failed twice
    header, *lines = lines_of(tmp_path / "samples-it.jsonl")
    assert header["every"] == 1.0
    kinds = ["facts", "values", "values", "gap", "facts", "values", "gap", "facts", "values"]
    assert [[key for key in line if key != "t"] for line in lines] == [[kind] for kind in kinds]
    assert all(line["values"] == {"a": 1} for line in lines if "values" in line)
    times = [line["t"] for line in lines]
    assert times == sorted(times)


def test_a_second_monitor_writes_beside_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        writer_for(tmp_path, "host", 1.0).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["samples-host-2.jsonl", "samples-host.jsonl"]
    with pytest.raises(RunFolderError, match="choose another --out"):
        writer_for(tmp_path / "missing", "host", 1.0)


# -- the process ----------------------------------------------------------------------------------------------------


def test_it_samples_alone_for_as_long_as_it_is_told(tmp_path: Path, simulated_url: str) -> None:
    before = time.perf_counter_ns()
    command = [sys.executable, "-m", "loadtest", "monitor", "--out", str(tmp_path / "new"), "--every", "0.05"]
    command += ["--for", "0.5", "--source", f"host,ollama={simulated_url}", "--source", "dcgm=http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.count("\n") == 1
    assert "nothing answers at http://127.0.0.1:9/metrics" in done.stderr
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "samples-dcgm.jsonl",
        "samples-host.jsonl",
        "samples-ollama.jsonl",
    ]
    header, facts, *samples = lines_of(tmp_path / "new" / "samples-host.jsonl")
    assert before < header["monotonic_ns"] < time.perf_counter_ns()  # one clock for all processes of a host
    assert "facts" in facts
    assert samples
    assert [line["gap"] for line in lines_of(tmp_path / "new" / "samples-dcgm.jsonl")[1:]] == [
        "nothing answers at http://127.0.0.1:9/metrics; is it running, and is the address right?"
    ]


def test_beside_a_run_it_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _: pytest.fail("it had to be killed"))
    file = tmp_path / "samples-host.jsonl"
    with child_monitor(tmp_path, [SourceSpec("host")], every=0.05) as pid:
        assert file.exists()  # it is up before the run begins
        eventually(lambda: sum("client_cpu" in line for line in lines_of(file)) >= 2)
        assert psutil.Process(pid).nice() == min(19, os.nice(0) + process.NICENESS)
        assert os.getsid(pid) == pid  # Ctrl-C at the terminal is the run's
    assert not psutil.pid_exists(pid)


def test_it_is_up_before_the_run_where_a_thousand_descriptors_are_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
    many = [os.dup(0) for _ in range(1100)]
    try:
        with child_monitor(tmp_path, [SourceSpec("host")], every=0.05):
            assert (tmp_path / "samples-host.jsonl").exists()
    finally:
        for one in many:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("forks", [False, True])
def test_it_ends_when_its_parent_is_killed(tmp_path: Path, *, forks: bool) -> None:
    program = (
        "import os, sys; from pathlib import Path; from loadtest.monitor.process import SourceSpec, child_monitor\n"
        f"with child_monitor(Path({str(tmp_path)!r}), [SourceSpec('host')], every=0.05) as pid:\n"
        f"    forked = {forks} and os.fork() == 0  # holds the pipe open when the parent is gone\n"
        "    if not forked: print(pid, flush=True)\n"
        "    sys.stdin.read(); os._exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_a_monitor_that_cannot_start_is_no_reason_to_stop_the_run(tmp_path: Path) -> None:
    with child_monitor(tmp_path, [SourceSpec("ollama", "no address")], every=0.05) as pid:
        assert pid
    assert not psutil.pid_exists(pid)


def test_a_monitor_that_is_killed_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    with child_monitor(tmp_path, [SourceSpec("host")], every=0.05, say=said.append) as pid:
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert said == ["it was killed (SIGKILL) before the run ended; nothing was sampled from then on."]


def test_a_run_is_sampled_and_reported(
    loadtest: Callable[..., tuple[int, str, str]], simulated_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    grid = ["--concurrency", "1,2", "--requests", "4", "--output-tokens", "16", "--input-tokens", "16"]
    sources = ["--monitor", f"host,ollama,llamacpp,dcgm={simulated_url}", "--monitor-every", "0.05"]
    code, text, err = loadtest("run", "--url", simulated_url, *grid, *sources, "--out", out, "--report")
    assert code in (0, 3), err  # a busy machine may make the figures void; the samples stay
    assert "GPU memory (simulated) in use: 42.6 GB at 1 stream and 42.6 GB at 2 streams, 42.6 GB at most." in " ".join(
        text.split()
    )
    assert {path.name for path in out.glob("samples-*")} == {
        f"samples-{name}.jsonl" for name in ("driver", "host", "ollama", "llamacpp", "dcgm")
    }
    assert (out / "machine.png").stat().st_size > 10_000
    assert "machine.png" in (out / "report.md").read_text()


def test_an_interrupted_run_takes_its_monitor_with_it(simulated_url: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "loadtest", "run", "--url", simulated_url, "--concurrency", "1"]
    command += ["--requests", "100000", "--output-tokens", "8", "--monitor", "host", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        eventually(lambda: (out / "requests-0.jsonl").exists() and len(lines_of(out / "requests-0.jsonl")) > 3)
        (child,) = psutil.Process(run.pid).children()
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        assert run.wait(60) == 130
    assert not child.is_running()
    assert any("memory_used" in line for line in lines_of(out / "samples-host.jsonl"))
