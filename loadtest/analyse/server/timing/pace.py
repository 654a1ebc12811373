"""How much a server's pace differs from one level to the next, and so by how much another run's may; and within a level.

The same steps take longer in one minute than in another where a machine is shared, heats up or changes its clock. One run
shows it by its levels: each was measured at a time of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.run import RunData
from loadtest.analyse.server.timing.token_gaps import TokenGaps

FEWEST_OF_A_LEVEL = 100  # steps of one number of streams, from which on their mean counts: few are a choice of moments
LEAST_CHANGE = 1.2  # times as long, or as short, as steps take later, for the pace to have changed
FEWEST_OF_A_QUARTER = 32  # steps of one number of streams in each quarter of a level
SHORTEST_S = 2.0  # of a level whose halves are compared: what is over sooner is a hiccup, of the machine or of its host
BLOCKS = 8  # of consecutive steps, whose means scatter
LEAST_FREEDOM = 2  # of Student's t: with one the spread of two levels would be taken twelve times


def pace_error(paces: Mapping[int, float]) -> float:
    """Return by what share the pace of another run may differ; 0 where levels cannot be compared.

    The logarithms of k levels' paces scatter by s; another run of their kind lies within t · s · √(1 + 1/k). That holds in 95 of
    100 cases from three levels on, and with two in 85: those that go at the same pace by chance show nothing.
    """
    if len(paces) < 2:
        return 0.0
    spread = float(np.std(np.log(list(paces.values())), ddof=1))
    freedom = max(len(paces) - 1, LEAST_FREEDOM)
    return math.expm1(t_quantile(freedom) * spread * math.sqrt(1 + 1 / len(paces)))


def pace_scatter(gaps: TokenGaps) -> float:
    """Return the standard deviation of the pace of the same steps from one eighth of them to the next, as a share.

    What single steps scatter by themselves is taken off. It is pooled over the numbers of streams; 0 where steps are too few.
    """
    clean = gaps.clean
    streams, step_s, right = gaps.streams[clean], gaps.step_s[clean], gaps.right[clean]
    total = weight = 0.0
    for number in np.unique(streams):
        mine = streams == number
        if mine.sum() < FEWEST_OF_A_LEVEL:
            continue
        in_time = step_s[mine][np.argsort(right[mine], kind="stable")]
        means = np.array([block.mean() for block in np.array_split(in_time, BLOCKS)])
        alone = in_time.var() * int(number) * BLOCKS / len(in_time)  # all its streams see a step
        total += len(in_time) * max(float(means.var(ddof=1) - alone), 0.0) / float(in_time.mean()) ** 2
        weight += len(in_time)
    return math.sqrt(total / weight) if weight else 0.0


def level_paces(run: RunData, gaps: TokenGaps) -> dict[int, float]:
    """Return by what factor steps took longer in a level than in the run, by its index; {} where levels cannot be compared.

    The logarithm of a step's mean is taken as a part for the number of streams and a part for the level, by least squares
    over the numbers of streams that more than one level had.
    """
    steps = _steps(run, gaps).groupby(["level", "streams"])["step_s"]
    cells = pd.DataFrame({"n": steps.size(), "log": [math.log(step_s.to_numpy().mean()) for _, step_s in steps]})
    cells = cells[cells["n"] >= FEWEST_OF_A_LEVEL].reset_index()
    cells = cells[cells["streams"].duplicated(keep=False)]
    levels = np.unique(cells["level"]).tolist()
    if len(levels) < 2:
        return {}
    weight = np.sqrt(cells["n"].to_numpy(dtype=np.float64))
    matrix = pd.get_dummies(cells[["level", "streams"]], columns=["level", "streams"]).to_numpy(dtype=np.float64)
    values = cells["log"].to_numpy() * weight
    parts = np.linalg.lstsq(matrix * weight[:, None], values, rcond=None)[0][: len(levels)]
    usual = float(np.average(parts, weights=[float((weight[cells["level"] == level] ** 2).sum()) for level in levels]))
    return {level: math.exp(float(part) - usual) for level, part in zip(levels, parts, strict=True)}


def _steps(run: RunData, gaps: TokenGaps) -> pd.DataFrame:
    """Return a row for each gap that is one decode step: its level, request, instant, streams, seconds and tokens of context."""
    row, at = gaps.row[gaps.clean], gaps.right[gaps.clean]
    first, last = (run.column(name)[row] for name in ("first_token", "last"))
    answered = run.column("output_tokens")[row] * (at - first) / np.maximum(last - first, 1e-9)
    return pd.DataFrame(
        {
            "level": run.requests["level"].to_numpy(dtype=np.int64)[row],
            "row": row,
            "at": at,
            "streams": gaps.streams[gaps.clean],
            "step_s": gaps.step_s[gaps.clean],
            "context": run.column("prompt_tokens")[row] + answered,
        }
    )


def pace_changes(run: RunData, gaps: TokenGaps) -> dict[int, float]:
    """Return by what factor the same steps took longer in a level's second half than in its first, by the level's index.

    Only where both quarters of one half took longer than either of the other: a hiccup is over before. At most in proportion to
    its context does a step grow, so the growth of that is taken off.
    """
    found = {}
    every = _steps(run, gaps)
    for level in np.unique(every["level"]).tolist():
        steps = every[every["level"] == level]
        since = steps["at"] - steps["at"].min()
        # One request a stream would show how its context grows in place of the server's pace.
        if since.max() < SHORTEST_S or steps["row"].nunique() < 4 * (steps["streams"].max() + 2):
            continue
        quarter = np.minimum(4 * since / since.max(), 3).astype(int)
        sizes, means = (
            steps.pivot_table("step_s", "streams", quarter.rename("quarter"), aggfunc=how) for how in ("count", "mean")
        )
        known = (sizes >= FEWEST_OF_A_QUARTER).all(axis=1)
        if sizes.shape[1] < 4 or not known.any():
            continue
        first, second, third, last = np.average(np.log(means[known]), axis=0, weights=sizes[known].sum(axis=1))
        early, late = steps["context"].groupby(quarter > 1).mean()
        by_context = math.log(late / early) if early > 0 and late > 0 else 0.0
        change = float(third + last - first - second) / 2
        change -= np.clip(by_context, min(change, 0.0), max(change, 0.0))
        apart = min(third, last) > max(first, second) or max(third, last) < min(first, second)
        if apart and abs(change) > math.log(LEAST_CHANGE):
            found[level] = math.exp(change)
    return found
