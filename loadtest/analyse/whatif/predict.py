"""What users would feel at loads and slots that were not measured: the engine of simulate/ run in virtual time.

A prediction plays the run's own protocol (its lengths, its warm-up, its number of requests) against an engine whose
timing came from the run, several times over, each time with a timing drawn anew within its uncertainty. A figure is the
mean of what those runs measured; its band is where one run of that size would show it in 95 of 100 cases.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loadtest import metrics
from loadtest.analyse.figures import rates
from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.figures.stats import PERCENTILES
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import Run
from loadtest.analyse.server import admission as protocol_of
from loadtest.analyse.server.admission import LoadPattern
from loadtest.analyse.server.prefill import Interval
from loadtest.analyse.server.slots import Slots
from loadtest.analyse.server.steps import SLOPE_CARRIED_STREAMS, Steps
from loadtest.errors import PredictionError
from loadtest.metrics import NS_PER_S
from loadtest.simulate.engine import Emission, Engine, Request, Stream
from loadtest.simulate.timing import Timing
from loadtest.simulate.virtual import closed_loop, cold_prompt, open_loop

TOKENS_SIMULATED = 60_000  # simulated a prediction, seeds together: a quarter of a second
FEWEST_SEEDS, MOST_SEEDS = 3, 12
FEWEST_REQUESTS = 20
OPEN_REQUESTS = 200
GROWN = 1.5  # E2E in the last quarter of an open loop, of that in the second: its queue has not settled
MOST_SLOPE = 0.6  # of the last step time a stream, where no law is known: 1 would be no gain from batching
ENGINE_ERROR = 0.05  # of any figure, in 95 of 100 cases: what the engine was off by on recorded runs of real servers
CONTEXT = 1 << 30  # no cutting: the lengths were observed
SPACING_S = 0.0001  # between the first requests of a level's users

HEADLINES = {
    "ttft_s": ("mean", "p50", "p95"),
    "stream_tokens_per_s": ("mean", "p5", "p50"),
    "output_tokens_per_s": ("mean",),
    "requests_per_s": ("mean",),
    "queue_wait_s": ("p50", "p95"),
    "slot_wait_s": ("p50", "p95"),
    "e2e_s": ("p50", "p95"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model says of one load. Names and units are those of summary.json.

    figures: per name an object {mean, p5, p50, p90, p95, p99}, seconds or tokens per second, over requests (itl_s: over
    gaps); output_tokens_per_s and requests_per_s are one number each, kept as {mean}. Names: ttft_s, queue_wait_s,
    slot_wait_s, batch_wait_s, prefill_s, e2e_s, tpot_s, itl_s, stream_tokens_per_s, output_tokens_per_s, requests_per_s.
    bands: (low, high) by "name.statistic" of the headlines: ttft_s.mean, .p50, .p95, stream_tokens_per_s.mean, .p5, .p50,
    output_tokens_per_s.mean, requests_per_s.mean, queue_wait_s.p50, .p95, slot_wait_s.p50, .p95, e2e_s.p50, .p95.
    """

    concurrency: int | None
    rate: float | None
    slots: int | None  # None: no limit
    requests: int  # that the figures are made from
    figures: dict[str, dict[str, float]]
    bands: dict[str, Interval]
    extrapolates: str | None  # one sentence where it rests on streams or slots that were never measured
    grows: bool = False  # an open loop of more than the server can do: the longer it runs, the longer its queue

    def figure(self, name: str, statistic: str) -> float:
        """Return one figure, e.g. ("ttft_s", "p95"); nan where there is none."""
        return self.figures.get(name, {}).get(statistic, math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "concurrency": self.concurrency,
            "rate": self.rate,
            "slots": self.slots,
            "requests": self.requests,
            "figures": self.figures,
            "bands": {name: list(band) for name, band in self.bands.items()},
            "extrapolates": self.extrapolates,
            "grows": self.grows,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerModel:
    """A server as a run shows it: what predictions are made from."""

    timing: Timing  # with the slots measured: step times as they came, whichever slots the streams had
    other_slots: Timing  # with others: a pass per run of neighbouring slots, where the server works so
    slots: int | None  # None: no limit was ever met
    prompts: tuple[int, ...]  # uncached lengths in tokens as observed, to draw from
    outputs: tuple[int, ...]  # paired with `prompts`
    streams: int  # the most that were measured decoding together
    simulated: bool
    protocol: LoadPattern
    step_errors: dict[int, float]  # standard error of each step time, as a share of it
    prefill_error: float  # likewise
    in_flight: int  # the most requests at once that the run had
    slope_known: bool  # False: how the step time grows with more streams than measured is drawn from a wide range
    guess: str | None  # what the timing takes for granted when slots are more than measured

    @classmethod
    def of(cls, run: Run, slots: Slots, steps: Steps) -> ServerModel:
        """Build the model; raise PredictionError, one sentence, where the run does not say enough."""
        if not steps.times:
            raise PredictionError("No prediction: no steps between tokens were seen; measure answers of more tokens.")
        if steps.prefill is None:
            raise PredictionError(f"No prediction: {steps.prefill_reason}.")
        prompts, outputs = protocol_of.request_lengths(run)
        prefill = steps.prefill
        half = (prefill.ci95[1] - prefill.ci95[0]) / 2
        concurrency = [int(level.get("concurrency") or 0) for level in run.levels]
        passes = protocol_of.pass_rule(run, slots, steps)
        caught, apart = protocol_of.admission_odds(run, slots, steps)
        return cls(
            timing=replace(steps.timing(neighbours=False), caught=caught, apart=apart),
            other_slots=replace(steps.timing(neighbours=passes.split), caught=caught, apart=apart),
            slots=slots.estimate if slots.limit else None,
            prompts=prompts,
            outputs=outputs,
            streams=max(entry.streams for entry in steps.times),
            simulated=run.simulated is not None,
            protocol=protocol_of.load_pattern(run, slots),
            step_errors={entry.streams: entry.error_s / entry.mean_s for entry in steps.times},
            prefill_error=half / 1.96 / max(prefill.per_token_s, 1e-12),
            in_flight=max([*concurrency, 1]),
            slope_known=steps.slope_s is not None,
            guess=passes.guess,
        )

    def closed(
        self,
        concurrency: int,
        *,
        slots: int | None = None,
        prompt: int | None = None,
        output: int | None = None,
        requests: int | None = None,
        seeds: int | None = None,
    ) -> Prediction:
        """Predict a closed loop of `concurrency` users.

        Args:
            slots: parallel slots in place of the measured ones.
            prompt: prompt tokens of every request in place of the lengths observed; likewise `output`.
            requests: how many are measured, warm-up apart; as the run did it when not given.
            seeds: how many such runs are simulated; as many as a quarter of a second allows when not given.
        """
        protocol = self.protocol
        count = requests or protocol.requests or round(protocol.each * concurrency)
        count = max(count, concurrency)
        warmups = concurrency if protocol.warmup else 0

        def play(engine: Engine, plan: list[Request], draw: random.Random, see: See) -> list[Stream]:
            share = draw.choice(protocol.together) if protocol.together else 0.0
            slots_free = concurrency if at_most is None else min(concurrency, at_most)
            first = 1 + round(share * (slots_free - 1))
            starts = [0.0] * first + [SPACING_S * (1 + user) for user in range(concurrency - first)]
            return closed_loop(engine, plan, starts_s=starts, turnaround_s=protocol.turnaround_s, see=see)

        at_most = slots or self.slots
        return self._predict(
            play,
            concurrency=concurrency,
            rate=None,
            slots=at_most,
            lengths=self._lengths(prompt, output),
            requests=count,
            warmups=warmups,
            seeds=seeds,
        )

    def open(
        self,
        rate: float,
        *,
        slots: int | None = None,
        prompt: int | None = None,
        output: int | None = None,
        requests: int | None = None,
        seeds: int | None = None,
    ) -> Prediction:
        """Predict an open loop of `rate` requests a second, Poisson arrivals; arguments as in closed."""

        def play(engine: Engine, plan: list[Request], draw: random.Random, see: See) -> list[Stream]:
            at, instants = 0.0, []
            for _ in plan:
                at += draw.expovariate(rate)
                instants.append(at)
            return open_loop(engine, plan, instants, see=see)

        return self._predict(
            play,
            concurrency=None,
            rate=rate,
            slots=slots or self.slots,
            lengths=self._lengths(prompt, output),
            requests=requests or OPEN_REQUESTS,
            warmups=0,
            seeds=seeds,
        )

    def _lengths(self, prompt: int | None, output: int | None) -> list[tuple[int, int]]:
        return [
            (of if prompt is None else max(prompt, 1), made if output is None else max(output, 1))
            for of, made in zip(self.prompts, self.outputs, strict=True)
        ]

    def _predict(
        self,
        play: Callable[[Engine, list[Request], random.Random, See], list[Stream]],
        *,
        concurrency: int | None,
        rate: float | None,
        slots: int | None,
        lengths: list[tuple[int, int]],
        requests: int,
        warmups: int,
        seeds: int | None,
    ) -> Prediction:
        tokens = sum(output for _, output in lengths) / len(lengths)
        tokens *= 1 + 2 / min(concurrency or self.streams, slots or self.streams, self.streams)  # a step costs time too
        fewest = max(FEWEST_REQUESTS, 2 * (concurrency or 1))
        most = max(int(TOKENS_SIMULATED / FEWEST_SEEDS / tokens) - warmups, fewest)
        requests = min(requests, most)
        seeds = seeds or max(FEWEST_SEEDS, min(MOST_SEEDS, int(TOKENS_SIMULATED / tokens / (requests + warmups))))
        timing = self.timing if slots == self.slots else self.other_slots
        seen, growing = [], []
        deepest = 0
        for seed in range(seeds):
            draw = random.Random(seed)
            plan = _plan(lengths, requests + warmups, draw)
            engine = Engine(
                _drawn(timing, self, draw), slots=slots, seed=seed, loaded=CONTEXT, scatter=timing.neighbours
            )
            trace = _TokenLog([], [])
            streams = play(engine, plan, draw, trace.see)
            figures, depth = _figures_of_play(streams, trace, warmups, concurrency)
            seen.append(figures)
            deepest = max(deepest, depth)
            growing.append(rate is not None and _grows(streams))
        figures = {
            name: {
                key: float(np.mean([one[name][key] for one in seen])) for key in seen[0][name] if key[-1] not in "-+"
            }
            for name in seen[0]
        }
        return Prediction(
            concurrency=concurrency,
            rate=rate,
            slots=slots,
            requests=requests * seeds,
            figures=figures,
            bands={
                f"{name}.{key}": _band([one[name] for one in seen], key)
                for name, keys in HEADLINES.items()
                for key in keys
                if name in seen[0]
            },
            extrapolates=self._extrapolates(slots, concurrency, deepest),
            grows=2 * sum(growing) > len(growing),
        )

    def _extrapolates(self, slots: int | None, concurrency: int | None, deepest: int) -> str | None:
        if deepest > self.streams:
            how = "is carried on from those" if self.slope_known else "is a guess, for these show no growth"
            return (
                f"up to {deepest} streams decode together here, and no more than {self.streams} were measured: "
                f"their step time {how}{'; ' + self.guess if self.guess else ''}"
            )
        if self.slots is None and slots is None and (concurrency or 0) > self.in_flight:
            return f"no limit of slots was met with {self.in_flight} requests at once: none is assumed beyond them"
        if slots != self.slots and self.slots is not None:
            return f"measured with {self.slots} slots, not with {slots}" + (f"; {self.guess}" if self.guess else "")
        return None


See = Callable[[Emission], None]


@dataclass(frozen=True, slots=True)
class _TokenLog:
    """Every token of a simulated run: whose, and when (ns)."""

    owners: list[int]
    instants: list[int]

    def see(self, emission: Emission) -> None:
        self.owners.append(emission.stream.request.id)
        self.instants.append(emission.at)


def _plan(lengths: list[tuple[int, int]], count: int, draw: random.Random) -> list[Request]:
    """Draw requests: each observed one once before any comes again, in random order."""
    drawn: list[tuple[int, int]] = []
    while len(drawn) < count:
        drawn += draw.sample(lengths, len(lengths))
    return [
        Request(number, cold_prompt(prompt, number), output, num_ctx=CONTEXT)
        for number, (prompt, output) in enumerate(drawn[:count])
    ]


def _drawn(timing: Timing, model: ServerModel, draw: random.Random) -> Timing:
    """Return `timing` with every measured part drawn anew within its error."""
    table = tuple(
        (streams, tuple(value * factor for value in values))
        for streams, values in timing.step.table
        for factor in (max(1 + draw.gauss(0, min(model.step_errors.get(streams, 0.0), 0.3)), 0.1),)
    )
    if not model.slope_known:
        most, values = table[-1]
        last = sum(values) / len(values)
        table += (
            (most + SLOPE_CARRIED_STREAMS, (last * (1 + draw.uniform(0, MOST_SLOPE) * SLOPE_CARRIED_STREAMS / most),)),
        )
    factor = max(1 + draw.gauss(0, min(model.prefill_error, 0.3)), 0.1)
    return replace(
        timing,
        step=replace(timing.step, table=table),
        prefill_s=timing.prefill_s * factor,
        prompt_s=timing.prompt_s * factor,
    )


def _figures_of_play(
    streams: list[Stream], trace: _TokenLog, warmups: int, users: int | None
) -> tuple[dict[str, dict[str, float]], int]:
    """Return the figures of one simulated run by the formulas of a measured one, and the most streams at once."""
    arrived, scheduled, won, start, first, last = (
        np.array([getattr(stream, name) for stream in streams], dtype=np.float64) / NS_PER_S
        for name in ("arrived", "scheduled", "slot_won", "prefill_start", "first", "last")
    )
    tokens = np.array([stream.tokens for stream in streams], dtype=np.float64)
    measured = np.arange(len(streams)) >= warmups
    ttft, e2e = first - arrived, last - arrived
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = metrics.tpot(e2e, ttft, np.where(tokens > 1, tokens, np.nan))
    owners = np.array(trace.owners)
    instants = np.array(trace.instants, dtype=np.float64) / NS_PER_S
    order = np.lexsort((instants, owners))
    inside = np.diff(owners[order]) == 0
    kept = np.zeros(int(owners.max()) + 1, dtype=np.bool_)
    kept[[stream.request.id for stream, keep in zip(streams, measured, strict=True) if keep]] = True
    gaps = np.diff(instants[order])[inside & kept[owners[order][1:]]]
    figures = {
        name: _with_rank_errors(values[measured])
        for name, values in (
            ("ttft_s", ttft),
            ("queue_wait_s", start - scheduled),
            ("slot_wait_s", won - scheduled),
            ("batch_wait_s", start - won),
            ("prefill_s", first - start),
            ("e2e_s", e2e),
            ("tpot_s", tpot),
            ("stream_tokens_per_s", metrics.stream_tokens_per_s(tpot)),
        )
    }
    figures["itl_s"] = _with_rank_errors(gaps)
    window = rates.steady_window(arrived, last, float(arrived[measured].min()), users)
    if window.seconds > 0:
        inside = window.holds(instants) if window.steady else window.holds(instants) * kept[owners]
        whole = np.maximum(np.bincount(owners), 1)  # tokens of each answer: a request counts by its share of them
        figures["output_tokens_per_s"] = {"mean": float(inside.sum()) / window.seconds}
        figures["requests_per_s"] = {"mean": float((inside / whole[owners]).sum()) / window.seconds}
    else:
        figures["output_tokens_per_s"] = figures["requests_per_s"] = {"mean": math.nan}
    depth = np.cumsum(
        np.concatenate((np.ones(len(first)), -np.ones(len(last))))[
            np.argsort(np.concatenate((first, last - 1e-6)), kind="stable")
        ]
    )
    return figures, int(depth.max())


def _grows(streams: list[Stream]) -> bool:
    """Whether requests sent later wait longer and longer."""
    quarter = len(streams) // 4
    taken = [((stream.last or 0) - stream.arrived) / stream.tokens for stream in streams]
    return quarter > 0 and sum(taken[-quarter:]) > GROWN * sum(taken[quarter : 2 * quarter])


def _with_rank_errors(values: FloatArray) -> dict[str, float]:
    """Return mean and percentiles, and as "p50-" and "p50+" those a standard error of the rank below and above."""
    known = values[np.isfinite(values)]
    shares = {"mean": math.nan}
    for name, share in PERCENTILES.items():
        error = math.sqrt(share * (1 - share) / max(len(known), 1))
        shares |= {name: share, f"{name}-": max(share - error, 0.0), f"{name}+": min(share + error, 1.0)}
    if not len(known):
        return dict.fromkeys(shares, math.nan)
    found = np.quantile(known, [share for name, share in shares.items() if name != "mean"])
    return {"mean": float(known.mean())} | dict(zip(list(shares)[1:], map(float, found), strict=True))


def _band(runs: list[dict[str, float]], key: str) -> Interval:
    """Return where one more run would show the figure in 95 of 100 cases, from the runs simulated.

    Where half the requests wait and half do not, as with three users on two slots, the median lies on a cliff: the band
    then takes in both sides.
    """
    values = [run[key] for run in runs]
    n = len(values)
    mean = float(np.mean(values))
    half = t_quantile(n - 1) * float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / n) if n > 1 else 0.0
    half = math.hypot(half, ENGINE_ERROR * mean)
    low = min(mean - half, float(np.mean([run.get(f"{key}-", run[key]) for run in runs])))
    high = max(mean + half, float(np.mean([run.get(f"{key}+", run[key]) for run in runs])))
    return max(low, 0.0), high
