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
)
from loadtest.dialects.answers.answer_reader import AnswerReader
from loadtest.dialects.answers.lines.alike_lines import Alike

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
        patch.setattr(Alike, "like", lambda *_: None)
        assert short == [read(dialect, body) for body in bodies]


def texts_like(first: bytes, text: str, *others: bytes, created: int | None = None) -> list[str]:
    """Return the texts of those lines that are like the first, as far as they are."""
    alike = Alike.like(first, text, created)
    taken = alike and alike.take(others, 0, len(others), (), 0)
    return taken.texts if taken else []


def test_lines_alike_differ_in_their_text_alone() -> None:
    line = b'{"model":"m","text":"one"}'
    other = b'{"model":"m","text":"tw\\u00f6 \\"2\\""}'
    assert texts_like(line, "one", other, other, b'{"model":"n","text":"two"}') == ['tw\u00f6 "2"'] * 2
    assert texts_like(line, "one", b'{"model":"n","text":"two"}', other) == []


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"model":"m","text":"m"}', "m"),  # which of the two?
        (b'{"model":"a","text":"\\u0061"}', "a"),  # the one that is not escaped is not the text
        (b'{"text":"\\ud83d"}', "\ud83d"),  # half of a character cannot be encoded
    ],
)
def test_where_the_text_stands_is_never_guessed(line: bytes, text: str) -> None:
    assert Alike.like(line, text, None) is None


def test_an_instant_may_differ_from_a_minute_s_begin_on() -> None:
    """Go leaves out zeros at the end of a fraction."""
    minute = 1_769_860_800 * 10**9
    line = '{"at":"x","created_at":"2026-01-31T12:00:%sZ","text":"one"}'
    alike = Alike.like((line % "07.123456789").encode(), "one", minute + 7_123_456_789)
    assert alike is not None
    instants = {"59.999999999": 59_999_999_999, "00.000000001": 1, "08.12": 8_120_000_000}
    taken = alike.take([(line % said).encode() for said in instants], 0, 9, (), 0)
    assert taken is not None
    assert taken.created == [minute + ns for ns in instants.values()]
    for odd in ("60.123", "7.123", "08", "08.12e1"):
        assert alike.take([(line % odd).encode()], 0, 9, (), 0) is None
    twice = b'{"created_at":"2026-01-31T12:00:00.1Z","x":{"created_at":"2026-01-31T12:00:00.1Z"},"text":"one"}'
    assert Alike.like(twice, "one", minute) is None


def test_no_text_goes_on_in_the_next_line() -> None:
    line = b'{"a":"x"}'
    assert texts_like(line, "x", b'{"a":"y}', b'{"a":y"}', b'{"a":"p","q"}') == []
    assert texts_like(line, "x", b'{"a":"y"}', b'{"a":"p","q"}') == ["y"]


@pytest.mark.parametrize("end", ["\n\n", "\r\r"])
def test_a_user_hangs_up_at_the_piece_that_was_enough(end: str) -> None:
    """Many pieces are decoded at a time, yet no user stays longer for that."""
    reader = AnswerReader(OpenAIChat("m"), pieces=50, expected=90)
    for count in range(1, 60):
        reader.take(f'data: {{"model":"m","choices":[{{"delta":{{"content":"a{count}"}}}}]}}{end}'.encode())
        assert (reader.hung_up() is not None) == (count >= 50)
