"""Advice in words: three sentences, the table, advice.md and advice.json."""

from __future__ import annotations

import math
import shlex
from functools import partial
from typing import Any

from loadtest.analyse.findings.machine_findings import others_finding
from loadtest.analyse.findings.measured_on import marked, measured_on, simulated_mark
from loadtest.analyse.reports.prediction_report import with_band
from loadtest.analyse.server.model_memory.by_slots import MemoryBySlots
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.advice.slot_advice import Advice, gain, highest_met_load
from loadtest.analyse.whatif.advice.sustainable_load import SustainableLoad
from loadtest.analyse.whatif.model.prediction import Prediction
from loadtest.analyse.whatif.predictions.predict_loads import levels_in_words
from loadtest.grid import Grid
from loadtest.templates import render
from loadtest.text import (
    UNKNOWN,
    capitalised,
    counted,
    joined,
    listed,
    percent,
    seconds,
    signed,
    size,
    writer_of,
)

PREDICTED = "Predictions come from a model of this server with the step times of this run, and hold if the server keeps that pace"
VARIED = "; lengths that were all equal are varied by 10 % to either side"
EXPENDABLE = ("output tokens/s", "TTFT p50", "memory", "queue wait p50", "tokens/s a stream")  # on a narrow console
TTFT_APART = 0.1  # a TTFT that differs by more than this share is told beside the other
EACH_A_SLOT = "a slot for each"  # where the run never reached the limit
EXTRAPOLATED, TOO_MUCH = "*", " ✗"
TABLE_FIGURES = {  # of the table, by their heads
    "TTFT p50": "ttft_s.p50",
    "TTFT p95": "ttft_s.p95",
    "queue wait p50": "queue_wait_s.p50",
    "tokens/s a stream": "stream_tokens_per_s.p50",
    "output tokens/s": "output_tokens_per_s.mean",
}


def sentences(advice: Advice) -> tuple[str, str, str]:
    """Return what to set and what it changes, what the server then takes, and which other lever matters most."""
    return _choice(advice), _room(advice), _levers_sentence(advice)


def title(advice: Advice) -> str:
    """Return the choice in a line, for a picture."""
    slots, now, load = advice.trial, advice.now, advice.load
    if now is None:
        return "{}: more slots would change {} there".format(*_nobody(advice))
    if slots is None:
        return f"No number of slots fits {size(advice.gpu_bytes)}"
    at, before = f"at {advice.users(load)}", advice.as_now(load)
    if slots == now:
        measured = f"TTFT p95 {at} is {_ttft(before)}, {_speed_text(before)} tokens/s a stream, as measured"
        return f"Keep {advice.knob} at {now}: {measured}"
    after = advice.promised[load]
    wait, speed = (f"{text(after)} instead of {text(before)}" for text in (_ttft, _speed_text))
    return f"{_set(advice, slots)}: {at} TTFT p95 {wait}, {speed} tokens/s a stream (predicted)"


def promise_sentence(advice: Advice, path: str, command: str | None, *, of_locust: bool) -> str:
    """Say how the promise is scored; `command` is that of the run with the promise, and one of Locust keeps no prediction."""
    setting = f"With {advice.knob} {advice.trial}" if advice.trial != advice.now else "With the slots as they are"
    file = shlex.quote(path)
    again = command or f"the same test, and `loadtest score {file} RUN`"
    if command and of_locust:
        again += f"\n  loadtest score {file} RUN"
    return f"What this promises is in {path}. {setting}, score it by:\n  {again}"


def doubts(advice: Advice, analysis: Analysis) -> list[str]:
    """Say whether others used the server, and that void levels are left out."""
    it = "it" if len(advice.void) == 1 else "them"
    void = f"Void, so the advice does not rest on {it}: {levels_in_words(advice.void)}." if advice.void else None
    return [str(each) for each in (others_finding(analysis.run), void) if each]


def _set(advice: Advice, slots: int) -> str:
    """Say to set so many slots; or to try them, where they lie past the streams measured or gain no more than the model may err."""
    if advice.extrapolated(slots, advice.load) or slots != advice.best or not advice.surely_better:
        return f"Try {advice.knob} {slots} (now {advice.now}), then measure"
    return f"Set {advice.knob} to {slots} (now {advice.now})"


def _choice(advice: Advice) -> str:
    slots, now, load = advice.trial, advice.now, advice.load
    at = f"at {advice.users(load)}"
    if now is None:
        who, change = _nobody(advice)
        return (
            f"{who} ({_figures_text(advice.as_now(load))}), so more slots would change {change} there: measure more streams, e.g. "
            f"--concurrency {2 * load},{4 * load}, to see the limit."
        )
    if slots is None:
        assert isinstance(advice.memory, MemoryBySlots)
        least = advice.memory.at(advice.slots[0])
        return (
            f"No number of slots fits {size(advice.gpu_bytes)}: even {counted(advice.slots[0], 'slot')} "
            f"would take {size(least)} with {advice.memory.context} tokens of context each."
        )
    if slots == now:
        other = next((each for each in advice.slots if each > now and advice.fits(each) is not False), None)
        text = f"Keep {advice.knob} at {now}: {at} that gives {_figures_text(advice.as_now(load))}, as measured"
        if other is None or load <= now:
            return text + ", and more slots would stay empty." if load <= now else text + "."
        return f"{text}; with {other} {_figures_text(advice.cells[other, load])} are predicted{_extrapolated_note(advice, other)}."
    changes = _now_and_then(advice.as_now(load), advice.promised[load])
    return f"{_set(advice, slots)}. {capitalised(at)} {changes}.{_with_varied_lengths(advice)}"


def _nobody(advice: Advice) -> tuple[str, str]:
    """Say that nothing waited where all decoded at once, else that hardly anything did; and what more slots change."""
    many, most = advice.users(advice.load), advice.at_once
    if most is None or most >= advice.load:
        return f"Nothing waited for a slot with {many} at once", "nothing"
    return f"Of {many} up to {most} decoded at once, so hardly anything waited for a slot", "little"


def _with_varied_lengths(advice: Advice) -> str:
    """Say why the table has another TTFT than the promise, where it has: equal lengths keep requests in step."""
    if advice.trial is None or not advice.equal_answers:
        return ""
    promised, varied = advice.promised[advice.load], advice.cells[advice.trial, advice.load]
    told = ("ttft_s.p95", "stream_tokens_per_s.p50", "output_tokens_per_s.mean")
    pairs = [(promised.figures[key], varied.figures[key]) for key in told]
    if not any(abs(there - here) > TTFT_APART * here for here, there in pairs):
        return ""
    return (
        f" In this run answers were all equally long, so requests move in step. With lengths that vary by 10 %, as in the table, "
        f"TTFT p95 would be {seconds(pairs[0][1])}, and tokens/s a stream {_speed_text(varied)}."
    )


def _room(advice: Advice) -> str:
    if advice.capacities:
        said = [
            f"With {EACH_A_SLOT if each.slots is None else counted(each.slots, 'slot')} {each.sentence}"
            + (", extrapolated" if _extrapolates(advice, each) else "")
            for each in advice.capacities
        ]
        return "By the model: " + "; ".join(text[0].lower() + text[1:] for text in said) + "."
    few = advice.slots[0]
    many = max(each for each in advice.slots if each <= max(advice.furthest, few))
    low, high = (advice.cells[each, advice.load] for each in (few, many))
    if low.figures == high.figures:
        return f"With {advice.users(advice.load)} at once slots make no difference."
    return (
        f"At {advice.users(advice.load)}, {counted(few, 'slot')} would give {_speed_text(low)} tokens/s a stream after a "
        f"queue wait of {_wait(low)}, {counted(many, 'slot')} {_speed_text(high)} after {_wait(high)}"
        f"{_extrapolated_note(advice, many)}."
    )


def _levers_sentence(advice: Advice) -> str:
    (first, *others), words = advice.levers, advice.ranked_by.words
    slots = f"{counted(advice.now, 'slot')} as now" if advice.now else EACH_A_SLOT
    at = f"at {advice.users(advice.load)} and {slots}"
    if first.gain < 0.02:
        return f"None of the other changes tried improves {words} by more than 2 % {at}, by the model."
    text = f"Among other changes, {first.name} would improve {words} most {at}, by {percent(first.gain)} in the model"
    return text + (f"; {others[0].name} by {percent(max(others[0].gain, 0.0))}." if others else ".")


def _now_and_then(before: Prediction, after: Prediction) -> str:
    """Say what is predicted, each figure with its band, and what was measured instead."""
    ttft, speed, output = (
        with_band(after, figure) for figure in ("ttft_s.p95", "stream_tokens_per_s.p50", "output_tokens_per_s.mean")
    )
    return (
        f"TTFT p95 would be {ttft} instead of {_ttft(before)} as measured, tokens/s a stream {speed} instead "
        f"of {_speed_text(before)}, and tokens/s in all {output} instead of {_output(before)}"
    )


def _figures_text(prediction: Prediction) -> str:
    return f"TTFT p95 {_ttft(prediction)}, {_speed_text(prediction)} tokens/s a stream and {_output(prediction)} in all"


def _extrapolated_note(advice: Advice, slots: int) -> str:
    return " (extrapolated: measure it)" if advice.extrapolated(slots, advice.load) else ""


def _extrapolates(advice: Advice, found: SustainableLoad) -> bool:
    return min(found.slots or found.concurrency, found.concurrency) > advice.model.streams


def notes(advice: Advice, loads: tuple[int, ...] = ()) -> list[str]:
    """Return what stands below the table of these loads, or of all: where it extrapolates, and what is known of memory."""
    found = [f"{PREDICTED}{'' if advice.people else VARIED}."]
    streams, measured = advice.model.streams, listed([advice.users(n) for n in advice.measured])
    if advice.now is not None:
        found.append(
            f"The figures with {counted(advice.now, 'slot')} at {measured} are measured; "
            f"all others are predicted. ▶ is {'the one advised' if advice.trial == advice.best else 'the best by the model'}."
        )
    else:
        found.append(f"The figures at {measured} with as many slots or more are measured; all others are predicted.")
    found += advice.model.assumed
    if advice.model.guess:
        found.append(f"{capitalised(advice.model.guess)}.")
    if any(advice.extrapolated(each, load) for each in advice.slots for load in loads or advice.loads):
        found.append(
            f"{EXTRAPOLATED} extrapolated: more streams decode in parallel than the {streams} that the run measured; "
            "measure with that many slots before relying on it."
        )
    if isinstance(advice.memory, MemoryBySlots):
        memory = advice.memory
        found.append(
            f"Memory: the server reports {size(memory.loaded)} with {counted(memory.slots, 'slot')}; the others are computed from "
            f"{size(memory.slot_bytes)} of KV cache (f16) for each slot of {memory.context} tokens"
            + (f"; ✗ is more than {size(advice.gpu_bytes)}." if advice.gpu_bytes else ".")
        )
    elif advice.memory is not None:
        found.append(capitalised(advice.memory))
    return found


def slots_table(advice: Advice, loads: tuple[int, ...]) -> Grid:
    rows = [_slots_row(advice, slots, load) for load in loads for slots in advice.slots]
    return Grid(tuple(rows[0]), tuple(tuple(row.values()) for row in rows), names=2)


def _slots_row(advice: Advice, slots: int, load: int) -> dict[str, str]:
    row = {
        "slots": _mark(advice, slots, load),
        "people" if advice.people else "streams": f"{load}{'' if load in advice.measured else ' (not measured)'}",
    }
    figures = _row(advice.cells[slots, load], beyond=advice.extrapolated(slots, load))
    row |= dict(zip(TABLE_FIGURES, figures, strict=True))
    if advice.objectives:
        row["SLO"] = "not known" if advice.untold(slots, load) else "met" if advice.met(slots, load) else "missed"
    if isinstance(advice.memory, MemoryBySlots):
        row["memory"] = size(advice.memory.at(slots)) + (TOO_MUCH if advice.fits(slots) is False else "")
    return row


def heading(advice: Advice, analysis: Analysis) -> str:
    summary = analysis.summary
    what = joined(" · ", summary["name"], summary.get("group"), measured_on(summary), advice.label)
    return f"{marked(what, summary)}: at {advice.users(advice.load)}"


def console_table(advice: Advice) -> Grid:
    """Return the table of the console: the highest measured concurrency alone, and how far the SLO holds."""
    grid = slots_table(advice, (advice.load,))
    heads = ["slots", *grid.heads[2:]]
    rows = [[row[0], *row[2:]] for row in grid.rows]
    if advice.objectives:
        heads[heads.index("SLO")] = "SLO holds to"
        for slots, row in zip(advice.slots, rows, strict=True):
            row[heads.index("SLO holds to")] = _holds_to(advice, slots)
    return Grid(tuple(heads), tuple(map(tuple, rows)))


def _holds_to(advice: Advice, slots: int) -> str:
    """Return the highest load that meets the objectives, "5 to 9" where those between two shown ones are not predicted.

    "≥" stands where there is no next one, or it does not tell, which is no miss.
    """
    reach = highest_met_load(advice, slots)
    beyond = next((load for load in advice.loads if load > reach), None)
    if beyond is None or advice.untold(slots, beyond):
        return f"≥ {reach}" if reach else "not known"
    return f"{reach} to {beyond - 1}" if reach and beyond > reach + 1 else str(reach or "none")


def _mark(advice: Advice, slots: int, load: int) -> str:
    now = " (now, measured)" if advice.is_measured(slots, load) else " (now)"
    return f"{'▶ ' if slots == advice.best else ''}{slots}{now if slots == advice.now else ''}"


def predicted_text(prediction: Prediction, key: str, *, beyond: bool = False) -> str:
    value = prediction.figures.get(key, math.nan)
    return UNKNOWN if math.isnan(value) else writer_of(key)(value) + (EXTRAPOLATED if beyond else "")


def lever_table(advice: Advice) -> Grid:
    """Return a row a lever, the most helpful first, below the prediction as things are."""
    now, objective = advice.predicted_now, advice.ranked_by
    heads = ("change", *TABLE_FIGURES, f"{objective.words} better by", "what is assumed")
    rows = [("as measured", *_row(advice.as_now(advice.load)), "", "")]
    rows += [("the same, predicted", *_row(now), "", "what the changes are held against")]
    rows += [(each.name, *_row(each.prediction), signed(each.gain), each.means) for each in advice.levers]
    best = advice.trial
    if best is not None and best != advice.now:
        cell = advice.cells[best, advice.load]
        rows.insert(
            2,
            (
                counted(best, "slot"),
                *_row(cell, beyond=advice.extrapolated(best, advice.load)),
                signed(gain(objective, now, cell)),
                f"{advice.knob} = {best}",
            ),
        )
    return Grid(heads, tuple(rows), names=1, prose=True)


def _row(prediction: Prediction, *, beyond: bool = False) -> list[str]:
    return [predicted_text(prediction, key, beyond=beyond) for key in TABLE_FIGURES.values()]


def markdown(advice: Advice, analysis: Analysis, picture: str | None) -> str:
    summary = analysis.summary
    whom = joined(" · ", summary["name"], summary.get("group"))
    return render(
        "advice.md",
        title=f"Advice for {whom}: {measured_on(summary)}",
        simulated=simulated_mark(summary),
        doubts=doubts(advice, analysis),
        sentences=sentences(advice),
        picture=picture,
        label=advice.label,
        by_slots=slots_table(advice, advice.loads),
        notes=notes(advice),
        streams=advice.users(advice.load),
        levers=lever_table(advice),
    )


def to_dict(advice: Advice, analysis: Analysis) -> dict[str, Any]:
    memory = advice.memory
    return {
        "run": analysis.summary["name"],
        **({"group": analysis.summary["group"]} if "group" in analysis.summary else {}),
        "simulated": analysis.summary["simulated"],
        "doubts": doubts(advice, analysis),
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
        "promised": [each.to_dict() for each in advice.promised.values()],
        "predictions": [
            {
                "measured_load": load in advice.measured,
                "measured": advice.is_measured(slots, load),
                "extrapolated": advice.extrapolated(slots, load),
                "slo_met": None if advice.untold(slots, load) else advice.met(slots, load),
                "memory_bytes": memory.at(slots) if isinstance(memory, MemoryBySlots) else None,
                "fits": advice.fits(slots),
                **cell.to_dict(),
            }
            for (slots, load), cell in sorted(advice.cells.items())
        ],
        "levers": [
            {"name": each.name, "means": each.means, "gain": each.gain, **each.prediction.to_dict()}
            for each in advice.levers
        ],
        "levers_ranked_by": advice.ranked_by.name,
    }


def _ttft(prediction: Prediction) -> str:
    found = predicted_text(prediction, "ttft_s.p95")
    return "unknown" if found == UNKNOWN else found  # in a sentence; so few requests have no p95


_wait = partial(predicted_text, key="queue_wait_s.p50")
_speed_text = partial(predicted_text, key="stream_tokens_per_s.p50")
_output = partial(predicted_text, key="output_tokens_per_s.mean")
