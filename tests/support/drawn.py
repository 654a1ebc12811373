"""Charts held to what they must show."""

from __future__ import annotations

import itertools
import tempfile
from functools import cache
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.analyse.summary import Analysis, analyse
from support.made_runs import Made, grid, make, write


def one_request(path: Path) -> None:
    levels, truth = grid(Made(), (1,), each=1)
    write(path, truth.records[1:], levels)


@cache
def of_many_levels(count: int) -> Analysis:
    """Return a run with so many levels, which takes seconds: it is for reading alone."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder, "run"), Made(slots=16), users=range(1, count + 1), each=2)
        return analyse(Path(folder, "run"))


def labels_apart(axes: Axes) -> None:
    """No two labels of ticks or points lie on each other, and no entry of the legend is invisible."""
    assert isinstance(axes.figure, Figure)
    axes.figure.draw_without_rendering()
    for texts in (axes.get_xticklabels(), axes.get_yticklabels(), axes.texts):
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        for one, other in itertools.pairwise(sorted(boxes, key=lambda box: (box.x0, box.y0))):
            wide = min(one.x1, other.x1) - max(one.x0, other.x0)
            high = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert wide <= 2 or high <= 2
