"""How many prompt tokens a batch takes, by prompts that got their first token together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from loadtest.analyse.server.timing.prefill import possible_slices
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
