"""Planted secrets in what is added to requests: in a header, a query or the path of a URL, from the command line and Locust."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.made_servers import made
from support.planted_secrets import (
    SERVERS,
    SHORT,
    clean,
    plant,
)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)


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
