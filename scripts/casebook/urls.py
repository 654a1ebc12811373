"""Rows on URLs as people write them, and on the options of commands that connect."""

from __future__ import annotations

import re

from commands import OLLAMA, QUICK, Ran, commands
from support.odd_answers import MODEL, NAMED, OPENAI_CONTROL, WIRES, good_answers, json


def told_or_measured(ran: Ran) -> bool:
    """Whether the run went through, or the sentence names the URL without an endpoint."""
    return bool(ran.measured) or re.search(r"127\.0\.0\.1:\d+(/v1/?)?[ ,;.)`'\"]", ran.said) is not None


cmd = commands("URLs")
for label, host in (
    ("single quotes", "'{host}'"),
    ("double quotes", '"{host}"'),
    ("quotes and scheme", "'http://{host}'"),
    ("blanks", "  {host}  "),
    ("blanks in quotes", "' {host} '"),
    ("a slash at the end", "http://{host}/"),
    ("a port alone", ":{port}"),
    ("all addresses", "0.0.0.0:{port}"),
):
    cmd(f"OLLAMA_HOST with {label}", ("check",), env={"OLLAMA_HOST": host}, paths=OLLAMA, says="0.24.0")
for label, host in (
    ("quoted IPv6", "'::1'"),
    ("bare IPv6", "::1"),
    ("IPv6 in brackets", "[::1]"),
    ("IPv6 with a port", "[::1]:11434"),
):
    cmd(
        f"OLLAMA_HOST as {label}",
        ("check",),
        env={"OLLAMA_HOST": host},
        code=2,
        says=r"\[::1\]:11434",
        unsaid="no number",
    )
cmd("a port that is none", ("check",), env={"OLLAMA_HOST": "127.0.0.1:99999"}, code=2, says="port")
for suffix in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1", "/v1/"):
    cmd(
        f"URL with {suffix}",
        ("run", "--url", "{url}" + suffix, *QUICK),
        code=(0, 2, 3),
        says=r"127\.0\.0\.1:\d+",
        looks={"measured, or the right URL named": (told_or_measured, True)},
    )
for suffix in ("/api/chat", "/api/generate", "/api"):
    cmd(
        f"URL with {suffix}",
        ("run", "--url", "{url}" + suffix, *QUICK),
        paths=OLLAMA,
        code=(0, 2),
        says=r"127\.0\.0\.1:\d+",
        looks={"measured, or the right URL named": (told_or_measured, True)},
    )
EMBEDDED = json({"object": "list", "data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 32, "total_tokens": 32}})
for name in NAMED:
    cmd(
        f"URL with {WIRES[name].path}",
        ("run", "--url", f"{{url}}{WIRES[name].path}", *QUICK),
        paths=good_answers(WIRES[name]),
        code=(0, 3),
        looks={"dialect": (lambda ran: {one["dialect"] for one in ran.records}, {name})},
    )
LOAD = ("--requests", "2", "--concurrency", "1", "--warmup", "0", "--out", "run")
cmd(
    "URL with /v1/embeddings",
    ("run", "--url", "{url}/v1/embeddings", *LOAD),
    paths={**OPENAI_CONTROL, "/v1/embeddings": EMBEDDED},
    code=(0, 3),
    says="E2E p50",
    unsaid="without any text|tokens/s a stream",
    looks={"dialect": (lambda ran: {one["dialect"] for one in ran.records}, {"openai-embeddings"})},
)
cmd(
    "embeddings with an answer length",
    ("run", "--url", "{url}", "--endpoint", "embeddings", "--output-tokens", "64", *LOAD),
    paths={**OPENAI_CONTROL, "/v1/embeddings": EMBEDDED},
    code=2,
    says="no output tokens; leave --output-tokens out",
)
cmd(
    "several inputs for chat",
    ("run", "--url", "{url}", "--inputs-per-request", "4", *LOAD),
    paths=OPENAI_CONTROL,
    code=2,
    says="is for embeddings",
)
cmd(
    "URL with a query",
    ("run", "--url", "{url}/v1?tenant=7", *QUICK),
    code=(0, 2, 3),
    looks={
        "sent or refused": (lambda ran: ran.code == 2 or all("tenant=7" in one.target for one in ran.measured), True)
    },
)
cmd(
    "URL with a fragment",
    ("run", "--url", "{url}/#top", *QUICK),
    code=(0, 2, 3),
    looks={"refused or named": (lambda ran: ran.code == 2 or "#" in ran.said, True)},
)
cmd("empty --url", ("run", "--url", "", *QUICK), code=2, says="url", env={"OLLAMA_HOST": "{url}"})
cmd("blank --url", ("run", "--url", "  ", *QUICK), code=2, says="url", env={"OLLAMA_HOST": "{url}"})
cmd("empty URL of check", ("check", ""), code=2, says="url", env={"OLLAMA_HOST": "{url}"})
cmd("--url of ftp", ("run", "--url", "ftp://{host}", *QUICK), code=2, says="http")
cmd(
    "OPENAI_BASE_URL wins for --api openai",
    ("run", "--api", "openai", *QUICK),
    env={"OLLAMA_HOST": "http://127.0.0.1:9", "OPENAI_BASE_URL": "{url}/v1"},
    looks={"records": (lambda ran: len(ran.records), 2)},
)
cmd(
    "OLLAMA_HOST wins otherwise",
    ("run", *QUICK),
    paths=OLLAMA,
    env={"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OLLAMA_HOST": "{url}"},
    looks={"records": (lambda ran: len(ran.records), 2)},
)
cmd(
    "check takes --ca-file",
    ("check", "--ca-file", "ca.pem", "{url}"),
    files={"ca.pem": b"no certificate"},
    code=2,
    says="certificate",
    unsaid="no such option",
)
cmd("check takes --api and --model", ("check", "--api", "openai", "--model", MODEL, "{url}"), unsaid="no such option")
cmd("check takes --url", ("check", "--url", "{url}"), unsaid="no such option")
