"""What monitors sampled beside a run: samples-*.jsonl as frames on the run's own axis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.frames import FloatArray, Run
from loadtest.metrics import NS
from loadtest.records import RunFolder

SERVERS = ("vllm", "llamacpp", "prometheus")
SAME_BOOT_NS = 60_000_000_000  # of one host's clocks: a larger change of their offset is another boot, no stepped clock
MIB = 2.0**20
# Names of the exporters' metrics, and the factor to bytes, shares or watts.
GPU_METRICS = {
    "DCGM_FI_DEV_FB_USED": ("memory_used", MIB),
    "DCGM_FI_DEV_GPU_UTIL": ("utilisation", 0.01),
    "DCGM_FI_DEV_POWER_USAGE": ("power", 1.0),
}
SERVER_METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_use",  # 1 is all of it, whatever the name says
    "vllm:gpu_cache_usage_perc": "kv_use",
    "llamacpp:requests_processing": "running",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:kv_cache_usage_ratio": "kv_use",
}


@dataclass(frozen=True, slots=True)
class Gap:
    """Where a source could not be sampled, seconds on the run's axis; `end` None: to the end of its file."""

    source: str
    start: float
    end: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Every monitor's samples, `t` in seconds on the run's axis; a row of nan stands where samples are missing."""

    hosts: dict[str, pd.DataFrame]  # by host name: busiest, second, mean (shares of a core), memory_used, …
    gpus: pd.DataFrame | None  # all GPUs together: memory_used (bytes), utilisation (mean share), power (W)
    gpu_count: int
    server: pd.DataFrame | None  # by its own count: running, waiting, kv_use (share)
    models: list[tuple[float, list[dict[str, Any]]]]  # what Ollama has loaded, sample by sample
    named: dict[str, pd.DataFrame]  # metrics that the user named: t, value
    gaps: list[Gap]
    simulated: frozenset[str]  # sources that a simulated server answered

    @property
    def empty(self) -> bool:
        return not (self.hosts or self.models or self.named) and self.gpus is None and self.server is None

    def mark(self, *sources: str) -> str:
        """Return " (simulated)" where one of these sources is."""
        return " (simulated)" if self.simulated & set(sources) else ""


@dataclass(slots=True)
class _File:
    """One samples file, read."""

    source: str
    host: str
    every: float
    samples: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)


def read(run: Run) -> Machine:
    """Read what monitors left in a run's folder; broken files are left out, for samples explain and records count."""
    files = list(_files(run))
    hosts = {file.host: _host(file) for file in files if file.source == "host" and file.samples}
    gpu_files = [file for file in files if file.source == "nvidia" and file.samples]
    gpu_files = gpu_files or [
        file for file in files if any("DCGM_" in key for key in _keys(file))
    ]  # the same GPUs again
    server = next((file for file in files if file.source in SERVERS and _keys(file) & set(SERVER_METRICS)), None)
    return Machine(
        hosts=hosts,
        gpus=_gpus(gpu_files[0]) if gpu_files else None,
        gpu_count=max((len(_by_gpu(values)) for _, values in gpu_files[0].samples), default=0) if gpu_files else 0,
        server=_frame(server, _server_values) if server else None,
        models=sorted(
            ((t, values["models"]) for file in files if file.source == "ollama" for t, values in file.samples),
            key=lambda entry: entry[0],
        ),
        named=dict(_named(files)),
        gaps=[gap for file in files for gap in file.gaps],
        simulated=frozenset(file.source for file in files if file.facts.get("simulated")),
    )


def known(frame: pd.DataFrame, column: str) -> tuple[FloatArray, FloatArray]:
    """Return the instants and the values of a column where it has one."""
    t, values = (frame[name].to_numpy(dtype=np.float64) for name in ("t", column))
    there = np.isfinite(values)
    return np.asarray(t[there], dtype=np.float64), np.asarray(values[there], dtype=np.float64)


# -- files ----------------------------------------------------------------------------------------------------------


def _files(run: Run) -> Iterator[_File]:
    folder = RunFolder(run.path)
    for path in sorted(run.path.glob("samples-*.jsonl")):
        lines = folder.samples(path.stem.removeprefix("samples-"))
        if not lines or "every" not in lines[0]:
            continue  # a driver's own: frames has them
        try:
            yield _file(run, lines)
        except (AttributeError, KeyError, TypeError, ValueError):
            why = f"{path.name} holds a line that is no sample, and was left out."
            yield _File(path.stem.removeprefix("samples-"), "", 1.0, gaps=[Gap(path.name, 0.0, None, why)])


def _file(run: Run, lines: list[dict[str, Any]]) -> _File:
    head = lines[0]
    zero = run.zero
    wall, monotonic = head["wall_ns"] - zero.wall_ns, head["monotonic_ns"] - zero.monotonic_ns
    one_clock = head["host"] == zero.host and abs(wall - monotonic) < SAME_BOOT_NS
    shift = monotonic if one_clock else wall
    file = _File(str(head["source"]), str(head["host"]), float(head["every"]))
    for line in lines[1:]:
        t = (line["t"] + shift) * NS
        if "gap" in line:
            file.gaps.append(Gap(file.source, t, None, str(line["gap"])))
        elif "facts" in line:
            file.facts |= line["facts"]
        else:
            if file.gaps and file.gaps[-1].end is None:
                file.gaps[-1] = Gap(file.source, file.gaps[-1].start, t, file.gaps[-1].sentence)
            _check(line)
            file.samples.append((t, line))
    return file


def _check(line: dict[str, Any]) -> None:
    """Raise where a sample is not of the form that monitors write; what they may leave out may be missing."""
    numbers = [*line.get("cores", ()), *line.get("values", {}).values()]
    numbers += [value for gpu in line.get("gpus", ()) for value in gpu.values()]
    if any(isinstance(value, str | bool) or value != value + 0 for value in numbers):
        raise ValueError("not a number")
    if any(not isinstance(model["name"], str) for model in line.get("models", ())):
        raise ValueError("not a model")


def _frame(file: _File, values: Any) -> pd.DataFrame:
    """Return a row a sample, and one of nan after each that was not followed in time."""
    rows: list[dict[str, float]] = []
    for t, line in file.samples:
        if rows and t - rows[-1]["t"] > 2.5 * file.every:
            rows.append({"t": rows[-1]["t"] + file.every / 2})
        rows.append({"t": t, **values(line)})
    return pd.DataFrame(rows, dtype=np.float64)


def _host(file: _File) -> pd.DataFrame:
    def values(line: dict[str, Any]) -> dict[str, float]:
        cores = sorted(line.get("cores") or [], reverse=True)
        seen = {key: value for key, value in line.items() if key != "t" and isinstance(value, int | float)}
        if cores:
            seen |= {"busiest": cores[0], "mean": float(np.mean(cores))}
        if len(cores) > 1:
            seen["second"] = cores[1]
        return seen

    frame = _frame(file, values)
    frame.attrs["cores"] = file.facts.get("cores")
    return frame


def _gpus(file: _File) -> pd.DataFrame:
    def values(line: dict[str, Any]) -> dict[str, float]:
        seen = list(_by_gpu(line).values())
        out = {}
        for key, together in (("memory_used", np.sum), ("utilisation", np.mean), ("power", np.sum)):
            told = [gpu[key] for gpu in seen if key in gpu]
            if told and len(told) == len(seen):  # a sum without one of them would be no sum
                out[key] = float(together(told))
        return out

    frame = _frame(file, values)
    frame.attrs |= {"source": file.source, "host": file.host}
    return frame


def _by_gpu(line: dict[str, Any]) -> dict[str, dict[str, float]]:
    if "gpus" in line:
        return {str(gpu["gpu"]): gpu for gpu in line["gpus"]}
    found: dict[str, dict[str, float]] = {}
    for key, value in line.get("values", {}).items():
        name, _, labels = key.partition("{")
        if name in GPU_METRICS:
            concept, factor = GPU_METRICS[name]
            found.setdefault(labels, {})[concept] = value * factor
    return found


def _server_values(line: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in line.get("values", {}).items():
        concept = SERVER_METRICS.get(key.partition("{")[0])
        if concept == "kv_use":  # of several engines the fullest
            found[concept] = max(found.get(concept, 0.0), value)
        elif concept:
            found[concept] = found.get(concept, 0.0) + value
    return found


def _named(files: list[_File]) -> Iterator[tuple[str, pd.DataFrame]]:
    for file in files:
        for key in sorted(_keys(file, whole=True)) if file.source == "prometheus" else ():
            name = key.partition("{")[0]
            if name not in SERVER_METRICS and name not in GPU_METRICS:
                yield key, _frame(file, lambda line, key=key: {"value": line["values"].get(key, np.nan)})


def _keys(file: _File, *, whole: bool = False) -> set[str]:
    keys = {key for _, line in file.samples for key in line.get("values", {})}
    return keys if whole else {key.partition("{")[0] for key in keys}
