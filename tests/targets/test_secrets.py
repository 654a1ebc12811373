"""Planted secrets: whatever is run against whatever fails, no output, file, sample or page holds a key or a password."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.made_servers import Made, made
from support.planted_secrets import (
    ENCODED,
    KEY,
    LINES,
    OTHER,
    PASSWORD,
    SERVERS,
    SHORT,
    TAGS,
    USER,
    clean,
    plant,
    quoting,
    with_password,
)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)


@pytest.fixture(params=[False, True], ids=["key", "password"])
def given(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """How a URL is given: with a key in the environment alone, or with user:pass in it."""
    return with_password if request.param else str


@pytest.mark.parametrize("case", SERVERS)
def test_every_command_against_a_server_that_quotes_us(
    loadtest: Call, tmp_path: Path, case: str, given: Callable[[str], str]
) -> None:
    page = quoting(200, 'vllm:num_requests_running{said="AUTH"} 1\n', "text/plain")
    routes = {"/v1/models": {"data": [{"id": "m"}]}, "/metrics": page, **SERVERS[case]}
    out = tmp_path / "run"
    with made(routes, default=quoting(404)) as server:
        told = [
            "--url",
            given(server.url),
            "--api",
            "openai",
            "--model",
            "m",
            *(["--monitor", "vllm"] if case == "works" else []),
        ]
        said = [loadtest("check", given(server.url)), loadtest("run", *told, *SHORT, "--out", out)]
        if case in ("works", "401"):
            said.append(loadtest("memory", "--url", given(server.url)))
        assert sent(server) == {f"Basic {ENCODED}" if given is with_password else f"Bearer {KEY}"}
    if out.exists() and case in ("works", "text"):
        said += [loadtest(*command) for command in (["report", out], ["advise", out], ["compare", out, out])]
    clean(tmp_path, *(text for _, *both in said for text in both))


def sent(server: Made) -> set[str | None]:
    """Return what credentials were sent, those of the native API aside."""
    return {headers.get("authorization") for path, headers in server.seen if not path.startswith("/api/")}


def test_an_error_in_mid_run_is_redacted_in_its_record(
    loadtest: Call, tmp_path: Path, given: Callable[[str], str]
) -> None:
    calls = iter(range(100))
    works, fails = SERVERS["works"]["/v1/chat/completions"], quoting(500)
    routes = {
        "/v1/models": {"data": [{"id": "m"}]},
        "/v1/chat/completions": lambda headers: works if next(calls) < 5 else fails(headers),
    }
    with made(routes) as server:
        _, *said = loadtest("run", "--url", given(server.url), *SHORT, "--report", "--out", tmp_path / "run")
    records = (tmp_path / "run" / "requests-0.jsonl").read_text()
    assert "http_error" in records
    assert "refused: Authorization: " in records
    clean(tmp_path, *said)


def test_an_ollama_behind_a_key_and_what_it_says_of_itself(
    loadtest: Call, tmp_path: Path, given: Callable[[str], str]
) -> None:
    routes = {
        "/api/version": {"version": "0.24.0"},
        "/api/tags": TAGS,
        "/api/show": quoting(200, '{"details":{"parameter_size":"AUTH"},"model_info":{"x.context_length":4096}}'),
        "/api/ps": quoting(
            200, '{"models":[{"name":"m","size":9,"size_vram":9,"digest":"AUTH","context_length":4096}]}'
        ),
        "/api/chat": (200, {"Content-Type": "application/x-ndjson"}, LINES),
    }
    with made(routes) as server:
        said = [
            loadtest("check", given(server.url)),
            loadtest("memory", "--url", given(server.url)),
            loadtest(
                "run",
                "--url",
                given(server.url),
                *SHORT,
                "--monitor",
                "ollama",
                "--monitor-every",
                "0.1",
                "--out",
                tmp_path / "run",
            ),
        ]
        wanted = f"Basic {ENCODED}" if given is with_password else f"Bearer {OTHER}"
        assert {headers.get("authorization") for _, headers in server.seen} == {wanted}
    assert [code for code, *_ in said][2] in (0, 3), said
    clean(tmp_path, *(text for _, *both in said for text in both))


def test_no_connection_and_no_trust(loadtest: Call, tmp_path: Path, given: Callable[[str], str]) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=h -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with made({}, tls=context) as server:
        for url in (nobody, server.url, "http://no-such-host.invalid", "http://h:99999", "http://h/v1?x=y"):
            said = [
                loadtest("check", given(url)),
                loadtest("check", "x", given(url)),  # a mistake whose sentence quotes the argument
                loadtest("memory", "--url", given(url)),
                loadtest("run", "--url", given(url), "--out", tmp_path / "run"),
            ]
            assert {code for code, *_ in said} == {2}
            clean(tmp_path, *(text for _, *both in said for text in both))


def test_a_monitor_alone_gives_a_key_to_the_measured_server_only(loadtest: Call, tmp_path: Path) -> None:
    page = quoting(200, 'vllm:num_requests_running{said="AUTH"} 1\n', "text/plain")
    with made({"/metrics": page}) as measured, made({"/metrics": page}) as other:
        options = ["--for", "0.3", "--every", "0.1"]
        sources = ["--source", f"vllm={measured.url}", "--source", f"prometheus={other.url}/metrics"]
        command = [sys.executable, "-m", "loadtest", "monitor", "--out", str(tmp_path / "m"), *options, *sources]
        done = subprocess.run([*command, "--server", measured.url], capture_output=True, text=True, check=True)
        assert sent(measured) == {f"Bearer {KEY}"}
        assert sent(other) == {None}
        said = [done.stdout, done.stderr]
        bad = [*command[:-2], "--source", f"prometheus={with_password(other.url)}/gone", "--server", "http://us:pw@"]
        done = subprocess.run(bad, capture_output=True, text=True, check=False)
        assert done.returncode == 2
    clean(tmp_path, *said, done.stdout, done.stderr)


@pytest.mark.usefixtures("locust_port")
@pytest.mark.parametrize(("case", "given"), [("500", with_password), ("works", str)])
def test_locust_headless(tmp_path: Path, case: str, given: Callable[[str], str]) -> None:
    (tmp_path / "chat.py").write_text(
        "from locust import task\nfrom loadtest.users import ModelUser\n\n\nclass Chat(ModelUser):\n"
        "    @task\n    def chat(self):\n        self.client.chat(output_tokens=2)\n"
    )
    calls = iter(range(10**9))
    works, then = SERVERS["works"]["/v1/chat/completions"], SERVERS[case]["/v1/chat/completions"]
    routes = {
        "/v1/models": {"data": [{"id": "m"}]},
        "/v1/chat/completions": lambda headers: works if next(calls) < 3 or case == "works" else then(headers),
    }
    with made(routes) as server:
        command = [sys.executable, "-m", "locust", "--headless", "-f", "chat.py", "-u", "2", "-r", "2", "-t", "1s"]
        command += [
            "--host",
            given(server.url),
            "--out",
            "run",
            "--csv",
            "stats",
            "--html",
            "page.html",
            "--processes",
            "2",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ})
        assert sent(server) - {None} == {f"Basic {ENCODED}" if given is with_password else f"Bearer {KEY}"}
    assert (tmp_path / "run" / "run.json").exists(), done.stderr
    clean(tmp_path, done.stdout, done.stderr)


def test_anthropics_key_is_sent_to_messages_alone_and_kept_out_of_everything(
    loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-ant-PLANTED-z8x7c6v5"
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)

    def quotes(headers: dict[str, str]) -> Any:
        error = {"type": "authentication_error", "message": f"invalid x-api-key {headers.get('x-api-key')}"}
        return 401, {"Content-Type": "application/json"}, json.dumps({"type": "error", "error": error}).encode()

    with made({"/v1/models": {"data": [{"id": "m"}]}, "/v1/messages": quotes, "/v1/responses": quotes}) as server:
        code, *texts = loadtest("run", "--url", server.url, "--endpoint", "messages", *SHORT, "--out", tmp_path / "run")
        assert code == 2
        assert "ANTHROPIC_API_KEY" in texts[1]
        asked = [headers for path, headers in server.seen if path == "/v1/messages"]
        assert {headers.get("x-api-key") for headers in asked} == {key}
        assert {headers.get("anthropic-version") for headers in asked} == {"2023-06-01"}
        loadtest("run", "--url", server.url, "--endpoint", "responses", *SHORT, "--out", tmp_path / "run")
        others = [headers for path, headers in server.seen if path != "/v1/messages"]
        assert not [headers for headers in others if key in str(headers)]
    clean(tmp_path, *texts)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_two_servers_get_their_own_credentials(loadtest: Call, tmp_path: Path, workers: str) -> None:
    page = quoting(200, 'vllm:num_requests_running{said="AUTH"} 1\n', "text/plain")
    routes = {"/v1/models": {"data": [{"id": "m"}]}, "/metrics": page, **SERVERS["works"]}
    with made(routes) as one, made(routes) as other:
        urls = ["--url", with_password(one.url), "--url", other.url]
        load = ["--concurrency", "2", "--requests", "4", "--output-tokens", "2", "--workers", workers]
        said = loadtest("run", *urls, *load, "--monitor", "vllm", "--monitor-every", "0.1", "--out", tmp_path / "run")
        twice = loadtest("run", *urls, *urls, "--out", tmp_path / "none")
        assert said[0] in (0, 3), said
        assert sent(one) == {f"Basic {ENCODED}"}
        assert sent(other) == {f"Bearer {KEY}"}
    assert twice[0] == 2
    clean(tmp_path, *said[1:], *twice[1:])


@pytest.mark.parametrize("command", [("report",), ("export",), ("run", "--data"), ("run", "--prompt-file")])
def test_a_url_in_the_place_of_a_file_is_shown_without_its_password(loadtest: Call, command: tuple[str, ...]) -> None:
    code, _, err = loadtest(*command, f"https://{USER}:{PASSWORD}@host.example/x")
    assert code == 2
    assert "https:/host.example/x" in err
    assert "PLANTED" not in err


@pytest.mark.parametrize(
    "args",
    [
        ("check", "http://127.0.0.1:9/KEY"),
        ("run", "--url", "http://127.0.0.1:9", "--api", "KEY"),
        ("run", "http://127.0.0.1:9", "KEY"),
        ("run", "--concurrency", "KEY"),
        ("report", "KEY"),
    ],
)
def test_a_key_in_the_place_of_something_else_is_not_shown(loadtest: Call, args: tuple[str, ...]) -> None:
    key = "sk-proj-9Zq3xW81LmPt-0Aa"
    code, out, err = loadtest(*(part.replace("KEY", key) for part in args))
    assert code == 2
    assert key not in out + err
