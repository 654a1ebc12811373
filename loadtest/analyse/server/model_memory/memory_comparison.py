"""The memory estimate of a run, compared with what the server and the GPU reported, and what may explain a difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from loadtest.analyse.run import RunData
from loadtest.analyse.run.files.samples import known_values
from loadtest.analyse.server.model_memory.by_slots import plan_of_run
from loadtest.analyse.server.queue.slots import Slots
from loadtest.errors import PredictionError
from loadtest.memory import report
from loadtest.memory.estimate import MemoryPlan, loaded_memory
from loadtest.text import binary_size, percent, signed


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """What one source reported for the model, and the estimate of the same parts; bytes."""

    by: str  # "ollama", "nvidia" or "dcgm"
    what: str  # in words
    size: int
    estimate: int
    simulated: bool

    @property
    def share(self) -> float:
        """The difference, measured − estimated, as a share of the estimate."""
        return (self.size - self.estimate) / self.estimate

    def to_dict(self) -> dict[str, Any]:
        return {
            "by": self.by,
            "what": self.what,
            "measured_bytes": self.size,
            "estimated_bytes": self.estimate,
            "difference_bytes": self.size - self.estimate,
            "difference_share": self.share,
            "simulated": self.simulated,
        }


@dataclass(frozen=True, slots=True)
class MemoryComparison:
    plan: MemoryPlan
    slots_from: str  # "server", "inferred", or "assumed" where the run saw no limit
    readings: tuple[MemoryReading, ...]  # the server's first
    vram: int | None  # bytes on a GPU, as the server reports
    simulated: bool

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds; sizes in bytes."""
        plan = self.plan
        return {
            "weights_bytes": plan.facts.weights,
            "weights_from": plan.facts.weights_from,
            "kv_bytes": plan.kv,
            "compute_bytes": plan.compute,
            "loaded_bytes": plan.loaded,
            "driver_bytes": plan.driver,
            "total_bytes": plan.total,
            "slots": plan.slots,
            "slots_from": self.slots_from,
            "context": plan.context,
            "cache_dtype": plan.cache_dtype,
            "vram_bytes": self.vram,
            "measured": [reading.to_dict() for reading in self.readings],
        }


def compare_memory(run: RunData, slots: Slots) -> MemoryComparison | str:
    """Return estimate and measurements of a run, or a sentence on what is missing."""
    try:
        plan = plan_of_run(run, slots)
    except PredictionError as error:
        return str(error)
    if plan.kv is None:
        return "what the run holds of the model's layers does not tell what its KV cache takes."
    if run.simulated is not None:
        plan = plan.of_simulated()
    said = loaded_memory(_loaded(run))
    vram = None if said is None or said.size_vram is None else min(said.size_vram, said.size)
    plan = replace(plan, gpu=vram != 0)
    readings = []
    if said is not None:
        what = "loaded model, as the server says (/api/ps)"
        readings.append(
            MemoryReading("ollama", what, said.size, plan.loaded - plan.left_out(said.size), run.simulated is not None)
        )
    # The estimate does not say which part of a model lies in host memory: compare only where all of it is on GPUs.
    if (said is None or vram == said.size) and (on_gpus := _on_gpus(run, plan)) is not None:
        readings.append(on_gpus)
    if not readings:
        return "neither the server nor a monitor of its GPU said what the loaded model takes."
    slots_from = "server" if run.fact("server", "slots_said") else "inferred" if slots.limit else "assumed"
    return MemoryComparison(plan, slots_from, tuple(readings), vram, run.simulated is not None)


def _loaded(run: RunData) -> Mapping[str, Any] | None:
    """Return the model's row of /api/ps at the run's end, else the last one that a monitor saw."""
    if at_end := run.facts.get("server_at_end"):
        return dict(at_end)
    name = run.fact("target", "model")
    seen = [model for t, models in run.machine.models if t <= run.last_end for model in reversed(models)]
    return next((model for model in reversed(seen) if model.get("name") in (name, f"{name}:latest")), None)


def _on_gpus(run: RunData, plan: MemoryPlan) -> MemoryReading | None:
    """Return the most GPU memory in use while requests ran; None where no GPU of the server was sampled."""
    machine = run.machine
    frame = machine.gpus
    if frame is None or "memory_used" not in frame:
        return None
    source = str(frame.attrs["source"])
    if source == "nvidia" and not run.on_servers_machine(str(frame.attrs.get("host"))):
        return None
    t, used = known_values(frame, "memory_used")
    during = used[(t >= 0) & (t <= run.last_end)]
    if not len(during):
        return None
    name = {"nvidia": "the NVIDIA driver", "dcgm": "DCGM"}.get(source, source)
    many = f" of {machine.gpu_count} GPUs together" if machine.gpu_count > 1 else ""
    what = f"GPU memory in use{many}, the most ({name})"
    estimate = plan.total + plan.driver * (max(machine.gpu_count, 1) - 1)
    return MemoryReading(source, what, int(during.max()), estimate, bool(machine.mark(source)))


# -- words ----------------------------------------------------------------------------------------------------------


def _part_rows(found: MemoryComparison) -> Iterator[tuple[str, str, str]]:
    """Yield (part, size, source) of the estimate without the total."""
    slots = {"server": "", "inferred": "; slots inferred from the run", "assumed": "; slots assumed: no limit was seen"}
    for part, size, where in report.estimate_rows(found.plan):
        if part == "KV cache":
            yield part, size, where + slots[found.slots_from]
        elif part == "compute buffers" and not found.plan.gpu:
            yield part, size, f"{where}; not every Ollama counts them without a GPU"
        elif part != "total":
            yield part, size, where


def comparison_rows(found: MemoryComparison) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield table rows of part, estimate, measurement, difference and source; an unknown cell is empty."""
    yield from ((part, size, "", "", where) for part, size, where in _part_rows(found))
    for reading in found.readings:
        difference = reading.size - reading.estimate
        sign = "+" if difference > 0 else "−" if difference < 0 else ""
        yield (
            report.reported_parts(found.plan, found.plan.left_out(reading.size)) if reading.by == "ollama" else "all",
            binary_size(reading.estimate),
            binary_size(reading.size),
            f"{sign}{binary_size(abs(difference))} ({signed(reading.share)})",
            reading.what + (", simulated" if reading.simulated else ""),
        )


def difference_sentence(found: MemoryComparison | None) -> str | None:
    """Say by how much a measurement differs, and what may explain that; None where it differs by no more than a tenth."""
    off = [each for each in found.readings if abs(each.share) > report.NOTABLE_DIFFERENCE] if found else []
    if found is None or not off:
        return None
    reading = off[0]
    mark = " (simulated)" if reading.simulated else ""
    who = (
        f"The server{mark} says that the loaded model takes"
        if reading.by == "ollama"
        else f"GPU memory{mark} was up to"
    )
    more = "more" if reading.share > 0 else "less"
    explained = _explained(found, reading)
    return (
        f"{who} {binary_size(reading.size)}, {percent(abs(reading.share))} {more} than the {binary_size(reading.estimate)} "
        f"estimated{f': {explained}' if explained else ''}."
    )


def _explained(found: MemoryComparison, reading: MemoryReading) -> str:
    """Return a clause that may explain the difference: plans that take as much, or what was assumed; else empty."""
    if reading.by != "ollama" and found.readings[0].by == "ollama":  # the server's own figure agrees
        if reading.share < 0:
            less = reading.size < found.readings[0].size
            return "the GPU that was watched does not hold all that the server says the model takes" if less else ""
        return "the server's own figure for the model agrees, so the rest is not what it counts for this model"
    drivers = 0 if reading.by == "ollama" else reading.estimate - found.plan.loaded
    known = found.slots_from != "assumed"
    if others := report.other_plans(found.plan, reading.size, slots_known=known, besides=drivers):
        return f"{others} would explain it{', as would parts of the model that it does not count' if reading.share < 0 and found.plan.facts.embedding is None else ''}"
    if not known and reading.share > 0:  # more slots take more
        return f"the run saw no limit to the slots, and {found.plan.slots} {'is' if found.plan.slots == 1 else 'are'} assumed"
    return ""
