"""`loadtest plot`: the PNG charts alone."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from loadtest.cli.output.printing import out_folder, out_option
from loadtest.errors import ScenarioError


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@out_option("Folder for the PNGs; several runs need one.  [default: the run folder]")
@click.option("--each", is_flag=True, help="With several runs, draw the charts of each one, too.")
def plot(runs: tuple[Path, ...], out: Path | None, *, each: bool) -> None:
    """Make the PNG charts alone: of one run all of them, of several runs four with all runs in each."""
    from loadtest.analyse.report import plot as draw

    if len(runs) > 1 and out is None and not each:
        raise ScenarioError(
            "-o DIR says where the charts of several runs go; --each alone draws those of each run into its own folder."
        )
    for run in runs if out is None else runs[:1]:
        out_folder(run, out)
    for path in draw(list(runs), out, each=each, say=lambda sentence: print(f"loadtest: {sentence}", file=sys.stderr)):
        print(path)
