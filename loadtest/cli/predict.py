"""`loadtest predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson
from rich.console import Console

from loadtest.cli.options.param_types import number_list, whole_list
from loadtest.cli.output.printing import at_work, json_option, print_json, print_lines, print_trouble, print_written
from loadtest.doubts import VOID
from loadtest.errors import PredictionError, ScenarioError
from loadtest.run_folder import write_whole

if TYPE_CHECKING:
    from loadtest.analyse.summary import Analysis
    from loadtest.analyse.whatif.predictions.prediction_file import Document

MOST_LOADS, MOST_REQUESTS = 64, 5000


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--concurrency", type=whole_list(1, 1024), help="Numbers of users to predict (closed loop).")
@click.option("--rate", type=number_list(1e-4, 10_000), help="Requests/s to predict, with Poisson arrivals.")
@click.option(
    "--slots",
    type=whole_list(1, 1024),
    help="Parallel slots to predict for.  [default: the server's own]",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1, max=MOST_REQUESTS),
    metavar="N",
    help="Predict for exactly this many requests a load (turns, where users hold conversations), drawn now; `loadtest run "
    "--prediction` then sends the same ones.",
)
@click.option("--out", type=click.Path(path_type=Path), default=None, help="File to write.  [default: prediction.json]")
@json_option
def predict(
    run: Path,
    concurrency: tuple[int, ...] | None,
    rate: tuple[float, ...] | None,
    slots: tuple[int, ...] | None,
    requests: int | None,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Say beforehand what other loads would give, with 95 % bands.

    From one run of several concurrencies it predicts TTFT, tokens/s and E2E at loads that were not measured, and writes
    prediction.json and prediction.png. `loadtest run --prediction prediction.json` keeps the prediction before the first
    request, and its report scores it; `loadtest score` scores it by any later run.

    \b
    Examples:
      loadtest predict runs/first --concurrency 6,8,12
      loadtest predict runs/first --rate 0.5,1 --requests 200 --out before.json
      loadtest predict runs/first --concurrency 8 --slots 2,4,8
    """
    from loadtest.analyse.charts import prediction as chart
    from loadtest.analyse.comparison.comparable import asked_facts
    from loadtest.analyse.findings.machine_findings import others_finding
    from loadtest.analyse.run.groups import refuse_groups
    from loadtest.analyse.summary import analyse, without_void
    from loadtest.analyse.whatif.model.seeded_run import SeededRun, new_seed
    from loadtest.analyse.whatif.predictions.predict_loads import predict_loads

    if not (concurrency or rate or slots):
        raise ScenarioError("say which load to predict: --concurrency 6,8, --rate 2 or --slots 4.")
    if (len(concurrency or ()) + len(rate or ()) or 1) * len(slots or (None,)) > MOST_LOADS:
        raise ScenarioError(f"that is more than {MOST_LOADS} loads; predict fewer at a time.")
    if requests is not None and (users := max(concurrency or (0,))) > requests:
        raise ScenarioError(f"--requests {requests} cannot keep {users} users busy; ask for {users} or more.")
    path = _free(out)
    with at_work("Reading the run") as tell:
        analysis = analyse(run)
        refuse_groups(analysis.run, [each for each, _ in analysis.groups], "predict")
        tell("Fitting a model to the run, and predicting with it")
        good = without_void(analysis)
        document = predict_loads(
            good.run,
            good.slots,
            good.steps,
            good.summary["levels"],
            asked_facts(analysis.run),
            void=[level["label"] for level in analysis.levels if level["verdict"] == VOID],
            concurrencies=concurrency or (),
            rates=rate or (),
            slots=slots or (),
            seeded=SeededRun(requests, new_seed()) if requests else None,
        )
        others = filter(None, [others_finding(analysis.run)])
        document = replace(document, said=(*map(str, others), *document.said))
        picture = chart.draw_loads(path.with_suffix(".png"), analysis, document)
    _show(document, analysis, [write_whole(path, document.to_bytes()), picture], as_json=as_json)


def _free(out: Path | None) -> Path:
    """Return the file to write; raise where it is there already, for a prediction must not be written over."""
    from loadtest.analyse.whatif.predictions.prediction_file import FILE_NAME

    path = out or Path(FILE_NAME)
    path = path / FILE_NAME if path.is_dir() else path
    if path.suffix != ".json":
        raise ScenarioError(f"{path} does not end in .json; name the file like --out before.json.")
    if path.exists():
        raise PredictionError(f"{path} is there already, and a prediction is not written over; choose another --out.")
    if not path.parent.is_dir():
        raise PredictionError(f"there is no folder {path.parent}; make it, or choose another --out.")
    return path


def _show(document: Document, analysis: Analysis, written: list[Path], *, as_json: bool) -> None:
    from loadtest.analyse.reports import prediction_report as words

    if as_json:
        print_json({**orjson.loads(document.to_bytes()), "files": [str(file) for file in written]})
        return
    console = Console()
    print_trouble(console, analysis.run.trouble)
    print_lines(console, document.said, before="! ", style="bold yellow")
    console.print(
        words.table(document).console_within(console.width, words.EXPENDABLE, words.heading(document, analysis))
    )
    print_lines(console, words.notes(document), style="dim")
    print_written(console, written)
