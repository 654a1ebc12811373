"""What servers say when something is wrong, one sentence per error; and what it means when they say nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from loadtest.credentials import redacted
from loadtest.dialects.answers.errors.error_headers import (
    LOG_IN,
    bare_location,
    cause_in,
    leads_to_login,
    url_to_give,
    when_to_retry,
)
from loadtest.dialects.answers.errors.error_words import (
    LONGEST_PAGE,
    compact,
    in_utf8,
    page_words,
    words_in,
    words_of_xml,
)
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.text import join_text, shown

MOST_CHARACTERS = 300  # kept of a text that the server sent

MID_LINE = "the answer ended in the middle of a line"
EMPTY_ANSWER = "the answer is empty; the server's log may say why (a prompt beyond its context, for one)"
ERROR_WITHOUT_TEXT = "an error without a text"
# equal pieces after which a silent end is taken for Ollama's repeat guard (it allows 30 repetitions)
GUARDED_REPEATS = 30


def stopped_for_repeats(texts: Sequence[str]) -> str | None:
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


_DIGITS = re.compile(r"\d+(?:[.:,T+-]?\d+)*")


# an error whose words have quotes or backslashes that its server did not escape (transformers serve writes JSON by hand)
_BROKEN_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*"(.+)"\s*\}\s*', re.DOTALL)
_CALLED_ERROR = re.compile(rb"\s*[\[<*]*error[\]>*]*\s*:\s*(?=\S)", re.IGNORECASE)


def undecodable(line: bytes) -> str:
    """Say that a line of the answer is not the JSON that it should be.

    A line that calls itself an error is the server's own word.
    """
    if (found := _CALLED_ERROR.match(line)) is not None:
        return error_sentence(line[found.end() :].decode(errors="replace"))
    if (broken := _BROKEN_ERROR.fullmatch(line)) is not None:
        return error_sentence(broken[1].decode(errors="replace"))
    if page := _page(line):
        return f"the answer goes on with {page}"
    if (at := line.rfind(b'{"error"')) > 0 and (row := parse_json(line[at:])) is not None:
        return error_sentence(row)  # the server said it in the middle of another object
    return f"a line of the answer is not a JSON object: {quoted_beginning(line)}"


def quoted_beginning(data: bytes, longest: int = 80) -> str:
    """Return how bytes of an answer begin, in quotes; numbers are masked, since any may be an id."""
    return quoted(_DIGITS.sub("#", masked(data[:400].decode(errors="replace"))), longest)


_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x9c", b"\x78\x01", b"\x78\xda")  # gzip, zstd, deflate


def not_a_stream(body: bytes) -> str:
    """Say what a body is that is no model server's answer: a web page, text, or other JSON."""
    if page := _page(body):
        return f"the answer is {page}"
    if said := words_of_xml(body):
        return f"the answer is an error in XML: {quoted(masked(said), 200)}"
    if body.startswith(_PACKED):
        return "the server compressed the answer without saying so"
    words = _words_amid(body)
    if words:
        return f"the answer is no text but binary, with these words in it: {quoted_beginning(words, 200)}"
    if not _is_text(body):
        return "the answer is no text: it may be compressed"
    return f"the answer is no stream of a model server: it says {quoted_beginning(body, 160)}"


_PRINTED = re.compile(rb"[\x20-\x7e]{6,}")


def _words_amid(body: bytes) -> bytes:
    """Return the words in a binary answer, such as Amazon's event stream or a gRPC message; b"" where it has few or is text."""
    begin = body[: 2 * MOST_CHARACTERS]
    words = _PRINTED.findall(begin)
    return b" ".join(words) if b"\0" in begin.strip(b"\0") and 2 * sum(map(len, words)) > len(begin) else b""


def _page(body: bytes) -> str | None:
    """Name a web page by its title; None where the body is none."""
    if (found := page_words(body)) is None:
        return None
    title, cause = (quoted(masked(text), 120) if text else "" for text in found)
    return f"a web page, titled {title}{f': {cause}' if cause else ''}" if title else "a web page without a title"


def as_json(row: dict[str, Any]) -> bytes:
    """Return a row as bytes again, near enough."""
    return compact(row).encode(errors="replace")


def error_sentence(error: Any) -> str:
    """Return the text of an error object, whichever shape it has; never raises.

    Shapes seen: Ollama {"error": str}; OpenAI, vLLM, llama.cpp {"error": {"message": str}}; older vLLM {"object":
    "error", "message": str}; FastAPI {"detail": str} and {"detail": [{"loc": […], "msg": str}]}; gateways {"code": int,
    "msg": str}, {"success": false, "errors": […]}, {"error": true, "message": str}, {"fault": {"faultstring": str}}.
    """
    said = words_in(error) or (compact(error) if error and not isinstance(error, str) else "")
    return shorten(masked(said[: 8 * MOST_CHARACTERS])) or ERROR_WITHOUT_TEXT


def sentence_in(error: bytes) -> str:
    """Return what an error's data say, or its comments, where those are all that it has: Dynamo sends such."""
    said = parse_json(error)
    return error_sentence(error.strip().decode(errors="replace") if said is None else said)


_NO_CAUSE = ("ok", "success", "none")
_OUR_BEGINNINGS = ("a line of the answer", "the answer ", "the server ")
# mistral.rs says its errors as plain text in place of a row
_QUOTES_WORDS = re.compile(r"a line of the answer is not a JSON object: '(?:[A-Za-z'-]+[,;:]? ){3}")


def is_ours(sentence: str) -> bool:
    """Whether the sentence of an error is one of this module on bytes that cannot be read, not the server's own words."""
    return sentence.startswith(_OUR_BEGINNINGS) and not _QUOTES_WORDS.match(sentence)


def http_sentence(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> str:
    """Return what an answer with an error status says: its JSON error, else its text, its headers, its status.

    A redirect's target and Retry-After are added; a compressed body is not decompressed.
    """
    said = {name.lower(): value for name, value in (headers or {}).items()}
    packed = said.get("content-encoding", "").strip().lower()
    if packed in ("", "identity", "none") and not body.startswith(_PACKED):
        body = in_utf8(body, said.get("content-type", ""))
    begin = f"HTTP {status}"
    if packed not in ("", "identity", "none") and body and not _is_text(body):
        text = f"{begin}, in an answer that the server compressed ({shorten(packed, 40)})"
    elif 300 <= status < 400 and said.get("location"):
        where = shorten(masked(bare_location(said["location"])), 200)
        if leads_to_login(said["location"]):
            text = f"{begin}: the server redirects to {where}, where people log in; {LOG_IN}"
        else:
            text = f"{begin}: the server redirects to {where}; redirects are not followed, so give {url_to_give(where)}"
    else:
        text = _body_sentence(body) or _status_sentence(begin, body, said)
        if 8 * text.count("\ufffd") > len(text):
            text = f"{begin} with words in a charset that the server does not name"
    return text + when_to_retry(said)


def trailer_sentence(trailers: Mapping[str, str]) -> str | None:
    """Return what the headers behind an answer with status 200 say went wrong; None where they say nothing of it."""
    cause = cause_in(
        {name.lower(): value for name, value in trailers.items() if value.strip().lower() not in _NO_CAUSE}
    )
    return None if cause is None else f"the trailer behind the answer says {quoted(masked(cause), 160)}"


def _body_sentence(body: bytes) -> str | None:
    """Return the words of an error's body as JSON or text; None where it has none."""
    parsed = parse_json(body)
    if parsed is None:
        parsed = _in_frames(body)
    if parsed is not None:
        return None if _is_void(parsed) else error_sentence(parsed)
    if body.strip() == b"null" or words_of_xml(body) or page_words(body) or not _is_text(body):
        return None
    text = words_in(body[:LONGEST_PAGE].decode(errors="replace"))[: 8 * MOST_CHARACTERS + 1]
    return shorten(masked(text)) or None


def _is_void(value: Any, depth: int = 6) -> bool:
    """Whether all that is in a value is empty, such as the fields of an answer that was never made."""
    inside = list(value.values()) if isinstance(value, dict) else value
    return not value or (isinstance(inside, list) and depth > 0 and all(_is_void(one, depth - 1) for one in inside))


def _status_sentence(begin: str, body: bytes, said: Mapping[str, str]) -> str:
    """Return what an answer says whose body is no JSON and no text."""
    if xml := words_of_xml(body):
        return f"{begin}: {quoted(masked(xml), 200)}"
    if body.startswith(_PACKED):
        return f"{begin}, in an answer that the server compressed without saying so"
    if page := _page(body):
        what = page
    elif not body.strip():
        what = "an empty body"
    elif _is_text(body):
        what = f"a body that says nothing ({shorten(body.decode(errors='replace'), 80)})"
    else:
        what = f"a body that is no text ({len(body)} bytes)"
    cause = None if page and "titled" in page else cause_in(said)
    return f"{begin} with {what}" + (f", and the header {quoted(masked(cause), 160)}" if cause else "")


def _in_frames(body: bytes) -> Any:
    """Return the first JSON object in an event stream, or in lines that are an object each; None where the body is none."""
    lines = body[: 8 * MOST_CHARACTERS].splitlines()
    joined = b"\n".join(line[5:] for line in lines if line.startswith(b"data:"))
    rows = (parse_json(line.removeprefix(b"data:").strip()) for line in (*lines, joined))
    return next((row for row in rows if isinstance(row, dict)), None)


def _is_text(body: bytes) -> bool:
    """Whether a body is text, judged by its beginning; a compressed one is not, whatever its headers say."""
    text = body[: 8 * MOST_CHARACTERS].decode(errors="replace")
    return not body.startswith(_PACKED) and text.count("\ufffd") <= len(text) // 8


# What differs from one answer to the next in a server's words: ids, instants, ports and durations.
_IDS = re.compile(
    r"""\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b  # a UUID
    | \b\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\ ?Z|\ ?UTC|\ ?[+-]\d\d:?\d\d)?  # an instant
    | \b(?:mon|tue|wed|thu|fri|sat|sun),?\ \d{1,2}[ -]\w{3}[ -]\d{4}\ \d\d:\d\d:\d\d(?:\ GMT|\ UTC)?  # as HTTP dates it
    | \b\d\d:\d\d:\d\d(?:[.,]\d+)?\b  # the time of day
    | \b(?:req|request|chatcmpl|cmpl|msg|resp|trace|run|gen|task|job|embd)[-_](?=[\w-]*\d)[\w-]{6,}  # a prefixed id
    | \b0x[0-9a-f]{6,}\b  # where an object lies in memory
    | \b(?=[a-f]*\d)[0-9a-f]{12,}\b  # a hash, a long counter, an instant in ms or ns
    | \b(?=(?:[a-z]*\d){4})[a-z0-9]{20,}\b  # letters and digits, such as a ULID
    | (?:(?<=\d:)|(?<=\]:)|(?<=',\ ))(?:3[2-9]\d{3}|[4-6]\d{4})\b  # a port that the system chose, behind an address
    | \b\d{9,}(?:\.\d+)?\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NAMED = re.compile(
    r"""((?<![a-z])(?:request|trace|correlation|session|ray|incident|transaction|activity|span|tracking|log)[ _-]?(?:id|uuid)
        ["']?\s*(?:is\s+|[:=]\s*|\s)["']?
      | \breference\s*(?:no\.?|number)?\s*[:\#]+\s*)
    (?=[\w./+=:-]*\d)[\w./+=:-]{3,}(?<![.:])
    """,
    re.IGNORECASE | re.VERBOSE,
)
_COUNTED = re.compile(
    r"""((?<!per\ )(?<!each\ )(?<!a\ )
        (?<![a-z])(?:request|req|task|job|slot|pid|process|thread|attempt|worker|sequence|seq|connection|conn|stream)
        (?:[ _-]?(?:id|number|no\.?|num)["']?\s*[:=\#]?\s*|[ =]\#?|\#))\d+\b(?!\.\d)
      | (\b(?:Used|Requested):?\ )\d+(?=[,.])  # of a limit of tokens
      | (\bnum_queued_\w+=)\d+  # Ray Serve's
    """,
    re.IGNORECASE | re.VERBOSE,
)
_A_TIME = r"\d+(?:\.\d+)?\ ?(?:ms|milliseconds?|s|secs?|seconds?|m|min(?:ute)?s?|h|hours?|days?)"
_TIMES = re.compile(
    rf"""((?:again|retry|retried|wait|resets?|available)\b[^.;:\#\d]{{0,30}}?\b(?:in|after|for|at\ least)\ )(?:{_A_TIME})+\b
    | (?!\d+\.0+\b)\b\d+\.\d+(?=\ ?(?:s|secs?|seconds?|min(?:ute)?s?)\b)  # a measured time has a fraction
    | (?<!of\ )\b\d+(?:\.\d+)?(?=\ ?(?:milliseconds?|[mµμ]s)\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def masked(text: str) -> str:
    """Return `text` without our keys, and with "#" for what differs in every answer, so that equal failures read alike.

    A number that may be a limit or a length stays, and so does a time of whole seconds that is not one to wait.
    """
    text = redacted(text)  # first: a key with a "#" in it would not be recognised
    for pattern in (_IDS, _NAMED, _COUNTED, _TIMES):
        text = pattern.sub(lambda found: f"{''.join(filter(None, found.groups()))}#", text)
    return text
