"""Tokens of answers that nobody counted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from loadtest.analyse.run.arrays import FloatArray, IntArray
from loadtest.analyse.run.files.reading import Columns


def counted_alike(columns: Columns, pieces: IntArray) -> FloatArray:
    """Return the output tokens of each answer, where those of a level that nobody counted are counted alike.

    The text of an answer that ended for its length tells whether it has what was asked for, in pieces of several tokens, or
    was cut. That errs in some answers, so most of a level decide for all, and a piece of one that ended earlier holds as much.
    """
    tokens, source = columns["output_tokens"].copy(), columns["token_source"]
    several = (source == "asked") & (pieces > 0) & (pieces < tokens)
    if not several.any():
        return tokens
    as_pieces = source == "chunks"
    cut = as_pieces & (columns["finish_reason"] == "length")
    of = pd.DataFrame({"level": columns["level"], "model": columns["model"]})
    numbers = of.groupby(["level", "model"], dropna=False).ngroup().to_numpy()
    for number in np.unique(numbers[several]):
        mine = numbers == number
        held = mine & several
        if held.sum() < (mine & cut).sum():
            tokens[held] = pieces[held]
        else:
            rest = mine & as_pieces
            tokens[rest] = np.round(pieces[rest] * (tokens[held].sum() / pieces[held].sum()))
    return tokens
