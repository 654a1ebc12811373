"""The names that data files give their columns, and what of a row is not sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loadtest.workloads.files.turns import is_tree, is_turn

PROMPTS = ("prompt", "question", "instruction", "query", "text", "input")
CONVERSATIONS = ("messages", "conversations", "conversation")
IDS = ("id", "custom_id", "row_id", "question_id", "task_id", "conversation_id", "prompt_id", "_id", "uuid")
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
SYSTEMS = ("system", "system_prompt")  # columns that may hold a system prompt beside it
TURNS = "turns"  # what a user says turn by turn, in MT-Bench
ANSWERS = ("answer", "output", "response")  # columns that may hold a recorded answer to a prompt
PARAMS = "params"  # the request of a row of Anthropic's batches
READ = frozenset((*KNOWN, *IDS, *LENGTH_KEYS, *SYSTEMS, TURNS, PARAMS))
AROUND = frozenset(("method", "url", *ANSWERS))  # what a batch file or a recorded answer says beside the request


def plain_name(name: Any) -> str:
    """Return the letters and digits of a name, in small letters: "Max Tokens" is maxtokens."""
    return re.sub(r"[\W_]+", "", str(name)).lower()


_USUAL = {plain_name(name): name for name in READ if name != "_id"}


def usual_name(name: Any) -> Any:
    """Return a known column's name as this module writes it, any other as it is: "Max Tokens" is max_tokens."""
    return name if name in READ else _USUAL.get(plain_name(name), name)


def with_usual_names(value: dict[Any, Any]) -> dict[Any, Any]:
    """Return a row with its known columns' names as this module writes them, where it has none of them so."""
    return value if not READ.isdisjoint(value) else {usual_name(name): each for name, each in value.items()}


def prompt_column(value: Mapping[Any, Any]) -> str | None:
    """Return the column that holds a row's prompt: by its name, else the only one with a conversation; None: there is none."""
    name = next((one for one in KNOWN if value.get(one) not in (None, "")), None)
    if name is None and isinstance(value.get(TURNS), list):
        return TURNS
    if name is not None or isinstance(value.get(PARAMS), dict):
        return name
    found = [one for one, each in value.items() if is_tree(each) or _is_conversation(each)]
    return found[0] if len(found) == 1 else None


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def id_column(value: Any) -> str | None:
    """Return the column whose texts or whole numbers tell rows apart; None where a row has none."""
    found = (one for one in IDS if one in value) if isinstance(value, dict) else ()
    return next((one for one in found if type(value[one]) in (int, str)), None)


def at(value: Mapping[Any, Any], column: str) -> Any:
    """Return what stands in a column; `a.b` is b in the object a where no column has that name. Raises KeyError."""
    if column in value:
        return value[column]
    first, dot, rest = column.partition(".")
    inner = value[first]
    if not dot or not isinstance(inner, dict):
        raise KeyError(column)
    return at(inner, rest)


def unsent_columns(value: Any, column: str | None) -> tuple[list[str], list[str]]:
    """Return the columns of a row that hold something and are not sent, and those that hold nothing here.

    Nothing is said where the user has named the prompt's column, and of what is known beside a request.
    """
    if column is not None or not isinstance(value, dict):
        return [], []
    value = with_usual_names(value)
    prompt = prompt_column(value)
    body = value.get("body")
    lain_over = isinstance(body, dict) or (isinstance(body, str) and body.lstrip().startswith("{"))
    sent = {
        prompt,
        "body" if lain_over else prompt,
        *SYSTEMS,
        *AROUND,
        next((one for one in IDS if one in value), None),
    }
    sent.update(LENGTH_KEYS, ("input",) if prompt == "instruction" else (), (PARAMS,) if prompt is None else ())
    other = [name for name in value if name not in sent and str(name).strip()]
    filled = [name for name in other if value[name] not in (None, "", [], {})]
    return [" ".join(str(name).split()) for name in filled], [name for name in other if name not in filled]
