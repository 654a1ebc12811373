"""How many streams decode and how many wait for their first token, over the whole run."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from loadtest.analyse.charts import style
from loadtest.analyse.findings.slot_findings import only_void, slot_limit
from loadtest.analyse.run.overlaps import Depth
from loadtest.analyse.summary import Analysis
from loadtest.text import counted, listed


def over_time(axes: Axes, analysis: Analysis) -> None:
    """Draw decoding and waiting streams as a stack, from the records: exact to the event, unlike samples."""
    run = analysis.run
    send, first, last, end = (run.column(name) for name in ("send", "first_token", "last", "end"))
    sent = np.isfinite(send)
    if not sent.any():
        style.empty(axes, "No request was sent.")
        return
    seen = np.isfinite(first) & np.isfinite(last)
    instants = np.unique(np.concatenate((send[sent], first[seen], last[seen], end[sent])))
    decoding = Depth.of(first[seen], last[seen]).at(instants)
    waiting = Depth.of(send[sent], np.where(seen, first, end)[sent]).at(instants)
    names = ("decoding", "before the first token (queue, batch wait or prefill)")
    axes.stackplot(
        instants,
        decoding,
        waiting,
        step="post",
        colors=(style.DECODING, style.WAITING),
        labels=[name if many.any() else "_" for name, many in zip(names, (decoding, waiting), strict=True)],
        linewidth=0,
    )
    top = float((decoding + waiting).max())
    if (slots := slot_limit(analysis)) is not None:
        axes.axhline(slots, color=style.INK, linewidth=1.2, linestyle=(0, (4, 3)), label=counted(slots, "slot"))
    axes.set_ylim(0, top * 1.12)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlim(float(instants[0]), float(instants[-1]))
    style.level_marks(axes, analysis)
    axes.set_xlabel("time since the run began (s); dotted: a level begins, with its load")
    axes.set_ylabel("streams")


def title(analysis: Analysis) -> str:
    """Say what the depth of the stack shows."""
    slots, levels = analysis.slots, analysis.levels
    if analysis.groups:
        return f"Streams of {listed([group.name for group, _ in analysis.groups])} together"
    most = max((level["peak_decoding"] for level in levels), default=0)
    if (limit := slot_limit(analysis)) is not None:
        ever = "never" if most <= limit else "hardly ever"  # a delayed last token is no other slot
        return f"Decoding {ever} rises above {counted(limit, 'stream')}, however many wait"
    if slots.estimate is None:
        return "No stream was seen decoding"
    shown = f"{only_void(levels)} a limit" if slots.limit else "no limit was seen"
    return f"Up to {counted(most, 'stream')} {'decodes' if most == 1 else 'decode'} at once; {shown}"
