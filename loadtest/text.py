"""Text as a terminal, a table or a page may print it."""

from __future__ import annotations


def shown(text: str) -> str:
    """Return text with what would steer a terminal (control characters, bidi marks, zero-width characters, lone surrogates) shown as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
