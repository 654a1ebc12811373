"""What every comparison stands on: a server that is never late, a core each, and a meter that disturbs nobody.

The server is source.c (a Python one costs 28 µs a chunk and is late itself at 1000 streams), compiled when it is asked
for. It logs the instant of every token that it wrote: that is the truth which clients are held against.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loadtest.simulate.api import control_plane
from loadtest.simulate.profiles import PROFILES

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PYTHON = Path(sys.executable)
SERVER_CORE, CLIENT_CORE = 0, 1
MODEL = PROFILES["metronome"].model.name
PATHS = {"openai": "/v1/chat/completions", "ollama": "/api/chat"}
WORDS = "The old river found the young village. " * 7  # a prompt of about 64 tokens
POLL_S = 0.1
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Work:
    """Each of `streams` sends `requests` of `tokens` tokens one after another, without a pause."""

    streams: int
    requests: int = 1
    tokens: int = 160
    tokens_per_s: float = 50.0
    first_s: tuple[float, float] = (0.200, 0.0168)  # mean and standard deviation of the first token's time
    steps: bool = False  # tokens of all streams leave together, on one grid
    api: str = "openai"

    @property
    def total(self) -> int:
        return self.streams * self.requests

    @property
    def path(self) -> str:
        return PATHS[self.api]

    @property
    def seconds(self) -> float:
        """How long it takes on a machine without limits."""
        return self.requests * (self.first_s[0] + (self.tokens - 1) / self.tokens_per_s)

    def __str__(self) -> str:
        arrivals = "all streams in step" if self.steps else "streams in independent phases"
        rate = f"{self.streams} streams × {self.tokens_per_s:g} tokens/s"
        return f"{rate}, {arrivals}; {self.requests} requests of {self.tokens} tokens a stream on {self.path}"

    def wire(self) -> bytes:
        """Return all requests as the floor reads them: a length and the bytes of each, stream after stream."""
        out = bytearray()
        for i in range(self.total):
            said = [{"role": "user", "content": f"[{i:012d}] {WORDS}"}]
            body: dict[str, Any] = {"model": MODEL, "messages": said, "stream": True}
            if self.api == "openai":
                body |= {"max_tokens": self.tokens, "stream_options": {"include_usage": True}}
            else:
                body["options"] = {"num_predict": self.tokens}
            data = orjson.dumps(body)
            head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
            out += struct.pack("I", len(request)) + request
        return bytes(out)


@dataclass(frozen=True)
class Truth:
    """What the server did: one row a request that it served whole; instants of the monotonic clock, ns."""

    rows: list[dict[str, Any]]
    chunks: int  # tokens written in all, those of requests cut off or of another length too

    @cached_property
    def ttft(self) -> Array:
        """Arrival of the request to the first token's write, ms."""
        instants = [row["monotonic_ns"] for row in self.rows]
        return np.array([at["first_token"] - at["arrived"] for at in instants]) / 1e6

    @cached_property
    def gaps(self) -> Array:
        """Between the writes of a stream's tokens, ms."""
        return np.concatenate([np.diff(row["chunks_us"]) for row in self.rows]) / 1e3

    @cached_property
    def arrived(self) -> Array:
        return np.sort(np.array([row["monotonic_ns"]["arrived"] for row in self.rows], dtype=float))

    @property
    def started_ns(self) -> float:
        return float(self.arrived[0])

    @property
    def ended_ns(self) -> float:
        return float(max(row["monotonic_ns"]["end"] for row in self.rows))

    @property
    def late_p99(self) -> float:
        """How far behind its own schedule the server wrote, at its worst in a request: p99 over requests, ms."""
        return float(np.percentile([row["late_max_us"] for row in self.rows], 99)) / 1e3

    def burst(self, streams: int) -> float:
        """How long it took until every stream's first request had arrived, ms."""
        return float(self.arrived[min(streams, len(self.arrived)) - 1] - self.arrived[0]) / 1e6


def build(folder: Path, *names: str) -> dict[str, Path]:
    """Compile C programs of this folder; ends with one sentence where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("This comparison needs a C compiler for its server and its floor: install one (Debian: gcc).")
    made = {name: folder / name for name in names}
    for name, binary in made.items():
        subprocess.run([compiler, "-O2", "-o", binary, HERE / f"{name}.c", "-lm"], check=True)
    return made


def pinned(core: int, *command: object) -> list[str]:
    """Return the command bound to one core, or as it is where the machine has only one."""
    bound = ["taskset", "-c", str(core)] if (os.cpu_count() or 1) > 1 else []
    return [*bound, *map(str, command)]


def write_canned(path: Path) -> Path:
    """Write what the control plane answers, for clients that ask before they measure."""
    profile = PROFILES["metronome"]
    answers = {
        "GET /": b"Ollama is running",
        "GET /health": b"ok",
        "GET /api/version": orjson.dumps({"version": control_plane.IMITATED_VERSION}),
        "GET /api/tags": orjson.dumps(control_plane.api_tags(profile)),
        "GET /api/ps": orjson.dumps(control_plane.api_ps(profile, num_ctx=4096, wall_ns=time.time_ns())),
        "POST /api/show": orjson.dumps(control_plane.api_show(profile)),
        "GET /v1/models": orjson.dumps(control_plane.v1_models(profile)),
    }
    with path.open("wb") as file:
        for route, body in answers.items():
            kind = "application/json" if body[:1] == b"{" else "text/plain"
            file.write(f"{route} {kind} {len(body)}\n".encode() + body + b"\n")
    return path


class Source:
    """The running server; `truth` once it has stopped."""

    def __init__(self, url: str, log: Path, tokens: int) -> None:
        self.url = url
        self._log = log
        self._tokens = tokens

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def truth(self) -> Truth:
        """Read what happened to the requests of the asked length; warm-ups and probes of other lengths are left out."""
        rows = [orjson.loads(line) for line in self._log.read_bytes().splitlines()]
        whole = [row for row in rows if row["outcome"] == "ok" and row["output_tokens"] == self._tokens]
        return Truth(whole, chunks=sum(row["output_tokens"] for row in rows))


@contextmanager
def source(binary: Path, work: Work, folder: Path) -> Iterator[Source]:
    """Run the server on its core."""
    log = folder / "truth.jsonl"
    times = [round(1e6 / work.tokens_per_s), *(round(s * 1e6) for s in work.first_s)]
    command = [binary, write_canned(folder / "canned"), log, *times, "steps" if work.steps else "phases"]
    with subprocess.Popen(pinned(SERVER_CORE, *command), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Source(process.stdout.readline().split()[-1], log, work.tokens)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


@dataclass(frozen=True, slots=True)
class Meter:
    """What a client's processes took: CPU over time, and the most memory; s on the monotonic clock, ns."""

    at: Array
    cpu: Array
    rss_mb: float  # all its processes together
    output: str
    code: int

    def cpu_between(self, start_ns: float, end_ns: float) -> float:
        """Return CPU seconds spent between two instants, interpolated between looks 0.1 s apart."""
        used = np.interp([start_ns, end_ns], self.at, self.cpu)
        return float(used[1] - used[0])


def metered(command: list[str], *, limit_s: float, stdin: bytes = b"", env: dict[str, str] | None = None) -> Meter:
    """Run a client on its core to its end and watch what it takes, with all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Files, not pipes: nobody would empty a pipe while this looks at /proc.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(stdin)
        given.seek(0)
        looks = [(time.perf_counter_ns(), 0.0, 0)]
        with subprocess.Popen(
            pinned(CLIENT_CORE, *command),
            stdin=given,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=os.environ | (env or {}),
            start_new_session=True,
        ) as process:
            timer = threading.Timer(limit_s, lambda: os.killpg(process.pid, signal.SIGKILL))
            timer.start()
            while process.poll() is None:
                looks.append((time.perf_counter_ns(), *_taken(process.pid)))
                time.sleep(POLL_S)
            timer.cancel()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        looks.append((time.perf_counter_ns(), total, 0))
        said.seek(0)
        output = said.read().decode(errors="replace")
    at, cpu, rss = (np.array(column, dtype=float) for column in zip(*looks, strict=True))
    return Meter(at, np.maximum.accumulate(cpu), rss.max() / 1e6, output, process.returncode)


def _taken(root: int) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process and all below it."""
    cpu, pages, todo = 0, 0, [root]
    while todo:
        pid = todo.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            children = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
        except (OSError, IndexError):
            continue  # it has just ended
        cpu += sum(map(int, fields[11:15]))  # its own and that of ended children, user and system
        todo += [int(child) for line in children for child in line.split()]
    return cpu / TICKS, pages * PAGE


def last_json(output: str) -> dict[str, Any]:
    """Return the JSON object on the last line of a client's output."""
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found
