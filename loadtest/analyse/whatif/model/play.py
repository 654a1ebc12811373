"""One simulated run: the requests it sends, and its figures by the formulas that a measured run's figures come from."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from loadtest import metrics
from loadtest.analyse.figures import rates
from loadtest.analyse.run import BoolArray, FloatArray, finite
from loadtest.analyse.run.overlaps import peak_at_once
from loadtest.analyse.whatif.model.bands import SHARE, Figures
from loadtest.metrics import NS_PER_S, PERCENTILES
from loadtest.simulate.model.stream import Emission, EngineRequest, Stream
from loadtest.simulate.model.virtual import PlayedTurn, cold_prompt

CONTEXT = 1 << 30  # the engine cuts no prompt: the lengths come from answers that were observed
GROWN = 1.5  # time a token in the last quarter of an open loop, over that in the second: the queue still grows

See = Callable[[Emission], None]


@dataclass(frozen=True, slots=True)
class Played:
    """One simulated run: its requests in the order sent, their tokens, and which of them count."""

    streams: list[Stream]
    tokens: list[Emission]
    measured: BoolArray


def counted_turns(turns: list[PlayedTurn], tokens: list[Emission], requests: int, users: int, *, warm: bool) -> Played:
    """Return the first `requests` turns sent once each person's first conversation is over (`warm`), or from the start on."""
    begin = 0
    first = {one.user: one.session for one in reversed(turns)}
    if warm and len(first) == users:
        begin = max(one.stream.ended or 0 for one in turns if one.session == first[one.user])
    order = sorted(turns, key=lambda one: one.stream.arrived)
    arrived = np.array([one.stream.arrived for one in order])
    last = int(np.searchsorted(arrived, begin)) + requests
    return Played([one.stream for one in order[:last]], tokens, np.asarray(arrived[:last] >= begin, dtype=np.bool_))


def draw_lengths(lengths: list[tuple[int, int]], count: int, draw: random.Random) -> list[tuple[int, int]]:
    """Draw (prompt, output) tokens in random order; no pair is drawn again before all have been."""
    drawn: list[tuple[int, int]] = []
    while len(drawn) < count:
        drawn += draw.sample(lengths, len(lengths))
    return drawn[:count]


def cold_requests(lengths: list[tuple[int, int]]) -> list[EngineRequest]:
    """Return requests of these (prompt, output) tokens, in order, none of whose prompts a cache holds."""
    return [
        EngineRequest(number, cold_prompt(prompt, number), output, num_ctx=CONTEXT)
        for number, (prompt, output) in enumerate(lengths)
    ]


def figures_of_play(played: Played, users: int | None, *, sessions: bool) -> tuple[Figures, int]:
    """Return the figures of one simulated run, of its `measured` requests, and the most streams at once.

    `sessions`: they are turns of conversations, which a prefix cache may hold.
    """
    streams, measured = played.streams, played.measured
    arrived, scheduled, won, start, first, last = (
        np.array([getattr(stream, name) for stream in streams], dtype=np.float64) / NS_PER_S
        for name in ("arrived", "scheduled", "slot_won", "prefill_start", "first", "last")
    )
    tokens = np.array([stream.tokens for stream in streams], dtype=np.float64)
    ttft, e2e = first - arrived, last - arrived
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = metrics.tpot(e2e, ttft, np.where(tokens > 1, tokens, np.nan))
        speed = metrics.stream_tokens_per_s(tpot)
    values = {
        "ttft_s": ttft,
        "queue_wait_s": start - scheduled,
        "slot_wait_s": won - scheduled,
        "batch_wait_s": start - won,
        "prefill_s": first - start,
        "e2e_s": e2e,
        "tpot_s": tpot,
        "stream_tokens_per_s": speed,
    }
    figures: Figures = {}
    for name, each in values.items():
        figures |= _with_rank_errors(name, each[measured])
    owners = np.array([each.stream.request.id for each in played.tokens])
    instants = np.array([each.at for each in played.tokens], dtype=np.float64) / NS_PER_S
    kept = np.zeros(int(owners.max()) + 1, dtype=np.bool_)
    kept[[stream.request.id for stream, keep in zip(streams, measured, strict=True) if keep]] = True
    order = np.lexsort((instants, owners))
    same_stream = np.diff(owners[order]) == 0
    figures |= _with_rank_errors("itl_s", np.diff(instants[order])[same_stream & kept[owners[order][1:]]])
    figures |= dict.fromkeys(("output_tokens_per_s.mean", "requests_per_s.mean"), math.nan)
    window = rates.steady_window(arrived, last, float(arrived[measured].min()), users)
    if window.seconds > 0:
        inside = window.holds(instants) if window.steady else window.holds(instants) * kept[owners]
        whole = np.maximum(np.bincount(owners), 1)  # tokens of each answer: a request counts by its share of them
        figures["output_tokens_per_s.mean"] = float(inside.sum()) / window.seconds
        figures["requests_per_s.mean"] = float((inside / whole[owners]).sum()) / window.seconds
    cached, prompt = (np.array([getattr(stream, name) for stream in streams]) for name in ("cached", "prompt_tokens"))
    if sessions:
        figures[SHARE] = float(cached[measured].sum() / prompt[measured].sum())
    return figures, peak_at_once(first, last - 1e-6)


def queue_grows(streams: list[Stream]) -> bool:
    """Return whether a token of the last quarter of requests took far longer (waiting included) than one of the second."""
    quarter = len(streams) // 4
    taken = [((stream.last or 0) - stream.arrived) / stream.tokens for stream in streams]
    return quarter > 0 and sum(taken[-quarter:]) > GROWN * sum(taken[quarter : 2 * quarter])


def _with_rank_errors(name: str, values: FloatArray) -> Figures:
    """Return mean and percentiles of a figure; "p50-" and "p50+" are one standard error of the rank, √(p(1 − p)/n), away."""
    known = finite(values)
    ranks: dict[str, float] = {}
    for part, share in PERCENTILES.items():
        error, key = math.sqrt(share * (1 - share) / max(len(known), 1)), f"{name}.{part}"
        ranks |= {key: share, f"{key}-": max(share - error, 0.0), f"{key}+": min(share + error, 1.0)}
    if not len(known):
        return dict.fromkeys((f"{name}.mean", *ranks), math.nan)
    found = np.quantile(known, list(ranks.values()))
    return {f"{name}.mean": float(known.mean())} | dict(zip(ranks, map(float, found), strict=True))
