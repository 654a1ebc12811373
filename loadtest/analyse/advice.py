"""Advice in words: three sentences, the table, advice.md and advice.json."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from loadtest.analyse import findings, pages
from loadtest.analyse.advise import Advice, Lever, gain, held
from loadtest.analyse.capacity import Capacity
from loadtest.analyse.memory import Memory
from loadtest.analyse.pages import Grid
from loadtest.analyse.predict import Prediction
from loadtest.analyse.summary import Analysis

EXTRAPOLATED, TOO_MUCH = "*", " ✗"
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
    best, now, load = advice.best, advice.now, advice.load
    if now is None:
        return f"Nothing waited for a slot with {findings.streams(load)} at once: more slots would change nothing there"
    if best is None:
        return f"No number of slots fits {_bytes(advice.gpu_bytes)}"
    at, before = f"at {findings.streams(load)}", advice.as_now(load).figure("ttft_s", "p95")
    if best == now:
        return f"Keep {advice.knob} at {now}: TTFT p95 {at} is {_seconds(before)}, {_speed(advice.as_now(load))} tokens/s a stream"
    after = advice.cells[best, load]
    return (
        f"Set {advice.knob} to {best} (now {now}): TTFT p95 {at} from {_seconds(before)} to "
        f"{_seconds(after.figure('ttft_s', 'p95'))}, a stream from {_speed(advice.as_now(load))} to {_speed(after)} tokens/s"
    )


def _choice(advice: Advice) -> str:
    best, now, load = advice.best, advice.now, advice.load
    at = f"at {findings.streams(load)}"
    if now is None:
        return (
            f"Nothing waited for a slot with {findings.streams(load)} at once ({_reads(advice.as_now(load))}), so more slots "
            f"would change nothing there: measure more streams, e.g. --concurrency {2 * load},{4 * load}, to see the limit."
        )
    if best is None:
        assert isinstance(advice.memory, Memory)
        least = advice.memory.at(advice.slots[0])
        return (
            f"No number of slots fits {_bytes(advice.gpu_bytes)}: even {_slots(advice.slots[0])} "
            f"would take {_bytes(least)} with {advice.memory.context} tokens of context each."
        )
    if best == now:
        other = next((each for each in advice.slots if each > now and advice.fits(each) is not False), None)
        text = f"Keep {advice.knob} at {now}: {at} that gives {_reads(advice.as_now(load))}"
        if other is None or load <= now:
            return text + ", and more slots would stay empty." if load <= now else text + "."
        return f"{text}; with {other} it would be {_reads(advice.cells[other, load])}{_doubt(advice, other)}."
    after = advice.cells[best, load]
    return (
        f"Set {advice.knob} to {best} (now {now}): {at} {_changes(advice.as_now(load), after)}{_doubt(advice, best)}."
    )


def _room(advice: Advice) -> str:
    if advice.capacities:
        said = [
            f"With {'no limit of slots' if each.slots is None else _slots(each.slots)} {each.sentence}"
            + (" (extrapolated)" if _beyond(advice, each) else "")
            for each in advice.capacities
        ]
        return "; ".join((said[0], *(text[0].lower() + text[1:] for text in said[1:]))) + "."
    few, many = advice.slots[0], advice.slots[-1]
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
    now = advice.as_now(advice.load)
    slots = f"{_slots(advice.now)} as now" if advice.now else "no limit of slots"
    text = f"Of other levers, {first.name} would help {words} most at {findings.streams(advice.load)} and {slots}"
    text = f"{text} ({_effect(advice, now, first.prediction)})"
    if first.gain < 0.02:
        text = f"No other lever helps {words} by more than 2 % at {findings.streams(advice.load)} and {slots}"
    elif others:
        text += f", before {others[0].name} ({findings.percent(max(others[0].gain, 0.0))} better)"
    if advice.best is not None and advice.best != advice.now:
        brought = gain(advice.ranked_by, now, advice.cells[advice.best, advice.load])
        what = f"{findings.percent(abs(brought))} {'better' if brought >= 0 else 'worse'}"
        text += f"; {_slots(advice.best)} would make it {what}"
    return text + "."


def _effect(advice: Advice, before: Prediction, after: Prediction) -> str:
    objective = advice.ranked_by
    old, new = (each.figure(objective.figure, objective.statistic) for each in (before, after))
    return f"from {objective.quantity(old)} to {objective.quantity(new)}"


def _changes(before: Prediction, after: Prediction) -> str:
    old, new = before.figure("ttft_s", "p95"), after.figure("ttft_s", "p95")
    return (
        f"TTFT p95 goes from {_seconds(old)} to {_seconds(new)}, tokens/s a stream from {_speed(before)} to {_speed(after)}, "
        f"output from {_output(before)} to {_output(after)} tokens/s"
    )


def _reads(prediction: Prediction) -> str:
    ttft = _seconds(prediction.figure("ttft_s", "p95"))
    return f"TTFT p95 {ttft}, {_speed(prediction)} tokens/s a stream and {_output(prediction)} in all"


def _doubt(advice: Advice, slots: int) -> str:
    return " (extrapolated: measure it)" if advice.extrapolated(slots, advice.load) else ""


def _beyond(advice: Advice, found: Capacity) -> bool:
    return min(found.slots or found.concurrency, found.concurrency) > advice.model.streams


def notes(advice: Advice) -> list[str]:
    """Return what stands below the table: where it extrapolates, and what is known of memory."""
    found = ["All figures are predictions by the engine of the simulated server, with the step times of this run."]
    streams = advice.model.streams
    if advice.now is not None:
        found.append(
            f"Measured with {_slots(advice.now)}; every other number of slots is a what-if. ▶ is the one advised."
        )
    if advice.model.guess:
        found.append(advice.model.guess[0].upper() + advice.model.guess[1:] + ".")
    if any(advice.extrapolated(*pair) for pair in advice.cells):
        found.append(
            f"{EXTRAPOLATED} extrapolated: more streams decode at once than the {streams} that the run has; "
            "measure with that many slots before relying on it."
        )
    if isinstance(advice.memory, Memory):
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
    heads += ["memory"] if isinstance(advice.memory, Memory) else []
    rows = []
    for load in loads:
        for slots in advice.slots:
            cell = advice.cells[slots, load]
            row = [_mark(advice, slots), f"{load}{'' if load in advice.measured else ' (not measured)'}"]
            row += _row(cell, beyond=advice.extrapolated(slots, load))
            if advice.objectives:
                row.append("met" if advice.met(slots, load) else "missed")
            if isinstance(advice.memory, Memory):
                row.append(_bytes(advice.memory.at(slots)) + (TOO_MUCH if advice.fits(slots) is False else ""))
            rows.append(tuple(row))
    return Grid(tuple(heads), tuple(rows), names=2)


def heading(advice: Advice, analysis: Analysis) -> str:
    """Return the title of the console's table."""
    mark = findings.simulated(analysis.summary)
    parts = (analysis.summary["name"], findings.measured_on(analysis.summary), advice.label)
    title = " · ".join(part for part in parts if part) + (f" ({mark})" if mark else "")
    return f"{title}: predicted at {findings.streams(advice.load)}"


def console_grid(advice: Advice) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return heads and rows for the console: the highest measured concurrency alone, and how far the SLO holds."""
    grid = table(advice, (advice.load,))
    heads = ["slots", *grid.heads[2:]]
    rows = [[row[0], *row[2:]] for row in grid.rows]
    if advice.objectives:
        heads[heads.index("SLO")] = "SLO holds to"
        for slots, row in zip(advice.slots, rows, strict=True):
            row[heads.index("SLO holds to")] = str(held(advice, slots) or "none")
    return tuple(heads), [tuple(row) for row in rows]


def _mark(advice: Advice, slots: int) -> str:
    return f"{'▶ ' if slots == advice.best else ''}{slots}{' (now)' if slots == advice.now else ''}"


def shown(prediction: Prediction, figure: str, statistic: str, *, beyond: bool = False) -> str:
    """Return a predicted figure as text, marked where it is extrapolated."""
    value = prediction.figure(figure, statistic)
    if math.isnan(value):
        return pages.NOTHING
    text = f"{value:.1f}" if figure.endswith("per_s") else _seconds(value)
    return text + (EXTRAPOLATED if beyond else "")


def lever_table(advice: Advice) -> Grid:
    """Return a row a lever, the most helpful first, below the prediction as things are."""
    now, objective = advice.as_now(advice.load), advice.ranked_by
    heads = ("change", *(head for head, _, _ in FIGURES), f"{objective.words} better by", "what is assumed")
    rows = [("as measured", *_row(now), "", "")]
    rows += [(each.name, *_row(each.prediction), _percent(each.gain), each.means) for each in advice.levers]
    best = advice.best
    if best is not None and best != advice.now:
        cell = advice.cells[best, advice.load]
        beyond = advice.extrapolated(best, advice.load)
        rows.insert(
            1,
            (_slots(best), *_row(cell, beyond=beyond), _percent(gain(objective, now, cell)), f"{advice.knob} = {best}"),
        )
    return Grid(heads, tuple(rows), names=1, prose=True)


def _row(prediction: Prediction, *, beyond: bool = False) -> list[str]:
    return [shown(prediction, figure, statistic, beyond=beyond) for _, figure, statistic in FIGURES]


def markdown(advice: Advice, analysis: Analysis, picture: str | None) -> str:
    """Return advice.md."""
    summary = analysis.summary
    title = f"Advice for {summary['name']}: {findings.measured_on(summary)}"
    lines = [f"# {pages.escaped(title)}", ""]
    if mark := findings.simulated(summary):
        lines += [f"> **SIMULATED SERVER** ({pages.escaped(mark)}): this is advice for a model of a server.", ""]
    lines += [f"- {pages.escaped(sentence)}" for sentence in sentences(advice)] + [""]
    if picture:
        lines += [f"![Predictions by slots and streams]({picture})", ""]
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
        "simulated": analysis.summary["simulated"],
        "sentences": list(sentences(advice)),
        "notes": notes(advice),
        "slots": {"measured": advice.now, "best": advice.best, "setting": advice.knob},
        "lengths": advice.label or None,
        "measured_concurrencies": list(advice.measured),
        "slo": [{"name": each.name, "limit": each.limit} for each in advice.objectives],
        "capacity": [each.to_dict() for each in advice.capacities],
        "memory": memory.to_dict() if isinstance(memory, Memory) else None,
        "memory_reason": memory if isinstance(memory, str) else None,
        "gpu_memory_bytes": advice.gpu_bytes,
        "predictions": list(_cells(advice)),
        "levers": [_lever(each) for each in advice.levers],
        "levers_ranked_by": advice.ranked_by.name,
    }


def _cells(advice: Advice) -> Iterator[dict[str, Any]]:
    for (slots, load), cell in sorted(advice.cells.items()):
        memory = advice.memory.at(slots) if isinstance(advice.memory, Memory) else None
        yield {
            "measured_load": load in advice.measured,
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
