"""The text behind `--slo`, read."""

from __future__ import annotations

import difflib
import math

from loadtest.errors import ScenarioError
from loadtest.scenario import TIME_UNITS, read_share
from loadtest.slo.objective import DURATION_FIGURES, ERRORS, SPEED_FIGURES, STATISTICS, TOTAL_FIGURES, Objective
from loadtest.text import read_amount


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Read "ttft_p95=2,tokens_per_s_p5=10"; seconds unless "ms" follows. Raises ScenarioError, one sentence."""
    objectives = tuple(_objective(part.strip()) for part in text.split(",") if part.strip())
    if not objectives:
        raise ScenarioError("--slo is empty; write it like ttft_p95=2,tokens_per_s_p5=10.")
    names = [objective.name for objective in objectives]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ScenarioError(f"--slo names {doubled} twice; give it one limit.")
    return objectives


def _objective(part: str) -> Objective:
    name, equals, value = (piece.strip() for piece in part.partition("="))
    name = name.lower()
    if other := next((sign for sign in part if sign in "<>≤≥:"), None):
        raise ScenarioError(
            f"--slo: write {part[:60]!r} with = alone, not {other}, like ttft_p95=2,tokens_per_s_p5=10."
        )
    if not equals:
        raise ScenarioError(f"--slo: {part[:60]!r} has no limit; write it like ttft_p95=2,tokens_per_s_p5=10.")
    figure, statistic = _figure_and_statistic(name)
    at_most = figure in DURATION_FIGURES or figure == ERRORS
    key, words = (DURATION_FIGURES | SPEED_FIGURES | TOTAL_FIGURES | {ERRORS: (ERRORS, "error rate")})[figure]
    return Objective(
        name=name,
        figure=key,
        statistic=statistic or "mean",
        limit=_read_share(value) if figure == ERRORS else _read_limit(name, value, duration=at_most),
        at_most=at_most,
        words=f"{words} {statistic}".rstrip(),
    )


def _figure_and_statistic(name: str) -> tuple[str, str]:
    """Split "ttft_p95" into ("ttft", "p95"); a figure without a statistic, such as "requests_per_s", into (name, "")."""
    if name in TOTAL_FIGURES or name == ERRORS:
        return name, ""
    figure, _, statistic = name.rpartition("_")
    if figure in DURATION_FIGURES | SPEED_FIGURES and statistic in STATISTICS:
        return figure, statistic
    known = [*DURATION_FIGURES, *SPEED_FIGURES]
    endings = ", ".join(f"_{each}" for each in STATISTICS)
    if name in known:
        usual = "p5" if name in SPEED_FIGURES else "p95"  # of speeds, the slowest streams
        raise ScenarioError(f"--slo: {name} needs a statistic, e.g. {name}_{usual}; there are {endings}.")
    if figure in known:
        raise ScenarioError(f"--slo: {name[:60]!r} is not an objective; of {figure} there are {endings}.")
    near = (
        ["ttft"]
        if name in STATISTICS
        else difflib.get_close_matches(figure or name, [*known, *TOTAL_FIGURES, ERRORS], n=1)
    )
    whole = "".join(near) + (f"_{statistic}" if statistic in STATISTICS and set(near) <= set(known) else "")
    hint = f"did you mean {whole!r}? " if near else ""
    raise ScenarioError(
        f"--slo: {name[:60]!r} is not an objective; {hint}objectives are {', '.join(known)}, each with {endings}, "
        f"and {', '.join((*TOTAL_FIGURES, ERRORS))} as they are."
    )


def _read_share(text: str) -> float:
    try:
        share = read_share(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ScenarioError(
            f"--slo: the limit of errors is a share from 0 to 1, e.g. 0.01 or 1% for one in a hundred, not {text[:60]!r}."
        )
    return share


def _read_limit(name: str, text: str, *, duration: bool) -> float:
    limit = read_amount(text, TIME_UNITS if duration else {"": 1.0})
    unit = "seconds, e.g. 2 or 500ms" if duration else "a number above 0"
    if not 0 < limit < math.inf:
        raise ScenarioError(f"--slo: the limit of {name} is {unit}, not {text[:60]!r}.")
    return limit
