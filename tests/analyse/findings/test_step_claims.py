"""What sentences on steps and prefill need to have seen; without it they are not said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.bare_analysis import LIMIT, Run, of

from loadtest.analyse.findings import step_findings
from loadtest.analyse.server.timing.prefill_law import Prefill, fit_prefill
from loadtest.analyse.server.timing.step_law import Law
from loadtest.analyse.server.timing.steps import Steps


def steps_of(*, fits: bool, reason: str | None, per_stream_s: float = 0.002) -> Any:
    law = Law(0.010, (0.009, 0.011), per_stream_s, (0.001, 0.003), 0.01, fits=fits)
    times = [SimpleNamespace(streams=number, kinds=(), n=n) for number, n in ((1, 80), (2, 80), (3, 16), (4, 80))]
    return cast(
        "Steps",
        SimpleNamespace(
            law=law, law_reason=reason, times=times, prefill=None, apart=False, change=None, paces={}, gathered=False
        ),
    )


def test_a_law_is_said_where_it_fits() -> None:
    assert step_findings.steps_findings(of(LIMIT, steps=steps_of(fits=True, reason=None)))[0].startswith(
        "A step of the server takes 10.0 ms, and 2.00 ms more for each stream"
    )
    (flat, *_) = step_findings.steps_findings(of(LIMIT, steps=steps_of(fits=True, reason=None, per_stream_s=1e-9)))
    assert flat == "A step of the server takes 10.0 ms, however many streams decode."  # was "and 0 ms more"
    # was "at 1-4 streams; the line is off by at most 1 %" beside a table with three streams 9 % off
    assert (
        flat.evidence
        == "Steps were seen at 1-2 and 4 streams (too few to count at 3 streams); the line is off by at most 1 %. Only this "
        "run's streams are counted: what others have at the server is in the time of a step as well."
    )
    said = step_findings.steps_findings(of(LIMIT, steps=steps_of(fits=False, reason="the step time is no line")))
    assert said == ["The step time is no line."]


@pytest.mark.parametrize(
    ("least", "speeds", "said"),
    [
        (
            False,
            [500.0] * 4,
            "Prefill runs at 909 to 1111 prompt tokens/s (95 % interval).",
        ),  # was 1000, of steps that scatter by 30 %
        (True, [500.0] * 4, "Prefill runs at 500 prompt tokens/s or faster."),  # was 1000: half of what a step allows
        (True, [500.0] * 2, None),
    ],
)
def test_the_least_speed_of_prefill_is_said_as_the_least(*, least: bool, speeds: list[float], said: str | None) -> None:
    steps = steps_of(fits=True, reason=None)
    steps.prefill = Prefill(0.001, (0.0009, 0.0011), 0.0, 9, "stated", least=least)
    run = Run(facts={}, column=lambda _: np.array(speeds))
    found = [each for each in step_findings.steps_findings(of(LIMIT, steps=steps, run=run)) if "Prefill" in each]
    assert found == ([said] if said else [])
    if said and least:  # others may have used the server: was "prompts that had the server to themselves"
        assert found[0].evidence.startswith("Measured from prompts with no other request of this run at the server;")


@pytest.mark.parametrize(
    ("fixed_s", "context_s", "said"),
    [
        (0.0, 0.0, ""),
        (0.02, 0.0, ", and takes 20.0 ms more for each prompt"),
        (
            0.0,
            1e-6,
            "; it slows down with the length of a prompt: 1818 in one of 100 tokens and 800 in one of 1,500 tokens",
        ),
    ],
)
def test_the_speed_of_prefill_is_said_by_length_where_it_goes_by_length(
    fixed_s: float, context_s: float, said: str
) -> None:
    """Was one speed of a real server that reads short prompts far faster than long ones, or takes as long for each besides."""
    steps = steps_of(fits=True, reason=None)
    before = 500.0 if context_s else 0.0
    steps.prefill = Prefill(0.001, (0.001, 0.00101), fixed_s, 9, "stated", context_s=context_s, before=before)
    run = Run(
        facts={},
        requests={"status": [200.0] * 3, "ok": [True, True, False]},
        uncached_tokens=np.array([100.0, 1500.0, 9.0]),
    )
    assert f"Prefill runs at 1000 prompt tokens/s{said}." in step_findings.steps_findings(
        of(LIMIT, steps=steps, run=run)
    )


def test_a_speed_that_is_not_known_is_not_said() -> None:
    """Was "Prefill runs at 4,994,196 prompt tokens/s" where streams have a clock each, within 0 and twice as much."""
    steps = steps_of(fits=True, reason=None)
    steps.prefill = SimpleNamespace(per_token_s=2e-7, ci95=(0.0, 4e-7), least=False, method="stated", holds=True)
    assert not [said for said in step_findings.steps_findings(of(LIMIT, steps=steps)) if "Prefill" in said]


@pytest.mark.parametrize(("interference", "said"), [(None, False), (0.0, False), (0.0008, True)])
def test_that_prompts_shared_steps_is_seen_where_none_was_alone(interference: float | None, *, said: bool) -> None:
    """Was half as fast again where streams have a clock each: the steps that they did not share were taken off."""
    steps = steps_of(fits=True, reason=None)
    steps.prefill = Prefill(0.001, (0.0009, 0.0011), 0.0, 9, "stated", holds=None)
    steps.interference_s = interference
    assert any("Prefill" in each for each in step_findings.steps_findings(of(LIMIT, steps=steps))) is said


@pytest.mark.parametrize(
    ("spent_ms", "holds"),
    [
        # a real llama.cpp on a machine that others used: was "Prefill runs at 603 prompt tokens/s", and 6026 a minute later
        ((7.5, 7.5, 8.3, 8.3, 8.7, 8.7, 9.9, 28, 43, 51, 56, 56, 60, 65, 66, 81, 85), False),
        ((7.5, 7.5, 8.3, 8.3, 8.7, 8.7, 9.9, 10, 11, 11, 11, 9, 8, 9, 66, 81, 85), True),
    ],
)
def test_a_speed_is_that_of_most_prompts(spent_ms: tuple[float, ...], *, holds: bool) -> None:
    spent, nothing = np.array(spent_ms) / 1e3, np.zeros(len(spent_ms))
    assert fit_prefill(np.full(len(spent), 38.0), spent, nothing, nothing, "", None).holds is holds


def test_a_long_way_is_no_reading_of_prompts() -> None:
    """Was 3,054 prompt tokens/s behind a gateway that takes 0.3 s, of a server that reads 5,000."""
    tokens, nothing = np.linspace(100.0, 300.0, 24), np.zeros(24)
    found = fit_prefill(tokens, 0.3 + tokens / 5000, nothing, nothing, "", None)
    assert (found.per_token_s, found.fixed_s) == pytest.approx((1 / 5000, 0.3), rel=0.02)


@pytest.mark.parametrize(("n", "said"), [(12 * 4, False), (12 * 40, True)])
def test_steps_are_of_two_kinds_where_many_were_seen(n: int, *, said: bool) -> None:
    """Was said of four steps, which each of 12 streams saw as a gap."""
    steps = steps_of(fits=True, reason=None)
    kinds = (SimpleNamespace(centre_s=0.3, share=0.25), SimpleNamespace(centre_s=0.4, share=0.75))
    steps.times = [SimpleNamespace(streams=12, n=n, kinds=kinds)]
    assert any("of two kinds" in each for each in step_findings.steps_findings(of(LIMIT, steps=steps))) is said
