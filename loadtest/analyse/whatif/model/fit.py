"""The models that predictions of a run rest on: one function, which `predict`, the report's chart, `advise` and `explain` share.

They rest on levels of one length, at most numbers of users or rates.

Slots are taken as the run shows them, else as they are known otherwise; where their limit is not known there is a model for
each case. Every model is the first way of working that gives back the levels of the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.levels import series_of
from loadtest.analyse.server.prompt_cache.cache import measure_cache
from loadtest.analyse.server.queue.slots import Slots, known_slots
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.whatif.model import sessions
from loadtest.analyse.whatif.model.predict import Prediction, ServerModel
from loadtest.analyse.whatif.model.sessions import Sessions
from loadtest.analyse.whatif.model.ways import NoWayError, fitted_way
from loadtest.analyse.whatif.predictions.prediction_file import AS_KNOWN, LIMIT_SEEN, NO_LIMIT
from loadtest.errors import PredictionError
from loadtest.metrics import VOID
from loadtest.text import joined


@dataclasses.dataclass(frozen=True, slots=True)
class ClosedLoopSeries:
    """Levels of a closed loop that differ only in concurrency."""

    label: str  # e.g. "128 in · 64 out"
    levels: tuple[int, ...]
    concurrencies: tuple[int, ...]  # ascending


def longest_series(run: RunData) -> ClosedLoopSeries | None:
    """Return the closed-loop levels of the lengths that were measured at most concurrencies; of equals the last."""
    closed = (level for level in run.levels if level.get("concurrency") and level.get("rate") is None)
    found = [
        ClosedLoopSeries(
            each.label,
            tuple(level["index"] for level in each.levels),
            tuple(sorted({int(level["concurrency"]) for level in each.levels})),
        )
        for each in series_of(closed)
    ]
    return max(reversed(found), key=lambda each: len(each.concurrencies), default=None)


def levels_used(run: RunData, levels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the levels of summary.json that a prediction rests on: of one length, at most numbers of users or rates."""
    series = longest_series(run)
    if series is not None:
        return [level for level in levels if level["index"] in series.levels]
    steady = [level for level in levels if level["rate"] and level.get("rate_to") is None and not level.get("trace")]
    lengths = [(level["input_tokens"], level["output_tokens"], level["words"]) for level in steady]
    if not lengths:
        raise PredictionError(
            f"{run.path} has neither a level of a closed loop nor one at a constant rate; measure with --concurrency 1,2,4."
        )
    most = max(dict.fromkeys(lengths), key=lengths.count)
    return [level for level, each in zip(steady, lengths, strict=True) if each == most]


@dataclasses.dataclass(frozen=True, slots=True)
class Fitted:
    """The models of a run that give its levels back."""

    slots: Slots  # as known_slots has them
    models: dict[str, ServerModel]  # by case, AS_KNOWN alone where the limit is known; the first is the likeliest
    ruled_out: tuple[str, ...]  # a sentence for each case that the run itself rules out

    @property
    def likeliest(self) -> tuple[str, ServerModel]:
        return next(iter(self.models.items()))


def fit_models(
    run: RunData,
    found: Slots,
    steps: Steps,
    levels: Sequence[dict[str, Any]],
    foretold: Mapping[int, Prediction] | None = None,
) -> Fitted:
    """Return a model for each case that the run leaves open.

    Args:
        levels: of summary.json.
        foretold: what the likeliest model of the usual way says of each level, by index, where that is known already.

    Raises NoWayError where no way of working gives back the run, and PredictionError where the run says too little.
    """
    used = levels_used(run, levels)
    if all(level["verdict"] == VOID for level in used):
        raise PredictionError(
            f"No prediction: every level of {run.path} is void; measure again, and see the report for why."
        )
    slots = known_slots(run, found)
    if slots.limit or not slots.estimate:
        cases = {AS_KNOWN if slots.limit else NO_LIMIT: slots}
    else:
        cases = {NO_LIMIT: slots, LIMIT_SEEN: dataclasses.replace(slots, limit=True)}
    models: dict[str, ServerModel] = {}
    missed: dict[str, NoWayError] = {}
    for name, each in cases.items():
        for named, with_cache in _by_cache(name, run, each, steps).items():
            try:
                models[named] = fitted_way(run, each, steps, used, with_cache, foretold)
            except NoWayError as error:
                missed[named] = error
            foretold = None
    if not models:
        raise next(iter(missed.values()))
    ruled_out = [f"Ruled out by the run, and not shown: {name} ({wrong.missed})." for name, wrong in missed.items()]
    return Fitted(slots, models, tuple(ruled_out))


def _by_cache(name: str, run: RunData, slots: Slots, steps: Steps) -> dict[str, Sessions | None]:
    """Return the conversations of a run, in a case for each host cache that the server may have; None of single requests."""
    try:
        model = ServerModel.of(run, slots, steps)
    except PredictionError:  # what is fitted next says so, unless streams have a clock each
        return {name: None}
    if model.sessions is None:
        return {name: None}
    found = sessions.cache_cases(model.sessions, run, model.slots, measure_cache(run, slots, steps))
    return {
        named if name == AS_KNOWN and named else joined(" and ", name, named): each for named, each in found.items()
    }
