"""What wire formats are made of: lines out of bytes cut anywhere, lines that are alike, text out of tool calls."""

from __future__ import annotations

from typing import Any

import orjson


class Lines:
    r"""Cuts a byte stream at b"\n" and nowhere else.

    str.splitlines and httpx's iter_lines also split at U+2028, U+0085 and a lone \r, all of which stand unescaped
    inside valid JSON strings.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        r"""Return the lines that `data` completes, without their b"\n"."""
        if b"\n" not in data:
            if data:
                self._parts.append(data)  # joined once, when its newline comes: some last lines are 100s of kB
            return []
        if self._parts:
            data = b"".join((*self._parts, data))
        lines = data.split(b"\n")
        rest = lines.pop()
        self._parts = [rest] if rest else []
        return lines

    def rest(self) -> bytes:
        """Return what came after the last newline, and forget it."""
        rest = b"".join(self._parts)
        self._parts = []
        return rest


class Mould:
    """What surrounds the text of a stream's chunks, byte for byte: from one to the next they differ in little else.

    A line cast in it need not be parsed again, which costs four times as much.
    """

    __slots__ = ("_after", "_before")

    def __init__(self) -> None:
        self._before, self._after = b"\n", b""  # no line begins with that

    def shape(self, line: bytes, text: str) -> None:
        """Take a line that holds `text`, of which nothing else is to be known.

        Where nothing in the line is escaped, the text stands in it as it is, and if it does once, that is where.
        """
        literal = b'"%b"' % text.encode()
        if b"\\" not in line and line.count(literal) == 1:
            before, _, after = line.partition(literal)
            self._before, self._after = before, after

    def text_of(self, line: bytes) -> str | None:
        """Return the text of a line like the one that `shape` took last; None for any other, and where it is empty."""
        before, after = self._before, self._after
        if not (line.startswith(before) and line.endswith(after)):
            return None
        try:
            text = orjson.loads(line[len(before) : len(line) - len(after)])
        except orjson.JSONDecodeError:
            return None
        return text if isinstance(text, str) and text else None


class StampedMould:
    """As Mould, for lines with an instant before their text, of which nine digits differ: 2026-01-31T12:00:00.123456789Z."""

    __slots__ = ("_after", "_before", "_middle", "_ns")

    def __init__(self) -> None:
        self._before, self._middle, self._after = b"\n", b"", b""
        self._ns = 0

    def shape(self, line: bytes, text: str, second: str, ns: int) -> None:
        """Take a line that holds `text` and, before it, an instant that begins with `second` ("2026-01-31T12:00:00.").

        `ns` is what that is, ns since 1970.
        """
        literal, begin = b'"%b"' % text.encode(), second.encode()
        if b"\\" not in line and line.count(literal) == 1 and line.count(begin) == 1:
            before, _, rest = line.partition(begin)
            middle, found, after = rest[9:].partition(literal)
            if found:
                self._before, self._middle, self._after, self._ns = before + begin, middle, after, ns

    def read(self, line: bytes) -> tuple[str, int] | None:
        """Return text and instant, ns since 1970, of a line like the one that `shape` took last; None for any other."""
        before, middle, after = self._before, self._middle, self._after
        i = len(before)
        if not (line.startswith(before) and line.startswith(middle, i + 9) and line.endswith(after)):
            return None
        digits = line[i : i + 9]
        try:
            text = orjson.loads(line[i + 9 + len(middle) : len(line) - len(after)])
        except orjson.JSONDecodeError:
            return None
        return (text, self._ns + int(digits)) if isinstance(text, str) and text and digits.isdigit() else None


def tool_text(calls: Any) -> str:
    """Return names and arguments of tool calls, whole (Ollama) or in pieces (OpenAI), as the model wrote them."""
    texts: list[str] = []
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            texts += (_text(function.get(key)) for key in ("name", "arguments"))
    return "".join(texts)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode() if value else ""
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return ""
