"""Checks of what a task hands to chat() and generate(): a mistake is reported, not sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from loadtest.errors import ScenarioError
from loadtest.scenario import distribution_text, short_repr
from loadtest.workloads.messages import is_message

Messages = list[dict[str, Any]]
MESSAGES_EXAMPLE = '[{"role": "user", "content": "…"}]'


def checked_prompt(prompt: object, *, messages_allowed: bool) -> str | Messages | None:
    """Return a prompt as it can be sent; raises ScenarioError for what is neither text nor messages."""
    if prompt is None:
        return None
    if isinstance(prompt, str):
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ScenarioError(
                f"the prompt cannot be sent: {short_repr(prompt[error.start])} is half a character."
            ) from None
        return prompt
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray | memoryview):
        raise ScenarioError(f"a prompt must be text, or messages like {MESSAGES_EXAMPLE}, not {short_repr(prompt)}.")
    if not messages_allowed:
        raise ScenarioError("generate() and completions() take a text; messages go to chat().")
    return _checked_messages(list(prompt))


def _checked_messages(messages: list[Any]) -> Messages:
    if not messages or not all(is_message(message) for message in messages):
        raise ScenarioError(f"messages must look like {MESSAGES_EXAMPLE}, not {short_repr(messages)}.")
    try:
        orjson.dumps(messages)
    except TypeError as error:
        raise ScenarioError(f"messages cannot be sent as JSON: {error}.") from None
    return messages


def checked_length(key: str, value: object, *, answered: bool = True) -> int | str | None:
    """Return a length in tokens, or a distribution; raises ScenarioError for what is neither, or has no answer in text."""
    if value is None:
        return None
    if not answered:
        raise ScenarioError(f"an answer of embeddings has no output tokens; leave {key} out.")
    if isinstance(value, str) and ("(" in value or "@" in value):
        return distribution_text(key, value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 1 and value == value // 1:
        return int(value)
    raise ScenarioError(f"{key} must be a whole number above 0, not {short_repr(value)}.")


def checked_texts(texts: object) -> list[str]:
    """Return texts to be embedded in one request; raises ScenarioError for what is no list of texts."""
    given = list(texts) if isinstance(texts, Sequence) and not isinstance(texts, bytes | bytearray | memoryview) else []
    if not given or not all(isinstance(text, str) for text in given):
        raise ScenarioError(f'embed() takes a text or a list of texts like ["…", "…"], not {short_repr(texts)}.')
    return [text for text in given if checked_prompt(text, messages_allowed=False) is not None]


def checked_instant(t_sched: object) -> int | None:
    """Return when a request was due; raises ScenarioError for what is not an instant."""
    if t_sched is None or (isinstance(t_sched, int) and not isinstance(t_sched, bool)):
        return t_sched
    raise ScenarioError(f"t_sched must be monotonic nanoseconds, a whole number, not {short_repr(t_sched)}.")
