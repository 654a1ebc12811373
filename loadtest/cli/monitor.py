"""`loadtest monitor`: samplers of host, GPU and servers, beside a run or alone."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import click

from loadtest.cli.options import Decorator, together
from loadtest.cli.options.arguments import refuse_idle
from loadtest.cli.options.param_types import seconds_param
from loadtest.cli.options.scenario_options import CONNECTION, connection_of, connection_options
from loadtest.credentials import withhold
from loadtest.errors import ScenarioError
from loadtest.monitor import process
from loadtest.scenario import MOST_S, ConnectionKeys
from loadtest.urls import base_url, without_secrets

SHORTEST_EVERY_S = 0.05  # between samples
MOST_IDLE_S = 3600
SOURCE_HELP = (
    "host, nvidia, rapl, ollama=URL, dcgm=URL, vllm=URL, llamacpp=URL or prometheus=URL:METRIC,…; may be repeated or joined by "
    "commas."
)


def _every(flag: str, words: str) -> Decorator:
    seconds = seconds_param(SHORTEST_EVERY_S, 86_400)
    return click.option(flag, type=seconds, default=1.0, show_default=True, help=words)


_metrics_options = together(
    click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        help="Serve the figures of the running test to Prometheus at this port; 0 takes a free one.",
    ),
    click.option(
        "--metrics-address",
        metavar="HOST",
        default=process.METRICS_ADDRESS,
        show_default=True,
        help="Address of --metrics-port; any other than the default lets everybody who can reach it read the figures.",
    ),
)


def _metrics_listener(address: str, port: int | None) -> socket.socket | None:
    """Listen on the port until the command ends, and print the page's URL; return None where no port was asked for."""
    if port is None:
        refuse_idle(("metrics_address",), "without --metrics-port")
        return None
    from loadtest.monitor import endpoint  # imports a web server, which most runs do not need

    listener = endpoint.open_listener(address, port)
    click.get_current_context().call_on_close(listener.close)
    print(f"metrics: {endpoint.url_of(listener)}", file=sys.stderr, flush=True)
    return listener


def _sampled(sources: tuple[str, ...], servers: Sequence[str], *, serves: bool) -> tuple[str, ...]:
    """Return the sources that a monitor samples; raise ScenarioError for options that do nothing beside them."""
    sources = sources or (() if serves else ("host",))
    if not sources:
        refuse_idle(("every",), "without --source, which says what is sampled")
    if not servers and not any("=" in source for source in sources):
        refuse_idle(CONNECTION, "without a URL, for no server is asked")
    return sources


@click.command()
@click.argument("url", metavar="[URL]", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Run folder to sample into; made if missing."
)
@click.option("--source", "sources", multiple=True, metavar="SOURCE", help=f"{SOURCE_HELP}  [default: host]")
@_every("--every", "Seconds between samples.")
@click.option("--for", "seconds", type=seconds_param(0.001, MOST_S), help="End after so many seconds.")
@click.option(
    "--client",
    type=click.IntRange(1),
    metavar="PID",
    help="Process of the load generator, whose CPU use is counted apart.",
)
@click.option(
    "--url",
    "--server",
    "servers",
    multiple=True,
    metavar="URL",
    help="The measured server, the same as URL; may be given again. The CPU use of its processes on this machine is counted apart.",
)
@connection_options
@_metrics_options
@click.option("--metrics-fd", type=int, hidden=True)
@click.option("--with-run", is_flag=True, hidden=True)
def monitor(
    url: str | None,
    out: Path,
    sources: tuple[str, ...],
    every: float,
    seconds: float | None,
    client: int | None,
    servers: tuple[str, ...],
    *,
    metrics_port: int | None,
    metrics_address: str,
    metrics_fd: int | None,
    with_run: bool,
    **values: Any,
) -> None:
    """Sample host, GPU and servers into a run folder, until Ctrl-C, --for or the run's end.

    `loadtest run --monitor` starts this beside a run. Started by hand it samples for a Locust run, or on the server's
    own machine: then copy its samples-*.jsonl into the run folder, and the report aligns them by the wall clock. A source
    that fails leaves a gap, never a zero.

    With --metrics-port it also serves the figures of the run in that folder to Prometheus; without --source it does that
    alone.

    \b
    Examples:
      loadtest monitor --out runs/today --source host --source nvidia
      loadtest monitor --out runs/today --source dcgm=http://gpu-box:9400 --for 60
      loadtest monitor --out runs/m --source prometheus=http://box:9100/metrics:up
      loadtest monitor --out runs/today --metrics-port 9464
    """
    servers = (*((url,) if url is not None else ()), *servers)
    sources = _sampled(sources, servers, serves=metrics_port is not None or metrics_fd is not None)
    keys = connection_of(values)
    listener = _metrics_listener(metrics_address, metrics_port)
    if metrics_fd is not None:
        listener = socket.socket(fileno=metrics_fd)
    urls = [base_url(withhold(server)) for server in servers]
    if twice := next((one for one in urls if urls.count(one) > 1), None):
        raise ScenarioError(f"{without_secrets(twice)} is named twice; name each server once.")
    asked = process.parse_sources(sources, servers=urls) if sources else []
    process.run_monitor(
        [process.make_source(one, client=client, servers=urls, keys=keys) for one in asked],
        out,
        every=every,
        seconds=seconds,
        say=_print_above_line,
        with_parent=with_run,
        metrics=listener,
    )


# gives a command the options that `beside_run` takes
monitor_options = together(
    click.option(
        "--monitor",
        multiple=True,
        metavar="SOURCE,…",
        help="Sample these during the run (`loadtest monitor --help` has the sources); ollama, vllm and llamacpp without a "
        "URL are every measured server.  [default: none]",
    ),
    click.option(
        "--monitor-idle",
        type=seconds_param(0, MOST_IDLE_S),
        default=0.0,
        help="Sample for so many seconds before the first request, to know what the idle server takes; the first 2 s do not "
        "count.  [default: 0]",
    ),
    _every("--monitor-every", "Seconds between samples of --monitor."),
    _metrics_options,
)


def beside_run(
    keys: ConnectionKeys,
    *,
    monitor: tuple[str, ...],
    monitor_every: float,
    monitor_idle: float,
    metrics_port: int | None,
    metrics_address: str,
) -> Callable[[Path, Sequence[str]], AbstractContextManager[int]] | None:
    """Return a context to enter for the time of a run, in which the sources are sampled; None without sources and metrics.

    The metrics port is taken at once. Raises ScenarioError before anything is sent.
    """
    if not monitor:
        refuse_idle(("monitor_every", "monitor_idle"), "without --monitor, which says what is sampled")
    else:  # checked now, although the measured server's address is not known yet
        process.parse_sources(monitor, servers=("http://server",))
    listener = _metrics_listener(metrics_address, metrics_port)
    if not monitor and listener is None:
        return None

    @contextmanager
    def start(folder: Path, urls: Sequence[str]) -> Iterator[int]:
        asked = process.parse_sources(monitor, servers=urls) if monitor else []
        with process.child_monitor(
            folder, asked, every=monitor_every, servers=urls, keys=keys, metrics=listener, say=_print_above_line
        ) as pid:
            time.sleep(monitor_idle)
            yield pid

    return start


def _print_above_line(sentence: str) -> None:
    clear = "\r\x1b[K" if sys.stderr.isatty() else ""  # where a run's progress line may stand
    print(f"{clear}monitor: {sentence}", file=sys.stderr, flush=True)
