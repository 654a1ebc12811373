"""Messages of a conversation: whether they can be sent, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WITHOUT_CONTENT = ("tool_calls", "function_call")  # a message that calls a tool may say nothing


class Round(NamedTuple):
    """One turn of a recorded conversation."""

    said: tuple[Mapping[str, Any], ...]  # by the user, or by a tool
    answer: Mapping[str, Any] | None  # None where none is recorded


def is_message(message: object) -> bool:
    """Whether this is a message that says something."""
    return isinstance(message, dict) and ("content" in message or any(key in message for key in WITHOUT_CONTENT))


def text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what messages say, a line a message: the text of content parts, nothing of images and calls."""
    return "\n".join(_content_text(message.get("content")) for message in messages)


def _content_text(content: Any) -> str:
    match content:
        case str():
            return content
        case list():
            return "".join(_content_text(part.get("text") if isinstance(part, dict) else part) for part in content)
        case None | dict():
            return ""
    return str(content)


def answer_message(text: str, endpoint: str) -> Mapping[str, Any]:
    """Return an answer as a message of the history; /v1/responses takes it as an item of the answer that it gave."""
    if endpoint == "responses":
        said = {"type": "output_text", "text": text, "annotations": []}
        return {"type": "message", "role": "assistant", "status": "completed", "content": [said]}
    return {"role": "assistant", "content": text}


def calls_a_tool(message: Mapping[str, Any]) -> bool:
    """Whether a message asks for a tool, whose answer has to follow."""
    return any(message.get(key) for key in WITHOUT_CONTENT)


def system_apart(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, Sequence[Mapping[str, Any]]]:
    """Return the text of the system messages that a conversation begins with, and its other messages."""
    count = next((i for i, one in enumerate(messages) if one.get("role") not in ("system", "developer")), len(messages))
    return (text_of(messages[:count]) if count else None), messages[count:]


def rounds(messages: Sequence[Mapping[str, Any]], *, alone: bool = False) -> list[Round]:
    """Return the turns of a conversation; with `alone` each message is one, else those up to an answer are one.

    An answer before the user has said anything is left out, and so is a second answer in a row.
    """
    if alone:
        return [Round((message,), None) for message in messages]
    found: list[Round] = []
    said: list[Mapping[str, Any]] = []
    for message in messages:
        if message.get("role") != "assistant":
            said.append(message)
        elif said:
            found.append(Round(tuple(said), message))
            said = []
    return [*found, Round(tuple(said), None)] if said else found
