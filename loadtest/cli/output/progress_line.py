"""The line that says what goes on. That of a run is cheap, because it runs on the core that reads the answers."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator

from loadtest.cli.output.printing import print_wrapped
from loadtest.measure.progress import Progress
from loadtest.text import UNKNOWN, seconds


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
        "eta": "" if at.eta is None else f"ETA {at.eta:.0f} s",
    }
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
        self._said: tuple[int, int] = (-1, -1)

    def show(self, at: Progress) -> None:
        if self._live:
            self.renew(live_sentence(at, _width()))
        elif self._said != (key := (at.level.index, int(at.elapsed // 10))):
            self._said = key
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
