"""Names beside the points of a chart: none covers another, a point or a line, and a thin line leads to one further off."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from loadtest.analyse.charts import style
from loadtest.analyse.run import evenly

SIZE = 8.5  # points, of the letters
WIDE, HIGH = 0.64, 1.15  # of a character, as a share of that
POINT = 4.5  # half the width of a point's sign
NAME_DISTANCE = 5.0  # from a point to its name
RINGS = (NAME_DISTANCE, 16.0, 27.0, 40.0, 55.0)
ANGLES = (45, 90, 15, 135, 0, 165, 180, -45, -90, -15, -135, -165)  # degrees, for a name to the right of its point

At = tuple[float, float]


def _around(middle: At, width: float, height: float) -> Bbox:
    x, y = middle
    return Bbox.from_extents(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


@dataclass(slots=True)
class Placing:
    """Finds a place for one name after another, in units of 1/72 inch."""

    room: Bbox
    lines: list[Path]  # of the chart, and those that lead to names
    taken: list[Bbox]  # by the points' signs …
    names: list[Bbox]  # … and by names

    def place(self, at: At, text: str, side: int) -> At | None:
        """Return the middle of a name, relative to its point; None where there is no room."""
        width, height = len(text) * SIZE * WIDE, SIZE * HIGH
        for ring, angle in itertools.product(RINGS, ANGLES):
            x, y = side * math.cos(math.radians(angle)), math.sin(math.radians(angle))
            reach = ring + abs(x) * width / 2 + abs(y) * height / 2
            box = _around((at[0] + reach * x, at[1] + reach * y), width, height)
            lead = [Path([at, (at[0] + ring * x, at[1] + ring * y)])] if ring > NAME_DISTANCE else []
            if self._free(box, lead):
                self.names.append(box)
                self.lines += lead
                return reach * x, reach * y
        return None

    def _free(self, box: Bbox, lead: list[Path]) -> bool:
        return (
            self.room.contains(*box.min)
            and self.room.contains(*box.max)
            and not box.count_overlaps([*self.taken, *self.names])
            and not any(line.intersects_bbox(box, filled=False) for line in self.lines)
            and not any(line.intersects_bbox(name, filled=False) for line in lead for name in self.names)
        )


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
        """Write the names, and in a corner how many found no room; return that. Nothing may be moved afterwards."""
        if not self.points:
            return 0
        places = self._where([at for at, _, _ in self.points])
        edge = Bbox(self.axes.get_window_extent().get_points() * 72 / self.axes.figure.dpi)
        signs = [_around(at, 2 * POINT, 2 * POINT) for at in places]
        lines = [Path(self._where(line)) for line in self.lines]
        corner, note = self._note(edge, lines, signs)
        placing = Placing(edge, lines, signs, [note])
        left = 0
        for i in _first_and_last_first(len(places)):
            found = placing.place(places[i], self.points[i][1], self.side)
            left += found is None
            if found is not None:
                self._annotate(i, found)
        if left:
            said = f"{left} of {len(places)} points {'has' if left == 1 else 'have'} no name,\nfor want of room: the tables have all"
            look: dict[str, Any] = {"fontsize": 8, "color": style.GREY, "transform": self.axes.transAxes}
            x, y = (0.985 if right else 0.015 for right in corner)
            sides: dict[str, Any] = {"ha": "right" if corner[0] else "left", "va": "top" if corner[1] else "bottom"}
            self.axes.text(x, y, said, **sides, **look).set_in_layout(False)
        return left

    def _annotate(self, i: int, offset: At) -> None:
        at, name, colour = self.points[i]
        far = math.hypot(*offset) > NAME_DISTANCE + len(name) * SIZE * WIDE / 2 + SIZE * HIGH / 2
        dark = tuple(0.7 * part for part in mpl.colors.to_rgb(colour)) if len(self.lines) > 1 else style.INK
        self.axes.annotate(
            name,
            at,
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=SIZE,
            color=dark,
            arrowprops={"arrowstyle": "-", "color": style.GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
            if far
            else None,
        ).set_in_layout(False)

    def _where(self, at: Sequence[At]) -> list[At]:
        """Return where points of the data are on the page."""
        scale = 72 / self.axes.figure.dpi
        return [(float(x) * scale, float(y) * scale) for x, y in self.axes.transData.transform(list(at))]

    def _note(self, edge: Bbox, lines: Sequence[Path], signs: Sequence[Bbox]) -> tuple[tuple[bool, bool], Bbox]:
        """Return the emptiest corner (right, top), which says how many have no name; nothing of it where few points are."""
        wide, high = (150.0, 24.0) if len(self.points) > style.MOST_LINES else (0.0, 0.0)
        boxes = {
            (right, top): Bbox.from_bounds(
                edge.x1 - wide if right else edge.x0, edge.y1 - high if top else edge.y0, wide, high
            )
            for right in (False, True)
            for top in (self.side < 0, self.side > 0)
        }

        def crowd(corner: tuple[bool, bool]) -> int:
            box = boxes[corner]
            return int(box.count_overlaps(signs)) + sum(line.intersects_bbox(box, filled=False) for line in lines)

        corner = min(boxes, key=crowd)
        return corner, boxes[corner]


def _first_and_last_first(count: int) -> list[int]:
    """Return the places of a list so that those near each other come late, first and last at once."""
    order: dict[int, None] = {}
    for most in (2, 3, 5, 9, 17, 33, 65, 129):
        order.update(dict.fromkeys(evenly(count, most)))
    return [*order, *(place for place in range(count) if place not in order)]
