"""Text files that a user names: each is read whole, or refused in one sentence that says what it is instead.

It may be packed, of a spreadsheet or of a program, a page or a pointer in place of the data.
"""

from __future__ import annotations

import codecs
import csv
import functools
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.scenario.values import short_repr

MOST_PROMPT = 64 << 20  # bytes
LINES_LOOKED_AT = 3  # lines of a file that are looked at to see what it is
CHAT_KEYS = ("prompt", "messages", "conversations", "question", "instruction", "text", "input")  # of data sets
RECORD_SUFFIXES = {".jsonl": "JSON lines", ".ndjson": "JSON lines", ".csv": "CSV", ".tsv": "CSV with tabs"}
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


def home() -> Path:
    """Return the user's folder; raise ScenarioError for a user without one, as a container may have."""
    try:
        return Path.home()
    except RuntimeError:
        raise ScenarioError("this user has no home folder; set HOME to one.") from None


def from_home(name: Any, mark: str = "") -> Any:
    """Return a file's name with ~/ behind `mark` as the user's folder: shells leave it as it is behind = and @."""
    text = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(text, str) or not text.startswith(f"{mark}~/"):
        return name
    return f"{mark}{home() / text.removeprefix(f'{mark}~/')}"


def read_text(path: Path, what: str, *, most: int) -> str:
    r"""Return a file's text with \n as its line ends and without a byte order mark.

    Reads at most `most` bytes, because a device such as /dev/zero has no end. Raises ScenarioError, in which the file is
    called `what`.
    """
    try:
        with path.open("rb") as file:
            body = file.read(most + 1)
    except IsADirectoryError:
        raise ScenarioError(f"the {what} {path} is a folder; name a file.") from None
    except OSError as error:
        hint = "; standard input is /dev/stdin" if path == NAMED_STDIN else ""
        raise ScenarioError(f"cannot read the {what} {path}: {error.strerror}{hint}.") from None
    except ValueError:
        raise ScenarioError(f"cannot read the {what} {path!a}: its name holds a NUL byte.") from None
    if len(body) > most:
        raise ScenarioError(f"the {what} {path} is longer than {most >> 20} MiB; is it the right file?")
    if other := not_text(body[:512], path.suffix.lower()):
        raise ScenarioError(f"the {what} {path} {other}.")
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body[: error.start].count(b"\n") + 1
        raise ScenarioError(f"the {what} {path} is not UTF-8 text (line {line}); save it as UTF-8.") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ScenarioError(f"the {what} {path} holds a NUL byte (line {line}); is it a text file?")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def is_file(text: str) -> bool:
    try:
        return Path(text.strip()).is_file()
    except (OSError, ValueError):
        return False


def refuse_file_name(key: str, text: str, instead: str) -> None:
    """Raise ScenarioError for a text that names a file or standard input: that would be sent in the place of what is in it.

    A word alone, such as README, is what it is; behind an @ it is taken for a file's name, also where there is no such file.
    """
    name = text.strip().removeprefix("@")
    if name == "-":
        raise ScenarioError(
            f"{key} is -, which many programs take for standard input; that is the file /dev/stdin here: {instead}."
        )
    if not name.isalnum() and is_file(name):
        raise ScenarioError(f"{key} is the name of a file, {short_repr(name)}; {instead}.")
    if name and text.strip().startswith("@") and len(text.split()) == 1:
        raise ScenarioError(f"{key} begins with @, as the name of a file does, {short_repr(name)}; {instead}.")


def file_version(path: Path) -> tuple[int, ...]:
    """Return a value that changes when the file changes; always () for what can be read only once, such as a pipe."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else ()


def prompt_of(path: Path, *, has_words: bool) -> str:
    """Return the prompt in a file; raise ScenarioError where it is not one prompt, or as check_words does."""
    text = cached_text(path, "prompt file", file_version(path))
    if not text.strip():
        raise ScenarioError(f"the prompt file {path} is empty.")
    if kind := record_format(text, path.suffix.lower()):
        raise ScenarioError(
            f"the prompt file {path} looks like {kind}, and would be sent whole, as one prompt; give it with --data "
            "(data in [data] of a TOML file), which sends each row."
        )
    check_words(f"the prompt file {path}", text, has_words=has_words)
    return text


def check_words(what: str, text: str, *, has_words: bool) -> None:
    """Raise ScenarioError where a text has {words} in it and the scenario no values for it, or the reverse."""
    if has_words and "{words}" not in text:
        raise ScenarioError(f"words is given, but {what} has no {{words}} in it.")
    if not has_words and "{words}" in text:
        raise ScenarioError(f"{what} has {{words}} in it; say which with words, e.g. words = [25, 100].")


@functools.lru_cache(maxsize=4)
def cached_text(path: Path, what: str, _: tuple[int, ...]) -> str:
    """Return the text of a file called `what`. It is needed several times, and a pipe can be read only once, so it is kept."""
    return read_text(path, what, most=MOST_PROMPT)


def record_format(text: str, suffix: str = "") -> str | None:
    """Name the format of a text that seems to hold many records; None for a text that may be one prompt."""
    if suffix in RECORD_SUFFIXES:
        return RECORD_SUFFIXES[suffix]
    stripped = text.strip()
    lines = [line for line in stripped.splitlines() if line.strip()]
    if stripped.startswith("["):
        items = parsed(stripped)
        if isinstance(items, list) and len(items) > 1 and all(isinstance(item, dict | str) for item in items):
            shared = isinstance(items[0], dict) and "conversations" in items[0]
            return f"a JSON array of {len(items)} {'conversations (ShareGPT)' if shared else 'records'}"
    if stripped.startswith("{"):
        rows = [parsed(line) for line in lines[:LINES_LOOKED_AT]]
        if all(isinstance(row, dict) for row in rows) and (len(rows) > 1 or _is_record(rows[0])):
            return "JSON lines"
        if _is_record(parsed(stripped)):
            return "a JSON record"
    return "CSV" if _is_csv(lines) else None


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and any(key in value for key in CHAT_KEYS)


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_csv(lines: list[str]) -> bool:
    """Whether lines are CSV whose header names a prompt column; commas alone prove nothing, as prose has them too."""
    if len(lines) < 2:
        return False
    try:
        rows = list(csv.reader(lines[: LINES_LOOKED_AT + 1]))
    except csv.Error:
        return False
    header = [name.strip().lower() for name in rows[0]]
    return (
        len(header) > 1 and any(name in CHAT_KEYS for name in header) and all(len(row) == len(header) for row in rows)
    )


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
