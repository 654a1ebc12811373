"""MLPerf's endpoints client (github.com/mlcommons/endpoints), from a checkout that the user has and has installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
from clients import OFFLINE, Client, Run, Seen
from rig import MODEL, WORDS, Array, Meter, Truth

PROGRAM = "inference-endpoint"


def program_of(path: Path) -> Path:
    """Return the client's program in a checkout with its environment, or in an environment; end with a sentence without one."""
    places = (path, *(path / folder / PROGRAM for folder in (".venv/bin", "venv/bin", "bin")))
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        sys.exit(
            f"--mlperf: there is no {PROGRAM} in {path}; run `uv sync` in the checkout first (Python 3.12 or newer)."
        )
    return found.absolute()


def clients(path: Path) -> dict[str, Client]:
    """Return the client as it comes, which notes the first chunk of an answer alone, and with every chunk noted."""
    program = program_of(path)
    return {
        "mlperf": Client("MLPerf endpoints, first chunks", _command(program), _read, environment=OFFLINE),
        "mlperf-chunks": Client(
            "MLPerf endpoints, all chunks", _command(program, "--client.stream-all-chunks"), _read, environment=OFFLINE
        ),
    }


def _command(program: Path, *options: str) -> Callable[[Run], list[object]]:
    def command(run: Run) -> list[object]:
        work, data = run.work, run.folder / "prompts.jsonl"
        with data.open("w") as file:
            for i in range(work.total):
                file.write(json.dumps({"text": f"[{i:012d}] {WORDS}"}) + "\n")
        where = ["--endpoints", run.url, "--model", MODEL, "--dataset", f"{data},parser.prompt=text"]
        load = ["--load-pattern", "concurrency", "--concurrency", work.streams, "--num-samples", work.total]
        lengths = ["--max-output-tokens", work.tokens, "--streaming", "on"]
        one_core = ["--workers", 1, "--no-cpu-affinity"]
        return [program, "benchmark", "online", *where, *load, *lengths, *one_core, *options, "--report-dir", run.out]

    return command


def _read(run: Run, _meter: Meter, _truth: Truth) -> Seen:
    """Read its events; they are stamped by the monotonic clock where its main process hears of them."""
    events: dict[str, dict[str, list[float]]] = {}
    for line in (run.out / "events.jsonl").read_bytes().splitlines():
        event = orjson.loads(line)
        if event["sample_uuid"]:
            kinds = events.setdefault(event["sample_uuid"], {})
            kinds.setdefault(event["event_type"], []).append(event["timestamp_ns"])
    whole = [
        kinds
        for kinds in events.values()
        if "sample.complete" in kinds and "sample.recv_first" in kinds and "error.generic" not in kinds
    ]
    ttft = np.array([kinds["sample.recv_first"][0] - kinds["sample.issued"][0] for kinds in whole]) / 1e6
    gaps = [_gaps(kinds) for kinds in whole]
    done = max(kinds["sample.complete"][0] for kinds in whole)
    return Seen(len(whole), run.work.total - len(whole), ttft, np.concatenate(gaps), float(done))


def _gaps(kinds: dict[str, list[float]]) -> Array:
    """Return the gaps between a request's chunks; none where only the first was noted."""
    at = [*kinds["sample.recv_first"], *kinds.get("sample.recv_non_first", [])]
    return np.diff(np.sort(np.array(at, dtype=float))) / 1e6
