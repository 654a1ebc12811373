"""The live figures for Prometheus, served by the master for its workers or by a process alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import gevent
from locust.env import Environment
from prometheus_client import Metric

from loadtest.monitor import endpoint
from loadtest.monitor.export import ClientState, RunState, families
from loadtest.users.options import metrics_of
from loadtest.users.processes import recording
from loadtest.users.results.live_figures import Board, board

logger = logging.getLogger(__name__)


def begin(environment: Environment) -> None:
    """Serve the figures until this process ends, where --metrics-port asks for it; raise ScenarioError."""
    port, address = metrics_of(environment.parsed_options)
    if port is None:
        return
    listener = endpoint.open_listener(address, port)
    logger.info("metrics: %s", endpoint.url_of(listener))
    endpoint.serve_metrics(listener, lambda: _politely(run_so_far(board)))


def run_so_far(shown: Board) -> RunState:
    folder, facts, clients = recording.current_test.folder, recording.current_test.facts, shown.clients()
    decoding, waiting = recording.total_in_flight(shown.in_flight())
    client = ClientState(
        decoding=decoding,
        waiting=waiting,
        loop_gap_s=max(gap for gap, _ in clients) if clients else None,
        cpu_cores=sum(cpu for _, cpu in clients) if clients else None,
    )
    name = folder.path.name if folder is not None else str(facts.get("name") or "")
    return RunState(name, facts, shown.figures(), client if shown.generation is not None else None)


def _politely(what: RunState) -> Iterator[Metric]:
    """Yield the families and let other greenlets run in between, because a process with users must read answers."""
    for family in families(what):
        yield family
        gevent.sleep(0)
