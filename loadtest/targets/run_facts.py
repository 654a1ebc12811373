"""What run.json says of the scenario, the server, its model and this machine."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadtest import reach
from loadtest.errors import RunFolderError
from loadtest.measure import capacity_file
from loadtest.run_folder import RunFolder, utc_now
from loadtest.scenario import EMBEDDINGS, Level, Scenario
from loadtest.targets.prepare import ReadyTarget
from loadtest.text import shown

OTHER_TEXTS = ("data", "prompt", "prompt_file", "warm_cache")  # requests that say nothing new whatever the seed


def initial_facts(scenario: Scenario, ready: Sequence[ReadyTarget], *, driver: str, loop: str) -> dict[str, Any]:
    """Return what run.json says when a run begins; `driver` and `loop` name what measures.

    `target`, `server`, `tokens` and `comparability` are those of the first target; `targets` has them for each.
    """
    targets = [target_entry(scenario, one) for one in ready]
    first = targets[0]
    capacity = capacity_file.known_capacity(driver)
    return {
        "name": scenario.name,
        "driver": driver,
        "started": utc_now(),
        "scenario": scenario.to_dict(),
        "target": {**ready[0].target.facts, "model": shown(ready[0].target.model.name)},
        "targets": targets,
        "server": first["server"],
        "tokens": first["tokens"],
        "levels": [level_facts(level) for level in scenario.levels()],
        "client": {
            "host": platform.node(),
            "cpus": capacity_file.usable_cores(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "loop": loop,
        },
        "versions": capacity_file.versions_of("httpx", "httptools", "uvloop", "tiktoken"),
        **({"calibration": capacity} if capacity else {}),
        "comparability": first["comparability"],
    }


def target_entry(scenario: Scenario, ready: ReadyTarget) -> dict[str, Any]:
    """Return an entry of run.json's `targets`: a server and model, what is known of them, and what comparing needs."""
    target, workload, server = ready.target, ready.workload, ready.target.server
    # The context that a model was loaded with for others says nothing of how it is loaded next.
    granted = None if scenario.sends_nothing_first else target.model.context
    context = granted or scenario.num_ctx or target.model.context
    return {
        **target.facts,
        "weight": ready.weight,
        "server": {
            "kind": server.kind,
            "version": server.version,
            "context": context,
            **({"context_asked": scenario.num_ctx} if scenario.num_ctx is not None else {}),
            "slots_said": server.slots,
            "simulated": server.simulated,
            "facts": {"trained_context": target.model.trained_context, "details": target.model.details},
        },
        "tokens": {
            "counter": workload.counter.source,
            "overhead": workload.fit.overhead,
            "ratio": workload.fit.ratio,
        },
        "comparability": _comparability(scenario, ready, context),
    }


def sent_before(path: Path, facts: dict[str, Any]) -> Path | None:
    """Return a run beside `path` whose requests were made of the same seed for the same server and model; None without one."""
    texts = facts["scenario"]
    if texts["endpoint"] == EMBEDDINGS or any(map(texts.get, OTHER_TEXTS)):
        return None
    mine = _prompts_of(facts)
    for other in sorted(file.parent for file in path.parent.glob("*/run.json")):
        folder = RunFolder(other)
        with suppress(RunFolderError, AttributeError, LookupError, TypeError):  # whatever else lies there
            if _prompts_of(folder.read_run()) == mine and any(folder.records()):
                return other
    return None


def _prompts_of(facts: dict[str, Any]) -> tuple[object, ...]:
    texts, target = facts["scenario"], facts["target"]
    return *map(texts.get, ("seed", *OTHER_TEXTS)), *map(target.get, ("url", "model"))


def at_end(targets: Sequence[dict[str, Any]], loaded: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Return what run.json says at the end of the models that are loaded then, one entry a target, None where it is gone."""
    entries = [{**entry, "server_at_end": one} for entry, one in zip(targets, loaded, strict=True)]
    return {"server_at_end": loaded[0], "targets": entries}


def _comparability(scenario: Scenario, ready: ReadyTarget, context: int | None) -> dict[str, Any]:
    """Return what two runs must have in common to be compared."""
    server, model, trace = ready.target.server, ready.target.model, ready.workload.trace
    blocks = None if trace is None or trace.blocks is None else "block hashes of the trace"
    return {
        "dialect": ready.target.dialect.name,
        "model": shown(model.name),
        "quantization": model.details.get("quantization_level"),
        "context": context,
        "server": f"{server.kind} {server.version}",
        "simulated": server.simulated,
        "warm_cache": scenario.warm_cache,
        "unload": scenario.unload or None,
        "arrivals": scenario.arrival_pattern,
        "prompt": "literal" if scenario.literal else "made up" if scenario.data is None else "data",
        "data": None if scenario.data is None else Path(scenario.data).name,
        "files": _contents(scenario),
        "shared_prefix": scenario.prefix_pattern or blocks,
        "inputs_per_request": scenario.inputs_per_request,
        "proxy": reach.proxy_to(scenario, server.url),
    }


def _contents(scenario: Scenario) -> list[str] | None:
    """Return the name and the beginning of the SHA-256 of each file that the requests come from; None without one."""
    digests = []
    for path in (Path(name) for name in (scenario.data, scenario.prompt_file, scenario.trace) if name is not None):
        if path.is_file():  # a pipe can be read once
            with path.open("rb") as file:
                digests.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}")
    return digests or None


def level_facts(level: Level) -> dict[str, Any]:
    return {
        "index": level.index,
        "label": level.label,
        "concurrency": level.concurrency,
        "rate": level.rate,
        "rate_to": level.rate_to,
        "trace": level.trace,
        "input_tokens": level.input_tokens,
        "output_tokens": level.output_tokens,
        "input_lengths": level.input_lengths,
        "output_lengths": level.output_lengths,
        "system_tokens": level.system_tokens,
        "words": level.words,
        "requests": level.requests or None,
        **({"inputs": level.inputs} if level.inputs > 1 else {}),
        **({"turns": level.turns, "sessions": True} if level.sessions else {}),
        **({"thinks": True} if level.thinks else {}),
    }
