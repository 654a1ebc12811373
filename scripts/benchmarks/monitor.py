"""What sampling beside a run costs: the same work without and with a monitor, in turns, as a Markdown table.

Server on core 0, driver on core 1 and the monitor on the driver's own core, where it can do the most harm. TTFT is
compared by its error: the driver's p99 less the p99 in the server's truth log, so that what the server itself did, which
is random, does not count. The monitor's share of a core is its process's CPU over time, its start-up left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rig import CLIENT_CORE, SERVER_CORE, TICKS, pinned

from loadtest.run_folder import RunFolder
from loadtest.workloads.source import nonce_of

SERVER = ("--profile", "metronome")
SETTLED_S = 2.0  # after a monitor came up: its imports and first samples are no steady cost
POLL_S = 0.25
MOST_MS, MOST_SHARE = 1.0, 0.02  # what is asked: TTFT p99 changed by less, and less of a core


@dataclass(frozen=True, slots=True)
class Seen:
    """One run: TTFT as the driver saw it and as it was, ms, and shares of a core."""

    ttft: np.ndarray
    truth: np.ndarray
    driver: float
    monitor: float | None  # None: there was none

    def error(self, percent: float) -> float:
        """Return how far a percentile of TTFT is from the truth's, ms."""
        return float(np.percentile(self.ttft, percent) - np.percentile(self.truth, percent))


def main(arguments: list[str]) -> None:
    """Run the pairs asked for and print a row a run, then what the monitor changed."""
    parser = argparse.ArgumentParser(prog="scripts/bench monitor", description=__doc__)
    parser.add_argument("--pairs", type=int, default=4, help="runs without and with, in turns (default 4)")
    parser.add_argument("--streams", type=int, default=100, help="streams at once (default 100)")
    parser.add_argument("--seconds", type=int, default=20, help="of each run (default 20)")
    parser.add_argument("--every", type=float, default=0.1, help="seconds between samples (default 0.1)")
    parser.add_argument(
        "--sources", default="host,ollama,dcgm,llamacpp", help="all, of the simulated server, by default"
    )
    asked = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {SERVER_CORE})  # what watches must not disturb the driver's core
    print(
        f"Simulated server (core {SERVER_CORE}), {asked.streams} streams of 100 tokens for {asked.seconds} s; driver and "
        f"monitor on core {CLIENT_CORE}; {asked.sources} every {asked.every:g} s. ms.\n"
    )
    heads = [
        "run",
        "monitor",
        "requests",
        "TTFT p50",
        "TTFT p99",
        "p50 error",
        "p99 error",
        "driver CPU",
        "monitor CPU",
    ]
    print("| " + " | ".join(heads) + " |\n|---|---|" + "---:|" * (len(heads) - 2))
    without: list[Seen] = []
    beside: list[Seen] = []
    for pair in range(asked.pairs):
        for monitored in (False, True) if pair % 2 == 0 else (True, False):  # a machine that drifts treats both alike
            seen = run(asked.streams, asked.seconds, asked.sources if monitored else None, asked.every)
            (beside if monitored else without).append(seen)
            print(row(len(without) + len(beside), seen), flush=True)
    print("\n" + verdict(without, beside))


def run(streams: int, seconds: int, sources: str | None, every: float) -> Seen:
    """Measure once against a fresh server, with a monitor where `sources` are named."""
    with tempfile.TemporaryDirectory() as folder:
        truth, out = Path(folder, "truth.jsonl"), Path(folder, "run")
        serve = [sys.executable, "-m", "loadtest", "serve", "--port", 0, "--warm", "--truth", truth, *SERVER]
        with subprocess.Popen(pinned(SERVER_CORE, *serve), stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                url = server.stdout.readline().split()[-1]
                command = [sys.executable, "-m", "loadtest", "run", "--url", url, "--out", out]
                command += [
                    "--concurrency",
                    streams,
                    "--duration",
                    seconds,
                    "--input-tokens",
                    64,
                    "--output-tokens",
                    100,
                ]
                if sources:
                    command += ["--monitor", with_addresses(sources, url), "--monitor-every", every]
                driver, monitor = watched(pinned(CLIENT_CORE, *command))
            finally:
                server.terminate()
                server.wait()
        if not out.exists():
            sys.exit("the driver wrote nothing; run it alone to see why.")
        return Seen(*ttft(out, truth), driver, monitor)


def with_addresses(sources: str, url: str) -> str:
    """Return the sources with the server's pages as their addresses: host stays, dcgm becomes dcgm=URL."""
    return ",".join(
        name if name in ("host", "nvidia") or "=" in name else f"{name}={url}" for name in sources.split(",")
    )


def watched(command: list[str]) -> tuple[float, float | None]:
    """Run a driver to its end; return its and its monitor's shares of a core (None without one)."""
    looks: dict[int, list[tuple[float, float]]] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        while driver.poll() is None:
            for pid in (driver.pid, *children(driver.pid)):
                if (used := cpu(pid)) is not None:
                    looks.setdefault(pid, []).append((time.monotonic(), used))
            time.sleep(POLL_S)
    own = share(looks.pop(driver.pid))
    others = [found for seen in looks.values() if (found := share(seen)) is not None]
    return own or 0.0, max(others, default=None)  # the driver's other children are short: taskset, uname


def share(looks: list[tuple[float, float]]) -> float | None:
    """Return CPU seconds a second of a process once it has settled; None of one that did not live that long."""
    settled = [look for look in looks if look[0] >= looks[0][0] + SETTLED_S]
    if len(settled) < 2:
        return None
    (start, before), (end, after) = settled[0], settled[-1]
    return (after - before) / (end - start)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [
            int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
        ]
    except OSError:
        return []


def cpu(pid: int) -> float | None:
    """Return CPU seconds that a process has used so far; None once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def ttft(out: Path, truth: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return TTFT of the requests that count as the driver saw it and as it was, ms."""
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    by_nonce = {row["prompt"].partition("]")[0] + "]": row["monotonic_ns"] for row in rows}
    seen, was = [], []
    for _, records in RunFolder.open(out).requests():
        for record in records:
            if record["outcome"] == "ok" and not record.get("warmup"):
                true = by_nonce[nonce_of(record["seed"])]
                seen.append((record["t_first_token"] - record["t_send"]) / 1e6)
                was.append((true["first_token"] - true["arrived"]) / 1e6)
    return np.array(seen), np.array(was)


def row(number: int, seen: Seen) -> str:
    """Return a run's row of the table."""
    cells = [
        number,
        "no" if seen.monitor is None else "yes",
        len(seen.ttft),
        *(f"{np.percentile(seen.ttft, p):.1f}" for p in (50, 99)),
        *(f"{seen.error(p):+.2f}" for p in (50, 99)),
        f"{seen.driver * 100:.0f} %",
        "–" if seen.monitor is None else f"{seen.monitor * 100:.2f} %",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def verdict(without: list[Seen], beside: list[Seen]) -> str:
    """Say what the monitor changed, with the spread of the runs beside it, and whether that is within what is asked."""
    before, after = ([seen.error(99) for seen in one] for one in (without, beside))
    change = float(np.median(after) - np.median(before))
    cost = float(np.median([seen.monitor or 0.0 for seen in beside]))
    met = abs(change) < MOST_MS and cost < MOST_SHARE
    return (
        f"Monitor: TTFT p99 {change:+.2f} ms (median error {np.median(after):+.2f} with, {np.median(before):+.2f} without; "
        f"runs without spread over {max(before) - min(before):.2f} ms), {cost * 100:.2f} % of a core. Asked: under "
        f"{MOST_MS:g} ms and under {MOST_SHARE * 100:g} %: {'met' if met else 'not met'}."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
