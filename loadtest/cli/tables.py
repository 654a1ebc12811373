"""Tables as every command prints them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text


def printed_table(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    left: Sequence[str] = (),
    wrap: Sequence[str] = (),
    widths: Sequence[int] | None = None,
    show_header: bool = True,
) -> Table:
    """Return a table of right-justified columns that do not wrap; a row named "total" is bold.

    Args:
        left: heads of columns that are left-justified.
        wrap: heads of columns whose text may wrap.
        widths: the least width of each column, in characters; default: that of its head's longest word.
    """
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_header=show_header,
    )
    for index, head in enumerate(heads):
        width = widths[index] if widths else max(map(len, head.split()), default=None)
        table.add_column(head, justify="left" if head in left else "right", no_wrap=head not in wrap, min_width=width)
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == "total" else None)
    return table
