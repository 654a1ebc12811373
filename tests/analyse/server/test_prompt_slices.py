"""How many prompt tokens a batch takes, by prompts that got their first token together; and a speed that takes too many."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from loadtest.analyse.server.timing import prefill
from loadtest.analyse.server.timing.prefill import possible_slices
from loadtest.analyse.server.timing.prefill_law import Prefill
from loadtest.analyse.server.timing.token_gaps import TokenGaps


@pytest.mark.parametrize(
    ("apart_s", "told", "likeliest"),
    [
        (0.0, True, 2048),  # both began in the batch that ended them: it took 800 tokens
        (0.1, True, 512),  # one may have begun in the batch before
        (0.0, False, 512),  # when they began is not known
    ],
)
def test_prompts_that_began_and_ended_together_were_in_one_batch(apart_s: float, told: bool, likeliest: int) -> None:
    first = np.repeat(np.arange(5.0), 2)
    requests: Any = SimpleNamespace(
        first=first, started=first - 0.5 + np.tile([0.0, apart_s], 5), told=np.full(10, told), edge_s=0.0
    )
    gaps = cast("TokenGaps", SimpleNamespace(requests=requests))
    assert possible_slices(gaps, np.full(10, 400.0))[0] == likeliest


@pytest.mark.parametrize(("speed", "holds"), [(13_300, False), (5_000, True)])
def test_a_speed_that_an_idle_server_is_far_from_is_not_said(
    monkeypatch: pytest.MonkeyPatch, speed: float, *, holds: bool
) -> None:
    """Was "Prefill runs at 13,300 prompt tokens/s" of 5,000: streams paused for the last slice of each prompt alone."""
    law: Any = {"fixed_s": 0.0, "n": 20, "method": "stated"}
    of_speed = {
        name: Prefill(1 / each, (1 / each, 1 / each), **law) for name, each in (("stalls", speed), ("idle", 5_000))
    }
    for name, found in of_speed.items():
        monkeypatch.setattr(prefill, f"_from_{name}", lambda *_, found=found: found)
    requests: Any = SimpleNamespace(first=np.ones(1), told=np.zeros(1, dtype=np.bool_), started=np.zeros(1), edge_s=0.0)
    run: Any = SimpleNamespace(
        uncached_tokens=np.full(1, 400.0), prompts_as_asked=False, flag=lambda _: np.zeros(1, dtype=np.bool_)
    )
    measured, _ = prefill.measure_prefill(run, cast("TokenGaps", SimpleNamespace(requests=requests)), np.zeros_like)
    assert measured is not None
    assert measured.holds is holds
