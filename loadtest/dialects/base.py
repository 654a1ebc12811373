"""What every wire format gives: a request's path, headers and body, and a decoder from body bytes to events. No I/O here."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol, Self, cast

import orjson

from loadtest import credentials, metrics
from loadtest.errors import ScenarioError
from loadtest.metrics import NS_PER_S, ServerSaid
from loadtest.scenario import MAX_TOKENS_KEYS, SAID_KEYS, THINK, Scenario
from loadtest.scenario.request_additions import filled_body, filled_headers
from loadtest.text import join_text
from loadtest.workloads.job import Job

Note = Callable[[str], object]  # takes a sentence on what is odd in an answer


@dataclass(slots=True)
class ContentEvents:
    """The content events of one answer in columns, an entry per event; an event is a piece of text, visible or hidden."""

    texts: list[str] = field(default_factory=list)
    # per event the offset just behind it in the body, which tells its read
    ends: list[int] = field(default_factory=list)
    # indices of events that are not answer text: reasoning, thinking, tool calls
    hidden: set[int] = field(default_factory=set)
    created: list[int | None] = field(default_factory=list)  # the server's own stamps, wall clock, ns; OpenAI has none

    def add(self, text: str, end: int, *, hidden: bool = False) -> None:
        """Add one event, which the body completed at offset `end`."""
        if hidden:
            self.hidden.add(len(self.texts))
        self.texts.append(text)
        self.ends.append(end)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def first_visible(self) -> int | None:
        """Index of the first event with answer text; None where there is none."""
        return next((i for i in range(len(self.texts)) if i not in self.hidden), None)

    @property
    def answer(self) -> str:
        """The answer's text, as far as it came, fit to be encoded."""
        return join_text(text for i, text in enumerate(self.texts) if i not in self.hidden)

    @property
    def said(self) -> str:
        """All that the model wrote, reasoning included, fit to be encoded."""
        return join_text(self.texts)

    @property
    def server_clock(self) -> dict[str, Any]:
        """The stamps as a record holds them, µs from the first one's; nothing where they are no such column: see check_stamps."""
        stamps = cast("list[int]", self.created)
        return (
            {"server_us": [(stamp - stamps[0]) // 1000 for stamp in stamps], "server_first": stamps[0]}
            if stamps
            else {}
        )

    def keep(self, begin: int, end: int | None = None) -> None:
        """Keep the events from `begin` up to `end`; the columns stay the same objects, which decoders hold."""
        end = len(self.texts) if end is None else end
        for column in (self.texts, self.ends, self.created):
            del column[end:], column[:begin]
        kept = {i - begin for i in self.hidden if begin <= i < end}
        self.hidden.clear()
        self.hidden |= kept

    def check_stamps(self, note: Note, *, unknown: bool, sent: bool) -> None:
        """Drop the server's stamps unless every event has one and they are instants in order; `note` what is odd.

        `unknown` says that some event has none, `sent` that the server sent some. Afterwards `created` is empty, or holds an
        integer for each event.
        """
        stamps = self.created
        if not stamps:
            return
        odd = None
        if unknown or len(stamps) != len(self.texts):
            odd = "not every piece of the answer carries an instant of the server's: its stamps are unknown"
        elif sorted(stamps) != stamps:  # type: ignore[type-var]  # no None is among them
            odd = "the server's instants go backwards: its stamps are unknown"
        elif len(stamps) > 2 and len(set(stamps)) == 1:
            odd = "all of the answer carries one instant of the server's: its stamps are unknown"
        elif len(stamps) > 1 and not any(stamp % NS_PER_S for stamp in stamps):  # type: ignore[operator]
            odd = "the server's instants are of whole seconds: its stamps are unknown"
        if odd is not None:
            stamps.clear()
            if sent:
                note(odd)


@dataclass(slots=True)
class Ending:
    """What a stream said besides content."""

    done: bool = False  # done:true, finish_reason: the answer is whole
    whole: bool = False  # all of it came as one object, so it is no stream
    went_on: bool = False  # text came behind the finish_reason, and no end mark: not whole if the connection broke off
    finish_reason: str | None = None
    model: str | None = None  # that the answer says it is of
    error: str | None = None  # an error object in the stream, or why its bytes do not decode; one sentence
    hint: str | None = None  # why the answer may have ended without its end mark, e.g. the repeat guard; one sentence
    prompt_tokens: int | None = None  # the server's counts
    output_tokens: int | None = None
    unsent_tokens: int = 0  # output tokens whose text was never sent, or came with that of the first
    vectors: int | None = None  # how many embeddings came; None where the answer's shape does not tell
    server: dict[str, Any] = field(default_factory=dict)  # under the server's own names
    notes: list[str] = field(default_factory=list)  # what is odd in the answer and spoils no figure, a sentence each
    doubts: list[str] = field(default_factory=list)  # what is odd and makes its level suspect, a sentence each


class End(StrEnum):
    """What a line of a body says of the answer's end."""

    MARK = "mark"  # nothing of the answer follows: done:true, [DONE]
    FINISH = "finish"  # the text is over: a finish_reason; counts and a mark may follow
    FAILED = "failed"  # something went wrong; words on it may follow, and no text


@dataclass(frozen=True, slots=True)
class EndMarks:
    """How a wire format says that an answer is over, for the wire, which decodes nothing.

    Every line that ends an answer holds one of the `needles`. Other lines may hold one, too, so `read` decides.
    """

    needles: tuple[bytes, ...] = ()
    read: Callable[[bytes], End | None] = lambda line: None  # noqa: ARG005 - given one whole line without its newline


class Decoder(Protocol):
    """Turns body bytes, cut anywhere, into events; one per answer."""

    @property
    def events(self) -> ContentEvents:
        """What came so far; whole once the decoder is closed."""
        ...

    @property
    def failed(self) -> bool:
        """Whether what came so far has said that something went wrong."""
        ...

    def feed(self, data: bytes) -> None:
        """Take body bytes; never raises on bad ones (see Ending.error)."""
        ...

    def close(self) -> Ending:
        """Take the end of the body (a last line may lack its newline) and say how the stream ended."""
        ...


# How an option of the user's is said in a body: given its value and the server's kind, what is laid over the body; None
# where this kind of server has no such option.
Said = Callable[[Any, str], dict[str, Any] | None]
ONE_PIECE_TOKENS = 8  # from there on an answer in one piece is no streamed one
ONE_PIECE = "the answer came in one piece, so it was not streamed: its TTFT is the time of the whole answer"
MOST_LENGTHS = 4096  # answer lengths whose bodies' beginnings are kept


def field_named(name: str) -> Said:
    """Return an option that is a field of the body."""
    return lambda value, _: {name: value}


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `patch` laid over it by RFC 7396: null takes a key out, tables are laid over tables."""
    found = dict(base)
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping):
            below = found.get(key)
            found[key] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            found[key] = value
    return found


_OF_SOME_SERVERS: Mapping[str, Said] = {  # options whose usual field has another name
    "sampling_seed": field_named("seed"),
    "think": lambda value, _: {"chat_template_kwargs": {"enable_thinking": value != "off"}},
}


@dataclass(frozen=True, slots=True)
class Dialect(ABC):
    """One wire format, bound to a model and its options; see CONTRIBUTING for how to add one."""

    name: ClassVar[str]  # in records and tables, e.g. ollama-chat
    api: ClassVar[str]  # whose control plane and keys go with it
    endpoint: ClassVar[str]  # as scenarios name it
    path: ClassVar[str]  # below the base URL
    streams: ClassVar[bool] = True  # whether an answer comes in pieces; otherwise its framing alone ends it
    ends: ClassVar[EndMarks] = EndMarks()
    says: ClassVar[Mapping[str, Said]] = {}  # the options of SAID_KEYS that it has; others are refused
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)  # what every body says by `says`
    patch: Mapping[str, Any] = field(default_factory=dict)  # laid over every body (RFC 7396), a template
    header: tuple[str, ...] = ()  # added to every request, as templates: see credentials.filled
    query: tuple[str, ...] = ()  # likewise
    other_path: str | None = None  # instead of `path`
    key_env: str | None = None  # the variable that holds the key, where the user names one
    _heads: dict[int | None, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, scenario: Scenario, model: str, kind: str = "", native: Container[str] = ()) -> Self:
        """Return the format that says what a scenario asks for to a server of this kind (Server.kind).

        Fields that a format adds are named as the scenario's. Raises ScenarioError, naming it, for an option that the format
        or the server lacks. `native` are the options that the server takes by --api ollama.
        """
        own = {one.name for one in dataclasses.fields(cls)} - {one.name for one in dataclasses.fields(Dialect)}
        return cls(
            model,
            options=cls._options(scenario, kind, native),
            patch={} if scenario.body is None else orjson.loads(scenario.body),
            header=tuple(scenario.header),
            query=tuple(scenario.query),
            other_path=scenario.path,
            key_env=scenario.key_env,
            **{name: getattr(scenario, name) for name in own},
        )

    @classmethod
    def _options(cls, scenario: Scenario, kind: str, native: Container[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if scenario.max_tokens_key != MAX_TOKENS_KEYS[0] and not hasattr(cls, "max_tokens_key"):
            raise ScenarioError(f"--max-tokens-key is unknown at {cls.path}: leave it out.")
        for name in SAID_KEYS:
            value = getattr(scenario, name)
            if value is None or value is False or value == ():
                continue
            said = cls.says[name](value, kind) if name in cls.says else None
            if said is None:
                raise ScenarioError(cls._lacks(name, value, kind, native))
            found = merged(found, said)
        return found

    @classmethod
    def _lacks(cls, name: str, value: Any, kind: str, native: Container[str]) -> str:
        flag = "--" + name.replace("_", "-")
        known = [other for other in THINK if name == "think" and name in cls.says and cls.says[name](other, kind)]
        if known:
            return f"{flag} {value} is unknown at {cls.path}: give {flag} {' or '.join(known)}, or leave it out."
        of_server = f" of this server ({kind})" if kind and name in cls.says else ""
        other_api = ", use --api ollama" if name in native else ""
        sentence = f"{flag} is unknown at {cls.path}{of_server}: leave it out{other_api}"
        if not cls.streams or kind == "ollama":  # an Ollama passes over what it does not know without a word
            return f"{sentence}."
        body = orjson.dumps(_OF_SOME_SERVERS.get(name, field_named(name))(value, kind)).decode()
        return f"{sentence}, or send the server's own field for it, e.g. --body '{body}'."

    def fixed(self, output_tokens: int | None) -> dict[str, Any]:  # noqa: ARG002 - for formats that say some
        """Return what every body says for answers of this length, beside model, options and prompt."""
        return {}

    def said(self, job: Job) -> dict[str, Any]:
        """Return what a body says of this job alone: its prompt, by the format's name for it."""
        return {"prompt": job.prompt}

    @staticmethod
    def messages(job: Job) -> Any:
        """Return a job's messages as a body holds them."""
        return job.conversation if job.encoded is None else job.encoded.array

    def fields(self, output_tokens: int | None) -> dict[str, Any]:
        """Return all that a body says beside model and prompt; of what the user adds, the templates."""
        return merged(merged(self.fixed(output_tokens), self.options), self.patch)

    def of_row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a row of data says of its request's body, in this format's words."""
        return row

    def body(self, job: Job) -> bytes:
        """Return the request's body, JSON: `fixed`, the user's options and --body, made once for each length; then `said`.

        What a row of data says of its own body is laid over all of that.
        """
        head = self._heads.get(job.output_tokens)
        if head is None:
            if len(self._heads) >= MOST_LENGTHS:
                self._heads.clear()
            fields = merged(merged(self.fixed(job.output_tokens), self.options), filled_body(self.patch))
            sent = {"model": self.model, **fields}
            head = self._heads[job.output_tokens] = orjson.dumps(sent)[:-1] + b","
        body = head + memoryview(orjson.dumps(self.said(job)))[1:]  # no copy more of a long history than must be
        return orjson.dumps(merged(orjson.loads(body), self.of_row(job.body))) if job.body else body

    @abstractmethod
    def decoder(self) -> Decoder:
        """Return what decodes one answer."""

    def closed(self, decoder: Decoder) -> Ending:
        """Close the decoder of one answer; one that should have been streamed and was not is doubted."""
        ending, events = decoder.close(), decoder.events
        hidden = len(events.hidden)
        # a tool's call alone comes in one piece from servers that stream, too
        in_one = ending.whole or (len(events) - hidden == 1 and hidden <= 1)
        if in_one and self.patch.get("stream") is not False:
            counted = ending.output_tokens
            # where the server does not count them, the fewest tokens that the text can have
            sent = len(events.said.split()) if counted is None else counted - ending.unsent_tokens
            if sent >= ONE_PIECE_TOKENS:
                ending.doubts.append(ONE_PIECE)
        return ending

    @property
    def posted_to(self) -> str:
        """The path, below the base URL, that requests go to."""
        return self.path if self.other_path is None else self.other_path

    def auth(self, url: str) -> dict[str, str]:
        """Return the headers that hold the environment's credentials for the measured server at `url`."""
        return credentials.headers(url, self.api, key_env=self.key_env)

    def headers(self, url: str) -> dict[str, str]:
        """Return the headers of every request to `url`: those that the user adds stand in place of ours of that name.

        Raises ScenarioError for a variable of the environment that one of them needs and that is not set.
        """
        ours = {"Accept-Encoding": "identity", "Content-Type": "application/json", **self.auth(url)}
        added = filled_headers(self.header)
        names = {name.lower() for name in added}
        return {name: value for name, value in ours.items() if name.lower() not in names} | added

    @staticmethod
    def server_said(server: dict[str, Any]) -> ServerSaid:
        """Return what a record's `server` says of the server's own durations."""
        return metrics.server_said(server)
