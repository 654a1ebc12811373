"""What a step of the server takes and how fast it reads prompts, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run.arrays import finite
from loadtest.analyse.run.levels import SERIES_KEYS, believed
from loadtest.analyse.server.timing.pace import LEAST_CHANGE
from loadtest.analyse.server.timing.prefill_law import FEWEST_PROMPTS, Prefill
from loadtest.analyse.server.timing.step_law import well_seen
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.summary import Analysis
from loadtest.text import capitalised, counted, listed, number, percent, seconds

NOTHING = 1e-4  # of a step: a stream that adds less adds nothing
FEWEST_OF_KINDS = 32  # steps, of which some may be of another kind
WIDEST = 0.5  # interval of the speed of prefill, as a share of it; a wider one knows no speed
HELD_UP = 0.2  # of a prompt token's time, by which it holds up a running stream where both share steps
PACE_EVIDENCE = (
    "Heat, a clock that is turned down, other work on the machine and a warm-up do that; no average stands for both."
)
MOST_RANGES = 4  # of consecutive numbers in one sentence


def steps_findings(analysis: Analysis) -> list[Finding]:
    """Say what a step of the server takes, where its time is of two kinds, and what prompts cost."""
    steps, levels = analysis.steps, analysis.levels
    good = believed(levels)
    if not good:
        return []
    doubt = (
        " Void levels are part of that: measure them again before you rely on it." if len(good) < len(levels) else ""
    )
    said = [*(changed := pace_findings(steps, good))]
    average = " on average over the run" if changed else ""
    law = steps.law
    if law is not None and law.fits:
        more = f", and {seconds(law.per_stream_s)} more for each stream that decodes"
        more = more if law.per_stream_s > NOTHING * law.base_s else ", however many streams decode"
        said.append(
            Finding(f"A step of the server takes {seconds(law.base_s)}{more}{average}.", f"{_seen_at(steps)}.{doubt}")
        )
    elif law is not None and steps.law_reason:
        said.append(Finding(f"{capitalised(steps.law_reason)}."))
    for entry in steps.times if (law is None or law.fits) and not (steps.apart or changed) else ():
        if len(entry.kinds) == 2 and entry.n >= FEWEST_OF_KINDS * entry.streams:  # every stream sees each step
            kinds = " and ".join(f"{seconds(kind.centre_s)} ({percent(kind.share)} of them)" for kind in entry.kinds)
            said.append(Finding(f"Steps at {counted(entry.streams, 'stream')} are of two kinds: {kinds}."))
    prefill = steps.prefill
    if prefill is None or not _holds(steps, prefill) or (steps.apart and not prefill.least):
        return said
    if prefill.least:
        speeds = finite(analysis.run.column("prefill_tokens_per_s"))
        if len(speeds) >= FEWEST_PROMPTS:
            how = "Measured from prompts that had the server to themselves; what it takes besides reading is in it."
            said.append(
                Finding(
                    f"Prefill runs at {number(float(np.median(speeds)))} prompt tokens/s or faster.", f"{how}{doubt}"
                )
            )
    elif 0 < prefill.ci95[1] - prefill.ci95[0] <= WIDEST * prefill.per_token_s:
        speed = number(1 / prefill.per_token_s)
        said.append(
            Finding(f"Prefill runs at {speed} prompt tokens/s{average}.", f"Measured from {prefill.method}.{doubt}")
        )
    return said


def pace_findings(steps: Steps, levels: Sequence[dict[str, Any]]) -> list[Finding]:
    """Say where the same steps took longer at one time than at another: between two levels or within one, the larger change.

    Streams that share no steps have none that are the same.
    """
    if steps.apart:
        return []
    labels = {level["index"]: str(level["label"]) for level in levels}
    change = steps.change if steps.change is not None and steps.change.level in labels else None
    within = 1.0 if change is None else max(change.factor, 1 / change.factor)
    lengths = {tuple(level.get(key) for key in (*SERIES_KEYS, "turns")) for level in levels}
    paces = {index: pace for index, pace in steps.paces.items() if index in labels} if len(lengths) == 1 else {}
    by_pace = sorted(paces, key=lambda one: paces[one])
    if len(by_pace) > 1 and paces[by_pace[-1]] / paces[by_pace[0]] > max(within, LEAST_CHANGE):
        fast, slow = by_pace[0], by_pace[-1]
        times = f"{paces[slow] / paces[fast]:.1f} times as long at {labels[slow]} as at {labels[fast]}"
        if labels[slow] == labels[fast]:  # as a search may measure it
            times = f"{paces[slow] / paces[fast]:.1f} times as long in one level at {labels[slow]} as in another"
        return [Finding(f"The server's pace changed between levels: the same steps took {times}.", PACE_EVIDENCE)]
    if change is None:
        return []
    slower, places = change.factor > 1, ("last", "first")
    late, early = places if slower else places[::-1]
    said = f"the same steps took {within:.1f} times as long in its {late} third as in its {early}"
    became = "slower" if slower else "faster"
    return [Finding(f"The server became {became} within the level at {labels[change.level]}: {said}.", PACE_EVIDENCE)]


def _holds(steps: Steps, prefill: Prefill) -> bool:
    """Whether the prefill speed is that of reading: prompts are seen to share steps with streams, or some had none beside them.

    A server whose streams have a clock each shares no steps, so the time taken off for them would be too long.
    """
    if prefill.holds is not None:
        return prefill.holds
    return (steps.interference_s or 0.0) >= HELD_UP * prefill.per_token_s


def _seen_at(steps: Steps) -> str:
    """Say at how many streams steps were seen, and how far the line is from them where that can be told."""
    law, numbers = steps.law, [entry.streams for entry in well_seen(steps.times)]
    seldom = [entry.streams for entry in steps.times if entry.streams not in numbers]
    few = f" (too few to count at {_ranges(seldom)})" if seldom else ""
    off = f"; the line is off by at most {percent(max(law.residual, 0.001))}" if law and len(numbers) > 2 else ""
    return f"Steps were seen at {_ranges(numbers)}{few}{off}"


def _ranges(values: list[int]) -> str:
    """Return "1-4 and 8 streams"; of many with gaps between them "14 numbers from 1 to 32 streams"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    if len(runs) > MOST_RANGES:
        return f"{len(values)} numbers from {values[0]} to {values[-1]} streams"
    text = listed([run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs])
    return f"{text} {'stream' if values == [1] else 'streams'}"
