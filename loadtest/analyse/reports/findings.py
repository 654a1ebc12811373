"""What a run says, in sentences with their figures: one source for chart titles and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from loadtest.analyse.figures import client_capacity, rates
from loadtest.analyse.figures import knee as knee_of
from loadtest.analyse.reports import machine
from loadtest.analyse.reports.summary import Analysis
from loadtest.analyse.run import groups, offered_load
from loadtest.analyse.run.series import Series, series_of
from loadtest.analyse.server import cold_load, memory, memory_parts, prompt_length
from loadtest.analyse.server.steps import Steps
from loadtest.analyse.verdict import endings

LEAST_BATCH_WAIT = 0.1  # of the mean TTFT: less is not worth a sentence
LEAST_SLOT_WAIT = 0.05  # of the mean TTFT, from which on requests queue
MOST_RUNS = 4  # of consecutive numbers in one sentence
MOST_TOLD = 3  # series of levels; of more, the first and the last


def simulated(summary: dict[str, Any]) -> str | None:
    """Return "simulated: profile X at N× speed", None for a real server."""
    said = summary["simulated"]
    return f"simulated: profile {said['profile']} at {float(said['speed']):g}× speed" if said else None


def measured_on(summary: dict[str, Any]) -> str:
    """Return server and model in words, e.g. "ollama 0.33.0 · llama3.1:70b"."""
    server, target = summary["server"], summary["target"]
    if several := summary.get("groups"):
        kind = " ".join(str(server[key]) for key in ("kind", "version") if server.get(key))
        return " · ".join(filter(None, (kind, ", ".join(group["name"] for group in several))))
    parts = (f"{server.get('kind') or 'server'} {server.get('version') or ''}".strip(), target.get("model"))
    return " · ".join(str(part) for part in parts if part)


def seconds(value: float | None) -> str:
    """Return a duration for people: ms below a second, s above; "unknown" for None."""
    if value is None:
        return "unknown"
    milliseconds = value * 1e3
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{value:.2f} s"


def percent(share: float) -> str:
    """Return a share as whole percent, e.g. "82 %"."""
    return f"{share * 100:.0f} %"


def streams(count: int) -> str:
    return f"{count} stream{'s' if count != 1 else ''}"


def figure(level: dict[str, Any], name: str, part: str = "mean") -> float | None:
    """Return one figure of a level, None where it is unknown."""
    described = level.get(name)
    value: float | None = described.get(part) if described else None
    return value


def all_findings(analysis: Analysis) -> list[str]:
    """Return what the run shows, the most telling first; each sentence holds its figures, and names its model or server
    where there are several.
    """
    found = [
        *filter(None, [endings.end_sentence(analysis.run)]),
        *memory.context_sentences(analysis.run),
        *_parts(analysis),
    ]
    if analysis.groups:
        found += _void(analysis.summary["levels"])
    for group, one in analysis.groups:
        who = f"{group.name}, beside {listed(group.beside)}" if group.beside else group.name
        found += [f"{who}: {sentence.removeprefix(f'{group.name} · ')}" for sentence in _of_server(one)]
    if not analysis.groups:
        found += _of_server(analysis)
    if used := client_capacity.capacity_sentence(analysis.summary["levels"]):
        found.append(used)
    if not analysis.groups:
        found += memory_parts.difference_sentences(analysis.memory)
    return found + machine.sentences(analysis.run) + endings.answer_notes(analysis.run)


def _parts(analysis: Analysis) -> list[str]:
    """Say which models and servers a run's requests went to where there are several, and which of them shared one."""
    found = []
    if analysis.groups:
        named = [f"{group.name} ({counted(len(group.run.requests))})" for group, _ in analysis.groups]
        found.append(f"Figures are given apart for {listed(named)}.")
    for url in dict.fromkeys(group.url for group, _ in analysis.groups if group.beside):
        names = [group.name for group, _ in analysis.groups if group.beside and group.url == url]
        found.append(
            f"{listed(names)} were in use at the same time at {url}: waits, step times and speeds of each include whatever the "
            "others cost it."
        )
    found += [one.sentence for one in analysis.turns]
    if analysis.turns:
        found.append(
            "Requests to such models wait for each other's answers and loads. To keep them loaded together a server needs "
            "memory for both, and an Ollama OLLAMA_MAX_LOADED_MODELS of as many."
        )
    return found + [f"No request was recorded for {name}." for name in groups.unused(analysis.run)]


def counted(requests: int) -> str:
    return f"{requests} request{'s' if requests != 1 else ''}"


def listed(names: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def _void(levels: Sequence[dict[str, Any]]) -> list[str]:
    void = sum(level["verdict"] == "void" for level in levels)
    if not void:
        return []
    return [
        f"{void} of {len(levels)} levels {'are' if void != 1 else 'is'} void: do not quote their figures, here neither."
    ]


def _of_server(analysis: Analysis) -> list[str]:
    """Return what the requests to one model at one server show of it."""
    summary = analysis.summary
    found = [slots_finding(analysis)] if summary["levels"] else ["No request was recorded."]
    known = how_we_know(analysis) if summary["levels"] else []
    found = [*loads(analysis), *found, *known, *steps_findings(analysis), *longer_prompts(analysis)]
    if "group" not in summary:
        found += _void(summary["levels"])
    every = series_of(summary["levels"])
    told = every if len(every) <= MOST_TOLD else [every[0], every[-1]]  # the tables have the rest
    for series in told:
        prefix = f"{series.label}: " if len(every) > 1 and series.label else ""
        sentences = (
            queueing(analysis, series),
            batching(series),
            stalling(series),
            knee(series),
            range_of_ttft(series),
        )
        found += [f"{prefix}{sentence}" for sentence in sentences if sentence]
    found += unsteady(summary["levels"])[:MOST_TOLD]
    return found + rates.drained(summary["levels"])[:MOST_TOLD]


def loads(analysis: Analysis) -> list[str]:
    """Say what cold loads took, a level at a time; nothing where none was asked for."""
    levels = [level for level in analysis.summary["levels"] if level.get("cold_load")]
    mark = " (simulated)" if analysis.run.simulated else ""
    return [
        f"{level['label']}: {sentence}" if len(levels) > 1 else sentence
        for level in levels[:MOST_TOLD]
        for sentence in cold_load.cold_load_sentences(level["cold_load"], mark)
    ]


def longer_prompts(analysis: Analysis) -> list[str]:
    """Say what a longer prompt costs, where levels differ in input length alone; of many such lines the first ones'."""
    every = prompt_length.prompt_length_series(analysis.run, analysis.summary["levels"])
    return [
        f"{line.label}: {sentence}" if len(every) > 1 else sentence
        for line in every[:MOST_TOLD]
        for sentence in prompt_length.prompt_length_sentences(line)
    ]


def telling(analysis: Analysis, finding: Callable[[Series], str | None]) -> str | None:
    """Return the last series' finding without its full stop, for a title; named when there are several series."""
    every = series_of(analysis.summary["levels"])
    for series in reversed(every):
        if said := finding(series):
            return (f"{series.label}: {said}" if len(every) > 1 and series.label else said).rstrip(".")
    return None


def slots_finding(analysis: Analysis) -> str:
    """Say how many streams the server works on at once, and how sure that is."""
    slots = analysis.slots
    if slots.estimate is None:
        return "No stream was seen decoding, so nothing is known about the server's slots."
    if slots.limit:
        what = "one request at a time" if slots.estimate == 1 else f"{slots.estimate} requests in parallel"
        return f"The server handles {what}; further requests queue."
    return f"The server handles at least {counted(slots.estimate)} in parallel; its limit was not seen."


def how_we_know(analysis: Analysis) -> list[str]:
    """Return what the number of slots rests on."""
    return [] if analysis.slots.estimate is None else [f"How we know the number in parallel: {analysis.slots.method}."]


def steps_findings(analysis: Analysis) -> list[str]:
    """Say what a step of the server takes, where its time is of two kinds, and what prompts cost."""
    steps = analysis.steps
    said = []
    law = steps.law
    if law is not None and law.fits:
        said.append(
            f"A step takes {_milliseconds(law.base_s)} and {_milliseconds(law.per_stream_s)} more for each stream decoding "
            f"({_seen(steps)})."
        )
    elif law is not None and steps.law_reason:
        said.append(f"{steps.law_reason[0].upper()}{steps.law_reason[1:]}.")
    for entry in steps.times if law is None or law.fits else ():
        if len(entry.kinds) == 2:
            kinds = " and ".join(f"{seconds(kind.centre_s)} ({percent(kind.share)})" for kind in entry.kinds)
            said.append(f"Two kinds of step at {streams(entry.streams)}: {kinds}.")
    prefill = steps.prefill
    if prefill is not None and prefill.per_token_s > 0:
        said.append(f"Prefill runs at {1 / prefill.per_token_s:.0f} prompt tokens/s ({prefill.method}).")
    return said


def _milliseconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if abs(value) > 5e-6 else "0 ms"


def _seen(steps: Steps) -> str:
    """Say at how many streams steps were seen, and how far the line is from them where that can be told."""
    law, numbers = steps.law, [entry.streams for entry in steps.times]
    off = f"; off by at most {max(law.residual * 100, 0.1):.2g} %" if law is not None and len(numbers) > 2 else ""
    return f"seen at {_numbers(numbers)}{off}"


def _numbers(values: list[int]) -> str:
    """Return "1-4 and 8 streams"; of many with gaps between them "14 numbers from 1 to 32 streams"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    if len(runs) > MOST_RUNS:
        return f"{len(values)} numbers from {values[0]} to {values[-1]} streams"
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    text = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{text} stream{'s' if values != [1] else ''}"


def stalling(series: Series) -> str | None:
    """Say what share of the decode others' prompts took at the highest concurrency; None below a twentieth."""
    level = series.levels[-1]
    stall, e2e, ttft = (figure(level, name) for name in ("stall_s", "e2e_s", "ttft_s"))
    if not stall or e2e is None or ttft is None or e2e <= ttft or stall < 0.05 * (e2e - ttft):
        return None
    share = percent(stall / (e2e - ttft))
    return f"At {offered_load.load_name(level)} others' prompts stall a stream for {seconds(stall)}, {share} of its decode."


def queueing(analysis: Analysis, series: Series) -> str | None:
    """Say what share of TTFT waiting is at the highest concurrency; None where waits are unknown."""
    told = [
        level for level in series.levels if figure(level, "queue_wait_s") is not None or figure(level, "slot_wait_s")
    ]
    if not told:
        return None
    level = told[-1]
    ttft, wait, slot, batch = (
        figure(level, name) for name in ("ttft_s", "queue_wait_s", "slot_wait_s", "batch_wait_s")
    )
    if not ttft:
        return None
    at = f"at {offered_load.load_name(level)}"
    past = f"Past {streams(analysis.slots.estimate or 0)} requests queue: {at}"
    queues = analysis.slots.limit and slot is not None and slot >= LEAST_SLOT_WAIT * ttft
    if slot is not None and wait is None:  # a server without durations
        inferred = f"{past} {percent(slot / ttft)} of the mean TTFT ({seconds(ttft)}) is slot wait, inferred from when earlier streams ended."
        return inferred if queues else None
    if slot is None or batch is None:
        share = percent((wait or 0.0) / ttft)
        return f"{at.capitalize()} {share} of the mean TTFT ({seconds(ttft)}) is queue wait (for a slot or a batch: not known)."
    if queues:
        return f"{past} {percent(slot / ttft)} of the mean TTFT ({seconds(ttft)}) is slot wait."
    if slot + batch <= LEAST_BATCH_WAIT * ttft:
        return f"No queue {at}: waiting is {percent((slot + batch) / ttft)} of the mean TTFT ({seconds(ttft)})."
    if slot < 0.1 * batch:
        return None  # batching says it
    return f"{at.capitalize()} waiting is {percent((slot + batch) / ttft)} of the mean TTFT ({seconds(ttft)}), nearly all of it batch wait."


def batching(series: Series) -> str | None:
    """Say where a wait is not queueing: the level without slot wait whose TTFT is batch wait for the largest part."""
    found = None
    largest = LEAST_BATCH_WAIT
    for level in series.levels:
        ttft, slot, batch = (figure(level, name) for name in ("ttft_s", "slot_wait_s", "batch_wait_s"))
        if ttft and batch and slot is not None and slot < 0.1 * batch and batch / ttft > largest:
            found, largest = level, batch / ttft
    if found is None:
        return None
    most = seconds(figure(found, "batch_wait_s", "max"))
    return (
        f"Nobody queues for a slot at {offered_load.load_name(found)}, yet {percent(largest)} of the mean TTFT "
        f"({seconds(figure(found, 'ttft_s'))}) is batch wait (up to {most}): a prompt starts when the batch in flight "
        "has ended."
    )


def knee(series: Series) -> str | None:
    """Say from which load on more brings no more: streams, with three levels or more; or the rate that is kept up with."""
    if series.levels and offered_load.is_open(series.levels[0]):
        return knee_of.kept_up(series.levels)
    found, _ = knee_of.knee(series.levels)
    return found.sentence if found else None


def unsteady(levels: Iterable[dict[str, Any]]) -> list[str]:
    """Return a sentence for each level in which as many requests did not end as came, so that it was not stationary."""
    return [
        f"{level['label']}: not stationary: {law['in_flight']:.1f} requests in flight on average, but {law['ends_per_s']:.3g} "
        f"ends a second of {seconds(law['sojourn_s'])} each make {law['ends_per_s'] * law['sojourn_s']:.1f} (Little's law)."
        for level in levels
        if (law := level["little"]) and not law["holds"]
    ]


def range_of_ttft(series: Series) -> str | None:
    """Say how TTFT and decode speed change from the lowest to the highest concurrency."""
    ends = [level for level in series.levels if figure(level, "ttft_s", "p50") is not None]
    if not ends:
        return None
    said = []
    for level in ends[:1] if len(ends) == 1 else (ends[0], ends[-1]):
        speed = figure(level, "stream_tokens_per_s", "p50")
        said.append(
            f"{seconds(figure(level, 'ttft_s', 'p50'))} TTFT"
            + (f" and {speed:.1f} tokens/s a stream" if speed else "")
            + f" at {offered_load.load_name(level)}"
        )
    return "Median: " + ", ".join(said) + "."


def verdicts(levels: Iterable[dict[str, Any]]) -> list[str]:
    """Return one line a level that is not valid, with its reasons."""
    return [
        f"{level['label']}: {level['verdict']}: " + "; ".join(level["reasons"]) + "."
        for level in levels
        if level["reasons"]
    ]
