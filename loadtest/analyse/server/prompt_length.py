"""What a longer prompt costs: TTFT, prefill speed and memory by input length, at equal load and output length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.run import FloatArray, RunData, finite, grouped
from loadtest.analyse.run.files.samples import known_values
from loadtest.analyse.server.queue import at_work
from loadtest.text import listed, number, seconds, size

TOKENS_OVER_TTFT = "Prompt tokens over TTFT"  # a way of 100 ms is in it: short prompts look slow
FEWEST_LENGTHS = 2  # input lengths in a series
NO_SPEED = "no prompt had the server to itself, or none was sure to be read anew"
KnownFigures = list[tuple[float, float]]  # prompt tokens and a figure, in order of length


@dataclass(frozen=True, slots=True)
class PromptLengthSeries:
    """Levels that differ only in input length, in ascending order of it."""

    label: str  # what they share, e.g. "1 stream · 64 out"
    points: tuple[dict[str, Any], ...]  # the figures of each length as in summary.json; unknown ones are None
    memory_of: str | None  # which memory was sampled, e.g. "GPU memory"
    speed_of: str = "Prefill"  # what prefill_tokens_per_s is: of a server that gives no prefill time TOKENS_OVER_TTFT

    def known(self, figure: str) -> KnownFigures:
        """Return prompt tokens and one figure of the points that have it."""
        return [(point["prompt_tokens"], point[figure]) for point in self.points if point[figure] is not None]

    @property
    def ttft_per_token_s(self) -> float | None:
        """Growth of TTFT p50 per prompt token, between the shortest and the longest prompt; seconds."""
        known = self.known("ttft_p50_s")
        if len(known) < FEWEST_LENGTHS or known[-1][0] <= known[0][0]:
            return None
        return (known[-1][1] - known[0][1]) / (known[-1][0] - known[0][0])

    def to_dict(self) -> dict[str, Any]:
        return {
            "label": self.label,
            "ttft_s_per_token": self.ttft_per_token_s,
            "memory_of": self.memory_of,
            "points": list(self.points),
        }


def prefill_speed(run: RunData) -> FloatArray:
    """Return prompt tokens per second of each request that had the server to itself; nan for the others.

    It is uncached prompt tokens / prefill time, or / TTFT where the server reports no prefill time. With a warm prefix cache
    it is unknown, because most servers count tokens from the cache as evaluated.
    """
    if run.fact("scenario", "warm_cache"):
        return np.full(len(run.requests), np.nan)
    told = _says_prefill(run)
    uncached, spent = run.uncached_tokens, run.column("prefill_s" if told else "ttft_s")
    # else TTFT holds the decode of what came with the first token, or was hidden before it
    usable = at_work.lone(run) & (told | ~run.flag("whole") & run.shows_prefill()) & (uncached > 0) & (spent > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(usable, uncached / spent, np.nan)


def _says_prefill(run: RunData) -> bool:
    return bool((run.column("prefill_s") > 0).any())


def prompt_length_series(run: RunData, levels: Iterable[dict[str, Any]]) -> list[PromptLengthSeries]:
    """Group the levels of summary.json that differ only in input length; a group needs two lengths."""
    alike = ("concurrency", "rate", "rate_to", "output_tokens", "output_lengths", "system_tokens", "words")
    known = (level for level in levels if level["input_tokens"] is not None)
    return [
        _series(run, sorted(group, key=lambda level: level["input_tokens"]))
        for group in grouped((tuple(level.get(name) for name in alike), level) for level in known).values()
        if len({level["input_tokens"] for level in group}) >= FEWEST_LENGTHS
    ]


def _series(run: RunData, group: list[dict[str, Any]]) -> PromptLengthSeries:
    shared = [part for part in group[0]["label"].split(" · ") if not part.partition(" (")[0].endswith(" in")]
    name, at, held = _sampled_memory(run)
    points = tuple(_point_of(run, level, at, held) for level in group)
    known = any(point["memory_bytes"] is not None for point in points)
    return PromptLengthSeries(
        " · ".join(shared), points, name if known else None, "Prefill" if _says_prefill(run) else TOKENS_OVER_TTFT
    )


def _point_of(run: RunData, level: dict[str, Any], at: FloatArray, held: FloatArray) -> dict[str, Any]:
    """Return the figures of one input length: p50 of prompt tokens by the server's count, else those asked for, and of speeds."""
    prompts = finite(run.column("prompt_tokens")[run.good(level["index"])])
    ttft, speed = level["ttft_s"] or {}, level["prefill_tokens_per_s"] or {}
    rows = run.requests[run.of_level(level["index"])]
    during = held[(at >= rows["send"].min()) & (at <= rows["end"].max())]
    return {
        "level": level["index"],
        "input_tokens": level["input_tokens"],
        "prompt_tokens": float(np.median(prompts)) if len(prompts) else float(level["input_tokens"]),
        "ttft_p50_s": ttft.get("p50"),
        "ttft_p95_s": ttft.get("p95"),
        "prefill_tokens_per_s": speed.get("p50"),
        "n": ttft.get("n", 0),
        "memory_bytes": float(during.max()) if len(during) else None,  # the most while the level ran
    }


def _sampled_memory(run: RunData) -> tuple[str, FloatArray, FloatArray]:
    """Return what was sampled that is closest to the model's memory, and instants and bytes of it.

    It is the memory of the GPU, of the model, or of the server's process; no instants where none was sampled.
    """
    seen = run.machine
    if seen.gpus is not None and "memory_used" in seen.gpus:
        return f"GPU memory{seen.mark(seen.gpus.attrs['source'])}", *known_values(seen.gpus, "memory_used")
    name = run.fact("target", "model")
    loaded = [
        (t, model.get("size") or np.nan) for t, models in seen.models for model in models if model.get("name") == name
    ]
    if loaded:
        frame = pd.DataFrame(loaded, columns=["t", "size"])
        return f"The model's memory{seen.mark('ollama')}", *known_values(frame, "size")
    for host, frame in seen.hosts.items():
        if "server_memory" in frame:
            return f"Memory of the server's process on {host}", *known_values(frame, "server_memory")
    return "", np.zeros(0), np.zeros(0)


# -- sentences ------------------------------------------------------------------------------------------------------


def prompt_length_sentences(series: PromptLengthSeries) -> list[str]:
    """Say what a longer prompt costs, by each figure that two lengths or more have."""
    told = (
        ("prefill_tokens_per_s", _prefill_sentence),
        ("ttft_p50_s", _ttft_sentence),
        ("memory_bytes", _memory_sentence),
    )
    known = [(sentence, series.known(figure)) for figure, sentence in told]
    return list(filter(None, (sentence(series, each) for sentence, each in known if len(each) >= FEWEST_LENGTHS)))


def _prefill_sentence(series: PromptLengthSeries, known: KnownFigures) -> str:
    told = sorted({known[0], max(known, key=lambda entry: entry[1]), known[-1]})
    return f"{series.speed_of}: {listed([f'{number(speed)} tokens/s at {tokens(at)}' for at, speed in told])}."


def _ttft_sentence(series: PromptLengthSeries, known: KnownFigures) -> str:
    slope = series.ttft_per_token_s
    if slope is None:
        return ""
    (low, first), (high, last) = known[0], known[-1]
    counts = sorted({point["n"] for point in series.points if point["ttft_p50_s"] is not None})
    each = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"TTFT p50 went from {seconds(first)} at {tokens(low)} to {seconds(last)} at "
        f"{length(high)}: {seconds(slope)} for each token ({each} requests a length)."
    )


def _memory_sentence(series: PromptLengthSeries, known: KnownFigures) -> str:
    told = listed([f"{size(held)} at {tokens(at)}" for at, held in (known[0], known[-1])])
    return f"{series.memory_of}: {told}, {size(max(held for _, held in known))} at most."


def length(value: float) -> str:
    """Return a number of tokens, whole or a mean."""
    return number(value, exact=float(value).is_integer())


def tokens(value: float) -> str:
    return f"{length(value)} prompt tokens"
