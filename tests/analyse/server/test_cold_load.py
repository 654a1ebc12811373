"""Cold loads: the model is gone before each request, and the run says what loading took and where the file went."""

from __future__ import annotations

import dataclasses
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from support import made_runs
from support.made_runs import Made, closed_loop, write
from support.made_samples import add

from loadtest.analyse.charts import machine as chart
from loadtest.analyse.findings import run_findings as findings
from loadtest.analyse.server.model_memory import cold_load
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.verdict import verdict
from loadtest.asyncio_driver import run as asyncio_run
from loadtest.cli.demo import simulated_server
from loadtest.errors import ScenarioError
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.simulate.api import control_plane
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.prompts import of_pieces
from loadtest.simulate.model.stream import EngineRequest
from loadtest.simulate.profiles import PROFILES

Call = Callable[..., tuple[int, str, str]]
ASKED = ("--unload", "--concurrency", "1", "--prompt", "Say hello.", "--output-tokens", "4")
GB = 10**9
S = 10**9


# -- the simulated server -------------------------------------------------------------------------------------------


def test_memory_comes_in_at_a_steady_rate_and_the_cache_at_the_end() -> None:
    profile = PROFILES["quick"]
    engine = Engine(profile.timing, slots=4)

    def used() -> float:
        page = control_plane.metrics_page(profile, num_ctx=engine.loaded, loading=engine.loading(now), streams=())
        (line,) = [line for line in page.splitlines() if line.startswith("DCGM_FI_DEV_FB_USED")]
        return float(line.split()[-1]) * 2**20

    now = 0
    assert used() == 0
    engine.submit(EngineRequest(0, of_pieces("a"), 1), now)
    seen = []
    for tenth in range(10):
        now = round(profile.timing.load_s * S * tenth / 10)
        engine.advance(now)
        seen.append(used())
    assert seen == pytest.approx([profile.model.size * tenth / 10 for tenth in range(10)], abs=2**20)
    now = round(profile.timing.load_s * S)
    engine.advance(now)
    assert engine.loading(now) is None
    assert used() == pytest.approx(control_plane.loaded_size(profile, 4096), abs=2**20)
    while (due := engine.due()) is not None:
        engine.advance(due)
    engine.unload()
    assert used() == 0


# -- on the wire ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cold_url() -> Iterator[str]:
    """A simulated Ollama whose model takes a tenth of a second to load."""
    with simulated_server("--profile", "quick", "--speed", "3") as url:
        yield url


def test_every_request_waits_for_a_load_and_that_voids_nothing(loadtest: Call, cold_url: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    httpx.post(f"{cold_url}/api/generate", json={"model": "llama3.2:1b"})  # loaded before: the first one is cold too
    code, _, err = loadtest("run", "--url", cold_url, *ASKED, "--requests", "3", "--out", out)
    assert code in (0, 3), err
    assert RunFolder.open(out).read_run()["comparability"]["unload"]  # no measure of a run with the model loaded
    records = list(RunFolder.open(out).records())
    assert [record.warmup for record in records] == [False] * 3
    assert all((record.server or {})["load_duration"] >= 0.1 * S for record in records)
    assert all(record.t_send is not None and record.t_send - record.t_sched < 0.05 * S for record in records)
    (level,) = orjson.loads((out / "summary.json").read_bytes())["levels"]
    assert not any("load" in reason for reason in level["reasons"])
    cold = level["cold_load"]
    assert cold["n"] == 3
    assert (cold["bytes"], cold["bytes_from"]) == (770_000_000, "file")
    assert cold["bytes_per_s"] == pytest.approx(770_000_000 / cold["load_s"]["p50"])
    assert cold["page_cache_reason"] == "the server is simulated: it reads no file"


def test_gpu_memory_is_seen_falling_and_coming_in(loadtest: Call, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with simulated_server("--profile", "a100-80g-llama3.1-70b-q4", "--speed", "40") as url:  # a second a load
        asked = (*ASKED, "--requests", "2", "--monitor", f"dcgm={url}", "--monitor-every", "0.05")
        code, text, err = loadtest("run", "--url", url, *asked, "--out", out)
    assert code in (0, 3), err
    assert "The GPU memory (simulated) went from" in text
    (level,) = orjson.loads((out / "summary.json").read_bytes())["levels"]
    grown = [cold_load.grown(one, "gpu_memory") or 0 for one in level["cold_load"]["loads"]]
    assert min(grown) > 20 * GB  # of 40: samples at the edges may be missing on a busy machine


def test_only_an_ollama_is_asked_and_nothing_is_sent_to_others(
    loadtest: Call, cold_url: str, llamacpp_url: str, tmp_path: Path
) -> None:
    for url, api, says in (
        (llamacpp_url, "auto", "only an Ollama unloads a model when asked"),
        (cold_url, "openai", "unload works over Ollama's own API only"),
    ):
        code, _, err = loadtest("run", "--url", url, "--api", api, *ASKED, "--out", tmp_path / "run")
        assert (code, err.count("\n")) == (2, 1), err
        assert says in err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("keys", [{}, {"concurrency": [1, 2]}, {"rate": [2.0]}], ids=["default", "two", "open loop"])
def test_loads_are_measured_one_at_a_time(keys: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=r"one model load at a time; set concurrency = 1"):
        Scenario.from_dict({"unload": True, **keys})


class Stubborn(BaseHTTPRequestHandler):
    """An Ollama that answers what it is asked and never drops its model."""

    sent: list[str]

    def do_GET(self) -> None:
        models = {"models": [{"name": "stubborn:1b", "size": 5}]}
        self._answer({"version": "0.33.0"} if self.path == "/api/version" else models)

    def do_POST(self) -> None:
        self.sent.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"model": "stubborn:1b", "done": True, "done_reason": "unload"})

    def _answer(self, body: dict[str, Any]) -> None:
        data = orjson.dumps(body)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_model_that_stays_is_one_sentence(loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio_run, "UNLOAD_S", 0.2)
    handler = type("Handler", (Stubborn,), {"sent": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        code, _, err = loadtest("run", "--url", url, *ASKED, "--out", tmp_path / "run")
    finally:
        server.shutdown()
        server.server_close()
    assert code == 2
    assert "still has stubborn:1b loaded 200 ms after it was asked to unload it; does somebody else use it?" in err
    assert "/api/chat" not in handler.sent  # type: ignore[attr-defined]


# -- what the run says ----------------------------------------------------------------------------------------------


def made(path: Path, loads_s: Sequence[float] = (40.0, 40.0, 40.0), **facts: Any) -> Analysis:
    """Write a run of one request for each load, 3 s apart, and analyse it."""
    records = []
    start = 0
    for number, took in enumerate(loads_s):
        model = Made(load_ms=round(took * 1000), tokens=8)
        part = closed_loop(model, level=0, users=1, requests=0, start_ns=start, first_id=number)
        records.append(dataclasses.replace(part.records[0], warmup=False))
        start = records[-1].t_end + 3 * S
    level = {"index": 0, "concurrency": 1, "input_tokens": None, "output_tokens": 8, "words": None, "rate": None}
    said = {
        "scenario": Scenario(name="made", concurrency=(1,), unload=True, prompt="hello").to_dict(),
        "server": {
            "kind": "ollama",
            "version": "0.33.0",
            "simulated": None,
            "facts": {"details": {"file_size": 40 * GB}},
        },
    }
    return analyse(write(path, records, [level], **(said | facts)))


def watched(path: Path, key: str, *, per_s: Sequence[float], step: float = 1.0) -> Analysis:
    """Add samples of a memory that grows by `per_s` bytes a second in each load, and starts anew where `key` is not cache."""
    first = analyse(path)
    sent, took = first.run.column("send"), first.run.column("load_s")
    lines = []
    for t in np.arange(-2.0, float(first.run.column("end").max()) + 1, step):
        loaded = [min(max(t - at, 0.0), one) * rate for at, one, rate in zip(sent, took, per_s, strict=True)]
        known = sum(loaded) if key == "page_cache" else next((one for one in reversed(loaded) if one), 0.0)
        lines.append({"t": float(t), "cores": [0.1], key: 3 * GB + known})
    gpus = [{"t": line["t"], "gpus": [{"gpu": 0, "memory_used": line[key]}]} for line in lines]
    add(path, "nvidia" if key == "gpu" else "host", gpus if key == "gpu" else lines, every=step)
    return analyse(path)


def cold_of(analysis: Analysis) -> dict[str, Any]:
    found: dict[str, Any] = analysis.summary["levels"][0]["cold_load"]
    return found


def test_loads_are_described_and_void_nothing(tmp_path: Path) -> None:
    analysis = made(tmp_path / "run", (42.0, 40.0, 41.0))
    cold = cold_of(analysis)
    assert (cold["n"], cold["first_s"], cold["later_p50_s"]) == pytest.approx((3, 42.0, 40.5))
    assert cold["load_s"]["p50"] == pytest.approx(41.0)
    assert findings.all_findings(analysis)[0] == "Loading took 41.0 s (p50 of 3 model loads): 40 GB at 976 MB/s."
    assert verdict.doubts_of(analysis.run, analysis.run.levels[0]) == []
    assert cold["page_cache_reason"].startswith("no samples of the server's machine")


def test_a_run_that_did_not_ask_for_loads_says_nothing_of_them_and_is_void(tmp_path: Path) -> None:
    asked = {"scenario": Scenario(name="made", concurrency=(1,), prompt="hello").to_dict()}
    analysis = made(tmp_path / "run", (0.002, 0.002, 40.0), **asked)
    assert "cold_load" not in analysis.summary["levels"][0]
    assert analysis.summary["levels"][0]["verdict"] == "void"
    assert chart.draw_model_loads(tmp_path / "load.png", analysis) is None


def test_page_cache_of_the_first_load_and_later_ones_out_of_it(tmp_path: Path) -> None:
    made(tmp_path / "run", (40.0, 10.0, 10.0))
    analysis = watched(tmp_path / "run", "page_cache", per_s=(GB, 0, 0))
    cold = cold_of(analysis)
    grown = [cold_load.grown(one, "page_cache") for one in cold["loads"]]
    assert grown == pytest.approx([40 * GB, 0, 0], abs=GB)
    said = findings.all_findings(analysis)
    assert said[0] == (
        "The first model load took 40.0 s: 40 GB at 1 GB/s; later ones 10.0 s (p50 of 2): 40 GB at 4 GB/s."
    )
    assert said[1] == "The page cache went from 3 GB to 43 GB in model load 1; in later ones it changed by 0 MB (p50)."


def test_memory_that_a_load_does_not_touch_stays(tmp_path: Path) -> None:
    made(tmp_path / "run", (40.0,))
    analysis = watched(tmp_path / "run", "memory_used", per_s=(1e6,))
    assert "The host memory went from 3 GB to 3.04 GB while the model loaded." in findings.all_findings(analysis)


def test_gpu_memory_from_before_the_unloading_is_not_taken_for_the_start(tmp_path: Path) -> None:
    made(tmp_path / "run")
    cold = cold_of(watched(tmp_path / "run", "gpu", per_s=(GB, GB, GB)))
    changes = [one["gpu_memory"] for one in cold["loads"]]
    assert [change["before"] for change in changes] == pytest.approx([3 * GB] * 3, abs=1.1 * GB)
    assert [change["after"] for change in changes] == pytest.approx([43 * GB] * 3, abs=1.1 * GB)


def test_too_few_samples_make_no_growth(tmp_path: Path) -> None:
    made(tmp_path / "run", (3.0, 3.0))
    cold = cold_of(watched(tmp_path / "run", "page_cache", per_s=(GB, GB), step=5.0))
    assert [one["page_cache"] for one in cold["loads"]] == [None, None]
    assert cold["page_cache_reason"] == "too few samples while it loaded; sample more often with --monitor-every"


@pytest.mark.parametrize(
    ("host", "url", "seen"),
    [
        (None, "http://127.0.0.1:11434", True),  # the client's own machine, where the server listens
        (None, "http://gpu-box:11434", False),  # the client's own, and the server is elsewhere
        ("gpu-box", "http://gpu-box:11434", True),  # somebody sampled there
    ],
)
def test_only_the_servers_machine_counts(tmp_path: Path, host: str | None, url: str, *, seen: bool) -> None:
    target = {"url": url, "api": "ollama", "dialect": "ollama-chat", "model": "made"}
    run = made(tmp_path / "run", (10.0,), target=target).run
    lines = [{"t": float(t), "page_cache": t * GB} for t in range(12)]
    wall = made_runs.WALL
    add(tmp_path / "run", "host", lines, host=host or platform.node(), wall_ns=wall, every=1.0)
    assert (cold_of(analyse(run.path))["loads"][0]["page_cache"] is not None) == seen


def test_a_model_of_unknown_size_and_no_load_at_all(tmp_path: Path) -> None:
    bare: dict[str, Any] = {"server": {"kind": "ollama", "version": "0.33.0", "simulated": None, "facts": {}}}
    unsized = made(tmp_path / "unsized", (40.0,), **bare)
    assert findings.all_findings(unsized)[0] == "Loading took 40.0 s (one model load); the model's size is not known."
    held = made(tmp_path / "held", (40.0,), **bare, server_at_end={"name": "made", "size": 42 * GB})
    assert findings.all_findings(held)[0] == "Loading took 40.0 s (one model load): 42 GB in memory at 1.05 GB/s."
    records = [made_runs.unanswered(one, Outcome.HTTP_ERROR) for one in RunFolder.open(unsized.run.path).records()]
    none = analyse(write(tmp_path / "none", records, unsized.run.levels, scenario=unsized.run.facts["scenario"]))
    assert cold_of(none)["n"] == 0
    assert "No model load was seen" in findings.all_findings(none)[0]
    assert chart.draw_model_loads(tmp_path / "load.png", none) is None


def test_the_chart_has_a_panel_for_each_memory_that_was_sampled(tmp_path: Path) -> None:
    made(tmp_path / "run", (40.0, 10.0, 10.0))
    plain = chart.draw_model_loads(tmp_path / "plain.png", analyse(tmp_path / "run"))
    watched(tmp_path / "run", "gpu", per_s=(GB, GB, GB))
    rich = chart.draw_model_loads(tmp_path / "rich.png", watched(tmp_path / "run", "page_cache", per_s=(GB, 0, 0)))
    assert plain is not None
    assert rich is not None
    assert rich.stat().st_size > plain.stat().st_size
