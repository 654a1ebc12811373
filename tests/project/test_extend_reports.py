"""A sampler, a chart and a finding are a function or a class each: these three, made up here, get as far as the report.

CONTRIBUTING.md says which files of the project a real one touches.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from support.made_runs import WALL, Made, make

from loadtest.analyse import charts
from loadtest.analyse.charts import sheet
from loadtest.analyse.findings import run_findings as findings
from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.report import write_report
from loadtest.analyse.reports import pages
from loadtest.analyse.run import frames
from loadtest.analyse.run.files import samples
from loadtest.analyse.run.levels import Series
from loadtest.analyse.summary import Analysis, analyse
from loadtest.monitor import process
from loadtest.monitor.sampler import SampledSource, SourceError, Watch, writer_for
from loadtest.records import Clock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of two levels, without monitors."""
    make(tmp_path / "run", Made(slots=2), users=(1, 4))
    return tmp_path / "run"


# -- a sampler -------------------------------------------------------------------------------------------------------


class Toy:
    """Counts the samples that were asked for, and breaks at the third."""

    name = "toy"

    def __init__(self) -> None:
        self.asked = 0

    def open(self) -> dict[str, Any]:
        return {"note": "this is a toy"}

    def sample(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 3:
            raise SourceError("the toy is broken.")
        return {"values": {"toy:running": self.asked, "toy:colour": 7.0}}

    def close(self) -> None: ...


def sampled(folder: Path, source: SampledSource, beats: int) -> list[str]:
    """Let a source be sampled as a monitor does it; return what the user was told."""
    told: list[str] = []
    writer = writer_for(folder, source.name, 1.0)
    watch = Watch(source, writer, 1.0, told.append)
    for _ in range(beats):
        watch.beat()
    writer.close()
    return told


def test_a_sampler_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SOURCE_KINDS", (*process.SOURCE_KINDS, "toy"))
    assert [str(asked) for asked in process.parse_sources(["host,toy"])] == ["host", "toy"]


def test_what_a_sampler_saw_is_read_by_the_names_of_its_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sampled(folder, Toy(), 2) == ["this is a toy"]
    monkeypatch.setattr(samples, "SERVERS", (*samples.SERVERS, "toy"))
    monkeypatch.setattr(samples, "SERVER_METRICS", {**samples.SERVER_METRICS, "toy:running": "running"})
    run = frames.load(folder)
    assert run.machine.server is not None
    assert run.machine.server["running"].tolist() == [1, 2]
    assert run.trouble == []


def test_a_sampler_that_breaks_leaves_a_gap_and_a_finding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Clock(time.perf_counter_ns(), WALL)  # the samples come while the made-up run goes on
    monkeypatch.setattr(Clock, "now", lambda: now)
    assert sampled(folder, Toy(), 3)[1:] == ["the toy is broken."]
    (gap,) = frames.load(folder).machine.gaps
    assert (gap.source, gap.sentence) == ("toy", "the toy is broken.")
    (said,) = [said for said in findings.all_findings(analyse(folder)) if "toy" in said]
    assert said == "No samples of toy from the start, to the end: the toy is broken."


# -- a chart ---------------------------------------------------------------------------------------------------------


def bytes_of_answers(axes: Axes, analysis: Analysis) -> None:
    """Draw how large each answer was."""
    sizes = np.sort(analysis.run.column("bytes"))
    axes.plot(sizes, np.arange(len(sizes)))
    axes.set_xlabel("size of the answer (bytes)")


def test_a_chart_is_in_both_reports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = charts.draw_all

    def draw_all(analysis: Analysis, out: Path, *more: Any) -> list[Path]:
        figure, (axes,) = sheet.new(1)
        bytes_of_answers(axes, analysis)
        drawn = sheet.save(figure, out / "toy.png", analysis, "Answers are of one size")
        return [drawn, *others(analysis, out, *more)]

    monkeypatch.setattr(charts, "draw_all", draw_all)
    monkeypatch.setattr(pages, "CAPTIONS", {**pages.CAPTIONS, "toy.png": "How large answers were"})
    files = write_report(folder).files
    assert folder / "toy.png" in files
    assert (folder / "toy.png").read_bytes().startswith(b"\x89PNG")
    assert "![Answers are of one size. How large answers were](toy.png)" in (folder / "report.md").read_text(
        encoding="utf-8"
    )
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "How large answers were" in page
    assert page.count("data:image/png;base64,") == len([path for path in files if path.suffix == ".png"])


# -- a finding -------------------------------------------------------------------------------------------------------


def most_requests(series: Series) -> Finding | None:
    """Say which load had the most requests; nothing where there is one level."""
    if len(series.levels) < 2:
        return None
    level = max(series.levels, key=lambda level: int(level["requests"]))
    return Finding(f"The most requests were made at {level['label']}.")


@pytest.mark.usefixtures("bare_reports")
def test_a_finding_is_in_both_reports_and_on_the_console(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "range_of_ttft", most_requests)  # one of the findings about a series of levels
    written = write_report(folder)
    (said,) = [said for said in written.findings if said.startswith("The most requests")]
    assert "4 streams" in said
    assert said in (folder / "report.md").read_text(encoding="utf-8")
    assert said in (folder / "report.html").read_text(encoding="utf-8")
