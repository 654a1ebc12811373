"""Messages of a conversation: whether they can be sent, and what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WITHOUT_CONTENT = ("tool_calls", "function_call")  # a message that calls a tool may say nothing


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
