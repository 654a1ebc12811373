"""`loadtest serve`: the simulated model server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loadtest.cli.options.param_types import number_param, whole_param
from loadtest.simulate.api.answer_writer import Fault, FaultKind
from loadtest.simulate.profiles import PROFILES
from loadtest.simulate.server import ServerOptions, serve_forever


@click.command(
    epilog=f"Profiles: {', '.join(PROFILES)}, or a JSON file. Faults: {', '.join(FaultKind)}. "
    "Everything measured on this server is labelled simulated."
)
@click.option(
    "--profile",
    metavar="PROFILE",
    default="a100-80g-llama3.1-70b-q4",
    show_default=True,
    help="Model and machine to simulate.",
)
@click.option("--slots", type=whole_param(1, 100_000), help="Parallel slots.  [default: the profile's]")
@click.option(
    "--port",
    type=whole_param(0, 65535),
    default=11434,
    show_default=True,
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--speed",
    type=number_param(0.001, 1000),
    default=1.0,
    show_default=True,
    help="Run this many times faster: divide all durations by it.",
)
@click.option("--num-ctx", type=whole_param(1, 100_000_000), help="Context length of a slot.  [default: the profile's]")
@click.option(
    "--burst",
    type=click.Choice(["fifo", "lifo"]),
    default="fifo",
    show_default=True,
    help="Order in which requests that come at once are queued.",
)
@click.option(
    "--jitter",
    type=number_param(0, 1),
    help="Standard deviation of a batch's time, as a share.  [default: the profile's]",
)
@click.option("--warm", is_flag=True, help="Start with the model loaded.")
@click.option(
    "--truth", type=click.Path(path_type=Path), help="Log what really happened to each request, as JSON lines."
)
@click.option(
    "--fault", "faults", multiple=True, metavar="KIND=SHARE|KIND=every:N", help="Inject a fault; may be repeated."
)
@click.option(
    "--seed",
    type=whole_param(-(2**63) + 1, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of answers, jitter and faults.",
)
def serve(faults: tuple[str, ...], **options: Any) -> None:
    """Run a simulated model server: Ollama's native API and /v1, slots, a queue, continuous batching, but no model.

    It listens on loopback only and prints its URL; Ctrl-C ends it. Any Ollama or OpenAI client works with it.
    """
    serve_forever(ServerOptions(faults=tuple(Fault.parse(text) for text in faults), **options))
