"""Which lines of a requests file are usable records, and what is wrong with the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from loadtest.records import Outcome
from loadtest.text import counted

DAY_NS = 86_400_000_000_000
ORDER_NS = 1_000_000_000  # by which instants of a request may be out of order; no clock of a run is off by more
BEFORE_US = 50  # by which a token may seem to precede t_send; one that is earlier still cannot be an answer
COUNT_MOST = 1 << 53  # up to here a float holds every whole number
TOKENS_MOST = 1_000_000_000  # of one request


@dataclass(frozen=True, slots=True)
class ValueKind:
    """The type that a value of a record has, and the bounds of a number."""

    kind: type
    low: int = 0
    high: int = COUNT_MOST
    needed: bool = False

    def fits(self, values: list[Any]) -> bool:
        """Return whether all of these values are of the kind; None stands for absent."""
        kinds = set(map(type, values))
        kinds.discard(type(None))
        if not kinds <= {self.kind}:
            return False
        if self.kind is not int or not kinds:
            return True
        known = [value for value in values if value is not None]
        return bool(self.low <= min(known) and max(known) <= self.high)


INSTANT_KIND = ValueKind(int, -DAY_NS, 100 * DAY_NS)
NEEDED_INSTANT = ValueKind(int, -DAY_NS, 100 * DAY_NS, needed=True)
COUNT_KIND, TOKENS_KIND, TEXT_KIND, FLAG_KIND = (
    ValueKind(int),
    ValueKind(int, 0, TOKENS_MOST),
    ValueKind(str),
    ValueKind(bool),
)
LIST_ENTRY = ValueKind(int, -COUNT_MOST, COUNT_MOST)
TAKEN_OUT = ValueKind(type(None))  # a list that can be used was taken out of the row before
RECORD_KINDS: dict[str, ValueKind] = {
    "id": ValueKind(int, needed=True),
    "level": ValueKind(int, 0, 1_000_000, needed=True),
    "outcome": ValueKind(str, needed=True),
    "t_sched": NEEDED_INSTANT,
    "t_end": NEEDED_INSTANT,
    "t_send": INSTANT_KIND,
    "chunks": TAKEN_OUT,
    **dict.fromkeys(
        ("t_connect", "t_headers", "t_first_byte", "t_first_token", "t_first_visible", "resent"), INSTANT_KIND
    ),
    **dict.fromkeys(
        ("asked", "asked_input", "prompt_tokens", "output_tokens", "late_tokens", "late_gaps"), TOKENS_KIND
    ),
    **dict.fromkeys(
        (
            "reads",
            "stamped",
            "arrivals",
            "late",
            "bytes",
            "lag_us",
            "lag_mean_us",
            "connect_us",
            "send_us",
            "unsent_tokens",
        ),
        COUNT_KIND,
    ),
    "seed": ValueKind(int, -(1 << 63), (1 << 63) - 1),
    "target": ValueKind(int, 0, 1_000_000),
    **dict.fromkeys(("user", "session", "turn"), COUNT_KIND),
    "status": ValueKind(int, 0, 999),
    "server_first": ValueKind(int, 0, 1 << 62),
    **dict.fromkeys(("dialect", "model", "token_source", "finish_reason", "said_model", "error", "row"), TEXT_KIND),
    **dict.fromkeys(("warmup", "new_conn", "first_coalesced"), FLAG_KIND),
    "notes": ValueKind(list),
    "doubts": ValueKind(list),
    "server": ValueKind(dict),
    "server_us": TAKEN_OUT,
}
# A record with a wrong value under one of these is left out; any other wrong value becomes unknown.
INDISPENSABLE = ("id", "level", "outcome", "t_sched", "t_end", "t_send", "t_first_token", "chunks", "warmup")
OUTCOMES = frozenset(Outcome)


@dataclass(slots=True)
class Damage:
    unread: int = 0  # lines with something on them that is not a JSON object
    records: Counter[str] = field(default_factory=Counter)  # records left out, by reason
    values: Counter[str] = field(default_factory=Counter)  # values that became unknown, by name

    @property
    def lost(self) -> int:
        """How many records are missing at least; an unreadable line may have held several."""
        return self.unread + self.records.total()

    def sentences(self, name: str) -> Iterator[str]:
        """Yield sentences on what was left out of the file of that name."""
        if self.unread:
            yield f"{counted(self.unread, 'line')} of {name} could not be read and {_are(self.unread)} left out."
        for why, count in self.records.items():
            yield f"{counted(count, 'record')} of {name} {_are(count)} left out: {why}."
        for value, count in self.values.items():
            yield f"{counted(count, 'record')} of {name} {_have(count)} a {value} that cannot be right; it counts as unknown."


def repeated_ids(again: int, others: int) -> Iterator[str]:
    """Yield sentences on records that are there twice, and on other requests under an id already used."""
    if again:
        yield f"{counted(again, 'record')} {_are(again)} there twice; {'it counts' if again == 1 else 'they count'} once."
    if others:
        yield f"{counted(others, 'record')} {_have(others)} the id of another request and {_are(others)} left out."


def lines_left_out(count: int, name: str) -> str:
    """Say that lines of a samples file hold no sample."""
    return (
        f"{counted(count, 'line')} of {name} {'holds' if count == 1 else 'hold'} no sample and {_are(count)} left out."
    )


def no_header(name: str) -> str:
    """Return a sentence on a samples file that cannot be placed on the run's axis."""
    return f"{name} does not begin with a header that can be read and is left out."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def mended(rows: list[dict[str, Any]], damage: Damage) -> list[bool]:
    """Remove impossible values from rows, count them, and mark the rows that are usable records."""
    if all(_column_fits(rows, name, kind) for name, kind in RECORD_KINDS.items()):
        return [True] * len(rows)
    return [_mend(row, damage) for row in rows]


def _column_fits(rows: list[dict[str, Any]], name: str, kind: ValueKind) -> bool:
    values = [row.get(name) for row in rows]
    return (
        kind.fits(values)
        and not (kind.needed and None in values)
        and (name != "outcome" or OUTCOMES.issuperset(values))
    )


def _mend(row: dict[str, Any], damage: Damage) -> bool:
    wrong = [name for name, kind in RECORD_KINDS.items() if not _column_fits([row], name, kind)]
    spoilt = next((name for name in INDISPENSABLE if name in wrong), None)
    if spoilt is not None:
        damage.records[f"{'no' if row.get(spoilt) is None else 'impossible'} {spoilt}"] += 1
        return False
    for name in wrong:
        del row[name]
        damage.values[name] += 1
    return True
