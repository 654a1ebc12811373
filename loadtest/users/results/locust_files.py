"""The live figures in files beside Locust's: PREFIX_streams.csv, NAME_streams.json, and a section in --html's page."""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

from loadtest.errors import LoadTestError
from loadtest.run_folder import RunFolder, write_whole
from loadtest.templates import render
from loadtest.users.results.tables import BoardRows, board_grid, notes

IN_SECONDS = ("ttft_", "e2e_", "itl_", "tpot_", "queue_wait_", "lag_")  # so begin the keys of a row that are in seconds
ANCHOR = '<div id="root"></div>'  # where Locust's page draws itself


def write_files(
    options: argparse.Namespace | None, rows: BoardRows, run: RunFolder | None, mark: str | None
) -> Iterator[str]:
    """Write what the options ask for; yield a sentence for each file that could not be.

    Nothing is added to --json, because its readers expect the one document that Locust prints to stdout.
    """
    asked = vars(options) if options else {}
    jobs = (
        (asked.get("csv_prefix"), "_streams.csv", lambda path: path.write_text(csv_text(rows), encoding="utf-8")),
        (asked.get("json_file"), "_streams.json", lambda path: path.write_text(json_text(rows), encoding="utf-8")),
        (asked.get("html_file"), "", lambda path: insert_section(path, section(rows, run_charts(run), mark))),
    )
    for name, suffix, job in jobs:
        if name:
            path = Path(name + suffix)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)  # Locust itself makes it later
                job(path)
            except OSError as error:
                yield f"The streaming figures are not in {path}: {error.strerror}."


def _with_units(rows: BoardRows) -> BoardRows:
    """Return the rows with keys that say which values are in seconds."""
    return [{f"{key}_s" if key.startswith(IN_SECONDS) else key: value for key, value in row.items()} for row in rows]


def csv_text(rows: BoardRows) -> str:
    """Return a line a row, None as an empty cell."""
    text = StringIO()
    writer = csv.DictWriter(text, _with_units(rows)[0], lineterminator="\n")
    writer.writeheader()
    for row in _with_units(rows):
        writer.writerow({key: "; ".join(value) if isinstance(value, list) else value for key, value in row.items()})
    return text.getvalue()


def json_text(rows: BoardRows) -> str:
    return json.dumps(_with_units(rows), indent=2) + "\n"


def run_charts(run: RunFolder | None) -> list[tuple[str, bytes]]:
    """Draw the run's charts; return (caption, PNG) each, nothing where the folder holds no request to draw."""
    if run is None or next(run.records(), None) is None:
        return []
    from loadtest.analyse.report import plot
    from loadtest.analyse.reports.pages import CAPTIONS  # imports pandas and Matplotlib, now that the test is over

    with tempfile.TemporaryDirectory() as place:
        try:
            drawn = plot([run.path], Path(place))
        except LoadTestError:  # a run that never began: the table is shown alone
            return []
        return [(CAPTIONS.get(path.name, path.stem), path.read_bytes()) for path in drawn]


def section(rows: BoardRows, charts: list[tuple[str, bytes]], mark: str | None) -> str:
    """Return the figures and charts as a piece of HTML that brings its style and fetches nothing."""
    page = render("locust.html", grid=board_grid(rows), notes=list(notes(rows)), pictures=charts, simulated=mark)
    return page.strip()


def page_with(page: str, piece: str) -> str:
    """Return Locust's page with a piece of HTML in it, beneath what Locust draws."""
    before, anchor, after = page.rpartition(ANCHOR)
    if not anchor:
        before, anchor, after = page.rpartition("</body>")
        before, anchor, after = (before, "", anchor + after) if anchor else (page, "", "")
    return before + anchor + piece + after


def insert_section(path: Path, piece: str) -> None:
    """Put a piece of HTML into the page that Locust wrote, as `page_with` does; the file is replaced whole or not at all."""
    write_whole(path, page_with(path.read_text(encoding="utf-8"), piece).encode())
