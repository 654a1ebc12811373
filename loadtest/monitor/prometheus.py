"""Prometheus text pages: of DCGM's exporter, vLLM and llama.cpp the metrics known here, of any other those the user names."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loadtest.credentials import redacted
from loadtest.monitor.sampler import SourceError
from loadtest.monitor.scraped_page import ScrapedPage
from loadtest.text import shown

KNOWN_METRICS = {
    "dcgm": (
        "DCGM_FI_DEV_FB_USED",
        "DCGM_FI_DEV_FB_FREE",
        "DCGM_FI_DEV_GPU_UTIL",
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        "DCGM_FI_DEV_POWER_USAGE",
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "DCGM_FI_DEV_GPU_TEMP",
        "DCGM_FI_DEV_SM_CLOCK",
        "DCGM_FI_DEV_MEM_CLOCK",
    ),
    "vllm": (
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:gpu_cache_usage_perc",
        "vllm:num_preemptions_total",
        "vllm:prefix_cache_queries_total",
        "vllm:prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_queries_total",
        "vllm:gpu_prefix_cache_hits_total",
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
    ),
    "llamacpp": (
        "llamacpp:requests_processing",
        "llamacpp:requests_deferred",
        "llamacpp:kv_cache_usage_ratio",
        "llamacpp:n_busy_slots_per_decode",
        "llamacpp:prompt_tokens_total",
        "llamacpp:prompt_tokens_cached_total",
        "llamacpp:tokens_predicted_total",
    ),
}
_NAME_ENDS = re.compile(r"[{ \t]")
_EXEMPLAR = re.compile(rb"((?:^[\w:]+|\}) +[^\s\"]+(?: +[^\s\"]+)?) # \{[^\n]*$", re.MULTILINE)
# Labels that tell GPUs, or slices of one, apart; the others repeat host, driver and model on each line.
_DCGM_LABELS = frozenset({"gpu", "GPU_I_ID"})
# What the parser was seen to raise on pages that are not metrics.
_RUBBISH = (ValueError, KeyError, IndexError, AttributeError)


class Prometheus:
    """Samples a page's metrics. `name` is "dcgm", "vllm", "llamacpp", or "prometheus" for metrics that the user names."""

    def __init__(self, name: str, page: ScrapedPage, metrics: Sequence[str] = ()) -> None:
        self.name = name
        self._page = page
        known = KNOWN_METRICS.get(name) or tuple(itertools.chain(*KNOWN_METRICS.values()))
        self._asked = tuple(metrics)
        self._wanted = frozenset(self._asked or known)

    def open(self) -> dict[str, Any]:
        samples = self._samples(self._read())
        there = {sample.name for sample in samples}
        facts = self._page.facts()
        names = {sample.labels["modelName"] for sample in samples if "modelName" in sample.labels}
        if names:
            facts["gpus"] = sorted(names)
        if missing := [metric for metric in self._asked if metric not in there]:
            facts["note"] = f"{self._page.url} has no metric {', '.join(missing)}."
        return facts

    def sample(self) -> dict[str, Any]:
        """Return {"values": {name{labels}: number}} as the page has them; NaN and ±Inf are left out."""
        values = {_series_key(sample): sample.value for sample in self._samples(self._read())}
        return {"values": {key: value for key, value in values.items() if math.isfinite(value)}}

    def close(self) -> None:
        self._page.close()

    def _read(self) -> bytes:
        """Return the page without the exemplars of OpenMetrics, whose numbers stand behind those of the metrics."""
        page = self._page.read()
        return _EXEMPLAR.sub(rb"\1", page) if b" # {" in page else page

    def _samples(self, page: bytes) -> list[Sample]:
        """Return the samples asked for; raise SourceError where there are none.

        The parser takes about 20 µs a line, and a vLLM page has hundreds of lines: it is given those that were asked for.
        """
        try:
            text = page.decode()
            lines = [line for line in text.splitlines() if _NAME_ENDS.split(line, 1)[0] in self._wanted]
            found = _parsed_samples(lines)
            if not found:
                _parsed_samples(text.splitlines())  # raises where this is not a page of metrics
        except _RUBBISH as error:
            raise SourceError(f"{self._page.url} is not a page of Prometheus metrics ({_one_line(error)}).") from None
        if not found:
            names = ", ".join(self._asked) or f"that {self.name} is known by"
            raise SourceError(f"{self._page.url} has no metric {names}; name one: prometheus={self._page.url}:METRIC.")
        return found


def _parsed_samples(lines: Iterable[str]) -> list[Sample]:
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [sample for family in families for sample in family.samples]


def _series_key(sample: Sample) -> str:
    dcgm = sample.name.startswith("DCGM_")
    labels = {name: value for name, value in sample.labels.items() if not dcgm or name in _DCGM_LABELS}
    inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{sample.name}{{{inside}}}" if inside else sample.name


def _one_line(error: Exception) -> str:
    text = shown(redacted(str(error).split("\n", 1)[0]))
    return text if len(text) <= 60 else text[:59] + "…"
