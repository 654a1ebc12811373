"""report.md and report.html of an analysis, with all that it shows, as `loadtest report` writes them."""

from collections.abc import Sequence
from pathlib import Path

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports import pages
from loadtest.analyse.summary import Analysis


def markdown(analysis: Analysis, pictures: Sequence[Path] = ()) -> str:
    return pages.markdown(analysis, all_findings(analysis), list(pictures))


def html(analysis: Analysis, pictures: Sequence[Path] = ()) -> str:
    return pages.html(analysis, all_findings(analysis), list(pictures))
