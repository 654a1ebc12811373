"""${NAME} in --body: filled in from the environment where a request is sent, and in no file, message or page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.made_servers import OPENAI_STREAM, Made, made

from loadtest import credentials
from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.scenario.request_additions import filled_body, templates_of

Call = Callable[..., tuple[int, str, str]]

PLANTED = 'bd-PLANTED-"q1w2\\e3r4/t5'  # JSON, HTML and URLs spell it otherwise than it is
WRITTEN = "bw-PLANTED-z9x8c7v6b5"
SHORT = ["--concurrency", "1", "--requests", "6", "--output-tokens", "2", "--warmup", "0", "--save-text"]
BODY = {"user": "t ${A_TENANT}", "metadata": {"list": ["${A_TENANT}", 1, None]}, "plain": "$${A_TENANT}"}
SENT = {"user": f"t {PLANTED}", "metadata": {"list": [PLANTED, 1, None]}, "plain": "${A_TENANT}"}


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TENANT", PLANTED)
    for name in ("LOADTEST_SECRETS", "LOADTEST_SECRET_TEXTS", "LOADTEST_BODY_API_KEY"):
        monkeypatch.setenv(name, "")


def quoting_server() -> dict[str, Any]:
    """Return routes of a server that quotes, from its fourth request on, what it was told, in JSON and as a page."""
    calls = iter(range(10**9))

    def answer(_: dict[str, str]) -> Any:
        told = json.dumps({"error": {"message": f"refused: {PLANTED} and {WRITTEN}"}}).encode()
        page = f"<title>{PLANTED} {WRITTEN}</title>".encode()
        number = next(calls)
        if number < 4:
            return OPENAI_STREAM
        return (400, {"Content-Type": "application/json"}, told) if number % 2 else (500, {}, page)

    return {"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": answer}


def clean(folder: Path, *texts: str) -> None:
    """Fail where something planted is in a text or in a file below the folder."""
    for text in texts:
        assert "PLANTED" not in text, text
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"PLANTED" not in path.read_bytes(), path


def told(server: Made) -> list[dict[str, Any]]:
    """Return what the bodies sent hold of BODY's keys and of a key written out."""
    bodies = [json.loads(body) for path, body in server.posted if path == "/v1/chat/completions"]
    return [{name: body.get(name) for name in (*BODY, "api_key")} for body in bodies]


@pytest.mark.parametrize("how", ["option", "file", "toml", "workers"])
def test_a_variable_is_sent_and_never_stored(loadtest: Call, tmp_path: Path, how: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    given = BODY | {"api_key": WRITTEN}
    body = ["--body", json.dumps(given)]
    if how == "file":
        (tmp_path / "body.json").write_text(json.dumps(given))
        body = ["--body", f"@{tmp_path / 'body.json'}"]
    if how == "toml":
        (tmp_path / "s.toml").write_text(f"[request]\nbody = '''{json.dumps(given)}'''\n")
        body = [str(tmp_path / "s.toml")]
    load = [*SHORT[2:], "--concurrency", "2", "--workers", "2"] if how == "workers" else SHORT
    with made(quoting_server()) as server:
        said = [loadtest("run", "--url", server.url, *load, *body, "--report", "--out", out / "run")]
        seen = told(server)
        said.append(loadtest("check", "--try", server.url, *body[-2:]) if how in ("option", "file") else (0, "", ""))
    assert seen[0] == SENT | {"api_key": WRITTEN}, said
    assert all(one == seen[0] for one in seen)
    kept = json.loads(json.loads((out / "run" / "run.json").read_text())["scenario"]["body"])
    assert kept == BODY | {"api_key": "${LOADTEST_BODY_API_KEY}"}
    assert "<A_TENANT>" in "".join(path.read_text() for path in (out / "run").glob("requests-*.jsonl"))
    clean(out, *(text for _, *both in said for text in both))


@pytest.mark.usefixtures("locust_port")
@pytest.mark.parametrize("where", ["option", "attribute"])
def test_locust(tmp_path: Path, where: str) -> None:
    given = BODY | {"api_key": WRITTEN}
    attribute = f"    body = {given!r}\n" if where == "attribute" else ""
    (tmp_path / "chat.py").write_text(
        f"from locust import task\nfrom loadtest.users import ModelUser\n\n\nclass Chat(ModelUser):\n{attribute}"
        "    @task\n    def chat(self):\n        self.client.chat(output_tokens=2)\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "locust", "--headless", "-f", str(tmp_path / "chat.py"), "-u", "2", "-r", "2"]
    command += ["-t", "1s", "--out", "run", "--csv", "stats", "--html", "page.html", "--processes", "2"]
    command += ["--body", json.dumps(given)] if where == "option" else []
    with made(quoting_server()) as server:
        done = subprocess.run([*command, "--host", server.url], cwd=out, capture_output=True, text=True, check=False)
        seen = told(server)
        lacking = {name: value for name, value in os.environ.items() if name != "A_TENANT"}
        refused = subprocess.run(
            [*command, "--host", server.url, "--out", "none"],
            cwd=out, capture_output=True, text=True, check=False, env=lacking,
        )  # fmt: skip
        assert len(told(server)) == len(seen), "something was sent"
    assert seen, done.stderr
    assert all(one == SENT | {"api_key": WRITTEN} for one in seen)
    kept = json.loads((out / "run" / "run.json").read_text())["scenario"]["body"]
    assert json.loads(kept) == BODY | {"api_key": "${LOADTEST_BODY_API_KEY}"}
    clean(out, done.stdout, done.stderr)
    assert refused.returncode == 2
    assert "body user needs the environment variable A_TENANT, which is not set or empty; set it." in refused.stderr


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            '{"a": {"b": ["x", "${NOT_SET_1}"]}}',
            "body a.b.1 needs the environment variable NOT_SET_1, which is not set",
        ),
        ('{"a": ' + "[" * 900 + '"${A_TENANT}"' + "]" * 900 + "}", "nested hundreds deep"),
        ('{"a": "${A B}"}', "body a has a ${ that names no variable; write it like ${MY_KEY}, or $${ for a plain ${."),
        ('{"a": ${A_TENANT}}', "(a variable stands for a text, in quotes); write it like '{\"top_k\": 20}'."),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_sent(
    loadtest: Call, tmp_path: Path, body: str, says: str
) -> None:
    with made(quoting_server()) as server:
        code, out, err = loadtest("run", "--url", server.url, *SHORT, "--body", body, "--out", tmp_path / "run")
        assert not server.posted
    assert code == 2
    assert says in err
    assert not (tmp_path / "run").exists()
    clean(tmp_path, out, err)


def test_values_may_be_any_text_and_names_that_speak_of_tokens_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TENANT", " Müller\nand sons \n")
    plain = {"tokenizer": "llama", "prompt_cache_key": "a", "author": "me", "tools": [{"password": {"type": "string"}}]}
    told = Scenario(body=json.dumps({"a": "${A_TENANT}", **plain})).body
    template = json.loads(templates_of((), (), told)["body"])
    assert template == {"a": "${A_TENANT}", **plain}
    assert filled_body(template) == {"a": "Müller\nand sons", **plain}
    redact = credentials.redactor()
    assert redact("a Müller\nand sons b") == "a <A_TENANT> b"
    assert redact(r"M\u00fcller\nand sons") == "<A_TENANT>"
    assert redact("Müller") == "Müller", "a text is one secret, not its words"


def test_a_secret_written_out_is_sent_character_by_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_BODY_TOOLS_0_HEADERS_AUTHORIZATION", "")
    written = {"tools": [{"headers": {"Authorization": "'Bearer x-PLANTED-${' "}}]}
    with pytest.raises(ScenarioError, match=r"body tools.0.headers.Authorization has a \${"):
        Scenario(body=json.dumps(written))
    told = Scenario(body=json.dumps(written).replace("${", "$${")).body
    template = json.loads(templates_of((), (), told)["body"])
    assert template == {"tools": [{"headers": {"Authorization": "${LOADTEST_BODY_TOOLS_0_HEADERS_AUTHORIZATION}"}}]}
    assert filled_body(template) == written
