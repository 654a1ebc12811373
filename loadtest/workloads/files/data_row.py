"""One row of a data file: which of its columns is the prompt, and what else it says of its request.

Data files come from many programs: rows with a prompt, chat messages, ShareGPT conversations, OpenAI's batch requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from loadtest.scenario import TOKEN_COUNTS, short_repr
from loadtest.workloads.files.trace import INPUTS, INSTANT_COLUMNS, read_count
from loadtest.workloads.messages import calls_a_tool, is_message, text_of

PROMPTS = ("prompt", "text", "question", "instruction", "query", "input")
CONVERSATIONS = ("messages", "conversations", "conversation")
IDS = ("id", "custom_id", "row_id", "question_id", "task_id")
LENGTH_KEYS = (
    "output_tokens",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "output_length",
    "num_predict",
)
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant"}
OWN = {
    "model",
    "messages",
    "prompt",
    "input",
    "stream",
    *LENGTH_KEYS,
}  # keys of a batch body that are not sent as they are
KNOWN = (*CONVERSATIONS, *PROMPTS, "body")  # columns that may hold the prompt, the first that a row has
SYSTEMS = ("system", "system_prompt")  # columns that may hold a system prompt beside it
TURNS = "turns"  # what a user says turn by turn, in MT-Bench
# long texts that some data sets keep beside a question
UNSENT = ("context", "passage", "document", "documents", "article")


def loads(body: bytes) -> Any:
    """Read a row's JSON; NaN and Infinity, which Python and pandas write for unknown numbers, are null.

    Raises orjson.JSONDecodeError.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" not in body and b"Infinity" not in body:
            raise
        try:
            known = orjson.dumps(json.loads(body))
        except (ValueError, TypeError, RecursionError):
            known = body  # something else is wrong as well
        return orjson.loads(known)


class RowError(Exception):
    """What is wrong with a row: a phrase that follows "line 7"."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one row asks for."""

    text: str  # the prompt, or what its messages say
    messages: tuple[Mapping[str, Any], ...] | None = None
    output_tokens: int | None = None
    id: str | None = None
    body: Mapping[str, Any] | None = None  # laid over the request's body
    answer: str | None = None  # that was recorded: not sent
    transcript: tuple[Mapping[str, Any], ...] = ()  # the whole conversation with its answers, to be played turn by turn
    questions: bool = False  # its messages are a user's alone, each to be answered before the next

    @property
    def has_system(self) -> bool:
        return self.messages is not None and self.messages[0].get("role") == "system"


def read_row(value: Any, column: str | None) -> Row | None:
    """Return what a row asks for, None for a conversation in which no user speaks; raise RowError.

    `column` is the name of the prompt's column, where the user gave it.
    """
    if isinstance(value, str) and column is None:
        return _text_row(_prompt_text(value, "its text"))
    if column is None and isinstance(value, list) and value and all(map(_has_role_and_content, value)):
        # the messages alone, without an object around them
        return _conversation(value, "messages", None, None, None, None)
    if not isinstance(value, dict):
        raise RowError(f"is {_kind_of(value)}, not an object with a prompt")
    name = column if column is not None else next((one for one in KNOWN if value.get(one) not in (None, "")), None)
    if name is None and isinstance(value.get(TURNS), list):
        name = TURNS
    if name is None and isinstance(value.get("params"), dict) and value["params"].get("messages"):
        value, name = {**value, "body": value["params"]}, "body"  # a request of Anthropic's batches
    if name is None or name not in value:
        raise RowError(_without_prompt(value, column))
    row_id = next((str(value[one]) for one in IDS if isinstance(value.get(one), str | int)), None)
    given = value[name]
    if name == "body" and isinstance(given, dict):
        return _batch_row(given, row_id)
    length = _output_length(value)
    if isinstance(given, list) and given and all(isinstance(one, str) for one in given):
        # a list of texts is what a user says turn by turn, without answers, as in MT-Bench
        row = _text_row(_prompt_text(given[0], name), output_tokens=length, id=row_id)
        return replace(row, transcript=tuple(_user(text) for text in given if text.strip()), questions=True)
    if isinstance(given, list) or name in CONVERSATIONS:
        return _conversation(given, name, length, row_id, _system_of(value), _body_keys(value))
    text = _prompt_text(given, name)
    if name == "instruction" and isinstance(value.get("input"), str) and value["input"].strip():
        text = f"{text}\n\n{value['input']}"
    answer = next((value[one] for one in ("answer", "output", "response") if isinstance(value.get(one), str)), None)
    row = _text_row(text, output_tokens=length, id=row_id, body=_body_keys(value), answer=answer)
    system = None if name in SYSTEMS else _system_of(value)
    if system is not None:
        messages = ({"role": "system", "content": system}, *row.transcript)
        row = replace(row, text=text_of(messages), messages=messages, transcript=messages)
    return (
        row if answer is None else replace(row, transcript=(*row.transcript, {"role": "assistant", "content": answer}))
    )


def plain_column(value: Any, column: str | None) -> str | None:
    """Return the column of a row's prompt where it is a text and nothing else of the row is sent; else None."""
    if not isinstance(value, dict) or any(name in value for name in (*LENGTH_KEYS, *SYSTEMS)):
        return None
    name = column if column is not None else next((one for one in KNOWN if one in value), None)
    if name is None or name in CONVERSATIONS or name == "instruction" or "body" in value:
        return None
    return name if is_plain(value.get(name)) else None


def unsent_text(value: Any, column: str | None) -> tuple[str, str] | None:
    """Return the name of a long text that stands in a row beside its prompt and is not sent, and the prompt's; else None."""
    if column is not None or not isinstance(value, dict):
        return None
    name = next((one for one in KNOWN if value.get(one) not in (None, "")), None)
    beside = next((one for one in UNSENT if value.get(one) and isinstance(value[one], str | list)), None)
    return None if name not in PROMPTS or beside is None else (beside, name)


def is_plain(text: Any) -> bool:
    """Whether this is a prompt that can be sent."""
    return isinstance(text, str) and bool(text) and not text.isspace() and "\0" not in text


def _batch_row(body: dict[str, Any], row_id: str | None) -> Row:
    """Return what a request of an OpenAI batch file asks for: its messages or its prompt, and its length."""
    length, extra = _output_length(body), {key: value for key, value in body.items() if key not in OWN} or None
    given = body.get("messages", body.get("input"))
    if isinstance(given, list):
        system = None if extra is None or not isinstance(extra.get("system"), str) else extra.pop("system")
        row = _conversation(given, "body.messages", length, row_id, system, extra or None, recorded=False)
        if row is None:
            raise RowError("has no message of a user in body.messages")
        return row
    text = given if given is not None else body.get("prompt")
    if text is None:
        raise RowError(f"has neither messages nor prompt in its body; it has {_names(body)}")
    return _text_row(_prompt_text(text, "body.prompt"), output_tokens=length, id=row_id, body=extra)


def _system_of(value: Mapping[str, Any]) -> str | None:
    """Return the system prompt that stands in a row beside its prompt; None where there is none."""
    return next((said for name in SYSTEMS if isinstance(said := value.get(name), str) and said.strip()), None)


def _has_role_and_content(message: Any) -> bool:
    return is_message(message) and isinstance(message.get("role"), str)


def _text_row(text: str, **more: Any) -> Row:
    return Row(text, transcript=(_user(text),), **more)


def _user(text: str) -> Mapping[str, Any]:
    return {"role": "user", "content": text}


def _conversation(
    given: Any,
    name: str,
    length: int | None,
    row_id: str | None,
    system: str | None,
    extra: Mapping[str, Any] | None,
    *,
    recorded: bool = True,
) -> Row | None:
    """Return the request of a conversation.

    ShareGPT's turns ("from", "value") are asked up to the first answer. Messages ("role", "content") are asked as they are,
    without the recorded answer that they may end in.
    """
    if not isinstance(given, list):
        raise RowError(f"has {_kind_of(given)} under {name}, not a list of messages")
    shared = any(isinstance(turn, dict) and "from" in turn for turn in given)
    messages = [_as_message(turn) for turn in given] if shared else [_with_usual_role(message) for message in given]
    answer, transcript = None, messages
    if shared or name != "messages":
        transcript = [one for one in messages if _speaks(one)]
        messages, answer = _before_first_answer(messages, name)
    elif recorded and messages and isinstance(messages[-1], dict) and messages[-1].get("role") == "assistant":
        answer = text_of(messages[-1:])
        messages = messages[:-1]
    if not messages:
        if shared or not given:
            return None
        raise RowError(f"has no message of a user under {name}")
    for place, message in enumerate(messages, 1):
        if not _has_role_and_content(message):
            raise RowError(f'has no "role" and "content" in message {place} of {name}: {short_repr(message)}')
        if not isinstance(content := message.get("content"), str | list | dict | None):
            raise RowError(f"has {_kind_of(content)} for the content of message {place} of {name}, not a text")
    if not any(map(_says_something, messages)):
        raise RowError(f"has an empty prompt (under {name})")
    if system is not None and messages[0].get("role") != "system":
        messages, transcript = ([{"role": "system", "content": system}, *said] for said in (messages, transcript))
    return Row(text_of(messages), tuple(messages), length, row_id, extra, answer, tuple(transcript))


def _says_something(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return bool(content.strip() if isinstance(content, str) else content) or calls_a_tool(message)


def _speaks(message: Any) -> bool:
    """Whether a turn of a ShareGPT conversation is the system's, the user's or the model's, and says something."""
    known = isinstance(message, dict) and message.get("role") in ("system", "user", "assistant")
    return known and bool(str(message.get("content") or "").strip())


def _before_first_answer(messages: Sequence[Any], name: str) -> tuple[list[Any], str | None]:
    """Return the system's and the user's turns before the first answer to them, and that answer."""
    kept: list[Any] = []
    for place, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            raise RowError(f"has {_kind_of(message)} in turn {place} of {name}, not an object")
        role = message.get("role")
        asked = any(one["role"] == "user" for one in kept)
        if role == "assistant":
            if asked:
                return kept, text_of([message])
        elif role in ("system", "user") and str(message.get("content") or "").strip():
            kept.append(message)
    return (kept, None) if any(one["role"] == "user" for one in kept) else ([], None)


def _as_message(turn: Any) -> Any:
    if not isinstance(turn, dict):
        return turn
    role = str(turn.get("from"))
    return {"role": ROLES.get(role, role), "content": turn.get("value")}


def _with_usual_role(message: Any) -> Any:
    """Return a message with ShareGPT's names of roles, which no server knows, in the words of chat APIs."""
    role = message.get("role") if isinstance(message, dict) else None
    known = ROLES.get(role) if isinstance(role, str) else None
    return message if known in (None, role) else {**message, "role": known}


def _prompt_text(text: Any, name: str) -> str:
    if not isinstance(text, str):
        raise RowError(f"has {_kind_of(text)} for a prompt (column {name}), not a text")
    if not text.strip():
        raise RowError(f"has an empty prompt (column {name})")
    if "\0" in text:
        raise RowError(f"has a NUL character in its prompt (column {name})")
    return text


def _output_length(value: Mapping[str, Any]) -> int | None:
    """Return the length of the answer that a row asks for."""
    name = next((one for one in LENGTH_KEYS if value.get(one) not in (None, "")), None)
    if name is None:
        return None
    given = value[name]
    length = read_count(given)
    if length is None or not 1 <= length <= TOKEN_COUNTS.high:
        raise RowError(f"has {short_repr(given)} for a length (column {name}); give a whole number above 0")
    return length


def _body_keys(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a row lays over its request's body."""
    extra = value.get("body")
    if extra is None or not isinstance(extra, dict):
        return None
    said = {key: each for key, each in extra.items() if key not in OWN}
    if isinstance(options := said.get("options"), dict):  # of Ollama, with the length and the context in them
        said["options"] = {key: each for key, each in options.items() if key not in (*LENGTH_KEYS, "num_ctx")}
        if not said["options"]:
            del said["options"]
    return said or None


def _without_prompt(value: Mapping[str, Any], column: str | None) -> str:
    if column is not None:
        return f"has no column {short_repr(column)}; it has {_names(value)}"
    lower = {str(name).strip().lower() for name in value}
    if {"role", "content"} <= lower or {"from", "value"} <= lower:
        return 'is one message, not a conversation; give each conversation as a row: {"messages": [{"role": …, "content": …}, …]}'
    if lower & {*INPUTS, "hash_ids"} and lower & set(INSTANT_COLUMNS):
        return (
            "is a row of a trace, with an instant and lengths but no text; give the file with --trace, or its lengths alone "
            "with --input-tokens 'empirical(FILE)'"
        )
    rows = [name for name, each in value.items() if isinstance(each, list) and each and isinstance(each[0], dict)]
    if len(rows) == 1 and _is_row(value[rows[0]][0]):
        return f"keeps its rows under {short_repr(rows[0])}; save that list alone, as the whole file"
    empty = [name for name in KNOWN if name in value]
    if empty:
        return f"has an empty prompt (column {empty[0]})"
    return f"has no column prompt, text, question or messages; it has {_names(value)}: name one with --data-column"


def _is_row(value: Any) -> bool:
    """Whether this is a row that could be sent."""
    try:
        return read_row(value, None) is not None
    except RowError:
        return False


def _names(value: Mapping[str, Any]) -> str:
    return short_repr(", ".join(map(str, value)) or "none")


def _kind_of(value: Any) -> str:
    kinds = {type(None): "nothing", bool: "a truth value", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")
