"""Error answers in the form of every API, with the sentences that Ollama has for them."""

from __future__ import annotations

import time
from typing import Any

import orjson

DIED_SENTENCE = "llama runner process no longer running: -1 "
BUSY_SENTENCE = "server busy, please try again.  maximum pending requests exceeded"


class RefusedError(Exception):
    """The request is answered with an error: its HTTP status and its sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def refusal_body(path: str, status: int, sentence: str) -> tuple[str, bytes]:
    """Return content type and body of an error answer on `path`."""
    if not path.startswith("/v1/"):
        return "application/json; charset=utf-8", orjson.dumps({"error": sentence})
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    if path == "/v1/messages":
        kind = (kinds | {503: "overloaded_error"}).get(status, "api_error")
        error = {"type": kind, "message": sentence}
        body: dict[str, Any] = {"type": "error", "error": error, "request_id": f"req_{time.time_ns():024x}"}
    else:
        kind = kinds.get(status, "api_error")
        body = {"error": {"message": sentence, "type": kind, "param": None, "code": None}}
    return "application/json", orjson.dumps(body) + b"\n"
