"""Whether a level meets objectives, and how surely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from loadtest.doubts import VOID
from loadtest.metrics import PERCENTILES, Interval, wilson_interval
from loadtest.slo.objective import ERRORS, Objective, failed_and_sent
from loadtest.slo.option import parse_objectives
from loadtest.text import interval_words


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
        beyond, share = wilson_interval(self.failed, self.requests), PERCENTILES.get(self.objective.statistic, 1.0)
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
