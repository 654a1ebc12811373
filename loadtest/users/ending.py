"""How a Locust run ended: its verdict from the run folder, and the exit code that follows, as `loadtest run` has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from locust.env import Environment

from loadtest.errors import LoadTestError
from loadtest.metrics import VALID, VOID
from loadtest.run_folder import RunFolder
from loadtest.users.live_figures import board

INTERRUPTED, MISTAKE, NOT_TO_BE_BELIEVED = 130, 2, 3


def conclude(environment: Environment, run: RunFolder | None, facts: dict[str, Any]) -> Iterator[str]:
    """Yield what is to be said of how the run ended, and set the process's exit code.

    The first that holds: 130 interrupted, 2 a mistake of the user's, 3 void or not all kept, then what gates or Locust
    say. A test that somebody started from the web UI sets none.
    """
    options = environment.parsed_options
    if run is None or not (getattr(options, "headless", False) or getattr(options, "autostart", False)):
        return
    if facts.get("state") == "interrupted":
        environment.process_exit_code = INTERRUPTED
        return
    if failure := facts.get("failure"):
        yield f"The run is not complete: {failure}"
    verdict, reasons = _verdict_of(run)
    total = board.total()
    if not reasons and not total.requests + total.warmup + total.cancelled:  # no user, or no worker that could record
        verdict, reasons = VOID, ["nothing was sent"]
    if verdict is not None:
        yield f"Verdict: {verdict}"
        yield from (f"  {reason}" for reason in reasons)
    if environment.process_exit_code != MISTAKE and (failure or verdict == VOID):
        environment.process_exit_code = NOT_TO_BE_BELIEVED


def _verdict_of(run: RunFolder) -> tuple[str | None, list[str]]:
    """Return the run's verdict and its reasons; None where its records are not here (workers on other hosts)."""
    if not any(run.path.glob("requests-*.jsonl")):
        return None, []
    from loadtest.analyse.reports.summary import analyse  # pandas; the test is over

    try:
        summary = analyse(run.path).summary
    except LoadTestError as error:
        return None, [str(error)]
    levels = [level for level in summary["levels"] if level["verdict"] != VALID]
    return summary["verdict"], [f"{level['label']}: {reason}" for level in levels for reason in level["reasons"]]
