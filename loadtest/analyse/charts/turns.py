"""Conversations turn by turn: TTFT, and what each turn read again of its history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from loadtest.analyse.charts import sheet, style
from loadtest.analyse.charts.lettering import drawable
from loadtest.analyse.findings import cache_findings
from loadtest.analyse.run import LevelData, axis_of, evenly
from loadtest.analyse.summary import Analysis
from loadtest.text import joined, listed, seconds

FEWEST_REQUESTS = 5  # of a turn, from which on their median is part of a line
CACHED, AGAIN, NEW = style.PALE, style.VERMILLION, style.BLUE


def draw_turns(path: Path, analysis: Analysis) -> Path | None:
    """Draw turns.png; None, and nothing written, where the run has no conversations."""
    levels = style.drawn_levels(_with_turns(analysis))
    if not levels:
        return None
    figure, (axes,) = sheet.new(1, height=4.8)
    ttft_by_turn(axes, analysis, levels)
    subtitle = "lines: medians; triangles: p95 (from 20 requests on)"
    subtitle = joined("; ", subtitle, _few(levels), style.left_out(_with_turns(analysis)))
    return sheet.save(figure, path, analysis, turns_title(levels), subtitle)


def draw_reread(path: Path, analysis: Analysis) -> Path | None:
    """Draw reread.png; None, and nothing written, where the run has no conversations or nothing is known of the cache."""
    levels = [level for level in _with_turns(analysis) if level["cached_share"] is not None]
    if not levels:
        return None
    figure, (left, right) = sheet.new(2, columns=2, share_y=False)
    reread_by_users(left, levels)
    reread_by_turn(right, analysis, style.drawn_levels(levels))
    how = {"server": "as the server counts them", "inferred": "inferred from prefill times"}
    source = levels[0]["cache"]["source"]
    title = cache_findings.title(analysis) or "What each turn read of its conversation, and what the server had cached"
    subtitle = f"means a request, warm-up left out; cached tokens {how[source]}"
    return sheet.save(figure, path, analysis, title, joined("; ", subtitle, _few(levels)))


def _with_turns(analysis: Analysis) -> list[LevelData]:
    levels = sorted(analysis.levels, key=lambda level: level.amount)  # a search measures them in another order
    return [level for level in levels if len((level.get("cache") or {}).get("turns", ())) > 1]


def _line(axes: Axes, points: Sequence[tuple[float, float, int]], name: str, colour: str) -> None:
    """Draw (turn, value, requests) as a line; where few requests stand behind a point, as a hollow mark beside it."""
    sure = [(x, y) for x, y, requests in points if requests >= FEWEST_REQUESTS]
    few = [(x, y) for x, y, requests in points if requests < FEWEST_REQUESTS]
    x, y = zip(*sure, strict=True) if sure else ((), ())
    axes.plot(x, y, "o-", color=colour, markersize=4.5, linewidth=1.6, label=name)
    if few:
        axes.plot(*zip(*few, strict=True), "o", color=colour, markerfacecolor="white", markersize=4.5)


def _few(levels: Sequence[LevelData]) -> str:
    some = any(turn["requests"] < FEWEST_REQUESTS for level in levels for turn in level["cache"]["turns"])
    return f"hollow: fewer than {FEWEST_REQUESTS} requests" if some else ""


def turns_title(levels: Sequence[LevelData]) -> str:
    """Say how TTFT goes from the first turn to the last, at the lowest and the highest load."""
    told = levels[:1] if len(levels) == 1 else [levels[0], levels[-1]]
    said = []
    for level in told:
        known = [turn for turn in level["cache"]["turns"] if turn["ttft_p50_s"] is not None]
        if turns := [turn for turn in known if turn["requests"] >= FEWEST_REQUESTS] or known:
            first, last = turns[0], turns[-1]
            said.append(f"{seconds(first['ttft_p50_s'])} to {seconds(last['ttft_p50_s'])} at {level.load}")
    return f"Median TTFT from the first turn to the last: {listed(said)}" if said else "TTFT by turn"


def ttft_by_turn(axes: Axes, analysis: Analysis, levels: Sequence[LevelData]) -> None:
    colours = style.shades(analysis)
    known = [turn["ttft_p50_s"] for level in levels for turn in level["cache"]["turns"] if turn["ttft_p50_s"]]
    if not known:
        style.empty(axes, "No turn ended well, so there is no TTFT to show.")
        return
    factor, unit = style.scale(max(known))
    for level in levels:
        name = level.load
        turns = [turn for turn in level["cache"]["turns"] if turn["ttft_p50_s"] is not None]
        points = [(turn["turn"] + 1, turn["ttft_p50_s"] * factor, turn["requests"]) for turn in turns]
        _line(axes, points, name, colours[name])
        tail = [(turn["turn"] + 1, turn["ttft_p95_s"] * factor) for turn in turns if turn["ttft_p95_s"] is not None]
        if tail:
            axes.plot(*zip(*tail, strict=True), "^", color=colours[name], markersize=5)
    _turn_axis(axes, f"TTFT ({unit})")


def reread_by_users(axes: Axes, levels: Sequence[LevelData]) -> None:
    """Draw what the prompt of a later turn was made of at each level: cached, read again, and new."""
    x = np.arange(len(levels))
    parts = np.array([_parts(level) for level in levels]).T
    bottom = np.zeros(len(levels))
    names = ("from the cache", "of its history, read again", "new text")
    for values, colour, name in zip(parts, (CACHED, AGAIN, NEW), names, strict=True):
        axes.bar(x, values, 0.62, bottom=bottom, color=colour, label=name)
        bottom += values
    for place in evenly(len(levels), 8):
        again, whole = parts[1][place], bottom[place]
        if again > 0.02 * whole:
            axes.text(place, parts[0][place] + again / 2, f"{again:.0f}", ha="center", va="center", fontsize=8.5)
    shown = evenly(len(levels), 8)
    axes.set_xticks(x[shown], [drawable(style.level_tick(levels[i])) for i in shown])
    axes.set(xlim=(-0.6, max(len(levels) - 0.4, 1.0)), xlabel=axis_of(levels), ylabel="prompt tokens of a later turn")


def _parts(level: LevelData) -> tuple[float, float, float]:
    """Return cached, re-read and new tokens of a level's later turns, means a request."""
    turns = [turn for turn in level["cache"]["turns"] if turn["turn"] > 0 and turn["read_tokens"] is not None]
    requests = sum(turn["requests"] for turn in turns) or 1

    def mean(name: str) -> float:
        return float(sum((turn[name] or 0.0) * turn["requests"] for turn in turns) / requests)

    read, again = mean("read_tokens"), mean("reread_tokens")
    whole = sum(turn["prompt_tokens"] for turn in turns) / requests
    return max(whole - read, 0.0), again, max(read - again, 0.0)


def reread_by_turn(axes: Axes, analysis: Analysis, levels: Sequence[LevelData]) -> None:
    """Draw the tokens of its history that each turn read again, a line a level."""
    colours = style.shades(analysis)
    for level in levels:
        turns = [turn for turn in level["cache"]["turns"] if turn["turn"] > 0 and turn["reread_tokens"] is not None]
        name = level.load
        points = [(turn["turn"] + 1, turn["reread_tokens"], turn["requests"]) for turn in turns]
        _line(axes, points, name, colours[name])
    history = [
        (turn["turn"] + 1, turn["history_tokens"])
        for turn in levels[-1]["cache"]["turns"]
        if turn["turn"] > 0 and turn["history_tokens"] is not None
    ]
    if history:
        axes.plot(*zip(*history, strict=True), ":", color=style.GREY, linewidth=1.2, label="whole history")
    _turn_axis(axes, "history tokens read again")


def _turn_axis(axes: Axes, name: str) -> None:
    axes.set(xlabel="turn of the conversation", ylabel=name, ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
