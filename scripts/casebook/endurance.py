"""What is not over in a moment: runs killed in their middle, and hours under faults. Not a test: it takes time.

scripts/cases kills N [--driver run|locust]     kill -9 a run N times (each driver): nothing that had ended is missing
scripts/cases soak SECONDS [--driver …] [--streams N]      one request in twenty fails, of every kind
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from book import DRIVERS
from drivers import ASKS, USER, WIRE, Process, measured, report, start, until
from faults import FAULTS
from replay import records
from support.odd_answers import control, is_trial, streamed
from support.odd_server import Request, Script, Wait, odd_server

FRESH_S, LATE_S = 0.7, 2.5  # what ended so long before is on disk: below BUSY of a core, and above
BUSY = 0.6
USERS_AT_ONCE = 8
PATIENCE_S = 600  # for a soak to end and sum up: on a machine that others use, minutes
LIMITS = {"first_byte_timeout": 2.0, "idle_timeout": 2.0, "total_timeout": 10.0}
OPTIONS = [word for key, value in LIMITS.items() for word in (f"--{key.replace('_', '-')}", str(value))]
ATTRIBUTES = "".join(f"\n    {key} = {value}" for key, value in {"save_text": True, "warmup": 0, **LIMITS}.items())
LOCUSTFILE = f"{USER}\nclass Chat(ModelUser):{ATTRIBUTES}\n{ASKS}"


def begin(driver: str, url: str, place: Path, *, streams: int, seconds: float) -> Process:
    more = ["--save-text", *OPTIONS] if driver == "run" else ["--stop-timeout", "15"]
    return start(driver, url, place, *more, users=streams, seconds=seconds, tokens=8, text=LOCUSTFILE)


def paced(request: Request) -> Script:
    """Answer in 50 to 150 ms."""
    if is_trial(request):
        return WIRE.good(1)
    pause = random.uniform(0.01, 0.03)
    return streamed(*(step for part in WIRE.whole(4) for step in (Wait(pause), part)))


def kill_one(driver: str, place: Path, wait_s: float) -> tuple[int, int, float, float, bool, str]:
    """Kill a run after a while; return (ended, missing, oldest missing s, core use, reportable, what was said)."""
    with odd_server({**control(WIRE), WIRE.path: paced}) as server:
        process = begin(driver, server.url, place, streams=USERS_AT_ONCE, seconds=60)
        until(lambda: len(measured(server)) >= 8, 30)
        client = psutil.Process(process.pid)
        client.cpu_percent()
        time.sleep(wait_s)
        used = client.cpu_percent() / 100
        process.kill()
        killed = time.perf_counter_ns()
        process.wait()
        ended = [one for one in measured(server) if one.t_over and one.t_over < killed]
    kept = {record.get("prompt") for record in records(place / "run")}
    missing = [(killed - (one.t_over or 0)) * 1e-9 for one in ended if one.prompt not in kept]
    reported = report(place, limit_s=120)
    said = (reported.stderr or reported.stdout).decode(errors="replace").strip()
    reportable = reported.returncode in (0, 3) and "Traceback" not in said
    return len(ended), len(missing), max(missing, default=0.0), used, reportable, said.splitlines()[-1] if said else ""


def kills(arguments: Sequence[str]) -> int:
    """Kill runs and print what was lost."""
    parser = argparse.ArgumentParser(prog="scripts/cases kills", description=__doc__)
    parser.add_argument("times", type=int)
    parser.add_argument("--driver", action="append", choices=DRIVERS)
    asked = parser.parse_args(arguments)
    print(
        "| driver | killed | ended | not on disk | the oldest of them, s | core, most | reported | ok |\n|---|---|---|---|---|---|---|---|"
    )
    wrong = 0
    for driver in asked.driver or DRIVERS:
        found: list[tuple[int, int, float, float, bool, str]] = []
        bad = 0
        for _ in range(asked.times):
            place = Path(tempfile.mkdtemp(prefix="casebook-kill-"))
            one = kill_one(driver, place, random.uniform(0.5, 3.0))
            shutil.rmtree(place, ignore_errors=True)
            limit = FRESH_S if one[3] < BUSY else LATE_S
            if one[2] > limit or not one[4] or not one[0]:
                bad += 1
                print(
                    f"! {driver}: {one[1]} of {one[0]} missing, the oldest ended {one[2]:.2f} s before, core {one[3]:.0%}, {one[5]}",
                    file=sys.stderr,
                )
            found.append(one)
        ended, missing = sum(one[0] for one in found), sum(one[1] for one in found)
        oldest, core = max(one[2] for one in found), max(one[3] for one in found)
        reported = sum(one[4] for one in found)
        print(
            f"| {driver} | {asked.times} | {ended} | {missing} | {oldest:.2f} | {core:.0%} | {reported} | {'ok' if not bad else f'**{bad} NO**'} |",
            flush=True,
        )
        wrong += bad
    return int(bool(wrong))


SOAKED = [name for name in FAULTS if name not in ("none", "slow", "refused")]
SHARE = 0.05


def soak_server(port: Any, stop: Any, truth: Any) -> None:
    """Serve until told to stop, in a process of its own; one request in twenty meets a fault. Sends what each was."""
    met: list[tuple[str, str]] = []
    draw = random.Random(7)

    def answer(request: Request) -> Script:
        if is_trial(request):
            return WIRE.good(1)
        name = draw.choice(SOAKED) if draw.random() < SHARE else "none"
        met.append((request.prompt, name))
        if len(server.log) > 10_000:
            server.log.clear()
        if name != "none":
            return FAULTS[name][0](WIRE)
        pause = draw.uniform(0.02, 0.1)
        return streamed(*(step for part in WIRE.whole(8) for step in (Wait(pause), part)))

    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with odd_server({**control(WIRE), WIRE.path: answer}) as server:
        port.put(server.port)
        stop.wait()
    truth.put(met)


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope a second of the samples' last two thirds: the first third is growth to size."""
    late = samples[len(samples) // 3 :]
    return (
        statistics.linear_regression([t for t, _ in late], [value for _, value in late]).slope if len(late) > 2 else 0.0
    )


def soak_one(driver: str, seconds: float, streams: int) -> bool:
    place = Path(tempfile.mkdtemp(prefix="casebook-soak-"))
    context = multiprocessing.get_context("spawn")
    port, truth, stop = context.Queue(), context.Queue(), context.Event()
    serving = context.Process(target=soak_server, args=(port, stop, truth), daemon=True)
    serving.start()
    process = begin(driver, f"http://127.0.0.1:{port.get(timeout=30)}", place, streams=streams, seconds=seconds)
    client, began = psutil.Process(process.pid), time.monotonic()
    memory: list[tuple[float, float]] = []
    files: list[tuple[float, float]] = []
    while process.poll() is None and time.monotonic() - began < seconds + PATIENCE_S:
        time.sleep(max(0.5, seconds / 300))
        at = time.monotonic() - began
        try:
            if 5 < at < seconds:
                memory.append((at, client.memory_info().rss / 2**20))
                files.append((at, client.num_fds()))
        except psutil.Error:
            break
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    code = process.wait(PATIENCE_S)
    stop.set()
    met: list[tuple[str, str]] = truth.get(timeout=PATIENCE_S)
    serving.join(10)
    by_prompt = {record.get("prompt"): record for record in records(place / "run")}
    wrong: Counter[str] = Counter()
    lost = doubled = 0
    for prompt, name in dict(met).items():
        record = by_prompt.get(prompt)
        if record is None:
            lost += 1
        elif record["outcome"] != "cancelled" and record["outcome"] not in FAULTS[name][1].split(" or "):
            wrong[f"{name} → {record['outcome']}"] += 1
    doubled = len(records(place / "run")) - len(by_prompt)
    grows, opens = slope(memory), slope(files)
    faulty = sum(name != "none" for _, name in dict(met).items())
    print(
        f"| {driver} | {streams} | {seconds:.0f} s | {len(dict(met))} | {faulty} | {lost} | {doubled} | {sum(wrong.values())} | "
        f"{memory[-1][1] if memory else 0:.0f} MiB, {grows * 60:+.2f} MiB/min | {files[-1][1] if files else 0:.0f}, {opens * 60:+.2f}/min | {code} |",
        flush=True,
    )
    for what, count in wrong.most_common(8):
        print(f"! {driver}: {count} × {what}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    return not (lost or doubled or wrong)


def soak(arguments: Sequence[str]) -> int:
    """Run long and print how memory and descriptors went, and whether every fault was recorded as what it was."""
    parser = argparse.ArgumentParser(prog="scripts/cases soak", description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--driver", action="append", choices=DRIVERS)
    asked = parser.parse_args(arguments)
    print(
        "| driver | streams | time | requests | faults | lost | twice | wrong | RSS and its slope | descriptors and their slope | exit |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    held = [soak_one(driver, asked.seconds, asked.streams) for driver in asked.driver or DRIVERS]
    return int(not all(held))
