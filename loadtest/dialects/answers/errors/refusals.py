"""Fields of a body that a server refuses: which one its words name, and which option leaves it out or renames it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.dialects.base import Dialect

FIELD_STATUSES = (400, 422, 501)
OTHER_LENGTH_KEY = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
LENGTH_KEYS = (*OTHER_LENGTH_KEY, "max_output_tokens")
_OPTIONS = {  # fields whose option has another name
    "seed": "sampling_seed",
    "think": "think",
    "reasoning_effort": "think",
    "chat_template_kwargs": "think",
    "reasoning": "think",
    "thinking": "think",
    "stop_sequences": "stop",
}
_THINKING = r"(?:reasoning(?:[_.]effort)?|think(?:ing)?|{name})"
_WORDS_FOR = {name: _THINKING.format(name=name) for name in ("think", "reasoning_effort", "chat_template_kwargs")}
_REFUSING = re.compile(
    r"unknown|unrecogni[sz]ed|unsupported|n[o']t (?:be )?(?:support|implement|permit|allow|accept|availab|recogni|expect|known|valid)"
    r"|unexpected|extra (?:inputs?|fields?|keys?)|additional propert|forbid|disallow|no such|invalid (?:field|param|arg|key)"
    r"|does not (?:exist|support)|cannot (?:both )?be (?:used|set|specified)|instead|deprecated|not an? (?:support|valid|known|allow)"
    r"|\bonly \S+ is (?:allow|support)",
    re.IGNORECASE,
)
# what a server says of a model that does not chat
NO_CHAT = re.compile(r"embed|(?:not|n't) support chat", re.IGNORECASE)
_MISSING = re.compile(
    r"\bheaders?\b.{0,60}\b(?:required|missing|expected|not (?:set|found|present|provided))\b|"
    r"\b(?:requires?|required|missing|expected|must (?:set|send|provide|include))\b.{0,60}\bheaders?\b",
    re.IGNORECASE | re.DOTALL,
)
_HEADER = re.compile(r"\b[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)+\b")
_KEYS = ("x-api-key", "api-key")
_OF_KEYS = (*_KEYS, "proxy-authorization", "content-type", "content-length", "user-agent")
_MOST_SHOWN = 300  # characters of a --body in a sentence


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused field, and the key of the scenario with which the field is left out or has another name."""

    field: str
    key: str
    value: Any  # the key's value from then on

    @property
    def advice(self) -> str:
        """What to do, to stand at a sentence's end."""
        flag = "--" + self.key.replace("_", "-")
        if self.key == "body" and self.value is not None:
            shown = self.value if len(self.value) <= _MOST_SHOWN else json.dumps({self.field: None})
            return f"leave it out with --body {shlex.quote(shown)}"
        return f"leave out {flag}" if self.value in (None, ()) else f"rename it with {flag} {self.value}"


def refused_field(dialect: Dialect, output_tokens: int | None, status: int | None, words: str) -> Refusal | None:
    """Return which field of our request an answer's words call unknown; None where they name none.

    The request was one of this dialect, with answers of this length.
    """
    if status not in FIELD_STATUSES or not _REFUSING.search(words):
        return None
    fields = dialect.fields(output_tokens)
    named = [(found.start(), name) for name in fields if (found := _named(name).search(words))]
    return without_field(dialect, min(named)[1]) if named else None


def names_field(words: str, name: str) -> bool:
    """Whether an answer's words name a field of the body, whatever they say of it."""
    return _named(name).search(words) is not None


def wanted_header(status: int | None, words: str) -> str | None:
    """Return the header that an answer's words say is missing; None where they name none, or one that holds a key."""
    if status not in (*FIELD_STATUSES, 401, 403) or not _MISSING.search(words):
        return None
    names = (found[0] for found in _HEADER.finditer(words))
    return next((name for name in names if name.lower() not in _OF_KEYS), None)


def key_header(words: str) -> str | None:
    """Return the header in which an answer's words want a key; None where they name none."""
    return next((found[0] for found in _HEADER.finditer(words) if found[0].lower() in _KEYS), None)


def without_field(dialect: Dialect, name: str) -> Refusal | None:
    """Return how a field of the body is left out or, a length's, renamed; None for a length that has one name alone."""
    if name in LENGTH_KEYS and name not in dialect.patch:
        other = OTHER_LENGTH_KEY.get(name) if hasattr(dialect, "max_tokens_key") else None
        return None if other is None else Refusal(name, "max_tokens_key", other)
    if name in dialect.patch or name not in dialect.options:
        kept = {key: value for key, value in dialect.patch.items() if key != name}
        only_of_patch = name in dialect.patch and name not in dialect.options and name not in dialect.fixed(None)
        body: Mapping[str, Any] = kept if only_of_patch else {**kept, name: None}
        return Refusal(name, "body", json.dumps(body) if body else None)
    key = _OPTIONS.get(name, name)
    return Refusal(name, key, () if key == "stop" else None)


def with_advice(dialect: Dialect, output_tokens: int | None, status: int | None, sentence: str) -> str:
    """Return an error's sentence; where it calls a field of ours unknown, or misses a header, with what to do at its end."""
    if (header := wanted_header(status, sentence)) is not None:
        return f"{sentence}; {give_header(header)}"
    refusal = refused_field(dialect, output_tokens, status, sentence)
    return sentence if refusal is None else f"{sentence}; {refusal.advice}"


def give_header(name: str) -> str:
    """Return what to do where a header is wanted, to stand at a sentence's end."""
    return f"give it with --header '{name}: …'"


def refused_key(name: str, status: int | None) -> str:
    """Return what to do about the key in a variable with which a server refuses us; 403 may also mean that it is too little."""
    if status == 401:
        return f"the key in {name} is not accepted: set {name} to one that is"
    return f"the key in {name} may be a wrong one, or not be good for this; set another"


def _named(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){_WORDS_FOR.get(name, re.escape(name))}(?![\w-])")
