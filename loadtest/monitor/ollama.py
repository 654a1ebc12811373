"""Ollama's /api/ps: which models are loaded, how much of each lies on the GPU, and until when."""

from __future__ import annotations

from typing import Any

import orjson

from loadtest.monitor.sampler import SourceError
from loadtest.monitor.scraped_page import ScrapedPage

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
