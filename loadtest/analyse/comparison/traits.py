"""What tells runs apart by their run.json (model, quantisation, server, GPU, slots, settings), and a short name of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from loadtest.analyse.comparison.comparable import CACHED_APART, CLOSED, DEFAULTS, asked_facts, cached_share, value_text
from loadtest.analyse.run import grouped
from loadtest.analyse.server.queue.slots import known_slots
from loadtest.analyse.summary import Analysis
from loadtest.scenario import ADDED_KEYS, SAID_KEYS
from loadtest.text import counted, joined, listed, percent
from loadtest.urls import origin

# Comparability keys that runs set beside each other may differ in unasked: what is compared is this, or how it was asked.
ON_PURPOSE = frozenset(("model", "quantization", "context", "server", "dialect", "proxy", *SAID_KEYS, *ADDED_KEYS))
SIMULATED = "simulated"
REAL = "a real server"
CACHED = "prompt tokens from the prefix cache"  # what came of a run: no name of it
MOST_VALUES = 4  # of a trait that a sentence lists
WHERE = "; compare.json has them"
LACKS = "no "  # begins what a run has not that others have
CORES = re.compile(r": \d+ cores?\b")  # in what samples say of a machine, but not of a GPU


@dataclass(frozen=True, slots=True)
class Trait:
    """Something that runs may differ in: each run's value in words, None where it is not known."""

    key: str
    values: tuple[str | None, ...]
    forbids: bool = False  # whether runs that differ in it get no verdict

    @property
    def differs(self) -> bool:
        return len({value for value in self.values if value is not None}) > 1

    def sentence(self, letters: Sequence[str], where: str = "") -> str:
        """Return "model (A, B: llama; C: mistral)"; of many values their number, and `where` they are."""
        if (values := len(set(self.values))) > MOST_VALUES:
            return f"{self.key} ({values} values{where})"
        who = grouped(zip(self.values, letters, strict=True))
        said = [f"{', '.join(runs)}: {'not known' if value is None else value}" for value, runs in who.items()]
        return f"{self.key} ({'; '.join(said)})"


@dataclass(frozen=True, slots=True)
class Names:
    """Each run's name in legends, by what makes it, and what else differs."""

    names: tuple[str, ...]
    legend: tuple[Trait, ...]
    besides: tuple[Trait, ...]

    def sentences(self, letters: Sequence[str]) -> Iterator[str]:
        """Say what the runs differ in, and which of that leaves pairs without a verdict."""
        if self.legend:
            yield f"The runs differ in {listed([trait.sentence(letters) for trait in self.legend])}."
        else:
            yield "Nothing that run.json says of model, server and settings differs: the runs have their own names."
        if self.besides:
            yield (
                f"They differ besides in {listed([trait.sentence(letters, WHERE) for trait in self.besides])}: "
                "a difference may come from any of it."
            )
        forbidding = [trait.key for trait in (*self.legend, *self.besides) if trait.forbids]
        if SIMULATED in forbidding:
            yield "A simulated server says nothing of a real one: no verdict between them."
        if keys := [key for key in forbidding if key != SIMULATED]:
            which = keys[0] if len(keys) == 1 else f"any of {listed(keys)}"
            yield f"Runs that differ in {which} get no verdict (--across {','.join(keys)} compares all the same)."


def names_of(runs: Sequence[Analysis], across: frozenset[str] = frozenset()) -> Names:
    """Return the shortest names that tell the runs apart, by the first traits that do; else the runs' own names."""
    differing = [trait for trait in _traits(runs, across) if trait.differs]
    legend: list[Trait] = []
    for trait in differing:
        if trait.key != CACHED and _distinct([*legend, trait], runs) > _distinct(legend, runs):
            legend.append(trait)
    while (spare := _spare(legend, runs)) is not None:
        legend.remove(spare)
    names = _told_apart([[_short(trait.key, trait.values[i]) for trait in legend] for i in range(len(runs))])
    if len(set(names)) < len(names) or not all(names):
        names = [
            joined(" · ", name, own) if not name or names.count(name) > 1 else name
            for name, own in zip(names, _own_names(runs), strict=True)
        ]
    return Names(tuple(names), tuple(legend), tuple(trait for trait in differing if trait not in legend))


def _distinct(traits: Sequence[Trait], runs: Sequence[Analysis]) -> int:
    return len({tuple(trait.values[i] for trait in traits) for i in range(len(runs))})


def _spare(legend: Sequence[Trait], runs: Sequence[Analysis]) -> Trait | None:
    """Return the last trait of a legend without which runs are told apart as well; never the model."""
    every = _distinct(legend, runs)
    spare = (one for one in reversed(legend) if _distinct([t for t in legend if t is not one], runs) == every)
    return next((one for one in spare if one.key != "model"), None)


def _told_apart(parts: Sequence[Sequence[str]]) -> list[str]:
    """Return each run's name of its parts; what a run lacks is named only where nothing else tells it from the others."""
    whole = [joined(" · ", *mine) for mine in parts]
    short = [joined(" · ", *(part for part in mine if not part.startswith(LACKS))) for mine in parts]
    return [each if each and short.count(each) == 1 else full for each, full in zip(short, whole, strict=True)]


def _own_names(runs: Sequence[Analysis]) -> list[str]:
    """Return the name of each run (--name), or where runs share it that of its folder, or its path."""
    said = [str(one.summary["name"]) for one in runs]
    folders = [one.run.path.resolve().name for one in runs]
    paths = [str(one.run.path) for one in runs]
    groups = [str(one.summary.get("group") or "") for one in runs]
    for own in (said, folders, paths):
        whole = [joined(" · ", *pair) for pair in zip(own, groups, strict=True)]
        if len(set(whole)) == len(whole):
            return whole
    return [f"{path} {number}" for number, path in enumerate(paths, 1)]


def _short(key: str, value: str | None) -> str:
    """Return a value as a name says it: alone where it speaks for itself."""
    if value is None or key in ("model", "quantization", "server", "GPU", "slots", "dialect", "host", "machine"):
        return value or ""
    if key == SIMULATED:
        return "" if value == REAL else f"simulated {value}"  # a run is of a real server unless its name says otherwise
    if key == "arrivals":
        return value if value == CLOSED else f"{value} arrivals"
    return f"{LACKS}{key}" if value == "none" else f"{key} {value}"


def _traits(runs: Sequence[Analysis], across: frozenset[str]) -> Iterator[Trait]:
    """Yield every trait, the most telling first."""
    facts = [asked_facts(one.run) for one in runs]

    def asked(key: str) -> tuple[str | None, ...]:
        return tuple(value_text(key, each.get(key, DEFAULTS.get(key))) for each in facts)

    def known(key: str, of: Callable[[Analysis], Any]) -> Trait:
        return Trait(key, tuple(None if value in (None, "") else str(value) for value in map(of, runs)))

    yield known("model", lambda one: one.summary["target"].get("model"))
    yield known("quantization", _quantization)
    yield known("server", lambda one: joined(" ", *(one.summary["server"].get(key) for key in ("kind", "version"))))
    yield known("GPU", gpus)
    yield known("slots", slots_of)
    yield Trait("context", tuple(None if value == "none" else value for value in asked("context")))
    profiles = tuple(value_text(SIMULATED, one.summary["simulated"]) for one in runs)
    real = [value == "none" for value in profiles]
    yield Trait(SIMULATED, tuple(REAL if value == "none" else value for value in profiles), any(real) and not all(real))
    done = {"model", "quantization", "server", "context", SIMULATED}
    for key in sorted({key for each in facts for key in each} - done, key=lambda key: (key not in ON_PURPOSE, key)):
        yield Trait(key, asked(key), key not in ON_PURPOSE | across)
    for key, of in OF_THE_TEST:
        yield known(key, of)
    shares = [_cached(one) for one in runs]
    if max((share or 0.0 for share in shares), default=0.0) - min(share or 0.0 for share in shares) > CACHED_APART:
        yield Trait(CACHED, tuple(None if share is None else percent(share) for share in shares))


def _quantization(one: Analysis) -> Any:
    details = (one.summary["server"].get("facts") or {}).get("details") or {}
    said = one.run.fact("comparability", "quantization") or details.get("quantization_level")
    return None if said == "unknown" else said  # so Ollama says of a file that does not name it


def slots_of(one: Analysis) -> str | None:
    """Return the slots that the run showed, the server says or bursts before the run found; None where none are known."""
    count = known_slots(one.run, one.believed_slots).number
    return counted(count, "slot") if count else None


def _cached(one: Analysis) -> float | None:
    shares = [share for level in one.levels if (share := cached_share(one.run, level)) is not None]
    return sum(shares) / len(shares) if shares else None


def gpus(one: Analysis) -> str:
    return _hardware(one, of_machine=False)


def _hardware(one: Analysis, *, of_machine: bool) -> str:
    """Return the machine, whose description names its cores, or the GPUs in it."""
    return "; ".join(each for each in one.summary.get("hardware") or () if bool(CORES.search(each)) == of_machine)


def _host(one: Analysis) -> str | None:
    where = origin(str(one.summary["target"].get("url") or ""))
    return None if where is None or where[0] == "unix" else where[1]


# where and by what was measured, which no comparability key says
OF_THE_TEST: tuple[tuple[str, Callable[[Analysis], Any]], ...] = (
    ("machine", partial(_hardware, of_machine=True)),
    ("host", _host),
    ("driver", lambda one: one.summary["driver"]),
    ("loadtest", lambda one: one.run.fact("versions", "loadtest")),
)
