"""`loadtest demo`: a simulated server in a process of its own, a small grid, a report."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.text import Text

from loadtest.cli.options.param_types import number_param
from loadtest.cli.report import any_records_lost, show_report
from loadtest.cli.run import run_scenario
from loadtest.cli.run.results import Showing, show_ended
from loadtest.doubts import VOID
from loadtest.errors import TargetError
from loadtest.scenario import Scenario
from loadtest.text import levels_are

if TYPE_CHECKING:
    from loadtest.analyse.report import Report

PROFILE = "a100-80g-llama3.1-70b-q4"
# At 2× tokens come 20 to 30 ms apart. At 10× they came 4 ms apart, which is as long as a process may wait for a core of
# a busy machine: one other process made every level void.
DEMO_SPEED = 2
DEMO_SLOTS = 4
SLO = "ttft_p95=2"  # in the next step that is printed


@contextlib.contextmanager
def simulated_server(*options: str, apart: bool = False) -> Iterator[str]:
    """Run `loadtest serve` on a free port inside the context; yields its URL.

    Args:
        apart: pin the server to one core and this process to the others, for tokens that come less than a few ms apart.
    """
    command = [sys.executable, "-m", "loadtest", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            if "http://" not in line:
                raise TargetError("the simulated server did not start; try `loadtest serve` to see why.")
            with _cores_apart(server.pid) if apart else contextlib.nullcontext():
                yield line.split()[-1]
        finally:
            server.terminate()


@contextlib.contextmanager
def _cores_apart(server: int) -> Iterator[None]:
    """Pin the server's process to one core and this process to the others inside the context, on Linux with two cores.

    The simulated server spins before a batch is due, and would delay a client on the same core by 2 to 3 ms. The price:
    beside another busy process a pinned process waits for its core even when another core is free.
    """
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
    if len(cores) < 2:
        yield
        return
    os.sched_setaffinity(server, cores[:1])
    os.sched_setaffinity(0, cores[1:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make.  [default: runs/<time>-demo]")
@click.option(
    "--speed",
    type=number_param(0.01, 100),
    default=DEMO_SPEED,
    show_default=True,
    help="Run the simulated server this many times faster than the profile.",
)
def demo(out: Path | None, speed: float) -> int:
    """Show it all in about a minute: a simulated Ollama with four slots, four levels of load, a report with charts.

    Everything printed and drawn is labelled simulated, and nothing but this machine is contacted. Where the machine is too
    busy to measure on, levels are void as in any run, but the exit code is still 0.
    """
    path = Path(str(importlib.resources.files("loadtest") / "demo.toml"))
    server = ("--profile", PROFILE, "--slots", str(DEMO_SLOTS), "--speed", str(speed), "--warm")
    with simulated_server(*server) as url:
        finished = run_scenario(Scenario.load(path, name="demo", url=url), out)
    if finished.state != "done":
        return show_ended(finished, Showing(charts=False))
    written = show_report(finished.folder, charts=True)
    for line in _afterwards(written, finished.folder, speed):
        Console().print(Text(line), soft_wrap=line.startswith("  "))  # a wrapped command could not be pasted
    return 3 if any_records_lost([written]) else 0


def _afterwards(written: Report, folder: Path, speed: float) -> Iterator[str]:
    """Yield what to look at and to do next, with commands that can be pasted."""
    command = shlex.join(_command_name())
    levels = written.summary["levels"]
    void = sum(level["verdict"] == VOID for level in levels)
    yield ""
    yield f"Open {folder / 'report.html'}: every chart, every figure with its formula."
    if void:
        yield (
            f"{levels_are(void, len(levels))} void: this machine was too busy to take the answers in time, so the "
            "figures there tell of the machine, not of the server. Nothing is broken, and a real run would say the same. Stop what "
            "else is running and try again, or let tokens come more slowly:"
        )
        yield f"  {command} demo --speed {speed / 2:g}"
    else:
        yield "What would more slots change?"
        yield f"  {command} advise {shlex.quote(str(folder))} --slo {SLO}"
    yield "Your own Ollama, or another server with --url URL:"
    yield f"  {command} check"


def _command_name() -> list[str]:
    """Return how a shell calls this loadtest: by name where it is on the PATH, else by its path."""
    here = Path(sys.executable).with_name("loadtest")
    on_path = shutil.which("loadtest")
    if on_path is not None and here.exists() and here.samefile(on_path):
        return ["loadtest"]
    if not here.exists():
        return [sys.executable, "-m", "loadtest"]
    near = os.path.relpath(here)
    return [str(here) if near.startswith(os.pardir) else near]
