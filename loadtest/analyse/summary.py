"""summary.json: a run's figures, a level at a time, as plain JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.figures import client_capacity, goodput, knee, objectives, rates, stats
from loadtest.analyse.run import frames, groups, offered_load, samples
from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.groups import Group
from loadtest.analyse.run.series import Series, series_of
from loadtest.analyse.server import (
    cache,
    cache_replay,
    cold_load,
    energy,
    leavers,
    prompt_length,
    slots,
    steps,
    turns,
    waits,
)
from loadtest.analyse.server.cache import CacheUse
from loadtest.analyse.server.cache_replay import Replay
from loadtest.analyse.server.memory_parts import MemoryComparison, compare_memory
from loadtest.analyse.server.slots import Slots
from loadtest.analyse.server.steps import Steps
from loadtest.analyse.server.turns import Turns
from loadtest.analyse.verdict import verdict
from loadtest.records import NO_FAILURES, SCHEMA
from loadtest.slo import Objective
from loadtest.text import UNKNOWN, seconds

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
# Columns that are worked out for one model at one server.
INFERRED = (
    "queue_wait_s",
    "slot_wait_s",
    "batch_wait_s",
    "wait_source",
    "unsplit_wait_s",
    "prefill_tokens_per_s",
    "stall_s",
)
NO_DURATIONS = "this server does not say how long it loaded, waited or prefilled"
NO_LIMIT = (
    "more requests were in flight than were ever at work at once, and whether that is the slots' limit is not known"
)
SEVERAL = "requests went to several models or servers: `groups` has it for each"
WHY_UNKNOWN = {
    "queue_wait_s": NO_DURATIONS,
    "slot_wait_s": NO_DURATIONS,
    "batch_wait_s": NO_DURATIONS,
    "load_s": NO_DURATIONS,
    "prefill_s": NO_DURATIONS,
    "prefill_tokens_per_s": prompt_length.NO_SPEED,
    "delivery_delay_s": "this server does not stamp its chunks",
    "server_itl_s": "this server does not stamp its chunks",
    "stall_s": "too few gaps between tokens were seen to tell a stall from a step",
}
LENGTH_KEYS = ("input_lengths", "output_lengths", "system_tokens", "turns", "sessions")  # of a level that has them


@dataclass(frozen=True, slots=True)
class Analysis:
    """A run folder, read and summed up: what tables, charts and reports are made from."""

    run: RunData  # its requests have slot_wait_s and batch_wait_s too
    slots: Slots
    steps: Steps
    summary: dict[str, Any]  # summary.json
    memory: MemoryComparison | None  # None where the run does not hold enough for an estimate, or nothing was measured
    groups: tuple[tuple[Group, Analysis], ...] = ()  # of a run of several models or servers: what each shows by itself
    turns: tuple[Turns, ...] = ()  # what levels lost where models of one server were loaded in turn
    cache: CacheUse | None = None  # of conversations, and of servers that count cached tokens
    replayed: Replay | None = None  # of conversations, what slots alone would have kept of them


def analyse(
    path: Path, asked: Sequence[Objective] = (), also: Callable[[RunData, Slots, Steps], object] | None = None
) -> Analysis:
    """Read a run folder and work out its figures, and whether it meets what is `asked`; raise RunFolderError when it is none.

    A run of several models or servers is worked out for each of them by itself. `also` is called when slots and steps of
    a run of one are known, to begin what needs no more than those.
    """
    run = frames.load(path)
    machine = samples.read_machine(run)
    run.trouble.extend(said for said in machine.trouble if said not in run.trouble)
    parts = groups.groups_of(run)
    if parts:
        lost = turns.mark_turns(run, parts)
        found = _analysed_together(run, [(part, _analysed(part.run, asked, None, part)) for part in parts], lost)
    else:
        found = _analysed(run, asked, also)
    for one in (found, *(one for _, one in found.groups)):
        one.summary["hardware"] = list(machine.hardware)
    energy.add_energy(run, machine, found.summary)
    return found


def _analysed(
    run: RunData,
    asked: Sequence[Objective],
    also: Callable[[RunData, Slots, Steps], object] | None,
    group: Group | None = None,
) -> Analysis:
    """Work out what one model at one server shows."""
    found = slots.estimate_slots(run)
    if group is not None and group.shares_slots and found.limit:
        why = f"{found.method}; those may be slots that {', '.join(group.beside)} had to share, so they are no limit"
        found = dataclasses.replace(found, limit=False, method=why, witnesses=found.witnesses[:1])
    run.requests["queue_wait_s"] = waits.told_wait(run)
    waited = waits.split_waits(run, found)
    run.requests["slot_wait_s"], run.requests["batch_wait_s"] = waited.slot, waited.batch
    run.requests["wait_source"] = waited.source
    run.requests["unsplit_wait_s"] = np.where(np.isnan(waited.slot), run.column("queue_wait_s"), 0.0)
    run.requests["prefill_tokens_per_s"] = prompt_length.prefill_speed(run)
    if group is not None:
        run.requests.loc[run.requests["accompanied"], "prefill_tokens_per_s"] = np.nan
    measured = steps.measure_steps(run, found)
    if group is not None and group.beside:
        why = f"{', '.join(group.beside)} loaded the same server meanwhile, so no prompt had it to itself"
        measured = dataclasses.replace(measured, prefill=None, prefill_reason=why)
    run.requests["stall_s"] = measured.stall_s
    if also is not None:
        also(run, found, measured)
    memory = compare_memory(run, found)
    cached = cache.measure_cache(run, found, measured)
    replayed = None if cached is None else cache_replay.replay(run, found, cached)
    summary = summarise(run, found, measured, memory, asked, cached)
    if group is not None:
        summary = {"group": group.name, **summary}
    return Analysis(
        run, found, measured, summary, None if isinstance(memory, str) else memory, cache=cached, replayed=replayed
    )


def _analysed_together(run: RunData, parts: Sequence[tuple[Group, Analysis]], lost: Sequence[Turns]) -> Analysis:
    """Put the parts of a run side by side: what is inferred stays theirs, counts are of the whole run."""
    for name in INFERRED:
        known = np.empty(len(run.requests), dtype=object)
        for group, one in parts:
            known[group.rows] = one.run.requests[name].to_numpy()
        run.requests[name] = known if name == "wait_source" else known.astype(np.float64)
    nothing = Steps(
        times=(),
        law=None,
        law_reason=SEVERAL,
        slope_s=None,
        prefill=None,
        prefill_reason=SEVERAL,
        interference_s=None,
        interference_reason=SEVERAL,
        stall_s=run.column("stall_s"),
        handling_s=0.0,
        handover_s=0.0,
        neighbours=None,
    )
    summary = _of_all(run, parts, lost)
    return Analysis(run, Slots(None, limit=False, method=SEVERAL), nothing, summary, None, tuple(parts), tuple(lost))


def _of_all(run: RunData, parts: Sequence[tuple[Group, Analysis]], lost: Sequence[Turns]) -> dict[str, Any]:
    """Return summary.json of a run of several models or servers: its levels are rows by group and level."""
    own = ("slots", "step_law", "step_law_reason", "knee", "lengths", "memory", "memory_reason", "verdict", "levels")
    summaries = [one.summary for _, one in parts]
    levels = [level for summary in summaries for level in summary["levels"]]
    targets, servers = ([summary[key] for summary in summaries] for key in ("target", "server"))
    return {
        "schema": SCHEMA,
        "name": run.name,
        "driver": run.facts.get("driver"),
        "started": run.facts.get("started"),
        "state": run.facts.get("state"),
        "trouble": run.trouble,
        "simulated": next((found for summary in summaries if (found := summary["simulated"])), None),
        "target": _same_for_all(targets),
        "server": _same_for_all(servers),
        **{key: value for name in ("slots", "step_law", "memory") for key, value in _unpooled(name)},
        "knee": [],
        "lengths": [],
        "requests": sum(level["requests"] for level in levels),
        "outcomes": groups.outcome_counts(run),
        "verdict": verdict.of_run(run, levels),
        "turns": [one.to_dict() for one in lost],
        "groups": [
            {**group.to_dict(), **{key: one.summary[key] for key in ("target", "server", *own) if key in one.summary}}
            for group, one in parts
        ],
        "levels": levels,
    }


def _unpooled(name: str) -> list[tuple[str, str | None]]:
    return [(name, None), (f"{name}_reason", SEVERAL)]


def _same_for_all(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what is the same for all groups."""
    return {key: value for key, value in facts[0].items() if all(other.get(key) == value for other in facts[1:])}


def summarise(
    run: RunData,
    found: Slots,
    measured: Steps,
    memory: MemoryComparison | str,
    asked: Sequence[Objective] = (),
    cached: CacheUse | None = None,
) -> dict[str, Any]:
    """Return summary.json of a run whose requests carry their waits; seconds and per second, None for unknown.

    A figure that is None has its reason beside it, under the same name with `_reason`.
    """
    levels = [_level_summary(run, level, found, asked, cached) for level in run.levels]
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
        "knee": [_knee_of(series) for series in series_of(levels)],
        "lengths": [line.to_dict() for line in prompt_length.prompt_length_series(run, levels)],
        **({"memory": None, "memory_reason": memory} if isinstance(memory, str) else {"memory": memory.to_dict()}),
        "verdict": verdict.of_run(run, levels),
        **({"find_max": facts["find_max"]} if facts.get("find_max") else {}),
        "levels": levels,
    }


def _level_summary(
    run: RunData, level: dict[str, Any], found_slots: Slots, asked: Sequence[Objective], cached: CacheUse | None
) -> dict[str, Any]:
    index = level["index"]
    rows, good = run.measured(index), run.good(index)
    block = int(level.get("concurrency") or 1)
    judged = verdict.judge(run, level)
    described: dict[str, Any] = {}
    for name in PER_REQUEST:
        described |= _described_figure(name, run.column(name)[good], block)
    if run.left(index).any():
        described |= _waits_with_left(run, index, block)
    if described["queue_wait_s"] is not None and described["slot_wait_s"] is None:
        described |= dict.fromkeys(("slot_wait_s_reason", "batch_wait_s_reason"), NO_LIMIT)
    for name, pooled in (("itl_s", run.itl), ("server_itl_s", run.server_itl), ("delivery_delay_s", run.delivery)):
        described |= _figure_or_reason(name, stats.describe_pooled(pooled, good, block=block))
    requests = run.requests[rows]
    stamps = verdict.stamps_of(run.requests[good])
    flow = rates.flow(run, level)
    throughput = rates.summed_up(run, flow, good)
    found: dict[str, Any] = {
        "index": index,
        "label": offered_load.label(level, run.column("prompt_tokens")[good]),
        **{key: level[key] for key in ("model", "url", "beside") if key in level},
        **{key: level.get(key) for key in ("concurrency", "rate", "input_tokens", "output_tokens", "words")},
        **{key: level[key] for key in LENGTH_KEYS if level.get(key)},
        **_offered(run, level),
        "requests": int(rows.sum()),
        "warmup_requests": int(((run.requests["level"] == index) & run.requests["warmup"]).sum()),
        "outcomes": {str(name): int(count) for name, count in requests["outcome"].value_counts().items()},
        **described,
        **leavers.summed_up(run, index, found_slots),
        **_little_of(run, index, flow),
        **({"cold_load": cold_load.cold_load(run, index)} if cold_load.is_cold(run) else {}),
        "wait_source": _commonest_source(run.requests["wait_source"][good]),
        **throughput,
        **_goodput_of(run, index, asked, throughput["requests_per_s"], flow),
        "tokens": _token_totals(run, rows, good),
        **(cache.level_cache(run, cached, good) if cached is not None else {}),
        "peak_decoding": slots.peak_decoding(run, np.asarray(run.requests["level"] == index, dtype=np.bool_)),
        "client": {
            "lag_s": stats.describe_values(run.column("lag_s")[good], block=block),
            "schedule_lag_s": stats.describe_values(run.column("schedule_lag_s")[good], block=block),
            "cpu": verdict.client_cpu(run, index),
            "stamps": stamps,
            **client_capacity.used(run, index, stamps),
        },
        "verdict": judged.verdict,
        "reasons": [doubt.reason for _, doubt in judged.doubts],
        "causes": [{"cause": cause, "verdict": doubt.severity} for cause, doubt in judged.doubts],
    }
    if asked:
        found["objectives"] = [each.to_dict() for each in objectives.held_against_requests(run, found, asked)]
    return found


def _described_figure(name: str, values: FloatArray, block: int) -> dict[str, Any]:
    return _figure_or_reason(name, stats.describe_values(values, block=block))


def _waits_with_left(run: RunData, index: int, block: int) -> dict[str, Any]:
    """Return TTFT where users hung up: who left before the first token waited at least so long."""
    left, seen = run.left(index), np.isfinite(run.column("first_token"))
    rows = run.good(index) | left
    found: dict[str, Any] = {}
    for name, since in (("ttft_s", "send"), ("ttft_sched_s", "sched")):
        waited = run.column("end") - run.column(since)
        said = stats.describe_waits(run.column(name)[rows], (left & ~seen)[rows], waited[rows], block=block)
        found |= _figure_or_reason(name, said)
    return found


def _figure_or_reason(name: str, described: Mapping[str, Any]) -> dict[str, Any]:
    if described["n"]:
        return {name: described}
    return {name: None, f"{name}_reason": WHY_UNKNOWN.get(name, "no request of this level had one")}


def _goodput_of(
    run: RunData, index: int, asked: Sequence[Objective], rate: float | None, flow: rates.Flow | None
) -> dict[str, Any]:
    """Return a level's goodput where something is asked of it."""
    if not asked:
        return {}
    found = goodput.goodput(run, index, asked, requests_per_s=rate, flow=flow)
    if found is None:
        return {"goodput": None, "goodput_reason": "no objective is one that a single request can meet or miss here"}
    return {"goodput": found.to_dict()}


def _offered(run: RunData, level: dict[str, Any]) -> dict[str, Any]:
    """Return what an open-loop level adds: rate_to, trace, requests due a second, and how many were shed."""
    if not offered_load.is_open(level):
        return {}
    index = level["index"]
    return {
        "rate_to": level.get("rate_to"),
        "trace": level.get("trace"),
        "offered_per_s": offered_load.per_second(run, index),
        "shed": offered_load.shed_requests(run, index),
    }


def _little_of(run: RunData, index: int, flow: rates.Flow | None) -> dict[str, Any]:
    found = knee.little(run, index, flow)
    if found is None:
        return {"little": None, "little_reason": "no request ended in the steady window"}
    return {"little": found.to_dict()}


def _knee_of(series: Series) -> dict[str, Any]:
    found, reason = knee.knee(series.levels)
    return {"label": series.label, **(found.to_dict() if found else {"concurrency": None, "reason": reason})}


def _commonest_source(sources: pd.Series) -> str:
    """Return where most of a level's waits were learnt: "server", "inferred" or "unknown"."""
    return str(sources.mode().iloc[0]) if len(sources) else waits.UNKNOWN


def _token_totals(run: RunData, rows: BoolArray, good: BoolArray) -> dict[str, Any]:
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


def has_tokens(*levels: dict[str, Any]) -> bool:
    """Return whether levels of a summary have answers of text, as all have but embeddings: of those E2E is known, no TTFT."""
    known = any(level.get("e2e_s") is not None for level in levels)
    return not known or any(level.get("ttft_s") is not None for level in levels)


def failed(level: dict[str, Any]) -> int:
    """Return how many requests of a summary's level failed; those that we stopped did not."""
    outcomes: dict[str, int] = level["outcomes"]
    return sum(count for name, count in outcomes.items() if name not in NO_FAILURES)


def wait_in_words(level: dict[str, Any], name: str, part: str) -> str:
    """Return a wait of a level for people: "> 10 s" where users left before its end."""
    value, described = figure(level, name, part), level.get(name) or {}
    if value is None:
        return UNKNOWN
    return ("> " if part in described.get("at_least", ()) else "") + seconds(value)


def mean_ttft(level: dict[str, Any]) -> float | None:
    """Return the mean TTFT of those who waited for it, whom waits are known of too."""
    described = level.get("ttft_s") or {}
    mean: float | None = described.get("mean_stayed", described.get("mean"))
    return mean


def figure(level: dict[str, Any], name: str, part: str = "mean") -> float | None:
    """Return one figure of a level, None where it is unknown."""
    described = level.get(name)
    value: float | None = described.get(part) if described else None
    return value
