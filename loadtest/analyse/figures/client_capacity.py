"""How much of what this client machine can measure a level used, where `loadtest calibrate` has said what that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest import metrics
from loadtest.analyse.run import frames
from loadtest.analyse.run.arrays import BoolArray, IntArray
from loadtest.analyse.run.frames import Run
from loadtest.metrics import S_PER_US
from loadtest.text import percent

BIN_US = round(metrics.BIN_S * 1e6)


@dataclass(frozen=True, slots=True)
class ClientCapacity:
    """What one process of the run's driver measures truthfully, as calibrated on its machine."""

    chunks_per_s: float  # content events in the busiest second
    arrivals: str  # the kind that it holds for: "independent" or "steps"
    least: bool  # it may be more: something else than the client ended the calibration
    measured_at: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "chunks_per_s": self.chunks_per_s,
            "arrivals": self.arrivals,
            "at_least": self.least,
            "measured_at": self.measured_at,
        }


def client_capacity(run: Run, stamps: str) -> ClientCapacity | None:
    """Return the capacity with these stamps, None where nothing was calibrated.

    Of several kinds of arrivals it is the smaller one: a real engine sends the tokens of a step together, servers with
    several engines or a proxy do not quite, and what fits both is safe.
    """
    calibration = run.facts.get("calibration") or {}
    if calibration.get("host") != run.zero.host:
        return None  # Locust workers on other machines
    kinds = calibration.get("arrivals") or {}
    known = {kind: found[stamps] for kind, found in kinds.items() if found.get(stamps)}
    if not known:
        return None
    kind = min(known, key=lambda name: known[name]["chunks_per_s"])
    found = known[kind]
    return ClientCapacity(float(found["chunks_per_s"]), kind, found["limit"] != "client", found.get("measured_at"))


def peak_events(run: Run, index: int) -> int:
    """Return the most content events of a level that one of the client's processes received in a second.

    Warm-ups and requests that failed load the client as well, so theirs count; and those of other models and servers.
    """
    run = run.entire
    rows = np.asarray(run.requests["level"] == index, dtype=np.bool_) & np.isfinite(run.column("send"))
    sources = run.requests["source"].to_numpy()
    return max(
        (_peak_events_of_process(run, rows & (sources == source)) for source in np.unique(sources[rows])), default=0
    )


def _peak_events_of_process(run: Run, rows: BoolArray) -> int:
    if not run.chunks.counts[rows].any():
        return 0
    sent = np.where(rows, run.column("send") / S_PER_US, 0.0).astype(np.int64)
    first = int(sent[rows].min()) // BIN_US
    bins: IntArray = np.zeros(1, dtype=np.int64)
    starts, counts = run.chunks.starts, run.chunks.counts
    for low, high in frames.blocks(starts, rows):
        mine = np.repeat(rows[low:high], counts[low:high])
        arrived = run.chunks.flat[starts[low] : starts[high]][mine] + np.repeat(sent[low:high], counts[low:high])[mine]
        found = np.bincount(np.maximum(arrived // BIN_US - first, 0))
        longer, shorter = (found, bins) if len(found) > len(bins) else (bins, found)
        bins = longer.astype(np.int64)
        bins[: len(shorter)] += shorter
    return metrics.busiest_second(bins.tolist())


def used(run: Run, index: int, stamps: str) -> dict[str, Any]:
    """Return a level's part of summary.json's `client`; empty where nothing was calibrated."""
    known = client_capacity(run, stamps)
    if known is None:
        return {}
    events = peak_events(run, index)
    return {
        "busiest_chunks_per_s": events,
        "capacity_share": events / known.chunks_per_s,
        "capacity": known.to_dict(),
    }


def capacity_doubt(run: Run, index: int, stamps: str) -> str | None:
    """Return why more events came than this client measures truthfully; None where that is not known."""
    known = client_capacity(run, stamps)
    if known is None or known.least:
        return None
    events = peak_events(run, index)
    if events <= known.chunks_per_s:
        return None
    return (
        f"{events} content events came in the busiest second, {percent(events / known.chunks_per_s)} of the "
        f"{known.chunks_per_s:.0f} that this client measures truthfully (loadtest calibrate)"
    )


def capacity_cell(client: dict[str, Any]) -> str:
    """Return a level's share as a report's table shows it."""
    share = client.get("capacity_share")
    return "–" if share is None else ("≤ " if client["capacity"]["at_least"] else "") + percent(share)


def capacity_sentence(levels: list[dict[str, Any]]) -> str | None:
    """Say how much of what it can measure the client used in the level that used most; None where that is unknown."""
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
