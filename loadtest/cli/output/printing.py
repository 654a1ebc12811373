"""What commands print: lines on a console, the files that were written, JSON, and the line that says what goes on.

That of a run is cheap, because it runs on the core that reads the answers.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
import orjson
from rich.console import Console
from rich.text import Text

from loadtest.credentials import scrubber
from loadtest.grid import hanging
from loadtest.measure.progress import Progress
from loadtest.run_folder import RunFolder, check_writable
from loadtest.text import UNKNOWN, about, seconds


def print_lines(console: Console, lines: Iterable[str], *, before: str = "", style: str = "") -> None:
    """Print each line in a style, with `before` in front of it; what does not fit into a line stands below its first word."""
    for line in lines:
        console.print(hanging(f"{before}{line}", console.width, len(before), style))


def print_trouble(console: Console, sentences: Iterable[str]) -> None:
    """Print what is wrong with a run folder before anything that rests on it."""
    print_lines(console, sentences, style="bold yellow")


def print_written(console: Console, files: Sequence[Path]) -> None:
    """Say which files were written, each on a line that can be copied whole."""
    for path in files:
        console.print(Text(f"wrote {path}", style="dim"), soft_wrap=True)


def out_option(help_text: str) -> Callable[..., Any]:
    """Give a command -o/--out, a folder for its files, whose value is `out`."""
    return click.option("-o", "--out", type=click.Path(path_type=Path), metavar="DIR", help=help_text)


def out_folder(run: Path, out: Path | None) -> Path:
    """Return where a command puts its files: `out`, which need not exist, else the run folder.

    Raises RunFolderError where they cannot be written there, before the work that they would be the outcome of; makes nothing.
    """
    folder = out or RunFolder.open(run).path
    check_writable(folder)
    return folder


# gives a command --json, whose value is `as_json`
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON document, and nothing else, to stdout; docs/ci.md explains its names.",
)


def print_json(body: Any) -> None:
    """Print one JSON document to stdout, without the secrets of the environment."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(scrubber()(orjson.dumps(body, option=option, default=str)).decode() + "\n")


def print_wrapped(text: str, *, indent: str = "", file: TextIO | None = None) -> None:
    """Print a line; on a terminal broken between words, with `indent` before all but the first part. A pipe gets it whole."""
    file = file or sys.stdout
    if file.isatty() and text.strip():
        width = max(shutil.get_terminal_size().columns, len(indent) + 20)
        wrapping = textwrap.TextWrapper(
            width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
        )
        text = wrapping.fill(text)
    print(text, file=file, flush=True)


def live_sentence(at: Progress, width: int | None = None) -> str:
    """Say in one line where the level stands; of what does not fit, what a person misses least goes first.

    Failed, late and unsent requests and the ETA stay longest.
    """
    total = f"/{at.planned}" if at.planned and at.done <= at.planned else ""  # people end their conversations
    number, level = f"[{at.level.index + 1}{f'/{at.levels}' if at.levels else ''}]", at.level.label
    doubts = ((at.failed, "failed"), (at.left, "left"), (at.shed, "not sent (--max-in-flight)"), (at.behind, "late"))
    parts = {
        "level": f"{number} {level}",
        "due": "" if at.due is None else f"{at.due} due  {at.released - at.shed} sent",
        "done": f"{at.done}{total} done",
        "doubts": "  ".join(f"{count} {word}" for count, word in doubts if count),
        "decoding": f"{at.decoding} decoding",
        "waiting": f"{at.waiting} waiting",
        "ttft": f"TTFT p50 {UNKNOWN if at.ttft_p50 is None else seconds(at.ttft_p50)}",
        "tokens": f"{at.tokens_per_s:.0f} tokens/s",
        "eta": "" if at.eta is None else f"ETA {about(at.eta)}",
    }
    if at.eta == 0:  # people who end their conversations may send more
        last = at.in_flight and (not at.planned or at.done + at.in_flight == at.planned)
        parts["eta"] = "the last answers" if last else ""
    if at.textless:
        parts |= {
            "decoding": "",
            "waiting": f"{at.in_flight} in flight",
            "ttft": f"E2E p50 {UNKNOWN if at.e2e_p50 is None else seconds(at.e2e_p50)}",
            "tokens": f"{at.input_tokens_per_s:.0f} input tokens/s",
        }
    shorter = {"level": f"{number} {at.level.load}", "doubts": parts["doubts"].replace(" (--max-in-flight)", "")}
    order = ("level", "decoding", "tokens", "due", "waiting", "doubts", "ttft")
    for key in order:
        if width is None or len(_in_one_line(parts)) <= width:
            break
        parts[key] = shorter.get(key, "")
    if width is not None and len(_in_one_line(parts)) > width:
        parts["level"] = number
    return _in_one_line(parts) if width is None else _in_one_line(parts)[:width]


def _in_one_line(parts: dict[str, str]) -> str:
    return "  ".join(part for part in parts.values() if part)


class LiveLine:
    """One line that renews itself on a terminal; elsewhere a plain line a level and every ten seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown_at: tuple[int, int] = (-1, -1)

    def show(self, at: Progress) -> None:
        if self._live:
            self.renew(live_sentence(at, _width()))
        elif self._shown_at != (key := (at.level.index, int(at.elapsed // 10))):
            self._shown_at = key
            print(live_sentence(at), file=sys.stderr, flush=True)

    def renew(self, text: str) -> None:
        """Put this on the line of a terminal, as far as it fits; elsewhere nothing."""
        if self._live:
            sys.stderr.write(f"\r\x1b[K{text[: _width()]}")
            sys.stderr.flush()

    def say(self, text: str) -> None:
        """Print a line of its own above the progress line."""
        self.close()
        print_wrapped(text, file=sys.stderr)

    def close(self) -> None:
        self.renew("")


def _width() -> int:
    return shutil.get_terminal_size().columns - 1


class NoLine(LiveLine):
    """Says nothing: --quiet."""

    def show(self, at: Progress) -> None: ...

    def say(self, text: str) -> None: ...


@contextlib.contextmanager
def at_work(doing: str) -> Iterator[Callable[[str], None]]:
    """Say on a terminal, for as long as the context lasts, what is worked out; yields what puts other words there."""
    line = LiveLine()
    try:
        line.renew(doing)
        yield line.renew
    finally:
        line.close()
