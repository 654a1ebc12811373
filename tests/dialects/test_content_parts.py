"""Content parts of a message, in the words of each wire format: alone, and as history of a conversation."""

from __future__ import annotations

import json
from typing import Any

from loadtest.dialects import dialect_for
from loadtest.scenario import Scenario
from loadtest.workloads.job import History, Job


def test_content_parts_are_said_as_each_format_takes_them() -> None:
    def sent(*parts: dict[str, Any], role: str = "user", api: Any = "ollama", endpoint: Any = "chat") -> Any:
        message = {"role": role, "content": list(parts)}
        history = History()
        history.add(message)
        jobs = [
            Job(0, 0, 0, "", None, 4, messages=(message,)),
            Job(0, 0, 0, "", None, 4, encoded=history.encoded()),
        ]
        dialect = dialect_for(Scenario(api=api, endpoint=endpoint), api=api, model="m")
        alone, turn = (json.loads(dialect.body(job)) for job in jobs)
        assert alone == turn
        return alone["input" if endpoint == "responses" else "messages"][0]

    text: dict[str, Any] = {"type": "text", "text": "what is it?"}
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    assert sent(text) == {"role": "user", "content": "what is it?"}
    assert sent(text, image) == {"role": "user", "content": "what is it?", "images": ["QUJD"]}
    far = {"type": "image_url", "image_url": {"url": "https://x/a.png"}}
    assert sent(text, far)["content"] == [text, far]  # the server says what it thinks of that
    assert sent(text, image, api="openai")["content"] == [text, image]

    responses = {"api": "openai", "endpoint": "responses"}
    own: dict[str, Any] = {"type": "input_file", "file_id": "f"}
    seen = {"type": "input_image", "image_url": "data:image/png;base64,QUJD", "detail": "auto"}
    assert sent(text, image, own, **responses)["content"] == [{"type": "input_text", "text": "what is it?"}, seen, own]
    low = {"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "low"}}
    assert sent(low, **responses)["content"][0] == {
        "type": "input_image",
        "image_url": "https://x/a.png",
        "detail": "low",
    }
    answer = {"type": "output_text", "text": "what is it?", "annotations": []}
    assert sent(text, role="assistant", **responses)["content"] == [answer]

    messages = {"api": "anthropic", "endpoint": "messages"}
    inline = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    own = {"type": "image", "source": {"type": "file", "file_id": "f"}}
    there = {"type": "image", "source": {"type": "url", "url": "https://x/a.png"}}
    assert sent(text, image, far, own, **messages)["content"] == [text, {"type": "image", "source": inline}, there, own]


def test_arguments_of_a_tools_call_are_an_object_for_ollama() -> None:
    """Ollama answers OpenAI's text of JSON with 400: it cannot be read as the arguments of a call."""

    def sent(arguments: Any, api: Any = "ollama") -> Any:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        history = History()
        history.add(message)
        jobs = (
            Job(0, 0, 0, "", None, 4, messages=(message,)),
            Job(0, 0, 0, "", None, 4, encoded=history.encoded()),
        )
        alone, turn = (json.loads(dialect_for(Scenario(api=api), api=api, model="m").body(job)) for job in jobs)
        assert alone == turn
        assert alone["messages"][0]["tool_calls"][0]["id"] == "c"
        return alone["messages"][0]["tool_calls"][0]["function"]["arguments"]

    assert sent('{"city": "Köln"}') == {"city": "Köln"}
    assert sent("") == {}
    assert sent({"city": "Köln"}) == {"city": "Köln"}
    assert sent("[1]") == "[1]"  # the server says what it thinks of that
    assert sent("{") == "{"
    assert sent('{"city": "Köln"}', api="openai") == '{"city": "Köln"}'
