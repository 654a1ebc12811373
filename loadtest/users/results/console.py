"""What a Locust run prints at its end, below Locust's own tables, and the exit code, which is that of `loadtest run`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from locust.env import Environment
from locust.event import Events
from locust.runners import WorkerRunner

from loadtest.errors import INTERRUPTED, MISTAKE, NOT_TO_BE_BELIEVED, LoadTestError
from loadtest.metrics import VALID, VOID
from loadtest.run_folder import RunFolder
from loadtest.users.processes import recording
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
        text.extend(conclude(environment, run, facts))
        text.extend(locust_files.write_files(environment.parsed_options, rows, run, mark))
        text.extend(tables.folder_note(run))

    def after_the_tables_of_locust(**_: Any) -> None:
        for line in text:
            LOGGER.info(line)

    hooks: Any = events  # untyped in Locust
    hooks.quitting.add_listener(quitting)
    hooks.quit.add_listener(after_the_tables_of_locust)


def conclude(environment: Environment, run: RunFolder | None, facts: dict[str, Any]) -> Iterator[str]:
    """Yield lines on how the run ended, and set the process's exit code.

    The exit code is the first that holds: 130 interrupted, 2 the user's mistake, 3 void or records lost, else that of
    gates or Locust. A test started from the web UI sets none.
    """
    options = environment.parsed_options
    if run is None or not (getattr(options, "headless", False) or getattr(options, "autostart", False)):
        return
    if facts.get("state") == "interrupted":
        environment.process_exit_code = INTERRUPTED
        return
    if failure := facts.get("failure"):
        yield f"The run is not complete: {failure}"
    verdict, reasons, cost = verdict_reasons_and_cost(run)
    total = board.total()
    if not reasons and not total.requests + total.warmup + total.cancelled:
        # there was no user, or no worker that could record
        verdict, reasons = VOID, ["nothing was sent"]
    if verdict is not None:
        yield f"Verdict: {verdict}"
        yield from (f"  {reason}" for reason in reasons)
    yield from cost
    if environment.process_exit_code != MISTAKE and (failure or verdict == VOID):
        environment.process_exit_code = NOT_TO_BE_BELIEVED


def verdict_reasons_and_cost(run: RunFolder) -> tuple[str | None, list[str], list[str]]:
    """Return the run's verdict (None where its records are on other hosts, with their workers), its reasons, and its cost."""
    if not any(run.path.glob("requests-*.jsonl")):
        return None, [], []
    from loadtest.analyse.figures.cost import NO_PRICES, Prices, add_cost
    from loadtest.analyse.findings.energy_findings import energy_findings
    from loadtest.analyse.summary import analyse  # imports pandas, now that the test is over

    try:
        one = analyse(run.path)
    except LoadTestError as error:
        return None, [str(error)], []
    summary, prices = one.summary, Prices.of_run(one.run.facts)
    add_cost(summary, prices)
    cost = [] if prices == NO_PRICES else [str(each) for each in energy_findings(summary)]
    levels = [level for level in summary["levels"] if level["verdict"] != VALID]
    return summary["verdict"], [f"{level['label']}: {reason}" for level in levels for reason in level["reasons"]], cost
