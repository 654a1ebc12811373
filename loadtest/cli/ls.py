"""`loadtest ls`: run folders with their headline, read from summary.json or run.json alone."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import orjson

from loadtest.cli.results import json_option, print_json
from loadtest.errors import RunFolderError, ScenarioError
from loadtest.metrics import SUSPECT, VALID, VOID
from loadtest.run_folder import RunFolder
from loadtest.text import UNKNOWN, number, shown

RUNS = Path("runs")
SIGNS = ("run.json", "run.json.partial", "summary.json", "requests-*.jsonl")  # of a run folder, whole or not
NO_REPORT = "no report"
WIDE = 100  # columns of a terminal from which the time of day is shown
LOADS_SHOWN = 12  # characters of a list of loads; a longer one is given by its ends
DAMAGED = (AttributeError, KeyError, TypeError, ValueError)  # a file that is JSON, but not as it was written


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One run folder. Figures and verdict are None where there is no summary.json that is as new as the records."""

    path: Path
    name: str
    started: str | None = None
    model: str | None = None
    simulated: bool = False
    state: str | None = None
    loads: tuple[float, ...] = ()
    open_loop: bool = False
    levels: int = 0
    verdict: str | None = None
    void_levels: int | None = None
    tokens_per_s: float | None = None  # the most output tokens/s of a level that is not void
    trouble: str | None = None  # why the folder cannot be read

    def to_dict(self) -> dict[str, Any]:
        """Return a row of `ls --json`."""
        return {
            "path": str(self.path),
            "name": self.name,
            "started": self.started,
            "model": self.model,
            "simulated": self.simulated,
            "state": self.state,
            "levels": self.levels,
            "concurrency": None if self.open_loop else list(self.loads),
            "rate_per_s": list(self.loads) if self.open_loop else None,
            "verdict": self.verdict,
            "void_levels": self.void_levels,
            "max_output_tokens_per_s": self.tokens_per_s,
            "reported": self.verdict is not None,
            "trouble": self.trouble,
        }


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@json_option
def ls(folder: Path | None, *, as_json: bool) -> None:
    """List the run folders in DIR (default: runs) with their headline, the newest first.

    Tokens/s are the most output tokens/s of a level that is not void. Verdict and figures come from summary.json; a run
    that has none as new as its records is listed with "no report", and `loadtest report` makes it.
    """
    place = RUNS if folder is None else folder
    if folder is not None and not folder.is_dir():
        raise ScenarioError(f"{folder} is not a folder; name one that holds run folders.")
    found = sorted((_read(path) for path in _run_folders(place)), key=lambda one: one.started or "", reverse=True)
    if as_json:
        print_json({"folder": str(place), "runs": [one.to_dict() for one in found]})
    elif not found:
        print(f"{place} holds no run folders; `loadtest run` makes them.")
    else:
        _print(found)


def _run_folders(place: Path) -> Iterator[Path]:
    """Yield the run folders in `place`, or `place` itself where it is one."""
    try:
        inside = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
        for path in [place] if _is_run(place) else inside:
            if _is_run(path):
                yield path
    except OSError as error:
        raise ScenarioError(f"cannot read {place}: {error.strerror}.") from None


def _is_run(path: Path) -> bool:
    try:
        return any(next(path.glob(sign), None) is not None for sign in SIGNS)
    except OSError:
        return True  # and `_read` says why it cannot be read


def _read(path: Path) -> Headline:
    try:
        summary = _summary(path)
        if summary is not None:
            return _of_summary(path, summary)
        return _of_run(path, RunFolder.open(path).read_run())
    except RunFolderError as error:
        return Headline(path=path, name=path.name, trouble=str(error).removeprefix(f"{path} ").removeprefix(f"{path}/"))
    except OSError as error:
        return Headline(path=path, name=path.name, trouble=f"cannot be read: {error.strerror}.")
    except DAMAGED:
        return Headline(path=path, name=path.name, trouble="is damaged; `loadtest report` says how.")


def _summary(path: Path) -> dict[str, Any] | None:
    """Return summary.json; None where there is none, or it is older than the records."""
    file = path / "summary.json"
    if not file.is_file():
        return None
    written = file.stat().st_mtime_ns
    if any(each.stat().st_mtime_ns > written for each in path.glob("requests-*.jsonl")):
        return None
    try:
        found = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _of_summary(path: Path, summary: dict[str, Any]) -> Headline:
    levels = summary["levels"]
    if not isinstance(levels, list) or summary["verdict"] not in (VALID, SUSPECT, VOID):
        raise ValueError
    rates = [level["output_tokens_per_s"] for level in levels if level["verdict"] != VOID]
    return Headline(
        **_common(path, summary, levels),
        verdict=str(summary["verdict"]),
        void_levels=sum(level["verdict"] == VOID for level in levels),
        tokens_per_s=max((float(rate) for rate in rates if rate is not None), default=None),
    )


def _of_run(path: Path, facts: dict[str, Any]) -> Headline:
    simulated = (facts.get("server") or {}).get("simulated")
    return Headline(**_common(path, {**facts, "simulated": simulated}, facts.get("levels") or []))


def _common(path: Path, facts: dict[str, Any], levels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    rates = [level["rate"] for level in levels if level.get("rate") is not None]
    users = [level["concurrency"] for level in levels if level.get("concurrency") is not None]
    targets = facts.get("targets") or [facts.get("target") or {}]
    models = [str(one["model"]) for one in targets if one.get("model")]
    return {
        "path": path,
        "name": str(facts.get("name") or path.name),
        "started": None if facts.get("started") is None else str(facts["started"]),
        "model": ", ".join(dict.fromkeys(models)) or None,
        "simulated": bool(facts.get("simulated")),
        "state": None if facts.get("state") is None else str(facts["state"]),
        "loads": tuple(
            dict.fromkeys(float(rate) for rate in rates) if rates else dict.fromkeys(int(count) for count in users)
        ),
        "open_loop": bool(rates) or any(level.get("trace") for level in levels),
        "levels": len(levels),
    }


def _loads(one: Headline) -> str:
    """Return the loads of a run's levels: "1, 2, 4, 8", "1 to 64", "0.5 to 4/s"."""
    if not one.loads:
        return "trace" if one.open_loop else UNKNOWN
    unit = "/s" if one.open_loop else ""
    text = ", ".join(f"{load:g}" for load in one.loads) + unit
    return text if len(text) <= LOADS_SHOWN else f"{min(one.loads):g} to {max(one.loads):g}{unit}"


def _verdict(one: Headline) -> str:
    if one.verdict is None:
        return NO_REPORT if one.state in (None, "done") else str(one.state)
    return one.verdict if one.state in (None, "done") else str(one.state)


def _when(one: Headline, *, day_alone: bool) -> str:
    """Return the start of a run by the clock on the wall here."""
    try:
        at = datetime.datetime.fromisoformat(one.started or "").astimezone()
    except ValueError:
        return UNKNOWN
    return f"{at:%Y-%m-%d}" if day_alone else f"{at:%Y-%m-%d %H:%M}"


def _print(found: Sequence[Headline]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("when", no_wrap=True)
    table.add_column("model", overflow="ellipsis", no_wrap=True, min_width=8, max_width=30)
    table.add_column("levels", overflow="ellipsis", no_wrap=True, min_width=6)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    styles = {"valid": "green", "suspect": "yellow", "void": "bold red"}
    for one in found:
        if one.trouble is None:
            verdict = _verdict(one)
            model = shown(one.model or UNKNOWN)
            table.add_row(
                Text(shown(one.path.name or str(one.path))),
                _when(one, day_alone=console.width < WIDE),
                Text(model),
                _loads(one),
                number(one.tokens_per_s),
                Text(verdict, style=styles.get(verdict, "dim")),
            )
    if table.row_count:
        console.print(table)
    for one in found:
        if one.trouble is not None:
            console.print(Text(shown(f"{one.path.name} {one.trouble}"), style="dim"))
    simulated = sum(one.simulated for one in found)
    if simulated:
        every = "All of them" if simulated == len(found) else f"{simulated} of them"
        console.print(Text(f"{every} measured a simulated server.", style="dim"))
