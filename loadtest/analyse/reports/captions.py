"""What a chart's title says, read back from its PNG, so that pages can say it in text too."""

from __future__ import annotations

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def title_in(png: bytes) -> str:
    """Return the title that charts keep in their PNG (`Title`); empty where there is none."""
    at = len(SIGNATURE)
    while png.startswith(SIGNATURE) and at + 8 <= len(png):
        length, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        key, _, text = png[at + 8 : at + 8 + length].partition(b"\0")
        if key == b"Title" and kind == b"tEXt":
            return text.decode("latin-1")
        if key == b"Title" and kind == b"iTXt":  # flag, method, language and translated key come before the text
            return text[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")
        at += length + 12
    return ""
