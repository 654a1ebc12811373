"""The words of a page or of XML that came where JSON should: a proxy's, a gateway's, a framework's."""

from __future__ import annotations

import html
import re

LONGEST_PAGE = 65536  # bytes that are looked at
LONGEST_XML = 2400

_MARKUP = re.compile(r"<(?:!doctype\s+html|html|head|body|title|center|div|pre|h[1-3])\b", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_TITLES = tuple(  # the first that says something is the page's title
    (re.compile(rf"<{tag}\b[^<>]{{0,200}}>", re.IGNORECASE), re.compile(rf"</{tag}\b", re.IGNORECASE))
    for tag in ("title", "h1", "h2", "h3", "pre", "p")
)
_SAYS_NOTHING = re.compile(
    r"\W*(?:error|errors|error page|application error|oops|whitelabel error page)?\W*", re.IGNORECASE
)
_SQUIDS = re.compile(r'<blockquote id="error">(.{1,500}?)</blockquote>', re.DOTALL)
_XML_WORDS = re.compile(r"<(?:\w+:)?(?:message|detail|reason|faultstring)\b[^<>]*>([^<]{1,400})</", re.IGNORECASE)


def page_words(body: bytes) -> tuple[str, str] | None:
    """Return a web page's title and what Squid says behind its own, "" for either that is not there; None for no page.

    A title that says no more than "Error" gives way to the first heading or text of the page.
    """
    text = body[:LONGEST_PAGE].decode(errors="replace")
    if not text.lstrip("\ufeff \t\r\n").startswith("<") or not _MARKUP.search(text[:2000]):
        return None
    found = list(filter(None, (_inside(text, opening, closing) for opening, closing in _TITLES)))
    title = next((one for one in found if not _SAYS_NOTHING.fullmatch(one)), found[0] if found else "")
    squids = _SQUIDS.search(text)
    return title, "" if squids is None else " ".join(_bare(squids[1]).split())


def _inside(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """Return the text in the first such element of a page."""
    if (begin := opening.search(text)) is None or (end := closing.search(text, begin.end())) is None:
        return ""
    return _bare(text[begin.end() : end.start()][:1000]).strip()


def _bare(markup: str) -> str:
    return html.unescape(_TAG.sub(" ", markup))


def words_of_xml(body: bytes) -> str | None:
    """Return the message in an error as XML, as object stores and API gateways send it; None where the body is none."""
    text = body[:LONGEST_XML].decode(errors="replace")
    if not text.lstrip().startswith("<") or (found := _XML_WORDS.search(text)) is None:
        return None
    return html.unescape(found[1]).strip()
