"""Advice on the number of parallel slots: predictions by slots and load, the number to choose, and what else would help."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.server.model_memory.by_slots import MemoryBySlots
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing.prefill_law import pairs
from loadtest.analyse.whatif.advice.sustainable_load import SustainableLoad, meets, sustainable_load
from loadtest.analyse.whatif.model import self_check
from loadtest.analyse.whatif.model.extrapolation import allowing_for_growth
from loadtest.analyse.whatif.model.fit import ClosedLoopSeries
from loadtest.analyse.whatif.model.lengths import with_spread_lengths
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.model.prediction import Prediction
from loadtest.errors import PredictionError
from loadtest.slo import Objective
from loadtest.text import counted

TRIED_SLOTS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_SHOWN_LOADS = 6
# Of the best throughput, without objectives; and of what others would gain, for slots to stay as they are.
NEAR_BEST_SHARE = 0.95
TRUSTED_MULTIPLE = 2  # times the streams measured; a prediction beyond it is to be tried first
AT_WORK_SHARE = 0.9  # of the users; if so many were at work at once, nobody is taken to have waited for a slot
KNOBS = {"ollama": "OLLAMA_NUM_PARALLEL", "llama.cpp": "--parallel", "vllm": "--max-num-seqs"}
# by which settings are ranked where the user names no objective
DEFAULT_OBJECTIVE = Objective("ttft_p95", "ttft_s", "p95", math.inf, at_most=True, words="TTFT p95")
THROUGHPUT = Objective(
    "output_tokens_per_s", "output_tokens_per_s", "mean", 0.0, at_most=False, words="output tokens/s"
)


@dataclass(frozen=True, slots=True)
class Lever:
    """A change of the load or the server other than its slots, and what the model predicts for it."""

    name: str
    means: str  # what the prediction assumes
    prediction: Prediction
    gain: float  # share by which the objective's figure improves; negative: it gets worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    model: ServerModel
    label: str
    knob: str  # what the server calls its slots
    measured: tuple[int, ...]  # concurrencies of the run
    loads: tuple[int, ...]
    slots: tuple[int, ...]
    cells: dict[tuple[int, int], Prediction]  # by (slots, load)
    objectives: tuple[Objective, ...]
    memory: MemoryBySlots | str | None  # a text says why it is unknown; None: it was not asked for
    gpu_bytes: float | None
    best: int | None = None  # no number of slots fits the memory, or the run never reached the slots' limit
    levers: tuple[Lever, ...] = ()  # the most helpful first
    ranked_by: Objective = DEFAULT_OBJECTIVE
    capacities: tuple[SustainableLoad, ...] = ()  # as measured, then with the best slots; empty without objectives
    predicted_now: Prediction  # at `load`: changes are compared with it, so that the model's error cancels
    promised: dict[int, Prediction] = dataclasses.field(default_factory=dict)  # by measured load, with `trial` slots
    equal_answers: bool = False  # whether all answers of the run had one length; cells then rest on varied ones
    void: tuple[str, ...] = ()  # labels of levels that the run has and that are left out here
    at_once: int | None = None  # the most streams that decoded at once; None: unknown

    @property
    def load(self) -> int:
        """The concurrency that the advice is for: the highest measured one."""
        return self.measured[-1]

    @property
    def people(self) -> bool:
        """Whether the users hold conversations, and think: so many of them are fewer streams."""
        return self.model.sessions is not None

    def users(self, count: int) -> str:
        return _users(self.model, count)

    @property
    def now(self) -> int | None:
        """The slots as measured; None where the run never reached their limit."""
        return self.model.slots

    @property
    def trial(self) -> int | None:
        """The slots to set next: the best, or the most within `furthest` where the best lies beyond; None for none."""
        if self.best is None or self.best <= self.furthest or self.best == self.now:
            return self.best
        return max((each for each in self.slots if each <= self.furthest), default=self.now)

    @property
    def surely_better(self) -> bool:
        """Whether the band of what is promised leaves out what was measured: of the figure that is ranked by.

        Nothing is sure where levels do not show how much the server's pace changes: the `pace_error` is then 0.
        """
        name, statistic = ("output_tokens_per_s", "mean")
        if self.objectives:
            name, statistic = self.ranked_by.figure, self.ranked_by.statistic
        promised = self.promised.get(self.load)
        band = None if promised is None else promised.bands.get(f"{name}.{statistic}")
        now = self.as_now(self.load).figure(name, statistic)
        return self.model.pace_error > 0 and band is not None and not band[0] <= now <= band[1]

    @property
    def furthest(self) -> int:
        """Twice the streams that were measured decoding together."""
        return TRUSTED_MULTIPLE * self.model.streams

    @property
    def usual(self) -> int:
        """The slots of the table that stand for the server as measured."""
        return self.slots[-1] if self.now is None else self.now

    def fits(self, slots: int) -> bool | None:
        """Whether so many slots fit the memory given; None where that is not known."""
        if self.gpu_bytes is None or not isinstance(self.memory, MemoryBySlots):
            return None
        return self.memory.at(slots) <= self.gpu_bytes

    def met(self, slots: int, load: int) -> bool | None:
        """Whether a cell meets the objectives; None without objectives."""
        return meets(self.cells[slots, load], self.objectives) if self.objectives else None

    def untold(self, slots: int, load: int) -> bool:
        """Whether a cell lacks a figure of an objective and misses no other, as where p95 was measured on too few requests."""
        values = [(each, self.cells[slots, load].figure(each.figure, each.statistic)) for each in self.objectives]
        known = [each.met(value) for each, value in values if not math.isnan(value)]
        return len(known) < len(values) and all(known)

    def extrapolated(self, slots: int, load: int) -> bool:
        """Whether more streams decode together in a cell than were measured, so that their step time is extrapolated."""
        return min(slots, load) > self.model.streams

    def as_now(self, load: int) -> Prediction:
        """Return the figures with the server as it is: measured ones, or the prediction where none were."""
        return self.cells[self.usual, load]

    def is_measured(self, slots: int, load: int) -> bool:
        """Whether a cell holds measured figures: with the slots as they are, or with others that no user would have needed."""
        plenty = self.now is None or (slots >= load and self.now >= load)
        return load in self.measured and (slots == self.usual or plenty)


def _users(model: ServerModel, count: int) -> str:
    return counted(count, *(("stream",) if model.sessions is None else ("person", "people")))


def advise_slots(
    model: ServerModel,
    series: ClosedLoopSeries,
    levels: Sequence[dict[str, Any]],
    *,
    kind: str | None = None,
    objectives: Sequence[Objective] = (),
    memory: MemoryBySlots | str | None = None,
    gpu_bytes: float | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Advice:
    """Predict figures for several numbers of slots at the measured concurrencies and a few others, and choose slots.

    Args:
        model: the run's model, with the series' lengths; it gives back the levels (see fitted_way).
        levels: of summary.json.
        kind: the kind of server as in run.json, which decides the name of its slots' setting.
        memory: memory by slots, or why it is unknown.
        gpu_bytes: what the loaded model may take.
        tell: is told what is predicted next.
    """
    known = [level for level in levels if level["index"] in series.levels]
    as_run = model  # a run of the same command has the same lengths: what is promised is for those
    model = with_spread_lengths(model)
    loads = loads_for(series.concurrencies)
    slots = tuple(sorted({*TRIED_SLOTS, model.slots or max(TRIED_SLOTS[-1], series.concurrencies[-1])}))
    advice = Advice(
        model=model,
        label=series.label,
        knob=KNOBS.get(kind or "", "the server's parallel slots"),
        measured=series.concurrencies,
        loads=loads,
        slots=slots,
        cells=_predict_table(model, slots, loads, {int(level["concurrency"]): level for level in known}, tell),
        objectives=tuple(objectives),
        memory=memory,
        gpu_bytes=gpu_bytes,
        predicted_now=model.closed(series.concurrencies[-1]),
        equal_answers=model.sessions is None and len(set(as_run.outputs)) == 1 < len(set(model.outputs)),
        at_once=max((int(level["peak_decoding"]) for level in known if level.get("peak_decoding")), default=None),
    )
    advice = dataclasses.replace(advice, best=_best(advice), ranked_by=_pressing(advice))
    tell("Predicting what other changes would give")
    levers = rank_levers(advice)
    tell("Looking for the most streams within the objectives")
    capacities = _sustainable(advice)
    tell(f"Predicting what {counted(advice.trial or 0, 'slot')} would give with the lengths of this run")
    return dataclasses.replace(advice, levers=levers, capacities=capacities, promised=_promised(advice, as_run))


def _promised(advice: Advice, model: ServerModel) -> dict[int, Prediction]:
    """Return what the slots to set next would give at each measured load; nothing where there are none."""
    slots = advice.trial
    if advice.now is None or slots is None:
        return {}
    return {load: allowing_for_growth(model, model.closed(load, slots=slots)) for load in advice.measured}


def _sustainable(advice: Advice) -> tuple[SustainableLoad, ...]:
    """Return what meets the objectives with the slots as measured, and with those to set next; nothing without objectives."""
    if not advice.objectives:
        return ()
    now, load = advice.now, advice.load
    most = load * (TRUSTED_MULTIPLE if now is not None else 1)  # a limit that was not met may stand just above
    measured = [each for each in advice.loads if advice.is_measured(advice.usual, each)]
    known = {each: advice.cells[advice.usual, each] for each in measured}
    return tuple(
        sustainable_load(advice.model, advice.objectives, slots=slots, most=most, known=known if slots == now else {})
        for slots in dict.fromkeys((now, now if advice.best is None else advice.trial))
    )


def loads_for(measured: Sequence[int]) -> tuple[int, ...]:
    """Return up to six concurrencies to show: measured ones, and others up to twice the highest."""
    top = measured[-1]
    shown = set(measured)
    if len(shown) > MOST_SHOWN_LOADS - 1:
        shown = {measured[round(i * (len(measured) - 1) / (MOST_SHOWN_LOADS - 2))] for i in range(MOST_SHOWN_LOADS - 1)}
    for other in [2 * top, *(2**power for power in range(int(math.log2(top)), -1, -1))]:
        if len(shown) < MOST_SHOWN_LOADS:
            shown.add(other)
    return tuple(sorted(shown))


def require_slots(slots: Slots, series: ClosedLoopSeries) -> None:
    """Raise PredictionError where a run shows neither the limit of the slots nor that no request waited for one."""
    top = series.concurrencies[-1]
    if not slots.limit and (slots.estimate or 0) < AT_WORK_SHARE * top:
        raise PredictionError(
            f"No advice: with {top} streams at once no more than {slots.estimate or 0} were seen at work, and the run does not "
            "show whether the others waited for a slot. Measure more streams, with answers of one length (--output-tokens)."
        )


def _predict_table(
    model: ServerModel,
    slots: Sequence[int],
    loads: Sequence[int],
    known: dict[int, dict[str, Any]],
    tell: Callable[[str], object],
) -> dict[tuple[int, int], Prediction]:
    """Return figures by (slots, load), measured ones where there are any; slots beyond the load make no difference."""
    cells: dict[tuple[int, int], Prediction] = {}

    def cell(each: int, load: int) -> Prediction:
        if load in known and (each == model.slots or (model.slots is None and each >= load)):
            return self_check.as_measured(known[load], each)
        tell(f"Predicting {_users(model, load)} on {counted(each, 'slot')}")
        return allowing_for_growth(model, model.closed(load, slots=each))

    for load in loads:
        enough = [each for each in slots if each >= load]
        plenty = model.slots if model.slots in enough else min(enough, default=load)
        for each in slots:
            if each < load or each == plenty:
                cells[each, load] = cell(each, load)
        for each in enough:
            cells[each, load] = dataclasses.replace(cells[plenty, load], slots=each)
    return cells


def _best(advice: Advice) -> int | None:
    """Return the slots to choose; None where none fits the memory, or the run never reached the limit of the slots.

    The slots as measured stay where they fit and others would gain less than 5 %.
    """
    candidates = [slots for slots in advice.slots if advice.fits(slots) is not False]
    if advice.now is None or not candidates:
        return None
    slots, load = _leading(advice, candidates)
    if advice.now not in candidates or slots == advice.now:
        return slots
    before = advice.predicted_now if load == advice.load else advice.model.closed(load)
    most = max(gain(each, before, advice.cells[slots, load]) for each in advice.objectives or (THROUGHPUT,))
    return slots if most >= 1 - NEAR_BEST_SHARE else advice.now


def _leading(advice: Advice, candidates: Sequence[int]) -> tuple[int, int]:
    """Return the slots that the model prefers, and the load that shows it.

    With objectives: the slots that meet them up to the highest load, counted up to the highest measured one. Of equals the
    slots as measured, which are no extrapolation, else the fewest, because each costs memory. Without objectives likewise of
    the slots with 95 % of the best throughput: fewer would only make requests wait longer.
    """
    load = advice.load
    # what was measured is held as the model has it against what is only predicted
    cells = {
        slots: advice.predicted_now if advice.is_measured(slots, load) else advice.cells[slots, load]
        for slots in candidates
    }
    output = {slots: cell.figure("output_tokens_per_s", "mean") for slots, cell in cells.items()}
    if advice.objectives:
        reach = {slots: min(highest_met_load(advice, slots), load) for slots in candidates}
        if most := max(reach.values()):
            equals = [slots for slots in candidates if reach[slots] == most]
            return (advice.now if advice.now in equals else min(equals)), most
        first = advice.objectives[0]
        return min(candidates, key=lambda slots: (_badness(first, advice.cells[slots, load]), slots)), load
    equals = [slots for slots in candidates if output[slots] >= NEAR_BEST_SHARE * max(output.values())]
    return (advice.now if advice.now in equals else min(equals)), load


def highest_met_load(advice: Advice, slots: int) -> int:
    """Return the highest load shown that meets the objectives, with none below that misses them; 0 where there is none.

    A load without a figure, as where p95 was measured on too few requests, decides nothing: a higher one that meets them does.
    """
    reach = 0
    for load in advice.loads:
        if advice.met(slots, load):
            reach = load
        elif not advice.untold(slots, load):
            break
    return reach


def _badness(objective: Objective, prediction: Prediction) -> float:
    value = prediction.figure(objective.figure, objective.statistic)
    return math.inf if math.isnan(value) else value if objective.at_most else -value


def _pressing(advice: Advice) -> Objective:
    """Return the objective that levers are ranked by: the first that is missed now, else the first, else TTFT p95."""
    now = advice.as_now(advice.load)
    missed = [each for each in advice.objectives if not meets(now, [each])]
    return next(iter(missed or advice.objectives), DEFAULT_OBJECTIVE)


def rank_levers(advice: Advice) -> tuple[Lever, ...]:
    """Return changes other than slots, predicted at the highest measured concurrency, the most helpful first."""
    model, load, sessions = advice.model, advice.load, advice.model.sessions
    now = advice.predicted_now
    halved = tuple(max(1, tokens // 2) for tokens in model.prompts)
    shorter = tuple(max(1, tokens // 2) for tokens in model.outputs)
    timing, usual = model.timing, float(np.mean(model.prompts))
    # the prompt's time stays in TTFT but stalls no other stream
    spent = timing.prompt_s + usual * timing.prefill_s + pairs(usual) * timing.context_prefill_s
    elsewhere = dataclasses.replace(
        timing, prefill_s=0.0, context_prefill_s=0.0, prompt_s=0.0, handling_s=timing.handling_s + spent
    )
    changes = (
        (
            "prompts half as long",
            "every prompt has half its tokens",
            dataclasses.replace(model, prompts=halved, sessions=sessions and sessions.scaled(said=0.5)),
        ),
        (
            "answers half as long",
            "every answer has half its tokens",
            dataclasses.replace(model, outputs=shorter, sessions=sessions and sessions.scaled(answers=0.5)),
        ),
        (
            "prompts that are all cached",
            "no prompt token is computed: what a prefix cache could bring at most",
            dataclasses.replace(model, timing=dataclasses.replace(timing, prefill_s=0.0, context_prefill_s=0.0)),
        ),
        (
            "prefilling elsewhere (no stalls)",
            "prompts are prefilled elsewhere, each taking its time alone, and stall no running stream",
            dataclasses.replace(model, timing=elsewhere),
        ),
    )
    predicted = [(name, means, changed.closed(load)) for name, means, changed in changes]
    levers = [Lever(name, means, said, gain(advice.ranked_by, now, said)) for name, means, said in predicted]
    return tuple(sorted(levers, key=lambda lever: -lever.gain))


def gain(objective: Objective, before: Prediction, after: Prediction) -> float:
    """Return the share by which the objective's figure improves: 0.4 is 40 % shorter, or 40 % faster."""
    old = before.figure(objective.figure, objective.statistic)
    new = after.figure(objective.figure, objective.statistic)
    if not (math.isfinite(old) and math.isfinite(new) and old > 0):
        return 0.0
    return (old - new) / old if objective.at_most else (new - old) / old
