"""How charts show levels that are void: what was seen of them is drawn, and no line goes through it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.run.levels import LevelData

VOID_LABEL = "void: do not quote"
BEYOND = "void, and above the axis"
MOST_TIMES = 5.0  # the highest point that may be quoted


def crosses(axes: Axes, points: Sequence[tuple[float, float]], edge: float = math.inf) -> None:
    """Draw points of void levels; what is higher than `edge` stands there as an arrow."""
    look: dict[str, Any] = {"color": style.VERMILLION, "markersize": 9, "linestyle": "", "zorder": 4}
    if inside := [point for point in points if point[1] <= edge]:
        axes.plot(*zip(*inside, strict=True), marker="x", label=VOID_LABEL, **look)
    if beyond := [at for at, value in points if value > edge]:
        axes.plot(beyond, [edge] * len(beyond), marker="^", fillstyle="none", label=BEYOND, **look)


def edge_of(quoted: Iterable[float]) -> float:
    """Return how high points of void levels are drawn: without it, one absurd figure flattens all that may be quoted."""
    return MOST_TIMES * max(quoted, default=0.0) or math.inf


def hatch(axes: Axes, at: Sequence[float], tops: Sequence[float], width: float) -> None:
    """Cover bars of void levels."""
    if at:
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": style.VERMILLION, "hatch": "xx", "linewidth": 0.8}
        axes.bar(at, tops, width, label=VOID_LABEL, zorder=2.5, **look)


def or_void(name: str, level: LevelData) -> str:
    """Return what a level is called in a legend or under a title; of a void one that says so."""
    return f"{name}, void" if level.is_void else name
