"""The chart of drift: a drift is named, a steady run has none, and where requests are too few none is claimed."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from support.made_runs import MS, Made, grid, make, unanswered, write
from support.virtual_runs import Load, play

from loadtest.analyse.charts import drift
from loadtest.analyse.summary import analyse
from loadtest.doubts import VOID
from loadtest.records import Outcome
from loadtest.simulate.model.timing import StepLaw, Timing

STEADY = Timing(step=StepLaw(0.012, 0.002), prefill_s=0.001, jitter=0.05)


def test_a_drift_is_named_and_a_steady_run_is_not(tmp_path: Path) -> None:
    make(tmp_path / "steady", Made(), users=(4,), each=12)
    assert drift.title(analyse(tmp_path / "steady")) == (
        "The median TTFT of each third of the level is within 10 % of the others"
    )
    levels, truth = grid(Made(), (4,), each=12)
    slower = [
        dataclasses.replace(record, t_first_token=record.t_first_token + record.id * 20_000_000)
        for record in truth.records
        if record.t_first_token is not None
    ]
    said = drift.title(analyse(write(tmp_path / "drifting", slower, levels)))
    assert re.fullmatch(r"4 streams.*: the median TTFT is [\d.]+, [\d.]+ and [\d.]+ ms in its thirds", said)


def test_where_one_of_two_users_waits_the_medians_of_thirds_do_not_jump(tmp_path: Path, axes: Axes) -> None:
    """Thirds of five or six of 16 requests had medians of 182, 128 and 235 ms below "No drift"."""
    levels, truth = grid(Made(), (2,), each=8)
    known = sorted((one for one in truth.records if one.t_send is not None), key=lambda one: one.t_send or 0)
    apart = [
        dataclasses.replace(one, t_first_token=(one.t_first_token or 0) + place % 2 * 100 * MS)
        for place, one in enumerate(known)
    ]
    drift.over_time(axes, analyse(write(tmp_path / "run", apart, levels)))
    medians = [float(np.asarray(path.vertices)[0, 1]) for lines in axes.collections for path in lines.get_paths()]
    assert len(medians) == 3
    assert max(medians) < 1.05 * min(medians)


def test_no_drift_is_claimed_of_levels_with_too_few_requests(tmp_path: Path) -> None:
    """One level of forty was judged, and the title said that TTFT does not drift."""
    played = play(STEADY, [Load(users=4, requests=60), Load(users=40, requests=40)], slots=4)
    found = analyse(played.write(tmp_path / "run"))
    assert drift.title(found) == (
        "The median TTFT of each third of the level is within 10 % of the others; 1 more has too few requests to tell"
    )
    for level in found.summary["levels"]:
        level["verdict"] = VOID
    assert drift.title(found).endswith("too few in each level that is not void to tell a drift")


def test_a_level_without_an_answer_behind_the_others_takes_no_room(tmp_path: Path, axes: Axes) -> None:
    """Its mark lay far outside of the axis, and Matplotlib warned that the chart had collapsed."""
    levels, truth = grid(Made(), (2, 4), each=8)
    records = [unanswered(one, Outcome.TIMEOUT) if one.level else one for one in truth.records if one.level < 2]
    drift.over_time(axes, analyse(write(tmp_path / "run", records, levels)))
    low, high = axes.get_xlim()
    assert [text.get_text() for text in axes.texts] == ["2"]
    assert all(low <= float(line.get_xdata()[0]) <= high for line in axes.lines)  # type: ignore[index,arg-type]
