"""A run divided by model and server. Each combination has its own slots, step law and levels, and is read as its own run.

A record names its model, and its server by `target`, an index into run.json's `targets`. Folders of older versions have no
targets: there the model alone divides the run, and a line of text in `other_targets` names its server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, grouped
from loadtest.analyse.run.frames import join_levels
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.run.overlaps import open_within, peak_at_once
from loadtest.analyse.run.run_data import RunData
from loadtest.errors import LoadTestError
from loadtest.scenario import rotation

OF_TARGET = ("server_at_end", "tokens", "comparability")  # keys of run.json that each entry of `targets` has for itself
BESIDE_SHARE = 0.01  # of a group's requests; if more ran beside another group's at the same server, this is reported
DESCRIBED = re.compile(r"(?P<url>\S+): (?P<server>.*), model (?P<model>.*), (?P<dialect>[\w-]+)")  # in other_targets
SIMULATED_NOTE = re.compile(r"\(simulated: profile (?P<profile>.*) at (?P<speed>[\d.e+]+)× speed\)")


@dataclass(frozen=True, slots=True)
class Group:
    """The requests of a run to one model at one server."""

    name: str  # the model, with its server where several groups have the same model
    model: str
    url: str
    dialect: str
    rows: BoolArray  # marks its requests in the whole run
    run: RunData  # its requests alone; column `accompanied` marks those beside another group's at the same server
    beside: tuple[str, ...]  # names of the groups that loaded the same server at the same time

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of summary.json's `groups` without its figures."""
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
    entry: dict[str, Any] = field(default_factory=dict)  # of run.json's targets

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.url


def groups_of(run: RunData) -> list[Group]:
    """Return a run's groups in the order of its targets, else of their first request; none of one model at one server."""
    requests = run.requests
    if requests["model"].nunique() < 2 and requests["target"].nunique() < 2:
        return []
    pairs = list(zip(requests["target"].tolist(), requests["model"].tolist(), strict=True))
    known = {pair: _target(run, *pair) for pair in sorted(dict.fromkeys(pairs), key=lambda pair: pair[0])}
    keys = list(dict.fromkeys(target.key for target in known.values()))
    if len(keys) < 2:
        return []
    number = {pair: keys.index(target.key) for pair, target in known.items()}
    which = np.array([number[pair] for pair in pairs], dtype=np.int64)
    names = _group_names(keys)
    targets = {target.key: target for target in reversed(known.values())}
    found = []
    for index, key in enumerate(keys):
        rows = which == index
        others = {
            other: _accompanied(run, rows, which == other)
            for other, (_, url) in enumerate(keys)
            if other != index and url == key[1]
        }
        part = _run_of_group(run, rows, targets[key], names[index])
        part.requests["accompanied"] = np.any([np.zeros(int(rows.sum()), dtype=np.bool_), *others.values()], axis=0)
        near = [other for other, beside in others.items() if beside.mean() > BESIDE_SHARE]
        named = tuple(names[other] for other in near)
        part.facts["comparability"] = {
            **(part.facts.get("comparability") or {}),
            "shared_with": ", ".join(sorted(keys[other][0] for other in near)) or None,
        }
        for level in part.levels:
            level["beside"] = list(named)
        commonest = part.requests["dialect"].dropna().mode()
        dialect = str(commonest.iloc[0]) if len(commonest) else ""
        found.append(Group(names[index], *key, dialect, rows, part, named))
    return found


def refuse_groups(run: RunData, groups: Sequence[Group], what: str) -> None:
    """Raise LoadTestError where a run has groups, for a command that needs one model at one server."""
    if groups:
        raise LoadTestError(
            f"{run.path} holds requests to {len(groups)} models or servers ({', '.join(group.name for group in groups)}), and {what} "
            "works on one: measure each in a run of its own."
        )


def chart_folder(number: int, name: str) -> str:
    """Return the name of the folder for a group's charts; `number` counts from 1."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip(".-")[:60].strip(".-")
    return f"group-{number}-{plain}" if plain else f"group-{number}"


def unused(run: RunData) -> list[str]:
    """Return the names of run.json's targets that no request went to."""
    used = {_target(run, *pair).key for pair in set(zip(run.requests["target"], run.requests["model"], strict=True))}
    every = list(dict.fromkeys(target.key for target in _targets(run)))
    return [name for name, key in zip(_group_names(every), every, strict=True) if key not in used] if used else []


def undistinguished_servers(run: RunData) -> str | None:
    """Return a clause on the servers of one model that a folder without targets cannot tell apart."""
    if _targets(run):
        return None
    main = run.facts.get("target") or {}
    named = [(main.get("model"), main.get("url")), *(other.key for other in _older_targets(run))]
    urls = grouped(dict.fromkeys((model, url) for model, url in named if model and url))
    many = next((found for found in urls.values() if len(found) > 1), None)
    return f"requests went to {' and '.join(many)}, and this folder does not tell which to which" if many else None


# -- what a record was sent to ---------------------------------------------------------------------------------------


def _targets(run: RunData) -> list[_Destination]:
    return [_read_target(one) for one in run.facts.get("targets") or []]


def _read_target(said: dict[str, Any]) -> _Destination:
    url, model, dialect = (str(said.get(name) or "") for name in ("url", "model", "dialect"))
    return _Destination(url, model, dialect, said.get("server") or {}, said)


def _older_targets(run: RunData) -> list[_Destination]:
    """Return the further targets of an older Locust run, which describes each in a line of text."""
    lines = [DESCRIBED.fullmatch(line) for line in run.facts.get("other_targets") or []]
    return [
        _Destination(line["url"], line["model"], line["dialect"], _server(line["server"])) for line in lines if line
    ]


def _server(said: str) -> dict[str, Any]:
    """Return a server's kind, version and simulated profile from its description."""
    plain = SIMULATED_NOTE.sub("", said).replace("an OpenAI-compatible server", "openai").strip()
    kind, _, version = plain.partition(" ")
    found: dict[str, Any] = {"kind": kind.lower(), "version": version or None}
    if simulated := SIMULATED_NOTE.search(said):
        found["simulated"] = {"profile": simulated["profile"], "speed": float(simulated["speed"])}
    return found


def _target(run: RunData, index: int, model: Any) -> _Destination:
    """Return what a record with this target and model was sent to; the record's model counts, not the target's."""
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
        # Context and slots are facts of the main model; kind and version are the server's.
        server = said if name == main.model else {key: said.get(key) for key in ("kind", "version", "simulated")}
    else:
        server = next((other.server for other in _older_targets(run) if other.url == found.url), {})
    return replace(found, model=name, server=server)


def _group_names(keys: Sequence[tuple[str, str]]) -> list[str]:
    """Return a name per group: the model, the server where all models are the same, or both."""
    models, urls = [model for model, _ in keys], [url for _, url in keys]
    if len(set(models)) == len(models):
        return models
    schemes = {url.partition("://")[0] if "://" in url else None for url in urls}
    if len(schemes) == 1 and None not in schemes:  # the same for all of them tells nothing apart
        urls = [url.partition("://")[2] for url in urls]
    return urls if len(set(models)) == 1 else [f"{model} at {url}" for model, url in zip(models, urls, strict=True)]


# -- a part of a run -------------------------------------------------------------------------------------------------


def _run_of_group(run: RunData, rows: BoolArray, target: _Destination, name: str) -> RunData:
    part = run.only(rows)
    main = run.facts.get("target") or {}
    same = (main.get("model"), main.get("url")) == target.key
    described = main if same else {key: getattr(target, key) for key in ("url", "dialect", "model")}
    facts = {**run.facts, "target": described, "server": target.server}
    # Older folders know it of the first target only.
    known = target.entry if "server_at_end" in target.entry or not same else {}
    facts |= {key: known.get(key) for key in OF_TARGET if known or not same}
    levels = [
        LevelData(_level_of_group(run, level, rows), model=target.model, url=target.url)
        for level in run.levels
        if part.of_level(level["index"]).any()
    ]
    for level in levels:
        level["label"] = f"{name} · {level['label']}"
    join_levels(part.requests, levels)
    every = [str(one.get("url") or "") for one in run.facts.get("targets") or []]
    machine = run.machine.of_server(str(described.get("url") or ""), every)
    return replace(part, facts=facts, levels=levels, machine=machine, whole=run)


def _level_of_group(run: RunData, level: LevelData, rows: BoolArray) -> LevelData:
    """Return a level as one group saw it: with the group's own streams at once, share of the rate and lengths."""
    everyone = run.of_level(level["index"])
    mine = everyone & rows
    counted = mine & run.measured(level["index"])
    sent = run.requests[counted if counted.any() else mine]
    own = LevelData(level)
    by_schedule = run.requests["user"].isna().to_numpy() | level.is_open  # under Locust beside users of a closed loop
    share = float((mine & by_schedule).sum() / max((everyone & by_schedule).sum(), 1))
    for key in ("rate", "rate_to"):
        if level.get(key) is not None:
            own[key] = float(f"{float(level[key]) * share:.3g}") or None
    if not share:
        own.pop("by_schedule", None)
    if not level.is_open:
        looped = sent if level.is_closed else sent[sent["user"].notna()]
        began, ended = (looped[name].to_numpy(dtype=np.float64) for name in ("send", "end"))
        known = np.isfinite(began) & np.isfinite(ended)
        least = 0 if own.get("rate") or own.get("by_schedule") else 1
        peak = max(peak_at_once(began[known], ended[known]), least) or None
        own["concurrency"] = _users_planned(run, level, rows) or peak
        if level.get("requests") and peak:
            own["requests"] = round(level["requests"] * own["concurrency"] / level["concurrency"])
    for key, asked in (("input_tokens", "asked_input"), ("output_tokens", "asked")):
        lengths = sent[asked].unique()
        if level.get(key) is None and len(lengths) == 1 and np.isfinite(lengths[0]) and level.get("words") is None:
            own[key] = int(lengths[0])
    own["label"] = own.as_asked.label
    if not (level.is_open or own.is_open) and level["concurrency"] > own["concurrency"]:
        whole = replace(own.as_asked, concurrency=level["concurrency"]).load
        own["label"] = f"{own['concurrency']} of {whole}{own['label'].removeprefix(own.as_asked.load)}"
    return own


def _users_planned(run: RunData, level: LevelData, rows: BoolArray) -> int | None:
    """Return how many of a level's users were a group's by plan; None where run.json has no plan of them, as under Locust."""
    weights = [one.entry.get("weight") for one in _targets(run)]
    if run.facts.get("driver") != "asyncio" or not level.get("concurrency") or not weights or not all(weights):
        return None
    turns = rotation([int(weight or 0) for weight in weights])
    mine = set(run.requests["target"][rows].tolist())
    return sum(turns[user % len(turns)] in mine for user in range(level["concurrency"]))


def _accompanied(run: RunData, mine: BoolArray, theirs: BoolArray) -> BoolArray:
    """Mark the requests of `mine` during which one of `theirs` was in flight."""
    send, end = run.column("send"), run.column("end")
    return np.isfinite(send[mine]) & (open_within(send[theirs], end[theirs], send[mine], end[mine]) > 0)
