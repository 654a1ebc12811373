"""`loadtest export`: the tables of a run as CSV, JSON or Parquet."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from loadtest.cli.options.param_types import names_callback
from loadtest.cli.output.printing import out_folder, out_option
from loadtest.credentials import scrubber
from loadtest.errors import LoadTestError, ScenarioError
from loadtest.run_folder import opened_whole

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("levels", "requests", "chunks")
FILE_FORMATS = ("csv", "json", "parquet")
STDOUT = Path("-")
# How a text begins that a spreadsheet calculates (a server chooses what its errors begin with), and what ends a row for some
# readers although it stands in a text.
UNSAFE = {r"^([=+\-@\t\r\n＝＋－＠])": r"'\1", r"\r": r"\\r"}
ROWS_AT_ONCE = 10_000  # of a JSON file, so that a table of millions of rows is not in memory twice


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--format", "kind", type=click.Choice(FILE_FORMATS), default="csv", show_default=True, help="Format of the files."
)
@click.option(
    "--what",
    default=",".join(TABLES),
    show_default=True,
    callback=names_callback(TABLES, f"a table; tables are {', '.join(TABLES)}"),
    metavar="TABLE,…",
    help="levels (a row each, with figures and verdict), requests (a row each), chunks (a row for each piece of an answer).",
)
@out_option("Folder for the files; - writes one table to stdout.  [default: RUN]")
def export(run: Path, *, kind: str, what: tuple[str, ...], out: Path | None) -> None:
    """Write the tables of a run as CSV, JSON or Parquet: levels.csv, requests.csv and chunks.csv.

    Columns are those of `loadtest.read_run`, described in docs/python.md: seconds, tokens and instants since the run's
    first request was due. Unknown values are empty (null in JSON and Parquet). Figures are worked out anew from the
    records.

    \b
    Examples:
      loadtest export runs/first
      loadtest export runs/first --format json --what levels -o -
      loadtest export runs/first --format parquet --what requests,chunks -o tables
    """
    to_stdout = out == STDOUT
    if to_stdout and len(what) != 1:
        raise ScenarioError(f"stdout takes one table: name it with --what, e.g. --what {what[0]}.")
    if kind == "parquet":
        _require_pyarrow()
    from loadtest.library import read_run

    read = read_run(run)
    for sentence in read.summary["trouble"]:
        print(f"loadtest: {sentence}", file=sys.stderr)
    folder = run if to_stdout else out_folder(run, out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in what:
        pieces = _pieces(getattr(read, name), kind)
        if to_stdout:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
        else:
            path = folder / f"{name}.{kind}"
            with opened_whole(path) as file:
                file.writelines(pieces)
            print(f"wrote {path}")


def _require_pyarrow() -> None:
    try:
        import pyarrow  # type: ignore[import-not-found, unused-ignore] # noqa: F401
    except ImportError:
        raise LoadTestError(
            "Parquet needs pyarrow, which is not installed: `pip install pyarrow` (the extra llm-loadtest[parquet]), or take "
            "--format csv."
        ) from None


def _pieces(table: pd.DataFrame, kind: str) -> Iterator[bytes]:
    """Yield a file of the table, a piece at a time."""
    from loadtest.analyse.dataframes import typed

    scrub = scrubber()
    table = typed(table)
    if kind == "parquet":
        body = io.BytesIO()
        table.to_parquet(body, engine="pyarrow", index=False)
        yield body.getvalue()
        return
    if kind == "csv":
        for start in range(0, max(len(table), 1), ROWS_AT_ONCE):
            part = table.iloc[start : start + ROWS_AT_ONCE].replace(UNSAFE, regex=True)
            yield scrub(part.to_csv(index=False, header=start == 0, lineterminator="\n").encode())
        return
    yield b"["
    for start in range(0, len(table), ROWS_AT_ONCE):
        part = table.iloc[start : start + ROWS_AT_ONCE].astype(object)
        rows = part.where(part.notna(), None).to_dict("records")
        yield (b",\n" if start else b"\n") + scrub(b",\n".join(orjson.dumps(row) for row in rows))
    yield b"\n]\n"
