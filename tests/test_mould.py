"""Lines that are alike are read without being parsed: what comes out is what parsing would have given."""

from __future__ import annotations

import json
import random

import pytest

from loadtest.measure.dialects import Ending, Events, OpenAIChat
from loadtest.measure.dialects.framing import Mould

TEXTS = [" the", "m", "stop", "", "content", 'say "hi"', "\\", "\\\\n", "é", "\u2028", "\n", "}", '","x":"', "a" * 700]
PIECES = [
    *map(json.dumps, TEXTS),
    '"\\u00e9"',
    '"\x01"',
    '"a","b":"c"',
    '"a" "b"',
    "null",
    "1",
    '["x"]',
    '{"a":"b"}',
    "",
]


def answer(rng: random.Random) -> bytes:
    """Make a stream whose chunks differ in their text, and now and then in something else."""
    model, finish, extra, end = "m", "null", "", "\n\n"
    lines = []
    for _ in range(40):
        match rng.randrange(16):
            case 0:
                model = rng.choice(["m", " the", "a" * 700, ""])
            case 1:
                finish = rng.choice(["null", '"stop"', '"length"'])
            case 2:
                extra = rng.choice(
                    ["", ',"usage":null', ',"usage":{"prompt_tokens":3}', ',"error":"no"', ',"timings":{}']
                )
            case 3:
                end = rng.choice(["\n\n", "\n", "\r\n\r\n"])
            case 4:
                lines.append(rng.choice(["event: error\n", "event: x\n\n", "data: [DONE]\n\n", "data: {\n", ":\n\n"]))
        key = rng.choice(["content"] * 12 + ["reasoning", "role"])
        delta = f'{{"{key}":{rng.choice(PIECES)}}}'
        lines.append(
            f'data: {{"id":"1","model":"{model}","choices":[{{"delta":{delta},"finish_reason":{finish}}}]{extra}}}{end}'
        )
    return "".join(lines).encode()


def read(body: bytes) -> tuple[Events, Ending]:
    decoder = OpenAIChat("m").decoder()
    decoder.feed(body)
    return decoder.events, decoder.close()


def test_a_line_read_by_its_likeness_is_what_parsing_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [answer(random.Random(seed)) for seed in range(800)]
    short = [read(body) for body in bodies]
    with monkeypatch.context() as patch:
        patch.setattr(Mould, "text_of", lambda _mould, _line: None)
        assert short == [read(body) for body in bodies]


def test_a_mould_takes_the_text_alone() -> None:
    mould = Mould()
    mould.shape(b'{"model":"m","text":"one"}', "one")
    assert mould.text_of(b'{"model":"m","text":"tw\\u00f6 \\"2\\""}') == 'twö "2"'
    for other in (
        b'{"model":"n","text":"two"}',
        b'{"model":"m","text":""}',
        b'{"model":"m","text":2}',
        b'{"model":"m"}',
        b"",
    ):
        assert mould.text_of(other) is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"model":"m","text":"m"}', "m"),  # which of the two?
        (b'{"model":"a","text":"\\u0061"}', "a"),  # the one that is not escaped is not the text
    ],
)
def test_where_the_text_stands_is_never_guessed(line: bytes, text: str) -> None:
    mould = Mould()
    mould.shape(line, text)
    assert mould.text_of(line) is None
