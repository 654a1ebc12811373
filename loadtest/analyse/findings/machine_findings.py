"""What the machine did beside the streams, in sentences with their figures."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run import FloatArray, RunData, finite, grouped
from loadtest.analyse.run.files.samples import SERVERS, Machine, Models, SamplingGap, grown
from loadtest.analyse.run.overlaps import Depth, peaks_within
from loadtest.analyse.server.model_memory import cold_load
from loadtest.analyse.verdict.verdict import reloaded
from loadtest.metrics import S_PER_NS
from loadtest.records import Outcome
from loadtest.text import counted, listed, number, percent, seconds, size

LATE_S = 2.0  # a gap that begins sooner was there from the start
RELOAD_SLACK_S = 2.0  # between a model load as sampled and as a request waited for it
FEWEST_SAMPLES = 3  # samples of a level that a figure of it needs
LEAST_CACHED = 0.1  # of the prompt tokens, from which on a share is worth a sentence
AROUND_SAMPLE_S = 1.0  # before and after a sample: what the run had in flight then may have been counted
AROUND_INSTANT_S = 0.05  # before and after a sample, in which a request of the run decoded all the time
LEAST_BESIDE = 0.1  # of the samples, in which a server counts more requests than this run's: fewer are of other moments
OTHERS_SHARE = 0.2  # of the machine's cores, from which on what other programs use is told


@dataclass(frozen=True, slots=True)
class LoadPeriod:
    """When the requests of one concurrency were under way; `name` as in "8 streams"."""

    name: str
    parts: tuple[tuple[float, float], ...]

    def of(self, frame: pd.DataFrame, column: str) -> FloatArray:
        """Return what a column holds inside the period, nan left out; empty where there is no such column."""
        if column not in frame:
            return np.zeros(0)
        t = frame["t"].to_numpy(dtype=np.float64)
        inside = np.zeros(len(t), dtype=np.bool_)
        for start, end in self.parts:
            inside |= (t >= start) & (t <= end)
        return finite(frame[column].to_numpy(dtype=np.float64)[inside])

    def growth(self, frame: pd.DataFrame, column: str) -> float:
        """Return by how much a counter grew inside the period; 0 where that is not known."""
        return float(np.nansum([grown(frame, column, start, end) for start, end in self.parts]))


def load_periods(run: RunData) -> list[LoadPeriod]:
    """Return the run's spans by concurrency, or a level each where a level has none, the least first."""
    sent = run.requests.groupby("level").agg({"send": "min", "end": "max"}).dropna(subset=["send"])
    loads = [(level, float(level.get("concurrency") or level.get("rate") or 0)) for level in run.levels]
    parts = grouped(
        ((load, level.load if load else str(level.get("label") or "this load")), tuple(sent.loc[level["index"]]))
        for level, load in loads
        if level["index"] in sent.index
    )
    return [LoadPeriod(name, tuple(found)) for (_, name), found in sorted(parts.items())]


def machine_findings(run: RunData) -> list[str]:
    """Return what the samples beside a run say, with figures; nothing where there are none."""
    machine, found = run.machine, load_periods(run)
    said: list[str | None] = []
    if not machine.empty and found:
        said += [_cores_sentence(host, frame, found) for host, frame in machine.hosts.items()]
        said += [_processes(frame, found) for frame in machine.hosts.values()]
        if machine.gpus is not None:
            said += [_gpu_memory(machine, machine.gpus, found), _gpu_use(machine, machine.gpus, found)]
        if machine.server is not None and (foreign := _foreign_page(machine, machine.server, run)):
            said.append(foreign)
        elif machine.server is not None:
            said += [_kv_cache(machine, machine.server, found), _preempted(machine, machine.server, found)]
            said.append(_queue(machine, machine.server, found))
            if not run.requests["cached_tokens"].notna().any():  # else the answers say it, request by request
                said.append(_cached(machine, machine.server, found))
        said.append(_split_sentence(machine))
        said += [_host_memory(host, frame, run) for host, frame in machine.hosts.items()]
    if not cold_load.is_cold(run):  # there each one is told as what it is
        said += _reloads(machine, run)
    said += [_gap(gap, run) for gap in machine.gaps]
    return list(dict.fromkeys(sentence for sentence in said if sentence))


def _heaviest_sampled(found: list[LoadPeriod], frame: pd.DataFrame, column: str) -> LoadPeriod | None:
    """Return the period of the highest load in which a column was sampled often enough."""
    return next((period for period in reversed(found) if len(period.of(frame, column)) >= FEWEST_SAMPLES), None)


def _cores_sentence(host: str, frame: pd.DataFrame, found: list[LoadPeriod]) -> Finding | None:
    at = _heaviest_sampled(found, frame, "busiest")
    cores = int(frame.attrs.get("cores") or 0)
    if at is None or not cores:
        return None
    names = ("busiest", "second", "mean") if cores > 1 else ("busiest",)
    busiest, *others = (percent(float(np.median(at.of(frame, name)))) for name in names)
    beside = ", the next at {} and their mean at {}".format(*others) if others else ""
    return Finding(
        f"At {at.name}, the busiest of {counted(cores, 'core')} of {host} is at {busiest}{beside}.",
        "Medians of the samples.",
    )


def _processes(frame: pd.DataFrame, found: list[LoadPeriod]) -> Finding | None:
    at = _heaviest_sampled(found, frame, "client_cpu")
    if at is None:
        return None
    server, client = at.of(frame, "server_cpu"), at.of(frame, "client_cpu")
    told = f"this client uses {number(float(np.median(client)))} of a core"
    if len(server) >= FEWEST_SAMPLES:
        told = f"the server's process uses {number(float(np.median(server)))} cores and {told}"
        cores, uses = int(frame.attrs.get("cores") or 0), at.of(frame, "mean")
        others = cores * float(np.median(uses)) - float(np.median(server) + np.median(client)) if len(uses) else 0.0
        if others >= OTHERS_SHARE * cores > 0:
            told += f"; other programs use {number(others)} of the {counted(cores, 'core')}, which the server may lack"
    return Finding(f"At {at.name}, {told}.", "Medians of the samples.")


def _gpu_memory(machine: Machine, frame: pd.DataFrame, found: list[LoadPeriod]) -> str | None:
    seen = [(period, float(values.max())) for period in found if len(values := period.of(frame, "memory_used"))]
    if not seen:
        return None
    where = f" of {machine.gpu_count} GPUs together" if machine.gpu_count > 1 else ""
    what = f"GPU memory{where}{machine.mark(frame.attrs['source'])}"
    at = listed(list(dict.fromkeys(f"{size(held)} at {period.name}" for period, held in (seen[0], seen[-1]))))
    return f"{what} in use: {at}, {size(max(held for _, held in seen))} at most."


def _gpu_use(machine: Machine, frame: pd.DataFrame, found: list[LoadPeriod]) -> str | None:
    at = _heaviest_sampled(found, frame, "utilisation")
    if at is None:
        return None
    use, power = float(np.median(at.of(frame, "utilisation"))), at.of(frame, "power")
    watts = f" and {np.median(power):.0f} W" if len(power) else ""
    what = "GPU" if machine.gpu_count == 1 else f"{machine.gpu_count} GPUs"
    return f"{what}{machine.mark(frame.attrs['source'])} at {percent(use)} utilisation{watts} at {at.name} (medians)."


def _kv_cache(machine: Machine, frame: pd.DataFrame, found: list[LoadPeriod]) -> str | None:
    seen = [(period, values) for period in found if len(values := period.of(frame, "kv_use"))]
    if not seen:
        return None
    period, values = max(seen, key=lambda entry: float(entry[1].max()))
    return f"The KV cache{machine.mark(*SERVERS)} was at most {percent(float(values.max()))} full when it was sampled, at {period.name}."


def _preempted(machine: Machine, frame: pd.DataFrame, found: list[LoadPeriod]) -> Finding | None:
    most, at = max(((period.growth(frame, "preemptions"), period) for period in found), key=lambda one: one[0])
    if not most:
        return None
    return Finding(
        f"The KV cache{machine.mark(*SERVERS)} is too small for what runs at once: the server itself counted "
        f"{counted(round(most), 'preemption')} at {at.name}. It takes the cache from a request that runs, which waits, and reads its "
        "prompt and what it has written again.",
        "More memory for the cache, shorter prompts and answers, or fewer at once (vLLM: --max-num-seqs) avoid that.",
    )


def _cached(machine: Machine, frame: pd.DataFrame, found: list[LoadPeriod]) -> Finding | None:
    """Say how much the server's own counters say came from its prefix cache, at the load with the largest share."""
    sums = [(period, period.growth(frame, "cached"), period.growth(frame, "looked_up")) for period in found]
    share, at = max(
        ((hits / asked, period) for period, hits, asked in sums if asked), default=(0.0, None), key=lambda one: one[0]
    )
    if at is None or share < LEAST_CACHED:
        return None
    most = "up to " if sum(asked > 0 for _, _, asked in sums) > 1 else ""
    return Finding(
        f"The server itself{machine.mark(*SERVERS)} counted {most}{percent(share)} of the prompt tokens as cached, at {at.name}: it "
        "did not read these again.",
        "Its counters are of all requests together; answers say it where vLLM is started with --enable-prompt-tokens-details.",
    )


def _queue(machine: Machine, frame: pd.DataFrame, found: list[LoadPeriod]) -> str | None:
    seen = [
        (period, float(running.max()), float(waiting.max()))
        for period in found
        if len(running := period.of(frame, "running")) and len(waiting := period.of(frame, "waiting"))
    ]
    if not seen:
        return None
    period, _, most = max(seen, key=lambda entry: entry[2])
    busiest = max(entry[1] for entry in seen)
    mark = machine.mark(*SERVERS)
    waited = "none waiting" if most < 1 else f"up to {most:.0f} waiting at {period.name}"
    return f"When it was sampled, the server itself{mark} counted up to {busiest:.0f} requests running, and {waited}."


def _foreign_page(machine: Machine, frame: pd.DataFrame, run: RunData) -> str | None:
    """Say that a server counts no request at any instant at which this run's decoded: its other figures are not of them."""
    if not {"running", "waiting"} <= {*frame}:
        return None
    at = frame["t"].to_numpy(dtype=np.float64)
    counted_there = frame["running"].to_numpy(dtype=np.float64) + frame["waiting"].to_numpy(dtype=np.float64)
    first, last = run.requests[["first_token", "last"]].dropna().to_numpy(dtype=np.float64).T
    whole = last - first > 2 * AROUND_INSTANT_S  # one that decoded all the time around a sample
    ours = Depth.of(first[whole] + AROUND_INSTANT_S, last[whole] - AROUND_INSTANT_S)
    busy = np.isfinite(counted_there) & (ours.at(at) > 0)
    if busy.sum() < FEWEST_SAMPLES or counted_there[busy].any():
        return None
    return (
        f"The page of metrics{machine.mark(*SERVERS)} shows no request while this run's were answered, so what it says of queue and cache "
        "is not told here: as a rule it is of another server, such as one of several behind this URL, or its figures stand still."
    )


def others_finding(run: RunData) -> Finding | None:
    """Say that the server itself counted more requests than this run had there, again and again."""
    frame = run.machine.server
    if frame is None or not {"running", "waiting"} <= {*frame}:
        return None
    if not run.one_of("outcome", Outcome.OK, Outcome.CANCELLED).all():
        return None  # a server may work on for those who left, or whose requests failed
    at = frame["t"].to_numpy(dtype=np.float64)
    counted_there = frame["running"].to_numpy(dtype=np.float64) + frame["waiting"].to_numpy(dtype=np.float64)
    ours = peaks_within(run.column("send"), run.column("end"), at - AROUND_SAMPLE_S, at + AROUND_SAMPLE_S)
    sampled = np.isfinite(counted_there) & (ours > 0)
    more = np.where(sampled, counted_there - ours, 0.0)
    seen = int((more >= 1).sum())
    if seen < max(FEWEST_SAMPLES, LEAST_BESIDE * sampled.sum()):
        return None
    most = int(np.argmax(more))
    return Finding(
        f"Others used the server{run.machine.mark(*SERVERS)} during the run: it counted up to "
        f"{counted(int(counted_there[most]), 'request')} at once where this run had no more than {ours[most]:.0f}.",
        f"In {seen} of {counted(int(sampled.sum()), 'sample')} it counted more than this run had sent. Waits and speeds hold what "
        "those cost, so step times and the speed of prefill are not said.",
    )


def _split_sentence(machine: Machine) -> str | None:
    """Say how much of a model that is partly on a GPU is not; why is not known (too large, or set so)."""
    for _, models in machine.models:
        for model in models:
            whole, there = model.get("size") or 0, model.get("size_vram") or 0
            if 0 < there < whole:
                return (
                    f"{model.get('name')}{machine.mark('ollama')} is not all on a GPU: {size(whole - there)} of {size(whole)} "
                    "lie in host memory."
                )
    return None


def _host_memory(host: str, frame: pd.DataFrame, run: RunData) -> str | None:
    during = LoadPeriod("", ((0.0, run.last_end),))
    used, swap = during.of(frame, "memory_used"), during.of(frame, "swap_used")
    if len(used) < FEWEST_SAMPLES:
        return None
    swapped = float((swap - np.minimum.accumulate(swap)).max()) if len(swap) else 0.0
    also = f"; {size(swapped)} went to swap" if swapped > 100e6 else ""
    return f"Memory in use on {host} was {size(float(used.min()))} to {size(float(used.max()))}{also}."


def _reloads(machine: Machine, run: RunData) -> Iterator[str]:
    """Yield a sentence for each model load in mid-run: as the samples saw it, else as the requests that waited for it say."""
    in_turn = run.requests[run.requests["loaded_in_turn"]] if "loaded_in_turn" in run.requests else run.requests[:0]
    sampled = [
        (t, said)
        for samples in machine.loaded.values()
        for t, name, said in _sampled_reloads(samples, machine.mark("ollama"), run)
        if name not in set(in_turn["model"])
    ]
    yield from (sentence for _, sentence in sampled)
    mark = " (simulated)" if run.simulated else ""
    first_answer = float(run.requests["first_token"].min())
    for level in run.levels:
        slow = reloaded(run, run.good(level["index"])).sort_values("send")
        slow = slow[~slow.index.isin(in_turn.index)]  # the findings tell what turns cost
        slow = slow[slow["send"] > first_answer]  # the run's first model load is no reload
        over = slow["first_token"].cummax().shift(1)
        # those that waited for the same model load are one
        for _, waited in slow.groupby((slow["send"] >= over).cumsum()):
            begin, end = waited["send"].min() - RELOAD_SLACK_S, waited["first_token"].max() + RELOAD_SLACK_S
            if any(begin <= t <= end for t, _ in sampled):
                continue
            longest = waited.nlargest(1, "load_s").iloc[0]  # as the verdict says it
            loaded = float(longest["reached"] + longest["load_s"])  # long before its answer, where its prompt is long
            at = f"at {_clock(run, loaded)} ({loaded:.0f} s into the run)"
            took = seconds(float(longest["load_s"]))
            yield f"{longest['model']}{mark} was reloaded {at}: a request waited {took} for it."


def _sampled_reloads(samples: Models, mark: str, run: RunData) -> Iterator[tuple[float, str, str]]:
    """Yield instant, model and sentence of each time in the run that a model came back after it was gone, or otherwise.

    A model load that is shorter than the time between two samples may go unseen.
    """
    before: dict[str, dict[str, Any]] = {}
    gone: dict[str, float] = {}
    end = run.last_end
    for t, models in samples:
        now = {str(model.get("name")): model for model in models}
        for name, model in now.items():
            known = before.get(name)
            why = None
            if name in gone:
                why = f"it was gone from the server for about {t - gone[name]:.0f} s"
            elif known and known.get("context_length") != model.get("context_length"):
                why = f"its context went from {known.get('context_length')} to {model.get('context_length')} tokens"
            if why and 0 <= t <= end:
                at = f"at {_clock(run, t)} ({t:.0f} s into the run)"
                yield t, name, f"{name}{mark} was reloaded {at}: {why}."
            gone.pop(name, None)
        for name in before.keys() - now.keys():
            gone[name] = t
        before = now


def _gap(gap: SamplingGap, run: RunData) -> str | None:
    end = run.last_end
    if gap.start > end or (gap.end is not None and gap.end < 0):
        return None
    until = f"until {gap.end:.0f} s" if gap.end is not None and gap.end < end else "to the end"
    since = f"from {gap.start:.0f} s on" if gap.start > LATE_S else "from the start"
    return f"No samples of {gap.source} {since}, {until}: {gap.sentence}"


def _clock(run: RunData, t: float) -> str:
    at = datetime.datetime.fromtimestamp(run.zero.wall_ns * S_PER_NS + t, tz=datetime.UTC)
    return f"{at:%H:%M:%S} UTC"
