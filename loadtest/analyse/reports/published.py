"""The published A100 measurements beside a run of the same two tests, in their convention and in ours.

Published for llama3.1:70b (4 bit) in Ollama on one A100 80G: N threads send one prompt each, a stopwatch a thread, one
token counted for every streamed line. The tables' figure is mean tokens / mean time over the threads, TTFT included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.analyse.findings.measured_on import simulated_mark
from loadtest.analyse.run import IntArray, RunData
from loadtest.analyse.summary import Analysis
from loadtest.errors import RunFolderError
from loadtest.grid import Grid
from loadtest.metrics import FORMULAS, S_PER_US
from loadtest.text import capitalised, counted, levels_are, listed, number, percent, seconds, signed

STORY, TITLE = "tell a story in", "give a title"  # how the two prompts begin
PROMPT_FILE = "text_484_words.txt"
TITLE_WORDS = 10
NEAR, NEAR_MIXED = 0.05, 0.12  # cells of one thread, and cells in which threads' lengths differ


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """One published cell: means over its threads. The input table's `words` are those of the prompt."""

    table: str  # "output" or "input"
    words: int
    concurrency: int
    tokens: float  # streamed lines
    time_s: float  # request to last line

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.time_s

    @property
    def near(self) -> float:
        """How far a figure may be off and still be called the same: threads' lengths differ where there are several."""
        return NEAR if self.concurrency == 1 else NEAR_MIXED

    def __str__(self) -> str:
        return f"{self.words} words, {counted(self.concurrency, 'stream')}"


PUBLISHED = (
    PublishedFigure("output", 25, 1, 28, 1.22156),
    PublishedFigure("output", 50, 1, 63, 2.49925),
    PublishedFigure("output", 100, 1, 119, 4.68078),
    PublishedFigure("output", 400, 1, 456, 18.0439),
    PublishedFigure("output", 800, 1, 821, 32.9355),
    PublishedFigure("output", 25, 2, 31, 1.4789),
    PublishedFigure("output", 50, 2, 60.5, 2.84061),
    PublishedFigure("output", 100, 2, 125, 5.59961),
    PublishedFigure("output", 400, 2, 460.5, 21.3357),
    PublishedFigure("output", 800, 2, 877, 42.0024),
    PublishedFigure("output", 25, 4, 30.5, 2.0107),
    PublishedFigure("output", 50, 4, 66.5, 4.21136),
    PublishedFigure("output", 100, 4, 122.75, 7.56207),
    PublishedFigure("output", 400, 4, 478.25, 31.1035),
    PublishedFigure("output", 800, 4, 1066.75, 76.1915),
    PublishedFigure("input", 484, 1, 16, 2.27796),
    PublishedFigure("input", 484, 2, 19, 2.63539),
    PublishedFigure("input", 484, 4, 16.75, 4.58825),
)
TABLE_TITLES = {
    "output": "Output length: `tell a story in N words:`",
    "input": f"Input length: `give a title for below text in {TITLE_WORDS} words: …` and 484 words",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredBeside:
    """A cell and what a run measured for it, in seconds of the server's own pace (a sped-up one's are multiplied)."""

    cell: PublishedFigure
    nonce: bool  # each prompt began with a nonce: nothing came from a prefix cache
    verdict: str
    tokens: float  # mean lines: chunks with text, and the final line
    time_s: float  # mean time from t_send to the stream's end
    time_at_length_s: float  # that mean, had every answer had the published number of lines
    longest_ttft_s: float
    ttft_s: float  # means, as everywhere else
    e2e_tokens_per_s: float
    stream_tokens_per_s: float

    @property
    def tokens_per_s(self) -> float:
        """The publication's convention: mean tokens / mean time."""
        return self.tokens / self.time_s

    @property
    def tokens_per_s_at_length(self) -> float:
        return self.cell.tokens / self.time_at_length_s

    @property
    def off(self) -> float:
        """How much more tokens/s than published, as a share, at the published length."""
        return self.tokens_per_s_at_length / self.cell.tokens_per_s - 1

    @property
    def near(self) -> bool:
        return abs(self.off) <= self.cell.near


@dataclass(frozen=True, slots=True)
class Published:
    """Measured beside published: rows in the tables' order, the ones with a nonce after those without."""

    rows: tuple[MeasuredBeside, ...]
    simulated: str | None  # profile and speed of a simulated server
    speed: float

    def of(self, table: str, *, nonce: bool) -> list[MeasuredBeside]:
        return [row for row in self.rows if row.cell.table == table and row.nonce == nonce]

    def markdown(self) -> str:
        """Return a table for each of the two tests, and the sentences below."""
        parts = ["## Beside the published measurements\n", f"{INTRODUCTION}\n"]
        if self.simulated:
            parts.append(f"**{capitalised(self.simulated)}.**\n")
        for table, title in TABLE_TITLES.items():
            rows = [row for row in self.rows if row.cell.table == table]
            if rows:
                parts += [f"### {title}\n", "\n".join(_grid_beside(rows).markdown()) + "\n"]
        parts.append("\n".join(f"- {sentence}" for sentence in self.sentences()) + "\n")
        return "\n".join(parts)

    def sentences(self) -> list[str]:
        """Return what the comparison shows and why the figures differ, each sentence with its figures."""
        return [sentence for kind in _SUBJECTS for sentence in kind(self)]


INTRODUCTION = (
    "Published: llama3.1:70b, 4 bit, Ollama on one A100 80G. *tokens* are streamed lines, the final one included; *time* runs from "
    "the request to the last line, TTFT included; tokens/s is mean tokens / mean time over the threads. *At length* is "
    "the same figure for answers of the published length: lines too many or too few are taken off or added at the answer's "
    "median time from line to line; the "
    f"ratio is of that to the published one. e2e tokens/s: {FORMULAS['e2e_tokens_per_s']}. "
    f"Stream tokens/s: {FORMULAS['stream_tokens_per_s']}."
)
_TABLE_HEADS = (
    *("words", "streams", "nonce", "published tokens", "time", "tokens/s", "measured tokens", "time", "tokens/s"),
    *("tokens/s at length", "ratio", "e2e tokens/s", "stream tokens/s", "TTFT", "verdict"),
)


def _grid_beside(rows: Sequence[MeasuredBeside]) -> Grid:
    cells = tuple(
        (
            *(str(row.cell.words), str(row.cell.concurrency), "yes" if row.nonce else "no"),
            *(f"{row.cell.tokens:g}", seconds(row.cell.time_s), number(row.cell.tokens_per_s)),
            *(f"{row.tokens:.4g}", seconds(row.time_s), number(row.tokens_per_s)),
            *(number(row.tokens_per_s_at_length), f"{row.off + 1:.3f}"),
            *(number(row.e2e_tokens_per_s), number(row.stream_tokens_per_s), seconds(row.ttft_s)),
            row.verdict,
        )
        for row in rows
    )
    return Grid(_TABLE_HEADS, cells, names=3, prose=True)


def set_beside(*analyses: Analysis) -> Published:
    """Set the levels of runs that did the published tests beside the published cells.

    A level is of the output test when its prompt begins as the published one and {words} is in the table; of the input
    test when its prompt is the text file of that test, or begins like it. Levels of other concurrencies are left out.
    Raises RunFolderError when no level of any run is of either test, or servers of different speed are mixed.
    """
    rows: list[MeasuredBeside] = []
    for one in [part for each in analyses for part in ([part for _, part in each.groups] or [each])]:
        for level in one.levels:
            cell = _published_of(one.run, level)
            if cell is not None and one.run.good(level["index"]).any():
                rows.append(_measured_beside(one.run, level["index"], cell, level["verdict"]))
    if not rows:
        raise RunFolderError(
            f"{' and '.join(str(one.run.path) for one in analyses)} holds no answered level of the published tests; run "
            "scenarios/published_output_words.toml or scenarios/published_input_484_words.toml first."
        )
    if len({(one.run.simulated or {}).get("speed") for one in analyses}) > 1:
        raise RunFolderError("these runs are of servers of different speed; compare one speed at a time.")
    order = {cell: place for place, cell in enumerate(PUBLISHED)}
    rows.sort(key=lambda row: (row.cell.table != "output", row.nonce, row.cell.words, order[row.cell]))
    return Published(tuple(rows), simulated_mark(analyses[0].summary), analyses[0].run.speed)


def _published_of(run: RunData, level: dict[str, Any]) -> PublishedFigure | None:
    """Return the published cell that a level repeats, None when there is none."""
    prompt, words = str(run.scenario.get("prompt") or "").lstrip().lower(), level.get("words")
    titled = prompt.startswith(TITLE) or Path(str(run.scenario.get("prompt_file") or "")).name == PROMPT_FILE
    if words is None:
        table, words = "input" if titled else "", 484
    else:
        table = "output" if prompt.startswith(STORY) else ""
    key = (table, words, level.get("concurrency"))
    return next((cell for cell in PUBLISHED if (cell.table, cell.words, cell.concurrency) == key), None)


def _measured_beside(run: RunData, index: int, cell: PublishedFigure, verdict: str) -> MeasuredBeside:
    good, speed = run.good(index), run.speed
    lines = run.column("chunks")[good] + 1
    took = (run.column("end") - run.column("send"))[good] * speed
    ttft = run.column("ttft_s")[good] * speed
    a_line = np.array([_a_line(run.chunks.row(int(row))) for row in np.flatnonzero(good)]) * speed
    return MeasuredBeside(
        cell=cell,
        nonce=not run.scenario.get("warm_cache"),
        verdict=verdict,
        tokens=float(lines.mean()),
        time_s=float(took.mean()),
        time_at_length_s=float((took + a_line * (cell.tokens - lines)).mean()),
        longest_ttft_s=float(ttft.max()),
        ttft_s=float(ttft.mean()),
        e2e_tokens_per_s=float(np.nanmean(run.column("e2e_tokens_per_s")[good])) / speed,
        stream_tokens_per_s=float(np.nanmean(run.column("stream_tokens_per_s")[good])) / speed,
    )


def _a_line(chunks: IntArray) -> float:
    """Return the median time from line to line of one answer, s: a stall by another's prefill comes once, not per line."""
    gaps = np.diff(chunks) * S_PER_US
    return float(np.median(gaps) or gaps.mean()) if len(gaps) else 0.0


# What the comparison says, a function a subject ------------------------------------------------------------------------


def _agreement(found: Published) -> Iterator[str]:
    """Count the cells that agree; those with a nonce in the input table are another test, and left out."""
    rows = [row for row in found.rows if not (row.nonce and row.cell.table == "input")]
    if not rows:
        return
    least, most = min(rows, key=lambda row: row.off), max(rows, key=lambda row: row.off)
    within = sum(abs(row.off) <= NEAR for row in rows)
    near = sum(row.near for row in rows)
    yield (
        f"Tokens/s at the published length: {within} of {len(rows)} cells are within {percent(NEAR)} of the published "
        f"figure, {near} within {percent(NEAR)} (one stream) or {percent(NEAR_MIXED)} (several, whose lengths "
        f"differ); from {signed(least.off)} ({least.cell}) to {signed(most.off)} ({most.cell})."
    )


def _first_token(found: Published) -> Iterator[str]:
    """Say how much of the published figure is TTFT where that is most of it."""
    row = max(found.rows, key=lambda row: row.ttft_s / row.time_s)
    yield (
        f"The published tokens/s include TTFT: at {row.cell}{' with a nonce' if row.nonce else ''} "
        f"{seconds(row.ttft_s)} of {seconds(row.time_s)} are TTFT, so that the figure is "
        f"{number(row.tokens_per_s)} where a stream decodes {number(row.stream_tokens_per_s)} tokens/s."
    )


def _prefix_cache(found: Published) -> Iterator[str]:
    """Tell how many of the equal prompts were read: the longest TTFT holds so many prefills, one after another."""
    warm, cold = found.of("input", nonce=False), found.of("input", nonce=True)
    alone = next((row.longest_ttft_s for row in (*cold, *warm) if row.cell.concurrency == 1), None)
    if warm and alone:
        times = [row.longest_ttft_s / alone for row in warm]
        counts = listed([f"{value:.1f}" for value in times])
        where = listed([str(row.cell.concurrency) for row in warm])
        said = (
            f"Input table, no nonce: the longest TTFT at {where} stream{'' if where == '1' else 's'} is {counts} times one prefill "
            f"({seconds(alone)}). "
        )
        if not cold and max(times) > max(row.cell.concurrency for row in warm) + 0.5:
            yield said + "The text was in the prefix cache from the start: reload the model and run the test again."
        else:
            yield said + "As many prompts were read as that; the prefix cache answered for the others."
            yield "The published times say 1, 1 and 2 prompts read at 1, 2 and 4 streams: 0, 1 and 2 came from the cache."
    if cold and alone:
        row = cold[-1]
        read = f"{row.longest_ttft_s / alone:.1f}"
        yield (
            f"Input table, a nonce before each prompt, so that nothing is cached: at {counted(row.cell.concurrency, 'stream')} the "
            f"longest TTFT is {read} prefills and an answer takes {seconds(row.time_s)}; published, partly from the cache, "
            f"{seconds(row.cell.time_s)}."
        )


def _labels(found: Published) -> Iterator[str]:
    if found.speed != 1:
        yield (
            f"The simulated server ran at {found.speed:g}× speed: its times are multiplied by {found.speed:g} here and its tokens/s "
            "divided, and so is whatever the client and the machine added."
        )
    void = sum(row.verdict == "void" for row in found.rows)
    if void:
        yield f"{levels_are(void, len(found.rows))} void: do not quote void figures."
    if found.simulated:
        yield "Everything measured here is simulated: it holds the model to the published tables, not the hardware."


_SUBJECTS = (_agreement, _first_token, _prefix_cache, _labels)
