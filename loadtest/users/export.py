"""The streaming figures for Prometheus, from the process that shows figures: one alone, or the master for its workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import gevent
from locust.env import Environment
from prometheus_client import Metric

from loadtest.monitor import endpoint
from loadtest.monitor.export import Client, Seen, families
from loadtest.users import recording
from loadtest.users.live_figures import Board, board
from loadtest.users.options import metrics_of

logger = logging.getLogger(__name__)


def begin(environment: Environment) -> None:
    """Serve the figures for as long as this process lives, where --metrics-port asks for it; raise ScenarioError."""
    port, address = metrics_of(environment.parsed_options)
    if port is None:
        return
    listener = endpoint.listen(address, port)
    logger.info("metrics: %s", endpoint.url_of(listener))
    endpoint.Endpoint(listener, lambda: _politely(seen(board)))


def seen(shown: Board) -> Seen:
    """Return what a board knows of the run."""
    folder, facts, clients = recording.run_folder(), recording.run_facts(), shown.clients()
    decoding, waiting = recording.total_in_flight(shown.in_flight())
    client = Client(
        decoding=decoding,
        waiting=waiting,
        loop_gap_s=max(gap for gap, _ in clients) if clients else None,
        cpu_cores=sum(cpu for _, cpu in clients) if clients else None,
    )
    name = folder.name if folder is not None else str(facts.get("name") or "")
    return Seen(name, facts, shown.figures(), client if shown.generation is not None else None)


def _politely(what: Seen) -> Iterator[Metric]:
    """Yield the families and let others run in between: in a process with users, arrivals are among them."""
    for family in families(what):
        yield family
        gevent.sleep(0)
