"""Several runs side by side: each level of each, and a verdict on every pair at one family error.

Every pair of runs is compared as `compare` compares two, one run a side: past the tolerance and the noise between runs. The
chances of error of all headline figures of all pairs are adjusted together (Holm, Scand. J. Statist. 6, 1979), so that
where nothing differs one such table in a hundred says that something does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice

from loadtest.analyse.comparison import traits
from loadtest.analyse.comparison.compare import (
    FAMILY_ERROR,
    NOT_COMPARABLE,
    SAME,
    TOLERANCE,
    Change,
    compare_part,
    verdict_on,
)
from loadtest.analyse.comparison.differences import RUN_NOISE, chance, noise_between
from loadtest.analyse.comparison.estimates import FAILED, METRICS, OF_REQUESTS, Estimate, Metric, estimate_of
from loadtest.analyse.run import LevelData, has_tokens
from loadtest.analyse.summary import Analysis
from loadtest.errors import LoadTestError, RunFolderError

MOST_RUNS = 26  # each has a letter
OF_TOKENS = tuple(metric for metric in METRICS if metric.headline)


@dataclass(frozen=True, slots=True)
class Entry:
    """A run, or of a run of several models or servers one of them."""

    letter: str
    name: str
    analysis: Analysis

    @property
    def levels(self) -> list[LevelData]:
        return self.analysis.levels

    def estimate(self, level: LevelData, metric: Metric) -> Estimate | None:
        return estimate_of(self.analysis.run, level, metric)


@dataclass(frozen=True, slots=True)
class Pair:
    """What changes from one run to another; the verdicts are of the second run."""

    first: Entry
    second: Entry
    rows: tuple[Change, ...]
    trouble: str = ""  # why nothing of them could be compared

    @property
    def name(self) -> str:
        return f"{self.first.letter} → {self.second.letter}"

    def row(self, level: LevelData | None, metric: Metric) -> Change | None:
        """Return a figure's change at a level of the first run; None where there is none."""
        return next((row for row in self.rows if row.level is level and row.metric is metric), None)

    def overall(self, metric: Metric) -> float | None:
        """Return the geometric mean of a figure's changes over the levels that were judged.

        None for fewer than two, and where no level differs: the mean of changes that were not seen is noise.
        """
        judged = [row for row in self.rows if row.metric is metric and row.chance is not None]
        ratios = [change.ratio for change in judged if change.ratio]
        if len(ratios) < 2 or all(change.verdict == SAME for change in judged):
            return None
        return math.exp(sum(map(math.log, ratios)) / len(ratios))


@dataclass(frozen=True, slots=True)
class Many:
    entries: tuple[Entry, ...]
    named: traits.Names
    metrics: tuple[Metric, ...]
    pairs: tuple[Pair, ...]
    tests: int
    tolerance: float
    run_noise: float

    @property
    def letters(self) -> list[str]:
        return [entry.letter for entry in self.entries]

    def between(self, one: Entry, other: Entry) -> Pair:
        """Return the pair of two runs, the earlier one first."""
        return next(
            pair for pair in self.pairs if {pair.first.letter, pair.second.letter} == {one.letter, other.letter}
        )


def compare_many(
    runs: Sequence[Analysis],
    *,
    tolerance: float = TOLERANCE,
    run_noise: float = RUN_NOISE,
    across: frozenset[str] = frozenset(),
) -> Many:
    """Set runs beside each other and compare every pair at the levels that both have.

    Model, quantisation, server and settings may differ; in `across` are further comparability keys that differ on purpose.
    Raises LoadTestError for fewer than two runs, models or servers.
    """
    parts = [part for one in runs for part in ([part for _, part in one.groups] or [one])]
    if len(parts) < 2:
        raise LoadTestError("name two runs or more: with one run of one model there is nothing to compare.")
    if len(parts) > MOST_RUNS:
        raise LoadTestError(f"{len(parts)} runs are more than one table holds: name {MOST_RUNS} or fewer.")
    named = traits.names_of(parts, across)
    entries = tuple(
        Entry(chr(ord("A") + place), name, one)
        for place, (name, one) in enumerate(zip(named.names, parts, strict=True))
    )
    metrics = OF_TOKENS if has_tokens(*[level for one in parts for level in one.levels]) else OF_REQUESTS
    run_noise = noise_between(parts, run_noise)
    pairs = []
    for one, other in combinations(entries, 2):
        try:
            pairs.append(Pair(one, other, tuple(_tested(one, other, metrics, across | traits.ON_PURPOSE, run_noise))))
        except RunFolderError:
            pairs.append(Pair(one, other, (), "no level in common (same concurrency, lengths and rate)"))
    judged = iter(holm([row for pair in pairs for row in pair.rows], tolerance + run_noise))
    pairs = [replace(pair, rows=tuple(islice(judged, len(pair.rows)))) for pair in pairs]
    tests = sum(row.chance is not None for pair in pairs for row in pair.rows)
    return Many(entries, named, metrics, tuple(pairs), tests, tolerance, run_noise)


def _tested(
    one: Entry, other: Entry, metrics: Sequence[Metric], across: frozenset[str], run_noise: float
) -> Iterator[Change]:
    """Yield the headline figures of a pair of runs, level by level, with their chances before they are adjusted."""
    levels, _ = compare_part(((one.analysis,), (other.analysis,)), across, metrics, steps=False)
    for level in levels:
        void = [entry.letter for entry, side in ((one, level.base), (other, level.new)) if side[0].is_void]
        for row in level.figures:
            reason, p = row.reason if not void or level.refused else f"void in {' and '.join(void)}", None
            if row.error_known:
                (base,), (new,) = row.sides
                p = chance(base, new, noise=run_noise, scatter=row.scatter)
            yield replace(row, verdict=NOT_COMPARABLE, reason=reason, chance=p)
        if level.some_failed:
            row = replace(level.failures(), verdict=NOT_COMPARABLE, reason=level.refused)
            yield replace(row, chance=None) if level.refused else row


def holm(tested: Sequence[Change], least: float) -> list[Change]:
    """Return each figure with its chance adjusted for all that are tested, and its verdict; step down from the least chance.

    A change of no more than `least` is not said, but of the share of failures.
    """
    order = sorted((i for i, row in enumerate(tested) if row.chance is not None), key=lambda i: tested[i].chance or 0.0)
    judged, most = list(tested), 0.0
    for place, i in enumerate(order):
        row = tested[i]
        most = max(most, min(1.0, (len(order) - place) * (row.chance or 0.0)))
        far = abs(row.worsening) > (0.0 if row.metric is FAILED else least)
        verdict = verdict_on(row.worsening, seen=most < FAMILY_ERROR and far)
        judged[i] = replace(row, verdict=verdict, reason="", chance=most)
    return judged
