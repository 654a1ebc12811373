"""What servers say when something is wrong, one sentence per error; and what it means when they say nothing."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from loadtest.credentials import redacted
from loadtest.dialects.answers.errors.redirects import LOG_IN, leads_to_login
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.text import join_text, shown

MOST_CHARACTERS = 300  # kept of a text that the server sent

MID_LINE = "the answer ended in the middle of a line"
EMPTY_ANSWER = "the answer is empty; the server's log may say why (a prompt beyond its context, for one)"
ERROR_WITHOUT_TEXT = "an error without a text"
REPEATS = 30  # equal pieces after which a silent end is taken for Ollama's repeat guard (it allows 30 repetitions)


def repeated(texts: Sequence[str]) -> str | None:
    """Say that Ollama's repeat guard ended the answer, where its last pieces are all equal, blanks around them aside.

    After more than 30 equal pieces Ollama ends a stream with status 200 and without done:true.
    """
    pieces = {text.strip() for text in texts[-REPEATS:]}
    if len(texts) < REPEATS or len(pieces) > 1:
        return None
    return (
        f"the server ended the answer without a word after {REPEATS} or more equal pieces "
        f"({quoted(pieces.pop(), 20)}): Ollama's repeat guard"
    )


def shorten(text: str, longest: int = MOST_CHARACTERS) -> str:
    """Return `text` on one line, cut to `longest` characters, without our keys, what would steer a terminal escaped."""
    cut = redacted(text[: 8 * longest])
    flat = shown(join_text(" ".join(line.strip(" \t") for line in cut.splitlines() if line.strip())))
    return flat if len(flat) <= longest and len(text) <= 8 * longest else flat[: longest - 1] + "…"


def quoted(text: str, longest: int = 80) -> str:
    """Return `text` shortened, in quotes."""
    return f"'{shorten(text, longest)}'"


_ID = re.compile(
    r"""\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b  # a UUID
    | \b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:\ ?Z|\ ?[+-]\d\d:?\d\d)?  # an instant
    | \b(?:req|request|chatcmpl|cmpl|msg|resp|trace|run|gen)[-_](?=[\w-]*\d)[\w-]{6,}  # a prefixed id
    | \b(?=[a-f]*\d)[0-9a-f]{12,}\b  # a hash, a long counter, an instant in ms or ns
    | \b\d{9,}\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_DIGITS = re.compile(r"\d+(?:[.:,T+-]?\d+)*")


def alike(text: str) -> str:
    """Return `text` with "#" in place of ids and instants, which differ in every answer, so that equal failures read alike.

    Our keys are taken out first: with a "#" in it a key would not be recognised.
    """
    return _ID.sub("#", redacted(text))


def undecodable(line: bytes) -> str:
    """Say that a line of the answer is not the JSON that it should be; numbers are masked, since any may be an id.

    A line that calls itself an error is the server's own word.
    """
    if (found := _CALLED_ERROR.match(line)) is not None:
        return error_sentence(line[found.end() :].decode(errors="replace"))
    if page := _page_title(line):
        return f"the answer goes on with {page}"
    begin = _DIGITS.sub("#", alike(line[:400].decode(errors="replace")))
    return f"a line of the answer is not a JSON object: {quoted(begin)}"


_CALLED_ERROR = re.compile(rb"\s*[\[<*]*error[\]>*]*\s*:\s*(?=\S)", re.IGNORECASE)


def stranger(body: bytes) -> str:
    """Say what a body is that is no model server's answer: a web page, text, or other JSON."""
    if page := _page_title(body):
        return f"the answer is {page}"
    if said := _words_of_xml(body):
        return f"the answer is an error in XML: {quoted(alike(said), 200)}"
    if body.startswith(_PACKED):
        return "the server compressed the answer without saying so"
    begin = _DIGITS.sub("#", alike(body[:400].decode(errors="replace")))
    return f"the answer is no stream of a model server: it begins with {quoted(begin)}"


def _page_title(body: bytes) -> str | None:
    """Name a web page by its title, else by its first heading; None where the body is none."""
    text = body[:65536].decode(errors="replace")
    if not text.lstrip("\ufeff \t\r\n").startswith("<") or not _MARKUP.search(text[:2000]):
        return None
    for opening, closing in _TITLE_TAGS:
        if (begin := opening.search(text)) and (end := closing.search(text, begin.end())):
            title = html.unescape(re.sub(r"<[^<>]*>", " ", text[begin.end() : end.start()][:1000]))
            if title.strip():
                return f"a web page, titled {quoted(alike(title), 120)}{_squids_reason(text)}"
    return "a web page without a title"


def _squids_reason(page: str) -> str:
    """Return what a page of Squid's says behind its title, which is the same on all of them; "" of any other page."""
    found = _SQUIDS.search(page)
    words = "" if found is None else html.unescape(re.sub(r"<[^<>]*>", " ", found[1]))
    return f": {quoted(alike(' '.join(words.split())), 120)}" if words.strip() else ""


_SQUIDS = re.compile(r'<blockquote id="error">(.{1,500}?)</blockquote>', re.DOTALL)
_MARKUP = re.compile(r"<(?:!doctype\s+html|html|head|body|title)\b", re.IGNORECASE)
_TITLE_TAGS = tuple(
    (re.compile(rf"<{tag}\b[^<>]{{0,200}}>", re.IGNORECASE), re.compile(rf"</{tag}\b", re.IGNORECASE))
    for tag in ("title", "h1")
)


def compact(value: Any) -> str:
    """Return a value as JSON, near enough where that cannot be written."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested deeper than it writes, a lone surrogate, a huge number
        try:
            return str(value)
        except RecursionError:
            return ""


_STATES = ("queued", "pending", "processing", "inprogress", "running")  # of a request that has no answer yet
_BAD_STATUS = ("error", "fail", "failed", "failure")
_ERROR_CODES = ("error_code", "errcode", "err_code")
_CODES = ("code", "status", "statusCode", "statuscode", "status_code", *_ERROR_CODES, "retcode", "ret")
_WORDS = (
    "message",
    "msg",
    "error_message",
    "error_msg",
    "errmsg",
    "err_msg",
    "status_msg",
    "detail",
    "reason",
    "title",
)
_GOOD_CODES = {0, 200, "0", "200", "ok", "success"}
_WORDS_OF_ERRORS = ("error_message", "error_msg", "errmsg", "err_msg")  # no good answer has words there


def in_row(row: dict[str, Any]) -> str | None:
    """Return what a row of an answer says is wrong: an error object, under any of its names; None where it says nothing."""
    if (error := row.get("error")) and not _is_none(error):
        return error_sentence(row if isinstance(error, bool | int | float) or row.get("choices") is None else error)
    for name, value in row.items():
        if name.startswith("x_") and isinstance(value, dict) and value.get("error") and not _is_none(value["error"]):
            return error_sentence(value["error"])  # Groq's x_groq
    if row.get("object") == "error" or row.get("type") in ("error", "response.error"):
        return error_sentence(row)
    if not row.get("choices") and any(_says(row.get(name)) for name in _WORDS_OF_ERRORS):  # DeepInfra
        return error_sentence(row)
    base = row.get("base_resp")  # MiniMax
    return error_sentence(base) if isinstance(base, dict) and base.get("status_code") else None


def _says(value: Any) -> bool:
    """Whether a value is words that are not just those of success."""
    return isinstance(value, str) and not _is_none(value) and value.strip().lower() not in _GOOD_WORDS


def _is_none(error: Any) -> bool:
    """Whether an error is none: all of it empty, as one-api sends with every answer, or a code of success."""
    if isinstance(error, str):
        return error.strip().lower() in ("", "none", "null", "false")
    if not isinstance(error, dict):
        return False
    said = [
        value for key, value in error.items() if key not in _CODES and not (isinstance(value, str) and _is_none(value))
    ]
    words = [value for value in said if value and str(value).strip().lower() not in _GOOD_WORDS]
    codes = [error[key] for key in _CODES if error.get(key)]
    return not words and all(str(code).lower() in ("200", *_GOOD_WORDS) for code in codes)


_GOOD_WORDS = ("ok", "success", "succeeded")


def envelope(row: dict[str, Any]) -> str | None:
    """Return the error in a row that has nothing of a dialect's own, as gateways send with status 200; else None."""
    row = {key.lower(): value for key, value in row.items()}  # Tencent's Response.Error, AWS's Message
    if isinstance(inner := row.get("response"), dict):
        row |= {key.lower(): value for key, value in inner.items()}
    if (error := row.get("error")) and not _is_none(error):
        return error_sentence(row)
    if row.get("errors") or row.get("detail"):
        return error_sentence(row)
    if row.get("success") is False or row.get("ok") is False or str(row.get("status")).lower() in _BAD_STATUS:
        return error_sentence(row)
    code = next(
        (row[key] for key in _CODES if isinstance(row.get(key), int | str) and not _is_state(key, row[key])), None
    )
    good = isinstance(code, bool) or (code.lower() if isinstance(code, str) else code) in _GOOD_CODES
    if code is None or good:
        return None
    if any(row.get(key) and isinstance(row[key], str) for key in _WORDS):
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
    said = any(value and isinstance(value, str) and key.lower() in _WORDS for key, value in row.items())
    return error_sentence(row) if said else None


def of_foreign_row(row: dict[str, Any], *, alone: bool) -> str | None:
    """Say what a row of no format that is known means where the answer has no end mark; `alone`: and no text either."""
    return words(row) or (stranger(compact(row).encode(errors="replace")) if alone else None)


def error_sentence(error: Any) -> str:
    """Return the text of an error object, whichever shape it has; never raises.

    Shapes seen: Ollama {"error": str}; OpenAI, vLLM, llama.cpp {"error": {"message": str}}; older vLLM {"object":
    "error", "message": str}; FastAPI {"detail": str} and {"detail": [{"loc": […], "msg": str}]}; gateways {"code": int,
    "msg": str}, {"success": false, "errors": […]}, {"error": true, "message": str}.
    """
    return shorten(alike(_error_words(error, 4)[: 8 * MOST_CHARACTERS])) or ERROR_WITHOUT_TEXT


def comment_sentence(comment: bytes) -> str:
    """Return what an event that is an error says where it has no data: its comments, as Dynamo sends them."""
    said = parse_json(comment)
    return error_sentence(comment.strip().decode(errors="replace") if said is None else said)


def is_ours(sentence: str) -> bool:
    """Whether the sentence of an error is one of this module on bytes that cannot be read, not the server's own words."""
    return sentence.startswith(_OUR_BEGINNINGS)


_OUR_BEGINNINGS = ("a line of the answer", "the answer ", "the server ")


def _error_words(error: Any, depth: int) -> str:
    if isinstance(error, str):
        return error
    if depth and isinstance(error, list):
        return "; ".join(_error_words(item, depth - 1) for item in error[:3])
    if depth and isinstance(error, dict):
        if not any(error.get(key) for key in ("error", "errors", *_WORDS)):
            error = {str(key).lower(): value for key, value in error.items()}
        for key in ("error", "errors", *_WORDS, "response"):
            if error.get(key) and not isinstance(error[key], bool | int | float):
                place = ".".join(map(str, error["loc"])) + ": " if isinstance(error.get("loc"), list) else ""
                return place + _with_more(_error_words(error[key], depth - 1), error, key, depth - 1)
    return compact(error)


def _with_more(said: str, error: dict[str, Any], key: str, depth: int) -> str:
    """Return a sentence with what stands beside it: frameworks say "Bad Request" and the cause under another name."""
    metadata = error.get("metadata")
    beside = [metadata.get("raw")] if isinstance(metadata, dict) else []  # OpenRouter's: what its provider said
    if key == "error" and isinstance(error[key], str):
        others = (error.get(name) for name in ("error_description", *_WORDS))
        beside += [value for value in others if isinstance(value, str | list)]
    more = next((words for value in beside if value and (words := _error_words(value, depth))), "")
    return said if more in said else more if said in more else f"{said}: {more}"


def http_sentence(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> str:
    """Return what an answer with an error status says: its JSON error, else its text, else its status.

    A redirect's target and Retry-After are added; a compressed body is not decompressed.
    """
    said = {name.lower(): value for name, value in (headers or {}).items()}
    packed = said.get("content-encoding", "").strip().lower()
    begin = f"HTTP {status}"
    if packed not in ("", "identity", "none") and body and not _is_text(body):
        text = f"{begin}, in an answer that the server compressed ({shorten(packed, 40)})"
    elif 300 <= status < 400 and said.get("location"):
        where = shorten(_bare_location(said["location"]), 200)
        if leads_to_login(said["location"]):
            text = f"{begin}: the server redirects to {where}, where people log in; {LOG_IN}"
        else:
            text = f"{begin}: the server redirects to {where}; redirects are not followed, so give that URL"
    else:
        text = _body_sentence(begin, body)
    return text + _when_to_retry(said)


_WAIT = re.compile(
    r"\+?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,12}(?:\.\d{1,9})?)\s*(ms|s|sec|seconds)?)?", re.IGNORECASE
)


def _when_to_retry(said: Mapping[str, str]) -> str:
    """Return what headers (names in small letters) say of that: seconds, Azure's milliseconds, or an instant."""
    wait = said.get("retry-after", "").strip()
    in_ms = next((said[name].strip() for name in ("retry-after-ms", "x-ms-retry-after-ms") if name in said), "")
    if (known := _wait_s(wait)) is None and in_ms:
        known = _wait_s(f"{in_ms}ms")
    if known is not None:
        return f" (retry after {known:.10g} s)"
    try:
        seconds = (parsedate_to_datetime(wait) - parsedate_to_datetime(said.get("date", ""))).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return " (says when to retry)" if wait else ""
    return f" (retry after {max(seconds, 0):.10g} s)"


def _wait_s(said: str) -> float | None:
    """Return seconds out of "17", "20s", "500ms" or "2m59s", said once or more often; None where it is no such time."""
    found = _WAIT.fullmatch(said.partition(",")[0].strip())
    if found is None or not found[0]:
        return None
    hours, minutes, rest, unit = found.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest) * (0.001 if unit.lower() == "ms" else 1)


def _body_sentence(begin: str, body: bytes) -> str:
    body = body.removeprefix(b"\xef\xbb\xbf")
    parsed = parse_json(body)
    if parsed is None:
        parsed = _in_frames(body)
    if parsed is not None and parsed not in ({}, [], ""):
        return error_sentence(parsed)
    if parsed is not None or body.strip() == b"null":
        return f"{begin} with a body that says nothing ({shorten(body.decode(errors='replace'), 20)})"
    if said := _words_of_xml(body):
        return f"{begin}: {quoted(alike(said), 200)}"
    if page := _page_title(body):
        return f"{begin} with {page}"
    if body.startswith(_PACKED):
        return f"{begin}, in an answer that the server compressed without saying so"
    text = body[: 8 * MOST_CHARACTERS].decode(errors="replace")
    if not _is_text(body):
        return f"{begin} with a body that is no text ({len(body)} bytes)"
    return shorten(alike(text)) or f"{begin} with an empty body"


def _in_frames(body: bytes) -> Any:
    """Return the first JSON object in an event stream; None where the body is none."""
    for line in body[: 8 * MOST_CHARACTERS].splitlines():
        if line.startswith(b"data:") and isinstance(row := parse_json(line[5:].strip()), dict):
            return row
    return None


def _words_of_xml(body: bytes) -> str | None:
    """Return the message in an error as XML, as object stores and API gateways send it; None where the body is none."""
    text = body[: 8 * MOST_CHARACTERS].decode(errors="replace")
    if not text.lstrip().startswith("<") or (found := _XML_WORDS.search(text)) is None:
        return None
    return html.unescape(found[1]).strip()


_XML_WORDS = re.compile(r"<(?:\w+:)?(?:message|detail|reason|faultstring)>([^<]{1,400})</", re.IGNORECASE)
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x9c", b"\x78\x01", b"\x78\xda")  # gzip, zstd, deflate


def _is_text(body: bytes) -> bool:
    """Whether a body is text, judged by its beginning; a compressed one is not, whatever its headers say."""
    text = body[: 8 * MOST_CHARACTERS].decode(errors="replace")
    return not body.startswith(_PACKED) and text.count("\ufffd") <= len(text) // 8


def _bare_location(location: str) -> str:
    """Return a URL without user and password."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return location.rpartition("@")[2]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
