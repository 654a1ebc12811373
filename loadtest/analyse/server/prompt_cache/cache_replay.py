"""What a run's slots alone would have kept of its conversations, beside what was seen: whether a host cache kept more, how large it is.

The requests of a run are replayed on slots that each hold their last conversation. Where turns found their history cached
although the replayed slots had given it up by then, the server keeps conversations elsewhere too: llama.cpp's host cache.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, RunData
from loadtest.analyse.run.overlaps import open_within
from loadtest.analyse.server.prompt_cache.cache import KEPT_SHARE, CacheUse, session_keys
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.queue.waits import UNKNOWN
from loadtest.metrics import Interval
from loadtest.simulate.model.prefix_cache import HostCache, PrefixCache, Slot
from loadtest.simulate.model.stream import EngineRequest, Stage, Stream
from loadtest.simulate.model.virtual import EngineSession, EngineTurn, cold_prompt

FEWEST_HITS = 3  # turns that found their history cached although slots alone had lost it: then something else keeps it
LEAST_HITS = 0.05  # … and of those that the slots had lost
# Which of two prompts came first is not known where they are closer than this, and which slots they took depends on it. So
# other orders are tried, too.
ORDER_KNOWN_S = 0.005
ORDERS_TRIED = 12
FEWEST_TO_TIME = 5  # of either kind, to say what a restore costs
SIZES_TRIED = 14  # of a host cache
NEARLY_ALL_TURNS = 0.97  # of the turns that a host cache without limit would keep
CONTEXT = 1 << 30  # tokens: no replayed prompt is cut


@dataclass(frozen=True, slots=True)
class CacheReplay:
    """What slots alone would have kept, beside what was seen; masks over requests that are later turns."""

    slots: int
    kept_by_slots: BoolArray
    lost_by_slots: BoolArray
    restored: BoolArray  # found their history cached although the slots had lost it, in whichever order prompts came
    restore_s: float | None  # what such a turn waited longer before its prefill; None where too few show it

    @property
    def host_cache(self) -> bool | None:
        """Whether the server keeps conversations outside its slots; None where the run does not show it."""
        if self.restored.sum() >= _fewest_hits(int(self.lost_by_slots.sum())):
            return True
        return False if self.lost_by_slots.sum() >= FEWEST_HITS else None

    def share_kept(self, rows: BoolArray) -> float | None:
        """Return which share of some later turns the slots alone would have kept."""
        kept, lost = int((self.kept_by_slots & rows).sum()), int((self.lost_by_slots & rows).sum())
        return kept / (kept + lost) if kept + lost else None


def replay(run: RunData, slots: Slots, use: CacheUse) -> CacheReplay | None:
    """Replay a run's conversations on its slots; None where that is not possible.

    It takes conversations, a known number of slots that keep prompts (not pages), and known cached tokens.
    """
    number = run.fact("server", "slots_said") or slots.number
    if number is None or is_paged(run) or use.source == UNKNOWN or not run.has_turns:
        return None
    return replay_on(run, number, use)


def replay_on(run: RunData, number: int, use: CacheUse) -> CacheReplay:
    expected = _expected(run, number)
    later = np.isfinite(expected) & (use.history > 0)
    kept = later & (expected >= KEPT_SHARE * use.history)
    lost = later & ~kept & np.isfinite(use.kept)
    restored = lost & (use.kept == 1)
    for seed in range(ORDERS_TRIED if restored.any() else 0):
        restored &= _expected(run, number, order=np.random.default_rng(seed)) < KEPT_SHARE * use.history
    send, end = run.column("send"), np.fmax(run.column("end"), run.column("last"))
    at_once = open_within(send, end, send, send) < number  # no wait for a slot is in their TTFT
    wait = run.column("ttft_s") - run.column("prefill_s")
    found = [wait[rows & at_once & np.isfinite(wait)] for rows in (restored, kept & (use.kept == 1))]
    timed = min(map(len, found)) >= FEWEST_TO_TIME
    cost = max(float(np.median(found[0]) - np.median(found[1])), 0.0) if timed else None
    return CacheReplay(number, kept, lost, restored, cost)


def _fewest_hits(lost: int) -> float:
    """Return how many turns that found their history cached show a host cache, of so many that the slots had lost."""
    return max(FEWEST_HITS, LEAST_HITS * lost)


def is_paged(run: RunData) -> bool:
    """Whether the server keeps prompts in pages of one cache, as vLLM does: that is not modelled."""
    return bool(run.fact("server", "kind") == "vllm")


def host_size(run: RunData, number: int, use: CacheUse) -> Interval:
    """Return between which sizes in tokens a host cache and the replayed slots keep as much as was seen.

    One that never filled has at least the size that keeps everything, and may be any larger.
    """
    seen, most = int((use.kept == 1).sum()), _would_keep(run, number, use, HostCache(None))
    largest = float(np.nanmax(run.column("prompt_tokens") + run.column("output_tokens")))
    sizes, kept = _by_size(run, number, use, largest)
    if seen >= NEARLY_ALL_TURNS * most:
        return float(sizes[kept >= NEARLY_ALL_TURNS * most].min()), math.inf
    fewer, more = sizes[kept < seen], sizes[kept > seen]
    return float(fewer.max(initial=sizes[0])), float(more.min(initial=sizes[-1]))


def unseen_host_size(run: RunData, number: int, use: CacheUse) -> float | None:
    """Return the tokens of the largest host cache that may not have shown in a run; None where any would have.

    It would have kept too few turns that the slots lost, and holds at least a usual conversation.
    """
    sizes, kept = _by_size(run, number, use, float(np.median(use.history[np.isfinite(use.kept)])))
    by_slots = _would_keep(run, number, use, None)
    unseen = sizes[kept - by_slots < _fewest_hits(int(np.isfinite(use.kept).sum()) - by_slots)]
    return float(unseen.max()) if len(unseen) else None


def _by_size(run: RunData, number: int, use: CacheUse, least: float) -> tuple[FloatArray, FloatArray]:
    """Return sizes of a host cache, up to one that holds all of a run's conversations, and how many turns each would keep."""
    largest = float(np.nanmax(run.column("prompt_tokens") + run.column("output_tokens")))
    sessions = max(int(session_keys(run)[["level", "session"]].drop_duplicates().shape[0]), 2)
    sizes = np.geomspace(least, largest * sessions, SIZES_TRIED)
    return sizes, np.array([float(_would_keep(run, number, use, HostCache(float(size)))) for size in sizes])


def _would_keep(run: RunData, number: int, use: CacheUse, host: HostCache | None) -> int:
    """Return how many later turns would have found their conversation in the slots or the host cache."""
    rows = np.isfinite(use.kept)
    return int((_expected(run, number, host)[rows] >= KEPT_SHARE * use.history[rows]).sum())


def _expected(
    run: RunData, slots: int, host: HostCache | None = None, order: np.random.Generator | None = None
) -> FloatArray:
    """Return the tokens that slots (and `host`) would have had cached for each request, taken in the order of their prefills.

    With `order` that is drawn anew for requests closer together than the order is known.
    """
    prompt, output = run.column("prompt_tokens"), run.column("output_tokens")
    first, last = run.column("first_token"), run.column("last")
    begun = np.fmax(first - run.column("prefill_s"), run.column("send"))
    begun = np.where(np.isfinite(begun), begun, first)
    if order is not None:
        begun = begun + order.uniform(-ORDER_KNOWN_S, ORDER_KNOWN_S, len(begun)) / 2
    known = np.flatnonzero(np.isfinite(begun + last + prompt + output) & (prompt > 0))
    known = known[np.argsort(begun[known], kind="stable")]
    cache = PrefixCache([Slot() for _ in range(slots)], host, random.Random(0))
    sessions: dict[Any, EngineSession] = {}
    running: list[tuple[float, Stream]] = []
    expected = np.full(len(prompt), np.nan)
    keys = session_keys(run)[["level", "session", "turn"]].to_numpy(dtype=np.float64)
    for row in known:
        turn = EngineTurn(int(prompt[row]), max(int(output[row]), 1))
        stream = Stream(_request(sessions, keys[row], int(row), turn), 0)
        _end(running, begun[row], cache, slots)
        stream.prompt_tokens, stream.tokens = turn.prompt, turn.answer
        stream.stage = Stage.DECODE
        if cache.give(stream):
            expected[row] = stream.cached
            running.append((float(last[row]), stream))
    return expected


def _request(sessions: dict[Any, EngineSession], key: FloatArray, row: int, turn: EngineTurn) -> EngineRequest:
    if not np.isfinite(key[1]):
        return EngineRequest(row, cold_prompt(turn.prompt, row), turn.answer, num_ctx=CONTEXT)
    name = tuple(key[:2])
    session = sessions.setdefault(name, EngineSession(0, 0, [], name, 0, answers_kept=True))
    session.turns = [*session.turns, turn]
    return session.request(row, CONTEXT)


def _end(running: list[tuple[float, Stream]], now: float, cache: PrefixCache, slots: int) -> None:
    """Free the slots of streams that have ended by now; and the next one, where their instants leave none idle."""
    running.sort(key=lambda one: one[0])
    while running and (running[0][0] <= now or len(running) >= slots):
        at, stream = running.pop(0)
        stream.stage = Stage.ENDED
        cache.release(round(at * 1e9))
