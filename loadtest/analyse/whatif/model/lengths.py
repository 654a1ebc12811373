"""The lengths that a model draws from: those of some levels, those that another run would have, or spread ones.

A run of some hundred requests knows the mean of its lengths to a few percent, and near saturation a wait grows by far more
than that. Where a distribution was asked for it is known, whatever the run drew from it: lengths are then drawn anew.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from itertools import cycle, islice

import numpy as np

from loadtest.analyse.run import FloatArray, RunData
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.model.sessions import only_levels
from loadtest.scenario import lengths_of

DRAWN = 2000  # lengths to draw from
FEWEST_COUNTED = 20  # requests, to see how the server counts what was asked for
AS_ASKED = 0.95  # of the answers must have the length asked for
MOST_OFF = 0.2  # of the spread of prompts: what the length asked for leaves open
MOST_AT_END = 0.02  # of prompts as long as the longest: more, and the context cuts some
SPREAD_SHARE = 0.1  # by which lengths are varied to either side where all observed ones are equal
SPREAD_LENGTHS = 21  # different lengths then


def with_likely_lengths(model: ServerModel, run: RunData, levels: Sequence[int]) -> ServerModel:
    """Return the model with the lengths that another run of these levels would draw from.

    They come from the distribution that was asked for; where that is unknown, they are those of these levels' requests.
    """
    model = with_lengths_of(model, run, levels)
    if model.sessions is not None:
        return model
    texts = {
        (level.get("input_lengths"), level.get("output_lengths")) for level in run.levels if level["index"] in levels
    }
    said, made = next(iter(texts)) if len(texts) == 1 else (None, None)
    if not (said or made) or "empirical" in f"{said}{made}":
        return model
    rows = run.good(*levels)
    columns = (run.uncached_tokens, *map(run.column, ("output_tokens", "asked_input", "asked")))
    lengths = np.stack([column[rows] for column in columns])
    prompt, output, asked, wanted = lengths[:, np.isfinite(lengths[:2]).all(axis=0)]
    if len(prompt) < FEWEST_COUNTED:
        return model
    draw = random.Random(0)
    prompts, outputs = _prompts(said, prompt, asked, draw), _answers(made, output, wanted, draw)
    if prompts is None or outputs is None:
        return model
    return dataclasses.replace(model, prompts=prompts, outputs=outputs, lengths_known=True)


def _drawn(text: str, draw: random.Random) -> FloatArray:
    lengths = lengths_of(text)
    return np.array([lengths.draw(draw, draw.random(), _no_file) for _ in range(DRAWN)], dtype=np.float64)


def _no_file(*_: object) -> tuple[int, ...]:
    raise AssertionError("lengths of a file are not drawn here")


def _prompts(text: str | None, seen: FloatArray, asked: FloatArray, draw: random.Random) -> tuple[int, ...] | None:
    """Return uncached prompt tokens; None where those asked for do not say how many the server counts."""
    if text is None:
        return tuple(int(each) for each in draw.choices(seen.tolist(), k=DRAWN))
    if not np.isfinite(asked).all() or asked.std() == 0:
        return None
    if (asked == asked.max()).mean() > MOST_AT_END and len(asked) > 1 / MOST_AT_END:
        return None
    slope, fixed = np.polyfit(asked, seen, 1)
    off = seen - fixed - slope * asked
    if off.std() > MOST_OFF * seen.std():
        return None
    made = fixed + slope * _drawn(text, draw) + np.array(draw.choices(off.tolist(), k=DRAWN))
    return tuple(max(round(float(each)), 1) for each in made)


def _answers(text: str | None, seen: FloatArray, asked: FloatArray, draw: random.Random) -> tuple[int, ...] | None:
    """Return output tokens; None where answers do not have the length asked for."""
    if text is None:
        return tuple(int(each) for each in draw.choices(seen.tolist(), k=DRAWN))
    if (seen == asked).mean() < AS_ASKED:
        return None
    return tuple(max(round(float(each)), 1) for each in _drawn(text, draw))


def with_lengths_of(model: ServerModel, run: RunData, levels: Sequence[int]) -> ServerModel:
    """Return the model with the lengths of these levels' requests alone; other levels may have other lengths."""
    if model.sessions is not None:
        model = dataclasses.replace(model, sessions=only_levels(model.sessions, run, levels))
    rows = run.good(*levels)
    lengths = np.stack([run.uncached_tokens[rows], run.column("output_tokens")[rows]])
    known = lengths[:, np.isfinite(lengths).all(axis=0) & (lengths > 0).all(axis=0)].astype(np.int64)
    if not known.shape[1]:
        return model
    return dataclasses.replace(model, prompts=tuple(known[0].tolist()), outputs=tuple(known[1].tolist()))


def with_spread_lengths(model: ServerModel) -> ServerModel:
    """Return the model with lengths spread by 10 % to either side where all observed ones are equal.

    Streams with equally long answers stay in step for ever, and have their prompts evaluated together. Those of real users
    do not.
    """
    draw = random.Random(0)
    prompts, outputs = (_spread_lengths(values, draw) for values in (model.prompts, model.outputs))
    count = max(len(prompts), len(outputs))
    prompts, outputs = (tuple(islice(cycle(values), count)) for values in (prompts, outputs))
    known = model.lengths_known or len(set(zip(model.prompts, model.outputs, strict=True))) == 1
    return dataclasses.replace(model, prompts=prompts, outputs=outputs, lengths_known=known)


def _spread_lengths(values: tuple[int, ...], draw: random.Random) -> tuple[int, ...]:
    if len(set(values)) > 1 or round(values[0] * SPREAD_SHARE) == 0:
        return values
    count = max(len(values), SPREAD_LENGTHS)
    found = [round(values[0] * (1 - SPREAD_SHARE + 2 * SPREAD_SHARE * i / (count - 1))) for i in range(count)]
    draw.shuffle(found)
    return tuple(found)
