"""What a row of the casebook is, how its answer is held against a record, and how results are printed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.odd_answers import DIALECTS, Wire
from support.odd_server import Request, Script

DRIVERS = ("run", "locust")


@dataclass(frozen=True, slots=True)
class Row:
    """One shape of an answer, and what must be true of its record.

    `answer` is given the wire format and how many requests of this row came before. A `level` row is asked eight times
    by two streams, so that its level can be judged.
    """

    name: str
    kind: str
    answer: Callable[[Wire, int], Script]
    must: Mapping[str, Any]
    dialects: Sequence[str] = DIALECTS
    drivers: Sequence[str] = DRIVERS
    level: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the table."""

    case: str
    driver: str
    dialect: str
    expected: str
    got: str
    ok: bool


@dataclass(slots=True)
class Seen:
    """What became of one row in one run: its records, its level, and what the server saw."""

    records: list[dict[str, Any]] = field(default_factory=list)
    level: dict[str, Any] | None = None
    requests: list[Request] = field(default_factory=list)
    following: Request | None = None  # the server's next request of another row


ROWS: list[Row] = []
LEFT_OUT = (  # kinds that belong to other work
    "objectives of --slo that failures must miss",
    "the demo beside a busy process",
    "URLs with their own query and headers (Azure), fields left out of a request",
    "several --url in one command",
    "conversations and data sets of prompts",
    "predictions and limits that gateways hide",
    "labels of charts with many streams",
    "claims held against a real server",
)


def rows(kind: str) -> Callable[..., None]:
    """Return what adds rows of one kind to the book."""

    def add(
        name: str,
        answer: Callable[..., Script],
        *,
        dialects: Sequence[str] = DIALECTS,
        drivers: Sequence[str] = DRIVERS,
        is_level: bool = False,
        **must: Any,
    ) -> None:
        takes_number = answer.__code__.co_argcount > 1
        given = answer if takes_number else lambda wire, _: answer(wire)
        if any(row.name == name for row in ROWS):
            raise ValueError(f"two rows are called {name!r}")
        ROWS.append(
            Row(
                name,
                kind,
                given,
                must,
                dialects,
                drivers,
                is_level or bool(OF_LEVEL & must.keys() or "outcomes" in must),
            )
        )

    return add


def hold(row: Row, seen: Seen, *, driver: str, dialect: str) -> Result:
    """Hold what a row must be against what was seen."""
    expected, got, ok = [], [], True
    for key, wanted in row.must.items():
        if key in OF_RUN and driver != "run":
            continue
        found = LOOKS[key](seen)
        right = _fits(key, wanted, found)
        expected.append(f"{key}={_short(wanted)}")
        got.append(f"{key}={_short(found)}" if not right else f"{key} ok")
        ok = ok and right
    if not seen.records:
        got, ok = ["no record"], False
    elif not ok and "error" not in row.must and (error := seen.records[0].get("error")):
        got.append(f"({error[:90]})")
    return Result(row.name, driver, dialect, " ".join(expected), " ".join(got), ok)


def applies(row: Row, driver: str) -> bool:
    """Whether anything of a row can be held in this driver."""
    return driver in row.drivers and (driver == "run" or bool(row.must.keys() - OF_RUN))


def _fits(key: str, wanted: Any, found: Any) -> bool:
    if key in WORDS:
        text = str(found or "")
        if wanted is None:
            return not text
        return re.search(wanted, text, re.IGNORECASE | re.DOTALL) is not None
    if key in UNSAID:
        return re.search(wanted, str(found or ""), re.IGNORECASE | re.DOTALL) is None
    if key == "within":
        return found is not None and found <= wanted
    if isinstance(wanted, tuple):
        return found in wanted
    return bool(found == wanted)


def _one(key: str) -> Callable[[Seen], Any]:
    """Return a field of the row's first record; of a level row the value that all records share, else all of them."""

    def look(seen: Seen) -> Any:
        found = [record.get(key) for record in seen.records]
        return found[0] if found and all(value == found[0] for value in found) else found

    return look


def _joined(*keys: str) -> Callable[[Seen], str]:
    return lambda seen: "; ".join(text for record in seen.records for key in keys for text in record.get(key) or ())


def _took(seen: Seen) -> float | None:
    """Return the longest time in seconds from a request's sending to its end."""
    spans = [record["t_end"] - record.get("t_send", record["t_sched"]) for record in seen.records]
    return max(spans) * 1e-9 if spans else None


def _kept(seen: Seen) -> bool | None:
    """Return whether the server's next request came over the same connection."""
    if not seen.requests or seen.following is None:
        return None
    return seen.following.connection == seen.requests[-1].connection


def _raw(seen: Seen) -> str:
    """Return what of the error would steer a terminal."""
    text = "".join(str(record.get("error") or "") + _joined("notes", "doubts")(seen) for record in seen.records)
    return "".join(f"U+{ord(char):04X} " for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs"))


def _figure(name: str) -> Callable[[Seen], Any]:
    """Return whether the level's summary knows a figure."""
    return lambda seen: None if seen.level is None else "known" if seen.level.get(name) is not None else "unknown"


LOOKS: dict[str, Callable[[Seen], Any]] = {
    "outcome": _one("outcome"),
    "outcomes": lambda seen: sorted(str(record["outcome"]) for record in seen.records),
    "status": _one("status"),
    "error": _one("error"),
    "unsaid": _one("error"),
    "classes": lambda seen: len({record.get("error") for record in seen.records}),
    "text": _one("answer"),
    "chunks": lambda seen: len(seen.records[0].get("chunks") or ()) if seen.records else None,
    "output": _one("output_tokens"),
    "prompt": _one("prompt_tokens"),
    "source": _one("token_source"),
    "finish": _one("finish_reason"),
    "reads": _one("reads"),
    "ttft": lambda seen: all(record.get("t_first_token") is not None for record in seen.records),
    "visible": lambda seen: all(record.get("t_first_visible") is not None for record in seen.records),
    "stamps": lambda seen: all(record.get("server_us") is not None for record in seen.records),
    "resent": lambda seen: any(record.get("resent") is not None for record in seen.records),
    "doubts": _joined("doubts"),
    "notes": _joined("notes"),
    "odd": _joined("notes", "doubts"),
    "raw": _raw,
    "within": _took,
    "kept": _kept,
    "asked": lambda seen: len(seen.requests),
    "level": lambda seen: (seen.level or {}).get("verdict"),
    "reasons": lambda seen: "; ".join((seen.level or {}).get("reasons") or ()),
    "queue_wait": _figure("queue_wait_s"),
    "load": _figure("load_s"),
    "prefill": _figure("prefill_s"),
}
WORDS = {"error", "doubts", "notes", "odd", "reasons"}  # a regular expression that must be found; None: nothing is said
UNSAID = {"unsaid"}  # one that must not
OF_LEVEL = {"level", "reasons", "queue_wait", "load", "prefill"}
OF_RUN = OF_LEVEL | {"kept"}  # a Locust test has one level for all rows, and its users ask side by side


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.2f}" if isinstance(value, float) else repr(value)
    text = "".join(char if char.isprintable() else "�" for char in text)
    return text if len(text) <= 110 else text[:109] + "…"


def table(results: Sequence[Result]) -> str:
    """Return results as a Markdown table."""
    lines = ["| case | driver | dialect | expected | got | ok |", "|---|---|---|---|---|---|"]
    for one in results:
        cells = (one.case, one.driver, one.dialect, one.expected, one.got, "ok" if one.ok else "**NO**")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
