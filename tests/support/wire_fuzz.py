"""Recorded answers, mutated and cut at random: what the wire and a decoder make of them may not depend on the cuts.

PYTHONPATH=.:tests python -m support.wire_fuzz 1000000 [SEED]
"""

from __future__ import annotations

import json
import random
import sys
import time
from dataclasses import dataclass

from loadtest.dialects import Dialect
from loadtest.dialects.base import End, EndMarks
from loadtest.measure.request import decode
from loadtest.wire import Received
from support.places import STREAMS
from support.received import Reader
from support.recorded import DIALECTS, load

SPLICES = [
    b"\r\n", b"\n", b"\r", b"0\r\n\r\n", b"\n0", b"5\r\n", b"ffffffffffffffff\r\n", b"data: [DONE]\n\n", b": ping\n\n",
    b'{"done":true}\n', b"HTTP/1.1 100 Continue\r\n\r\n", b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n",
    b"\x00", b"\xff\xfe", b"\xe2\x80", b"\\ud83d", b'{"a":' * 50, b" ", b"1e999", b'"finish_reason":"stop"',
]  # fmt: skip


def said(line: bytes) -> End | None:
    """Say what the line's first word says, [DONE] or an object that is whole: no cut behind that word can change it."""
    data = line.strip().removeprefix(b"data:").strip()
    if data.startswith(b"[DONE]"):
        return End.MARK
    try:
        row, _ = WHOLE.raw_decode(data.decode(errors="replace"))
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    choices = row.get("choices")
    finished = isinstance(choices, list) and any(isinstance(one, dict) and one.get("finish_reason") for one in choices)
    over = row.get("done") is True or row.get("type") in ("message_stop", "response.completed")
    return End.MARK if over else End.FINISH if finished else None


WHOLE = json.JSONDecoder(strict=False)
ENDS = EndMarks((b"[DONE]", b'"done":true', b'"finish_reason":"', b'"message_stop"', b'"response.completed"'), said)


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one answer."""

    status: int | None
    body: bytes
    failure: str | None
    complete: bool
    marked: End | None
    texts: tuple[str, ...]
    ending: str


def recordings() -> list[tuple[Dialect, bytes]]:
    """Return the wire format and all bytes of every recorded stream."""
    out = []
    for path in sorted(STREAMS.glob("*.json")):
        try:
            stream = load(path.stem)
        except AssertionError:
            continue
        if stream.path in DIALECTS and stream.reads:
            out.append((stream.dialect, b"".join(data for _, data in stream.reads)))
    return out


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with a few bytes changed, dropped, doubled or put in."""
    out = bytearray(data[: rng.randrange(1, len(data))] if rng.random() < 0.1 else data)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8))):
        at = rng.randint(0, len(out))
        match rng.randrange(4):
            case 0 if at < len(out):
                out[at] = rng.randrange(256)
            case 1:
                del out[at : at + rng.randint(1, 30)]
            case 2:
                out[at:at] = rng.choice(SPLICES)
            case _:
                out[at:at] = out[at : at + rng.randint(1, 300)]
    return bytes(out) or b"x"


def seen(dialect: Dialect, data: bytes, cuts: list[int], *, decoding: bool) -> Seen:
    """Feed `data` cut at `cuts`, and the connection's end; events follow from the body, so not every case decodes it."""
    received = Received(Reader(ends=ENDS))
    for t, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(data)], strict=True)):
        if begin < end and not received.ended:
            received.add(data[begin:end], [], t)
    received.eof(len(cuts) + 1)
    assert received.ended
    reads = received.reads()
    assert list(reads.t) == sorted(reads.t)
    assert received.t_end is not None
    assert received.t_over is not None
    assert received.t_end <= received.t_over
    events, ending = decode(dialect, reads.body if decoding else b"")
    return Seen(
        received.status,
        reads.body,
        received.failure and received.failure.partition(" begins with")[0],  # it quotes what has come
        received.complete,
        received.marked,
        tuple(events.texts),
        repr(ending),
    )


def fuzz(cases: int, seed: int) -> None:
    """Try so many cases; raises at the first one of which the cuts change the outcome."""
    rng = random.Random(seed)
    known = recordings()
    for case in range(cases):
        dialect, data = rng.choice(known)
        data = mutated(data, rng)
        decoding = case % 20 == 0
        whole = seen(dialect, data, [], decoding=decoding)
        count = rng.choice((1, 2, 5, 20)) if rng.random() < 0.99 else len(data)
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count))
        other = seen(dialect, data, cuts, decoding=decoding)
        assert other == whole, f"case {case} of seed {seed}: {data!r} cut at {cuts}:\n{whole}\n{other}"


if __name__ == "__main__":
    began = time.monotonic()
    total, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    fuzz(total, first)
    print(
        f"{total} cases from seed {first}: no exception, same outcome whatever the cuts; {time.monotonic() - began:.0f} s"
    )
