"""The share of this client's capacity that a level used, where `loadtest calibrate` has measured that capacity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from loadtest import metrics
from loadtest.analyse.run import BoolArray, RunData, event_times
from loadtest.metrics import S_PER_US
from loadtest.text import percent

BIN_US = round(metrics.BIN_S * 1e6)


def _calibrated(run: RunData, stamps: str) -> dict[str, Any] | None:
    """Return what one process of the driver can measure truthfully with this kind of stamps; None where it was not calibrated.

    The smaller of the capacities for both kinds of arrivals is taken: an engine sends the tokens of a step together, but
    behind a proxy or several engines they spread out.
    """
    calibration = run.facts.get("calibration") or {}
    if calibration.get("host") != run.zero.host:
        return None  # the workers ran on other machines
    kinds = calibration.get("arrivals") or {}
    known = {kind: found[stamps] for kind, found in kinds.items() if found.get(stamps)}
    if not known:
        return None
    kind = min(known, key=lambda name: known[name]["chunks_per_s"])
    found = known[kind]
    return {
        "chunks_per_s": float(found["chunks_per_s"]),  # content events in the busiest second
        "arrivals": kind,  # "independent" or "steps"
        "at_least": found["limit"] != "client",  # the calibration did not end because of the client
        "measured_at": found.get("measured_at"),
    }


def peak_events(run: RunData, index: int) -> int:
    """Return the most content events of a level that one process of the client received within a second.

    Warm-ups, failed requests and requests to other models or servers load the client as well and count too.
    """
    run = run.entire
    rows = run.of_level(index) & np.isfinite(run.column("send")) & (run.chunks.counts > 0)
    sources = run.requests["source"].to_numpy()
    return max((_peak_of_process(run, rows & (sources == source)) for source in np.unique(sources[rows])), default=0)


def _peak_of_process(run: RunData, rows: BoolArray) -> int:
    starts, counts = run.chunks.starts, run.chunks.counts
    sent = np.where(rows, run.column("send") / S_PER_US, 0.0).astype(np.int64)
    first = int(sent[rows].min()) // BIN_US
    last = int((sent + run.chunks.last())[rows].max()) // BIN_US
    bins = np.zeros(max(last - first, 0) + 1, dtype=np.int64)
    for low, high in event_times.blocks(starts, rows):
        mine = np.repeat(rows[low:high], counts[low:high])
        arrived = run.chunks.flat[starts[low] : starts[high]][mine] + np.repeat(sent[low:high], counts[low:high])[mine]
        bins += np.bincount(np.maximum(arrived // BIN_US - first, 0), minlength=len(bins))
    return metrics.busiest_second(bins.tolist())


def capacity_used(run: RunData, index: int, stamps: str) -> dict[str, Any]:
    """Return the capacity's part of a level's `client` in summary.json; empty where nothing was calibrated."""
    capacity = _calibrated(run, stamps)
    if capacity is None:
        return {}
    events = peak_events(run, index)
    return {"busiest_chunks_per_s": events, "capacity_share": events / capacity["chunks_per_s"], "capacity": capacity}


def capacity_cell(client: dict[str, Any]) -> str:
    share = client.get("capacity_share")
    return "–" if share is None else ("≤ " if client["capacity"]["at_least"] else "") + percent(share)


def capacity_sentence(levels: Iterable[dict[str, Any]]) -> str | None:
    """Return a sentence on the level that used the largest share of the client's capacity; None where it is unknown."""
    known = [level for level in levels if level["client"].get("capacity_share") is not None]
    if not known:
        return None
    level = max(known, key=lambda one: float(one["client"]["capacity_share"]))
    said = level["client"]
    together = "tokens of a step together" if said["capacity"]["arrivals"] == "steps" else "streams independent"
    events = (
        f"{said['busiest_chunks_per_s']} content events in the busiest second, of "
        f"{'at least ' if said['capacity']['at_least'] else ''}{said['capacity']['chunks_per_s']:.0f} by its calibration on "
        f"the simulated server, {together}"
    )
    share = float(said["capacity_share"])
    if said["capacity"]["at_least"] and share > 1:
        return f"{level['label']} went beyond what the calibration of this client could offer ({events})."
    most = "at most " if said["capacity"]["at_least"] else ""
    return f"{level['label']} used {most}{percent(share)} of what this client can measure ({events})."
