"""`loadtest compare` of three runs and more: printing and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from loadtest.analyse.comparison import many_report
from loadtest.analyse.comparison.many import Many, Pair, compare_many
from loadtest.analyse.report import VERDICT_STYLES
from loadtest.analyse.summary import Analysis
from loadtest.cli.compare.results import write_and_print
from loadtest.cli.output.printing import print_lines

MOST_PAIRS = 6  # on the terminal; of more the first of those with the first run
BESIDE_NAMES, LEAST_NAME = 66, 14  # columns of a terminal that are not for a word of a run's name in the table
# Columns that a narrow terminal loses, the first one first; level, run and verdict are never among them.
EXPENDABLE = (
    "TTFT mean",
    "E2E mean",
    "failed",
    "failed requests",
    "input tokens/s",
    "TTFT p95",
    "E2E p95",
    "mean tokens/s a stream",
)


def set_side_by_side(
    runs: Sequence[Analysis],
    out: Path,
    *,
    tolerance: float,
    run_noise: float,
    across: frozenset[str],
    as_json: bool,
) -> None:
    """Compare runs pair by pair, write compare.md, compare.json and compare.png, and print them."""
    from loadtest.analyse.charts import overlay

    many = compare_many(runs, tolerance=tolerance, run_noise=run_noise, across=across)
    body, markdown = many_report.to_dict(many), partial(many_report.markdown, many)
    write_and_print(out, partial(overlay.draw, many), markdown, body, partial(_print, many), as_json=as_json)


def _print(many: Many, console: Console) -> None:
    print_lines(console, many_report.outcome(many), style="bold")
    print_lines(console, (*many.named.sentences(many.letters), *many_report.short_run_lines(many)), before="• ")
    console.print()
    shared, _ = many_report.level_names(many)
    levels = many_report.level_table(many, most=max(console.width - BESIDE_NAMES, LEAST_NAME))
    console.print(levels.console_within(console.width, EXPENDABLE, shared or "Levels", styles=VERDICT_STYLES))
    _print_pairs(many, console)
    print_lines(console, many_report.first_unjudged(many), before="• ")
    console.print(Text(many_report.method(many), style="dim"))


def _print_pairs(many: Many, console: Console) -> None:
    """Print the change of each pair with its chance; a terminal too narrow for both has the change alone."""
    pairs, more = _shown_pairs(many)
    whole = many_report.pair_table(many, pairs)
    found: dict[str, str] = many_report.styles(many)
    for how in (_unbroken, _without_chance):
        grid = dataclasses.replace(whole, rows=tuple(tuple(map(how, row)) for row in whole.rows))
        styles = {how(cell): style for cell, style in found.items()}
        grid, left_out = grid.fitted(console.width, EXPENDABLE)
        if not left_out:
            break
    if not grid.rows:
        return
    said = [f"left out at {console.width} columns: {', '.join(left_out)}"] if left_out else []
    said += ["the p of each change is in compare.md"] if how is _without_chance else []
    said += [f"{more} more pairs are in compare.md"] if more else []
    console.print(
        grid.console("Change from one run to another", caption="; ".join(said), styles=styles, within=console.width)
    )


def _unbroken(cell: str) -> str:
    """Return a change and its chance as one word, so that a narrow table drops a column and breaks no cell."""
    return cell.replace(" ", "\u00a0") if "(p" in cell else cell


def _without_chance(cell: str) -> str:
    return cell.partition(" (p")[0]


def _shown_pairs(many: Many) -> tuple[list[Pair], int]:
    few = len(many.pairs) <= MOST_PAIRS
    shown = [pair for pair in many.pairs if few or pair.first is many.entries[0]][:MOST_PAIRS]
    return shown, len(many.pairs) - len(shown)
