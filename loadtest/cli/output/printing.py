"""What commands print: lines on a console, the files that were written, and JSON."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
import orjson
from rich.console import Console
from rich.text import Text

from loadtest.credentials import scrubber
from loadtest.grid import hanging
from loadtest.run_folder import RunFolder, check_writable


def print_lines(console: Console, lines: Iterable[str], *, before: str = "", style: str = "") -> None:
    """Print each line in a style, with `before` in front of it; what does not fit into a line stands below its first word."""
    for line in lines:
        console.print(hanging(f"{before}{line}", console.width, len(before), style))


def print_trouble(console: Console, sentences: Iterable[str]) -> None:
    """Print what is wrong with a run folder before anything that rests on it."""
    print_lines(console, sentences, style="bold yellow")


def print_written(console: Console, files: Sequence[Path]) -> None:
    """Say which files were written, each on a line that can be copied whole."""
    for path in files:
        console.print(Text(f"wrote {path}", style="dim"), soft_wrap=True)


def out_option(help_text: str) -> Callable[..., Any]:
    """Give a command -o/--out, a folder for its files, whose value is `out`."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help=help_text)


def out_folder(run: Path, out: Path | None) -> Path:
    """Return where a command puts its files: `out`, which need not exist, else the run folder.

    Raises RunFolderError where they cannot be written there, before the work that they would be the outcome of; makes nothing.
    """
    folder = out or RunFolder.open(run).path
    check_writable(folder)
    return folder


# gives a command --json, whose value is `as_json`
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON document, and nothing else, to stdout; docs/ci.md explains its names.",
)


def print_json(body: Any) -> None:
    """Print one JSON document to stdout, without the secrets of the environment."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(scrubber()(orjson.dumps(body, option=option, default=str)).decode() + "\n")


def print_wrapped(text: str, *, indent: str = "", file: TextIO | None = None) -> None:
    """Print a line; on a terminal broken between words, with `indent` before all but the first part. A pipe gets it whole."""
    file = file or sys.stdout
    if file.isatty() and text.strip():
        width = max(shutil.get_terminal_size().columns, len(indent) + 20)
        wrapping = textwrap.TextWrapper(
            width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        text = wrapping.fill(text)
    print(text, file=file, flush=True)
