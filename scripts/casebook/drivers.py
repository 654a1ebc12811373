"""Starts either driver as a person does, for rows that act while it runs, and says how it went."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import OPENAI
from replay import environment
from support.odd_answers import WIRES, is_trial, streamed
from support.odd_server import OddServer, Paths, Request, Script, Wait, odd_server

Held = list[tuple[str, str, str, bool]]  # driver, expected, got, ok
Process = subprocess.Popen[bytes]
WIRE = WIRES["openai-chat"]
USER = """
from locust import task
from loadtest.users import ModelUser
"""
ASKS = """
    @task
    def ask(self):
        self.client.ask()
"""
CHAT = f"{USER}\nclass Chat(ModelUser):{ASKS}"


def slow_server(seconds: float = 0.1) -> Paths:
    """Return a server whose answers take so long."""

    def answer(request: Request) -> Script:
        if is_trial(request):
            return WIRE.good(1)
        return streamed(*WIRE.tokens(), Wait(seconds), WIRE.end())

    return {**OPENAI, WIRE.path: answer}


def locust_words(url: str, *, users: int, seconds: float, tokens: int = 3) -> tuple[str, ...]:
    """Return Locust's options for so many users at once."""
    load = ("-u", str(users), "-r", "1000", "-t", str(int(seconds)), "-H", url)
    return ("--headless", "--only-summary", *load, "--output-tokens", str(tokens), "--out", "run")


def run_words(url: str, *load: str, tokens: int = 3) -> tuple[str, ...]:
    """Return the words of `loadtest run` with this load."""
    return ("run", "--url", url, *load, "--warmup", "0", "--output-tokens", str(tokens), "--out", "run")


def start(
    driver: str,
    url: str,
    place: Path,
    *more: str,
    users: int = 4,
    seconds: float = 60,
    tokens: int = 3,
    text: str = CHAT,
    load: tuple[str, ...] | None = None,
    **how: Any,
) -> Process:
    """Start a driver in `place`; `text` is Locust's file, `load` replaces the users of `loadtest run`."""
    if driver == "run":
        load = load or ("--concurrency", str(users), "--duration", str(seconds))
        words: tuple[str, ...] = ("loadtest", *run_words(url, *load, tokens=tokens))
    else:
        (place / "locustfile.py").write_text(text)
        words = ("locust", *locust_words(url, users=users, seconds=seconds, tokens=tokens))
    command = [sys.executable, "-m", *words, *more]
    with (place / "said").open("wb") as log:
        return subprocess.Popen(command, cwd=place, env=environment(), stdout=log, stderr=log, **how)


@contextmanager
def each_started(
    place: Path, driver: str, paths: Paths, *more: str, name: str = "", **how: Any
) -> Iterator[tuple[Path, OddServer, Process]]:
    """Give a folder of its own, a server and the driver that was started against it; the server ends with it."""
    home = place / (name or driver)
    home.mkdir()
    with odd_server(paths) as server:
        yield home, server, start(driver, server.url, home, *more, **how)


def report(place: Path, folder: str = "run", *, limit_s: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Report a run folder."""
    command = [sys.executable, "-m", "loadtest", "report", folder]
    return subprocess.run(command, cwd=place, env=environment(), capture_output=True, check=False, timeout=limit_s)


def said(place: Path) -> str:
    return (place / "said").read_bytes().decode(errors="replace")


def calm(driver: str, place: Path) -> tuple[str, str, str, bool]:
    """Hold that no traceback was printed."""
    return (driver, "no traceback", bare(said(place)), "Traceback" not in said(place))


def until(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Poll until it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.05)
    return False


def over(process: Process, seconds: float = 30.0) -> int | None:
    """Wait for a driver's end; return its exit code, None where it had to be killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def measured(server: OddServer) -> list[Request]:
    """Return the requests that asked for an answer, those before the clock left out."""
    return [one for one in server.log if one.method == "POST" and not is_trial(one)]


def bare(text: str) -> str:
    return " ".join(text.split())[-150:]
