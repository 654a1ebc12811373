"""What a token takes in joules, from the watts that monitors sampled while a level ran; never from a data sheet.

joules a token = mean watts over the level's window / output tokens a second in the same window
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.run import BoolArray, FloatArray, RunData, finite
from loadtest.analyse.run.files.samples import Machine
from loadtest.analyse.run.overlaps import Depth
from loadtest.text import counted, listed, percent, seconds

AFTER_WORK_S = 2.0  # until readings are idle ones: drivers average watts over a second, and clocks stay up a little
BEFORE_WORK_S = 0.1  # a request's send, within which a reading may hold some of its work
FEWEST_READINGS = 3  # of a level or an idle time
LEAST_COVERED = 0.7  # of a level's window that readings must cover, for its energy to be told
MOST_BETWEEN = 2.5  # intervals of sampling between two readings of watts; more, and what lay between is unknown
IN_USE = 0.05  # utilisation of a GPU that should be idle
NOT_SAMPLED = "watts were not sampled: loadtest run --monitor nvidia, dcgm=URL or rapl"
SEVERAL_BESIDE = "requests to several models or servers ran beside each other, and watts cannot be told apart by them"


@dataclass(frozen=True, slots=True)
class Meter:
    """What one source read: pairs of readings that follow each other, and the joules between them."""

    source: str  # "nvidia", "dcgm" or "rapl"
    what: str  # as in "the GPU" or "2 GPUs together"
    start: FloatArray
    end: FloatArray
    joules: FloatArray
    counted: bool  # by an energy counter; else from samples of watts
    simulated: bool

    def mean(self, spans: Sequence[tuple[float, float]]) -> Power | None:
        """Return the mean power inside the spans; None with fewer readings than it takes."""
        inside: BoolArray = np.zeros(len(self.start), dtype=np.bool_)
        readings = 0
        for begin, end in spans:
            here = (self.start >= begin) & (self.end <= end)
            readings += int(here.sum()) + bool(here.any())
            inside |= here
        covered = float((self.end - self.start)[inside].sum())
        if readings < FEWEST_READINGS or covered <= 0:
            return None
        return Power(float(self.joules[inside].sum()) / covered, readings, covered)


@dataclass(frozen=True, slots=True)
class Power:
    watts: float
    readings: int
    covered_s: float


@dataclass(frozen=True, slots=True)
class Meters:
    """The sources of watts that are of the server's machine, and what they read while nothing was asked of it."""

    every: tuple[Meter, ...]
    idle_watts: float | None  # of all sources together
    idle_from: str  # when that was, or why it is unknown
    in_use: float | None  # utilisation of the GPUs in idle times, where it was sampled
    refused: str  # why watts that were sampled are not the server's; empty where none were refused


def read_meters(run: RunData) -> Meters:
    """Return the run's meters; without one, `refused` may say why not."""
    machine = run.machine
    frames = [machine.gpus] if machine.gpus is not None else []
    elsewhere = [frame for host, frame in machine.processors.items() if host != run.zero.host]
    frames += elsewhere[:1] or list(machine.processors.values())[:1]
    found, refused = [], []
    for frame in frames:
        if (meter := _meter(frame, machine)) is None:
            continue
        if why := _not_the_servers(run, meter, str(frame.attrs["host"])):
            refused.append(why)
        else:
            found.append(meter)
    idle, when = _idle(run, found)
    return Meters(tuple(found), idle, when, _idle_use(run), " ".join(dict.fromkeys(refused)))


def _meter(frame: pd.DataFrame, machine: Machine) -> Meter | None:
    source = str(frame.attrs["source"])
    gpus = f"{machine.gpu_count} GPUs together" if machine.gpu_count > 1 else "the GPU"
    what = "processors and their memory" if source == "rapl" else gpus
    t = frame["t"].to_numpy(dtype=np.float64)
    energy, power = (
        frame[name].to_numpy(dtype=np.float64) if name in frame else np.zeros(0) for name in ("energy", "power")
    )
    simulated = bool(machine.mark(source))
    if np.isfinite(energy).sum() > 1:
        known = np.isfinite(energy)
        # an exporter repeats a reading until its next one
        moved = np.concatenate(([True], np.diff(energy[known]) != 0))
        at, total = t[known][moved], energy[known][moved]
        risen = np.diff(total) > 0  # one that falls began again
        return Meter(source, what, at[:-1][risen], at[1:][risen], np.diff(total)[risen], True, simulated)
    if np.isfinite(power).sum() > 1:
        near = np.isfinite(power[:-1] + power[1:]) & (np.diff(t) <= MOST_BETWEEN * float(frame.attrs["every"]))
        joules = (power[:-1] + power[1:]) / 2 * np.diff(t)
        return Meter(source, what, t[:-1][near], t[1:][near], joules[near], False, simulated)
    return None


def _not_the_servers(run: RunData, meter: Meter, host: str) -> str:
    """Say why a source's watts are not those of the server; empty where they may be."""
    if run.simulated and not meter.simulated:
        return f"the server is simulated, and what {meter.source} sampled is this machine's own power."
    if meter.source != "dcgm" and not run.on_servers_machine(host):
        return f"{meter.source} sampled {host}, where the client ran, and the server is elsewhere: run `loadtest monitor` there."
    return ""


# -- idle -----------------------------------------------------------------------------------------------------------


def _idle(run: RunData, meters: Sequence[Meter]) -> tuple[float | None, str]:
    """Return the watts of all sources while no request was under way, and when that was; else why they are unknown."""
    if not meters:
        return None, ""
    spans = _free_spans(run, min((float(meter.start.min()) for meter in meters if len(meter.start)), default=0.0))
    powers = [meter.mean([span for span, _ in spans]) for meter in meters]
    watts = [power.watts for power in powers if power is not None]
    if len(watts) < len(meters):
        return (
            None,
            "no time without requests was sampled for long enough: --monitor-idle 10 samples before the first one",
        )
    used = [
        where
        for (begin, end), where in spans
        if any(((meter.start >= begin) & (meter.end <= end)).any() for meter in meters)
    ]
    return sum(watts), listed(list(dict.fromkeys(used)))


def _free_spans(run: RunData, first: float) -> list[tuple[tuple[float, float], str]]:
    """Return when no request was under way, and where in the run that was; work before the first reading is not known of."""
    send, end = run.entire.requests["send"], run.entire.requests["end"]
    known = send.notna() & end.notna()
    if not known.any():
        return []
    at_work = Depth.of(*(values[known].to_numpy(dtype=np.float64) for values in (send, end)))
    free_from = [first, *at_work.idle_from.tolist()]
    free_until = [*at_work.busy_from.tolist(), np.inf]
    where = ["before the first request", *["between requests"] * (len(free_from) - 2), "after the last answer"]
    spans = [(since + AFTER_WORK_S, until - BEFORE_WORK_S) for since, until in zip(free_from, free_until, strict=True)]
    return [(span, name) for span, name in zip(spans, where, strict=True) if span[1] > span[0]]


def _idle_use(run: RunData) -> float | None:
    """Return the mean utilisation of the GPUs while this client asked nothing."""
    frame = run.machine.gpus
    if frame is None or "utilisation" not in frame or not len(frame):
        return None
    t, use = (frame[name].to_numpy(dtype=np.float64) for name in ("t", "utilisation"))
    free: BoolArray = np.zeros(len(t), dtype=np.bool_)
    for (begin, end), _ in _free_spans(run, float(t[0])):
        free |= (t >= begin) & (t <= end)
    seen = finite(use[free])
    return float(seen.mean()) if len(seen) >= FEWEST_READINGS else None


# -- levels ---------------------------------------------------------------------------------------------------------


def add_energy(run: RunData, summary: dict[str, Any]) -> None:
    """Put `energy` into each level of a summary: what it took, or None and why."""
    meters = read_meters(run)
    for level in summary["levels"]:
        found = SEVERAL_BESIDE if summary.get("groups") and meters.every else level_energy(meters, level)
        level["energy"] = None if isinstance(found, str) else found
        if isinstance(found, str):
            level["energy_reason"] = found.rstrip(".")


def level_energy(meters: Meters, level: dict[str, Any]) -> dict[str, Any] | str:
    """Return what a level took, or a sentence on why that was not measured."""
    if not meters.every:
        return meters.refused or NOT_SAMPLED
    window = level.get("window")
    if not window:
        return "no request of this level ended well"
    length = window["end"] - window["start"]
    read: dict[str, Power] = {}
    for meter in meters.every:
        power = meter.mean([(window["start"], window["end"])])
        if power is None or power.covered_s < LEAST_COVERED * length:
            held = counted(power.readings, "reading") if power else f"fewer than {FEWEST_READINGS} readings"
            over = f" over {percent(power.covered_s / length)} of it" if power else ""
            return (
                f"the level's window of {seconds(length)} holds {held} of {meter.source}{over}: more requests or a smaller "
                "--monitor-every"
            )
        read[meter.source] = power
    watts = sum(power.watts for power in read.values())
    idle = meters.idle_watts
    return {
        "watts": watts,
        "watts_by_source": {source: power.watts for source, power in read.items()},
        "of": listed([meter.what for meter in meters.every]),
        "readings": min(power.readings for power in read.values()),
        "by": "energy counters" if all(meter.counted for meter in meters.every) else "samples of watts",
        "simulated": any(meter.simulated for meter in meters.every),
        **({"left_out": meters.refused} if meters.refused else {}),
        "idle_use": meters.in_use,
        "idle_watts": idle,
        **({"idle_reason": meters.idle_from} if idle is None else {"idle_measured": meters.idle_from}),
        **_per_token_and_request(level, watts, idle),
    }


def _per_token_and_request(level: dict[str, Any], watts: float, idle: float | None) -> dict[str, Any]:
    above = None if idle is None or watts <= idle else watts - idle
    tokens = level.get("output_tokens_per_s")
    # input tokens only where there are no others, since nothing tells apart what each kind takes
    found: dict[str, Any] = {}
    for name in ("output_token" if tokens else "input_token", "request"):
        if rate := level.get(f"{name}s_per_s"):
            found[f"joules_per_{name}"] = watts / rate
            found[f"joules_per_{name}_above_idle"] = None if above is None else above / rate
    return {**found, "output_tokens_per_s_per_watt": tokens / watts if tokens and watts > 0 else None}
