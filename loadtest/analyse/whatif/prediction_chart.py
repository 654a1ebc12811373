"""What the prediction chart shows, worked out beside the summary: of a long run in a process of its own.

Playing the engine in virtual time takes seconds of plain Python, and needs nothing of what the summary works out.
"""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Self

from loadtest.analyse.run import excerpts
from loadtest.analyse.run.frames import Run
from loadtest.analyse.server.slots import Slots
from loadtest.analyse.server.steps import Steps
from loadtest.analyse.whatif import slot_advice
from loadtest.analyse.whatif.predict import Prediction, ServerModel
from loadtest.analyse.whatif.slot_advice import ClosedLoopSeries
from loadtest.errors import PredictionError


@dataclass(frozen=True, slots=True)
class Forecast:
    """The levels of a closed loop, and what the model says of them and of concurrencies between and beyond."""

    group: ClosedLoopSeries
    curve: tuple[Prediction, ...]

    @classmethod
    def of(cls, run: Run, slots: Slots, steps: Steps) -> Self | None:
        """Predict, where the run holds a closed loop and says enough to predict from; else None."""
        group = slot_advice.longest_series(run)
        if group is None or len(group.concurrencies) < 2:
            return None
        try:
            model = ServerModel.of(run, slots, steps)
        except PredictionError:
            return None
        model = slot_advice.narrowed(model, run, group.levels)
        return cls(group, slot_advice.curve(model, group.concurrencies))


class Ahead:
    """A forecast begun, to be asked for later."""

    def __init__(self, run: Run, slots: Slots, steps: Steps, *, apart: bool | None = None) -> None:
        """Begin; `apart`: in another process, by default for a run so long that its summary takes seconds as well."""
        self._work: Callable[[], Forecast | None] = lambda: Forecast.of(run, slots, steps)
        self._child: tuple[int, BinaryIO] | None = None
        if apart if apart is not None else len(run.chunks.flat) > excerpts.MOST_READ_EVENTS:
            self._child = _forked(self._work)

    def result(self) -> Forecast | None:
        """Wait for it; what the other process did not bring is worked out here."""
        if self._child is None:
            return self._work()
        pid, pipe = self._child
        self._child = None
        try:
            with pipe:
                found: Forecast | None = pickle.load(pipe)  # noqa: S301 — our own process wrote it
        except (EOFError, pickle.UnpicklingError):
            return self._work()
        finally:
            os.waitpid(pid, 0)
        return found


def _forked(work: Callable[[], Forecast | None]) -> tuple[int, BinaryIO] | None:
    """Begin `work` in a copy of this process, which writes what it found; None where that cannot be had."""
    if sys.platform != "linux":
        return None
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: NumPy's own, which the copy does not need
        pid = os.fork()
    if pid:
        os.close(write)
        return pid, os.fdopen(read, "rb")
    code = 1
    try:
        os.close(read)
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(work(), pipe)
        code = 0
    finally:
        os._exit(code)
