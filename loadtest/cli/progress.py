"""The live line of a run: cheap, for it shares the loop's core with the arrivals."""

from __future__ import annotations

import shutil
import sys

from loadtest.measure.tally import Progress


def sentence(at: Progress) -> str:
    """Say in one line where the level stands."""
    total = f"/{at.planned}" if at.planned else ""
    parts = [
        f"[{at.level.index + 1}{f'/{at.levels}' if at.levels else ''}] {at.level.label}",
        *([] if at.due is None else [f"{at.due} due", f"{at.released - at.shed} sent"]),
        f"{at.done}{total} done",
        f"{at.decoding} decoding",
        f"{at.waiting} waiting",
        f"TTFT p50 {at.ttft_p50:.2f} s" if at.ttft_p50 is not None else "TTFT p50 –",
        f"{at.tokens_per_s:.0f} tokens/s",
    ]
    doubts = ((at.failed, "failed"), (at.shed, "not sent (--max-in-flight)"), (at.behind, "late"))
    after = parts.index(f"{at.done}{total} done") + 1
    parts[after:after] = [f"{count} {word}" for count, word in doubts if count]
    if at.eta is not None:
        parts.append(f"ETA {at.eta:.0f} s")
    return "  ".join(parts)


class Line:
    """One line that renews itself on a terminal; elsewhere a plain line a level and every ten seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._said: tuple[int, int] = (-1, -1)

    def show(self, at: Progress) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{sentence(at)[:width]}")
            sys.stderr.flush()
        elif self._said != (key := (at.level.index, int(at.elapsed // 10))):
            self._said = key
            print(sentence(at), file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a line of its own, above the live one."""
        self.close()
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
