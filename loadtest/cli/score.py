"""`loadtest score`: a prediction held against a run that was measured afterwards."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from loadtest.cli.output.printing import json_option, print_json, print_lines, print_trouble
from loadtest.errors import PredictionError
from loadtest.grid import hanging
from loadtest.run_folder import RunFolder


@click.command()
@click.argument("prediction", metavar="PREDICTION.json", type=click.Path(path_type=Path))
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@json_option
def score(prediction: Path, run: Path, *, as_json: bool) -> int:
    """Compare a prediction with a run that was measured later: errors and bands, beside the errors of textbook models.

    For every level that was predicted it prints each figure's error in percent of what was measured (+ is too much), whether
    the 95 % band held it, and the Winkler score; then the errors of four textbook models fitted to the same levels. What is
    not scored is named, with the reason.

    \b
    Exit codes: 0 scored · 2 nothing could be scored
    """
    from loadtest.analyse.reports import score_report as words
    from loadtest.analyse.summary import analyse
    from loadtest.analyse.whatif.predictions.prediction_file import read_document

    document = read_document(prediction)
    analysis = analyse(run)
    found = words.score(document, analysis, words.kept_before(analysis, prediction.read_bytes()))
    if document.run["sha256"] == RunFolder(run).digest():
        raise PredictionError(
            f"{prediction} was made from {run} itself; score it on a run that was measured afterwards."
        )
    if as_json:
        print_json(found.to_dict() | {"sentence": words.sentence(found)})
        return 0 if found.figures else 2
    console = Console()
    print_trouble(console, analysis.run.trouble)
    if found.figures:
        console.print(words.table(found.figures).console_within(console.width, words.EXPENDABLE, words.heading(found)))
        console.print(hanging(f"• {words.sentence(found)}", console.width))
    print_lines(console, found.said, style="yellow")
    return 0 if found.figures else 2
