"""A server in virtual time: measured, predicted, and asked about on the command line."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from loadtest.analyse.comparison import comparable
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model import predict
from loadtest.analyse.whatif.predictions.predict_loads import predict_loads
from loadtest.analyse.whatif.predictions.prediction_file import Document
from loadtest.cli import cli
from loadtest.errors import LoadTestError
from loadtest.simulate.model.timing import StepLaw, Timing
from support.virtual_runs import Load, play

TRUTH = Timing(step=StepLaw(0.020, 0.005), prefill_s=0.001, jitter=0.05)


def measured(path: Path, users: Sequence[int], *, slots: int | None = 5, seed: int = 0, **more: Any) -> Path:
    """Measure a server of this truth: 10 requests a user and at least 20."""
    load = more.pop("load", Load())
    loads = [dataclasses.replace(load, users=each, requests=max(20, 10 * each)) for each in users]
    return play(more.pop("truth", TRUTH), loads, slots=slots, seed=seed, says=more.pop("says", "ollama")).write(
        path, **more
    )


_SAID: dict[Hashable, Document] = {}


def predicted(run: Path, **asked: Any) -> Document:
    """Predict loads from a run; what is asked again of a run of the same bytes is not worked out again."""
    told = tuple((path.name, path.read_bytes()) for path in sorted(run.iterdir()))
    key = (run.name, told, predict.TOKENS_SIMULATED, *sorted(asked.items()))
    if key not in _SAID:
        found = analyse(run)
        facts = comparable.asked_facts(found.run)
        _SAID[key] = predict_loads(found.run, found.slots, found.steps, found.summary["levels"], facts, **asked)
    return copy.deepcopy(_SAID[key])


def command(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, list(map(str, args)), standalone_mode=False)
    if isinstance(result.exception, LoadTestError | click.ClickException):
        return 2, str(result.exception)
    assert result.exception is None, result.exception
    return int(result.return_value or 0), result.output
