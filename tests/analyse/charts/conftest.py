"""What tests of charts draw on, and a run of a server with four slots."""

from __future__ import annotations

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support.made_runs import Made, make

from loadtest.analyse.summary import Analysis, analyse


@pytest.fixture(scope="session")
def four_slots(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    path = tmp_path_factory.mktemp("slots") / "run"
    make(path, Made(batch_ms=5), users=(1, 2, 4, 8))
    return analyse(path)


@pytest.fixture
def axes() -> Axes:
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots()
