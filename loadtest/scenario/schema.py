"""A scenario's keys: each carries its help text, its unit and its bounds, so that key, option and documentation cannot drift apart.

A scenario is a grid: every combination of concurrency (or rate, in an open loop), input length, output length and
{words} is a level, and levels run one after another.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import tomllib
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from loadtest.errors import ScenarioError
from loadtest.scenario.checks import check
from loadtest.scenario.files import prompt_of, read_text
from loadtest.scenario.level import Level
from loadtest.scenario.values import (
    BURSTINESS,
    MOST_REQUESTS,
    MOST_STREAMS,
    RATE,
    SECONDS,
    TOKENS,
    Range,
    coerce,
    encodable,
    said,
)

OPEN_LOOP_S = 60.0  # a level at a rate lasts this long where neither requests nor duration is given
OPEN_LOOP_KEYS = ("rate", "rate_to", "arrivals", "burstiness", "trace", "max_in_flight")
FORMER = {"first_byte_timeout": "first_token_timeout"}  # old name of a key -> its name
MOST_TOML = 4 << 20  # bytes of a scenario file

_STREAMS = Range(1, MOST_STREAMS, instead="share more between several machines")
_REQUESTS = Range(1, MOST_REQUESTS, above_zero=True, instead="run several levels, or give duration")
_PAUSE = Range(0, 86_400)


def _key(help_text: str, default: Any, *, unit: str = "", bounds: Range | None = None) -> Any:
    metadata = {"help": help_text, "unit": unit, "bounds": bounds}
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that decides what is sent; immutable, and written whole into run.json."""

    name: str = _key("Name of the run: part of its folder's name and of every title.", "run")
    url: str | None = _key("Base URL of the server; default: OLLAMA_HOST, OPENAI_BASE_URL, or the local Ollama.", None)
    api: str = _key("Wire of the server: auto, ollama (native) or openai.", "auto")
    endpoint: str = _key("chat, generate (Ollama) or completions (OpenAI).", "chat")
    model: str | None = _key("Model name; default: the one that is loaded, else the only one.", None)
    concurrency: Sequence[int] = _key(
        "Streams at once (closed loop); a list makes a level each.", [1, 2, 4, 8], bounds=_STREAMS
    )
    rate: Sequence[float] = _key(
        "Requests a second, sent when due whoever still waits (open loop, instead of concurrency); a list makes a level each.",
        [],
        unit="requests/s",
        bounds=RATE,
    )
    rate_to: float | None = _key(
        "Let the rate change evenly over each level, up or down to this.", None, unit="requests/s", bounds=RATE
    )
    arrivals: str = _key(
        "How requests come at a rate: poisson (independent of each other), constant, or gamma (see burstiness).",
        "poisson",
    )
    burstiness: float | None = _key(
        "Shape of gamma arrivals: 1 is Poisson, below it they come in bursts, above it ever more evenly.",
        None,
        bounds=BURSTINESS,
    )
    trace: str | None = _key(
        "Send when this file says (open loop): an instant a line in seconds, or CSV or JSON lines, with lengths if it has them.",
        None,
    )
    max_in_flight: int | None = _key(
        "Open loop: what is due while so many requests are in flight is not sent, and recorded as shed.",
        None,
        bounds=dataclasses.replace(_STREAMS, above_zero=True),
    )
    input_tokens: Sequence[int] = _key("Prompt lengths of made-up prompts.", [128], unit="tokens", bounds=TOKENS)
    up_to_context: bool = _key(
        "Leave out prompt lengths that do not fit the model's context, and add the longest that does.", default=False
    )
    output_tokens: Sequence[int] = _key("Answer lengths asked for.", [64], unit="tokens", bounds=TOKENS)
    prompt: str | None = _key("Send this text instead of made-up tokens; {words} is filled in.", None)
    prompt_file: str | None = _key("Send the text of this file; {words} is filled in.", None)
    words: Sequence[int] = _key("Values of {words} in the prompt; a list makes a level each.", [], bounds=Range(1, 1e9))
    requests: int | None = _key(
        "Requests of a level in all; default: requests_per_stream × concurrency; at a rate: those of 60 s.",
        None,
        bounds=_REQUESTS,
    )
    requests_per_stream: int = _key(
        "Requests of each stream, where neither requests nor duration is given.", 8, bounds=_REQUESTS
    )
    least_requests: int | None = _key(
        "Requests of a level at least, where no number of requests is given; default: what --slo needs.",
        None,
        bounds=_REQUESTS,
    )
    duration: float | None = _key(
        "Run each level this long, after its warm-up, instead of a number of requests.",
        None,
        unit="s",
        bounds=SECONDS,
    )
    warmup: int = _key(
        "Warm-up requests a stream at the start of a level, kept but not counted (open loop: one by one, in all).",
        1,
        bounds=Range(0, 100_000),
    )
    max_rate: float | None = _key("Never start more requests than this.", None, unit="requests/s", bounds=RATE)
    think_time: float = _key("Pause of a stream between its answer and its next request.", 0.0, unit="s", bounds=_PAUSE)
    workers: int = _key(
        "Processes that send, each with a core of its own to use; they share the load exactly, and begin levels together.",
        1,
        bounds=Range(1, 1024),
    )
    seed: int | None = _key(
        "Seed of every prompt; default: drawn anew (and kept in run.json), for the same texts meet a warm prefix cache.",
        None,
        bounds=Range(-(2**63) + 1, 2**63 - 1),
    )
    warm_cache: bool = _key(
        "Leave the nonce out, so that the server's prefix cache may answer; labelled.", default=False
    )
    unload: bool = _key(
        "Unload the model before every request, so that each waits for a cold load; one stream, no warm-up (Ollama).",
        default=False,
    )
    num_ctx: int | None = _key(
        "Ollama context length, the same for the whole run (a change reloads).",
        None,
        unit="tokens",
        bounds=Range(1, 2**31 - 1, above_zero=True),
    )
    temperature: float | None = _key("Sampling temperature; default: the server's.", None, bounds=Range(0, 100))
    max_tokens_key: str = _key("OpenAI field for the answer length: max_tokens or max_completion_tokens.", "max_tokens")
    connect_timeout: float = _key("Longest wait for a connection.", 10.0, unit="s", bounds=SECONDS)
    first_token_timeout: float = _key(
        "Longest wait for the first token; covers the whole queue.", 3600.0, unit="s", bounds=SECONDS
    )
    idle_timeout: float = _key("Longest silence inside an answer.", 300.0, unit="s", bounds=SECONDS)
    total_timeout: float | None = _key("Longest time for a whole request.", None, unit="s", bounds=SECONDS)
    max_error_ratio: float = _key(
        "Errors above this share make a level suspect.", 0.0, bounds=Range(0, 1, instead="5 % is 0.05")
    )
    stop_after_errors: int | None = _key(
        "End a level after so many requests failed in a row, in any one of several processes.",
        None,
        bounds=Range(1, MOST_REQUESTS),
    )
    ca_file: str | None = _key(
        "PEM file of the authority to trust over https; default: SSL_CERT_FILE, else the known ones.", None
    )
    save_text: bool = _key("Keep prompts and answers in the records.", default=False)

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(
            type(self)
        ).items():  # lists become tuples: the scenario is immutable throughout
            object.__setattr__(self, name, coerce(name, getattr(self, name), kind, "the scenario"))
        if self.open_loop:
            object.__setattr__(self, "concurrency", ())
            if self.rate and self.requests is None and self.duration is None:
                object.__setattr__(self, "duration", OPEN_LOOP_S)
        check(self)

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
    def load(cls, path: Path, *, say: Callable[[str], object] | None = None, **overrides: Any) -> Self:
        """Read a TOML file and lay `overrides` (those not None) over it; raise ScenarioError with one sentence.

        `say` is told, a sentence each, what the file has under a former name.
        """
        if not encodable(str(path)):
            raise ScenarioError(f"the scenario's path is not UTF-8 text ({said(str(path))}); rename it.")
        text = read_text(path, "scenario", most=MOST_TOML)
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            hint = f"; run a Locust file with `locust -f {path}`" if path.suffix == ".py" else ""
            raise ScenarioError(f"{path} is not valid TOML: {error}{hint}.") from None
        except (ValueError, RecursionError):  # a number of thousands of digits; brackets without end
            raise ScenarioError(f"{path} is not valid TOML: a value in it is too long or too deep.") from None
        table = _renamed(table, str(path), say)
        table.setdefault("name", path.stem)
        for key in ("prompt_file", "trace"):
            if isinstance(named := table.get(key), str) and named and overrides.get(key) is None:
                table[key] = str(path.parent / named)  # a file names its neighbours
        return cls.from_dict(table, where=str(path), say=say, **overrides)

    @classmethod
    def from_dict(
        cls,
        table: dict[str, Any],
        *,
        where: str = "the scenario",
        say: Callable[[str], object] | None = None,
        **overrides: Any,
    ) -> Self:
        """Build a Scenario from plain values, checking keys and types; `where` is named in errors."""
        table = _renamed(table, where, say)
        given = {key: value for key, value in overrides.items() if value is not None}
        given = _renamed(given, "the command line", say)
        _check_keys(table, [spec.name for spec in dataclasses.fields(cls)], where)
        merged = {**_other_loop_left_out(table, given), **given}
        if merged.get("concurrency") and (merged.get("rate") or merged.get("trace")):
            raise ScenarioError(f"{where} has both concurrency (closed loop) and rate or trace (open loop); give one.")
        types_by_name = typing.get_type_hints(cls)
        return cls(**{key: coerce(key, value, types_by_name[key], where) for key, value in merged.items()})

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
        return prompt_of(Path(self.prompt_file), has_words=bool(self.words))

    def levels(self) -> list[Level]:
        """Return the grid in the order it runs: concurrency (or rate) changes fastest."""
        literal = self.prompt is not None or self.prompt_file is not None
        inputs: Sequence[int | None] = (None,) if literal else self.input_tokens or (None,)
        words: Sequence[int | None] = self.words or (None,)
        outputs: Sequence[int | None] = self.output_tokens or (None,)
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
                requests=0
                if self.duration is not None
                else self.requests or self._each_stream(streams or 0) * (streams or 0),
            )
            for index, (count, input_tokens, output_tokens, (streams, rate)) in enumerate(cells)
        ]

    def _each_stream(self, streams: int) -> int:
        """Return how many requests each of so many streams sends, where nothing else ends a level."""
        least = self.least_requests or 0
        return max(self.requests_per_stream, math.ceil(least / streams)) if streams else self.requests_per_stream


def _renamed(table: dict[str, Any], where: str, say: Callable[[str], object] | None) -> dict[str, Any]:
    """Return the table with every former name of a key replaced; raise ScenarioError where it has both names."""
    for former, name in FORMER.items():
        if table.get(former) is None:
            continue
        if table.get(name) is not None:
            raise ScenarioError(f"{where} has both {name} and {former}, its former name; give {name} alone.")
        if say is not None:
            say(f"{where} has {former}, which is called {name} now; the former name is taken, too.")
        table = {name if key == former else key: value for key, value in table.items() if key != name}
    return {key: value for key, value in table.items() if key not in FORMER}


def _check_keys(table: dict[str, Any], known: list[str], where: str) -> None:
    """Raise ScenarioError for a key that there is not, with the nearest one."""
    for key, value in table.items():
        if key in known:
            continue
        if isinstance(value, dict):
            inside = [name for name in value if name in known]
            keys = f"its keys ({', '.join(inside)})" if inside else "keys that there are"
            raise ScenarioError(
                f"{where} has a table [{_short(key)}], and a scenario has none; write {keys} at the top of the file."
            )
        near = difflib.get_close_matches(key.replace("-", "_").lower(), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}."
        raise ScenarioError(f"{where} has an unknown key {_short(key)!r}{hint}")


def _short(key: str) -> str:
    return key if len(key) <= 40 else key[:39] + "…"


def _other_loop_left_out(table: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return a file's table without its loop where the options given ask for the other one."""
    if "concurrency" in given and not {"rate", "trace"} & given.keys():
        return {key: value for key, value in table.items() if key not in OPEN_LOOP_KEYS}
    other = {"rate": {"concurrency", "trace"}, "trace": {"concurrency", "rate", "rate_to"}}
    dropped = set().union(*(other[key] for key in ("rate", "trace") if key in given))
    return {key: value for key, value in table.items() if key not in dropped}
