"""What each number of slots would give at each load: tables of colour, a panel a figure."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from loadtest.analyse.charts import style
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.advice.slot_advice import Advice
from loadtest.text import number, seconds

HEATMAPS = (  # (title, figure, statistic, colours: dark is better)
    ("TTFT p95", "ttft_s", "p95", "YlGnBu_r"),
    ("tokens/s a stream (median)", "stream_tokens_per_s", "p50", "YlGnBu"),
    ("output tokens/s, all streams", "output_tokens_per_s", "mean", "YlGnBu"),
)


def draw(path: Path, analysis: Analysis, advice: Advice, title: str) -> Path:
    with mpl.rc_context(style.RC):
        figure, panels = style.page(len(HEATMAPS), height=2.3 + 0.36 * len(advice.slots), share_y=True)
        for place, (axes, (name, key, statistic, colours)) in enumerate(zip(panels, HEATMAPS, strict=True)):
            heat_table(axes, advice, key, statistic, colours)
            axes.set_title(name)
            if place:
                axes.set_ylabel("")
        asked = " and ".join(map(str, advice.objectives))
        parts = [
            "bold: measured, else predicted; dark is better",
            advice.label,
            "outlined: slots as they are",
            f"grey: misses {asked}" if asked else "",
            "–: measured on too few requests" if any(advice.untold(*pair) for pair in advice.cells) else "",
            "answers vary by 10 % in length, but not in the title" if advice.equal_answers else "",
            "*: more streams at once than measured" if any(advice.extrapolated(*pair) for pair in advice.cells) else "",
        ]
        return style.save(figure, path, analysis, title.rstrip("."), " · ".join(part for part in parts if part))


def heat_table(axes: Axes, advice: Advice, key: str, statistic: str, colours: str) -> None:
    """Draw slots by streams, coloured by one figure on a logarithmic scale, each cell with its value."""
    values = np.array(
        [[advice.cells[slots, load].figure(key, statistic) for load in advice.loads] for slots in advice.slots]
    )
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        style.empty(axes, "Nothing is predicted here.")
        return
    norm = LogNorm(known.min(), max(known.max(), known.min() * 1.01))
    shades = mpl.colormaps[colours]
    for row, slots in enumerate(advice.slots):
        for column, load in enumerate(advice.loads):
            value = values[row, column]
            at = norm(value) * 0.75 if np.isfinite(value) and value > 0 else 0.0
            at += 0.25 if colours.endswith("_r") else 0.0  # the darkest quarter hides what is written on it
            missed = advice.met(slots, load) is False and not advice.untold(slots, load)
            unknown = not np.isfinite(value)
            face = "#EFEFEF" if missed else "white" if unknown else shades(at)
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.2))
            dark = not missed and not unknown and sum(shades(at)[:3]) < 1.35
            said = _cell_text(value, key) + ("*" if advice.extrapolated(slots, load) else "")
            axes.text(
                column,
                row,
                said,
                ha="center",
                va="center",
                fontweight="bold" if advice.is_measured(slots, load) else "normal",
                fontsize=_size(said, len(advice.loads)),
                color="white" if dark else style.GREY if missed else style.INK,
            )
    _label_table(axes, advice)


def _size(said: str, columns: int) -> float:
    """Return the size in which a value stays within its cell."""
    wide = 72 * 0.28 * style.WIDTH / columns  # points, of a cell
    return min(9.0 if len(said) < 6 else 8.0, wide / (0.78 * len(said)))


def _label_table(axes: Axes, advice: Advice) -> None:
    """Label rows and columns; outline the row of the slots as measured, and mark the one advised."""
    axes.set(xlim=(-0.5, len(advice.loads) - 0.5), xlabel="streams at once, (n): not measured")
    axes.set(ylim=(len(advice.slots) - 0.5, -0.5), ylabel="slots (▶ advised)")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(
        range(len(advice.loads)), [f"{load}" if load in advice.measured else f"({load})" for load in advice.loads]
    )
    labels = [f"▶ {slots}" if slots == advice.best else str(slots) for slots in advice.slots]
    axes.set_yticks(range(len(advice.slots)), labels)
    for label, slots in zip(axes.get_yticklabels(), advice.slots, strict=False):  # none where the axis is shared
        label.set_fontweight("bold" if slots in (advice.best, advice.now) else "normal")
    if advice.now is not None:
        row = advice.slots.index(advice.now)
        width = len(advice.loads)
        axes.add_patch(
            Rectangle(
                (-0.5, row - 0.5), width, 1, fill=False, edgecolor=style.INK, linewidth=2.0, zorder=4, clip_on=False
            )
        )


def _cell_text(value: float, key: str) -> str:
    """Return a value in at most five characters."""
    if not np.isfinite(value):
        return "–"
    return number(value) if key.endswith("per_s") else seconds(float(value)).replace(" ms", "ms").replace(" s", "s")
