"""Headers, query, path and body that a user adds to every request: what they may hold, and how they are written.

${NAME} in a header, a query or a text of the body stands for a variable of the environment. It is filled in where a
request is made ready (`credentials.filled`), so the scenario and all that is written of it keep the template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from loadtest import credentials
from loadtest.credentials import VARIABLE
from loadtest.errors import ScenarioError
from loadtest.scenario.files import is_file, read_text
from loadtest.scenario.values import short_repr
from loadtest.urls import has_key

MOST_BODY = 16 << 20  # bytes
MOST_LINE = 16_384  # characters of a header or of a query

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = {  # headers that decide how a request is carried, so that a wrong one would break it
    "content-length": "it follows from the body",
    "transfer-encoding": "the body goes out with its length",
    "connection": "loadtest keeps connections open and closes them itself",
    "accept-encoding": "a compressed answer hides when its tokens came",
    "expect": "the body goes out with its head",
    "upgrade": "answers come over HTTP/1.1",
    "te": "answers come over HTTP/1.1",
    "trailer": "a request has no trailers",
}
_HOST = re.compile(r"[\w.-]+(?::\d+)?|\[[0-9A-Fa-f:]+\](?::\d+)?", re.ASCII)
_BARE_VARIABLE = re.compile(r"(?:^|(?<=\s))\$([A-Z][A-Z0-9_]{2,})$")  # what a shell would fill in
_PROMPT = "--prompt, --prompt-file or --input-tokens"
_LENGTH = "--output-tokens (its name is --max-tokens-key)"
_SET_BY = {  # keys of a body that decide what is measured, and what sets them
    "model": "--model",
    "messages": _PROMPT,
    "prompt": _PROMPT,
    "input": _PROMPT,
    "stream": "--endpoint",
    "max_tokens": _LENGTH,
    "max_completion_tokens": _LENGTH,
    "max_output_tokens": _LENGTH,
    "num_predict": _LENGTH,
    "n_predict": _LENGTH,
}
_SET_IN_OPTIONS = {"num_predict": "--output-tokens", "num_ctx": "--num-ctx"}
_QUERY = re.compile(r"[A-Za-z0-9\-._~!$'()*+,;:@/?%=&\[\]{}]+")
# what a query's value may hold as it is; a variable's value is encoded where it must be
_SAFE = "-._~!$'()*+,;:@/?%=[]"
_PATH = re.compile(r"/[A-Za-z0-9\-._~!$&'()*+,;:@/%=]*")
_EXAMPLE = '{"top_k": 20}'
_DURATION = re.compile(r"-?\d+|-?(\d+(\.\d*)?(ns|us|µs|ms|s|m|h))+")


def header_parts(text: str) -> tuple[str, str]:
    """Return a header's name and its value; raise ScenarioError where HTTP allows no such header, or loadtest sets it."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip(" \t")
    if len(text) > MOST_LINE:
        raise ScenarioError(f"header is {len(text)} characters long; make it {MOST_LINE} or fewer.")
    if not colon or not _NAME.fullmatch(name):
        raise ScenarioError(f"header must be written 'Name: value', not {_hidden(text)}.")
    if why := _OURS.get(name.lower()):
        raise ScenarioError(f"header {name} cannot be set: {why}; leave it out.")
    if not all(" " <= char <= "~" or char == "\t" for char in value):
        raise ScenarioError(
            f"header {name} holds a line end, a control character or a non-ASCII character in its value, which HTTP does "
            "not allow; take it out or write it percent-encoded."
        )
    _check_variables(f"header {name}", value)
    if name.lower() == "host" and not _HOST.fullmatch(VARIABLE.sub("x", value)):
        raise ScenarioError("header Host must be a host, or host:port; write it like 'Host: model.example.org'.")
    if (bare := _BARE_VARIABLE.search(value)) is not None:
        raise ScenarioError(f"header {name} holds {bare[0]}, which is not filled in: write ${{{bare[1]}}}.")
    return name, value


def check_headers(texts: Sequence[str]) -> None:
    """Raise ScenarioError for a header that cannot be sent, and for one given twice."""
    names = [header_parts(text)[0].lower() for text in texts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ScenarioError(f"header {twice} is given twice; give it once, with its values in one line.")


def filled_headers(texts: Sequence[str]) -> dict[str, str]:
    """Return the headers with their variables filled in from the environment; raise ScenarioError where one is not set."""
    parts = map(header_parts, texts)
    return {name: credentials.filled(value, f"header {name}").strip() for name, value in parts}


def filled_query(texts: Sequence[str]) -> str:
    """Return the query as it is sent, "" for none; raise ScenarioError where a variable of the environment is not set."""
    return "&".join(
        f"{name}={quote(credentials.filled(value, f'query {name}'), safe=_SAFE)}" for name, value in query_parts(texts)
    )


def filled_body(patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is laid over bodies with the variables in its texts filled in; raise ScenarioError where one is not set."""

    def fill(path: tuple[str, ...], text: str) -> str:
        return credentials.filled(text, f"body {'.'.join(path)}", any_text=True) if "${" in text else text

    filled: dict[str, Any] = _with_texts(patch, fill)
    return filled


def _with_texts(value: Any, change: Callable[[tuple[str, ...], str], str], path: tuple[str, ...] = ()) -> Any:
    """Return a value of a body with every text in it changed; `change` is given where the text stands, too."""
    if isinstance(value, str):
        return change(path, value)
    if isinstance(value, Mapping):
        return {name: _with_texts(below, change, (*path, name)) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_with_texts(below, change, (*path, str(place))) for place, below in enumerate(value)]
    return value


def templates_of(header: Sequence[str], query: Sequence[str], body: str | None = None) -> dict[str, Any]:
    """Return all three with their secrets moved into the environment, ${NAME} in their place; see credentials.withheld.

    Raises ScenarioError for a variable that is not set.
    """
    headers = ((name, credentials.withheld(name, value, "HEADER")) for name, value in map(header_parts, header))
    pairs = ((name, credentials.withheld(name, value, "QUERY")) for name, value in query_parts(query))
    found: dict[str, Any] = {
        "header": tuple(f"{name}: {value}" for name, value in headers),
        "query": tuple(f"{name}={value}" for name, value in pairs),
    }
    filled_headers(found["header"])
    filled_query(found["query"])
    if body is not None:
        patch = _with_texts(orjson.loads(body), credentials.withheld_field)
        filled_body(patch)
        found["body"] = orjson.dumps(patch).decode()
    return found


def query_parts(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return names and values of a query, percent-encoded as given; raise ScenarioError for what no URL can hold."""
    found = []
    for text in texts:
        if len(text) > MOST_LINE:
            raise ScenarioError(f"query is {len(text)} characters long; make it {MOST_LINE} or fewer.")
        for pair in text.strip().removeprefix("?").split("&"):
            if not _QUERY.fullmatch(pair) or "=" not in pair:
                raise ScenarioError(
                    f"query must be written 'name=value', percent-encoded where it holds more than ASCII, blanks or "
                    f"#, not {_hidden(text, '=')}."
                )
            name, _, value = pair.partition("=")
            _check_variables(f"query {name}", value)
            found.append((name, value))
    return found


def check_path(path: str) -> None:
    if "?" in path:
        raise ScenarioError("path holds a query (?…); give it with --query.")
    if not _PATH.fullmatch(path):
        raise ScenarioError(
            "path must begin with / and hold no blank, # or character beyond ASCII, like /v1/chat/completions, not "
            f"{short_repr(path)}."
        )
    if has_key(path):
        raise ScenarioError(
            "path holds what looks like a key; put it into the URL, which keeps its keys out of all files."
        )


def check_keep_alive(text: str) -> None:
    if not _DURATION.fullmatch(text):
        raise ScenarioError(f"keep_alive must be a time like 10m, 0 or -1 (for ever), not {short_repr(text)}.")


def body_text(value: Any) -> Any:
    """Return a body as compact JSON: given as JSON, as a table, or as @FILE.

    Raises ScenarioError for what is no JSON object; anything but text and tables is returned as it is.
    """
    if value is None or not isinstance(value, str | Mapping):
        return value
    if isinstance(value, str) and value.startswith("@"):
        path = Path(value[1:])
        where, text = f"the body file {path}", read_text(path, "body file", most=MOST_BODY)
    else:
        where, text = "body", value if isinstance(value, str) else _dumped(value)
    try:
        read = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ScenarioError(f"{where} is not JSON: {error}{_likely(text)}; write it like '{_EXAMPLE}'.") from None
    if not isinstance(read, dict):
        raise ScenarioError(f'{where} must be a JSON object like {{"top_k": 20}}, not {short_repr(read)}.')
    try:
        return orjson.dumps(read).decode()
    except TypeError:  # its own limit, far below that of reading
        raise ScenarioError(f"{where} holds tables or lists nested hundreds deep; make it flatter.") from None


def check_body(text: str, given: Sequence[str]) -> None:
    """Raise ScenarioError for a key that decides what is measured, naming the option that sets it, and for a stray ${.

    `given` are the keys of the scenario that requests say: a body may not set one of them again.
    """
    body = orjson.loads(text)
    _with_texts(body, _checked_text)
    again = {one.removeprefix("sampling_"): f"--{one.replace('_', '-')}" for one in given}
    for key, option in (_SET_BY | again).items():
        if key in body:
            raise ScenarioError(f"body sets {key}, which is set by {option}; take it out of --body.")
    if "options" in body and not isinstance(options := body["options"], dict):
        raise ScenarioError(
            f"body takes away options, where Ollama is told lengths, or is no table: {short_repr(options)}."
        )
    for key, option in (_SET_IN_OPTIONS | again).items():
        if key in body.get("options", {}):
            raise ScenarioError(f"body sets options.{key}, which is set by {option}; take it out of --body.")


def _check_variables(what: str, value: str) -> None:
    if "${" in VARIABLE.sub("", value.replace("$${", "")):
        raise ScenarioError(
            f"{what} has a ${{ that names no variable; write it like ${{MY_KEY}}, or $${{ for a plain ${{."
        )


def _checked_text(path: tuple[str, ...], text: str) -> str:
    if "${" in text:
        _check_variables(f"body {'.'.join(path)}", text)
    return text


def _hidden(text: str, after: str = ":") -> str:
    """Return a text as a sentence quotes it, without what may be a secret: what stands behind `after`, or a long text."""
    name, found, _ = text.partition(after)
    return short_repr(name + found + "…") if found else short_repr(text if len(text) < 20 else text[:4] + "…")


def _dumped(value: Mapping[str, Any]) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise ScenarioError(
            "body holds a value that JSON cannot hold, such as a date or nan; write it as a text in quotes."
        ) from None


def _likely(text: str) -> str:
    """Say what was likely meant by a body that is no JSON; nothing where it is not known."""
    if is_file(text):
        return f" (a file's name follows an @: --body @{text.strip()})"
    try:
        orjson.loads(VARIABLE.sub("0", text))
    except orjson.JSONDecodeError:
        return ""
    return " (a variable stands for a text, in quotes)"
