"""What servers say when something is wrong, as one sentence each; and what it means when they say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from loadtest.credentials import redacted

LONGEST = 300  # characters of somebody else's text that a record keeps

MID_LINE = "the answer ended in the middle of a line"
REPEATS = 30  # equal pieces after which a silent end is taken for Ollama's repeat guard (it allows 30 repetitions)


def repeated(texts: Sequence[str]) -> str | None:
    """Say so where the last pieces are all equal, blanks around them aside: more than 30 of them end a stream of
    Ollama's with 200 and no done:true.
    """
    pieces = {text.strip() for text in texts[-REPEATS:]}
    if len(texts) < REPEATS or len(pieces) > 1:
        return None
    return (
        f"the server ended the answer without a word after {REPEATS} or more equal pieces "
        f"({shorten(pieces.pop(), 20)!r}): Ollama's repeat guard"
    )


def shorten(text: str, longest: int = LONGEST) -> str:
    """Return `text` on one line, cut to `longest` characters, without our keys and what would steer a terminal."""
    flat = redacted(" ".join(line.strip() for line in text.splitlines() if line.strip()))
    flat = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in flat)
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def undecodable(line: bytes) -> str:
    """Say that a line of the answer is not the JSON that it should be."""
    return f"a line of the answer is not a JSON object: {shorten(line[:200].decode(errors='replace'), 80)!r}"


def sentence(error: Any) -> str:
    """Return the text of an error object, whichever shape it has; never raises.

    Shapes seen: Ollama {"error": str}; OpenAI, vLLM, llama.cpp {"error": {"message": str}}; older vLLM {"object":
    "error", "message": str}; FastAPI {"detail": str} and {"detail": [{"loc": […], "msg": str}]}.
    """
    return shorten(_said(error, 4)) or "an error without a text"


def _said(error: Any, depth: int) -> str:
    if isinstance(error, str):
        return error
    if depth and isinstance(error, list):
        return "; ".join(_said(item, depth - 1) for item in error[:3])
    if depth and isinstance(error, dict):
        for key in ("error", "message", "detail", "msg"):
            if error.get(key):
                place = ".".join(map(str, error["loc"])) + ": " if isinstance(error.get("loc"), list) else ""
                return place + _said(error[key], depth - 1)
    try:
        return orjson.dumps(error).decode()
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return ""


def http_sentence(status: int, body: bytes) -> str:
    """Return what an answer with an error status says of itself: its JSON error, else its text, else its status."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = shorten(body[: 8 * LONGEST].decode(errors="replace"))
        return text or f"HTTP {status} with an empty body"
    return sentence(parsed)
