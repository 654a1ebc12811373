"""What a step of the server takes, how fast it reads prompts, and what those cost other requests, in sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtest.analyse.findings.cache_findings import may_be_warm
from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.findings.machine_findings import others_finding
from loadtest.analyse.run import SERIES_KEYS, RunData, Series, believed, finite, shared_parts
from loadtest.analyse.run.overlaps import peak_at_once
from loadtest.analyse.server.timing.pace import LEAST_CHANGE
from loadtest.analyse.server.timing.prefill_law import FEWEST_PROMPTS, Prefill
from loadtest.analyse.server.timing.step_law import well_seen
from loadtest.analyse.server.timing.steps import Steps, prompts_hold_up
from loadtest.analyse.summary import Analysis
from loadtest.text import capitalised, counted, listed, number, percent, seconds

NOTHING = 1e-4  # of a step: a stream that adds less adds nothing
FEWEST_OF_KINDS = 32  # steps, of which some may be of another kind
WIDEST = 0.5  # interval of the speed of prefill, as a share of it; a wider one knows no speed …
WIDE = 0.1  # … and from here on it is said in place of the speed
PACE_EVIDENCE = (
    "Heat, a clock that is turned down, a warm-up and other work on the machine (also another model's), where it begins or ends, do "
    "that; no average stands for both, so step times and prefill are not said."
)
GATHERED = "Tokens come several at once, so what a step takes is not known. "
TWO_KINDS = "A server that splits its batches has steps of two lengths; a proxy that lets tokens out at intervals makes such gaps as well."
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
    if changed := pace_finding(steps, good):
        return [changed]
    if others_finding(analysis.run) and not any("beside" in level for level in levels):
        return []  # a step of this many streams of ours held others' streams as well
    said: list[Finding] = []
    law = steps.law
    if law is not None and law.fits:
        more = f", and {seconds(law.per_stream_s)} more for each stream that decodes"
        more = more if law.per_stream_s > NOTHING * law.base_s else ", however many streams decode"
        what, why = ("Each token of a stream", GATHERED) if steps.gathered else ("A step of the server", "")
        streams = (
            "Only this run's streams are counted: what others have at the server is in the time of a step as well."
        )
        said.append(Finding(f"{what} takes {seconds(law.base_s)}{more}.", f"{why}{_seen_at(steps)}. {streams}{doubt}"))
    elif law is not None and steps.law_reason and not steps.gathered:
        said.append(Finding(f"{capitalised(steps.law_reason)}."))
    for entry in steps.times if (law is None or law.fits) and not (steps.apart or steps.gathered) else ():
        if len(entry.kinds) == 2 and entry.n >= FEWEST_OF_KINDS * entry.streams:  # every stream sees each step
            kinds = " and ".join(f"{seconds(kind.centre_s)} ({percent(kind.share)} of them)" for kind in entry.kinds)
            said.append(
                Finding(
                    f"Gaps between tokens at {counted(entry.streams, 'stream')} are of two kinds: {kinds}.", TWO_KINDS
                )
            )
    prefill = steps.prefill
    if prefill is None or not _holds(steps, prefill) or (steps.apart and not prefill.least) or may_be_warm(analysis):
        return said
    if prefill.least:
        speeds = finite(analysis.run.column("prefill_tokens_per_s"))
        if len(speeds) >= FEWEST_PROMPTS:
            how = "Measured from prompts with no other request of this run at the server; what it takes besides reading is in it."
            said.append(
                Finding(
                    f"Prefill runs at {number(float(np.median(speeds)))} prompt tokens/s or faster.", f"{how}{doubt}"
                )
            )
    elif 0 < prefill.ci95[1] - prefill.ci95[0] <= WIDEST * prefill.per_token_s:
        speed, wide = number(1 / prefill.per_token_s), ""
        if (prefill.ci95[1] - prefill.ci95[0]) > WIDE * prefill.per_token_s:
            speed, wide = f"{number(1 / prefill.ci95[1])} to {number(1 / prefill.ci95[0])}", " (95 % interval)"
        said.append(
            Finding(
                f"Prefill runs at {speed} prompt tokens/s{wide}{_by_length(analysis.run, prefill)}.",
                f"Measured from {prefill.method}.{doubt}",
            )
        )
    return said


def _by_length(run: RunData, prefill: Prefill) -> str:
    """Say in clauses what a prompt takes besides its tokens, and how fast the shortest and the longest are read; "" where that is one."""
    besides = f", and takes {seconds(prefill.fixed_s)} more for each prompt" if prefill.fixed_s else ""
    if not prefill.context_s:
        return besides
    tokens = finite(run.uncached_tokens[run.flag("ok")])
    ends = [float(tokens.min()), float(tokens.max())]
    each = [f"{number(1 / (prefill.bare_s + prefill.context_s * end / 2))} in one of {end:,.0f} tokens" for end in ends]
    return f"{besides}; it slows down with the length of a prompt: {listed(each)}"


def pace_finding(steps: Steps, levels: Sequence[dict[str, Any]]) -> Finding | None:
    """Say where the same steps took longer at one time than at another: between two levels or within one, the larger change.

    Streams that share no steps have none that are the same.
    """
    if steps.apart:
        return None
    _, own = shared_parts([level["label"] for level in levels])
    labels = {level["index"]: own[level["label"]] for level in levels}
    changes = {index: factor for index, factor in steps.changes.items() if index in labels}
    changed = max(changes, key=lambda one: abs(math.log(changes[one])), default=None)
    within = 1.0 if changed is None else max(changes[changed], 1 / changes[changed])
    lengths = {tuple(level.get(key) for key in (*SERIES_KEYS, "turns")) for level in levels}
    paces = {index: pace for index, pace in steps.paces.items() if index in labels} if len(lengths) == 1 else {}
    by_pace = sorted(paces, key=lambda one: paces[one])
    if len(by_pace) > 1 and paces[by_pace[-1]] / paces[by_pace[0]] > max(within, LEAST_CHANGE):
        fast, slow = by_pace[0], by_pace[-1]
        times = f"{paces[slow] / paces[fast]:.1f} times as long at {labels[slow]} as at {labels[fast]}"
        if labels[slow] == labels[fast]:  # as a search may measure it
            times = f"{paces[slow] / paces[fast]:.1f} times as long in one level at {labels[slow]} as in another"
        return Finding(f"The server's pace changed between levels: the same steps took {times}.", PACE_EVIDENCE)
    if changed is None:
        return None
    became, halves = (
        ("slower", "second half as in its first") if changes[changed] > 1 else ("faster", "first half as in its second")
    )
    said = f"on average the same steps took at least {within:.1f} times as long in its {halves}"
    return Finding(f"The server became {became} within the level at {labels[changed]}: {said}.", PACE_EVIDENCE)


def _holds(steps: Steps, prefill: Prefill) -> bool:
    """Whether the prefill speed is that of reading: prompts are seen to share steps with streams, or some had none beside them.

    A server whose streams have a clock each shares no steps, so the time taken off for them would be too long.
    """
    return bool(prompts_hold_up(steps)) if prefill.holds is None else prefill.holds


def _seen_at(steps: Steps) -> str:
    """Say at how many streams steps were seen, and how far the line is from them where that can be told."""
    law, numbers = steps.law, [entry.streams for entry in well_seen(steps.times)]
    seldom = [entry.streams for entry in steps.times if entry.streams not in numbers]
    few = f" (too few to count at {_ranges(seldom)})" if seldom else ""
    off = f"; the line is off by at most {percent(max(law.residual, 0.001))}" if law and len(numbers) > 2 else ""
    return f"{'Tokens' if steps.gathered else 'Steps'} were seen at {_ranges(numbers)}{few}{off}"


def _ranges(values: list[int]) -> str:
    """Return "1-4 and 8 streams"; of many with gaps between them "14 numbers from 1 to 32 streams"."""
    runs = [run for run in np.split(values, np.flatnonzero(np.diff(values) > 1) + 1) if len(run)]
    if len(runs) > MOST_RANGES:
        return f"{len(values)} numbers from {values[0]} to {values[-1]} streams"
    text = listed([run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs])
    return f"{text} {'stream' if values == [1] else 'streams'}"


LEAST_STALL = 0.05  # of the time that a stream decodes
MOST_SILENT = 0.1  # of the requests, that got no token


def stalling(run: RunData, series: Series) -> Finding | None:
    """Say what share of the decode others' prompts took at the highest concurrency; None below a twentieth."""
    levels = series.believed
    if not levels or levels[-1].get("concurrency") == 1:  # a stream alone has no others
        return None
    level = levels[-1]
    stall, e2e, ttft = level.figure("stall_s"), level.figure("e2e_s"), level.mean_ttft
    if not stall or e2e is None or ttft is None or e2e <= ttft or stall < LEAST_STALL * (e2e - ttft):
        return None
    good = run.good(level["index"])
    if peak_at_once(run.column("first_token")[good], run.column("last")[good]) < 2:
        return None  # as where one is answered at a time: a prompt that waits is not read beside an answer
    sent = run.of_level(level["index"]) & np.isfinite(run.column("send"))
    if np.isnan(run.column("first_token")[sent]).mean() > MOST_SILENT:
        return None  # when the prompts of those were read is not known, and they interrupt answers as well
    return Finding(
        f"At {level.load}, a stream loses {seconds(stall)} on average to others' prompts, {percent(stall / (e2e - ttft))} of its "
        "decode time."
    )
