"""What advice promises, as a prediction: kept beside it, so that a run with the advised slots can score it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.analyse.run.frames import RunData
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.whatif.advice.slot_advice import Advice
from loadtest.analyse.whatif.model.fit import known_slots
from loadtest.analyse.whatif.model.series import longest_series
from loadtest.analyse.whatif.predictions.predict_loads import document_of, textbook_beside
from loadtest.analyse.whatif.predictions.prediction_file import AS_ASKED, Case, Document, PredictedLoad


def promise(
    run: RunData, advice: Advice, found: Slots, steps: Steps, levels: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> Document | None:
    """Return the prediction that advice promises, for every load that was measured; None where it promises nothing.

    `levels` and `facts` as in predict_loads.
    """
    series = longest_series(run)
    if not advice.promised or series is None:
        return None
    used = [level for level in levels if level["index"] in series.levels]
    known = known_slots(run, found)
    loads = tuple(
        PredictedLoad(
            load,
            None,
            advice.trial,
            (Case.of(AS_ASKED, said),),
            textbook_beside(used, known.limit or 1, load, None, advice.trial),
            advice.model.talks is not None,
        )
        for load, said in advice.promised.items()
    )
    said = (f"Promised by loadtest advise for {advice.knob} {advice.trial}, with the lengths of this run.",)
    return document_of(run, known, steps, used, advice.model, facts=facts, said=said, loads=loads)
