"""Service level objectives: what `--slo` asks of a server, and whether figures meet it.

    ttft_p95=2,tokens_per_s_p5=10      TTFT p95 at most 2 s, and 95 % of the streams at 10 tokens/s or faster
    ttft_p95=2,errors=0.01             TTFT p95 at most 2 s, and at most one request in a hundred failed

A duration and a share must stay at or below their limit, a speed at or above it. Figures are those of summary.json's
levels or of a prediction, under the same names. A failed request misses every objective (loadtest.analyse.figures.objectives).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from loadtest.errors import ScenarioError
from loadtest.metrics import needed
from loadtest.records import Outcome
from loadtest.text import percent, seconds

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
ERRORS = "errors"  # the share of the requests sent that failed: no statistic either
SHARES = {"p5": 0.05, "p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
STATISTICS = ("mean", *SHARES)
UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3}
FEWEST = 5  # requests of a mean or a median
MOST_FOR_ERRORS = 100  # requests that a level sends for a share of errors, however small: what p99 takes
Z = 1.96  # of the standard normal, for 95 %


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
        """Whether a single request can meet or miss it: a level's totals and its share of errors are of all requests."""
        return self.figure not in TOTALS and self.figure != ERRORS

    @property
    def requests(self) -> int:
        """How many requests a level must have, for the objective to be judged (of a share: to be judged well)."""
        if self.figure == ERRORS:
            return min(math.ceil(1 / self.limit - 1e-9), MOST_FOR_ERRORS) if self.limit else MOST_FOR_ERRORS
        return max(needed(SHARES.get(self.statistic, 0.5)), FEWEST)

    def met(self, value: float) -> bool:
        """Whether `value` is on the right side; what is unknown (nan) is not."""
        return value <= self.limit if self.at_most else value >= self.limit

    def value(self, figures: Mapping[str, Any]) -> float:
        """Return its figure from a level of summary.json or from a prediction's figures; nan where it is unknown."""
        if self.figure == ERRORS:
            failed, sent = failures(figures)
            return failed / sent if sent else math.nan
        found = figures.get(self.figure)
        if isinstance(found, Mapping):
            found = found.get(self.statistic)
        return math.nan if found is None else float(found)

    def interval(self, level: Mapping[str, Any]) -> tuple[float, float] | None:
        """Return its figure's 95 % interval from a level of summary.json, None where there is none."""
        if self.figure == ERRORS:
            return _wilson(*failures(level))
        found = level.get(self.figure)
        key = f"ci95_{self.statistic}"
        bounds = found.get(key) if isinstance(found, Mapping) else level.get(f"{self.figure}_ci95")
        return None if bounds is None else (float(bounds[0]), float(bounds[1]))

    def quantity(self, value: float) -> str:
        """Return a value of its figure with its unit, for people."""
        if math.isnan(value):
            return "unknown"
        if math.isinf(value):
            return "no answer"
        if self.figure == ERRORS:
            return percent(value)
        if not self.figure.endswith("per_s"):
            return seconds(value, exact=value == self.limit)
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


@dataclass(frozen=True, slots=True)
class Judged:
    """An objective held against a level's figure. `sure`: its 95 % interval lies on one side of the limit."""

    objective: Objective
    value: float  # inf where the percentile is that of a failed request; nan: unknown
    interval: tuple[float, float] | None
    failed: int = 0  # requests that failed or never got a token, and miss it
    requests: int = 0  # those that were sent, where some failed
    unjudged: str | None = None  # why it cannot be judged: what follows "TTFT p95 …"
    few: bool = False  # more requests would tell

    @property
    def met(self) -> bool:
        return self.unjudged is None and self.objective.met(self.value)

    @property
    def sure(self) -> bool:
        if self.unjudged is not None or self.interval is None:
            return False
        return len({self.objective.met(end) for end in (*self.interval, self.value)}) == 1

    @property
    def clear(self) -> bool:
        """Whether another measurement would say the same: of errors the requests sent are all there is to know."""
        return self.sure or (self.objective.figure == ERRORS and self.unjudged is None)

    @property
    def word(self) -> str:
        """Say how it was judged: "met", "missed", either "but not surely", or "not judged"."""
        if self.unjudged is not None:
            return "not judged"
        said = "met" if self.met else "missed"
        return said if self.sure or math.isinf(self.value) else f"{said}, but not surely"

    def __str__(self) -> str:
        objective = self.objective
        if self.unjudged is not None:
            return f"{objective.words} {self.unjudged}, {objective}: {self.word}"
        value = "that of a failed request" if math.isinf(self.value) else objective.quantity(self.value)
        text = f"{objective.words} is {value}"
        if self.interval is not None and not math.isinf(self.value):
            text += f" ({' to '.join(objective.quantity(end) for end in self.interval)})"
        if self.failed and objective.figure == ERRORS:
            text += f", {self.failed} of {self.requests}"
        elif self.failed:
            text += f" with {self.failed} of {self.requests} requests failed"
        return f"{text}, {objective}: {self.word}"

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds; `value` is null on disk where it is that of a failed request."""
        return {
            "name": self.objective.name,
            "limit": self.objective.limit,
            "value": None if math.isnan(self.value) else self.value,
            "interval": None if self.interval is None else list(self.interval),
            "failed": self.failed,
            "requests": self.requests,
            "judged": self.word,
            "unjudged": self.unjudged,
            "few": self.few,
        }

    @classmethod
    def of(cls, objective: Objective, row: Mapping[str, Any]) -> Self:
        """Read what to_dict returned."""
        value, interval = row["value"], row["interval"]
        return cls(
            objective,
            math.nan if value is None else float(value),
            None if interval is None else (float(interval[0]), float(interval[1])),
            **{key: row[key] for key in ("failed", "requests", "unjudged", "few")},
        )


def failures(level: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many requests of a summary's level failed, and how many were sent; what we stopped is neither."""
    outcomes: Mapping[str, int] = level.get("outcomes") or {}
    sent = sum(count for name, count in outcomes.items() if name != Outcome.CANCELLED)
    return sent - outcomes.get(Outcome.OK, 0), sent


def _wilson(failed: int, sent: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    if not sent:
        return None
    share, spread = failed / sent, Z * Z / sent
    middle = share + spread / 2
    reach = Z * math.sqrt(share * (1 - share) / sent + spread / sent / 4)
    low, high = ((middle + side) / (1 + spread) for side in (-reach, reach))
    return (low if failed else 0.0), (high if failed < sent else 1.0)


def judge(objectives: Sequence[Objective], level: Mapping[str, Any]) -> tuple[Judged, ...]:
    """Hold every objective against a level of summary.json, as its `objectives` say where it has them."""
    rows = {row["name"]: row for row in level.get("objectives") or ()}
    return tuple(
        Judged.of(each, rows[each.name]) if each.name in rows else by_figures(each, level) for each in objectives
    )


def by_figures(objective: Objective, level: Mapping[str, Any]) -> Judged:
    """Hold an objective against the level's own figures, which are of the requests that ended well."""
    value, interval = objective.value(level), objective.interval(level)
    if math.isnan(value):
        why, few = _unknown(objective, level)
        return Judged(objective, value, None, unjudged=why, few=few)
    failed, sent = failures(level) if objective.figure == ERRORS else (0, 0)
    return Judged(objective, value, interval, failed, sent)


def _unknown(objective: Objective, level: Mapping[str, Any]) -> tuple[str, bool]:
    """Say why a level does not have an objective's figure, and whether more requests would give it."""
    found = level.get(objective.figure)
    if isinstance(found, Mapping):
        count = int(found.get("n") or 0)
        return f"takes {objective.requests} requests and has {count}", True
    reason = level.get(f"{objective.figure}_reason")
    return f"is unknown{f' ({reason})' if reason else ''}", False


def least_requests(objectives: Sequence[Objective]) -> int:
    """Return how many requests a level must have for all of them to be judged."""
    return max((each.requests for each in objectives), default=0)


def decided(judged: Sequence[Judged]) -> bool | None:
    """Return whether all are met; None while one is not clear and none is surely missed."""
    if any(each.clear and not each.met for each in judged):
        return False
    return True if all(each.clear for each in judged) else None


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
    at_most = figure in DURATIONS or figure == ERRORS
    key, words = (DURATIONS | SPEEDS | TOTALS | {ERRORS: (ERRORS, "error rate")})[figure]
    return Objective(
        name=name,
        figure=key,
        statistic=statistic or "mean",
        limit=_share(value) if figure == ERRORS else _limit(name, value, duration=at_most),
        at_most=at_most,
        words=f"{words} {statistic}".rstrip(),
    )


def _figure(name: str) -> tuple[str, str]:
    """Split "ttft_p95" into ("ttft", "p95"), ("requests_per_s", "") for a level's one number."""
    if name in TOTALS or name == ERRORS:
        return name, ""
    figure, _, statistic = name.rpartition("_")
    if figure in DURATIONS | SPEEDS and statistic in STATISTICS:
        return figure, statistic
    known = [*DURATIONS, *SPEEDS]
    endings = ", ".join(f"_{each}" for each in STATISTICS)
    if name in known:
        raise ScenarioError(f"--slo: say which statistic of {name} is meant, e.g. {name}_p95; there are {endings}.")
    near = difflib.get_close_matches(
        name, [f"{one}_{end}" for one in known for end in STATISTICS] + [*TOTALS, ERRORS], n=1
    )
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ScenarioError(
        f"--slo: {name[:60]!r} is no objective; {hint}known are {', '.join(known)}, each with {endings}, "
        f"and {', '.join((*TOTALS, ERRORS))} as they are."
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ScenarioError(
            f"--slo: the limit of errors is a share from 0 to 1, e.g. 0.01 for one in a hundred, not {text[:60]!r}."
        )
    return share


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
