"""What a report says first: whether the figures can be believed and what to do where not, and the four figures asked for most.

No figure is of a void level: where only void levels would have it, the tile says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.analyse.figures.keeping_up import KeptUp, came_fewer, why_unclear
from loadtest.analyse.figures.stationarity import too_few_for_interval
from loadtest.analyse.findings.measured_on import ALL, SOME, simulated_badge
from loadtest.analyse.findings.slot_findings import only_void, slots_told, what_happens
from loadtest.analyse.findings.waiting_findings import void_above
from loadtest.analyse.run import (
    LevelData,
    Series,
    believed,
    grouped,
    has_tokens,
    names_apart,
    series_of,
    series_with,
    shared_parts,
    with_most,
)
from loadtest.analyse.server.queue.slots import CAME_WHOLE, NOT_SEEN
from loadtest.analyse.summary import Analysis, believed_knee
from loadtest.analyse.verdict.remedies import REMEDIES
from loadtest.doubts import SUSPECT, VALID, VOID
from loadtest.metrics import PERCENTILES, needed
from loadtest.text import capitalised, joined, levels_are, listed, number, seconds

MOST_NAMED = 4  # levels in one sentence
ALL_VOID = "every level is void"
IN_WORDS = {
    VALID: "These figures can be quoted: the client kept up with every level.",
    SUSPECT: "Quote these figures with their reasons for doubt.",
    VOID: "Do not quote the figures of void levels.",
}
# … of simulated servers, and of those of whom some are: nothing was measured of a server, however well the client kept up.
OF_SIMULATED = {
    (
        VALID,
        ALL,
    ): "The client kept up with every level; the server was simulated, so quote these figures as a simulation.",
    (VALID, SOME): "The client kept up with every level; quote the figures of what was simulated as a simulation.",
    (SUSPECT, ALL): "Quote these figures as a simulation, with their reasons for doubt.",
    (
        SUSPECT,
        SOME,
    ): "Quote these figures with their reasons for doubt, and those of what was simulated as a simulation.",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One of the figures on top: `value` where it is known, and where it was measured, else what is missing, in `note`."""

    name: str
    value: str
    note: str

    def __str__(self) -> str:
        return f"{self.name}: {self.value} ({self.note})" if self.value else f"{self.name}: not known ({self.note})"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one rule saw in one level, and how grave that is."""

    level: LevelData
    verdict: str
    reason: str
    name: str  # of the level

    def __str__(self) -> str:
        if self.besides:
            return f"At {self.called}, void already: {self.reason}."
        return f"{capitalised(self.verdict)} at {self.called}: {self.reason}."

    @property
    def called(self) -> str:
        """The level's name, with its model where several share a server and the name does not begin with it."""
        model = self.level.get("model") if "beside" in self.level else None
        return self.name if not model or f"{self.name} ".startswith(f"{model} ") else f"{model} · {self.name}"

    @property
    def besides(self) -> bool:
        """Whether the level is void for something graver than this."""
        return self.verdict != VOID and self.level.is_void


@dataclass(frozen=True, slots=True)
class Reason:
    """What is wrong, and in which levels it was seen, those first that it makes void."""

    wrong: str
    seen: tuple[Seen, ...]

    @property
    def where(self) -> str:
        """Name the levels: "Void at 1 stream; suspect at 2 and 8 streams"."""
        names = grouped(dict.fromkeys((None if one.besides else one.verdict, one.called) for one in self.seen))
        parts = [f"{verdict} at {_shortened(names[verdict])}" for verdict in (VOID, SUSPECT) if verdict in names]
        if None in names:
            parts.append(f"{'also ' if parts else ''}at {_shortened(names[None])}, void already")
        return capitalised("; ".join(parts))

    @property
    def example(self) -> str:
        """Return all that was seen in the first level; of several levels, name them first."""
        first = self.seen[0]
        same = [one.reason for one in self.seen if one.level is first.level and one.verdict == first.verdict]
        if len({id(one.level) for one in self.seen}) == 1:
            return str(replace(first, reason="; ".join(same)))
        return f"{self.where}. At {first.called}: {'; '.join(same)}."


@dataclass(frozen=True, slots=True)
class ToDo:
    """What to do before measuring again, and the reasons that ask for it."""

    advice: str
    reasons: tuple[Reason, ...]


def _shortened(names: Sequence[str]) -> str:
    more = f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{listed(names[:MOST_NAMED])}{more}"


def verdict_in_words(summary: dict[str, Any]) -> str:
    """Say what the verdict means, with how many levels are not valid."""
    levels = summary["levels"]
    if not levels:
        return "No request was recorded, so there is nothing to quote."
    said: list[str] = []
    for word in (VOID, SUSPECT):
        if count := sum(level["verdict"] == word for level in levels):
            of_all = f"{count} {'is' if count == 1 else 'are'}" if said else levels_are(count, len(levels))
            said.append(f"{of_all} {word}")
    words = OF_SIMULATED.get((summary["verdict"], simulated_badge(summary) or ""), IN_WORDS[summary["verdict"]])
    words += f" {listed(said)}." if said else ""
    if summary["verdict"] not in [level["verdict"] for level in levels]:
        words += f" The run did not end as planned, or not yet, which makes it {summary['verdict']} as a whole."
    return words


def to_do(levels: Sequence[LevelData]) -> list[ToDo]:
    """Return what there is to do, each advice once, for void levels first."""
    seen = [
        (each["cause"], Seen(level, each["verdict"], reason, name))
        for level, name in zip(levels, names_apart(levels), strict=True)
        for each, reason in zip(level["causes"], level["reasons"], strict=True)
    ]
    seen.sort(key=lambda entry: entry[1].verdict != VOID)
    found = grouped((REMEDIES[cause].advice, (REMEDIES[cause].wrong, one)) for cause, one in seen)
    return [
        ToDo(advice, tuple(Reason(wrong, tuple(every)) for wrong, every in grouped(reasons).items()))
        for advice, reasons in found.items()
    ]


def tiles(analysis: Analysis) -> list[Tile]:
    """Return the four figures: the most output, where it levels off, TTFT p95 there, and slots; of embeddings their like."""
    # What all levels share, such as their lengths, stands in the report's second line.
    _, own = shared_parts([level["label"] for level in analysis.levels])
    levels = [LevelData(level, label=own[level["label"]]) for level in analysis.levels]
    if levels and not has_tokens(*levels):
        return _without_tokens(levels)
    best = with_most(levels, "output_tokens_per_s")
    if best is None:
        unsteady = "no level has a steady rate of output" if believed(levels) else ALL_VOID
        off_at = "Kept up with" if levels and all(level.is_open for level in levels) else "Levels off at"
        names = ("Most output tokens/s", off_at, "TTFT p95 at the most output")
        missing = [Tile(name, "", unsteady if levels else "no request was recorded") for name in names]
        return [*missing, _slots(analysis)]
    series = series_with(levels, best)
    where = f"at {best['label']}{void_above(series, best)}"
    most = Tile("Most output tokens/s", number(best["output_tokens_per_s"]), where)
    off, at = _levels_off(series, named=len(series_of(levels)) > 1)
    return [most, off, _ttft(at, best), _slots(analysis)]


def _without_tokens(levels: Sequence[LevelData]) -> list[Tile]:
    """Return what stands there of answers without text, such as embeddings."""
    best = with_most(levels, "requests_per_s")
    slots = Tile("Slots", "", "answers that have no tokens do not show them")
    if best is None:
        missing = "no level has a steady rate of requests" if believed(levels) else ALL_VOID
        return [Tile(name, "", missing) for name in ("Most requests/s", "Input tokens/s there", "E2E p95 there")] + [
            slots
        ]
    where, p95, count = f"at {best['label']}", best.figure("e2e_s", "p95"), (best.get("e2e_s") or {}).get("n", 0)
    few = f"p95 needs {needed(PERCENTILES['p95'])} requests, {best['label']} has {count}"
    read = best["input_tokens_per_s"]
    return [
        Tile("Most requests/s", number(best["requests_per_s"]), where),
        Tile("Input tokens/s there", *(("", "the server counts none") if read is None else (number(read), where))),
        Tile("E2E p95 there", *(("", few) if p95 is None else (seconds(p95), where))),
        slots,
    ]


def _levels_off(series: Series, *, named: bool = False) -> tuple[Tile, LevelData | None]:
    """Say from which load on output grows no more, and return that level; for rates, which one is kept up with.

    `named`: whether there are other series, so that this one takes its name.
    """
    levels = series.believed
    if levels[0].is_open:
        return _kept_up(series, levels)
    name = "Levels off at"
    found, why = believed_knee(series)
    if found is None:
        return Tile(name, "", str(why)), None
    level = next(one for one in levels if one["concurrency"] == found.concurrency)
    again = f"{found.void_said}; measure {'it' if len(found.void) == 1 else 'them'} again" if found.void else ""
    if not found.levels_off:
        said = found.doubt or f"output still grows at {level['label']}"
        if again:
            return Tile(name, "", again if said == found.void_said else f"{said}; {again}"), None
        todo = f"measure more {found.noun[1]}" if found.grows else "measure longer"
        return Tile(name, "", f"{said}: {todo}"), None
    if found.in_between:
        return Tile(name, f"≤ {found.load}", again), level
    low, high = found.interval or (0, 0)
    between = f"more {found.noun[1]} bring {'no more' if found.falls is None else 'less'} output"
    if low != high or named:
        between = f"95 % interval: {low} to {high}" if low != high else series.label
    return Tile(name, found.load, between), level


def _kept_up(series: Series, levels: Sequence[LevelData]) -> tuple[Tile, LevelData | None]:
    name = "Kept up with"
    found = KeptUp.of(levels)
    if found is None:
        why = "its rate changes" if levels[0].get("rate_to") else "too few requests to tell whether the queue grew"
        return Tile(name, "", why), None
    kept, lost, unclear = found.kept, found.lost, found.unclear
    if kept is None and unclear is not None:
        return Tile(name, "", f"at {unclear.load} {why_unclear(unclear)}"), None
    if kept is None:
        assert lost is not None
        return Tile(name, "", f"the queue already grows at {lost.load}: measure lower rates"), None
    more = (
        f"not with {lost.load}"
        if lost is not None
        else f"at {unclear.load} {why_unclear(unclear)}"
        if unclear is not None
        else f"the highest rate measured{void_above(series, kept)}"
    )
    return Tile(name, kept.load, joined("; ", came_fewer(kept), more)), kept


def _slots(analysis: Analysis) -> Tile:
    """Say the slots as far as levels that are not void show them."""
    name, slots, levels = "Slots", analysis.believed_slots, analysis.levels
    if analysis.slots.estimate is None:
        return Tile(
            name, "", "no stream was seen decoding" if not analysis.groups else "each model has its own: see below"
        )
    if slots.estimate is None:
        return Tile(name, "", ALL_VOID)
    if slots.limit:
        return Tile(name, str(slots.estimate), f"requests in parallel; further ones {what_happens(analysis)}")
    if analysis.run.fact("server", "slots_said") == slots.estimate:
        return Tile(name, str(slots.estimate), "as the server says; the run saw no limit")
    told = slots_told(analysis)
    unseen = slots.unknown if told is None else told
    if slots.unknown == NOT_SEEN or (told is not None and slots.unknown != CAME_WHOLE):
        unseen += ": measure longer, or with more load"
    return Tile(name, f"≥ {slots.estimate}", f"{only_void(levels)} the limit" if analysis.slots.limit else unseen)


def _ttft(at: LevelData | None, best: LevelData) -> Tile:
    """Say TTFT p95 where output levels off, or else where it is the most."""
    level = at or best
    name = "TTFT p95 there" if at is not None else "TTFT p95 at the most output"
    if level.figure("ttft_s", "p95") is not None:
        ends = level.interval_in_words("ttft_s", "p95")
        none = f"no 95 % interval{too_few_for_interval(level, 'ttft_s', 'p95')}, "
        between = f"95 % interval {ends}, " if ends else none
        where = joined("; ", f"at {level['label']}", level.left_out_said)
        return Tile(name, level.wait_in_words("ttft_s", "p95"), f"{between}{where}")
    count = level.figure("ttft_s", "n") or 0
    return Tile(name, "", f"p95 needs {needed(PERCENTILES['p95'])} requests, {level['label']} has {count}")
