"""The figures of a run for Prometheus: what they become, where they are read from, who may read the page."""

from __future__ import annotations

import dataclasses
import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from prometheus_client.exposition import generate_latest
from support.made_runs import recorded
from support.prometheus_server import INSTALLED, get, promtool, samples

from loadtest.analyse.run import frames
from loadtest.errors import ScenarioError
from loadtest.live import Figures
from loadtest.monitor.endpoint import SCRAPER_TIMEOUT_S, open_listener, serve_metrics, url_of
from loadtest.monitor.export import HISTOGRAM_METRICS, ClientState, RunState, bounds, families
from loadtest.monitor.tail import Tail
from loadtest.records import Clock, Outcome, Record
from loadtest.run_folder import RunFolder

needs_prometheus = pytest.mark.skipif(not INSTALLED, reason="prometheus and promtool are not installed")


@dataclasses.dataclass(frozen=True, slots=True)
class _Families:
    """What an encoder asks."""

    seen: RunState

    def collect(self) -> Iterable[Any]:
        return families(self.seen)


def page(seen: RunState) -> bytes:
    return generate_latest(_Families(seen))


# -- from figures to metrics ----------------------------------------------------------------------------------------


def figures_of(records: Iterable[Record]) -> Figures:
    figures = Figures()
    for record in records:
        figures.add(record, 0.0)
    return figures


def test_bounds_are_round_and_about_a_quarter_apart() -> None:
    ends = bounds(-3, 3)
    assert {0.001, 0.002, 0.5, 2.0, 1000.0} <= set(ends)
    steps = [after / before for before, after in pairwise(ends)]
    assert 1.24 < min(steps) <= max(steps) < 1.29


def test_buckets_hold_what_the_figures_hold(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", ["ollama-0.33-mid-slots4-c8"])
    run, figures = frames.load(folder), figures_of(RunFolder.open(folder).records())
    found = samples(page(RunState(figures={"a": figures})))
    good = run.good(0)
    for figure, (name, _, limits) in HISTOGRAM_METRICS.items():
        values = run.itl.of(good) if figure == "itl_s" else run.column(figure)[good]
        values = values[np.isfinite(values)]
        assert found[f"{name}_count", "a", ""] == len(values) > 10, name
        assert found[f"{name}_sum", "a", ""] == pytest.approx(values.sum()), name
        for limit in limits:
            count = found[f"{name}_bucket", "a", f"{limit:.10g}" if limit % 1 else f"{limit:.1f}"]
            assert (values < limit * 0.995).sum() <= count <= (values <= limit * 1.005).sum(), (name, limit)
    assert found["loadtest_requests_total", "a", "ok"] == good.sum()
    assert found["loadtest_output_tokens_total", "a", ""] == run.column("output_tokens")[good].sum()
    assert found["loadtest_prompt_tokens_total", "a", ""] == run.column("prompt_tokens")[good].sum()


def test_warm_up_is_in_none_of_them_and_every_outcome_is_counted(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", ["ollama-0.33-mid-slots4-c8"])
    ok, *others = [record for record in RunFolder.open(folder).records() if record.outcome is Outcome.OK][:6]
    changes: list[dict[str, Any]] = [
        {"warmup": True},
        {"warmup": True, "outcome": Outcome.CANCELLED},
        {"outcome": Outcome.CANCELLED},
        {"outcome": Outcome.HTTP_ERROR},
        {"outcome": Outcome.HTTP_ERROR},
    ]
    figures = figures_of(
        [ok, *(dataclasses.replace(one, **change) for one, change in zip(others, changes, strict=True))]
    )
    found = samples(page(RunState(figures={"a": figures})))
    requests = {outcome: count for (name, _, outcome), count in found.items() if name == "loadtest_requests_total"}
    assert requests == {"ok": 1, "cancelled": 1, "http_error": 2}
    assert found["loadtest_ttft_seconds_count", "a", ""] == 1
    assert found["loadtest_output_tokens_total", "a", ""] == ok.output_tokens


def test_the_run_is_named_without_the_credentials_of_its_url() -> None:
    facts = {
        "driver": "asyncio",
        "target": {"model": "m", "url": "https://me:secret@host:1/v1", "dialect": "ollama-chat"},
        "server": {"simulated": {"profile": "p", "speed": 20.0}},
    }
    text = page(RunState(run="today", facts=facts)).decode()
    assert (
        'loadtest_run_info{dialect="ollama-chat",driver="asyncio",model="m",run="today",simulated="p at 20× speed",'
        'url="https://host:1/v1"} 1.0\n'
    ) in text
    assert "secret" not in text


def test_what_is_not_known_now_is_left_out() -> None:
    assert b"loadtest_streams" not in page(RunState())
    known = page(RunState(client=ClientState(decoding=2, waiting=3, loop_gap_s=None, cpu_cores=0.5)))
    assert b"loadtest_streams_in_flight 5.0\n" in known
    assert b"loadtest_client_loop_gap_seconds" not in known


@needs_prometheus
def test_promtool_finds_nothing_to_say_about_the_page(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", ["ollama-0.33-mid-slots4-c8"])
    figures = figures_of(RunFolder.open(folder).records())
    client = ClientState(decoding=2, waiting=3, loop_gap_s=0.01, cpu_cores=0.5)
    text = page(
        RunState("run", {"driver": "asyncio"}, {"8 streams · 128 in": figures, 'odd "\\\n name': figures}, client)
    )
    checked = promtool("check", "metrics", page=text)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert promtool("check", "metrics", page=b"x 1\n").stderr  # it does read


# -- a folder that is being written -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_tail_has_every_record_once_however_the_files_grow(tmp_path: Path, seed: int) -> None:
    whole = recorded(tmp_path / "whole", ["ollama-0.33-mid-slots4-c8", "ollama-0.24-tiny-slots4-c8-mixed"])
    (data,) = (path.read_bytes() for path in whole.glob("requests-*.jsonl"))
    header, *lines = data.splitlines(keepends=True)
    lines.insert(7, b"no record\n")
    rng, growing = random.Random(seed), tmp_path / "growing"
    tail = Tail(growing, limit=rng.choice((0.0, 60.0)))
    assert tail.seen().figures == {}  # not even the folder is there
    growing.mkdir()
    parts = {name: header + b"".join(lines[which::2]) for which, name in enumerate("ab")}
    while any(parts.values()):
        name = rng.choice([name for name, left in parts.items() if left])
        cut = rng.randint(1, 2000)
        with (growing / f"requests-{name}.jsonl").open("ab") as file:
            file.write(parts[name][:cut])
        parts[name] = parts[name][cut:]
        tail.seen()
    for _ in lines:  # without time it reads a line a file
        last = tail.seen()
    by_level: dict[str, list[Record]] = {}
    for record in RunFolder.open(whole).records():
        by_level.setdefault(f"level {record.level}", []).append(record)
    assert last.figures.keys() == by_level.keys()
    for label, records in by_level.items():
        expected, found = figures_of(records), last.figures[label]
        assert found.outcomes == expected.outcomes
        assert found.output_tokens == expected.output_tokens > 0
        for name, histogram in expected.histograms.items():
            assert found.histograms[name].count == histogram.count


def test_levels_of_one_label_are_added_up(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", ["ollama-0.33-mid-slots4-c8", "ollama-0.33-mid-slots4-c8"])
    apart = Tail(folder).seen().figures
    facts = json.loads((folder / "run.json").read_text())
    for level in facts["levels"]:
        level["label"] = "8 streams"
    (folder / "run.json").write_text(json.dumps(facts))
    (together,) = Tail(folder).seen().figures.items()
    assert together[0] == "8 streams"
    assert together[1].ok == sum(one.ok for one in apart.values()) > max(one.ok for one in apart.values())


def test_the_clients_processes_are_added_up_while_they_speak(tmp_path: Path) -> None:
    folder, now = RunFolder.create(tmp_path / "run"), Clock.now()
    said = {"level": 0, "in_flight": 3, "decoding": 2, "waiting": 1, "loop_gap_us": 4000, "cpu": 0.25}
    for source, started_ns in (("driver-0", 0), ("driver-1", 0), ("driver-2", 60_000_000_000)):
        clock = Clock(now.monotonic_ns - started_ns, now.wall_ns - started_ns)
        writer = folder.sample_writer(clock, source=source)
        writer.write({"t": 0, **said, "decoding": 100})
        if not started_ns:
            writer.write({"t": 0, **said})
        writer.close()
    (folder.path / "samples-driver-3.jsonl").write_text("{")
    assert Tail(folder.path).seen().client == ClientState(decoding=4, waiting=2, loop_gap_s=0.004, cpu_cores=0.5)


# -- the page -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def served() -> Iterator[str]:
    listener = open_listener("127.0.0.1", 0)
    server = serve_metrics(listener, lambda: families(RunState(figures={"a": Figures()})))
    yield url_of(listener)
    server.shutdown()
    server.server_close()


def test_the_page_holds_the_figures_alone(served: str) -> None:
    status, body = get(served)
    assert status == 200
    assert samples(body)["loadtest_requests_total", "a", "ok"] == 0
    assert get(served, method="POST")[0] == 501
    assert b"python_" not in body
    assert b"process_" not in body


def test_a_client_that_says_nothing_keeps_nobody_else_waiting(served: str) -> None:
    parts = urlsplit(served)
    with socket.create_connection((parts.hostname or "", parts.port or 0)):
        assert get(served, patience=SCRAPER_TIMEOUT_S / 2)[0] == 200  # before the other one is given up


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.1", "no.such.host.invalid"])
def test_a_port_that_cannot_be_had_is_one_sentence(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ScenarioError, match=r"^[^\n]*\.$") as error:
        open_listener(address, taken.getsockname()[1])
    assert "(while" not in str(error.value)
    assert "choose another --metrics-port" in str(error.value)


def test_a_run_does_not_begin_without_its_port(loadtest: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        asked = ("--url", "http://127.0.0.1:9", "--metrics-port", port, "--out", tmp_path / "run")
        code, _, err = loadtest("run", *asked)
    assert (code, err.count("\n")) == (2, 1)
    assert f"cannot serve metrics at 127.0.0.1 port {port} (Address already in use)" in err
    assert not (tmp_path / "run").exists()


def test_a_monitor_serves_the_run_of_a_folder_that_another_wrote(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", ["ollama-0.33-mid-slots4-c8"])
    before = sorted(folder.iterdir())
    command = [sys.executable, "-m", "loadtest", "monitor", "--out", str(folder), "--metrics-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as monitor:
        assert monitor.stderr is not None
        try:
            url = monitor.stderr.readline().removeprefix("metrics: ").strip()
            found = samples(get(url)[1])
        finally:
            monitor.send_signal(signal.SIGTERM)
        assert monitor.wait(30) == 0
    assert found["loadtest_requests_total", "level 0", "ok"] == frames.load(folder).good(0).sum() > 10
    assert not any(name.startswith("loadtest_streams") and name.endswith("decoding") for name, _, _ in found)
    assert sorted(folder.iterdir()) == before
