"""Runs side by side in words: what they show, a row a level and run, a row a level and pair; compare.md and compare.json."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from loadtest.analyse.comparison.comparable import ALL_THE_SAME, OTHER_COUNTS, suspect_levels
from loadtest.analyse.comparison.compare import BETTER, FAMILY_ERROR, NOT_COMPARABLE, SAME, TOO_FEW, WORSE, Change
from loadtest.analyse.comparison.compare_report import change_text
from loadtest.analyse.comparison.differences import NOISE_FROM
from loadtest.analyse.comparison.estimates import FAILED, Estimate, Metric, note_on_rates
from loadtest.analyse.comparison.many import OF_TOKENS, Entry, Many, Pair
from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.findings.measured_on import measured_on, simulated_mark
from loadtest.analyse.run import LevelData, grouped, shared_parts
from loadtest.grid import Grid, escaped
from loadtest.records import SCHEMA
from loadtest.templates import render
from loadtest.text import UNKNOWN, instant, joined, listed, percent, signed, some_of

NOT_SEEN = "~"  # as benchstat writes it
ALL_SIMULATED = "All of them measured a simulated server."
MOST_SAID = 8  # reasons without a verdict that the terminal gives


def short_run_lines(many: Many) -> Iterator[str]:
    """Name every run as the table does, with its folder; simulated ones as such, where all are in one sentence."""
    marks = [simulated_mark(entry.analysis.summary) for entry in many.entries]
    for entry, mark in zip(many.entries, marks, strict=True):
        said = (str(entry.analysis.run.path), "" if all(marks) else mark)
        yield f"{entry.letter}  {entry.name}: {joined(', ', *said)}"
    if all(marks):
        yield ALL_SIMULATED


def run_lines(many: Many) -> list[str]:
    """Name every run: its name in the table, server and model, folder; simulated ones as such."""
    every = [(entry, entry.analysis.summary) for entry in many.entries]
    return [
        f"{entry.letter}  {entry.name}: "
        + joined(", ", measured_on(run), simulated_mark(run), instant(run["started"]), entry.analysis.run.path)
        for entry, run in every
    ]


def runs_by_level(many: Many) -> list[tuple[str, list[tuple[Entry, LevelData]]]]:
    """Return each level's name with the runs that have it; the levels in order of their load."""
    found = grouped((level.as_asked.label, (entry, level)) for entry in many.entries for level in entry.levels)
    return sorted(found.items(), key=lambda each: (each[1][0][1].is_open, *_place(each[1][0][1])))


def _place(level: LevelData) -> tuple[float, ...]:
    asked = (level.get(key) for key in ("input_tokens", "output_tokens", "words"))
    return (*(float(value or 0) for value in asked), level.amount)


def level_names(many: Many) -> tuple[str, dict[str, str]]:
    """Return what all levels share, such as lengths, and each level's name without it."""
    return shared_parts([name for name, _ in runs_by_level(many)])


def outcome(many: Many) -> list[str]:
    """Say which run gives the most output and which answers first, at the highest load that the most runs have.

    Void levels do not count.
    """
    believed_at = [[(entry, level) for entry, level in pairs if not level.is_void] for _, pairs in runs_by_level(many)]
    most = max(map(len, believed_at), default=0)
    if most < 2:
        return [f"{len(many.entries)} runs have no level in common that is not void."]
    load = next(pairs for pairs in reversed(believed_at) if len(pairs) == most)
    metrics = [next(metric for metric in many.metrics if not metric.part), many.metrics[0]]
    if many.metrics == OF_TOKENS:
        metrics[0] = many.metrics[-1]
    missing = [entry.letter for entry in many.entries if entry not in [one for one, _ in load]]
    note = f" Without {listed(missing)}: void there, or not measured." if missing else ""
    ranked = [said for metric in metrics if (said := _best(many, load, metric))]
    if not ranked:
        return [f"At {load[0][1].load} the runs have no figure in common."]
    told = [
        f"of {entry.letter} {joined(', and ', level.left_out_said if level.many_failed else '', level.hung_up_said)}"
        for entry, level in load
        if level.many_failed or level.hung_up_said
    ]
    others = f"These are figures of the requests that were answered: {'; '.join(told)}."
    return [ranked[0] + note, *ranked[1:], *([others] if told else [])]


def _best(many: Many, load: Sequence[tuple[Entry, LevelData]], metric: Metric) -> str | None:
    """Say which run is best in a figure at one load, and whether the next one differs from it."""
    known = [(entry, found.value) for entry, level in load if (found := entry.estimate(level, metric)) is not None]
    if len(known) < len(load):
        return None
    at = load[0][1].load
    (first, value), (second, _), *_ = sorted(known, key=lambda each: each[1], reverse=not metric.lower_is_better)
    amount = metric.written(value)
    what = f"{'lowest' if metric.lower_is_better else 'most'} {metric.name}"
    pair = many.between(first, second)
    row = pair.row(next(level for entry, level in load if entry is pair.first), metric)
    if row is None or row.chance is None or row.ratio is None:
        return f"At {at}, {_named(first)} has the {what} ({amount}); whether {_named(second)} differs was not judged."
    if row.verdict == SAME:
        return f"At {at}, {_named(first)} has the {what} ({amount}), but no difference from {_named(second)} was seen."
    ratio = row.ratio if pair.second is first else 1 / row.ratio
    return f"At {at}, {_named(first)} has the {what}: {amount}, {signed(ratio - 1)} against {_named(second)}, the next."


def _named(entry: Entry) -> str:
    return f"{entry.letter} ({entry.name})"


def level_table(many: Many, *, most: int = 1000) -> Grid:
    """Return a row a level and run: headline figures with the half of their 95 % interval, and the verdict.

    Of a word of a run's name at most so many characters: run_lines have it whole.
    """
    _, names = level_names(many)
    rows = []
    for name, pairs in runs_by_level(many):
        for place, (entry, level) in enumerate(pairs):
            figures = [_figure_cell(entry, level, metric) for metric in many.metrics]
            bad = str(level.failed) if level.failed else ""
            called = " ".join(word if len(word) <= most else f"{word[: most - 1]}…" for word in entry.name.split(" "))
            run = f"{entry.letter} {called}"
            rows.append(("" if place else names[name], run, *figures, bad or UNKNOWN, level.verdict_said))
    heads = ("level", "run", *(metric.name for metric in many.metrics), "failed", "verdict")
    return Grid(heads, tuple(rows), names=2).without_unknown()


def _figure_cell(entry: Entry, level: LevelData | None, metric: Metric) -> str:
    found = entry.estimate(level, metric) if level is not None else None
    if found is None:
        return UNKNOWN
    amount = metric.written(found.value)
    half = half_width(found)
    return f"{amount} ±{half * 100:.{1 if half < 0.0995 else 0}f} %" if half is not None else amount


def half_width(found: Estimate) -> float | None:
    """Return the half of a figure's 95 % interval as a share of it; None where too few samples tell it."""
    return t_quantile(found.freedom) * max(found.down, found.up) if found.told else None


def pair_table(many: Many, pairs: Iterable[Pair]) -> Grid:
    """Return a row a pair and level: the change of each headline figure with its chance, "~" where none was seen."""
    _, names = level_names(many)
    metrics = [
        *many.metrics,
        *([FAILED] if any(row.metric is FAILED for pair in many.pairs for row in pair.rows) else []),
    ]
    rows: list[tuple[str, ...]] = []
    for pair in pairs:
        levels = {id(row.level): row.level for row in pair.rows}.values()
        told = [
            (names[level.as_asked.label], *(change_cell(pair.row(level, metric)) for metric in metrics))
            for level in levels
        ]
        told.append(("geomean", *_means(pair, metrics)))
        known = [cells for cells in told if set(cells[1:]) != {UNKNOWN}]  # why others are not stands below
        rows += [("" if place else pair.name, *cells) for place, cells in enumerate(known)]
    return Grid(("pair", "level", *(metric.name for metric in metrics)), tuple(rows), names=2)


def _means(pair: Pair, metrics: Iterable[Metric]) -> list[str]:
    means = (pair.overall(metric) for metric in metrics)
    return [UNKNOWN if mean is None else signed(mean - 1) for mean in means]


def change_cell(row: Change | None) -> str:
    """Return "−48.0 % (p=0.002)", "~ (p=0.410)", "too few" or a dash."""
    if row is None:
        return UNKNOWN
    if row.chance is None:
        return "too few" if row.reason == TOO_FEW else UNKNOWN
    chance = "p<0.001" if row.chance < 0.001 else f"p={min(row.chance, 1):.3f}"
    return f"{NOT_SEEN if row.verdict == SAME else change_text(row)} ({chance})"


def unjudged(many: Many) -> list[str]:
    """Say of levels and pairs that got no verdict why, of a void level what makes it void; then why levels are suspect."""
    _, own = level_names(many)
    void = grouped(
        ((entry.letter, "; ".join(level["reasons"])), own[level.as_asked.label])
        for entry in many.entries
        for level in entry.levels
        if level.is_void
    )
    said = [
        f"{letter} is void at {listed(levels)}, so no time or rate of it is compared there: {why}."
        for (letter, why), levels in void.items()
    ]
    reasons = grouped(dict.fromkeys((why, pair.name) for pair in many.pairs for why in _why_unjudged(pair, own)))
    for (reason, at), pairs in reasons.items():
        hint = f" ({ALL_THE_SAME})" * (reason == OTHER_COUNTS)
        said.append(f"No verdict on {', '.join(pairs)}{at}: {reason}{hint}.")
    said += suspect_levels([(entry.letter, level) for entry in many.entries for level in entry.levels])
    for entry in many.entries:
        said += [f"{entry.letter}: {trouble}" for trouble in entry.analysis.run.trouble]
    return said


def _why_unjudged(pair: Pair, own: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield why figures of a pair got no verdict, each with its level as in " at 8 streams" where it is not so at every level."""
    if pair.trouble:
        yield pair.trouble, ""
    for row in pair.rows:
        if row.reason and row.chance is None and row.reason != TOO_FEW and not row.reason.startswith("void in"):
            everywhere = row.reason.startswith("the runs differ in")
            yield row.reason, "" if everywhere else f" at {own[row.level.as_asked.label]}"


def method(many: Many) -> str:
    rates = note_on_rates(entry.analysis for entry in many.entries)
    if not many.tests:
        return f"No figure was judged: the reasons stand above.{rates}"
    least = percent(many.tolerance + many.run_noise)
    return (
        f"± is half of a figure's 95 % interval within its run. A pair's change is from its first run to its second; "
        f"p is its chance where nothing differs but the {percent(many.run_noise)} by which runs of one server are taken to differ "
        f"({NOISE_FROM}), adjusted for {some_of(many.tests, many.tests, 'figure')} tested (Holm). A change counts below p = {FAMILY_ERROR:g} "
        f"and beyond {least} (tolerance and run noise); {NOT_SEEN} says that none was seen. With one run a side that holds within "
        "these runs: compare A1 A2 --against B1 B2 takes several. geomean is the geometric mean over levels."
        f"{rates}"
    )


def markdown(many: Many, picture: str | None) -> str:
    """Return compare.md; it names the PNG beside it."""
    shared, _ = level_names(many)
    simulated = [entry.letter for entry in many.entries if simulated_mark(entry.analysis.summary)]
    who = "all of these runs" if len(simulated) == len(many.entries) else f"run {listed(simulated)}"
    return render(
        "side-by-side.md",
        names=listed([entry.name for entry in many.entries]),
        simulated=who if simulated else None,
        lines=(*outcome(many), *many.named.sentences(many.letters), *run_lines(many)),
        picture=picture,
        tables=[
            (f"Levels{f': {escaped(shared)}' if shared else ''}", level_table(many)),
            *((metric.name, against_first(many, metric)) for metric in many.metrics),
            ("Every pair", pair_table(many, many.pairs)),
        ],
        unjudged=unjudged(many),
        method=method(many),
    )


def against_first(many: Many, metric: Metric) -> Grid:
    """Return a figure as benchstat sets it out: a row a level, a column a run, and each run's change against the first."""
    first, *others = many.entries
    _, names = level_names(many)
    rows = []
    for name, pairs in runs_by_level(many):
        here = {entry.letter: level for entry, level in pairs}
        cells = [_figure_cell(first, here.get(first.letter), metric)]
        for entry in others:
            row = many.between(first, entry).row(here.get(first.letter), metric)
            cells += [_figure_cell(entry, here.get(entry.letter), metric), change_cell(row)]
        rows.append((names[name], *cells))
    means = [mean for entry in others for mean in _means(many.between(first, entry), [metric])]
    if set(means) - {UNKNOWN}:
        rows.append(("geomean", UNKNOWN, *(cell for mean in means for cell in (UNKNOWN, mean))))
    heads = [head for entry in others for head in (f"{entry.letter} {entry.name}", f"vs {first.letter}")]
    return Grid(("level", f"{first.letter} {first.name}", *heads), tuple(rows))


def to_dict(many: Many) -> dict[str, Any]:
    """Return compare.json: runs, levels with their figures, pairs with their changes; durations in seconds."""
    return {
        "schema": SCHEMA,
        "sentences": outcome(many),
        "differs": list(many.named.sentences(many.letters)),
        "not_judged": unjudged(many),
        "tolerance": many.tolerance,
        "run_noise": many.run_noise,
        "family_error": FAMILY_ERROR,
        "correction": "Holm",
        "tests": many.tests,
        "runs": [_run_dict(many, place, entry) for place, entry in enumerate(many.entries)],
        "pairs": [
            {
                "first": pair.first.letter,
                "second": pair.second.letter,
                "trouble": pair.trouble or None,
                "rows": [
                    {
                        "level": row.level.as_asked.label,
                        "metric": row.metric.id,
                        "first": row.base,
                        "second": row.new,
                        "ratio": row.ratio,
                        "p": row.chance,
                        "verdict": row.verdict,
                        "reason": row.reason or None,
                    }
                    for row in pair.rows
                ],
            }
            for pair in many.pairs
        ],
    }


def _run_dict(many: Many, place: int, entry: Entry) -> dict[str, Any]:
    summary = entry.analysis.summary
    return {
        "letter": entry.letter,
        "name": entry.name,
        "path": str(entry.analysis.run.path),
        **{key: summary[key] for key in ("started", "server", "target", "simulated")},
        "traits": {trait.key: trait.values[place] for trait in (*many.named.legend, *many.named.besides)},
        "levels": [
            {
                **{key: level[key] for key in ("label", "concurrency", "rate", "verdict", "reasons")},
                "failed": level.failed,
                "figures": {
                    metric.id: (found := entry.estimate(level, metric))
                    and {"value": found.value, "ci95_share": half_width(found)}
                    for metric in many.metrics
                },
            }
            for level in entry.levels
        ],
    }


CHANGE_STYLES = {BETTER: "green", WORSE: "bold red", SAME: "", NOT_COMPARABLE: "dim"}


def styles(many: Many) -> dict[str, str]:
    """Return the terminal's style of each cell of `pair_table`."""
    return {
        change_cell(row): CHANGE_STYLES[row.verdict or SAME]
        for pair in many.pairs
        for row in pair.rows
        if row.verdict in (BETTER, WORSE)
    }


def first_unjudged(many: Many) -> Iterator[str]:
    said = unjudged(many)
    yield from said[:MOST_SAID]
    if len(said) > MOST_SAID:
        yield f"{len(said) - MOST_SAID} more such reasons are in compare.md."
