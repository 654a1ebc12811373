"""summary.json: a run's figures, a level at a time, as plain JSON values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.analyse import frames, slots, stats, verdict, waits
from loadtest.analyse.frames import BoolArray, FloatArray, Run
from loadtest.analyse.slots import Slots
from loadtest.records import SCHEMA, Outcome
from loadtest.scenario import Level

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
)
NO_DURATIONS = "this server does not say how long it loaded, waited or prefilled"
NO_LIMIT = (
    "more requests were in flight than were ever at work at once, and whether that is the slots' limit is not known"
)
UNKNOWN = {
    "queue_wait_s": NO_DURATIONS,
    "slot_wait_s": NO_DURATIONS,
    "batch_wait_s": NO_DURATIONS,
    "load_s": NO_DURATIONS,
    "prefill_s": NO_DURATIONS,
    "delivery_delay_s": "this server does not stamp its chunks",
    "server_itl_s": "this server does not stamp its chunks",
}
NO_STEPS = "step times by number of streams decoding are not worked out yet"


@dataclass(frozen=True, slots=True)
class Analysis:
    """A run folder, read and summed up: what tables, charts and reports are made from."""

    run: Run  # its requests have slot_wait_s and batch_wait_s too
    slots: Slots
    summary: dict[str, Any]  # summary.json


def analyse(path: Path) -> Analysis:
    """Read a run folder and work out its figures; raise RunFolderError when it is not one."""
    run = frames.load(path)
    found = slots.estimate(run)
    slot, batch = waits.split(run, found)
    run.requests["slot_wait_s"], run.requests["batch_wait_s"] = slot, batch
    run.requests["unsplit_wait_s"] = np.where(np.isnan(slot), run.column("queue_wait_s"), 0.0)
    return Analysis(run, found, summarise(run, found))


def summarise(run: Run, found: Slots) -> dict[str, Any]:
    """Return summary.json of a run whose requests carry their waits; seconds and per second, None for unknown.

    A figure that is None has its reason beside it, under the same name with `_reason`.
    """
    levels = [_level(run, level) for level in run.levels]
    facts = run.facts
    return {
        "schema": SCHEMA,
        "name": run.name,
        "driver": facts.get("driver"),
        "started": facts.get("started"),
        "state": facts.get("state"),
        "simulated": run.simulated,
        "target": facts.get("target") or {},
        "server": facts.get("server") or {},
        "slots": found.to_dict(),
        "step_law": None,
        "step_law_reason": NO_STEPS,
        "verdict": verdict.worst([level["verdict"] for level in levels]),
        "levels": levels,
    }


def _level(run: Run, level: dict[str, Any]) -> dict[str, Any]:
    index = level["index"]
    rows, good = run.measured(index), run.good(index)
    block = int(level.get("concurrency") or 1)
    judged, reasons = verdict.judge(run, level)
    described: dict[str, Any] = {}
    for name in PER_REQUEST:
        described |= _described(name, run.column(name)[good], block)
    if described["queue_wait_s"] is not None and described["slot_wait_s"] is None:
        described |= dict.fromkeys(("slot_wait_s_reason", "batch_wait_s_reason"), NO_LIMIT)
    described |= _described("itl_s", run.itl.of(good), block)
    described |= _described("server_itl_s", run.server_itl.of(good), block)
    described |= _described("delivery_delay_s", run.delivery.of(good), block)
    requests = run.requests[rows]
    return {
        "index": index,
        "label": level.get("label") or _label(level),
        **{key: level.get(key) for key in ("concurrency", "rate", "input_tokens", "output_tokens", "words")},
        "requests": int(rows.sum()),
        "warmup_requests": int(((run.requests["level"] == index) & run.requests["warmup"]).sum()),
        "outcomes": {str(name): int(count) for name, count in requests["outcome"].value_counts().items()},
        **described,
        "stall_s": None,
        "stall_s_reason": NO_STEPS,
        **_throughput(run, index),
        "tokens": _tokens(run, rows, good),
        "peak_decoding": slots.peak_decoding(run, np.asarray(run.requests["level"] == index, dtype=np.bool_)),
        "client": {
            "lag_s": stats.describe(run.column("lag_s")[good], block=block),
            "schedule_lag_s": stats.describe(run.column("schedule_lag_s")[good], block=block),
            "cpu": verdict.client_cpu(run, index),
            "stamps": verdict.stamps_of(run.requests[good]),
        },
        "verdict": judged,
        "reasons": reasons,
    }


def _described(name: str, values: FloatArray, block: int) -> dict[str, Any]:
    described = stats.describe(values, block=block)
    if described["n"]:
        return {name: described}
    return {name: None, f"{name}_reason": UNKNOWN.get(name, "no request of this level had one")}


def _label(level: dict[str, Any]) -> str:
    return Level(
        index=level["index"],
        concurrency=level.get("concurrency") or 0,
        input_tokens=level.get("input_tokens"),
        output_tokens=level.get("output_tokens"),
        words=level.get("words"),
        requests=0,
    ).label


def _throughput(run: Run, index: int) -> dict[str, Any]:
    """Return tokens and requests a second, and the window that they are taken over.

    Tokens count where they arrived: output tokens at their chunks (an answer's tokens spread evenly over its chunks),
    a prompt's at its first token, a request at its end. In the steady window the streams still on their warm-up answer
    load the server as well, so theirs count too.
    """
    names = ("output_tokens_per_s", "input_tokens_per_s", "requests_per_s")
    everyone = np.asarray(run.requests["level"] == index, dtype=np.bool_) & np.isfinite(run.column("send"))
    good = run.good(index)
    if not good.any():
        reason = "no request of this level ended well"
        return {"window": None} | dict.fromkeys(names) | {f"{name}_reason": reason for name in names}
    send, end = run.column("send"), run.column("end")
    window = stats.steady_window(send[everyone], end[everyone], float(send[run.measured(index) & everyone].min()))
    counted = good
    if window.steady:
        counted = everyone & np.asarray(run.requests["ok"], dtype=np.bool_)
    chunk_rows = run.chunks.owner
    mine = counted[chunk_rows]
    arrivals = send[chunk_rows[mine]] + run.chunks.flat[mine] * frames.US
    a_chunk = run.column("output_tokens") / np.maximum(run.chunks.counts, 1)
    figures: dict[str, Any] = {}
    for name, instants, weights in (
        ("output_tokens_per_s", arrivals, a_chunk[chunk_rows[mine]]),
        ("input_tokens_per_s", run.column("first_token")[counted], run.column("prompt_tokens")[counted]),
        ("requests_per_s", end[counted], np.ones(int(counted.sum()))),
    ):
        known = np.isfinite(instants) & np.isfinite(weights)
        found = stats.throughput(instants[known], weights[known], window) if known.any() else None
        figures[name] = found.per_second if found else None
        figures[f"{name}_ci95"] = found.ci95 if found else None
    over = "steady window" if window.steady else "whole level"
    return {"window": {"start": window.start, "end": window.end, "throughput_over": over}, **figures}


def _tokens(run: Run, rows: BoolArray, good: BoolArray) -> dict[str, Any]:
    requests = run.requests[good]
    rest = run.requests[rows & ~good]
    asked = requests[["asked", "output_tokens"]].dropna()
    sources = requests["token_source"].dropna().unique()
    return {
        "prompt": _total(requests["prompt_tokens"].to_numpy(dtype=np.float64)),
        "output": _total(requests["output_tokens"].to_numpy(dtype=np.float64)),
        "asked": _total(asked["asked"].to_numpy(dtype=np.float64)),
        "achieved": float(asked["output_tokens"].sum() / asked["asked"].sum()) if len(asked) else None,
        "partial": _total(rest["output_tokens"].to_numpy(dtype=np.float64)) or 0,
        "source": ", ".join(sorted(str(source) for source in sources)) or None,
    }


def _total(values: FloatArray) -> int | None:
    known = values[np.isfinite(values)]
    return int(known.sum()) if len(known) else None


def failed(level: dict[str, Any]) -> int:
    """Return how many requests of a summary's level failed; those that we stopped did not."""
    outcomes: dict[str, int] = level["outcomes"]
    return sum(count for name, count in outcomes.items() if name not in (Outcome.OK, Outcome.CANCELLED))
