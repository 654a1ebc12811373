"""A scenario's key: one declaration makes the TOML key, the command-line option and the Locust user's attribute.

What bodies, client libraries and other tools call the same key is here, too, for hints to people who write that.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from loadtest.errors import ScenarioError
from loadtest.scenario.distributions import LENGTHS, TIMES, as_users_write
from loadtest.scenario.files import from_home
from loadtest.scenario.values import Range, Text, coerce, read_share, short_repr

ATTRIBUTE, OPTION = "attribute", "option"  # of Locust: an attribute of a user class, an option of the test


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key with all that its readers need: TOML files, command lines and Locust."""

    # `keys_of` fills in these three: a dataclass field has its name and its type only once the class is made
    name: str = ""
    hint: Any = None  # the field's type, as `coerce` takes it
    default: Any = None
    help: str
    unit: str = ""
    bounds: Range | None = None
    choices: tuple[str, ...] = ()
    text: Text | None = None
    table: str | None = None  # TOML table that the key stands in; keys of the first releases stand above all tables
    also_in: str | None = None  # a second table in which it may stand
    length: bool = False  # its value is a number of tokens, or a distribution of them as a text
    span: bool = False  # its value is a number of seconds, or a distribution of them as a text
    share: bool = False  # may be written `5%`
    locust: tuple[str, ...] = ()  # where Locust's users can set the key: ATTRIBUTE, OPTION
    # of a list that belongs to every level: the metavar of its option, which is given once a value
    repeat: str | None = None
    joined: str | None = None  # of a text that may name several things: what stands between two of them
    file: str | None = None  # of a key that names a file: what stands before the name, "" or "@"
    metavar: str | None = None  # stands for a value in help where its type says too little
    valid: Callable[[Any], object] | None = None  # raises for a value that is wrong in a way of its own
    convert: Callable[[Any], Any] | None = None  # turns what else a user may give into a value of the key's type

    @property
    def many(self) -> bool:
        """Whether the key takes a list, each value a level of its own."""
        return self.listed and self.repeat is None

    @property
    def listed(self) -> bool:
        return get_origin(self.hint) in (Sequence, tuple)

    @property
    def kind(self) -> type:
        """The type of one value: int, float, str or bool."""
        hint = get_args(self.hint)[0] if self.listed else self.hint
        options = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kind: type = next(option for option in options if option is not type(None))
        return kind

    def read(self, value: Any, where: str) -> Any:
        """Return a value, as a file, an option or a script gives it, as the scenario keeps it.

        A list of texts becomes the one text that it stands for, `5%` the share, and a list a tuple. Raises ScenarioError for a
        value that no scenario could have; `where` it comes from is named for one of a wrong kind.
        """
        if self.file is not None:
            value = from_home(value, self.file)
        if self.convert is not None:
            value = self.convert(value)
        if self.share and isinstance(value, str):
            try:
                value = read_share(value)
            except ValueError:
                raise ScenarioError(
                    f"{where}: {self.name} must be a share like 5% or 0.05, not {short_repr(value)}."
                ) from None
        if self.joined is not None and isinstance(value, list | tuple):
            if not value or not all(isinstance(one, str) and one.strip() for one in value):
                raise ScenarioError(f"{where}: {self.name} must be a text or a list of texts, none of them empty.")
            value = self.joined.join(value)
        value = coerce(self.name, value, self.hint, where)
        if self.length or self.span:
            of = LENGTHS if self.length else TIMES
            every = tuple(as_users_write(self.name, one, of) for one in (value if self.listed else (value,)))
            value = every if self.listed else every[0]
        self._check(value)
        return value

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    def _check(self, value: Any) -> None:
        """Raise ScenarioError, naming the key, for a value that no scenario could have; None is always one."""
        if value is None:
            return
        for one in value if self.listed else (value,):
            if self.bounds is not None and not isinstance(one, str):
                self.bounds.check(self.name, one)
            if self.choices and one not in self.choices:
                raise ScenarioError(f"{self.name} must be one of {', '.join(self.choices)}, not {short_repr(one)}.")
            if self.text is not None:
                self.text.check(self.name, one)
        if self.many and len(set(value)) != len(value):
            raise ScenarioError(f"{self.name} names a value twice: {_values_text(value)}.")
        if self.valid is not None:
            self.valid(value)


def key(help_text: str, default: Any, **fields: Any) -> Any:
    """Return the dataclass field of a key; `fields` are further fields of `Key`. A default list becomes a tuple."""
    metadata = {"key": Key(help=help_text, **fields)}
    return field(default=tuple(default) if isinstance(default, list) else default, metadata=metadata)


# of the table [request], for runs and for Locust's users alike
request_key = functools.partial(key, table="request", locust=(ATTRIBUTE, OPTION))


def keys_of(schema: Any) -> tuple[Key, ...]:
    """Return the keys of a scenario class, or of one of its parts, in the order in which they are declared."""
    return _cached_keys(schema)  # mypy takes no class whose instances have their own __hash__ for hashable


@functools.cache
def _cached_keys(schema: Any) -> tuple[Key, ...]:
    hints = get_type_hints(schema)
    return tuple(
        dataclasses.replace(spec.metadata["key"], name=spec.name, hint=hints[spec.name], default=spec.default)
        for spec in dataclasses.fields(schema)
    )


def _values_text(values: tuple[Any, ...]) -> str:
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values[:20]]
    return ", ".join([*shown, "…"] if len(values) > 20 else shown)


_OTHERS = {  # our key -> what bodies, client libraries and other tools call it
    "output_tokens": "max_tokens max_completion_tokens max_output_tokens max_new_tokens num_predict n_predict output_len "
    "osl n_gen tg random_output_len mean_output_tokens",
    "input_tokens": "input_len prompt_tokens prompt_len isl n_prompt pp random_input_len mean_input_tokens",
    "think": "reasoning_effort reasoning thinking enable_thinking no_think",
    "stop": "stop_sequence stop_sequences",
    "body": "extra_body min_p frequency_penalty presence_penalty repetition_penalty logit_bias logprobs response_format "
    "chat_template_kwargs tools min_tokens extra_inputs extra_request_body additional_sampling_params",
    "header": "headers extra_headers user_agent",
    "key_env": "api_key key token",
    "url": "base_url api_base host port server server_url target endpoint_url unix_socket",
    "proxy": "socks5 socks5h",
    "no_proxy": "noproxy",
    "concurrency": "users vus num_users max_concurrency connections parallel num_concurrent_requests",
    "requests": "num_prompts num_prompt num_requests request_count max_requests iterations number "
    "max_num_completed_requests",
    "rate": "request_rate qps rps query_per_second",
    "duration": "run_time max_seconds max_duration benchmark_duration",
    "data": "dataset dataset_path dataset_name input_file",
    "total_timeout": "timeout request_timeout request_timeout_seconds read_timeout max_time",
    "insecure": "verify no_verify verify_ssl skip_verify tls_skip_verify insecure_skip_tls_verify",
    "ca_file": "cacert ca_cert ca_bundle",
    "api": "backend api_type",
    "num_ctx": "context_length ctx_size",
    "model": "models model_names served_model_name engine deployment",
    "workers": "threads processes max_workers workers_max",
    "warmup": "num_warmups warmup_requests warmup_request_count",
    "turns": "session_turns_mean conversation_turn_mean multi_turn",
    "think_time": "conversation_turn_delay_mean",
    "system_tokens": "shared_system_prompt_length random_prefix_len prefix_prompt_length prefix_length",
    "prefixes": "num_prefix_prompts",
    "seed": "random_seed",
}
# What is an option's alone: letters of other tools (curl, hey, ab, wrk, Locust), and where results go.
OPTION_OF = {
    "c": "concurrency",
    "u": "concurrency",
    "n": "requests",
    "q": "rate",
    "z": "duration",
    "m": "model",
    "k": "insecure",
    "H": "header",
    **dict.fromkeys(("o", "output", "output_dir", "output_path", "output_file", "result_dir", "artifact_dir"), "out"),
    "goodput": "slo",
}
KEY_OF = {other: key for key, others in _OTHERS.items() for other in others.split()}
