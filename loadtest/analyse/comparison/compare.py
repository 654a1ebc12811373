"""Whether runs differ: level by level, ratios with intervals, and a verdict on figures named beforehand.

The ratio's interval is at 99 % over all headline figures of the comparison together (Bonferroni): where nothing has changed,
one comparison in a hundred says that something did, as long as runs of one server differ by no more than the noise given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Self

from loadtest.analyse.comparison import comparable
from loadtest.analyse.comparison.comparable import Levels
from loadtest.analyse.comparison.differences import RUN_NOISE, fisher, geometric, noise_between, ratio
from loadtest.analyse.comparison.estimates import (
    FAILED,
    METRICS,
    OF_REQUESTS,
    STEPS,
    Estimate,
    Metric,
    estimate_of,
    steps_at,
    value_of,
)
from loadtest.analyse.comparison.traits import OF_THE_TEST, gpus, slots_of
from loadtest.analyse.findings.cache_findings import may_be_warm
from loadtest.analyse.run import LevelData, RunData, has_tokens
from loadtest.analyse.summary import Analysis
from loadtest.metrics import Interval
from loadtest.records import Outcome
from loadtest.text import listed, percent, size

FAMILY_ERROR = 0.01  # over all headline figures of a comparison
TOLERANCE = 0.02  # a worsening up to here is no regression
POWER = 0.9  # of such comparisons, in which a change has to be found for it to count as one that would have shown
NORMAL = NormalDist()

TOO_FEW = "too few samples"
Sides = tuple[tuple[Estimate, ...], tuple[Estimate, ...]]  # of BASE and NEW, one a run
BETTER, WORSE, SAME, NOT_COMPARABLE = "better", "worse", "no difference seen", "not comparable"


@dataclass(frozen=True, slots=True)
class Change:
    """A metric of a level on both sides (of several runs their mean, by factors); `ratio` is NEW ÷ BASE."""

    level: LevelData  # of BASE's first run
    metric: Metric
    base: float | None
    new: float | None
    ratio: float | None = None
    interval: Interval | None = None  # of the ratio
    verdict: str | None = None  # None: shown, not judged
    reason: str = ""  # why not comparable
    regression: bool = False  # worse, by more than the tolerance
    sides: Sides = ((), ())  # one a run; empty where a run lacks it
    scatter: float = 0.0  # by which prompts of the runs differ in length, as a logarithm
    # of so large a change where nothing differs; of pairs of runs it is adjusted for all (Holm)
    chance: float | None = None

    @classmethod
    def of(cls, level: LevelData, metric: Metric, sides: Sides, **known: Any) -> Self:
        """Return a figure of both sides before anything is judged."""
        base, new = (geometric(side) if side else None for side in sides)
        return cls(level, metric, base, new, new / base if base and new else None, sides=sides, **known)

    @property
    def error_known(self) -> bool:
        """Whether a figure's error is known: several runs a side show it, else each must tell its own."""
        base, new = self.sides
        if self.reason or not base or not new:
            return False
        return len(base) + len(new) > 2 or (base[0].told and new[0].told)

    @property
    def worsening(self) -> float:
        """By how much NEW is worse than BASE, as a share; below zero where it is better."""
        if self.metric is FAILED:
            return (self.new or 0.0) - (self.base or 0.0)
        return ((self.ratio or 1.0) - 1) * (1 if self.metric.lower_is_better else -1)

    def visible(self, confidence: float, least: float) -> float | None:
        """The smallest change, as a share, that would have been said in nine of ten such comparisons; None without interval.

        A change as large as half of the interval is found in every other one: half of the time it comes out smaller.
        """
        if self.interval is None:
            return None
        half = math.log(self.interval[1] / self.interval[0]) / 2
        error = half / NORMAL.inv_cdf((1 + confidence) / 2)
        return math.exp(max(half, math.log1p(least)) + NORMAL.inv_cdf(POWER) * error) - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    bases: tuple[Analysis, ...]
    news: tuple[Analysis, ...]
    rows: tuple[Change, ...]
    notes: tuple[str, ...]  # what differs between the runs besides their figures
    tolerance: float
    run_noise: float  # by how much runs of one server are taken to differ (standard deviation, a share)
    tests: int  # headline figures judged

    @property
    def single(self) -> bool:
        """Whether each side is one run, so that how much runs differ is not seen but taken."""
        return len(self.bases) == len(self.news) == 1

    @property
    def headline(self) -> tuple[Change, ...]:
        return tuple(row for row in self.rows if row.metric.headline)

    def judged(self, verdict: str) -> tuple[Change, ...]:
        return tuple(row for row in self.headline if row.verdict == verdict)

    @property
    def regressions(self) -> tuple[Change, ...]:
        return tuple(row for row in self.headline if row.regression)

    @property
    def verdict(self) -> str:
        """The comparison in one word: worse as soon as one headline figure is."""
        for verdict in (WORSE, BETTER, SAME):
            if self.judged(verdict):
                return verdict
        return NOT_COMPARABLE

    @property
    def confidence(self) -> float:
        """Of each headline interval, so that all together hold in 99 of 100 comparisons."""
        return 1 - FAMILY_ERROR / max(self.tests, 1)

    @property
    def visible(self) -> Interval | None:
        """The smallest change that a headline figure would have shown, and that which the dullest of them would have."""
        least = self.tolerance + self.run_noise if self.single else 0.0
        judged = [row.visible(self.confidence, least) for row in self.headline if row.verdict in JUDGED]
        seen = [each for each in judged if each is not None]
        return (min(seen), max(seen)) if seen else None


JUDGED = (BETTER, WORSE, SAME)


@dataclass(frozen=True, slots=True)
class Limits:
    confidence: float
    tolerance: float
    run_noise: float


@dataclass(frozen=True, slots=True)
class LevelOfBoth:
    """A level of both sides, with its figures before the number of tests is known."""

    base: Levels
    new: Levels
    refused: str  # why no failure of it is judged
    figures: tuple[Change, ...]

    @property
    def some_failed(self) -> bool:
        return any(level.failed for level in (*self.base, *self.new))

    def failures(self) -> Change:
        """Return the shares of failed requests, and their chance where both sides fail alike (Fisher's exact test).

        Of several runs a side all their requests count together.
        """
        counts = [
            (sum(level.failed for level in side), sum(level["requests"] for level in side))
            for side in (self.base, self.new)
        ]
        base, new = (bad / max(of, 1) for bad, of in counts)
        return Change(self.base[0], FAILED, base, new, chance=fisher(*counts[0], *counts[1]))


def compare(
    base: Analysis | Sequence[Analysis],
    new: Analysis | Sequence[Analysis],
    *,
    tolerance: float = TOLERANCE,
    run_noise: float = RUN_NOISE,
    across: frozenset[str] = frozenset(),
) -> Comparison:
    """Compare every level that all runs have.

    Args:
        tolerance: share by which a figure may be worse before it is a regression.
        run_noise: standard deviation between runs of one server, as a share, where the runs themselves show no more. One
            run a side is judged only past `tolerance` and this; several runs a side show it themselves.
        across: comparability keys that differ on purpose; others that differ leave every figure without a verdict.

    Raises RunFolderError when no level is in all, or when the runs of one side differ in what they asked.
    """
    bases, news = ((side,) if isinstance(side, Analysis) else tuple(side) for side in (base, new))
    parts, notes = comparable.parts(bases, news)
    levels: list[LevelOfBoth] = []
    of_tokens = has_tokens(*(level for one in (*bases, *news) for level in one.levels))
    for name, ours_in, theirs_in in parts:
        found, said = compare_part((ours_in, theirs_in), across, METRICS if of_tokens else OF_REQUESTS)
        levels += found
        notes += [f"{name}: {note}" if name else note for note in (*_besides(ours_in, theirs_in), *said)]
    asked = run_noise
    run_noise = noise_between((one for _, *sides in parts for side in sides for one in side), asked)
    if run_noise > max(2 * asked, RUN_NOISE) and len(bases) == len(news) == 1:
        notes.append(
            f"The pace of the same steps differs by {percent(run_noise)} within a run, as on a machine that others use: of two "
            "runs only a large change shows then. Compare several a side (A1 A2 A3 --against B1 B2 B3), or keep the machine free."
        )
    headline = [row for level in levels for row in level.figures if row.metric.headline]
    tests = sum(row.error_known for row in headline) + sum(one.some_failed and not one.refused for one in levels)
    limits = Limits(1 - FAMILY_ERROR / max(tests, 1), tolerance, run_noise)
    rows: list[Change] = []
    for level in levels:
        rows += [judge_change(row, limits) for row in level.figures]
        rows += [_failures_judged(level, limits)] if level.some_failed else []
    for name, side in (("BASE", bases), ("NEW", news)):
        notes += [f"{name}: {said}" for one in side for said in one.run.trouble]
    return Comparison(bases, news, tuple(rows), tuple(notes), tolerance, run_noise, tests)


def compare_part(
    sides: tuple[tuple[Analysis, ...], tuple[Analysis, ...]],
    across: frozenset[str],
    metrics: Sequence[Metric],
    *,
    steps: bool = True,
) -> tuple[list[LevelOfBoth], list[str]]:
    """Return the levels of one model at one server that all runs have, and notes on what differs.

    With `steps` a level at a rate has the time of its steps as well.
    """
    bases, news = sides
    ours_of, theirs_of = ([one.run for one in side] for side in sides)
    refused, notes = comparable.differing_keys(ours_of, theirs_of, across)
    pairs = comparable.matched(sides)
    found: list[LevelOfBoth] = []
    unjudged: list[tuple[Levels, Levels, str]] = []
    scattered: list[tuple[int, tuple[float, float]]] = []
    for levels in pairs:
        ours, theirs = levels[: len(bases)], levels[len(bases) :]
        other_work, lengths = comparable.other_lengths(ours_of, theirs_of, levels)
        scatter = 0.0 if lengths is None else abs(math.log(lengths[1] / lengths[0]))
        scattered += [] if lengths is None else [(int(levels[0]["input_tokens"]), lengths)]
        requests, named = comparable.requests_a_user(ours_of, theirs_of, levels, across)
        notes += [named] if named and named not in notes else []
        own = comparable.void_sides(ours, theirs) or other_work
        unjudged += [(ours, theirs, own)] if own else []
        reason = refused or own or requests
        figures = tuple(_figures_of_both((ours_of, theirs_of), (ours, theirs), reason, scatter, metrics))
        if steps and levels[0].get("rate") is not None and (each := steps_at((*bases, *news), levels)):
            figures += (Change.of(levels[0], STEPS, (each[: len(bases)], each[len(bases) :]), reason=reason),)
        found.append(LevelOfBoth(ours, theirs, refused, figures))
    notes += [
        *comparable.scatter_notes(scattered),
        *comparable.cache_notes(ours_of, theirs_of, pairs),
        *_left(bases, news),
        *_warm(bases, news),
    ]
    names = ["BASE"] * len(bases) + ["NEW"] * len(news)
    notes += comparable.suspect_levels([each for levels in pairs for each in zip(names, levels, strict=True)])
    notes += [*comparable.without_verdict(unjudged), *comparable.unmatched(pairs, (bases, news))]
    return found, notes


def _besides(*sides: Sequence[Analysis]) -> Iterator[str]:
    """Say what is known to differ of server and test beside the comparability keys; of a side whose own runs do, all of theirs."""
    for name, of in (("slots", _slots), ("memory of the loaded model", _loaded), ("GPU", gpus), *OF_THE_TEST):
        known = [sorted({value for one in side if (value := of(one))}) for side in sides]
        if all(known) and (known[0] != known[1] or len(known[0]) > 1):
            yield f"Differs: {name} ({' → '.join(' or '.join(each) for each in known)})."


def _slots(one: Analysis) -> str:
    return (slots_of(one) or "").partition(" ")[0]


def _loaded(one: Analysis) -> str:
    """Return what the loaded model took, as the server said: the type of the KV cache shows in it."""
    return size(taken) if (taken := one.run.fact("server_at_end", "size")) else ""


def _left(*sides: Sequence[Analysis]) -> list[str]:
    """Say how many users hung up, where any did: the waits compared are those of the others."""
    levels = {
        name: [level for one in side for level in one.levels] for name, side in zip(("BASE", "NEW"), sides, strict=True)
    }
    said = [
        f"{left} of {sum(level['requests'] for level in each)} requests in {name}"
        for name, each in levels.items()
        if (left := sum(level["outcomes"].get(Outcome.LEFT, 0) for level in each))
    ]
    stayed = "what is compared is of those who stayed, so waits look shorter than they were."
    return [f"Users hung up ({listed(said)}): {stayed}"] if said else []


def _warm(*sides: Sequence[Analysis]) -> Iterator[str]:
    """Say of which side alone the prompts may have been in a prefix cache before it began, as of a run that was made again."""
    again = [[one.run.fact("sent_before") and may_be_warm(one) for one in side] for side in sides]
    warm = [name for name, each in zip(("BASE", "NEW"), again, strict=True) if any(each)]
    if len(warm) == 1:
        yield (
            f"May differ: the prompts of {warm[0]} had been sent to this model before, and how many of their tokens were in its "
            "prefix cache is not known: with the same --seed TTFT may be lower for that alone."
        )


def _figures_of_both(
    runs: tuple[list[RunData], list[RunData]],
    sides: tuple[Levels, Levels],
    reason: str,
    scatter: float,
    metrics: Sequence[Metric],
) -> Iterator[Change]:
    for metric in metrics:
        known = all(value_of(level, metric) is not None for side in sides for level in side)
        if not known and not metric.headline:
            continue
        found = [
            [estimate_of(run, level, metric) for run, level in zip(mine, side, strict=True)] if known else []
            for mine, side in zip(runs, sides, strict=True)
        ]
        base, new = (tuple(one for one in side if one) if all(side) else () for side in found)
        row = Change.of(sides[0][0], metric, (base, new), reason=reason, scatter=scatter if metric.prefill else 0.0)
        yield row if reason or row.error_known else replace(row, reason=TOO_FEW)


def judge_change(row: Change, limits: Limits) -> Change:
    """Return the row with its ratio, interval and, of a headline figure, verdict.

    One run a side is judged only where the change is past the tolerance and the noise between runs as well.
    """
    confidence = limits.confidence if row.metric.headline else 0.95
    found = ratio(*row.sides, confidence, noise=limits.run_noise) if row.error_known else None
    if found is None:
        return replace(row, verdict=NOT_COMPARABLE if row.metric.headline else None, reason=row.reason or TOO_FEW)
    change, (low, high) = found
    interval = low * math.exp(-row.scatter), high * math.exp(row.scatter)
    row = replace(row, ratio=change, interval=interval)
    if not row.metric.headline:
        return row
    least = limits.tolerance + limits.run_noise if sum(map(len, row.sides)) == 2 else 0.0
    return _judged(row, limits, seen=abs(row.worsening) > least and not interval[0] <= 1 <= interval[1])


def _failures_judged(level: LevelOfBoth, limits: Limits) -> Change:
    row = level.failures()
    if level.refused:
        return replace(row, verdict=NOT_COMPARABLE, reason=level.refused)
    return _judged(row, limits, seen=(row.chance or 0.0) < 1 - limits.confidence)


def _judged(row: Change, limits: Limits, *, seen: bool) -> Change:
    regression = seen and row.worsening > limits.tolerance
    return replace(row, verdict=verdict_on(row.worsening, seen=seen), regression=regression)


def verdict_on(worsening: float, *, seen: bool) -> str:
    """Return the verdict on a change that chance explains or, where it is `seen`, does not."""
    return SAME if not seen else WORSE if worsening > 0 else BETTER
