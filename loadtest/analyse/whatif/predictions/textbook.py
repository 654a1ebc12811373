"""What the textbook would say of the same levels: four models that know nothing of how a model server works.

They stand beside every prediction and are scored with it, so that anybody sees whether the engine was worth its trouble.
Each is fitted to the levels of a closed loop that the prediction rests on. A figure that a model says nothing of is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from loadtest.analyse.run import FloatArray, grouped
from loadtest.analyse.whatif.model.bands import Figures

Points = list[tuple[int, float]]  # (users, figure), in order of users

ERLANG, USL, LINE, SEGMENTS = "M/M/c", "USL", "straight line", "two segments"
BENDS_TRIED = 200
SCORED = (  # figures that a prediction is scored by
    "ttft_s.p50",
    "ttft_s.p95",
    "stream_tokens_per_s.p50",
    "output_tokens_per_s.mean",
    "requests_per_s.mean",
    "e2e_s.p50",
    "e2e_s.p95",
)


@dataclass(frozen=True, slots=True)
class MeasuredLevel:
    """A level of a closed loop: its users and its figures."""

    users: int
    figures: Mapping[str, float]  # also "e2e_s.mean", "ttft_s.mean" and "slot_wait_s.mean" where known

    def get(self, name: str) -> float:
        return self.figures.get(name, math.nan)


def textbook(
    levels: Sequence[MeasuredLevel], servers: int, *, users: int | None, rate: float | None
) -> dict[str, Figures]:
    """Return what each model says of a load, by its name; a model that cannot say anything is left out.

    Args:
        servers: parallel slots, as known, or as asked for.
        users: of a closed loop; None for an open loop of `rate` requests/s.
    """
    found = {ERLANG: erlang_c(levels, servers, users=users, rate=rate)}
    if users is not None:
        found |= {
            USL: scalability_law(levels, users),
            LINE: straight_line(levels, users),
            SEGMENTS: two_segments(levels, users),
        }
    return {name: figures for name, figures in found.items() if figures}


def waiting_probability(servers: int, load: float) -> float:
    """Return Erlang's C: how likely an arrival waits for one of `servers` at an offered load of `load` Erlang.

    A. K. Erlang, 1917; L. Kleinrock, Queueing Systems I, 1975, eq. 3.40; by the recursion of Erlang's B.
    """
    if load >= servers:
        return 1.0
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def erlang_c(levels: Sequence[MeasuredLevel], servers: int, *, users: int | None, rate: float | None) -> Figures:
    """Return M/M/c: Poisson arrivals, exponential service, `servers` servers that do not slow each other down.

    The service time is that of the most users who had a slot each. Waiting is zero with probability 1 − C, else
    exponential with mean S / (c − a) (Kleinrock 1975, section 3.5). A closed loop of N users is taken for the arrival rate
    at which N are in the system (J. D. C. Little, 1961).
    """
    fitting = [level for level in levels if level.users <= servers] or list(levels[:1])
    if not fitting:
        return {}
    base = max(fitting, key=lambda level: level.users)
    service, idle = base.get("e2e_s.mean"), base.get("ttft_s.p50")
    if not service > 0:
        return {}
    each = base.get("output_tokens_per_s.mean") / base.get("requests_per_s.mean")
    if rate is None:
        assert users is not None
        rate = _arrivals_of(users, servers, service)
    if rate * service >= servers:
        return {"requests_per_s.mean": servers / service, "output_tokens_per_s.mean": servers / service * each}
    chance, drain = waiting_probability(servers, rate * service), (servers - rate * service) / service

    def waited(share: float) -> float:
        return math.log(chance / (1 - share)) / drain if chance > 1 - share else 0.0

    return {
        "ttft_s.p50": idle + waited(0.5),
        "ttft_s.p95": idle + waited(0.95),
        "stream_tokens_per_s.p50": base.get("stream_tokens_per_s.p50"),
        "output_tokens_per_s.mean": rate * each,
        "requests_per_s.mean": rate,
        "e2e_s.p50": service + waited(0.5),
    }


def _arrivals_of(users: int, servers: int, service: float) -> float:
    """Return the arrival rate at which so many are in an M/M/c on average, by halving."""
    low, high = 0.0, servers / service
    for _ in range(60):
        middle = (low + high) / 2
        busy = middle * service
        waiting = waiting_probability(servers, busy) * busy / (servers - busy) if busy < servers else math.inf
        low, high = (low, middle) if busy + waiting > users else (middle, high)
    return low


def scalability_law(levels: Sequence[MeasuredLevel], users: int) -> Figures:
    """Return the universal scalability law: X(N) = γN / (1 + α(N − 1) + βN(N − 1)), all three at least zero.

    N. J. Gunther, Guerrilla Capacity Planning, 2007, chapter 4; fitted in the form N/X, which is linear, with relative
    weights. Response time is N / X(N) (Little). It needs three levels.
    """
    if len({level.users for level in levels}) < 3:
        return {}
    found: Figures = {}
    for name in ("output_tokens_per_s.mean", "requests_per_s.mean"):
        points = [(level.users, level.get(name)) for level in levels if level.get(name) > 0]
        if len(points) < 3:
            continue
        n, x = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
        weight = x / n
        parts = _least_squares(np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1) * weight[:, None])
        cost = float(parts @ np.array([1.0, users - 1, users * (users - 1)]))
        if cost > 0:
            found[name] = users / cost
    if found.get("requests_per_s.mean"):
        found["e2e_s.p50"] = users / found["requests_per_s.mean"]
    return found


def _least_squares(columns: FloatArray) -> FloatArray:
    """Return the parts, none below zero, with which the columns come nearest to 1 in every row."""
    best, least = np.zeros(columns.shape[1]), math.inf
    for count in range(1, columns.shape[1] + 1):
        for chosen in combinations(range(columns.shape[1]), count):
            parts = np.linalg.lstsq(columns[:, chosen], np.ones(len(columns)), rcond=None)[0]
            error = float(((columns[:, chosen] @ parts - 1) ** 2).sum())
            if (parts >= 0).all() and error < least:
                best, least = np.zeros(columns.shape[1]), error
                best[list(chosen)] = parts
    return best


def straight_line(levels: Sequence[MeasuredLevel], users: int) -> Figures:
    """Return each figure on the straight line between the neighbouring levels; past the ends their line goes on.

    Linear interpolation as anybody draws it with a ruler. It needs two levels.
    """

    def value(points: Points) -> float:
        (x0, y0), (x1, y1) = next((pair for pair in pairwise(points) if users <= pair[1][0]), (points[-2], points[-1]))
        return y0 + (y1 - y0) * (users - x0) / (x1 - x0)

    return _by_figure(levels, 2, value)


def two_segments(levels: Sequence[MeasuredLevel], users: int) -> Figures:
    """Return each figure on two straight segments that meet in a bend, by least squares.

    R. E. Quandt, 1958 (switching regressions); V. M. R. Muggeo, 2003 (continuous ones). The bend is searched among 200
    numbers of users between the second level and the last but one. It needs four levels.
    """

    def value(points: Points) -> float:
        x, y = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
        fits = []
        for bend in map(float, np.linspace(x[1], x[-2], BENDS_TRIED)):
            parts = np.linalg.lstsq(_segments(x, bend), y, rcond=None)[0]
            fits.append((float(((_segments(x, bend) @ parts - y) ** 2).sum()), bend, parts))
        _, bend, parts = min(fits, key=lambda fit: fit[:2])
        return float((_segments(np.array([float(users)]), bend) @ parts)[0])

    return _by_figure(levels, 4, value)


def _segments(users: FloatArray, bend: float) -> FloatArray:
    """Return the columns of two straight segments that meet at `bend`."""
    return np.stack([np.ones_like(users), users, np.maximum(users - bend, 0.0)], axis=1)


def _by_figure(levels: Sequence[MeasuredLevel], fewest: int, value: Callable[[Points], float]) -> Figures:
    """Return what a model says of each figure that at least so many numbers of users have, if it is above zero."""
    points = {name: _points(levels, name) for name in SCORED}
    found = {name: value(each) for name, each in points.items() if len(each) >= fewest}
    return {name: figure for name, figure in found.items() if figure > 0}


def _points(levels: Sequence[MeasuredLevel], name: str) -> Points:
    """Return a figure by users, its mean where a number of users was measured twice."""
    known = grouped((level.users, level.get(name)) for level in levels if level.get(name) > 0)
    return [(users, sum(values) / len(values)) for users, values in sorted(known.items())]
