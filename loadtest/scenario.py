"""What to run: one schema, the one source of TOML keys, command-line options and Locust options.

A scenario is a grid: every combination of concurrency (or rate, in an open loop), input length, output length and
{words} is a level, and levels run one after another. Fields carry their help text, so that a key, an option and its documentation cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from loadtest.errors import ScenarioError

APIS = ("auto", "ollama", "openai")
ENDPOINTS = ("chat", "generate", "completions")
ARRIVALS = ("poisson", "constant", "gamma")
OPEN_LOOP_S = 60.0  # a level at a rate lasts this long where neither requests nor duration is given
OPEN_LOOP_KEYS = ("rate", "rate_to", "arrivals", "burstiness", "trace", "max_in_flight")


def _key(help_text: str, default: Any, *, unit: str = "") -> Any:
    metadata = {"help": help_text, "unit": unit}
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One cell of the grid."""

    index: int
    concurrency: int | None  # None: an open loop
    input_tokens: int | None  # None: a literal prompt decides
    output_tokens: int | None  # None: the model decides
    words: int | None  # what {words} in a literal prompt stands for
    requests: int  # total, warm-up not counted; with a duration, its upper limit does not exist (0)
    rate: float | None = None  # requests/s, at its start where rate_to is another; None: closed loop, or a trace
    rate_to: float | None = None  # requests/s at its end
    trace: str | None = None  # name of the file that is replayed

    @property
    def load(self) -> str:
        """Name what the level puts on the server: "8 streams", "4 requests/s", "1 to 8 requests/s" or "trace day.csv"."""
        if self.trace is not None:
            return f"trace {self.trace}"
        if self.concurrency is None and self.rate is not None:
            return f"{self.rate:g} {f'to {self.rate_to:g} ' if self.rate_to is not None else ''}requests/s"
        return f"{self.concurrency or 0} stream{'s' if self.concurrency != 1 else ''}"

    @property
    def label(self) -> str:
        """Name the level as charts and tables do, e.g. "8 streams · 128 in · 64 out"."""
        parts = [self.load]
        if self.input_tokens is not None:
            parts.append(f"{self.input_tokens} in")
        if self.output_tokens is not None:
            parts.append(f"{self.output_tokens} out")
        if self.words is not None:
            parts.append(f"{self.words} words")
        return " · ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that decides what is sent; immutable, and written whole into run.json."""

    name: str = _key("Name of the run: part of its folder's name and of every title.", "run")
    url: str | None = _key("Base URL of the server; default: OLLAMA_HOST, OPENAI_BASE_URL, or the local Ollama.", None)
    api: str = _key("Wire of the server: auto, ollama (native) or openai.", "auto")
    endpoint: str = _key("chat, generate (Ollama) or completions (OpenAI).", "chat")
    model: str | None = _key("Model name; default: the one that is loaded, else the only one.", None)
    concurrency: tuple[int, ...] = _key("Streams at once (closed loop); a list makes a level each.", [1, 2, 4, 8])
    rate: tuple[float, ...] = _key(
        "Requests a second, sent when due whoever still waits (open loop, instead of concurrency); a list makes a level each.",
        [],
        unit="requests/s",
    )
    rate_to: float | None = _key(
        "Let the rate change evenly over each level, up or down to this.", None, unit="requests/s"
    )
    arrivals: str = _key(
        "How requests come at a rate: poisson (independent of each other), constant, or gamma (see burstiness).",
        "poisson",
    )
    burstiness: float | None = _key(
        "Shape of gamma arrivals: 1 is Poisson, below it they come in bursts, above it ever more evenly.", None
    )
    trace: str | None = _key(
        "Send when this file says (open loop): an instant a line in seconds, or CSV or JSON lines, with lengths if it has them.",
        None,
    )
    max_in_flight: int | None = _key(
        "Open loop: what is due while so many requests are in flight is not sent, and recorded as shed.", None
    )
    input_tokens: tuple[int, ...] = _key("Prompt lengths of made-up prompts.", [128], unit="tokens")
    up_to_context: bool = _key(
        "Leave out prompt lengths that do not fit the model's context, and add the longest that does.", default=False
    )
    output_tokens: tuple[int, ...] = _key("Answer lengths asked for.", [64], unit="tokens")
    prompt: str | None = _key("Send this text instead of made-up tokens; {words} is filled in.", None)
    prompt_file: str | None = _key("Send the text of this file; {words} is filled in.", None)
    words: tuple[int, ...] = _key("Values of {words} in the prompt; a list makes a level each.", [])
    requests: int | None = _key(
        "Requests of a level in all; default: requests_per_stream × concurrency; at a rate: those of 60 s.", None
    )
    requests_per_stream: int = _key("Requests of each stream, where neither requests nor duration is given.", 8)
    duration: float | None = _key(
        "Run each level this long, after its warm-up, instead of a number of requests.", None, unit="s"
    )
    warmup: int = _key(
        "Warm-up requests a stream at the start of a level, kept but not counted (open loop: one by one, in all).", 1
    )
    max_rate: float | None = _key("Never start more requests than this.", None, unit="requests/s")
    think_time: float = _key("Pause of a stream between its answer and its next request.", 0.0, unit="s")
    workers: int = _key(
        "Processes that send, each with a core of its own to use; they share the load exactly, and begin levels together.",
        1,
    )
    seed: int | None = _key(
        "Seed of every prompt; default: drawn anew (and kept in run.json), for the same texts meet a warm prefix cache.",
        None,
    )
    warm_cache: bool = _key(
        "Leave the nonce out, so that the server's prefix cache may answer; labelled.", default=False
    )
    unload: bool = _key(
        "Unload the model before every request, so that each waits for a cold load; one stream, no warm-up (Ollama).",
        default=False,
    )
    num_ctx: int | None = _key(
        "Ollama context length, the same for the whole run (a change reloads).", None, unit="tokens"
    )
    temperature: float | None = _key("Sampling temperature; default: the server's.", None)
    max_tokens_key: str = _key("OpenAI field for the answer length: max_tokens or max_completion_tokens.", "max_tokens")
    connect_timeout: float = _key("Longest wait for a connection.", 10.0, unit="s")
    first_byte_timeout: float = _key("Longest wait for the first byte; covers the whole queue.", 3600.0, unit="s")
    idle_timeout: float = _key("Longest silence inside an answer.", 300.0, unit="s")
    total_timeout: float | None = _key("Longest time for a whole request.", None, unit="s")
    max_error_ratio: float = _key("Errors above this share make a level suspect.", 0.0)
    stop_after_errors: int | None = _key("End a level after so many requests failed in a row.", None)
    ca_file: str | None = _key(
        "PEM file of the authority to trust over https; default: SSL_CERT_FILE, else the known ones.", None
    )
    save_text: bool = _key("Keep prompts and answers in the records.", default=False)

    def __post_init__(self) -> None:
        if self.open_loop:
            object.__setattr__(self, "concurrency", ())
            if self.rate and self.requests is None and self.duration is None:
                object.__setattr__(self, "duration", OPEN_LOOP_S)
        _check(self)
        _check_open_loop(self)

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent when due, whoever still waits for an answer."""
        return bool(self.rate) or self.trace is not None

    @property
    def arrival_pattern(self) -> str | None:
        """Name how requests come, None in a closed loop: two runs that differ in it are no measure of each other."""
        if not self.open_loop:
            return None
        if self.trace is not None:
            return f"trace {Path(self.trace).name}"
        pattern = self.arrivals if self.burstiness is None else f"{self.arrivals}, burstiness {self.burstiness:g}"
        return pattern if self.rate_to is None else f"{pattern}, rate to {self.rate_to:g}"

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> Self:
        """Read a TOML file and lay `overrides` (those not None) over it; raise ScenarioError with one sentence."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ScenarioError(f"cannot read {path}: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise ScenarioError(f"{path} is not UTF-8 text; a scenario is a TOML file.") from None
        except tomllib.TOMLDecodeError as error:
            raise ScenarioError(f"{path} is not valid TOML: {error}.") from None
        table.setdefault("name", path.stem)
        for key in ("prompt_file", "trace"):
            if isinstance(named := table.get(key), str) and overrides.get(key) is None:
                table[key] = str(path.parent / named)  # a file names its neighbours
        return cls.from_dict(table, where=str(path), **overrides)

    @classmethod
    def from_dict(cls, table: dict[str, Any], *, where: str = "the scenario", **overrides: Any) -> Self:
        """Build a Scenario from plain values, checking keys and types; `where` is named in errors."""
        fields = {spec.name: spec for spec in dataclasses.fields(cls)}
        for key in table:
            if key not in fields:
                near = difflib.get_close_matches(key.replace("-", "_"), fields, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(fields)}."
                raise ScenarioError(f"{where} has an unknown key {key!r}{hint}")
        given = {key: value for key, value in overrides.items() if value is not None}
        merged = {**_other_loop_left_out(table, given), **given}
        if merged.get("concurrency") and (merged.get("rate") or merged.get("trace")):
            raise ScenarioError(f"{where} has both concurrency (closed loop) and rate or trace (open loop); give one.")
        types_by_name = typing.get_type_hints(cls)
        return cls(**{key: _coerce(key, value, types_by_name[key], where) for key, value in merged.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, for run.json; `from_dict` takes them back."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`, checked like any other."""
        return dataclasses.replace(self, **changes)

    def prompt_text(self) -> str | None:
        """Return the literal prompt, read from its file where it has one; None when prompts are made up."""
        if self.prompt_file is None:
            return self.prompt
        try:
            text = Path(self.prompt_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScenarioError(f"cannot read the prompt file {self.prompt_file}: {error}.") from None
        if not text.strip():
            raise ScenarioError(f"the prompt file {self.prompt_file} is empty.")
        return text

    def levels(self) -> list[Level]:
        """Return the grid in the order it runs: concurrency (or rate) changes fastest."""
        literal = self.prompt is not None or self.prompt_file is not None
        inputs: tuple[int | None, ...] = (None,) if literal else self.input_tokens or (None,)
        words: tuple[int | None, ...] = self.words or (None,)
        outputs: tuple[int | None, ...] = self.output_tokens or (None,)
        loads: list[tuple[int | None, float | None]] = [(streams, None) for streams in self.concurrency]
        loads += [(None, rate) for rate in self.rate]
        if self.trace is not None:
            loads.append((None, None))
        cells = itertools.product(words, inputs, outputs, loads)
        return [
            Level(
                index=index,
                concurrency=streams,
                rate=rate,
                rate_to=self.rate_to,
                trace=Path(self.trace).name if self.trace is not None else None,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                words=count,
                requests=0 if self.duration is not None else self.requests or self.requests_per_stream * (streams or 0),
            )
            for index, (count, input_tokens, output_tokens, (streams, rate)) in enumerate(cells)
        ]


def _other_loop_left_out(table: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return a file's table without its loop where the options given ask for the other one."""
    if "concurrency" in given and not {"rate", "trace"} & given.keys():
        return {key: value for key, value in table.items() if key not in OPEN_LOOP_KEYS}
    other = {"rate": {"concurrency", "trace"}, "trace": {"concurrency", "rate", "rate_to"}}
    dropped = set().union(*(other[key] for key in ("rate", "trace") if key in given))
    return {key: value for key, value in table.items() if key not in dropped}


def _check(scenario: Scenario) -> None:
    """Raise ScenarioError, naming the key, for the first value that makes no sense."""
    for key, values, low in (
        ("concurrency", scenario.concurrency, 1),
        ("input_tokens", scenario.input_tokens, 1),
        ("output_tokens", scenario.output_tokens, 1),
        ("words", scenario.words, 1),
    ):
        for value in values:
            if value < low:
                raise ScenarioError(f"{key} must be {low} or more, not {value}.")
        if len(set(values)) != len(values):
            raise ScenarioError(f"{key} names a value twice: {', '.join(map(str, values))}.")
    if not scenario.concurrency and not scenario.open_loop:
        raise ScenarioError("concurrency is empty: name at least one number of streams.")
    if not (scenario.input_tokens or scenario.trace or scenario.prompt is not None or scenario.prompt_file is not None):
        raise ScenarioError("input_tokens is empty: name a prompt length, or give a prompt.")
    for key in ("requests", "requests_per_stream", "duration", "max_rate", "num_ctx", "total_timeout"):
        value = getattr(scenario, key)
        if value is not None and not value > 0:
            raise ScenarioError(f"{key} must be above 0, not {value}.")
    for key in ("connect_timeout", "first_byte_timeout", "idle_timeout"):
        if not getattr(scenario, key) > 0:
            raise ScenarioError(f"{key} must be above 0, not {getattr(scenario, key)}.")
    for key in ("warmup", "think_time", "max_error_ratio"):
        if getattr(scenario, key) < 0:
            raise ScenarioError(f"{key} must be 0 or more, not {getattr(scenario, key)}.")
    _check_choices(scenario)
    _check_modes(scenario)
    _check_workers(scenario)


def _check_modes(scenario: Scenario) -> None:
    """Raise ScenarioError where up_to_context or unload meets a key that it makes no sense with."""
    if scenario.up_to_context:
        if scenario.prompt is not None or scenario.prompt_file is not None or scenario.trace is not None:
            raise ScenarioError(
                "up_to_context chooses the length of made-up prompts; leave prompt, prompt_file and trace away."
            )
        if not scenario.output_tokens:
            raise ScenarioError("up_to_context must know how much of the context the answer takes; give output_tokens.")
    if scenario.unload:
        if scenario.concurrency != (1,):
            raise ScenarioError(
                "unload measures one load at a time; set concurrency = 1, and requests to how many loads."
            )
        if scenario.api == "openai":
            raise ScenarioError("unload works over Ollama's own API only; leave --api away or set it to ollama.")


def _check_workers(scenario: Scenario) -> None:
    """Raise ScenarioError for a number of processes that cannot share the load."""
    workers, most = scenario.workers, scenario.max_in_flight
    if workers < 1:
        raise ScenarioError(f"workers must be 1 or more, not {workers}.")
    if most is not None and 0 < most < workers:
        raise ScenarioError(
            f"max_in_flight = {most} cannot be shared by {workers} workers; ask for {most} workers or fewer."
        )


def _check_open_loop(scenario: Scenario) -> None:
    """Raise ScenarioError for keys that an open loop cannot have, and for those that only it can."""
    for key in ("rate_to", "burstiness", "max_in_flight"):
        value = getattr(scenario, key)
        if value is not None and not 0 < value < math.inf:
            raise ScenarioError(f"{key} must be above 0, not {value}.")
    for rate in scenario.rate:
        if not 0 < rate < math.inf:
            raise ScenarioError(f"rate must be above 0, not {rate:g}.")
    if len(set(scenario.rate)) != len(scenario.rate):
        raise ScenarioError(f"rate names a value twice: {', '.join(f'{rate:g}' for rate in scenario.rate)}.")
    if scenario.rate and scenario.trace is not None:
        raise ScenarioError("rate and trace exclude each other; a trace has its own instants.")
    if not scenario.rate:
        for key in ("rate_to", "burstiness"):
            if getattr(scenario, key) is not None:
                raise ScenarioError(f"{key} shapes an open loop at a rate, and there is none; add rate.")
        if scenario.arrivals != "poisson":
            raise ScenarioError(f"arrivals = {scenario.arrivals} needs a rate; add rate, e.g. rate = [4].")
    if not scenario.open_loop:
        if scenario.max_in_flight is not None:
            raise ScenarioError(
                "max_in_flight limits an open loop; add rate or trace (concurrency is a limit by itself)."
            )
        return
    if (scenario.arrivals == "gamma") != (scenario.burstiness is not None):
        raise ScenarioError("gamma arrivals and burstiness go together; give both, e.g. burstiness = 0.5, or neither.")
    for key in ("max_rate", "think_time"):
        if getattr(scenario, key):
            raise ScenarioError(f"{key} slows the streams of a closed loop; leave it away in an open loop.")


def _check_choices(scenario: Scenario) -> None:
    for key, choices in (
        ("api", APIS),
        ("endpoint", ENDPOINTS),
        ("arrivals", ARRIVALS),
        ("max_tokens_key", ("max_tokens", "max_completion_tokens")),
    ):
        if getattr(scenario, key) not in choices:
            raise ScenarioError(f"{key} must be one of {', '.join(choices)}, not {getattr(scenario, key)!r}.")
    if (scenario.api, scenario.endpoint) in (("ollama", "completions"), ("openai", "generate")):
        other = "generate" if scenario.api == "ollama" else "completions"
        raise ScenarioError(f"api {scenario.api} has no endpoint {scenario.endpoint!r}; use chat or {other}.")
    if scenario.prompt is not None and scenario.prompt_file is not None:
        raise ScenarioError("prompt and prompt_file exclude each other; give one.")
    if scenario.requests is not None and scenario.duration is not None:
        raise ScenarioError("requests and duration exclude each other; give one.")
    if scenario.words and scenario.prompt is None and scenario.prompt_file is None:
        raise ScenarioError("words fills {words} in a prompt, and there is none; give prompt or prompt_file.")
    if scenario.words and scenario.prompt is not None and "{words}" not in scenario.prompt:
        raise ScenarioError(f"words is given, but the prompt has no {{words}} in it: {scenario.prompt[:60]!r}.")
    if not scenario.words and scenario.prompt is not None and "{words}" in scenario.prompt:
        raise ScenarioError("the prompt has {words} in it; say which with words, e.g. words = [25, 100].")
    if scenario.prompt is not None and not scenario.prompt.strip():
        raise ScenarioError("the prompt is empty.")
    if scenario.requests is not None and scenario.requests < max(scenario.concurrency, default=0):
        streams = max(scenario.concurrency)
        raise ScenarioError(
            f"requests = {scenario.requests} cannot keep {streams} streams busy; ask for {streams} or more."
        )


def _coerce(key: str, value: Any, wanted: Any, where: str) -> Any:
    """Return `value` as the type that the field wants; a lone number is a list of one. Raise ScenarioError."""
    origin = typing.get_origin(wanted)
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_coerce(key, item, typing.get_args(wanted)[0], where) for item in items)
    options = typing.get_args(wanted) if origin in (typing.Union, types.UnionType) else (wanted,)
    if value is None and type(None) in options:
        return None
    if float in options and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    for option in options:
        if isinstance(value, option) and not (option is int and isinstance(value, bool)):
            return value
    names = " or ".join("nothing" if option is type(None) else _NAMES[option] for option in options)
    raise ScenarioError(f"{where}: {key} must be {names}, not {value!r}.")


_NAMES: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
