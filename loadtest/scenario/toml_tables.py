"""A scenario as a table of plain values: from a TOML file, a command line or a Python dict."""

from __future__ import annotations

import difflib
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.scenario.files import from_home, read_text
from loadtest.scenario.keys import KEY_OF, Key
from loadtest.scenario.values import short_repr
from loadtest.text import encodable

TABLES = ("body",)  # keys whose value may be a table
FORMER = {"first_byte_timeout": "first_token_timeout"}  # former name of a key -> its name
_RATE, _ROWS = ("rate", "rate_to", "arrivals", "burstiness"), ("data", "data_column", "data_once")
INSTEAD_OF = {  # a key -> those that it takes the place of, where it is laid over them
    "concurrency": (*_RATE, "trace", "max_in_flight"),
    "rate": ("concurrency", "trace", "max_rate"),
    "trace": ("concurrency", *_RATE, "max_rate"),
    "arrivals": ("burstiness",),
    "requests": ("duration", "data_once"),
    "duration": ("requests", "data_once"),
    "data_once": ("requests", "duration"),
    "prompt": ("prompt_file", *_ROWS),
    "prompt_file": ("prompt", *_ROWS),
    "data": ("prompt", "prompt_file", "words"),
    "system": ("system_tokens", "prefixes", "prefix_zipf"),
    "system_tokens": ("system",),
    "ca_file": ("insecure",),
    "insecure": ("ca_file",),
}
# Options of `loadtest run` that are about its results, and no keys of a scenario.
ON_COMMAND_LINE = (
    "slo",
    "find_max",
    "out",
    "monitor",
    "prediction",
    "probe_slots",
    "quiet",
    "json",
    "junit",
    "no_report",
)
IN_TOML = "; a scenario is written in TOML, like concurrency = [1, 2]"
REMEDIES = (  # of what tomllib says; what to do
    ("hex value|escape", "write a path with / or in single quotes"),
    ("overwrite|twice|mutate", "give it once"),
    ("Invalid value", "write a text in quotes, and true or false in small letters"),
    (r"character '\\n'|Unterminated|end of document", "close the quotes or brackets that it opens"),
)
MOST_TOML = 4 << 20  # bytes of a scenario file


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise ScenarioError with one sentence."""
    if not encodable(str(path)):
        raise ScenarioError(f"the scenario's path is not UTF-8 text ({short_repr(str(path))}); rename it.")
    if (path / "run.json").exists():
        raise ScenarioError(
            f"{path} is a run folder, not a scenario file: `loadtest report {shlex.quote(str(path))}` reads it, and its report.md has the command that "
            "measures the same again."
        )
    text = read_text(path, "scenario", most=MOST_TOML)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path} is not valid TOML: {error}{_likely(path, text, str(error))}.") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; brackets without end
        raise ScenarioError(f"{path} is not valid TOML: a value in it is too long or too deep.") from None


def _likely(path: Path, text: str, wrong: str) -> str:
    """Say what was likely meant by a file that is no TOML, and what to do."""
    match path.suffix.lower():
        case ".py":
            return f"; run a Locust file with `locust -f {path}`"
        case ".jsonl" | ".ndjson" | ".csv" | ".tsv":
            return f"; prompts are given with --data {path}, recorded arrivals with --trace"
    odd = next((sign for sign in "\u201c\u201d\u201e\u2018\u2019" if sign in text), None)
    if odd is not None:
        return f"; it has a typographic quote ({odd}): write straight ones"
    return next((f"; {words}" for sign, words in REMEDIES if re.search(sign, wrong)), IN_TOML)


def flat(table: Mapping[str, Any], keys: Sequence[Key], where: str, *, placed: bool = False) -> dict[str, Any]:
    """Return the table with the keys of its own tables, such as [request], beside all others.

    Args:
        placed: refuse a key above all tables that belongs in one, as in a TOML file; run.json holds every key so.

    Raises ScenarioError for a key in the wrong place and for an unknown one, with the nearest.
    """
    tables = {key.name: key.table for key in keys}
    second = {key.name: key.also_in for key in keys if key.also_in is not None}
    found: dict[str, Any] = {}
    for name, value in table.items():
        inside = [one for one in value if one in tables] if isinstance(value, Mapping) else []
        misnamed = bool(inside) and name not in TABLES  # [requests], say, whose keys an option --requests would hide
        if isinstance(value, Mapping) and (name not in tables or name in tables.values() or misnamed):
            if name not in tables.values():
                what = f"its keys ({', '.join(inside)})" if inside else "the scenario's keys"
                places = {tables[one] for one in inside}
                place = places.pop() if len(places) == 1 else None
                there = f"in [{place}]" if place else "above all tables"
                raise ScenarioError(
                    f"{where} has a table [{_short_name(name)}], which no scenario has; write {what} {there}."
                )
            for one in value:
                if one in found:
                    raise ScenarioError(f"{where} has {one} twice, in [{name}] and elsewhere; give it once.")
                _check_known(one, list(tables), f"{where}, table [{name}],", of_request=name == "request")
                if second.get(one) != name:
                    _check_place(one, tables[one], name, where)
            found |= value
        else:
            if name in tables.values() and name not in tables:
                raise ScenarioError(
                    f"{where} has {name}, which is a table; write it once, as [{name}], with its keys below."
                )
            _check_known(name, list(tables), where)
            if placed:
                _check_place(name, tables[name], None, where)
            found[name] = value
    return found


def _check_place(name: str, belongs: str | None, stands: str | None, where: str) -> None:
    if belongs != stands:
        here, there = (f"in [{table}]" if table else "above all tables" for table in (stands, belongs))
        other = ", and that of the server's sampling is sampling_seed" if name == "seed" and stands == "request" else ""
        raise ScenarioError(f"{where} has {name} {here}; it belongs {there}{other}.")


def _check_known(name: str, known: Sequence[str], where: str, *, of_request: bool = False) -> None:
    if name in known:
        return
    if name.replace("-", "_") in ON_COMMAND_LINE:
        raise ScenarioError(
            f"{where} has {name}, which is no key; give it on the command line, as --{name.replace('_', '-')}."
        )
    plain = name.replace("-", "_").lower()
    named = KEY_OF.get(plain)
    if named in known:
        raise ScenarioError(
            f"{where} has {_short_name(name)}, which is no key; {'put it into' if named == 'body' else 'write it as'} {named}."
        )
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}."
    if of_request:
        hint += " A field of the server's own goes into body."
    raise ScenarioError(f"{where} has an unknown key {_short_name(name)!r}{hint}")


def _short_name(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"


def renamed(table: Mapping[str, Any], where: str, say: Callable[[str], object] | None) -> dict[str, Any]:
    """Return the table with every former name of a key replaced; raise ScenarioError where it has both names."""
    table = dict(table)
    for former, name in FORMER.items():
        if (value := table.pop(former, None)) is None:
            continue
        if table.get(name) is not None:
            raise ScenarioError(f"{where} has both {name} and {former}, its former name; give {name} alone.")
        if say is not None:
            say(f"{where} has {former}, which is called {name} now; the former name still works.")
        table[name] = value
    return table


def laid_over(table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with what is given laid over it: it wins over the same keys, and over those that it takes the place of."""
    gone = {name for one, others in INSTEAD_OF.items() if given.get(one) for name in others}
    return {name: value for name, value in table.items() if name not in gone} | dict(given)


FILE_KEYS = ("prompt_file", "trace", "data")  # keys whose value is a path


def with_paths_beside(table: Mapping[str, Any], folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's table with the files that it names as its neighbours in `folder`, ~ as the user's home; those `given` otherwise stay."""
    table = dict(table)
    for name in FILE_KEYS:
        if isinstance(named := table.get(name), str) and named and given.get(name) is None:
            table[name] = str(_at(folder, named))
    for name in ("system", "body"):
        if isinstance(text := table.get(name), str) and text.startswith("@") and given.get(name) is None:
            table[name] = f"@{_at(folder, text[1:])}"
    for name in ("input_tokens", "output_tokens", "follow_up_tokens"):
        if name in table and given.get(name) is None:
            many = isinstance(table[name], list | tuple)
            values = [_empirical_beside(one, folder) for one in (table[name] if many else [table[name]])]
            table[name] = values if many else values[0]
    return table


def _at(folder: Path, name: str) -> Path:
    return Path(folder, from_home(name))


def _empirical_beside(value: Any, folder: Path) -> Any:
    if not isinstance(value, str):
        return value
    return re.sub(r"empirical\(\s*([^)]+?)\s*\)", lambda found: f"empirical({_at(folder, found[1])})", value)
