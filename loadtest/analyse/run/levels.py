"""The levels of a run: what is read of each one everywhere, and which of them belong on one line of a chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.run.arrays import grouped
from loadtest.doubts import MANY_FAILED_SHARE, VOID
from loadtest.metrics import Interval
from loadtest.records import NO_FAILURES, Outcome
from loadtest.scenario import Level
from loadtest.text import UNKNOWN, interval_words, joined, percent, rated, seconds, some_of

LENGTH_KEYS = ("words", "input_tokens", "output_tokens", "input_lengths", "output_lengths", "system_tokens")
ASKED_KEYS = ("concurrency", "rate", "rate_to", "trace", *LENGTH_KEYS)  # that a scenario's level has too
SERIES_KEYS = ("model", "url", *LENGTH_KEYS)  # what the levels of a series share, beside their kind of load


class LevelData(dict[str, Any]):
    """A level of a run by the keys of run.json, and once it was summed up by those of summary.json."""

    __slots__ = ()

    @property
    def is_void(self) -> bool:
        """Whether its figures must not be quoted."""
        return bool(self.get("verdict") == VOID)

    @property
    def is_open(self) -> bool:
        """Whether it was an open loop: requests are sent when due."""
        return self.get("concurrency") is None

    @property
    def is_closed(self) -> bool:
        """Whether it was a closed loop and nothing else: under Locust users of both kinds of loop may run at once."""
        return not self.is_open and self.get("rate") is None and not self.get("by_schedule")

    @property
    def fills_slots(self) -> bool:
        """Whether each of its users has a request at the server at all times, so that slots are a number of users."""
        return self.is_closed and not self.get("thinks")

    @property
    def as_asked(self) -> Level:
        """The scenario's level, which has the names for it."""
        given: dict[str, Any] = {key: self.get(key) for key in ASKED_KEYS}
        given |= {"inputs": self.get("inputs") or 1, "turns": self.get("turns"), "sessions": bool(self.get("sessions"))}
        given |= {"thinks": bool(self.get("thinks"))}
        return Level(index=self["index"], requests=0, **given)

    @property
    def load(self) -> str:
        """The name of its load as in its label: "8 streams", "4 requests/s"."""
        return self.as_asked.load

    @property
    def amount(self) -> float:
        """Its load as a number: users, or requests/s (of a ramp or trace the mean rate due); 0 where unknown."""
        if not self.is_open:
            return float(self["concurrency"])
        steady = self.get("rate_to") is None and self.get("rate")
        return float(steady or self.get("offered_per_s") or self.get("rate") or 0.0)

    @property
    def failed(self) -> int:
        """How many of its requests failed; those that we stopped did not."""
        outcomes: dict[str, int] = self.get("outcomes") or {}
        return sum(count for name, count in outcomes.items() if name not in NO_FAILURES)

    @property
    def many_failed(self) -> bool:
        """Whether its figures leave out so many that they are not the level's: who waited longest may have failed."""
        return self.failed > MANY_FAILED_SHARE * int(self.get("requests", 0))

    @property
    def verdict_said(self) -> str:
        """Its verdict for a table; where many of its requests failed, which its figures leave out, with their share."""
        if self.is_void or not self.many_failed:
            return str(self["verdict"])
        return f"{self['verdict']} ({self.failed_share} failed)"

    @property
    def failed_share(self) -> str:
        return percent(self.failed / self["requests"])

    @property
    def left_out_said(self) -> str:
        """Name the failed requests that its figures leave out; empty where none failed."""
        verb = "is" if self.failed == 1 else "are"
        return f"{some_of(self.failed, self['requests'], 'request')} failed and {verb} left out" if self.failed else ""

    @property
    def hung_up_said(self) -> str:
        """Say in how many requests users hung up; empty where none did."""
        left = int((self.get("outcomes") or {}).get(Outcome.LEFT, 0))
        return f"users hung up in {some_of(left, self['requests'], 'request')}" if left else ""

    @property
    def queue_grew(self) -> bool:
        """Whether requests of an open loop piled up; False where that is not known."""
        return bool((self.get("little") or {}).get("growing"))

    @property
    def mean_ttft(self) -> float | None:
        """The mean TTFT of users who stayed: of the same requests as the mean waits are."""
        described = self.get("ttft_s") or {}
        mean: float | None = described.get("mean_stayed", described.get("mean"))
        return mean

    @property
    def mean_ttft_said(self) -> str:
        """Name `mean_ttft`: "the mean TTFT (1.2 s)"; says where it leaves out users who hung up, or many that failed."""
        answered = " of requests that did not fail" if self.many_failed else ""
        stayed = " of users who stayed" if (self["ttft_s"] or {}).get("mean_stayed") else answered
        return f"the mean TTFT{stayed} ({seconds(self.mean_ttft)})"

    def share_of_ttft(self, *names: str) -> float:
        """Return which share of its mean TTFT these waits are, as far as they are known of its requests."""
        ttft = self["ttft_s"]
        whole: float = (self.mean_ttft or math.inf) * (ttft.get("n", 1) - ttft.get("left", 0))
        known: float = sum((self.figure(name) or 0.0) * self[name].get("n", 1) for name in names if self.get(name))
        return known / whole if whole else 0.0

    @property
    def gathered(self) -> bool:
        """Whether something on the way gathers tokens, so that no instant of theirs is the server's."""
        return any(each["cause"] == "bundled" for each in self.get("causes") or ())

    def figure(self, name: str, part: str = "mean") -> float | None:
        """Return one of its figures, None where it is unknown; a rate of the whole level has no `part`."""
        described = self.get(name)
        value: float | None = described.get(part) if isinstance(described, Mapping) else described
        return value

    def interval(self, name: str, part: str = "mean") -> Interval | None:
        """Return the 95 % interval of such a figure, up to the largest value seen; None where there is none."""
        described = self.get(name)
        if not isinstance(described, Mapping):
            bounds = self.get(f"{name}_ci95")
            return (bounds[0], bounds[1]) if bounds else None
        bounds = described.get(f"ci95_{part}")
        return (bounds[0], min(bounds[1], described.get("max", math.inf))) if bounds else None

    def interval_in_words(self, name: str, part: str, write: Callable[[float], str] = seconds) -> str:
        """Return an interval as `interval_words` writes it; empty without one.

        A percentile of few values may lie past the largest of them, and then nothing seen bounds it.
        """
        if self.interval(name, part) is None:
            return ""
        described = self[name]
        low, high = described[f"ci95_{part}"]
        return interval_words(low, high, described.get("max", math.inf), write)

    def is_bound(self, name: str, part: str) -> bool:
        """Whether the figure is only what it is at least, as users left before the end of that wait."""
        described = self.get(name)
        return isinstance(described, Mapping) and part in described.get("at_least", ())

    def wait_in_words(self, name: str, part: str) -> str:
        """Return a wait for people: "> 10 s" where users left before its end."""
        value = self.figure(name, part)
        return UNKNOWN if value is None else ("> " if self.is_bound(name, part) else "") + seconds(value)


@dataclass(frozen=True, slots=True)
class Series:
    """Levels that differ only in concurrency (in an open loop: only in rate), in ascending order of it."""

    label: str  # what they share, e.g. "128 in · 64 out"; may be empty
    levels: tuple[LevelData, ...]  # of summary.json

    @property
    def believed(self) -> list[LevelData]:
        return believed(self.levels)

    @property
    def void(self) -> list[LevelData]:
        return [level for level in self.levels if level.is_void]

    @property
    def gaps(self) -> list[float]:
        """The loads of which nothing is believed: a line drawn past one would tell its figure."""
        return sorted({level.amount for level in self.void} - {level.amount for level in self.believed})


def series_of(levels: Iterable[LevelData]) -> list[Series]:
    """Group levels of summary.json by model and server, prompt length, answer length, words and kind of load."""

    def alike(level: LevelData) -> tuple[Any, ...]:
        paced = None if level.is_open else level.get("rate")
        return level.is_open, paced, *(level.get(name) for name in SERIES_KEYS)

    return [
        Series(_shared_label(group[0], rate), tuple(sorted(group, key=lambda level: level.amount)))
        for (_, rate, *_), group in grouped((alike(level), level) for level in levels).items()
    ]


def _shared_label(level: LevelData, rate: float | None) -> str:
    parts = (
        ("{} shared", level.get("system_tokens")),
        ("{} in", level.get("input_lengths") or level.get("input_tokens")),
        ("{} out", level.get("output_lengths") or level.get("output_tokens")),
        ("{} words", level.get("words")),
        ("{}", None if rate is None else rated(rate)),
    )
    return " · ".join(form.format(value) for form, value in parts if value is not None)


def believed(levels: Iterable[LevelData]) -> list[LevelData]:
    """Return the levels that are not void: those whose figures may be quoted."""
    return [level for level in levels if not level.is_void]


def has_tokens(*levels: Mapping[str, Any]) -> bool:
    """Return whether levels of a summary have answers of text, as all have but embeddings: of those E2E is known, no TTFT."""
    known = any(level.get("e2e_s") is not None for level in levels)
    return not known or any(level.get("ttft_s") is not None for level in levels)


def axis_of(levels: Sequence[LevelData]) -> str:
    kinds = {level.is_open for level in levels}
    if kinds == {True}:
        return "offered load (requests/s)"
    closed = [level.as_asked.of_people for level in levels if not level.is_open]
    if kinds <= {False}:
        return users_axis(people=any(closed))
    users = joined(" or ", "" if all(closed) else "streams at once", "people" if any(closed) else "")
    return f"{users}, or requests/s"


def users_axis(*, people: bool) -> str:
    return "concurrency (people)" if people else "concurrency (streams at once)"


def shared_parts(labels: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the parts that all labels share, such as lengths, and each label without them; of one label, however often, all but the load."""
    parts = {label: label.split(" · ") for label in labels}
    first = next(iter(parts.values()), [])
    common = [part for part in first[len(parts) == 1 :] if all(part in other for other in parts.values())]
    own = {label: " · ".join(part for part in mine if part not in common) or label for label, mine in parts.items()}
    return " · ".join(common), own


def names_apart(levels: Sequence[LevelData]) -> list[str]:
    """Return a name for each level, without what all share; of levels with one name the number tells which."""
    labels = [level["label"] for level in levels]
    _, own = shared_parts(labels)
    return [own[each] + (f" (level {i})" if labels.count(each) > 1 else "") for i, each in enumerate(labels, 1)]


def told_apart(levels: Sequence[LevelData]) -> list[LevelData]:
    """Return the levels with labels for people: where several have one label, the number tells which."""
    labels = [level["label"] for level in levels]
    return [
        LevelData(level, label=f"{label} (level {i})") if labels.count(label) > 1 else level
        for i, (level, label) in enumerate(zip(levels, labels, strict=True), 1)
    ]


def name_among(level: LevelData, levels: Sequence[LevelData]) -> str:
    """Return the label of one of these levels without what all of them share, which charts say under their title."""
    return shared_parts([one["label"] for one in levels])[1][level["label"]]


def with_most(levels: Iterable[LevelData], rate: str) -> LevelData | None:
    """Return the level that is not void and has the most of a rate; None where none has it."""
    known = [level for level in believed(levels) if level[rate] is not None]
    return max(known, key=lambda level: float(level[rate]), default=None)


def series_with(levels: Iterable[LevelData], level: LevelData) -> Series:
    """Return the series of these levels that one of them is in."""
    return next(series for series in series_of(levels) if any(one is level for one in series.levels))
