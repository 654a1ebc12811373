"""What tests of charts draw on, and a run of a server with four slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support.made_runs import Made, make

from loadtest.analyse.summary import Analysis, analyse


@pytest.fixture
def four_slots(tmp_path: Path) -> Analysis:
    make(tmp_path / "run", Made(batch_ms=5), users=(1, 2, 4, 8))
    return analyse(tmp_path / "run")


@pytest.fixture
def axes() -> Axes:
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots()
