"""Pages of servers, each read again and again over one connection of our own wire, within limits of time and size.

Ollama's /api/ps says which models are loaded, how much of each lies on the GPU, and until when. Of Prometheus text pages of
DCGM's exporter, vLLM and llama.cpp the metrics known here are read, of any other those the user names.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from loadtest.credentials import redacted
from loadtest.errors import LoadTestError, refuse
from loadtest.monitor.sampler import PLAIN, SourceError
from loadtest.reach import Proxy, cached_by, trust
from loadtest.scenario import ConnectionKeys
from loadtest.text import seconds, shown
from loadtest.urls import with_keys, without_secrets
from loadtest.wire import Order, Origin, Received, SyncWire, Timeouts

PAGE_LIMIT_S = 2.0  # of a whole page; a slower one would describe another moment than its stamp says
PAGE_LIMIT_BYTES = 8_000_000
# In a connection's error: nobody is there to answer.
_NOBODY = (os.strerror(errno.ECONNREFUSED).lower(), "the name does not resolve")


def _meaning(received: Received) -> str:
    """Say what a status other than 200 means for a page that is to be read."""
    status = received.status or 0
    if 300 <= status < 400 and (place := received.headers.get("location")):
        return f"give the address that it leads to, {shown(without_secrets(place))[:200]}"
    if status in (401, 403):
        return "it does not accept what it was sent of credentials"
    return "it has no such page" if status in (404, 405, 410) else "it does not give the page now"


class ScrapedPage:
    """A URL that is read again and again. Redirects are not followed."""

    def __init__(
        self, url: str, headers: Mapping[str, str] = MappingProxyType({}), keys: ConnectionKeys = PLAIN
    ) -> None:
        """`url` has no user:pass; `headers` hold credentials for this origin, where it is the measured one."""
        self.url = url
        self.simulated: str | None = None  # what the simulated server says of itself
        self._keys = keys
        self._has_credentials = "Authorization" in headers
        own = {"Accept": "*/*", "Cache-Control": "no-cache", "User-Agent": "loadtest-monitor"}
        request = httpx.Request("GET", with_keys(url).url, headers={**own, **headers})
        self._order = Order.of(request, Received(), origin=Origin.of(url))
        self._wire: SyncWire | None = None

    def read(self) -> bytes:
        """Return the body; raise SourceError, one sentence, where the page cannot be read."""
        received, limit = Received(), PAGE_LIMIT_S
        limits = Timeouts(connect=limit, first_token=limit, idle=limit, total=limit)
        try:
            if self._wire is None:
                verify = trust(self._keys) if self._order.origin.scheme == "https" else None
                self._wire = SyncWire(verify=verify, proxy=Proxy.of(self._keys))
            self._wire.fetch(replace(self._order, received=received, limits=limits))
        except LoadTestError as error:
            raise SourceError(str(error)) from None
        except httpx.TimeoutException:
            raise SourceError(f"{self.url} did not answer within {seconds(limit, exact=True)}.") from None
        except httpx.HTTPError as error:
            if any(words in str(error) for words in _NOBODY):
                raise SourceError(f"nothing answers at {self.url}; is it running, and is the address right?") from None
            raise SourceError(f"{self.url} cannot be read ({error}).") from None
        self._check(received)
        self.simulated = received.headers.get("loadtest-simulated")
        return received.body()

    def _check(self, received: Received) -> None:
        """Raise SourceError for an answer that is no page of this moment."""
        refuse(received.failure is not None, f"{self.url} cannot be read ({received.failure}).", SourceError)
        refuse(
            received.status in (401, 403) and not self._has_credentials,
            f"{self.url} answers {received.status}: it asks for credentials. Those of the environment go only to the measured "
            "server (--server URL); for another one, write them into the address (http://user:password@…).",
            SourceError,
        )
        refuse(received.status != 200, f"{self.url} answers {received.status}: {_meaning(received)}.", SourceError)
        if received.packed is not None:
            packed = shown(received.packed)[:40]
            raise SourceError(f"{self.url} is compressed ({packed}), though it was asked for as it is.")
        refuse(
            received.size > PAGE_LIMIT_BYTES,
            f"{self.url} is longer than {PAGE_LIMIT_BYTES // 1_000_000} MB: too long to sample.",
            SourceError,
        )
        refuse(
            (header := cached_by(received.header_lines)),
            f"{self.url} comes out of a cache on the way ({header}), so it tells of another moment; give its address behind "
            "that cache.",
            SourceError,
        )

    def facts(self) -> dict[str, Any]:
        return {"url": self.url, **({"simulated": self.simulated} if self.simulated else {})}

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()


_MODEL_KEYS = ("name", "digest", "size", "size_vram", "context_length", "expires_at")


class Ollama:
    name = "ollama"

    def __init__(self, page: ScrapedPage) -> None:
        self._page = page

    def open(self) -> dict[str, Any]:
        self._models()
        return self._page.facts()

    def sample(self) -> dict[str, Any]:
        """Return the loaded models, perhaps none, with sizes in bytes and contexts in tokens."""
        return {"models": self._models()}

    def close(self) -> None:
        self._page.close()

    def _models(self) -> list[dict[str, Any]]:
        try:
            models = orjson.loads(self._page.read())["models"] or []
            return [{key: model[key] for key in _MODEL_KEYS if key in model} for model in models]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            raise SourceError(f"{self._page.url} does not answer as Ollama does; give an Ollama's address.") from None


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
