"""Cold model loads: their duration, the rate at which the file was read, and how memory and page cache grew meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.figures import stats
from loadtest.analyse.run import FloatArray, RunData
from loadtest.analyse.run.files.samples import known_values
from loadtest.text import seconds, size
from loadtest.urls import loopback

ENOUGH_SAMPLES = 2  # fewest samples during a model load that a growth is computed from
FASTER = 0.8  # of the first model load's time, below which later ones are called faster

NOTHING_READ = "the server is simulated: it reads no file"
NO_HOST = "no samples of the server's machine; add --monitor host, or run loadtest monitor there"
NO_GPU = "no samples of a GPU; add --monitor nvidia or dcgm=URL"
TOO_RARE = "too few samples while it loaded; sample more often with --monitor-every"

# What is sampled while a model loads: (key, words).
MEMORIES = (("page_cache", "page cache"), ("host_memory", "host memory"), ("gpu_memory", "GPU memory"))


@dataclass(frozen=True, slots=True)
class Sampled:
    """The samples of one kind of memory, or the reason why there are none."""

    t: FloatArray  # seconds on the run's axis
    bytes: FloatArray
    reason: str | None = None
    mark: str = ""  # " (simulated)"

    @classmethod
    def of(cls, frame: pd.DataFrame | None, column: str, reason: str, mark: str = "") -> Sampled:
        if frame is None or column not in frame or not frame[column].notna().any():
            return cls(np.zeros(0), np.zeros(0), reason)
        return cls(*known_values(frame, column), mark=mark)

    def change(self, start: float, end: float) -> tuple[float, float] | None:
        """Return the bytes before and after a model load from `start` to `end`; None with too few samples.

        The last sample before it may show the model before it was unloaded, and the first one behind it the time after
        the next unloading. So the lower of the two samples about the start counts, and the higher of those about the end.
        """
        inside = (self.t >= start) & (self.t <= end)
        if inside.sum() < ENOUGH_SAMPLES:
            return None
        near = 2.5 * float(np.median(np.diff(self.t)))
        held, before, after = self.bytes[inside], (self.t < start), (self.t > end)
        low, high = float(held[0]), float(held[-1])
        if before.any() and start - self.t[before][-1] <= near:
            low = min(low, float(self.bytes[before][-1]))
        if after.any() and self.t[after][0] - end <= near:
            high = max(high, float(self.bytes[after][0]))
        return low, high


def is_cold(run: RunData) -> bool:
    """Return whether the run had the model unloaded before each request."""
    return bool(run.fact("scenario", "unload"))


def sampled(run: RunData) -> dict[str, Sampled]:
    """Return the samples of each memory that a model load fills, by the keys of MEMORIES."""
    seen = run.machine
    mark = seen.mark(seen.gpus.attrs["source"]) if seen.gpus is not None else ""
    host = _server_host(run)
    why = NOTHING_READ if run.simulated else NO_HOST
    ours = None if run.simulated and not mark else seen.gpus  # a real GPU here holds nothing of a simulated model
    return {
        "page_cache": Sampled.of(host, "page_cache", why),
        "host_memory": Sampled.of(host, "memory_used", why),
        "gpu_memory": Sampled.of(ours, "memory_used", NO_GPU, mark),
    }


def _server_host(run: RunData) -> pd.DataFrame | None:
    """Return the samples of the server's machine; None where there are none, or the server is simulated."""
    if run.simulated:
        return None
    hosts = run.machine.hosts
    elsewhere = [frame for host, frame in hosts.items() if host != run.zero.host]
    if elsewhere:
        return elsewhere[0]  # a monitor on another machine is there for the server
    here = hosts.get(run.zero.host or "")
    url = str(run.fact("target", "url") or "")
    return here if here is not None and (loopback(url) or "server_cpu" in here) else None


def cold_load(run: RunData, index: int) -> dict[str, Any]:
    """Return plain JSON on the model loads of a level: seconds, bytes, bytes per second; a None has its reason beside it.

    `load_s` describes all. `first_s` and `later_p50_s` separate the first from later ones, which may have found
    the file in the page cache. `loads` holds each with its memories before and after. `bytes` are those of the model's
    "file", else of its "memory" once loaded.
    """
    good = run.good(index)
    times, sent = run.column("load_s")[good], run.column("reached")[good]
    known = np.isfinite(times)
    times, sent = times[known], sent[known]
    file, loaded = run.fact("server", "facts", "details", "file_size"), run.fact("server_at_end", "size")
    held = int(file or loaded or 0) or None
    watched = sampled(run)
    loads: list[dict[str, Any]] = []
    for at, took in zip(sent.tolist(), times.tolist(), strict=True):
        changes = {key: memory.change(at, at + took) for key, memory in watched.items()}
        grew = {key: change and {"before": change[0], "after": change[1]} for key, change in changes.items()}
        loads.append({"start_s": at, "load_s": took, "bytes_per_s": held / took if held and took > 0 else None, **grew})
    typical = float(np.median(times)) if len(times) else None
    reasons = {
        f"{key}_reason": watched[key].reason or TOO_RARE
        for key, _ in MEMORIES
        if not any(one[key] is not None for one in loads)
    }
    return {
        "n": len(loads),
        "load_s": stats.describe_values(times),
        "first_s": loads[0]["load_s"] if loads else None,
        "later_p50_s": float(np.median(times[1:])) if len(times) > 1 else None,
        "bytes": held,
        "bytes_from": "file" if file else "memory" if held else None,
        "bytes_per_s": held / typical if held and typical else None,
        "loads": loads,
        **reasons,
    }


def grown(loading: dict[str, Any], key: str) -> float | None:
    """Return the bytes by which a memory grew during one of `loads`; None where that is unknown."""
    change = loading[key]
    return None if change is None else float(change["after"] - change["before"])


# -- sentences ------------------------------------------------------------------------------------------------------


def cold_load_sentences(cold: dict[str, Any], mark: str = "") -> list[str]:
    """Return sentences on the model loads of a level; `mark` is appended to GPU memory that is simulated."""
    if not cold["n"]:
        return ["No model load was seen: no request ended well, or the server does not say how long it loaded."]
    sentences = [loading(cold), *(_growth_sentence(cold, key, name, mark) for key, name in MEMORIES)]
    return [sentence for sentence in sentences if sentence]


def loading(cold: dict[str, Any]) -> str:
    """Return a sentence on duration and rate of a model load, with the first one apart where later ones were faster."""
    n, first, later = cold["n"], cold["first_s"], cold["later_p50_s"]
    if later is not None and later <= FASTER * first:
        return (
            f"The first model load took {seconds(first)}{_speed_words(cold, first)}; later ones {seconds(later)} "
            f"(p50 of {n - 1}){_speed_words(cold, later)}."
        )
    typical = cold["load_s"]["p50"]
    unknown = "" if cold["bytes"] else "; the model's size is not known"
    of = f"p50 of {n} model loads" if n > 1 else "one model load"
    return f"Loading took {seconds(typical)} ({of}){_speed_words(cold, typical)}{unknown}."


def _speed_words(cold: dict[str, Any], took: float) -> str:
    if not cold["bytes"] or took <= 0:
        return ""
    what = "" if cold["bytes_from"] == "file" else " in memory"
    return f": {size(cold['bytes'])}{what} at {size(cold['bytes'] / took)}/s"


def _growth_sentence(cold: dict[str, Any], key: str, name: str, mark: str) -> str | None:
    seen = [(number, one) for number, one in enumerate(cold["loads"]) if one[key] is not None]
    if not seen:
        return None
    number, first = seen[0]
    name += mark if key == "gpu_memory" else ""
    which = "while the model loaded" if cold["n"] == 1 else f"in model load {number + 1}"
    text = f"The {name} went from {size(first[key]['before'])} to {size(first[key]['after'])} {which}"
    if later := [float(grew) for _, one in seen[1:] if (grew := grown(one, key)) is not None]:
        text += f"; in later ones it changed by {size(float(np.median(later)))} (p50)"
    return f"{text}."
