"""Advice in words: three sentences, the table, advice.md and advice.json."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from loadtest.analyse.reports import findings, pages
from loadtest.analyse.reports.pages import Grid
from loadtest.analyse.reports.summary import Analysis
from loadtest.analyse.server.memory import MemoryBySlots
from loadtest.analyse.whatif.predict import Prediction
from loadtest.analyse.whatif.slot_advice import Advice, Lever, gain, highest_met_load
from loadtest.analyse.whatif.sustainable_load import SustainableLoad

EXTRAPOLATED, TOO_MUCH = "*", " ✗"
_EQUAL = "Lengths that were all equal vary by 10 % to either side in it."
FIGURES = (  # of the table: (head, figure, statistic)
    ("TTFT p50", "ttft_s", "p50"),
    ("TTFT p95", "ttft_s", "p95"),
    ("queue wait p50", "queue_wait_s", "p50"),
    ("tokens/s a stream", "stream_tokens_per_s", "p50"),
    ("output tokens/s", "output_tokens_per_s", "mean"),
)


def sentences(advice: Advice) -> tuple[str, str, str]:
    """Return what to set and what it changes, what the server then takes, and which other lever matters most."""
    return _choice(advice), _room(advice), _levers(advice)


def title(advice: Advice) -> str:
    """Return the choice in a line, for a picture."""
    slots, now, load = advice.trial, advice.now, advice.load
    if now is None:
        return f"Nothing waited for a slot with {findings.streams(load)} at once: more slots would change nothing there"
    if slots is None:
        return f"No number of slots fits {_bytes(advice.gpu_bytes)}"
    at, before = f"at {findings.streams(load)}", advice.as_now(load)
    measured = (
        f"TTFT p95 {at} is {_seconds(before.figure('ttft_s', 'p95'))}, {_speed(before)} tokens/s a stream, as measured"
    )
    if slots == now:
        return f"Keep {advice.knob} at {now}: {measured}"
    after = advice.cells[slots, load]
    return f"{_set(advice, slots)}: {measured}; predicted {_seconds(after.figure('ttft_s', 'p95'))} and {_speed(after)} tokens/s"


def void(advice: Advice) -> str | None:
    """Say that the advice rests on levels that are void; None where it does not."""
    if not advice.void:
        return None
    count, what = len(advice.void), findings.listed(advice.void)
    verb = "level that this rests on is" if count == 1 else "levels that this rests on are"
    return f"{count} {verb} void ({what}): measure again before you rely on it."


def _set(advice: Advice, slots: int) -> str:
    """Say to set so many slots, or to try them where more streams decode together than were measured."""
    if advice.extrapolated(slots, advice.load) or slots != advice.best:
        return f"Try {advice.knob} {slots} (now {advice.now}), then measure"
    return f"Set {advice.knob} to {slots} (now {advice.now})"


def _choice(advice: Advice) -> str:
    slots, now, load = advice.trial, advice.now, advice.load
    at = f"at {findings.streams(load)}"
    if now is None:
        return (
            f"Nothing waited for a slot with {findings.streams(load)} at once ({_reads(advice.as_now(load))}), so more slots "
            f"would change nothing there: measure more streams, e.g. --concurrency {2 * load},{4 * load}, to see the limit."
        )
    if slots is None:
        assert isinstance(advice.memory, MemoryBySlots)
        least = advice.memory.at(advice.slots[0])
        return (
            f"No number of slots fits {_bytes(advice.gpu_bytes)}: even {_slots(advice.slots[0])} "
            f"would take {_bytes(least)} with {advice.memory.context} tokens of context each."
        )
    if slots == now:
        other = next((each for each in advice.slots if each > now and advice.fits(each) is not False), None)
        text = f"Keep {advice.knob} at {now}: {at} that gives {_reads(advice.as_now(load))}, as measured"
        if other is None or load <= now:
            return text + ", and more slots would stay empty." if load <= now else text + "."
        return f"{text}; with {other} {_reads(advice.cells[other, load])} are predicted{_doubt(advice, other)}."
    return f"{_set(advice, slots)}: {at} {_changes(advice.as_now(load), advice.cells[slots, load])}."


def _room(advice: Advice) -> str:
    if advice.capacities:
        said = [
            f"With {'no limit of slots' if each.slots is None else _slots(each.slots)} {each.sentence}"
            + (" (extrapolated)" if _beyond(advice, each) else "")
            for each in advice.capacities
        ]
        return "By the model: " + "; ".join(text[0].lower() + text[1:] for text in said) + "."
    few = advice.slots[0]
    many = max(each for each in advice.slots if each <= max(advice.furthest, few))
    low, high = (advice.cells[each, advice.load] for each in (few, many))
    if low.figures == high.figures:
        return f"With {findings.streams(advice.load)} at once slots make no difference."
    return (
        f"Slots trade a stream's speed for the queue: at {findings.streams(advice.load)} {_slots(few)} would give "
        f"{_speed(low)} tokens/s a stream after a queue wait of {_wait(low)}, {_slots(many)} {_speed(high)} after {_wait(high)}"
        f"{_doubt(advice, many)}."
    )


def _levers(advice: Advice) -> str:
    first, *others = advice.levers
    words = advice.ranked_by.words
    slots = f"{_slots(advice.now)} as now" if advice.now else "no limit of slots"
    at = f"at {findings.streams(advice.load)} and {slots}"
    text = f"Of other levers, {first.name} would help {words} most {at} ({_better(first.gain)} by the model)"
    if first.gain < 0.02:
        text = f"No other lever helps {words} by more than 2 % {at}, by the model"
    elif others:
        text += f", before {others[0].name} ({_better(max(others[0].gain, 0.0))})"
    slots_now = advice.trial
    if slots_now is not None and slots_now != advice.now:
        brought = gain(advice.ranked_by, advice.predicted_now, advice.cells[slots_now, advice.load])
        text += f"; {_slots(slots_now)} would make it {_better(brought)}"
    return text + "."


def _better(share: float) -> str:
    return f"{findings.percent(abs(share))} {'better' if share >= 0 else 'worse'}"


def _changes(before: Prediction, after: Prediction) -> str:
    """Say what was measured, and what is predicted with its band."""
    ttft, speed, output = ("ttft_s", "p95"), ("stream_tokens_per_s", "p50"), ("output_tokens_per_s", "mean")
    return (
        f"TTFT p95 is {_seconds(before.figure(*ttft))}, with {_speed(before)} tokens/s a stream and {_output(before)} in all, as "
        f"measured; predicted are {_range(after, *ttft)}, {_range(after, *speed)} and {_range(after, *output)}"
    )


def _range(prediction: Prediction, name: str, statistic: str) -> str:
    """Return a predicted figure and its band, "1.91 s (1.36 s to 2.67 s)"."""
    shown = _seconds if name.endswith("_s") and not name.endswith("per_s") else "{:.1f}".format
    low, high = prediction.bands.get(f"{name}.{statistic}", (math.nan, math.nan))
    value = shown(prediction.figure(name, statistic))
    return value if math.isnan(low) else f"{value} ({shown(low)} to {shown(high)})"


def _reads(prediction: Prediction) -> str:
    ttft = _seconds(prediction.figure("ttft_s", "p95"))
    return f"TTFT p95 {ttft}, {_speed(prediction)} tokens/s a stream and {_output(prediction)} in all"


def _doubt(advice: Advice, slots: int) -> str:
    return " (extrapolated: measure it)" if advice.extrapolated(slots, advice.load) else ""


def _beyond(advice: Advice, found: SustainableLoad) -> bool:
    return min(found.slots or found.concurrency, found.concurrency) > advice.model.streams


def notes(advice: Advice) -> list[str]:
    """Return what stands below the table: where it extrapolates, and what is known of memory."""
    found = [f"Predicted by the engine of the simulated server, with the step times of this run. {_EQUAL}"]
    streams = advice.model.streams
    if advice.now is not None:
        found.append(
            f"Measured are the figures with {_slots(advice.now)} at {findings.listed([str(n) for n in advice.measured])} streams; "
            f"every other is a prediction. ▶ is {'the one advised' if advice.trial == advice.best else 'the best by the model'}."
        )
    if advice.model.guess:
        found.append(advice.model.guess[0].upper() + advice.model.guess[1:] + ".")
    if any(advice.extrapolated(*pair) for pair in advice.cells):
        found.append(
            f"{EXTRAPOLATED} extrapolated: more streams decode at once than the {streams} that the run has; "
            "measure with that many slots before relying on it."
        )
    if isinstance(advice.memory, MemoryBySlots):
        memory = advice.memory
        found.append(
            f"Memory: {_bytes(memory.loaded)} as the server says with {_slots(memory.slots)}; others computed by "
            f"{memory.kv_bytes / 1024:.0f} KiB of KV cache (f16) a token and {memory.context} tokens of context a slot"
            + (f"; ✗ is more than {_bytes(advice.gpu_bytes)}." if advice.gpu_bytes else ".")
        )
    elif advice.memory is not None:
        found.append(advice.memory[0].upper() + advice.memory[1:])
    return found


def table(advice: Advice, loads: tuple[int, ...]) -> Grid:
    """Return a row for each number of slots at each of these loads."""
    heads = ["slots", "streams", *(head for head, _, _ in FIGURES)]
    heads += ["SLO"] if advice.objectives else []
    heads += ["memory"] if isinstance(advice.memory, MemoryBySlots) else []
    rows = []
    for load in loads:
        for slots in advice.slots:
            cell = advice.cells[slots, load]
            row = [_mark(advice, slots, load), f"{load}{'' if load in advice.measured else ' (not measured)'}"]
            row += _row(cell, beyond=advice.extrapolated(slots, load))
            if advice.objectives:
                row.append("met" if advice.met(slots, load) else "missed")
            if isinstance(advice.memory, MemoryBySlots):
                row.append(_bytes(advice.memory.at(slots)) + (TOO_MUCH if advice.fits(slots) is False else ""))
            rows.append(tuple(row))
    return Grid(tuple(heads), tuple(rows), names=2)


def heading(advice: Advice, analysis: Analysis) -> str:
    """Return the title of the console's table."""
    mark = findings.simulated(analysis.summary)
    parts = (
        analysis.summary["name"],
        analysis.summary.get("group"),
        findings.measured_on(analysis.summary),
        advice.label,
    )
    title = " · ".join(part for part in parts if part) + (f" ({mark})" if mark else "")
    return f"{title}: at {findings.streams(advice.load)}"


def console_grid(advice: Advice) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heads and rows for the console: the highest measured concurrency alone, and how far the SLO holds."""
    grid = table(advice, (advice.load,))
    heads = ["slots", *grid.heads[2:]]
    rows = [[row[0], *row[2:]] for row in grid.rows]
    if advice.objectives:
        heads[heads.index("SLO")] = "SLO holds to"
        for slots, row in zip(advice.slots, rows, strict=True):
            row[heads.index("SLO holds to")] = str(highest_met_load(advice, slots) or "none")
    return tuple(heads), [tuple(row) for row in rows]


def _mark(advice: Advice, slots: int, load: int) -> str:
    now = " (now, measured)" if advice.is_measured(slots, load) else " (now)"
    return f"{'▶ ' if slots == advice.best else ''}{slots}{now if slots == advice.now else ''}"


def shown(prediction: Prediction, figure: str, statistic: str, *, beyond: bool = False) -> str:
    """Return a predicted figure as text, marked where it is extrapolated."""
    value = prediction.figure(figure, statistic)
    if math.isnan(value):
        return pages.NOTHING
    text = f"{value:.1f}" if figure.endswith("per_s") else _seconds(value)
    return text + (EXTRAPOLATED if beyond else "")


def lever_table(advice: Advice) -> Grid:
    """Return a row a lever, the most helpful first, below the prediction as things are."""
    now, objective = advice.predicted_now, advice.ranked_by
    heads = ("change", *(head for head, _, _ in FIGURES), f"{objective.words} better by", "what is assumed")
    rows = [("as measured", *_row(advice.as_now(advice.load)), "", "")]
    rows += [("the same, predicted", *_row(now), "", "what the changes are held against")]
    rows += [(each.name, *_row(each.prediction), _percent(each.gain), each.means) for each in advice.levers]
    best = advice.trial
    if best is not None and best != advice.now:
        cell = advice.cells[best, advice.load]
        beyond = advice.extrapolated(best, advice.load)
        rows.insert(
            2,
            (_slots(best), *_row(cell, beyond=beyond), _percent(gain(objective, now, cell)), f"{advice.knob} = {best}"),
        )
    return Grid(heads, tuple(rows), names=1, prose=True)


def _row(prediction: Prediction, *, beyond: bool = False) -> list[str]:
    return [shown(prediction, figure, statistic, beyond=beyond) for _, figure, statistic in FIGURES]


def markdown(advice: Advice, analysis: Analysis, picture: str | None) -> str:
    """Return advice.md."""
    summary = analysis.summary
    whom = " · ".join(filter(None, (summary["name"], summary.get("group"))))
    title = f"Advice for {whom}: {findings.measured_on(summary)}"
    lines = [f"# {pages.escaped(title)}", ""]
    if mark := findings.simulated(summary):
        lines += [f"> **SIMULATED SERVER** ({pages.escaped(mark)}): this is advice for a model of a server.", ""]
    if doubt := void(advice):
        lines += [f"> **{pages.escaped(doubt)}**", ""]
    lines += [f"- {pages.escaped(sentence)}" for sentence in sentences(advice)] + [""]
    if picture:
        lines += [f"![Figures by slots and streams]({picture})", ""]
    lines += [f"## By slots{f' · {advice.label}' if advice.label else ''}", ""]
    lines += [*pages.markdown_table(table(advice, advice.loads)), ""]
    lines += [f"- {pages.escaped(note)}" for note in notes(advice)] + [""]
    lines += [
        f"## Other levers, at {findings.streams(advice.load)}",
        "",
        *pages.markdown_table(lever_table(advice)),
        "",
    ]
    return "\n".join(lines)


def to_dict(advice: Advice, analysis: Analysis) -> dict[str, Any]:
    """Return advice.json."""
    memory = advice.memory
    return {
        "run": analysis.summary["name"],
        **({"group": analysis.summary["group"]} if "group" in analysis.summary else {}),
        "simulated": analysis.summary["simulated"],
        "sentences": list(sentences(advice)),
        "notes": notes(advice),
        "void_levels": list(advice.void),
        "slots": {"measured": advice.now, "best": advice.best, "try": advice.trial, "setting": advice.knob},
        "lengths": advice.label or None,
        "measured_concurrencies": list(advice.measured),
        "slo": [{"name": each.name, "limit": each.limit} for each in advice.objectives],
        "capacity": [each.to_dict() for each in advice.capacities],
        "memory": memory.to_dict() if isinstance(memory, MemoryBySlots) else None,
        "memory_reason": memory if isinstance(memory, str) else None,
        "gpu_memory_bytes": advice.gpu_bytes,
        "predictions": list(_cells(advice)),
        "levers": [_lever(each) for each in advice.levers],
        "levers_ranked_by": advice.ranked_by.name,
    }


def _cells(advice: Advice) -> Iterator[dict[str, Any]]:
    for (slots, load), cell in sorted(advice.cells.items()):
        memory = advice.memory.at(slots) if isinstance(advice.memory, MemoryBySlots) else None
        yield {
            "measured_load": load in advice.measured,
            "measured": advice.is_measured(slots, load),
            "extrapolated": advice.extrapolated(slots, load),
            "slo_met": advice.met(slots, load),
            "memory_bytes": memory,
            "fits": advice.fits(slots),
            **cell.to_dict(),
        }


def _lever(lever: Lever) -> dict[str, Any]:
    return {"name": lever.name, "means": lever.means, "gain": lever.gain, **lever.prediction.to_dict()}


def _slots(count: int) -> str:
    return f"{count} slot{'s' if count != 1 else ''}"


def _seconds(value: float) -> str:
    return findings.seconds(None if math.isnan(value) else value)


def _wait(prediction: Prediction) -> str:
    return _seconds(prediction.figure("queue_wait_s", "p50"))


def _speed(prediction: Prediction) -> str:
    return f"{prediction.figure('stream_tokens_per_s', 'p50'):.1f}"


def _output(prediction: Prediction) -> str:
    return f"{prediction.figure('output_tokens_per_s', 'mean'):.1f}"


def _percent(share: float) -> str:
    return f"{share * 100:+.0f} %"


def _bytes(size: float | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
