"""Find-max: which level to measure next, from the levels measured; pure, nothing is sent here.

Concurrency doubles, from one stream on, until a level misses the objectives. Then the gap between the highest level that
meets them and the lowest that misses them is halved. An unclear level is measured again with twice the requests, a void
one with the same number. Where a level stays void the search ends: this client cannot measure more streams either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.text import counted

DEFAULT_MOST = 256
SEARCH_PRECISION = (
    16  # above this many streams the answer is good to one part in so many: each further level is the longest
)


@dataclass(frozen=True, slots=True)
class TriedLevel:
    """A level that was measured: whether it met what is asked, None where that is not clear."""

    concurrency: int
    requests: int
    met: bool | None
    saw: str  # one sentence without its full stop
    void: bool = False  # what was measured is not the server


@dataclass(frozen=True, slots=True)
class NextLevel:
    """What to measure next."""

    concurrency: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The rules of one search."""

    least: int  # requests of a level: below, a percentile asked for would not be known
    a_stream: int = 8  # requests of each stream of a level
    most: int = DEFAULT_MOST  # streams; no level goes past it
    attempts: int = 3  # measurements of one level, each of twice the requests, before it stays unresolved

    def next_level(self, tried: Sequence[TriedLevel]) -> NextLevel | None:
        """Return the level to measure after those tried, in the order tried; None when the search is over."""
        if not tried:
            return self._level(1, 0)
        last = tried[-1]
        same = [one for one in tried if one.concurrency == last.concurrency]
        if last.met is None and len(same) < self.attempts:
            return self._level(last.concurrency, sum(not one.void for one in same))
        if last.void:
            return None
        found = SearchResult.of(tried)
        if found.missed is None:
            top = max(one.concurrency for one in tried)
            return None if top >= self.most else self._level(min(2 * top, self.most), 0)
        for low, high in found.gaps():
            if high - low > max(1, low // SEARCH_PRECISION):
                return self._level((low + high) // 2, 0)
        return None

    def _level(self, concurrency: int, attempt: int) -> NextLevel:
        return NextLevel(concurrency, max(self.least, self.a_stream * concurrency) * 2**attempt)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search knows: the highest concurrency that meets, the lowest that misses, those between left unclear."""

    met: int | None
    missed: int | None
    unresolved: tuple[int, ...]
    void: int | None = None  # where the search ended because the client could not measure

    @classmethod
    def of(cls, tried: Sequence[TriedLevel]) -> SearchResult:
        """Sum up the levels tried; of several measurements of one concurrency the last, largest one counts.

        More streams never make a server faster, so nothing above the lowest miss can count as met.
        """
        said = {one.concurrency: one.met for one in tried}
        missed = min((at for at, met in said.items() if met is False), default=None)
        below = [at for at in said if missed is None or at < missed]
        met = max((at for at in below if said[at]), default=None)
        unresolved = sorted(at for at in below if said[at] is None and at > (met or 0))
        void = tried[-1].concurrency if tried and tried[-1].void else None
        return cls(met, missed, tuple(unresolved), void)

    def gaps(self) -> tuple[tuple[int, int], ...]:
        """Return the (low, high) between which nothing was tried yet: below and above what stayed unclear."""
        if self.missed is None:
            return ()
        known = (self.met or 0, *self.unresolved, self.missed)
        return ((known[0], known[1]),) if len(known) == 2 else ((known[0], known[1]), (known[-2], known[-1]))

    def sentence(self, asked: str, most: int, *, server: str = "The server") -> str:
        """Say how many streams the server takes while it meets `asked`, e.g. "TTFT p95 ≤ 2 s"."""
        if not self.unresolved:
            if self.met is None:
                return f"Not even one stream meets {asked}." if self.missed else f"Nothing is known about {asked}."
            if self.missed is None:
                return f"{server} takes at least {counted(self.met, 'stream')} within {asked}; more were not tried."
            return f"{server} takes {counted(self.met, 'stream')} within {asked}; {counted(self.missed, 'stream')} {_miss(self.missed)}."
        met = (
            f"{counted(self.met, 'stream')} meet{'s' if self.met == 1 else ''} it"
            if self.met
            else "no level surely meets it"
        )
        missed = (
            f"{counted(self.missed, 'stream')} {_miss(self.missed)}"
            if self.missed
            else f"none up to {most} surely misses it"
        )
        why = f"at {_span(self.unresolved)} the figures are too close to the limit, or too unsteady"
        if self.void is not None:
            missed = missed if self.missed else "no more were tried"
            why = f"at {counted(self.void, 'stream')} the level is void, so that this client cannot tell"
        above = (
            f"between {self.met or 0} and {self.missed} streams"
            if self.missed
            else f"above {counted(self.met or 0, 'stream')}"
        )
        return f"Unresolved {above} for {asked}: {met}, {missed}, and {why}."


def _span(counts: Sequence[int]) -> str:
    return counted(counts[0], "stream") if len(counts) == 1 else f"{counts[0]} to {counted(counts[-1], 'stream')}"


def _miss(count: int) -> str:
    return "misses it" if count == 1 else "miss it"
