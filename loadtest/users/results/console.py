"""What a Locust run prints at its end, below Locust's own tables, its gates, and the exit code, which is that of `loadtest run`.

By itself Locust exits with 1 when any request failed. Where gates are given, they decide instead: 0 when all pass, 1 when
one fails or cannot be judged. After wrong use, a crash or an exception in a task the exit code stays what it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from locust import log
from locust.env import Environment
from locust.event import Events
from locust.runners import WorkerRunner

from loadtest import metrics
from loadtest.doubts import SUSPECT, VALID, VOID
from loadtest.errors import INTERRUPTED, MISTAKE, NOT_TO_BE_BELIEVED, LoadTestError, ScenarioError
from loadtest.live import ACCEPTED, Figures
from loadtest.run_folder import RunFolder
from loadtest.text import seconds
from loadtest.users.options import Settings
from loadtest.users.processes import recording
from loadtest.users.results import locust_files, tables
from loadtest.users.results.live_figures import Board, board

LOGGER = logging.getLogger("locust.stats_logger")  # Locust prints its tables to it


def listen_to(events: Events) -> None:
    """Print at the end of a master, or of a process alone. To be called once."""
    text: list[str] = []

    def quitting(environment: Environment, **_: Any) -> None:
        if recording.current_test.code is not None:
            environment.process_exit_code = recording.current_test.code
        # A worker has no figures to show; neither has a web UI that is closed before any test began.
        if isinstance(environment.runner, WorkerRunner) or board.generation is None:
            return
        try:
            text.extend(results(environment))
        except Exception:
            _withhold_belief(environment)
            raise  # Locust logs the traceback
        finally:
            text.extend(tables.folder_note(recording.current_test.folder))

    def after_the_tables_of_locust(**_: Any) -> None:
        for line in text:
            LOGGER.info(line)

    hooks: Any = events  # untyped in Locust
    hooks.quitting.add_listener(quitting)
    hooks.quit.add_listener(after_the_tables_of_locust)


def results(environment: Environment) -> Iterator[str]:
    rows, run, facts = board.rows(), recording.current_test.folder, recording.current_test.facts
    mark, below = tables.simulated_profile(facts), [""]
    try:
        below.extend(map(str, apply_gates(environment)))
        below.extend(conclude(environment, run, facts, rows))
    finally:
        yield from (*tables.board_lines(rows, mark), *below)
    yield from locust_files.write_files(environment.parsed_options, rows, run, mark)


def conclude(
    environment: Environment, run: RunFolder | None, facts: dict[str, Any], rows: tables.BoardRows
) -> Iterator[str]:
    """Yield lines on how the run ended, set the process's exit code, and have no row of all requests look better than the run.

    The exit code is the first that holds: 130 interrupted, 2 the user's mistake, 3 void or records lost, else that of
    gates or Locust. A test started from the web UI sets that of an interruption alone.
    """
    options = environment.parsed_options
    if run is not None and facts.get("state") == "interrupted":
        environment.process_exit_code = INTERRUPTED
        return
    if run is None or not (getattr(options, "headless", False) or getattr(options, "autostart", False)):
        return
    if failure := facts.get("failure"):
        yield f"The run is not complete: {failure}"
    verdict, reasons, cost = verdict_reasons_and_cost(run)
    total = board.total()
    if not reasons and not total.requests + total.warmup + total.cancelled:
        # there was no user, or no worker that could record
        verdict, reasons = VOID, ["nothing was sent"]
    if verdict is not None:
        for row in rows if len(rows) == 2 else rows[-1:]:  # the total repeats a single name
            row["verdict"] = max(verdict, row["verdict"] or VALID, key=(VALID, SUSPECT, VOID).index)
        yield f"Verdict: {verdict}"
        yield from (f"  {reason}" for reason in reasons)
    yield from cost
    if broken := log.unhandled_greenlet_exception:  # Locust would end with 2, which means that nothing was measured
        yield "Code of this test failed outside of its tasks: what was recorded is kept, and the traceback is above."
    if failure or verdict == VOID or broken:
        _withhold_belief(environment)


def _withhold_belief(environment: Environment) -> None:
    if environment.process_exit_code not in (INTERRUPTED, MISTAKE):
        environment.process_exit_code = NOT_TO_BE_BELIEVED


def verdict_reasons_and_cost(run: RunFolder) -> tuple[str | None, list[str], list[str]]:
    """Return the run's verdict (None where its records are on other hosts, with their workers), its reasons, and its cost."""
    if not any(run.path.glob("requests-*.jsonl")):
        return None, [], []
    from loadtest.analyse.figures.cost import NO_PRICES, Prices, add_cost
    from loadtest.analyse.findings.energy_findings import energy_findings
    from loadtest.analyse.run import names_apart
    from loadtest.analyse.summary import analyse  # imports pandas, now that the test is over

    try:
        one = analyse(run.path)
    except LoadTestError as error:
        return None, [str(error)], []
    summary, prices = one.summary, Prices.of_run(one.run.facts)
    add_cost(summary, prices)
    cost = [] if prices == NO_PRICES else [str(each) for each in energy_findings(summary)]
    named = zip(names_apart(one.levels), one.levels, strict=True)
    reasons = [f"{name}: {why}" for name, level in named if level["verdict"] != VALID for why in level["reasons"]]
    return summary["verdict"], reasons, cost


@dataclass(frozen=True, slots=True)
class Gate:
    option: str  # with its limit, e.g. "--max-ttft-p95 2"
    passed: bool
    saw: str
    judged: bool = True

    def __str__(self) -> str:
        word = ("passed" if self.passed else "FAILED") if self.judged else "NOT JUDGED"
        return f"gate {self.option}: {word}, {self.saw}"


def judge_gates(settings: Settings, shown: Board) -> Iterator[Gate]:
    """Yield the outcome of each gate that was asked for, over all requests sent; an unknown figure does not pass.

    Embeddings have no first token, so those of tokens are over the others.
    """
    total, of_text = shown.total(), shown.total(of_text=True)
    ratio, limit, least = settings.max_failure_ratio, settings.max_ttft_p95, settings.min_tokens_per_s
    if ratio is not None:
        share = total.failures / total.requests if total.requests else None
        saw = "no request was measured"
        if share is not None:
            saw = f"{total.failures} of {total.requests} requests failed ({share:.3g})"
        passed = share is not None and share <= ratio
        yield Gate(f"--max-failure-ratio {ratio:g}", passed, saw, judged=share is not None)
    if limit is not None:
        yield _ttft_gate(f"--max-ttft-p95 {limit:g}", limit, of_text)
    if least is not None:
        yield _speed_gate(f"--min-tokens-per-s {least:g}", least, of_text)


def _ttft_gate(option: str, limit: float, total: Figures) -> Gate:
    """Judge TTFT p95 over all requests; one that failed, or never got a token, counts as slower than any limit."""
    known = total.histograms["ttft_s"]
    lost = total.failures + total.measured + total.left - known.count
    requests = total.requests - total.outcomes[ACCEPTED]
    how = "failed, left or without a token" if total.left_waiting else "failed or without a token"
    among = f" with {lost} of {requests} requests {how}" if lost else f" of {requests} requests"
    if lost > 0.05 * requests:
        return Gate(option, passed=False, saw=f"TTFT p95{among} falls on one of those")
    if not metrics.enough_for(0.95, requests):
        return Gate(option, passed=False, saw=f"TTFT p95 needs 20 requests, and {requests} were measured", judged=False)
    p95 = known.percentile(min(0.95 * requests / (requests - lost), 1.0))
    assert p95 is not None
    return Gate(option, p95 <= limit, f"TTFT p95{among} is {seconds(p95)}")


def _speed_gate(option: str, least: float, total: Figures) -> Gate:
    """Judge the median stream's tokens/s over all requests; one that failed counts as 0."""
    known, lost = total.histograms["stream_tokens_per_s"], total.failures
    requests = known.count + lost
    among = f" with {lost} of {requests} requests failed" if lost else ""
    if not known.count and not lost:
        return Gate(option, passed=False, saw="no decode speed was seen", judged=False)
    if lost > 0.5 * requests:
        return Gate(option, passed=False, saw=f"a stream's tokens/s p50{among} is 0")
    p50 = known.percentile((0.5 * requests - lost) / known.count)
    assert p50 is not None
    return Gate(option, p50 >= least, f"a stream's tokens/s p50{among} is {p50:.3g}")


def apply_gates(environment: Environment) -> list[Gate]:
    """Judge the figures on `board`, set the exit code accordingly, and return the gates."""
    try:
        gates = list(judge_gates(Settings.of(environment.parsed_options), board))
    except ScenarioError:  # the test was refused because of it, and the user was told
        return []
    if gates and not all(gate.passed for gate in gates):
        environment.process_exit_code = environment.process_exit_code or 1
    elif gates and environment.process_exit_code is None:
        crashed = log.unhandled_greenlet_exception or (environment.runner is not None and environment.runner.exceptions)
        environment.process_exit_code = None if crashed else 0
    return gates
