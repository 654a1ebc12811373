"""What `loadtest calibrate` found on this machine: a small file from which later runs copy what applies to them.

{"schema": 1, "host": …, "cpu": …, "cores": 2, "python": …, "versions": {…},
 "drivers": {"asyncio": {"independent": {"kernel": {"chunks_per_s": 31000, "streams": 620, …}}}}}
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest import __version__, run_folder
from loadtest.errors import ScenarioError
from loadtest.scenario.files import home

FILE_SCHEMA = 1
FILE = "calibration.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCapacity:
    """How much one process of a driver measures truthfully."""

    chunks_per_s: int  # content events in the busiest second
    streams: int
    tokens_per_s: float  # of each stream
    limit: str  # what ended the search: "client"; "server" or "asked": the capacity is at least this
    measured_at: str


def file_path() -> Path:
    """Return where the file lies: LOADTEST_CALIBRATION (a file or its folder), else loadtest/ in the user's folder for state.

    Raises ScenarioError where the user has no such folder.
    """
    if named := os.environ.get("LOADTEST_CALIBRATION"):
        return Path(named) / FILE if Path(named).is_dir() else Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else home() / ".local/state") / "loadtest" / FILE


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Return what makes two calibrations comparable: host, CPU and cores."""
    return {"host": platform.node(), "cpu": _cpu(), "cores": usable_cores()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def versions_of(*names: str) -> dict[str, str]:
    """Return the version of loadtest and of those packages of these names that are installed."""
    found = {"loadtest": __version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read_file(path: Path) -> dict[str, Any]:
    """Return the file's content, empty where there is no file that we understand: a run can do without."""
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    known = isinstance(found, dict) and found.get("schema") == FILE_SCHEMA and isinstance(found.get("drivers"), dict)
    return found if known else {}


def known_capacity(driver: str) -> dict[str, Any] | None:
    """Return what is known of a driver on this machine: its capacities by arrivals and stamps; None where nothing is."""
    try:
        found = read_file(file_path())
    except ScenarioError:
        return None
    mine = machine()
    capacities = found.get("drivers", {}).get(driver)
    if not capacities or any(found.get(name) != value for name, value in mine.items()):
        return None
    return {**mine, "python": found.get("python"), "versions": found.get("versions"), "arrivals": capacities}


def store(path: Path, capacity: KeptCapacity, *, driver: str, arrivals: str, stamps: str) -> None:
    """Put a capacity into the file; what it holds of another machine or other software is dropped."""
    software = {"python": platform.python_version(), "versions": versions_of("httptools", "uvloop", "gevent", "locust")}
    same = {"schema": FILE_SCHEMA, **machine(), **software}
    before = read_file(path)
    drivers = before.get("drivers", {}) if all(before.get(name) == value for name, value in same.items()) else {}
    drivers.setdefault(driver, {}).setdefault(arrivals, {})[stamps] = asdict(capacity)
    path.parent.mkdir(parents=True, exist_ok=True)
    run_folder.write_whole(path, orjson.dumps({**same, "drivers": drivers}, option=orjson.OPT_INDENT_2) + b"\n")
