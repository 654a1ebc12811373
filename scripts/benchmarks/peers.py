"""The same work through this project and the clients that people would pick, one after another in one run.

    scripts/bench peers [CLIENT…] [--streams 300,1000] [--steps] [--repeats 5] [--plot FILE]
                        [--mlperf CHECKOUT]
    scripts/bench peers --from docs/other-tools.md --repeats 3 --plot plots/other-tools.png

Server and client get a core each. Errors are the client's percentile less the truth's. CPU counts from the first request
on the wire to the last answer taken (to the last record on disk for this project): start-up and closing tables of no
client are in it. AIPerf, GuideLLM, vLLM's `bench serve` and EvalScope's `perf` are gigabytes to install, so they run only
when named (`all` names everything); a `vllm` or `evalscope` that is on PATH is taken instead. vllm-rust is vLLM's bench with
VLLM_USE_RUST_BENCH=1; no GPU is needed.
--mlperf adds MLPerf's endpoints client from a checkout with its environment (`uv sync` in it): as it comes, when it notes
the first chunk of an answer alone, and with all chunks noted. GuideLLM's ITL is one mean a request; memory is that of all
processes of a client, shared pages counted in each.

A machine that is not quiet spoils it; where other work cannot be stopped, `chrt -r 10 scripts/bench peers …` as root
keeps it away, up to 95 % of a core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from clients import CLIENTS, Run, Seen
from peers_table import Row, middle, read, table
from rig import Array, Meter, Truth, Work, build, metered, source

LATE_MS = 5.0  # at its worst in a request: the hypervisor alone takes 1 to 3
LIMIT_S = 300.0  # of one client's run, beside the work's own time: some take a minute to start on a busy core


def measure(name: str, work: Work, programs: dict[str, Path], floor_us: float | None) -> Row:
    """Run one client once against a fresh server."""
    client = CLIENTS[name]
    with tempfile.TemporaryDirectory(prefix="loadtest-peers-") as folder:
        with source(programs["source"], work, Path(folder)) as server:
            run = Run(work, server.url, Path(folder), programs)
            command = [str(part) for part in client.command(run)]
            stdin = work.wire() if name == "floor" else b""
            meter = metered(command, limit_s=work.seconds + LIMIT_S, stdin=stdin, env=client.environment(run))
        truth = server.truth()
        if not truth.rows:
            sys.exit(f"{name} got no request through:\n{meter.output[-3000:]}")
        try:
            seen = client.read(run, meter, truth)
        except (OSError, ValueError, KeyError, IndexError) as error:
            sys.exit(f"{name} left nothing to read ({error!r}):\n{meter.output[-3000:]}")
    return row_of(client.label, work, seen, truth, meter, floor_us)


def row_of(label: str, work: Work, seen: Seen, truth: Truth, meter: Meter, floor_us: float | None) -> Row:
    """Hold what a client saw against what was."""
    done = seen.done_ns or truth.ended_ns
    cpu = seen.cpu_s if seen.cpu_s is not None else meter.cpu_between(truth.started_ns, done)
    cpu_us = cpu / truth.chunks * 1e6
    return Row(
        client=label,
        ok=seen.ok,
        lost=seen.lost,
        ttft_p50=_error(seen.ttft, truth.ttft, 50),
        ttft_p99=_error(seen.ttft, truth.ttft, 99),
        itl_p50=_error(seen.gaps, truth.gaps, 50),
        itl_p99=_error(seen.gaps, truth.gaps, 99),
        cpu_us=cpu_us,
        ratio=1.0 if floor_us is None else cpu_us / floor_us,
        process_s=float(meter.cpu[-1]),
        rss_mb=meter.rss_mb,
        wall_s=(done - truth.started_ns) / 1e9,
        burst_ms=truth.burst(work.streams),
        late_ms=truth.late_p99,
        void=seen.void,
    )


def _error(seen: Array, true: Array, percent: float) -> float:
    if not len(seen) or not len(true):
        return float("nan")
    return float(np.percentile(seen, percent) - np.percentile(true, percent))


def compare(names: list[str], work: Work, programs: dict[str, Path], repeats: int) -> list[Row]:
    """Run every client `repeats` times, the floor first each time; ratios are within a round."""
    found: dict[str, list[Row]] = {name: [] for name in ["floor", *names]}
    for round_ in range(repeats):
        floor_us: float | None = None
        for name, rows in found.items():
            row = measure(name, work, programs, floor_us)
            floor_us = row.cpu_us if name == "floor" else floor_us
            rows.append(row)
            print(f"  {round_ + 1}/{repeats} {name}: {row.cpu_us:.1f} µs a chunk", file=sys.stderr, flush=True)
    return [middle(rows) for rows in found.values()]


def doubts(rows: list[Row], work: Work) -> str:
    """Return a sentence where the server itself did not keep its schedule: what came late was not the client's doing."""
    late = [row.client for row in rows if row.late_ms > LATE_MS]
    if not late or work.steps:  # a step of many streams takes its time to write
        return ""
    return (
        f"The server was more than {LATE_MS:g} ms behind its own schedule beside {', '.join(late)}: the machine was not "
        "quiet, or this load is the server's limit. Errors are still against what it did; costs and waits are not clean."
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help="all, or of " + ", ".join(CLIENTS))
    parser.add_argument("--streams", default="300,1000", help="concurrencies (default 300,1000)")
    parser.add_argument(
        "--requests",
        type=int,
        default=1,
        help="requests a stream (default 1; with more, all users come back in a wave)",
    )
    parser.add_argument("--tokens", type=int, default=160, help="tokens an answer (default 160)")
    parser.add_argument("--tokens-per-s", type=float, default=50.0, help="of a stream (default 50)")
    parser.add_argument("--steps", action="store_true", help="tokens of all streams leave together")
    parser.add_argument("--api", choices=("openai", "ollama"), default="openai", help="the wire (default openai)")
    parser.add_argument("--repeats", type=int, default=1, help="the median of so many (default 1)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a PNG of it")
    parser.add_argument(
        "--from", dest="page", type=Path, metavar="PAGE", help="draw the table in a page; nothing is run"
    )
    parser.add_argument("--mlperf", type=Path, metavar="CHECKOUT", help="add MLPerf's endpoints client from there")
    asked = parser.parse_args(arguments)
    if asked.mlperf:
        import mlperf

        CLIENTS.update(mlperf.clients(asked.mlperf))
    if asked.page and (asked.clients or not asked.plot):
        parser.error("--from draws a table that is there: give --plot FILE, and no clients")
    if unknown := set(asked.clients) - set(CLIENTS) - {"all"}:
        parser.error(f"{', '.join(sorted(unknown))} is not one of all, {', '.join(CLIENTS)}")
    others = {"all"} | {name for name, client in CLIENTS.items() if client.slow}
    if asked.api == "ollama" and (asked.mlperf or others & set(asked.clients)):
        parser.error("AIPerf, GuideLLM, vLLM's bench, EvalScope and MLPerf's client speak only --api openai")
    return asked


def main(arguments: list[str]) -> None:
    """Measure, print a table a workload, and draw it where asked."""
    asked = parse(arguments)
    if asked.page:
        from peers_chart import draw

        print(f"wrote {draw(read(asked.page.read_text()), asked.plot, asked.repeats)}")
        return
    usual = [name for name, client in CLIENTS.items() if not client.slow]
    names = list(CLIENTS) if "all" in asked.clients else asked.clients or usual
    names = [name for name in names if name != "floor"]
    names += [name for name in CLIENTS if asked.mlperf and name.startswith("mlperf") and name not in names]
    results: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="loadtest-bench-") as folder:
        programs = build(Path(folder), "source", "floor")
        for streams in map(int, asked.streams.split(",")):
            work = Work(streams, asked.requests, asked.tokens, asked.tokens_per_s, steps=asked.steps, api=asked.api)
            rows = compare(names, work, programs, asked.repeats)
            print(f"\n{work} (simulated server; median of {asked.repeats}):\n\n{table(rows)}\n", flush=True)
            if note := doubts(rows, work):
                print(note + "\n", flush=True)
            results[str(work)] = rows
    if asked.plot:
        from peers_chart import draw

        print(f"wrote {draw(results, asked.plot, asked.repeats)}")
