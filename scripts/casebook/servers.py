"""Rows on what server answers: model lists of any shape, keys, URLs as people write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commands import OLLAMA, OPENAI, QUICK, RUN, Ran, commands
from support.odd_answers import MODEL, OLLAMA_ROW, WIRES, head, is_trial, json, plain
from support.odd_server import Answer, Paths, Request, Script, Then

CHECK = ("check", "{url}")
NAMED = ("--api", "openai", "--model", MODEL)
PAGE = b"<html><head><title>Welcome</title></head><body>hello</body></html>"
KEY = "sk-planted-7f3a9c51"


def with_paths(paths: Paths, **more: Script | Answer | None) -> Paths:
    """Return paths with some exchanged, by "_api_tags" for /api/tags; None takes one away."""
    found = {**paths, **{name.replace("_", "/"): script for name, script in more.items()}}
    return {path: script for path, script in found.items() if script is not None}


def locked(paths: Paths, key: str = KEY, *, only: tuple[str, ...] = ()) -> Paths:
    """Return a server that wants a bearer key."""

    def guarded(script: Script | Answer) -> Answer:
        def answer(request: Request) -> Script:
            if request.headers.get("authorization") != f"Bearer {key}":
                return json({"error": {"message": "no key"}}, status=b"401 Unauthorized")
            return script(request) if callable(script) else script

        return answer

    return {path: guarded(script) if not only or path in only else script for path, script in paths.items()}


def kind(ran: Ran) -> Any:
    import json as reader

    return reader.loads((ran.folder / "run.json").read_bytes())["server"]["kind"]


def all_sent(header: str) -> Any:
    return lambda ran: {request.headers.get(header) for request in ran.measured}


cmd = commands("a plain server")
cmd("plain OpenAI server", RUN, looks={"records": (lambda ran: len(ran.records), 2), "server": (kind, "openai")})
cmd("plain Ollama", RUN, paths=OLLAMA, looks={"records": (lambda ran: len(ran.records), 2), "server": (kind, "ollama")})
cmd("check of a plain Ollama", CHECK, paths=OLLAMA, says=r"ollama 0\.24\.0.*4096")

cmd = commands("what server is this")
SWAP = with_paths(OPENAI, _api_version=json({"version": "165", "commit": "abc", "build_date": "2026-01-01"}))
cmd("llama-swap: check", CHECK, paths=SWAP, unsaid=r"ollama 165|ollama pull")
cmd("llama-swap: run", RUN, paths=SWAP, looks={"server is no Ollama": (kind, lambda found: found != "ollama")})
cmd("llama-swap: run --api openai", (*RUN, *NAMED), paths=SWAP, looks={"records": (lambda ran: len(ran.records), 2)})
cmd(
    "foreign /api/version alone",
    CHECK,
    paths={"/api/version": json({"version": "1.2.3"})},
    code=2,
    unsaid="ollama pull",
)
for status in (
    b"404 Not Found",
    b"405 Method Not Allowed",
    b"401 Unauthorized",
    b"403 Forbidden",
    b"500 Internal Server Error",
    b"501 Not Implemented",
):
    cmd(
        f"no model list: {status.decode()}",
        (*RUN, *NAMED),
        paths=with_paths(OPENAI, _v1_models=plain(b"", status=status)),
        looks={"records": (lambda ran: len(ran.records), 2)},
    )
cmd(
    "no model list: closed",
    (*RUN, *NAMED),
    paths=with_paths(OPENAI, _v1_models=plain(PAGE, b"Content-Type: text/html")),
)
cmd(
    "no tags, --api ollama --model",
    (*RUN, "--api", "ollama", "--model", MODEL),
    paths=with_paths(OLLAMA, _api_tags=plain(b"", status=b"404 Not Found")),
)
cmd(
    "no version, --api ollama --model",
    (*RUN, "--api", "ollama", "--model", MODEL),
    paths=with_paths(OLLAMA, _api_version=plain(b"", status=b"404 Not Found")),
)
cmd(
    "no model list and no word",
    RUN,
    paths=with_paths(OPENAI, _v1_models=plain(b"", status=b"405 Method Not Allowed")),
    code=2,
    says="--model",
)
listing: Any
for name, listing in (
    ("a bare list", [{"id": MODEL}]),
    ("models with names", {"models": [{"name": MODEL}]}),
    ("models with ids", {"object": "list", "models": [{"id": MODEL}], "data": [{"id": MODEL}]}),
    ("data of names", {"data": [MODEL]}),
):
    cmd(
        f"list shape: {name}",
        RUN,
        paths=with_paths(OPENAI, _v1_models=json(listing)),
        looks={"records": (lambda ran: len(ran.records), 2)},
    )
for name, listing in (
    ("data null", {"data": None}),
    ("empty", {"data": []}),
    ("a word", "none"),
    ("numbers", {"data": [1, None, {"id": 5}]}),
):
    cmd(
        f"list shape: {name}, --model",
        (*RUN, *NAMED),
        paths=with_paths(OPENAI, _v1_models=json(listing)),
        looks={"records": (lambda ran: len(ran.records), 2)},
    )
cmd(
    "tags with model and no name",
    CHECK,
    paths=with_paths(OLLAMA, _api_tags=json({"models": [{"model": "x"}]}), _api_ps=json({"models": []})),
    says=r"models +x",
)
cmd(
    "tags with model and no name: run",
    RUN,
    paths=with_paths(OLLAMA, _api_tags=json({"models": [{"model": "x"}]}), _api_ps=json({"models": [{"model": "x"}]})),
)

cmd = commands("control answers of any shape")
ODD: dict[str, Mapping[str, Any]] = {
    "tags null": {"_api_tags": {"models": None}},
    "tags a word": {"_api_tags": {"models": "m"}},
    "tags a list": {"_api_tags": [OLLAMA_ROW]},
    "tags of numbers": {"_api_tags": {"models": [1, None, "m", {"name": 5}]}},
    "tags with odd sizes": {"_api_tags": {"models": [{**OLLAMA_ROW, "size": "big", "details": [1]}]}},
    "ps a list": {"_api_ps": [1, 2]},
    "ps without names": {"_api_ps": {"models": [{"size": 1}, None, 3]}},
    "ps with odd sizes": {
        "_api_ps": {"models": [{**OLLAMA_ROW, "size": "1", "size_vram": [], "context_length": "4k"}]}
    },
    "show a list": {"_api_show": [1]},
    "show with odd parts": {"_api_show": {"details": "big", "model_info": ["x"]}},
    "show with odd numbers": {"_api_show": {"model_info": {"x.context_length": "many", "x.block_count": None}}},
    "version a number": {"_api_version": {"version": 5}},
    "version an object": {"_api_version": {"version": {"major": 1}}},
}
for name, odd in ODD.items():
    cmd(
        f"Ollama: {name}",
        CHECK,
        paths=with_paths(OLLAMA, **{path: json(row) for path, row in odd.items()}),
        code=(0, 2),
        says=r"\w",
    )
    cmd(
        f"Ollama: {name}: run",
        (*RUN, "--api", "ollama", "--model", MODEL),
        paths=with_paths(OLLAMA, **{path: json(row) for path, row in odd.items()}),
        looks={"records": (lambda ran: len(ran.records), 2)},
    )
PROPS: dict[str, Any] = {
    "slots a word": {"total_slots": "four"},
    "slots minus one": {"total_slots": -1},
    "settings a list": {"total_slots": 4, "default_generation_settings": [1]},
    "context a word": {"total_slots": 4, "default_generation_settings": {"n_ctx": "big"}},
    "build a number": {"total_slots": 4, "build_info": 7},
}
for name, props in PROPS.items():
    cmd(
        f"llama.cpp: {name}",
        RUN,
        paths=with_paths(OPENAI, _props=json(props)),
        looks={"records": (lambda ran: len(ran.records), 2)},
    )
cmd(
    "name that steers a terminal: check",
    CHECK,
    paths=with_paths(
        OLLAMA, _api_tags=json({"models": [{"name": "a\x1b]0;x\x07b\u202ec"}]}), _api_ps=json({"models": []})
    ),
    unsaid="[\x1b\x07\u202e]",
    says="a.*b.*c",
)
cmd(
    "name that steers a terminal: run",
    RUN,
    paths=with_paths(OPENAI, _v1_models=json({"data": [{"id": "a\x1b]0;x\x07b\u202ec"}]})),
    unsaid="[\x1b\x07\u202e]",
)
cmd(
    "version that steers a terminal",
    CHECK,
    paths=with_paths(OLLAMA, _api_version=json({"version": "0.1\x1b[31mred\u202e"})),
    code=(0, 2),
    unsaid="[\x1b\u202e]",
)
cmd(
    "control answer of a gigabyte's length",
    CHECK,
    paths=with_paths(OLLAMA, _api_tags=[head(b"Content-Length: 1000000000", chunked=False), b"{}", Then.FIN]),
    code=(0, 2),  # what else it says is enough for a check
    says=r"\w",
    limit_s=30,
)

cmd = commands("keys")
LOCKED = locked(OLLAMA)
cmd(
    "Ollama behind OLLAMA_API_KEY",
    RUN,
    paths=LOCKED,
    env={"OLLAMA_API_KEY": KEY},
    unsaid=KEY,
    looks={
        "sent": (all_sent("authorization"), {f"Bearer {KEY}"}),
        "not written": (lambda ran: KEY in ran.written(), False),
    },
)
cmd(
    "Ollama behind OPENAI_API_KEY",
    RUN,
    paths=LOCKED,
    env={"OPENAI_API_KEY": KEY},
    unsaid=KEY,
    looks={"sent": (all_sent("authorization"), {f"Bearer {KEY}"})},
)
cmd(
    "Ollama with both keys",
    RUN,
    paths=LOCKED,
    env={"OLLAMA_API_KEY": KEY, "OPENAI_API_KEY": "other"},
    looks={"sent": (all_sent("authorization"), {f"Bearer {KEY}"})},
)
cmd(
    "/v1 with both keys",
    RUN,
    paths=locked(OPENAI),
    env={"OPENAI_API_KEY": KEY, "OLLAMA_API_KEY": "other"},
    looks={"sent": (all_sent("authorization"), {f"Bearer {KEY}"})},
)
cmd(
    "/v1 behind OLLAMA_API_KEY",
    RUN,
    paths=locked(OPENAI),
    env={"OLLAMA_API_KEY": KEY},
    looks={"sent": (all_sent("authorization"), {f"Bearer {KEY}"})},
)
cmd("check of an Ollama behind a key", CHECK, paths=LOCKED, env={"OLLAMA_API_KEY": KEY}, says="0.24.0", unsaid=KEY)
cmd("Ollama without its key", RUN, paths=LOCKED, code=2, says="OLLAMA_API_KEY|OPENAI_API_KEY")
LLAMA = with_paths(
    OPENAI, _props=json({"total_slots": 4, "default_generation_settings": {"n_ctx": 2048}, "build_info": "b7000"})
)
cmd(
    "llama.cpp behind --api-key",
    CHECK,
    paths=locked(LLAMA, only=("/props", "/v1/chat/completions")),
    env={"OPENAI_API_KEY": KEY},
    says=r"2048.*slots +4",
    unsaid=KEY,
)
PROXY = with_paths(
    OPENAI, _v1_models=json({"error": {"message": "Authentication Error"}}, status=b"500 Internal Server Error")
)
cmd("proxy without a key", CHECK, paths=PROXY, code=2, says="key")
cmd(
    "proxy with a key: loaded and not loaded",
    CHECK,
    paths=locked(OPENAI),
    env={"OPENAI_API_KEY": KEY},
    unsaid=r"not loaded",
)
for label, key in (("CR", KEY + "\r"), ("LF", KEY + "\n"), ("blanks", f" {KEY} "), ("quotes' tab", KEY + "\t")):
    cmd(
        f"key with trailing {label}",
        RUN,
        paths=locked(OPENAI),
        env={"OPENAI_API_KEY": key},
        code=(0, 2),
        says=r"OPENAI_API_KEY|valid|suspect|void|median",
        unsaid=KEY,
        looks={"not written": (lambda ran: KEY in ran.written(), False)},
    )
for label, key in (
    ("a line break inside", "sk-pla\nnted"),
    ("CR inside", "sk-pla\rnted"),
    ("letters beyond ASCII", "sk-plänted"),
):
    cmd(
        f"key with {label}",
        RUN,
        paths=OPENAI,
        env={"OPENAI_API_KEY": key},
        code=2,
        says="OPENAI_API_KEY",
        unsaid="sk-pl",
    )
cmd(
    "key that the server repeats",
    RUN,
    paths=with_paths(
        OPENAI, _v1_chat_completions=json({"error": {"message": f"bad key {KEY}"}}, status=b"401 Unauthorized")
    ),
    env={"OPENAI_API_KEY": KEY},
    code=2,
    says="OPENAI_API_KEY|key",
    unsaid=KEY,
)


def repeating(request: Request) -> Script:
    """Answer the trial well and everything else with the key that came."""
    if is_trial(request):
        return WIRES["openai-chat"].good(1)
    return json({"error": {"message": f"bad key {request.headers.get('authorization')}"}}, status=b"401 Unauthorized")


cmd(
    "key that the server repeats in mid-run",
    RUN,
    paths=with_paths(OPENAI, _v1_chat_completions=repeating),
    env={"OPENAI_API_KEY": KEY},
    code=3,
    unsaid=KEY,
    looks={"not written": (lambda ran: KEY in ran.written(), False)},
)
BASIC = "Basic dXNlcjpwYS1wbGFudGVk"  # user:pa-planted
WITH_USER = ("run", "--url", "http://user:pa-planted@{host}", *QUICK)
cmd(
    "user and password in the URL",
    WITH_USER,
    unsaid="pa-planted",
    looks={
        "sent": (all_sent("authorization"), {BASIC}),
        "not written": (lambda ran: "pa-planted" in ran.written(), False),
    },
)
cmd(
    "user and password in the URL: check",
    ("check", "http://user:pa-planted@{host}"),
    unsaid="pa-planted",
    looks={"sent": (lambda ran: {one.headers.get("authorization") for one in ran.log}, {BASIC})},
)
cmd(
    "user and password, nothing there",
    ("run", "--url", "http://user:pa-planted@127.0.0.1:9", *QUICK),
    code=2,
    unsaid="pa-planted",
)
cmd(
    "user and password in OLLAMA_HOST",
    ("run", *QUICK),
    env={"OLLAMA_HOST": "http://user:pa-planted@{host}"},
    paths=OLLAMA,
    unsaid="pa-planted",
    looks={"not written": (lambda ran: "pa-planted" in ran.written(), False)},
)
