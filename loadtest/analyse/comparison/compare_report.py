"""A comparison in words: its one sentence, compare.md, compare.json."""

from __future__ import annotations

import math
from typing import Any

from loadtest.analyse.comparison.compare import BETTER, NOT_COMPARABLE, SAME, WORSE, Change, Comparison
from loadtest.analyse.comparison.differences import NOISE_FROM
from loadtest.analyse.comparison.estimates import FAILED, STEPS, note_on_rates
from loadtest.analyse.findings.measured_on import measured_on, simulated_mark
from loadtest.analyse.run import shared_parts
from loadtest.analyse.summary import Analysis
from loadtest.grid import Grid
from loadtest.records import SCHEMA
from loadtest.templates import render
from loadtest.text import UNKNOWN, capitalised, counted, instant, percent, signed

LARGEST_CHANGE = 10  # times as much: beyond it an interval has no upper end
LARGEST_VISIBLE = 1.0  # as a share
TOO_SHORT = "not even a doubled figure would surely show: the runs are too short, or their pace is too uneven"


def change_text(row: Change) -> str:
    if row.metric is FAILED:
        return f"{row.worsening * 100:+.1f} points".replace("-", "−")
    return signed(row.ratio - 1) if row.ratio is not None else UNKNOWN


def interval_text(row: Change) -> str:
    if row.interval is None:
        return UNKNOWN
    low, high = row.interval
    if high >= LARGEST_CHANGE and low <= 1 / LARGEST_CHANGE:
        return "any"
    if high >= LARGEST_CHANGE:
        return f"{signed(low - 1)} or more"
    return f"{signed(low - 1).removesuffix(' %')} to {signed(high - 1)}"


def amount_text(row: Change, amount: float | None) -> str:
    return UNKNOWN if amount is None else row.metric.written(amount) + ("/s" if row.metric.unit == "1/s" else "")


def level_names(comparison: Comparison) -> tuple[str, dict[str, str]]:
    """Return what all levels share (lengths), and each level's name without it."""
    return shared_parts(list(dict.fromkeys(row.level["label"] for row in comparison.headline)))


def verdict_text(row: Change, tolerance: float) -> str:
    if row.verdict == NOT_COMPARABLE:
        return f"{NOT_COMPARABLE}: {row.reason}"
    if row.verdict == WORSE and not row.regression:
        return f"{WORSE}, within {tolerance * 100:g} %"
    return row.verdict or ""


def outcome(comparison: Comparison) -> str:
    """Return what came of it, with its figures, for titles and the first line; without a full stop."""
    told = comparison.verdict
    if told == NOT_COMPARABLE:
        reasons = sorted({row.reason for row in comparison.headline if row.reason})
        return f"Not comparable: {'; '.join(reasons) or 'nothing was measured'}"
    within = " within these two runs" if comparison.single else ""
    if told == SAME:
        count = sum(row.interval is not None for row in comparison.judged(SAME))
        if not count or comparison.visible is None:
            return f"No difference seen{within}"
        if comparison.visible[0] > LARGEST_VISIBLE:
            return f"No difference seen{within}, but {TOO_SHORT}"
        seen = f"where a difference of {_in_percent(comparison.visible)} shows nine times in ten"
        untold = len(comparison.judged(NOT_COMPARABLE))
        rest = f"; {untold} more {'was' if untold == 1 else 'were'} not judged" if untold else ""
        return f"No difference seen in {counted(count, 'headline figure')}{within}, {seen}{rest}"
    rows = list(comparison.judged(told))
    most = max(rows, key=lambda row: abs(math.log(row.ratio)) if row.ratio else math.inf)
    certain = f" ({interval_text(most)})" if most.interval else ""
    said = f"NEW is {told} in {len(rows)} of {counted(comparison.tests, 'headline figure')}{within}"
    said += f"{', most in' if len(rows) > 1 else ':'} {most.metric.name} at {_level_name(most, comparison)}: {change_text(most)}{certain}"
    if told == WORSE and (gains := len(comparison.judged(BETTER))):
        said += f"; better in {gains}"
    return said


def _in_percent(changes: tuple[float, float]) -> str:
    """Return "9 %" or "9 to 14 %"."""
    most = f"more than {LARGEST_VISIBLE * 100:.0f}"
    ends = dict.fromkeys(f"{change * 100:.0f}" if change <= LARGEST_VISIBLE else most for change in changes)
    return f"{' to '.join(ends)} %"


def _level_name(row: Change, comparison: Comparison) -> str:
    load = row.level.load
    alike = {other.level["label"] for other in comparison.headline if other.level.load == load}
    return load if len(alike) == 1 else str(row.level["label"])


def simulated_sides(comparison: Comparison) -> str | None:
    said = [
        "; ".join(dict.fromkeys(filter(None, (simulated_mark(one.summary) for one in side))))
        for side in (comparison.bases, comparison.news)
    ]
    if said[0] == said[1]:
        return said[0] or None
    return "; ".join(f"{name} {mark}" for name, mark in zip(("BASE", "NEW"), said, strict=True) if mark)


def run_lines(comparison: Comparison) -> list[str]:
    return [
        f"{name}: {side.summary['name']} ({side.run.path}), {measured_on(side.summary)}, "
        f"{instant(side.summary['started'])}"
        for name, runs in (("BASE", comparison.bases), ("NEW", comparison.news))
        for side in runs
    ]


def method(comparison: Comparison) -> str:
    confidence, noise = f"{comparison.confidence * 100:.5g}", percent(comparison.run_noise)
    if comparison.single:
        how = (
            f"Intervals come from batches of requests within each run and from the {noise} by which runs of one server are taken "
            f"to differ ({NOISE_FROM}; two runs cannot show it). A figure is judged only beyond {noise} and the tolerance together."
        )
    else:
        how = (
            f"Intervals come from how much the {len(comparison.bases)} and {len(comparison.news)} runs differ among themselves, "
            f"with {noise} ({NOISE_FROM}) taken for it where that is narrower."
        )
    more = "; several runs a side (A1 A2 A3 --against B1 B2 B3) show smaller changes" if comparison.single else ""
    seen = _in_percent(comparison.visible) if comparison.visible else ""
    smallest = f" The smallest change that shows in nine of ten such comparisons is {seen}{more}." if seen else ""
    if comparison.visible and comparison.visible[0] > LARGEST_VISIBLE:
        smallest = f" {capitalised(TOO_SHORT)}{more}."
    rates = note_on_rates((*comparison.bases, *comparison.news))
    held = (
        f"Each interval holds with {confidence} %, so that all {comparison.tests} hold together with 99 % (Bonferroni)."
    )
    if comparison.tests == 1:
        held = "One was judged; its interval holds with 99 %."
    if any(row.metric is STEPS for row in comparison.rows):
        rates += " Step time, at numbers of streams that all runs had, is the server's speed without its queue."
    if not comparison.tests:
        return f"No figure was judged, so no interval was made; the reason stands beside each level.{rates}"
    return (
        f"The headline figures were named beforehand. {held} {how}{rates}{smallest} A regression is a figure that is worse by "
        f"more than {comparison.tolerance * 100:g} %. Other figures have 95 % intervals and no verdict."
    )


def markdown(comparison: Comparison, picture: str | None) -> str:
    """Return compare.md; it names the PNG beside it."""
    heads = ("level", "figure", "BASE", "NEW", "change", f"{comparison.confidence * 100:.5g} % interval", "verdict")
    judged = tuple(table_row(row, comparison) for row in comparison.headline)
    rest = tuple(table_row(row, comparison)[:-1] for row in comparison.rows if not row.metric.headline)
    past = f"Regressions past {comparison.tolerance * 100:g} %: {len(comparison.regressions) or 'none'}."
    return render(
        "compare.md",
        outcome=outcome(comparison),
        simulated=simulated_sides(comparison),
        lines=(*run_lines(comparison), *comparison.notes, past),
        picture=picture,
        headline=Grid(heads, judged, names=2, prose=True),
        rest=Grid((*heads[:-2], "95 % interval"), rest, names=2) if rest else None,
        method=method(comparison),
    )


def table_row(row: Change, comparison: Comparison) -> tuple[str, ...]:
    return (
        row.level["label"],
        row.metric.name,
        *(amount_text(row, amount) for amount in (row.base, row.new)),
        change_text(row),
        interval_text(row),
        verdict_text(row, comparison.tolerance),
    )


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return compare.json: every row with its ratio, interval, verdict and reason; durations in seconds."""
    return {
        "schema": SCHEMA,
        "verdict": comparison.verdict,
        "sentence": outcome(comparison),
        "regression": bool(comparison.regressions),
        "tolerance": comparison.tolerance,
        "run_noise": comparison.run_noise,
        "smallest_visible": list(comparison.visible) if comparison.visible else None,
        "simulated": simulated_sides(comparison),
        "family_confidence": 0.99,
        "tests": comparison.tests,
        "confidence": comparison.confidence,
        "base": _side(comparison.bases[0]),
        "new": _side(comparison.news[0]),
        "base_runs": [_side(one) for one in comparison.bases],
        "new_runs": [_side(one) for one in comparison.news],
        "notes": list(comparison.notes),
        "rows": [
            {
                "level": row.level["label"],
                "concurrency": row.level["concurrency"],
                "metric": row.metric.id,
                "headline": row.metric.headline,
                "base": row.base,
                "new": row.new,
                "ratio": row.ratio,
                "interval": list(row.interval) if row.interval else None,
                "verdict": row.verdict,
                "reason": row.reason or None,
                "regression": row.regression,
            }
            for row in comparison.rows
        ],
    }


def _side(one: Analysis) -> dict[str, Any]:
    keys = ("name", "started", "server", "target", "simulated")
    return {"path": str(one.run.path), **{key: one.summary[key] for key in keys}}
