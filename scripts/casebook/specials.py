"""Rows that need more than a command: a full disk, few descriptors, a lost worker, two models, a server that errs."""

from __future__ import annotations

import json
import re
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from book import DRIVERS
from commands import COMMANDS, Special
from drivers import (
    ASKS,
    USER,
    Held,
    Process,
    bare,
    calm,
    each_started,
    measured,
    over,
    report,
    said,
    slow_server,
    until,
)
from replay import records, summary
from support.odd_answers import json as answer_json
from support.odd_server import OddServer

OPEN = """
from loadtest.users import OpenLoopUser

class Open(OpenLoopUser):
    rate = 70.0
    arrivals = "constant"
"""


Hold = Callable[[Path], Held]


def special(kind: str) -> Callable[[Hold], Hold]:
    def add(hold: Hold) -> Hold:
        name = (hold.__doc__ or "").strip().rstrip(".")
        COMMANDS.append(Special(name, kind, hold))
        return hold

    return add


@special("failures of this machine")
def full_disk(place: Path) -> Held:
    """Full disk, then free again"""
    found: Held = []
    for driver in DRIVERS:
        with each_started(place, driver, slow_server(0.02)) as (home, server, process):
            file, hard = home / "run" / "requests-0.jsonl", resource.RLIM_INFINITY
            until(partial(asked, server, 20))
            size = max((path.stat().st_size for path in (home / "run").glob("requests-*.jsonl")), default=0)
            for most in (size + 700, hard):
                if process.poll() is None:
                    psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (most, hard))
                time.sleep(1.0)
            if not until(partial(_over, process)):  # a run ends by itself, and reports then
                process.send_signal(signal.SIGINT)
            code = over(process)
        text = said(home)
        lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
        broken = [line for line in lines[:-1] if not _is_json(line)] + [line for line in lines[-1:] if line]
        word = re.search(r"File too large|No space|disk|cannot write|could not", text, re.IGNORECASE)
        reported = report(home)
        ok = reported.returncode in (0, 3) and b"Traceback" not in reported.stderr
        whole = not broken and len(lines) > 10
        found += [
            (driver, "exit 3", f"exit {code}", code == 3),
            (driver, "every line whole", f"{len(broken)} broken of {len(lines)}", whole),
            (driver, "said, no traceback", bare(text), word is not None and "Traceback" not in text),
            (driver, "can be reported", f"exit {reported.returncode} {bare(reported.stderr.decode())[:80]}", ok),
        ]
    return found


def asked(server: OddServer, times: int) -> bool:
    return len(measured(server)) > times


def _over(process: Process) -> bool:
    return process.poll() is not None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@special("failures of this machine")
def few_descriptors(place: Path) -> Held:
    """64 descriptors, 200 streams at once, open loop"""
    found: Held = []
    trace = place / "t.csv"
    trace.write_text("t\n" + "".join(f"{0.5 + i * 0.002:.3f}\n" for i in range(200)))

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    for driver in DRIVERS:
        how: dict[str, Any] = {"load": ("--trace", str(trace)), "seconds": 4, "text": OPEN, "preexec_fn": limited}
        with each_started(place, driver, slow_server(1.5), **how) as (home, _, process):
            code = over(process, 60)
        got = records(home / "run")
        outcomes = Counter(record["outcome"] for record in got)
        errors = {str(record.get("error")) for record in got if record["outcome"] not in ("ok", "cancelled")}
        right = all(outcomes[name] for name in ("ok", "connect_error"))
        right = right and set(outcomes) <= {"ok", "connect_error", "cancelled"}
        if driver == "run":
            right = right and len(got) == 200 and not outcomes["cancelled"]
        spoken = bool(errors) and all("descriptor" in error for error in errors)
        found += [
            (driver, "ok and connect_error alone", str(dict(outcomes)), right),
            (driver, "no file descriptor left", str(errors)[:150], spoken),
            (driver, "exit not 0", f"exit {code}", code not in (0, None)),
            calm(driver, home),
        ]
    return found


@special("Locust")
def lost_worker(place: Path) -> Held:
    """One of Locust's --processes is killed"""
    port = str(_free_port())
    bind = ("--master-bind-host", "127.0.0.1", "--master-bind-port", port, "--master-port", port)
    with each_started(place, "locust", slow_server(), "--processes", "2", *bind, seconds=8) as (home, server, process):
        until(lambda: len(measured(server)) > 30)
        children = psutil.Process(process.pid).children(recursive=True)
        next(one for one in children if one.status() != psutil.STATUS_ZOMBIE).kill()
        code = over(process, 60)
    text = said(home)
    reported = report(home)
    levels = summary(home / "run").get("levels", ())
    verdicts, reasons = [level["verdict"] for level in levels], str([level["reasons"] for level in levels])
    void = reported.returncode == 3 and verdicts == ["void"] and "worker" in reasons
    word = re.search(r"loadtest.*(worker|process).*(lost|died|gone|killed|missing)", text, re.IGNORECASE)
    return [
        ("locust", "exit 3", f"exit {code}", code == 3),
        ("locust", "said", bare(text), word is not None),
        ("locust", "level void", f"{verdicts} {reasons[:100]}", void),
    ]


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


TWO = USER + "".join(f'\nclass {name.upper()}(ModelUser):\n    model = "{name}"{ASKS}' for name in "ab")


@special("Locust")
def two_models(place: Path) -> Held:
    """Two Locust classes, two models"""
    names = answer_json({"object": "list", "data": [{"id": "a"}, {"id": "b"}]})
    paths = {**slow_server(), "/v1/models": names}
    with each_started(place, "locust", paths, seconds=3, text=TWO) as (home, server, process):
        over(process, 60)
    report(home)
    got, seen = records(home / "run"), summary(home / "run")
    ids, prompts = Counter(record["id"] for record in got), Counter(one.prompt for one in measured(server))
    groups = {group.get("model") for group in seen.get("groups") or ()}
    models = {record["model"] for record in got}
    once = bool(prompts) and max(prompts.values()) == 1
    return [
        ("locust", "both models in the records", str(models), models == {"a", "b"}),
        ("locust", "ids once", f"{len(ids)} of {len(got)}", bool(got) and len(ids) == len(got)),
        ("locust", "prompts once", f"{len(prompts)} of {sum(prompts.values())}", once),
        ("locust", "groups by model", f"{groups or sorted(seen)[:30]}", groups == {"a", "b"}),
        calm("locust", home),
    ]


@special("throughput")
def requests_per_s(place: Path) -> Held:
    """26 requests of one length by 8 and 16 streams: requests/s within 2 %"""
    from support import virtual_runs

    from loadtest.simulate.model.timing import StepLaw, Timing

    found: Held = []
    timing = Timing(step=StepLaw(0.02, 0.0), prefill_s=0.0001)
    for users in (8, 16):
        played = virtual_runs.play(timing, [virtual_runs.Load(users=users, requests=26)], slots=users)
        played.write(place / f"run{users}")
        report(place, f"run{users}")
        level = summary(place / f"run{users}")["levels"][0]
        turn = [record.t_end - (record.t_send or 0) for record in played.records if not record.warmup]
        truth = users / (sorted(turn)[len(turn) // 2] * 1e-9 + 0.001)
        rate, interval = level["requests_per_s"], level["requests_per_s_ci95"]
        off = rate / truth - 1
        holds = interval is None or interval[0] <= truth <= interval[1] or level["verdict"] != "valid"
        wanted = f"{users} streams: {truth:.2f}/s"
        found.append(("report", wanted, f"{rate:.2f}/s ({off:+.1%}), interval {interval}", abs(off) <= 0.02 and holds))
    return found
