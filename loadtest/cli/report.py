"""`loadtest report` and `loadtest plot`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console


def show(folder: Path, *, charts: bool) -> bool:
    """Summarise a run folder on the console, write summary.json (and the report); return whether a level is void."""
    from loadtest.analyse.report import console_report, write_report

    written = write_report([folder], charts=charts)
    console_report(written, Console())
    return any(level["verdict"] == "void" for level in written.summary["levels"])


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
def report(runs: tuple[Path, ...]) -> int:
    """Make summary.json, report.md, report.html and PNG charts in each run folder.

    Reads what is on disk, any number of times; a run still in progress is reported as far as it got.
    Exit code 3 when a level is void.
    """
    void = [show(folder, charts=True) for folder in runs]
    return 3 if any(void) else 0


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for the PNGs.  [default: the run folder]")
def plot(runs: tuple[Path, ...], out: Path | None) -> None:
    """Make the PNG charts alone."""
    from loadtest.analyse.report import plot as draw

    for path in draw(list(runs), out):
        print(path)
