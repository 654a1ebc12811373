"""The names that data files give their columns, and what of a row is not sent."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import orjson

from loadtest.scenario import parse_whole
from loadtest.workloads.files.json_rows import remedy
from loadtest.workloads.files.turns import (
    SAID,
    SPEAKS,
    are_texts,
    in_order,
    is_conversation,
    is_tree,
    is_turn,
    speaker_of,
    spoken_in_turn,
)

PROMPTS = ("prompt", "question", "instruction", "query", "text", "input")
CONVERSATIONS = ("messages", "conversations", "conversation")
IDS = (
    *("id", "custom_id", "row_id", "question_id", "task_id", "conversation_id", "prompt_id"),
    *("session_id", "record_id", "_id", "uuid"),
)
SESSION_IDS = frozenset(("conversation_id", "session_id"))
LENGTH_KEYS = (
    *(
        "output_tokens",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_new_tokens",
        "num_predict",
        "n_predict",
    ),
    *("output_length", "output_len", "expected_output_len", "output_tokens_count", "expected_output_tokens"),
)
KNOWN = (*CONVERSATIONS, *PROMPTS, "body")  # columns that may hold the prompt, the first that a row has
SYSTEMS = ("system", "system_prompt", "system_instruction")  # columns that may hold a system prompt beside it
TURNS = "turns"  # what a user says turn by turn, in MT-Bench
# columns that may hold a recorded answer to a prompt
ANSWERS = ("answer", "output", "response", "completion", "generation", "outputText")
PARAMS = "params"  # the request of a row of Anthropic's batches
SENT = frozenset((*KNOWN, TURNS, PARAMS))  # of a row that has one under its usual name, no other name is looked for
READ = frozenset((*SENT, *IDS, *LENGTH_KEYS, *SYSTEMS))
AROUND = frozenset(("method", "url", *ANSWERS))  # what a batch file or a recorded answer says beside the request
_OF_PYTHON = re.compile(r"""[\[{]\s*[{'"]""")  # how a list or a dict begins that Python wrote
# an element of such a list, and the blanks to the next one: numpy writes no commas
_ELEMENT = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\})(\s+(?=['"{]))?""", re.DOTALL)


class RowError(Exception):
    """What is wrong with a row: a phrase that follows "line 7"."""


class NoPromptError(RowError):
    """A row without a prompt where one is looked for; what to say of it depends on the rest of the file."""


def row_json(body: bytes) -> Any:
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


def loads_python(text: str) -> Any:
    """Read a list or a dict as Python and numpy write it, which pandas puts into the cells of a CSV file; None for any other text."""
    if not _OF_PYTHON.match(text):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes that Python does not know
            value = ast.literal_eval(_ELEMENT.sub(lambda found: found[1] + "," * (found[2] is not None), text))
        return orjson.loads(orjson.dumps(value))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def plain_name(name: Any) -> str:
    """Return the letters and digits of a name, in small letters: "Max Tokens" is maxtokens."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


def read_count(given: Any) -> int | None:
    """Return a count that a row gives as a number or as a text; None for what is none."""
    try:
        return None if isinstance(given, bool) else parse_whole(given if isinstance(given, str) else repr(given))
    except (TypeError, ValueError, OverflowError):
        return None


_USUAL = {plain_name(name): name for name in READ if name != "_id"}


def usual_name(name: Any) -> Any:
    """Return a known column's name as this module writes it, any other as it is: "Max Tokens" is max_tokens."""
    return name if name in READ else _USUAL.get(plain_name(name), name)


def with_usual_names(value: dict[Any, Any], column: str | None) -> dict[Any, Any]:
    """Return a row with its known columns' names as this module writes them, where no prompt stands under such a name.

    The name that the user gave, or the first part of it, stays, and so does one whose usual name the row has as well.
    """
    if not SENT.isdisjoint(value):
        return value
    stays = (column, str(column).partition(".")[0])
    usual = {name: name if name in stays else usual_name(name) for name in value}
    return {name if usual[name] in value else usual[name]: each for name, each in value.items()}


def prompt_column(value: Mapping[Any, Any]) -> str | None:
    """Return the column that holds a row's prompt: by its name, else the only one with a conversation; None: there is none."""
    name = next((one for one in KNOWN if value.get(one) not in (None, "")), None)
    if name is None and isinstance(value.get(TURNS), list):
        return TURNS
    if name is not None or isinstance(value.get(PARAMS), dict):
        return name
    found = [one for one, each in value.items() if is_tree(each) or is_conversation(each)]
    return found[0] if len(found) == 1 else None


def found_prompt(value: dict[Any, Any], column: str | None) -> tuple[dict[Any, Any], str, Any]:
    """Return a row under the usual names, its prompt's column and what stands in it; raise NoPromptError or RowError."""
    value = with_usual_names(value, column)
    name = column if column is not None else prompt_column(value)
    if name is None and isinstance(value.get(PARAMS), dict) and value[PARAMS].get("messages"):
        value, name = {**value, "body": value[PARAMS]}, "body"  # a request of Anthropic's batches
    try:
        if name is not None:
            return value, name, cell_of(value, name)
    except KeyError:
        pass
    raise NoPromptError


def value_at(value: Mapping[Any, Any], column: str) -> Any:
    """Return what stands in a column; `a.b` is b in the object a where no column has that name. Raises KeyError."""
    if column in value:
        return value[column]
    first, dot, rest = column.partition(".")
    inner = value[first]
    if not dot or not isinstance(inner, dict):
        raise KeyError(column)
    return value_at(inner, rest)


def cell_of(value: Mapping[str, Any], name: str) -> Any:
    """Return what stands in a column; a conversation as its messages, also where it is JSON in a text, as tables have it."""
    given = value_at(value, name)
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        given = _in_text(given, known=name in CONVERSATIONS or (name == "body" and given.lstrip()[0] == "{"), name=name)
    given = in_order(given, value)
    return spoken_in_turn(given, name) if name in (*CONVERSATIONS, TURNS) else given


def _in_text(given: str, *, known: bool, name: str) -> Any:
    """Return the JSON of a text, where it is `known` to be some or holds what somebody says; else the text, which is a prompt.

    What Python wrote is read as JSON is.
    """
    try:
        read = row_json(given.encode())
    except orjson.JSONDecodeError as error:
        read = loads_python(given.strip())
        if read is None and known:
            raise RowError(
                f"has a text that begins like JSON under {name} and is none: {error.msg} (character {error.colno} of the "
                f"text){remedy(given.encode(), error.msg)}"
            ) from None
    said = read.get("messages") if isinstance(read, dict) else read
    return read if known or is_conversation(said) or are_texts(said) else given


@dataclass(frozen=True, slots=True)
class RowShape:
    """What rows with the same columns share, found out once for all that follow one another.

    The rows of a file of millions are mostly of one shape.
    """

    names: Any = None  # the columns; None for what has none
    may_be_filled: Sequence[str] = ()  # columns that hold nothing here: a row that fills one is of another shape
    unsent: Sequence[str] = ()  # columns that hold something and are not sent
    text: str | None = None  # the prompt's column, where it is a text and nothing else of the row is sent
    id: str | None = None  # the column whose texts or whole numbers tell rows apart

    @classmethod
    def of(cls, value: Any, column: str | None) -> Self:
        """Return the shape of a row; `column` is the prompt's, where the user gave it."""
        if not isinstance(value, dict):
            return cls()
        unsent, blank = unsent_columns(value, column)
        ids = (one for one in IDS if one in value and type(value[one]) in (int, str))
        return cls(value.keys(), blank, unsent, _text_column(value, column), next(ids, None))

    def has(self, value: Any) -> bool:
        if value.__class__ is not dict or value.keys() != self.names:
            return False
        return not (self.may_be_filled and any(map(value.get, self.may_be_filled)))


def _text_column(value: Mapping[Any, Any], column: str | None) -> str | None:
    if any(name in value for name in ("body", *LENGTH_KEYS, *SYSTEMS, *SPEAKS)):
        return None
    name = column if column is not None else next((one for one in KNOWN if one in value), None)
    return name if name not in (None, "instruction", *CONVERSATIONS) and is_plain(value.get(name)) else None


def is_plain(text: Any) -> bool:
    """Whether this is a prompt that can be sent, with nothing in it to be read or said."""
    return isinstance(text, str) and text.lstrip()[:1] not in "[{" and "\0" not in text and "{{" not in text


def unsent_columns(value: dict[Any, Any], column: str | None) -> tuple[list[str], list[str]]:
    """Return the columns of a row that hold something and are not sent, and those of which other rows may hold more.

    Nothing is said of what is known beside a request, nor, where the user has named the prompt's column, of those beside that.
    """
    value = with_usual_names(value, column)
    prompt: Any = prompt_column(value) if column is None else column
    sent = _sent(value, prompt)
    beside = [name for name in value if column is None and name not in sent and str(name).strip()]
    filled = [name for name in beside if value[name] not in (None, "", [], {})]
    others = [name for name in beside if name not in filled]
    inner = None
    with contextlib.suppress(KeyError, RowError):
        inner = None if prompt in (None, "body") else cell_of(value, prompt)
    if isinstance(inner, dict) and not is_turn(inner) and not is_tree(inner):
        filled += [f"{prompt}.{name}" for name in unsent_columns(inner, None)[0]]
        others.append(str(prompt).partition(".")[0])
    if prompt == TURNS:
        said = [one for one in value[TURNS] if isinstance(one, dict)]
        filled += {f"{TURNS}[].{name}": None for one in said for name in one if name not in (*SAID, *SPEAKS)}
        others += [TURNS] * bool(said)
    if isinstance(inner, list) and inner and isinstance(inner[0], dict) and speaker_of(inner[0]) == "system":
        filled += [one for one in SYSTEMS if value.get(one)]  # the conversation has its own
    return [" ".join(str(name).split()) for name in filled], others


def _sent(value: Mapping[Any, Any], prompt: str | None) -> set[str | None]:
    """Return the columns of a row that are sent, or are known beside what is."""
    sent = {prompt, *SYSTEMS, *AROUND, *LENGTH_KEYS, next((one for one in IDS if one in value), None)}
    body = value.get("body")
    if isinstance(body, dict) or (isinstance(body, str) and body.lstrip().startswith("{")):
        sent.add("body")
    # Alpaca's rows have an input beside their instruction, and rows of Anthropic's batches have params in place of a prompt.
    return sent | {"input" if prompt == "instruction" else PARAMS if prompt is None else prompt}
