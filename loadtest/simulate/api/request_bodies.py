"""Request bodies of every API read into one kind of request, or refused with the errors that Ollama answers."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from loadtest.simulate.profiles import Profile

_TOKEN = re.compile(r"[^\W\d_]+|\d{1,3}|[^\w\s]+|_+|\n\s*")
_WORD_TOKEN = 9  # a word of up to so many letters is mostly one token of a 100k vocabulary …
_LETTERS_A_TOKEN = 5  # … and a longer one a token per about so many letters
WORDS_ASKED = re.compile(r"\b(\d{1,5})[\s-]words?\b", re.IGNORECASE)
_TITLE_ASKED = re.compile(r"\btitle\b[^:\n]*\bwords?\b", re.IGNORECASE)
_TOKENS_A_WORD = (1.03, 1.39)  # tokens a word of an answer in N words, least and most …
_TOKENS_A_TITLE_WORD = (1.40, 1.86)  # … and of a title, with its quotation marks

_STORY = """
The river had been high since the morning, and nobody on the quay expected the ferry before dark.
She counted the crates twice, wrote the number in the ledger, and sent the boy for a lamp.
A wind from the north carried the smell of tar and wet rope across the yard.
When the first light showed on the water, three men stood up without a word.
It was slower than they remembered, heavier too, and it sat low in the brown stream.
Half of the cargo was grain; the other half was said to be machines for the new mill.
The pilot called out the depth, the engine coughed, and the whole town seemed to hold its breath.
Later they would tell it differently, with more danger in it and less waiting.
For now there was only the rope, the cold iron of the ring, and a great deal to carry.
Anna took the heavier end because her brother had hurt his hand the week before.
By midnight the last crate was under cover, and the rain began as if it had been asked to.
They shared bread and some soup by the stove while the clerk checked his list again.
One number did not fit, so he started over, slowly, with his finger under each line.
Outside the water kept rising, a little every hour, quiet and quite sure of itself.
In the morning the bridge was gone, but every sack of grain was dry.
"""


def pieces(text: str) -> list[str]:
    """Return text as one string per estimated token: within about 10 % of cl100k for English prose.

    Equal texts give equal pieces, so a common prefix of two prompts is one of their pieces.
    """
    tokens: list[str] = []
    for piece in _TOKEN.findall(text):
        tokens.append(piece)
        if len(piece) > _WORD_TOKEN and piece.isalpha():
            tokens += [""] * (-(-len(piece) // _LETTERS_A_TOKEN) - 2)
        elif not piece.isascii():
            tokens += [""] * (len(piece) // 2)
    return tokens


def chat_pieces(messages: list[tuple[str, str]]) -> list[str]:
    """Return a chat as tokens: llama3's template adds a start, a header of 4 tokens and an end a message, the answer's header."""
    tokens = ["<|begin_of_text|>"]
    for role, content in messages:
        tokens += ["<|start_header_id|>", role, "<|end_header_id|>", "\n\n", *pieces(content), "<|eot_id|>"]
    return [*tokens, "<|start_header_id|>", "assistant", "<|end_header_id|>", "\n\n"]


def natural_length(prompt: str, rng: random.Random) -> int:
    """Return after how many tokens the answer would end by itself.

    "… in N words" gets N · 1.21 tokens on average and a title of N words N · 1.63, as in the published A100 tables: the
    means over all threads, without the end token. Anything else gets a length around 200. The spread of 8 % is what the
    scatter of the tables' cells implies for single answers.
    """
    asked = WORDS_ASKED.search(prompt[-2000:]) or WORDS_ASKED.search(prompt[:2000])
    if asked:
        least, most = _TOKENS_A_TITLE_WORD if _TITLE_ASKED.search(prompt[:2000]) else _TOKENS_A_WORD
        return max(round(int(asked[1]) * rng.uniform(least, most)), 1)
    return min(max(round(rng.lognormvariate(5.3, 0.6)), 8), 2000)


def _answer_tokens() -> tuple[str, ...]:
    """Return a string for each token, a word with the space before it or a punctuation mark, of sentences in a fixed order."""
    sentences = [line.strip() for line in _STORY.strip().splitlines()]
    rng = random.Random(7)
    tokens: list[str] = []
    for _ in range(40):
        for sentence in rng.sample(sentences, len(sentences)):
            words = re.findall(r"[\w']+|[.,;]", sentence)
            tokens += [word if word in ".,;" else f" {word}" for word in words]
    return tuple(tokens)


ANSWER: tuple[str, ...] = _answer_tokens()
"""A long text as tokens. An answer is a part of it that begins at one of OPENINGS; the text's end joins its beginning."""

OPENINGS: tuple[int, ...] = tuple(index + 1 for index, piece in enumerate(ANSWER[:-1]) if piece == ".")


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
        prompt, question = chat_pieces(messages), _last_user_message(messages)
        empty = not messages
    else:
        question = str(fields.get("prompt") or "")
        system = str(fields.get("system") or "")
        chat = [("system", system), ("user", question)] if system else [("user", question)]
        prompt, empty = (pieces(question) if raw else chat_pieces(chat)), not question
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
        prompt=chat_pieces(messages),
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
    prompts = tuple(tuple(pieces(one)) for one in inputs)
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
    if asked > 0 and not WORDS_ASKED.search(question):
        return None
    return natural_length(question, rng)
