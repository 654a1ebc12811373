"""Rows that are a command each: what is typed, what answers, and what must come of it."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from book import Result
from replay import environment, records, summary
from support.odd_answers import WIRES, good_answers
from support.odd_server import OddServer, Paths, Request, odd_server

LIMIT_S = 25.0
OPENAI, OLLAMA = good_answers(WIRES["openai-chat"]), good_answers(WIRES["ollama-chat"])
QUICK = ("--concurrency", "1", "--requests", "2", "--warmup", "0", "--output-tokens", "3", "--out", "run")
RUN = ("run", "--url", "{url}", *QUICK)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left."""

    code: int | None  # None: not over in time
    said: str
    log: Sequence[Request]
    place: Path

    @property
    def folder(self) -> Path:
        return self.place / "run"

    @property
    def records(self) -> list[dict[str, Any]]:
        return records(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        return summary(self.folder)

    @property
    def measured(self) -> list[Request]:
        """The requests that asked for an answer, those before the clock left out."""
        return [one for one in self.log if one.method == "POST" and (one.most_tokens or 1) > 1]

    def written(self) -> str:
        """Return every file that was written, as text."""
        return "\n".join(path.read_bytes().decode(errors="replace") for path in self.place.rglob("*") if path.is_file())


Look = Callable[[Ran], Any]


@dataclass(frozen=True, slots=True)
class Command:
    """One command line against a server of its own. In words and environment {url}, {host} and {port} are filled in.

    `code`, `says` and `unsaid` hold its exit code and what it printed; `looks` name further things that must be equal.
    No command may end in a traceback; one that exits with 2 may leave no run folder.
    """

    name: str
    kind: str
    words: Sequence[str]
    paths: Paths = field(default_factory=lambda: OPENAI)
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    code: tuple[int, ...] = (0,)
    says: str = ""
    unsaid: str = ""
    looks: Mapping[str, tuple[Look, Any]] = field(default_factory=dict)
    program: str = "loadtest"
    prepare: Callable[[Path], object] = bool  # given the folder that the command runs in
    descriptors: int | None = None  # that it may have open
    limit_s: float = LIMIT_S


@dataclass(frozen=True, slots=True)
class Special:
    """A row that needs more than one command: returns (driver, expected, got, ok) for each thing it holds."""

    name: str
    kind: str
    hold: Callable[[Path], Sequence[tuple[str, str, str, bool]]]


def answered(left: Ran) -> bool:
    """Whether every request of a run ended well."""
    found = [record["outcome"] for record in left.records]
    return bool(found) and set(found) == {"ok"}


COMMANDS: list[Command | Special] = []


def commands(kind: str) -> Callable[..., None]:
    """Return what adds commands of one kind to the book."""

    def add(name: str, words: Sequence[str], **how: Any) -> None:
        if words[0] == "run" and "code" not in how:  # a busy machine may void a level of two requests
            how["code"] = (0, 3)
            how["looks"] = {"answers": (answered, True), **how.get("looks", {})}
        if isinstance(how.get("code"), int):
            how["code"] = (how["code"],)
        COMMANDS.append(Command(name, kind, words, **how))

    return add


def started(command: Command, server: OddServer, place: Path) -> subprocess.Popen[bytes]:
    """Start a command in `place`."""
    known = {"{url}": server.url, "{host}": f"127.0.0.1:{server.port}", "{port}": str(server.port)}

    def filled(text: str) -> str:
        for name, value in known.items():
            text = text.replace(name, value)
        return text

    for name, body in command.files.items():
        (place / name).write_bytes(body)
    command.prepare(place)
    argv = [sys.executable, "-m", command.program, *map(filled, command.words)]
    env = environment(**{key: filled(value) for key, value in command.env.items()})
    limited = None
    if command.descriptors is not None:
        both = (command.descriptors, command.descriptors)
        limited = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, both)  # noqa: E731
    return subprocess.Popen(
        argv,
        cwd=place,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=limited,  # noqa: PLW1509 - no thread of ours holds a lock that it needs
    )


def ran(command: Command, place: Path) -> Ran:
    """Carry a command out."""
    with odd_server(command.paths) as server:
        process = started(command, server, place)
        try:
            said, _ = process.communicate(timeout=command.limit_s)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
            code = None
        return Ran(code, said.decode(errors="replace"), tuple(server.log), place)


def hold_command(command: Command | Special) -> list[Result]:
    """Carry a row out and hold it against what it must be."""
    place = Path(tempfile.mkdtemp(prefix="casebook-"))
    try:
        if isinstance(command, Special):
            try:
                found = command.hold(place)
            except Exception as error:  # noqa: BLE001 - a row that fails is a wrong row
                found = [("", "", f"the row itself failed: {error!r}"[:200], False)]
            return [Result(command.name, driver, "", wanted, got, ok) for driver, wanted, got, ok in found]
        return [judged(command, ran(command, place))]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def judged(command: Command, left: Ran) -> Result:
    """Hold what a command left against what its row says."""
    said = left.said.strip()
    last = said.splitlines()[-1][:170] if said else "(nothing said)"
    wanted, got = [f"exit {' or '.join(map(str, command.code))}"], []
    ok = left.code in command.code
    got.append(f"exit {left.code}")
    flat = " ".join(said.split())
    if "Traceback (most recent call last)" in said:
        got.append(f"traceback: {last}")
        ok = False
    if command.says:
        wanted.append(f"says {command.says}")
        found = re.search(command.says, flat, re.IGNORECASE) is not None
        got.append("said" if found else f"not said: {last}")
        ok = ok and found
    if command.unsaid and (match := re.search(command.unsaid, said, re.IGNORECASE)):
        wanted.append(f"never {command.unsaid!r}")
        got.append(f"said {match[0]!r}")
        ok = False
    if left.code == 2 and command.code == (2,) and (left.folder / "run.json").exists():
        wanted.append("no folder")
        got.append("left a run folder")
        ok = False
    for name, (look, value) in command.looks.items():
        try:
            seen = look(left)
        except Exception as error:  # noqa: BLE001 - what cannot be looked at is wrong
            seen = repr(error)
        right = value(seen) if callable(value) else seen == value
        wanted.append(name if callable(value) else f"{name}={value}")
        got.append(f"{name} ok" if right else f"{name}={str(seen)[:120]}")
        ok = ok and bool(right)
    if not ok and len(got) == 1:
        got.append(last)
    return Result(command.name, command.program, "", "; ".join(wanted), "; ".join(got), ok)
