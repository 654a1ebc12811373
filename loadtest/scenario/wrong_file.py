"""Files that are no rows of text: packed, of a spreadsheet, of a program, a page or a pointer in place of the data."""

from __future__ import annotations

import codecs
import re
import stat
from pathlib import Path

NAMED_STDIN = Path("-")
UNPACK, CONVERT, SAVE = "unpack it", "convert it to JSON lines", "save its rows as CSV or JSON lines"
UNREAD = {  # the first bytes of a file that is not read -> what it is, and what to do first
    b"\x1f\x8b": ("gzip", UNPACK),
    b"PK\x03\x04": ("zip", UNPACK),
    b"\x28\xb5\x2f\xfd": ("zstd", UNPACK),
    b"BZh": ("bzip2", UNPACK),
    b"\xfd7zXZ\0": ("xz", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("7z", UNPACK),
    b"\x04\x22\x4d\x18": ("lz4", UNPACK),
    b"PAR1": ("Parquet", CONVERT),
    b"ARROW1": ("Arrow", CONVERT),
    b"SQLite format 3\0": ("SQLite", CONVERT),
    b"Obj\x01": ("Avro", CONVERT),
    b"\x89HDF": ("HDF5", CONVERT),
    b"%PDF-": ("PDF", SAVE),
    b"{\\rtf": ("RTF", SAVE),
    b"\xd0\xcf\x11\xe0": ("an old file of Excel or Word", SAVE),
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), ("a pickle of Python", SAVE)),
    b"\xff\xff\xff\xff": ("Arrow", CONVERT),  # as a stream: what the datasets library keeps
    b"\x93NUMPY": ("an array of NumPy", SAVE),
}
TAR_AT, TAR = 257, b"ustar"
OTHER_TEXTS = {".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".xml": "XML"}
MOST_CONTROLS, FEW_CONTROLS = 0.1, 16  # share and number of a text's bytes that are neither characters nor blanks
SHEETS, DOCUMENTS = (".xlsx", ".xlsm", ".ods"), (".docx", ".odt", ".pptx")
OTHER_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html")
_URL = re.compile("[a-z][a-z0-9+]+:/", re.IGNORECASE)  # of two letters or more: C:/ is a drive


def not_regular(path: Path) -> str | None:
    """Say what a path is where it is no regular file, and what to do; raises OSError where nothing is there."""
    if path == NAMED_STDIN and not path.exists():
        return "is standard input, which can be read only once; save it to a file first"
    if _URL.match(str(path)):
        return "is a URL; save the file on this machine, and give its path"
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        return "is a folder; name a file in it"
    return None if stat.S_ISREG(kind) else "is not a regular file; save it to one first"


def not_rows(begin: bytes, suffix: str) -> str | None:
    """Say what a file of this beginning and suffix is instead of rows, and what to do; None where it may be rows."""
    if begin.lstrip().lower().startswith(PAGES):
        return "is a web page, not the data; download the file itself"
    other = OTHER_TEXTS.get(suffix, "XML" if begin.lstrip().startswith(b"<?xml") else None)
    if other is not None and begin.strip():
        return f"is {other}, which loadtest does not read; {CONVERT} first"
    return not_text(begin, suffix)


def not_text(begin: bytes, suffix: str) -> str | None:
    """Say what a file of this beginning and suffix is instead of UTF-8 text, and what to do; None where it may be text."""
    if suffix in SHEETS and begin.startswith(b"PK"):
        return "is a spreadsheet, which loadtest does not read; save the sheet as CSV first"
    if suffix in DOCUMENTS and begin.startswith(b"PK"):
        return f"is a document, which loadtest does not read; {SAVE} first"
    for first, (name, remedy) in UNREAD.items():
        if begin.startswith(first):
            return f"is {name}, which loadtest does not read; {remedy} first"
    if begin[TAR_AT:].startswith(TAR):
        return f"is tar, which loadtest does not read; {UNPACK} first"
    if begin.startswith(OTHER_MARKS) or _is_wide(begin):
        return "is not UTF-8 text but UTF-16 or UTF-32; save it as UTF-8"
    controls = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in begin)
    if controls > max(FEW_CONTROLS, MOST_CONTROLS * len(begin)) or (controls and not is_utf8(begin)):
        return "is binary, not text; name the right file"
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
