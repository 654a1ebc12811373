"""Each client against the simulated server's truth log: is what it measures what was?

    scripts/bench [CASE…] [--clients asyncio,locust]

The first cases are small and of many kinds; those after them are at the edge of what a client can do (see edges.py).
Errors are client − truth; drivers are compared on the same work in one run. `scripts/bench peers` has other clients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edges
import numpy as np
from rig import PYTHON, ROOT, pinned

from loadtest.run_folder import RunFolder
from loadtest.workloads.source import nonce_of


@dataclass(frozen=True)
class Case:
    """One workload: what the server is, and how many streams, or people who talk, ask for how much, for how long."""

    server: tuple[str, ...]
    streams: int
    seconds: int
    output_tokens: int
    people: bool = False

    def talks(self, *save_text: str) -> tuple[str, ...]:
        """Return options for people. The truth log knows a turn by its last message, which a record holds only if saved."""
        return (*TALKS, *save_text) if self.people else ()


TALKS = ("--turns", "4", "--think-time", "uniform(0, 0.5)")
A100 = ("--profile", "a100-80g-llama3.1-70b-q4", "--slots", "4")
CASES = {
    "slots-8": Case((*A100, "--speed", "4"), 8, 20, 32),
    "slots-100": Case((*A100, "--speed", "10"), 100, 20, 16),
    "independent-300": Case(("--profile", "metronome"), 300, 15, 100),
    "people-300": Case(("--profile", "metronome"), 300, 15, 100, people=True),
}  # fmt: skip


@dataclass
class Seen:
    """What one client saw of the requests that count, beside the truth; ms."""

    first: np.ndarray  # arrival of the first token, error of the absolute instant
    ttft: np.ndarray
    true_ttft: np.ndarray
    tpot: np.ndarray
    true_tpot: np.ndarray
    gaps: np.ndarray  # ITL by arrival, and by the server's created_at
    true_gaps: np.ndarray
    late_p99: float  # how late the server itself was
    verdict: str
    chunks: int  # that all its requests got, those of the warm-up too
    cpu_s: float = 0.0  # of the client's processes, its start and the writing included

    def means_and_medians(self) -> dict[str, float]:
        """Return the figures that both drivers must agree on."""
        parts = {"TTFT": self.ttft, "TPOT": self.tpot, "tokens/s": 1e3 / self.tpot, "ITL": self.gaps}
        return {f"{name} mean": values.mean() for name, values in parts.items()} | {
            f"{name} p50": float(np.median(values)) for name, values in parts.items()
        }


def run_case(case: Case, client: str) -> Seen:
    """Measure one case with one client against a fresh server."""
    with tempfile.TemporaryDirectory() as folder:
        truth, out = Path(folder, "truth.jsonl"), Path(folder, "run")
        serve = pinned(0, PYTHON, "-m", "loadtest", "serve", "--port", 0, "--warm", "--truth", truth, *case.server)
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().split()[-1]
                command = pinned(1, *COMMANDS[client](case, url, out))
                before = _cpu_of_children()
                done = subprocess.run(command, check=False, capture_output=True, text=True)
                cpu = _cpu_of_children() - before  # the server is a child too, but one that has not ended
            finally:
                server.terminate()
                server.wait()
        if not out.exists():
            sys.exit(f"{client} wrote nothing:\n{done.stdout}{done.stderr}")
        by_opening = {_key(row["prompt"]): row for row in map(json.loads, truth.read_text().splitlines())}
        seen = seen_by_loadtest(out, by_opening)
        seen.cpu_s = cpu
        return seen


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _key(opening: str) -> str:
    """Return the nonce with which a prompt begins; without one, as in later turns, its first 80 characters."""
    nonce, end, _ = opening.partition("]")
    return nonce + end if opening.startswith("[") else opening[:80]


def _asyncio(case: Case, url: str, out: Path) -> list[object]:
    lengths = ["--input-tokens", 64, "--output-tokens", case.output_tokens]
    run = ["--concurrency", case.streams, "--duration", case.seconds, *lengths, "--out", out]
    return [PYTHON, "-m", "loadtest", "run", "--url", url, *run, *case.talks("--save-text")]


def _locust(case: Case, url: str, out: Path) -> list[object]:
    lengths = ["--input-tokens", 64, "--output-tokens", case.output_tokens]
    run = ["--headless", "-u", case.streams, "-r", case.streams, "-t", case.seconds, "--host", url, "--only-summary"]
    talks = case.talks("--save-text", "true")
    return [PYTHON, "-m", "locust", "-f", ROOT / "scenarios/chat.py", *run, *lengths, *talks, "--out", out]


COMMANDS = {"asyncio": _asyncio, "locust": _locust}


def seen_by_loadtest(out: Path, truth: dict[str, dict[str, Any]]) -> Seen:
    """Read a run folder of either driver."""
    subprocess.run([PYTHON, "-m", "loadtest", "report", out], check=False, capture_output=True)
    first, ttft, true_ttft, tpot, true_tpot, gaps, true_gaps, late = ([] for _ in range(8))
    chunks = 0
    for header, found in RunFolder.open(out).requests():
        rows = list(found)
        chunks += sum(len(row.get("chunks") or ()) for row in rows)
        for row in rows:
            if row["outcome"] != "ok" or row.get("warmup"):
                continue
            said = truth[_key(row["prompt"]) if row.get("turn") else nonce_of(row["seed"])]
            true, spans = said["monotonic_ns"], row["output_tokens"] - 1
            late.append(said["late_max_us"] / 1e3)
            first.append((row["t_first_token"] + header.monotonic_ns - true["first_token"]) / 1e6)
            ttft.append((row["t_first_token"] - row["t_send"]) / 1e6)
            true_ttft.append((true["first_token"] - true["arrived"]) / 1e6)
            tpot.append((row["chunks"][-1] - row["chunks"][0]) / 1e3 / spans)
            true_tpot.append((true["last_token"] - true["first_token"]) / 1e6 / spans)
            gaps.append(np.diff(row["chunks"]) / 1e3)
            true_gaps.append(np.diff(row["server_us"]) / 1e3)
    return Seen(
        np.array(first),
        np.array(ttft),
        np.array(true_ttft),
        np.array(tpot),
        np.array(true_tpot),
        np.concatenate(gaps),
        np.concatenate(true_gaps),
        late_p99=float(np.percentile(late, 99)),
        verdict=json.loads((out / "summary.json").read_text())["levels"][-1]["verdict"],
        chunks=chunks,
    )


def row_of(name: str, client: str, seen: Seen) -> str:
    """Return a client's row of the table of errors."""
    ttft = [np.percentile(seen.ttft, p) - np.percentile(seen.true_ttft, p) for p in (50, 99)]
    cells = [
        name,
        client,
        len(seen.first),
        f"{np.percentile(np.abs(seen.first), 99):.2f}",
        f"{ttft[0]:+.2f}",
        f"{ttft[1]:+.2f}",
        f"{np.percentile(seen.true_ttft, 50):.1f} / {np.percentile(seen.true_ttft, 99):.1f}",
        f"{np.median(seen.tpot) - np.median(seen.true_tpot):+.3f}",
    ]
    cells += [f"{np.percentile(seen.gaps, p) - np.percentile(seen.true_gaps, p):+.2f}" for p in (50, 99)]
    cells += [f"{seen.late_p99:.1f}", f"{seen.cpu_s / seen.chunks * 1e6:.1f}" if seen.chunks else "–", seen.verdict]
    return "| " + " | ".join(map(str, cells)) + " |"


def agreement(name: str, one: Seen, other: Seen) -> None:
    """Print how far the two drivers' means and medians are apart."""
    left, right = one.means_and_medians(), other.means_and_medians()
    parts = [f"{key} {(right[key] / left[key] - 1) * 100:+.2f} %" for key in left]
    print(f"\n{name}, locust against asyncio: {', '.join(parts)}\n", flush=True)


def fidelity(names: list[str], clients: list[str]) -> None:
    """Run the cases with each client and print the tables."""
    print("Simulated server on core 0, client on core 1. ms; first token: absolute instants on one clock;")
    print("µs a chunk: CPU of the client's processes, their start included.\n")
    heads = ["case", "client", "requests", "first token p99", "TTFT p50 error", "TTFT p99 error", "true TTFT p50 / p99"]
    heads += ["TPOT p50 error", "ITL p50 error", "ITL p99 error", "server late p99", "client µs a chunk", "verdict"]
    for name in names:
        print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        seen = {}
        for client in clients:
            seen[client] = run_case(CASES[name], client)
            print(row_of(name, client, seen[client]), flush=True)
        if {"asyncio", "locust"} <= seen.keys():
            agreement(name, seen["asyncio"], seen["locust"])


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    known = (*CASES, *edges.CASES)
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(known))
    parser.add_argument("--clients", default="asyncio,locust", help="of " + ", ".join(COMMANDS))
    parser.add_argument("--seconds", type=int, default=60, help="of the open loop (default 60)")
    parser.add_argument("--workers", type=int, default=1, help="driver processes of the open loop (default 1)")
    asked = parser.parse_args(arguments)
    clients = asked.clients.split(",")
    for given, there in ((asked.cases, known), (clients, COMMANDS)):
        if unknown := set(given) - set(there):
            parser.error(f"{', '.join(sorted(unknown))} is not one of {', '.join(there)}")
    if small := [name for name in asked.cases or known if name in CASES]:
        fidelity(small, clients)
    if extreme := [name for name in asked.cases or known if name in edges.CASES]:
        edges.run([*extreme], clients, asked.seconds, asked.workers)
