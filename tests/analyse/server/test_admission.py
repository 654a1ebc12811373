"""How waiting requests get into batches, as a run shows it: in the next one, or in the one after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.virtual_runs import Load, play

from loadtest.analyse.server.queue.admission import admission
from loadtest.analyse.summary import analyse
from loadtest.simulate.model.timing import StepLaw, Timing

LOADS = [Load(users=users, requests=60, prompt=(50, 250), output=(10, 50)) for users in (1, 4, 7)]


@pytest.mark.parametrize("base_s", [0.0005, 0.008])
def test_a_server_that_takes_the_next_at_once_is_told_from_one_that_takes_a_batch_first(
    base_s: float, tmp_path: Path
) -> None:
    """Steps beside others take longer than alone: a wait shorter than those is none of a batch."""
    for caught, relays in ((1.0, (0.0015,)), (0.0, ())):
        timing = Timing(
            step=StepLaw(base_s, base_s), prefill_s=0.0002, handover_s=0.001, jitter=0.03, caught=caught, relays=relays
        )
        run = analyse(play(timing, LOADS, slots=3, says="llamacpp").write(tmp_path / f"{caught}"))
        found = admission(run.run, run.slots, run.steps)
        assert found.caught == pytest.approx(caught, abs=0.1)
        if caught:
            assert np.median(found.relays) == pytest.approx(0.0015, abs=0.0003)
