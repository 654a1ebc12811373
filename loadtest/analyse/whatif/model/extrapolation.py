"""How sure a prediction is past the streams that were measured, from how engines are built.

A step reads the weights once and takes a part for each stream, of which the context it holds is one. Its line is carried on
past the streams measured. What can go otherwise is known, too:

- the part for each stream is known only to the error of the step times; it may shrink, as larger batches are handled better;
- arithmetic on the streams hides behind the reading of the weights, until with more streams it takes longer than that;
- with other slots than the measured ones, streams in slots that are not neighbours may take passes of their own.

Nobody can tell from fewer streams where arithmetic takes over. The bands allow for it from twice the measured streams on.
"""

from __future__ import annotations

import dataclasses
import math

from loadtest.analyse.whatif.model.bands import SHARE
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.model.prediction import Prediction

ARITHMETIC_FROM = 2.0  # times the most streams measured
LEAST_GROWTH = 0.5  # share of the measured growth that is the least to expect past the streams measured
STANDARD_ERRORS = 2.0  # of the growth, that make a band for 95 of 100 cases
# share of a figure by which its band widens with each doubling of streams, where slots are not the measured ones
SPLIT = 0.4
UNSEEN_GROWTH = 0.25  # share by which it widens so where only one number of streams was measured
LEAST_SAID = 0.005  # of a step: less would be printed as 0 %
RATES = ("stream_tokens_per_s", "output_tokens_per_s", "requests_per_s")


def allowing_for_growth(model: ServerModel, said: Prediction) -> Prediction:
    """Return a prediction whose bands allow for the steps of more streams than were measured, and that says so."""
    streams = said.streams or min(said.concurrency or model.streams, said.slots or model.streams)
    if streams <= model.streams:
        return said
    shorter, longer = step_range(model, streams)
    widened = (
        SPLIT if said.slots != model.slots and model.slots is not None else 0.0 if model.slope_known else UNSEEN_GROWTH
    )
    if widened:
        split = 1 + widened * math.log2(streams / model.streams)
        shorter, longer = min(shorter, 1 / split), max(longer, split)
    bands = dict(said.bands)
    for key, (low, high) in said.bands.items():
        if key.startswith(RATES):
            bands[key] = (low / longer, high / shorter)
        elif key != SHARE:  # how much was cached does not depend on step times
            bands[key] = (low * shorter, high * longer)
    return dataclasses.replace(said, bands=bands, extrapolates=_words(said, model, shorter, longer))


def step_range(model: ServerModel, streams: int) -> tuple[float, float]:
    """Return by how much shorter and longer a step of so many streams may be than the line says."""
    most = model.streams
    measured, far = _mean(model, most), _mean(model, streams)
    growth = max(far - measured, 0.0)
    each = growth / (streams - most)
    reading = max(measured - each * most, 0.0)
    error = STANDARD_ERRORS * _growth_error(model) * (streams - most)
    low = max(measured + LEAST_GROWTH * growth - error, 0.5 * measured)
    high = far + error + reading * max(streams / (ARITHMETIC_FROM * most) - 1, 0.0)
    return min(low / far, 1.0), max(min(high, measured * streams / most) / far, 1.0)


def _mean(model: ServerModel, streams: int) -> float:
    values = model.timing.step.values(streams)
    return sum(values) / len(values)


def _growth_error(model: ServerModel) -> float:
    """Return the standard error of the part of a step for each stream, seconds."""
    known = sorted(model.step_errors)
    if len(known) < 2:
        return 0.0  # then the growth itself is drawn at random
    first, last = known[0], known[-1]
    return math.hypot(*(model.step_errors[each] * _mean(model, each) for each in (first, last))) / (last - first)


def _words(said: Prediction, model: ServerModel, shorter: float, longer: float) -> str | None:
    if said.extrapolates is None or not model.slope_known:
        return said.extrapolates
    ends = (
        (1 - shorter, "shorter, where growth slows down"),
        (longer - 1, "longer, where arithmetic takes longer than reading the weights"),
    )
    allowed = " to ".join(f"{share * 100:.0f} % {how}" for share, how in ends if share >= LEAST_SAID)
    return said.extrapolates + (f"; the bands allow for steps {allowed}" if allowed else "")
