"""Cases at the edge of what a client can do: a burst of 1000, 5000 streams, an open loop of 500 requests/s."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from clients import CLIENTS, Run
from peers import LIMIT_S
from rig import PYTHON, Meter, Truth, Work, build, metered, source

from loadtest.run_folder import RunFolder

CASES: dict[str, Work] = {
    "burst-1000": Work(1000, requests=1, tokens=50),
    "streams-5000": Work(5000, requests=2, tokens=10, tokens_per_s=5.0),
    "open-500": Work(1, requests=1, tokens=8),  # streams and requests follow from the rate
}
RATE = 500.0  # requests/s
WINDOW_S = 0.010


@dataclass(frozen=True, slots=True)
class Ended:
    """One run of this project at an edge."""

    rows: list[dict[str, Any]]
    truth: Truth
    meter: Meter


def run(names: list[str], drivers: list[str], seconds: int, workers: int) -> None:
    """Run the named cases and print a table each."""
    with tempfile.TemporaryDirectory(prefix="loadtest-bench-") as folder:
        programs = build(Path(folder), "source", "floor")
        for name in names:
            if name == "open-500":
                print(f"\n{name}: Poisson arrivals, {RATE:g} requests/s for {seconds} s, {CASES[name].tokens} tokens")
                _open_loop(CASES[name], programs, seconds, workers)
            else:
                print(f"\n{name}: {CASES[name]}\n")
                _closed(CASES[name], programs, drivers)


def _ended(
    work: Work, programs: dict[str, Path], client: str, command: list[object] | None = None, seconds: float = 0.0
) -> Ended:
    """Run one driver and read its folder and the truth; ends with its output where it wrote nothing."""
    with tempfile.TemporaryDirectory(prefix="loadtest-edge-") as folder:
        with source(programs["source"], work, Path(folder)) as server:
            run = Run(work, server.url, Path(folder), programs)
            given = command or CLIENTS[client].command(run)
            parts = [str(part).replace("{url}", run.url).replace("{out}", str(run.out)) for part in given]
            meter = metered(parts, limit_s=(seconds or work.seconds) + LIMIT_S)
        if not run.out.exists():
            raise SystemExit(f"{client} wrote nothing:\n{meter.output[-3000:]}")
        rows = [row for _, some in RunFolder.open(run.out).requests() for row in some]
        return Ended([row for row in rows if row["asked"] == work.tokens], server.truth(), meter)


def _closed(work: Work, programs: dict[str, Path], drivers: list[str]) -> None:
    heads = ["client", "ok", "lost", "first requests sent within, ms", "on the wire within, ms", "TTFT p50 error, ms"]
    heads += ["TTFT p99 error, ms", "peak RSS MB", "server late p99, ms"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for driver in drivers:
        ended = _ended(work, programs, driver)
        whole = [row for row in ended.rows if row["outcome"] == "ok"]
        lost = sum(row["outcome"] not in ("ok", "cancelled") for row in ended.rows)
        sent = sorted(row["t_send"] for row in ended.rows if "t_send" in row)[: work.streams]
        ttft = [(row["t_first_token"] - row["t_send"]) / 1e6 for row in whole]
        errors = [np.percentile(ttft, p) - np.percentile(ended.truth.ttft, p) for p in (50, 99)]
        cells = [
            driver,
            len(whole),
            lost,
            f"{(sent[-1] - sent[0]) / 1e6:.1f}",
            f"{ended.truth.burst(work.streams):.1f}",
        ]
        cells += [f"{errors[0]:+.2f}", f"{errors[1]:+.2f}", f"{ended.meter.rss_mb:.0f}", f"{ended.truth.late_p99:.1f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def _open_loop(work: Work, programs: dict[str, Path], seconds: int, workers: int) -> None:
    load = ["--rate", RATE, "--arrivals", "poisson", "--duration", seconds, "--warmup", 0, "--api", work.api]
    load += ["--workers", workers] if workers > 1 else []
    lengths = ["--input-tokens", 64, "--output-tokens", work.tokens, "--out", "{out}"]
    command = [PYTHON, "-m", "loadtest", "run", "--url", "{url}", *load, *lengths]
    ended = _ended(work, programs, "asyncio", command, seconds)
    late = np.array([row["t_send"] - row["t_sched"] for row in ended.rows if "t_send" in row]) / 1e6
    due = np.sort([row["t_sched"] for row in ended.rows]) / 1e9
    counts = np.histogram(due, bins=np.arange(due[0], due[-1], WINDOW_S))[0]
    cells: list[object] = [len(ended.rows), len(ended.truth.rows), int((late < 0).sum())]
    cells += [f"{np.percentile(late, p):.3f}" for p in (50, 99, 100)]
    cells += [f"{counts.var() / counts.mean():.3f}", f"{ended.truth.late_p99:.1f}"]
    heads = ["recorded", "served", "early", "schedule lag p50, ms", "p99", "max", "index of dispersion (10 ms)"]
    heads += ["server late p99, ms"]
    print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads) + "\n| " + " | ".join(map(str, cells)) + " |")
