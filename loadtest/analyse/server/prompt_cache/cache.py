"""How much of each prompt the server had in its prefix cache, and how much it read, a second time or for the first.

Cached tokens are the server's own counts where it sends them (cached_tokens of OpenAI's usage, llama.cpp's cache_n,
Ollama's prompt_eval_cached_count). Without such counts they are inferred from how long prefills took: first turns of
made-up conversations, which share nothing with anything before, give the time a + b·n + c·n·context of n tokens, and a
later turn that took as long as n tokens take had the rest cached. Only prefills that no other prompt shared are judged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.run import BoolArray, FloatArray, RunData, finite
from loadtest.analyse.server.prompt_cache import inferred_cache
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.queue.waits import INFERRED, SERVER, UNKNOWN
from loadtest.analyse.server.timing.steps import Steps

# A turn found its conversation where it had so much of its history cached, less what all conversations begin with.
KEPT_SHARE = 0.5
FEWEST_FIRST = 4  # first turns that show what all begin with
WHOLE = 0.9  # of a prompt; with more of it cached it was sent before as it is
# Share of the later turns that must be judged for a cached share. Where only 65 to 81 % were, it came out 10 to 14 points too
# high: a cached prompt is short, overlaps fewer others, and so is judged more often.
LEAST_JUDGED = 0.85


@dataclass(frozen=True, slots=True)
class CacheUse:
    """What the prefix cache did for each request, one entry per request; tokens, nan unknown."""

    cached: FloatArray
    history: FloatArray  # the turn before it, with its answer: what a cache could hold; 0 for a first turn
    source: str  # SERVER, INFERRED or UNKNOWN
    method: str  # how `cached` is known, or why it is not; a clause
    shared: float = 0.0  # tokens that all conversations begin with: what first turns had cached, in the median

    @property
    def reread(self) -> FloatArray:
        """Tokens of its conversation that a turn read once more."""
        return np.maximum(self.history - self.cached, 0.0)

    @property
    def kept(self) -> FloatArray:
        """1 for a later turn that found its conversation cached, 0 for one that did not, nan for others."""
        own = np.maximum(self.history - self.shared, 0.0)
        found = np.where(self.cached - self.shared >= KEPT_SHARE * own, 1.0, 0.0)
        return np.where(np.isfinite(self.cached) & (self.history > 0), found, np.nan)


def measure_cache(run: RunData, slots: Slots, steps: Steps) -> CacheUse | None:
    """Return what the prefix cache did; None for a run without conversations whose server says nothing of its cache."""
    said = run.column("cached_tokens")
    sessions = run.has_turns
    if not sessions and not np.nansum(said):
        return None
    history, answered = _history(run)
    if np.isfinite(said).any():  # Ollama and others leave a count of zero out
        known = np.where(np.isfinite(run.column("prompt_tokens")), np.nan_to_num(said), np.nan)
        method = "the server says how many prompt tokens of each request it had cached"
        first = known[(run.column("turn") == 0) & (known < WHOLE * run.column("prompt_tokens"))]
        shared = int(np.median(first)) if sessions and len(first) >= FEWEST_FIRST else 0
        return CacheUse(known, history, SERVER, method, shared)
    found, reason = inferred_cache.infer_cached(run, slots, steps, history, answered)
    source = UNKNOWN if found is None else INFERRED
    return CacheUse(np.full(len(said), np.nan) if found is None else found, history, source, reason)


def _history(run: RunData) -> tuple[FloatArray, FloatArray]:
    """Return how many tokens of each prompt its conversation had brought before, and how many of them the last answer has.

    0 for a first turn, nan unknown.
    """
    prompt, answer = run.column("prompt_tokens"), run.column("output_tokens") - 1  # the last token was never evaluated
    held = np.minimum(of_turn_before(run, prompt + answer), prompt)
    answer = np.minimum(of_turn_before(run, answer), held)
    later = run.column("turn") > 0
    return np.where(later, held, 0.0), np.where(later, answer, 0.0)


def of_turn_before(run: RunData, values: FloatArray) -> FloatArray:
    """Return for each request the value of the turn before it in its conversation; nan where there is none."""
    keys, same = session_keys(run), ["level", "session", "turn"]
    before = keys.assign(turn=keys["turn"] + 1, value=values).drop_duplicates(same)
    return keys.merge(before, how="left", on=same)["value"].to_numpy(dtype=np.float64)


def session_keys(run: RunData) -> pd.DataFrame:
    """Return what tells conversations apart, one row per request: level, session and turn.

    In a closed loop users hold one series of conversations, of which the first are warm-up; before a schedule warm-up
    conversations have numbers of their own.
    """
    frame = run.requests[["level", "turn"]].copy()
    apart = run.flag("warmup") & ~np.isfinite(run.column("concurrency"))
    frame["session"] = np.where(apart, -1.0 - run.column("session"), run.column("session"))
    return frame.reset_index(drop=True)


def level_cache(run: RunData, use: CacheUse, rows: BoolArray) -> dict[str, Any]:
    """Return what summary.json says of a level's prefix cache: its `cached_share`, weighted by tokens, and `cache` by turn."""
    prompt, turn = run.column("prompt_tokens"), np.nan_to_num(run.column("turn"))
    rows = rows & np.isfinite(prompt)
    by_turn = [_of_turn(run, use, rows & (turn == each), int(each)) for each in np.unique(turn[rows])]
    whole = sum(one["prompt_tokens"] for one in by_turn)
    later = rows & (turn > 0) if (turn[rows] > 0).any() else rows
    judged = float(np.isfinite(use.cached[later]).mean()) if later.any() else 0.0
    known = [one for one in by_turn if one["cached_share"] is not None]
    tokens = sum(one["prompt_tokens"] for one in known)
    found: dict[str, Any] = {"source": use.source, "method": use.method, "judged": judged}
    if judged < LEAST_JUDGED or tokens < LEAST_JUDGED * whole:
        why = use.method if use.source == UNKNOWN else "too few prompts of this level were prefilled by themselves"
        return {"cached_share": None, "cached_share_reason": why, "cache": {**found, "turns": by_turn}}
    share = sum(one["prompt_tokens"] * one["cached_share"] for one in known) / tokens
    totals = {
        "prompt_tokens": round(whole),
        "cached_tokens": round(share * whole),
        "read_tokens": round(whole - share * whole),
    }
    return {"cached_share": share, "cache": {**found, **totals, "turns": by_turn}}


def _of_turn(run: RunData, use: CacheUse, rows: BoolArray, turn: int) -> dict[str, Any]:
    """Return one turn's figures; tokens are means per request but for `prompt_tokens`, which is all requests' sum."""
    prompt, ttft = run.column("prompt_tokens"), finite(run.column("ttft_s")[rows])
    judged = rows & np.isfinite(use.cached)
    tokens = float(prompt[judged].sum())
    enough = judged.sum() >= LEAST_JUDGED * rows.sum()
    return {
        "turn": turn,
        "requests": int(rows.sum()),
        "prompt_tokens": float(prompt[rows].sum()),
        "cached_judged": int(judged.sum()),
        "cached_share": float(use.cached[judged].sum()) / tokens if tokens and enough else None,
        "history_tokens": _mean(use.history[rows]),
        "read_tokens": _mean((prompt - use.cached)[judged]) if enough else None,
        "reread_tokens": _mean(use.reread[judged]) if enough else None,
        "kept_share": _mean(use.kept[judged]) if enough else None,
        "ttft_p50_s": float(np.median(ttft)) if len(ttft) else None,
        "ttft_p95_s": float(np.quantile(ttft, 0.95)) if len(ttft) >= 20 else None,
    }


def _mean(values: FloatArray) -> float | None:
    known = finite(values)
    return float(known.mean()) if len(known) else None
