"""Small requests, sent one after another until one is answered, as `loadtest check --try` does, and what that shows.

A refused field is left out or renamed: first the one that the answer's words name, then the known ones one at a time. Where
the path is not known to the server, other paths and endpoints follow. Each attempt is a scenario; what it differs in from
the one asked for is what has to be added to the command. The answer shows what the server counts and times, and whether
tokens came one by one.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.dialects import DIALECTS, Dialect
from loadtest.dialects.answers.errors.refusals import (
    NO_CHAT,
    OTHER_LENGTH_KEY,
    names_field,
    refused_field,
    wanted_header,
    without_field,
)
from loadtest.errors import ScenarioError
from loadtest.measure.failure import failure_of
from loadtest.measure.request import Request
from loadtest.metrics import S_PER_NS, S_PER_US, SEVERAL_TOKENS, held_back
from loadtest.records import Clock, Outcome, Record
from loadtest.scenario import EMBEDDINGS, ConnectionKeys, Key, RequestKeys, Scenario, keys_of
from loadtest.targets.server.probe import ServedModel, Server
from loadtest.targets.target import Target, target_of
from loadtest.text import counted, seconds, shown
from loadtest.urls import has_own_root
from loadtest.wire import SyncWire, now
from loadtest.workloads.job import Job

TRIAL_PROMPT = "Count from one to twelve in words, one after another."
TRIAL_TOKENS = 24
MOST_ATTEMPTS = 24
FEWEST_PIECES = 6  # of an answer, to say how they came
OTHER_PATHS = (  # where servers of the OpenAI API have it, when not at /v1/chat/completions
    "/chat/completions",
    "/api/chat/completions",
    "/api/v1/chat/completions",
    "/openai/v1/chat/completions",
    "/v1/openai/chat/completions",
    "/openai/chat/completions",
    "/compat/chat/completions",
    "/invocations",
)
ROOT_EMBEDDINGS = "/embeddings"  # Infinity's
NOT_THERE = (404, 405, 501)
_WITHHELD = re.compile(r"\$\{LOADTEST_\w+\}")  # stands for a secret that the user wrote out
_NO_MODEL = re.compile(  # of whatever status
    r"\b(?:models?|deployment|given endpoint)\b.{0,80}?\b(?:not (?:found|exist|available|loaded|deployed|served|registered"
    r"|configured|supported by)|does(?:n't| not) exist|is (?:unknown|unavailable|invalid)|decommissioned"
    r"|no longer (?:supported|available))"
    r"|\b(?:unknown|invalid|unsupported|incorrect|no such|not a valid|(?:could not|failed to|unable to|cannot) (?:load|find|access)"
    r"|no available \w+ for|no router for|not allowed to access) (?:the |any )?(?:requested |real |non-serverless )?model"
    r"|model_(?:is_)?not_\w+|no endpoints found|repository not found|not found for account|allowed now, your model"
    r"|模型.{0,40}(?:不存在|无可用)",
    re.IGNORECASE | re.DOTALL,
)
_MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)
# words of a model that is asked for in the wrong way
_ELSEWHERE = re.compile(r"chat|completions?\b|endpoint", re.IGNORECASE)
# What servers say that answer any path, some with status 200.
_NO_PATH = re.compile(
    r"the answer is a web page|unexpected endpoint|(?:unknown|invalid) (?:url|path|route|endpoint)", re.IGNORECASE
)
_SLASH_ONLY = re.compile(r"redirects to (\S+)/;")  # see error_headers.other_slash
_OF_THE_KEY = re.compile(  # of whatever status
    r"\b(?:api[ _-]?key|access token|credentials?|subscription key)s?\b.{0,60}?\b(?:expired|invalid|not valid|incorrect|missing|required"
    r"|revoked|disabled|not found|not provided)\b"
    r"|\b(?:invalid|incorrect|missing|expired|wrong|no) (?:api[ _-]?key|access token|credentials?|subscription key)\b",
    re.IGNORECASE | re.DOTALL,
)
COMPRESSED, PAGE = "the server compressed", "the answer is a web page"  # in the wire's own words
# Statuses that no other request would change: they speak of the moment or the key, or call these small ones too large.
_NOT_NOW = frozenset((401, 402, 403, 407, 408, 413, 425, 429, 502, 503, 504, *range(520, 531)))


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request that was sent, and its record."""

    scenario: Scenario
    dialect: Dialect
    record: Record

    @property
    def words(self) -> str:
        """What the server said of what is wrong; "" where nothing is."""
        return self.record.error or ""

    @property
    def works(self) -> bool:
        """Whether the answer can be measured: whole, and with text where the format has any."""
        return self.record.outcome is Outcome.OK and bool(self.record.chunks or not self.dialect.streams)

    @property
    def _field_refused(self) -> bool:
        record = self.record
        return refused_field(self.dialect, record.asked, record.status, self.words) is not None

    @property
    def is_nowhere(self) -> bool:
        """Whether the server has nothing at the path that was asked, whichever status it says so with."""
        if self._field_refused:
            return False
        return self.record.status in NOT_THERE or _NO_PATH.search(self.words) is not None

    @property
    def no_model(self) -> bool:
        """Whether the server says that it has no model of that name."""
        if self._field_refused:
            return False
        if _NO_MODEL.search(self.words):
            return True
        asked_wrong = self.record.status not in NOT_THERE or _ELSEWHERE.search(self.words)
        return not asked_wrong and _MODEL.search(self.words) is not None

    @property
    def of_the_key(self) -> bool:
        """Whether the server wants a key, or does not accept ours."""
        return self.record.status in (401, 403) or _OF_THE_KEY.search(self.words) is not None

    @property
    def with_slash(self) -> Scenario | None:
        """Return the scenario that asks at the path with a slash at its end, where a redirect only adds one."""
        status, found = self.record.status or 0, _SLASH_ONLY.search(self.words)
        path = self.dialect.posted_to
        if found is None or not 300 <= status < 400 or not found[1].endswith(path.removeprefix("/v1")):
            return None
        return self.scenario.replace(path=f"{path}/")

    @property
    def hopeless(self) -> bool:
        """Whether no other request could do better: no answer, a redirect, a key refused, a header missing, no such model, not now."""
        status = self.record.status
        if status is None or status in _NOT_NOW or (300 <= status < 400 and self.with_slash is None):
            return True
        return (
            self.no_model
            or self.of_the_key
            or COMPRESSED in self.words
            or wanted_header(status, self.words) is not None
        )


def attempts(server: Server, model: ServedModel, scenario: Scenario) -> Iterator[Attempt]:
    """Send the scenario's request, then what `following` says, and give each attempt once it is over.

    Raises ScenarioError where not even the first can be said in the server's wire format.
    """
    done: list[Attempt] = []
    upcoming: Scenario | None = scenario
    while upcoming is not None:
        target = target_of(server, model, upcoming)
        done.append(Attempt(upcoming, target.dialect, _sent(target, upcoming, len(done))))
        yield done[-1]
        upcoming = following(done, server, model)


def _sent(target: Target, scenario: Scenario, number: int) -> Record:
    job = Job(number, 0, number, TRIAL_PROMPT, None, TRIAL_TOKENS)
    with SyncWire.of(scenario) as wire:
        request = Request(job, target.dialect, Clock.now(), now(), posts=target.posts)
        try:
            wire.fetch(request.order)
        except Exception as error:  # noqa: BLE001 - the record says what it was
            request.failure = failure_of(error, (KeyboardInterrupt,))
        return request.finish()


def following(tried: Sequence[Attempt], server: Server, model: ServedModel) -> Scenario | None:
    """Return what to try next, never the same request twice; None where something works, or nothing is left to try."""
    if tried[-1].works or tried[0].hopeless or len(tried) >= MOST_ATTEMPTS:
        return None
    own_root = has_own_root(server.url)
    sent = [_identity(one.dialect, own_root=own_root) for one in tried]
    for scenario in _candidates(tried, server.api(tried[0].scenario.api)):
        try:
            dialect = target_of(server, model, scenario).dialect
        except ScenarioError:
            continue
        if _identity(dialect, own_root=own_root) not in sent:
            return scenario
    return None


def _identity(dialect: Dialect, *, own_root: bool) -> tuple[Any, ...]:
    """Return what tells two requests apart; below a root of its own the API has no /v1."""
    path = dialect.posted_to.removeprefix("/v1") if own_root else dialect.posted_to
    return path, dialect.name, dialect.fields(1)


def _candidates(tried: Sequence[Attempt], api: str) -> Iterator[Scenario]:
    first, last = tried[0], tried[-1]
    if (slashed := last.with_slash) is not None:
        yield slashed
    if refusal := refused_field(last.dialect, last.record.asked, last.record.status, last.words):
        yield last.scenario.replace(**{refusal.key: refusal.value})
    found = next((one for one in tried if not one.is_nowhere), None)
    if found is not None:  # its path is known to the server: its fields may be at fault
        yield from _leave_outs(found)
    yield from _other_places(first.scenario, api)
    if NO_CHAT.search(first.words) or first.is_nowhere:
        embedding = first.scenario.replace(path=None, endpoint=EMBEDDINGS, output_tokens=())
        yield embedding
        yield embedding.replace(path=ROOT_EMBEDDINGS)


def _leave_outs(refused: Attempt) -> Iterator[Scenario]:
    """Leave out or rename the fields of a refused request: one at a time, then several together."""
    dialect, scenario = refused.dialect, refused.scenario
    fields = dialect.fields(refused.record.asked)
    order = [name for name in ("stream_options", *OTHER_LENGTH_KEY, *dialect.options, *dialect.patch) if name in fields]
    for name in sorted(dict.fromkeys(order), key=lambda one: not names_field(refused.words, one)):
        if change := without_field(dialect, name):
            yield scenario.replace(**{change.key: change.value})
    both = [name for name in ("stream_options", *OTHER_LENGTH_KEY) if name in fields]
    together = scenario
    for name in [*both, *dict.fromkeys((*dialect.options, *dialect.patch))]:
        if change := without_field(replace(dialect, patch=json.loads(together.body or "{}")), name):
            together = together.replace(**{change.key: change.value})
            yield together


def _other_places(scenario: Scenario, api: str) -> Iterator[Scenario]:
    """Ask at other paths and other endpoints, those of the other API last."""
    plain = scenario.replace(path=None)
    if scenario.path is not None:
        yield plain
    if api == "openai" and scenario.endpoint == "chat":
        for path in OTHER_PATHS:
            yield scenario.replace(path=path)
    if api == "openai" and scenario.endpoint == EMBEDDINGS:
        yield scenario.replace(path=ROOT_EMBEDDINGS)
    others = sorted(DIALECTS, key=lambda one: one[0] != api)
    for other, endpoint in others:
        if DIALECTS[other, endpoint].streams:
            given = {} if other == api else {"api": other}
            yield plain.replace(endpoint=endpoint, **given)


def changes(asked: Scenario, found: Scenario) -> str:
    """Say with and without which options a command that asks for `asked` asks for `found`; "" where it does."""
    differing = [key for key in keys_of(RequestKeys) if getattr(asked, key.name) != getattr(found, key.name)]
    given = [key.flag for key in differing if not _is_default(key, found)]
    with_ = [text for key in differing if not _is_default(key, found) for text in _options(key, found)]
    without_ = [key.flag for key in differing if key.flag not in given]
    return ", ".join(
        [f"with {' and '.join(with_)}"] * bool(with_) + [f"without {' and '.join(without_)}"] * bool(without_)
    )


def command_for(scenario: Scenario, url: str) -> str:
    """Return the command that measures with such requests; of a secret its name alone is shown."""
    keys = [
        key
        for part in (RequestKeys, ConnectionKeys)
        for key in keys_of(part)
        if key.name != "url" and not _is_default(key, scenario)
    ]
    return " ".join(
        ["loadtest run --url", shlex.quote(url), *(text for key in keys for text in _options(key, scenario))]
    )


def _is_default(key: Key, scenario: Scenario) -> bool:
    return getattr(scenario, key.name) in (None, (), key.default)


def _options(key: Key, scenario: Scenario) -> list[str]:
    value = getattr(scenario, key.name)
    if key.kind is bool:
        return [key.flag]
    if key.name == "body":
        value = json.dumps(json.loads(value), separators=(",", ":"), ensure_ascii=False)
    texts = [_WITHHELD.sub("…", shown(str(one))) for one in (value if key.listed else [value])]
    return [f"{key.flag} {shlex.quote(text)}" for text in texts]


def what_came(attempt: Attempt) -> list[tuple[str, str]]:
    """Return what to say of a whole answer, a name and a sentence each."""
    record = attempt.record
    said = attempt.dialect.server_said(record.server or {})
    rows = []
    if record.t_first_token is not None and record.t_send is not None:
        first = (record.t_first_token - record.t_send) * S_PER_NS
        rows.append(
            (
                "first",
                f"token after {seconds(first)}; one request is no measurement, and it may have waited for the model to load",
            )
        )
    rows.append(("counts", _counts(attempt)))
    asked, came = record.asked or 0, record.output_tokens or 0
    if came > asked + 1 > 1 and record.finish_reason != "length":
        unit = "piece" if record.token_source == "chunks" else "token"  # noqa: S105
        other = " by this name; --max-tokens-key has another" if hasattr(attempt.dialect, "max_tokens_key") else ""
        rows.append(
            ("length", f"{counted(came, unit)} came where {asked} were asked for: the server may take no length{other}")
        )
    if not attempt.dialect.streams:
        rows.append(("timings", "not read: of embeddings E2E is measured alone"))
        return rows
    if math.isnan(said.prefill_s):
        rows.append(("timings", "not sent: of what a request waits for, a report tells slot wait alone"))
    else:
        rows.append(("timings", f"sent by the server (prefill {seconds(said.prefill_s)})"))
    rows.append(("arrival", _arrival(attempt)))
    return rows


def _counts(attempt: Attempt) -> str:
    record = attempt.record
    counts = {"in": record.prompt_tokens, "out": record.output_tokens}
    sent = [f"{what}: {n}" for what, n in counts.items() if n is not None]
    if record.token_source == "server" and sent:  # noqa: S105
        return f"sent by the server (tokens {', '.join(sent)})"
    if not attempt.dialect.streams:
        return "not sent, or not to be used: how many tokens the texts have is unknown"
    return (
        "not sent: an answer that ends for its length has the tokens that were asked for; of any other they are counted by the "
        "model's own tokenizer where it is known, else pieces are counted; prompt lengths are estimates"
    )


def _arrival(attempt: Attempt) -> str:
    record = attempt.record
    pieces, reads, tokens = len(record.chunks), record.reads, record.output_tokens or 0
    if pieces < FEWEST_PIECES:
        if tokens >= 2 * FEWEST_PIECES:
            return f"{tokens} tokens in {counted(pieces, 'piece')}: ITL is of pieces, not of tokens"
        return f"{counted(pieces, 'piece')}: too few to say"
    after_s, last_s = record.chunks[0] * S_PER_US, record.chunks[-1] * S_PER_US
    decode_s, lag_s = attempt.dialect.server_said(record.server or {}).decode_s, record.lag_us * S_PER_US
    if reads <= 2 or held_back(pieces, record.sent_tokens, after_s, last_s - after_s, decode_s, lag_s):
        return (
            f"all {pieces} pieces at once, {seconds(after_s)} after the request: a proxy that buffers answers "
            "(nginx: proxy_buffering off; HAProxy: option http-no-delay) stands before the server, or the server sends whole answers, or this machine was too busy to read them apart (try again); "
            "TTFT would be E2E"
        )
    if reads <= pieces / 2:
        return (
            f"{pieces} pieces in {reads} reads: they are sent several together, by the server or by a proxy that buffers "
            "(nginx: proxy_buffering off; HAProxy: option http-no-delay), or this machine was too busy to read them apart (try again); ITL would be wrong"
        )
    if tokens > SEVERAL_TOKENS * pieces:
        return f"{tokens} tokens in {pieces} pieces, which come one by one: ITL is of pieces, not of tokens"
    are_tokens = record.token_source == "server" and pieces <= SEVERAL_TOKENS * tokens  # noqa: S105
    return f"{pieces} pieces in {reads} reads: {'tokens' if are_tokens else 'pieces'} come one by one"
