"""`loadtest monitor`: samplers of host, GPU and servers, beside a run or alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click

from loadtest.monitor import process

SHORTEST_S = 0.05  # between samples
SOURCE_HELP = (
    "host, nvidia, ollama=URL, dcgm=URL, vllm=URL, llamacpp=URL or prometheus=URL:METRIC,…; may be repeated or joined by "
    "commas."
)


def _every(flag: str, words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option of how often to sample."""
    seconds = click.FloatRange(min=SHORTEST_S)
    return click.option(flag, type=seconds, default=1.0, show_default=True, metavar="S", help=words)


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Run folder to sample into; made if missing."
)
@click.option("--source", "sources", multiple=True, metavar="SOURCE", help=f"{SOURCE_HELP}  [default: host]")
@_every("--every", "Seconds between samples.")
@click.option(
    "--for", "seconds", type=click.FloatRange(min=0, min_open=True), metavar="S", help="End after so many seconds."
)
@click.option("--client", type=int, metavar="PID", help="Process of the load generator, whose CPU is kept apart.")
@click.option("--server", metavar="URL", help="What is measured: its process's CPU is kept apart where it runs here.")
@click.option("--with-run", is_flag=True, hidden=True)
def monitor(
    out: Path,
    sources: tuple[str, ...],
    every: float,
    seconds: float | None,
    client: int | None,
    server: str | None,
    *,
    with_run: bool,
) -> None:
    """Sample host, GPU and servers into a run folder, until Ctrl-C, --for or the run's end.

    `loadtest run --monitor` starts this beside a run. By itself it serves a Locust run, or the server's own machine: copy
    its samples-*.jsonl into the run folder, and the report aligns them by the wall clock. Each source leaves a file,
    samples-<source>.jsonl. A source that fails is said once and tried again; it leaves a gap, never a zero.

    \b
    Examples:
      loadtest monitor --out runs/today --source host --source nvidia
      loadtest monitor --out runs/today --source ollama=http://127.0.0.1:11434,dcgm=http://127.0.0.1:9400
      loadtest monitor --out runs/today --source prometheus=http://127.0.0.1:9100/metrics:node_load1 --for 60
    """
    asked = process.parse(sources or ("host",), server=server)
    process.monitor(
        [process.make(one, client=client, server=server) for one in asked],
        out,
        every=every,
        seconds=seconds,
        say=_say,
        with_parent=with_run,
    )


def monitor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --monitor and --monitor-every."""
    command = _every("--monitor-every", "Seconds between samples of --monitor.")(command)
    return click.option(
        "--monitor",
        multiple=True,
        metavar="SOURCE,…",
        help="Sample these beside the run, from a process of its own (`loadtest monitor --help`); ollama, vllm and "
        "llamacpp without a URL are the measured server.  [default: none]",
    )(command)


def beside_run(sources: Sequence[str], every: float) -> Callable[[Path, str], AbstractContextManager[int]] | None:
    """Return what to enter while a run goes on, None without sources; raise ScenarioError before anything is sent."""
    if not sources:
        return None
    process.parse(sources, server="http://server")  # the measured one's address is not known yet

    def start(folder: Path, url: str) -> AbstractContextManager[int]:
        return process.beside(folder, process.parse(sources, server=url), every=every, server=url)

    return start


def _say(sentence: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # a run's live line may stand there
    print(f"{clear}monitor: {sentence}", file=sys.stderr, flush=True)
