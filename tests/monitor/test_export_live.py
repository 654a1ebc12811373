"""Figures served while a run goes on: a real Prometheus says what the summary says, and Locust serves the same."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import socket
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.exporter import eventually
from support.locust_runs import Run, Start, free_port, starting
from support.prometheus_server import INSTALLED, Prometheus, Samples, config, get, prometheus, promtool, samples

import loadtest
from loadtest.analyse.run import frames
from loadtest.analyse.summary import analyse
from loadtest.asyncio_driver.run import measure
from loadtest.monitor.export import HISTOGRAM_METRICS
from loadtest.run_folder import RunFolder
from loadtest.scenario import Level, Scenario

needs_prometheus = pytest.mark.skipif(not INSTALLED, reason="prometheus and promtool are not installed")
SECOND = 'loadtest_requests_total{name=~"6 streams.*",outcome="ok"}'
OWN_NAMES = """
import os
from locust import constant, task
from loadtest.users import OllamaUser

class Named(OllamaUser):
    wait_time = constant(0)
    output_tokens = 4

    @task
    def ask(self):
        self.client.chat(name=f"worker {os.getpid()}")
"""


# -- a run, and a real Prometheus ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Scraped:
    """A run that has ended, and the Prometheus that watched it."""

    folder: Path
    server: Prometheus
    when: float  # a scrape in the second level, wall clock in seconds
    page: bytes  # what it served meanwhile
    checked: subprocess.CompletedProcess[bytes]  # promtool on the config
    summary: dict[str, Any]

    def label(self, level: int) -> str:
        return str(self.summary["levels"][level]["label"])

    def value(self, expr: str) -> float | None:
        """Ask as of a time when the first level was over, and the second went on."""
        return self.server.value(expr, self.when)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, simulated_url: str) -> Iterator[Scraped]:
    place, port = tmp_path_factory.mktemp("scraped"), free_port()
    text = config("1s", loadtest=f"127.0.0.1:{port}")
    command = [sys.executable, "-m", "loadtest", "run", "--url", simulated_url, "--concurrency", "2,6"]
    command += ["--duration", "3", "--input-tokens", "16", "--output-tokens", "16"]
    command += ["--metrics-port", str(port), "--out", str(place / "run")]
    with prometheus(place / "prometheus", text) as server:
        checked = promtool("check", "config", str(place / "prometheus" / "prometheus.yml"))
        eventually(lambda: bool(server.query("up")), every=0.1)  # it takes seconds to find its targets
        with (place / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as run:
            try:
                eventually(lambda: bool(server.query(f"{SECOND} and on() loadtest_streams_in_flight == 6")), every=0.1)
                when = server.value(f"timestamp({SECOND})")
                assert when is not None
                _, body = get(f"http://127.0.0.1:{port}")
                assert run.wait(60) in (0, 3), (place / "log").read_text()  # a busy machine may make it void
            finally:
                run.kill()
        said = (place / "log").read_text()
        assert f"metrics: http://127.0.0.1:{port}/metrics\n" in said
        yield Scraped(place / "run", server, when, body, checked, analyse(place / "run").summary)


@needs_prometheus
def test_promtool_accepts_the_config_and_the_page_of_a_run(scraped: Scraped) -> None:
    assert scraped.checked.returncode == 0, scraped.checked
    checked = promtool("check", "metrics", page=scraped.page)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@needs_prometheus
def test_the_totals_of_a_level_are_those_of_the_summary(scraped: Scraped) -> None:
    level, name = scraped.summary["levels"][0], f'{{name="{scraped.label(0)}"}}'
    assert scraped.value(f"sum(loadtest_requests_total{name})") == level["requests"] > 20
    assert scraped.value(f"loadtest_output_tokens_total{name}") == level["tokens"]["output"]
    assert scraped.value(f"loadtest_prompt_tokens_total{name}") == level["tokens"]["prompt"]
    (info,) = scraped.server.query("loadtest_run_info", scraped.when)
    assert {key: info["metric"][key] for key in ("run", "driver", "dialect")} == {
        "run": "run",
        "driver": "asyncio",
        "dialect": "ollama-chat",
    }
    assert "at 20× speed" in info["metric"]["simulated"]
    assert "secret" not in json.dumps(info)


@needs_prometheus
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_quantiles_are_those_of_the_summary_within_a_bucket(scraped: Scraped, share: float) -> None:
    run, level = frames.load(scraped.folder), scraped.summary["levels"][0]
    good = run.good(0)
    for figure, (name, _, limits) in HISTOGRAM_METRICS.items():
        values = np.sort(run.itl.of(good) if figure == "itl_s" else run.column(figure)[good])
        values = values[np.isfinite(values)]
        rank = share * (len(values) - 1)
        low, high = values[math.floor(rank)], values[math.ceil(rank)]
        said = level[figure][f"p{round(share * 100)}"]
        assert low * 0.999 <= said <= high * 1.001, figure
        # A value between two neighbours in rank, like the summary's, or anything in the buckets of the two.
        least, most = (0.0, *limits)[bisect_left(limits, low * 0.99)], limits[bisect_left(limits, high * 1.01)]
        found = scraped.value(f'histogram_quantile({share}, {name}_bucket{{name="{scraped.label(0)}"}})')
        assert found is not None
        assert least <= found <= most, (figure, found, said)


@needs_prometheus
def test_tokens_a_second_while_the_run_goes_on_are_those_of_its_records(scraped: Scraped) -> None:
    records = [one for one in RunFolder.open(scraped.folder).records() if one.level == 0 and not one.warmup]
    sums = np.cumsum([0, *(one.output_tokens or 0 for one in records)]).tolist()
    span = json.loads((scraped.folder / "run.json").read_text())["levels"][0]
    header, _ = next(RunFolder.open(scraped.folder).requests())
    began, ended = ((header.wall_ns + span[key]) / 1e9 for key in ("started_ns", "ended_ns"))
    (series,) = scraped.server.query(f'loadtest_output_tokens_total{{name="{scraped.label(0)}"}}[1h]', scraped.when)
    scrapes = [(at, float(value)) for at, value in series["values"]]
    seen = [value for _, value in scrapes]
    assert set(seen) <= set(sums)  # whole records, in the order written
    assert seen == sorted(seen)
    meanwhile = [at for at, _ in scrapes if began < at < ended]
    assert len(meanwhile) > 1  # in progress
    first, last = meanwhile[0], meanwhile[-1]
    inside = f'loadtest_output_tokens_total{{name="{scraped.label(0)}"}}[{round((last - first) * 1000) + 5}ms]'
    rate = scraped.server.value(f"rate({inside})", last)
    assert rate == pytest.approx(scraped.summary["levels"][0]["output_tokens_per_s"], rel=0.3)


@needs_prometheus
def test_the_client_tells_of_itself(scraped: Scraped) -> None:
    assert scraped.value("loadtest_streams_in_flight") == 6
    assert scraped.value("loadtest_streams_decoding + loadtest_streams_waiting") == 6
    assert (scraped.value("loadtest_client_cpu_cores") or 0) > 0
    assert (scraped.value("loadtest_client_loop_gap_seconds") or 0) > 0


def test_a_level_that_was_just_chosen_has_its_name_already(simulated_url: str, tmp_path: Path) -> None:
    known: set[tuple[str, ...]] = set()
    again = Scenario(name="again", url=simulated_url, concurrency=(1,), requests=4, output_tokens=(128,), warmup=0)

    def choose(_: Path, levels: list[Level]) -> Level | None:
        return dataclasses.replace(levels[0], index=1, concurrency=2) if len(levels) == 1 else None

    def look(at: Any) -> None:
        if at.level.index == 1:
            known.add(tuple(level["label"] for level in RunFolder.open(tmp_path / "run").read_run()["levels"]))

    measure(again, tmp_path / "run", on_progress=look, say=lambda _: None, choose=choose)  # type: ignore[arg-type]
    assert known == {("1 stream · 128 in · 128 out", "2 streams · 128 in · 128 out")}


# -- Locust -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


def metrics_of(run: Run) -> Samples:
    found = re.search(r"metrics: (http://\S+)", run.said)
    assert found
    return samples(get(found[1])[1])


@pytest.mark.parametrize("processes", [1, 2])
def test_locust_serves_the_figures_of_all_its_processes(start: Start, simulated_url: str, processes: int) -> None:
    more = ("--processes", "2") if processes == 2 else ()
    run = start(OWN_NAMES, "-u", "4", "-r", "100", "--host", simulated_url, "--metrics-port", "0", *more)
    seen: Samples = {}

    def all_seen() -> bool:
        seen.clear()
        seen.update(metrics_of(run))
        named = {name for (metric, name, _), value in seen.items() if metric == "loadtest_requests_total" and value > 5}
        return len(named) == processes and ("loadtest_client_cpu_cores", "", "") in seen

    try:
        run.wait_for(all_seen)
    finally:
        run.process.terminate()
    assert run.code == 130, run.said
    assert seen["loadtest_streams_in_flight", "", ""] <= 4
    ok = {
        name: value
        for (metric, name, which), value in seen.items()
        if (metric, which) == ("loadtest_requests_total", "ok")
    }
    for name, count in ok.items():
        assert count == seen["loadtest_ttft_seconds_count", name, ""] <= run.streams[name]["requests"]
        assert seen["loadtest_output_tokens_total", name, ""] == 4 * count
        assert seen["loadtest_ttft_seconds_bucket", name, "+Inf"] == count


@pytest.mark.parametrize("how", ["taken", "nonsense"])
def test_locust_does_not_begin_without_its_port(start: Start, simulated_url: str, how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1]) if how == "taken" else "65536"
        more = ("--processes", "2") if how == "taken" else ()  # no worker may be left behind
        run = start(OWN_NAMES, "-t", "3s", "--host", simulated_url, "--metrics-port", port, *more)
        assert run.code == 2, run.said
    sentence = (
        "(Address already in use)" if how == "taken" else "--metrics-port must be a port from 0 to 65535, not '65536'."
    )
    assert run.said.count(sentence) == 1, run.said
    # Locust's own master may log one: a worker that is told to quit while it starts reports less than it expects.
    assert str(Path(loadtest.__file__).parent) not in run.said
    assert not (run.place / "run").exists()
