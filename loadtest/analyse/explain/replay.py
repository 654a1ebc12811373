"""A level played again as it was sent, with a request or a cause left out: what another would then have waited.

The engine gets the run's own arrivals, lengths and slots. In a closed loop a request goes out as long after the answer
that its user waited for as it did in the run, so what is left out moves those behind it. The user of a request that is left
out pauses for as long as that one took.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from loadtest.analyse.explain.timeline import Timeline
from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.run import BoolArray, FloatArray, IntArray, LevelData, RunData, grouped
from loadtest.analyse.server.alternating_models import LONG_MODEL_LOAD_S
from loadtest.analyse.server.queue.slots import Slots, known_slots
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.whatif.model.bands import ENGINE_ERROR
from loadtest.analyse.whatif.model.fit import fit_models
from loadtest.analyse.whatif.model.play import CONTEXT
from loadtest.analyse.whatif.model.predict import SLICED_WAY, ServerModel
from loadtest.analyse.whatif.model.self_check import GIVEN_BACK
from loadtest.errors import PredictionError
from loadtest.metrics import NS_PER_S, Interval
from loadtest.records import Outcome
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.stream import EngineRequest, Stream
from loadtest.simulate.model.virtual import cold_prompt
from loadtest.text import seconds

SEEDS = 6
MOST_REPLAYED = 20_000  # of a level that are played again, the last before the request
OWN_BACK = 0.25  # by which the replay may miss the request itself
LONG = 4.0  # times the median prompt: a longer one counts by the time that the server says it took, …
MOST_WORTH = 4.0  # … but as no more than so many times its own tokens
LEAST_MISS_S = 0.02  # closer than that is given back, whatever the share
FOLLOWS_S = 0.001  # an answer that seems to end so little after a send may be the one that the sender waited for


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of the level; instants in seconds since the first of them was sent."""

    row: int
    prompt: int  # uncached tokens
    output: int
    at: float  # when it was sent
    loading: float  # s, until its model was there, and its handling
    after: int | None  # the row whose answer its user waited for
    pause: float  # between that answer and this request
    gone: float | None  # when the client went away, seconds since `at`

    @property
    def ready(self) -> float:
        """When it came to the queue; those that waited for one model load come together, in the order sent."""
        return round(self.at + self.loading, 3) if self.loading > LONG_MODEL_LOAD_S else self.at + self.loading


@dataclass(frozen=True, slots=True)
class Omission:
    without: int | None = None  # a row
    cached: Mapping[int, int] = field(default_factory=dict)  # by row: prompt tokens that the cache would have held
    model_loads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelReplay:
    """A level for the engine to play, up to the first token of the request in `row`."""

    model: ServerModel
    row: int
    ttft_s: float  # as measured
    sent: tuple[Sent, ...]
    measured: dict[int, float]  # TTFT of the requests that were answered
    handled: bool  # whether `loading` holds the handling of a request, as load_duration does
    base: list[dict[int, float]] = field(default_factory=list)  # TTFT by row of the level as it was, by seed

    @classmethod
    def of(cls, run: RunData, timeline: Timeline, model: ServerModel, row: int) -> Self | str:
        """Return the replay for a request that got a token, or why there can be none: a clause."""
        until = float(timeline.first[row])
        rows = np.flatnonzero(
            (timeline.level == timeline.level[row]) & (timeline.send <= until) & np.isfinite(timeline.send)
        )
        rows = rows[~run.one_of("outcome", *_REFUSED)[rows]]
        rows = rows[np.argsort(timeline.send[rows], kind="stable")]
        prompts = _as_read(timeline, model)[rows]
        outputs = _outputs(run)[rows]
        if not np.isfinite(prompts).all():
            return "how many tokens some of the requests had is not known"
        kept = _latest(timeline, rows, prompts + outputs)
        rows, prompts, outputs = rows[kept], prompts[kept], outputs[kept]
        level = next(each for each in run.levels if each["index"] == timeline.level[row])
        after = _turns(run, rows) | ({} if level.is_open else _predecessors(run, timeline, rows, alike=level.is_closed))
        start = float(timeline.send[rows].min())
        over = np.where(timeline.silent, timeline.end, timeline.freed)
        loading, ok = np.nan_to_num(run.column("load_s")), run.flag("ok")
        sent = tuple(
            Sent(
                row=int(each),
                prompt=max(int(prompt), 1),
                output=max(int(output), 1),
                at=float(timeline.send[each]) - start,
                loading=float(loading[each]),
                after=after.get(int(each)),
                pause=max(float(timeline.send[each] - over[after[int(each)]]), 0.0) if int(each) in after else 0.0,
                gone=None if ok[each] else float(timeline.end[each] - timeline.send[each]),
            )
            for each, prompt, output in zip(rows, prompts, outputs, strict=True)
        )
        ttft = timeline.first - timeline.send
        measured = {int(each): float(ttft[each]) for each in rows if math.isfinite(ttft[each])}
        handled = bool(np.isfinite(run.column("load_s")).any())
        found = cls(model=model, row=row, ttft_s=float(ttft[row]), sent=sent, measured=measured, handled=handled)
        found.base.extend(found._play(Omission(), seed) for seed in range(SEEDS))
        return found

    @property
    def has_model_loads(self) -> bool:
        """Whether a model was loaded in it."""
        return any(each.loading > LONG_MODEL_LOAD_S for each in self.sent)

    def worst_miss(self) -> str | None:
        """Return a clause on what the replay of the run as it was misses; None where it gives the run back."""
        played = self.base
        mine = [each[self.row] for each in played if self.row in each]
        said = float(np.mean(mine)) if len(mine) == SEEDS else math.nan
        if not _near(said, self.ttft_s, OWN_BACK):
            return f"its TTFT is {seconds(said)} and not {seconds(self.ttft_s)}"
        both = [row for row in self.measured if all(row in each for each in played)]
        seen = np.array([self.measured[row] for row in both])
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            model = float(np.mean([np.quantile([each[row] for row in both], share) for each in played]))
            value = float(np.quantile(seen, share))
            if not _near(model, value, GIVEN_BACK if len(both) >= 20 else OWN_BACK):
                return f"TTFT {name} up to it is {seconds(model)} and not {seconds(value)}"
        return None

    def what_if(self, change: Omission) -> tuple[float, Interval] | None:
        """Return TTFT with the change, and where it would lie in 95 of 100 cases; None unknown.

        The measured TTFT is scaled by what the change does in the replay. The replay misses the measured TTFT by a little: where
        the change takes nearly all of the time away, the replay's own TTFT stands; where it takes nothing away, the measured one;
        in between, the nearer of the two counts for more.
        """
        played = [(self.base[seed].get(self.row), self._play(change, seed).get(self.row)) for seed in range(SEEDS)]
        if not all(before and after is not None for before, after in played):
            return None
        before, after = np.array(played, dtype=np.float64).T
        shares, miss = after / before, float(np.mean(before / self.ttft_s - 1))
        share = float(np.mean(shares))
        half = t_quantile(SEEDS - 1) * float(np.std(shares, ddof=1)) * math.sqrt(1 + 1 / SEEDS)
        half = math.hypot(half, ENGINE_ERROR * share, miss * (1 - share))
        likely = self.ttft_s * share * (1 + miss) ** (1 - share)
        return likely, (max(likely - half * self.ttft_s, 0.0), likely + half * self.ttft_s)

    def _play(self, change: Omission, seed: int) -> dict[int, float]:
        """Play the level once; return TTFT by row, of those that had a first token by the time the request had."""
        draw = random.Random(seed)
        timing = self.model.drawn(draw)
        timing = replace(timing, handling_s=0.0) if self.handled else timing
        engine = Engine(timing, slots=self.model.slots, seed=seed, loaded=CONTEXT, scatter=timing.neighbours)
        return _Player(engine, {each.row: each for each in self.sent}, change, self.row).play()


def replay_models(
    run: RunData, slots: Slots, steps: Steps, levels: Sequence[LevelData]
) -> tuple[ServerModel, ...] | str:
    """Return the models that predictions of this run rest on, then that of the usual way; a clause says why there is none.

    A level that is explained may have been disturbed, and nothing be predicted from its run. Its replay decides which
    model gives it back as it was sent.
    """
    try:
        fitted = tuple(fit_models(run, slots, steps, levels).models.values())
    except PredictionError:
        fitted = ()
    if any(model.way == SLICED_WAY for model in fitted):
        return fitted
    try:
        return (*fitted, ServerModel.of_requests(run, known_slots(run, slots), steps))
    except PredictionError as error:
        return fitted or str(error).removeprefix("No prediction: ").rstrip(".")


class _Player:
    """Plays requests on an engine, each when it was sent or as long after the answer before it as it was."""

    def __init__(self, engine: Engine, sent: dict[int, Sent], change: Omission, until: int) -> None:
        self.engine, self.sent, self.change, self.until = engine, sent, change, until
        warm = [each.loading for each in sent.values() if each.loading <= LONG_MODEL_LOAD_S]
        self.warm = float(np.median(warm)) if warm else 0.0  # what a request takes whose model is there
        self.streams: dict[int, Stream] = {}
        self.due: list[tuple[int, int, int, bool]] = []  # (instant, ordinal, row, whether its client goes away)
        self.order = itertools.count()
        self.behind: dict[int, list[Sent]] = {}
        for each in sent.values():
            if each.row == change.without:
                continue
            if each.after is None or each.after == change.without or each.after not in sent:
                self._at(each.at + self._delay(each) if change.model_loads else each.ready, each.row)
            else:
                self.behind.setdefault(each.after, []).append(each)

    def play(self) -> dict[int, float]:
        while (mine := self.streams.get(self.until)) is None or mine.first is None:
            due = self.engine.due()
            if self.due and (due is None or self.due[0][0] <= due):
                now, _, row, leaves = heapq.heappop(self.due)
                self._send_or_leave(row, now, leaves=leaves)
            elif due is None:
                break
            else:
                for emission in self.engine.advance(due):
                    if emission.done:
                        self._release_followers(emission.stream.request.id, emission.at)
        return {
            row: (stream.first - stream.arrived) / NS_PER_S + self._delay(self.sent[row])
            for row, stream in self.streams.items()
            if stream.first is not None
        }

    def _delay(self, one: Sent) -> float:
        return self.warm if self.change.model_loads and one.loading > LONG_MODEL_LOAD_S else one.loading

    def _at(self, instant_s: float, row: int, *, leaves: bool = False) -> None:
        heapq.heappush(self.due, (round(instant_s * NS_PER_S), next(self.order), row, leaves))

    def _send_or_leave(self, row: int, now: int, *, leaves: bool) -> None:
        if leaves:
            stream = self.streams[row]
            if stream.ended is None:
                self.engine.cancel(stream, now)
                self._release_followers(row, now)
            return
        one = self.sent[row]
        prompt = one.prompt - self.change.cached.get(row, 0)
        request = EngineRequest(row, cold_prompt(max(prompt, 1), row), one.output, num_ctx=CONTEXT)
        self.streams[row] = self.engine.submit(request, now)
        if one.gone is not None:
            self._at(now / NS_PER_S - self._delay(one) + one.gone, row, leaves=True)

    def _release_followers(self, row: int, at: int) -> None:
        for each in self.behind.pop(row, []):
            self._at(at / NS_PER_S + each.pause + self._delay(each), each.row)


_REFUSED = {Outcome.HTTP_ERROR, Outcome.CONNECT_ERROR}  # these never reached the engine


def _near(said: float, value: float, share: float) -> bool:
    return abs(said - value) <= max(share * max(said, value), LEAST_MISS_S)


def _as_read(timeline: Timeline, model: ServerModel) -> FloatArray:
    """Return uncached prompt tokens; of a long prompt that the server says it read, as many as its time is worth.

    The time a token takes grows with the context before it, which the law of usual prompts may not hold.
    """
    tokens = np.where(np.isfinite(timeline.tokens), timeline.tokens, timeline.prompt)
    timing, known = model.timing, timeline.told & (timeline.tokens > 0)
    if not known.any() or timing.prefill_s <= 0 or timing.context_prefill_s:
        return tokens
    spent = timeline.first - timeline.read_from
    slices = np.zeros(len(tokens)) if timing.n_batch is None else np.ceil(tokens / timing.n_batch)
    worth = (spent - timing.prompt_s - slices * timing.step.values(1)[0]) / timing.prefill_s
    long = known & (tokens >= LONG * np.nanmedian(timeline.tokens))
    return np.where(long, np.clip(worth, tokens, MOST_WORTH * tokens), tokens)


def _outputs(run: RunData) -> FloatArray:
    """Return the tokens of each answer; of one that was cut off those asked for, or as many as others have."""
    known, asked = run.column("output_tokens"), run.column("asked")
    seen = np.where(run.flag("ok") & np.isfinite(known), known, np.nan)
    usual = float(np.nanmedian(seen)) if np.isfinite(seen).any() else 1.0
    return np.where(np.isfinite(seen), seen, np.where(np.isfinite(asked), asked, usual))


def _latest(timeline: Timeline, rows: IntArray, tokens: FloatArray) -> BoolArray:
    """Mark the last requests that are few enough to be played, and those at the server when the first of them came."""
    spent = np.cumsum(np.minimum(tokens, 4096)[::-1])[::-1]
    first = int(np.argmax(spent <= MOST_REPLAYED)) if (spent <= MOST_REPLAYED).any() else len(rows) - 1
    return np.asarray(
        (np.arange(len(rows)) >= first) | (timeline.end[rows] > timeline.send[rows[first]]), dtype=np.bool_
    )


def _turns(run: RunData, rows: IntArray) -> dict[int, int]:
    """Return, for each turn of a conversation, the turn before it."""
    session, turn = run.column("session"), run.column("turn")
    known = [int(row) for row in rows if math.isfinite(session[row]) and math.isfinite(turn[row])]
    by_turn = {(session[row], turn[row]): row for row in known}
    before = {row: by_turn.get((session[row], turn[row] - 1)) for row in known}
    return {row: earlier for row, earlier in before.items() if earlier is not None}


def _predecessors(run: RunData, timeline: Timeline, rows: IntArray, *, alike: bool) -> dict[int, int]:
    """Return, for each request of a closed loop, the one whose answer its user waited for.

    Where the records do not name users it is the last answer before it that no other request followed: users are `alike`. They
    are not beside an open loop, whose requests have no user.
    """
    users = run.column("user")[rows]
    if (named := np.isfinite(users)).all() or not alike:
        by_user = grouped(zip(users[named].tolist(), rows[named].tolist(), strict=True))
        return {row: before for mine in by_user.values() for before, row in itertools.pairwise(mine)}
    found: dict[int, int] = {}
    ended = sorted((float(timeline.freed[row]), int(row)) for row in rows if math.isfinite(timeline.freed[row]))
    waiting: list[tuple[float, int]] = []
    place = 0
    for row in rows:
        while place < len(ended) and ended[place][0] <= float(timeline.send[row]) + FOLLOWS_S:
            waiting.append(ended[place])
            place += 1
        if waiting:
            found[int(row)] = waiting.pop()[1]
    return found
