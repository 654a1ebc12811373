"""Whether two runs differ: level by level, ratios with intervals, and a verdict on figures named beforehand.

A figure of each run gets its error from batches of requests (loadtest.analyse.intervals), on a logarithmic scale, for
times and rates change by factors. The ratio's interval is Welch's, at 99 % over all headline figures of the comparison
together (Bonferroni): where nothing has changed, one comparison in a hundred says that something did.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from loadtest.analyse import stats
from loadtest.analyse.findings import figure
from loadtest.analyse.frames import BoolArray, FloatArray, Run
from loadtest.analyse.intervals import Sample, percentile_interval, t_quantile
from loadtest.analyse.summary import Analysis, failed
from loadtest.errors import RunFolderError
from loadtest.metrics import VOID

FAMILY_ERROR = 0.01  # over all headline figures of a comparison
TOLERANCE = 0.02  # a worsening up to here is no regression
# Two runs of one server differ by about so much for reasons that neither run shows of itself (clock rates, where pages
# lie): added to each side's error.
RUN_TO_RUN = 0.005
FEWEST = 8  # requests a side
FEWEST_FOR_TAIL = 60  # for a p95: below, fewer than three requests lie past it
FEWEST_EFFECTIVE = 4.0  # independent ones a side: a queue that never settles has no mean to compare
LENGTH_SHARE = 0.05  # lengths that differ by more are other work …
LENGTH_ERROR = 0.001  # … where chance gives such a difference this rarely

TOO_FEW = "too few samples"
BETTER, WORSE, SAME, NOT_COMPARABLE = "better", "worse", "no difference seen", "not comparable"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that is compared: its place in summary.json, its name for people, and which way is better."""

    key: str
    part: str | None  # of a described figure: "mean", "p50", "p95"; None: a rate of the level
    name: str
    unit: str  # "s" (printed as ms), "1/s"
    headline: bool = False

    @property
    def lower_is_better(self) -> bool:
        return self.unit == "s"

    @property
    def id(self) -> str:
        return f"{self.key}.{self.part}" if self.part else self.key


METRICS = (
    Metric("ttft_s", "mean", "TTFT mean", "s", headline=True),
    Metric("ttft_s", "p95", "TTFT p95", "s", headline=True),
    Metric("stream_tokens_per_s", "mean", "tokens/s a stream", "1/s", headline=True),
    Metric("output_tokens_per_s", None, "output tokens/s", "1/s", headline=True),
    Metric("ttft_s", "p50", "TTFT p50", "s"),
    Metric("ttft_sched_s", "p95", "TTFT p95 from t_sched", "s"),
    Metric("e2e_s", "mean", "E2E mean", "s"),
    Metric("e2e_sched_s", "mean", "E2E mean from t_sched", "s"),
    Metric("tpot_s", "mean", "TPOT mean", "s"),
    Metric("queue_wait_s", "mean", "queue wait mean", "s"),
    Metric("prefill_s", "mean", "prefill mean", "s"),
)
FAILED = Metric("failed", None, "failed requests", "share", headline=True)

# Keys of run.json that say what is compared with what. These may differ, and are named; all others must be equal or
# named by the user (`across`), for they change what the server is asked to do.
NAMED = ("server", "simulated")
DEFAULTS = {"warm_cache": False, "prompt": "made up"}  # of a run whose loadtest did not know the key yet; others: None
ASKED = {name: name for name in ("think_time", "max_rate", "temperature", "prompt_file")} | {"prompt": "prompt_text"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one run, and its standard error in natural logarithms, downwards and upwards."""

    value: float
    down: float
    up: float
    freedom: int

    @classmethod
    def even(cls, value: float, share: float, freedom: int) -> Self:
        """Build it from a standard error as a share: skewness is alike in both runs, so that the ratio has none."""
        return cls(value, share, share, freedom)

    @classmethod
    def of(cls, value: float, interval: tuple[float, float] | None, freedom: int) -> Self | None:
        """Build it from the figure's 95 % interval; None where that is unknown or reaches zero."""
        if interval is None or interval[0] <= 0 or value <= 0:
            return None
        t = t_quantile(freedom)
        return cls(value, math.log(value / interval[0]) / t, math.log(interval[1] / value) / t, freedom)


@dataclass(frozen=True, slots=True)
class Row:
    """A metric of a level in both runs; `ratio` is NEW ÷ BASE."""

    level: str
    concurrency: int | None
    metric: Metric
    base: float | None
    new: float | None
    ratio: float | None = None
    interval: tuple[float, float] | None = None  # of the ratio
    verdict: str | None = None  # None: shown, not judged
    reason: str = ""  # why not comparable
    regression: bool = False  # worse, by more than the tolerance


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs, figure by figure."""

    base: Analysis
    new: Analysis
    rows: tuple[Row, ...]
    notes: tuple[str, ...]  # what differs between the runs besides their figures
    tolerance: float
    tests: int  # headline figures judged

    @property
    def headline(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.metric.headline)

    def judged(self, verdict: str) -> tuple[Row, ...]:
        """Return the headline rows with that verdict."""
        return tuple(row for row in self.headline if row.verdict == verdict)

    @property
    def regressions(self) -> tuple[Row, ...]:
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


@dataclass(frozen=True, slots=True)
class _Cell:
    """A metric of a level, before the number of tests is known."""

    level: dict[str, Any]
    metric: Metric
    base: float | None
    new: float | None
    figures: tuple[Figure, Figure] | None
    reason: str


def compare(
    base: Analysis, new: Analysis, *, tolerance: float = TOLERANCE, across: frozenset[str] = frozenset()
) -> Comparison:
    """Compare every level that both runs have.

    Args:
        tolerance: share by which a figure may be worse before it is a regression.
        across: comparability keys that differ on purpose; others that differ leave every figure without a verdict.

    Raises RunFolderError when no level is in both.
    """
    pairs = _pairs(base.summary["levels"], new.summary["levels"])
    if not pairs:
        raise RunFolderError(
            f"{base.run.path} and {new.run.path} have no level in common (same concurrency, lengths and rate): "
            "measure both with the same scenario."
        )
    refused, notes = _keys(base.run, new.run, across)
    cells = [cell for one, other in pairs for cell in _cells(base.run, new.run, one, other, refused)]
    failures = [(one, other, not refused and failed(one) + failed(other) > 0) for one, other in pairs]
    judged = [cell for cell in cells if cell.metric.headline and cell.figures and not cell.reason]
    tests = len(judged) + sum(test for _, _, test in failures)
    confidence = 1 - FAMILY_ERROR / max(tests, 1)
    rows: list[Row] = []
    for one, other, test in failures:
        mine = [cell for cell in cells if cell.level is one]
        rows += [_row(cell, confidence if cell.metric.headline else 0.95, tolerance) for cell in mine]
        if failed(one) + failed(other):
            rows.append(_failures(one, other, 1 - confidence, tolerance, refused if not test else ""))
    notes += [f"{name}: {said}" for name, one in (("BASE", base), ("NEW", new)) for said in one.run.trouble]
    notes += _unmatched(pairs, base.summary["levels"], new.summary["levels"])
    return Comparison(base, new, tuple(rows), tuple(notes), tolerance, tests)


def _pairs(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the levels that ask for the same; a level that a run has twice is matched in order."""
    free = list(theirs)
    pairs = []
    for level in ours:
        match = next((other for other in free if _asked(other) == _asked(level)), None)
        if match is not None:
            free.remove(match)
            pairs.append((level, match))
    return pairs


def _asked(level: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(level[key] for key in ("concurrency", "rate", "input_tokens", "output_tokens", "words"))


def _unmatched(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]], ours: list[dict[str, Any]], theirs: list[dict[str, Any]]
) -> list[str]:
    said = []
    for name, levels, place in (("BASE", ours, 0), ("NEW", theirs, 1)):
        matched = [id(pair[place]) for pair in pairs]
        alone = [level["label"] for level in levels if id(level) not in matched]
        if alone:
            said.append(f"Only {name} has {'; '.join(alone)}: left out.")
    return said


def _keys(base: Run, new: Run, across: frozenset[str]) -> tuple[str, list[str]]:
    """Return why the runs must not be compared (empty: they may), and a note on every key that differs."""
    ours, theirs = _facts(base), _facts(new)
    refused, notes = [], []
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = (facts.get(key, DEFAULTS.get(key)) for facts in (ours, theirs))
        if one == other:
            continue
        said = f"{key} ({_text(key, one)} → {_text(key, other)})"
        half = key == "simulated" and (one is None or other is None)
        if (key in NAMED or key in across) and not half:
            notes.append(f"Differs: {said}.")
        else:
            refused.append(said)
            hint = "a simulated server says nothing of a real one" if half else f"--across {key} compares all the same"
            notes.append(f"Differs: {said}; no verdict ({hint}).")
    return (f"the runs differ in {', '.join(refused)}" if refused else ""), notes


def _facts(run: Run) -> dict[str, Any]:
    scenario = run.facts.get("scenario") or {}
    asked = {ASKED[key]: scenario[key] for key in ASKED if scenario.get(key)}
    return asked | (run.facts.get("comparability") or {}) | {"simulated": run.simulated}


def _text(key: str, value: Any) -> str:
    if key == "simulated" and isinstance(value, dict):
        return f"{value.get('profile')} at {float(value.get('speed') or 1):g}×"
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _cells(base: Run, new: Run, one: dict[str, Any], other: dict[str, Any], refused: str) -> Iterator[_Cell]:
    reason = refused or _void(one, other) or _lengths(base, new, one, other)
    for metric in METRICS:
        values = (_value(one, metric), _value(other, metric))
        if None in values and not metric.headline:
            continue
        found = (_figure(base, one, metric), _figure(new, other, metric)) if None not in values else (None, None)
        figures = (found[0], found[1]) if found[0] and found[1] else None
        yield _Cell(one, metric, *values, figures, reason or ("" if figures else TOO_FEW))


def _value(level: dict[str, Any], metric: Metric) -> float | None:
    return figure(level, metric.key, metric.part) if metric.part else level[metric.key]


def _void(one: dict[str, Any], other: dict[str, Any]) -> str:
    sides = [name for name, level in (("BASE", one), ("NEW", other)) if level["verdict"] == VOID]
    return f"void in {' and '.join(sides)}" if sides else ""


def _lengths(base: Run, new: Run, one: dict[str, Any], other: dict[str, Any]) -> str:
    """Say where prompts or answers of one run are longer: other work, whatever its speed."""
    for column, name in (("output_tokens", "answers"), ("prompt_tokens", "prompts")):
        figures = [
            _mean(run.column(column)[run.good(level["index"])], _block(level))
            for run, level in ((base, one), (new, other))
        ]
        if figures[0] and figures[1]:
            ratio, interval = _ratio(figures[0], figures[1], 1 - LENGTH_ERROR)
            if abs(math.log(ratio)) > math.log1p(LENGTH_SHARE) and not interval[0] <= 1 <= interval[1]:
                values = (figures[0].value, figures[1].value)
                return f"{name} differ in length ({values[0]:.0f} → {values[1]:.0f} tokens on average)"
    return ""


def _block(level: dict[str, Any]) -> int:
    return int(level.get("concurrency") or 1)


def _figure(run: Run, level: dict[str, Any], metric: Metric) -> Figure | None:
    """Return a metric of a level with its error, None where too few samples tell it."""
    good = run.good(level["index"])
    if metric.part is None:
        return _rate(run, level, metric)
    values = run.column(metric.key)[good]
    if metric.part == "mean":
        return _mean(values, _block(level))
    known = values[np.isfinite(values)]
    share = stats.PERCENTILES[metric.part]
    if len(known) < (FEWEST_FOR_TAIL if share > 0.5 else stats.FEWEST_FOR_INTERVAL):
        return None
    sample = Sample.of(known, block=_block(level))
    ordered = np.sort(known)
    interval = percentile_interval(sample, ordered, share)
    return Figure.of(float(np.quantile(ordered, share)), interval, sample.batches - 1)


def _mean(values: FloatArray, block: int) -> Figure | None:
    known = values[np.isfinite(values)]
    if len(known) < FEWEST:
        return None
    sample = Sample.of(known, block=block)
    if sample.batches < 2 or sample.effective < FEWEST_EFFECTIVE:
        return None
    spread, mean = sample.mean(), float(known.mean())
    return Figure.even(mean, spread.error / mean, spread.freedom) if mean > 0 else None


def _rate(run: Run, level: dict[str, Any], metric: Metric) -> Figure | None:
    """Return the output of a level with its error, from the requests that ended in its window."""
    value, window = level[metric.key], level["window"]
    if value is None or window is None:
        return None
    rows: BoolArray = np.asarray(run.requests["level"] == level["index"], dtype=np.bool_) & run.column("ok").astype(
        bool
    )
    ends = run.column("end")
    rows &= (ends > window["start"]) & (ends <= window["end"])
    sends = run.column("send")[rows] if level.get("concurrency") else None
    amounts = run.column("output_tokens")[rows]
    if not np.isfinite(amounts).all():
        return None
    # At one stream the window leaves out the first answer.
    spread = stats.rate_spread(
        ends[rows], amounts, sends, block=_block(level), fewest=FEWEST - 1, effective=FEWEST_EFFECTIVE
    )
    return Figure.even(float(value), spread.error, spread.freedom) if spread else None


def _ratio(base: Figure, new: Figure, confidence: float) -> tuple[float, tuple[float, float]]:
    """Return NEW ÷ BASE with its interval (Welch on the logarithms)."""
    away = math.log(new.value / base.value)
    ends = []
    for ours, theirs in ((base.up, new.down), (base.down, new.up)):
        square = ours**2 + theirs**2
        total = square + 2 * RUN_TO_RUN**2
        slack = ours**4 / base.freedom + theirs**4 / new.freedom
        freedom = min(int(total**2 / slack), 10_000) if slack > 1e-300 else 10_000
        ends.append(t_quantile(freedom, confidence) * math.sqrt(total))
    return math.exp(away), (math.exp(away - ends[0]), math.exp(away + ends[1]))


def _row(cell: _Cell, confidence: float, tolerance: float) -> Row:
    label, users = cell.level["label"], cell.level["concurrency"]
    plain = Row(label, users, cell.metric, cell.base, cell.new)
    ratio = cell.new / cell.base if cell.base and cell.new else None
    if cell.figures is None or cell.reason:
        judged = NOT_COMPARABLE if cell.metric.headline else None
        return dataclasses.replace(plain, ratio=ratio, verdict=judged, reason=cell.reason)
    ratio, interval = _ratio(*cell.figures, confidence)
    if not cell.metric.headline:
        return dataclasses.replace(plain, ratio=ratio, interval=interval)
    worsening = ratio - 1 if cell.metric.lower_is_better else 1 - ratio
    verdict = SAME if interval[0] <= 1 <= interval[1] else WORSE if worsening > 0 else BETTER
    regression = verdict == WORSE and worsening > tolerance
    return dataclasses.replace(plain, ratio=ratio, interval=interval, verdict=verdict, regression=regression)


def _failures(one: dict[str, Any], other: dict[str, Any], error: float, tolerance: float, refused: str) -> Row:
    """Judge how many requests failed by Fisher's exact test."""
    counts = [(failed(level), level["requests"]) for level in (one, other)]
    shares = [bad / max(of, 1) for bad, of in counts]
    plain = Row(one["label"], one["concurrency"], FAILED, shares[0], shares[1])
    if refused:
        return dataclasses.replace(plain, verdict=NOT_COMPARABLE, reason=refused)
    if fisher(*counts[0], *counts[1]) >= error:
        return dataclasses.replace(plain, verdict=SAME)
    worse = shares[1] > shares[0]
    return dataclasses.replace(plain, verdict=WORSE if worse else BETTER, regression=shares[1] - shares[0] > tolerance)


def fisher(bad: int, of: int, other_bad: int, other_of: int) -> float:
    """Return the chance of failures at least as unevenly spread over two runs if both fail alike (two-sided)."""
    total, every = bad + other_bad, math.comb(of + other_of, bad + other_bad)
    chances = [
        math.comb(of, k) * math.comb(other_of, total - k) / every
        for k in range(max(0, total - other_of), min(of, total) + 1)
    ]
    seen = math.comb(of, bad) * math.comb(other_of, other_bad) / every
    return min(1.0, sum(chance for chance in chances if chance <= seen * (1 + 1e-9)))
