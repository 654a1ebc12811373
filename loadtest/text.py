"""Text that others wrote, made fit to be shown and stored: nothing in it steers a terminal or breaks a file."""

from __future__ import annotations

from collections.abc import Iterable


def shown(text: str) -> str:
    r"""Return `text` with what steers a terminal or hides written as an escape: \x1b, \u202e, \ud83d.

    Those are control characters, newlines and tabs too, bidirectional and zero-width marks and lone surrogates.
    Blanks of any width stay.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or _blank(char) else _escaped(char) for char in text)


def whole(texts: Iterable[str]) -> str:
    """Join pieces of text; surrogates that meet become the character they stand for, lone ones U+FFFD.

    JSON may cut a character beyond U+FFFF in two halves, each in a piece of its own; a half alone cannot be encoded.
    """
    text = "".join(texts)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _blank(char: str) -> bool:
    return char.isspace() and char not in "\u2028\u2029\x85" and ord(char) > 0x1F


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
