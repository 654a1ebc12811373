"""How a run was driven and how its server let requests in: what a prediction has to repeat beside the step times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import Run
from loadtest.analyse.server import token_gaps as gaps_of
from loadtest.analyse.server.prefill import uncached
from loadtest.analyse.server.slots import Slots
from loadtest.analyse.server.steps import Steps
from loadtest.errors import PredictionError

TAKEN_UP_TOGETHER_S = 0.005  # prompts whose work began this close were taken up together
TURNAROUND_S = 0.001
MOST_LENGTHS = 2000
FEWEST_RACES = 4  # to tell the odds of one
ASSUMED_CAUGHT = 0.5  # where no race was seen and the engine is not known to lose it: as often as not
LLAMA_SERVER_SINCE = (0, 30)  # Ollama's versions that run llama.cpp's server, which splits passes by neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPattern:
    """How the run measured, so that a prediction measures the same: its figures depend on it where runs are short."""

    warmup: bool  # whether each user's first request was left out
    requests: int | None  # a level, where all had as many
    each: float  # a user, otherwise
    turnaround_s: float  # a user's answer ended → its next request sent
    together: tuple[float, ...]  # of each level's first burst: the share of those after the first in the first batch


def load_pattern(run: Run, slots: Slots) -> LoadPattern:
    """Read how the run measured from its records."""
    warm = np.asarray(run.requests["warmup"], dtype=np.bool_)
    levels = run.requests["level"].to_numpy()
    send, last = run.column("send"), run.column("last")
    begun = run.column("first_token") - run.column("prefill_s")
    counts: list[int] = []
    each: list[float] = []
    turns: list[float] = []
    together: list[float] = []
    for level in run.levels:
        users = int(level.get("concurrency") or 0)
        mine = levels == level["index"]
        measured = int((mine & ~warm).sum())
        if not users or not measured:
            continue
        counts.append(measured)
        each.append(measured / users)
        sends, ends = np.sort(send[mine & np.isfinite(send)]), np.sort(last[mine & np.isfinite(last)])
        again = sends[users:]
        turns += list(again - ends[: len(again)]) if len(ends) >= len(again) else []
        at_most = min(users, slots.estimate or users)
        burst = np.sort(begun[mine & np.isfinite(begun)])[:at_most]
        if at_most > 1 and len(burst) == at_most:
            together.append(float((burst[1:] - burst[0] < TAKEN_UP_TOGETHER_S).mean()))
    usual = [turn for turn in turns if turn >= 0]
    return LoadPattern(
        warmup=bool(warm.any()),
        requests=counts[0] if len(counts) > 1 and len(set(counts)) == 1 else None,
        each=float(np.median(each)) if each else 8.0,
        turnaround_s=float(np.median(usual)) if usual else TURNAROUND_S,
        together=tuple(together),
    )


def request_lengths(run: Run) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return uncached prompt and output tokens of the measured requests, paired; raise PredictionError without any."""
    good = np.asarray(run.requests["ok"] & ~run.requests["warmup"], dtype=np.bool_)
    prompts, outputs = uncached(run)[good], run.column("output_tokens")[good]
    known = np.isfinite(prompts) & np.isfinite(outputs) & (prompts >= 1) & (outputs >= 1)
    if not known.any():
        raise PredictionError("No prediction: the server does not say how many tokens prompts and answers have.")
    pairs = np.stack((prompts[known], outputs[known]), axis=1).astype(np.int64)
    if len(pairs) > MOST_LENGTHS:
        pairs = pairs[np.linspace(0, len(pairs) - 1, MOST_LENGTHS).astype(np.int64)]
    return tuple(int(value) for value in pairs[:, 0]), tuple(int(value) for value in pairs[:, 1])


def admission_odds(run: Run, slots: Slots, steps: Steps) -> tuple[float, float]:
    """Return how often a freed slot's next stream made the batch that followed at once, and how often of streams let
    in at one instant a later one missed the first's batch.

    Both decide whether streams stay in step: in step their prompts are worked on together, out of step each stalls the
    others.
    """
    gaps = gaps_of.decoding(run, slots)
    if not gaps.told.any():
        return 0.0, 0.0
    arrived = run.column("send") + np.nan_to_num(run.column("load_s"))
    open_to = np.maximum(arrived, gaps.free)
    known = np.isfinite(gaps.started) & np.isfinite(open_to) & gaps.told & ~_first_burst(run)
    step = min(entry.median_s for entry in steps.times)
    queued = known & (gaps.free > arrived)
    beside = queued & (gaps.decoding_at(np.where(queued, gaps.free + gaps.edge_s, 0.0)) > 0)
    waited = gaps.started - gaps.free
    caught = float((waited[beside] < 0.5 * step).mean()) if beside.sum() >= FEWEST_RACES else _caught_usually(run)
    return caught, _apart(open_to[known], gaps.started[known], step, gaps.edge_s)


def _caught_usually(run: Run) -> float:
    """Return how often the race is won where the run shows none: never in the engines that Ollama had before 0.30."""
    version = _ollama_version(run)
    return 0.0 if version is not None and version < LLAMA_SERVER_SINCE else ASSUMED_CAUGHT


def _ollama_version(run: Run) -> tuple[int, ...] | None:
    """Return (major, minor) of a real Ollama, None of any other server."""
    server = run.facts.get("server") or {}
    if server.get("kind") != "ollama" or run.simulated is not None:
        return None
    numbers = [part for part in str(server.get("version") or "").split(".")[:2] if part.isdigit()]
    return tuple(map(int, numbers)) if len(numbers) == 2 else None


def _apart(open_to: FloatArray, started: FloatArray, step: float, edge: float) -> float:
    """Return the share of streams let in together with another, which began at once, that began later than it."""
    order = np.argsort(open_to, kind="stable")
    open_to, started = open_to[order], started[order]
    head = np.diff(open_to, prepend=-np.inf) > edge
    group = np.cumsum(head) - 1
    begun = np.full(group[-1] + 1 if len(group) else 0, np.inf)
    np.minimum.at(begun, group, started)
    at_once = (begun - open_to[head])[group] < 0.5 * step
    follower = np.asarray(~head & at_once, dtype=np.bool_)
    if follower.sum() < FEWEST_RACES:
        return 0.0
    return float((started - begun[group] > max(TAKEN_UP_TOGETHER_S, edge))[follower].mean())


def _first_burst(run: Run) -> BoolArray:
    """Mark each level's first request a user: they came as no later ones do."""
    levels = run.requests["level"].to_numpy()
    marked = np.zeros(len(levels), dtype=np.bool_)
    for level in run.levels:
        mine = np.flatnonzero(levels == level["index"])  # rows are in the order sent
        marked[mine[: int(level.get("concurrency") or 0)]] = True
    return marked


class PassRule(NamedTuple):
    """Whether a step is a pass per run of neighbouring slots, and the sentence to say where that is not from the run."""

    split: bool
    guess: str | None


def pass_rule(run: Run, slots: Slots, steps: Steps) -> PassRule:
    """Say whether passes split by neighbouring slots: as seen, or as the server's version is known to do it."""
    if steps.neighbours is not None:
        return PassRule(steps.neighbours, None)
    version = _ollama_version(run)
    if version is None or version < LLAMA_SERVER_SINCE or (slots.estimate or 0) > 2:
        return PassRule(split=False, guess=None)
    return PassRule(
        split=True,
        guess=(
            f"Ollama {run.facts['server']['version']} decodes streams whose slots are not neighbours in passes of their own, "
            "which so few slots cannot show"
        ),
    )
