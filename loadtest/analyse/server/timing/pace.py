"""How much a server's pace differs from one level to the next, and so by how much another run's may.

The same steps take longer in one minute than in another where a machine is shared, heats up or changes its clock. One run
shows it by its levels: each was measured at a time of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.server.timing.token_gaps import TokenGaps

FEWEST_OF_A_LEVEL = 100  # steps of one number of streams, from which on their mean counts: few are a choice of moments
LEAST_FREEDOM = 3  # of Student's t: a spread seen in two levels is a spread, and no bound


def pace_error(paces: Mapping[int, float]) -> float:
    """Return by what share the pace of another run may differ, with 95 % confidence; 0 where levels cannot be compared.

    The logarithms of k levels' paces scatter by s; another run of their kind lies within t · s · √(1 + 1/k).
    """
    if len(paces) < 2:
        return 0.0
    spread = float(np.std(np.log(list(paces.values())), ddof=1))
    return t_quantile(max(len(paces) - 1, LEAST_FREEDOM)) * spread * math.sqrt(1 + 1 / len(paces))


def level_paces(run: RunData, gaps: TokenGaps) -> dict[int, float]:
    """Return by what factor steps took longer in a level than in the run, by its index; {} where levels cannot be compared.

    The logarithm of a step's mean is taken as a part for the number of streams and a part for the level, by least squares
    over the numbers of streams that more than one level had.
    """
    clean = gaps.clean
    levels = np.asarray(run.requests["level"], dtype=np.int64)[gaps.row[clean]]
    streams, step_s = gaps.streams[clean], gaps.step_s[clean]
    cells = [
        (int(level), int(number), math.log(float(step_s[mine].mean())), math.sqrt(float(mine.sum())))
        for level in np.unique(levels)
        for number in np.unique(streams[levels == level])
        for mine in ((levels == level) & (streams == number),)
        if mine.sum() >= FEWEST_OF_A_LEVEL
    ]
    shared = {number for number in {cell[1] for cell in cells} if sum(cell[1] == number for cell in cells) > 1}
    cells = [cell for cell in cells if cell[1] in shared]
    known, numbers = sorted({cell[0] for cell in cells}), sorted(shared)
    if len(known) < 2:
        return {}
    matrix = np.zeros((len(cells), len(known) + len(numbers)))
    values = np.zeros(len(cells))
    for place, (level, number, value, weight) in enumerate(cells):
        matrix[place, known.index(level)] = matrix[place, len(known) + numbers.index(number)] = weight
        values[place] = value * weight
    parts = np.linalg.lstsq(matrix, values, rcond=None)[0][: len(known)]
    seen = [sum(cell[3] ** 2 for cell in cells if cell[0] == level) for level in known]
    usual = float(np.average(parts, weights=seen))
    return {level: math.exp(float(part) - usual) for level, part in zip(known, parts, strict=True)}
