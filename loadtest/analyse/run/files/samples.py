"""What monitors sampled during a run: samples-*.jsonl as frames on the run's time axis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from loadtest.analyse.run.arrays import FloatArray, grouped
from loadtest.analyse.run.files.damage import lines_left_out, no_header
from loadtest.analyse.run.files.reading import samples_header
from loadtest.metrics import S_PER_NS
from loadtest.records import FileHeader, read_lines
from loadtest.text import counted, joined, shown, size
from loadtest.urls import origin

Models = list[tuple[float, list[dict[str, Any]]]]  # instants, and what was loaded then
SERVERS = ("vllm", "llamacpp", "prometheus")
SAME_BOOT_NS = 60_000_000_000  # by which the offset of a host's clocks may change; more means that it was rebooted
MIB = 2.0**20
MOST_READING = 1e18  # largest number in a sample; counters of bytes stay below it
# times that a counter falls and is soon where it was: a server that was restarted does neither twice
BACK_AND_FORTH = 2
SOON = 4  # samples
NOT_NUMBERS = ("facts", "cores", "values", "gpus", "models", "gap")  # keys of a sample whose values are not numbers
# Metrics of GPU exporters: our name for each, and the factor to bytes, shares, watts or joules.
GPU_METRICS = {
    "DCGM_FI_DEV_FB_USED": ("memory_used", MIB),
    "DCGM_FI_DEV_GPU_UTIL": ("utilisation", 0.01),
    "DCGM_FI_DEV_POWER_USAGE": ("power", 1.0),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy", 1e-3),
}
# Figures of a GPU, and how several are put together.
GPU_FIGURES = (("memory_used", np.sum), ("utilisation", np.mean), ("power", np.sum), ("energy", np.sum))
SERVER_METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_use",  # a share, despite its name
    "vllm:gpu_cache_usage_perc": "kv_use",
    "vllm:num_preemptions_total": "preemptions",
    "vllm:prefix_cache_queries_total": "looked_up",  # tokens; older versions count blocks, by names with gpu_
    "vllm:prefix_cache_hits_total": "cached",
    "llamacpp:requests_processing": "running",
    "llamacpp:requests_deferred": "waiting",
    "llamacpp:kv_cache_usage_ratio": "kv_use",
}


@dataclass(frozen=True, slots=True)
class Zero:
    """The instant at which a run's time axis is zero, on both clocks; other files are placed on the axis by it."""

    wall_ns: int = 0
    monotonic_ns: int = 0
    host: str | None = None  # None: several hosts sent requests, so only the wall clock is shared

    @classmethod
    def of(cls, headers: Sequence[FileHeader]) -> Self:
        """Return the anchor of the first of these requests files, at least one."""
        one_host = len({header.host for header in headers}) == 1
        return cls(headers[0].wall_ns, headers[0].monotonic_ns, headers[0].host if one_host else None)

    def later(self, by_ns: int) -> Self:
        return replace(self, wall_ns=self.wall_ns + by_ns, monotonic_ns=self.monotonic_ns + by_ns)

    def shift(self, header: FileHeader) -> int:
        """Return what to add to a file's instants for the run's axis, ns: by the monotonic clock on one host, else the wall's."""
        wall, monotonic = header.wall_ns - self.wall_ns, header.monotonic_ns - self.monotonic_ns
        one_clock = header.host == self.host and abs(wall - monotonic) < SAME_BOOT_NS
        return monotonic if one_clock else wall


@dataclass(frozen=True, slots=True)
class SamplingGap:
    """A time in which a source could not be sampled, in seconds on the run's axis; `end` None: to the end of its file."""

    source: str
    start: float
    end: float | None
    sentence: str


@dataclass(slots=True)
class SamplesFile:
    """What one monitor wrote, its instants in seconds on the run's axis."""

    source: str
    host: str
    every: float
    samples: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    gaps: list[SamplingGap] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Machine:
    """The samples of all monitors, `t` in seconds on the run's axis; a row of nan stands where samples are missing."""

    hosts: dict[str, pd.DataFrame]  # by host name: busiest, second, mean (use of the cores, shares), memory_used, …
    gpus: pd.DataFrame | None  # all GPUs together: memory_used (bytes), utilisation (mean share), power (W), energy (J)
    processors: dict[str, pd.DataFrame]  # by host name: energy of all processor packages and their memory (J)
    gpu_count: int
    # the server's own metrics: running, waiting, kv_use (share), and counters: preemptions, tokens looked_up and cached
    server: pd.DataFrame | None
    loaded: dict[str, Models]  # by URL what an Ollama has loaded, sample by sample
    named: dict[str, pd.DataFrame]  # metrics that the user named: t, value
    gaps: list[SamplingGap]
    simulated: frozenset[str]  # sources that a simulated server provided
    hardware: tuple[str, ...]  # of the machines that were sampled: "2 × NVIDIA H100", "gpuhost: 16 cores, 135 GB"
    files: tuple[SamplesFile, ...]  # that all of this is from

    @classmethod
    def of(cls, files: Sequence[SamplesFile]) -> Self:
        hosts = {file.host: _host(file) for file in files if file.source == "host" and file.samples}
        by_driver = (file for file in files if file.source == "nvidia" and file.samples)
        by_exporter = (file for file in files if any("DCGM_" in metric_name(key) for key in _metrics(file)))
        gpus = next(chain(by_driver, by_exporter), None)  # before an exporter's of the same GPUs
        servers = (file for file in files if file.source in SERVERS)
        server = next((file for file in servers if SERVER_METRICS.keys() & map(metric_name, _metrics(file))), None)
        return cls(
            hosts=hosts,
            gpus=_gpus(gpus) if gpus else None,
            processors={
                file.host: _sample_frame(file, _energy) for file in files if file.source == "rapl" and file.samples
            },
            gpu_count=max((len(_by_gpu(values)) for _, values in gpus.samples), default=0) if gpus else 0,
            server=_sample_frame(server, _server_values) if server else None,
            loaded=_loaded_models(files),
            named=dict(_named_metrics(files)),
            gaps=[gap for file in files for gap in file.gaps],
            simulated=frozenset(file.source for file in files if file.facts.get("simulated")),
            hardware=tuple(_hardware(files)),
            files=tuple(files),
        )

    def of_server(self, url: str, every: Iterable[str]) -> Self:
        """Return what was sampled beside one of the measured servers: without the files of the others."""
        others = {origin(one) for one in every} - {None, origin(url)}
        return self.of([file for file in self.files if origin(str(file.facts.get("url") or "")) not in others])

    @property
    def models(self) -> Models:
        """What Ollamas have loaded, sample by sample, those of several in the order of time."""
        return sorted((entry for entries in self.loaded.values() for entry in entries), key=lambda entry: entry[0])

    @property
    def empty(self) -> bool:
        return (
            not (self.hosts or self.loaded or self.named or self.processors)
            and self.gpus is None
            and self.server is None
        )

    def mark(self, *sources: str) -> str:
        """Return " (simulated)" where one of these sources is simulated."""
        return " (simulated)" if self.simulated & set(sources) else ""


def read_machine(path: Path, zero: Zero) -> tuple[Machine, list[str]]:
    """Read the monitors' files in a run folder; return with it a sentence on each thing that is left out.

    Left out are lines that are no samples, and a file whose samples are of several servers.
    """
    files = list(_files(path, zero))
    mixed = [_several_servers(file) for file in files]
    trouble = [*(said for file in files for said in file.trouble), *(said for said in mixed if said is not None)]
    return Machine.of([file for file, said in zip(files, mixed, strict=True) if said is None]), trouble


def _several_servers(file: SamplesFile) -> str | None:
    """Say that a file's samples are of several servers; None where they are not."""
    if (name := mixed_counter(file.samples)) is None:
        return None
    return (
        f"Samples of {file.source} at {file.facts.get('url')} are of several servers in turn, behind one address ({name} goes back "
        f"and forth), and are left out; sample each by its own address (--monitor {file.source}=URL)."
    )


def _hardware(files: Sequence[SamplesFile]) -> Iterator[str]:
    """Yield what the files say of the machines that they sampled, GPUs first; nothing of a simulated one."""
    real = [file for file in files if not file.facts.get("simulated")]
    named = next((gpus for file in real if isinstance(gpus := file.facts.get("gpus"), list) and gpus), [])
    names = [str(gpu.get("name")) if isinstance(gpu, dict) else str(gpu) for gpu in named]
    for name in dict.fromkeys(names):
        yield f"{names.count(name)} × {name}" if names.count(name) > 1 else name
    for file in real:
        cores, memory = file.facts.get("cores"), file.facts.get("memory_total")
        if file.source == "host" and cores:
            cpu = shown(str(file.facts["cpu"])) if file.facts.get("cpu") else ""
            yield joined(
                ", ", joined(" of ", f"{file.host}: {counted(int(cores), 'core')}", cpu), size(memory) if memory else ""
            )


def known_values(frame: pd.DataFrame, column: str) -> tuple[FloatArray, FloatArray]:
    """Return the instants and values of a column where its value is known."""
    t, values = (frame[name].to_numpy(dtype=np.float64) for name in ("t", column))
    there = np.isfinite(values)
    return np.asarray(t[there], dtype=np.float64), np.asarray(values[there], dtype=np.float64)


def grown(frame: pd.DataFrame, column: str, start: float, end: float) -> float:
    """Return by how much a counter grew between two instants, as sampled; a restart takes nothing off. nan unknown."""
    if column not in frame:
        return np.nan
    t, values = known_values(frame, column)
    inside = values[(t >= start) & (t <= end)]
    return float(np.maximum(np.diff(inside), 0.0).sum()) if len(inside) > 1 else np.nan


def _loaded_models(files: Sequence[SamplesFile]) -> dict[str, Models]:
    found = grouped(
        (str(file.facts.get("url")), (t, values["models"]))
        for file in files
        for t, values in file.samples
        if "models" in values
    )
    return {url: sorted(entries, key=lambda entry: entry[0]) for url, entries in found.items()}


# -- files ----------------------------------------------------------------------------------------------------------


def _files(folder: Path, zero: Zero) -> Iterator[SamplesFile]:
    for path in sorted(folder.glob("samples-*.jsonl")):
        if path.name.startswith("samples-driver"):
            continue  # read by frames.py
        lines, wrong = read_lines(path)
        if not lines and not wrong:
            continue
        header, first = samples_header(lines), lines[0] if lines else {}
        source, every = first.get("source"), first.get("every", 0)
        if header is None or not isinstance(source, str) or not _is_number(every) or every <= 0:
            yield SamplesFile("", "", 1.0, trouble=[no_header(path.name)])
            continue
        file = SamplesFile(source, header.host, float(every))
        if wrong := wrong + _fill_samples(file, lines[1:], zero.shift(header)):
            file.trouble.append(lines_left_out(wrong, path.name))
        yield file


def _fill_samples(file: SamplesFile, lines: list[dict[str, Any]], shift: int) -> int:
    """Sort lines into samples, facts and gaps; return how many were none of these."""
    wrong = 0
    for line in lines:
        if not _is_sample(line):
            wrong += 1
            continue
        t = (line["t"] + shift) * S_PER_NS
        if "gap" in line:
            file.gaps.append(SamplingGap(file.source, t, None, str(line["gap"])))
        elif "facts" in line:
            file.facts |= line["facts"]
        else:
            if file.gaps and file.gaps[-1].end is None:
                file.gaps[-1] = replace(file.gaps[-1], end=t)
            file.samples.append((t, line))
    return wrong


def _is_sample(line: dict[str, Any]) -> bool:
    """Return whether a line has the form that monitors write; optional parts may be missing."""
    facts, cores, values, gpus, models = (
        line.get(name, empty)
        for name, empty in (("facts", {}), ("cores", []), ("values", {}), ("gpus", []), ("models", []))
    )
    if not (isinstance(facts, dict) and isinstance(cores, list) and isinstance(values, dict)):
        return False
    if not all(isinstance(some, list) and all(isinstance(one, dict) for one in some) for some in (gpus, models)):
        return False
    rest = [value for key, value in line.items() if key not in NOT_NUMBERS and value is not None]
    readings = [value for gpu in gpus for value in gpu.values()]
    sizes = [model.get(name) or 0 for model in models for name in ("size", "size_vram", "context_length")]
    counts = [facts.get(name) or 0 for name in ("cores", "memory_total")]
    return (
        _is_number(line.get("t"))
        and all(map(_is_number, [*rest, *cores, *values.values(), *readings, *sizes, *counts]))
        and all("gpu" in gpu for gpu in gpus)
        and all(isinstance(model.get("name"), str) for model in models)
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST_READING


def _sample_frame(file: SamplesFile, values: Any) -> pd.DataFrame:
    """Return a row per sample, and a row of nan behind each sample whose successor came too late; `attrs` say of what."""
    rows: list[dict[str, float]] = []
    for t, line in file.samples:
        if rows and t - rows[-1]["t"] > 2.5 * file.every:
            rows.append({"t": rows[-1]["t"] + file.every / 2})
        rows.append({"t": t, **values(line)})
    frame = pd.DataFrame(rows, dtype=np.float64)
    frame.attrs = {"source": file.source, "host": file.host, "every": file.every}
    return frame


def _host(file: SamplesFile) -> pd.DataFrame:
    def values(line: dict[str, Any]) -> dict[str, float]:
        cores = sorted(line.get("cores") or [], reverse=True)
        seen = {key: value for key, value in line.items() if key != "t" and isinstance(value, int | float)}
        if cores:
            seen |= {"busiest": cores[0], "mean": float(np.mean(cores))}
        if len(cores) > 1:
            seen["second"] = cores[1]
        return seen

    frame = _sample_frame(file, values)
    frame.attrs["cores"] = file.facts.get("cores")
    return frame


def _gpus(file: SamplesFile) -> pd.DataFrame:
    def values(line: dict[str, Any]) -> dict[str, float]:
        seen = list(_by_gpu(line).values())
        return {
            key: float(together([gpu[key] for gpu in seen]))
            for key, together in GPU_FIGURES
            if seen and all(key in gpu for gpu in seen)  # a sum needs all GPUs
        }

    return _sample_frame(file, values)


def _energy(line: dict[str, Any]) -> dict[str, float]:
    return {"energy": line.get("energy", np.nan)}


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
    found = grouped((SERVER_METRICS.get(metric_name(key)), value) for key, value in line.get("values", {}).items())
    # of several engines the cache of the fullest, and the sum of all else
    return {name: float((max if name == "kv_use" else sum)(values)) for name, values in found.items() if name}


def _named_metrics(files: Sequence[SamplesFile]) -> Iterator[tuple[str, pd.DataFrame]]:
    for file in files:
        for key in sorted(_metrics(file)) if file.source == "prometheus" else ():
            if metric_name(key) not in (*SERVER_METRICS, *GPU_METRICS):
                yield key, _sample_frame(file, lambda line, key=key: {"value": line["values"].get(key, np.nan)})


def _metrics(file: SamplesFile) -> set[str]:
    """Return the metrics of a file's samples, with their labels."""
    return {key for _, line in file.samples for key in line.get("values", {})}


def mixed_counter(samples: Sequence[tuple[float, dict[str, Any]]]) -> str | None:
    """Return the name of a counter that goes back and forth: samples of several servers, behind a gateway; None where none does."""
    readings = (reading for _, line in samples for reading in (line.get("values") or {}).items())
    counters = grouped((key, value) for key, value in readings if metric_name(key).endswith("_total"))
    return next((metric_name(key) for key, values in counters.items() if _times(values) >= BACK_AND_FORTH), None)


def metric_name(key: str) -> str:
    return key.partition("{")[0]


def _times(values: Sequence[float]) -> int:
    """Return how often a value falls and is soon no less than before."""
    return sum(
        after < before and max(values[i + 1 : i + 1 + SOON]) >= before
        for i, (before, after) in enumerate(pairwise(values))
    )
