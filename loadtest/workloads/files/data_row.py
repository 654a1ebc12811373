"""One row of a data file: which of its columns is the prompt, and what else it says of its request.

Data files come from many programs: rows with a prompt, chat messages, ShareGPT conversations, OpenAI's batch requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.scenario import TOKEN_COUNTS, short_repr
from loadtest.workloads.files.columns import (
    ANSWERS,
    CONVERSATIONS,
    IDS,
    LENGTH_KEYS,
    SYSTEMS,
    NoPromptError,
    RowError,
    cell_of,
    found_prompt,
    read_count,
)
from loadtest.workloads.files.turns import (
    ROLES,
    are_texts,
    as_message,
    is_conversation,
    is_usual,
    plain_part,
    speaker_of,
    usual_role,
)
from loadtest.workloads.messages import WITHOUT_CONTENT, calls_a_tool, text_of

# keys of a batch body that are not sent as they are
OWN = {"model", "messages", "prompt", "input", "stream", *LENGTH_KEYS}
# how paths of requests in a batch file end, and the endpoint of each; the first that fits holds
BATCH_PATHS = {
    "/chat/completions": "chat",
    **{f"/{name}": name for name in ("responses", "embeddings", "messages", "completions")},
}
HEARD = ("system", "user", "assistant")  # roles of a data set's conversation that are sent
MOST_NAMES, MOST_NAME = 12, 40  # in a sentence; characters of each
MESSAGE = ("role", "content", "name", *WITHOUT_CONTENT)  # of what data sets say of a message, what servers take


WITHOUT = "; take out the rows that have none"
HOLDS_COLUMNS = "holds columns, not rows; write an object for each prompt"
ONE_MESSAGE = (
    'is one message, not a conversation; give each conversation as a row: {"messages": [{"role": …, "content": …}, …]}'
)


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
    unheard: tuple[str, ...] = ()  # roles of the conversation whose words are left out

    @property
    def goes_on(self) -> bool:
        """Whether a user says more in the whole conversation than in the request."""
        both = self.transcript, self.messages or self.transcript[:1]
        whole, sent = (sum(one.get("role") == "user" for one in said) for said in both)
        return bool(whole > sent)


def read_row(value: Any, column: str | None) -> Row | None:
    """Return what a row asks for, None for a conversation in which no user speaks; raise RowError.

    `column` is the name of the prompt's column, where the user gave it.
    """
    if isinstance(value, str) and column is None:
        return _text_row(_prompt_text(value, None))
    if column is None and is_conversation(value):
        # the messages alone, without an object around them
        return _conversation(value, "messages", None, None, None, None)
    if not isinstance(value, dict):
        raise RowError(f"is {kind_of(value)}, not an object with a prompt")
    value, name, given = found_prompt(value, column)
    row_id, length = _row_id(value), _output_length(value)
    if name == "body" and isinstance(given, dict):
        return _batch_row(given, row_id)
    if isinstance(given, dict) and name not in CONVERSATIONS:
        return _inner_row(given, name, row_id, length)
    system = _system_of(value)
    questions = are_texts(given)  # which a user says turn by turn, without answers, as in MT-Bench
    if (isinstance(given, list) and not questions) or name in CONVERSATIONS:
        return _conversation(given, name, length, row_id, system, _body_keys(value))
    first, *more = given if questions else [given]
    text = _prompt_text(first, name)
    if column is None and speaker_of(value) in ROLES:
        raise RowError(ONE_MESSAGE)
    if name == "instruction" and isinstance(value.get("input"), str) and value["input"].strip():
        text = f"{text}\n\n{value['input']}"
    answer = (
        None
        if questions
        else next((value[one] for one in ANSWERS if one != name and isinstance(value.get(one), str)), None)
    )
    begin = () if system is None or name in SYSTEMS else ({"role": "system", "content": system},)
    asked = (*begin, _user(text))
    answers = () if answer is None else ({"role": "assistant", "content": answer},)
    said = (*asked, *(_user(one) for one in more if one.strip()), *answers)
    messages = asked if begin else None
    return Row(text_of(asked), messages, length, row_id, _body_keys(value), answer, said, questions=questions)


def _row_id(value: Mapping[str, Any]) -> str | None:
    found = (value[one] for one in IDS if one in value)
    return next((str(one) for one in found if (isinstance(one, str) and one.strip()) or type(one) is int), None)


def _inner_row(given: dict[str, Any], name: str, row_id: str | None, length: int | None) -> Row | None:
    """Return the request of an object in a row that is a row itself: {"input": {"messages": […]}}."""
    try:
        row = read_row(given, None)
    except NoPromptError:
        if all(str(one).isdecimal() for one in given):
            raise RowError(HOLDS_COLUMNS) from None
        inner = next((one for one, each in given.items() if isinstance(each, str)), "NAME")
        raise RowError(
            f"has an object for a prompt (column {name}), not a text: name what is in it, like --data-column {name}.{inner}"
        ) from None
    except RowError as error:
        raise RowError(f"{error} (in column {name})") from None
    if row is None:
        return None
    return replace(row, id=row_id or row.id, output_tokens=length if length is not None else row.output_tokens)


def endpoint_of(url: Any) -> str | None:
    """Return the endpoint that a row of a batch file names with its path, None for what names none that is known."""
    path = url.rstrip("/") if isinstance(url, str) else ""
    return next((name for end, name in BATCH_PATHS.items() if path.endswith(end)), None)


def _batch_row(body: dict[str, Any], row_id: str | None) -> Row | None:
    """Return what a request of an OpenAI batch file asks for: its messages or its prompt, and its length."""
    length, extra = _output_length(body), {key: value for key, value in body.items() if key not in OWN} or None
    name = next((one for one in ("messages", "input") if body.get(one) is not None), "prompt")
    given: Any = body.get(name)
    if are_texts(given):
        given, *more = given
        if more:
            raise RowError(f"has a list of texts under body.{name}; give each text a row of its own")
    if isinstance(given, list):
        system = None if extra is None or not isinstance(extra.get("system"), str) else extra.pop("system")
        return _conversation(given, f"body.{name}", length, row_id, system, extra or None, recorded=False)
    if given is None:
        raise RowError(f"has neither messages nor prompt in its body; it has {names_of(body)}")
    return _text_row(_prompt_text(given, f"body.{name}"), output_tokens=length, id=row_id, body=extra)


def _system_of(value: Mapping[str, Any]) -> str | None:
    """Return the system prompt that stands in a row beside its prompt; None where there is none."""
    name = next((one for one in SYSTEMS if value.get(one) not in (None, "", [])), None)
    if name is None:
        return None
    said = value[name]
    if isinstance(said, dict) and isinstance(said.get("parts"), list):  # of Gemini's requests
        said = said["parts"]
    if isinstance(said, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in said):
        said = text_of([{"content": said}])
    if not isinstance(said, str):
        raise RowError(f"has {kind_of(said)} for a system prompt (column {name}), not a text")
    return said if said.strip() else None


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

    What a data set or an export has is asked up to the first answer. Messages as chat APIs take them ("role", "content") are
    asked as they are, without the recorded answer that they may end in.
    """
    if not isinstance(given, list):
        raise RowError(f"has {kind_of(given)} under {name}, not a list of messages")
    messages = [_message(turn, place, name) for place, turn in enumerate(given, 1)]
    shared = not all(map(is_usual, given))
    answer, transcript, unheard = None, messages, ()
    if shared or name in ("conversations", "conversation"):
        heard = (one for one in messages if one["role"] in HEARD and _says_something(one))
        transcript = [{key: each for key, each in one.items() if key in MESSAGE} for one in heard]
        left_out = (one["role"] for one in messages if one["role"] not in HEARD and _says_something(one))
        unheard = tuple(dict.fromkeys(left_out))
        messages, answer = _before_first_answer(transcript)
    elif recorded and messages and messages[-1].get("role") == "assistant":
        answer = text_of(messages[-1:])
        messages = messages[:-1]
    if not messages and (shared or not given):
        return None
    asking = [one for one in messages if one["role"] not in ("system", "developer", "assistant")]
    if not any(map(_says_something, asking)):
        raise RowError(
            f"has an empty prompt (under {name}){WITHOUT}" if asking else f"has no message of a user under {name}"
        )
    if system is not None and messages[0].get("role") != "system":
        messages, transcript = ([{"role": "system", "content": system}, *said] for said in (messages, transcript))
    return Row(text_of(messages), tuple(messages), length, row_id, extra, answer, tuple(transcript), unheard=unheard)


def _says_something(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    if isinstance(content, list):
        content = any(not isinstance(part, dict) or part.get("type") != "text" or part.get("text") for part in content)
    return bool(content.strip() if isinstance(content, str) else content) or calls_a_tool(message)


def _before_first_answer(said: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], str | None]:
    """Return the system's and the user's turns before the first answer to them, and that answer."""
    roles = [one["role"] for one in said]
    if "user" not in roles:
        return [], None
    end = roles.index("assistant", roles.index("user")) if "assistant" in roles[roles.index("user") :] else len(roles)
    answer = text_of(said[end : end + 1]) if end < len(roles) else None
    return [one for one in said[:end] if one["role"] != "assistant"], answer


def _message(turn: Any, place: int, name: str) -> Mapping[str, Any]:
    """Return a message as chat APIs take it, its role in their words, where data sets have others that no server knows."""
    if not isinstance(turn, dict):
        raise RowError(
            f"has {kind_of(turn)} in message {place} of {name}, not an object; give texts, or messages in one list"
        )
    message = as_message(turn) if not is_usual(turn) else turn
    if message is None and not turn.keys().isdisjoint(CONVERSATIONS):  # a list of conversations, not of messages
        raise NoPromptError
    if message is None:
        raise RowError(
            f'has no "role" and "content" in message {place} of {name}; it has {names_of(turn)}: write it like '
            '{"role": "user", "content": …}'
        )
    if not isinstance(content := message.get("content"), str | list | None):
        raise RowError(f"has {kind_of(content)} for the content of message {place} of {name}, not a text")
    parts = [*map(plain_part, content)] if isinstance(content, list) else []
    if parts and parts != content:
        message = {**message, "content": parts}
    if parts and all(isinstance(part, dict) and [*part] == ["text"] for part in parts):
        message = {**message, "content": text_of([message])}  # parts without types, as in Bedrock's Converse
    role = usual_role(message["role"])
    return message if role == message["role"] else {**message, "role": role}


def _prompt_text(text: Any, name: str | None) -> str:
    column = "" if name is None else f" (column {name})"
    if not isinstance(text, str):
        raise RowError(f"has {kind_of(text)} for a prompt{column}, not a text")
    if not text.strip():
        raise RowError(f"has an empty prompt{column}{WITHOUT}")
    if "\0" in text:
        raise RowError(f"has a NUL character in its prompt{column}")
    return text


def _output_length(value: Mapping[str, Any]) -> int | None:
    """Return the length of the answer that a row asks for."""
    name = next(
        (one for one in LENGTH_KEYS if value.get(one) not in (None, "") and not str(value[one]).isspace()), None
    )
    if name is None:
        return None
    given = value[name]
    length = read_count(given)
    if length is None or not 1 <= length <= TOKEN_COUNTS.high:
        said = (
            short_repr(given)
            if isinstance(given, str | int | float) and not isinstance(given, bool)
            else kind_of(given)
        )
        raise RowError(f"has {said} for a length (column {name}); give a whole number from 1 to {TOKEN_COUNTS.high}")
    return length


def _body_keys(value: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a row lays over its request's body."""
    extra = cell_of(value, "body") if "body" in value else None
    if not isinstance(extra, dict):
        return None
    said = {key: each for key, each in extra.items() if key not in OWN}
    if isinstance(options := said.get("options"), dict):  # of Ollama, with the length and the context in them
        said["options"] = {key: each for key, each in options.items() if key not in (*LENGTH_KEYS, "num_ctx")}
        if not said["options"]:
            del said["options"]
    return said or None


def names_of(value: Iterable[Any]) -> str:
    """Return the names in a row or a file's head, of many the first, for a sentence."""
    names = [" ".join(str(name).split())[:MOST_NAME] for name in value]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(names[:MOST_NAMES])!r}{more}" if names else "none"


def kind_of(value: Any) -> str:
    kinds = {type(None): "nothing", bool: "a truth value", str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")
