"""The curve of predictions that the prediction chart shows, computed in a second process while a long run is summed up.

A curve is about a dozen predictions, each a quarter of a second of plain Python. Of 100,000 requests of 500 chunks that is
5 s of CPU beside the 15 s that the summary takes: with two cores the report is ready by so much earlier.
"""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from loadtest.analyse.run import excerpts
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.server.slots import Slots
from loadtest.analyse.server.steps import Steps
from loadtest.analyse.whatif import slot_advice
from loadtest.analyse.whatif.predict import Prediction, ServerModel
from loadtest.analyse.whatif.slot_advice import ClosedLoopSeries
from loadtest.errors import PredictionError


@dataclass(frozen=True, slots=True)
class PredictedCurve:
    """Levels of a closed loop, and what the model predicts for their concurrencies, those between and twice the highest."""

    series: ClosedLoopSeries
    predictions: tuple[Prediction, ...]


class CurveAhead:
    """A predicted curve: begun when slots and steps are known, asked for when the chart is drawn."""

    def __init__(self, run: RunData, slots: Slots, steps: Steps, *, apart: bool | None = None) -> None:
        """Fit the model; `apart`: predict in another process, by default for runs of more than two million chunks."""
        self._series = slot_advice.longest_series(run)
        self._model: ServerModel | None = None
        self._begun: Future[tuple[Prediction, ...]] | None = None
        self._known: PredictedCurve | None = None
        if self._series is None or len(self._series.concurrencies) < 2:
            return
        try:
            self._model = slot_advice.narrowed(ServerModel.of(run, slots, steps), run, self._series.levels)
        except PredictionError:
            return
        apart = len(run.chunks.flat) > excerpts.MOST_READ_EVENTS if apart is None else apart
        if apart and sys.platform == "linux":  # a fork: a new interpreter would run a script without a main guard again
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of threads: NumPy's, which the fork does not use
                pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
                self._begun = pool.submit(slot_advice.curve, self._model, self._series.concurrencies)
            pool.shutdown(wait=False)

    def result(self) -> PredictedCurve | None:
        """Return the curve; None where the run holds no closed loop of two concurrencies or says too little to predict."""
        if self._series is None or self._model is None:
            return None
        if self._known is None:
            self._known = PredictedCurve(self._series, self._predictions(self._model, self._series))
        return self._known

    def _predictions(self, model: ServerModel, series: ClosedLoopSeries) -> tuple[Prediction, ...]:
        try:
            if self._begun is not None:
                return self._begun.result()
        except BrokenProcessPool:  # the other process was killed: predict here
            pass
        return slot_advice.curve(model, series.concurrencies)
