"""Bytes without end, cut anywhere, or of any kind: decoders have limits, and read them all alike."""

from __future__ import annotations

import random

import orjson
import pytest
from support import decoder_fuzz
from support.odd_streams import CHAT, V1, decode

from loadtest.dialects import Dialect
from loadtest.dialects.answers import decoding
from loadtest.dialects.answers.lines import framing
from loadtest.dialects.answers.lines.alike_lines import Alike

OPENAI_LINE = 'data: {"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
OLLAMA_LINE = '{"model":"m","message":{"role":"assistant","content":"a"},"done":false}\n'
END = '{"model":"m","done":true,"done_reason":"stop"}\n'


@pytest.mark.parametrize("step", [0, 1000])
@pytest.mark.parametrize(("dialect", "line"), [(V1, OPENAI_LINE), (CHAT, OLLAMA_LINE)])
def test_an_answer_without_end_has_limits(
    dialect: Dialect, line: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MOST_EVENTS", 50)
    monkeypatch.setattr(framing, "LONGEST_LINE", 5000)
    events, ending = decode(dialect, (line * 50 + END).encode(), step)
    assert (len(events), ending.error) == (50, None)
    events, ending = decode(dialect, (line * 60).encode(), step)
    assert (len(events), ending.error) == (50, decoding.TOO_MANY)
    events, ending = decode(dialect, (line * 3 + "x" * 6000 + "\n" + line * 3).encode(), step)
    assert (len(events), ending.error) == (3, framing.TOO_LONG)
    events, ending = decode(dialect, (line * 3 + "x" * 6000).encode(), step)
    assert (len(events), ending.error) == (3, framing.TOO_LONG)


def test_no_bytes_break_a_decoder_and_no_cut_changes_what_comes_out() -> None:
    decoder_fuzz.main(2500, seed=7)


def test_counts_behind_an_end_without_an_answer_can_be_written() -> None:
    """Fuzz found it: half a character in such a usage was kept as it came, and no file takes it."""
    _, ending = decode(V1, b'data: [DONE]\n\ndata: {"usage": {"prompt_tokens": 7, "status": "\\ud83d"}}\n\n')
    assert ending.server["usage"]["prompt_tokens"] == 7
    assert orjson.dumps(ending)


def test_odd_lines_read_by_their_likeness_are_what_parsing_makes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, stock = random.Random(8), decoder_fuzz.bodies()
    bodies = [decoder_fuzz.made(rng, stock) for _ in range(2000)]
    alike = [decode(dialect, body) for body in bodies for dialect in (CHAT, V1)]
    monkeypatch.setattr(Alike, "like", lambda *_: None)
    assert alike == [decode(dialect, body) for body in bodies for dialect in (CHAT, V1)]
