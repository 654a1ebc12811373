"""A run's parts by model and server: two of them share no law, no slots and no level, so each is a run of its own.

A record names its model, and its server by `target`, an index into run.json's `targets`. Older folders have no targets:
there the model alone tells, and `other_targets` (one line of text each) which server it was at.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.run import offered_load
from loadtest.analyse.run.arrays import BoolArray
from loadtest.analyse.run.frames import Delays, EventGaps, Run, join_levels, peak_at_once
from loadtest.analyse.run.ragged import Ragged
from loadtest.errors import LoadTestError

BESIDE_SHARE = 0.01  # of a part's requests that ran beside another part's at its server, from which on it is said
DESCRIBED = re.compile(r"(?P<url>\S+): (?P<server>.*), model (?P<model>.*), (?P<dialect>[\w-]+)")  # of other_targets
SIMULATED_NOTE = re.compile(r"\(simulated: profile (?P<profile>.*) at (?P<speed>[\d.e+]+)× speed\)")


@dataclass(frozen=True, slots=True)
class Group:
    """What a run asked of one model at one server."""

    name: str  # the model, its server too where that is needed to tell groups apart
    model: str
    url: str
    dialect: str
    rows: BoolArray  # its requests among the run's
    run: Run  # of its requests alone; their `accompanied` marks those beside another group's at the same server
    beside: tuple[str, ...]  # names of the groups that were in use at the same server at the same time

    @property
    def shares_slots(self) -> bool:
        """Whether its slots may be those of other groups as well: Ollama alone is known to give each model its own."""
        return bool(self.beside) and (self.run.facts.get("server") or {}).get("kind") != "ollama"

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json's `groups` says of it besides figures."""
        return {
            "name": self.name,
            "model": self.model,
            "url": self.url,
            "dialect": self.dialect,
            "beside": list(self.beside),
        }


@dataclass(frozen=True, slots=True)
class _Destination:
    url: str
    model: str
    dialect: str
    server: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.url


def groups_of(run: Run) -> list[Group]:
    """Return a run's parts in the order of their first request; none where all of it is one model at one server."""
    requests = run.requests
    if requests["model"].nunique() < 2 and requests["target"].nunique() < 2:
        return []
    pairs = list(zip(requests["target"].tolist(), requests["model"].tolist(), strict=True))
    known = {pair: _target(run, *pair) for pair in dict.fromkeys(pairs)}
    keys = list(dict.fromkeys(target.key for target in known.values()))
    if len(keys) < 2:
        return []
    number = {pair: keys.index(target.key) for pair, target in known.items()}
    which = np.array([number[pair] for pair in pairs], dtype=np.int64)
    names = _group_names(keys)
    targets = {target.key: target for target in reversed(known.values())}
    accompanied = {
        (one, other): _accompanied(run, which == one, which == other)
        for one in range(len(keys))
        for other in range(len(keys))
        if one != other and keys[one][1] == keys[other][1]
    }
    found = []
    for index, key in enumerate(keys):
        rows = which == index
        others = {other: beside for (one, other), beside in accompanied.items() if one == index}
        part = _run_of_group(run, rows, targets[key], names[index])
        part.requests["accompanied"] = np.any(
            list(others.values()) or [np.zeros(int(rows.sum()), dtype=np.bool_)], axis=0
        )
        named = tuple(names[other] for other, beside in others.items() if beside.mean() > BESIDE_SHARE)
        for level in part.levels:
            level["beside"] = list(named)
        found.append(Group(names[index], *key, _dialect(part), rows, part, named))
    return found


def refuse(run: Run, groups: Sequence[Group], what: str) -> None:
    """Raise LoadTestError where a run has several parts, for a command that works on one model at one server."""
    if groups:
        names = ", ".join(group.name for group in groups)
        raise LoadTestError(
            f"{run.path} holds requests to {len(groups)} models or servers ({names}), and {what} works on one: measure each "
            f"in a run of its own."
        )


def chart_folder(number: int, name: str) -> str:
    """Return the name of the folder for a group's charts; `number` counts from 1."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip(".-")[:60].strip(".-")
    return f"group-{number}-{plain}" if plain else f"group-{number}"


def unused(run: Run) -> list[str]:
    """Return the targets of run.json that no request went to, by name."""
    used = {_target(run, *pair).key for pair in set(zip(run.requests["target"], run.requests["model"], strict=True))}
    every = list(dict.fromkeys(target.key for target in _targets(run)))
    return [name for name, key in zip(_group_names(every), every, strict=True) if key not in used] if used else []


def undistinguished_servers(run: Run) -> str | None:
    """Say which servers a folder without targets does not tell apart: several that served the same model."""
    if _targets(run):
        return None
    main = run.facts.get("target") or {}
    urls: dict[str, list[str]] = {str(main.get("model")): [str(main.get("url"))]}
    for other in _older_targets(run):
        urls.setdefault(other.model, []).append(other.url)
    many = next((list(dict.fromkeys(found)) for found in urls.values() if len(set(found)) > 1), None)
    return f"requests went to {' and '.join(many)}, and this folder does not tell which to which" if many else None


# -- what a record was sent to ---------------------------------------------------------------------------------------


def _targets(run: Run) -> list[_Destination]:
    said = run.facts.get("targets")
    return [_read_target(one) for one in said if isinstance(one, dict)] if isinstance(said, list) else []


def _read_target(said: dict[str, Any]) -> _Destination:
    server = said.get("server")
    url, model, dialect = (str(said.get(name) or "") for name in ("url", "model", "dialect"))
    return _Destination(url, model, dialect, server if isinstance(server, dict) else {})


def _older_targets(run: Run) -> list[_Destination]:
    """Return the targets but the first of an older Locust run, where each is a line of text."""
    said = run.facts.get("other_targets")
    lines = [DESCRIBED.fullmatch(str(line)) for line in said] if isinstance(said, list) else []
    return [
        _Destination(line["url"], line["model"], line["dialect"], _server(line["server"])) for line in lines if line
    ]


def _server(said: str) -> dict[str, Any]:
    """Read a server's kind and version, and whether it is simulated, from how it is described."""
    plain = SIMULATED_NOTE.sub("", said).replace("an OpenAI-compatible server", "openai").strip()
    kind, _, version = plain.partition(" ")
    found: dict[str, Any] = {"kind": kind.lower(), "version": version or None}
    if simulated := SIMULATED_NOTE.search(said):
        found["simulated"] = {"profile": simulated["profile"], "speed": float(simulated["speed"])}
    return found


def _target(run: Run, index: int, model: Any) -> _Destination:
    """Return what a record with this target and this model was sent to; its own model counts."""
    main = _read_target(run.facts.get("target") or {})
    named = _targets(run)
    if 0 <= index < len(named):
        found = named[index]
    else:
        found = next((other for other in _older_targets(run) if other.model == model and model != main.model), main)
    name = str(model) if model else found.model
    if found.server:
        server = found.server
    elif found.url == main.url:
        said = run.facts.get("server") or {}
        # Context, slots and the like were asked of one model; kind and version are the server's.
        server = said if name == main.model else {key: said.get(key) for key in ("kind", "version", "simulated")}
    else:
        same = (other.server for other in _older_targets(run) if other.url == found.url)
        server = next(same, {})
    return dataclasses.replace(found, model=name, server=server)


def _group_names(keys: Sequence[tuple[str, str]]) -> list[str]:
    """Name groups by model; by server where the models are the same; by both where that needs both."""
    models, urls = [model for model, _ in keys], [url for _, url in keys]
    if len(set(models)) == len(models):
        return models
    return urls if len(set(models)) == 1 else [f"{model} at {url}" for model, url in keys]


# -- a part of a run -------------------------------------------------------------------------------------------------


def _run_of_group(run: Run, rows: BoolArray, target: _Destination, name: str) -> Run:
    requests = run.requests[rows].reset_index(drop=True)
    chunks, server_chunks = _ragged_rows(run.chunks, rows), _ragged_rows(run.server_chunks, rows)
    late = run.delivery
    main = run.facts.get("target") or {}
    same = (main.get("model"), main.get("url")) == target.key
    described = main if same else {key: getattr(target, key) for key in ("url", "dialect", "model")}
    facts = {**run.facts, "target": described, "server": target.server}
    if not same:
        facts["server_at_end"] = None
    levels = [
        {**_level_of_group(run, level, rows), "model": target.model, "url": target.url}
        for level in run.levels
        if bool((requests["level"] == level["index"]).any())
    ]
    for level in levels:
        level["label"] = f"{name} · {level['label']}"
    join_levels(requests, levels)
    return dataclasses.replace(
        run,
        facts=facts,
        levels=levels,
        requests=requests,
        chunks=chunks,
        server_chunks=server_chunks,
        itl=EventGaps(chunks),
        server_itl=EventGaps(server_chunks),
        delivery=Delays(chunks, server_chunks, late.usable[rows], late.ahead[rows], late.least[rows]),
        whole=run,
    )


def _ragged_rows(ragged: Ragged, rows: BoolArray) -> Ragged:
    return Ragged.flattened(ragged.flat[np.repeat(rows, ragged.counts)], ragged.counts[rows])


def _level_of_group(run: Run, level: dict[str, Any], rows: BoolArray) -> dict[str, Any]:
    """Return a level as one group had it: its own streams at once (or its share of the rate), and its own lengths."""
    everyone = np.asarray(run.requests["level"] == level["index"], dtype=np.bool_)
    mine = everyone & rows
    counted = mine & run.measured(level["index"])
    sent = run.requests[counted if counted.any() else mine]
    own = dict(level)
    if offered_load.is_open(level):
        share = float(mine.sum() / everyone.sum())
        for key in ("rate", "rate_to"):
            if level.get(key) is not None:
                own[key] = float(f"{float(level[key]) * share:.3g}")
    else:
        began, ended = (sent[name].to_numpy(dtype=np.float64) for name in ("send", "end"))
        known = np.isfinite(began) & np.isfinite(ended)
        own["concurrency"] = max(peak_at_once(began[known], ended[known]), 1)
    for key, asked in (("input_tokens", "asked_input"), ("output_tokens", "asked")):
        lengths = sent[asked].unique()
        if level.get(key) is None and len(lengths) == 1 and np.isfinite(lengths[0]) and level.get("words") is None:
            own[key] = int(lengths[0])
    own["label"] = offered_load.level_of(own).label
    if not offered_load.is_open(level) and level["concurrency"] > own["concurrency"]:
        load = offered_load.level_of(own).load
        number, _, what = load.partition(" ")
        rest = own["label"].removeprefix(load)
        own["label"] = f"{number} of {level['concurrency']} {'streams' if what == 'stream' else what}{rest}"
    return own


def _accompanied(run: Run, mine: BoolArray, theirs: BoolArray) -> BoolArray:
    """Mark those of `mine` during which one of `theirs` was in flight."""
    send, end = run.column("send"), run.column("end")
    theirs = theirs & np.isfinite(send) & np.isfinite(end)
    began, over = np.sort(send[theirs]), np.sort(end[theirs])
    open_then = np.searchsorted(began, end[mine], side="left") - np.searchsorted(over, send[mine], side="right")
    return np.asarray(np.isfinite(send[mine]) & (open_then > 0), dtype=np.bool_)


def _dialect(part: Run) -> str:
    dialects = part.requests["dialect"].dropna()
    return str(dialects.mode().iloc[0]) if len(dialects) else ""


def outcome_counts(run: Run) -> dict[str, int]:
    """Return how many measured requests of a run ended how."""
    counted = run.requests[~run.requests["warmup"].astype(bool)]
    return {str(name): int(count) for name, count in counted["outcome"].value_counts().items()}
