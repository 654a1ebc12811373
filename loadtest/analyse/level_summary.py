"""What summary.json holds of a level: each figure, or beside it the reason why it is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.figures import client_capacity, objectives, rates, stationarity, stats
from loadtest.analyse.run import BoolArray, FloatArray, LevelData, RunData, finite
from loadtest.analyse.server import prompt_length
from loadtest.analyse.server.model_memory import cold_load
from loadtest.analyse.server.prompt_cache import cache
from loadtest.analyse.server.prompt_cache.cache import CacheUse
from loadtest.analyse.server.queue import leavers, slots, waits
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.verdict import shared_sentences, verdict
from loadtest.doubts import FEW_TOKENS, LENGTH_SHARE, VALID
from loadtest.records import NO_FAILURES
from loadtest.slo import Objective

# Figures of a request each, in the order of summary.json; columns of Run.requests.
PER_REQUEST = (
    "ttft_s",
    "ttft_sched_s",
    "tpot_s",
    "e2e_s",
    "e2e_sched_s",
    "stream_tokens_per_s",
    "e2e_tokens_per_s",
    "queue_wait_s",
    "slot_wait_s",
    "batch_wait_s",
    "load_s",
    "prefill_s",
    "prefill_tokens_per_s",
    "stall_s",
)
NO_WAITS = "this server does not say how long requests wait"
NO_LIMIT = (
    "more requests were in flight than were ever at work at once, and whether that is the slots' limit is not known"
)
WHY_UNKNOWN = {
    "queue_wait_s": NO_WAITS,
    "slot_wait_s": NO_WAITS,
    "batch_wait_s": NO_WAITS,
    "load_s": "this server does not say how long it loaded its model",
    "prefill_s": "this server does not say how long it reads a prompt",
    "prefill_tokens_per_s": prompt_length.NO_SPEED,
    "delivery_delay_s": "this server does not stamp its chunks",
    "server_itl_s": "this server does not stamp its chunks",
    "stall_s": "too few gaps between tokens were seen to tell a stall from a step",
}
# of a level that has them
LENGTHS_IF_SET = (
    "input_lengths",
    "output_lengths",
    "system_tokens",
    "turns",
    "sessions",
    "thinks",
)


def level_summary(
    run: RunData, level: LevelData, found_slots: Slots, asked: Sequence[Objective], cached: CacheUse | None
) -> LevelData:
    index = level["index"]
    rows, good = run.measured(index), run.good(index)
    block = int(level.get("concurrency") or 1)
    doubts = verdict.doubts_of(run, level)
    requests = run.requests[rows]
    stamps = verdict.stamps_of(run.requests[good])
    commonest = run.requests["wait_source"][good].mode()
    flow, queue = rates.flow(run, level), stationarity.queue_memory(run, level)
    little = stationarity.little(run, index, flow)
    throughput = rates.level_rates(run, flow, good, growing=bool(little and little["growing"]))
    found: dict[str, Any] = {
        "index": index,
        "label": level_label(level, run.column("prompt_tokens")[good]),
        **{key: level[key] for key in ("model", "url", "beside", "by_schedule") if key in level},
        **{key: level.get(key) for key in ("concurrency", "rate", "input_tokens", "output_tokens", "words")},
        **{key: level[key] for key in LENGTHS_IF_SET if level.get(key)},
        **_offered(run, level),
        "requests": int(rows.sum()),
        "warmup_requests": int((run.of_level(index) & run.flag("warmup")).sum()),
        "outcomes": outcome_counts(requests),
        "failures": shared_sentences.list_outcomes(requests[~requests["outcome"].isin(NO_FAILURES)]) or None,
        **({"queue_memory": queue} if queue > 1 else {}),
        **_described(run, index, good, block, queue),
        **leavers.left_figures(run, index, found_slots),
        **or_reason("little", little, "no request ended in the steady window"),
        **({"cold_load": cold_load.cold_load(run, index)} if cold_load.is_cold(run) else {}),
        "wait_source": str(commonest.iloc[0]) if len(commonest) else waits.UNKNOWN,
        **throughput,
        **_goodput_of(run, index, asked, throughput["requests_per_s"], flow),
        "tokens": _token_totals(run, rows, good),
        **(cache.level_cache(run, cached, good) if cached is not None else {}),
        "peak_decoding": slots.peak_decoding(run, run.of_level(index)),
        "client": {
            "lag_s": stats.describe_values(run.column("lag_s")[good], block=block),
            "schedule_lag_s": stats.describe_values(run.column("schedule_lag_s")[good], block=block),
            "schedule_lag_p99_s": verdict.schedule_lag_p99(run.column("schedule_lag_s")[good]) if good.any() else None,
            "cpu": verdict.client_cpu(run, index),
            "stamps": stamps,
            **client_capacity.capacity_used(run, index, stamps),
        },
        "verdict": doubts[0][1].severity if doubts else VALID,
        "reasons": [doubt.reason for _, doubt in doubts],
        "causes": [{"cause": cause, "verdict": doubt.severity} for cause, doubt in doubts],
    }
    summary = LevelData(found)
    if asked:
        summary["objectives"] = [each.to_dict() for each in objectives.held_against_requests(run, summary, asked)]
    return summary


def level_label(level: LevelData, prompt_tokens: FloatArray) -> str:
    """Return a level's label, with the real prompt length where it is not as asked: "4 streams · 1513 in (512 asked)"."""
    named = str(level.get("label") or level.as_asked.label)
    known, asked = finite(prompt_tokens), level.get("input_tokens")
    if not len(known) or not asked or level.get("sessions"):  # later turns hold what was said before
        return named
    shared = level.get("system_tokens") or 0
    got, whole = float(known.mean()) / (level.get("inputs") or 1), shared + asked
    if abs(got - whole) <= max(FEW_TOKENS, LENGTH_SHARE * whole):
        return named
    # Which part of a prompt came out longer is not known.
    said = f"{asked} in ({got:.0f} in all, {whole} asked)" if shared else f"{got:.0f} in ({asked} asked)"
    return named.replace(f"{asked} in", said, 1)


def outcome_counts(requests: pd.DataFrame) -> dict[str, int]:
    return {str(name): int(count) for name, count in requests["outcome"].value_counts().items()}


def _described(run: RunData, index: int, good: BoolArray, block: int, queue: float) -> dict[str, Any]:
    """Return the distribution of each figure over a level's requests or gaps, or the reason why it has none."""
    found: dict[str, Any] = {}
    for name in PER_REQUEST:
        described = stats.describe_values(run.column(name)[good], block=block, queue=queue)
        found |= _figure_or_reason(name, described, good)
    if run.left(index).any():
        found |= _waits_with_left(run, index, block, queue)
    if found["queue_wait_s"] is not None and found["slot_wait_s"] is None:
        found |= dict.fromkeys(("slot_wait_s_reason", "batch_wait_s_reason"), NO_LIMIT)
    for name, pooled in (("itl_s", run.itl), ("server_itl_s", run.server_itl), ("delivery_delay_s", run.delivery)):
        found |= _figure_or_reason(name, stats.describe_pooled(pooled, good, block=block, queue=queue), good)
    return found


def _waits_with_left(run: RunData, index: int, block: int, queue: float) -> dict[str, Any]:
    """Return TTFT where users hung up: who left before the first token waited at least so long."""
    left, seen = run.left(index), np.isfinite(run.column("first_token"))
    rows = run.good(index) | left
    found: dict[str, Any] = {}
    for name, since in (("ttft_s", "send"), ("ttft_sched_s", "sched")):
        waited = run.column("end") - run.column(since)
        who = (left & ~seen)[rows]
        said = stats.describe_waits(run.column(name)[rows], who, waited[rows], block=block, queue=queue)
        found |= _figure_or_reason(name, said, rows)
    return found


def or_reason(name: str, value: object, reason: str | None) -> dict[str, Any]:
    return {name: value} if value is not None else {name: None, f"{name}_reason": reason}


def _figure_or_reason(name: str, described: Mapping[str, Any], rows: BoolArray) -> dict[str, Any]:
    """Return a figure of these requests, or why it is unknown: what the server says is known only where one ended well."""
    reason = WHY_UNKNOWN.get(name, "no request of this level had one") if rows.any() else rates.NOTHING_ENDED
    return or_reason(name, described if described["n"] else None, reason)


def _goodput_of(
    run: RunData, index: int, asked: Sequence[Objective], rate: float | None, flow: rates.Flow | None
) -> dict[str, Any]:
    """Return a level's goodput where something is asked of it."""
    if not asked:
        return {}
    found = objectives.goodput(run, index, asked, requests_per_s=rate, flow=flow)
    return or_reason("goodput", found, "no objective is one that a single request can meet or miss here")


def _offered(run: RunData, level: LevelData) -> dict[str, Any]:
    """Return what an open-loop level adds: rate_to, trace, requests due a second, and how many were shed."""
    if not level.is_open:
        return {}
    return {
        "rate_to": level.get("rate_to"),
        "trace": level.get("trace"),
        "offered_per_s": run.due_per_s(level["index"]),
        "shed": run.shed(level["index"]),
    }


def _token_totals(run: RunData, rows: BoolArray, good: BoolArray) -> dict[str, Any]:
    requests = run.requests[good]
    rest = run.requests[rows & ~good]
    asked = requests[["asked", "output_tokens"]].dropna()
    return {
        "prompt": _total(requests["prompt_tokens"]),
        "output": _total(requests["output_tokens"]),
        "asked": _total(asked["asked"]),
        "achieved": float(asked["output_tokens"].sum() / asked["asked"].sum()) if asked["asked"].any() else None,
        "partial": _total(rest["output_tokens"]) or 0,
        "source": ", ".join(sorted(map(str, requests["token_source"].dropna().unique()))) or None,
    }


def _total(values: pd.Series[Any]) -> int | None:
    known = values.dropna()
    return int(known.sum()) if len(known) else None
