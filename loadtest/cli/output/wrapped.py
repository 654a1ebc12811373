"""Lines that a terminal would break in the middle of a word."""

from __future__ import annotations

import shutil
import sys
import textwrap


def print_wrapped(text: str, *, indent: str = "") -> None:
    """Print a line; on a terminal broken between words, with `indent` before all but the first part. A pipe gets it whole."""
    if sys.stdout.isatty() and text.strip():
        width = max(shutil.get_terminal_size().columns, len(indent) + 20)
        wrapping = textwrap.TextWrapper(
            width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        text = wrapping.fill(text)
    print(text)
