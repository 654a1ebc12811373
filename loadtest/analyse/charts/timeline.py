"""One level, a row a request: waiting, prefill and decoding over time."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from loadtest.analyse.charts import style
from loadtest.analyse.run import LevelData, has_tokens
from loadtest.analyse.run.overlaps import peak_at_once
from loadtest.analyse.server.queue.waits import SERVER
from loadtest.analyse.summary import Analysis
from loadtest.records import Outcome
from loadtest.text import counted

MOST_ROWS, FEWEST_ROWS = 48, 8
LEAST_BAR = 0.001  # of the time shown: what is thinner has no visible colour, and no name in the legend

FAILED, HUNG_UP = "failed or stopped", "the user hung up"
FAILED_MARK: dict[str, Any] = {"marker": "x", "color": style.VERMILLION, "linestyle": "", "markeredgewidth": 2}
HUNG_UP_MARK: dict[str, Any] = {"marker": "<", "color": style.VERMILLION, "linestyle": "", "fillstyle": "none"}


def pick(analysis: Analysis) -> LevelData | None:
    """Return the level that shows queueing best: the smallest past the slots, else the largest; one that is not void before."""
    levels: list[LevelData] = sorted(analysis.levels, key=lambda level: level.amount)
    slots = analysis.slots
    best = [level for level in levels if slots.limit and _at_once(level) > (slots.estimate or 0)] or levels[::-1]
    return next((level for level in best if not level.is_void), best[0] if best else None)


def _at_once(level: LevelData) -> float:
    """Return how many requests a level keeps at the server: its streams, in an open loop as many as came to be there."""
    if level.is_closed:
        return float(level["concurrency"])
    return float(level["little"]["in_flight"]) if level["little"] else 0.0


def request_rows(axes: Axes, analysis: Analysis, level: LevelData) -> None:
    """Draw the first requests of a level, a row each in the order sent; warm-up ones pale, unless they are most of these."""
    frame = analysis.run.requests
    sent = frame[(frame["level"] == level["index"]) & np.isfinite(frame["send"])]
    if not len(sent):
        style.empty(axes, "No request of this level was sent.")
        return
    count, skipped = len(sent), _warm_ups_to_skip(sent["warmup"].to_numpy(dtype=np.bool_))
    rows = sent.iloc[skipped : skipped + MOST_ROWS]
    start = float(sent["send"].min())
    y = np.arange(1, len(rows) + 1) + skipped
    fade = np.where(rows["warmup"], 0.35, 1.0)
    at, first, end = (rows[name].to_numpy(dtype=np.float64) - start for name in ("send", "first_token", "end"))
    seen = np.isfinite(first)
    used = []
    for name, label, colour in style.REQUEST_STATES:
        part = np.nan_to_num(rows[name].to_numpy(dtype=np.float64))
        part = np.where(seen, np.minimum(part, np.maximum(first - at, 0.0)), 0.0)
        if part.max() > 0:
            _bars(axes, (y, at, part), colour, fade)
        if part.max() > LEAST_BAR * float(end.max()):
            known = name != "slot_wait_s" or (rows["wait_source"] == SERVER).any()
            used.append((label if known else style.AT_MOST, colour))
        at = at + part
    rest = np.maximum(np.where(seen, first, end) - at, 0.0)
    if rest.max() > LEAST_BAR * float(end.max()):
        label, colour = "no token yet", style.WAITING
        if rows["textless"].any():  # of embeddings alone, or among others
            label, colour = (
                ("no token yet, or embeddings", colour) if seen.any() else ("waiting or at work", style.DECODING)
            )
        used.append((label, colour))
        _bars(axes, (y, at, rest), colour, fade)
    if seen.any():
        used.append(("decoding", style.DECODING))
        last = rows["last"].to_numpy(dtype=np.float64) - start
        _bars(axes, (y, np.nan_to_num(first), np.where(seen, last - first, 0.0)), style.DECODING, fade)
    bad = ~rows["outcome"].isin((Outcome.OK, Outcome.LEFT))
    if rows["warmup"].any():
        used.append(("pale: warm-up", style.PALE))
    for label, colour in used:
        axes.plot([], [], "s", color=colour, markersize=9, label=label)
    for label, which, look in ((FAILED, bad, FAILED_MARK), (HUNG_UP, rows["left"], HUNG_UP_MARK)):
        marked = np.asarray(which, dtype=np.bool_)
        if marked.any():
            axes.plot(end[marked], y[marked], label=label, **look)
    _frame(axes, level_rows=count, skipped=skipped, shown=len(rows))
    begin, over = (float(rows["send"].min()) - start if skipped else 0.0), float(end.max())
    factor, unit = style.scale(over)
    axes.xaxis.set_major_formatter(lambda at, _: f"{at * factor:,.10g}")
    axes.set(xlim=(begin, over + 0.01 * (over - begin)), xlabel=f"time since the level began ({unit})")


def _frame(axes: Axes, *, level_rows: int, skipped: int, shown: int) -> None:
    """Set up the axis of the rows, whose numbers are those of all requests of the level."""
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(lambda at, _: f"{at:.0f}" if skipped < at <= skipped + shown else "")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    which = f"requests {skipped + 1} to {skipped + shown}" if skipped else f"the first {shown}"
    part = f"{which} of {level_rows}{'' if skipped else ' requests'} sent"
    axes.set(
        ylim=(skipped + max(shown, FEWEST_ROWS) + 0.6, skipped + 0.4),
        ylabel="requests, in the order sent" if shown == level_rows else part,
    )


def _warm_ups_to_skip(warm: NDArray[np.bool_]) -> int:
    """Return how many warm-up requests to leave out at the start, so that the rows show the level itself: none where few are."""
    until = len(warm) if warm.all() else int(np.argmin(warm))
    return until if MOST_ROWS / 2 < until < len(warm) else 0


def _bars(axes: Axes, place: tuple[Any, Any, Any], colour: str, fade: Any) -> None:
    y, left, width = place
    bars = axes.barh(y, width, left=left, height=0.78, color=colour, linewidth=0)
    for bar, alpha in zip(bars, fade, strict=True):
        bar.set_alpha(alpha)


def title(analysis: Analysis, level: LevelData) -> str:
    """Say how many were in flight, and how many of them decoded."""
    frame = analysis.run.requests
    rows = frame[(frame["level"] == level["index"]) & np.isfinite(frame["send"])]
    if not len(rows):
        return f"{level['label']}: nothing was sent"
    asked = peak_at_once(rows["send"].to_numpy(dtype=np.float64), rows["end"].to_numpy(dtype=np.float64))
    decoding = level["peak_decoding"]
    if not has_tokens(level):
        return f"Up to {counted(asked, 'request')} in flight: each bar is one, from its send to its whole answer"
    failed = f"; {level.failed} of {level['requests']} failed" if level.failed else ""
    return f"Up to {counted(asked, 'request')} in flight, and never more than {decoding} decoding{failed}"
