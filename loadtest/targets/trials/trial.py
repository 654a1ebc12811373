"""Small requests, sent one after another until one is answered: what `loadtest check --try` does to a server."""

from __future__ import annotations

from collections.abc import Iterator

from loadtest.measure.failure import failure_of
from loadtest.measure.request import Request
from loadtest.records import Clock, Record
from loadtest.scenario import Scenario
from loadtest.targets.server.probe import ServedModel, Server
from loadtest.targets.target import Target, wire_arguments
from loadtest.targets.trials.attempts import Attempt, Known, following
from loadtest.urls import has_own_root
from loadtest.wire import SyncWire, now
from loadtest.workloads.job import Job

TRIAL_PROMPT = "Count from one to twelve in words, one after another."
TRIAL_TOKENS = 24


def attempts(server: Server, model: ServedModel, scenario: Scenario) -> Iterator[Attempt]:
    """Send the scenario's request, then what `following` says, and give each attempt once it is over.

    Raises ScenarioError where not even the first can be said in the server's wire format.
    """
    known = known_by(server, model, scenario)
    done: list[Attempt] = []
    upcoming: Scenario | None = scenario
    while upcoming is not None:
        dialect = known.dialect(upcoming)
        record = _sent(Target(server, model, dialect), upcoming, len(done))
        done.append(Attempt(upcoming, dialect, record))
        yield done[-1]
        upcoming = following(done, known)


def known_by(server: Server, model: ServedModel, scenario: Scenario) -> Known:
    """Return what decides the wire formats that can be tried."""
    api = server.native if scenario.api == "auto" else scenario.api
    return Known(api, server.kind, model.name, has_own_root(server.url))


def _sent(target: Target, scenario: Scenario, number: int) -> Record:
    job = Job(number, 0, number, TRIAL_PROMPT, None, TRIAL_TOKENS)
    with SyncWire(**wire_arguments(scenario)) as wire:
        request = Request(job, target.dialect, Clock.now(), now(), posts=target.posts)
        try:
            wire.fetch(request.order)
        except Exception as error:  # noqa: BLE001 - the record says what it was
            request.failure = failure_of(error, (KeyboardInterrupt,))
        return request.finish()
