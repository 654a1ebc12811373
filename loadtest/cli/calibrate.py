"""`loadtest calibrate`: how many streams of a known speed this client measures truthfully, kept for later runs."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from loadtest.asyncio_driver.run import measure
from loadtest.cli.demo import simulated_server
from loadtest.cli.options.param_types import names_callback
from loadtest.cli.output.printing import json_option, print_json
from loadtest.errors import RunFolderError, ScenarioError, TargetError
from loadtest.grid import Grid
from loadtest.measure import capacity_file
from loadtest.measure.calibrate import (
    CheckedLevel,
    ClientLimit,
    by_nonce,
    checked,
    errors_against,
    next_streams,
)
from loadtest.measure.capacity_file import KeptCapacity
from loadtest.records import Record, read_lines
from loadtest.run_folder import RunFolder, check_file_writable
from loadtest.scenario import Level, Scenario
from loadtest.text import UNKNOWN, counted

ARRIVAL_PROFILES = {"independent": "metronome", "steps": "lockstep"}
STAMPS = ("kernel", "user")
TOKENS_PER_S = 50.0  # of each stream: both profiles' speed
REQUESTS_A_STREAM = 2  # in each level, after one warm-up request
OUTPUT_TOKENS = 50  # with the first token's 0.2 s a request takes 1.2 s, so that a level takes about 4
INPUT_TOKENS = 32
LOCUST_S = 5  # of a level
OTHER_FILES = 100  # files that a client has open besides its connections
LOCUSTFILE = """from locust import task

from loadtest.users import OllamaUser


class Calibrating(OllamaUser):
    @task
    def ask(self):
        self.client.ask()
"""


@dataclass(slots=True)
class CapacitySearch:
    """The search with one kind of arrivals: where the server logs what it sent, and the levels tried so far."""

    arrivals: str
    most: int
    truth: Path
    tried: list[CheckedLevel] = field(default_factory=list)

    def next_streams(self) -> int | None:
        return next_streams(self.tried, self.most)

    def take(self, folder: Path, level: int, streams: int, *, warm: int = 0) -> None:
        """Judge a level by its run folder and the server's log, and print the outcome."""
        served = by_nonce(read_lines(self.truth)[0])
        (header, rows), *_ = RunFolder.open(folder).requests()
        records = (Record.from_json(row) for row in rows if row["level"] == level)
        errors = errors_against(streams, records, header.clock, served, warm=warm)
        tried = checked(errors, step_s=1 / TOKENS_PER_S, together=self.arrivals == "steps")
        self.tried.append(tried)
        _print_now(f"  {tried.sentence}")

    def choose(self, folder: Path, levels: Sequence[Level]) -> Level | None:
        """Judge the last level that the asyncio driver ran and return the next one; None where the search is over."""
        last = levels[-1]
        self.take(folder, last.index, last.concurrency or 0)
        streams = self.next_streams()
        if streams is None:
            return None
        return replace(last, index=last.index + 1, concurrency=streams, requests=REQUESTS_A_STREAM * streams)


def _print_now(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _asyncio(search: CapacitySearch, url: str, folder: Path) -> bool:
    """Search with the asyncio driver in this process; return False where it was interrupted."""
    first = search.next_streams()
    assert first is not None
    scenario = Scenario(
        name="calibrate",
        url=url,
        api="ollama",
        concurrency=(first,),
        requests=REQUESTS_A_STREAM * first,
        input_tokens=(INPUT_TOKENS,),
        output_tokens=(OUTPUT_TOKENS,),
    )
    out = folder / f"run-{search.arrivals}"
    done = measure(scenario, out, on_progress=lambda _: None, say=lambda _: None, choose=search.choose)
    return done.state == "done"


def _locust(search: CapacitySearch, url: str, folder: Path) -> bool:
    """Search with Locust users, one headless process for each level; return False where one was interrupted."""
    locustfile = folder / "calibrating.py"
    locustfile.write_text(LOCUSTFILE)
    lengths = ["--input-tokens", str(INPUT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS)]
    while (streams := search.next_streams()) is not None:
        out = folder / f"run-{search.arrivals}-{len(search.tried)}"
        users = ["-u", str(streams), "-r", str(streams), "-t", str(LOCUST_S)]
        command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary", *users]
        locust = subprocess.run(
            [*command, "--host", url, "--out", str(out), *lengths], check=False, capture_output=True, text=True
        )
        try:
            folder_of = RunFolder.open(out)
        except RunFolderError:
            last = (locust.stderr.strip().splitlines() or ["it said nothing."])[-1]
            raise TargetError(f"Locust measured nothing: {last}") from None
        if folder_of.read_run().get("state") != "done":
            return False
        levels = {record.level for record in folder_of.records()}
        search.take(out, max(levels, default=0), streams, warm=streams)
    return True


DRIVERS = {"asyncio": _asyncio, "locust": _locust}


def _descriptors() -> int:
    """Return how many connections this process may hold besides its other files."""
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if allowed == resource.RLIM_INFINITY else max(allowed - OTHER_FILES, 1)


@click.command()
@click.option("--driver", type=click.Choice(list(DRIVERS)), default="asyncio", show_default=True, help="Who measures.")
@click.option(
    "--arrivals",
    default=",".join(ARRIVAL_PROFILES),
    show_default=True,
    callback=names_callback(ARRIVAL_PROFILES, f"{' or '.join(ARRIVAL_PROFILES)}, or both with a comma between"),
    metavar="KIND,…",
    help="When tokens come: each stream's by themselves, or those of all streams together, as from a real engine.",
)
@click.option(
    "--stamps",
    type=click.Choice(STAMPS),
    default=STAMPS[0],
    show_default=True,
    help="Who stamps arrivals: the kernel, or this process when it reads.",
)
@click.option(
    "--streams-most",
    type=click.IntRange(min=1),
    metavar="N",
    default=4096,
    show_default=True,
    help="Never try more streams.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to keep the result in.  [default: LOADTEST_CALIBRATION (a file or its folder), else calibration.json in the user's state folder]",
)
@json_option
def calibrate(
    driver: str, *, arrivals: tuple[str, ...], stamps: str, streams_most: int, out: Path | None, as_json: bool
) -> int:
    """Find how many streams this machine can measure truthfully; later runs say how much of that each level used.

    A simulated server in a process of its own sends 50 tokens/s a stream and logs what it did. Streams are doubled until
    TTFT is wrong by more than 1 ms at p50 or p99, or ITL by 1 % at p50 or 1 ms at p99; then the gap is halved. Where the
    server itself is late, the capacity is given as "at least". This takes about a minute for each kind of arrivals.
    """
    path = out or capacity_file.file_path()
    check_file_writable(path)
    here = capacity_file.machine()
    _print_now(
        f"Calibrating the {driver} driver: {here['cpu'] or 'this machine'}, {counted(here['cores'], 'core')}; simulated server."
    )
    if here["cores"] == 1:
        _print_now(
            "Client and server share the only core: with the server elsewhere, the client could measure more streams."
        )
    most = min(streams_most, _descriptors())
    if most < streams_most:
        _print_now(
            f"This shell allows no more than {most} streams (open files, ulimit -n): {streams_most} are not tried."
        )
    done: dict[str, ClientLimit] = {}
    for kind in arrivals:
        _print_now(f"{kind}:")
        found = _search(driver, kind, stamps, most)
        if found is None:
            _print_now("Interrupted: results found before are kept.")
            return 130
        done[kind] = found
        _print_now(f"{kind}: {found.sentence(TOKENS_PER_S)}.")
        if found.best is not None:
            capacity_file.store(path, _kept_capacity(found, found.best), driver=driver, arrivals=kind, stamps=stamps)
    kept = any(found.best for found in done.values())
    if as_json:
        print_json(_result_dict(driver, stamps, done, path if kept else None))
    else:
        Console().print(_result_table(driver, stamps, done))
        if kept:
            print(f"wrote {path}")
    return 0 if all(found.best for found in done.values()) else 1


def _search(driver: str, arrivals: str, stamps: str, most: int) -> ClientLimit | None:
    """Search with one kind of arrivals; return None where it was interrupted."""
    os.environ["LOADTEST_STAMPS"] = stamps  # of this process and those it starts: "user" switches kernel stamps off
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = folder / "truth.jsonl"
        search = CapacitySearch(arrivals, most, truth)
        with simulated_server("--profile", ARRIVAL_PROFILES[arrivals], "--truth", str(truth), apart=True) as url:
            whole = DRIVERS[driver](search, url, folder)
        if not whole:
            return None
    if not search.tried:
        raise ScenarioError("nothing was measured; try again.")
    return ClientLimit.of(search.tried)


def _kept_capacity(found: ClientLimit, best: CheckedLevel) -> KeptCapacity:
    return KeptCapacity(
        chunks_per_s=best.errors.chunks_per_s,
        streams=best.errors.streams,
        tokens_per_s=TOKENS_PER_S,
        limit=found.limit,
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _result_dict(driver: str, stamps: str, done: dict[str, ClientLimit], path: Path | None) -> dict[str, Any]:
    return {
        "driver": driver,
        "stamps": stamps,
        "simulated": True,
        "machine": capacity_file.machine(),
        "arrivals": {
            kind: {
                "limit": found.limit,
                "capacity": asdict(_kept_capacity(found, found.best)) if found.best else None,
            }
            for kind, found in done.items()
        },
        "file": None if path is None else str(path),
    }


def _result_table(driver: str, stamps: str, done: dict[str, ClientLimit]) -> Table:
    heads = ("arrivals", f"streams × {TOKENS_PER_S:g} tokens/s", "tokens/s in the busiest second", "limit")
    rows = []
    for kind, found in done.items():
        least = "" if found.limit == "client" else "≥ "
        best = found.best.errors if found.best else None
        cells = (f"{least}{best.streams}", f"{least}{best.chunks_per_s}") if best else ("none", UNKNOWN)
        rows.append((kind, *cells, {"asked": "not reached"}.get(found.limit, f"the {found.limit}")))
    title = f"What the {driver} driver can measure here, {stamps} stamps (server: simulated)"
    return Grid(heads, tuple(rows), prose=True).console(title)
