"""Models that take turns: a server that has room for one of them at a time loads each anew whenever it is asked for.

The server tells of a load (load_duration of Ollama's own API) the time from when the request came until its model was
there. That holds the wait for the other models' answers too, so only the time in which no model of that server was worked
on counts as loading. Models are said to take turns only where work on one never overlapped work on another: had both been
loaded, it would have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.groups import Group
from loadtest.text import counted, listed, percent, seconds

LONG_LOAD_S = 0.2  # a model that is loaded reports 1-25 ms, a tiny one loads in 280 ms
OVERLAP_SHARE = 0.02  # of a model's working time beside another's; with more both were loaded
OFTEN = 3  # loads in a level, from which on models "took turns"

Spans = tuple[FloatArray, FloatArray]  # begins and ends, seconds on the run's axis


@dataclass(frozen=True, slots=True)
class AlternatingModels:
    """What a level lost to loading the models of one server in turn."""

    level: int
    label: str
    url: str
    models: dict[str, int]  # loads of each model
    loads: int
    loading_s: float  # in which none of the models was worked on, because one was being loaded
    share: float  # of the level's time
    waited: int  # requests that waited for their model …
    wait_p50_s: float  # … and how long, the others' turns included
    wait_max_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of summary.json's `turns`."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        who = listed(list(self.models))
        lost = f"{seconds(self.loading_s)}, {percent(self.share)} of the level's time went to loading"
        if self.loads >= OFTEN:
            each = ", ".join(f"{name} {count}" for name, count in self.models.items())
            text = f"{who} took turns: {self.loads} loads ({each}), {lost}"
        else:
            text = f"{who} were never loaded together: {counted(self.loads, 'load')}, {lost}"
        waits = f"{counted(self.waited, 'request')} waited for the model"
        most = f"{seconds(self.wait_p50_s)} in the median, {seconds(self.wait_max_s)} at most, others' turns included"
        return f"{self.label}: {text}; {waits}: {most}."


def mark_loads(run: RunData, groups: Sequence[Group]) -> list[AlternatingModels]:
    """Return what each level lost to turns of models on one server.

    The requests that waited for it are marked in column `loaded_in_turn`, of the run and of each group.
    """
    marked = np.zeros(len(run.requests), dtype=np.bool_)
    found: list[AlternatingModels] = []
    by_url: dict[str, list[Group]] = {}
    for group in groups:
        by_url.setdefault(group.url, []).append(group)
    for url, here in by_url.items():
        if len(here) < 2:
            continue
        for level in run.levels:
            in_level = np.asarray(run.requests["level"] == level["index"], dtype=np.bool_)
            seen = _of_level(run, [(group.model, group.rows & in_level) for group in here])
            if seen is not None:
                waiting, figures = seen
                marked |= waiting
                found.append(AlternatingModels(level["index"], str(level["label"]), url, **figures))
    run.requests["loaded_in_turn"] = marked
    for group in groups:
        group.run.requests["loaded_in_turn"] = marked[group.rows]
    return sorted(found, key=lambda one: one.level)


def _of_level(run: RunData, models: Sequence[tuple[str, BoolArray]]) -> tuple[BoolArray, dict[str, Any]] | None:
    """Return which requests of a level waited for their model's turn, and the figures; None where nobody did."""
    models = [(name, rows) for name, rows in models if rows.any()]
    if len(models) < 2:
        return None
    spans = {name: _worked_on(run.requests[rows]) for name, rows in models}
    if any(_beside(spans[one], spans[other]) for one in spans for other in spans if one != other):
        return None
    long = LONG_LOAD_S / float((run.simulated or {}).get("speed") or 1.0)
    everyone = np.any([rows for _, rows in models], axis=0)
    waiting = everyone & (run.column("load_s") > long)
    loads = list(_loads(run.requests[waiting], spans))
    # The first load of a level may be any model's; only one behind another model's work is a turn.
    if not any(_worked_between(spans, name, -np.inf, end) for name, end in loads):
        return None
    send, load = run.column("send")[waiting], run.column("load_s")[waiting]
    begin = float(np.nanmin(run.column("send")[everyone]))
    end = float(np.nanmax(run.column("end")[everyone]))
    waits = _union([(send, send + load)])
    loading = _length(waits) - _shared(waits, _union(list(spans.values())))
    counts = Counter(name for name, _ in loads)
    figures = {
        "models": {name: counts[name] for name, _ in models},
        "loads": len(loads),
        "loading_s": loading,
        "share": loading / (end - begin) if end > begin else 0.0,
        "waited": int(waiting.sum()),
        "wait_p50_s": float(np.median(load)),
        "wait_max_s": float(load.max()),
    }
    return waiting, figures


def _worked_on(requests: pd.DataFrame) -> Spans:
    """Return when a model worked on one request or several: from the end of a request's load to its last token."""
    begun = requests["send"] + requests["load_s"]
    known = pd.DataFrame({"begun": begun.fillna(requests["first_token"]), "over": requests["last"]}).dropna()
    known = known[known["over"] > known["begun"]]
    return _union([(known["begun"].to_numpy(dtype=np.float64), known["over"].to_numpy(dtype=np.float64))])


def _loads(waiting: pd.DataFrame, spans: dict[str, Spans]) -> Iterator[tuple[str, float]]:
    """Yield model and end of each load; requests that waited for the same one are one.

    Two loads of a model have work on another one between them: without it the first one would have stayed.
    """
    ends = (waiting["send"] + waiting["load_s"]).to_numpy(dtype=np.float64)
    last: dict[str, float] = {}
    for name, end in sorted(zip(waiting["model"].astype(str), ends, strict=True), key=lambda one: one[1]):
        if name not in last or _worked_between(spans, name, last[name], end):
            yield name, end
            last[name] = end


def _worked_between(spans: dict[str, Spans], name: str, since: float, until: float) -> bool:
    """Whether work on another model than this began in that time."""
    return any(
        np.searchsorted(begins, until, side="left") > np.searchsorted(begins, since, side="right")
        for other, (begins, _) in spans.items()
        if other != name
    )


def _beside(one: Spans, other: Spans) -> bool:
    """Whether two models were at work at the same time for more than stamps can be off."""
    least = min(_length(one), _length(other))
    return least > 0 and _shared(one, other) > OVERLAP_SHARE * least


def _union(parts: Sequence[Spans]) -> Spans:
    """Return spans that do not overlap and cover the same time."""
    begins, ends = (np.concatenate(side) for side in zip(*parts, strict=True))
    if not len(begins):
        return begins, ends
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], np.maximum.accumulate(ends[order])
    fresh = np.append(True, begins[1:] > ends[:-1])
    return begins[fresh], ends[np.append(np.flatnonzero(fresh)[1:] - 1, len(ends) - 1)]


def _shared(one: Spans, other: Spans) -> float:
    """Return for how long both are: each side's spans are in order and do not overlap."""
    begins, ends = other
    if not len(begins):
        return 0.0
    before = np.concatenate(([0.0], np.cumsum(ends - begins)))  # covered by the other up to each of its spans

    def covered(t: FloatArray) -> FloatArray:
        last = np.searchsorted(begins, t, side="right")
        inside = np.clip(t - begins[np.maximum(last - 1, 0)], 0.0, (ends - begins)[np.maximum(last - 1, 0)])
        return np.where(last > 0, before[np.maximum(last - 1, 0)] + inside, 0.0)

    return float((covered(one[1]) - covered(one[0])).sum())


def _length(spans: Spans) -> float:
    return float((spans[1] - spans[0]).sum())
