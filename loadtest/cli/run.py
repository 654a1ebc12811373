"""`loadtest run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from loadtest.cli.options import make_scenario, scenario_options
from loadtest.cli.progress import Line
from loadtest.cli.report import show
from loadtest.measure.session import Finished, measure
from loadtest.scenario import Scenario


def run_scenario(scenario: Scenario, out: Path | None) -> Finished:
    """Measure `scenario` with the live line on stderr."""
    line = Line()
    try:
        return measure(scenario, out, on_progress=line.show, say=lambda text: print(text, file=sys.stderr, flush=True))
    finally:
        line.close()


@click.command()
@click.argument("scenario_file", metavar="[SCENARIO.toml]", required=False, type=click.Path(path_type=Path))
@scenario_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make.  [default: runs/<time>-<name>]")
@click.option("--report", is_flag=True, help="Also write report.html, report.md and PNG charts into the folder.")
def run(scenario_file: Path | None, out: Path | None, *, report: bool, **values: Any) -> int:
    """Measure a server, level by level, into a run folder.

    The grid is every combination of --concurrency, --input-tokens and --output-tokens (or --words); each cell is a
    level. Ctrl-C ends cleanly and keeps every finished request. Options given here win over the scenario file.

    \b
    Examples:
      loadtest run --url http://127.0.0.1:11434 --concurrency 1,2,4,8 --report
      loadtest run scenarios/queue_past_four.toml --model llama3.1:70b --report
      loadtest run --api openai --url http://127.0.0.1:8000 --output-tokens 64,256
    """
    finished = run_scenario(make_scenario(scenario_file, values), out)
    void = show(finished.folder, charts=report)
    if finished.state == "interrupted":
        print("Interrupted: every finished request is kept.", file=sys.stderr)
        return 130
    return 3 if void else 0
