"""run.json, checked: a value of the wrong type or size is left out and reported before anything else reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.run.files.damage import DAY_NS
from loadtest.errors import RunFolderError
from loadtest.run_folder import NoFactsError, RunFolder

MOST_SAID = 5  # sentences on wrong values of run.json; the rest are counted
MOST_INSTANT_NS = 1000 * DAY_NS


@dataclass(frozen=True, slots=True)
class NumberKind:
    """A number between two bounds; `whole`: an integer."""

    low: float = 0.0
    high: float = 1e15
    whole: bool = True

    def fits(self, value: object) -> bool:
        kinds = int if self.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list whose entries are of one kind; an entry that is not is left out."""

    kind: Any
    needs: tuple[str, ...] = ()  # keys that an entry cannot be without


@dataclass(frozen=True, slots=True)
class ObjectOf:
    """An object whose values are of one kind, under any keys."""

    kind: Any
    needs: tuple[str, ...] = ()


# Below, a tuple of kinds stands for any one of them.
TEXT, FLAG = str, bool
COUNT = NumberKind()
TOKEN_COUNT = NumberKind(high=1e9)
POSITIVE = NumberKind(low=1e-6, high=1e9, whole=False)
AMOUNT = NumberKind(high=1e9, whole=False)
SMALL = NumberKind(low=1, high=1e5)
INSTANT_NS = NumberKind(low=-MOST_INSTANT_NS, high=MOST_INSTANT_NS)
HEAD_COUNTS = (NumberKind(high=1e5), ListOf(NumberKind(high=1e5)))
CLOCK_STEPS = (COUNT, ListOf(object))
NAMES = (TEXT, ListOf(TEXT))

RUN_LEVEL = {
    "index": NumberKind(high=1e6),
    "label": TEXT,
    "concurrency": SMALL,
    "by_schedule": SMALL,
    "rate": POSITIVE,
    "rate_to": POSITIVE,
    "trace": TEXT,
    "input_tokens": TOKEN_COUNT,
    "output_tokens": TOKEN_COUNT,
    "input_lengths": TEXT,
    "output_lengths": TEXT,
    "system_tokens": TOKEN_COUNT,
    "turns": TEXT,
    "sessions": FLAG,
    "words": TOKEN_COUNT,
    "requests": COUNT,
    "inputs": SMALL,
    "started_ns": INSTANT_NS,
    "ended_ns": INSTANT_NS,
    "stopped": TEXT,
    "users_gone": COUNT,
}
ARCHITECTURE = {
    "block_count": SMALL,
    "parameter_count": NumberKind(low=1, high=1e14),
    "embedding_length": SMALL,
    "feed_forward_length": (NumberKind(low=1, high=1e7), ListOf(NumberKind(high=1e7))),
    "vocab_size": NumberKind(low=1, high=1e9),
    "context_length": TOKEN_COUNT,
    "attention.head_count": HEAD_COUNTS,
    "attention.head_count_kv": HEAD_COUNTS,
    "attention.key_length": SMALL,
    "attention.value_length": SMALL,
    "attention.sliding_window": TOKEN_COUNT,
}
TARGET = {"url": TEXT, "api": TEXT, "dialect": TEXT, "model": TEXT}
SERVER_FACTS = {
    "kind": TEXT,
    "version": TEXT,
    "context": TOKEN_COUNT,
    "context_asked": TOKEN_COUNT,
    "slots_said": NumberKind(high=1e5),
    "simulated": {"profile": TEXT, "speed": POSITIVE},
    "facts": {
        "trained_context": TOKEN_COUNT,
        "details": {
            "quantization_level": TEXT,
            "parameter_size": TEXT,
            "family": TEXT,
            "file_size": COUNT,
            "architecture": ARCHITECTURE,
        },
    },
}
TOKENS = {"counter": TEXT, "overhead": NumberKind(low=-1e6, high=1e6, whole=False), "ratio": AMOUNT}
CAPACITY = {"chunks_per_s": POSITIVE, "limit": TEXT, "measured_at": TEXT}
WORKER = {"worker": COUNT, "died": {"why": TEXT, "level": COUNT, "t": INSTANT_NS, "time": TEXT}}
LOADED = {"name": TEXT, "size": COUNT, "size_vram": COUNT, "context_length": TOKEN_COUNT}
LISTED = {
    **TARGET,
    "weight": NumberKind(low=1, high=1e6),
    "server": SERVER_FACTS,
    "tokens": TOKENS,
    "comparability": dict,
    "server_at_end": LOADED,
}
# The keys of run.json that analysing reads, with the kinds of their values; null stands for absent. Other keys are kept.
RUN: dict[str, Any] = {
    "name": TEXT,
    "driver": TEXT,
    "started": TEXT,
    "ended": TEXT,
    "state": TEXT,
    "scenario": {
        "url": NAMES,
        "model": NAMES,
        "num_ctx": TOKEN_COUNT,
        "inputs_per_request": SMALL,
        "prompt": TEXT,
        "price_per_hour": TEXT,
        "price_per_kwh": TEXT,
        "prompt_file": TEXT,
        "data": TEXT,
        "data_once": FLAG,
        "warm_cache": FLAG,
        "insecure": FLAG,
        "proxy": TEXT,
        "no_proxy": TEXT,
        "unload": FLAG,
        "max_error_ratio": AMOUNT,
        "duration": AMOUNT,
        "patience": (AMOUNT, TEXT),
        "leave": AMOUNT,
        "think_time": (AMOUNT, TEXT),
        "turns": (COUNT, TEXT),
        "follow_up_tokens": (COUNT, TEXT),
        "answers": TEXT,
        "max_rate": AMOUNT,
    },
    "target": TARGET,
    "targets": ListOf(LISTED),
    "tokens": TOKENS,
    "other_targets": ListOf(TEXT),
    "failure": TEXT,
    "clock": {"monotonic_ns": NumberKind(high=1e19), "wall_ns": NumberKind(high=1e19)},
    "locust": {
        "spawn_rate": POSITIVE,
        "workers": COUNT,
        "lost_workers": ListOf(
            {"worker": TEXT, "t_ns": INSTANT_NS, "back_ns": INSTANT_NS, "why": TEXT}, needs=("worker",)
        ),
        "user_classes": ListOf(TEXT),
        "locustfile": TEXT,
        "files": ListOf(TEXT),
        "shape": TEXT,
        "options": dict,
        "tags": ListOf(TEXT),
        "exclude_tags": ListOf(TEXT),
    },
    "server": SERVER_FACTS,
    "server_at_end": LOADED,
    "client": {"host": TEXT, "kernel": TEXT, "python": TEXT, "loop": TEXT, "cpus": COUNT, "clock_steps": CLOCK_STEPS},
    "clock_steps": CLOCK_STEPS,
    "versions": ObjectOf(TEXT),
    "comparability": dict,
    "slot_probe": {"limit": SMALL, "seen": COUNT, "how": TEXT},
    "asked": {"slo": TEXT, "find_max": COUNT, "requests": COUNT, "options": ListOf(TEXT)},
    "find_max": {
        "sentence": TEXT,
        "slo": ObjectOf(AMOUNT),
        "answer": COUNT,
        "loads": {"kind": TEXT, "unit": POSITIVE},
        "binds": {"name": TEXT, "sentence": TEXT, "evidence": TEXT},
    },
    "prediction": {"sha256": TEXT, "made": TEXT, "kept": TEXT},
    "calibration": {"host": TEXT, "arrivals": ObjectOf(ObjectOf(CAPACITY, needs=("chunks_per_s", "limit")))},
    "workers": (COUNT, ListOf(WORKER, needs=("worker",))),
    "levels": ListOf(RUN_LEVEL, needs=("index",)),
}
KIND_NAMES = (
    (dict, "an object"),
    (list, "a list"),
    (str, "a text"),
    (bool, "a truth value"),
    (int | float, "a number"),
)


def read_facts(folder: RunFolder) -> tuple[dict[str, Any], list[str]]:
    """Return run.json without its wrong values, and sentences on these and on a run that did not end as planned.

    Raises RunFolderError where a newer loadtest wrote it, or where it cannot be opened; without a run.json that can be
    read, where there are no records either.
    """
    try:
        found = folder.read_run()
    except NoFactsError as error:
        why = str(error).removeprefix(f"{folder.path}/").removesuffix(".")
        if not any(folder.path.glob("requests-*.jsonl")):
            raise RunFolderError(f"{folder.path}: {why}, and there are no records.") from None
        return {"levels": []}, [f"{why}: what was run is only known as far as the records tell."]
    said: list[str] = []
    facts: dict[str, Any] = _cleaned(found, RUN, "", said)
    facts["levels"] = list(_distinct_levels(facts.get("levels") or [], said))
    if server := facts.get("server"):
        server["simulated"] = _known_profile(found["server"].get("simulated"), server.get("simulated"))
    for entry in facts.get("targets") or []:
        if said_simulated := (entry.get("server") or {}).get("simulated"):
            entry["server"]["simulated"] = _known_profile(said_simulated, said_simulated)
    asked = (
        []
        if facts.get("scenario")
        else ["run.json has no scenario: how prompts were made and users behaved is not known."]
    )
    return facts, [*_how_it_ended(facts.get("state"), facts.get("failure")), *asked, *_shortened(said)]


def know_simulated(facts: dict[str, Any], by_header: Iterable[dict[str, Any] | None]) -> None:
    """Let a run stay simulated whose run.json is lost or damaged: the headers of requests files say it too."""
    said = next(filter(None, by_header), None)
    if said and not (facts.get("server") or {}).get("simulated"):
        known = _cleaned({"server": {"simulated": said}}, RUN, "", [])["server"].get("simulated")
        facts["server"] = {**(facts.get("server") or {}), "simulated": _known_profile(said, known)}


def _known_profile(said: Any, known: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return profile and speed of a simulated server, with defaults: it stays simulated where these are damaged."""
    if not said:
        return None
    told = {key: value for key, value in (known or {}).items() if value is not None}
    return {"profile": "unknown", "speed": 1.0} | told


def _how_it_ended(state: str | None, failure: str | None) -> Iterator[str]:
    if state == "running":
        yield "The run has not ended, or was killed: its state is still running. The figures are of what was recorded."
    elif state == "interrupted":
        yield "The run was interrupted: the figures are of what was recorded until then."
    elif state == "failed" and failure:
        yield f"The run failed: {failure.rstrip('.')}. The figures are of what was recorded."
    elif state != "done":
        how = "failed" if state == "failed" else f"is in state {state}" if state else "does not say how it ended"
        yield f"The run {how}: the figures are of what was recorded."


def _shortened(said: list[str]) -> Iterator[str]:
    yield from said[:MOST_SAID]
    if (more := len(said) - MOST_SAID) > 0:
        yield f"run.json holds {more} more values of a wrong kind, which are left out."


def _distinct_levels(levels: list[dict[str, Any]], said: list[str]) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()
    for level in levels:
        if level["index"] in seen:
            said.append(f"run.json: a second level has the index {level['index']} and is left out.")
        else:
            seen.add(level["index"])
            yield level


def holds_wrong_values(value: Any, kind: Any) -> bool:
    """Whether any part of a value is not of its kind."""
    said: list[str] = []
    _cleaned(value, kind, "", said)
    return bool(said)


def _cleaned(value: Any, kind: Any, at: str, said: list[str]) -> Any:
    """Return a value without the parts that are not of their kind; None where nothing is left."""
    if value is None:
        return None
    if isinstance(kind, tuple):
        if (chosen := next((one for one in kind if _holds(value, one)), None)) is not None:
            return _cleaned(value, chosen, at, said)
    elif not _holds(value, kind):
        pass
    elif isinstance(kind, ListOf):
        entries = [_entry(entry, kind, f"{at}[{place}]", said) for place, entry in enumerate(value)]
        return [entry for entry in entries if entry is not None]
    elif isinstance(kind, ObjectOf):
        found = {key: _entry(entry, kind, f"{at}.{key}", said) for key, entry in value.items()}
        return {key: entry for key, entry in found.items() if entry is not None}
    elif isinstance(kind, dict):
        under = f"{at}." if at else ""
        return {
            key: _cleaned(entry, kind[key], f"{under}{key}", said) if key in kind else entry
            for key, entry in value.items()
        }
    else:
        return value
    named = next((name for each, name in KIND_NAMES if isinstance(value, each)), "null")
    said.append(f"run.json: {at} is {named} that cannot be right, and is left out.")
    return None


def _entry(value: Any, kind: ListOf | ObjectOf, at: str, said: list[str]) -> Any:
    """Return an entry of a list or an object; None where it lacks a key that it needs."""
    found = _cleaned(value, kind.kind, at, said)
    if found is not None and any(found.get(name) is None for name in kind.needs):
        said.append(f"run.json: {at} lacks {' or '.join(kind.needs)}, and is left out.")
        return None
    return found


def _holds(value: Any, kind: Any) -> bool:
    """Return whether a value is of a kind, without looking at what it contains."""
    if isinstance(kind, NumberKind):
        return kind.fits(value)
    return isinstance(value, list if isinstance(kind, ListOf) else dict if isinstance(kind, ObjectOf | dict) else kind)
