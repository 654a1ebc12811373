"""The words of an error: in an object, however deep frameworks and gateways put them, in a web page, in XML."""

from __future__ import annotations

import codecs
import html
import re
from contextlib import suppress
from typing import Any

import orjson

from loadtest.dialects.answers.lines.lenient_json import objects_in, parse_json

DEEPEST = 6  # objects within objects
MOST_OF_LIST = 3  # entries of a list of errors
# Names of words, as `plain` spells them: the first that is there says what is wrong.
WORDS = (
    *("message", "msg", "errormessage", "errormsg", "errmsg", "errortext", "statusmsg", "statusmessage"),
    "errorsummary",
    *("returnmessage", "returnmsg", "resultmessage", "resultmsg", "htmlmessage"),
    *("faultstring", "detail", "details", "reason", "title", "errordescription", "description", "raw"),
)
_ERRORS = ("error", "errors")
_MORE = ("cause", "innererror", "warnings", "upstream", "body")
# Words that say no more than a status does: what stands beside them is the cause.
_SAYS_NO_MORE = re.compile(
    r"(?:(?:http|status|error)\W{0,2})*(?:\d{3}\W{0,2})?"
    r"(?:bad request|bad gateway|internal (?:server )?error|server error|service unavailable|gateway time-?out|not found|forbidden"
    r"|unauthorized|unknown error|error|failed|failure|validation (?:error|failed)|one or more validation errors occurred"
    r"|the given data was invalid|invalid (?:request|input)(?: (?:body|data|parameters?))?"
    r"|request failed|stream error(?: occurred)?|upstream (?:error|request failed)|provider returned error|an (?:unknown )?error (?:has )?occurred)?\W*",
    re.IGNORECASE,
)
_TRACEBACK = "Traceback (most recent call last)"
_PAGE = re.compile(r"<(?:!doctype\s+html|html)\b", re.IGNORECASE)
SIGN_IN = "sign its machine in with `ollama signin`"  # what an Ollama's signin_url is for


def one_spelling(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its names as one spelling of them: errorMessage, ErrorMessage and error_message are one."""
    return {str(key).lower().replace("_", "").replace("-", ""): value for key, value in row.items()}


def words_in(value: Any, depth: int = DEEPEST) -> str:
    """Return the words in an error of any shape; "" where it has none."""
    if isinstance(value, str):
        return _of_text(value, depth)
    if not depth:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (words_in(item, depth - 1) for item in value[:MOST_OF_LIST])))
    return _of_object(one_spelling(value), depth - 1) if isinstance(value, dict) else ""


def compact(value: Any) -> str:
    """Return a value as JSON, near enough where that cannot be written."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested deeper than it writes, a lone surrogate, a huge number
        try:
            return str(value)
        except RecursionError:
            return ""


def _of_text(text: str, depth: int) -> str:
    """Return what a text says: the words of the JSON that it is, the last line of a traceback, else itself.

    Of a web page in it, as gateways quote the answer of another one, the title is enough.
    """
    bare = text.strip()
    rows = objects_in(parse_json(bare.encode(errors="replace"))) if depth and bare.startswith(("{", "[")) else []
    if said := words_in(rows, depth):
        return said
    if (
        (begin := _PAGE.search(text))
        and (page := page_words(text[begin.start() :].encode(errors="replace")))
        and page[0]
    ):
        return text[: begin.start()] + page[0]
    return bare.splitlines()[-1].strip() if _TRACEBACK in bare else text


def _of_object(error: dict[str, Any], depth: int) -> str:
    for name in (*_ERRORS, *WORDS):
        if said := words_in(error.get(name), depth):
            place = ".".join(map(str, error["loc"])) + ": " if isinstance(error.get("loc"), list) else ""  # FastAPI's
            return place + _with_more(said, error, name, depth)
    for value in error.values():
        if _has_objects(value) and (said := words_in(value, depth)):
            return said
    return next((compact(error[name]) for name in _ERRORS if error.get(name) and isinstance(error[name], dict)), "")


def _has_objects(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _with_more(said: str, error: dict[str, Any], name: str, depth: int) -> str:
    """Return words with what stands beside them: frameworks say "Bad Request" and the cause under another name."""
    # OpenRouter's: what its provider said
    beside = [SIGN_IN if "signinurl" in error else None, error.get("metadata")]
    if name == "error" and isinstance(error[name], str):
        beside += [error.get(other) for other in WORDS]
    if _SAYS_NO_MORE.fullmatch(said):
        inner = error.get("value")  # it may as well be what the server was sent
        of_errors = isinstance(inner, dict) and any(str(key).lower().startswith("err") for key in inner)
        beside += [inner if of_errors else None, *(error.get(other) for other in (*WORDS, *_MORE))]
        fields = error.get("errors")
        beside += [compact(fields)] if fields and isinstance(fields, dict) else []
    found = (words_in(value, depth) for value in beside)
    more = next((words for words in found if words and words != said and not _SAYS_NO_MORE.fullmatch(words)), "")
    return said if more in said else more if said in more else f"{said}: {more}"


LONGEST_PAGE = 65536  # bytes that are looked at

_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_CHARSET = re.compile(r"\b(?:charset|encoding)\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_NOT_UTF8 = frozenset("\0\x1b\ufffd")  # in text that was read as UTF-8: signs of UTF-16, of ISO-2022, and of any other


def in_utf8(body: bytes, kind: str = "") -> bytes:
    """Return an error's body in UTF-8: its charset is said by its byte order mark, its content type `kind` or its markup.

    What is UTF-8 stays so, whatever is said. Of a body in another charset no more is kept than is looked at of a page.
    """
    begin = body[:LONGEST_PAGE]
    charset = next((name for mark, name in _MARKS.items() if body.startswith(mark)), "utf-8")
    if charset == "utf-8" and not _NOT_UTF8.isdisjoint(begin.decode(errors="replace")):
        markup = begin[:1000].decode("latin-1") if begin.lstrip().startswith(b"<") else ""
        said = _CHARSET.search(kind) or _CHARSET.search(markup)
        charset = "utf-8" if said is None else said[1]
    with suppress(LookupError, UnicodeError):  # no charset has that name
        if codecs.lookup(charset).name != "utf-8":
            body = begin.decode(charset, errors="replace").encode(errors="replace")
    return body.removeprefix(codecs.BOM_UTF8)


_MARKUP = re.compile(r"<(?:!doctype\s+html|html|head|body|title|center|div|pre|h[1-3])\b", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_TITLES = tuple(  # the first that says something is the page's title
    (re.compile(rf"<{tag}\b[^<>]{{0,200}}>", re.IGNORECASE), re.compile(rf"</{tag}\b", re.IGNORECASE))
    for tag in ("title", "h1", "h2", "h3", "pre", "p")
)
_SAYS_NOTHING = re.compile(
    r"\W*(?:error|errors|error page|application error|oops|whitelabel error page)?\W*", re.IGNORECASE
)
_CAUSE = re.compile(  # that Squid, Apache and HAProxy name behind a title which only says the status
    r'(?:<blockquote id="error">|Reason: <strong>|(?<=\d{3} ).{1,40}</h1>\n(?=[^<>]+</body>))(.{1,500}?)</(?:blockquote|strong|body)>',
    re.DOTALL,
)
_XML_WORDS = re.compile(r"<(?:\w+:)?(?:message|detail|reason|faultstring)\b[^<>]*>([^<]{1,400})</", re.IGNORECASE)


def page_words(body: bytes) -> tuple[str, str] | None:
    """Return a web page's title and the cause that a proxy's own page names behind it, "" for either that is not there.

    None for no page. A title that says no more than "Error" gives way to the first heading or text of the page.
    """
    text = in_utf8(body[:LONGEST_PAGE]).decode(errors="replace")
    if not text.lstrip(" \t\r\n").startswith("<") or not _MARKUP.search(text[:2000]):
        return None
    found = list(filter(None, (_inside(text, opening, closing) for opening, closing in _TITLES)))
    title = next((one for one in found if not _SAYS_NOTHING.fullmatch(one)), found[0] if found else "")
    cause = _CAUSE.search(text)
    return title, "" if cause is None else " ".join(_bare(cause[1]).split())


def _inside(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """Return the text in the first such element of a page."""
    if (begin := opening.search(text)) is None or (end := closing.search(text, begin.end())) is None:
        return ""
    return _bare(text[begin.end() : end.start()][:1000]).strip()


def _bare(markup: str) -> str:
    return html.unescape(_TAG.sub(" ", markup))


def words_of_xml(body: bytes) -> str | None:
    """Return the message in an error as XML, as object stores and API gateways send it; None where the body is none."""
    text = in_utf8(body[:LONGEST_PAGE]).decode(errors="replace")
    if not text.lstrip().startswith("<") or (found := _XML_WORDS.search(text)) is None:
        return None
    return html.unescape(found[1]).strip()
