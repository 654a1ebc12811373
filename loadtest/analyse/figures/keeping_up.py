"""The rate up to which a server kept up with its requests.

A queue grows for a while at any rate. That the server does not keep up shows where it also answered fewer requests than came.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loadtest.analyse.figures.stationarity import found_in_flight
from loadtest.analyse.run import LevelData
from loadtest.text import listed, some_of

FEWER = 0.8  # of the requests that came, where the rate of answers has no interval: so few were answered surely
ABOUT_ALL = 0.95  # of the rate: so many requests came in a short level, or it is said
TOO_FEW = "requests waited to the end, and too few came to tell whether their queue grows"
MOST_UNANSWERED = 0.01  # of a level's requests; with more of them nobody knows whether the server kept up


@dataclass(frozen=True, slots=True)
class KeptUp:
    """How far a server kept up, by levels of an open loop in summary.json."""

    kept: LevelData | None  # the highest rate at which all was answered and no queue grew, nor at a lower one
    lost: LevelData | None  # the lowest rate at which the queue grew, and fewer were answered than came
    # the lowest rate between them at which not all was answered, or the queue grew by chance
    unclear: LevelData | None

    @classmethod
    def of(cls, levels: Iterable[LevelData]) -> KeptUp | None:
        """Read levels in ascending order of their rate; None where growth is unknown for every one, or the rate itself grew."""
        known = [
            level
            for level in levels
            if level["little"] and level["little"]["growing"] is not None and level.get("rate_to") is None
        ]
        if not known:
            return None
        lost = next((level for level in known if fell_behind(level)), None)
        below = known if lost is None else [one for one in known if one.amount < lost.amount]
        kept = next((level for level in reversed(below) if not why_unclear(level)), None)
        above = [level for level in below if kept is None or level.amount > kept.amount]
        return cls(kept, lost, next(iter(above), None))


def _came(level: LevelData) -> float:
    """Return how many requests a second were due; in a short level chance makes that more or fewer than its rate."""
    return float(level.get("offered_per_s") or level.amount)


def came_fewer(level: LevelData) -> str:
    """Return "7.2 a second came" where by chance that is fewer than the rate; else nothing."""
    return f"{_came(level):.3g} a second came" if _came(level) < ABOUT_ALL * level.amount else ""


def _answered_fewer(level: LevelData, than: float | None = None) -> bool:
    """Whether a level answered fewer requests a second, as far as its answers are enough to tell.

    Fewer than its rate, which is what is named, and than came: more may have come by chance, and fewer too. A rate of sessions
    is none of requests.
    """
    if than is None:
        than = _came(level) if level.get("sessions") else min(_came(level), level.amount)
    answered, ci = level.get("requests_per_s"), level.get("requests_per_s_ci95")
    if answered is None:
        return True
    return bool((ci[1] < than) if ci else (answered <= FEWER * than))


def fell_behind(level: LevelData) -> bool:
    """Whether the queue of a level at one rate grew and fewer were answered than came: the longer it lasts, the longer waits are."""
    steady = level.is_open and level.get("rate_to") is None
    return steady and level.queue_grew and _answered_fewer(level)


def why_unclear(level: LevelData) -> str:
    """Say why a level does not show whether the server kept up; empty where it does."""
    if said := unanswered(level):
        return said
    if not level.queue_grew:
        return "" if level["little"].get("steady", True) else TOO_FEW
    grew = " from {in_flight_first:.1f} to {in_flight_last:.1f} requests".format(**level["little"])
    if _answered_fewer(level, _came(level)):
        return f"the queue grew{grew}, as {_came(level):.3g} a second happened to come"
    return f"the queue grew{grew}, which may be chance"


def unanswered(level: LevelData) -> str:
    """Say which requests of a level spared the server work that was meant for it; empty where those are hardly any."""
    outcomes: dict[str, int] = level.get("outcomes") or {}
    shed = int(level.get("shed") or 0)
    left = int((level.get("left") or {}).get("waiting") or 0)
    whole = sum(outcomes.values())
    if shed + left + level.failed <= MOST_UNANSWERED * max(whole, 1):
        return ""
    said = [
        f"{some_of(count, whole, 'request')} {what if count > 1 else what.replace('were', 'was')}"
        for count, what in (
            (level.failed, "failed"),
            (shed, "were not sent (--max-in-flight)"),
            (left, "were left by their users"),
        )
        if count
    ]
    return listed(said)


def kept_up(levels: Iterable[LevelData]) -> str | None:
    """Return a sentence on the rate up to which a server kept up: the queue of no lower level grew.

    `levels` of an open loop in summary.json, by rate. None where growth is unknown for every level, or the rate itself grew.
    """
    found = KeptUp.of(levels)
    if found is None:
        return None
    kept, lost, unclear = found.kept, found.lost, found.unclear
    doubt = "" if unclear is None else f"at {unclear.load} is not known: there {why_unclear(unclear)}"
    if lost is None:
        if kept is None:
            return f"Whether the server can keep up {doubt}."
        more = f"; whether it can {doubt}" if doubt else ""
        law = kept["little"]
        steady = found_in_flight(law["in_flight_first"], law["in_flight_last"], law.get("filled_s"))
        return f"The server kept up at {_rate_kept(kept)}: {steady}{more}."
    rate, grew = lost.get("requests_per_s"), lost["little"]["growth_per_s"]
    answered = "too few to tell" if rate is None else f"{rate:.3g} requests a second"
    return (
        f"The server kept up at {_rate_kept(kept)}, but not" if kept else "The server did not keep up"
    ) + f" at {lost.load}: there it answered {answered}, and each second {grew:.2g} more were in flight."


def _rate_kept(level: LevelData) -> str:
    fewer = came_fewer(level)
    return f"{level.load}{f' ({fewer})' if fewer else ''}"
