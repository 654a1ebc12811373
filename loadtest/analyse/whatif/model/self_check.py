"""Whether a model reproduces the levels that it was fitted to, and how far it may be carried beyond them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from loadtest import metrics
from loadtest.analyse.run import LevelData, RunData
from loadtest.analyse.server.timing.prefill_law import pairs
from loadtest.analyse.whatif.model.bands import SHARE
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.model.prediction import Prediction
from loadtest.doubts import VOID
from loadtest.metrics import NORMAL_95, PERCENTILES, Interval
from loadtest.text import seconds, writer_of

GIVEN_BACK = 0.15  # by which a prediction may miss a measured figure, where its band is narrower
FITTED = (  # figures that a model must reproduce: (words, figure, statistic)
    ("TTFT p50", "ttft_s", "p50"),
    ("TTFT p95", "ttft_s", "p95"),
    ("tokens/s a stream", "stream_tokens_per_s", "p50"),
    ("output tokens/s", "output_tokens_per_s", "mean"),
)
REQUEST_FIGURES = ("ttft_s", "queue_wait_s", "slot_wait_s", "batch_wait_s", "prefill_s", "e2e_s", "tpot_s", "itl_s")
MOST_SHARED = 2.0  # times the streams, by which sharing its steps may make a prompt's reading longer


def as_measured(level: Mapping[str, Any], slots: int | None) -> Prediction:
    """Return a level of summary.json in the form of a prediction, with its 95 % intervals as bands."""
    figures: dict[str, float | None] = {SHARE: level.get("cached_share")}
    intervals: dict[str, Sequence[float] | None] = {}
    for name in (*REQUEST_FIGURES, "stream_tokens_per_s"):
        described = level.get(name) or {}
        for part in ("mean", *PERCENTILES):
            at_least = part in described.get("at_least", ())  # then the figure itself is not known
            figures[f"{name}.{part}"] = None if at_least else described.get(part)
            intervals[f"{name}.{part}"] = described.get(f"ci95_{part}")
    for name in ("output_tokens_per_s", "requests_per_s"):
        figures[f"{name}.mean"], intervals[f"{name}.mean"] = level.get(name), level.get(f"{name}_ci95")
    return Prediction(
        concurrency=level["concurrency"],
        rate=None,
        slots=slots,
        requests=int(level["requests"]),
        a_run=int(level["requests"]),
        figures={key: math.nan if value is None else float(value) for key, value in figures.items()},
        bands={key: (float(ends[0]), float(ends[1])) for key, ends in intervals.items() if ends},
        extrapolates=None,
    )


def worst_miss(predict: Callable[[Mapping[str, Any]], Prediction], levels: Iterable[Mapping[str, Any]]) -> str | None:
    """Return a clause on the measured figure that the model misses by most; None where it reproduces all of them.

    A figure is reproduced where the measured one's interval overlaps the prediction's band, or 15 % about the prediction if
    that is wider. Void levels are left out, and so are those that are neither a closed loop nor one of a constant rate.
    """
    found: list[tuple[float, str]] = []
    for level in levels:
        if level["verdict"] == VOID or not (level["concurrency"] or level["rate"]):
            continue
        found += _misses(predict(level), as_measured(level, None), f"at {LevelData(level).load}")
    return max(found)[1] if found else None


def misread(model: ServerModel, run: RunData) -> str | None:
    """Return a clause where the longest prompts took far longer to read than by the model; None where that is not seen.

    Few long prompts among short ones change no percentile, and the cost of short ones says nothing of theirs. By the server's
    durations; prompts that share the steps of as many streams as there were take that many times as long.
    """
    tokens, spent, timing = run.uncached_tokens, run.column("prefill_s"), model.timing
    known = run.flag("ok") & np.isfinite(spent) & (tokens > 0)
    if not known.any():
        return None
    longest = float(tokens[known].max())
    measured = float(np.median(spent[known & (tokens > longest / 2)]))
    read = timing.prompt_s + longest * timing.prefill_s + pairs(longest) * timing.context_prefill_s
    said = max(read, 0.0) + math.ceil(longest / (timing.n_batch or longest)) * max(timing.step.values(model.streams))
    if measured <= MOST_SHARED * model.streams * said:
        return None
    return f"a prompt of {longest:,.0f} tokens takes {seconds(said)} to read by the model and {seconds(measured)} as measured"


def _misses(model: Prediction, seen: Prediction, at: str) -> Iterator[tuple[float, str]]:
    """Yield (how far off, the clause) for each figure that the model does not reproduce."""
    for words, name, statistic in FITTED:
        value, said, share = (
            seen.figure(name, statistic),
            model.figure(name, statistic),
            PERCENTILES.get(statistic, 0.5),
        )
        told = value > 0 and math.isfinite(said) and metrics.enough_for(share, seen.requests)
        if not told or (model.grows and name == "ttft_s"):  # of a queue that grows a wait depends on how long it did
            continue
        low, high = model.bands.get(f"{name}.{statistic}", (said, said))
        low, high = min(low, (1 - GIVEN_BACK) * said), max(high, (1 + GIVEN_BACK) * said)
        least, most = seen.bands.get(f"{name}.{statistic}") or _known_to(seen, name, statistic, share)
        if most < low or least > high:
            write = writer_of(name)
            text = f"{words} {at} is {write(said)} by the model and {write(value)} as measured"
            yield abs(math.log(max(said, 1e-12) / value)), text


def _known_to(seen: Prediction, name: str, statistic: str, share: float) -> Interval:
    """Return where a measured figure without an interval may lie: p95 of few requests is known no better than from p90 on."""
    value, lower = seen.figure(name, statistic), seen.figure(name, "p90")
    rank_error = NORMAL_95 * math.sqrt(share * (1 - share) / max(seen.requests, 1))
    return (lower, value) if statistic == "p95" and 0.95 - rank_error <= 0.9 and lower <= value else (value, value)
