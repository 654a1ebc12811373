"""The levels that a model was fitted to: what they measured, and whether the model gives it back."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from loadtest import metrics
from loadtest.analyse.server.prefill import Interval
from loadtest.analyse.whatif.predict import Prediction, ServerModel
from loadtest.metrics import VOID
from loadtest.text import counted, number, seconds

GIVEN_BACK = 0.15  # off a measured figure, beside the band: more is a model of another server
FITTED = (  # what a model must give back: (words, figure, statistic, share of the percentile)
    ("TTFT p50", "ttft_s", "p50", 0.5),
    ("TTFT p95", "ttft_s", "p95", 0.95),
    ("tokens/s a stream", "stream_tokens_per_s", "p50", 0.5),
    ("output tokens/s", "output_tokens_per_s", "mean", 0.5),
)
REQUEST_FIGURES = ("ttft_s", "queue_wait_s", "slot_wait_s", "batch_wait_s", "prefill_s", "e2e_s", "tpot_s", "itl_s")
SPREAD_SHARE = 0.1  # to either side of one length: requests of real users are not all equally long
SPREAD_LENGTHS = 21  # drawn where all observed ones are equal
WIDER = 0.4  # of a figure, for each doubling of streams beyond those measured


def as_measured(level: Mapping[str, Any], slots: int | None) -> Prediction:
    """Return what a level of summary.json measured, in the place of a prediction; its bands are its 95 % intervals."""
    figures, bands = {}, {}
    for name in (*REQUEST_FIGURES, "stream_tokens_per_s"):
        described = level.get(name) or {}
        figures[name] = {key: _or_nan(described.get(key)) for key in ("mean", "p5", "p50", "p90", "p95", "p99")}
        for key in figures[name]:
            if interval := described.get(f"ci95_{key}"):
                bands[f"{name}.{key}"] = (float(interval[0]), float(interval[1]))
    for name in ("output_tokens_per_s", "requests_per_s"):
        figures[name] = {"mean": _or_nan(level.get(name))}
        if interval := level.get(f"{name}_ci95"):
            bands[f"{name}.mean"] = (float(interval[0]), float(interval[1]))
    return Prediction(
        concurrency=level["concurrency"],
        rate=None,
        slots=slots,
        requests=int(level["requests"]),
        figures=figures,
        bands=bands,
        extrapolates=None,
    )


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def unmatched_figure(predict: Callable[[int], Prediction], levels: Iterable[Mapping[str, Any]]) -> str | None:
    """Say which measured figure a model does not give back; None where it gives back all of them.

    Void levels are no measure. A figure is given back within its band or 15 %, the measured one's own interval allowed for.
    """
    found: list[tuple[float, str]] = []
    for level in levels:
        if level["verdict"] == VOID or not level["concurrency"]:
            continue
        load = int(level["concurrency"])
        model, seen = predict(load), as_measured(level, None)
        for words, name, statistic, share in FITTED:
            value, said = seen.figure(name, statistic), model.figure(name, statistic)
            if not (value > 0 and math.isfinite(said)) or not metrics.enough_for(share, seen.requests):
                continue
            low, high = model.bands.get(f"{name}.{statistic}", (said, said))
            low, high = min(low, (1 - GIVEN_BACK) * said), max(high, (1 + GIVEN_BACK) * said)
            least, most = seen.bands.get(f"{name}.{statistic}", (value, value))
            if most < low or least > high:
                at = f"at {counted(load, 'stream')}"
                text = f"{words} {at} is {_figure_text(name, said)} by the model and {_figure_text(name, value)} as measured"
                found.append((abs(math.log(max(said, 1e-12) / value)), text))
    return max(found)[1] if found else None


def _figure_text(name: str, value: float) -> str:
    if name.endswith("per_s"):
        return number(value)
    return seconds(value)


def with_spread_lengths(model: ServerModel) -> ServerModel:
    """Return the model with lengths of 10 % to either side where all those observed are equal.

    Equal answers end together, and their successors' prompts are worked on together for ever: real users' do not.
    """
    draw = random.Random(0)
    prompts, outputs = (_spread_lengths(values, draw) for values in (model.prompts, model.outputs))
    count = max(len(prompts), len(outputs))
    pairs = zip(*((values * -(-count // len(values)))[:count] for values in (prompts, outputs)), strict=True)
    one, other = zip(*pairs, strict=True)
    return dataclasses.replace(model, prompts=one, outputs=other)


def _spread_lengths(values: tuple[int, ...], draw: random.Random) -> tuple[int, ...]:
    if len(set(values)) > 1 or round(values[0] * SPREAD_SHARE) == 0:
        return values
    count = max(len(values), SPREAD_LENGTHS)
    found = [round(values[0] * (1 - SPREAD_SHARE + 2 * SPREAD_SHARE * i / (count - 1))) for i in range(count)]
    draw.shuffle(found)
    return tuple(found)


def widened(prediction: Prediction, doublings: float) -> Prediction:
    """Return a prediction with bands widened for so many doublings of streams beyond those that were measured."""
    if doublings <= 0:
        return prediction
    factor = 1 + WIDER * doublings
    bands: dict[str, Interval] = {name: (low / factor, high * factor) for name, (low, high) in prediction.bands.items()}
    return dataclasses.replace(prediction, bands=bands)
