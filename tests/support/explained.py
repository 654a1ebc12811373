"""Explanations of one request of a run, and their words; runs in which it is short, and others may be long."""

from __future__ import annotations

from pathlib import Path

from loadtest.analyse.explain.explanation import Explainer, Explanation, row_of
from loadtest.analyse.reports import explain_report as words
from loadtest.analyse.summary import analyse
from loadtest.simulate.model.timing import StepLaw, Timing
from support.planted import Sent

TIMING = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.001, jitter=0.02, handover_s=0.001)


def explained(path: Path, request: int) -> Explanation:
    found = analyse(path)
    explainer = Explainer.of(found.run, found.slots, found.steps, found.summary["levels"])
    return explainer.explain(row_of(found.run, request))


def text(found: Explanation) -> str:
    return "\n".join(f"{took} {said}" for took, said in words.rows(found, found.parts.first))


def short_requests(more: tuple[Sent, ...] = ()) -> tuple[Sent, ...]:
    return (*(Sent(number, 100, 20, at=0.9 * number) for number in range(40)), *more)
