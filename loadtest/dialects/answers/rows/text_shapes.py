"""The text of an answer in every shape that servers give it: strings, typed parts, objects; and text under other names."""

from __future__ import annotations

import re
from typing import Any

from loadtest.dialects.answers.errors.error_words import compact
from loadtest.dialects.answers.errors.server_errors import quoted
from loadtest.dialects.base import Note

DEEPEST = 6  # levels of parts inside parts


Texts = tuple[str, str]  # of one piece of an answer: visible text, and hidden text such as reasoning and tool calls

NO_TEXTS: Texts = ("", "")

_SECRET = ("think", "reason", "thought", "analysis", "compact")
_HIDDEN_PARTS = (*_SECRET, "tool", "function", "input_json")
# of what a search found: the model did not write it
_FOUND_PARTS = ("citation", "reference", "source", "search_result")
_KEYS_OF_TEXT = (
    *("text", "content", "parts", "value", "thinking", "reasoning", "reasoning_content"),
    *("reasoningContent", "reasoningText", "citationsContent"),  # Bedrock's, and what lies in them
    *("thought", "summary", "refusal", "partial_json", "delta"),
)

# thoughts, and Portkey's the text once more; the other is TensorZero's
_BLOCKS = ("content_blocks", "tensorzero_extra_content")
# Names in a message that hold no text of the model's; so do those with an ending of _ENDINGS_WITHOUT_TEXT, and search_….
_KEYS_WITHOUT_TEXT = frozenset(
    (
        *_BLOCKS,
        "role",
        "name",
        "id",
        "type",
        "tool_calls",
        "function_call",
        "audio",
        "annotations",
        "index",
        "object",
        "model",
        "created",
        "created_at",
        "logprobs",
        "finish_reason",
        "stop_reason",
        "done_reason",
        "usage",
        "timings",
        "status",
        "channel",
        "recipient",
        "end_turn",
        "weight",
        "citations",
        "context",
        "images",
        "metadata",
        "provider",
        "provider_specific_fields",
        "service_tier",
        "token_ids",
        "prompt_token_ids",
        "matched_stop",
        "phase",
        "kind",
        "data",
        "encrypted_content",
        "tool_name",
        "error",
        # what a search found
        "sources",
        "references",
        "documents",
        "web_search",
        "tool_results",
        "grounding_metadata",
    )
)
_CALLS = ("tool_call", "toolcall", "tool_use", "tooluse", "function")  # begin names of calls, other than OpenAI's
REASONING = frozenset(
    (
        "reasoning_content",
        "reasoning",
        "thinking",
        "thought",
        "thoughts",
        "reasoning_text",
        "reasoning_details",
        "thinking_blocks",
        "reasoning_summary",
        "reasoning_content_delta",
        "tool_plan",  # Cohere's, of the calls that follow
    )
)
TAKEN_FOR_REASONING = "taken for reasoning"
_VISIBLE_KEYS = ("content", "refusal")  # a refusal is what the user reads instead of an answer

SHORTEST_BASE64 = 256  # characters
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_OF_BASE64 = tuple(map(re.compile, ("[A-Z]", "[a-z]", "[0-9]")))
BINARY = "a piece of the answer is base64, as audio and images are: left out"


def texts_in(value: Any, depth: int = DEEPEST) -> Texts:
    """Return the text in a value: a string, an object with text, or a list of those."""
    if isinstance(value, str):
        return NO_TEXTS if len(value) >= SHORTEST_BASE64 and is_base64(value) else (value, "")
    if not value or not depth:
        return NO_TEXTS
    if isinstance(value, list):
        found = [texts_in(item, depth - 1) for item in value]
        return "".join(seen for seen, _ in found), "".join(hidden for _, hidden in found)
    return _texts_in_part(value, depth) if isinstance(value, dict) else NO_TEXTS


def is_base64(text: str) -> bool:
    """Whether a long text is no text but audio or an image: a model writes no word of such a length."""
    bare = text.partition(";base64,")[2] or text if text.startswith("data:") else text
    return _BASE64.fullmatch(bare) is not None and all(kind.search(bare) is not None for kind in _OF_BASE64)


_OF_CALLS = ("name", "arguments", "args", "input", "partial_json")


def _texts_in_part(part: dict[str, Any], depth: int) -> Texts:
    if str(part.get("type") or "").startswith(_FOUND_PARTS):
        return NO_TEXTS
    key, inside = next(
        ((key, found) for key in _KEYS_OF_TEXT if any(found := texts_in(part.get(key), depth - 1))), ("", NO_TEXTS)
    )
    if not (_is_secret(part) or any(word in key for word in _SECRET)):
        calls = "" if any(inside) else "".join(tool_text(part[name]) for name in part if _holds_call(name, part[name]))
        return inside[0], inside[1] + calls
    return "", "".join(inside) or "".join(plain_text(part.get(key)) for key in _OF_CALLS)


def _holds_call(name: str, value: Any) -> bool:
    """Whether a part has a call under this name, as Gemini's functionCall and Bedrock's toolUse are."""
    return isinstance(value, dict) and name.lower().startswith(_CALLS)


def _is_secret(part: dict[str, Any]) -> bool:
    """Whether a part's type says that it is a thought or a call, or a mark of thoughts does."""
    kind = str(part.get("type") or "").lower()
    return any(word in kind for word in _HIDDEN_PARTS) or _is_thought(part)


_ENDINGS_WITHOUT_TEXT = (
    *("_opaque", "_encrypted", "_id", "_ids", "_tokens", "signature", "_type", "_state", "_at", "_count", "_duration"),
)


def texts_in_message(message: dict[str, Any], note: Note) -> Texts:
    """Return a delta's or message's visible text, and its hidden text: reasoning, under any name, and tool calls.

    Text that stands under two names counts once. `note` is given a sentence on each unknown name. Text under an unknown
    name, or a provider's own, counts only where the message has no other text: a mark that every piece carries is not a
    piece of its own.
    """
    content = message.get("content")
    few = len(message) == 1 or (len(message) == 2 and "role" in message)
    if few and type(content) is str and len(content) < SHORTEST_BASE64:  # nearly always
        return content, ""
    if isinstance(content, int | float):
        message = {**message, "content": texts_of_bare(content, note)[0]}
    if type(content) is str and len(content) >= SHORTEST_BASE64 and is_base64(content):
        note(BINARY)
    seen, hidden = "", list[str]()
    strange: dict[str, str] = {}
    lost: dict[str, str] = {}  # text that is no string, and may be of anything
    for key, value in message.items():
        if not value or key in _KEYS_WITHOUT_TEXT:
            continue
        open_, secret = texts_in(value)
        if key in _VISIBLE_KEYS:
            seen += open_
            hidden.append(secret)
        elif key in REASONING:
            hidden.append(secret + open_)
        elif not (key.endswith(_ENDINGS_WITHOUT_TEXT) or key.startswith("search_")):
            if text := _of_strange(key, value):
                strange[key] = text
            elif text := open_ + secret:
                lost[key] = text
    if isinstance(audio := message.get("audio"), dict) and isinstance(spoken := audio.get("transcript"), str):
        seen += spoken  # what a voice says
    in_blocks = texts_in([message[name] for name in _BLOCKS if name in message])
    seen = seen or in_blocks[0]
    hidden += (*_calls_and_own(message), in_blocks[1])
    if not seen and not any(hidden):
        if "text" in strange:
            seen, hidden = ("", [strange.pop("text")]) if _is_secret(message) else (strange.pop("text"), [])
        else:
            hidden = list(strange.values())
    for key, text in (lost | strange).items():
        if text != seen:
            own = f", {TAKEN_FOR_REASONING}" if text in hidden else ", beside its own: left out"
            use = ": left out" if key in lost else own
            note(f"the answer has text under the name {quoted(key, 40)}{use}")
    hidden = [text for text in dict.fromkeys(hidden) if text != seen]
    return as_marked((seen, "".join(hidden)), message)


def said_with_signature(message: dict[str, Any]) -> bool:
    """Whether a message has a block of thoughts with the signature that ends it."""
    for key, value in message.items():  # no generator: each piece of thoughts is asked
        if value.__class__ is list and key in REASONING and any(map(_signature, value)):
            return True
    return False


def _signature(block: Any) -> Any:
    return block.get("signature") if isinstance(block, dict) else None


_FLAGS = ("thought", "thinking", "reasoning", "is_thought", "is_thinking", "is_reasoning")
_KINDS = ("type", "channel", "phase", "kind", "content_type", "message_type")
_MARKS = frozenset((*_FLAGS, *_KINDS, "extra_content"))


def as_marked(texts: Texts, holder: dict[str, Any]) -> Texts:
    """Return the texts of a piece, all of them hidden where what they lie in is marked as a thought."""
    if texts[0] and not _MARKS.isdisjoint(holder) and _is_thought(holder):
        return "", texts[1] + texts[0]
    return texts


def _calls_and_own(message: dict[str, Any]) -> list[str]:
    """Return the text of a message's calls, and the reasoning in a provider's own fields (LiteLLM's)."""
    calls = [tool_text(message.get("tool_calls")), tool_text([{"function": message.get("function_call")}])]
    own = message.get("provider_specific_fields")
    return calls + ["".join(texts_in(own[key])) for key in REASONING if isinstance(own, dict) and own.get(key)]


_NAMED_TEXT = re.compile(
    r"(?!.*(?:err|warn|reason|filter|format|finish|status|stop))\w*(?:text|content|output|answer|response|completion|token|result|generat|message|delta)",
    re.IGNORECASE,
)


def under_odd_names(holder: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each name that is not known and says of itself that it holds text, and that text; a list may be anything."""
    return [
        (key, text)
        for key, value in holder.items()
        if isinstance(value, str | dict) and _NAMED_TEXT.match(key) and not key.endswith(_ENDINGS_WITHOUT_TEXT)
        if (text := "".join(texts_in(value)))
    ]


def _of_strange(key: str, value: Any) -> str:
    """Return the text under a name that is not known: a string, more than that where the name says what it is."""
    if isinstance(value, str):
        return texts_in(value)[0]
    key = key.lower()
    if any(word in key for word in _SECRET):
        return "".join(texts_in(value))
    return tool_text(value) if key.startswith(_CALLS) else ""


def _is_thought(message: dict[str, Any]) -> bool:
    """Whether the content is marked as a thought: by a flag, the message's type, Harmony's channel, Gemini's extra_content."""
    if any(message.get(name) is True for name in _FLAGS):
        return True
    kinds = (message.get(name) for name in _KINDS)
    if any(isinstance(kind, str) and kind.lower().startswith(_SECRET) for kind in kinds):
        return True
    extra = message.get("extra_content")
    return isinstance(extra, dict) and any(
        isinstance(said, dict) and said.get("thought") is True for said in extra.values()
    )


def texts_of_bare(value: Any, note: Note) -> Texts:
    """Return the text of completions, or of a delta that is no object; Cloudflare's gateway takes the tokens 6 and true for JSON."""
    if not isinstance(value, int | float):
        return texts_in(value)
    note("a piece of text is a number: taken for its digits")
    return compact(value), ""


def tool_text(calls: Any) -> str:
    """Return names and arguments of tool calls, whole (Ollama) or in pieces (OpenAI), as the model wrote them."""
    if isinstance(calls, str):
        return calls
    texts: list[str] = []
    for call in calls if isinstance(calls, list) else by_number(calls) or [calls]:
        if not isinstance(call, dict):
            continue
        said = next((call[key] for key in ("function", "custom") if isinstance(call.get(key), dict)), call)
        found = [plain_text(said.get(key)) for key in _OF_CALLS]
        if said is not call and not any(found):
            found = [text for key, text in said.items() if isinstance(text, str) and key not in _KEYS_WITHOUT_TEXT]
        texts += found
    return "".join(texts)


def by_number(value: Any) -> list[Any]:
    """Return the values of a list that PHP wrote as an object, each under its number; nothing of any other value."""
    return list(value.values()) if isinstance(value, dict) and all(map(str.isdecimal, value)) else []


def plain_text(value: Any) -> str:
    """Return a text, or any other value that is not empty as JSON."""
    return value if isinstance(value, str) else compact(value) if value else ""
