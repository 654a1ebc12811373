"""/v1/responses, /v1/messages and embeddings out of public reports: what of them is text, how many tokens they have."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from support.odd_streams import decode, hold
from support.reported_endpoints import ANSWERS

from loadtest.dialects import OllamaEmbed, OpenAIEmbeddings

NONE = "holds no embedding"
VECTORS: dict[
    str, tuple[bytes, bool, int | None, str]
] = {  # an answer's body, whether it is good, its prompt, what is said
    "numbers that are none (NaN)": (b'{"data":[{"embedding":[NaN,NaN]}]}', False, None, NONE),
    "one of two of NaN": (b'{"data":[{"embedding":[0.1]},{"embedding":[NaN]}]}', True, None, "hold no numbers"),
    "whole numbers (Cohere's int8)": (b'{"embeddings":{"int8":[[1,-2]]}}', True, None, ""),
    "types that were not asked for": (b'{"embeddings":{"float":[[0.1]],"int8":null}}', True, None, ""),
    "nothing but types that were not asked for": (b'{"embeddings":{"float":null}}', False, None, NONE),
    "a list within a list (llama.cpp)": (b'[{"index":0,"embedding":[[0.1,0.2]]}]', True, None, ""),
    "one vector a token (vLLM's pooling)": (
        b'{"data":[{"embedding":[[0.1],[0.2]]}],"usage":{"prompt_tokens":7}}',
        True,
        7,
        "",
    ),
    "nothing but zeros (manimohans/obsidian-local-llm-helper#10)": (
        b'{"data":[{"embedding":[0,0,0.0]}]}',
        True,
        None,
        "but zeros",
    ),
    "zeros first": (b'{"data":[{"embedding":[%b0.5]}]}' % (b"0.0," * 64), True, None, ""),
    "sparse": (b'{"data":[{"embedding":{"indices":[1],"values":[0.5]}}]}', True, None, ""),
    "base64 in a list": (b'{"data":[{"embedding":["zczMPQ=="]}]}', True, None, ""),
    "no usage": (b'{"object":"list","data":[{"embedding":[0.1]}],"usage":null}', True, None, ""),
    "a total alone (Voyage)": (b'{"data":[{"embedding":[0.1]}],"usage":{"total_tokens":7}}', True, 7, ""),
    "an output of no tokens": (
        b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":7,"completion_tokens":0,"total_tokens":7}}',
        True,
        7,
        "",
    ),
    "a count that is a text": (
        b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":"7"}}',
        True,
        None,
        "is a text",
    ),
    "a huge number": (b'{"data":[{"embedding":[1%b]}]}' % (b"0" * 300), True, None, ""),
    "an event": (b'data: {"data":[{"embedding":[0.1]}]}\n\ndata: [DONE]\n\n', True, None, ""),
    "a fault (Apigee)": (b'{"fault":{"faultstring":"busy"}}', False, None, "busy"),
    "TEI's error": (b'{"error":"busy","error_type":"overloaded"}', False, None, "busy"),
    "an answer of chat": (b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}', False, None, NONE),
    "an empty text": (b"", False, None, "empty"),
    "a page": (b"<html><title>Sign in</title></html>", False, None, "Sign in"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer(name: str) -> None:
    hold(ANSWERS[name])


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("dialect", [OpenAIEmbeddings("m"), OllamaEmbed("m")], ids=lambda dialect: dialect.name)
def test_embeddings(dialect: Any, name: str) -> None:
    body, done, prompt, said = VECTORS[name]
    _, ending = decode(dialect, body)
    assert (ending.done and ending.error is None, ending.prompt_tokens) == (done, prompt)
    assert said in "".join((ending.error or "", ending.hint or "", *ending.notes, *ending.doubts))
    orjson.dumps(ending.server)
