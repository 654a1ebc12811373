"""What servers say when something is wrong, one sentence per error; and what it means when they say nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.credentials import redacted
from loadtest.dialects.answers.errors.error_words import WORDS, compact, one_spelling, words_in
from loadtest.dialects.answers.errors.masks import masked
from loadtest.dialects.answers.errors.of_headers import cause_in, when_to_retry
from loadtest.dialects.answers.errors.pages import LONGEST_PAGE, page_words, words_of_xml
from loadtest.dialects.answers.errors.redirects import LOG_IN, bare_location, instead, leads_to_login
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.text import join_text, shown

MOST_CHARACTERS = 300  # kept of a text that the server sent

MID_LINE = "the answer ended in the middle of a line"
EMPTY_ANSWER = "the answer is empty; the server's log may say why (a prompt beyond its context, for one)"
ERROR_WITHOUT_TEXT = "an error without a text"
# equal pieces after which a silent end is taken for Ollama's repeat guard (it allows 30 repetitions)
GUARDED_REPEATS = 30


def repeated(texts: Sequence[str]) -> str | None:
    """Say that Ollama's repeat guard ended the answer, where its last pieces are all equal, blanks around them aside.

    After more than 30 equal pieces Ollama ends a stream with status 200 and without done:true.
    """
    pieces = {text.strip() for text in texts[-GUARDED_REPEATS:]}
    if len(texts) < GUARDED_REPEATS or len(pieces) > 1:
        return None
    return (
        f"the server ended the answer without a word after {GUARDED_REPEATS} or more equal pieces "
        f"({quoted(pieces.pop(), 20)}), as Ollama's repeat guard does"
    )


def shorten(text: str, longest: int = MOST_CHARACTERS) -> str:
    """Return `text` on one line, cut to `longest` characters, without our keys, what would steer a terminal escaped."""
    cut = redacted(text[: 8 * longest])
    flat = shown(join_text(" ".join(line.strip(" \t") for line in cut.splitlines() if line.strip())))
    return flat if len(flat) <= longest and len(text) <= 8 * longest else flat[: longest - 1] + "…"


def quoted(text: str, longest: int = 80) -> str:
    """Return `text` shortened, in quotes."""
    return f"'{shorten(text, longest)}'"


def alike(text: str) -> str:
    """Return `text` with "#" in place of what differs in every answer: see `masked`.

    Our keys are taken out first: with a "#" in it a key would not be recognised.
    """
    return masked(redacted(text))


_DIGITS = re.compile(r"\d+(?:[.:,T+-]?\d+)*")


def undecodable(line: bytes) -> str:
    """Say that a line of the answer is not the JSON that it should be.

    A line that calls itself an error is the server's own word.
    """
    if (found := _CALLED_ERROR.match(line)) is not None:
        return error_sentence(line[found.end() :].decode(errors="replace"))
    if page := _page(line):
        return f"the answer goes on with {page}"
    if (at := line.rfind(b'{"error"')) > 0 and (row := parse_json(line[at:])) is not None:
        return error_sentence(row)  # the server said it in the middle of another object
    return f"a line of the answer is not a JSON object: {beginning(line)}"


def beginning(data: bytes, longest: int = 80) -> str:
    """Return how bytes of an answer begin, in quotes; numbers are masked, since any may be an id."""
    return quoted(_DIGITS.sub("#", alike(data[:400].decode(errors="replace"))), longest)


_CALLED_ERROR = re.compile(rb"\s*[\[<*]*error[\]>*]*\s*:\s*(?=\S)", re.IGNORECASE)


def stranger(body: bytes) -> str:
    """Say what a body is that is no model server's answer: a web page, text, or other JSON."""
    if page := _page(body):
        return f"the answer is {page}"
    if said := words_of_xml(body):
        return f"the answer is an error in XML: {quoted(alike(said), 200)}"
    if body.startswith(_PACKED):
        return "the server compressed the answer without saying so"
    if not _is_text(body):
        return "the answer is no text: it may be compressed"
    return f"the answer is no stream of a model server: it begins with {beginning(body, 160)}"


def _page(body: bytes) -> str | None:
    """Name a web page by its title; None where the body is none."""
    if (found := page_words(body)) is None:
        return None
    title, squids = (quoted(alike(text), 120) if text else "" for text in found)
    return f"a web page, titled {title}{f': {squids}' if squids else ''}" if title else "a web page without a title"


_STATES = ("queued", "pending", "processing", "inprogress", "running")  # of a request that has no answer yet
_BAD_STATUS = ("error", "fail", "failed", "failure", "aborted", "cancelled", "canceled")
_ERROR_KIND = re.compile(r"(?:error|exception)\Z", re.IGNORECASE)  # stream_error, ThrottlingException
_ERROR_CODES = ("errorcode", "errcode")
_CODES = ("code", "status", "statuscode", *_ERROR_CODES, "retcode", "ret", "returncode", "resultcode")
_GOOD_CODES = {0, 200, "0", "200", "ok", "success"}
_GOOD_WORDS = ("ok", "success", "succeeded")
_WORDS_OF_ERRORS = ("error_message", "error_msg", "errmsg", "err_msg")  # no good answer has words there


def in_row(row: dict[str, Any]) -> str | None:
    """Return what a row of an answer says is wrong: an error object, under any of its names; None where it says nothing."""
    if (error := row.get("error")) and not is_none(error):
        return error_sentence(row if isinstance(error, bool | int | float) or row.get("choices") is None else error)
    for name, value in row.items():
        if isinstance(value, dict) and name.startswith("x_") and value.get("error") and not is_none(value["error"]):
            return error_sentence(value["error"])  # Groq's x_groq
    if row.get("object") == "error" or row.get("type") in ("error", "response.error"):
        return error_sentence(row)
    if not row.get("choices") and any(_says(row.get(name)) for name in _WORDS_OF_ERRORS):  # DeepInfra
        return error_sentence(row)
    base = row.get("base_resp")  # MiniMax
    return error_sentence(base) if isinstance(base, dict) and base.get("status_code") else None


def _says(value: Any) -> bool:
    """Whether a value is words that are not just those of success."""
    return isinstance(value, str) and not is_none(value) and value.strip().lower() not in _GOOD_WORDS


def is_none(error: Any) -> bool:
    """Whether an error is none: all of it empty, as one-api sends with every answer, or a code of success."""
    if isinstance(error, str):
        return error.strip().lower() in ("", "none", "null", "false")
    if not isinstance(error, dict):
        return False
    error = one_spelling(error)
    said = [
        value for key, value in error.items() if key not in _CODES and not (isinstance(value, str) and is_none(value))
    ]
    words = [value for value in said if value and str(value).strip().lower() not in _GOOD_WORDS]
    codes = [error[key] for key in _CODES if error.get(key)]
    return not words and all(str(code).lower() in ("200", *_GOOD_WORDS) for code in codes)


def envelope(row: dict[str, Any]) -> str | None:
    """Return the error in a row that has nothing of a dialect's own, as gateways send with status 200; else None."""
    row = one_spelling(row)
    if isinstance(inner := row.get("response"), dict):  # Tencent's
        row |= one_spelling(inner)
    if (error := row.get("error")) and not is_none(error):
        return error_sentence(row)
    if row.get("errors") or row.get("detail") or row.get("fault"):
        return error_sentence(row)
    failed = any(str(row.get(name)).lower() in ("false", "0") for name in ("success", "ok")) or any(
        row.get(name) is True for name in ("iserror", "failed")
    )
    if failed or any(str(row.get(name)).lower() in _BAD_STATUS for name in ("status", "state")):
        return error_sentence(row)
    if any(isinstance(row.get(name), str) and _ERROR_KIND.search(row[name]) for name in ("type", "object", "event")):
        return error_sentence(row)
    code = next(
        (row[key] for key in _CODES if isinstance(row.get(key), int | str) and not _is_state(key, row[key])), None
    )
    good = isinstance(code, bool) or (code.lower() if isinstance(code, str) else code) in _GOOD_CODES
    if code is None or good:
        return None
    if any(_says(row.get(key)) for key in WORDS):
        return error_sentence(row)
    if isinstance(row.get("text"), str) and any(row.get(key) for key in _ERROR_CODES):
        return error_sentence(row["text"])  # FastChat's, in mid-stream
    return None


def _is_state(key: str, value: int | str) -> bool:
    """Whether a status says where the request is, such as queued or 102, as gateways do before the first token."""
    if isinstance(value, str) and not value.isdecimal():
        return key == "status" or value.lower().replace("_", "") in _STATES
    code = int(value[:9]) if isinstance(value, str) else value  # a text of thousands of digits is no int
    return key.startswith("status") and 100 <= code < 300


def words(row: dict[str, Any]) -> str | None:
    """Return the message of a row that has nothing else; None where it has none."""
    said = any(value and isinstance(value, str) and key in WORDS for key, value in one_spelling(row).items())
    return error_sentence(row) if said else None


def as_json(row: dict[str, Any]) -> bytes:
    """Return a row as bytes again, near enough."""
    return compact(row).encode(errors="replace")


def of_foreign_row(row: dict[str, Any], *, alone: bool) -> str | None:
    """Say what a row of no format that is known means where the answer has no end mark; `alone`: and no text either."""
    return words(row) or (stranger(as_json(row)) if alone else None)


def error_sentence(error: Any) -> str:
    """Return the text of an error object, whichever shape it has; never raises.

    Shapes seen: Ollama {"error": str}; OpenAI, vLLM, llama.cpp {"error": {"message": str}}; older vLLM {"object":
    "error", "message": str}; FastAPI {"detail": str} and {"detail": [{"loc": […], "msg": str}]}; gateways {"code": int,
    "msg": str}, {"success": false, "errors": […]}, {"error": true, "message": str}, {"fault": {"faultstring": str}}.
    """
    said = words_in(error) or (compact(error) if error and not isinstance(error, str) else "")
    return shorten(alike(said[: 8 * MOST_CHARACTERS])) or ERROR_WITHOUT_TEXT


def sentence_in(error: bytes) -> str:
    """Return what an error's data say, or its comments, where those are all that it has: Dynamo sends such."""
    said = parse_json(error)
    return error_sentence(error.strip().decode(errors="replace") if said is None else said)


def is_ours(sentence: str) -> bool:
    """Whether the sentence of an error is one of this module on bytes that cannot be read, not the server's own words."""
    return sentence.startswith(_OUR_BEGINNINGS)


_OUR_BEGINNINGS = ("a line of the answer", "the answer ", "the server ")


def http_sentence(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> str:
    """Return what an answer with an error status says: its JSON error, else its text, its headers, its status.

    A redirect's target and Retry-After are added; a compressed body is not decompressed.
    """
    said = {name.lower(): value for name, value in (headers or {}).items()}
    packed = said.get("content-encoding", "").strip().lower()
    body = body.removeprefix(b"\xef\xbb\xbf")
    begin = f"HTTP {status}"
    if packed not in ("", "identity", "none") and body and not _is_text(body):
        text = f"{begin}, in an answer that the server compressed ({shorten(packed, 40)})"
    elif 300 <= status < 400 and said.get("location"):
        where = shorten(alike(bare_location(said["location"])), 200)
        if leads_to_login(said["location"]):
            text = f"{begin}: the server redirects to {where}, where people log in; {LOG_IN}"
        else:
            text = f"{begin}: the server redirects to {where}; redirects are not followed, so give {instead(where)}"
    else:
        text = _body_sentence(body) or _status_sentence(begin, body, said)
    return text + when_to_retry(said)


def _body_sentence(body: bytes) -> str | None:
    """Return the words of an error's body as JSON or text; None where it has none."""
    parsed = parse_json(body)
    if parsed is None:
        parsed = _in_frames(body)
    if parsed is not None:
        return error_sentence(parsed) if parsed not in ({}, [], "") else None
    if body.strip() == b"null" or words_of_xml(body) or page_words(body) or not _is_text(body):
        return None
    text = words_in(body[:LONGEST_PAGE].decode(errors="replace"))[: 8 * MOST_CHARACTERS + 1]
    return shorten(alike(text)) or None


def _status_sentence(begin: str, body: bytes, said: Mapping[str, str]) -> str:
    """Return what an answer says whose body is no JSON and no text."""
    if xml := words_of_xml(body):
        return f"{begin}: {quoted(alike(xml), 200)}"
    if body.startswith(_PACKED):
        return f"{begin}, in an answer that the server compressed without saying so"
    if page := _page(body):
        what = page
    elif not body.strip():
        what = "an empty body"
    elif _is_text(body):
        what = f"a body that says nothing ({shorten(body.decode(errors='replace'), 20)})"
    else:
        what = f"a body that is no text ({len(body)} bytes)"
    cause = None if page and "titled" in page else cause_in(said)
    return f"{begin} with {what}" + (f", and the header {quoted(alike(cause), 160)}" if cause else "")


def _in_frames(body: bytes) -> Any:
    """Return the first JSON object in an event stream, or in lines that are an object each; None where the body is none."""
    for line in body[: 8 * MOST_CHARACTERS].splitlines():
        if isinstance(row := parse_json(line.removeprefix(b"data:").strip()), dict):
            return row
    return None


_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x9c", b"\x78\x01", b"\x78\xda")  # gzip, zstd, deflate


def _is_text(body: bytes) -> bool:
    """Whether a body is text, judged by its beginning; a compressed one is not, whatever its headers say."""
    text = body[: 8 * MOST_CHARACTERS].decode(errors="replace")
    return not body.startswith(_PACKED) and text.count("\ufffd") <= len(text) // 8
