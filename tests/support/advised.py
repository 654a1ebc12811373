"""Runs of a 70 B model on a simulated server of four slots, in virtual time: what advice is given on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from loadtest.simulate.profiles import PROFILES
from support import virtual_runs
from support.virtual_runs import Load

PROFILE = PROFILES["a100-80g-llama3.1-70b-q4"]
LLAMA_70B = {"block_count": 80, "embedding_length": 8192, "attention.head_count": 64, "attention.head_count_kv": 8}
CONTEXT = 2048
LOADED = PROFILE.model.size + 4 * CONTEXT * PROFILE.model.kv_bytes_per_token


def play(path: Path, loads: list[Load], *, slots: int = 4, **facts: Any) -> Path:
    timing = dataclasses.replace(PROFILE.timing, jitter=0.02)
    server = {
        "kind": "ollama",
        "version": "0.24.0",
        "context": CONTEXT,
        "simulated": {"profile": PROFILE.name, "speed": 1.0},
        "facts": {"details": {"architecture": LLAMA_70B}},
    }
    loaded = {"size": LOADED, "size_vram": LOADED, "context_length": CONTEXT}
    played = virtual_runs.play(timing, loads, slots=slots, seed=3)
    return played.write(path, **{"name": "virtual", "server": server, "server_at_end": loaded, **facts})
