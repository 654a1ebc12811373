"""Names beside the points of a chart: none covers another, a point or a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from loadtest.analyse.charts import style
from loadtest.analyse.run import evenly

SIZE = 8.5  # points, of the letters
WIDE, HIGH = 0.64, 1.15  # of a character, as a share of that
POINT = 4.5  # half the width of a point's sign
DISTANCES = (5.0, 12.0)  # from a point to its name, the nearest first
ANGLES = (45, 90, 15, 135, 0, 165, 180, -45, -90, -15, -135, -165)  # degrees, for a name to the right of its point

At = tuple[float, float]


def _around(middle: At, width: float, height: float) -> Bbox:
    x, y = middle
    return Bbox.from_extents(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


@dataclass(slots=True)
class PointNames:
    """The names of a panel's points, to be written once the panel has its place on the page."""

    axes: Axes
    side: int  # 1: to the right of points, -1: to the left
    points: list[tuple[At, str, str]] = field(default_factory=list)  # where, name, colour
    lines: list[list[At]] = field(default_factory=list)

    def add(self, at: Sequence[At], names: Sequence[str], colour: str) -> None:
        self.points += [(point, name, colour) for point, name in zip(at, names, strict=True)]
        self.lines.append(list(at))

    def write(self) -> int:
        """Write the names that find room, and below the axis how many do not; return that. Nothing may be moved afterwards."""
        places = self._where([at for at, _, _ in self.points])
        edge = Bbox(self.axes.get_window_extent().get_points() * 72 / self.axes.figure.dpi)
        lines = [Path(self._where(line)) for line in self.lines]
        taken = [_around(at, 2 * POINT, 2 * POINT) for at in places]
        left = 0
        for i in _first_and_last_first(len(places)):
            _, name, colour = self.points[i]
            free = (box for box in self._boxes(places[i], name) if _is_free(box, edge, taken, lines))
            if (box := next(free, None)) is None:
                left += 1
                continue
            taken.append(box)
            dark = tuple(0.7 * part for part in mpl.colors.to_rgb(colour)) if len(self.lines) > 1 else style.INK
            offset = ((box.x0 + box.x1) / 2 - places[i][0], (box.y0 + box.y1) / 2 - places[i][1])
            self.axes.annotate(
                name,
                self.points[i][0],
                xytext=offset,
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=SIZE,
                color=dark,
            ).set_in_layout(False)
        if left:
            self.axes.set_xlabel(f"{self.axes.get_xlabel()} ({left} of {len(places)} points without a name)")
        return left

    def _boxes(self, at: At, name: str) -> list[Bbox]:
        """Return where a name may stand, the best place first."""
        width, height = len(name) * SIZE * WIDE, SIZE * HIGH
        found = []
        for distance in DISTANCES:
            for angle in ANGLES:
                x, y = self.side * math.cos(math.radians(angle)), math.sin(math.radians(angle))
                reach = distance + abs(x) * width / 2 + abs(y) * height / 2
                found.append(_around((at[0] + reach * x, at[1] + reach * y), width, height))
        return found

    def _where(self, at: Sequence[At]) -> list[At]:
        """Return where points of the data are on the page, in units of 1/72 inch."""
        scale = 72 / self.axes.figure.dpi
        return [(float(x) * scale, float(y) * scale) for x, y in self.axes.transData.transform(list(at))] if at else []


def _is_free(box: Bbox, edge: Bbox, taken: Sequence[Bbox], lines: Sequence[Path]) -> bool:
    inside = edge.contains(*box.min) and edge.contains(*box.max)
    return (
        inside and not box.count_overlaps(taken) and not any(line.intersects_bbox(box, filled=False) for line in lines)
    )


def _first_and_last_first(count: int) -> list[int]:
    """Return the places of a list so that those near each other come late, first and last at once."""
    order: dict[int, None] = {}
    for most in (2, 3, 5, 9, 17, 33, 65, 129):
        order.update(dict.fromkeys(evenly(count, most)))
    return [*order, *(place for place in range(count) if place not in order)]
