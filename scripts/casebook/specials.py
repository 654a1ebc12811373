"""Rows that need more than a command: a full disk, few descriptors, a lost worker, two models, a server that errs."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from commands import COMMANDS, OPENAI, Special
from replay import environment, records, summary
from support.odd_answers import WIRES, is_trial, streamed
from support.odd_answers import json as answer_json
from support.odd_server import OddServer, Paths, Request, Script, Wait, odd_server

Held = list[tuple[str, str, str, bool]]
WIRE = WIRES["openai-chat"]
CHAT = """
from locust import task
from loadtest.users import ModelUser

class Chat(ModelUser):
    @task
    def ask(self):
        self.client.ask()
"""

OPEN = """
from loadtest.users import OpenLoopUser

class Open(OpenLoopUser):
    rate = 70.0
    arrivals = "constant"
"""


def special(kind: str) -> Any:
    def add(hold: Any) -> Any:
        name = (hold.__doc__ or "").strip().rstrip(".")
        COMMANDS.append(Special(name, kind, hold))
        return hold

    return add


def slow_server(seconds: float = 0.1) -> Paths:
    """Return a server whose answers take so long."""

    def answer(request: Request) -> Script:
        if is_trial(request):
            return WIRE.good(1)
        return streamed(*WIRE.tokens(), Wait(seconds), WIRE.end())

    return {**OPENAI, WIRE.path: answer}


def start(
    driver: str, server: OddServer, place: Path, *words: str, users: int = 4, **how: Any
) -> subprocess.Popen[bytes]:
    """Start a driver with so many users for as long as it is let."""
    if driver == "run":
        argv = ["loadtest", "run", "--url", server.url, "--concurrency", str(users), "--duration", "60"]
        argv += ["--warmup", "0", "--output-tokens", "3", "--out", "run"]
    else:
        (place / "locustfile.py").write_text(how.pop("text", CHAT))
        argv = ["locust", "--headless", "--only-summary", "-u", str(users), "-r", "100", "-t", "60"]
        argv += ["-H", server.url, "--output-tokens", "3", "--out", "run"]
    log = (place / "said").open("wb")
    return subprocess.Popen(
        [sys.executable, "-m", *argv, *words],
        cwd=place,
        env=environment(**how.pop("env", {})),
        stdout=log,
        stderr=log,
        **how,
    )


def said(place: Path) -> str:
    return (place / "said").read_bytes().decode(errors="replace")


def until(true: Any, seconds: float = 20.0) -> bool:
    """Poll until it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False


def over(process: subprocess.Popen[bytes], seconds: float = 30.0) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def measured(server: OddServer) -> list[Request]:
    return [one for one in server.log if one.method == "POST" and not is_trial(one)]


def bare(text: str) -> str:
    return " ".join(text.split())[-150:]


@special("failures of this machine")
def full_disk(place: Path) -> Held:
    """Full disk, then free again"""
    found: Held = []
    for driver in ("run", "locust"):
        home = place / driver
        home.mkdir()
        with odd_server(slow_server(0.02)) as server:
            process = start(driver, server, home)
            file = home / "run" / ("requests-0.jsonl")
            until(lambda server=server: len(measured(server)) > 20)
            size = max((path.stat().st_size for path in (home / "run").glob("requests-*.jsonl")), default=0)
            hard = resource.RLIM_INFINITY
            psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (size + 700, hard))
            time.sleep(1.0)
            if process.poll() is None:
                psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
            time.sleep(1.0)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            code = over(process)
        text = said(home)
        lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
        broken = [line for line in lines[:-1] if not _is_json(line)] + [line for line in lines[-1:] if line]
        found.append((driver, "exit 3", f"exit {code}", code == 3))
        found.append(
            (driver, "every line whole", f"{len(broken)} broken of {len(lines)}", not broken and len(lines) > 10)
        )
        word = re.search(r"File too large|No space|disk|cannot write|could not", text, re.IGNORECASE)
        found.append((driver, "said, no traceback", bare(text), word is not None and "Traceback" not in text))
        report = subprocess.run(
            [sys.executable, "-m", "loadtest", "report", "run"],
            cwd=home,
            env=environment(),
            capture_output=True,
            check=False,
            timeout=60,
        )
        ok = report.returncode in (0, 3) and b"Traceback" not in report.stderr
        found.append((driver, "can be reported", f"exit {report.returncode} {bare(report.stderr.decode())[:80]}", ok))
    return found


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
    for driver in ("run", "locust"):
        home = place / driver
        home.mkdir()

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        with odd_server(slow_server(1.5)) as server:
            if driver == "run":
                (home / "t.csv").write_text("t\n" + "".join(f"{0.5 + i * 0.002:.3f}\n" for i in range(200)))
                argv = [
                    "loadtest",
                    "run",
                    "--url",
                    server.url,
                    "--trace",
                    "t.csv",
                    "--warmup",
                    "0",
                    "--output-tokens",
                    "3",
                    "--out",
                    "run",
                ]
                log = (home / "said").open("wb")
                process = subprocess.Popen(
                    [sys.executable, "-m", *argv],
                    cwd=home,
                    env=environment(),
                    stdout=log,
                    stderr=log,
                    preexec_fn=limited,  # noqa: PLW1509
                )
            else:
                process = start("locust", server, home, "-t", "4", text=OPEN, preexec_fn=limited)
            code = over(process, 60)
        got = records(home / "run")
        outcomes = Counter(record["outcome"] for record in got)
        errors = {record.get("error") for record in got if record["outcome"] not in ("ok", "cancelled")}
        right = (
            outcomes["ok"] > 0
            and outcomes["connect_error"] > 0
            and set(outcomes) <= {"ok", "connect_error", "cancelled"}
        )
        if driver == "run":
            right = right and len(got) == 200 and not outcomes["cancelled"]
        found.append((driver, "ok and connect_error alone", str(dict(outcomes)), right))
        found.append(
            (
                driver,
                "no file descriptor left",
                str(errors)[:150],
                bool(errors) and all("descriptor" in str(one) for one in errors),
            )
        )
        text = said(home)
        found.append(
            (
                driver,
                "exit not 0, no traceback",
                f"exit {code}: {bare(text)}",
                code not in (0, None) and "Traceback" not in text,
            )
        )
    return found


@special("Locust")
def lost_worker(place: Path) -> Held:
    """One of Locust's --processes is killed"""
    with odd_server(slow_server()) as server:
        port = str(_free_port())
        words = (
            "--processes",
            "2",
            "--master-bind-host",
            "127.0.0.1",
            "--master-bind-port",
            port,
            "--master-port",
            port,
        )
        process = start("locust", server, place, *words, "-t", "8")
        until(lambda: len(measured(server)) > 30)
        children = [
            one for one in psutil.Process(process.pid).children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE
        ]
        children[0].kill()
        code = over(process, 60)
    text = said(place)
    report = subprocess.run(
        [sys.executable, "-m", "loadtest", "report", "run"],
        cwd=place,
        env=environment(),
        capture_output=True,
        check=False,
        timeout=60,
    )
    levels = [level["verdict"] for level in summary(place / "run").get("levels", ())]
    reasons = str([level["reasons"] for level in summary(place / "run").get("levels", ())])
    return [
        ("locust", "exit 3", f"exit {code}", code == 3),
        (
            "locust",
            "said",
            bare(text),
            re.search(r"loadtest.*(worker|process).*(lost|died|gone|killed|missing)", text, re.IGNORECASE) is not None,
        ),
        (
            "locust",
            "level void",
            f"{levels} {reasons[:100]}",
            report.returncode == 3 and levels == ["void"] and "worker" in reasons,
        ),
    ]


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


TWO = """
from locust import task
from loadtest.users import ModelUser

class A(ModelUser):
    model = "a"
    @task
    def ask(self):
        self.client.ask()

class B(ModelUser):
    model = "b"
    @task
    def ask(self):
        self.client.ask()
"""


@special("Locust")
def two_models(place: Path) -> Held:
    """Two Locust classes, two models"""
    names = answer_json({"object": "list", "data": [{"id": "a"}, {"id": "b"}]})
    with odd_server({**slow_server(), "/v1/models": names}) as server:
        (place / "locustfile.py").write_text(TWO)
        argv = [
            "locust",
            "--headless",
            "--only-summary",
            "-u",
            "4",
            "-r",
            "100",
            "-t",
            "3",
            "-H",
            server.url,
            "--output-tokens",
            "3",
            "--out",
            "run",
        ]
        done = subprocess.run(
            [sys.executable, "-m", *argv], cwd=place, env=environment(), capture_output=True, check=False, timeout=60
        )
        subprocess.run(
            [sys.executable, "-m", "loadtest", "report", "run"],
            cwd=place,
            env=environment(),
            capture_output=True,
            check=False,
            timeout=60,
        )
    got = records(place / "run")
    ids, prompts = Counter(record["id"] for record in got), Counter(one.prompt for one in measured(server))
    seen = summary(place / "run")
    groups = {group.get("model") for group in seen.get("groups") or ()}
    return [
        (
            "locust",
            "both models in the records",
            str({record["model"] for record in got}),
            {record["model"] for record in got} == {"a", "b"},
        ),
        ("locust", "ids once", f"{len(ids)} of {len(got)}", bool(got) and len(ids) == len(got)),
        (
            "locust",
            "prompts once",
            f"{len(prompts)} of {sum(prompts.values())}",
            bool(prompts) and max(prompts.values()) == 1,
        ),
        ("locust", "groups by model", f"{groups or sorted(seen)[:30]}", groups == {"a", "b"}),
        ("locust", "no traceback", f"exit {done.returncode}", b"Traceback" not in done.stderr),
    ]


@special("throughput")
def requests_per_s(place: Path) -> Held:
    """26 requests of one length by 8 and 16 streams: requests/s within 2 %"""
    from support import virtual_runs

    from loadtest.simulate.timing import StepLaw, Timing

    found: Held = []
    timing = Timing(step=StepLaw(0.02, 0.0), prefill_s=0.0001)
    for users in (8, 16):
        played = virtual_runs.play(timing, [virtual_runs.Load(users=users, requests=26)], slots=users)
        played.write(place / f"run{users}")
        words = [sys.executable, "-m", "loadtest", "report", f"run{users}"]
        subprocess.run(words, cwd=place, env=environment(), capture_output=True, check=False, timeout=60)
        level = summary(place / f"run{users}")["levels"][0]
        turn = [record.t_end - (record.t_send or 0) for record in played.records if not record.warmup]
        truth = users / (sorted(turn)[len(turn) // 2] * 1e-9 + 0.001)
        rate, interval = level["requests_per_s"], level["requests_per_s_ci95"]
        off = rate / truth - 1
        holds = interval is None or interval[0] <= truth <= interval[1] or level["verdict"] != "valid"
        wanted = f"{users} streams: {truth:.2f}/s"
        found.append(("report", wanted, f"{rate:.2f}/s ({off:+.1%}), interval {interval}", abs(off) <= 0.02 and holds))
    return found
