"""How charts show levels that are void: what was seen of them is drawn, and no line goes through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.run import offered_load
from loadtest.analyse.summary import is_void

LABEL = "void: do not quote"


def crosses(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draw points of void levels."""
    if points:
        axes.plot(*zip(*points, strict=True), "x", color=style.VERMILLION, markersize=9, label=LABEL, zorder=4)


def hatch(axes: Axes, at: Sequence[float], tops: Sequence[float], width: float) -> None:
    """Cover bars of void levels."""
    if at:
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": style.VERMILLION, "hatch": "xx", "linewidth": 0.8}
        axes.bar(at, tops, width, label=LABEL, zorder=2.5, **look)


def level_name(level: dict[str, Any]) -> str:
    """Name a level in a legend by its load; a void one says so."""
    return offered_load.load_name(level) + (", void" if is_void(level) else "")
