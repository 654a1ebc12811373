"""Text on charts: in lines, in as many characters as there is room for, and such as the font has."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

from loadtest.text import shown

FONT = "DejaVu Sans"
SHORTEST_PART = 24  # characters of a part of a line that are kept at the least


def wrapped(text: str, width: int) -> list[str]:
    """Break into as few lines as fit, of about equal length, never between a number and its unit."""
    joined = re.sub(r"(?<=\d) (?=\S)", "\u00a0", text)
    fewest = len(textwrap.wrap(joined, width))
    return next((lines for w in range(10, width + 1) if len(lines := textwrap.wrap(joined, w)) <= fewest), [])


def one_line(parts: Sequence[str], most: int) -> str:
    """Return parts in a line of about so many characters at most; of the longest ones the middle goes."""
    room = [len(part) for part in parts]
    while sum(room) + 3 * (len(room) - 1) > most and max(room) > SHORTEST_PART:
        room[room.index(max(room))] -= 1
    return " · ".join(cut(part, left) for part, left in zip(parts, room, strict=True))


def cut(text: str, most: int) -> str:
    """Return at most so many characters of a text, without its middle where it is longer."""
    head = most // 2
    return text if len(text) <= most else f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def drawable(text: str) -> str:
    """Return a text that the charts' font can draw: what steers is escaped, and what the font lacks is one U+FFFD a word."""
    known = _characters()
    drawn = (
        char if ord(char) in known or char == "\n" else "\ufffd" for char in "\n".join(map(shown, text.split("\n")))
    )
    return re.sub("\ufffd+", "\ufffd", "".join(drawn))


def width_in_inches(text: str, points: float) -> float:
    """Return how wide a text is in letters of a size."""
    width, _, _ = text_to_path.get_text_width_height_descent(
        drawable(text), FontProperties(family=FONT, size=points), ismath=False
    )
    return float(width) / 72


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())
