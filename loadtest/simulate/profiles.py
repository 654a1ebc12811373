"""Profiles of simulated servers: the model's facts for the control plane, and the timing of its machine.

Most built-in profiles rest on measurements. A profile may also come from a JSON file with the same fields:

    {"name": "my-box", "slots": 4, "num_ctx": 4096,
     "timing": {"step": {"table": {"1": [0.020], "2": [0.0235, 0.040]}}, "prefill_s": 0.0028, "handover_s": 0.002},
     "model": {"name": "mine:7b", "parameters": 7000000000}}
"""

from __future__ import annotations

import codecs
import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from loadtest.errors import ScenarioError, os_error_as
from loadtest.simulate.model.timing import StepLaw, Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    name: str
    family: str = "llama"
    parameters: int
    quantization: str
    file_type: int  # GGUF's number for the quantisation: 1 for F16, 2 for Q4_0
    size: int  # bytes of the file
    context_length: int
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int
    on_gpu: bool = True

    @property
    def parameter_size(self) -> str:
        billions = self.parameters / 1e9
        return f"{billions:.1f}B" if billions >= 1 else f"{self.parameters / 1e6:.2f}M"

    @property
    def kv_bytes_per_token(self) -> int:
        """KV cache of one token: 2 · layers · kv_heads · head_dim · 2 bytes (f16)."""
        return 2 * self.layers * self.kv_heads * (self.width // self.heads) * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A machine with a model. `slots` None means no limit; `num_ctx` is the context of requests that name none."""

    name: str
    model: ModelFacts
    timing: Timing
    slots: int | None = 4
    num_ctx: int = 4096


LLAMA_70B = ModelFacts(
    name="llama3.1:70b",
    parameters=70_553_706_560,
    quantization="Q4_0",
    file_type=2,
    size=39_960_000_000,
    context_length=131_072,
    layers=80,
    width=8192,
    feed_forward=28_672,
    heads=64,
    kv_heads=8,
    vocabulary=128_256,
)

LLAMA_1B = ModelFacts(
    name="llama3.2:1b",
    parameters=1_235_814_432,
    quantization="Q4_0",
    file_type=2,
    size=770_000_000,
    context_length=131_072,
    layers=16,
    width=2048,
    feed_forward=8192,
    heads=32,
    kv_heads=8,
    vocabulary=128_256,
)

LLAMA_98M = ModelFacts(
    name="mid:latest",
    parameters=97_710_000,
    quantization="F16",
    file_type=1,
    size=195_472_403,
    context_length=32_768,
    layers=12,
    width=768,
    feed_forward=2048,
    heads=12,
    kv_heads=4,
    vocabulary=597,
    on_gpu=False,
)

_EVEN = Timing(
    step=StepLaw(base_s=0.020),
    prefill_s=0.0,
    prompt_s=0.200,
    prompt_jitter=0.084,
    own_clocks=True,
    handling_s=0.0,
    handover_s=0.0,
)
_BUILT_IN = (
    # Fitted to the published A100 tables (tests/analyse/reports/test_published.py): 25, 21.5 and 15.5 tokens/s a stream with 1, 2 and 4
    # streams, less by 2, 6 and 14 % for answers of 800 words than of 100. The 484-word text took about 1.7 s cold, not
    # interleaved, as with Ollama in mid-2024. The file was read at about 1 GB/s. A num_ctx of 2048 and 4 slots come to the
    # 42 GB of GPU memory that were seen.
    Profile(
        name="a100-80g-llama3.1-70b-q4",
        model=LLAMA_70B,
        timing=Timing(
            step=StepLaw(base_s=0.0322, per_stream_s=0.0065),
            prefill_s=0.0029,
            prompt_s=0.050,
            context_s=5.1e-6,
            n_batch=None,
            load_s=LLAMA_70B.size / 1e9,
            handling_s=0.018,
            handover_s=0.002,
        ),
        num_ctx=2048,
    ),
    # Fitted to the recorded runs of Ollama 0.33 with a 98 M model on one core (tests/simulate/test_simulate_real_runs.py).
    Profile(
        name="cpu-98m",
        model=LLAMA_98M,
        timing=Timing(
            step=StepLaw(table=((1, (0.0203,)), (2, (0.0232,)), (3, (0.0290,)), (4, (0.0275,)))),
            prefill_s=0.00277,
            load_s=0.5,
            handling_s=0.0008,
            handover_s=0.0023,
            neighbours=True,
        ),
    ),
    # Made up: a small model on a good GPU, fast enough for demos and tests.
    Profile(
        name="quick",
        model=LLAMA_1B,
        timing=Timing(step=StepLaw(base_s=0.008, per_stream_s=0.002), prefill_s=0.00025, load_s=0.3),
    ),
    # For benchmarks of clients: independent streams of 50 tokens/s, TTFT p50 200 ms and p99 239 ms.
    Profile(name="metronome", model=LLAMA_1B, timing=_EVEN, slots=None),
    # The same with the tokens of all streams together, as those of an engine's step are.
    Profile(name="lockstep", model=LLAMA_1B, timing=replace(_EVEN, aligned=True), slots=None),
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in _BUILT_IN}


def load_profile(name: str) -> Profile:
    """Return the built-in profile of that name, or the one in the JSON file of that path; ScenarioError otherwise."""
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if not path.is_file():
        raise ScenarioError(f"{name!r} is neither a profile nor a file; the profiles are {', '.join(PROFILES)}.")
    try:
        with os_error_as(ScenarioError, f"cannot read the profile {name}"):
            fields = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise ScenarioError(f"profile {name} does not parse as JSON: {error}.") from None
    try:
        return _profile(fields, path.stem)
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ScenarioError(f"profile {name} makes no sense: {error}.") from None


def _profile(fields: dict[str, Any], stem: str) -> Profile:
    _check(fields, Profile)
    timing = dict(fields["timing"]) if "timing" in fields else {}
    _check(timing, Timing)
    if "step" not in timing or "prefill_s" not in timing:
        raise ValueError("timing needs step and prefill_s")
    step = dict(timing["step"])
    _check(step, StepLaw)
    table = tuple(
        (int(streams), tuple(float(value) for value in (values if isinstance(values, list) else [values])))
        for streams, values in sorted(dict(step.pop("table", {})).items(), key=lambda entry: int(entry[0]))
    )
    in_order = bool(step.pop("in_order", False))
    law = StepLaw(**{key: float(value) for key, value in step.items()}, table=table, in_order=in_order)
    if min(law.values(1)) <= 0:
        raise ValueError("a step must take longer than 0 s")
    timing |= {"step": law} | {
        key: tuple(map(float, timing[key])) for key in ("prompt_factors", "handovers", "relays") if key in timing
    }
    made = Timing(**timing)
    model = dict(fields.get("model", {}))
    _check(model, ModelFacts)
    rest = {key: fields[key] for key in ("slots", "num_ctx") if key in fields}
    return Profile(name=str(fields.get("name", stem)), model=replace(LLAMA_1B, **model), timing=made, **rest)


def _check(fields: Any, cls: type) -> None:
    """Raise TypeError or ValueError for what is no object, a key that the class lacks, and a value that cannot be its own."""
    if not isinstance(fields, dict):
        raise TypeError(f"{cls.__name__} must be an object, not {fields!r:.40}")
    known = {field.name: getattr(field.type, "__name__", str(field.type)) for field in dataclasses.fields(cls)}
    for key, value in fields.items():
        if key not in known:
            raise ValueError(f"unknown key {key!r}; {cls.__name__} has {', '.join(known)}")
        kind, may_be_none, _ = known[key].partition(" | None")
        fits = {
            "float": isinstance(value, int | float) and not isinstance(value, bool) and value >= 0,
            "int": type(value) is int and (value > 0 or key == "file_type"),
            "str": isinstance(value, str),
            "bool": isinstance(value, bool),
        }
        if not fits.get(kind, True) and not (may_be_none and value is None):
            raise ValueError(f"{key} is {value!r:.40}")
