"""`loadtest compare`: two sides, or several runs side by side."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.analyse.comparison import compare_report, many_report
from loadtest.analyse.comparison.comparable import ASKED, REQUESTS_A_USER, asked_facts
from loadtest.analyse.comparison.compare import NOT_COMPARABLE, SAME, TOLERANCE, TOO_FEW, Change, Comparison
from loadtest.analyse.comparison.compare import compare as compare_runs
from loadtest.analyse.comparison.differences import RUN_NOISE
from loadtest.analyse.comparison.many import Many, compare_many
from loadtest.analyse.comparison.many_report import CHANGE_STYLES
from loadtest.analyse.report import VERDICT_STYLES
from loadtest.analyse.summary import Analysis, analyse
from loadtest.cli.options.param_types import ReadParam
from loadtest.cli.output.printing import (
    at_work,
    json_option,
    out_folder,
    out_option,
    print_json,
    print_lines,
    print_written,
)
from loadtest.errors import LoadTestError, ScenarioError
from loadtest.grid import Grid
from loadtest.run_folder import RunFolder, write_whole
from loadtest.scenario import read_share

HEADS = ("figure", "BASE", "NEW", "change", "interval", "verdict")
EXPENDABLE = ("interval", "BASE", "NEW", "change")  # left out of a narrow terminal, the first one first
MOST_PAIRS = 6  # on the terminal; of more the first of those with the first run
BESIDE_NAMES, LEAST_NAME = 66, 14  # columns of a terminal that are not for a word of a run's name in the table
# Columns that a narrow terminal loses of runs side by side, the first one first; level, run and verdict are never among them.
LOST_BESIDE = (
    "TTFT mean",
    "E2E mean",
    "failed",
    "failed requests",
    "input tokens/s",
    "TTFT p95",
    "E2E p95",
    "mean tokens/s a stream",
)
PICTURE = "compare.png"
# Keys of run.json's `comparability`, of which a folder may lack those that its loadtest did not know yet.
ACROSS = (
    "dialect",
    "model",
    "quantization",
    "context",
    "server",
    "simulated",
    "warm_cache",
    "unload",
    "arrivals",
    "prompt",
    "data",
    "shared_prefix",
    "shared_with",
)
ONE_RUN = (
    "name two runs, BASE and NEW, or several of each: compare BASE1 BASE2 --against NEW1 NEW2; three and more without "
    "--against stand side by side."
)


def _read_tolerance(text: str) -> float:
    """Read a share from 0 to below 1; raise ValueError or ScenarioError."""
    share = read_share(text)
    if not 0 <= share < 1:
        raise ScenarioError(f"{text!r} is not from 0 to below 1; write 5% or 0.05")
    return share


TOLERANCE_PARAM = ReadParam(_read_tolerance, "share", "a share; write 5% or 0.05")


class Against(click.Command):
    """A command whose --against takes every name up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given: list[str] = []
        inside = False
        for arg in args:
            inside = arg == "--against" or (inside and not arg.startswith("-"))
            given += ["--against", arg] if inside and arg != "--against" else [] if inside else [arg]
        if "--against" in args and "--against" not in given:
            raise click.BadOptionUsage("--against", "--against names no run; name the runs to compare with BASE.")
        return super().parse_args(ctx, given)


@click.command(cls=Against)
@click.argument(
    "runs",
    metavar="BASE NEW | BASE… --against NEW… | RUN RUN RUN…",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
)
@click.option(
    "--against",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="NEW…",
    help="Several runs a side: all names before it are BASE, all after it NEW.",
)
@click.option(
    "--tolerance",
    type=TOLERANCE_PARAM,
    default=TOLERANCE,
    metavar="SHARE",
    help=f"How much worse a figure may be before it is a regression, e.g. 5%.  [default: {TOLERANCE:.0%}]",
)
@click.option(
    "--run-noise",
    type=TOLERANCE_PARAM,
    default=RUN_NOISE,
    metavar="SHARE",
    help=f"How much runs of the same server differ (standard deviation), for one run a side.  [default: {RUN_NOISE:.0%}]",
)
@click.option(
    "--across",
    metavar="KEY,KEY",
    default="",
    help="What differs on purpose (model, quantization, context, dialect, …): runs that differ otherwise get no verdict.",
)
@out_option("Folder for the files.  [default: NEW, or the last run]")
@json_option
def compare(
    runs: tuple[Path, ...],
    *,
    against: tuple[Path, ...],
    tolerance: float,
    run_noise: float,
    across: str,
    out: Path | None,
    as_json: bool,
) -> int:
    """Say what changed between run folders, with intervals; write compare.md, compare.json and compare.png.

    Every level that all runs have gets a verdict (better, worse, no difference seen, not comparable) on TTFT mean and
    p95, mean tokens/s a stream, output tokens/s and failures. All verdicts together hold with 99 % confidence. Several
    runs a side (BASE1 BASE2 … --against NEW1 NEW2 …) reveal smaller changes.

    Three runs and more, or one run of several models or servers, are set side by side and named by what differs (model,
    quantization, server, GPU, slots, settings): a table of every level, a verdict on every pair, and one chart of all.

    \b
    Exit codes: 0 no regression, and of three runs and more always
                1 a figure is worse by more than --tolerance
                2 a mistake, or nothing could be compared
    """
    from loadtest.analyse.charts.compare import draw, draw_many

    alone = len(runs) == 1 and not against
    if alone and not (runs[0] / "run.json").is_file():
        raise LoadTestError(ONE_RUN)
    _check_distinct(runs, against)
    with at_work("Reading the runs"):
        every = [analyse(path) for path in (*runs, *against)]
    keys = _across_keys(across, every)
    if not against and len(runs) != 2:
        if alone and not every[0].groups:
            raise LoadTestError(ONE_RUN)
        many = compare_many(every, tolerance=tolerance, run_noise=run_noise, across=keys)
        write_and_print(
            out_folder(runs[-1], out),
            partial(draw_many, many),
            many_report.markdown(many, PICTURE),
            many_report.to_dict(many),
            partial(_print_many, many),
            as_json=as_json,
        )
        return 0
    base, new = (every[: len(runs)], every[len(runs) :]) if against else (every[:1], every[1:])
    found = compare_runs(base, new, tolerance=tolerance, run_noise=run_noise, across=keys)
    write_and_print(
        out_folder(new[0].run.path, out),
        partial(draw, found),
        compare_report.markdown(found, PICTURE),
        compare_report.to_dict(found),
        partial(_print_comparison, found),
        as_json=as_json,
    )
    if found.verdict == NOT_COMPARABLE:
        raise LoadTestError(f"nothing was judged. {compare_report.outcome(found)}.")
    return 1 if found.regressions else 0


def _across_keys(across: str, runs: Iterable[Analysis]) -> frozenset[str]:
    """Return the keys that --across names; raise ScenarioError, with the nearest key, for one that no run has."""
    known = {*ACROSS, *ASKED.values(), REQUESTS_A_USER, *(key for one in runs for key in asked_facts(one.run))}
    keys = frozenset(key.strip() for key in across.split(",") if key.strip())
    for key in sorted(keys - known):
        near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; keys are {', '.join(sorted(known))}."
        raise ScenarioError(f"--across: runs have no key {key[:60]!r}{hint}")
    return keys


def _check_distinct(*sides: Sequence[Path]) -> None:
    """Raise LoadTestError where a run is named twice, or one of several a side is a copy: copies do not scatter as runs do."""
    seen: dict[str, Path] = {}
    for number, side in enumerate(sides):
        for path in side:
            names = [os.path.realpath(path)]  # Path.resolve raises for a link that leads to itself
            if all(sides) and len(side) > 1:
                names.append(f"{number} {RunFolder.open(path).digest()}")
            for name in names:
                if name in seen:
                    raise LoadTestError(f"{seen[name]} and {path} are the same run: name two.")
                seen[name] = path


def _print_comparison(found: Comparison, console: Console) -> None:
    mark = compare_report.simulated_sides(found)
    console.print(Text(compare_report.outcome(found) + "." + (f" ({mark})" if mark else ""), style="bold"))
    print_lines(console, (*compare_report.run_lines(found), *found.notes), before="• ")
    console.print(_table(found, console.width))
    console.print(Text(compare_report.method(found), style="dim"))


def _table(found: Comparison, width: int) -> Table:
    """Return a row for each headline figure, those of a level below its name."""
    shared, own = compare_report.level_names(found)
    rows: list[tuple[str, ...]] = []
    styles = dict.fromkeys(own.values(), "bold")
    for label, name in own.items():
        changes = [row for row in found.headline if row.level["label"] == label]
        cells = [_console_row(row, found) for row in changes]
        rows += [(name, *[""] * (len(HEADS) - 1)), *cells]
        styles |= {each[-1]: CHANGE_STYLES[row.verdict or SAME] for each, row in zip(cells, changes, strict=True)}
    return Grid(HEADS, tuple(rows)).console_within(width, EXPENDABLE, shared or "Levels", styles=styles)


def _console_row(row: Change, found: Comparison) -> tuple[str, ...]:
    _, figure, base, new, change, interval, verdict = compare_report.table_row(row, found)
    # Why whole runs or levels are not comparable stands above the table, once.
    short = row.reason if row.reason == TOO_FEW else NOT_COMPARABLE if row.verdict == NOT_COMPARABLE else verdict
    return figure, base.removesuffix("/s"), new.removesuffix("/s"), change, interval.removesuffix(" %"), short


def write_and_print(
    out: Path,
    draw: Callable[[Path], Path],
    markdown: str,
    body: dict[str, Any],
    show: Callable[[Console], object],
    *,
    as_json: bool,
) -> None:
    """Write compare.png, which `draw` draws, compare.md and compare.json into a folder; print `body`, or what `show` prints."""
    out.mkdir(parents=True, exist_ok=True)
    picture = draw(out / PICTURE)
    page = write_whole(out / "compare.md", markdown.encode())
    written = [page, write_whole(out / "compare.json", orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n"), picture]
    if as_json:
        print_json({**body, "files": [str(path) for path in written]})
        return
    console = Console()
    show(console)
    print_written(console, written)


def _print_many(many: Many, console: Console) -> None:
    print_lines(console, many_report.outcome(many), style="bold")
    print_lines(console, (*many.named.sentences(many.letters), *many_report.short_run_lines(many)), before="• ")
    console.print()
    shared, _ = many_report.level_names(many)
    levels = many_report.level_table(many, most=max(console.width - BESIDE_NAMES, LEAST_NAME))
    console.print(levels.console_within(console.width, LOST_BESIDE, shared or "Levels", styles=VERDICT_STYLES))
    _print_pairs(many, console)
    print_lines(console, many_report.first_unjudged(many), before="• ")
    console.print(Text(many_report.method(many), style="dim"))


def _print_pairs(many: Many, console: Console) -> None:
    """Print the change of each pair with its chance; a terminal too narrow for both has the change alone."""
    few = len(many.pairs) <= MOST_PAIRS
    pairs = [pair for pair in many.pairs if few or pair.first is many.entries[0]][:MOST_PAIRS]
    more, whole = len(many.pairs) - len(pairs), many_report.pair_table(many, pairs)
    found: dict[str, str] = many_report.styles(many)
    for how in (_unbroken, _without_chance):
        grid = dataclasses.replace(whole, rows=tuple(tuple(map(how, row)) for row in whole.rows))
        styles = {how(cell): style for cell, style in found.items()}
        grid, left_out = grid.fitted(console.width, LOST_BESIDE)
        if not left_out:
            break
    if not grid.rows:
        return
    left_unsaid = [f"left out at {console.width} columns: {', '.join(left_out)}"] if left_out else []
    left_unsaid += ["the p of each change is in compare.md"] if how is _without_chance else []
    left_unsaid += [f"{more} more pairs are in compare.md"] if more else []
    console.print(
        grid.console(
            "Change from one run to another", caption="; ".join(left_unsaid), styles=styles, within=console.width
        )
    )


def _unbroken(cell: str) -> str:
    """Return a change and its chance as one word, so that a narrow table drops a column and breaks no cell."""
    return cell.replace(" ", "\u00a0") if "(p" in cell else cell


def _without_chance(cell: str) -> str:
    return cell.partition(" (p")[0]
