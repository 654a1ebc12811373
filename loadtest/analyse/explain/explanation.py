"""Why one request took as long as it did: its time in parts, whose doing they were, and what it would have been without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from loadtest.analyse.explain import time_parts
from loadtest.analyse.explain.lost_cache import lost_with
from loadtest.analyse.explain.replay import LevelReplay, Omission, replay_models
from loadtest.analyse.explain.splitter import BIG_PROMPT, Splitter
from loadtest.analyse.explain.time_parts import Cause, Parts, TimePart
from loadtest.analyse.explain.timeline import Timeline, pause_windows, silent_windows
from loadtest.analyse.run import FloatArray, IntArray, LevelData, RunData, finite, grouped
from loadtest.analyse.server.queue.slots import Slots, known_slots
from loadtest.analyse.server.timing import token_gaps
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.errors import PredictionError
from loadtest.metrics import Interval
from loadtest.text import listed, percent

MOST_TRIED = 3  # causes that are left out in turn
MOST_EARLIER = 2  # requests of the time before it came that are tried as causes
LEAST_CAUSE = 0.02  # of the time to the first token, for a cause to be tried
LEAST_SAVED = 0.05  # of the time to the first token: a cause whose absence would save less is not told
# of the time to the first token: of causes whose savings differ by less, the request that was at work longest is told
SAVINGS_ALIKE = 0.1
MUCH_LONGER = 2.0
USUAL_FACTOR = 1.25  # times the median of its level, up to which, and above the inverse, it took as long as others do
NOBODY = "neither a wait for a slot nor another request's prompt is a part of it that counts"
UNKNOWN_PARTS = (time_parts.REST, time_parts.BEHIND, time_parts.WAIT, time_parts.SLOW)
# of the time to the first token, unexplained; with MOST_REST of it no request that caused some of the rest is left out
LEAST_REST, MOST_REST, MOST_DROPPED = 0.2, 0.5, 3
SLOW_STEPS, SLOW_FACTOR = 5, 1.3  # so many steps, so many times their usual time, and a server was slow as a whole
BY = {"ttft": "ttft_s", "e2e": "e2e_s"}
REQUEST, CACHE, MODEL_LOAD = "request", "cache", "load"  # what is left out


@dataclass(frozen=True, slots=True)
class Slowness:
    """How much longer than usual the server's plain decode steps took while the request waited for its first token."""

    factor: float
    steps: int


@dataclass(frozen=True, slots=True)
class Without:
    """What the engine says of the request with one cause left out."""

    what: str  # REQUEST, CACHE or MODEL_LOAD
    cause: Cause | None  # the request that is left out, with CACHE too where it alone took a slot of another's
    seconds: float  # its TTFT then
    band: Interval  # where that would lie in 95 of 100 cases

    @property
    def held_s(self) -> float:
        """How long what is left out was at work."""
        return self.cause.held_s if self.cause and self.what == REQUEST else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    row: int
    id: int
    level: LevelData  # of summary.json
    outcome: str
    error: str | None  # what a failed one says
    ttft_s: float
    e2e_s: float
    usual_s: float  # median TTFT of the others of its level
    usual_prompt: float  # median prompt tokens of the others of its level
    usual_output: float  # median output tokens of the others of its level
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    warmup: bool
    beside: tuple[str, ...]
    of: str  # whose requests are known here: the run's, or of several models and servers this one's
    begin_s: float  # when it was due, on the run's axis
    parts: Parts
    slow: Slowness | None
    reads_apart_s: float | None  # of tokens that come several at once; None: they come one by one
    dropped: tuple[int, ...]  # ids of requests that were given up shortly before: the server may have gone on with them
    without: tuple[Without, ...]  # the greatest saving first; those that save nothing too
    no_replay: str | None  # a clause on why the engine says nothing; None where it does

    @property
    def left_late_s(self) -> float:
        """How long after it was due it was sent: TTFT counts from the send, and `parts` from when it was due."""
        return self.parts.total_s - self.ttft_s

    @property
    def told(self) -> Without | None:
        """The cause without which the request would have been fastest; None where none counts."""
        worth = self.worth
        if not worth:
            return None
        alike = [each for each in worth if each.seconds <= worth[0].seconds + SAVINGS_ALIKE * self.ttft_s]
        longest = max(alike, key=lambda each: each.held_s)
        return longest if longest.held_s >= MUCH_LONGER * worth[0].held_s else worth[0]

    @property
    def _saving(self) -> list[Without]:
        return [each for each in self.without if each.seconds <= (1 - LEAST_SAVED) * self.ttft_s]

    @property
    def worth(self) -> list[Without]:
        """The causes without which the request would have been faster, beyond the engine's uncertainty."""
        return [each for each in self._saving if each.band[1] < self.ttft_s]

    @property
    def unsure(self) -> Without | None:
        """The cause that may count most, where the engine's uncertainty lets none be told."""
        return self._saving[0] if self._saving and not self.worth else None

    @property
    def usual(self) -> bool:
        """Whether it took about as long to its first token as the others of its level."""
        told = math.isfinite(self.ttft_s)
        return told and self.usual_s <= USUAL_FACTOR * self.parts.total_s <= USUAL_FACTOR**2 * self.usual_s

    def to_dict(self) -> dict[str, Any]:
        """Return what `loadtest explain --json` prints, which has null for nan."""
        lost = self.parts.lost
        return {
            "request": self.id,
            "level": self.level["index"],
            "label": self.level["label"],
            "verdict": self.level["verdict"],
            "beside": list(self.beside),
            "outcome": self.outcome,
            "error": self.error,
            "warmup": self.warmup,
            "ttft_s": self.ttft_s,
            "e2e_s": self.e2e_s,
            "usual_ttft_s": self.usual_s,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "due_s": self.begin_s,
            "to_first_token_s": self.parts.total_s,
            "parts": [_part_dict(part) for part in self.parts.first],
            "decode_s": self.parts.decode_s,
            "decode_parts": [_part_dict(part) for part in self.parts.decode],
            "lost_cache": lost
            and {
                "tokens": lost.tokens,
                "of": lost.of,
                "left_by": lost.before.id,
                "read_since": [each.id for each in lost.since],
            },
            "reads_apart_s": self.reads_apart_s,
            "given_up_before": list(self.dropped),
            "slower_steps": self.slow and {"factor": self.slow.factor, "steps": self.slow.steps},
            "without": [
                {
                    "what": each.what,
                    "request": each.cause.id if each.cause else None,
                    "ttft_s": each.seconds,
                    "band": list(each.band),
                }
                for each in self.without
            ],
            "without_reason": self.no_replay,
        }


def _part_dict(part: TimePart) -> dict[str, Any]:
    return {
        "part": part.name,
        "seconds": part.seconds,
        "inferred": part.inferred,
        "tokens": part.tokens,
        "streams": part.streams,
        "waiting_already": part.ahead,
        "causes": [
            {"request": each.id, "seconds": each.seconds, "prompt_tokens": each.tokens, "how": each.how}
            for each in part.causes
        ],
    }


@dataclass(frozen=True, slots=True)
class Explainer:
    run: RunData  # whose requests carry their waits, as those of an Analysis do
    levels: Sequence[LevelData]  # of summary.json
    splitter: Splitter
    # to replay a level with, the likeliest first; a clause says why there is none
    models: tuple[ServerModel, ...] | str
    beside: tuple[str, ...]  # models of the run that loaded the same server: who asked for them is not named

    @classmethod
    def of(
        cls,
        run: RunData,
        slots: Slots,
        steps: Steps,
        levels: Sequence[LevelData],
        beside: Sequence[str] = (),
    ) -> Self:
        slots = known_slots(run, slots)
        gaps, pauses = token_gaps.read_gaps(run, slots), pause_windows(run, steps)
        splitter = Splitter(run, slots, steps, gaps, Timeline.of(run, steps), pauses)
        return cls(run, levels, splitter, replay_models(run, slots, steps, levels), tuple(beside))

    def explain(self, row: int) -> Explanation:
        run, timeline = self.run, self.splitter.timeline
        parts = self.splitter.split(row)
        level = next(each for each in self.levels if each["index"] == timeline.level[row])
        good = run.good(int(timeline.level[row]))
        good[row] = False
        without, reason = self._without(row, parts)
        return Explanation(
            row=row,
            id=int(timeline.ids[row]),
            level=level,
            outcome=str(run.requests["outcome"].to_numpy()[row]),
            error=error if isinstance(error := run.requests["error"].to_numpy()[row], str) else None,
            ttft_s=float(run.column("ttft_s")[row]),
            e2e_s=float(run.column("e2e_s")[row]),
            usual_s=_median(run.column("ttft_s")[good]),
            usual_prompt=_median(run.column("prompt_tokens")[good]),
            usual_output=_median(run.column("output_tokens")[good]),
            prompt_tokens=_count(run.column("prompt_tokens")[row]),
            cached_tokens=_count(run.column("cached_tokens")[row]),
            output_tokens=_count(run.column("output_tokens")[row]),
            warmup=bool(run.requests["warmup"].to_numpy()[row]),
            dropped=self._dropped(row, parts),
            beside=self.beside,
            of=self._of,
            begin_s=float(timeline.sched[row]),
            parts=parts,
            slow=self._slowness(float(timeline.arrived[row]), float(np.fmin(timeline.first[row], timeline.end[row]))),
            reads_apart_s=self.splitter.gaps.reads_apart_s,
            without=without,
            no_replay=reason,
        )

    @property
    def _of(self) -> str:
        return "the run" if self.run.whole is None else "this model at this server"

    def _slowness(self, low: float, high: float) -> Slowness | None:
        """Return how slow plain steps were between two instants; None where they were as usual, or too few to tell."""
        gaps = self.splitter.gaps
        inside = gaps.clean & (gaps.left >= low) & (gaps.right <= high)
        timeline = self.splitter.timeline
        # What was read for those without a token is not known, and in a pause nothing is.
        for each in (*silent_windows(timeline, low, high, -1), *self.splitter.pauses):
            inside &= (gaps.right < each.start) | (gaps.left > each.end)
        context = timeline.prompt + np.nan_to_num(self.run.column("output_tokens"))
        long = context >= BIG_PROMPT * _median(context)
        for row in np.flatnonzero(long & np.isfinite(timeline.last)):  # steps beside a long context take longer
            inside &= (gaps.right < timeline.first[row]) | (gaps.left > timeline.last[row])
        usual = {each.streams: each.median_s for each in self.splitter.steps.times}
        streams, spent = gaps.streams[inside], gaps.step_s[inside]
        expected = np.array([usual.get(int(each), math.nan) for each in streams])
        known = np.isfinite(expected)
        if known.sum() < SLOW_STEPS:
            return None
        factor = float(spent[known].sum() / expected[known].sum())
        lost = float(spent[known].sum() - expected[known].sum())
        counts = factor >= SLOW_FACTOR and lost >= LEAST_SAVED * (high - low)
        return Slowness(factor, int(known.sum())) if counts else None

    def _dropped(self, row: int, parts: Parts) -> tuple[int, ...]:
        """Return who was given up before its first token, shortly before this request was due or while it waited.

        The longest prompts first; none where the parts leave little unexplained.
        """
        timeline = self.splitter.timeline
        if parts.first[-1].seconds < LEAST_REST * parts.total_s:
            return ()
        since, until = timeline.sched[row] - 2 * parts.total_s, timeline.sched[row] + parts.total_s
        rows = np.flatnonzero(timeline.silent & (timeline.end > since) & (timeline.end < until))
        longest = rows[np.argsort(-np.nan_to_num(timeline.prompt[rows]), kind="stable")][:MOST_DROPPED]
        return tuple(int(timeline.ids[each]) for each in longest if each != row)

    def _without(self, row: int, parts: Parts) -> tuple[tuple[Without, ...], str | None]:
        """Leave out each of the greatest causes in turn; the second value says why the engine cannot."""
        blamed = blame(parts, self.splitter.slots.estimate or 1)
        floor = LEAST_CAUSE * parts.total_s
        tried = [each for each in blamed if blamed[each].seconds >= floor][:MOST_TRIED]
        for each in self.splitter.earlier(row, MOST_EARLIER):
            if each.row not in tried:
                blamed.setdefault(each.row, each)
                tried.append(each.row)
        loaded = any(part.name in (time_parts.MODEL_LOAD, time_parts.TURN) for part in parts.first)
        nobody = not tried and parts.lost is None and not loaded
        rest = parts.share(*UNKNOWN_PARTS)
        whole = bool(self.splitter.timeline.whole[row])
        if rest > (LEAST_REST if nobody or whole else MOST_REST):
            why = ", as its answer came whole" if whole else ""
            return (), f"what {percent(rest)} of it went into is not known{why}"
        if (stood := parts.share(time_parts.PAUSE)) > LEAST_REST:
            of_it = f"for {percent(stood)} of it no stream of {self._of} got a token"
            return (), f"{of_it}, which none of its requests explains"
        if nobody:
            return (), NOBODY
        if self.beside:
            return (), f"{listed(self.beside)} loaded the same server meanwhile"
        if isinstance(self.models, str):
            return (), self.models
        if not math.isfinite(self.splitter.timeline.first[row]):
            return (), "it never got a token"
        if not math.isfinite(self.run.column("slot_wait_s")[row]):
            return (), "how long it waited for a slot is not known"
        replay = self._replay(self.models, row)
        if isinstance(replay, str):
            return (), replay
        found = [
            Without(REQUEST, blamed[each], *said)
            for each in tried
            if (said := replay.what_if(Omission(without=each))) is not None
        ]
        if parts.lost is not None:
            cause = parts.lost.newcomers[0] if len(parts.lost.newcomers) == 1 else None
            one = cause.row if cause else None
            said = replay.what_if(Omission(without=one, cached=lost_with(self.run, self.splitter.timeline, row, one)))
            found += [Without(CACHE, cause, *said)] if said is not None else []
        if replay.has_model_loads and (said := replay.what_if(Omission(model_loads=True))) is not None:
            found.append(Without(MODEL_LOAD, None, *said))
        return tuple(sorted(found, key=lambda each: each.seconds)), None

    def _replay(self, models: Iterable[ServerModel], row: int) -> LevelReplay | str:
        """Return the replay by the first model that gives back the level as it was; a clause says why there is none."""
        missed = ""
        for model in models:
            replay = LevelReplay.of(self.run, self.splitter.timeline, model, row)
            if isinstance(replay, str):
                return replay
            wrong = replay.worst_miss()
            if wrong is None:
                return replay
            missed = missed or wrong
        return f"replayed request by request, the model fitted to this run's levels misses what was measured: {missed}"


def _median(values: FloatArray) -> float:
    known = finite(values)
    return float(np.median(known)) if len(known) else math.nan


def _count(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None


def blame(parts: Parts, slots: int) -> dict[int, Cause]:
    """Return the requests that caused a part of the time to the first token, by row, the greatest first.

    Of a wait behind all the slots, the holder of one has caused its share.
    """
    share = {time_parts.SLOT: 1 / slots}
    causes = (each for part in parts.first if part.name != time_parts.REREAD for each in part.causes)
    found = [
        replace(mine[0], seconds=sum(each.seconds * share.get(each.how, 1.0) for each in mine))
        for mine in grouped((each.row, each) for each in causes).values()
    ]
    return {each.row: each for each in sorted(found, key=lambda each: -each.seconds)}


# -- which request --------------------------------------------------------------------------------------------------


def row_of(run: RunData, request: int) -> int:
    """Return the row of the request with this id; raise PredictionError where the run holds none."""
    ids = run.requests["id"].to_numpy(dtype=np.int64)
    rows = np.flatnonzero(ids == request)
    if len(rows):
        return int(rows[0])
    raise PredictionError(f"{run.path} has no record of a request {request}; they go from {ids.min()} to {ids.max()}.")


def rows_by_length(run: RunData, levels: Iterable[int], by: str) -> IntArray:
    """Return the rows of the measured requests of these levels that have this duration, the slowest first.

    As in the percentiles of TTFT, who hung up before a first token waited longer than everybody who stayed.
    """
    values, gone = run.column(BY[by]), run.left(*levels) & ~np.isfinite(run.column("first_token"))
    if by == "ttft":
        values = np.where(gone, run.column("end") - run.column("send"), values)
    rows = np.flatnonzero((run.good(*levels) | gone) & np.isfinite(values))
    return rows[np.lexsort((-values[rows], ~gone[rows]))]


def at_percentile(rows: IntArray, share: float) -> int:
    """Return the row at a percentile of rows_by_length: the smallest value that so many do not exceed."""
    return int(rows[::-1][max(math.ceil(share * len(rows)) - 1, 0)])


def busiest(levels: Sequence[LevelData]) -> LevelData:
    """Return the level with the highest load among those that have an answer; of several the last that is not void."""
    answered = [level for level in levels if level["outcomes"].get("ok")] or levels
    return max(answered, key=lambda level: (level.amount, not level.is_void, level["index"]))


def find_level(levels: Sequence[LevelData], asked: str) -> LevelData:
    """Return the level asked for by its index, its label or how only its label begins; raise PredictionError for none."""
    for level in levels:
        if asked == str(level["index"]) or asked == level["label"]:
            return level
    alike = [level for level in levels if f"{level['label']} ".startswith(f"{asked} ")]
    if len(alike) == 1:
        return alike[0]
    known = listed([f"{level['index']} ({level['label']})" for level in levels])
    raise PredictionError(f"the run has no level {asked!r}; it has {known}.")
