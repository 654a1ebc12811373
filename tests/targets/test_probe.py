"""What server is this: URLs as the ecosystem writes them, models chosen, hazards named."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.wire_server import Peer, serving

from loadtest.errors import TargetError
from loadtest.scenario import ConnectionKeys
from loadtest.targets.server.hazards import hazards, one_of_several
from loadtest.targets.server.probe import ServedModel, Server, choose_model
from loadtest.urls import base_url, default_url


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("http://127.0.0.1:11434/", "http://127.0.0.1:11434"),
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:8000", "http://gpu-box:8000"),
        ("0.0.0.0:11435", "http://127.0.0.1:11435"),
        (":11435", "http://127.0.0.1:11435"),
        ("http://host/v1", "http://host"),
        ("https://host/llm/v1/", "https://host/llm"),
        ("http://[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_a_url_as_people_write_it(given: str, url: str) -> None:
    assert base_url(given) == url


@pytest.mark.parametrize("given", ["ftp://host", "http://host:99999", "http://host:port", "a b", ""])
def test_what_is_no_url_is_said(given: str) -> None:
    with pytest.raises(TargetError, match="is not a URL"):
        base_url(given)


def test_the_environment_names_the_server() -> None:
    assert default_url({}) == "http://127.0.0.1:11434"
    assert default_url({"OPENAI_BASE_URL": "http://a/v1"}) == "http://a/v1"
    assert default_url({"OPENAI_BASE_URL": "http://a/v1", "OLLAMA_HOST": "b"}) == "b"  # api openai: test_urls


def ollama(*models: ServedModel) -> Server:
    return Server("http://host", "ollama", "0.33.0", models)


def test_a_model_is_the_one_asked_for_else_the_loaded_else_the_only_one() -> None:
    cold, warm = ServedModel("a:latest", loaded=False), ServedModel("b:7b", loaded=True)
    assert choose_model(ollama(cold, warm), "a") is cold
    assert choose_model(ollama(cold, warm), None) is warm
    assert choose_model(ollama(cold), None) is cold


def test_a_model_that_is_called_unknown_is_not_said_to_be_unknown() -> None:
    """As SGLang's router lists it; was "model unknown"."""
    assert [ServedModel(name).called for name in ("unknown", "a")] == ['"unknown", which is its name in the list', "a"]


def test_models_that_cannot_be_chosen_are_named() -> None:
    two = ollama(ServedModel("a:latest", loaded=False), ServedModel("b:7b", loaded=False))
    with pytest.raises(TargetError, match="several models; choose one with --model: a:latest, b:7b"):
        choose_model(two, None)
    with pytest.raises(TargetError, match=r"no model 'c'; it has: a:latest, b:7b.*ollama pull c"):
        choose_model(two, "c")
    with pytest.raises(TargetError, match="no model yet"):
        choose_model(ollama(), None)
    with pytest.raises(TargetError, match="lists no model, which need not mean that it has none; name one"):
        choose_model(Server("http://host", "openai", None, ()), None)  # transformers serve loads what it is asked for


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([("10.0.0.1", 80), ("10.0.0.2", 80), ("fd00::1", 80, 0, 0)], True),
        ([("10.0.0.1", 80), ("10.0.0.1", 80), ("fd00::1", 80, 0, 0)], False),
    ],
)
def test_of_a_name_with_several_addresses_one_is_measured(
    places: list[tuple[Any, ...]], said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", place) for place in places])
    sentence = one_of_several(ConnectionKeys(), "http://gpu-pods")
    assert (sentence is not None and "gpu-pods has 2 addresses" in sentence) is said
    assert one_of_several(ConnectionKeys(proxy="http://127.0.0.1:1"), "http://gpu-pods") is None


def test_hazards_name_a_model_in_host_memory() -> None:
    half = ServedModel("m", loaded=True, context=4096, size=100, size_vram=25)
    assert any("75 % of m is in host memory" in text for text in hazards(ollama(half), half))


@pytest.mark.parametrize(("kind", "again"), [("llama.cpp", True), ("openai", False)])
def test_a_model_that_is_not_loaded_is_said_of_every_server(kind: str, again: bool) -> None:
    """A llama.cpp that sleeps when idle loaded its model before each of its user's requests, and check said nothing."""
    asleep = ServedModel("m", loaded=False)
    [said] = [text for text in hazards(Server("http://x", kind, None, (asleep,)), asleep) if "not loaded" in text]
    assert said.startswith("m is not loaded: the first request waits until it is.")
    assert said.endswith("loads its model again after each pause.") is again


def hang_up(peer: Peer) -> None:
    peer.sock.close()


REFUSALS: dict[str, Callable[[Peer], object]] = {  # what servers that speak TLS do when plain HTTP comes
    "an alert": lambda peer: peer.send(b"\x15\x03\x03\x00\x02\x02\x46"),
    "a reset": Peer.reset,
    "nothing": hang_up,
    "a gateway's page": lambda peer: peer.send(
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
    ),  # Traefik takes both
    "a page": lambda peer: peer.send(
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
    ),
}
HELLOS: dict[
    str, tuple[str, bytes, bool]
] = {  # what answers plain http and a TLS client, and whether TLS alone is spoken
    "an alert": ("a reset", b"\x15\x03\x01\x00\x02\x02\x28", True),
    "a hello": ("a reset", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", True),
    "HTTP": ("a reset", b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
    "nothing": ("a reset", b"", False),
    "both": ("a gateway's page", b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03", False),
}


@pytest.mark.parametrize("options", [(), ("--api", "openai", "--model", "m"), ("--api", "ollama", "--model", "m")])
@pytest.mark.parametrize("refusal", [name for name in REFUSALS if name != "a gateway's page"])
def test_plain_http_to_a_port_that_speaks_tls_is_told_so(
    loadtest: Callable[..., tuple[int, str, str]], tmp_path: Path, options: tuple[str, ...], refusal: str
) -> None:
    code, err = _run_against(loadtest, tmp_path, options, refusal, b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")
    assert code == 2
    assert re.search(r"loadtest: http://127\.0\.0\.1:(\d+) speaks https, not http: give https://127\.0\.0\.1:\1\.", err)


@pytest.mark.parametrize("hello", HELLOS)
def test_only_a_port_that_answers_in_tls_is_said_to_speak_it(
    loadtest: Callable[..., tuple[int, str, str]], tmp_path: Path, hello: str
) -> None:
    refusal, said, tls = HELLOS[hello]
    code, err = _run_against(loadtest, tmp_path, (), refusal, said)
    assert code == 2
    assert ("speaks https" in err) == tls


def _run_against(
    loadtest: Callable[..., tuple[int, str, str]], tmp_path: Path, options: tuple[str, ...], refusal: str, hello: bytes
) -> tuple[int, str]:
    def handler(peer: Peer) -> None:
        first = peer.sock.recv(1 << 16)
        if first.startswith(b"\x16"):
            peer.send(hello)
        elif first:
            REFUSALS[refusal](peer)

    with serving(handler) as server:
        code, _, err = loadtest("run", "--url", server.url, *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    return code, err
