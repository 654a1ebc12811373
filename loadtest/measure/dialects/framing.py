"""What both wire formats share: lines out of bytes that were cut anywhere, and text out of tool calls."""

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
