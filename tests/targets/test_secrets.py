"""Planted secrets: whatever is run against whatever fails, no output, file, sample or page holds a key or a password."""

from __future__ import annotations

import base64
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
from support.made_servers import CHAT, Made, made, refuse

Call = Callable[..., tuple[int, str, str]]

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


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
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


ADDED = "hd-PLANTED-z1x2c3v4b5n6m7"  # in no variable that is known to hold a key
TENANT = "tn-PLANTED-p0o9i8u7y6"
HEADERS = {  # how a key is given with --header, and what the server gets
    "written out": (f"X-Api-Key: {ADDED}", ADDED),
    "behind a scheme": (f"Authorization: Bearer {ADDED}", f"Bearer {ADDED}"),
    "by variable": ("X-Tenant: ${OLLAMA_TENANT}", TENANT),
    "both": (f"Cookie: a={ADDED}; b=${{OLLAMA_TENANT}}", f"a={ADDED}; b={TENANT}"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_secret_in_a_header_or_a_query(
    loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    header, sent_as = HEADERS[case]
    name = header.partition(":")[0].lower()
    monkeypatch.setenv("OLLAMA_TENANT", TENANT)
    monkeypatch.setenv("LOADTEST_SECRETS", "")
    calls = iter(range(10**9))
    works = SERVERS["works"]["/v1/chat/completions"]

    def quoted(headers: dict[str, str]) -> Any:
        said = json.dumps({"error": {"message": f"refused: {headers.get(name)} and key {ADDED}"}})
        return works if next(calls) < 4 else (400, {"Content-Type": "application/json"}, said.encode())

    routes = {
        "/v1/models": {"data": [{"id": "m"}]},
        f"/v1/chat/completions?api-key={ADDED}": quoted,
        "/props": lambda headers: (200, {}, json.dumps({"total_slots": 1, "build_info": headers.get(name)}).encode()),
    }
    added = ["--header", header, "--query", f"api-key={ADDED}"]
    with made(routes) as server:
        said = [
            loadtest("run", "--url", server.url, *SHORT, *added, "--report", "--out", tmp_path / "run"),
            loadtest("check", "--try", server.url, *added),
            loadtest("check", server.url, "--header", f"Connection: {ADDED}"),
            loadtest("check", server.url, "--header", ADDED),
            loadtest("check", server.url, "--header", f"X Y: {ADDED}"),
            loadtest("check", server.url, "--query", f"{ADDED} x"),
            loadtest("check", server.url, "--header", f"X-Key: {ADDED}é"),
        ]
        assert {headers.get(name) for _, headers in server.seen} == {sent_as}
    assert "http_error" in (tmp_path / "run" / "requests-0.jsonl").read_text()
    assert [code for code, *_ in said][1:] == [1, 2, 2, 2, 2, 2]
    clean(tmp_path, *(text for _, *both in said for text in both))


PATHS = {f"/sk-{ADDED}": f"sk-{ADDED}", f"/token/{ADDED}/llm": ADDED}  # a key by its shape, and by the name before it


@pytest.mark.parametrize("below", PATHS)
def test_a_key_in_the_path_of_a_url(loadtest: Call, tmp_path: Path, below: str) -> None:
    calls = iter(range(10**9))
    works = SERVERS["works"]["/v1/chat/completions"]
    refusal = json.dumps({"error": {"message": f"refused: {below}/v1 {PATHS[below]}"}}).encode()
    routes = {
        f"{below}/v1/models": {"data": [{"id": "m"}]},
        f"{below}/v1/chat/completions": lambda _: (
            works if next(calls) < 5 else (400, {"Content-Type": "application/json"}, refusal)
        ),
        f"{below}/metrics": (
            200,
            {"Content-Type": "text/plain"},
            f'vllm:num_requests_running{{a="{PATHS[below]}"}} 1\n'.encode(),
        ),
    }
    lost = (404, {"Content-Type": "text/plain"}, f"nothing at {below}".encode())
    with made(routes, default=lost) as server:
        url, out, monitored = server.url + below, tmp_path / "run", ("--monitor", "vllm", "--monitor-every", "0.1")
        commands = [
            ("check", url),
            ("check", "--json", url),
            ("run", url, *SHORT, *monitored, "--report", "--out", out),
            ("check", "--try", url),
            ("check", f"{url}/v9"),
            ("run", f"{url}/gone", *SHORT, "--out", tmp_path / "none"),
            ("memory", "--url", url),
            ("report", out),
            ("export", out),
            ("compare", out, out),
            ("ls", tmp_path),
        ]
        said = [loadtest(*command) for command in commands]
        asked = {path for path, _ in server.seen}
    assert {f"{below}/v1/chat/completions", f"{below}/metrics"} <= asked
    assert "http_error" in (out / "requests-0.jsonl").read_text()
    clean(tmp_path, *(text for _, *both in said for text in both))


@pytest.mark.usefixtures("locust_port")
@pytest.mark.parametrize("below", PATHS)
def test_locust_with_a_key_in_the_path_of_its_host(tmp_path: Path, below: str) -> None:
    calls = iter(range(10**9))
    works = SERVERS["works"]["/v1/chat/completions"]
    refusal = (500, {"Content-Type": "text/plain"}, f"refused: {below} {PATHS[below]}".encode())
    routes = {
        f"{below}/v1/models": {"data": [{"id": "m"}]},
        f"{below}/v1/chat/completions": lambda _: works if next(calls) < 4 else refusal,
    }
    (tmp_path / "chat.py").write_text(
        "from locust import task\nfrom loadtest.users import ModelUser\n\n\nclass Chat(ModelUser):\n"
        "    @task\n    def chat(self):\n        self.client.chat(output_tokens=2)\n"
    )
    command = [sys.executable, "-m", "locust", "--headless", "-f", "chat.py", "-u", "2", "-t", "1s", "--out", "run"]
    with made(routes) as server:
        command += ["--host", server.url + below, "--csv", "stats", "--html", "page.html", "--processes", "2"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert f"{below}/v1/chat/completions" in {path for path, _ in server.seen}
    assert (tmp_path / "run" / "run.json").exists(), done.stderr
    clean(tmp_path, done.stdout, done.stderr)


@pytest.mark.usefixtures("locust_port")
@pytest.mark.parametrize("where", ["option", "attribute"])
def test_locust_with_a_secret_in_a_header(tmp_path: Path, where: str) -> None:
    attribute = f"    header = ['X-Api-Key: {ADDED}']\n" if where == "attribute" else ""
    elsewhere = tmp_path / "files"
    elsewhere.mkdir()
    locustfile = elsewhere / "chat.py"
    locustfile.write_text(
        f"from locust import task\nfrom loadtest.users import ModelUser\n\n\nclass Chat(ModelUser):\n{attribute}"
        "    @task\n    def chat(self):\n        self.client.chat(output_tokens=2)\n"
    )
    routes = {"/v1/models": {"data": [{"id": "m"}]}, **SERVERS["works"]}
    out = tmp_path / "out"
    out.mkdir()
    with made(routes) as server:
        command = [
            sys.executable,
            "-m",
            "locust",
            "--headless",
            "-f",
            str(locustfile),
            "-u",
            "2",
            "-r",
            "2",
            "-t",
            "1s",
        ]
        command += ["--host", server.url, "--out", "run", "--csv", "stats", "--html", "page.html", "--processes", "2"]
        if where == "option":
            command += ["--header", f"X-Api-Key: {ADDED}"]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
        assert {headers.get("x-api-key") for path, headers in server.seen if path != "/"} == {ADDED}, done.stderr
    kept = json.loads((out / "run" / "run.json").read_text())["scenario"]["header"]
    assert kept == ["X-Api-Key: ${LOADTEST_HEADER_X_API_KEY}"], done.stderr
    clean(out, done.stdout, done.stderr)


def test_locust_neither_shows_nor_sends_a_secret_of_a_header() -> None:
    code = (
        "import argparse, os\nfrom locust.env import Environment\nfrom loadtest.users import ModelUser\n"
        "from loadtest.users.processes.run import withhold_passwords\n"
        f"class Chat(ModelUser):\n    header = 'X-Api-Key: {ADDED}'\n"
        f"options = argparse.Namespace(header=['Authorization: Bearer {ADDED}', 'X-A: 1'], query=['key={ADDED}'])\n"
        "withhold_passwords(Environment(user_classes=[Chat], parsed_options=options))\n"
        "print(options.header, options.query, Chat.header)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ("AUTHORIZATION", "X_API_KEY")
    header, other = (f"${{LOADTEST_HEADER_{name}}}" for name in names)
    assert done.stdout.strip() == (
        f"['Authorization: {header}', 'X-A: 1'] ['key=${{LOADTEST_QUERY_KEY}}'] ['X-Api-Key: {other}']"
    )


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
