"""Files that are no rows of text: packed, of a spreadsheet, of a program, a page or a pointer in place of the data."""

from __future__ import annotations

import codecs
import csv
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from loadtest.scenario.values import short_repr
from loadtest.text import counted

NAMED_STDIN = Path("-")
PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x04\x22\x4d\x18": "lz4",
}
TABLES = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"SQLite format 3\0": "SQLite",
    b"Obj\x01": "Avro",
    b"\x89HDF": "HDF5",
}
DOCUMENTS = {
    b"%PDF-": "PDF",
    b"\xd0\xcf\x11\xe0": "an old file of Excel or Word",
    b"\x80\x04\x95": "a pickle of Python",
}
SHEETS = (".xlsx", ".xlsm", ".ods")
OTHER_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html")
_URL = re.compile("https?:/")
LONE_RETURNS = "; if they are its line ends, save the file anew with those of Linux or Windows"


def not_regular(path: Path) -> str | None:
    """Say what a path is where it is no regular file, and what to do; raises OSError where nothing is there."""
    if path == NAMED_STDIN and not path.exists():
        return "is standard input, which can be read only once; save it to a file first"
    if _URL.match(str(path)):
        return "is a URL; download the file first"
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        return "is a folder; name a file in it"
    return None if stat.S_ISREG(kind) else "is not a regular file; save it to one first"


def not_rows(begin: bytes, suffix: str) -> str | None:
    """Say what a file of this beginning and suffix is instead of rows, and what to do; None where it may be rows."""
    if begin.lstrip().lower().startswith(PAGES):
        return "is a web page, not the data; download the file itself"
    return not_text(begin, suffix)


def not_text(begin: bytes, suffix: str) -> str | None:
    """Say what a file of this beginning and suffix is instead of UTF-8 text, and what to do; None where it may be text."""
    if suffix in SHEETS and begin.startswith(b"PK"):
        return "is a spreadsheet, which loadtest does not read; save the sheet as CSV first"
    for magic, name in PACKED.items():
        if begin.startswith(magic):
            return f"is {name}, which loadtest does not read; unpack it first"
    for magic, name in TABLES.items():
        if begin.startswith(magic):
            return f"is {name}, which loadtest does not read; convert it to JSON lines first"
    for magic, name in DOCUMENTS.items():
        if begin.startswith(magic):
            return f"is {name}, which loadtest does not read; save its rows as CSV or JSON lines first"
    if begin.startswith(OTHER_MARKS) or _is_wide(begin):
        return "is not UTF-8 text but UTF-16 or UTF-32; save it as UTF-8"
    if begin.startswith(LFS):
        return "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`"
    return None


def _is_wide(begin: bytes) -> bool:
    """Whether every other byte is NUL, as in UTF-16 without a mark."""
    some = begin[:64]
    return len(some) >= 4 and (not any(some[1::2]) or not any(some[::2])) and any(some)


def is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def wrong_head(line: str, names: Sequence[str], read: Collection[str]) -> str | None:
    """Say what is wrong with a first line that names columns, of which those in `read` are read; None where nothing is."""
    if not any(names):
        return "is blank; let the first line name the columns"
    if line.lower().startswith("sep="):
        return "is a note for Excel (sep=), and hides the names of the columns; take it out"
    twice = next((name for name in names if name in read and names.count(name) > 1), None)
    return None if twice is None else f"names the column {short_repr(twice)} twice; rename one of them"


def wrong_cells(cells: int, names: int, delimiter: str) -> str:
    """Say that a row has more or fewer cells than the file has columns, and what to do."""
    few = f"has {counted(cells, 'cell')} and the file's first line {names}; "
    if cells < names:
        return few + "give it as many, empty ones where nothing is known"
    return few + f"put quotes around texts that hold {'tabs' if delimiter == chr(9) else delimiter} or line ends"


def wrong_csv(error: csv.Error) -> str:
    """Say what is wrong with a row of CSV: a phrase that follows "line 7"."""
    if "end of data" in str(error):
        return "begins a text in quotes that never ends"
    if "expected after" in str(error):
        return 'is not CSV: it has more behind a closing quote; write a quote inside quotes twice, as ""'
    return f"is not CSV: {f'it has lone carriage returns{LONE_RETURNS}' if 'new-line' in str(error) else error}"
