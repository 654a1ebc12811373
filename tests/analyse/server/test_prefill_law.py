"""The law of prompts, fitted to prompts that are drawn: its interval, and a part that each prompt takes besides its tokens."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from loadtest.analyse.findings.step_findings import _by_length
from loadtest.analyse.run import RunData
from loadtest.analyse.server.timing.prefill import _one_length
from loadtest.analyse.server.timing.prefill_law import fit_prefill


@pytest.mark.parametrize(("fixed", "jitter"), [(0.0, 0.3), (0.1, 0.03)])
def test_the_prefill_interval_holds(fixed: float, jitter: float) -> None:
    """Where steps scatter by a third it held in 83 of 100, and beside a fixed part, which is known as badly, in 78."""
    held = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        tokens = draw.uniform(100, 400, 40)
        spent = (0.0005 * tokens + fixed) * np.maximum(draw.normal(1.0, jitter, 40), 0.1)
        low, high = fit_prefill(tokens, spent, np.zeros(40), np.full(40, 0.02), "", None).ci95
        held += low <= 0.0005 <= high
    assert held >= 90


@pytest.mark.parametrize(
    ("share", "jitter", "least", "most"), [(0.1, 0.1, 27, 40), (0.3, 0.3, 23, 40), (0.0, 0.3, 0, 3)]
)
def test_a_fixed_part_of_prompts_is_found_where_there_is_one(
    share: float, jitter: float, least: int, most: int
) -> None:
    """Of 40 runs of 24 prompts 18 showed a tenth, and 13 a third beside times that scatter by as much: F had to be 20."""
    found = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        tokens = draw.integers(40, 400, 24).astype(np.float64)
        spent = (0.001 * tokens + share * 0.22) * np.exp(draw.normal(0, jitter, 24))
        found += fit_prefill(tokens, spent, np.zeros(24), np.zeros(24), "made up", 512).fixed_s > 0
    assert least <= found <= most


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ((30, 32, 34), " in prompts with about 32 tokens to read"),
        ((30, 32, 128), ", and takes 10.0 ms more for each prompt"),
        ((32, 32, 3000), ""),  # no length is that of all
    ],
)
def test_of_prompts_of_one_length_the_speed_is_that_of_such_prompts(prompts: tuple[int, ...], said: str) -> None:
    """Was "Prefill runs at 2563 prompt tokens/s" of 3,600: of 32 tokens each, beside what a prompt takes besides them."""
    tokens = np.repeat(np.array(prompts, dtype=np.float64), 4 if said else 1)
    nothing = np.zeros(len(tokens))
    found = fit_prefill(tokens, 0.01 + tokens / 3600, nothing, nothing, "made up", 512)
    found = replace(found, one_length=_one_length(tokens))
    assert _by_length(cast("RunData", SimpleNamespace()), found) == said
