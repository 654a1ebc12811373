"""Planted secrets: keys and passwords as they are given, servers that quote them back, and a search for them in all output."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.made_servers import CHAT, refuse

KEY, OTHER = "sk-PLANTED-kf83js0d9f8s7d", "ol-PLANTED-q9w8e7r6t5y4u3"
USER, PASSWORD = "PLANTEDuser7", "PLANTEDpass9"
ENCODED = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
PLANTED = (KEY, OTHER, USER, PASSWORD, ENCODED, "PLANTED")

SHORT = ["--concurrency", "1", "--requests", "3", "--output-tokens", "2", "--warmup", "0", "--save-text"]
TAGS = {"models": [{"name": "m", "model": "m", "details": {"parameter_size": "7B", "quantization_level": "Q4_0"}}]}
LINES = b"".join(
    json.dumps(line).encode() + b"\n"
    for line in (
        {"message": {"content": "Hi"}, "done": False},
        {"message": {"content": ""}, "done": True, "done_reason": "length", "eval_count": 2, "prompt_eval_count": 9},
    )
)


def quoting(status: int, shape: str = "{}", kind: str = "application/json") -> Callable[[dict[str, str]], Any]:
    """Return a route that quotes our own Authorization header back."""

    def answer(headers: dict[str, str]) -> Any:
        said = headers.get("authorization", "no header")
        body = (
            json.dumps({"error": {"message": f"refused: Authorization: {said}"}})
            if shape == "{}"
            else shape.replace("AUTH", said)
        )
        return status, {"Content-Type": kind}, body.encode()

    return answer


def streaming(text: str) -> Callable[[dict[str, str]], Any]:
    """Return a chat whose text, finish reason or error quotes the header."""
    return quoting(200, text, "text/event-stream")


EVENT = 'data: {"choices":[{"delta":{"content":"AUTH"}}]}\n\n'
SERVERS: dict[str, dict[str, Any]] = {
    "works": {"/v1/chat/completions": (200, {"Content-Type": "text/event-stream"}, CHAT + b"data: [DONE]\n\n")},
    "401": {"/v1/models": quoting(401), "/v1/chat/completions": quoting(401)},
    "500": {"/v1/chat/completions": quoting(500)},
    "500 as a page": {"/v1/chat/completions": quoting(500, "<html><title>AUTH</title>AUTH", "text/html")},
    "redirect": {"/v1/chat/completions": lambda _: refuse(307, Location=f"http://{USER}:{PASSWORD}@elsewhere:1/{KEY}")},
    "text": {"/v1/chat/completions": streaming(EVENT + 'data: {"choices":[{"delta":{},"finish_reason":"AUTH"}]}\n\n')},
    "error in the stream": {"/v1/chat/completions": streaming(EVENT + 'data: {"error":{"message":"AUTH"}}\n\n')},
    "no JSON": {"/v1/chat/completions": streaming("data: {AUTH\n\n")},
    "names": {"/v1/models": quoting(200, '{"data":[{"id":"m"},{"id":"AUTH"}]}'), "/props": quoting(200, '{"total_slots":1,"build_info":"AUTH"}')},
}  # fmt: skip


def plant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a key for each API into the environment, as people paste them."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\r")
    monkeypatch.setenv("OLLAMA_API_KEY", f'"{OTHER}" \n')


def with_password(url: str) -> str:
    return url.replace("://", f"://{USER}:{PASSWORD}@")


def clean(folder: Path, *texts: str) -> None:
    """Fail where a secret is in a text or in a file below the folder."""
    for text in texts:
        assert not [one for one in PLANTED if one in text], text
    for path in folder.rglob("*"):
        if path.is_file():
            body = path.read_bytes()
            assert not [one for one in PLANTED if one.encode() in body], f"{path}: {body[:2000]!r}"
