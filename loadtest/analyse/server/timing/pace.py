"""How much a server's pace differs from one level to the next, and so by how much another run's may; and within a level.

The same steps take longer in one minute than in another where a machine is shared, heats up or changes its clock. One run
shows it by its levels: each was measured at a time of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.run import RunData
from loadtest.analyse.server.timing.token_gaps import TokenGaps

FEWEST_OF_A_LEVEL = 100  # steps of one number of streams, from which on their mean counts: few are a choice of moments
PARTS = 16  # of a level, at whose borders, the outermost apart, a change is looked for
LEAST_CHANGE = 1.2  # times as long, or as short, as steps take behind a border, for the pace to have changed there
FEWEST_OF_A_SIDE = 32  # steps of one number of streams before a border, and behind it
LEAST_SIDE_S = 1.0  # before a border, and behind it: what is over sooner is a hiccup, of the machine or of its host
LEAST_ERROR = 0.02  # of a mean step: the blocks may agree by chance
SURELY = 4.0  # standard errors that a change is more than none
BLOCKS = 8  # of consecutive steps on a side, whose means give the error of its mean
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


@dataclass(frozen=True, slots=True)
class PaceChange:
    """A change of a server's pace within a level."""

    level: int
    factor: float  # by which the same steps took longer behind the change than before it
    after_s: float  # from the level's first step to the change


def pace_change(run: RunData, gaps: TokenGaps) -> PaceChange | None:
    """Return the plainest change of pace within a level; None where steps took about as long to its end, or wavered."""
    found: list[tuple[float, PaceChange]] = []
    every = _steps(run, gaps).sort_values("at", kind="stable")
    for level in np.unique(every["level"]).tolist():
        steps = every[every["level"] == level]
        at = steps["at"].to_numpy()
        of_each = [(number, steps[steps["streams"] == number]) for number in np.unique(steps["streams"]).tolist()]
        for border in np.linspace(at[0], at[-1], PARTS + 1)[2:-2]:
            if min(border - at[0], at[-1] - border) < LEAST_SIDE_S:
                continue
            log = _change_at(border, of_each)
            if abs(log) > math.log(LEAST_CHANGE):
                share = float(np.searchsorted(at, border)) / len(at)
                change = PaceChange(level, math.exp(log), float(border - at[0]))
                found.append((log**2 * share * (1 - share), change))  # what a step there explains of the scatter
    return max(found, key=lambda one: one[0], default=(0.0, None))[1]


def _change_at(border: float, of_each: Sequence[tuple[int, pd.DataFrame]]) -> float:
    """Return the logarithm of how much longer steps of the same numbers of streams took behind a border; 0 where that is not sure.

    It is sure where the change is larger than its error, and where steps took longer in both halves of one side than in
    either half of the other.
    """
    changes, weights, halves = [], [], []
    for number, steps in of_each:
        place = int(np.searchsorted(steps["at"], border))
        sides = steps.iloc[:place], steps.iloc[place:]
        before, behind = (_log_mean(side, number) for side in sides)
        if before and behind:
            early, late = (float(side["context"].mean()) for side in sides)
            change = behind[0] - before[0]
            # At most in proportion to its context does a step grow.
            by_context = math.log(late / early) if early > 0 and late > 0 else 0.0
            changes.append(change - np.clip(by_context, min(change, 0.0), max(change, 0.0)))
            weights.append(1 / max(math.hypot(before[1], behind[1]), LEAST_ERROR) ** 2)
            of_halves = (np.array_split(side["step_s"].to_numpy(), 2) for side in sides)
            halves.append([math.log(half.mean()) for side in of_halves for half in side])
    if not changes:
        return 0.0
    log = float(np.average(changes, weights=weights))
    early_1, early_2, late_1, late_2 = np.average(halves, axis=0, weights=weights) * math.copysign(1.0, log)
    apart = min(late_1, late_2) > max(early_1, early_2)
    return log if apart and abs(log) > SURELY / math.sqrt(sum(weights)) else 0.0


def _log_mean(steps: pd.DataFrame, streams: int) -> tuple[float, float] | None:
    """Return the logarithm of the mean step, in order of time, and its standard error; None where steps or requests are few.

    A step grows with the context of its streams, so one request a stream would show that in place of the server's pace.
    """
    if len(steps) < FEWEST_OF_A_SIDE or steps["row"].nunique() < streams + 2:
        return None
    step_s = steps["step_s"].to_numpy()
    means = np.array([block.mean() for block in np.array_split(step_s, BLOCKS)])
    middle = float(step_s.mean())
    return math.log(middle), float(means.std(ddof=1)) / math.sqrt(BLOCKS) / middle
