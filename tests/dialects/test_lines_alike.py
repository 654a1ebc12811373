"""Lines that are alike are read without being parsed: what comes out is what parsing would have given."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from loadtest.dialects import (
    AnthropicMessages,
    ContentEvents,
    Dialect,
    Ending,
    OllamaChat,
    OpenAIChat,
    OpenAIResponses,
    ollama,
)
from loadtest.dialects.answers import event_streams
from loadtest.dialects.answers.lines.framing import LineShape, shape_around, stamped_shape_around

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


PADDING = ',"logprobs":[],"obfuscation":""'
FRACTIONS = [".123456789", ".000000001", ".5", ".12345678", ".1234567890", "", ".12345678a"]
INSTANTS = ["2026-01-31T12:00:00", "2026-01-31T12:00:01", "the"]


def sse(rng: random.Random) -> bytes:
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


def ndjson(rng: random.Random) -> bytes:
    """Make the same of Ollama's lines, each with its instant, before its text or behind it."""
    model, second, zone, extra = "m", INSTANTS[0], "Z", ',"done":false'
    lines = []
    for _ in range(40):
        match rng.randrange(16):
            case 0:
                model = rng.choice(["m", " the", INSTANTS[0] + ".123456789Z", ""])
            case 1:
                second = rng.choice(INSTANTS)
            case 2:
                zone = rng.choice(["Z", "Z", "+02:00", ""])
            case 3:
                extra = rng.choice([',"done":false', "", ',"done":true,"done_reason":"stop"', ',"error":"no"'])
        key = rng.choice(["content"] * 12 + ["thinking", "role"])
        message = f'"message":{{"{key}":{rng.choice(PIECES)}}}'
        stamp = f'"created_at":"{second}{rng.choice(FRACTIONS[:2] * 4 + FRACTIONS)}{zone}"'
        first, last = (stamp, message) if rng.random() < 0.9 else (message, stamp)
        lines.append(f'{{"model":"{model}",{first},{last}{extra}}}\n')
    return "".join(lines).encode()


def named(rng: random.Random) -> bytes:
    """Make the same of named and numbered events, whose number may come before the text or behind it, or be off."""
    name, number, extra, end, leads = "response.output_text.delta", 4, "", "\n\n", rng.random() < 0.5
    messages = rng.random() < 0.4
    lines = []
    for _ in range(40):
        number += 1
        match rng.randrange(16):
            case 0:
                name = rng.choice(
                    ["response.output_text.delta", "response.reasoning_text.delta", "response.x", "error"]
                )
            case 1:
                number = rng.choice([0, 9, 99, 12, number, number + 1])
            case 2:
                extra = rng.choice(
                    [
                        "",
                        PADDING,
                        PADDING,
                        ',"item_id":"a"',
                        ',"x":{"sequence_number":7}',
                        ',"error":"no"',
                        ',"logprobs":[]',
                    ]
                )
            case 3:
                end = rng.choice(["\n\n", "\n", "\r\n\r\n"])
            case 4:
                lines.append(rng.choice(["event: error\n", "event: x\n\n", "data: [DONE]\n\n", "data: {\n", ":\n\n"]))
        text = rng.choice(PIECES)
        if extra.startswith(PADDING[:-1]):
            noise = rng.choice(["", "x9", "Q" * 12, "7", '\\"', "\\u0041", "a b", '","error":"no', "\\q", "é"])
            extra = f'{PADDING[:-1]}{noise}"'
        if messages:
            kind = rng.choice(["text_delta"] * 9 + ["thinking_delta"])
            key = kind.partition("_")[0]
            row = f'{{"type":"content_block_delta","index":0,"delta":{{"type":"{kind}","{key}":{text}}}{extra}}}'
            lines.append(f"event: content_block_delta\ndata: {row}{end}")
            continue
        parts = [f'"delta":{text}{extra}', f'"sequence_number":{number}']
        row = f'{{"type":"{name}",{",".join(parts[::-1] if leads else parts)}}}'
        lines.append(rng.choice([f"event: {name}\n"] * 9 + ["", f"event:{name}\n"]) + f"data: {row}{end}")
    return "".join(lines).encode()


def read(dialect: Dialect, body: bytes) -> tuple[ContentEvents, Ending]:
    decoder = dialect.decoder()
    decoder.feed(body)
    ending = decoder.close()
    return decoder.events, ending


@pytest.mark.parametrize(
    ("dialect", "make"),
    [
        (OpenAIChat("m"), sse),
        (OllamaChat("m"), ndjson),
        (OpenAIResponses("m"), named),
        (AnthropicMessages("m"), named),
    ],
    ids=["sse", "ndjson", "responses", "messages"],
)
def test_a_line_read_by_its_likeness_is_what_parsing_makes_of_it(
    dialect: Dialect, make: Callable[[random.Random], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [make(random.Random(seed)) for seed in range(800)]
    short = [read(dialect, body) for body in bodies]
    with monkeypatch.context() as patch:
        patch.setattr(event_streams, "shape_around", lambda _line, _text: None)
        patch.setattr(ollama, "stamped_shape_around", lambda *_: None)
        assert short == [read(dialect, body) for body in bodies]


def cast(sides: LineShape | None, line: bytes) -> bytes | None:
    """Return what a line of this shape holds for a text."""
    if sides is None or not (line.startswith(sides[0]) and line.endswith(sides[1])):
        return None
    return line[len(sides[0]) : len(line) - len(sides[1])]


def test_a_shape_takes_the_text_alone() -> None:
    sides = shape_around(b'{"model":"m","text":"one"}', "one")
    assert cast(sides, b'{"model":"m","text":"tw\\u00f6 \\"2\\""}') == b'"tw\\u00f6 \\"2\\""'
    assert cast(sides, b'{"model":"n","text":"two"}') is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"model":"m","text":"m"}', "m"),  # which of the two?
        (b'{"model":"a","text":"\\u0061"}', "a"),  # the one that is not escaped is not the text
        (b'{"text":"\\ud83d"}', "\ud83d"),  # half of a character cannot be encoded
    ],
)
def test_where_the_text_stands_is_never_guessed(line: bytes, text: str) -> None:
    assert shape_around(line, text) is None


def test_an_instant_and_the_text_behind_it_are_all_that_may_differ() -> None:
    second = "2026-01-31T12:00:00."
    line = b'{"at":"2026-01-31T12:00:00.123456789Z","text":"one"}'
    assert stamped_shape_around(line, "one", second, 7) == (b'{"at":"2026-01-31T12:00:00.', b'Z","text":', b"}", 7)
    for other in (
        b'{"at":"2026-01-31T12:00:00.123456789Z","to":"2026-01-31T12:00:00.123456789Z","text":"one"}',
        b'{"text":"one","at":"2026-01-31T12:00:00.123456789Z"}',
        b'{"at":"2026-01-31T12:00:00.123456789Z","text":"two"}',
    ):
        assert stamped_shape_around(other, "one", second, 7) is None
