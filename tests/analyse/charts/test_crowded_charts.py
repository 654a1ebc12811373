"""However many levels a run has, no label of a chart covers another, and each point of a trade-off is named or counted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.transforms import Bbox
from support.drawn import labels_apart, of_many_levels
from support.made_runs import Made, make

from loadtest.analyse.charts import against_load, distributions, sheet, style, ttft
from loadtest.analyse.run.levels import series_of
from loadtest.analyse.summary import analyse


@pytest.mark.parametrize("count", [12, 40])
@pytest.mark.parametrize(
    "chart",
    [
        ttft.ttft_parts,
        distributions.ttft,
        against_load.ttft_percentiles,
        against_load.e2e_percentiles,
        distributions.itl,
        distributions.itl_tail,
    ],
)
def test_no_label_covers_another_however_many_levels(count: int, chart: Any) -> None:
    analysis = of_many_levels(count)
    levels = analysis.summary["levels"]
    _, (axes,) = sheet.new(1)
    chart(axes, analysis, series_of(levels)[0])
    labels_apart(axes)
    assert len(axes.get_legend_handles_labels()[1]) <= style.MOST_LINES + 1
    if chart is ttft.ttft_parts:  # marks that touch would look like a line
        place = axes.get_window_extent().width / axes.figure.dpi * 72 / len(levels)
        assert all(line.get_markersize() < place for line in axes.lines if line.get_marker() in ("_", "^"))
    if chart in (distributions.ttft, distributions.itl_tail):
        assert style.left_out(levels).startswith(f"{style.MOST_LINES} of {len(levels)} levels")


@pytest.mark.parametrize(("users", "unnamed"), [((1, 2, 3, 4, 5, 6, 7, 8, 16), 0), (range(1, 41), None)])
def test_each_point_of_the_tradeoff_has_its_load_beside_it_or_is_counted_as_left_out(
    tmp_path: Path, users: Sequence[int], unnamed: int | None
) -> None:
    make(tmp_path / "run", Made(slots=4), users=users, each=2)  # past the slots all points lie close together
    analysis = analyse(tmp_path / "run")
    figure, panels = sheet.new(2, columns=2, share_y=False)
    found = series_of(analysis.summary["levels"])
    names = [
        draw(axes, analysis, found)
        for draw, axes in zip((against_load.wait_by_output, against_load.speed_by_output), panels, strict=True)
    ]
    figure.draw_without_rendering()
    for each, axes in zip(names, panels, strict=True):
        left = each.write()
        figure.draw_without_rendering()
        named = [text for text in axes.texts if text.get_text().isdigit()]
        assert len(named) + left == len(each.points)
        assert unnamed is None or left == unnamed
        assert bool(left) == (f"({left} of {len(each.points)} points without a name)" in axes.get_xlabel())
        assert {text.get_text() for text in named} <= {str(number) for number in users}
        boxes = [text.get_window_extent() for text in named]
        signs = [
            Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in axes.transData.transform([at for at, *_ in each.points])
        ]
        for box, other in itertools.combinations(boxes, 2):
            assert not box.overlaps(other), (box, other)
        assert not [sign for sign in signs for box in boxes if sign.overlaps(box)]


def test_fourteen_series_are_told_apart() -> None:
    looks = [tuple(style.line_look(place).values()) for place in range(14)]
    assert len(set(looks)) == 14
    assert len({look[:2] for look in looks}) == 14  # by colour and marker alone, where a line is too short for dashes
