"""Lines out of bytes that are cut anywhere, and which of them are signs of life only, so that nothing closes the stream."""

from __future__ import annotations

import re

EVENT_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
EMPTY_FIELDS = (b"data", b"event", b"id", b"retry")
BOM = b"\xef\xbb\xbf"
LONGEST_LINE = 64 << 20  # bytes
TOO_LONG = f"a line of the answer is longer than {LONGEST_LINE >> 20} MiB"
_FIELD = re.compile(rb"(data|event|error|id|retry)[ \t]*:", re.IGNORECASE)
_LONE_RETURN = re.compile(rb"\r(?!\Z)")  # one at the very end may yet be followed by b"\n"


class LineSplitter:
    r"""Cuts a byte stream at b"\n", and at a b"\r" that no b"\n" follows, as event streams allow.

    str.splitlines and httpx's iter_lines also split at U+2028 and U+0085, which stand unescaped inside valid JSON
    strings. A line's b"\r" before its b"\n" stays with it, so that every line is one byte shorter than its bytes.
    """

    __slots__ = ("_held", "_parts", "_size", "too_long")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._held = False  # a b"\r" is among the parts
        self.too_long = False  # a line passed LONGEST_LINE: that line and everything after it are left out

    def feed(self, data: bytes) -> list[bytes]:
        r"""Return the lines that `data` completes, without their b"\n"."""
        returns = self._held or b"\r" in data
        if b"\n" not in data and not returns:
            if data:
                self._keep(data)  # joined once, when its newline comes: some last lines are 100s of kB
            return []
        if self._parts:
            data = b"".join((*self._parts, data))
        lines = data.split(b"\n")
        if returns and data.count(b"\r") - data.endswith(b"\r") > data.count(b"\r\n"):
            lines = [piece for line in lines for piece in _LONE_RETURN.split(line)]
        rest = lines.pop()
        self._held = returns and b"\r" in rest
        self._parts, self._size = [rest] if rest else [], len(rest)
        return self._short_ones(lines) if len(data) > LONGEST_LINE else lines

    def rest(self) -> bytes:
        """Return what came after the last newline, and forget it."""
        data, self._parts = b"".join(self._parts), []
        return data

    def _keep(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > LONGEST_LINE:
            self.too_long, self._parts = True, []

    def _short_ones(self, lines: list[bytes]) -> list[bytes]:
        """Return the lines before the first that is too long."""
        for i, line in enumerate(lines):
            if len(line) > LONGEST_LINE:
                self.too_long, self._parts = True, []
                return lines[:i]
        if self._size > LONGEST_LINE:
            self.too_long, self._parts = True, []
        return lines


def plain_field(line: bytes) -> bytes:
    """Return a line without blanks around it, the name of an event's field in it as it should be: some servers set it in.

    So are characters of no meaning here, such as those that begin a row of a JSON sequence (RFC 7464).
    """
    bare = line.strip(b" \t\r\n\0\x1e")
    found = _FIELD.match(bare)
    return bare if found is None else found[1].lower() + b":" + bare[found.end() :]


_DATALESS = (b"", b"event", b"id", b"retry")  # fields of an event that hold no data; a comment has no name
_WORD = rb"(?:ping|pong|keep[-_ ]?alive|heart[-_ ]?beat)"
_STATE = rb"(?:(?:process|wait|load|think|connect|start|generat|work|warm|prepar|queu)(?:ing|ed|e)?|pending|begin|ready|open)"
_OF_STATE = rb"(?:[\s.,:;-]+(?!fail|err|timed|abort|cancel|unable|cannot)[a-z]+){0,4}"
_AMOUNT = rb"[\s.:\#/(-]*(?:\d+(?:\.\d+)?\s*(?:ms|s|sec|seconds|%)?)?"  # how often, for how long, how far
_INSTANT = rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.,:+Z-]*"
_DATA = re.compile(
    rb"""
    (?: :.*                                        # a comment that a gateway framed as data: ": OPENROUTER PROCESSING"
      | null | undefined | none | nan | "" | \{\} | \[\] | true | false | ok | \.+ | \d+(?:\.\d+)?
      | [*.-]
      | ["\[(<]* %b [\])>".!:\s-]* (?:%b)?         # ping, [PING], "keep-alive", ping - 2024-04-07 20:20:50.55
      | %b %b                                      # heartbeat 12
      | "?%b"?
      | ["\[(<]* (?:[a-z]+\s+)? %b%b %b [\])>".]*  # [PROCESSING], connected, still loading the model: 50%%
      | \{\s*"(?:type|event|object)"\s*:\s*"(?:response\.)?%b".*
    )
    """
    % (_WORD, _INSTANT, _WORD, _AMOUNT, _INSTANT, _STATE, _OF_STATE, _AMOUNT, _WORD),
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def is_keepalive(data: bytes) -> bool:
    """Whether the data of an event says nothing but that the server lives."""
    return _DATA.fullmatch(data.strip()) is not None


def is_dataless(line: bytes) -> bool:
    """Whether a line of an answer brings nothing of it: a comment, another field of an event, a sign of life."""
    name, colon, data = line.strip().partition(b":")
    return not line.strip() or name in _DATALESS or (colon == b":" and name == b"data" and is_keepalive(data))
