"""The curve of predictions that the prediction chart shows, computed in a second process while a long run is summed up.

A curve is about a dozen predictions, each a quarter of a second of plain Python. Of 100,000 requests of 500 chunks that is
5 s of CPU beside the 15 s that the summary takes: with two cores the report is ready by so much earlier.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.run import excerpts
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.server.queue.slots import Slots, known_slots
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.whatif.model.extrapolation import allowing_for_growth
from loadtest.analyse.whatif.model.fit import ClosedLoopSeries, NoWayError, fit_models, longest_series, own_level
from loadtest.analyse.whatif.model.lengths import with_likely_lengths
from loadtest.analyse.whatif.model.predict import Prediction, ServerModel
from loadtest.analyse.whatif.predictions.prediction_file import AS_KNOWN
from loadtest.errors import PredictionError


@dataclass(frozen=True, slots=True)
class PredictedCurve:
    """Levels of a closed loop, and what the model predicts for their concurrencies, those between and twice the highest."""

    series: ClosedLoopSeries
    predictions: tuple[Prediction, ...]  # none where no way of working gives back the run
    missed: str | None = None  # then, what the usual one misses
    model: ServerModel | None = None
    case: str = AS_KNOWN  # of prediction.json, where the run leaves several open: the one that is drawn


@dataclass(frozen=True, slots=True)
class _Foretold:
    """What the usual way's model says, before it is known whether it gives back the run."""

    model: ServerModel
    levels: dict[int, Prediction]  # by index
    curve: tuple[Prediction, ...]


def _foretell(model: ServerModel, run: RunData, series: ClosedLoopSeries) -> _Foretold:
    mine = [level for level in run.levels if level["index"] in series.levels]
    levels = {int(level["index"]): own_level(model, run, level) for level in mine}
    return _Foretold(model, levels, predict_curve(model, series.concurrencies))


class CurveAhead:
    """A predicted curve: begun when slots and steps are known, asked for when the chart is drawn."""

    def __init__(self, run: RunData, slots: Slots, steps: Steps, *, apart: bool | None = None) -> None:
        """Begin with the usual way; `apart`: in another process, by default for runs of more than two million chunks."""
        self._run, self._slots, self._steps = run, slots, steps
        self._series = longest_series(run)
        self._begun: Future[_Foretold] | None = None
        apart = len(run.chunks.flat) > excerpts.MOST_READ_EVENTS if apart is None else apart
        if self._series is None or len(self._series.concurrencies) < 2 or not apart or sys.platform != "linux":
            return
        try:
            usual = ServerModel.of(run, known_slots(run, slots), steps)
        except PredictionError:
            return
        likely = with_likely_lengths(usual, run, self._series.levels)
        with warnings.catch_warnings():  # a fork: a new interpreter would run a script without a main guard again
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: NumPy's, which the fork does not use
            pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
            self._begun = pool.submit(_foretell, likely, run, self._series)
        pool.shutdown(wait=False)

    def result(self, levels: Sequence[dict[str, Any]]) -> PredictedCurve | None:
        """Return the curve; None where the run holds no closed loop of two concurrencies or says too little to predict.

        `levels` are those of summary.json, which the model must give back.
        """
        if self._series is None or len(self._series.concurrencies) < 2:
            return None
        try:
            foretold = None if self._begun is None else self._begun.result()
        except BrokenProcessPool:  # the other process was killed: predict here
            foretold = None
        known = None if foretold is None else foretold.levels
        try:
            fitted = fit_models(self._run, self._slots, self._steps, levels, known)
        except NoWayError as error:
            return PredictedCurve(self._series, (), error.missed)
        except PredictionError:
            return None
        case, model = fitted.likeliest
        if foretold is not None and model == foretold.model:
            return PredictedCurve(self._series, foretold.curve, model=model, case=case)
        curve = predict_curve(model, self._series.concurrencies)
        return PredictedCurve(self._series, curve, model=model, case=case)


def predict_curve(model: ServerModel, measured: Sequence[int]) -> tuple[Prediction, ...]:
    """Predict the concurrencies of the prediction chart: measured ones, those between, and up to twice the highest."""
    top = 2 * max(measured)
    between = {load for power in range(math.ceil(math.log2(top)) + 1) for load in (2**power, 3 * 2**power // 2)}
    loads = [load for load in sorted({*measured, *between, top}) if load <= top]
    return tuple(allowing_for_growth(model, model.closed(load)) for load in loads)
