"""What users would feel at loads and slots that were not measured: the engine of simulate/, run in virtual time.

A prediction repeats the run as it was measured (its lengths, warm-up and number of requests) on an engine whose step
times, prefill speed and admissions were read from the run. It is repeated 3 to 12 times, an open loop up to 24; each time
every timing is drawn anew within its standard error, and lengths as another run would draw them. A figure is the geometric
mean over these repetitions. Its band is the prediction interval of one more repetition, ± t · s · √(1 + 1/n) of the
logarithm, widened by the 5 % by which the engine itself was off on real servers: one measured run of that size should
fall into it in 95 of 100 cases.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import numpy as np

from loadtest.analyse.run import RunData
from loadtest.analyse.server.model_memory.cold_load import is_cold
from loadtest.analyse.server.prompt_cache.cache import measure_cache
from loadtest.analyse.server.queue import admission
from loadtest.analyse.server.queue.admission import LoadPattern
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing.steps import SLOPE_CARRIED_STREAMS, Steps
from loadtest.analyse.whatif.model import sessions
from loadtest.analyse.whatif.model.bands import (
    SHARE,
    Figures,
    allowing_for_pace,
    at_other_pace,
    middle,
    prediction_band,
)
from loadtest.analyse.whatif.model.play import (
    CONTEXT,
    Played,
    See,
    cold_requests,
    counted_turns,
    draw_lengths,
    figures_of_play,
    queue_grows,
)
from loadtest.analyse.whatif.model.prediction import BANDED, Prediction
from loadtest.analyse.whatif.model.seeded_people import SeededPeople
from loadtest.analyse.whatif.model.seeded_run import SeededRequests
from loadtest.analyse.whatif.model.sessions import Sessions
from loadtest.errors import PredictionError
from loadtest.metrics import NORMAL_95
from loadtest.records import NO_FAILURES
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.stream import Emission, EngineRequest, Stream
from loadtest.simulate.model.timing import Timing
from loadtest.simulate.model.virtual import closed_loop, open_loop
from loadtest.text import some_of

TOKENS_SIMULATED = 60_000  # simulated for one prediction, over all repetitions: takes a quarter of a second
FEWEST_SEEDS, MOST_SEEDS = 3, 12
FEWEST_REQUESTS = 20
OPEN_REQUESTS = 200
OPEN_TIMES = 4  # as many tokens are simulated of open loops, whose waits differ far more from run to run …
MOST_OPEN_SEEDS = 24  # … than those of closed ones
MOST_SLOPE = 0.6  # of the last step time, for each further stream, where no growth was seen; 1: no gain from batches
LEAST_PACE_ERROR = 0.005  # of the pace: less is lost in the bands' other parts
PACE_SEEDS = 2  # repetitions played at another pace, each beside the same at this one
SPACING_S = 0.0001  # between the first requests of a level's users

PROMPTS_AS_ASKED = "The server counts no prompt tokens: prompts are taken to be as long as was asked for."
WHO_WAIT = "predictions are of users who all wait for their answers."
WHO_FAIL = "predictions are of requests that are all answered."
SLICED_WAY = "streams share steps, which take in prompts in slices"
Seeded = SeededRequests | SeededPeople  # what a run to come sends


def assumed(run: RunData) -> Iterator[str]:
    """Yield what a model of a run takes for granted of its requests: how long prompts were, that none fails and nobody hangs up."""
    every = len(run.requests)
    if run.prompts_as_asked:
        yield PROMPTS_AS_ASKED
    if left := int(run.requests["left"].sum()):
        yield f"Users hung up in {some_of(left, every, 'request')} of the run; {WHO_WAIT}"
    if failed := every - int(run.one_of("outcome", *NO_FAILURES).sum()):
        yield f"{some_of(failed, every, 'request')} of the run failed; {WHO_FAIL}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a simulated run sends: an open loop where it has a rate, else a closed one."""

    concurrency: int | None
    rate: float | None
    slots: int | None
    lengths: list[tuple[int, int]]  # prompt and output tokens, to draw from
    requests: int  # measured ones
    warmups: int
    sessions: Sessions | None = None  # people in conversations, in place of single requests
    seeded: Seeded | None = None  # the very requests; None: any such ones, at any instants


def require_predictable(run: RunData) -> None:
    """Raise PredictionError where answers are embeddings, which have no steps to predict from, or each waited for the model to load."""
    if str(run.fact("target", "dialect")).endswith("embeddings"):
        raise PredictionError(
            f"{run.path} measured embeddings, which have no tokens to predict from; measure a chat or completions endpoint."
        )
    if is_cold(run):
        raise PredictionError(
            f"{run.path} measured cold model loads, and no other load has the model unloaded before each request; measure without --unload."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerModel:
    """A server as a run shows it: all that a prediction is made from."""

    timing: Timing
    slots: int | None  # None: no limit was ever met
    prompts: tuple[int, ...]  # uncached prompt tokens as observed, one per request
    outputs: tuple[int, ...]  # output tokens of the same requests
    streams: int  # the most streams that were seen decoding together
    simulated: bool
    pattern: LoadPattern
    step_errors: dict[int, float]  # standard error of each step time, as a share of it
    prefill_error: float  # standard error of the prefill speed, as a share of it
    in_flight: int  # the most users of a level
    # False: growth of the step time past the streams measured is unknown, and drawn from 0 to MOST_SLOPE
    slope_known: bool
    guess: str | None  # what the timing for more slots than measured takes for granted
    sessions: Sessions | None = None  # where users hold conversations: `prompts` are then what of them was read
    way: str = SLICED_WAY  # how the server works by it
    redrawn: bool = True  # whether each repetition draws lengths anew; False: those observed, in another order
    pace_error: float = 0.0  # by what share the server's pace may differ in another run (see pace.py)
    paces: tuple[tuple[int, float], ...] = ()  # by level of the run: its steps' times as shares of the model's
    assumed: tuple[str, ...] = ()  # sentences on what is taken for granted of the requests
    lengths_known: bool = False  # whether `prompts` and `outputs` stand for the whole distribution that was asked for

    @classmethod
    def of(cls, run: RunData, slots: Slots, steps: Steps) -> Self:
        """Build the model; raise PredictionError, one sentence, where the run does not say enough."""
        single = cls.of_requests(run, slots, steps)
        return replace(single, sessions=sessions.likeliest(run, slots, measure_cache(run, slots, steps)))

    @classmethod
    def of_requests(cls, run: RunData, slots: Slots, steps: Steps) -> Self:
        """Build the same without conversations, whose host cache takes long to find; raises as `of` does."""
        require_predictable(run)
        if not steps.times:
            raise PredictionError("No prediction: no steps between tokens were seen; measure answers of more tokens.")
        if steps.prefill is None:
            raise PredictionError(f"No prediction: {steps.prefill_reason}.")
        prompts, outputs = admission.request_lengths(run)
        prefill = steps.prefill
        half = (prefill.ci95[1] - prefill.ci95[0]) / 2
        concurrency = [int(level.get("concurrency") or 0) for level in run.levels]
        split, guess = admission.split_passes(run, slots, steps)
        return cls(
            timing=replace(steps.timing(neighbours=split), **admission.admission(run, slots, steps)._asdict()),
            slots=slots.number,
            prompts=prompts,
            outputs=outputs,
            streams=max(entry.streams for entry in steps.times),
            simulated=run.simulated is not None,
            pattern=admission.load_pattern(run, slots),
            step_errors={entry.streams: entry.error_s / entry.mean_s for entry in steps.times},
            prefill_error=half / NORMAL_95 / max(prefill.per_token_s, 1e-12),
            in_flight=max([*concurrency, 1]),
            slope_known=steps.slope_s is not None,
            pace_error=steps.pace_error,
            paces=tuple(steps.paces.items()),
            guess=guess,
            assumed=tuple(assumed(run)),
        )

    def closed(
        self,
        concurrency: int,
        *,
        slots: int | None = None,
        requests: int | None = None,
        seeded: Seeded | None = None,
    ) -> Prediction:
        """Predict a closed loop of `concurrency` users.

        Args:
            slots: parallel slots in place of the measured ones.
            requests: how many are measured, warm-up apart; as the run did it when not given.
            seeded: the very requests, and so their number, in place of any of such lengths.
        """
        requests = seeded.run.requests if seeded else requests
        pattern = self.pattern
        return self._predict(
            Load(
                concurrency=concurrency,
                rate=None,
                slots=slots or self.slots,
                lengths=list(zip(self.prompts, self.outputs, strict=True)),
                requests=max(requests or pattern.requests or round(pattern.each * concurrency), concurrency),
                warmups=concurrency if pattern.warmup else 0,
                sessions=self.sessions,
                seeded=seeded,
            )
        )

    def open(
        self,
        rate: float,
        *,
        slots: int | None = None,
        requests: int | None = None,
        seeded: Seeded | None = None,
    ) -> Prediction:
        """Predict an open loop of `rate` requests a second with Poisson arrivals; arguments as in closed."""
        requests = seeded.run.requests if seeded else requests
        return self._predict(
            Load(
                concurrency=None,
                rate=rate,
                slots=slots or self.slots,
                lengths=list(zip(self.prompts, self.outputs, strict=True)),
                requests=requests or OPEN_REQUESTS,
                warmups=0,
                seeded=seeded,
            )
        )

    def _play(self, load: Load, engine: Engine, requests: int, draw: random.Random) -> Played:
        tokens: list[Emission] = []
        if load.sessions is not None and load.concurrency is not None:
            users, sessions = load.concurrency, load.sessions
            turns = sum(map(len, sessions.scripts)) / len(sessions.scripts)
            # One conversation a person to warm up, and one so that nobody is idle while the last requests count.
            held = requests + round((2 if sessions.warm else 1) * users * turns)
            if isinstance(load.seeded, SeededPeople):
                sessions = replace(sessions, joined_over_s=load.seeded.joined_over_s)
                plan = load.seeded.conversations(held, users, draw)
            else:
                plan = sessions.draw(held, users, draw)
            played = sessions.play(engine, plan, users, tokens.append)
            return counted_turns(played, tokens, requests, users, warm=sessions.warm)
        lengths = draw_lengths(load.lengths, requests + load.warmups, draw)
        if isinstance(load.seeded, SeededRequests):
            lengths = load.seeded.lengths(lengths, warmups=load.warmups)
        streams = self._send(load, engine, cold_requests(lengths), draw, tokens.append)
        return Played(streams, tokens, np.arange(len(streams)) >= load.warmups)

    def _send(
        self, load: Load, engine: Engine, requests: list[EngineRequest], draw: random.Random, see: See
    ) -> list[Stream]:
        if load.rate is not None:
            drawn = accumulate(draw.expovariate(load.rate) for _ in requests)
            arrivals = load.seeded.instants_s(load.rate) if isinstance(load.seeded, SeededRequests) else drawn
            return open_loop(engine, requests, list(arrivals), see=see)
        users, together = load.concurrency or 1, self.pattern.together
        share = draw.choice(together) if together else 0.0
        first = 1 + round(share * (min(users, load.slots or users) - 1))
        starts = [0.0] * first + [SPACING_S * (1 + user) for user in range(users - first)]
        return closed_loop(engine, requests, starts_s=starts, turnaround_s=self.pattern.turnaround_s, see=see)

    def _repeated(self, load: Load, count: int, times: int) -> list[Load]:
        """Return the load for each repetition, with lengths as another run would draw them.

        A run of m requests has a mean length off by 1/√m of its spread; and of the n lengths that were observed, which are but
        a sample, the mean is off by 1/√n. As few are drawn for each repetition as vary by both. Together the repetitions hold
        every length about equally often (the balanced bootstrap of Davison, Hinkley and Schechtman, 1986), so that figures
        rest on all lengths, and bands on how much samples differ.
        """
        lengths = load.lengths
        if not self.redrawn or len(set(lengths)) == 1:
            return [load] * times
        each = count if self.lengths_known else max(round(count * len(lengths) / (count + len(lengths))), 1)
        draw = random.Random("lengths")
        dealt: list[tuple[int, int]] = []
        while len(dealt) < each * times:
            dealt += lengths
        draw.shuffle(dealt)
        return [replace(load, lengths=dealt[place * each : (place + 1) * each]) for place in range(times)]

    def _predict(self, load: Load) -> Prediction:
        requests, times = self._affordable(load)
        repeated = self._repeated(load, requests + load.warmups, times)
        found = [self._repetition(each, requests, seed) for seed, each in enumerate(repeated)]
        played, depths, growing = zip(*found, strict=True)
        bands = {key: prediction_band(played, key, share=key == SHARE) for key in BANDED if key in played[0]}
        if self.pace_error >= LEAST_PACE_ERROR:
            # what is sent at instants of its own, or after a thought, is not sent faster to a faster server
            scales, same = load.rate is None and load.sessions is None, played[:PACE_SEEDS]
            others = [
                [
                    at_other_pace(each, pace) if scales else self._repetition(repeated[seed], requests, seed, pace)[0]
                    for seed, each in enumerate(same)
                ]
                for pace in (1 + self.pace_error, 1 / (1 + self.pace_error))
            ]
            bands = allowing_for_pace(bands, same, others)
        return Prediction(
            concurrency=load.concurrency,
            rate=load.rate,
            slots=load.slots,
            requests=requests * len(played),
            a_run=requests,
            figures={
                key: middle([one[key] for one in played], share=key == SHARE)
                for key in played[0]
                if key[-1] not in "-+"
            },
            bands=bands,
            extrapolates=self._extrapolates(load.slots, load.concurrency, max(depths)),
            grows=2 * sum(growing) > len(growing),
            streams=max(depths),
        )

    def _repetition(self, load: Load, requests: int, seed: int, pace: float = 1.0) -> tuple[Figures, int, bool]:
        """Play a run once, with all times `pace` times as long; return figures, the most streams, whether its queue grew."""
        draw = random.Random(seed)
        timing = self.drawn(draw) if pace == 1 else self.drawn(draw).scaled(pace)
        host = load.sessions.engine_cache(seed) if load.sessions is not None else None
        slots = load.slots or (load.concurrency if host else None)  # the engine caches prompts in slots alone
        engine = Engine(timing, slots=slots, seed=seed, loaded=CONTEXT, scatter=timing.neighbours, host=host)
        one = self._play(load, engine, requests, draw)
        figures, depth = figures_of_play(one, load.concurrency, sessions=load.sessions is not None)
        return figures, depth, load.rate is not None and queue_grows(one.streams)

    def _affordable(self, load: Load) -> tuple[int, int]:
        """Return how many requests a repetition has and how many repetitions there are, within TOKENS_SIMULATED."""
        tokens = sum(output for _, output in load.lengths) / len(load.lengths)
        at_once = min(load.concurrency or self.streams, load.slots or self.streams, self.streams)
        tokens *= 1 + 2 / at_once  # a step takes time to simulate as well, however few streams share it
        fewest = load.requests if load.seeded else max(FEWEST_REQUESTS, 2 * (load.concurrency or 1))
        most, budget = MOST_SEEDS, TOKENS_SIMULATED
        if load.rate is not None:
            most, budget = MOST_OPEN_SEEDS, OPEN_TIMES * TOKENS_SIMULATED
        requests = min(load.requests, max(int(budget / FEWEST_SEEDS / tokens) - load.warmups, fewest))
        return requests, max(FEWEST_SEEDS, min(most, int(budget / tokens / (requests + load.warmups))))

    def drawn(self, draw: random.Random) -> Timing:
        """Return the timing with each measured part of it drawn anew within its standard error."""
        table = tuple(
            (streams, tuple(value * factor for value in values))
            for streams, values in self.timing.step.table
            for factor in (max(1 + draw.gauss(0, min(self.step_errors.get(streams, 0.0), 0.3)), 0.1),)
        )
        if not self.slope_known:
            most, values = table[-1]
            last = sum(values) / len(values)
            slope = draw.uniform(0, MOST_SLOPE) * last / most
            table += ((most + SLOPE_CARRIED_STREAMS, (last + slope * SLOPE_CARRIED_STREAMS,)),)
        factor = max(1 + draw.gauss(0, min(self.prefill_error, 0.3)), 0.1)
        return replace(
            self.timing,
            step=replace(self.timing.step, table=table),
            prefill_s=self.timing.prefill_s * factor,
            context_prefill_s=self.timing.context_prefill_s * factor,
            prompt_s=self.timing.prompt_s * factor,
        )

    def _extrapolates(self, slots: int | None, concurrency: int | None, deepest: int) -> str | None:
        if deepest > self.streams:
            how = "is carried on from those" if self.slope_known else "is a guess, for these show no growth"
            return (
                f"up to {deepest} streams decode together here, and no more than {self.streams} {'was' if self.streams == 1 else 'were'} measured: "
                f"their step time {how}{'; ' + self.guess if self.guess else ''}"
            )
        if self.slots is None and slots is None and (concurrency or 0) > self.in_flight:
            return f"no limit of slots was met with {self.in_flight} requests at once: none is assumed beyond them"
        if slots != self.slots and self.slots is not None:
            return f"measured with {self.slots} slots, not with {slots}" + (f"; {self.guess}" if self.guess else "")
        return None
