"""Whether runs may be compared: what they asked of which server, how long prompts and answers were, what is void."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from loadtest.analyse.comparison.differences import geometric, ratio
from loadtest.analyse.comparison.estimates import block_of, mean_of
from loadtest.analyse.run import LENGTH_KEYS, LevelData, RunData, grouped, shared_parts
from loadtest.analyse.summary import Analysis
from loadtest.doubts import SUSPECT
from loadtest.errors import RunFolderError
from loadtest.scenario import ADDED_KEYS, SAID_KEYS, Scenario, keys_of
from loadtest.text import counted, listed, percent

SAME_LENGTH_SHARE = 0.05  # lengths that differ by more are other work …
LENGTH_ERROR = 0.001  # … where chance gives such a difference this rarely
# Each run calibrates the model's tokens anew, from a few prompts: prompts of one command differ by so much, no more.
CALIBRATION_SHARE, CALIBRATION_TOKENS = 0.10, 8
NAMED_SCATTER = 0.01  # of prompt length, from there on said
CACHED_APART = 0.05  # of prompt tokens, by which the shares that a prefix cache had must differ to be named
NOT_COUNTED = "the server does not say how many it had cached"
CLOSED = "closed loop"  # what runs of users have in place of arrivals
MOST_EXPLAINED = 6  # levels without a verdict whose reason is a note

# Keys of run.json that say what is compared with what. These may differ, and are named; all others must be equal or
# named by the user (`across`), for they change what the server is asked to do.
MAY_DIFFER = ("server", "simulated")
# of a run whose loadtest did not know the key yet; others: None
DEFAULTS = {
    "warm_cache": False,
    "prompt": "made up",
    "inputs_per_request": 1,
}
# Keys of a scenario that count as well; one that has its default counts as missing, as in a run that did not know it yet.
SHAPING = ("think_time", "max_rate", "turns", "follow_up_tokens", "answers", "patience", "leave")
ASKED = {name: name for name in (*SHAPING, "prompt_file", *SAID_KEYS, *ADDED_KEYS)} | {"prompt": "prompt_text"}
_MISSING: dict[str, tuple[Any, ...]] = {
    key.name: (None, [], key.default) for key in keys_of(Scenario) if key.name in ASKED
}
REQUESTS_A_USER = "requests_a_user"  # of a closed loop's level: how much of it is ramp and drain follows from it
OTHER_COUNTS = "the runs differ in requests a user"
ALL_THE_SAME = f"--across {REQUESTS_A_USER} compares all the same"

Levels = tuple[LevelData, ...]  # of summary.json, one a run
ModelAndUrl = tuple[str, str]  # a model and its URL
# the name of a model or server, and what each side has of it
PartOfRuns = tuple[str, tuple[Analysis, ...], tuple[Analysis, ...]]


def matched(sides: Sequence[Sequence[Analysis]]) -> list[Levels]:
    """Return the levels that every run has, by what they ask for; one that a run has twice is matched in order.

    Raises RunFolderError where there is none.
    """
    runs = [one for side in sides for one in side]
    first, *others = [grouped((asked(level), level) for level in one.levels) for one in runs]
    found = [
        levels
        for what, mine in first.items()
        for levels in zip(mine, *(other.get(what, []) for other in others), strict=False)
    ]
    found.sort(key=lambda levels: int(levels[0]["index"]))
    names = [str(one.run.path) for one in runs]
    if not found:
        lost = "".join(f" {one.run.path}: {said}" for one in runs for said in one.run.trouble[:1])
        raise RunFolderError(
            f"{', '.join(names[:-1])} and {names[-1]} have no level in common (same concurrency, lengths and rate): "
            f"measure {'both' if len(names) == 2 else 'all'} with the same scenario.{lost}"
        )
    return found


def parts(base: Sequence[Analysis], new: Sequence[Analysis]) -> tuple[list[PartOfRuns], list[str]]:
    """Return what is compared with what: the runs, or where one holds several models or servers each of those with its like.

    Its like is the same model at the same URL, else the same model in the same place among those of its name: servers may
    have moved. Also returns notes on what is left out. Raises RunFolderError where nothing is alike.
    """
    runs = [*base, *new]
    if not any(one.groups for one in runs):
        return [("", tuple(base), tuple(new))], []
    every = [dict(_by_target(one)) for one in runs]
    found: list[PartOfRuns] = []
    for key, part in every[0].items():
        alike = [part, *(_like(key, every[0], other) for other in every[1:])]
        known = [one for one in alike if one is not None]
        if len(known) == len(runs):
            found.append((part.summary.get("group") or key[0], tuple(known[: len(base)]), tuple(known[len(base) :])))
    names = " and ".join(dict.fromkeys(str(one.run.path) for one in runs))
    if not found:
        raise RunFolderError(f"{names} have no model in common: measure the same models in both.")
    compared = {id(one) for _, ours, theirs in found for one in (*ours, *theirs)}
    alone = grouped(
        (name, part.summary.get("group") or key[0])
        for name, side in (("BASE", every[: len(base)]), ("NEW", every[len(base) :]))
        for one in side
        for key, part in one.items()
        if id(part) not in compared
    )
    return found, _left_out(alone, ", ")


def _by_target(one: Analysis) -> list[tuple[ModelAndUrl, Analysis]]:
    if one.groups:
        return [((group.model, group.url), part) for group, part in one.groups]
    model, url = one.run.fact("target", "model"), one.run.fact("target", "url")
    return [((str(model or "unknown model"), str(url)), one)]


def _like(key: ModelAndUrl, first: dict[ModelAndUrl, Analysis], other: dict[ModelAndUrl, Analysis]) -> Analysis | None:
    """Return what another run has of a model: at the same URL, else in the same place among those at other URLs."""
    if key in other:
        return other[key]
    place = [each for each in first if each[0] == key[0] and each not in other].index(key)
    moved = [part for each, part in other.items() if each[0] == key[0] and each not in first]
    return moved[place] if place < len(moved) else None


def asked(level: LevelData) -> tuple[Any, ...]:
    return tuple(level.get(key) for key in ("concurrency", "rate", *LENGTH_KEYS))


def unmatched(pairs: Sequence[Levels], sides: Sequence[Sequence[Analysis]]) -> list[str]:
    """Say which levels are left out, for a run of the other side lacks them."""
    known = {asked(levels[0]) for levels in pairs}
    alone = grouped(
        (name, level["label"])
        for name, side in zip(("BASE", "NEW"), sides, strict=True)
        for one in side
        for level in one.levels
        if asked(level) not in known
    )
    return _left_out(alone, "; ")


def _left_out(alone: Mapping[str, Iterable[str]], separator: str) -> list[str]:
    return [f"Only {side} has {separator.join(dict.fromkeys(names))}: left out." for side, names in alone.items()]


def differing_keys(base: Sequence[RunData], new: Sequence[RunData], across: frozenset[str]) -> tuple[str, list[str]]:
    """Return why the runs must not be compared (empty: they may), and a note on every key that differs.

    Raises RunFolderError where the runs of one side differ among themselves.
    """
    for name, side in (("BASE", base), ("NEW", new)):
        for one in side[1:]:
            refused, _ = differing_facts(asked_facts(side[0]), asked_facts(one), frozenset())
            if refused:
                raise RunFolderError(
                    f"the runs of {name} differ among themselves: {side[0].path} and {one.path} in {', '.join(refused)}; "
                    "give runs of one command on each side."
                )
    refused, notes = differing_facts(asked_facts(base[0]), asked_facts(new[0]), across)
    return (f"the runs differ in {', '.join(refused)}" if refused else ""), notes


def differing_facts(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], across: frozenset[str]
) -> tuple[list[str], list[str]]:
    """Return which facts forbid a comparison, and a note on each that differs; both sides as asked_facts gives them."""
    refused, notes = [], []
    for key in sorted(ours.keys() | theirs.keys()):
        one, other = (facts.get(key, DEFAULTS.get(key)) for facts in (ours, theirs))
        # an older run does not know what was in its files
        if one == other or (key == "files" and None in (one, other)):
            continue
        said = f"{key} ({value_text(key, one)} → {value_text(key, other)})"
        half = key == "simulated" and (one is None or other is None)
        if (key in MAY_DIFFER or key in across) and not half:
            notes.append(f"Differs: {said}.")
        else:
            refused.append(said)
            hint = "a simulated server says nothing of a real one" if half else f"--across {key} compares all the same"
            notes.append(f"Differs: {said}; no verdict ({hint}).")
    return refused, notes


def asked_facts(run: RunData) -> dict[str, Any]:
    """Return what a run asked of which server: what another run must share with it, MAY_DIFFER apart."""
    named = {ASKED[key]: run.scenario[key] for key in ASKED if run.scenario.get(key) not in _MISSING[key]}
    return named | (run.facts.get("comparability") or {}) | {"simulated": run.simulated}


def value_text(key: str, value: Any) -> str:
    if key == "simulated" and isinstance(value, dict):
        return f"{value.get('profile')} at {float(value.get('speed') or 1):g}×"
    if key == "arrivals" and value is None:
        return CLOSED
    text = "none" if value is None else "; ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else text[:37] + "…"


def void_sides(base: Levels, new: Levels) -> str:
    sides = [name for name, levels in (("BASE", base), ("NEW", new)) if any(one.is_void for one in levels)]
    return f"void in {' and '.join(sides)}" if sides else ""


def without_verdict(reasons: Sequence[tuple[Levels, Levels, str]]) -> Iterator[str]:
    """Say why levels are not judged: of a void one, what makes it void. Of many alike the first ones are named."""
    for ours, theirs, reason in reasons[:MOST_EXPLAINED]:
        whys = {
            name: levels[0]["reasons"][0]
            for name, side in (("BASE", ours), ("NEW", theirs))
            if (levels := [one for one in side if one.is_void and one["reasons"]])
        }
        why = "; ".join(f"{name}: {said}" if len(whys) > 1 else said for name, said in whys.items())
        yield f"No verdict at {ours[0]['label']}: {reason}" + (f" ({why})." if why else ".")
    if (more := len(reasons) - MOST_EXPLAINED) > 0:
        yield f"{counted(more, 'more level')} without a verdict: compare.md has the reason of each."


def suspect_levels(named: Sequence[tuple[str, LevelData]]) -> Iterator[str]:
    """Say of levels, each with the name of its side or run, why they are suspect: their verdicts stand."""
    _, own = shared_parts([level.as_asked.label for _, level in named])
    why = grouped(
        ((name, "; ".join(level["reasons"])), own[level.as_asked.label])
        for name, level in named
        if level["verdict"] == SUSPECT
    )
    for (name, reasons), labels in why.items():
        yield f"{name} is suspect at {listed(list(dict.fromkeys(labels)))}: {reasons}."


def requests_a_user(
    base: Sequence[RunData], new: Sequence[RunData], level: Levels, across: frozenset[str]
) -> tuple[str, str]:
    """Return why a closed loop's level must not be judged for its number of requests a user, and how that is said.

    A level that lasts for a time, not for a number of requests, has as many as the server answers.
    """
    counts = [_planned_each(run, one) for run, one in zip((*base, *new), level, strict=True)]
    known = {count for count in counts if count is not None}
    if len(known) < 2 or None in counts:
        return "", ""
    said = f"requests a user ({counts[0]:g} → {counts[-1]:g}) at {level[0]['label']}"
    if REQUESTS_A_USER in across:
        return "", f"Differs: {said}."
    return OTHER_COUNTS, f"Differs: {said}; no verdict ({ALL_THE_SAME})."


def _planned_each(run: RunData, level: LevelData) -> float | None:
    planned = next((one.get("requests") for one in run.levels if one["index"] == level["index"]), None)
    users = level.get("concurrency")
    if not planned or not users or run.scenario.get("duration"):
        return None
    return round(float(planned) / float(users), 2)


def other_lengths(
    base: Sequence[RunData], new: Sequence[RunData], level: Levels
) -> tuple[str, tuple[float, float] | None]:
    """Return why a level's prompts or answers are other work; else the mean lengths of prompts that scatter.

    Prompts of a length asked for in tokens follow from each run's own calibration of the model's tokens: what that
    scatters is no other work, but its share of each figure is not the server's.
    """
    ours, theirs = level[: len(base)], level[len(base) :]
    models = {run.fact("target", "model") for run in (*base, *new)}
    # Models cut one text into tokens of their own: its length in tokens is no other work.
    same_text = level[0].get("input_tokens") is None and len(models) > 1
    for column, name in (("output_tokens", "answers"), *(() if same_text else (("prompt_tokens", "prompts"),))):
        sides = [
            [
                mean_of(run.column(column)[run.good(one["index"])], block_of(one))
                for run, one in zip(runs, mine, strict=True)
            ]
            for runs, mine in ((base, ours), (new, theirs))
        ]
        one, other = ([found for found in side if found] for side in sides)
        if not one or not other:
            continue
        values = geometric(one), geometric(other)
        if column == "prompt_tokens" and _calibrated_anew((*base, *new), level[0], values):
            return "", values
        found = ratio(one[:1], other[:1], 1 - LENGTH_ERROR, noise=0.0)
        assert found is not None
        share, interval = found
        if abs(math.log(share)) > math.log1p(SAME_LENGTH_SHARE) and not interval[0] <= 1 <= interval[1]:
            sources = [" and ".join(sorted({str(one["tokens"]["source"]) for one in mine})) for mine in (ours, theirs)]
            by_other_counts = column == "output_tokens" and sources[0] != sources[1]
            how = f"are counted in other ways, {' → '.join(sources)}" if by_other_counts else "differ in length"
            return f"{name} {how} ({values[0]:.0f} → {values[1]:.0f} tokens on average)", None
    return "", None


def cached_share(run: RunData, level: LevelData) -> float | None:
    """Return which share of a level's prompt tokens the server had cached; None where it does not say so, and times neither."""
    if (known := level.get("cached_share")) is not None:
        return float(known)
    said = run.column("cached_tokens")[run.good(level["index"])]
    return 0.0 if np.isfinite(said).any() and not np.nansum(said) else None


def cache_notes(base: Sequence[RunData], new: Sequence[RunData], pairs: Iterable[Levels]) -> Iterator[str]:
    """Say where the prefix cache had another share of the prompts on either side, or may have had, and why that is not known.

    A TTFT without reading them is other work.
    """
    apart: list[tuple[str, str]] = []
    for levels in pairs:
        shares = [cached_share(run, level) for run, level in zip((*base, *new), levels, strict=True)]
        sides = [[share for share in side if share is not None] for side in (shares[: len(base)], shares[len(base) :])]
        ours, theirs = (sum(side) / len(side) if side else None for side in sides)
        if abs((theirs or 0.0) - (ours or 0.0)) > CACHED_APART:
            said = " → ".join("not known" if share is None else percent(share) for share in (ours, theirs))
            unknown = [level for level, share in zip(levels, shares, strict=True) if share is None]
            why = "" if None not in (ours, theirs) else unknown[0].get("cached_share_reason") or NOT_COUNTED
            apart.append((why, f"{said} at {levels[0]['label']}"))
    for why, places in grouped(apart).items():
        told = list(places[:MOST_EXPLAINED])
        told += [f"and in {counted(more, 'more level')}"] if (more := len(places) - MOST_EXPLAINED) > 0 else []
        how, because = ("May differ", f"; {why}") if why else ("Differs", "")
        yield f"{how}: prompt tokens that the prefix cache had ({'; '.join(told)}{because})."


def _calibrated_anew(runs: Sequence[RunData], level: LevelData, values: tuple[float, float]) -> bool:
    """Whether prompts of one length in tokens differ only as far as the runs' calibrations do."""
    calibrations = {(run.fact("tokens", "overhead"), run.fact("tokens", "ratio")) for run in runs}
    near = abs(values[1] - values[0]) <= max(CALIBRATION_SHARE * min(values), CALIBRATION_TOKENS)
    return level.get("input_tokens") is not None and len(calibrations) > 1 and (None, None) not in calibrations and near


def scatter_notes(found: Iterable[tuple[int, tuple[float, float]]]) -> list[str]:
    """Say of each length in tokens that was asked for what it came out as on both sides, over all levels."""
    apart = (each for each in found if abs(each[1][1] / each[1][0] - 1) >= NAMED_SCATTER)
    return [
        f"Prompts of {tokens} tokens came out as {' → '.join(map(_span, zip(*pairs, strict=True)))}: each run calibrates the "
        "model's tokens anew, and another chat template or system prompt changes what it finds. Intervals of what prompts change "
        "are wider by that; --words or --prompt instead of --input-tokens has users say the same in every run."
        for tokens, pairs in grouped(apart).items()
    ]


def _span(values: Sequence[float]) -> str:
    """Return "61.6 to 62.3", or one number where they do not differ as printed."""
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in (min(values), max(values))))
