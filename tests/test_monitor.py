"""Monitors: sources against real servers, gaps, and a process of its own that ends with its run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadtest.errors import RunFolderError, ScenarioError
from loadtest.monitor import pages, process
from loadtest.monitor.host import Family, Host, listener
from loadtest.monitor.ollama import Ollama
from loadtest.monitor.process import Asked, beside, parse
from loadtest.monitor.prometheus import Prometheus
from loadtest.monitor.sampler import Source, SourceError, Watch, writer_for

VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="m"} 812.0
vllm:generation_tokens_created{engine="0",model_name="m"} 1.7e9
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{le="+Inf"} 7
node_load1 NaN
temperature{room="a"} 21.5
"""


class Exporter:
    """A server of one page, which can be told to misbehave."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.requests = self.connections = 0
        self.hang = threading.Event()  # set: answers come; clear: they do not
        self.hang.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                outer.requests += 1
                outer.hang.wait(30)
                with contextlib.suppress(OSError):
                    self.send_response(outer.status)
                    self.send_header("Content-Length", str(len(outer.body)))
                    self.end_headers()
                    self.wfile.write(outer.body)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # clients that leave are meant to

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    server = Exporter()
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def opened(source: Source) -> Iterator[dict[str, Any]]:
    """Open a source; gives its facts."""
    try:
        yield source.open()
    finally:
        source.close()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def eventually(true: Callable[[], bool]) -> None:
    """Come back once `true` says so; fail after a time that no healthy machine needs."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- what the user writes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("host", Asked("host")),
        ("ollama=http://h:11434", Asked("ollama", "http://h:11434")),
        ("dcgm=http://h:9400", Asked("dcgm", "http://h:9400/metrics")),
        ("dcgm=http://h/exporter", Asked("dcgm", "http://h/exporter")),
        ("prometheus=http://h:9100/metrics:a,vllm:b", Asked("prometheus", "http://h:9100/metrics", ("a", "vllm:b"))),
        ("prometheus=http://[::1]:9100:a", Asked("prometheus", "http://[::1]:9100/metrics", ("a",))),
        ("prometheus=http://h:a", Asked("prometheus", "http://h/metrics", ("a",))),
    ],
)
def test_a_source_is_read_as_written(text: str, asked: Asked) -> None:
    assert parse([text]) == [asked]
    assert parse([str(asked)]) == [asked]


def test_sources_may_be_joined_by_commas_and_stand_for_the_measured_server() -> None:
    found = parse(["host,ollama,prometheus=http://h/m:a,b,nvidia", "vllm", "host"], server="http://s:8000/v1")
    assert found == [
        Asked("host"),
        Asked("ollama", "http://s:8000"),
        Asked("prometheus", "http://h/m", ("a", "b")),
        Asked("nvidia"),
        Asked("vllm", "http://s:8000/metrics"),
    ]


@pytest.mark.parametrize("text", ["gpu", "host=http://h", "ollama", "dcgm=h:9400", "ollama=http://h:1:metric", ""])
def test_a_mistake_is_a_sentence(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"\.$"):
        parse([text])


def test_a_run_does_not_begin_with_a_source_that_is_none(
    loadtest: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = loadtest("run", "--url", "http://127.0.0.1:9", "--monitor", "gpu", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "'gpu' is no source to monitor" in err
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
        assert listener(url) == os.getpid()
        assert listener(url.replace("127.0.0.1", "192.0.2.1")) is None  # no address of ours: another machine's server
    assert listener(url) is None


def test_a_familys_use_counts_its_children_and_ends_with_it() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\nimport sys; sys.stdin.read()"
    wait = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        family = Family(parent.pid)
        family.use()
        assert parent.stdout is not None
        began = time.perf_counter()
        parent.stdout.readline()  # the grandchild has burned its 0.3 s
        family._listed = -1e9
        family.use()
        assert len(family._members) == 2
        assert sum(family._used.values()) >= 0.3
        assert time.perf_counter() > began
        parent.communicate()
    assert family.use() is None


# -- pages ----------------------------------------------------------------------------------------------------------


def test_known_metrics_are_taken_and_the_rest_left(exporter: Exporter) -> None:
    exporter.body = VLLM.encode()
    source = Prometheus("vllm", exporter.url)
    with opened(source) as facts:
        assert facts == {"url": exporter.url}
        labels = '{engine="0",model_name="m"}'
        assert source.sample() == {
            "values": {
                f"vllm:num_requests_running{labels}": 4.0,
                f"vllm:num_requests_waiting{labels}": 3.0,
                f"vllm:kv_cache_usage_perc{labels}": 0.25,
                f"vllm:generation_tokens_total{labels}": 812.0,
            }
        }


def test_named_metrics_are_taken_unknown_ones_said_and_nan_is_no_value(exporter: Exporter) -> None:
    exporter.body = VLLM.encode()
    source = Prometheus("prometheus", exporter.url, ("temperature", "node_load1", "nonsense"))
    with opened(source) as facts:
        assert facts["note"] == f"{exporter.url} has no metric nonsense."
        assert source.sample() == {"values": {'temperature{room="a"}': 21.5}}


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, b"<html>not this</html>", "is no page of Prometheus metrics"),
        (200, b"\xff\xfe\x00", "is no page of Prometheus metrics"),
        (200, b"x" * 9_000_000, "is longer than 8 MB"),
        (200, b"", "has no metric"),
        (404, b"", "answers 404"),
    ],
)
def test_rubbish_is_a_sentence(exporter: Exporter, status: int, body: bytes, says: str) -> None:
    exporter.status, exporter.body = status, body
    source = Prometheus("dcgm", exporter.url)
    with pytest.raises(SourceError, match=says), opened(source):
        pass


def test_a_page_that_does_not_come_is_a_sentence(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LIMIT_S", 0.1)
    exporter.hang.clear()
    with pytest.raises(SourceError, match=r"did not answer within 0.1 s\.$"), opened(Ollama(exporter.url)):
        pass
    exporter.hang.set()


def test_a_page_is_read_over_one_connection_and_a_closed_one_is_opened_again(exporter: Exporter) -> None:
    exporter.body = b"x" * 100_000
    page = pages.Page(exporter.url)
    assert [page.read() for _ in range(3)] == [exporter.body] * 3
    assert (exporter.requests, exporter.connections) == (3, 1)
    assert page._connection is not None
    page._connection.sock.shutdown(socket.SHUT_RDWR)
    assert page.read() == exporter.body
    assert exporter.connections == 2
    page.close()


def test_a_password_in_a_url_is_sent_and_not_said(exporter: Exporter) -> None:
    exporter.status = 401
    page = pages.Page(exporter.url.replace("http://", "http://me:s%40cret@"))
    with pytest.raises(SourceError) as said:
        page.read()
    assert str(said.value) == f"{exporter.url} answers 401: it has no such page."
    assert page._headers["Authorization"] == "Basic bWU6c0BjcmV0"
    page.close()


def test_ollama_is_not_whatever_answers_json(exporter: Exporter) -> None:
    for body in (b"[]", b'{"models": [1]}', b"{}", b"nothing"):
        exporter.body = body
        with pytest.raises(SourceError, match="does not answer as Ollama does"), opened(Ollama(exporter.url)):
            pass


def test_the_simulated_servers_pages_agree(simulated_url: str) -> None:
    import httpx

    httpx.post(f"{simulated_url}/api/generate", json={"model": "llama3.1:70b"})  # loads it
    ollama, dcgm = Ollama(simulated_url), Prometheus("dcgm", f"{simulated_url}/metrics")
    llamacpp = Prometheus("llamacpp", f"{simulated_url}/metrics")
    with opened(ollama) as one, opened(dcgm) as other, opened(llamacpp):
        assert "profile=a100-80g-llama3.1-70b-q4" in one["simulated"] == other["simulated"]
        (model,) = ollama.sample()["models"]
        seen = dcgm.sample()["values"]
        assert seen == {
            'DCGM_FI_DEV_FB_USED{gpu="0"}': round(model["size_vram"] / 2**20),
            'DCGM_FI_DEV_GPU_UTIL{gpu="0"}': 0,
        }
        assert llamacpp.sample()["values"]["llamacpp:requests_processing"] == 0


def test_the_recorded_answer_of_a_real_ollama_is_read(exporter: Exporter) -> None:
    recorded = json.loads((Path(__file__).parent / "streams" / "ps.json").read_text())
    exporter.body = recorded["reads"][0][1].partition("\r\n\r\n")[2].encode()
    source = Ollama(exporter.url)
    with opened(source):
        models = source.sample()["models"]
    assert [model["name"] for model in models] == ["tiny:latest", "stop:latest"]
    assert [(model["size"], model["size_vram"], model["context_length"]) for model in models] == [
        (23383552, 0, 4096)
    ] * 2


def test_llamacpps_own_pages_and_process_are_read(llamacpp_url: str) -> None:
    source = Prometheus("llamacpp", f"{llamacpp_url}/metrics")
    with opened(source) as facts:
        assert "simulated" not in facts
        values = source.sample()["values"]
    assert values["llamacpp:requests_processing"] == 0
    assert values["llamacpp:requests_deferred"] == 0
    pid = listener(llamacpp_url)
    assert pid is not None
    assert "llamacpp.py" in " ".join(psutil.Process(pid).cmdline())
    host = Host(server=llamacpp_url)
    with opened(host) as facts:
        assert "server_process" not in facts
        eventually(lambda: "server_cpu" in host.sample())


# -- gaps -----------------------------------------------------------------------------------------------------------


def test_a_failing_source_leaves_one_gap_and_comes_back(exporter: Exporter, tmp_path: Path) -> None:
    exporter.body = b"a 1\n"
    said: list[str] = []
    source, writer = Prometheus("prometheus", exporter.url, ("a",)), writer_for(tmp_path, "it", 1.0)
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
    why = f"{exporter.url} answers 500: it has no such page."
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
    with beside(tmp_path, [Asked("host")], every=0.05) as pid:
        assert file.exists()  # it is up before the run begins
        eventually(lambda: sum("client_cpu" in line for line in lines_of(file)) >= 2)
        assert psutil.Process(pid).nice() == process.NICENESS
        assert os.getsid(pid) == pid  # Ctrl-C at the terminal is the run's
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("forks", [False, True])
def test_it_ends_when_its_parent_is_killed(tmp_path: Path, *, forks: bool) -> None:
    program = (
        "import os, sys; from pathlib import Path; from loadtest.monitor.process import Asked, beside\n"
        f"with beside(Path({str(tmp_path)!r}), [Asked('host')], every=0.05) as pid:\n"
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
    with beside(tmp_path, [Asked("ollama", "no address")], every=0.05) as pid:
        assert pid
    assert not psutil.pid_exists(pid)


def test_a_run_is_sampled_and_reported(
    loadtest: Callable[..., tuple[int, str, str]], simulated_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    grid = ["--concurrency", "1,2", "--requests", "4", "--output-tokens", "16", "--input-tokens", "16"]
    sources = ["--monitor", f"host,ollama,llamacpp,dcgm={simulated_url}", "--monitor-every", "0.05"]
    code, text, err = loadtest("run", "--url", simulated_url, *grid, *sources, "--out", out, "--report")
    assert code in (0, 3), err  # a busy machine may make the figures void; the samples stay
    assert "GPU memory (simulated) stayed at 42.6 GB from 1 to 2 streams." in " ".join(text.split())
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
