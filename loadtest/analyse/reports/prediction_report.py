"""A prediction in a table and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from loadtest.analyse.findings.measured_on import marked, measured_on
from loadtest.analyse.run import grouped
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.model.cases import AS_KNOWN, NO_LIMIT
from loadtest.analyse.whatif.model.fit import PredictedCurve
from loadtest.analyse.whatif.model.prediction import Prediction
from loadtest.analyse.whatif.model.sessions import HOST_CACHE, NO_HOST_CACHE, SIZED_HOST_CACHE, UNSEEN_HOST_CACHE
from loadtest.analyse.whatif.predictions.predict_loads import describe_basis
from loadtest.analyse.whatif.predictions.prediction_file import Case, Document, PredictedLoad
from loadtest.grid import Grid
from loadtest.text import UNKNOWN, between, joined, listed, writer_of

SHOWN_FIGURES = (
    ("TTFT p50", "ttft_s.p50"),
    ("TTFT p95", "ttft_s.p95"),
    ("tokens/s a stream", "stream_tokens_per_s.p50"),
    ("output tokens/s", "output_tokens_per_s.mean"),
    ("E2E p95", "e2e_s.p95"),
    ("cached share", "cached_share.mean"),
)
HOSTS = (NO_HOST_CACHE, HOST_CACHE, SIZED_HOST_CACHE, UNSEEN_HOST_CACHE)
GROWS = "more than the server can do, so the queue grows for as long as the load lasts."
MAY_GROW = "by the model more than the server can do, but within what the bands allow for: whether the queue grows is not known."
KEPT_PACE = ", if the server keeps the pace of this run, whose levels do not show how much it changes"
TWO_PACES = ", as far as the only two levels with as many streams at once show how much the server's pace changes"
EXPENDABLE = ("E2E p95", "output tokens/s", "TTFT p50")


def heading(document: Document, analysis: Analysis) -> str:
    return marked(f"Predicted from {document.run['name']} · {measured_on(analysis.summary)}", analysis.summary)


def table(document: Document) -> Grid:
    """Return a row a load and case: each figure with its 95 % band below it; one that no case has is left out."""
    cases = [case for load in document.loads for case in load.cases]
    shown = [(name, figure) for name, figure in SHOWN_FIGURES if any(figure in case.figures for case in cases)]
    rows = tuple(
        (load.label, _slots_text(document, case), *(_cell(case, figure) for _, figure in shown))
        for load in document.loads
        for case in load.cases
    )
    return Grid(("load", "slots", *(name for name, _ in shown)), rows, names=2)


def curve_table(analysis: Analysis, curve: PredictedCurve) -> Grid | None:
    """Return the figures of the prediction chart, a row a number of streams.

    None where none gives back what was measured, and of conversations, whose figures depend on what the chart's title says.
    """
    if curve.missed or analysis.run.has_turns:
        return None
    rests = [_rests_on(each, analysis, curve) for each in curve.predictions]
    beyond = any(rests)
    rows = tuple(
        (
            str(each.concurrency),
            "yes" if each.concurrency in curve.series.concurrencies else "no",
            *(with_band(each, figure) for _, figure in SHOWN_FIGURES[:4]),
            *([clause] if beyond else []),
        )
        for each, clause in zip(curve.predictions, rests, strict=True)
    )
    users = "people" if any(level.as_asked.of_people for level in analysis.levels) else "streams"
    heads = [users, "measured too", *(f"{name} (95 % band)" for name, _ in SHOWN_FIGURES[:4])]
    heads += ["rests on what was not measured"] if beyond else []
    return Grid(tuple(heads), rows, names=2, prose=beyond)


def _rests_on(each: Prediction, analysis: Analysis, curve: PredictedCurve) -> str:
    """Return what a prediction takes for granted that was not measured; empty where that is nothing."""
    past = NO_LIMIT in curve.case and (each.concurrency or 0) > (analysis.believed_slots.estimate or 0)
    return joined("; ", "the server has slots for as many" if past else "", each.extrapolates)


def with_band(each: Prediction, figure: str) -> str:
    """Return a predicted figure and its band, "1.91 s (1.36 s to 2.67 s)"."""
    value, write = each.figures.get(figure, math.nan), writer_of(figure)
    if not math.isfinite(value):
        return UNKNOWN
    band = each.bands.get(figure)
    return write(value) + (f" ({between(*band, write)})" if band else "")


def _slots_text(document: Document, case: Case) -> str:
    if case.slots is None and case.name == AS_KNOWN:  # nobody has to wait, whatever the limit is
        return f"at least {document.rests_on['slots']['seen']}"
    many = "no limit" if case.slots is None else str(case.slots)
    host = next((name for name in HOSTS if case.name.endswith(name)), None)
    return f"{many}, {host}" if host else many


def _cell(case: Case, figure: str) -> str:
    if figure not in case.figures:
        return UNKNOWN
    write = writer_of(figure)
    return f"{write(case.figures[figure])}\n{between(*case.bands[figure], write)}"


def _growth(load: PredictedLoad, case: Case) -> str:
    if not case.grows:
        return ""
    most = case.bands.get("requests_per_s.mean", (0.0, 0.0))[1]
    return MAY_GROW if most >= (load.rate or 0.0) else GROWS


def notes(document: Document) -> Iterator[str]:
    """Yield what the figures rest on, and where they go beyond it."""
    told = [
        (said, f"{load.label}{f' ({case.name})' if len(load.cases) > 1 else ''}")
        for load in document.loads
        for case in load.cases
        for said in (_growth(load, case), f"{case.extrapolates}." if case.extrapolates else "")
        if said
    ]
    for said, places in grouped(told).items():
        yield f"{listed(places)}: {said}"
    if (plan := document.plan) is not None:
        yield (
            f"Of the very {plan.requests} requests of seed {plan.seed} to each load: `loadtest run --prediction` with this "
            "file sends these."
        )
    yield describe_basis(document)
    law = document.rests_on["step_law"]
    kept = KEPT_PACE if not law.get("pace_error") else TWO_PACES if law.get("pace_levels") == 2 else ""
    yield f"Below each figure: where 95 of 100 runs of this size should lie{kept}."
