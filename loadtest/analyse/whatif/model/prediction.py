"""What is said of one load: its figures, and the bands that a run of that load falls into."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.analyse.run import grouped
from loadtest.analyse.whatif.model.bands import SHARE, Figures
from loadtest.metrics import Interval

BANDED = (  # the figures that have a band
    *("ttft_s.mean", "ttft_s.p50", "ttft_s.p95"),
    *("stream_tokens_per_s.mean", "stream_tokens_per_s.p5", "stream_tokens_per_s.p50"),
    *("output_tokens_per_s.mean", "requests_per_s.mean"),
    *("queue_wait_s.p50", "queue_wait_s.p95", "slot_wait_s.p50", "slot_wait_s.p95"),
    *("e2e_s.p50", "e2e_s.p95", SHARE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the model says of one load, under the names and in the units of summary.json.

    `figures` holds mean, p5, p50, p90, p95 and p99 of each name, over requests (itl_s: over gaps between tokens), by
    "name.statistic", for example "ttft_s.p95"; output_tokens_per_s and requests_per_s are one number each and have a mean
    alone. `bands` holds (low, high) of the figures in BANDED, by the same keys.
    """

    concurrency: int | None
    rate: float | None
    slots: int | None  # None: no limit
    requests: int  # how many simulated requests the figures are made from
    a_run: int  # how many of them each repetition has, and so a run of which the figures are said
    figures: Figures
    bands: dict[str, Interval]
    extrapolates: str | None  # a clause that says on which streams or slots, never measured, the prediction rests
    grows: bool = False  # the rate is above what the server can do: the queue grows for as long as the load lasts
    streams: int = 0  # the most that decoded together; 0: not simulated

    def figure(self, name: str, statistic: str) -> float:
        """Return one figure, e.g. ("ttft_s", "p95"); nan where there is none."""
        return self.figures.get(f"{name}.{statistic}", math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return what advice.json holds: figures by name, and by statistic below it."""
        by_name = grouped(
            (key.partition(".")[0], (key.partition(".")[2], value)) for key, value in self.figures.items()
        )
        figures = {name: dict(each) for name, each in by_name.items()}
        return {**asdict(self), "figures": figures, "bands": {key: list(band) for key, band in self.bands.items()}}
