"""The live figures in files beside Locust's: PREFIX_streams.csv, NAME_streams.json, and a section in --html's page."""

from __future__ import annotations

import argparse
import base64
import csv
import json
import tempfile
from collections.abc import Iterator
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.run_folder import RunFolder
from loadtest.users.tables import GROUPS, NO_FIGURE, table_figure, table_notes

SECONDS_KEYS = ("ttft_", "itl_", "tpot_", "queue_wait_", "lag_")  # how the keys of a row begin that are in seconds
ANCHOR = '<div id="root"></div>'  # the element in which Locust's page draws itself


def write_files(
    options: argparse.Namespace | None, rows: list[dict[str, Any]], run: RunFolder | None, mark: str | None
) -> Iterator[str]:
    """Write the files that the options ask for; yield a sentence for each that could not be written.

    Nothing is added to --json, because its readers expect the one document that Locust prints to stdout.
    """
    asked = vars(options) if options else {}
    jobs = (
        (asked.get("csv_prefix"), "_streams.csv", lambda path: path.write_text(csv_text(rows), encoding="utf-8")),
        (asked.get("json_file"), "_streams.json", lambda path: path.write_text(json_text(rows), encoding="utf-8")),
        (asked.get("html_file"), "", lambda path: insert_section(path, figures_section(rows, chart_images(run), mark))),
    )
    for name, suffix, job in jobs:
        if name:
            path = Path(name + suffix)
            try:
                job(path)
            except OSError as error:
                yield f"The streaming figures are not in {path}: {error.strerror}."


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Return the rows as CSV, None as an empty cell; names of columns in seconds end in _s."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f"{key}_s" if key.startswith(SECONDS_KEYS) else key for key in rows[0]])
    for row in rows:
        writer.writerow(["; ".join(value) if isinstance(value, list) else value for value in row.values()])
    return text.getvalue()


def json_text(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a JSON list of objects; durations are in seconds."""
    named = [{f"{key}_s" if key.startswith(SECONDS_KEYS) else key: value for key, value in row.items()} for row in rows]
    return json.dumps(named, indent=2) + "\n"


def chart_images(run: RunFolder | None) -> list[tuple[str, bytes]]:
    """Draw the run's charts and return each as (caption, PNG); none for a folder without requests."""
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


def figures_section(rows: list[dict[str, Any]], charts: list[tuple[str, bytes]], mark: str | None) -> str:
    """Return figures and charts as a piece of HTML that contains its style and loads nothing."""
    head = "".join(f'<th colspan="{len(columns)}" scope="colgroup">{escape(group)}</th>' for group, columns in GROUPS)
    parts = "".join(f"<th>{escape(part)}</th>" for _, columns in GROUPS for part, _, _ in columns)
    body = "".join(
        f"<tr><td>{escape(row['name'])}</td>"
        + "".join(f"<td>{table_figure(row[key], factor)}</td>" for _, columns in GROUPS for _, key, factor in columns)
        + f"<td>{row['verdict'] or NO_FIGURE}</td></tr>"
        for row in rows
    )
    warning = (
        f"<p><strong>SIMULATED SERVER</strong> ({escape(mark)}): not the figures of a real one.</p>" if mark else ""
    )
    said = "".join(f"<p>{escape(line)}</p>" for line in table_notes(rows))
    images = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, image in charts
    )
    return (
        f'<section class="loadtest"><style>{SECTION_STYLE}</style><h2>Streaming figures</h2>{warning}<div><table>'
        f'<thead><tr><th rowspan="2">Name</th>{head}<th rowspan="2">verdict</th></tr><tr>{parts}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{said}{images}</section>"
    )


def with_section(page: str, piece: str) -> str:
    """Return Locust's page with a piece of HTML below what Locust draws."""
    before, anchor, after = page.rpartition(ANCHOR)
    if not anchor:
        before, anchor, after = page.rpartition("</body>")
        before, anchor, after = (before, "", anchor + after) if anchor else (page, "", "")
    return before + anchor + piece + after


def insert_section(path: Path, piece: str) -> None:
    """Put a piece of HTML into the page that Locust wrote, as `with_section` does; the file is replaced whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(with_section(path.read_text(encoding="utf-8"), piece), encoding="utf-8")
    partial.replace(path)


# Colours are inherited from the page, which Locust shows light or dark.
SECTION_STYLE = """
.loadtest { font: 14px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 24px; }
.loadtest h2 { font-size: 2.1rem; font-weight: 400; margin: 0 0 .5rem; }
.loadtest div { overflow-x: auto; }
.loadtest table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.loadtest th, .loadtest td { padding: 6px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
.loadtest th[colspan] { text-align: center; border-bottom: 0; }
.loadtest th[colspan="1"] { text-align: right; }
.loadtest thead tr:last-child th { font-weight: 400; opacity: .75; padding-top: 0; }
.loadtest th[rowspan] { vertical-align: bottom; }
.loadtest p { margin: .5rem 0; }
.loadtest td:first-child, .loadtest th[rowspan]:first-child { text-align: left; }
.loadtest tbody tr:last-child { font-weight: 600; }
.loadtest figure { margin: 2rem 0; }
.loadtest img { max-width: 100%; background: #fff; border-radius: 4px; }
"""
