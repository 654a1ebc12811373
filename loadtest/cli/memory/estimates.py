"""What `loadtest memory` is asked about: the estimates of a named model, a file, a server or a run."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson

from loadtest.cli.output.mistakes import for_each
from loadtest.credentials import withhold
from loadtest.errors import ScenarioError, TargetError, os_error_as
from loadtest.memory import gguf, shapes, weights
from loadtest.memory.estimate import (
    CACHE_DTYPES,
    DEFAULT_CONTEXT,
    Facts,
    LoadedMemory,
    MemoryPlan,
    cache_of,
    facts_of_gguf,
    facts_of_server,
    facts_of_shape,
    loaded_memory,
    parse_size,
)
from loadtest.scenario import short_repr
from loadtest.text import shown
from loadtest.urls import parse_url

if TYPE_CHECKING:
    from loadtest.analyse.run.run_data import RunData

DEFAULT_QUANTIZATION = "q4_K_M"  # that of most tags in Ollama's library


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    plan: MemoryPlan
    measured: LoadedMemory | None
    notes: tuple[str, ...]
    simulated: bool = False
    group: str | None = None  # which model or server of a run of several


def asked_estimates(asked: SimpleNamespace) -> list[MemoryEstimate]:
    """Return the estimate that the command's options ask for; of a run of several models or servers one for each."""
    cache = asked.cache_dtype.lower()
    if cache not in CACHE_DTYPES:
        raise ScenarioError(f"--cache-dtype is one of {', '.join(CACHE_DTYPES)}, not {asked.cache_dtype!r}.")
    if asked.run:
        every = _estimates_of_run(asked.run)
    elif asked.url is not None:
        every = [_estimate_of_server(asked, asked.url)]
    else:
        facts, notes = _asked_facts(asked)
        every = [MemoryEstimate(MemoryPlan(facts=facts), None, notes)]
    return [_with_options(asked, found) for found in every]


def _with_options(asked: SimpleNamespace, found: MemoryEstimate) -> MemoryEstimate:
    plan = replace(
        found.plan,
        context=asked.context or min(found.plan.context, found.plan.facts.trained or found.plan.context),
        slots=asked.slots or found.plan.slots,
        cache_dtype=asked.cache_dtype.lower(),
        flash=asked.flash_attention,
        buffers=None if asked.buffers is None else int(parse_size(asked.buffers, "--buffers")),
        gpu=asked.gpu_memory is not None or found.measured is None or found.measured.size_vram != 0,
    )
    if found.simulated:
        plan = plan.of_simulated()
    extra = list(found.notes)
    if plan.facts.trained and asked.context and plan.context > plan.facts.trained:
        extra.append(f"{plan.facts.name} is trained for {plan.facts.trained} tokens: Ollama grants no more than that.")
    if plan.kv is None:
        extra.append("The KV cache is not counted: what is known of the layers does not tell what a token takes in it.")
    return replace(found, plan=plan, notes=tuple(extra))


def _asked_facts(asked: SimpleNamespace) -> tuple[Facts, tuple[str, ...]]:
    if asked.gguf:
        header = gguf.read_gguf(asked.gguf)
        short = f"{asked.gguf.name} lacks {header.missing:,} bytes of its tensors: the download is not complete."
        return facts_of_gguf(asked.gguf.name, header), (short,) if header.missing else ()
    if asked.config:
        return _of_config(asked, asked.config), ()
    if asked.model:
        name, shape, tagged = shapes.find(asked.model)
        quantization = asked.quantization or tagged
        if quantization is None and asked.dtype is None and not (asked.table or asked.training):
            quantization = None if shape.layout == "opt" else DEFAULT_QUANTIZATION
        facts = facts_of_shape(name, shape, quantization=None if asked.dtype else quantization, dtype=asked.dtype)
        seen = "Its vision part, about 0.4 B parameters more, is not counted."
        return facts, (seen,) if name in shapes.SIGHTED else ()
    return _of_flags(asked, {}), ()


def _of_config(asked: SimpleNamespace, path: Path) -> Facts:
    try:
        with os_error_as(ScenarioError, f"cannot read {path}"):
            config = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise ScenarioError(f"{path} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ScenarioError(f"{path} is not a config.json: it does not hold an object.")
    shape = shapes.from_config(config, str(path))
    if shape is None and asked.parameters is None:
        raise ScenarioError(
            f"{path} has model_type {config.get('model_type')!r}, whose layers are not known here: "
            "add --parameters N (see its model card)."
        )
    if not asked.quantization and not asked.dtype:
        if "quantization_config" in config:
            raise ScenarioError(f"{path} is of a quantised model: add --dtype int8 or --dtype int4.")
        dtype = str(config.get("torch_dtype") or config.get("dtype") or "fp16").removeprefix("torch.")
        if not weights.is_dtype(dtype):
            raise ScenarioError(
                f"{path} is of dtype {short_repr(dtype)}, which is not known here: add --dtype, one of "
                f"{', '.join(weights.DTYPES)}."
            )
        asked = SimpleNamespace(**{**vars(asked), "dtype": dtype})
    if shape is None or asked.parameters is not None:
        return _of_flags(asked, config)
    name = path.resolve().parent.name or path.name
    return facts_of_shape(name, shape, quantization=asked.quantization, dtype=asked.dtype)


def _of_flags(asked: SimpleNamespace, config: Mapping[str, Any]) -> Facts:
    """Return the facts given by --parameters and other options, and by a config.json where an option is not given."""
    parameters = int(asked.parameters)
    heads, context = config.get("num_attention_heads"), config.get("max_position_embeddings")
    architecture = {
        "block_count": asked.layers or config.get("num_hidden_layers"),
        "attention.head_count": heads,
        "attention.head_count_kv": asked.kv_heads or config.get("num_key_value_heads") or heads,
        "attention.key_length": asked.head_size or config.get("head_dim"),
        "embedding_length": config.get("hidden_size"),
    }
    if not (asked.layers and asked.kv_heads and asked.head_size):
        architecture |= _of_layers(config, architecture["attention.head_count_kv"])
    if asked.quantization:
        size, where = weights.rough(parameters, asked.quantization)
        bound = "about"
    else:
        dtype = asked.dtype or "fp16"
        size, where = weights.by_dtype(parameters, dtype), weights.dtype_source(parameters, dtype)
        bound = "at least" if weights.dtype(dtype) in weights.QUANTISED_DTYPES else ""
    return Facts(
        name=f"{parameters / 1e9:.3g} B parameters",
        weights=size,
        weights_from=where,
        bound=bound,
        parameters=parameters,
        cache=cache_of(architecture),
        trained=context if isinstance(context, int) and 0 < context <= gguf.MOST_OF_MODEL else None,
    )


def _of_layers(config: Mapping[str, Any], kv_heads: Any) -> dict[str, Any]:
    """Return what a config.json says of layers that keep no plain cache of the whole context, under GGUF's keys."""
    found: dict[str, Any] = {}
    if config.get("sliding_window") and config.get("use_sliding_window") is not False:
        found["attention.sliding_window"] = config["sliding_window"]
    if isinstance(kinds := config.get("layer_types"), list):
        found["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in kinds]
        found["attention.head_count_kv"] = [
            kv_heads if kind in ("full_attention", "sliding_attention") else 0 for kind in kinds
        ]
    if config.get("kv_lora_rank") or "chunked_attention" in (kinds or ()):
        found["attention.kv_lora_rank"] = True
    return found


def _estimates_of_run(path: Path) -> list[MemoryEstimate]:
    from loadtest.analyse.run import frames, groups

    run = frames.load(path)
    if not (parts := groups.groups_of(run)):
        return [_estimate_of_run(run)]
    return for_each(
        ((shown(part.name), part) for part in parts), lambda part: replace(_estimate_of_run(part.run), group=part.name)
    )


def _estimate_of_run(run: RunData) -> MemoryEstimate:
    from loadtest.analyse.server.model_memory.by_slots import plan_of_run
    from loadtest.analyse.server.queue import slots

    known = slots.known_slots(run, slots.estimate_slots(run))
    plan = plan_of_run(run, known)
    measured = loaded_memory(run.facts.get("server_at_end"))
    notes = []
    if not (run.facts.get("server") or {}).get("slots_said"):
        notes.append(f"Slots: {'' if known.limit else 'at least '}{plan.slots} ({known.method}).")
    if measured is None:
        notes.append("Nothing to compare with: at the run's end the server did not say what the loaded model takes.")
    return MemoryEstimate(plan, measured, tuple(notes), simulated=run.simulated is not None)


def _estimate_of_server(asked: SimpleNamespace, url: str) -> MemoryEstimate:
    from loadtest.targets.server.control import control_client
    from loadtest.targets.server.probe import choose_model, probe, with_details

    address = parse_url(withhold(url))
    api = asked.connection.api
    if api == "auto" and address.path is not None:
        api = address.asks[0] or api  # a whole address below another root: nothing need be found out there
    with control_client(asked.connection) as client:
        server = probe(client, address.base, api=api, path=address.path)
        if server.kind != "ollama":
            raise TargetError(
                f"{server.described} does not say what its models are made of: give --model, --gguf or --config."
            )
        model = with_details(client, server, choose_model(server, asked.model))
    facts = facts_of_server(shown(model.name), model.details, model.trained_context)
    plan = MemoryPlan(facts=facts, context=model.context or DEFAULT_CONTEXT)
    assumed = "1 slot is assumed, because Ollama does not say how many it has; give more with --slots."
    notes = [] if asked.slots else [assumed]
    if model.context is None and not asked.context:
        notes.append(
            f"{plan.context} tokens of context are assumed, because the model is not loaded; give the server's own with --context."
        )
    measured = LoadedMemory(model.size, model.size_vram) if model.size else None
    if measured is None:
        notes.append(f"Nothing to compare with: {shown(model.name)} is not loaded.")
    return MemoryEstimate(plan, measured, tuple(notes), simulated=server.simulated is not None)
