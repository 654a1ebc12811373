"""Files that tell continuous integration what came of a run: JUnit XML, and the summary of a GitHub step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadtest.cli.options import together
from loadtest.credentials import scrubber
from loadtest.errors import refuse
from loadtest.measure.search import SearchResult
from loadtest.run_folder import write_whole
from loadtest.slo import Objective

if TYPE_CHECKING:
    from loadtest.analyse.report import Report

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"  # names the file that GitHub shows on the page of a job


@dataclass(frozen=True, slots=True)
class GateFiles:
    """Where the outcome of gates goes for continuous integration, besides the exit code."""

    junit: Path | None = None
    step_summary: Path | None = None

    @classmethod
    def asked(cls, junit: Path | None, *, github_summary: bool) -> GateFiles:
        """Return what the options ask for; raise ScenarioError where a file could not be written."""
        named = os.environ.get(STEP_SUMMARY) if github_summary else None
        refuse(
            github_summary and not named,
            f"--github-summary writes to the file that {STEP_SUMMARY} names, and it is not set: GitHub sets it in the "
            "steps of a workflow; elsewhere leave the option out.",
        )
        found = cls(junit, Path(named) if named else None)
        for path, option in ((found.junit, "--junit"), (found.step_summary, STEP_SUMMARY)):
            if path is not None:
                _check_writable(path, option)
        return found

    def write(
        self, reports: Sequence[Report], objectives: Sequence[Objective], found: tuple[SearchResult, str] | None = None
    ) -> None:
        """Write JUnit XML, and append to the step summary. `found` is what --find-max found, and its sentence."""
        if self.junit is None and self.step_summary is None:
            return
        from loadtest.analyse.reports import gate_report

        summaries = [(str(one.analysis.run.path), one.summary) for one in reports]
        search = gate_report.searched(found[1], met=bool(found[0].met), void=bool(found[0].void)) if found else None
        if self.junit is not None:
            self.junit.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.junit, scrubber()(gate_report.junit(summaries, objectives, search)))
        if self.step_summary is not None:
            text = "".join(gate_report.step_summary(one, objectives, search) for _, one in summaries)
            with self.step_summary.open("ab") as file:
                file.write(scrubber()(text.encode()))


def _check_writable(path: Path, option: str) -> None:
    """Raise ScenarioError where the file cannot be written; make nothing."""
    refuse(path.is_dir(), f"{option}: {path} is a folder; name a file.")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    refuse(
        not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK),
        f"{option}: cannot write to {nearest}; name a file in another folder.",
    )


# gives a command --junit and --github-summary
gate_options = together(
    click.option(
        "--junit",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write each level's verdict and objectives as JUnit XML, which CI systems show as tests.",
    ),
    click.option(
        "--github-summary",
        is_flag=True,
        help=f"Append tables of levels and objectives to the summary of the GitHub step (the file named by {STEP_SUMMARY}).",
    ),
)
