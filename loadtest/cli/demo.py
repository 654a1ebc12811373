"""`loadtest demo`: a simulated server in a process of its own, a small grid, a report."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from loadtest.cli.options import Number
from loadtest.cli.report import exit_code, show
from loadtest.cli.run import run_scenario
from loadtest.errors import TargetError
from loadtest.scenario import Scenario

PROFILE = "a100-80g-llama3.1-70b-q4"
SPEED = 10
SLOTS = 4


@contextlib.contextmanager
def simulated_server(*options: str) -> Iterator[str]:
    """Run `loadtest serve` on a free port while inside; gives its URL."""
    command = [sys.executable, "-m", "loadtest", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            said = server.stdout.readline()
            if "http://" not in said:
                raise TargetError("the simulated server did not start; try `loadtest serve` to see why.")
            with _cores_apart(server.pid):
                yield said.split()[-1]
        finally:
            server.terminate()


@contextlib.contextmanager
def _cores_apart(server: int) -> Iterator[None]:
    """Keep the server's process on one core and this one on the others while inside, where the system lets us.

    The simulated server spins before a batch is due: on the client's core it would delay it by 2 to 3 ms.
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
    type=Number(0.01, 100),
    default=SPEED,
    show_default=True,
    help="Run the simulated server this many times faster than the profile.",
)
def demo(out: Path | None, speed: float) -> int:
    """Show it all in under a minute: a simulated Ollama with four slots, a small grid, a report with charts.

    Everything it prints and draws is labelled simulated. Nothing is reached but this machine.
    """
    path = Path(str(importlib.resources.files("loadtest") / "demo.toml"))
    with simulated_server("--profile", PROFILE, "--slots", str(SLOTS), "--speed", str(speed)) as url:
        finished = run_scenario(Scenario.load(path, name="demo", url=url), out)
    return exit_code([show(finished.folder, charts=True)], ())
