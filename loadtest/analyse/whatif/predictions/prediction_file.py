"""prediction.json: what a run lets one say of other loads, said beforehand, so that a later run can score it.

The file holds its own digest: one that was changed afterwards is not read. Where the run does not show the limit of the
slots each load has two cases, no limit and the limit at what was seen, and never one figure.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

from loadtest.analyse.run.files.facts import (
    COUNT,
    POSITIVE,
    SMALL,
    TEXT,
    ListOf,
    NumberKind,
    ObjectOf,
    holds_wrong_values,
)
from loadtest.analyse.whatif.model.bands import Figures
from loadtest.analyse.whatif.model.cases import AS_ASKED, AS_KNOWN, LIMIT_SEEN, NO_LIMIT  # noqa: F401 - values of Case.name
from loadtest.analyse.whatif.model.prediction import Prediction
from loadtest.analyse.whatif.model.seeded_run import SeededRun
from loadtest.credentials import scrubber
from loadtest.errors import PredictionError
from loadtest.metrics import Interval
from loadtest.records import newer
from loadtest.text import counted, rated

KIND, SCHEMA = "loadtest prediction", 1
FILE_NAME = "prediction.json"
ANY = NumberKind(low=-1e15, whole=False)
# What a score reads of the file, by kind; `needs` names what an entry cannot be without.
LENGTHS = ObjectOf({"mean": ANY, "deviation": ANY, "n": COUNT, "asked": ANY}, needs=("mean", "deviation", "n"))
CASE = {"name": TEXT, "slots": SMALL, "figures": ObjectOf(ANY), "bands": ObjectOf(ListOf(ANY)), "requests": COUNT}
LOAD = {"concurrency": SMALL, "rate": POSITIVE, "slots_asked": SMALL, "cases": ListOf(CASE, needs=("name",))}
SCORED = {
    "made": TEXT,
    "run": {"sha256": TEXT, "facts": dict, "lengths": LENGTHS, "loaded": COUNT},
    "rests_on": {"levels": ListOf(TEXT), "slots": {"limit": SMALL}},
    "loads": ListOf({**LOAD, "textbook": ObjectOf(ObjectOf(ANY))}),
    "plan": {"requests": SMALL, "seed": COUNT},
}


@dataclass(frozen=True, slots=True)
class Case:
    """Figures of one load where the slots are so many."""

    name: str  # AS_KNOWN, AS_ASKED, NO_LIMIT or LIMIT_SEEN
    slots: int | None  # None: no limit
    figures: Figures
    bands: dict[str, Interval]  # by the keys of `figures`: in 95 of 100 cases one more run lies there
    extrapolates: str | None = None
    grows: bool = False
    requests: int | None = None  # measured ones of a run of which the figures are said; None: the file is older

    @classmethod
    def of(cls, name: str, said: Prediction) -> Self:
        """Take from a prediction the figures that have a band."""
        known = {key: said.figures[key] for key in said.bands if math.isfinite(said.figures[key])}
        bands = {key: said.bands[key] for key in known}
        return cls(name, said.slots, known, bands, said.extrapolates, said.grows, said.a_run)


@dataclass(frozen=True, slots=True)
class PredictedLoad:
    concurrency: int | None
    rate: float | None  # requests/s, Poisson
    slots_asked: int | None
    cases: tuple[Case, ...]
    textbook: dict[str, Figures] = field(default_factory=dict)  # by model
    people: bool = False  # whether its users hold conversations, or think between requests

    @property
    def label(self) -> str:
        """Say the load, e.g. "8 streams", "8 people" or "2 requests/s on 4 slots"."""
        if self.concurrency is None:
            load = rated(self.rate or 0.0)
        else:
            load = counted(self.concurrency, *(("person", "people") if self.people else ("stream",)))
        return f"{load} with {counted(self.slots_asked, 'slot')}" if self.slots_asked else load


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """prediction.json."""

    made: str  # ISO 8601, UTC
    loadtest: str
    run: dict[str, Any]  # name, sha256 of the folder, facts that another run must share, lengths
    rests_on: dict[str, Any]  # levels, slots and how they are known, step times, prefill, errors
    said: tuple[str, ...]  # sentences to be read before any figure
    loads: tuple[PredictedLoad, ...]
    plan: SeededRun | None = None  # of the run whose very requests are predicted; None: any run of such loads

    @property
    def slots(self) -> int | None:
        """The limit of the slots that the cases AS_KNOWN rest on; None where it is not known."""
        value = self.rests_on["slots"]["limit"]
        return None if value is None else int(value)

    def to_bytes(self) -> bytes:
        """Return the file, with its digest."""
        plain = {"kind": KIND, "schema": SCHEMA, **asdict(self)}
        found = orjson.loads(scrubber()(orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY)))
        return orjson.dumps({**found, "sha256": _digest(found)}, option=orjson.OPT_INDENT_2) + b"\n"


def file_digest(body: bytes) -> str:
    """Return the SHA-256 of a whole file, as run.json names it."""
    return hashlib.sha256(body).hexdigest()


def _digest(document: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()


def read_document(path: Path) -> Document:
    """Read prediction.json; raise PredictionError, one sentence, where it is none or was changed after it was made."""
    try:
        return parse_document(path.read_bytes(), str(path))
    except IsADirectoryError:
        raise PredictionError(
            f"{path} is a folder, not a prediction; give the prediction.json that `loadtest predict` wrote (and a run behind it)."
        ) from None
    except OSError as error:
        raise PredictionError(f"cannot read the prediction {path}: {error.strerror}.") from None


def parse_document(body: bytes, name: str) -> Document:
    """Return the prediction that a file of this name holds; errors as read_document has them."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise PredictionError(f"{name} does not parse as JSON; make it anew with `loadtest predict`.") from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise PredictionError(f"{name} is not a prediction; give the prediction.json that `loadtest predict` wrote.")
    schema = found.get("schema")
    if newer(schema):
        raise PredictionError(f"{name} was written by a newer loadtest (schema {schema}); update.")
    if found.get("sha256") != _digest(found):
        raise PredictionError(
            f"{name} was changed after it was made (its sha256 does not fit), so it cannot be scored; make it anew."
        )
    try:
        if holds_wrong_values(found, SCORED):
            raise ValueError
        return Document(
            made=str(found["made"]),
            loadtest=found["loadtest"],
            run={**found["run"], **{key: {**found["run"][key]} for key in ("facts", "lengths")}},
            rests_on={
                **found["rests_on"],
                "levels": list(found["rests_on"]["levels"]),
                "slots": {"limit": None, **found["rests_on"]["slots"]},
            },
            said=tuple(found["said"]),
            loads=tuple(map(_load, found["loads"])),
            plan=None if (plan := found.get("plan")) is None else SeededRun(plan["requests"], plan["seed"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise PredictionError(f"{name} lacks what a prediction holds; make it anew with `loadtest predict`.") from None


def _load(found: Mapping[str, Any]) -> PredictedLoad:
    return PredictedLoad(
        found["concurrency"],
        found["rate"],
        found["slots_asked"],
        tuple(
            Case(
                case["name"],
                case["slots"],
                {name: value for name, value in _figures(case["figures"]).items() if case["bands"][name]},
                {name: (low, high) for name, (low, high) in case["bands"].items()},
                case["extrapolates"],
                case["grows"],
                case.get("requests"),
            )
            for case in found["cases"]
        ),
        {name: _figures(figures) for name, figures in found["textbook"].items()},
        bool(found.get("people")),
    )


def _figures(found: Mapping[str, Any]) -> Figures:
    return {name: value for name, value in found.items() if value is not None}
