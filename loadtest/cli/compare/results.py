"""What `loadtest compare` leaves: compare.md, compare.json and compare.png, and what it prints of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from loadtest.cli.output.printing import print_json, print_written
from loadtest.run_folder import write_whole


def write_and_print(
    out: Path,
    draw: Callable[[Path], Path],
    markdown: Callable[[str], str],
    body: dict[str, Any],
    show: Callable[[Console], object],
    *,
    as_json: bool,
) -> None:
    """Write a comparison into a folder; print `body` as JSON, or what `show` prints, and where the files lie.

    Args:
        draw: draws compare.png.
        markdown: returns compare.md, given the picture's name.
    """
    out.mkdir(parents=True, exist_ok=True)
    picture = draw(out / "compare.png")
    page = write_whole(out / "compare.md", markdown(picture.name).encode())
    written = [page, write_whole(out / "compare.json", orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n"), picture]
    if as_json:
        print_json({**body, "files": [str(path) for path in written]})
        return
    console = Console()
    show(console)
    print_written(console, written)
