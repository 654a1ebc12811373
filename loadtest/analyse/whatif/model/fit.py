"""The models that predictions of a run rest on: one function, which `predict`, the report's chart, `advise` and `explain` share.

They rest on levels of one length, at most numbers of users or rates.

Slots are taken as the run shows them, else as they are known otherwise; where their limit is not known there is a model for
each case. Every model is the first way of working that gives back the levels of the run.

A server takes prompts into its steps in slices, evaluates them before the next step, or beside the steps; its streams share
steps, or have a clock each; and either slots or tokens limit what is worked on at once. The usual way, slices in shared
steps behind slots, is tried first and kept where it gives back the run. Where none does, nothing is predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from loadtest.analyse.run import RunData, excerpts, series_of
from loadtest.analyse.run.overlaps import Depth
from loadtest.analyse.server.alternating_models import loading_share
from loadtest.analyse.server.prompt_cache.cache import measure_cache
from loadtest.analyse.server.queue import admission
from loadtest.analyse.server.queue.at_work import RequestInstants
from loadtest.analyse.server.queue.kept_out import UnwaitedTtft
from loadtest.analyse.server.queue.slots import Slots, known_slots
from loadtest.analyse.server.queue.token_budget import kv_budget
from loadtest.analyse.server.queue.waits import LEAST_BATCH_WAIT, held_by_others
from loadtest.analyse.server.timing.step_law import FEWEST_STEPS, StepTimes, growth_per_stream
from loadtest.analyse.server.timing.steps import Steps, step_table, times_by_number
from loadtest.analyse.whatif.model import self_check
from loadtest.analyse.whatif.model.cases import AS_KNOWN, LIMIT_SEEN, NO_LIMIT
from loadtest.analyse.whatif.model.extrapolation import allowing_for_growth
from loadtest.analyse.whatif.model.lengths import with_lengths_of, with_likely_lengths
from loadtest.analyse.whatif.model.predict import SLICED_WAY, ServerModel, assumed, require_predictable
from loadtest.analyse.whatif.model.prediction import Prediction
from loadtest.analyse.whatif.model.sessions import Sessions, cache_cases, sessions_of
from loadtest.doubts import VOID
from loadtest.errors import PredictionError
from loadtest.simulate.model.timing import BEFORE, BESIDE, SLICED, StepLaw, Timing
from loadtest.text import joined, percent

UNSTEADY = ("rate_to", "trace", "sessions", "shed")  # of a level that the model's open loop does not play


@dataclass(frozen=True, slots=True)
class ClosedLoopSeries:
    """Levels of a closed loop that differ only in concurrency."""

    label: str  # e.g. "128 in · 64 out"
    levels: tuple[int, ...]
    concurrencies: tuple[int, ...]  # ascending


def longest_series(run: RunData) -> ClosedLoopSeries | None:
    """Return the closed-loop levels of the lengths that were measured at most concurrencies; of equals the last."""
    closed = (level for level in run.levels if level.get("concurrency") and level.get("rate") is None)
    found = [
        ClosedLoopSeries(
            each.label,
            tuple(level["index"] for level in each.levels),
            tuple(sorted({int(level["concurrency"]) for level in each.levels})),
        )
        for each in series_of(closed)
    ]
    return max(reversed(found), key=lambda each: len(each.concurrencies), default=None)


def levels_used(run: RunData, levels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the levels of summary.json that a prediction rests on: of one length, at most numbers of users or rates."""
    series = longest_series(run)
    if series is not None:
        return [level for level in levels if level["index"] in series.levels]
    steady = [
        level
        for level in levels
        if level["rate"] and level.get("concurrency") is None and not any(level.get(each) for each in UNSTEADY)
    ]
    lengths = [(level["input_tokens"], level["output_tokens"], level["words"]) for level in steady]
    if not lengths:
        raise PredictionError(
            f"{run.path} has neither a level of a closed loop nor one of single requests at a constant rate that were all sent; "
            "measure with --concurrency 1,2,4."
        )
    most = max(dict.fromkeys(lengths), key=lengths.count)
    return [level for level, each in zip(steady, lengths, strict=True) if each == most]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The models of a run that give its levels back."""

    slots: Slots  # as known_slots has them
    models: dict[str, ServerModel]  # by case, AS_KNOWN alone where the limit is known; the first is the likeliest
    ruled_out: tuple[str, ...]  # a sentence for each case that the run itself rules out


def fit_models(
    run: RunData,
    found: Slots,
    steps: Steps,
    levels: Sequence[dict[str, Any]],
) -> Fitted:
    """Return a model for each case that the run leaves open; `levels` are those of summary.json.

    Raises NoWayError where no way of working gives back the run, and PredictionError where the run says too little.
    """
    used = levels_used(run, levels)
    if all(level["verdict"] == VOID for level in used):
        raise PredictionError(
            f"No prediction: every level of {run.path} is void; measure again, and see the report for why."
        )
    slots = known_slots(run, found)
    if slots.limit or not slots.estimate:
        cases = {AS_KNOWN if slots.limit else NO_LIMIT: slots}
    else:
        cases = {NO_LIMIT: slots, LIMIT_SEEN: replace(slots, limit=True)}
    models: dict[str, ServerModel] = {}
    missed: dict[str, NoWayError] = {}
    for name, each in cases.items():
        for named, with_cache in _by_cache(name, run, each, steps).items():
            try:
                models[named] = fitted_way(run, each, steps, used, with_cache)
            except NoWayError as error:
                missed[named] = error
    if not models:
        raise next(iter(missed.values()))
    ruled_out = [f"Ruled out by the run, and not shown: {name} ({wrong.missed})." for name, wrong in missed.items()]
    return Fitted(slots, models, tuple(ruled_out))


def _by_cache(name: str, run: RunData, slots: Slots, steps: Steps) -> dict[str, Sessions | None]:
    """Return the conversations of a run, in a case for each host cache that the server may have; None of single requests."""
    try:
        ServerModel.of_requests(run, slots, steps)
    except PredictionError:  # what is fitted next says so, unless streams have a clock each
        return {name: None}
    use = measure_cache(run, slots, steps)
    held = sessions_of(run, use)
    if held is None:
        return {name: None}
    found = cache_cases(held, run, slots.number, use)
    return {
        named if name == AS_KNOWN and named else joined(" and ", name, named): each for named, each in found.items()
    }


BEFORE_WAY = "streams share steps, and wait while a prompt is evaluated"
BESIDE_WAY = "streams share steps, and prompts are evaluated beside them"
CLOCKS_WAY = "each stream has a clock of its own, and prompts are evaluated beside it"
MOST_JITTER = 0.5  # of a prompt's time, as a share of it


class NoWayError(PredictionError):
    """No way of working gives back the run; `missed` says by what the usual one misses it."""

    def __init__(self, missed: str) -> None:
        self.missed = missed
        super().__init__(
            f"the model fitted to this run does not give back what it measured: {missed}; nor does any other way of working "
            "that loadtest knows and this run can be held against"
        )


def fitted_way(
    run: RunData,
    slots: Slots,
    steps: Steps,
    used: Sequence[Mapping[str, Any]],
    sessions: Sessions | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> ServerModel:
    """Return the model of the first way that gives back the levels used; with `sessions` people hold these conversations.

    `tell` is told the way that is tried next. Raises NoWayError where no way gives the levels back, and PredictionError where the
    run says too little.
    """
    for level in used:
        if level["verdict"] != VOID and held_by_others(run, level):
            raise PredictionError(
                f"No prediction: at {level['label']} requests waited through many steps of other streams, with no more of them than the "
                "server handles, so others may use it, of whom the run knows nothing, or it starts prompts only when all streams have "
                "ended. Measure it with no one else there, and with continuous batching."
            )
        if level["verdict"] != VOID and (share := loading_share(level)) > LEAST_BATCH_WAIT:
            raise PredictionError(
                f"No prediction: at {level['label']} {percent(share)} of the mean TTFT passed until the model was loaded, and how often "
                "another load finds it unloaded is not known. Measure with the model kept loaded (--keep-alive 10m)."
            )
    require_predictable(run)
    missed = ""
    try:
        for way, model in _ways(run, slots, steps, sessions):
            if sessions is not None and way.startswith(CLOCKS_WAY):
                continue  # no cache of prompts is known of such servers
            tell(f"Trying whether the server works so: {way}")
            mine = with_likely_lengths(model, run, [level["index"] for level in used])
            wrong = self_check.misread(mine, run) or self_check.worst_miss(partial(own_level, mine, run), used)
            if wrong is None:
                return replace(mine, way=way)
            missed = missed or wrong
    except PredictionError:
        if not missed:
            raise
    raise NoWayError(missed)


def own_level(model: ServerModel, run: RunData, level: Mapping[str, Any]) -> Prediction:
    """Return what a model says of a level of its run, for the lengths and at the pace of steps that this level had."""
    mine = replace(with_lengths_of(model, run, [level["index"]]), redrawn=False, pace_error=0.0)
    if pace := dict(model.paces).get(level["index"]):
        mine = _worked(mine, step=mine.timing.step.scaled(pace))
    if level["concurrency"]:
        return mine.closed(int(level["concurrency"]))
    return mine.open(level["rate"], requests=int(level["requests"]))


def _ways(
    run: RunData, slots: Slots, steps: Steps, sessions: Sessions | None = None
) -> Iterator[tuple[str, ServerModel]]:
    """Yield each way with its model, the usual one first; those of shared steps only where step times are known."""
    refused = None
    try:
        if sessions is None:
            usual = ServerModel.of(run, slots, steps)
        else:
            usual = replace(ServerModel.of_requests(run, slots, steps), sessions=sessions)
    except PredictionError as error:
        usual, refused = None, error
    limits: list[tuple[int | None, str]] = [(None, "")]
    if not slots.limit and (budget := kv_budget(run)):
        limits.append((budget, f"; {budget} tokens of prompts and answers are held at most"))
    if usual is not None:
        for held, limit in limits:
            for way, name in ((SLICED, SLICED_WAY), (BEFORE, BEFORE_WAY), (BESIDE, BESIDE_WAY)):
                yield name + limit, _worked(usual, prefill_way=way, kv_tokens=held)
    # Streams that were seen to get their tokens together have no clocks of their own, though those may give back a noisy run.
    clocks = _of_own_clocks(run, slots, steps) if steps.out_of_step is None or steps.apart else None
    if clocks is not None and clocks.streams > 1:  # one stream has its steps to itself on any server
        for held, limit in limits:
            yield CLOCKS_WAY + limit, _worked(clocks, kv_tokens=held)
    if refused is not None:
        raise refused


def _worked(model: ServerModel, **how: Any) -> ServerModel:
    return replace(model, timing=replace(model.timing, **how))


def _of_own_clocks(run: RunData, slots: Slots, steps: Steps) -> ServerModel | None:
    """Return the model of a server whose streams have a clock each; None where too little was seen of them."""
    found = own_clocks(run)
    if found is None:
        return None
    timing, times = found
    prompts, outputs = admission.request_lengths(run)
    most = max(entry.streams for entry in times)  # a request may seem to be at work that waits for a slot
    return ServerModel(
        timing=timing,
        slots=slots.number,
        prompts=prompts,
        outputs=outputs,
        streams=min(most, slots.number or most),
        simulated=run.simulated is not None,
        pattern=admission.load_pattern(run, slots),
        step_errors={entry.streams: entry.error_s / entry.mean_s for entry in times},
        prefill_error=0.02,
        in_flight=max([*(int(level.get("concurrency") or 0) for level in run.levels), 1]),
        slope_known=len(times) > 1,
        pace_error=steps.pace_error,
        guess=None,
        assumed=tuple(assumed(run)),
    )


def own_clocks(run: RunData) -> tuple[Timing, tuple[StepTimes, ...]] | None:
    """Return the timing of a server without steps, and the time to the next token by requests at work; None where these were too few.

    Such servers are emulators, gateways that spread requests over machines, and servers that give each request a worker. How
    long a stream waits for its next token depends on how many requests are at work, and not on when the others get theirs.
    """
    requests = RequestInstants.of(run)
    peak = requests.peak()
    if not peak:
        return None
    ttft = UnwaitedTtft.of(run, requests, peak)
    seen = np.isfinite(requests.first) & np.isfinite(ttft.seconds)
    begun = ttft.begun(requests)[seen]
    work = Depth.of(begun, np.maximum(requests.last[seen], begun))
    gaps, right = excerpts.events(run).gaps()
    known = np.isfinite(right) & (gaps >= 0)
    right, gaps = right[known], gaps[known]
    beside = work.at(right - gaps / 2).astype(np.int64)
    shown = beside > 0
    times = times_by_number(beside[shown], gaps[shown], right[shown], FEWEST_STEPS)
    if not times:
        return None
    middle = float(np.median(ttft.seconds[seen]))
    timing = Timing(
        step=StepLaw(table=step_table(times, growth_per_stream(times), neighbours=False)),
        prefill_s=ttft.per_token_s,
        prompt_s=ttft.fixed_s,
        prompt_jitter=min(0.5 * 1.48 * ttft.scatter_s / max(middle, 1e-9), MOST_JITTER),
        prefill_way=BESIDE,
        own_clocks=True,
        beside_s=ttft.beside_s,
        handling_s=0.0,
        handover_s=0.0,
    )
    return timing, times


# -- the report's curve ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PredictedCurve:
    """Levels of a closed loop, and what the model predicts for their concurrencies, those between and twice the highest."""

    series: ClosedLoopSeries
    predictions: tuple[Prediction, ...]  # none where no way of working gives back the run
    missed: str | None = None  # then, what the usual one misses
    model: ServerModel | None = None
    case: str = AS_KNOWN  # of prediction.json, where the run leaves several open: the one that is drawn


def predicted_curve(
    run: RunData, slots: Slots, steps: Steps, levels: Sequence[dict[str, Any]]
) -> PredictedCurve | None:
    """Return the curve; None where the run holds no closed loop of two concurrencies or says too little to predict.

    `levels` are those of summary.json, which the model must give back.
    """
    series = longest_series(run)
    if series is None or len(series.concurrencies) < 2:
        return None
    try:
        case, model = next(iter(fit_models(run, slots, steps, levels).models.items()))
    except NoWayError as error:
        return PredictedCurve(series, (), error.missed)
    except PredictionError:
        return None
    return PredictedCurve(series, predict_curve(model, series.concurrencies), model=model, case=case)


def predict_curve(model: ServerModel, measured: Sequence[int]) -> tuple[Prediction, ...]:
    """Predict the concurrencies of the prediction chart: measured ones, those between, and up to twice the highest."""
    top = 2 * max(measured)
    between = {load for power in range(math.ceil(math.log2(top)) + 1) for load in (2**power, 3 * 2**power // 2)}
    loads = [load for load in sorted({*measured, *between, top}) if load <= top]
    return tuple(allowing_for_growth(model, model.closed(load)) for load in loads)
