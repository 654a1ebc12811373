"""A memory estimate as table rows, sentences and JSON, compared with what was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadtest.memory import weights
from loadtest.memory.estimate import BATCH, CACHE_DTYPES, MOST_SLOTS, OLLAMA_CACHES, LoadedMemory, MemoryPlan
from loadtest.text import GIB, binary_size, capitalised, counted, number, percent

SPARE_CACHE = "q8_0"  # the smaller cache that is worth naming: about half of f16
NOTICED = 0.0005  # of the estimate: a smaller difference would be printed as 0.0 %
NOTABLE_DIFFERENCE = 0.1  # of the estimate: what buffers take may differ by as much
NEAR_PLAN = 0.02  # of what is reported; another plan that comes so near may be the one that is served
NEAR_SLOT = 0.1  # of a slot: where no buffers are counted, such a plan comes as near as that
MOST_BUFFERS = 8.0  # times the allowance: Ollama's own engine took 4 times as much of a tiny model
MOST_EXPLAINED_SLOTS = 64  # more slots are no explanation
NOT_COUNTED = "Activations are not counted: they grow with batch and sequence length, and may be the larger part."


def estimate_rows(plan: MemoryPlan) -> list[tuple[str, str, str]]:
    """Return (part, size, source) for each part of an estimate, the total last."""
    facts, found = plan.facts, [("weights", binary_size(plan.facts.weights), plan.facts.weights_from)]
    if plan.kv is not None:
        found.append(("KV cache", binary_size(plan.kv), _cache(plan)))
    if plan.buffers is not None:
        found.append(("buffers", binary_size(plan.buffers), plan.buffers_from))
    else:
        how = f"allowance: a pass of {BATCH} tokens" if facts.width else "allowance: the model's width is not known"
        attention = "" if plan.flash or not facts.heads else ", no flash attention"
        found.append(("compute buffers", binary_size(plan.compute), how + attention))
        if plan.gpu:
            found.append(("driver", binary_size(plan.driver), "allowance: a CUDA context, where there is a GPU"))
    return [*found, ("total", binary_size(plan.total), f"{plan.total / 1e9:.2f} GB")]


def _cache(plan: MemoryPlan) -> str:
    cache = plan.facts.cache
    assert cache is not None
    width = CACHE_DTYPES[plan.cache_dtype]
    each = f"{cache.full * width / 1024:g} KiB a token ({plan.cache_dtype})"
    text = f"{counted(plan.slots, 'slot')} × {plan.context} tokens × {each}"
    if cache.windowed:
        text += f", and {cache.windowed * width / 1024:g} KiB a token in windows of {cache.window}"
    return text


def estimate_sentences(
    plan: MemoryPlan, measured: LoadedMemory | None, gpu: float | None, *, simulated: bool = False
) -> list[str]:
    """Return what the estimate says: the file, the GPU's verdict, estimate beside measured."""
    besides = "; the file also holds a vocabulary of some MB" if plan.facts.tensors_only else ""
    bound = f"{plan.facts.bound} " if plan.facts.bound else ""
    found = [f"The weights are {bound}{plan.facts.weights / 1e9:.2f} GB ({plan.facts.weights:,} bytes){besides}."]
    if plan.token_bytes is not None:
        found.append(
            "Ollama and llama.cpp allocate the whole KV cache of every slot when the model loads; requests do not make it grow."
        )
    if gpu is not None:
        found += _fit_sentences(plan, gpu)
    if measured is not None:
        found += _beside_measured(plan, measured, simulated=simulated)
    return found


def _gpu_size(count: float) -> str:
    return f"{count / 1e9:.4g} GB ({binary_size(count)})"


def _fit_sentences(plan: MemoryPlan, gpu: float) -> list[str]:
    spare = gpu - plan.total
    if plan.kv is None:
        room = f"leaves {binary_size(spare)} for the KV cache" if spare >= 0 else f"is {binary_size(-spare)} too much"
        return [f"Without its KV cache this {room} on {_gpu_size(gpu)}."]
    verdict = (
        f"fits on {_gpu_size(gpu)}: {binary_size(spare)} are left"
        if spare >= 0
        else f"does not fit on {_gpu_size(gpu)}: {binary_size(-spare)} too much"
    )
    close = plan.buffers is None and -plan.compute / 2 < spare < plan.compute
    doubt = ["That hangs on the buffers, which may take half or twice what is allowed for them."] if close else []
    return [f"This {verdict}.", *doubt, *_most_that_fits(plan, gpu)]


def _most_that_fits(plan: MemoryPlan, gpu: float) -> list[str]:
    most, context = plan.most_slots(gpu) or 0, plan.most_context(gpu) or 0
    if context == 0:
        bare = replace(plan, slots=1).most_context(gpu)
        if not bare:
            return ["Weights and buffers alone are too much: a smaller quantisation, or more GPUs."]
        return [f"With {counted(plan.slots, 'slot')} no context fits; one slot can have {number(bare)} tokens."]
    trained = " (all that the model is trained for)" if context == plan.facts.trained else ""
    many = (
        f"{most} slots or more fit"
        if most == MOST_SLOTS
        else f"at most {counted(most, 'slot')} fit{'s' if most == 1 else ''}"
    )
    each = "" if plan.slots == 1 else " each"
    with_context = f"{counted(plan.slots, 'slot')} can have {number(context)} tokens{each}{trained}"
    sentences = [f"With {number(plan.context)} tokens a slot, {'no slot fits' if most == 0 else many}; {with_context}."]
    if most < plan.slots and plan.cache_dtype in ("f16", "bf16"):
        small = replace(plan, cache_dtype=SPARE_CACHE)
        if small.total <= gpu:
            sentences.append(f"A KV cache of {SPARE_CACHE} would fit: {binary_size(small.total)} in all.")
    return sentences


def _beside_measured(plan: MemoryPlan, measured: LoadedMemory, *, simulated: bool) -> list[str]:
    plan = replace(plan, gpu=measured.size_vram != 0)
    left_out = plan.left_out(measured.size)
    estimated = plan.loaded - left_out
    difference = measured.size - estimated
    more = "more" if difference >= 0 else "less"
    who = "The simulated server" if simulated else "The server"
    parts = reported_parts(plan, left_out)
    reports = f"{who} reports {binary_size(measured.size)} for the loaded model"
    sentences = [f"{reports}; the estimate of {parts} is {binary_size(estimated)}."]
    if left_out:
        counts = "does not always count" if left_out > 0 else "may have, and count, two of"
        sentences.append(f"Ollama {counts} the input embedding ({binary_size(abs(left_out))}).")
    if abs(difference) >= NOTICED * estimated:
        sentences.append(
            f"That is {binary_size(abs(difference))} ({percent(abs(difference) / estimated)}) {more} than estimated."
        )
    plain = measured.size - plan.facts.weights - (plan.kv or 0) + left_out
    if plan.kv is not None and plain < 0 and plan.gpu:
        sentences.append(f"Weights and KV cache alone are {binary_size(-plain)} more than the server reports.")
    elif plan.kv is not None and plan.gpu and (plain or plan.compute):
        sentences.append(
            f"Besides weights and the KV cache of {counted(plan.slots, 'slot')}, the server counts {binary_size(plain)}; the "
            f"allowance for buffers is {binary_size(plan.compute)}."
        )
    notable = (NOTABLE_DIFFERENCE if plan.gpu else NEAR_PLAN) * estimated
    if abs(difference) > notable and (others := other_plans(plan, measured.size, slots_known=False)):
        sentences.append(f"{capitalised(others)} would explain what the server reports.")
    if measured.size_vram == 0:
        sentences.append("No part of the model is on a GPU.")
    elif measured.size_vram is not None and measured.size_vram < measured.size:
        sentences.append(f"{binary_size(measured.size_vram)} of the model are on a GPU, the rest in host memory.")
    return sentences


def reported_parts(plan: MemoryPlan, left_out: int) -> str:
    """Name what the estimate holds that a server's report is compared with, of which so much is left out."""
    return ("all but the driver" if plan.gpu else "weights and KV cache") + _embedding(left_out)


def _embedding(left_out: int) -> str:
    return f" {'without' if left_out > 0 else 'with twice'} the input embedding" if left_out else ""


def other_plans(plan: MemoryPlan, reported: int, *, slots_known: bool, besides: int = 0) -> str:
    """Name plans that would be reported as about so many bytes, each with its own: "4 slots (6.58 GiB)"; empty without any.

    `besides` is what the report counts that no plan does.
    """
    slot, embedding = (plan.kv or 0) / plan.slots, plan.facts.embedding or 0
    near = NEAR_PLAN * reported if plan.gpu else min(NEAR_PLAN * reported, NEAR_SLOT * slot)
    found: list[tuple[str, float]] = []
    if not slots_known and slot > 2 * NEAR_PLAN * reported:  # of smaller slots some number always comes near
        for left_out in (0, embedding):
            count = round((reported - besides - plan.loaded + left_out) / slot) + plan.slots
            if count != plan.slots and 1 <= count <= MOST_EXPLAINED_SLOTS:
                found.append((counted(count, "slot"), replace(plan, slots=count).loaded))
    for dtype in (name for name in OLLAMA_CACHES if name != plan.cache_dtype):
        without_gpu = plan.facts.weights + (plan.kv or 0) * OLLAMA_CACHES[dtype] / CACHE_DTYPES[plan.cache_dtype]
        taken = replace(plan, cache_dtype=dtype).loaded if plan.gpu else without_gpu
        found.append((f"a KV cache of {dtype}", taken))
    if plan.gpu:
        found.append(("no flash attention", replace(plan, flash=False).loaded))
    named = []
    for name, size in dict(found).items():
        over = size + besides - reported
        left_out = embedding if abs(over - embedding) < abs(over) else 0
        if abs(over - left_out) <= near:
            named.append(f"{name} ({binary_size(reported + over - left_out)}{_embedding(left_out)})")
    more = reported - besides - plan.loaded
    if not plan.gpu and near < more <= MOST_BUFFERS * plan.compute:  # of Ollama's own engine, and from 0.30 on
        named.append(f"buffers of {binary_size(more)}, which not every Ollama counts without a GPU,")
    return " or ".join(named)


def estimate_dict(
    plan: MemoryPlan, measured: LoadedMemory | None, gpu: float | None, notes: tuple[str, ...], *, simulated: bool
) -> dict[str, Any]:
    """Return plain JSON values; sizes in bytes."""
    facts = plan.facts
    body: dict[str, Any] = {
        "model": facts.name,
        "parameters": facts.parameters,
        "context": plan.context,
        "slots": plan.slots,
        "cache_dtype": plan.cache_dtype,
        "weights_bytes": facts.weights,
        "weights_from": facts.weights_from,
        "kv_bytes_per_token": plan.token_bytes,
        "kv_bytes": plan.kv,
        "compute_bytes": plan.compute,
        "driver_bytes": plan.driver,
        "total_bytes": plan.total,
    }
    if gpu is not None:
        known = plan.kv is not None
        body["gpu"] = {
            "bytes": gpu,
            "fits": plan.total <= gpu if known else None,
            "max_slots": plan.most_slots(gpu),
            "max_context": plan.most_context(gpu),
        }
    if measured is not None:
        body["measured"] = measured.beside(plan)
    return {**body, "notes": list(notes), "simulated": simulated}


def training_rows(parameters: int, dtype: str, optimizer: str) -> list[tuple[str, str, str]]:
    """Return (part, size, source) for each part of a training estimate, the total last."""
    weight, parts = weights.by_dtype(parameters, dtype), weights.training(parameters, optimizer)
    total = weight + sum(parts.values())
    return [
        ("weights", binary_size(weight), weights.dtype_source(parameters, dtype)),
        ("optimizer", binary_size(parts["optimizer"]), f"× {weights.OPTIMIZERS[optimizer]} bytes ({optimizer})"),
        ("gradients", binary_size(parts["gradients"]), f"× {weights.GRADIENTS} bytes"),
        ("total", binary_size(total), f"{total / 1e9:.2f} GB"),
    ]


def rules(parameters: int) -> list[tuple[str, ...]]:
    """Return rules of thumb, one row per dtype: bytes per parameter, weights, and training with each optimizer in GiB."""
    found = []
    for dtype, each in weights.DTYPES.items():
        weight = weights.by_dtype(parameters, dtype)
        trained = [
            f"{(weight + sum(weights.training(parameters, name).values())) / GIB:.2f}" if each >= 2 else "–"
            for name in weights.OPTIMIZERS
        ]
        found.append((dtype, f"{each:g}", f"{weight / GIB:.2f}", *trained))
    return found
