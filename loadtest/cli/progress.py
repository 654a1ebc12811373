"""The progress line of a run. It is cheap, because it runs on the core that reads the answers."""

from __future__ import annotations

import shutil
import sys

from loadtest.measure.progress import Progress


def progress_text(at: Progress, width: int | None = None) -> str:
    """Return a level's progress in one line of at most `width` characters.

    Where the line is too long, the least important parts are left out first; failed, late and unsent requests and the
    ETA stay longest.
    """
    total = f"/{at.planned}" if at.planned else ""
    number, level = f"[{at.level.index + 1}{f'/{at.levels}' if at.levels else ''}]", at.level.label
    doubts = ((at.failed, "failed"), (at.shed, "not sent (--max-in-flight)"), (at.behind, "late"))
    parts = {
        "level": f"{number} {level}",
        "due": "" if at.due is None else f"{at.due} due  {at.released - at.shed} sent",
        "done": f"{at.done}{total} done",
        "doubts": "  ".join(f"{count} {word}" for count, word in doubts if count),
        "decoding": f"{at.decoding} decoding",
        "waiting": f"{at.waiting} waiting",
        "ttft": f"TTFT p50 {at.ttft_p50:.2f} s" if at.ttft_p50 is not None else "TTFT p50 –",
        "tokens": f"{at.tokens_per_s:.0f} tokens/s",
        "eta": "" if at.eta is None else f"ETA {at.eta:.0f} s",
    }
    shorter = {"level": f"{number} {at.level.load}", "doubts": parts["doubts"].replace(" (--max-in-flight)", "")}
    changes = ("level", "decoding", "tokens", "due", "waiting", "doubts", "ttft")
    for key in changes:
        if width is None or len(_join_parts(parts)) <= width:
            break
        parts[key] = shorter.get(key, "")
    if width is not None and len(_join_parts(parts)) > width:
        parts["level"] = number
    return _join_parts(parts) if width is None else _join_parts(parts)[:width]


def _join_parts(parts: dict[str, str]) -> str:
    return "  ".join(part for part in parts.values() if part)


class ProgressLine:
    """One line that is redrawn on a terminal; elsewhere a plain line for each level and every ten seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._said: tuple[int, int] = (-1, -1)

    def show(self, at: Progress) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{progress_text(at, width)}")
            sys.stderr.flush()
        elif self._said != (key := (at.level.index, int(at.elapsed // 10))):
            self._said = key
            print(progress_text(at), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line of its own above the progress line."""
        self.close()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
