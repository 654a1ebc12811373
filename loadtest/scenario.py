"""What to run: one schema, the one source of TOML keys, command-line options and Locust options.

A scenario is a grid: every combination of concurrency, input length, output length and {words} is a level, and levels
run one after another. Fields carry their help text, so that a key, an option and its documentation cannot drift apart.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from loadtest.errors import ScenarioError

APIS = ("auto", "ollama", "openai")
ENDPOINTS = ("chat", "generate", "completions")


def _key(help_text: str, default: Any, *, unit: str = "") -> Any:
    metadata = {"help": help_text, "unit": unit}
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One cell of the grid."""

    index: int
    concurrency: int
    input_tokens: int | None  # None: a literal prompt decides
    output_tokens: int | None  # None: the model decides
    words: int | None  # what {words} in a literal prompt stands for
    requests: int  # total, warm-up not counted; with a duration, its upper limit does not exist (0)

    @property
    def label(self) -> str:
        """Name the level as charts and tables do, e.g. "8 streams · 128 in · 64 out"."""
        parts = [f"{self.concurrency} stream{'s' if self.concurrency != 1 else ''}"]
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
    input_tokens: tuple[int, ...] = _key("Prompt lengths of made-up prompts.", [128], unit="tokens")
    output_tokens: tuple[int, ...] = _key("Answer lengths asked for.", [64], unit="tokens")
    prompt: str | None = _key("Send this text instead of made-up tokens; {words} is filled in.", None)
    prompt_file: str | None = _key("Send the text of this file; {words} is filled in.", None)
    words: tuple[int, ...] = _key("Values of {words} in the prompt; a list makes a level each.", [])
    requests: int | None = _key("Requests of a level in all; default: requests_per_stream × concurrency.", None)
    requests_per_stream: int = _key("Requests of each stream, where neither requests nor duration is given.", 8)
    duration: float | None = _key(
        "Run each level this long, after its warm-up, instead of a number of requests.", None, unit="s"
    )
    warmup: int = _key("Warm-up requests a stream at the start of a level, kept but not counted.", 1)
    max_rate: float | None = _key("Never start more requests than this.", None, unit="requests/s")
    think_time: float = _key("Pause of a stream between its answer and its next request.", 0.0, unit="s")
    seed: int | None = _key(
        "Seed of every prompt; default: drawn anew (and kept in run.json), for the same texts meet a warm prefix cache.",
        None,
    )
    warm_cache: bool = _key(
        "Leave the nonce out, so that the server's prefix cache may answer; labelled.", default=False
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
    ca_file: str | None = _key(
        "PEM file of the authority to trust over https; default: SSL_CERT_FILE, else the known ones.", None
    )
    save_text: bool = _key("Keep prompts and answers in the records.", default=False)

    def __post_init__(self) -> None:
        _check(self)

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
        if isinstance(named := table.get("prompt_file"), str) and overrides.get("prompt_file") is None:
            table["prompt_file"] = str(path.parent / named)  # a file names its neighbours
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
        merged = {**table, **{key: value for key, value in overrides.items() if value is not None}}
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
        """Return the grid in the order it runs: concurrency changes fastest."""
        literal = self.prompt is not None or self.prompt_file is not None
        inputs: tuple[int | None, ...] = (None,) if literal else self.input_tokens
        words: tuple[int | None, ...] = self.words or (None,)
        outputs: tuple[int | None, ...] = self.output_tokens or (None,)
        cells = itertools.product(words, inputs, outputs, self.concurrency)
        return [
            Level(
                index=index,
                concurrency=streams,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                words=count,
                requests=0 if self.duration is not None else self.requests or self.requests_per_stream * streams,
            )
            for index, (count, input_tokens, output_tokens, streams) in enumerate(cells)
        ]


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
    if not scenario.concurrency:
        raise ScenarioError("concurrency is empty: name at least one number of streams.")
    if not scenario.input_tokens and scenario.prompt is None and scenario.prompt_file is None:
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


def _check_choices(scenario: Scenario) -> None:
    for key, choices in (
        ("api", APIS),
        ("endpoint", ENDPOINTS),
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
    if scenario.requests is not None and scenario.requests < max(scenario.concurrency):
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
