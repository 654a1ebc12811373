"""Control answers of any shape give facts or sentences, never a traceback; `python tests/targets/test_control_fuzz.py N [SEED]` tries N."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import sys
from collections.abc import Callable
from typing import Any

import click
import httpx
import orjson
import pytest

from loadtest.cli import check as check_module
from loadtest.cli import cli
from loadtest.dialects import dialect_for
from loadtest.errors import LoadTestError
from loadtest.scenario import Scenario
from loadtest.targets.context import check_lengths
from loadtest.targets.prepare import ReadyTarget
from loadtest.targets.run_facts import at_end, initial_facts
from loadtest.targets.server.hazards import hazards
from loadtest.targets.server.probe import choose_model, probe, with_details
from loadtest.targets.target import Target, ask_to_unload, loaded_facts
from loadtest.workloads.tokens import Counter
from loadtest.workloads.workload import Workload

GOOD: dict[str, Any] = {
    "/api/version": {"version": "0.24.0"},
    "/api/tags": {"models": [{"name": "m:latest", "model": "m:latest", "size": 5, "details": {"family": "llama"}}]},
    "/api/ps": {"models": [{"name": "m:latest", "size": 9, "size_vram": 3, "context_length": 4096, "details": {}}]},
    "/api/show": {
        "details": {"parameter_size": "70B", "quantization_level": "Q4_0"},
        "model_info": {"llama.context_length": 8192, "llama.block_count": 80, "llama.attention.head_count": 64},
    },
    "/v1/models": {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]},
    "/props": {"total_slots": 4, "build_info": "b1", "default_generation_settings": {"n_ctx": 4096}},
    "/version": {"version": "0.9.1"},
    "/api/generate": {"done": True},
    "/": None,
}
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 2**64 - 1, 2**70, 10**400, 1.5, -0.0, 1e308, float("nan"),
    float("inf"), "", " ", "x", "m", "0.24.0", "165", "\ud83d", "\udc00\ud83d", "\ud83d\ude00", "\x1b[2J", "\u202e",
    "a\nb", "\0", "x" * 5000, [], {}, [[]], [{}], {"": {}}, {"x": None}, [None], ["m"], [1], {"name": "m"}, {"id": ["m"]},
    [{"name": {"x": 1}}], [{"name": 7, "details": []}], [{"model": "m"}], {"models": "m"}, {"data": {}},
)  # fmt: skip
KEYS = ("name", "id", "model", "models", "data", "version", "details", "model_info", "size", "context_length", "x", "")
STATUSES = (200,) * 12 + (201, 204, 206, 301, 307, 400, 401, 403, 404, 405, 429, 500, 501, 503, 999)
KINDS = ("application/json", "text/html", "text/plain", "", "\x1b[2J", "application/json; charset=utf-16", "a/b;;;")
RAW = (
    b"", b"null", b"{", b'{"a":', b"[" * 100_000, b'{"a":' * 2000, b"\xff\xfe", b"<html>\x1b]0;x\x07</html>", b"NaN",
    b"Ollama is running", b'{"version":"\\ud83d"}', b'\xef\xbb\xbf{"version":"0.24.0"}', b"1" * 5000, b"[" + b"1," * 1000 + b"1]",
    b'{"models":[{"name":"\\ude00\\ud83d"}]}', b'{"data":[{"id":"' + b"y" * 100_000 + b'"}]}', b'"' + b"z" * 10_000,
)  # fmt: skip


def changed(rng: random.Random, value: Any, depth: int = 4) -> Any:
    """Return the value with something in it of another type, missing, or more of it."""
    if rng.random() < 0.12 or depth == 0:
        return rng.choice(ODD)
    if isinstance(value, dict):
        found = {key: changed(rng, item, depth - 1) for key, item in value.items() if rng.random() > 0.06}
        if rng.random() < 0.1:
            found[rng.choice(KEYS)] = rng.choice(ODD)
        return found
    if isinstance(value, list):
        return [changed(rng, item, depth - 1) for item in value * rng.choice((1, 1, 1, 0, 2, 3))]
    return value


def answering(rng: random.Random) -> Callable[[httpx.Request], httpx.Response]:
    """Return a server that answers each path wrongly in its own way."""
    silent = rng.random() < 0.5  # other servers than Ollama

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        status = rng.choice(STATUSES)
        if silent and path.startswith("/api/"):
            status = 404
        if rng.random() < 0.05:
            raise rng.choice((httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ReadError))("\x1b cut off")
        body = json.dumps(changed(rng, GOOD.get(path))).encode()
        if path == "/" and rng.random() < 0.7:
            body = b"Ollama is running"
        if rng.random() < 0.1:
            body = rng.choice(RAW)
        if rng.random() < 0.05:
            body = body[: rng.randrange(len(body) + 1)]
        headers = {"Content-Type": rng.choice(KINDS)} if rng.random() < 0.9 else {}
        if rng.random() < 0.05:
            headers["Content-Encoding"] = rng.choice(("gzip", "deflate", "br", "nonsense"))
            if rng.random() < 0.5:
                body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        if rng.random() < 0.1:
            headers["Location"] = rng.choice(("/v2/", "http://me:secret@h/\x1b", "", "//", "http://["))
        if rng.random() < 0.05:
            headers["loadtest-simulated"] = rng.choice(
                ("", "profile=x; speed=nan", ";;=", "speed=x", "profile=\x1b; speed=2")
            )
        raw = [(key.encode(), value.encode("latin-1", "replace")) for key, value in headers.items()]
        return httpx.Response(status, headers=raw, stream=httpx.ByteStream(body))

    return answer


def attempt(seed: int, *, monkey: Callable[[str, Any], None]) -> str:
    """Take one odd server through all that reads it; return which way it went. Anything but a LoadTestError comes out."""
    rng = random.Random(seed)
    api, asked = rng.choice(("auto", "ollama", "openai")), rng.choice((None, "m", "nope"))

    def client(*_: Any) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(answering(rng)))

    went = ["refused"]
    try:
        with client() as http:
            server = probe(http, "http://127.0.0.1:1", api=api)
            model = with_details(http, server, choose_model(server, asked))
            said = [*hazards(server, model), server.described]
            dialect = dialect_for(Scenario(api=api), api=server.native, model=model.name)
            target = Target(server, model, dialect)
            check_lengths(Scenario(), model)
            facts = initial_facts(
                Scenario(), [ReadyTarget(target, Workload(Scenario(), Counter("x")))], driver="x", loop="x"
            )
            facts |= at_end(facts["targets"], [loaded_facts(http, target)])
            orjson.dumps(facts)  # as write_run does
            said.append(target.described)
            went.append("measured")
            ask_to_unload(http, target)
    except LoadTestError as error:
        said = [str(error)]
    for sentence in said:
        sentence.encode()
        assert sentence.isprintable(), sentence
        assert "secret" not in sentence
        assert len(sentence) < 20_000
    monkey("control_client", client)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            # Through the group: click would keep the help option of a command that is called alone, without its -h.
            named = ["--model", asked] if asked else []
            cli.main(["check", "http://127.0.0.1:1", "--api", api, *named], standalone_mode=False)
    except (LoadTestError, click.ClickException) as error:
        out.write(str(error))
    assert "\x1b" not in out.getvalue()
    out.getvalue().encode()
    return went[-1]


def test_odd_servers_give_facts_or_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    went = {
        attempt(seed, monkey=lambda name, value: monkeypatch.setattr(check_module, name, value)) for seed in range(300)
    }
    assert went == {"refused", "measured"}


if __name__ == "__main__":
    ways: dict[str, int] = {}
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for number in range(first, first + int(sys.argv[1])):
        try:
            way = attempt(number, monkey=lambda name, value: setattr(check_module, name, value))
        except BaseException:
            print(f"seed {number}", file=sys.stderr)
            raise
        ways[way] = ways.get(way, 0) + 1
    print(ways)
