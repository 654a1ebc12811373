"""Models that take turns: a server that has room for one of them at a time loads each anew whenever it is asked for.

The server tells of a model load (load_duration of Ollama's own API) the time from when the request came until its model was
there. That holds the wait for the other models' answers too, so only the time in which no model of that server was worked
on counts as loading. Models are said to take turns only where work on one never overlapped work on another (had both been
loaded, it would have), and no model load went on beside such work.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.run import BoolArray, FloatArray, RunData, grouped
from loadtest.analyse.run.groups import Group
from loadtest.analyse.run.overlaps import Depth, time_of_all
from loadtest.text import counted, listed, percent, seconds

LONG_MODEL_LOAD_S = 0.2  # a model that is loaded reports 1-25 ms, a tiny one loads in 280 ms
OVERLAP_SHARE = 0.02  # of a model's working time beside another's; with more both were loaded
SOONER = 0.5  # of the time that model loads take behind another model's work: one that ended sooner had begun beside it
OFTEN = 3  # model loads in a level, from which on models "took turns"


def loading_share(level: Mapping[str, Any]) -> float:
    """Return the share of a level's mean TTFT that passes until the model is loaded; 0 where model loads are short."""
    ttft, loading = level.get("ttft_s") or {}, (level.get("load_s") or {}).get("mean") or 0.0
    mean = ttft.get("mean_stayed", ttft.get("mean"))
    return float(loading / mean) if mean and loading >= LONG_MODEL_LOAD_S else 0.0


@dataclass(frozen=True, slots=True)
class AlternatingModels:
    """What a level lost to loading the models of one server in turn."""

    level: int
    label: str
    url: str
    models: dict[str, int]  # model loads of each
    loads: int
    loading_s: float  # in which none of the models was worked on, because one was being loaded
    share: float  # of the level's time
    waited: int  # requests that waited for their model …
    wait_p50_s: float  # … and how long, the others' turns included
    wait_max_s: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def sentence(self) -> str:
        who = listed(list(self.models))
        lost = f"{seconds(self.loading_s)}, {percent(self.share)} of the level's time went to loading"
        if self.loads >= OFTEN:
            each = ", ".join(f"{name} {count}" for name, count in self.models.items())
            text = f"{who} took turns: {self.loads} model loads ({each}), {lost}"
        else:
            text = f"{who} were never loaded together: {counted(self.loads, 'model load')}, {lost}"
        waits = f"{counted(self.waited, 'request')} waited for the model"
        most = f"{seconds(self.wait_p50_s)} in the median, {seconds(self.wait_max_s)} at most, others' turns included"
        return f"{self.label}: {text}; {waits}: {most}."


def what_helps(run: RunData) -> str:
    """Say what keeps models loaded together that took turns; a run that has each unloaded after its answers is told that."""
    kept = str(run.fact("scenario", "keep_alive") or "")
    if kept and not re.search(r"[1-9]", kept):
        return (
            f"This run asked for keep_alive {kept}, with which a server unloads a model after its answers: whether it has room for "
            "them together was not seen."
        )
    return (
        "Requests to such models wait for each other's answers and model loads. To keep them loaded together a server needs "
        "memory for all of them, and an Ollama OLLAMA_MAX_LOADED_MODELS of as many and no OLLAMA_KEEP_ALIVE of 0."
    )


def mark_model_loads(run: RunData, groups: Sequence[Group]) -> list[AlternatingModels]:
    """Return what each level lost to turns of models on one server.

    The requests that waited for it are marked in column `loaded_in_turn`, of the run and of each group.
    """
    marked = np.zeros(len(run.requests), dtype=np.bool_)
    found: list[AlternatingModels] = []
    for url, here in grouped((group.url, group) for group in groups).items():
        for level in run.levels:
            in_level = run.of_level(level["index"])
            seen = _alternation_in_level(run, [(group.model, group.rows & in_level) for group in here])
            if seen is not None:
                waiting, figures = seen
                marked |= waiting
                found.append(AlternatingModels(level["index"], str(level["label"]), url, **figures))
    run.requests["loaded_in_turn"] = marked
    for group in groups:
        group.run.requests["loaded_in_turn"] = marked[group.rows]
    return sorted(found, key=lambda one: one.level)


def _alternation_in_level(
    run: RunData, models: Sequence[tuple[str, BoolArray]]
) -> tuple[BoolArray, dict[str, Any]] | None:
    """Return which requests of a level waited for their model's turn, and the figures; None where nobody did."""
    models = [(name, rows) for name, rows in models if rows.any()]
    if len(models) < 2:
        return None
    work = {name: Depth.of(*work_spans(run.requests[rows])) for name, rows in models}
    if any(_beside(one, other) for one, other in itertools.combinations(work.values(), 2)):
        return None
    everyone = np.any([rows for _, rows in models], axis=0)
    waiting = everyone & (run.column("load_s") > LONG_MODEL_LOAD_S / run.speed)
    loads = list(_model_loads(run.requests[waiting], work))
    # The first model load of a level may be any model's; only one behind another model's work is a turn.
    if not any(_worked_between(work, name, -np.inf, end) for name, _, end in loads) or _beside_work(work, loads):
        return None
    send, took = run.column("reached")[waiting], run.column("load_s")[waiting]
    begin = float(np.nanmin(run.column("send")[everyone]))
    end = float(np.nanmax(run.column("end")[everyone]))
    waits, working = Depth.of(send, send + took), Depth.of(*work_spans(run.requests[everyone]))
    loading = time_of_all(waits) - time_of_all(waits, working)
    counts = Counter(name for name, _, _ in loads)
    figures = {
        "models": {name: counts[name] for name, _ in models},
        "loads": len(loads),
        "loading_s": loading,
        "share": loading / (end - begin) if end > begin else 0.0,
        "waited": int(waiting.sum()),
        "wait_p50_s": float(np.median(took)),
        "wait_max_s": float(took.max()),
    }
    return waiting, figures


def work_spans(requests: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Return when work on each request began (its model was loaded, else its first token) and when its last token came."""
    begun = requests["reached"] + requests["load_s"]
    known = pd.DataFrame({"begun": begun.fillna(requests["first_token"]), "over": requests["last"]}).dropna()
    known = known[known["over"] > known["begun"]]
    return known["begun"].to_numpy(dtype=np.float64), known["over"].to_numpy(dtype=np.float64)


def _model_loads(waiting: pd.DataFrame, work: dict[str, Depth]) -> Iterator[tuple[str, float, float]]:
    """Yield model, send and end of each model load; requests that waited for one count once, for it ended for all of them at once.

    Before the same model was loaded again, another model was worked on, or the model was unloaded after an answer of its own.
    """
    sends = waiting["reached"].to_numpy(dtype=np.float64)
    ends = sends + waiting["load_s"].to_numpy(dtype=np.float64)
    last: dict[str, float] = {}
    for name, send, end in sorted(zip(waiting["model"].astype(str), sends, ends, strict=True), key=lambda one: one[2]):
        if name not in last or end - last[name] > LONG_MODEL_LOAD_S or _worked_between(work, name, last[name], end):
            yield name, send, end
            last[name] = end


def _worked_between(work: dict[str, Depth], name: str, since: float, until: float) -> bool:
    """Whether work on another model than this began in that time."""
    begins = np.concatenate([depth.busy_from for other, depth in work.items() if other != name])
    return bool(((begins > since) & (begins < until)).any())


def _beside(one: Depth, other: Depth) -> bool:
    """Whether two models were at work at the same time for more than stamps can be off."""
    least = min(time_of_all(one), time_of_all(other))
    return least > 0 and time_of_all(one, other) > OVERLAP_SHARE * least


def _beside_work(work: dict[str, Depth], loads: Sequence[tuple[str, float, float]]) -> bool:
    """Whether models were loaded while another was worked on, as where each is unloaded after its answer.

    Loads that waited for work to end take about as long from there on, or a time that does not hang on how long they waited
    (a small model is there in 30 or in 280 ms). Those that went on beside it end the sooner after it, the longer it lasted.
    """
    ends = np.concatenate([depth.idle_from for depth in work.values()])
    inside = [(end - send, end - ends[(ends >= send) & (ends <= end)]) for _, send, end in loads]
    known = [(took, float(since.min())) for took, since in inside if len(since)]
    took, since = np.array(known, dtype=np.float64).reshape(-1, 2).T
    return bool(len(since)) and since.min() < SOONER * np.median(since) and np.std(since) > np.std(took)
