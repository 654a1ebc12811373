"""What a chart writes: text in as many characters as there is room for and the font has, and labels at round durations."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path
from matplotlib.ticker import Locator

from loadtest.text import shown

FONT = "DejaVu Sans"
SHORTEST_PART = 24  # characters of a part of a line that are kept at the least


def wrapped(text: str, width: int) -> list[str]:
    """Break into as few lines as fit, of about equal length, never between a number and its unit or sign, nor in "TTFT p95"."""
    joined = re.sub(r"(?<=\d) (?=\S)|(?<=[≤≥]) |(?<=\w) (?=p\d)", "\u00a0", text)
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
    width, _, _ = text_to_path.get_text_width_height_descent(
        drawable(text), FontProperties(family=FONT, size=points), ismath=False
    )
    return float(width) / 72


@cache
def _characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FONT)).get_charmap())


CLOSE = 1.1  # how far beyond a label a point may lie
# What is labelled of each decade, the most first.
ROUND = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))


class RoundDurations(Locator):
    """Labels an axis at the finest round steps of which no two are nearer than `apart`, a share of the axis' length."""

    def __init__(self, apart: float) -> None:
        self.apart = apart

    def __call__(self) -> Any:
        return self.tick_values(*self.axis.get_view_interval()) if self.axis is not None else []

    def tick_values(self, vmin: float, vmax: float) -> Any:
        low, high = sorted((vmin, vmax))
        if not 0 < low < high:
            return []
        least = (high / low) ** self.apart  # a tick over the one before it
        every = [_between(low, high, mantissas) for mantissas in ROUND]
        clear = [
            ticks
            for ticks in every
            if len(ticks) > 1 and min(after / before for before, after in pairwise(ticks)) >= least
        ]
        return clear[0] if clear else apart(next((ticks for ticks in reversed(every) if ticks), []), least)

    def around(self, first: float, last: float, low: float, high: float) -> tuple[float, float]:
        """Return limits from (low, high) on, so far apart that nothing from `first` to `last` lies outside of the labels."""
        if high < 4 * low:  # too narrow for round ticks
            low, high = low / 1.5, high * 1.5
        for _ in range(50):
            ticks = self.tick_values(low, high)
            below, above = len(ticks) and ticks[0] <= first * CLOSE, len(ticks) and ticks[-1] >= last / CLOSE
            if below and above:
                break
            low, high = low if below else low / CLOSE, high if above else high * CLOSE
        return low, high


def _between(low: float, high: float, mantissas: Sequence[float]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for decade in decades for mantissa in mantissas if low <= (tick := mantissa * 10.0**decade) <= high]


def apart(values: Iterable[float], factor: float) -> list[float]:
    """Return those of ordered values that are at least a factor from the one before that is kept."""
    kept: list[float] = []
    for value in values:
        if not kept or max(value / kept[-1], kept[-1] / value) >= factor:
            kept.append(value)
    return kept
