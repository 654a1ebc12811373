"""Replays rows through both drivers as people run them: `loadtest run` and `locust --headless`, many rows a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from book import Result, Row, Seen, applies, hold
from support.odd_answers import WIRES, Wire, control, is_trial
from support.odd_server import Request, Script, odd_server

ROOT = Path(__file__).resolve().parent.parent.parent
NUMBER = re.compile(r"\bcase (\d+)\b")
PROMPT = "Tell the tale of case {}."
REQUESTS_OF_A_LEVEL = 8
LIMITS = {"first_byte_timeout": 2.0, "idle_timeout": 2.0, "total_timeout": 4.0}
LIMIT_S = 240  # of a whole run
USERS = 12

LOCUSTFILE = """
import gevent, json, os
from collections import deque
from locust import task
from locust.exception import StopUser
from loadtest.users import ModelUser

PROMPTS = deque(json.loads(os.environ["CASEBOOK_PROMPTS"]))
LEFT = [len(PROMPTS)]
ALONE = int(os.environ["CASEBOOK_ALONE"])


class Case(ModelUser):
    warmup = 0
    save_text = True
    LIMITS

    @task
    def ask(self):
        if not PROMPTS:
            raise StopUser
        if len(PROMPTS) <= ALONE and LEFT[0] > len(PROMPTS):  # others are under way
            return gevent.sleep(0.1)
        try:
            self.client.ask(PROMPTS.popleft())
        finally:
            LEFT[0] -= 1
            if not LEFT[0]:
                gevent.spawn_later(0.3, self.environment.runner.quit)
"""


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which children import this checkout, and no server is named."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OLLAMA_", "OPENAI_", "LOADTEST_C"))}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    kept["LOADTEST_NO_REPORT"] = "1"  # rows that look at a report make it with `loadtest report`
    return {**kept, "PYTHONPATH": os.environ.get("CASEBOOK_CODE", path), "COLUMNS": "200", "NO_COLOR": "1", **more}


@dataclass(slots=True)
class Batch:
    """Rows that one run asks for, and a server that knows them by the number in the prompt."""

    rows: Sequence[Row]
    wire: Wire
    limits: Mapping[str, float] = field(default_factory=lambda: LIMITS)
    alone: int = 0  # so many of the last rows are asked for one by one, once nothing else is under way
    asked: defaultdict[int, list[Request]] = field(default_factory=lambda: defaultdict(list))

    def answer(self, request: Request) -> Script:
        if is_trial(request) or not (found := NUMBER.search(request.prompt)):
            return self.wire.good(1)
        number = int(found[1]) - 1
        if number == len(self.rows):
            return self.wire.good()
        self.asked[number].append(request)
        return self.rows[number].answer(self.wire, len(self.asked[number]) - 1)

    def run(self, driver: str) -> tuple[list[Seen], str]:
        """Ask for every row once, or as often as its level needs; return what was seen, and what was said."""
        paths = {**control(self.wire), self.wire.path: self.answer}
        with tempfile.TemporaryDirectory() as place, odd_server(paths) as server:
            (Path(place) / "locustfile.py").write_text(
                LOCUSTFILE.replace("LIMITS", "; ".join(f"{key} = {value}" for key, value in self.limits.items()))
            )
            command, env = (self._run if driver == "run" else self._locust)(server.url)
            try:
                done = subprocess.run(command, cwd=place, env=env, capture_output=True, timeout=LIMIT_S, check=False)
                said = (done.stdout + done.stderr).decode(errors="replace")
            except subprocess.TimeoutExpired as late:
                said = f"not over after {LIMIT_S} s: {(late.stderr or b'').decode(errors='replace')}"
            return self._seen(Path(place) / "run", server.log), said

    def _run(self, url: str) -> tuple[list[str], dict[str, str]]:
        each = REQUESTS_OF_A_LEVEL if self.rows[0].level else 1
        options = {
            "url": url,
            "api": self.wire.api,
            "endpoint": self.wire.endpoint,
            "prompt": PROMPT.format("{words}"),
            "words": ",".join(map(str, range(1, len(self.rows) + 2))),  # the last one: what follows the last row
            "concurrency": 2 if each > 1 else 1,
            "requests": each,
            "warmup": 0,
            "output_tokens": 3,
            "out": "run",
            **self.limits,
        }
        words = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        return [sys.executable, "-m", "loadtest", "run", "--save-text", *words], environment()

    def _locust(self, url: str) -> tuple[list[str], dict[str, str]]:
        prompts = [PROMPT.format(i) for i, row in enumerate(self.rows, 1) for _ in range(_times(row))]
        users = str(min(USERS, len(prompts)))
        command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-u", users, "-r", "100"]
        command += ["-H", url, "--api", self.wire.api, "--endpoint", self.wire.endpoint, "--output-tokens", "3"]
        command += ["--out", "run", "-t", str(LIMIT_S - 60), "--stop-timeout", "10"]
        return command, environment(CASEBOOK_PROMPTS=json.dumps(prompts), CASEBOOK_ALONE=str(self.alone))

    def _seen(self, folder: Path, log: Sequence[Request]) -> list[Seen]:
        found = [Seen() for _ in self.rows]
        for record in records(folder):
            number = NUMBER.search(record.get("prompt") or "")
            if number is not None and int(number[1]) <= len(found):
                found[int(number[1]) - 1].records.append(record)
        for level in summary(folder).get("levels", ()):
            if (level.get("words") or len(found) + 1) <= len(found):
                found[level["words"] - 1].level = level
        for place, requests in self.asked.items():
            found[place].requests = requests
            later = log[log.index(requests[-1]) + 1 :]
            found[place].following = next((one for one in later if one.method == "POST"), None)
        return found


def _times(row: Row) -> int:
    return REQUESTS_OF_A_LEVEL if row.level else 1


def records(folder: Path) -> list[dict[str, Any]]:
    """Return every record of a run folder that is a whole line of JSON."""
    found = []
    for path in sorted(folder.glob("requests-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[1:]:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def summary(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def replay(rows: Sequence[Row], driver: str, dialect: str) -> list[Result]:
    """Replay rows in as few runs as go through; where a run breaks, its halves are run again, down to single rows."""
    if not rows:
        return []
    wire = WIRES[dialect]
    seen, said = Batch(rows, wire).run(driver)
    broken = "Traceback" in said or any(len(one.records) < _times(row) for row, one in zip(rows, seen, strict=True))
    broken = broken or (driver == "run" and any(one.level is None for one in seen))
    if broken and len(rows) > 1 and any(one.requests for one in seen):
        half = len(rows) // 2
        return replay(rows[:half], driver, dialect) + replay(rows[half:], driver, dialect)
    results = [hold(row, one, driver=driver, dialect=dialect) for row, one in zip(rows, seen, strict=True)]
    if "Traceback" in said:
        last = said[said.rindex("Traceback") :].strip().splitlines()[-1]
        results = [
            Result(one.case, one.driver, one.dialect, one.expected, f"traceback: {last[:100]}", ok=False)
            for one in results
        ]
    elif not any(one.records for one in seen):
        why = (said.strip().splitlines() or ["nothing was said"])[-1][:160]
        results = [Result(one.case, one.driver, one.dialect, one.expected, why, ok=False) for one in results]
    return results


def jobs(rows: Sequence[Row], drivers: Sequence[str], dialects: Sequence[str]) -> list[tuple[list[Row], str, str]]:
    """Return what to replay together: one wire format, one driver, and level rows by themselves."""
    found = []
    for driver in drivers:
        for dialect in dialects:
            mine = [row for row in rows if dialect in row.dialects and applies(row, driver)]
            for level in (False, True):
                chosen = [row for row in mine if row.level is level]
                if chosen:
                    found.append((chosen, driver, dialect))
    return found
