"""Odd ways to a server, and what stands in a URL's place: a foreign port, a header that names the host, a proxy's password, mistakes of paste."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hops import on_socket
from support.made_servers import OPENAI_STREAM, made, refuse

from loadtest.errors import TargetError
from loadtest.urls import parse_url

Call = Callable[..., tuple[int, str, str]]
CHATS = "/v1/chat/completions"
LISTED = {"data": [{"id": "m"}]}
QUICK = ("--requests", "1", "--concurrency", "1", "--warmup", "0", "--output-tokens", "2")


@contextlib.contextmanager
def saying(said: bytes, *, waits: bool = True) -> Iterator[str]:
    """Serve a port that says the same to everybody, after a first read where it `waits`, and closes; give its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        if waits:
                            client.recv(65536)
                        client.sendall(said)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


NO_HTTP = {
    b"SSH-2.0-OpenSSH_9.6\r\n": "it begins with 'SSH-2.0-OpenSSH_9.6'",
    b"ICY 200 OK\r\n\r\n": "it begins with 'ICY 200 OK'",
    b"-ERR unknown command\r\n": "it begins with '-ERR unknown command'",
}


@pytest.mark.parametrize("said", NO_HTTP)
def test_what_a_port_says_that_speaks_no_http(said: bytes, loadtest: Call) -> None:
    with saying(said) as place:
        code, _, err = loadtest("check", place)
    assert code == 2
    assert NO_HTTP[said] in err
    assert "bytearray" not in err
    assert "without sending" not in err  # it sent something


def test_a_gateway_that_routes_by_host(loadtest: Call, tmp_path: Path) -> None:
    """KServe's and other ingresses are asked by their address, and find the model by the Host header."""

    def routed(good: object) -> Callable[[dict[str, str]], object]:
        return lambda headers: (
            good if headers["host"] == "m.default.example.com" else refuse(404, {"error": "no route"})
        )

    with made({"/v1/models": routed(LISTED), CHATS: routed(OPENAI_STREAM)}) as server:
        host = ("--header", "Host: m.default.example.com")
        assert loadtest("check", server.url)[0] == 2
        code, out, err = loadtest("check", server.url, *host)
        assert code == 0, err
        assert "model      m" in out
        code, _, err = loadtest("run", server.url, *host, *QUICK, "--out", tmp_path / "run")
        assert code in (0, 3), err


def test_an_ollama_that_refuses_another_hosts_name(loadtest: Call) -> None:
    """An Ollama on loopback answers a foreign Host with 403 and nothing more; a proxy before it passes the name on."""

    def local(good: object) -> Callable[[dict[str, str]], object]:
        return lambda headers: good if headers["host"] == "localhost" else (403, {}, b"")

    routes = {"/api/version": local({"version": "0.24.0"}), "/api/tags": local({"models": [{"name": "m:latest"}]})}
    with made(routes, default=local(refuse(404, {}))) as server:
        _, _, err = loadtest("check", server.url)
        assert "if it is an Ollama behind a proxy or another name, --header 'Host: localhost'" in err
        code, out, err = loadtest("check", server.url, "--header", "Host: localhost")
    assert code == 0, err
    assert "server     ollama 0.24.0" in out


WHO = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("target", ["http://gpu-box.example:8000", "https://gpu-box.example"])
def test_a_proxy_that_does_not_accept_the_password(target: str, loadtest: Call) -> None:
    with saying(WHO) as proxy:
        _, _, without = loadtest("check", target, "--proxy", f"http://{proxy}")
        _, _, given = loadtest("check", target, "--proxy", f"http://user:wrong@{proxy}")
    assert "USER:PASSWORD@ before its host" in without
    assert "the user and password in --proxy are not accepted, or it takes no Basic auth" in given
    assert "USER:PASSWORD@" not in given


def test_a_proxy_may_be_the_one_that_refuses(loadtest: Call) -> None:
    with made({}, default=refuse(403, {"error": "blocked"})) as proxy:
        _, _, err = loadtest("check", "http://gpu-box.example:8000", "--proxy", proxy.url)
    assert f"(or the proxy {proxy.url} does)" in err


NO_URLS = {
    "8000": "a port of this machine is written :8000",
    "/run/server.sock": "a unix socket is written unix:/run/server.sock",
    "$OLLAMA_HOST": "the shell has not filled in $OLLAMA_HOST",
    "http://${HOST}:8000/v1": "the shell has not filled in ${HOST}",
    "llama3.1:8b": "if it is a model, give it with --model",
    "qwen3:latest": "if it is a model, give it with --model",
}


@pytest.mark.parametrize("text", NO_URLS)
def test_what_stands_in_a_urls_place(text: str) -> None:
    with pytest.raises(TargetError) as error:
        parse_url(text)
    assert NO_URLS[text] in str(error.value)


@pytest.mark.parametrize(
    "text", ["http://u:$PASSWORD@h:1", "http://h/$metadata", "http://h?key=$KEY", "gpu:8000", "::1"]
)
def test_a_dollar_elsewhere_is_taken_as_it_is(text: str) -> None:
    parse_url(text)


def test_a_model_that_the_server_does_not_list(loadtest: Call) -> None:
    """The first request is refused: the sentence names the models there are."""
    refused = refuse(404, {"error": {"message": "The model `M-7` does not exist."}})
    with made({"/v1/models": {"data": [{"id": "m-7"}, {"id": "n"}]}, CHATS: refused}) as server:
        code, _, err = loadtest("run", server.url, "--model", "M-7", *QUICK)
    assert code == 2
    assert "The server does not list M-7; it lists: m-7, n. Choose one with --model." in err


def test_a_key_that_the_first_request_is_refused_for(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    with made({"/v1/models": LISTED, CHATS: refuse(401, {"error": "Incorrect key"})}) as server:
        _, _, err = loadtest("run", server.url, *QUICK)
    assert "the key in OPENAI_API_KEY is not accepted: set OPENAI_API_KEY to one that is" in err


def test_an_openai_server_that_was_called_an_ollama(loadtest: Call) -> None:
    with made({"/v1/models": LISTED}) as server:
        _, out, _ = loadtest("check", f"{server.url}/api/generate")
    assert "(GET /api/tags: status 404 (Not Found); GET /v1/models does)" in out


def test_a_unix_socket_beside_a_proxy(loadtest: Call, tmp_path: Path) -> None:
    with made({"/v1/models": LISTED}) as server, on_socket(tmp_path / "s", server.url):
        code, out, err = loadtest("check", f"unix:{tmp_path}/s", "--proxy", "http://127.0.0.1:9")
    assert code == 0, err
    assert "proxy      not for a unix socket" in out


@pytest.mark.parametrize("value", ["", "a b", "http://a", "a/b"])
def test_a_host_that_is_none(value: str, loadtest: Call) -> None:
    code, _, err = loadtest("check", "http://127.0.0.1:9", "--header", f"Host: {value}")
    assert code == 2
    assert "header Host must be a host, or host:port" in err


@pytest.mark.parametrize("value", ["$MY_KEY", "Bearer $MY_KEY"])
def test_a_variable_without_braces_in_a_header(value: str, loadtest: Call) -> None:
    code, _, err = loadtest("check", "http://127.0.0.1:9", "--header", f"api-key: {value}")
    assert code == 2
    assert "header api-key holds $MY_KEY, which is not filled in: write ${MY_KEY}" in err


def test_other_tools_letters_and_values_of_flags(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for letter, flag in {"-c": "--concurrency", "-n": "--requests", "-H": "--header", "-k": "--insecure"}.items():
        _, _, err = loadtest("run", "http://127.0.0.1:9", letter, "4")
        assert f"No such option '{letter}'; give it with {flag}" in err
    _, _, err = loadtest("run", "http://127.0.0.1:9", "--insecure", "false")
    assert "an option such as --insecure takes no value: leave false out" in err
    monkeypatch.setenv("LOADTEST_API_KEY", "sk-0123456789")
    _, _, err = loadtest("run", "http://127.0.0.1:9", *QUICK)
    assert "LOADTEST_API_KEY in the environment is not used; LOADTEST_KEY_ENV is an option's." in err
    assert "sk-0123456789" not in err


def test_results_are_printed_whatever_columns_says(
    loadtest: Call, simulated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich prints nothing at a width of 0."""
    monkeypatch.setenv("COLUMNS", "0")
    _, out, _ = loadtest("run", simulated_url, *QUICK, "--out", tmp_path / "run")
    assert "Verdict" in out


TABLES = {
    '[requests]\nthink = "on"': "has a table [requests], which no scenario has; write its keys (think) in [request]",
    '[request]\nheader = {A = "1"}': 'header must be text, not a table; write it like header = ["Name: value"]',
    'duration = "30s"': "duration must be a number or nothing, not '30s'; write the number alone, without a unit",
}


@pytest.mark.parametrize("text", TABLES)
def test_mistakes_in_scenario_files(text: str, loadtest: Call, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    more = ("--requests", "1") if "requests" in text else ()  # an option hid the table of the same name
    code, _, err = loadtest("run", file, "http://127.0.0.1:9", "--concurrency", "1", *more)
    assert code == 2
    assert TABLES[text] in err
