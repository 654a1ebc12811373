"""summary.json: a run's figures, a level at a time, as plain JSON values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse import (
    frames,
    goodput,
    headroom,
    knee,
    lengths,
    load,
    offered,
    samples,
    slots,
    stats,
    steps,
    verdict,
    waits,
)
from loadtest.analyse.frames import BoolArray, FloatArray, Run
from loadtest.analyse.measured import Beside, beside
from loadtest.analyse.series import Series, series_of
from loadtest.analyse.slots import Slots
from loadtest.analyse.steps import Steps
from loadtest.records import SCHEMA, Outcome
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
    "prefill_tokens_per_s": lengths.NO_SPEED,
    "delivery_delay_s": "this server does not stamp its chunks",
    "server_itl_s": "this server does not stamp its chunks",
    "stall_s": "too few gaps between tokens were seen to tell a stall from a step",
}


@dataclass(frozen=True, slots=True)
class Analysis:
    """A run folder, read and summed up: what tables, charts and reports are made from."""

    run: Run  # its requests have slot_wait_s and batch_wait_s too
    slots: Slots
    steps: Steps
    summary: dict[str, Any]  # summary.json
    memory: Beside | None  # None where the run does not hold enough for an estimate, or nothing was measured


def analyse(
    path: Path, objectives: Sequence[Objective] = (), also: Callable[[Run, Slots, Steps], object] | None = None
) -> Analysis:
    """Read a run folder and work out its figures, goodput by `objectives` too; raise RunFolderError when it is not one.

    `also` is called when slots and steps are known, to begin what needs no more than those.
    """
    run = frames.load(path)
    run.trouble.extend(said for said in samples.read(run).trouble if said not in run.trouble)
    found = slots.estimate(run)
    run.requests["queue_wait_s"] = waits.told_wait(run)
    waited = waits.split(run, found)
    run.requests["slot_wait_s"], run.requests["batch_wait_s"] = waited.slot, waited.batch
    run.requests["wait_source"] = waited.source
    run.requests["unsplit_wait_s"] = np.where(np.isnan(waited.slot), run.column("queue_wait_s"), 0.0)
    run.requests["prefill_tokens_per_s"] = lengths.prefill_speed(run)
    measured = steps.measure(run, found)
    run.requests["stall_s"] = measured.stall_s
    if also is not None:
        also(run, found, measured)
    memory = beside(run, found)
    summary = summarise(run, found, measured, memory, objectives)
    return Analysis(run, found, measured, summary, None if isinstance(memory, str) else memory)


def summarise(
    run: Run, found: Slots, measured: Steps, memory: Beside | str, objectives: Sequence[Objective] = ()
) -> dict[str, Any]:
    """Return summary.json of a run whose requests carry their waits; seconds and per second, None for unknown.

    A figure that is None has its reason beside it, under the same name with `_reason`.
    """
    levels = [_level(run, level, objectives) for level in run.levels]
    facts = run.facts
    return {
        "schema": SCHEMA,
        "name": run.name,
        "driver": facts.get("driver"),
        "started": facts.get("started"),
        "state": facts.get("state"),
        "trouble": run.trouble,
        "simulated": run.simulated,
        "target": facts.get("target") or {},
        "server": facts.get("server") or {},
        "slots": found.to_dict(),
        **(
            {"step_law": measured.to_dict()}
            if measured.times
            else {"step_law": None, "step_law_reason": measured.law_reason}
        ),
        "knee": [_knee(series) for series in series_of(levels)],
        "lengths": [line.to_dict() for line in lengths.lines(run, levels)],
        **({"memory": None, "memory_reason": memory} if isinstance(memory, str) else {"memory": memory.to_dict()}),
        "verdict": verdict.worst([level["verdict"] for level in levels]),
        "levels": levels,
    }


def _level(run: Run, level: dict[str, Any], objectives: Sequence[Objective]) -> dict[str, Any]:
    index = level["index"]
    rows, good = run.measured(index), run.good(index)
    block = int(level.get("concurrency") or 1)
    judged, reasons = verdict.judge(run, level)
    described: dict[str, Any] = {}
    for name in PER_REQUEST:
        described |= _described(name, run.column(name)[good], block)
    if described["queue_wait_s"] is not None and described["slot_wait_s"] is None:
        described |= dict.fromkeys(("slot_wait_s_reason", "batch_wait_s_reason"), NO_LIMIT)
    for name, pooled in (("itl_s", run.itl), ("server_itl_s", run.server_itl), ("delivery_delay_s", run.delivery)):
        described |= _known(name, stats.describe_pooled(pooled, good, block=block))
    requests = run.requests[rows]
    stamps = verdict.stamps_of(run.requests[good])
    throughput = _throughput(run, index, block, closed=bool(level.get("concurrency")))
    return {
        "index": index,
        "label": level.get("label") or offered.level_of(level).label,
        **{key: level.get(key) for key in ("concurrency", "rate", "input_tokens", "output_tokens", "words")},
        **_offered(run, level),
        "requests": int(rows.sum()),
        "warmup_requests": int(((run.requests["level"] == index) & run.requests["warmup"]).sum()),
        "outcomes": {str(name): int(count) for name, count in requests["outcome"].value_counts().items()},
        **described,
        **_little(run, index),
        **({"cold_load": load.cold_load(run, index)} if load.is_cold(run) else {}),
        "wait_source": _commonest(run.requests["wait_source"][good]),
        **throughput,
        **_goodput(run, index, objectives, throughput["requests_per_s"]),
        "tokens": _tokens(run, rows, good),
        "peak_decoding": slots.peak_decoding(run, np.asarray(run.requests["level"] == index, dtype=np.bool_)),
        "client": {
            "lag_s": stats.describe(run.column("lag_s")[good], block=block),
            "schedule_lag_s": stats.describe(run.column("schedule_lag_s")[good], block=block),
            "cpu": verdict.client_cpu(run, index),
            "stamps": stamps,
            **headroom.used(run, index, stamps),
        },
        "verdict": judged,
        "reasons": reasons,
    }


def _described(name: str, values: FloatArray, block: int) -> dict[str, Any]:
    return _known(name, stats.describe(values, block=block))


def _known(name: str, described: stats.Described) -> dict[str, Any]:
    if described["n"]:
        return {name: described}
    return {name: None, f"{name}_reason": UNKNOWN.get(name, "no request of this level had one")}


def _goodput(run: Run, index: int, objectives: Sequence[Objective], rate: float | None) -> dict[str, Any]:
    """Return a level's goodput where objectives were given."""
    if not objectives:
        return {}
    found = goodput.goodput(run, index, objectives, requests_per_s=rate)
    if found is None:
        return {"goodput": None, "goodput_reason": "no objective is one that a single request can meet or miss here"}
    return {"goodput": found.to_dict()}


def _offered(run: Run, level: dict[str, Any]) -> dict[str, Any]:
    """Return what an open-loop level adds: rate_to, trace, requests due a second, and how many were shed."""
    if not offered.is_open(level):
        return {}
    index = level["index"]
    return {
        "rate_to": level.get("rate_to"),
        "trace": level.get("trace"),
        "offered_per_s": offered.per_second(run, index),
        "shed": offered.shed(run, index),
    }


def _little(run: Run, index: int) -> dict[str, Any]:
    found = knee.little(run, index)
    if found is None:
        return {"little": None, "little_reason": "no request ended in the steady window"}
    return {"little": found.to_dict()}


def _knee(series: Series) -> dict[str, Any]:
    found, reason = knee.knee(series.levels)
    return {"label": series.label, **(found.to_dict() if found else {"concurrency": None, "reason": reason})}


def _commonest(sources: pd.Series) -> str:
    """Return where most of a level's waits were learnt: "server", "inferred" or "unknown"."""
    return str(sources.mode().iloc[0]) if len(sources) else waits.UNKNOWN


def _throughput(run: Run, index: int, block: int, *, closed: bool) -> dict[str, Any]:
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
    rows = np.flatnonzero(counted)
    found = {"output_tokens_per_s": stats.token_throughput(run, counted, window, block=block, closed=closed)}
    for name, instants, weights in (
        ("input_tokens_per_s", run.column("first_token")[counted], run.column("prompt_tokens")[counted]),
        ("requests_per_s", end[counted], np.ones(len(rows))),
    ):
        known = np.isfinite(instants) & np.isfinite(weights)
        sends = send[rows[known]] if closed else None
        found[name] = (
            stats.throughput(instants[known], weights[known], window, block=block, requests=rows[known], sends=sends)
            if known.any()
            else None
        )
    figures: dict[str, Any] = {}
    for name, rate in found.items():
        figures[name] = rate.per_second if rate else None
        figures[f"{name}_ci95"] = rate.ci95 if rate else None
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
        "achieved": float(asked["output_tokens"].sum() / asked["asked"].sum()) if asked["asked"].any() else None,
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
