"""Find-max: which level to measure next, from the levels measured; pure, nothing is sent here.

The load doubles until a level misses the objectives. Then the gap between the highest load that meets them and the lowest
that misses them is halved, until the answer is as good as asked for.

- Where the interval of a figure holds the limit, the level is unclear, and its figures alone decide where the search goes on. It
  is measured once more with twice the requests, but while the load still doubles only if it misses by its figures.
- Where the answer is unclear at the end, it is measured once more, too. Where no level surely met the objectives, half of the
  lowest load follows, with twice the requests at once.
- Where requests that were alone at the server all missed, the search ends: with less load more would be alone, and miss.
- A void level is measured again with as many requests. Where it stays void, what was measured of that load before counts; without
  that the search ends: higher loads would be void, too.

Loads are whole numbers: streams, people, or steps of a rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.text import counted, listed, rated

DEFAULT_MOST = 256
SEARCH_PRECISION = 16  # above this load the answer is good to one part in so many: each further level is the longest
RATE_STEPS = 16  # into which the rate that a search begins with is divided
ATTEMPTS = 2  # measurements of one level, each of twice the requests, before it stays unresolved
VOID_ATTEMPTS = 3  # likewise, of a void one
FEWEST_ALONE = 5  # requests that were alone and missed, from which on less load is taken not to help


@dataclass(frozen=True, slots=True)
class TriedLevel:
    """A level that was measured: whether it met what is asked, None where that is not clear."""

    concurrency: int  # or step of the rate
    requests: int
    met: bool | None
    saw: str  # one sentence without its full stop
    void: bool = False  # what was measured is not the server
    leans: bool | None = None  # whether its figures met what is asked, sure or not; None: unknown
    alone: int = 0  # requests that were alone at the server, where every one of them missed what is asked

    @property
    def probably(self) -> bool | None:
        return self.leans if self.met is None else self.met


@dataclass(frozen=True, slots=True)
class NextLevel:
    concurrency: int
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    least: int  # requests of a level: below, a percentile asked for would not be known
    a_stream: int = 8  # requests of each stream of a level
    most: int = DEFAULT_MOST  # no level goes past it
    start: int = 1  # the first level's load
    precision: int = SEARCH_PRECISION

    def next_level(self, tried: Sequence[TriedLevel]) -> NextLevel | None:
        """Return the level to measure after those tried, in the order tried; None when the search is over."""
        if not tried:
            return self._level(min(self.start, self.most), 0)
        *before, last = tried
        same = [one for one in tried if one.concurrency == last.concurrency]
        below = any(one.probably for one in before) and all(last.concurrency < one.concurrency for one in before)
        low, high = _probable(tried)
        if low == 0 and last.alone >= FEWEST_ALONE:
            return None
        climbs = last.leans and not last.void and high is None and low < self.most
        attempts = VOID_ATTEMPTS if last.void else 1 if below or climbs else ATTEMPTS
        if last.met is None and len(same) < attempts:
            return self._level(last.concurrency, sum(not one.void for one in same))
        if all(one.void for one in same):
            return None
        if high is None:
            return None if low >= self.most else self._level(min(2 * low, self.most), 0)
        if high - low > max(1, low // self.precision):
            return self._level((low + high) // 2, 0)
        of_low = [one for one in tried if one.concurrency == low]
        if [one.met for one in of_low if not one.void] == [None] and not of_low[-1].void:
            return self._level(low, 1)
        return self._below(tried, low)

    def _below(self, tried: Sequence[TriedLevel], answer: int) -> NextLevel | None:
        """Return half of an answer that is not sure while no load surely meets: the answer needs a lower end."""
        if answer <= 1 or any(one.met for one in tried):
            return None
        half = min(one.concurrency for one in tried) // 2
        return self._level(half, ATTEMPTS - 1) if half else None

    def _level(self, load: int, attempt: int) -> NextLevel:
        return NextLevel(load, max(self.least, self.a_stream * load) * 2**attempt)


def _probable(tried: Sequence[TriedLevel]) -> tuple[int, int | None]:
    """Return the highest load that meets by its figures, and the lowest that does not, unless none was tried.

    More load never makes a server faster, so nothing above the lowest miss can count as met.
    """
    by_load = {one.concurrency: one.probably for one in tried if not (one.void and one.met is None)}
    missed = min((at for at, met in by_load.items() if not met), default=None)
    return max((at for at, met in by_load.items() if met and (missed is None or at < missed)), default=0), missed


@dataclass(frozen=True, slots=True)
class Loads:
    """What a search's loads are, and how they are named."""

    kind: str = "streams"  # "streams", "people", "requests/s" or "sessions/s"
    unit: float = 1.0  # requests/s of one step of a rate

    def name(self, load: int, *, kind: bool = True) -> str:
        """Return "5 streams", "1 person", "2.5 requests/s"; without `kind` the number alone."""
        if self.is_rate:
            words = rated(load * self.unit, self.kind.removesuffix("s/s"))  # as the level's own label
        else:
            words = counted(load, "person", "people") if self.kind == "people" else counted(load, "stream")
        return words if kind else words.partition(" ")[0]

    def of_this_kind(self, load: int) -> str:
        return self.name(load) + (" of this kind" if self.kind == "people" else "")

    @property
    def is_rate(self) -> bool:
        return self.kind.endswith("/s")

    @property
    def least(self) -> str:
        return self.name(1) if self.is_rate else self.name(1).replace("1", "one")

    def meets(self, load: int) -> str:
        return "meets" if load * self.unit == 1 else "meet"

    def misses(self, load: int) -> str:
        return "misses" if load * self.unit == 1 else "miss"


STREAMS = Loads()
NOT_SURELY = "by its figures, though not surely"


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search knows: the highest load that surely meets, and the lowest that surely misses."""

    met: int | None
    missed: int | None
    void: int | None = None  # where the search ended: a level that stayed void, be it for the client or for the server
    answer: int | None = None  # the highest that meets by its figures, below the lowest that misses by them
    beyond: int | None = None  # the lowest that misses by its figures
    alone: int = 0  # requests that were alone at the server and missed, where these ended the search

    @classmethod
    def of(cls, tried: Sequence[TriedLevel]) -> SearchResult:
        """Sum up the levels tried; of several measurements of one load the last, largest one counts that is not void."""
        seen = {one.concurrency: one.met for one in tried if not one.void}
        by_load = {one.concurrency: one.met for one in tried} | seen
        missed = min((at for at, met in by_load.items() if met is False), default=None)
        below = [at for at in by_load if missed is None or at < missed]
        met = max((at for at in below if by_load[at]), default=None)
        void = tried[-1].concurrency if tried and tried[-1].concurrency not in seen else None
        answer, beyond = _probable(tried)
        alone = tried[-1].alone if tried and not answer else 0
        return cls(met, missed, void, answer or None, beyond, alone if alone >= FEWEST_ALONE else 0)

    @property
    def interval(self) -> tuple[int, int | None]:
        """The loads between which the answer lies: the highest that surely meets, and the one below the lowest sure miss."""
        return self.met or 0, None if self.missed is None else self.missed - 1

    def sentence(
        self,
        asked: str,
        *,
        server: str = "The server",
        loads: Loads = STREAMS,
        binds: str = "",
        most: int | None = None,
        unjudged: str = "",
    ) -> str:
        """Say what the server carries while it meets `asked`, e.g. "TTFT p95 ≤ 2 s", and what binds past that.

        `most` is the load that the search was not to go past; `unjudged` says why the next load tells nothing of `asked`.
        """
        if self.void is not None:
            return self._void(asked, loads)
        if self.answer is None:
            if self.beyond is None:
                return f"No level that tells of {asked} was measured to its end."
            sure = "" if self.missed == self.beyond else ", as far as its figures show"
            why = f": {binds}" if binds else ""
            miss = f"{loads.name(self.beyond)} {loads.misses(self.beyond)} {asked}"
            if self.alone:
                alone = f"none of {self.alone} requests that were alone at the server met it"
                return f"{miss}, and a lower rate would not help, as {alone}."
            if self.beyond > 1:  # the search was cut short
                return f"{miss}{sure}; no lower load was measured to its end{why}."
            return f"Not even {loads.least} {loads.meets(1)} {asked}{sure}{why}."
        verb = "carries" if loads.kind == "people" else "takes"
        if self.beyond is None:
            surely = f"surely {loads.name(self.met)}" if self.met else NOT_SURELY
            sure = "" if self.met == self.answer else f" ({surely})"
            carried = f"{server} {verb} at least {loads.of_this_kind(self.answer)} within {asked}{sure}"
            if unjudged:
                return f"{carried}; of the next load nothing is known: {unjudged}."
            return f"{carried}; {'--find-max was to go no further' if self.answer == most else 'no higher load was measured to its end'}."
        past = f"past that {binds}" if binds else f"{loads.name(self.beyond)} {loads.misses(self.beyond)} it"
        return f"{server} {verb} {loads.of_this_kind(self.answer)}{self._between(loads)} within {asked}; {past}."

    def _between(self, loads: Loads) -> str:
        low, high = self.interval
        if not low:
            miss = "" if self.missed is None else f"; {loads.name(self.missed)} surely {loads.misses(self.missed)}"
            return f" ({NOT_SURELY}{miss})"
        if high is None:
            return f" (surely {loads.name(low, kind=False)})" if low != self.answer else ""
        if loads.is_rate:
            high += 1  # no rate between two steps was tried
        if low == high == self.answer:
            return ""
        return f" ({loads.name(low, kind=False)} to {loads.name(high, kind=False)})"

    def _void(self, asked: str, loads: Loads) -> str:
        assert self.void is not None
        met = f"{loads.name(self.met)} {loads.meets(self.met)} it" if self.met else "no level surely meets it"
        missed = [f"{loads.name(self.missed)} {loads.misses(self.missed)} it"] if self.missed else []
        where = f" above {loads.name(self.met)}" if self.met else ""
        if self.missed:
            low, high = self.met, loads.name(self.missed)
            where = f" between {low} and {high}" if low else f" below {high}"
        why = f"at {loads.name(self.void)} the level is void, so that this run cannot tell"
        return f"Unresolved{where} for {asked}: {listed([met, *missed, why])}."
