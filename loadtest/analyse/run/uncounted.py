"""Tokens of answers that nobody counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from loadtest.analyse.run.arrays import FloatArray, IntArray
from loadtest.analyse.run.files.reading import Columns

FEWEST_ALIKE = 3  # answers in pieces of several tokens, from which on a piece of another one holds as much


def counted_alike(columns: Columns, pieces: IntArray) -> tuple[FloatArray, npt.NDArray[Any]]:
    """Return the output tokens of each answer and their source, where those of a level that nobody counted are counted alike.

    The text of an answer that ended for its length tells whether it has what was asked for, in pieces of several tokens, or
    was cut. That errs in some answers, so most of a level decide for all, and a piece of one that ended earlier holds as much.
    """
    tokens, source, asked = columns["output_tokens"].copy(), columns["token_source"].copy(), columns["asked"]
    several = (source == "asked") & (pieces > 0) & (pieces < tokens)
    if not several.any():
        return tokens, source
    one_each, as_pieces = (source == "asked") & (pieces == tokens), source == "chunks"
    cut = as_pieces & (columns["finish_reason"] == "length") & (pieces < asked)
    of = pd.DataFrame({name: columns[name] for name in ("level", "model", "target")})
    numbers = of.groupby(list(of), dropna=False).ngroup().to_numpy()
    for number in np.unique(numbers[several]):
        mine = numbers == number
        held = mine & several
        if held.sum() < (mine & cut).sum():
            tokens[held], source[held] = pieces[held], "chunks"
        elif held.sum() >= max(FEWEST_ALIKE, (mine & one_each).sum()):
            rest = mine & as_pieces
            tokens[rest] = np.fmin(np.round(pieces[rest] * (tokens[held].sum() / pieces[held].sum())), asked[rest])
    return tokens, source
