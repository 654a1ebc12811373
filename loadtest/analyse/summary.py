"""summary.json: a run's figures, a level at a time, as plain JSON values."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.analyse.figures import knee
from loadtest.analyse.level_summary import level_summary, or_reason, outcome_counts
from loadtest.analyse.run import LevelData, RunData, Series, believed, frames, groups, has_tokens, series_of
from loadtest.analyse.run.groups import Group
from loadtest.analyse.run.request_columns import INFERRED_COLUMNS
from loadtest.analyse.server import alternating_models, energy, prompt_length
from loadtest.analyse.server.alternating_models import AlternatingModels
from loadtest.analyse.server.model_memory.memory_comparison import MemoryComparison, compare_memory
from loadtest.analyse.server.prompt_cache import cache, cache_replay
from loadtest.analyse.server.prompt_cache.cache import CacheUse
from loadtest.analyse.server.prompt_cache.cache_replay import CacheReplay
from loadtest.analyse.server.queue import slots, waits
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing import steps
from loadtest.analyse.server.timing.pace import LEAST_CHANGE
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.verdict import verdict
from loadtest.analyse.whatif.model.fit import PredictedCurve, predicted_curve
from loadtest.errors import PredictionError, ScenarioError
from loadtest.records import SCHEMA
from loadtest.slo import Objective, parse_objectives

SEE_GROUPS = "requests went to several models or servers: `groups` has it for each"


@dataclass(frozen=True)  # no slots: the curve is predicted once, and kept
class Analysis:
    """A run folder, read and summed up: what tables, charts and reports are made from."""

    run: RunData  # its requests have slot_wait_s and batch_wait_s too
    slots: Slots
    steps: Steps
    summary: dict[str, Any]  # summary.json
    memory: MemoryComparison | None  # None where the run does not hold enough for an estimate, or nothing was measured
    groups: tuple[tuple[Group, Analysis], ...] = ()  # of a run of several models or servers: what each shows by itself
    alternating: tuple[AlternatingModels, ...] = ()  # what levels lost where models of one server were loaded in turn
    cache: CacheUse | None = None  # of conversations, and of servers that count cached tokens
    replayed: CacheReplay | None = None  # of conversations, what slots alone would have kept of them

    @property
    def levels(self) -> list[LevelData]:
        """Those of the summary, in the order in which they were measured."""
        found: list[LevelData] = self.summary["levels"]
        return found

    @property
    def believed(self) -> list[LevelData]:
        """The levels that are not void: those whose figures may be quoted."""
        return believed(self.levels)

    @property
    def known_slots(self) -> Slots:
        """The slots as the run shows them, or else as the server says or a probe before the run found them."""
        return slots.known_slots(self.run, self.slots)

    @property
    def believed_slots(self) -> Slots:
        """The slots as far as levels that are not void show them: a lower bound where only void ones show the limit."""
        found, good = self.slots, self.believed
        if found.estimate is None or len(good) == len(self.levels):
            return found
        if not good:
            return Slots(None, limit=False, method=found.method)
        seen = max(int(level["peak_decoding"]) for level in good)
        loaded = any(not level.is_closed or level["concurrency"] > found.estimate for level in good)
        if found.limit and loaded and seen >= found.estimate:
            return found
        return Slots(min(seen, found.estimate), limit=False, method=found.method, unknown=found.unknown)

    @property
    def series(self) -> list[Series]:
        return series_of(self.levels)

    @cached_property
    def curve(self) -> PredictedCurve | None:
        """What the run's model predicts over concurrency; None where others loaded the server, or it says too little.

        It rests on no request of a void level.
        """
        if self.groups or not has_tokens(*self.levels) or any(level.get("beside") for level in self.levels):
            return None
        some_void = "group" not in self.summary and 0 < len(self.believed) < len(self.levels)
        basis = without_void(self) if some_void else self
        return predicted_curve(basis.run, basis.slots, basis.steps, self.levels)


def analyse(path: Path, asked: Sequence[Objective] | None = ()) -> Analysis:
    """Read a run folder and work out its figures, and whether it meets what is `asked`; raise RunFolderError where it holds no run.

    Where `asked` is None, the run is held against the objectives that it was started with. A run of several models or servers
    is worked out for each of them by itself.
    """
    run = frames.load(path)
    objectives = _objectives_of(run) if asked is None else asked
    parts = groups.groups_of(run)
    if parts:
        alternating = alternating_models.mark_model_loads(run, parts)
        analyses = [_analyse_part(part.run, objectives, part, models_alternate=bool(alternating)) for part in parts]
        analysis = _analysis_of_groups(run, [*zip(parts, analyses, strict=True)], alternating)
    else:
        analysis = _analyse_part(run, objectives)
    for each in (analysis, *(part for _, part in analysis.groups)):
        each.summary["hardware"] = list(run.machine.hardware)
    energy.add_energy(run, analysis.summary)
    return analysis


def _objectives_of(run: RunData) -> Sequence[Objective]:
    """Return the objectives that `loadtest run --slo` kept in run.json; none where it has none, or none that can be read."""
    slo = run.fact("asked", "slo")
    with contextlib.suppress(ScenarioError):
        return parse_objectives(slo) if isinstance(slo, str) else ()
    return ()


def without_void(analysis: Analysis) -> Analysis:
    """Return what a run of one model shows without its void levels; raise PredictionError where none is left.

    What is inferred of the server then rests on no request of a void level.
    """
    void = {level["index"] for level in analysis.levels if level.is_void}
    if not void:
        return analysis
    if len(void) == len(analysis.levels):
        raise PredictionError(
            f"No prediction: every level of {analysis.run.path} is void; measure again, and see the report for why."
        )
    return _analyse_part(analysis.run.without_levels(void), ())


def _analyse_part(
    run: RunData, objectives: Sequence[Objective], group: Group | None = None, *, models_alternate: bool = False
) -> Analysis:
    """Work out what one model at one server shows; `models_alternate`: those of one server were loaded in turn."""
    slots_found = slots.estimate_slots(run)
    # Only Ollama is known to give each model slots of its own, and two names of one file are one model to it.
    own = (
        group is None
        or not group.beside
        or (run.fact("server", "kind") == "ollama" and (models_alternate or _all_loaded(run, group)))
    )
    if group is not None and not own and slots_found.limit:
        why = f"{slots_found.method}; those may be slots that {', '.join(group.beside)} had to share, so they are no limit"
        slots_found = replace(slots_found, limit=False, method=why, witnesses=slots_found.witnesses[:1])
    waited = waits.split_waits(run, slots.known_slots(run, slots_found) if own else slots_found)
    run.requests["queue_wait_s"], run.requests["wait_source"] = waited.queue, waited.source
    run.requests["slot_wait_s"], run.requests["batch_wait_s"] = waited.slot, waited.batch
    rest = np.where(np.isfinite(waited.queue) & np.isnan(waited.batch), waited.queue - waited.slot, 0.0)
    run.requests["unsplit_wait_s"] = np.where(np.isnan(waited.slot), waited.queue, rest)
    run.requests["prefill_tokens_per_s"] = prompt_length.prefill_speed(run)
    if group is not None:
        run.requests.loc[run.requests["accompanied"], "prefill_tokens_per_s"] = np.nan
    steps_found = steps.measure_steps(run, slots_found)
    if group is not None and group.beside:
        why = f"{', '.join(group.beside)} loaded the same server meanwhile, so no prompt had it to itself"
        steps_found = replace(steps_found, prefill=None, prefill_reason=why)
    run.requests["stall_s"] = steps_found.stall_s
    memory = compare_memory(run, slots_found)
    cached = cache.measure_cache(run, slots_found, steps_found)
    replayed = None if cached is None else cache_replay.replay(run, slots_found, cached)
    summary = summarise(run, slots_found, steps_found, memory, objectives, cached)
    if group is not None:
        summary = {"group": group.name, **summary}
    compared = None if isinstance(memory, str) else memory
    return Analysis(run, slots_found, steps_found, summary, compared, cache=cached, replayed=replayed)


def _all_loaded(run: RunData, group: Group) -> bool:
    """Whether Ollama listed every model of this server as loaded at the end, or none, which tells nothing (--keep-alive 0)."""
    ends = [one.get("server_at_end") for one in run.facts.get("targets") or [] if one.get("url") == group.url]
    return all(ends) or not any(ends)


def _analysis_of_groups(
    run: RunData, parts: Sequence[tuple[Group, Analysis]], alternating: Sequence[AlternatingModels]
) -> Analysis:
    """Put the parts of a run side by side: what is inferred stays theirs, counts are of the whole run."""
    for name in ("queue_wait_s", *INFERRED_COLUMNS):
        known = np.empty(len(run.requests), dtype=object)
        for group, analysis in parts:
            known[group.rows] = analysis.run.requests[name].to_numpy()
        run.requests[name] = known if name == "wait_source" else known.astype(np.float64)
    nothing = Steps(
        law_reason=SEE_GROUPS,
        prefill_reason=SEE_GROUPS,
        interference_reason=SEE_GROUPS,
        stall_s=run.column("stall_s"),
    )
    summary = _summary_of_groups(run, parts, alternating)
    return Analysis(
        run, Slots(None, limit=False, method=SEE_GROUPS), nothing, summary, None, tuple(parts), tuple(alternating)
    )


def _summary_of_groups(
    run: RunData, parts: Sequence[tuple[Group, Analysis]], alternating: Sequence[AlternatingModels]
) -> dict[str, Any]:
    """Return summary.json of a run of several models or servers: its levels are rows by group and level."""
    own = ("slots", "step_law", "step_law_reason", "knee", "lengths", "memory", "memory_reason", "verdict", "levels")
    summaries = [analysis.summary for _, analysis in parts]
    levels = [level for summary in summaries for level in summary["levels"]]
    targets, servers = ([summary[key] for summary in summaries] for key in ("target", "server"))
    return {
        **_run_header(run),
        "simulated": next((found for summary in summaries if (found := summary["simulated"])), None),
        "target": _same_for_all(targets),
        "server": _same_for_all(servers),
        "slots": None,
        "slots_reason": SEE_GROUPS,
        "step_law": None,
        "step_law_reason": SEE_GROUPS,
        "memory": None,
        "memory_reason": SEE_GROUPS,
        "knee": [],
        "lengths": [],
        "requests": sum(level["requests"] for level in levels),
        "outcomes": outcome_counts(run.requests[~run.flag("warmup")]),
        "verdict": verdict.of_run(run, levels),
        "turns": [one.to_dict() for one in alternating],
        "groups": [
            {
                **group.to_dict(),
                **{key: analysis.summary[key] for key in ("target", "server", *own) if key in analysis.summary},
            }
            for group, analysis in parts
        ],
        "levels": levels,
    }


def _run_header(run: RunData) -> dict[str, Any]:
    said = {key: run.facts.get(key) for key in ("driver", "started", "state")}
    return {"schema": SCHEMA, "name": run.name, **said, "trouble": run.trouble}


def _same_for_all(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in facts[0].items() if all(other.get(key) == value for other in facts[1:])}


def summarise(
    run: RunData,
    slots_found: Slots,
    steps_found: Steps,
    memory: MemoryComparison | str,
    objectives: Sequence[Objective],
    cached: CacheUse | None,
) -> dict[str, Any]:
    """Return summary.json of a run whose requests carry their waits; seconds and per second, None for unknown.

    A figure that is None has its reason beside it, under the same name with `_reason`.
    """
    levels = [level_summary(run, level, slots_found, objectives, cached) for level in run.levels]
    for level in levels:
        level["pace"] = None if steps_found.apart else steps_found.paces.get(level["index"])
    facts = run.facts
    if facts.get("find_max"):  # a search goes up and down
        levels.sort(key=lambda level: level.amount)
    return {
        **_run_header(run),
        "simulated": run.simulated,
        "target": facts.get("target") or {},
        "server": facts.get("server") or {},
        "slots": slots_found.to_dict(),
        **or_reason("step_law", steps_found.to_dict() if steps_found.times else None, steps_found.law_reason),
        "knee": [_knee_of(series) for series in series_of(levels)],
        "lengths": [line.to_dict() for line in prompt_length.prompt_length_series(run, levels)],
        **(or_reason("memory", None, memory) if isinstance(memory, str) else {"memory": memory.to_dict()}),
        "verdict": verdict.of_run(run, levels),
        **({"find_max": facts["find_max"]} if facts.get("find_max") else {}),
        "levels": levels,
    }


def pace_changed(levels: Sequence[LevelData]) -> bool:
    """Whether the same steps took longer in some of these levels of summary.json than in others."""
    paces = [level["pace"] for level in levels if level.get("pace")]
    return bool(paces) and max(paces) > LEAST_CHANGE * min(paces)


def believed_knee(series: Series) -> tuple[knee.Knee | None, str | None]:
    """Return the knee of the levels that are not void, with the void ones that leave it open; or None and the reason."""
    if pace_changed(series.believed):
        return None, "the server's pace changed between these levels: measure again"
    return knee.knee(series.believed, series.void)


def _knee_of(series: Series) -> dict[str, Any]:
    found, reason = believed_knee(series)
    return {"label": series.label, **(found.to_dict() if found else {"concurrency": None, "reason": reason})}
