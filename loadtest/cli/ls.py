"""`loadtest ls`: run folders with their headline, read from summary.json or run.json alone."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.cli.output.printing import json_option, print_json
from loadtest.doubts import SUSPECT, VALID, VOID
from loadtest.errors import RunFolderError, ScenarioError, os_error_as
from loadtest.run_folder import RunFolder
from loadtest.text import UNKNOWN, listed, number, shown

RUNS = Path("runs")
SIGNS = ("run.json", "run.json.partial", "summary.json", "requests-*.jsonl")  # of a run folder, whole or not
NO_REPORT = "no report"
MOST_NAMED = 4  # runs in one sentence
WIDE = 100  # columns of a terminal from which the time of day is shown
# column -> from which width of the terminal it is shown
COLUMNS = {
    "run": 0,
    "when": 76,
    "model": 62,
    "levels": 48,
    "tokens/s": 0,
    "verdict": 0,
}
PADDING = 2  # columns between two columns
GIVING = {"model": 10, "run": 12}  # columns that may be narrower than their text -> the least width
STYLES = {VALID: "green", SUSPECT: "yellow", VOID: "bold red", NO_REPORT: "dim"}
LOADS_SHOWN = 12  # characters of a list of loads; a longer one is given by its ends
MOST_LOAD = 1e9  # users, or requests/s
DAMAGED = (AttributeError, KeyError, TypeError, ValueError)  # a file that is JSON, but not as it was written


Headline = dict[str, Any]  # one run folder, as `ls --json` says it
UNREAD: Headline = {  # figures and verdict are None where there is no summary.json that is as new as the records
    "path": None,
    "name": "",
    "started": None,
    "model": None,
    "simulated": False,
    "state": None,
    "levels": 0,
    "concurrency": (),  # None in an open loop
    "rate_per_s": None,  # None in a closed loop; of a ramp both ends
    "verdict": None,
    "void_levels": None,
    "max_output_tokens_per_s": None,  # of a level that is not void
    "reported": False,
    "trouble": None,  # why the folder cannot be read
}


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@json_option
def ls(folder: Path | None, *, as_json: bool) -> None:
    """List the run folders in DIR (default: runs) with their headline, the newest first.

    Tokens/s are the most output tokens/s of a level that is not void. A run whose summary.json is missing or older than
    its records is listed with "no report"; `loadtest report` makes it.
    """
    place = RUNS if folder is None else folder
    if folder is not None and not folder.is_dir():
        raise ScenarioError(f"{folder} is not a folder; name one that holds run folders.")
    found = sorted((_read(path) for path in _run_folders(place)), key=lambda one: one["started"] or "", reverse=True)
    if as_json:
        print_json({"folder": str(place), "runs": found})
    elif not found:
        print(f"{place} holds no run folders; `loadtest run` makes them.")
    else:
        _print(found)


def _run_folders(place: Path) -> Iterator[Path]:
    """Yield the run folders in `place`, or `place` itself where it is one."""
    with os_error_as(ScenarioError, f"cannot read {place}"):
        inside = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
        yield from filter(_is_run, [place] if _is_run(place) else inside)


def _is_run(path: Path) -> bool:
    try:
        return any(next(path.glob(sign), None) is not None for sign in SIGNS)
    except OSError:
        return True  # and `_read` says why it cannot be read


def _read(path: Path) -> Headline:
    try:
        summary = _summary(path)
        return _of_run(path, RunFolder.open(path).read_run()) if summary is None else _of_summary(path, summary)
    except RunFolderError as error:
        trouble = str(error).removeprefix(f"{path} ").removeprefix(f"{path}/")
    except OSError as error:
        trouble = f"cannot be read: {error.strerror}."
    except DAMAGED:
        trouble = "is damaged; `loadtest report` says how."
    return {**UNREAD, "path": path, "name": path.name, "trouble": trouble}


def _summary(path: Path) -> dict[str, Any] | None:
    """Return summary.json; None where there is none, or it was made while the run went on, and records came after it.

    Of a run that had ended nothing came later, whatever the files' times say: those of a copied folder are in any order.
    """
    file = path / "summary.json"
    if not file.is_file():
        return None
    try:
        found = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    written = file.stat().st_mtime_ns
    ended = found.get("state") not in (None, "running")
    later = not ended and any(each.stat().st_mtime_ns > written for each in path.glob("requests-*.jsonl"))
    return None if later else found


def _of_summary(path: Path, summary: dict[str, Any]) -> Headline:
    levels = summary["levels"]
    if not isinstance(levels, list) or summary["verdict"] not in (VALID, SUSPECT, VOID):
        raise ValueError
    # Of several models each level has a row for each of them, with its own part of the load.
    apart = bool(summary.get("groups"))
    parts: dict[int, list[dict[str, Any]]] = {}
    for place, level in enumerate(levels):
        parts.setdefault(level["index"] if apart else place, []).append(level)
    good = [
        [float(one["output_tokens_per_s"]) for one in rows]
        for rows in parts.values()
        if all(one["verdict"] != VOID and one["output_tokens_per_s"] is not None for one in rows)
    ]
    return {
        **(_of_run(path, RunFolder.open(path).read_run()) if apart else _headline(path, summary, levels)),
        "simulated": bool(summary["simulated"]),
        "verdict": str(summary["verdict"]),
        "void_levels": sum(any(one["verdict"] == VOID for one in rows) for rows in parts.values()),
        "max_output_tokens_per_s": max(map(sum, good), default=None),
        "reported": True,
    }


def _of_run(path: Path, facts: dict[str, Any]) -> Headline:
    simulated = (facts.get("server") or {}).get("simulated")
    return _headline(path, {**facts, "simulated": simulated}, facts.get("levels") or [])


def _headline(path: Path, facts: dict[str, Any], levels: Sequence[dict[str, Any]]) -> Headline:
    # Of a ramp both ends: its first rate alone would name another run.
    rates = [level[end] for level in levels for end in ("rate", "rate_to") if level.get(end) is not None]
    users = [level["concurrency"] for level in levels if level.get("concurrency") is not None]
    if max(map(abs, (*rates, *users)), default=0) > MOST_LOAD:
        raise ValueError
    targets = facts.get("targets") or [facts.get("target") or {}]
    models = [str(one["model"]) for one in targets if one.get("model")]
    open_loop = bool(rates) or any(level.get("trace") for level in levels)
    return {
        **UNREAD,
        "path": path,
        "name": str(facts.get("name") or path.name),
        "started": None if facts.get("started") is None else str(facts["started"]),
        "model": ", ".join(dict.fromkeys(models)) or None,
        "simulated": bool(facts.get("simulated")),
        "state": None if facts.get("state") is None else str(facts["state"]),
        "levels": len(levels),
        "concurrency": None if open_loop else list(dict.fromkeys(map(int, users))),
        "rate_per_s": list(dict.fromkeys(map(float, rates))) if open_loop else None,
    }


def _loads(one: Headline) -> str:
    """Return the loads of a run's levels: "1, 2, 4, 8", "1 to 64", of a ramp its way: "4 to 0.5/s"."""
    loads, unit = (one["concurrency"], "") if one["rate_per_s"] is None else (one["rate_per_s"], "/s")
    if not loads:
        return "trace" if unit else UNKNOWN
    text = ", ".join(f"{load:g}" for load in loads) + unit
    if len(loads) > one["levels"]:  # a ramp, which may go down
        return f"{loads[0]:g} to {loads[-1]:g}{unit}"
    return text if len(text) <= LOADS_SHOWN else f"{min(loads):g} to {max(loads):g}{unit}"


def _when(one: Headline, *, day_alone: bool) -> str:
    """Return the start of a run by the clock on the wall here."""
    try:
        at = datetime.datetime.fromisoformat(one["started"] or "").astimezone()
    except ValueError:
        return UNKNOWN
    return f"{at:%Y-%m-%d}" if day_alone else f"{at:%Y-%m-%d %H:%M}"


def _widths(rows: Sequence[Sequence[str]], heads: Sequence[str], width: int) -> dict[str, int]:
    """Return the width of each column, in `width` columns of a terminal: what is too much, model and then run give up."""
    needed = {head: max(len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(heads)}
    for name, least in GIVING.items():
        if name in needed:
            over = sum(needed.values()) + PADDING * (len(heads) - 1) - width
            needed[name] = min(needed[name], max(needed[name] - max(over, 0), least))
    return needed


def _print(found: Sequence[Headline]) -> None:
    console = Console()
    heads = [name for name, least in COLUMNS.items() if console.width >= least]
    rows = [[_cells(one, console.width)[name] for name in heads] for one in found if one["trouble"] is None]
    if rows:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, PADDING // 2, 0, 0), pad_edge=False, show_edge=False)
        for name, width in _widths(rows, heads, console.width).items():
            is_run = name == "run"  # which other commands are given, so that it is folded and never cut
            table.add_column(
                name,
                justify="right" if name == "tokens/s" else "left",
                no_wrap=not is_run,
                overflow="fold" if is_run else "ellipsis",
                width=width,
            )
        for row in rows:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        console.print(table)
        if left_out := [name for name in COLUMNS if name not in heads]:
            console.print(Text(f"Not shown for lack of room: {listed(left_out)}.", style="dim"))
    for one in found:
        if one["trouble"] is not None:
            console.print(Text(shown(f"{one['path'].name} {one['trouble']}"), style="dim"))
    simulated = [one["path"].name for one in found if one["simulated"]]
    if simulated:
        more = f", and {len(simulated) - MOST_NAMED} more," if len(simulated) > MOST_NAMED else ""
        every = "All of them" if len(simulated) == len(found) else f"{listed(simulated[:MOST_NAMED])}{more}"
        console.print(Text(f"{every} measured a simulated server.", style="dim"))


def _cells(one: Headline, width: int) -> dict[str, str]:
    over = one["state"] in (None, "done")
    return {
        "run": shown(one["path"].name or str(one["path"])),
        "when": _when(one, day_alone=width < WIDE),
        "model": shown(one["model"] or UNKNOWN),
        "levels": _loads(one),
        "tokens/s": number(one["max_output_tokens_per_s"]),
        "verdict": one["verdict"] or NO_REPORT if over else one["state"],
    }
