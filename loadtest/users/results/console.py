"""What a Locust run prints at its end: a table of the live figures below Locust's own, and the outcome of the gates."""

from __future__ import annotations

import logging
from typing import Any

from locust.env import Environment
from locust.event import Events
from locust.runners import WorkerRunner

from loadtest.users.processes import exit_code, recording
from loadtest.users.results import gates, locust_files, tables
from loadtest.users.results.live_figures import board

LOGGER = logging.getLogger("locust.stats_logger")  # Locust prints its tables to it


def listen_to(events: Events) -> None:
    """Print at the end of a master, or of a process alone. To be called once."""
    text: list[str] = []

    def quitting(environment: Environment, **_: Any) -> None:
        # A worker has no figures to show; neither has a web UI that is closed before any test began.
        if isinstance(environment.runner, WorkerRunner) or board.generation is None:
            return
        rows, run, facts = board.rows(), recording.current_test.folder, recording.current_test.facts
        mark = tables.simulated_profile(facts)
        text.extend((*tables.board_lines(rows, mark), ""))
        text.extend(str(gate) for gate in gates.apply_gates(environment))
        text.extend(exit_code.conclude(environment, run, facts))
        text.extend(locust_files.write_files(environment.parsed_options, rows, run, mark))
        text.extend(tables.folder_note(run))

    def after_the_tables_of_locust(**_: Any) -> None:
        for line in text:
            LOGGER.info(line)

    hooks: Any = events  # untyped in Locust
    hooks.quitting.add_listener(quitting)
    hooks.quit.add_listener(after_the_tables_of_locust)
