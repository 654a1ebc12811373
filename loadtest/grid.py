"""A table of text: one Grid for the console, Markdown and, by templates/parts.html, HTML."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from loadtest.text import UNKNOWN

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

WIDEST_NAME, NARROWEST_NAME = 20, 10  # columns of a terminal; a longer word of a name is broken …
WIDEST_PIECE = 14  # … behind a / : - _ or dot into pieces of so many
PADDING, EDGES = 2, 3  # columns of a terminal between two columns of a table, and at both its edges together
TAG_OR_QUOTE = re.compile(r"<(?=[A-Za-z/!?])|>")  # a "<" before a digit or a blank begins no tag, and stays readable


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: heads and rows of text. Columns of names and of prose stand to the left, those of numbers to the right."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1  # columns from the left that hold names
    prose: bool = False  # whether the last column holds sentences
    groups: tuple[tuple[str, int], ...] = ()  # heads above the heads, with the columns that each spans; "" for none

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each column holds: "name", "number" or "prose"."""
        found = ["name" if i < self.names else "number" for i in range(len(self.heads))]
        if self.prose:
            found[-1] = "prose"
        return tuple(found)

    def only(self, columns: Sequence[int]) -> Grid:
        """Return the grid with these columns alone; the name columns must be among them."""
        rows = tuple(tuple(row[i] for i in columns) for row in self.rows)
        return replace(self, heads=tuple(self.heads[i] for i in columns), rows=rows)

    def without(self, *heads: str) -> Grid:
        return self.only([i for i, head in enumerate(self.heads) if head not in heads])

    def without_unknown(self) -> Grid:
        known = [i for i in range(len(self.heads)) if i < self.names or any(row[i] != UNKNOWN for row in self.rows)]
        return self.only(known)

    def fitted(self, width: int, expendable: Sequence[str]) -> tuple[Grid, list[str]]:
        """Return the grid in so many columns of a terminal, and the heads left out: `expendable` names them in order."""
        whole = self
        if _room(map(self._most, range(len(self.heads)))) > width:
            rows = tuple(tuple(_broken(c) if i < self.names else c for i, c in enumerate(row)) for row in self.rows)
            whole = replace(self, rows=rows)
        kept, left_out = list(range(len(self.heads))), []
        for head in expendable:
            if _room(map(whole._least, kept)) <= width:  # noqa: SLF001 - the same class
                break
            if head in self.heads:
                kept.remove(self.heads.index(head))
                left_out.append(head)
        return whole.only(kept), left_out

    def _widths(self, width: int) -> list[int]:
        """Return the columns' widths in so many columns of a terminal: names unfold first, then heads from the left."""
        found = [self._least(i) for i in range(len(self.heads))]
        spare = width - _room(found)
        for i in range(len(self.heads)):
            more = min(max(self._most(i) - found[i], 0), max(spare, 0))
            found[i] += more
            spare -= more
        return found

    def _most(self, column: int) -> int:
        """Return how wide a column is where nothing in it is folded."""
        return max(
            len(line) for cell in (self.heads[column], *(row[column] for row in self.rows)) for line in cell.split("\n")
        )

    def _least(self, column: int) -> int:
        """Return how narrow a column may be: heads and names break between words, other cells only before a bracket."""
        cells = [row[column] for row in self.rows]
        if column < self.names:
            words = [word for cell in cells for word in cell.split()]
            return min(max([NARROWEST_NAME, *map(len, words)]), WIDEST_NAME, self._most(column))
        pieces = [piece for cell in cells for piece in cell.split(" (", 1)[0].split("\n")]
        return max(map(len, [*self.heads[column].split(), *pieces]), default=1)

    def console(
        self,
        title: str,
        *,
        caption: str = "",
        styles: Mapping[str, str] | None = None,
        within: int | None = None,
    ) -> Table:
        """Return the table for a terminal; `styles` gives a style to a cell of that text, with or without a bracket behind it.

        `within` is the width of a terminal for which the grid was `fitted`.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(title, style="bold"),
            title_justify="left",
            caption=Text(caption, style="dim") if caption else None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        exact = self._widths(within) if within is not None else None
        for i, (head, kind) in enumerate(zip(self.heads, self.kinds, strict=True)):
            right = kind == "number" and head != "verdict"
            least = None if kind == "prose" else self._least(i)
            if kind == "name":
                least = min(NARROWEST_NAME, max((len(row[i]) for row in self.rows), default=0))
            table.add_column(
                Text(head),
                justify="right" if right else "left",
                min_width=None if exact else least,
                width=exact[i] if exact else None,
                overflow="fold",
            )
        look = styles or {}
        for row in self.rows:
            table.add_row(*(Text(cell, style=look.get(cell, look.get(cell.partition(" (")[0], ""))) for cell in row))
        return table

    def console_within(
        self, width: int, expendable: Sequence[str], title: str, *, styles: Mapping[str, str] | None = None
    ) -> Table:
        """Return the table for a terminal of this width; its caption names the columns left out, the first `expendable` first."""
        grid, left_out = self.fitted(width, expendable)
        caption = f"left out at {width} columns: {', '.join(left_out)}" if left_out else ""
        return grid.console(title, caption=caption, styles=styles, within=width)

    def markdown(self) -> Iterator[str]:
        """Yield its lines in Markdown, the text escaped."""
        yield "| " + " | ".join(map(escaped, self.heads)) + " |"
        yield "|" + "".join("---:|" if kind == "number" else "---|" for kind in self.kinds)
        for row in self.rows:
            yield "| " + " | ".join(map(escaped, row)) + " |"


def _room(widths: Iterable[int]) -> int:
    return EDGES + sum(width + PADDING for width in widths) - PADDING


def _broken(cell: str) -> str:
    """Return a cell with line breaks in its long words, behind their separators."""
    return " ".join(_pieces(word) if len(word) > WIDEST_NAME else word for word in cell.split(" "))


def _pieces(word: str) -> str:
    """Return a word in lines of at most WIDEST_PIECE characters where its separators allow that."""
    lines = [""]
    parts = re.findall(r"[^/:-]*[/:-]|[^/:-]+", word)
    if max(map(len, parts)) > WIDEST_PIECE:
        parts = re.findall(r"[^/:_.-]*[/:_.-]|[^/:_.-]+", word)
    for part in parts:
        if lines[-1] and len(lines[-1] + part) > WIDEST_PIECE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Escape for Markdown what a server or a user may have put into a name; a line break would end a table's row."""
    plain = " ".join(text.split())
    for sign in "\\`*_[]#|":
        plain = plain.replace(sign, f"\\{sign}")
    return TAG_OR_QUOTE.sub(lambda found: f"&#{ord(found[0])};", plain)


def hanging(text: str, width: int, indent: int = 2, style: str = "") -> Text:
    """Return text in lines of this width; all but the first are indented, below the words and not below the mark."""
    from rich.text import Text

    wrapping = textwrap.TextWrapper(
        width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return Text(wrapping.fill(text), style=style)
