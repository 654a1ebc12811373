"""The matrix: the same faults in every wire format, through both drivers, and what each records of them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from book import DRIVERS, Row, Seen
from replay import Batch
from support.odd_answers import DIALECTS, WIRES, Wire, chunk, json, plain, streamed
from support.odd_server import Every, Script, Step, Then, Wait

Answer = Callable[[Wire], Script]
LIMITS = {"first_byte_timeout": 0.7, "idle_timeout": 0.7, "total_timeout": 2.5}
HALF_HEAD = b"HTTP/1.1 200 OK\r\nContent-Ty"
OLD_HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
LONG_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"
PAGE = b"<html><head><title>Bad gateway</title></head><body>x</body></html>"


def ended(at: str, how: Then) -> Answer:
    """Return an answer that ends at one of its stages, by FIN or RST."""

    def answer(wire: Wire) -> Script:
        tail: list[Step] = [Wait(0.02), how]
        match at:
            case "before the headers":
                return [Wait(0.4), how]  # later than a kept connection's second try is allowed
            case "inside the headers":
                return [HALF_HEAD, *tail]
            case "behind the headers":
                return streamed(*tail, last=False)
            case "inside the body":
                return streamed(*wire.tokens(), *tail, last=False)
            case "inside a line":
                return streamed(wire.token("a"), wire.token("b")[:15], *tail, last=False)
            case "inside a chunk":
                return [*streamed(wire.token("a"), last=False), b"ffff\r\n{", *tail]
        return streamed(*wire.whole(), *tail, last=False)

    return answer


def instead(body: Any, *headers: bytes, status: bytes) -> Answer:
    made = plain(body, *headers, status=status) if isinstance(body, bytes) else json(body, *headers, status=status)
    return lambda wire: made


def ping(wire: Wire) -> bytes:
    return chunk(b"\n" if wire.is_ollama else b": ping\n\n")


STAGES = (
    "before the headers",
    "inside the headers",
    "behind the headers",
    "inside the body",
    "inside a line",
    "inside a chunk",
    "after the end",
)
FAULTS: dict[str, tuple[Answer, str]] = {  # what the server does, and the outcome that it must have
    "none": (lambda wire: wire.good(), "ok"),
    "slow": (lambda wire: streamed(*(step for part in wire.whole() for step in (Wait(0.2), part))), "ok"),
    "status 201": (lambda wire: streamed(*wire.whole(), status=b"201 Created"), "ok"),
    **{
        f"{name} {stage}": (ended(stage, how), "ok" if stage == "after the end" else "truncated")
        for name, how in (("reset", Then.RST), ("closed", Then.FIN))
        for stage in STAGES
    },
    "open after the end": (lambda wire: streamed(*wire.whole(), Then.HOLD, last=False), "ok"),
    "pings after the end": (lambda wire: streamed(*wire.whole(), Every(ping(wire), 0.2), last=False), "ok"),
    "framing ends, no end mark": (lambda wire: streamed(*wire.tokens()), "truncated"),
    "early hints first": (lambda wire: [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", *wire.good()], "ok"),
    "HTTP/1.0, ended by the close": (lambda wire: [OLD_HEAD, *wire.whole(), Wait(0.02), Then.FIN], "ok"),
    "headers without end": (lambda wire: [b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 60_000, Then.HOLD], "stream_error"),
    "shorter than it says": (lambda wire: [LONG_HEAD, *wire.tokens(), Wait(0.02), Then.FIN], "truncated"),
    "204 with nothing": (lambda wire: [b"HTTP/1.1 204 No Content\r\n\r\n"], "truncated or stream_error"),
    "401 without a key": (instead({"error": "no key"}, status=b"401 Unauthorized"), "http_error"),
    "400 with an error": (instead({"error": {"message": "no such option"}}, status=b"400 Bad Request"), "http_error"),
    "404 with a text": (instead(b"404 page not found\n", status=b"404 Not Found"), "http_error"),
    "429 with Retry-After": (instead(b"", b"Retry-After: 9", status=b"429 Too Many Requests"), "http_error"),
    "500 with nothing": (instead(b"", status=b"500 Internal Server Error"), "http_error"),
    "500 compressed": (
        instead(gzip.compress(b"{}"), b"Content-Encoding: gzip", status=b"500 Internal Server Error"),
        "http_error",
    ),
    "502 with a page": (instead(PAGE, b"Content-Type: text/html", status=b"502 Bad Gateway"), "http_error"),
    "307 elsewhere": (instead(b"", b"Location: /v2/", status=b"307 Temporary Redirect"), "http_error"),
    "200 with an error": (instead({"code": 50508, "message": "busy"}, status=b"200 OK"), "stream_error"),
    "200 with a page": (instead(PAGE, b"Content-Type: text/html", status=b"200 OK"), "stream_error"),
    "error inside the answer": (
        lambda wire: streamed(*wire.tokens(), wire.line(wire.error_row("fell over"))),
        "stream_error",
    ),
    "compressed": (
        lambda wire: plain(gzip.compress(b"".join(wire.whole())), b"Content-Encoding: gzip"),
        "stream_error",
    ),
    "a line of no JSON": (lambda wire: streamed(*wire.tokens(), wire.raw(b'{"a":'), wire.end()), "stream_error"),
    "not HTTP": (lambda wire: [b"SSH-2.0-OpenSSH\r\n\r\n", Wait(0.02), Then.FIN], "stream_error or truncated"),
    "no chunk framing": (
        lambda wire: [*streamed(*wire.tokens(), last=False), b"zz\r\n", Wait(0.02), Then.FIN],
        "stream_error or truncated",
    ),
    "silent before the headers": (lambda wire: [Then.HOLD], "timeout"),
    "silent before the first token": (lambda wire: streamed(Then.HOLD, last=False), "timeout"),
    "pings before the first token": (lambda wire: streamed(Every(ping(wire), 0.2), last=False), "timeout"),
    "silent in mid-answer": (lambda wire: streamed(*wire.tokens(), Then.HOLD, last=False), "timeout"),
    "pings in mid-answer": (lambda wire: streamed(*wire.tokens(), Every(ping(wire), 0.2), last=False), "timeout"),
    "tokens without end": (lambda wire: streamed(Every(chunk(wire.token("a")), 0.2), last=False), "timeout"),
    "refused": (lambda wire: wire.good(), "connect_error"),
}
LAST = "refused"  # asked for when the server has gone


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a driver made of a fault; the port, which differs by run, is left out of the sentence."""

    outcome: str
    error: str | None

    @classmethod
    def of(cls, seen: Seen) -> Recorded:
        if not seen.records:
            return cls("no record", None)
        record = seen.records[0]
        error = record.get("error")
        return cls(record["outcome"], re.sub(r":\d{4,5}\b", ":PORT", error) if error else None)


def right(fault: str, one: Recorded) -> bool:
    """Whether a fault has the outcome that it must have."""
    return one.outcome in FAULTS[fault][1].split(" or ")


Matrix = Mapping[tuple[str, str, str], Recorded]  # by fault, dialect and driver


def _rows(names: Sequence[str]) -> list[Row]:
    return [Row(name, "faults", partial(_faulty, FAULTS[name][0]), {}) for name in names]


def _faulty(answer: Answer, wire: Wire, _: int) -> Script:
    return answer(wire)


def leaving(wire: Wire, _: int) -> Script:
    """Answer well, and be gone."""
    return [Then.UNLISTEN, *wire.good(), Then.FIN]


def drive(dialect: str, driver: str) -> dict[tuple[str, str, str], Recorded]:
    """Send every fault once; the last one when nothing else is under way, for no server is there any more."""
    names = [name for name in FAULTS if name != LAST]
    rows = [*_rows(names), Row("leaving", "faults", leaving, {}), *_rows([LAST])]
    (*seen, _, refused), _ = Batch(rows, WIRES[dialect], limits=LIMITS, alone=2).run(driver)
    found = {(name, dialect, driver): Recorded.of(one) for name, one in zip(names, seen, strict=True)}
    return {**found, (LAST, dialect, driver): Recorded.of(refused)}


def matrix(dialects: Sequence[str] = DIALECTS, drivers: Sequence[str] = DRIVERS, *, at_once: int = 6) -> Matrix:
    """Drive every fault through every wire format and driver: nearly all of that is waiting for limits to pass."""
    found: dict[tuple[str, str, str], Recorded] = {}
    with ThreadPoolExecutor(at_once) as pool:
        for part in pool.map(lambda job: drive(*job), [(d, w) for d in dialects for w in drivers]):
            found |= part
    return found


def as_table(found: Matrix, dialects: Sequence[str] = DIALECTS, drivers: Sequence[str] = DRIVERS) -> str:
    """Return the matrix as Markdown: a cell is the outcome, in bold where it is wrong or its driver is alone with it."""
    lines = ["| fault | must be | " + " | ".join(f"{d}, {w}" for d in dialects for w in drivers) + " | said |"]
    lines.append("|" + "---|" * (len(dialects) * len(drivers) + 3))
    for name, (_, wanted) in FAULTS.items():
        cells = [found[name, d, w] for d in dialects for w in drivers]
        shown = [cell.outcome if right(name, cell) else f"**{cell.outcome}**" for cell in cells]
        said = " / ".join(dict.fromkeys(cell.error for cell in cells if cell.error))[:160].replace("|", "\\|")
        lines.append(f"| {name} | {wanted} | {' | '.join(shown)} | {said} |")
    equal = sum(len({found[name, d, w] for w in drivers}) == 1 for name in FAULTS for d in dialects)
    good = sum(right(name, one) for (name, _, _), one in found.items())
    lines.append("")
    lines.append(
        f"{good} of {len(found)} outcomes right; {equal} of {len(FAULTS) * len(dialects)} pairs of drivers equal"
    )
    return "\n".join(lines)
