"""Request bodies of every API read into one kind of request, or refused with the errors that Ollama answers."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from loadtest.simulate.api import text
from loadtest.simulate.profiles import Profile

DIED_SENTENCE = "llama runner process no longer running: -1 "
BUSY_SENTENCE = "server busy, please try again.  maximum pending requests exceeded"
_OPTION_TYPES = dict.fromkeys(
    (
        *("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"),
        *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
    ),
    "integer",
) | dict.fromkeys(
    (
        *("top_p", "min_p", "typical_p", "temperature"),
        *("repeat_penalty", "presence_penalty", "frequency_penalty"),
    ),
    "float32",
)


class RefusedError(Exception):
    """The request is answered with an error; its arguments are the HTTP status and the sentence."""


def refusal_body(path: str, status: int, sentence: str) -> tuple[str, bytes]:
    """Return content type and body of an error answer on `path`."""
    if not path.startswith("/v1/"):
        return "application/json; charset=utf-8", orjson.dumps({"error": sentence})
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    if path == "/v1/messages":
        kind = (kinds | {503: "overloaded_error"}).get(status, "api_error")
        error = {"type": kind, "message": sentence}
        body: dict[str, Any] = {"type": "error", "error": error, "request_id": f"req_{time.time_ns():024x}"}
    else:
        kind = kinds.get(status, "api_error")
        body = {"error": {"message": sentence, "type": kind, "param": None, "code": None}}
    return "application/json", orjson.dumps(body) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request for text, through whichever API it came."""

    endpoint: str  # "chat", "generate", "embed", or one of "v1-chat", "v1-completions", "v1-responses", …
    model: str  # as the request spells it: answers repeat it
    opening: str  # the prompt's first 80 characters, for the truth log
    prompt: Sequence[str]  # estimated tokens, template included
    limit: int
    natural: int | None
    num_ctx: int
    stream: bool
    usage: bool = False  # OpenAI's include_usage
    context: bool = False  # generate's token ids on the last line
    load_only: bool = False
    unload: bool = False
    asked: int | None = None  # the limit that the request names, as the answer repeats it
    inputs: tuple[str, ...] = ()  # the texts to be embedded …
    more_prompts: tuple[Sequence[str], ...] = ()  # … and the tokens of those behind the first
    packed: bool = False  # embeddings in base64


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object; raise RefusedError 400, in Go's words, where the body is not one."""
    if not body:
        raise RefusedError(400, "missing request body")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, _go_sentence(body.decode("utf-8", "replace"), error.pos)) from None
    if not isinstance(fields, dict):
        kind = {list: "array", str: "string", bool: "bool"}.get(type(fields), "number")
        raise RefusedError(400, f"json: cannot unmarshal {kind} into Go value of type api.ChatRequest")
    return fields


def _go_sentence(body: str, position: int) -> str:
    rest = body[position:].lstrip()
    if not rest:
        return "unexpected EOF"
    before = body[:position].rstrip()
    key_expected = before.endswith("{") or (before.endswith(",") and before.count("{") > before.count("}"))
    where = "beginning of object key string" if key_expected else "beginning of value"
    return f"invalid character '{rest[0]}' looking for {where}"


def check_model(fields: dict[str, Any], profile: Profile, *, required: bool) -> str:
    """Return the model's name as asked; raise RefusedError 400 or 404 where it is missing or not the profile's."""
    model = fields.get("model", "")
    if not model and required:
        raise RefusedError(400, "model is required")
    if not isinstance(model, str) or full_name(model) != full_name(profile.model.name):
        raise RefusedError(404, f"model '{model}' not found")
    return model


def full_name(model: str) -> str:
    """Return the name with its tag: a bare name means `latest`."""
    return model if ":" in model else f"{model}:latest"


def read_ollama_request(
    endpoint: str, fields: dict[str, Any], profile: Profile, rng: random.Random
) -> GenerationRequest:
    """Return what /api/chat or /api/generate asks for; raise RefusedError where Ollama answers with an error."""
    model = check_model(fields, profile, required=endpoint == "chat")
    options = fields.get("options") or {}
    for name, value in options.items():
        if name in _OPTION_TYPES and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise RefusedError(500, f'option "{name}" must be of type {_OPTION_TYPES[name]}')
    raw = bool(fields.get("raw"))
    if endpoint == "chat":
        messages = _messages(fields.get("messages") or [])
        prompt, question = text.chat_pieces(messages), _last_user_message(messages)
        empty = not messages
    else:
        question = str(fields.get("prompt") or "")
        system = str(fields.get("system") or "")
        chat = [("system", system), ("user", question)] if system else [("user", question)]
        prompt, empty = (text.pieces(question) if raw else text.chat_pieces(chat)), not question
        if raw and (fields.get("template") or system or fields.get("context")):
            raise RefusedError(400, "raw mode does not support template, system, or context")
    num_ctx = int(options.get("num_ctx") or profile.num_ctx)
    asked = int(options.get("num_predict") or 0)
    return GenerationRequest(
        endpoint=endpoint,
        model=model,
        opening=question[:80],
        prompt=prompt,
        limit=_token_limit(asked, num_ctx),
        natural=_natural(asked, question, rng),
        num_ctx=num_ctx,
        stream=fields.get("stream") is not False,
        context=endpoint == "generate" and not raw,
        load_only=empty,
        unload=empty and fields.get("keep_alive") in (0, "0", "0s"),
    )


def read_openai_request(
    endpoint: str, fields: dict[str, Any], profile: Profile, rng: random.Random
) -> GenerationRequest:
    """Return what an endpoint at /v1 asks for text; max_completion_tokens is ignored, as by Ollama."""
    model = check_model(fields, profile, required=True)
    if endpoint in ("v1-chat", "v1-messages"):
        messages = _messages(fields.get("messages") or [])
        if not messages:
            raise RefusedError(400, "[] is too short - 'messages'")
        if system := _content(fields.get("system")):
            messages = [("system", system), *messages]
    elif endpoint == "v1-responses":
        given = fields.get("input") or ""
        messages = [("user", given)] if isinstance(given, str) else _messages(given)
        if instructions := _content(fields.get("instructions")):
            messages = [("system", instructions), *messages]
    else:
        prompt = fields.get("prompt") or ""
        messages = [("user", prompt if isinstance(prompt, str) else " ".join(map(str, prompt)))]
    asked = fields.get("max_output_tokens" if endpoint == "v1-responses" else "max_tokens") or 0
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise RefusedError(
            400, "json: cannot unmarshal string into Go struct field ChatCompletionRequest.max_tokens of type int"
        )
    options = fields.get("stream_options") or {}
    question = _last_user_message(messages)
    return GenerationRequest(
        endpoint=endpoint,
        model=model,
        opening=question[:80],
        prompt=text.chat_pieces(messages),
        limit=_token_limit(asked, profile.num_ctx),
        natural=_natural(asked, question, rng),
        num_ctx=profile.num_ctx,
        stream=bool(fields.get("stream")),
        usage=bool(options.get("include_usage")),
        asked=asked or None,
    )


def read_embedding_request(endpoint: str, fields: dict[str, Any], profile: Profile) -> GenerationRequest:
    """Return what /api/embed or /v1/embeddings asks for; raise RefusedError where Ollama answers with an error."""
    model = check_model(fields, profile, required=True)
    given = fields.get("input", "")
    inputs = [given] if isinstance(given, str) and given else given or []
    if not isinstance(inputs, list) or not all(isinstance(one, str) for one in inputs):
        raise RefusedError(400, "invalid input type")
    if endpoint == "v1-embeddings" and not inputs:
        raise RefusedError(400, "invalid input")
    options = fields.get("options") or {}
    prompts = tuple(tuple(text.pieces(one)) for one in inputs)
    return GenerationRequest(
        endpoint=endpoint,
        model=model,
        opening=inputs[0][:80] if inputs else "",
        prompt=prompts[0] if prompts else (),
        more_prompts=prompts[1:],
        inputs=tuple(inputs),
        limit=1,
        natural=None,
        num_ctx=int(options.get("num_ctx") or profile.num_ctx) if endpoint == "embed" else profile.num_ctx,
        stream=False,
        load_only=not inputs,
        packed=fields.get("encoding_format") == "base64",
    )


def _messages(messages: Any) -> list[tuple[str, str]]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise RefusedError(
            400, "json: cannot unmarshal into Go struct field ChatRequest.messages of type []api.Message"
        )
    return [(str(message.get("role", "user")), _content(message.get("content"))) for message in messages]


def _content(content: Any) -> str:
    if isinstance(content, list):  # OpenAI's parts
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def _last_user_message(messages: list[tuple[str, str]]) -> str:
    return next((content for role, content in reversed(messages) if role == "user"), "")


def _token_limit(asked: int, num_ctx: int) -> int:
    """Return num_predict as Ollama understands it: missing, 0, negative or too large means 10 × num_ctx."""
    return asked if 0 < asked <= 10 * num_ctx else 10 * num_ctx


def _natural(asked: int, question: str, rng: random.Random) -> int | None:
    """Return after how many tokens the answer ends by itself; None where a length is asked for, unless in words by the text."""
    if asked > 0 and not text.WORDS_ASKED.search(question):
        return None
    return text.natural_length(question, rng)
