"""Service level objectives: what `--slo` asks of a server, and whether figures meet it.

    ttft_p95=2,tokens_per_s_p5=10      TTFT p95 at most 2 s, and 95 % of the streams at 10 tokens/s or faster

A duration must stay at or below its limit, a speed at or above it. Figures are those of summary.json's levels or of a
prediction, under the same names.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.errors import ScenarioError

DURATIONS = {  # name in --slo -> (key of summary.json, in words)
    "ttft": ("ttft_s", "TTFT"),
    "ttft_sched": ("ttft_sched_s", "TTFT from t_sched"),
    "itl": ("itl_s", "ITL"),
    "tpot": ("tpot_s", "TPOT"),
    "e2e": ("e2e_s", "E2E"),
    "queue_wait": ("queue_wait_s", "queue wait"),
    "slot_wait": ("slot_wait_s", "slot wait"),
}
SPEEDS = {
    "tokens_per_s": ("stream_tokens_per_s", "tokens/s a stream"),
    "e2e_tokens_per_s": ("e2e_tokens_per_s", "E2E tokens/s"),
}
TOTALS = {  # one number a level: no statistic
    "output_tokens_per_s": ("output_tokens_per_s", "output tokens/s"),
    "requests_per_s": ("requests_per_s", "requests/s"),
}
SHARES = {"p5": 0.05, "p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
STATISTICS = ("mean", *SHARES)
UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3}


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing asked of a server: a statistic of a figure on the right side of a limit."""

    name: str  # as written in --slo, e.g. "ttft_p95"
    figure: str  # key of summary.json, e.g. "ttft_s"
    statistic: str  # "mean", "p5", …; "mean" for a level's one number
    limit: float  # s, or per second
    at_most: bool  # False: at least
    words: str  # e.g. "TTFT p95"

    def __str__(self) -> str:
        return f"{self.words} {'≤' if self.at_most else '≥'} {self.quantity(self.limit)}"

    @property
    def tail(self) -> float:
        """The smaller share that the statistic cuts off, e.g. 0.05 of p95 and of p5; 0.5 of a mean."""
        share = SHARES.get(self.statistic, 0.5)
        return min(share, 1 - share)

    @property
    def a_request(self) -> bool:
        """Whether a single request can meet or miss it: a level's totals are of all requests."""
        return self.figure not in TOTALS

    def met(self, value: float) -> bool:
        """Whether `value` is on the right side; what is unknown (nan) is not."""
        return value <= self.limit if self.at_most else value >= self.limit

    def value(self, figures: Mapping[str, Any]) -> float:
        """Return its figure from a level of summary.json or from a prediction's figures; nan where it is unknown."""
        found = figures.get(self.figure)
        if isinstance(found, Mapping):
            found = found.get(self.statistic)
        return math.nan if found is None else float(found)

    def interval(self, level: Mapping[str, Any]) -> tuple[float, float] | None:
        """Return its figure's 95 % interval from a level of summary.json, None where there is none."""
        found = level.get(self.figure)
        key = f"ci95_{self.statistic}"
        bounds = found.get(key) if isinstance(found, Mapping) else level.get(f"{self.figure}_ci95")
        return None if bounds is None else (float(bounds[0]), float(bounds[1]))

    def quantity(self, value: float) -> str:
        """Return a value of its figure with its unit, for people."""
        if math.isnan(value):
            return "unknown"
        if not self.figure.endswith("per_s"):
            return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Judged:
    """An objective held against a level's figure. `sure`: its 95 % interval lies on one side of the limit."""

    objective: Objective
    value: float
    interval: tuple[float, float] | None

    @property
    def met(self) -> bool:
        return self.objective.met(self.value)

    @property
    def sure(self) -> bool:
        return self.interval is not None and len({self.objective.met(end) for end in (*self.interval, self.value)}) == 1

    def __str__(self) -> str:
        objective = self.objective
        text = f"{objective.words} is {objective.quantity(self.value)}"
        if self.interval is not None:
            text += f" ({' to '.join(objective.quantity(end) for end in self.interval)})"
        said = ("met" if self.met else "missed") if self.sure else f"{'met' if self.met else 'missed'}, but not surely"
        if math.isnan(self.value):
            said = "not met, for it is not known; more requests, or another statistic, would tell"
        return f"{text}, {objective}: {said}"


def judge(objectives: Sequence[Objective], level: Mapping[str, Any]) -> tuple[Judged, ...]:
    """Hold every objective against a level of summary.json."""
    return tuple(Judged(each, each.value(level), each.interval(level)) for each in objectives)


def decided(judged: Sequence[Judged]) -> bool | None:
    """Return whether all are met; None while one is not clear and none is surely missed."""
    if any(each.sure and not each.met for each in judged):
        return False
    return True if all(each.sure for each in judged) else None


def parse(text: str) -> tuple[Objective, ...]:
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
    if not equals:
        raise ScenarioError(f"--slo: {part[:60]!r} has no limit; write it like ttft_p95=2,tokens_per_s_p5=10.")
    figure, statistic = _figure(name)
    at_most = figure in DURATIONS
    key, words = (DURATIONS | SPEEDS | TOTALS)[figure]
    return Objective(
        name=name,
        figure=key,
        statistic=statistic or "mean",
        limit=_limit(name, value, duration=at_most),
        at_most=at_most,
        words=f"{words} {statistic}".rstrip(),
    )


def _figure(name: str) -> tuple[str, str]:
    """Split "ttft_p95" into ("ttft", "p95"), ("requests_per_s", "") for a level's one number."""
    if name in TOTALS:
        return name, ""
    figure, _, statistic = name.rpartition("_")
    if figure in DURATIONS | SPEEDS and statistic in STATISTICS:
        return figure, statistic
    known = [*DURATIONS, *SPEEDS]
    endings = ", ".join(f"_{each}" for each in STATISTICS)
    if name in known:
        raise ScenarioError(f"--slo: say which statistic of {name} is meant, e.g. {name}_p95; there are {endings}.")
    near = difflib.get_close_matches(name, [f"{one}_{end}" for one in known for end in STATISTICS] + [*TOTALS], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ScenarioError(
        f"--slo: {name[:60]!r} is no objective; {hint}known are {', '.join(known)}, each with {endings}, "
        f"and {', '.join(TOTALS)} as they are."
    )


def _limit(name: str, text: str, *, duration: bool) -> float:
    digits = text.rstrip("ms ") if duration else text
    try:
        limit = float(digits) * UNITS[text[len(digits) :].strip()]
    except (KeyError, ValueError):
        limit = math.nan
    if not (limit > 0 and math.isfinite(limit)):
        unit = "seconds, e.g. 2 or 500ms" if duration else "a number above 0"
        raise ScenarioError(f"--slo: the limit of {name} is {unit}, not {text[:60]!r}.")
    return limit
