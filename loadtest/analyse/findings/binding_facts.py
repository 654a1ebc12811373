"""What a level of a run tells of the limit that it met: the arrays of an analysis as LoadFacts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtest.analyse.figures import rates
from loadtest.analyse.figures.objectives import beyond_limit
from loadtest.analyse.run import BoolArray, FloatArray, RunData
from loadtest.analyse.server.queue.at_work import RequestInstants
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.advice.binding import LoadFacts
from loadtest.records import Outcome
from loadtest.slo import ERRORS, Objective, judge_objectives
from loadtest.workloads.conversations import PAST_CONTEXT

WAITING_FIGURES = ("ttft_s", "ttft_sched_s", "queue_wait_s", "slot_wait_s")
FEWEST_BEYOND = 5  # requests beyond the limit; with fewer the slowest tenth stands for them
CONTEXT_WORDS = ("exceed_context", "context size", "context length", "context window", "maximum context")


def load_facts(analysis: Analysis, index: int, objectives: Sequence[Objective]) -> LoadFacts:
    """Return what level `index` shows of the limit it met; of several objectives missed, the first one's."""
    run = analysis.run
    level = next(one for one in analysis.levels if one["index"] == index)
    judged = judge_objectives(objectives, level)
    missed = next((one.objective for one in judged if not one.met and one.unjudged is None), None)
    rows = run.measured(index)
    slots = analysis.known_slots.number
    common: dict[str, Any] = {
        "slots": slots,
        "utilisation": utilisation(run, level, slots),
        "prefill_share": _prefill_share(analysis, level),
        "thinks": _thinks(run, level),
        "requests": int(rows.sum()),
        "decoding": int(level["peak_decoding"]),
    }
    errors = run.requests["error"][rows & ~run.flag("ok") & ~run.flag("left")].dropna()
    refused = int(sum(any(word in str(said).lower() for word in CONTEXT_WORDS) for said in errors))
    waits = missed is not None and missed.figure in WAITING_FIGURES
    common["reread_share"] = _reread_share(analysis, _beyond(run, rows, missed) if missed and waits else rows)
    if missed is not None and waits:
        common["step"] = max((entry.mean_s for entry in analysis.steps.times), default=None)
        reading = _reading(analysis)[_beyond(run, rows, missed)]
        common["reading"] = float(np.nanmean(reading)) if np.isfinite(reading).any() else None
    by_share = any(each.figure == ERRORS for each in objectives)
    failing = not by_share and len(errors) > float(run.scenario.get("max_error_ratio") or 0.0) * rows.sum()
    if missed is None and not failing and (not len(errors) or all(one.met for one in judged)):
        return LoadFacts(figure="", **common)
    if missed is None or missed.figure == ERRORS or len(errors) >= _held_against(run, rows, missed)[1].sum():
        said = str(errors.mode().iloc[0])[:100] if len(errors) else None
        mostly = refused if 2 * refused >= len(errors) else 0
        return LoadFacts(figure=ERRORS, context_refusals=mostly, failure=said, **common)
    crowded = slots is None or not level.is_closed or level["concurrency"] > slots
    return LoadFacts(figure=missed.figure, parts=_parts(analysis, rows, missed, crowded=crowded), **common)


def cut_short(run: RunData) -> str:
    """Say how many conversations the context cut short; empty where it cut none."""
    turns = run.requests[~run.flag("warmup")]
    notes = [note for said in turns["notes"] for note in said if PAST_CONTEXT in note]
    if not notes:
        return ""
    every, context = len(turns[["level", "session"]].drop_duplicates()), notes[0].partition(PAST_CONTEXT)[2]
    return f"{len(notes)} of {every} conversations ended early, before a turn that {PAST_CONTEXT}{context}."


def _beyond(run: RunData, rows: BoolArray, missed: Objective) -> BoolArray:
    """Mark the requests beyond an objective's limit; of too few the slowest tenth."""
    values, beyond = _held_against(run, rows, missed)
    known = ~np.isnan(values)
    if beyond.sum() >= FEWEST_BEYOND or not known.any():
        return beyond
    far = np.where(np.isinf(values), np.finfo(np.float64).max, values) * (1 if missed.at_most else -1)
    return np.asarray(known & (far >= np.quantile(far[known], 0.9)), dtype=np.bool_)


def _held_against(run: RunData, rows: BoolArray, missed: Objective) -> tuple[FloatArray, BoolArray]:
    """Return an objective's figure of the requests that did not fail, nan of others, and mark those beyond its limit."""
    left = _left_waiting(run)
    name = "tpot_s" if missed.figure == "itl_s" else missed.figure
    values = np.where(left, np.inf, run.column(name) if name in run.requests else np.nan)
    values[~(rows & (run.flag("ok") | left))] = np.nan
    return values, beyond_limit(missed, values)


def _left_waiting(run: RunData) -> BoolArray:
    return run.flag("left") & ~np.isfinite(run.column("first_token"))


def _reading(analysis: Analysis) -> FloatArray:
    """Return how long each request's prompt takes to read by the run's speed, seconds; nan where that is unknown.

    Where no more than a least speed is known, what a gateway holds a request for may be in it.
    """
    prefill = analysis.steps.prefill
    if prefill is None or prefill.least:
        return np.full(len(analysis.run.requests), np.nan)
    return prefill.seconds(analysis.run.uncached_tokens)


def _parts(analysis: Analysis, rows: BoolArray, missed: Objective, *, crowded: bool) -> dict[str, float]:
    """Return what the time of the requests beyond the limit went into, mean seconds.

    Who hung up while he waited may have waited for a slot only where the level is `crowded`: more came than there are slots.

    Where the server does not say how long a request waited, what its prompt does not take by the run's speed was a wait, but
    for a slot, for other prompts or for a step is not known.
    """
    run = analysis.run
    left, beyond = _left_waiting(run), _beyond(run, rows, missed)
    waited = np.where(left, run.column("end") - run.column("send"), 0.0)
    ttft, slot = run.column("ttft_s"), np.nan_to_num(run.column("slot_wait_s"))
    loading = np.nan_to_num(run.column("load_s"))
    batch, unsplit = np.nan_to_num(run.column("batch_wait_s")), np.zeros(len(slot))
    if not np.isfinite(run.column("slot_wait_s")[beyond]).any():
        told = run.column("unsplit_wait_s")
        unsplit = np.where(np.isfinite(told), told, np.maximum(ttft - loading - np.nan_to_num(_reading(analysis)), 0.0))
    rest = np.maximum(ttft - slot - batch - unsplit - loading, 0.0)
    # As the server says, else by the speed that the run shows; without both all of it is not known to be reading.
    told = run.column("prefill_s")
    reading = np.minimum(rest, np.where(np.isfinite(told), told, _reading(analysis)))
    prefill = np.nan_to_num(reading)
    stall = np.nan_to_num(run.column("stall_s"))
    decode = np.maximum(run.column("e2e_s") - ttft - stall, 0.0)
    found: dict[str, FloatArray] = {"slots": np.where(left, waited if crowded else 0.0, slot)}
    found |= {
        name: np.where(left, 0.0, each)
        for name, each in (
            ("batch", batch),
            ("load", loading),
            ("prefill", prefill),
            ("way", np.nan_to_num(rest - reading)),
            ("before", np.where(np.isfinite(reading), 0.0, rest)),
        )
    }
    found["unsplit"] = np.where(left, 0.0 if crowded else waited, unsplit)
    if missed.figure not in WAITING_FIGURES:
        found = found if missed.figure.startswith("e2e") else {}
        found |= {"stall": np.where(left, 0.0, stall), "decode": np.where(left, 0.0, decode)}
    return {name: float(np.nanmean(each[beyond])) for name, each in found.items() if np.isfinite(each[beyond]).any()}


def utilisation(run: RunData, level: dict[str, Any], slots: int | None) -> float | None:
    """Return the share of the slots' time in a level's window that streams were seen at work; None without slots."""
    flow = rates.flow(run, level)
    if slots is None or flow is None:
        return None
    requests = RequestInstants.of(run, run.of_level(level["index"]))
    begun = np.where(np.isfinite(requests.begun), requests.begun, requests.first)
    inside = np.minimum(requests.gone, flow.window.end) - np.maximum(begun, flow.window.start)
    return float(np.nansum(np.clip(inside, 0.0, None)) / (slots * flow.window.seconds))


def _prefill_share(analysis: Analysis, level: dict[str, Any]) -> float | None:
    """Return the share of a level's time that evaluating its prompts takes, one after another."""
    prefill, flow = analysis.steps.prefill, rates.flow(analysis.run, level)
    if prefill is None or prefill.least or flow is None:
        return None
    tokens = (
        analysis.run.uncached_tokens
        if analysis.cache is None
        else analysis.run.column("prompt_tokens") - analysis.cache.cached
    )
    known = flow.rows & np.isfinite(tokens)
    if not known.any():
        return None
    share = float((flow.shares[known] * tokens[known]).sum()) * prefill.per_token_s / flow.window.seconds
    return share / float(known.sum() / flow.rows.sum())


def _reread_share(analysis: Analysis, rows: BoolArray) -> float | None:
    """Return which share of the prompt tokens that were read had been read before, in the same conversation."""
    if analysis.cache is None:
        return None
    read = analysis.run.column("prompt_tokens") - analysis.cache.cached
    again, known = analysis.cache.reread, rows & np.isfinite(read)
    total = float(read[known].sum())
    return float(np.nansum(again[known])) / total if total > 0 else None


def _thinks(run: RunData, level: dict[str, Any]) -> float | None:
    """Return the share of a closed loop's users' time in which they wait for nothing."""
    users, flow = level.get("concurrency"), rates.flow(run, level)
    if not users or flow is None:
        return None
    rows = run.of_level(level["index"]) & ~run.one_of("outcome", Outcome.CANCELLED)
    inside = np.minimum(run.column("end"), flow.window.end) - np.maximum(run.column("send"), flow.window.start)
    busy = float(np.nansum(np.clip(inside[rows], 0.0, None))) / (users * flow.window.seconds)
    return max(1.0 - busy, 0.0) if math.isfinite(busy) else None
