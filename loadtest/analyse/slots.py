"""How many streams the server works on at once, and whether the load was enough to know that this is its limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.frames import BoolArray, FloatArray, Run

TIE_S = 0.001  # an end and a start this close are one slot changing hands: arrivals of one batch scatter that much
ADMISSION_ERROR_S = 0.020  # how far the server's durations may put an admission too early
SHARE_AT_PEAK = 0.5  # of the time with more requests in flight than the peak, which must be spent at the peak


@dataclass(frozen=True, slots=True)
class Slots:
    """The estimate of the server's parallel slots."""

    estimate: int | None  # None: no stream ever decoded
    limit: bool  # True: the load exceeded it, so it is the server's limit; False: the server does at least this
    method: str

    def to_dict(self) -> dict[str, object]:
        """Return what summary.json holds; `ci` is open above ([n, null]) where only a lower bound is known."""
        ci = None if self.estimate is None else [self.estimate, self.estimate if self.limit else None]
        return {"estimate": self.estimate, "ci": ci, "limit": self.limit, "method": self.method}

    def __str__(self) -> str:
        if self.estimate is None:
            return "unknown"
        return str(self.estimate) if self.limit else f"at least {self.estimate}"


def peak_decoding(run: Run, rows: BoolArray) -> int:
    """Return the most streams of `rows` between their first and last token at one instant."""
    return int(_steps(*_working(run, rows, run.column("first_token")))[1].max(initial=0))


def estimate(run: Run) -> Slots:
    """Estimate the server's slots: the most streams it worked on at once; a limit only where more requests wanted in.

    A peak alone proves nothing (eight users with short answers may never decode together), so it counts as the limit
    only when the server stood at it for a good share of the time in which it was asked for more. Where the server says
    how long it prefilled, a stream counts from its prefill on: then a long prefill cannot pass for a full server.
    """
    started = run.column("first_token") - run.column("prefill_s") + ADMISSION_ERROR_S
    prefill_seen = bool(np.isfinite(started[np.asarray(run.requests["ok"], dtype=np.bool_)]).all())
    started = np.minimum(started, run.column("first_token")) if prefill_seen else run.column("first_token")
    what = "peak of streams in prefill or decoding at once" if prefill_seen else "peak of streams decoding at once"
    times, depth = _steps(*_working(run, np.ones(len(started), dtype=np.bool_), started))
    peak = int(depth.max(initial=0))
    if peak == 0:
        return Slots(None, limit=False, method="no stream was seen decoding")
    send, end = run.column("send"), run.column("end")
    sent = np.isfinite(send)
    asked_times, asked = _steps(send[sent], end[sent])
    if int(asked.max(initial=0)) <= peak:
        return Slots(peak, limit=False, method=f"{what}; never more in flight than that")
    grid = np.union1d(times, asked_times)
    span = np.diff(grid, append=grid[-1])
    pressed = _at(asked_times, asked, grid) > peak
    share = float(span[pressed & (_at(times, depth, grid) == peak)].sum() / max(span[pressed].sum(), 1e-12))
    limit = share >= SHARE_AT_PEAK
    held = f"held {'' if limit else 'only '}{share * 100:.0f} % of the time that more were in flight"
    return Slots(peak, limit=limit, method=f"{what}, {held}")


def _working(run: Run, rows: BoolArray, started: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return start and last-token instants of streams that decoded, ends drawn in by the tie tolerance."""
    first, last = started[rows], run.column("last")[rows]
    seen = np.isfinite(first) & np.isfinite(last)
    first, last = first[seen], last[seen]
    gaps = run.itl.of(rows)
    gaps = gaps[gaps > 0]
    tie = min(TIE_S, float(np.median(gaps)) / 2) if len(gaps) else TIE_S  # a server run at 20x speed has shorter gaps
    return first, np.maximum(last - tie, first + 1e-9)


def _steps(starts: FloatArray, ends: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return (instants, how many intervals are open from each on); an end comes before a start at the same instant."""
    times = np.concatenate((starts, ends))
    change = np.concatenate((np.ones(len(starts)), -np.ones(len(ends))))
    order = np.lexsort((change, times))
    return times[order], np.cumsum(change[order])


def _at(times: FloatArray, depth: FloatArray, instants: FloatArray) -> FloatArray:
    """Read a step function at `instants`; zero before its first step."""
    index = np.searchsorted(times, instants, side="right") - 1
    return np.where(index >= 0, depth[np.maximum(index, 0)], 0.0)
