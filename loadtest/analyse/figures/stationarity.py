"""Whether a level was stationary: by Little's law, and by whether requests were still piling up when it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loadtest.analyse.figures.intervals import FEWEST_INDEPENDENT
from loadtest.analyse.figures.rates import Flow, window_shares
from loadtest.analyse.run import FloatArray, LevelData, RunData
from loadtest.analyse.run.overlaps import BusiestParts
from loadtest.metrics import PERCENTILES, needed_beyond
from loadtest.text import seconds

LITTLE_TOLERANCE = 0.10  # |L / λW − 1| above it, and above what the window's edges explain, is not stationary
QUEUE_GROWTH = 1.5  # requests in flight in the last third of a level over the first, above which a queue grows …
FEW_IN_FLIGHT = 2.0  # … if it is also more than so many requests …
LEAST_GROWTH_SHARE = 0.01  # … and more than this share of the requests that came: else it is one slow wave
GROWTH_BY_CHANCE = 0.9  # … and than this / √n of them, by which more come than leave for a while without any reason
LEAST_UNHINDERED = 0.2  # of the last third of the requests, above which no queue stands at a level's end
IDLE_TIMES = 1.5  # times the shortest waits for a first token: a wait below it is hardly longer than on an idle server
# Of the requests that came: a queue that grows by less, even with what chance may hide, does not grow.
MOST_UNSEEN = 0.06
FEWEST_ARRIVALS = 12  # requests that growth is judged by
FEWEST_FIRST_WAITS = 4.0  # times the shortest waits for a first token: a level no longer than that only fills up
SHORTEST = 0.1  # quantile of the waits for a first token: hardly any other request is waited for in so short a time
# Times as long as in the first third of a level: from there on the answers of its later part are slower under its load.
SLOWED_FACTOR = 1.25
# Times its requests that a level may be told to take: past that it has not shown what the server can do.
MOST_TIMES_MORE = 10
# The busiest parts of a level show what the server can do: six parts of half a mean time of work. In a shorter while it is
# chance that brings tokens together.
BUSY_PART, BUSIEST_PARTS = 0.5, 6
MOST_USED = 0.99  # of a server: a queue that never settles remembers ten thousand requests
# figures that hold a request's wait, and in an open loop what its queue remembers
OF_A_QUEUE = {
    "ttft_s",
    "ttft_sched_s",
    "e2e_s",
    "e2e_sched_s",
    "e2e_tokens_per_s",
    "queue_wait_s",
    "slot_wait_s",
    "batch_wait_s",
}


@dataclass(frozen=True, slots=True)
class Growth:
    """Mean number of requests in flight when one was sent (itself included), in the first and last third of a level."""

    before: float
    after: float
    per_s: float  # growth of the number in flight, requests per second
    share: float  # growth over the level, as a share of the requests that came
    requests: int  # how many those were
    slower: bool = False  # whether answers took far longer later in the level than in its first third
    filled_s: float | None = None  # how long the level filled up, where only what came afterwards was compared
    unhindered: float = 0.0  # share of the last third that found nobody waiting, or hardly waited itself

    @property
    def growing(self) -> bool:
        """Whether requests were still piling up when the level ended, in a queue or at work."""
        more = self.after > QUEUE_GROWTH * self.before or self.slower
        more = more and self.after - self.before > FEW_IN_FLIGHT
        return more and self.share > max(LEAST_GROWTH_SHARE, GROWTH_BY_CHANCE / math.sqrt(self.requests))

    @property
    def steady(self) -> bool:
        """Whether the level shows that no queue grows.

        At its end nobody waited for long, or so many requests came that a queue that grows would have shown.
        """
        if self.growing:
            return False
        by_chance = GROWTH_BY_CHANCE / math.sqrt(self.requests)
        return self.unhindered > LEAST_UNHINDERED or self.share + by_chance < MOST_UNSEEN

    @property
    def sentence(self) -> str:
        found = found_in_flight(self.before, self.after, self.filled_s)
        return f"requests were still piling up, by {self.per_s:.2g} a second: {found}"


def found_in_flight(before: float, after: float, filled_s: float | None) -> str:
    """Say what requests found on their way as they were sent; they count themselves, and so it is no mean over time."""
    since = "" if filled_s is None else f" sent after the {seconds(filled_s)} in which the level filled up"
    return (
        f"the first third of the requests{since} found {max(before - 1, 0):.1f} others in flight on average, "
        f"the last third {max(after - 1, 0):.1f}"
    )


def little(run: RunData, level: int, flow: Flow | None) -> dict[str, Any] | None:
    """Apply Little's law, L = λW, to a level, warm-ups and failures included; None where nothing ended in its `flow`'s window.

    Each request counts by its share of the window, as in rates: counted by whole ends, λ would be off by up to a round.
    The ratio L / λW is 1 in a stationary state, above 1 where requests pile up.
    """
    if flow is None or not flow.shares.any():
        return None
    window, rows = flow.window, flow.rows
    send, end, shares = run.column("send")[rows], run.column("end")[rows], flow.shares[rows]
    inside = np.clip(np.minimum(end, window.end) - np.maximum(send, window.start), 0.0, None)
    sojourn = float((shares * (end - send)).sum() / shares.sum())
    if sojourn <= 0:
        return None
    in_flight, per_second = float(inside.sum()) / window.seconds, float(shares.sum()) / window.seconds
    ratio = in_flight / (per_second * sojourn)
    everyone = run.of_level(level) & np.isfinite(run.column("send"))
    grown = growth(*(run.column(name)[everyone] for name in ("send", "end", "first_token")))
    return {
        "in_flight": in_flight,
        "ends_per_s": per_second,
        "sojourn_s": sojourn,
        "ratio": ratio,
        "holds": abs(ratio - 1) <= max(LITTLE_TOLERANCE, sojourn / window.seconds),
        "growing": grown and grown.growing,
        "growth_per_s": grown and grown.per_s,
        "in_flight_first": grown and grown.before,
        "in_flight_last": grown and grown.after,
        "steady": grown and grown.steady,
        **({"filled_s": grown.filled_s} if grown and grown.filled_s is not None else {}),
    }


def growth(send: FloatArray, end: FloatArray, first: FloatArray | None = None) -> Growth | None:
    """Compare the number in flight early and late, by the send and end of every request of a level, seconds.

    It is meant for open loops; in a closed loop the number of users is the limit. None with fewer than 12 requests.

    Args:
        first: the first token of each, nan where none came. A level fills up for as long as an answer takes, on any server.
            So where more are in flight but no more wait for a first token, only requests sent after that time tell whether
            they pile up; and they do only where answers take longer later on. A level that lasts no longer than a few first
            tokens take does not tell.
    """
    if len(send) < FEWEST_ARRIVALS:
        return None
    begun = end if first is None else np.where(np.isfinite(first), first, end)
    found = replace(_grown(send, end, send), unhindered=_unhindered(send, begun))
    if first is None or not found.growing:
        return found
    order, third = np.argsort(send, kind="stable"), len(send) // 3
    if np.ptp(send) < FEWEST_FIRST_WAITS * float(np.quantile((begun - send)[order[:third]], SHORTEST)):
        return None
    if _grown(send, begun, send).growing:
        return found
    lasting, *later_on = (float((end - send)[rows].mean()) for rows in np.split(order, (third, 2 * third)))
    slower, later = max(later_on) > SLOWED_FACTOR * lasting, send[send >= send.min() + lasting]
    if len(later) < FEWEST_ARRIVALS:
        return found if slower else None
    found = replace(_grown(send, end, later), filled_s=lasting, slower=slower, unhindered=found.unhindered)
    return None if found.growing and not slower else found


def _grown(send: FloatArray, until: FloatArray, seen_by: FloatArray) -> Growth:
    """Compare the numbers that the first and the last third of the requests sent at `seen_by` found."""
    seen = np.sort(seen_by)
    sent, over = (np.searchsorted(np.sort(at), seen, side="right") for at in (send, until))
    there, third = sent - over, len(seen) // 3
    before, after = float(there[:third].mean()), float(there[-third:].mean())
    apart = float(seen[-third:].mean() - seen[:third].mean())
    per_s = (after - before) / apart if apart > 0 else 0.0
    return Growth(before, after, per_s, per_s * float(np.ptp(seen)) / len(seen), len(seen))


def _unhindered(send: FloatArray, begun: FloatArray) -> float:
    """Return the share of the last third that found nobody waiting for a first token, or got its own about as soon as any."""
    order = np.argsort(send, kind="stable")
    sent, late = send[order], order[-(len(send) // 3) :]
    over = np.searchsorted(np.sort(begun), send[late], side="right")
    alone = np.searchsorted(sent, send[late], side="right") - over <= 1
    soon = (begun - send)[late] <= IDLE_TIMES * np.quantile(begun - send, SHORTEST)
    return float(max(alone.mean(), soon.mean()))


def queue_memory(run: RunData, level: dict[str, Any]) -> float:
    """Return how many requests in a row an open loop's queue keeps alike, at least; 1 in a closed loop.

    The correlation time of a queue's length is 2 · u · (1 + u) / (1 - u)² requests where arrivals and work are exponential (M/M/1:
    Whitt, Management Science 35, 1989); near saturation it goes with ca² + cs², by which arrivals and work vary, in place of 2.
    u is how much is asked of the server: tokens a second, as a share of those that came a second in the busiest parts of the
    level. That holds whether requests wait for a slot or slow one another down.
    Tokens count when they came, where that is known: spread evenly over their answers they seem to come faster in a crowd.
    The run's own correlation does not show it: a short run that met no long queue looks as if its requests were independent.
    """
    rows = run.good(level["index"]) & np.isfinite(run.column("sched"))
    if level.get("concurrency") or rows.sum() < FEWEST_ARRIVALS:
        return 1.0
    send, first, end, said = (run.column(name)[rows] for name in ("send", "first_token", "end", "queue_wait_s"))
    until_first = np.where(np.isfinite(first), first, end) - send
    wait = np.where(np.isfinite(said), said, until_first - until_first.min())
    work, gaps = end - send - wait, np.diff(np.sort(run.column("sched")[rows]))
    if not gaps.any() or work.mean() <= 0:
        return 1.0
    asked = level.get("rate") if level.get("rate_to") is None and "model" not in level else None
    tokens = run.column("output_tokens")[rows]
    amounts = tokens if np.isfinite(tokens).all() and tokens.all() else np.ones(len(tokens))
    offered = float(amounts.mean()) * (asked or 1 / float(gaps.mean()))
    crowded = BusiestParts.of(send, end, BUSY_PART * float(work.mean()), BUSIEST_PARTS)
    streamed = run.chunks.counts[rows] > 0
    shares = np.where(streamed, window_shares(run, rows, crowded)[rows], crowded.shares(end - work, end))
    done = float((shares * amounts).sum())
    used = min(offered * crowded.seconds / done, MOST_USED) if done else MOST_USED
    varying = sum(float(part.var() / part.mean() ** 2) for part in (gaps, work))
    return max(1.0, varying * used * (1 + used) / (1 - used) ** 2)


def too_few_for_interval(level: LevelData, name: str, part: str) -> str:
    """Say below how many requests a percentile has no interval; empty where it has one, or a queue grows."""
    described, alone = level.get(name) or {}, max(FEWEST_INDEPENDENT, needed_beyond(PERCENTILES[part]))
    fewest = math.ceil(alone * level.get("queue_memory", 1.0))
    missing = described.get(part) is not None and level.interval(name, part) is None
    missing = missing and not level.queue_grew  # more requests would only wait longer
    told = missing and described["n"] < fewest < MOST_TIMES_MORE * described["n"]
    return f" below about {float(f'{fewest:.2g}'):.0f} requests" if told else ""
