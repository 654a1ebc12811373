"""A client whose core is taken by others: does it say so, and is TTFT true for as long as it does not?"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from clients import CLIENTS, Run
from peers import LIMIT_S
from rig import CLIENT_CORE, PYTHON, Work, build, metered, pinned, source

from loadtest.run_folder import RunFolder

WORK = Work(100, requests=3, tokens=100, api="ollama")


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep the client's core busy with so many endless loops."""
    running = [subprocess.Popen(pinned(CLIENT_CORE, PYTHON, "-c", "while True: pass")) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def row(loops: int, programs: dict[str, Path]) -> str:
    """Measure beside so many busy loops and return the table's row."""
    with tempfile.TemporaryDirectory(prefix="loadtest-overload-") as folder:
        with source(programs["source"], WORK, Path(folder)) as server:
            asked = Run(WORK, server.url, Path(folder), programs)
            with busy(loops):
                meter = metered([*map(str, CLIENTS["asyncio"].command(asked))], limit_s=WORK.seconds + LIMIT_S)
        if not asked.out.exists():
            raise SystemExit(f"the client wrote nothing:\n{meter.output[-3000:]}")
        subprocess.run([PYTHON, "-m", "loadtest", "report", asked.out], check=False, capture_output=True)
        rows = [one for _, some in RunFolder.open(asked.out).requests() for one in some if one["outcome"] == "ok"]
        (level,) = json.loads((asked.out / "summary.json").read_text())["levels"]
        truth = server.truth()
    ttft = [(one["t_first_token"] - one["t_send"]) / 1e6 for one in rows]
    errors = [np.percentile(ttft, p) - np.percentile(truth.ttft, p) for p in (50, 99)]
    late = sum(one["late"] for one in rows) / sum(one["arrivals"] for one in rows)
    cells = [loops, len(rows), f"{np.percentile([one['lag_us'] for one in rows], 50) / 1e3:.1f}", f"{late:.2%}"]
    cells += [f"{errors[0]:+.2f}", f"{errors[1]:+.2f}", level["verdict"], "; ".join(level["reasons"]) or "–"]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(arguments: list[str]) -> None:
    """Print a table over the number of busy loops beside the client."""
    parser = argparse.ArgumentParser(prog="scripts/bench overload", description=__doc__)
    parser.add_argument("--loops", default="0,1,2,4,8,16", help="busy loops on the client's core (default %(default)s)")
    counts = [int(part) for part in parser.parse_args(arguments).loops.split(",")]
    print(f"{WORK}; the client shares its core with busy loops (simulated server)\n")
    heads = ["busy loops", "requests", "worst lag of a request p50, ms", "arrivals late by a token gap"]
    heads += ["TTFT p50 error, ms", "TTFT p99 error, ms", "verdict", "reasons"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    with tempfile.TemporaryDirectory(prefix="loadtest-bench-") as folder:
        programs = build(Path(folder), "source", "floor")
        for loops in counts:
            print(row(loops, programs), flush=True)
