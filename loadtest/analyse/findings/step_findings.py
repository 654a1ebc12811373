"""What a step of the server takes, how fast it reads prompts, and what those cost other requests, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from loadtest.analyse.findings.cache_findings import may_be_warm
from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.findings.machine_findings import others_finding
from loadtest.analyse.run import SERIES_KEYS, FloatArray, LevelData, RunData, Series, believed, finite, shared_parts
from loadtest.analyse.run.overlaps import peak_at_once
from loadtest.analyse.server.queue.at_work import first_made
from loadtest.analyse.server.timing.pace import LEAST_CHANGE
from loadtest.analyse.server.timing.pauses import find_pauses
from loadtest.analyse.server.timing.prefill import NEAR_S
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
    """Say in clauses what a prompt takes besides its tokens, and what is known of lengths; "" where all are read alike.

    Of prompts of one length what each takes besides its tokens is in the speed, which is then said of that length.
    """
    besides = f", and takes {seconds(prefill.fixed_s)} more for each prompt" if prefill.fixed_s else ""
    if prefill.one_length is not None and not prefill.fixed_s:
        return f" in prompts with about {counted(round(prefill.one_length), 'token')} to read"
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
        return Finding(f"The server's pace changed between levels: the same steps took {times}.", PACE_EVIDENCE)
    if change is None:
        return None
    slower = change.factor > 1
    when = "from then on as before" if slower else "before as from then on"
    said = f"on average the same steps took at least {within:.1f} times as long {when}"
    became = f"{'slower' if slower else 'faster'} within the level at {labels[change.level]}, after about {seconds(change.after_s)}"
    return Finding(f"The server became {became}: {said}.", PACE_EVIDENCE)


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


def pause_finding(analysis: Analysis) -> Finding | None:
    """Say when no token came, though answers had begun or prompts were read, and no prompt of the run explains it."""
    labels = {level["index"]: level.load for level in believed(analysis.levels)}
    pauses = [pause for pause in find_pauses(analysis.run, analysis.steps.prefill) if pause.level in labels]
    if not pauses:
        return None
    longest = max(pauses, key=lambda pause: pause.seconds)
    more = ""
    if len(pauses) > 1:
        in_all = seconds(sum(each.seconds for each in pauses))
        more = f"; with {counted(len(pauses) - 1, 'shorter such pause')} it is {in_all} in all"
    waited = f"while {counted(longest.waiting, 'request')} waited and the server read no prompt"
    read = f"while {counted(longest.prompts, 'prompt')} {'was' if longest.prompts == 1 else 'were'} read"
    stood = f"and {counted(longest.answers, 'answer')} that had begun stood still"
    meanwhile = stood if longest.answers else waited if longest.waiting else read
    return Finding(
        f"At {labels[longest.level]}, no token came for {seconds(longest.seconds)}, {meanwhile}, from {seconds(longest.begin)} of the run "
        f"on{more}.",
        "Prompts of this run that may have been read then take less than half so long, and this client was awake. A paused process "
        "or machine, swapping, a way to the server that was down, a gateway that starts anew, and others' requests do that. The "
        "figures of the level hold what it cost.",
    )


LEAST_STALL = 0.05  # of the time that a stream decodes
MOST_HIT = 0.6  # share of the answers that a few are at most
LITTLE = 0.1  # share of their loss that the others lose at most; and of the requests that got no token
LOSSES_ALIKE = 0.2  # share by which losses lie round their median, to be one figure
LEAST_SHARED, LEAST_SLOWER = 0.5, 1.25  # share of the prompts that are read together; times as long as a prompt alone
SAME_LENGTH = 0.1  # share by which prompts that are compared differ in length


def stalling(run: RunData, series: Series) -> Finding | None:
    """Say what share of the decode others' prompts took at the highest concurrency; None below a twentieth.

    Where a few answers lose nearly all of it, a mean would stand for nobody: those are counted.
    """
    levels = series.believed
    if not levels or levels[-1].get("concurrency") == 1 or levels[-1].gathered:  # a stream alone has no others
        return None
    level = levels[-1]
    stall, e2e, ttft = level.figure("stall_s"), level.figure("e2e_s"), level.mean_ttft
    if not stall or e2e is None or ttft is None or e2e <= ttft or stall < LEAST_STALL * (e2e - ttft):
        return None
    at, share, good = level.load, percent(stall / (e2e - ttft)), run.good(level["index"])
    if peak_at_once(run.column("first_token")[good], run.column("last")[good]) < 2:
        return None  # as where one is answered at a time: a prompt that waits is not read beside an answer
    sent = run.of_level(level["index"]) & np.isfinite(run.column("send"))
    if np.isnan(run.column("first_token")[sent]).mean() > LITTLE:
        return None  # when the prompts of those were read is not known, and they interrupt answers as well
    if said := _loss_of_a_few(finite(run.column("stall_s")[good])):
        return Finding(f"At {at}, {said}; the mean over all answers is {seconds(stall)}, {share} of their decode time.")
    return Finding(
        f"At {at}, a stream loses {seconds(stall)} on average to others' prompts, {share} of its decode time."
    )


def _loss_of_a_few(stalls: FloatArray) -> str | None:
    """Return what those lose who lose much, where the others lose next to nothing; None where the mean tells it."""
    hit = stalls > stalls.mean() / 2 if len(stalls) else np.zeros(0, dtype=np.bool_)
    if not hit.any() or hit.mean() > MOST_HIT:
        return None
    lost, usual = stalls[hit], float(np.median(stalls[hit]))
    if stalls[~hit].max(initial=0.0) > LITTLE * usual:
        return None
    alike = bool((np.abs(lost - usual) <= LOSSES_ALIKE * usual).all())
    each = f"about {seconds(usual)}" if alike else f"{seconds(float(lost.min()))} to {seconds(float(lost.max()))}"
    return (
        f"{percent(float(hit.mean()))} of the answers lose {each} each to other requests' prompts, which interrupt their decoding, "
        "and the others next to nothing"
    )


class _Prefills(NamedTuple):
    """The prefills of a level that the server gave durations of."""

    seconds: FloatArray
    together: FloatArray  # how many prompts began and ended with each, itself among them
    tokens: FloatArray  # of its prompt that were not cached


def reading_together(run: RunData, series: Series) -> Finding | None:
    """Say how much longer prefill takes where most prompts are read with others at once, against prompts read alone."""
    levels = series.believed
    if not levels or not all(level.is_closed for level in levels) or levels[0]["concurrency"] != 1:
        return None
    alone = _prefills(run, levels[0])
    if not len(alone.seconds) or (alone.together > 1).any():
        return None
    usual, found = float(np.median(alone.seconds)), None
    for level in levels[1:]:
        here = _prefills(run, level)
        if not len(here.seconds) or (here.together > 1).mean() < LEAST_SHARED:
            continue
        slower = float(np.median(here.seconds))
        same = abs(np.median(here.tokens) / np.median(alone.tokens) - 1) <= SAME_LENGTH
        if (
            same
            and LEAST_SLOWER <= slower / usual <= LEAST_SLOWER * here.together.max()  # past that it was not they alone
            and (found is None or slower > LEAST_SLOWER * found[1])
        ):
            found = level, slower, here
    if found is None:
        return None
    level, slower, here = found
    most = int(here.together.max())
    return Finding(
        f"At {level.load}, prompts are read together, up to {most} at once: the median prefill is {seconds(slower)}, "
        f"against {seconds(usual)} of a prompt alone.",
        f"{percent(float((here.together > 1).mean()))} of the prompts there began and ended their prefill with another one's, by "
        "the server's own durations.",
    )


def _prefills(run: RunData, level: LevelData) -> _Prefills:
    """Return the prefills of a level's measured requests; of its warm-ups too it is known whom they were read with."""
    tokens = run.uncached_tokens
    of_level = run.of_level(level["index"])
    took, first = run.column("prefill_s"), first_made(run)
    rows = np.flatnonzero(of_level & np.isfinite(took) & np.isfinite(first) & (tokens > 0))
    rows = rows[np.argsort(first[rows], kind="stable")]
    together = np.ones(len(rows))
    if len(rows):
        ends, starts = first[rows], first[rows] - took[rows]
        apart = (np.diff(ends, prepend=ends[0]) > NEAR_S) | (np.abs(np.diff(starts, prepend=starts[0])) > NEAR_S)
        group = np.cumsum(apart)
        together = np.bincount(group)[group].astype(np.float64)
    good = run.good(level["index"])[rows]
    return _Prefills(took[rows][good], together[good], tokens[rows][good])
