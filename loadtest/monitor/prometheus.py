"""Prometheus text pages: DCGM's exporter, vLLM and llama.cpp by the names they are known to have, any other by yours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loadtest.monitor.pages import Page
from loadtest.monitor.sampler import SourceError

KNOWN = {
    "dcgm": (
        "DCGM_FI_DEV_FB_USED",
        "DCGM_FI_DEV_FB_FREE",
        "DCGM_FI_DEV_GPU_UTIL",
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        "DCGM_FI_DEV_POWER_USAGE",
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
# Labels that tell one GPU (or slice of one) from another; the rest repeats host, driver and model on each line.
_DCGM_LABELS = frozenset({"gpu", "GPU_I_ID"})


class Prometheus:
    """Samples the metrics of a page. `name` is "dcgm", "vllm", "llamacpp", or "prometheus" for those that you name."""

    def __init__(self, name: str, url: str, metrics: Sequence[str] = ()) -> None:
        self.name = name
        self._page = Page(url)
        self._wanted = frozenset(metrics or [metric for names in KNOWN.values() for metric in names])
        self._asked = tuple(metrics)
        if not metrics and name in KNOWN:
            self._wanted = frozenset(KNOWN[name])

    def open(self) -> dict[str, Any]:
        samples = self._samples()
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
        return {"values": {_key(sample): sample.value for sample in self._samples() if math.isfinite(sample.value)}}

    def close(self) -> None:
        self._page.close()

    def _samples(self) -> list[Sample]:
        try:
            text = self._page.read().decode()
            # A vLLM page has hundreds of lines, and the parser takes about 20 µs for each: it gets those that count.
            lines = [line for line in text.splitlines() if _NAME_ENDS.split(line, 1)[0] in self._wanted]
            found = _parse(lines)
            if not found:
                _parse(text.splitlines())  # no page of metrics at all, or one without these?
        except (
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
        ) as error:  # what the parser is seen to raise on rubbish
            raise SourceError(f"{self._page.url} is no page of Prometheus metrics ({_short(error)}).") from None
        if not found:
            names = ", ".join(self._asked) or f"that is known of {self.name}"
            raise SourceError(f"{self._page.url} has no metric {names}; name one: prometheus={self._page.url}:METRIC.")
        return found


def _parse(lines: Iterable[str]) -> list[Sample]:
    families = text_string_to_metric_families("\n".join(lines) + "\n")
    return [sample for family in families for sample in family.samples]


def _key(sample: Sample) -> str:
    dcgm = sample.name.startswith("DCGM_")
    labels = {name: value for name, value in sample.labels.items() if not dcgm or name in _DCGM_LABELS}
    inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{sample.name}{{{inside}}}" if inside else sample.name


def _short(error: Exception) -> str:
    text = str(error).split("\n", 1)[0]
    return text if len(text) <= 60 else text[:59] + "…"
