"""How long `loadtest report` takes on a large run folder, and how much memory: `scale.py [--requests N] [--chunks N] …`.

The folder is made by the simulated engine in virtual time: a short play of every level, laid end to end until there are
as many requests as asked for, so that waits, batches and step times are the engine's own. All of it is simulated. Wall
time is the whole command's, start-up and charts included; memory is the largest process's peak resident set, and beside
it the peak of all processes together (each shared page once, as Linux's PSS says), sampled every 250 ms.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support import made_runs  # noqa: E402
from support.virtual_runs import Load, play  # noqa: E402

from loadtest.records import Record  # noqa: E402
from loadtest.simulate.model.timing import StepLaw, Timing  # noqa: E402

TIMING = Timing(step=StepLaw(0.012, 0.001), prefill_s=0.0002, jitter=0.03)
SLOTS = 8
INSTANTS = ("t_sched", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")
LIMIT_S, LIMIT_GB = 20.0, 2.0  # for 100,000 requests of 500 chunks on two cores


@dataclass(frozen=True, slots=True)
class Used:
    """What one command took."""

    wall_s: float
    cpu_s: float
    largest_gb: float  # peak of the largest process
    together_gb: float  # peak of all together


def main(arguments: list[str]) -> None:
    """Make the folders asked for, report each of them, and print a row a folder."""
    parser = argparse.ArgumentParser(prog="scripts/bench scale", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--chunks", type=int, default=500, help="of each answer, on average (default 500)")
    parser.add_argument(
        "--users", default="1,4,8,16,32", help="a level each, of as many requests (default 1,4,8,16,32)"
    )
    parser.add_argument("--says", default="ollama,openai", help="ollama stamps every chunk, openai says no durations")
    parser.add_argument("--folder", type=Path, help="keep the run folders here, and take those that are here already")
    asked = parser.parse_args(arguments)
    users = [int(number) for number in asked.users.split(",")]
    print(
        "| server | requests | chunks | MB on disk | wall s | CPU s | largest process GB | together GB |\n|"
        + "---|" * 8
    )
    for says in asked.says.split(","):
        with tempfile.TemporaryDirectory() as made:
            path = (asked.folder or Path(made)) / f"{says}-{asked.requests}-{asked.chunks}-{len(users)}"
            if not (path / "run.json").exists():
                write(path, says, users, asked.requests, asked.chunks)
            size = sum(file.stat().st_size for file in path.glob("requests-*.jsonl"))
            used = report(path)
            cells = [says, asked.requests, asked.chunks, f"{size / 1e6:.0f}", f"{used.wall_s:.1f}", f"{used.cpu_s:.1f}"]
            print("| " + " | ".join(map(str, [*cells, f"{used.largest_gb:.2f}", f"{used.together_gb:.2f}"])) + " |")
    print(f"\nThe aim for 100,000 requests of 500 chunks on two cores: {LIMIT_S:g} s and {LIMIT_GB:g} GB.")


def write(path: Path, says: str, users: list[int], requests: int, chunks: int) -> None:
    """Write a run folder of `requests` in all, an equal part at each number of users."""
    levels: list[dict[str, Any]] = []
    made_runs.write(
        path,
        _records(levels, says, users, requests // len(users), chunks),
        levels,
        name=f"scale-{says}",
        server={
            "kind": "ollama" if says == "ollama" else "openai",
            "version": "virtual",
            "context": 4096,
            "simulated": {"profile": "virtual", "speed": 1},
            "facts": {},
        },
    )


def _records(levels: list[dict[str, Any]], says: str, users: list[int], part: int, chunks: int) -> Iterator[Record]:
    """Yield the records of every level, `part` each, and add to `levels` what run.json says of each."""
    output = (max(chunks * 4 // 5, 1), chunks * 6 // 5)
    ids, start = count(), 0
    for index, streams in enumerate(users):
        load = Load(users=streams, requests=max(min(12 * streams, part - streams), 1), prompt=(50, 400), output=output)
        # The plain OpenAI server tells nothing: no durations, no stamps.
        played = play(TIMING, [load], slots=SLOTS, seed=index, says="ollama" if says == "ollama" else None)
        end = start
        for record in _laid_end_to_end(played.records, start, part):
            end = max(end, record.t_end)
            yield replace(record, id=next(ids), level=index)
        told = {"index": index, "requests": part - streams, "started_ns": start, "ended_ns": end}
        levels.append(played.levels[0] | told)
        start = end + 100_000_000


def _laid_end_to_end(records: list[Record], start: int, requests: int) -> Iterator[Record]:
    """Yield the records of a play, again and again, each time begun where the last one ended; warm-up only once."""
    length = max(record.t_end for record in records) + 1_000_000
    for ordinal in range(requests):
        turn, place = divmod(ordinal, len(records))
        record, later = records[place], start + turn * length
        moved = {name: getattr(record, name) + later for name in INSTANTS}
        first = None if record.server_first is None else record.server_first + later
        yield replace(record, **moved, server_first=first, warmup=record.warmup and not turn)


def report(path: Path) -> Used:
    """Run `loadtest report` on a folder and say what it took."""
    began, before = time.perf_counter(), os.times()
    command = [sys.executable, "-m", "loadtest", "report", str(path)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    largest = together = 0.0
    while child.poll() is None:
        sizes = [_memory(number) for number in _family(child.pid)]
        largest = max([largest, *(rss for rss, _ in sizes)])
        together = max(together, sum(pss for _, pss in sizes))
        time.sleep(0.25)
    wall, after = time.perf_counter() - began, os.times()
    if child.returncode not in {0, 3} and child.stderr is not None:
        sys.exit(f"loadtest report failed:\n{child.stderr.read().decode()}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Used(wall, cpu, largest, together)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(number for child in children for number in _family(int(child)))]


def _memory(pid: int) -> tuple[float, float]:
    """Return a process's peak resident set, and its share of memory right now; GB, zero of one that has ended."""
    try:
        status, rollup = (Path(f"/proc/{pid}/{name}").read_text() for name in ("status", "smaps_rollup"))
    except OSError:
        return 0.0, 0.0
    found = {line.partition(":")[0]: line.split()[1] for line in (status + rollup).splitlines() if line.endswith("kB")}
    return int(found.get("VmHWM", 0)) * 1024 / 1e9, int(found.get("Pss", 0)) * 1024 / 1e9


if __name__ == "__main__":
    main(sys.argv[1:])
