"""`loadtest memory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from loadtest.cli.connection import connection_options
from loadtest.errors import ScenarioError, TargetError
from loadtest.grid import Grid

if TYPE_CHECKING:
    from rich.console import Console

    from loadtest.memory.estimate import Facts, Plan
    from loadtest.memory.loaded import LoadedMemory

DEFAULT_QUANTIZATION = "q4_K_M"  # what most tags of Ollama's library are


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOptions:
    """The command's options, None or False where not given."""

    model: str | None
    gguf: Path | None
    config: Path | None
    url: str | None
    api: str
    ca_file: str | None
    connect_timeout: float
    run: Path | None
    parameters: float | None
    layers: int | None
    kv_heads: int | None
    head_size: int | None
    quantization: str | None
    dtype: str | None
    context: int | None
    slots: int | None
    cache_dtype: str
    flash_attention: bool
    buffers: str | None
    gpu_memory: str | None
    training: str | None
    table: bool
    json: bool


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """An estimate and what stands beside it."""

    plan: Plan
    measured: LoadedMemory | None
    notes: tuple[str, ...]
    simulated: bool = False


@click.command()
@click.option("--model", metavar="NAME", help="A common model, e.g. llama3.1:70b; with --url: the model on the server.")
@click.option("--gguf", type=click.Path(path_type=Path), metavar="FILE", help="A GGUF file: its header is read.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="A Hugging Face config.json.")
@click.option("--url", metavar="URL", help="An Ollama server: its model, beside what it says that takes.")
@connection_options
@click.option("--run", type=click.Path(path_type=Path), metavar="RUN", help="A run folder: estimate beside measured.")
@click.option("--parameters", type=float, metavar="N", help="Parameters, e.g. 7e9, of a model that is not known.")
@click.option("--layers", type=click.IntRange(1), metavar="N", help="Layers, for the KV cache of such a model.")
@click.option("--kv-heads", type=click.IntRange(1), metavar="N", help="KV heads a layer.")
@click.option("--head-size", type=click.IntRange(1), metavar="N", help="Values a head.")
@click.option("--quantization", metavar="Q", help=f"GGUF quantisation.  [default for --model: {DEFAULT_QUANTIZATION}]")
@click.option("--dtype", metavar="D", help="float32, fp16, bf16, int8 or int4 instead: parameters × bytes.")
@click.option("--context", type=click.IntRange(1), metavar="N", help="Context of a slot, tokens.  [default: 4096]")
@click.option("--slots", type=click.IntRange(1), metavar="N", help="Parallel slots.  [default: 1]")
@click.option("--cache-dtype", default="f16", metavar="D", help="Of the KV cache: f16, q8_0, q4_0, …  [default: f16]")
@click.option(
    "--no-flash-attention",
    "flash_attention",
    flag_value=False,
    default=True,
    help="Buffers as they are without it: larger.",
)
@click.option("--buffers", metavar="SIZE", help="Buffers and driver, e.g. 1GiB, in place of the allowance.")
@click.option("--gpu-memory", metavar="SIZE", help="Say whether it fits there, e.g. 80GB or 24GiB.")
@click.option("--training", type=click.Choice(["adamw", "adamw-8bit", "sgd"]), help="Estimate training instead.")
@click.option("--table", is_flag=True, help="Rules of thumb: weights and training by dtype.")
@click.option("--json", is_flag=True, help="Print JSON.")
def memory(**options: Any) -> None:
    """Say what a model takes in memory, and whether it fits: weights, KV cache of every slot, buffers.

    Weights and KV cache are exact where the model is known; buffers are an allowance. With --run or --url the server's
    own figure stands beside the estimate.

    \b
    Examples:
      loadtest memory --model llama3.1:70b --quantization q4_0 --context 2048 --slots 4 --gpu-memory 80GB
      loadtest memory --gguf model.gguf --context 8192 --slots 8 --gpu-memory 24GiB
      loadtest memory --parameters 7e9 --table
      loadtest memory --model llama3.1:8b --training adamw
    """
    from rich.console import Console

    from loadtest.memory import report

    asked = MemoryOptions(**options)
    _one_source(asked)
    found = _found(asked)
    if asked.table or asked.training:
        _print_parameters(asked, found, Console())
        return
    room = _bytes_of(asked.gpu_memory, "--gpu-memory")
    if asked.json:
        body = report.estimate_dict(found.plan, found.measured, room, found.notes, simulated=found.simulated)
        print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
        return
    _print_estimate(found, room, Console())


def _one_source(asked: MemoryOptions) -> None:
    sources = ["model", "gguf", "config", "url", "run", "parameters"]
    given = [name for name in sources if getattr(asked, name) is not None]
    together = ({"model", "url"}, {"config", "parameters"})
    if not given:
        raise ScenarioError(
            "say which model: --model NAME, --gguf FILE, --config FILE, --url URL, --run RUN or --parameters N."
        )
    if len(given) > 1 and set(given) not in together:
        raise ScenarioError(f"{' and '.join('--' + name for name in given)} each name a model: give one of them.")
    if asked.quantization and asked.dtype:
        raise ScenarioError("--quantization and --dtype both say what the weights are: give one of them.")
    fixed = next((name for name in ("gguf", "url", "run") if name in given), None)
    if fixed and (asked.quantization or asked.dtype) and not (asked.table or asked.training):
        raise ScenarioError(f"--{fixed} says what the weights are: leave --quantization and --dtype away.")
    if asked.table and asked.training:
        raise ScenarioError("--table and --training are two answers: ask for one.")
    if asked.parameters is not None and not 1 <= asked.parameters < 1e15:
        raise ScenarioError(f"--parameters is a number like 7e9, not {asked.parameters:g}.")


def _found(asked: MemoryOptions) -> MemoryEstimate:
    from loadtest.memory.estimate import CACHE_DTYPES, Plan

    cache = asked.cache_dtype.lower()
    if cache not in CACHE_DTYPES:
        raise ScenarioError(f"--cache-dtype is one of {', '.join(CACHE_DTYPES)}, not {asked.cache_dtype!r}.")
    if asked.run:
        found = _from_run(asked.run)
    elif asked.url is not None:
        found = _from_server(asked, asked.url)
    else:
        facts, notes = _model_facts(asked)
        found = MemoryEstimate(Plan(facts=facts), None, notes)
    size = _bytes_of(asked.buffers, "--buffers")
    plan = replace(
        found.plan,
        context=asked.context or min(found.plan.context, found.plan.facts.trained or found.plan.context),
        slots=asked.slots or found.plan.slots,
        cache_dtype=cache,
        flash=asked.flash_attention,
        buffers=None if size is None else int(size),
        gpu=asked.gpu_memory is not None or found.measured is None or found.measured.size_vram != 0,
    )
    extra = list(found.notes)
    if plan.facts.trained and plan.context > plan.facts.trained:
        extra.append(f"{plan.facts.name} is trained for {plan.facts.trained} tokens: servers cut the context to that.")
    if plan.kv is None:
        extra.append("The KV cache is not counted: layers, KV heads and head size are not known.")
    return replace(found, plan=plan, notes=tuple(extra))


def _model_facts(asked: MemoryOptions) -> tuple[Facts, tuple[str, ...]]:
    from loadtest.memory import estimate, gguf, shapes

    if asked.gguf:
        header = gguf.read_gguf(asked.gguf)
        short = f"{asked.gguf.name} lacks {header.missing:,} bytes of its tensors: the download is not complete."
        return estimate.facts_of_gguf(asked.gguf.name, header), (short,) if header.missing else ()
    if asked.config:
        return _of_config(asked, asked.config), ()
    if asked.model:
        name, shape, tagged = shapes.find(asked.model)
        quantization = asked.quantization or tagged
        if quantization is None and asked.dtype is None and not (asked.table or asked.training):
            quantization = None if shape.layout == "opt" else DEFAULT_QUANTIZATION
        facts = estimate.facts_of_shape(
            name, shape, quantization=None if asked.dtype else quantization, dtype=asked.dtype
        )
        seen = "Its vision part, about 0.4 B parameters more, is not counted."
        return facts, (seen,) if name in shapes.SIGHTED else ()
    return _of_flags(asked, {}), ()


def _of_config(asked: MemoryOptions, path: Path) -> Facts:
    from loadtest.memory import estimate, shapes

    try:
        config = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}.") from None
    except orjson.JSONDecodeError as error:
        raise ScenarioError(f"{path} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise ScenarioError(f"{path} is no config.json: it holds no object.")
    shape = shapes.from_config(config, str(path))
    if shape is None and asked.parameters is None:
        raise ScenarioError(
            f"{path} is of model_type {config.get('model_type')!r}, whose layers are not known here: "
            "add --parameters N (its model card says how many)."
        )
    if not asked.quantization and not asked.dtype:
        if "quantization_config" in config:
            raise ScenarioError(f"{path} is of a quantised model: add --dtype int8 or --dtype int4.")
        asked = replace(asked, dtype=str(config.get("torch_dtype") or config.get("dtype") or "fp16"))
    if shape is None or asked.parameters is not None:
        return _of_flags(asked, config)
    name = path.resolve().parent.name or path.name
    return estimate.facts_of_shape(name, shape, quantization=asked.quantization, dtype=asked.dtype)


def _of_flags(asked: MemoryOptions, config: Mapping[str, Any]) -> Facts:
    """Return the facts that --parameters and the flags give, with a config.json's numbers where flags are not given."""
    from loadtest.memory import estimate, weights

    assert asked.parameters is not None
    parameters = int(asked.parameters)
    heads = config.get("num_attention_heads")
    architecture = {
        "block_count": asked.layers or config.get("num_hidden_layers"),
        "attention.head_count": heads,
        "attention.head_count_kv": asked.kv_heads or config.get("num_key_value_heads") or heads,
        "attention.key_length": asked.head_size or config.get("head_dim"),
        "embedding_length": config.get("hidden_size"),
    }
    if "kv_lora_rank" in config and not (asked.layers and asked.kv_heads and asked.head_size):
        architecture["block_count"] = None  # a compressed cache follows from other numbers
    if asked.quantization:
        size = weights.rough(parameters, asked.quantization)
        where = f"{parameters:,} parameters × the bytes of {asked.quantization}; up to a tenth low"
    else:
        kind = weights.dtype(asked.dtype or "fp16")
        size = weights.by_dtype(parameters, kind)
        where = f"{parameters:,} parameters × {weights.bytes_each(kind)} ({kind})"
    return estimate.Facts(
        name=f"{parameters / 1e9:.3g} B parameters",
        weights=size,
        weights_from=where,
        parameters=parameters,
        cache=estimate.cache_of(architecture),
        trained=config.get("max_position_embeddings"),
    )


def _from_run(path: Path) -> MemoryEstimate:
    from loadtest.analyse.run import frames, groups
    from loadtest.analyse.server import slots
    from loadtest.analyse.server.memory import plan_of_run
    from loadtest.memory.loaded import loaded_memory

    run = frames.load(path)
    groups.refuse(run, groups.groups_of(run), "memory")
    seen = slots.estimate_slots(run)
    plan = plan_of_run(run, seen)
    said = loaded_memory(run.facts.get("server_at_end"))
    notes = []
    if not (run.facts.get("server") or {}).get("slots_said"):
        notes.append(f"Slots as the run saw them: {'' if seen.limit else 'at least '}{plan.slots}.")
    if said is None:
        notes.append("The server did not say at the run's end what the loaded model takes: nothing to compare with.")
    return MemoryEstimate(plan, said, tuple(notes), simulated=run.simulated is not None)


def _from_server(asked: MemoryOptions, url: str) -> MemoryEstimate:
    from loadtest.credentials import withhold
    from loadtest.memory.estimate import DEFAULT_CONTEXT, Plan
    from loadtest.memory.loaded import LoadedMemory, server_facts
    from loadtest.target.probe import choose_model, describe, probe
    from loadtest.target.settle import control_client, trust
    from loadtest.text import shown
    from loadtest.urls import parse

    with control_client(trust(asked.ca_file), asked.connect_timeout) as client:
        server = probe(client, parse(withhold(url)).base, api=asked.api)
        if server.kind != "ollama":
            raise TargetError(
                f"{server.described} does not say what its models are made of: give --model, --gguf or --config."
            )
        model = describe(client, server, choose_model(server, asked.model))
    facts = server_facts(shown(model.name), model.details, model.trained_context)
    plan = Plan(facts=facts, context=model.context or DEFAULT_CONTEXT)
    notes = ["Ollama does not say how many slots it has: 1 is taken unless --slots says more."]
    said = LoadedMemory(model.size, model.size_vram) if model.size else None
    if said is None:
        notes.append(f"{shown(model.name)} is not loaded: nothing to compare with.")
    return MemoryEstimate(plan, said, tuple(notes), simulated=server.simulated is not None)


def _bytes_of(text: str | None, option: str) -> float | None:
    from loadtest.memory.loaded import parse_memory

    return None if text is None else parse_memory(text, option)


def _print_estimate(found: MemoryEstimate, room: float | None, console: Console) -> None:
    from rich.text import Text

    from loadtest.memory import report

    plan = found.plan
    marks = [plan.facts.name, "simulated server" if found.simulated else ""]
    grid = Grid(("", "size", "from"), tuple(report.estimate_rows(plan)), prose=True)
    console.print(grid.console(" · ".join(filter(None, marks)), styles={"total": "bold"}))
    for line in report.estimate_sentences(plan, found.measured, room, simulated=found.simulated):
        console.print(Text(f"• {line}"))
    for note in found.notes:
        console.print(Text(note, style="dim"))


def _print_parameters(asked: MemoryOptions, found: MemoryEstimate, console: Console) -> None:
    """Print what follows from the number of parameters alone: the rules of thumb, or a training estimate."""
    from rich.text import Text

    from loadtest.memory import report, weights

    parameters, name = found.plan.facts.parameters, found.plan.facts.name
    if parameters is None:
        raise ScenarioError(f"how many parameters {name} has is not known: give --parameters N.")
    if asked.quantization:
        raise ScenarioError("--table and --training go by dtype, not by quantisation: give --dtype, or leave it away.")
    title = f"{name} · {parameters:,} parameters"
    dtype = weights.dtype(asked.dtype or "float32")
    notes = [report.NOT_COUNTED]
    rows: Sequence[Sequence[str]]
    if asked.training:
        rows = report.training_rows(parameters, dtype, asked.training)
        heads: Sequence[str] = ("", "size", "from")
    else:
        rows, heads = report.rules(parameters), ("dtype", "bytes", "weights", *weights.OPTIMIZERS)
        notes.insert(
            0, "GiB. Training: weights, gradients of 4 bytes and the optimizer's states. Keep room for buffers."
        )
    if asked.json:
        body = {"model": name, "parameters": parameters, "rows": [dict(zip(heads, row, strict=True)) for row in rows]}
        print(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
        return
    grid = Grid(tuple(heads), tuple(map(tuple, rows)), prose=bool(asked.training))
    console.print(grid.console(title, styles={"total": "bold"}))
    for note in notes:
        console.print(Text(note, style="dim"))
