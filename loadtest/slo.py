"""Service level objectives: what `--slo` asks of a server, and whether figures meet it.

    ttft_p95=2,tokens_per_s_p5=10      TTFT p95 at most 2 s, and 95 % of the streams at 10 tokens/s or faster
    ttft_p95=2,errors=0.01             TTFT p95 at most 2 s, and at most one request in a hundred failed

A duration or a share meets its objective at or below the limit, a speed at or above it. The figures come from the levels
of summary.json or from a prediction, which use the same names. A failed request misses every objective
(loadtest.analyse.figures.objectives).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from loadtest.doubts import VOID
from loadtest.errors import ScenarioError
from loadtest.metrics import NORMAL_95, PERCENTILES, Interval, needed
from loadtest.records import Outcome
from loadtest.scenario import TIME_UNITS, read_share
from loadtest.text import interval_words, percent, read_amount, seconds

DURATION_FIGURES = {  # name in --slo -> (key of summary.json, in words)
    "ttft": ("ttft_s", "TTFT"),
    "ttft_sched": ("ttft_sched_s", "TTFT from t_sched"),
    "itl": ("itl_s", "ITL"),
    "tpot": ("tpot_s", "TPOT"),
    "e2e": ("e2e_s", "E2E"),
    "queue_wait": ("queue_wait_s", "queue wait"),
    "slot_wait": ("slot_wait_s", "slot wait"),
}
SPEED_FIGURES = {
    "tokens_per_s": ("stream_tokens_per_s", "tokens/s a stream"),
    "e2e_tokens_per_s": ("e2e_tokens_per_s", "E2E tokens/s"),
}
TOTAL_FIGURES = {  # one number for a level, so without a statistic
    "output_tokens_per_s": ("output_tokens_per_s", "output tokens/s"),
    "requests_per_s": ("requests_per_s", "requests/s"),
}
ERRORS = "errors"  # share of the requests sent that failed, also without a statistic
OF_ANY_ANSWER = ("e2e_s", "requests_per_s", ERRORS)  # embeddings, which have no tokens, have these as well
STATISTICS = ("mean", *PERCENTILES)
FEWEST_FOR_MEAN = 5  # requests for a mean or a median
MOST_FOR_ERRORS = 100  # requests that even the smallest share of errors asks for: as many as p99
FLOAT_ERROR = 1e-9  # as a share


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing asked of a server: that a statistic of a figure is on the right side of a limit."""

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
        """The share of values beyond the statistic, on its shorter side: 0.05 for p95 and p5, 0.5 for a mean."""
        share = PERCENTILES.get(self.statistic, 0.5)
        return min(share, 1 - share)

    @property
    def a_request(self) -> bool:
        """Whether a single request can meet or miss it; totals and the share of errors belong to all requests together."""
        return self.figure not in TOTAL_FIGURES and self.figure != ERRORS

    @property
    def of_tokens(self) -> bool:
        """Whether only answers with tokens have the figure."""
        return self.figure not in OF_ANY_ANSWER

    @property
    def requests(self) -> int:
        """How many requests a level needs for the objective to be judged; a share of errors: to be judged well."""
        if self.figure == ERRORS:
            return min(math.ceil(1 / self.limit - 1e-9), MOST_FOR_ERRORS) if self.limit else MOST_FOR_ERRORS
        return max(needed(PERCENTILES.get(self.statistic, 0.5)), FEWEST_FOR_MEAN)

    @property
    def bound(self) -> float:
        """The limit, and so little beyond it as floats make of instants in whole nanoseconds: 52 ms may be 0.052000000000000005."""
        return self.limit * (1 + FLOAT_ERROR if self.at_most else 1 - FLOAT_ERROR)

    def met(self, value: float) -> bool:
        """Whether `value` is on the right side of the limit; an unknown value (nan) is not."""
        return value <= self.bound if self.at_most else value >= self.bound

    def value(self, figures: Mapping[str, Any]) -> float:
        """Return the objective's figure from a level of summary.json; nan where it is unknown."""
        if self.figure == ERRORS:
            failed, sent = failed_and_sent(figures)
            return failed / sent if sent else math.nan
        found = figures.get(self.figure)
        if isinstance(found, Mapping):
            found = found.get(self.statistic)
        return math.nan if found is None else float(found)

    def interval(self, level: Mapping[str, Any]) -> Interval | None:
        """Return the 95 % interval of the objective's figure in a level of summary.json, None where there is none."""
        if self.figure == ERRORS:
            return _wilson(*failed_and_sent(level))
        found = level.get(self.figure)
        key = f"ci95_{self.statistic}"
        bounds = found.get(key) if isinstance(found, Mapping) else level.get(f"{self.figure}_ci95")
        return None if bounds is None else (float(bounds[0]), float(bounds[1]))

    def quantity(self, value: float) -> str:
        """Return a value of the objective's figure with its unit, for people."""
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
    """An objective judged by a level's figure; `sure` where the outcome would be no other in 95 % of such runs."""

    objective: Objective
    value: float  # inf where the percentile falls on a failed request, nan where it is unknown
    interval: Interval | None
    failed: int = 0  # requests that failed, were left or never got a token, and so miss the objective
    requests: int = 0  # requests sent
    unjudged: str | None = None  # why the objective cannot be judged: what follows "TTFT p95 …"
    few: bool = False  # whether more requests would make it judged
    left: int = 0  # those of `failed` whose user hung up
    most: float = math.inf  # the largest value seen, where requests that failed are no part of the figure
    far: bool = False  # whether so many requests are beyond the limit that even few independent ones show a miss

    @property
    def met(self) -> bool:
        return self.unjudged is None and self.objective.met(self.value)

    @property
    def sure(self) -> bool:
        if self.unjudged is None and not self.met and (self.far or self._failures_miss):
            return True
        if self.unjudged is not None or self.interval is None:
            return False
        return len({self.objective.met(end) for end in (*self.interval, self.value)}) == 1

    @property
    def clear(self) -> bool:
        """Whether more requests would not change the outcome; a share of errors is always taken as it is."""
        return self.sure or (self.objective.figure == ERRORS and self.unjudged is None)

    @property
    def word(self) -> str:
        """The outcome in words: "met", "missed", "met, but not surely", "missed, but not surely" or "not judged"."""
        if self.unjudged is not None:
            return "not judged"
        outcome = "met" if self.met else "missed"
        return outcome if self.sure else f"{outcome}, but not surely"

    @property
    def _failures_miss(self) -> bool:
        """Whether the statistic is a failed request's, and the 95 % interval of their share leaves it no other."""
        beyond, share = _wilson(self.failed, self.requests), PERCENTILES.get(self.objective.statistic, 1.0)
        return math.isinf(self.value) and beyond is not None and beyond[0] > 1 - share

    def __str__(self) -> str:
        return f"{self.found}: {self.word}"

    def in_level(self, verdict: str) -> str:
        """Return what `__str__` says, of a level with this verdict: of a void one nothing is passed or failed."""
        return f"{self.found}: {self.word_in(verdict)}"

    def word_in(self, verdict: str) -> str:
        """Return `word`, of a level with this verdict."""
        if verdict != VOID or self.unjudged is not None:
            return self.word
        return f"{'met' if self.met else 'missed'}, but void"

    @property
    def found(self) -> str:
        """What was found, and the objective, without the outcome."""
        verb = "" if self.unjudged is not None else "is "
        return f"{self.objective.words} {verb}{self.amount}, {self.objective}"

    @property
    def amount(self) -> str:
        """What was found, or why nothing was, where the objective stands beside it."""
        objective = self.objective
        if self.unjudged is not None:
            return self.unjudged
        whose = "a user who left" if self.left == self.failed > 0 else "a failed request"
        whose += " or a user who left" if 0 < self.left < self.failed else ""
        missed = "without end" if objective.statistic == "mean" else f"that of {whose}"
        text = missed if math.isinf(self.value) else objective.quantity(self.value)
        if self.interval is not None and not math.isinf(self.value):
            text += f" ({interval_words(*self.interval, self.most, objective.quantity)})"
        if self.failed and objective.figure == ERRORS:
            text += f", {self.failed} of {self.requests}"
        elif self.left:
            lost = [f"{self.failed - self.left} failed"] if self.failed > self.left else []
            how = " and ".join([*lost, f"{self.left} left by their users"])
            text += f" with, of {self.requests} requests, {how}"
        elif self.failed:
            text += f" with {self.failed} of {self.requests} requests failed"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds; JSON has no infinity, so the value of a failed request is null on disk."""
        return {
            "name": self.objective.name,
            "limit": self.objective.limit,
            "value": None if math.isnan(self.value) else self.value,
            "interval": None if self.interval is None else list(self.interval),
            "failed": self.failed,
            "left": self.left,
            "requests": self.requests,
            "judged": self.word,
            "unjudged": self.unjudged,
            "few": self.few,
            "far": self.far,
        }

    @classmethod
    def of(cls, objective: Objective, row: Mapping[str, Any], level: Mapping[str, Any]) -> Self:
        """Read what `to_dict` returned of a level of summary.json."""
        value, interval = row["value"], row["interval"]
        return cls(
            objective,
            math.nan if value is None else float(value),
            None if interval is None else (float(interval[0]), float(interval[1])),
            **{key: row[key] for key in ("failed", "requests", "unjudged", "few")},
            left=int(row.get("left") or 0),
            far=bool(row.get("far")),
            most=math.inf if row["failed"] else _largest(objective, level),
        )


def failed_and_sent(level: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many requests of a level failed, and how many were sent: cancelled ones are neither, left ones were sent."""
    outcomes: Mapping[str, int] = level.get("outcomes") or {}
    sent = sum(count for name, count in outcomes.items() if name != Outcome.CANCELLED)
    return sent - outcomes.get(Outcome.OK, 0) - outcomes.get(Outcome.LEFT, 0), sent


def _wilson(failed: int, sent: int) -> Interval | None:
    """Return the 95 % interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    if not sent:
        return None
    share, spread = failed / sent, NORMAL_95**2 / sent
    middle = share + spread / 2
    reach = NORMAL_95 * math.sqrt(share * (1 - share) / sent + spread / sent / 4)
    low, high = ((middle + side) / (1 + spread) for side in (-reach, reach))
    return (low if failed else 0.0), (high if failed < sent else 1.0)


def judge_objectives(objectives: Sequence[Objective], level: Mapping[str, Any]) -> tuple[Judged, ...]:
    """Judge every objective by a level of summary.json, as the level's `objectives` say where it has them."""
    rows = {row["name"]: row for row in level.get("objectives") or ()}
    return tuple(
        Judged.of(each, rows[each.name], level) if each.name in rows else judge_by_figures(each, level)
        for each in objectives
    )


def judged_before(level: Mapping[str, Any]) -> tuple[Judged, ...]:
    """Return how a level of summary.json was judged when it was made, by its own `objectives`."""
    rows = level.get("objectives") or ()
    return tuple(
        Judged.of(replace(parse_objectives(f"{row['name']}=1")[0], limit=row["limit"]), row, level) for row in rows
    )


def judge_by_figures(objective: Objective, level: Mapping[str, Any]) -> Judged:
    """Judge an objective by the level's figures, which come from the requests that ended well."""
    value, interval = objective.value(level), objective.interval(level)
    failed, sent = failed_and_sent(level)
    if math.isnan(value):
        why, few = _why_unknown(objective, level)
        return Judged(objective, value, None, requests=sent, unjudged=why, few=few)
    found = level.get(objective.figure)
    at_least = found.get("at_least") if isinstance(found, Mapping) else None
    if objective.at_most and objective.met(value) and objective.statistic in (at_least or ()):
        why = f"is at least {objective.quantity(value)}: users hung up before their first token"
        return Judged(objective, value, None, requests=sent, unjudged=why)
    failed = failed if objective.figure == ERRORS else 0
    return Judged(objective, value, interval, failed, sent, most=_largest(objective, level))


def _largest(objective: Objective, level: Mapping[str, Any]) -> float:
    found = level.get(objective.figure)
    return float(found.get("max") or math.inf) if isinstance(found, Mapping) else math.inf


def _why_unknown(objective: Objective, level: Mapping[str, Any]) -> tuple[str, bool]:
    """Say why a level does not have an objective's figure, and whether more requests would give it."""
    found = level.get(objective.figure)
    if isinstance(found, Mapping):
        count = int(found.get("n") or 0)
        return f"needs {objective.requests} requests and has {count}", True
    reason = level.get(f"{objective.figure}_reason")
    return f"is unknown{f' ({reason})' if reason else ''}", False


def least_requests(objectives: Sequence[Objective]) -> int:
    return max((each.requests for each in objectives), default=0)


def all_met(judged: Sequence[Judged]) -> bool | None:
    """Return whether all objectives are met; None while one is unclear and none is clearly missed."""
    if any(each.clear and not each.met for each in judged):
        return False
    return True if all(each.clear for each in judged) else None


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
