"""`loadtest plot`: the PNG charts alone."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the PNGs: those of several runs over each other, and a folder a run.  [default: the run folder]",
)
def plot(runs: tuple[Path, ...], out: Path | None) -> None:
    """Make the PNG charts alone. With several runs and -o, also draw charts of all of them over each other."""
    from loadtest.analyse.report import plot as draw

    for path in draw(list(runs), out, say=lambda sentence: print(f"loadtest: {sentence}", file=sys.stderr)):
        print(path)
    if len(runs) > 1 and out is None:
        print("loadtest: -o DIR also draws these runs over each other.", file=sys.stderr)
