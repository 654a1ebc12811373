"""How many slots keep requests out, by how many were worked on while they waited.

It is a witness for the slots that needs neither batches nor durations.
Work on a request begins at its first token less the TTFT that it would have had without a wait. That TTFT is an idle
server's for such a prompt, and what those requests took longer that came while no more were in flight than were seen
decoding at once. A server with S slots works on exactly S requests for as long as more than S are in flight, whatever
lengths they have and whether its streams share steps or each has a clock of its own. A server without slots works on
all of them.

A prompt that was evaluated beside others takes longer than on an idle server, so work seems to begin late. The number at
work is then too low, never too high: a result below the peak of streams that decoded at once does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, RunData
from loadtest.analyse.run.overlaps import Depth, freed_in_order, last_before, open_within
from loadtest.analyse.server.queue.at_work import RequestInstants
from loadtest.text import percent
from loadtest.text import seconds as seconds_text

# with fewer requests that found the server idle, the shortest TTFT stands for that of an idle server
FEWEST_LONE = 3
FEWEST_FOR_LINE = 8  # of different lengths, from which on TTFT is a line in the prompt's length
LEAST_LENGTH_RATIO = 1.5  # longest / shortest prompt, from which on TTFT is a line in the prompt's length
FEWEST_WAITS = 6  # requests that waited, and …
WAITS_A_SLOT = 2  # … for each slot
SHARES_TRIED = (0.0, 0.25, 0.5, 0.75, 1.0)  # of what a TTFT is longer beside others, that may be work on the request
LEAST_TIME_FULL = 0.8  # of the time with more than S in flight, in which exactly S were at work
MOST_TIME_ABOVE = 0.05  # of the time with more than S in flight, in which more than S were at work
# A server that reads one prompt after another makes requests wait for a prefill, not for a slot. It shows where prefills
# fill so much of the time, and work begins so soon (as a share of a prefill) after another request's first token.
LEAST_BUSY, MOST_BUSY = 0.75, 1.25
NEAR_FIRST = 0.3
EXPLAINED_BY_LENGTH = 0.8  # of the variance of TTFT, by the prompts' lengths alone
LEAST_READ = 0.5  # of the time that a prompt takes to read, between its slot's being free and its first token
SCATTER_S = 0.002  # instants at which work begins and ends are off by at least so much
MOST_LEFT_OUT = 0.9  # of the time with more than S in flight, that may be left out as too near to the end of a request


@dataclass(frozen=True, slots=True)
class UnwaitedTtft:
    """TTFT without a wait: fixed_s + per_token_s · prompt tokens + beside_s · other requests at work, nearly."""

    tokens: FloatArray  # of each request: its prompt's, less those that the server says it had cached
    seconds: FloatArray  # of each request
    longer: FloatArray  # the part of it that is due to other requests at work
    scatter_s: float
    fixed_s: float
    per_token_s: float
    beside_s: float

    @classmethod
    def of(cls, run: RunData, requests: RequestInstants, peak: int) -> UnwaitedTtft:
        """Read it from a run of which `peak` streams were seen decoding at once."""
        tokens = run.column("prompt_tokens") - np.nan_to_num(run.column("cached_tokens"))
        tokens = tokens[np.isfinite(run.column("send"))]
        idle, scatter, line = _idle_ttft(tokens, requests)
        longer, beside = _longer_beside_others(requests, idle, peak)
        return cls(tokens, idle + longer, longer, scatter, *line, beside)

    def begun(self, requests: RequestInstants, share: float = 1.0) -> FloatArray:
        """Return when work on each request began, where this `share` of what TTFT is longer beside others counts as work."""
        spent = self.seconds - (1 - share) * self.longer
        return np.clip(requests.first - spent, requests.arrived, requests.first)


def at_work_while_waiting(requests: RequestInstants, ttft: UnwaitedTtft, peak: int) -> tuple[int | None, str] | None:
    """Return the slots and the result in words; the slots are None where the time does not agree on a number.

    None where hardly any request waited. `peak` streams were seen decoding at once. How much of what a TTFT is longer beside
    others counts as work is not known: a level's first prompts came all at once, and later ones do not. So several shares
    are tried, and the one by which the time agrees best is taken.
    """
    seen = np.isfinite(requests.first) & np.isfinite(ttft.seconds)
    if seen.sum() < FEWEST_WAITS:
        return None
    found = [
        (*reading, float(np.median((ttft.seconds - (1 - share) * ttft.longer)[seen])))
        for share in (SHARES_TRIED if ttft.longer.any() else SHARES_TRIED[:1])
        if (reading := _reading(requests, seen, ttft.begun(requests, share)[seen], ttft.scatter_s, peak)) is not None
    ]
    if not found:
        return None
    exact, above, slots, spent_s = max(found, key=lambda one: (one[1] <= MOST_TIME_ABOVE, one[0]))
    agreed = f"{percent(exact)} of the time with more than {slots} in flight"
    said = f"exactly {slots} at work in {agreed}, by a TTFT of {seconds_text(spent_s)} without a wait"
    return (slots if exact >= LEAST_TIME_FULL and above <= MOST_TIME_ABOVE else None), said


def prompts_read_while_full(requests: RequestInstants, ttft: UnwaitedTtft, slots: int | None) -> bool:
    """Return whether prompts were read while all of so many slots are taken to have been held: then there are more.

    A prompt cannot be read sooner than its slot is free. Where first tokens come sooner after that than their prompts take
    to read on an idle server, they were read before. Only what prompts take for their length counts, for a request that
    waits is at the server already. Where the prompt's length alone explains a TTFT, nothing was waited for either.
    """
    if slots is None:
        return False
    own = ttft.per_token_s * ttft.tokens
    known = np.isfinite(requests.first) & np.isfinite(requests.last) & np.isfinite(own)
    arrived, first, own, tokens = requests.arrived[known], requests.first[known], own[known], ttft.tokens[known]
    free = freed_in_order(np.argsort(first, kind="stable"), requests.last[known], slots)
    late = free > arrived
    if late.sum() < FEWEST_WAITS:
        return False
    long, ttft_s = tokens[late], (first - arrived)[late]
    if long.max() >= LEAST_LENGTH_RATIO * long.min() and np.ptp(long) > 0 and np.ptp(ttft_s) > 0:
        explained = np.corrcoef(long, ttft_s)[0, 1]
        if explained > 0 and explained**2 > EXPLAINED_BY_LENGTH:
            return True
    slow = late & (own > SCATTER_S)
    return bool(slow.sum() >= FEWEST_WAITS and np.median(((first - free) / own)[slow]) < LEAST_READ)


def idle_while_waiting(requests: RequestInstants, ttft: UnwaitedTtft, slots: int) -> float:
    """Return the share of the time with more than `slots` in flight in which nobody was at work, so that no slot kept them out."""
    seen = np.isfinite(requests.first) & np.isfinite(ttft.seconds)
    begun = ttft.begun(requests)[seen]
    if requests.mostly_told:
        begun = np.fmin(begun, requests.started[seen])
    _, work, in_flight, seconds = _depths(begun, np.maximum(requests.last[seen], begun), requests.arrived[seen])
    crowded = in_flight > slots
    total = float(seconds[crowded].sum())
    return float(seconds[crowded & (work == 0)].sum()) / total if total > 0 else 0.0


def _reading(
    requests: RequestInstants, seen: BoolArray, begun: FloatArray, scatter: float, peak: int
) -> tuple[float, float, int] | None:
    """Return the slots that most of the time names, after its shares at them and above; None where too few waited."""
    gone, arrived = np.maximum(requests.last[seen], begun), requests.arrived[seen]
    times, work, in_flight, seconds = _depths(begun, gone, arrived)
    seconds = _clear_of_ends(times, seconds, gone, scatter)
    pressed = np.unique(work[(in_flight > work) & (work >= peak)])
    shares = [_shares(work, in_flight, seconds, number) for number in pressed]
    if not shares:
        return None
    best = int(np.argmax([exact for exact, _ in shares]))
    slots = int(pressed[best])
    return (*shares[best], slots) if _waited(begun, requests.first[seen], arrived, gone, slots, scatter) else None


def _idle_ttft(tokens: FloatArray, requests: RequestInstants) -> tuple[FloatArray, float, tuple[float, float]]:
    """Return each request's TTFT on an idle server, by how much such a TTFT scatters, and its parts: fixed, a token."""
    ttft = requests.first - requests.arrived
    known = np.isfinite(ttft)
    if not known.any():
        return np.full(len(ttft), np.nan), SCATTER_S, (0.0, 0.0)
    lone = known & (open_within(requests.arrived, requests.gone, requests.arrived, requests.first) == 1)
    taken = lone if lone.sum() >= FEWEST_LONE else known & (ttft <= np.min(ttft[known]))
    line = _line(tokens[taken], ttft[taken])
    if line is None:
        line = float(np.median(ttft[taken])), 0.0
    middle = float(np.nanmedian(tokens[taken])) if np.isfinite(tokens[taken]).any() else 0.0
    idle = line[0] + line[1] * np.where(np.isfinite(tokens), tokens, middle)
    off = float(np.median(np.abs(ttft[taken] - idle[taken])))
    return np.maximum(idle, 0.0), max(2 * off, SCATTER_S, requests.delayed_s), line


def _longer_beside_others(requests: RequestInstants, idle: FloatArray, peak: int) -> tuple[FloatArray, float]:
    """Return by how much each TTFT is longer for the requests at work, as those show that cannot have waited, and a request.

    Where never more were in flight than were seen decoding at once, each had a slot.
    """
    in_flight = requests.in_flight
    longer = requests.first - requests.arrived - idle
    beside = np.minimum(in_flight.at(requests.arrived), peak)
    most = _most_within(in_flight, requests.arrived, requests.first)
    numbers, usual = [1.0], [0.0]
    for number in range(2, peak + 1):
        mine = (beside == number) & (most <= peak) & np.isfinite(longer)
        if mine.sum() >= FEWEST_LONE:
            numbers.append(float(number))
            usual.append(max(float(np.median(longer[mine])), usual[-1]))
    each = usual[-1] / (numbers[-1] - 1) if len(numbers) > 1 else 0.0
    return np.interp(np.minimum(in_flight.at(requests.first), peak), numbers, usual), each


def _most_within(depth: Depth, left: FloatArray, right: FloatArray) -> FloatArray:
    """Return the greatest depth between each pair of instants; inf where one is unknown."""
    found = np.full(len(left), np.inf)
    low = np.searchsorted(depth.times, left, side="right") - 1
    high = np.searchsorted(depth.times, right, side="right")
    for row in np.flatnonzero(np.isfinite(left) & np.isfinite(right)):
        found[row] = depth.depth[max(low[row], 0) : max(high[row], low[row] + 1)].max(initial=0)
    return found


def _line(tokens: FloatArray, ttft: FloatArray) -> tuple[float, float] | None:
    """Return (fixed, per token) of TTFT; None where lengths are few, alike or unknown, or TTFT does not grow with them."""
    known = np.isfinite(tokens) & (tokens > 0)
    tokens, ttft = tokens[known], ttft[known]
    if len(tokens) < FEWEST_FOR_LINE or tokens.max() < LEAST_LENGTH_RATIO * tokens.min():
        return None
    slope, fixed = np.polyfit(tokens, ttft, 1)
    return (float(fixed), float(slope)) if slope > 0 else None


def _depths(
    begun: FloatArray, gone: FloatArray, arrived: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return instants, how many were at work and how many in flight from each on, and for how long."""
    times = np.unique(np.concatenate((begun, gone, arrived)))
    work = Depth.of(begun, gone).at(times)
    return times, work, Depth.of(arrived, gone).at(times), np.diff(times, append=times[-1:])


def _clear_of_ends(times: FloatArray, seconds: FloatArray, gone: FloatArray, scatter: float) -> FloatArray:
    """Return the time of each part that lies further than `scatter` from any end; all of it where that is hardly any.

    Where an end and a begin are each known to `scatter`, one at work may seem missing or too many between them.
    """
    after = last_before(gone, times) + scatter
    before = -last_before(-gone, -(times + seconds)) - scatter
    left, right = np.maximum(times, after), np.minimum(times + seconds, before)
    inside = np.maximum(right - left, 0.0)
    return inside if inside.sum() > (1 - MOST_LEFT_OUT) * seconds.sum() else seconds


def _shares(work: FloatArray, in_flight: FloatArray, seconds: FloatArray, number: float) -> tuple[float, float]:
    """Return the shares of the time with more than `number` in flight in which so many, and more, were at work."""
    crowded = in_flight > number
    total = float(seconds[crowded].sum())
    if total <= 0:
        return 0.0, 1.0
    return (
        float(seconds[crowded & (work == number)].sum()) / total,
        float(seconds[crowded & (work > number)].sum()) / total,
    )


def _waited(
    begun: FloatArray, first: FloatArray, arrived: FloatArray, gone: FloatArray, slots: int, scatter: float
) -> bool:
    """Return whether enough requests waited, and most of them until another one ended.

    A queue for prefill moves on when a prompt has been evaluated, not when an answer ends.
    """
    late = begun - arrived > 2 * scatter
    late &= Depth.of(arrived, gone).at((begun + arrived) / 2) > slots
    if late.sum() < max(FEWEST_WAITS, WAITS_A_SLOT * slots):
        return False
    since_end = begun[late] - last_before(gone, begun[late] + scatter)
    since_first = begun[late] - last_before(first, begun[late] + scatter)
    usual = np.diff(np.sort(gone))
    behind_end, behind_first = float(np.median(np.abs(since_end))), float(np.median(np.abs(since_first)))
    if behind_end > max(behind_first, SCATTER_S):
        return False
    prefill = float(np.median(first - begun))
    crowded = np.sort(first[late])
    busy = prefill * (len(crowded) - 1) / max(float(crowded[-1] - crowded[0]), 1e-9)
    if LEAST_BUSY < busy < MOST_BUSY and behind_first < NEAR_FIRST * prefill:
        return False
    return behind_end <= max(2 * scatter, 0.5 * float(np.median(usual)))
