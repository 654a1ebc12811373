"""How a run sent its requests and how its server admitted them: a prediction has to repeat both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, IntArray, RunData, evenly
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.server.timing.token_gaps import TokenGaps, read_gaps
from loadtest.errors import PredictionError

TAKEN_UP_TOGETHER_S = 0.005  # prompts whose prefills began this close were admitted together
TURNAROUND_S = 0.001  # assumed between an answer and the user's next request where the run shows none
MOST_PAIRS = 2000  # pairs kept for predictions to draw from
MOST_RELAYS = 1000  # kept
FEWEST_RACES = 4  # fewest prompts that could have been admitted together, for their odds to be taken from the run
ASSUMED_CAUGHT = 0.5  # how often a freed slot's next stream makes the next batch, where the run shows no case
LLAMA_SERVER_SINCE = (0, 30)  # from this version on Ollama runs llama.cpp's server, which splits passes by slots


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPattern:
    """How a run sent its requests. A prediction repeats it, because the figures of short runs depend on it."""

    warmup: bool  # whether each user's first request was a warm-up
    requests: int | None  # measured requests of each level, where all levels had as many
    each: float  # median number of measured requests per user
    turnaround_s: float  # median time from a user's last token to its next request
    # per level: of the requests that came in one burst with the first, the share that was prefilled in its batch
    together: tuple[float, ...]


def load_pattern(run: RunData, slots: Slots) -> LoadPattern:
    warm = run.flag("warmup")
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


def request_lengths(run: RunData) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return uncached prompt and output tokens of the measured requests, paired; raise PredictionError without any."""
    good = run.flag("ok") & ~run.flag("warmup")
    prompts, outputs = run.uncached_tokens[good], run.column("output_tokens")[good]
    known = np.isfinite(prompts) & np.isfinite(outputs) & (prompts >= 1) & (outputs >= 1)
    if not known.any():
        missing = [
            name
            for name, values in (("prompts", prompts), ("answers", outputs))
            if not (np.isfinite(values) & (values >= 1)).any()
        ]
        raise PredictionError(
            f"No prediction: the server does not say how many tokens {' and '.join(missing or ('the same requests',))} have."
        )
    pairs = np.stack((prompts[known], outputs[known]), axis=1).astype(np.int64)
    prompts, outputs = pairs[evenly(len(pairs), MOST_PAIRS)].T
    return tuple(prompts.tolist()), tuple(outputs.tolist())


class Admission(NamedTuple):
    """How waiting streams get into batches, which decides whether streams stay in step.

    Streams in step have their prompts evaluated together; out of step, each prompt stalls the other streams.
    """

    caught: float  # how often the next stream of a freed slot made the batch that began at that moment
    apart: float  # of streams admitted together with another, how often one began a batch later than it
    relays: tuple[float, ...] = ()  # times from the batch that freed a slot to the one that its next stream was in


def admission(run: RunData, slots: Slots, steps: Steps) -> Admission:
    gaps = read_gaps(run, slots)
    if not gaps.requests.told.any():
        return Admission(0.0, 0.0)
    arrived = run.column("reached") + np.nan_to_num(run.column("load_s"))
    open_to = np.maximum(arrived, gaps.requests.free)
    known = np.isfinite(gaps.requests.started) & np.isfinite(open_to) & gaps.requests.told & ~_first_burst(run)
    step = min(entry.median_s for entry in steps.times)
    queued = known & (gaps.requests.free > arrived)
    free, edge = np.where(queued, gaps.requests.free, 0.0), gaps.requests.edge_s
    others = gaps.decoding_at(free + edge)
    beside, missed = queued & (others > 0), _missed(gaps, others, steps)
    usual = 0.0 if _llama_server(run) is False else ASSUMED_CAUGHT
    caught = float(1 - missed[beside].mean()) if beside.sum() >= FEWEST_RACES else usual
    apart = _apart(open_to[known], gaps.requests.started[known], step, edge)
    at = np.where(queued, gaps.requests.started, 0.0)
    begun, over = np.searchsorted(gaps.requests.starts, at - edge), np.searchsorted(gaps.requests.ends, at + edge)
    # Only where no other prompt was on its way, of which a slice may have come between.
    relayed = queued & ~missed & (begun <= over)
    relays = np.maximum((gaps.requests.started - gaps.requests.free)[relayed], 0.0)
    return Admission(caught, apart, tuple(map(float, relays[:MOST_RELAYS])) if len(relays) >= FEWEST_RACES else ())


def _missed(gaps: TokenGaps, others: IntArray, steps: Steps) -> BoolArray:
    """Mark the requests that missed a batch: others got a token, or their first, between the slot's end and the prompt.

    The tokens of one batch arrive one after another, so a token counts from half a step of the `others` decoding on.
    """
    streams, means = (np.array([getattr(entry, name) for entry in steps.times]) for name in ("streams", "mean_s"))
    step = np.interp(others, streams, means)
    free, started = gaps.requests.free, gaps.requests.started
    tokens = np.sort(np.concatenate((gaps.right, gaps.requests.firsts)))
    begun = np.minimum(started + 0.25 * step, (started + gaps.requests.first) / 2)
    seen = np.searchsorted(tokens, begun) - np.searchsorted(
        tokens, free + np.maximum(gaps.requests.edge_s, 0.5 * step), side="right"
    )
    return np.asarray((seen > 0) & (started - free > 0.5 * step), dtype=np.bool_)


def _llama_server(run: RunData) -> bool | None:
    """Return whether a real Ollama is new enough to run llama.cpp's server; None for any other server, or of unknown version."""
    if run.fact("server", "kind") != "ollama" or run.simulated is not None:
        return None
    numbers = [part for part in str(run.fact("server", "version") or "").split(".")[:2] if part.isdigit()]
    return tuple(map(int, numbers)) >= LLAMA_SERVER_SINCE if len(numbers) == 2 else None


def _apart(open_to: FloatArray, started: FloatArray, step: float, edge: float) -> float:
    """Return `apart`: of streams admitted together with one that began at once, the share that began later than that one."""
    order = np.argsort(open_to, kind="stable")
    open_to, started = open_to[order], started[order]
    head = np.diff(open_to, prepend=-np.inf) > edge
    group = np.cumsum(head) - 1
    begun = np.full(group[-1] + 1 if len(group) else 0, np.inf)
    np.minimum.at(begun, group, started)
    at_once = (begun - open_to[head])[group] < 0.5 * step
    follower = ~head & at_once
    if follower.sum() < FEWEST_RACES:
        return 0.0
    return float((started - begun[group] > max(TAKEN_UP_TOGETHER_S, edge))[follower].mean())


def _first_burst(run: RunData) -> BoolArray:
    """Mark the first request of each user in each level: they came all at once, as no later ones do."""
    of_level = run.requests["level"]
    users = of_level.map({level["index"]: int(level.get("concurrency") or 0) for level in run.levels})
    return np.asarray(of_level.groupby(of_level).cumcount() < users, dtype=np.bool_)  # rows are in the order sent


def split_passes(run: RunData, slots: Slots, steps: Steps) -> tuple[bool, str | None]:
    """Return whether streams in slots that are not neighbours take separate passes, and what is said where that is a guess.

    It is as the run shows, else by what the server's version does.
    """
    if steps.neighbours is not None:
        return steps.neighbours, None
    if not _llama_server(run) or (slots.estimate or 0) > 2:
        return False, None
    return True, (
        f"Ollama {run.facts['server']['version']} decodes streams whose slots are not neighbours in passes of their own, "
        "which so few slots cannot show"
    )
