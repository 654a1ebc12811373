"""`loadtest memory`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from rich.console import Console

from loadtest.cli.memory.estimates import (
    DEFAULT_QUANTIZATION,
    MemoryEstimate,
    asked_estimates,
)
from loadtest.cli.options.arguments import refuse_idle
from loadtest.cli.options.environment import named_in_environment, say_what_is_taken
from loadtest.cli.options.param_types import ReadParam
from loadtest.cli.options.scenario_options import SERVER_OPTIONS, connection_of, is_url, one_url, server_options
from loadtest.cli.output.printing import json_option, print_json, print_lines
from loadtest.errors import ScenarioError
from loadtest.grid import Grid
from loadtest.memory import report, weights
from loadtest.memory.estimate import parse_parameters, parse_size
from loadtest.scenario import short_repr
from loadtest.text import shown

SIZE_HEADS = ("", "size", "from")
OF_SERVING = ("context", "slots", "cache_dtype", "flash_attention", "buffers", "gpu_memory")  # options


@click.command()
@click.argument("place", metavar="[URL]", required=False)
@click.option("--model", metavar="NAME", help="A common model, e.g. llama3.1:70b; with --url: the model on the server.")
@click.option("--gguf", type=click.Path(path_type=Path), metavar="FILE", help="A GGUF file: its header is read.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="A Hugging Face config.json.")
@click.option(
    "--url", metavar="URL", help="An Ollama server: estimate its model, and show what the server says the model takes."
)
@server_options
@click.option("--run", type=click.Path(path_type=Path), metavar="RUN", help="A run folder: estimate beside measured.")
@click.option(
    "--parameters",
    type=ReadParam(parse_parameters, "n"),
    metavar="N",
    help="Number of parameters, e.g. 7B or 7e9, for a model not known here.",
)
@click.option("--layers", type=click.IntRange(1), metavar="N", help="Layers of such a model, for its KV cache.")
@click.option("--kv-heads", type=click.IntRange(1), metavar="N", help="KV heads of each layer.")
@click.option("--head-size", type=click.IntRange(1), metavar="N", help="Values of each head.")
@click.option("--quantization", metavar="Q", help=f"GGUF quantization.  [default for --model: {DEFAULT_QUANTIZATION}]")
@click.option("--dtype", metavar="D", help="float32, fp16, bf16, int8 or int4 instead of a quantization.")
@click.option("--context", type=click.IntRange(1), metavar="N", help="Context of a slot, tokens.  [default: 4096]")
@click.option("--slots", type=click.IntRange(1), metavar="N", help="Parallel slots.  [default: 1]")
@click.option(
    "--cache-dtype", default="f16", metavar="D", help="Type of the KV cache: f16, q8_0, q4_0, …  [default: f16]"
)
@click.option(
    "--no-flash-attention",
    "flash_attention",
    flag_value=False,
    default=True,
    help="Estimate the larger buffers that a server without flash attention needs.",
)
@click.option("--buffers", metavar="SIZE", help="Memory for buffers and driver, e.g. 1GiB, instead of the allowance.")
@click.option("--gpu-memory", metavar="SIZE", help="Say whether the model fits into this, e.g. 80GB or 24GiB.")
@click.option("--training", type=click.Choice(["adamw", "adamw-8bit", "sgd"]), help="Estimate training instead.")
@click.option("--table", is_flag=True, help="Rules of thumb: weights and training by dtype.")
@json_option
def memory(**options: Any) -> None:
    """Say how much memory a model takes, and whether it fits: weights, KV cache of every slot, buffers.

    Weights and KV cache are exact where the model is known; buffers are an allowance. With --run or --url the server's
    own figure is shown beside the estimate.

    \b
    Examples:
      loadtest memory --model llama3.1:70b --context 2048 --gpu-memory 80GB
      loadtest memory --gguf model.gguf --context 8192 --slots 8 --gpu-memory 24GB
      loadtest memory --parameters 7e9 --table
      loadtest memory --model llama3.1:8b --training adamw
    """
    say_what_is_taken()
    if (place := options.pop("place")) and not is_url(place):
        absent = "" if Path(place).exists() else ", and there is no file of that name"
        raise ScenarioError(
            f"{short_repr(place)} is no URL{absent}: name a file with --gguf or --config, a run with --run, a model with "
            "--model, and a server like http://HOST:11434."
        )
    options["url"] = one_url(place, options["url"])
    _refuse_idle(options)
    asked = SimpleNamespace(connection=connection_of(options), **options)
    _one_source(asked)
    every = asked_estimates(asked)
    if asked.table or asked.training:
        for found in every:
            _print_parameters(asked, found, Console())
        return
    room = None if asked.gpu_memory is None else parse_size(asked.gpu_memory)
    if asked.as_json:
        bodies = [
            {
                **({"group": found.group} if found.group else {}),
                **report.estimate_dict(found.plan, found.measured, room, found.notes, simulated=found.simulated),
            }
            for found in every
        ]
        body = bodies[0] if every[0].group is None else {"groups": bodies}
        print_json(body)
        return
    for found in every:
        if found.group is not None:
            print(f"{shown(found.group)}:")
        _print_estimate(found, room, Console())


def _refuse_idle(options: Mapping[str, Any]) -> None:
    if options["url"] is None:
        refuse_idle(SERVER_OPTIONS, "without --url")
    if options["parameters"] is None and options["config"] is None:
        refuse_idle(("layers", "kv_heads", "head_size"), "without --parameters or --config")
    if options["training"] or options["table"]:
        refuse_idle(OF_SERVING, "beside --training and --table, which are about weights alone")
    if options["buffers"]:
        refuse_idle(("flash_attention",), "beside --buffers, which says how large they are")


def _one_source(asked: SimpleNamespace) -> None:
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
        raise ScenarioError(f"--{fixed} says what the weights are: leave out --quantization and --dtype.")
    if asked.table and asked.training:
        raise ScenarioError("--table and --training are two answers: ask for one.")


def _print_estimate(found: MemoryEstimate, room: float | None, console: Console) -> None:
    plan = found.plan
    marks = [plan.facts.name, "simulated server" if found.simulated else ""]
    grid = Grid(SIZE_HEADS, tuple(report.estimate_rows(plan)), prose=True)
    console.print(grid.console(" · ".join(filter(None, marks)), styles={"total": "bold"}))
    print_lines(console, report.estimate_sentences(plan, found.measured, room, simulated=found.simulated), before="• ")
    print_lines(console, found.notes, style="dim")


def _print_parameters(asked: SimpleNamespace, found: MemoryEstimate, console: Console) -> None:
    """Print what follows from the number of parameters alone: rules of thumb, or a training estimate."""
    parameters, name = found.plan.facts.parameters, found.plan.facts.name
    if parameters is None:
        raise ScenarioError(f"the number of parameters of {name} is unknown: give --parameters N.")
    if asked.quantization:
        raise ScenarioError("--table and --training go by dtype, not by quantization: give --dtype, or leave out both.")
    title = f"{name} · {parameters:,} parameters"
    dtype = weights.dtype(asked.dtype or "float32")
    if asked.training:
        grid = Grid(SIZE_HEADS, tuple(report.training_rows(parameters, dtype, asked.training)), prose=True)
        notes = [report.NOT_COUNTED]
    else:
        grid = Grid(("dtype", "bytes", "weights", *weights.OPTIMIZERS), tuple(report.rules(parameters)))
        units = "GiB. Training: weights, gradients of 4 bytes and the optimizer's states. Keep room for buffers."
        notes = [units, report.NOT_COUNTED]
    if asked.as_json:
        rows = [dict(zip(grid.heads, row, strict=True)) for row in grid.rows]
        print_json({"model": name, "parameters": parameters, "rows": rows})
        return
    console.print(grid.console(title, styles={"total": "bold"}))
    print_lines(console, notes, style="dim")


named_in_environment(memory, SERVER_OPTIONS)
