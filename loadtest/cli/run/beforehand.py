"""What `loadtest run` keeps before the first request of a level: a prediction, the slots it probed, what the run is held against."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.asyncio_driver.run import Beforehand, KeepIn
from loadtest.cli.output.printing import at_work
from loadtest.errors import PredictionError, ScenarioError, os_error_as
from loadtest.run_folder import RunFolder, utc_now
from loadtest.scenario import EMBEDDINGS, OPEN_LOOP_S, Scenario
from loadtest.slo import Objective
from loadtest.targets.target import Target
from loadtest.workloads.workload import Workload


def beforehand_of(
    scenario: Scenario, prediction: Path | None, asked: dict[str, Any], *, probe_slots: bool
) -> Beforehand:
    """Return what a run keeps before its first request: the prediction, which is read and checked now, and a slot probe.

    `asked`, from which a report names the whole command, goes into run.json beside them.
    """
    what = "unload" if scenario.unload else "embeddings"
    if probe_slots and (scenario.unload or scenario.endpoint == EMBEDDINGS):
        raise ScenarioError(f"--probe-slots needs a loaded model that answers in tokens; leave it out with {what}.")
    if probe_slots and scenario.several:
        raise ScenarioError("--probe-slots looks at one server and one model; leave it out, or name one of each.")
    keeps = [] if prediction is None else [kept_prediction(prediction)]

    def find_out(target: Target, workload: Workload) -> KeepIn:
        mine = [*keeps, *([probed(target, workload)] if probe_slots else [])]
        return lambda folder: {key: value for each in mine for key, value in each(folder).items()} | {"asked": asked}

    return find_out


def kept_prediction(file: Path) -> KeepIn:
    """Return what copies a prediction into the run folder; it is read and checked now, before anything is sent."""
    from loadtest.analyse.whatif.predictions.prediction_file import FILE_NAME, file_digest, parse_document

    with os_error_as(PredictionError, f"cannot read the prediction {file}"):
        body = file.read_bytes()
    made = parse_document(body, str(file)).made

    def keep(folder: Path) -> dict[str, Any]:
        (folder / FILE_NAME).write_bytes(body)
        kept = utc_now()
        return {"prediction": {"sha256": file_digest(body), "made": made, "kept": kept}}

    return keep


def as_predicted(scenario: Scenario, prediction: Path | None) -> Scenario:
    """Return the scenario with the seed and number of requests of a prediction that was made for given requests."""
    from loadtest.analyse.whatif.predictions.prediction_file import read_document

    plan = None if prediction is None else read_document(prediction).plan
    if plan is None:
        return scenario
    for option, asked, predicted in (
        ("--seed", scenario.seed, plan.seed),
        ("--requests", scenario.requests, plan.requests),
    ):
        if asked not in (None, predicted):
            raise ScenarioError(f"{prediction} is of the requests of {option} {predicted}; leave {option} {asked} out.")
    if scenario.duration not in (None, OPEN_LOOP_S):
        raise ScenarioError(f"{prediction} is of {plan.requests} requests a level; leave --duration out.")
    return scenario.replace(seed=plan.seed, requests=plan.requests, duration=None)


def probed(target: Target, workload: Workload) -> KeepIn:
    """Probe the slots, print what they showed, and return what writes the probe's records into the run folder."""
    from loadtest.targets.slot_probe import probe_slots

    with at_work("Sending bursts of short requests"):
        found = probe_slots(target, workload)
    print(f"{found.how} ({found.cost})", file=sys.stderr)

    def keep(folder: Path) -> dict[str, Any]:
        if found.records:
            RunFolder(folder).write_probe(found.records, found.clock)
        return {"slot_probe": found.to_dict()}

    return keep


def held_against(
    slo: str | None, objectives: Sequence[Objective], find_max: int | None, scenario: Scenario
) -> dict[str, Any]:
    """Return what run.json notes of what the run is held against."""
    if slo is None:
        return {}
    if scenario.endpoint == EMBEDDINGS and (named := [each.name for each in objectives if each.of_tokens]):
        raise ScenarioError(
            f"--slo {', '.join(named)}: answers of embeddings have no tokens; name e2e_p95, requests_per_s or errors."
        )
    searched = {} if find_max is None else {"find_max": find_max, "requests": scenario.requests}
    return {"slo": slo, **searched}
