"""People in conversations, as a prediction repeats them: what they said, how long they thought, what the server keeps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from loadtest.analyse.run import FloatArray, RunData
from loadtest.analyse.server.prompt_cache import cache_replay
from loadtest.analyse.server.prompt_cache.cache import CacheUse, of_turn_before, session_keys
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.queue.waits import UNKNOWN
from loadtest.analyse.whatif.model.play import CONTEXT
from loadtest.metrics import Interval
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.prefix_cache import HostCache
from loadtest.simulate.model.stream import Emission
from loadtest.simulate.model.virtual import EngineScript, EngineTurn, PlayedTurn, people

NO_HOST_CACHE, HOST_CACHE = "no host cache", "a host cache that is never full"
SIZED_HOST_CACHE = "a host cache of the size seen"
UNSEEN_HOST_CACHE = "a host cache too small to show"
GOLDEN = 0.618034  # of a stretch, apart: so many points as one likes lie evenly in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Conversations to draw from, and what the server's prefix cache does with them."""

    scripts: tuple[EngineScript, ...]
    joined_over_s: float  # time over which people come, one by one
    warm: bool  # whether each person's first conversation was warm-up
    shared: int = 0  # tokens that all conversations begin with
    answers_kept: bool = True  # whether an answer in the history is the tokens that it was made of
    # between which sizes the host cache lies; both infinite: never full, and every conversation is kept; None: there is none
    host_tokens: Interval | None = None

    def scaled(self, *, said: float = 1.0, answers: float = 1.0) -> Self:
        """Return the sessions with what people say, or the answers, longer or shorter by these factors."""
        found = tuple(tuple(_scaled(script, said, answers)) for script in self.scripts)
        return replace(self, scripts=found, shared=round(self.shared * said))

    def engine_cache(self, repetition: int) -> HostCache | None:
        """Return the host cache of a repetition: in the middle of the sizes that it may have, then evenly about it."""
        if self.host_tokens is None:
            return None
        share = (0.5 + repetition * GOLDEN) % 1
        return HostCache((1 - share) * self.host_tokens[0] + share * self.host_tokens[1])

    def draw(self, turns: int, users: int, draw: random.Random) -> list[EngineScript]:
        """Draw conversations in random order until they hold so many turns, and at least one a person."""
        drawn: list[EngineScript] = []
        held = 0
        while held < turns or len(drawn) < users:
            for script in draw.sample(self.scripts, len(self.scripts)):
                if held >= turns and len(drawn) >= users:
                    break
                drawn.append(script)
                held += len(script)
        return drawn

    def play(
        self, engine: Engine, plan: list[EngineScript], users: int, see: Callable[[Emission], None]
    ) -> list[PlayedTurn]:
        """Let so many people hold these conversations; what they thought holds what their client took, too."""
        return people(
            engine,
            plan,
            starts_s=[user * self.joined_over_s / users for user in range(users)],
            num_ctx=CONTEXT,
            shared=self.shared,
            answers_kept=self.answers_kept,
            turnaround_s=0.0,
            see=see,
        )


def _scaled(script: EngineScript, said: float, answers: float) -> Iterator[EngineTurn]:
    before = EngineTurn(0, 0)
    held = 0
    for turn in script:
        own = max(turn.prompt - before.prompt - before.answer, 1)
        now = EngineTurn(max(held + round(own * said), 1), max(round(turn.answer * answers), 1), turn.think_s)
        yield now
        before, held = turn, now.prompt + now.answer


def sessions_of(run: RunData, use: CacheUse | None) -> Sessions | None:
    """Read the whole conversations of a run; None where it has none."""
    if not run.has_turns:
        return None
    found = tuple(_whole(run))
    if not found:
        return None
    thought = [turn.think_s for script in found for turn in script[1:]]
    return Sessions(
        scripts=found,
        joined_over_s=float(np.mean(thought)) if thought else 0.0,
        warm=bool(run.requests["warmup"].any()),
        shared=0 if use is None else round(use.shared),
        answers_kept=use is None or _answers_kept(run, use),
    )


def only_levels(sessions: Sessions, run: RunData, levels: Sequence[int]) -> Sessions:
    found = tuple(_whole(run, levels))
    return replace(sessions, scripts=found) if found else sessions


def _whole(run: RunData, levels: Sequence[int] | None = None) -> Iterator[EngineScript]:
    """Yield the conversations of which every turn went well."""
    frame = session_keys(run)
    frame["prompt"], frame["answer"] = run.column("prompt_tokens"), run.column("output_tokens")
    frame["ok"], frame["think"] = run.flag("ok"), _thought(run)
    usual = frame["think"].median()
    frame["think"] = frame["think"].fillna(0.0 if np.isnan(usual) else usual)
    if levels is not None:
        frame = frame[frame["level"].isin(list(levels))]
    frame = frame[np.isfinite(frame["session"])].sort_values(["level", "session", "turn"], kind="stable")
    turns, ok = frame["turn"].to_numpy(), frame["ok"].to_numpy()
    values = frame[["prompt", "answer", "think"]].to_numpy(dtype=np.float64)
    names = frame[["level", "session"]].to_numpy(dtype=np.float64)
    begins = np.flatnonzero((np.diff(names, axis=0) != 0).any(axis=1)) + 1
    for rows in np.split(np.arange(len(frame)), begins):
        lengths = values[rows]
        whole = (turns[rows] == np.arange(len(rows))).all() and ok[rows].all()
        if whole and len(rows) and np.isfinite(lengths).all() and (lengths[:, :2] >= 1).all():
            yield tuple(EngineTurn(int(prompt), int(answer), float(think)) for prompt, answer, think in lengths)


def _thought(run: RunData) -> FloatArray:
    """Return how long each request's user had thought before: from the end of the same user's last answer; nan unknown."""
    frame = run.requests[["level", "user", "sched", "last", "end"]].reset_index(drop=True)
    frame["user"] = frame["user"].fillna(-1 - session_keys(run)["session"])  # of unknown users: since the turn before
    frame["over"] = frame["end"].fillna(frame["last"])
    frame = frame.sort_values(["level", "user", "sched"], kind="stable")
    before = frame.groupby(["level", "user"])["over"].shift(1)
    send = run.requests["send"].reset_index(drop=True)
    return np.asarray(np.maximum((send - before.reindex(send.index)).to_numpy(dtype=np.float64), 0.0), dtype=np.float64)


def _answers_kept(run: RunData, use: CacheUse) -> bool:
    """Whether the answers of kept conversations were cached as well."""
    rows = (use.kept == 1) & (use.history > 0)
    if not rows.any():
        return True
    answer = of_turn_before(run, run.column("output_tokens"))[rows]
    lacking = (use.history - use.cached)[rows]
    return bool(np.nanmedian(lacking / np.maximum(answer, 1.0)) < 0.5)


def likeliest(run: RunData, slots: Slots, use: CacheUse | None) -> Sessions | None:
    """Return a run's sessions with the host cache that it shows, and without any where it shows none; None without sessions."""
    found = sessions_of(run, use)
    return None if found is None else next(iter(cache_cases(found, run, slots.number, use).values()))


def cache_cases(sessions: Sessions, run: RunData, slots: int | None, use: CacheUse | None) -> dict[str, Sessions]:
    """Return what the server's host cache may be, by name: one case where the run shows it, else both.

    A run that shows none still has two where a small one need not have shown. A server without a limit of slots keeps every
    conversation, unless the run shows that it keeps none.
    """
    full = replace(sessions, host_tokens=(math.inf, math.inf))
    if slots is None or cache_replay.is_paged(run):
        kept = use is not None and (use.source == UNKNOWN or np.nansum(use.kept) > 0)
        return {"": full if kept and not cache_replay.is_paged(run) else sessions}
    replayed = None if use is None else cache_replay.replay_on(run, slots, use)
    if use is None or replayed is None or replayed.host_cache is None:
        return {NO_HOST_CACHE: sessions, HOST_CACHE: full}
    if not replayed.host_cache:
        unseen = cache_replay.unseen_host_size(run, slots, use)
        if unseen is None:
            return {"": sessions}
        return {NO_HOST_CACHE: sessions, UNSEEN_HOST_CACHE: replace(full, host_tokens=(unseen, unseen))}
    least, most = cache_replay.host_size(run, slots, use)
    if math.isfinite(most):
        return {"": replace(full, host_tokens=(least, most))}
    return {HOST_CACHE: full, SIZED_HOST_CACHE: replace(full, host_tokens=(least, least))}
