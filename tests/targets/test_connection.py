"""How a server is reached, by every command: keys, certificates, proxies, unix sockets, an API's own root."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.hops import on_socket, proxying
from support.made_servers import OPENAI_STREAM, Made, made, refuse
from support.wire_server import Peer, serving

from loadtest import credentials, reach
from loadtest.errors import ScenarioError
from loadtest.monitor.scraped_page import ScrapedPage
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder
from loadtest.scenario import ConnectionKeys, Scenario
from loadtest.targets.server.not_reached import not_reached

Call = Callable[..., tuple[int, str, str]]

KEY, QUERY_KEY, LOGIN = "sk-PLANTED-connection-1", "PLANTEDquery+key%2F2", "me:PLANTEDproxy3"
SHORT = ["--concurrency", "1", "--requests", "3", "--output-tokens", "2", "--warmup", "0"]
CHAT = (
    "from locust import task\nfrom loadtest.users import ModelUser\n\n\nclass Chat(ModelUser):\n"
    "    @task\n    def chat(self):\n        self.client.chat(output_tokens=2)\n"
)
DEPLOYMENT = "/openai/deployments/gpt-x/chat/completions?api-version=2024-10-21"


def ok(folder: Path) -> dict[str, Any]:
    """Return run.json; all records are good, and no file holds a secret."""
    assert {record.outcome for record in RunFolder.open(folder).records()} == {"ok"}
    for path in folder.rglob("*"):
        assert path.is_dir() or b"PLANTED" not in path.read_bytes(), path
    return RunFolder.open(folder).read_run()


def headers_of(server: Made, name: str) -> set[str | None]:
    return {headers.get(name) for _, headers in server.seen}


@pytest.mark.parametrize("url", ["{}/openai/deployments/gpt-x?api-version=2024-10-21", f"{{}}{DEPLOYMENT}"])
def test_azures_paths_its_header_and_its_query(
    loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    with made({DEPLOYMENT: OPENAI_STREAM}) as server:
        given = url.format(server.url)
        code, out, err = loadtest("check", given)
        assert (code, "model      gpt-x" in out) == (0, True), err
        code, out, err = loadtest("run", "--url", given, *SHORT, "--out", tmp_path / "run")
        assert code in (0, 3), err
        assert headers_of(server, "api-key") == {KEY}
        assert headers_of(server, "authorization") == {f"Bearer {KEY}"}
        assert all(path.endswith("?api-version=2024-10-21") for path, _ in server.seen)
        assert not [path for path, _ in server.seen if "/api/" in path]
    assert "PLANTED" not in out + err
    facts = ok(tmp_path / "run")
    assert facts["target"]["url"] == f"{server.url}/openai/deployments/gpt-x?api-version=2024-10-21"
    assert facts["target"]["model"] == "gpt-x"


def test_try_names_the_variable_and_the_header_that_a_server_takes_its_key_from(loadtest: Call) -> None:
    lacking = refuse(401, {"message": "Missing required header: api-key"})
    with made({}, default=lacking) as server:
        _, azure, _ = loadtest("check", "--try", f"{server.url}/openai/deployments/gpt-x?api-version=2024-10-21")
        _, keyed, _ = loadtest("check", "--try", server.url, "--api", "openai", "--model", "m")
    assert "set AZURE_OPENAI_API_KEY or OPENAI_API_KEY, or give" in azure  # was OPENAI_API_KEY or OLLAMA_API_KEY
    assert "set OPENAI_API_KEY or OLLAMA_API_KEY, or give" in keyed
    assert "--header 'api-key: ${VARIABLE}'" in keyed


def test_azure_itself_takes_a_key_or_a_token() -> None:
    url = "https://x.openai.azure.com/openai/deployments/D"
    assert credentials.headers(url, "openai", {"AZURE_OPENAI_API_KEY": "k"}) == {"api-key": "k"}
    assert credentials.headers(url, "openai", {"TOKEN": "eyJx"}, key_env="TOKEN") == {"Authorization": "Bearer eyJx"}
    assert credentials.headers("https://x", "openai", {"AZURE_OPENAI_API_KEY": "k"}) == {}


def test_an_api_with_a_root_of_its_own_and_a_key_in_its_query(loadtest: Call, tmp_path: Path) -> None:
    asked = f"/paas/v4/{{}}?key={QUERY_KEY}&tier=2"
    routes = {asked.format("chat/completions"): OPENAI_STREAM, asked.format("models"): {"data": [{"id": "glm"}]}}
    with made(routes) as server:
        url = server.url + asked.format("")
        said = [
            loadtest("check", url),
            loadtest("run", "--url", url, *SHORT, "--out", tmp_path / "run"),
            loadtest("check", url.replace("v4", "v5")),
        ]
    assert [code for code, *_ in said[:1]] == [0], said
    assert "does not list its models" in said[2][1]
    assert "PLANTED" not in str(said)
    url = ok(tmp_path / "run")["target"]["url"]
    assert url.startswith(f"{server.url}/paas/v4?key=$LOADTEST_URL_KEY_")
    assert url.endswith("&tier=2")


def test_a_key_from_a_variable_that_the_user_names(
    loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-one")
    monkeypatch.setenv("GATEWAY_KEY", KEY + "\r\n")

    def quoting(headers: dict[str, str]) -> Any:
        return refuse(500, {"error": f"bad {headers.get('authorization')}"})

    routes = {"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": OPENAI_STREAM}
    with made(routes) as server, made({"/v1/models": quoting}) as angry:
        told = ["--url", server.url, "--key-env", "GATEWAY_KEY", "--monitor", "vllm"]
        said = [
            loadtest("run", *told, *SHORT, "--out", tmp_path / "run"),
            loadtest("memory", "--url", server.url, "--key-env", "GATEWAY_KEY"),
            loadtest("check", angry.url, "--key-env", "GATEWAY_KEY"),
            loadtest("check", server.url, "--key-env", "NOT_SET"),
            loadtest("check", server.url, "--key-env", KEY),
            loadtest("check", server.url, "--key-env", "PLANTEDasIs"),
        ]
        assert headers_of(server, "authorization") == {f"Bearer {KEY}"}
    assert "PLANTED" not in str(said)
    assert "NOT_SET is not set" in said[3][2]
    assert "not a key itself" in said[4][2]
    assert ok(tmp_path / "run")["scenario"]["key_env"] == "GATEWAY_KEY"


def test_a_client_certificate(loadtest: Call, tmp_path: Path, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    folder = certificate.parent
    with made({"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": OPENAI_STREAM}, tls=context) as server:
        told = ["--url", server.url, "--ca-file", certificate]
        both = ["--cert", folder / "cert.pem", "--cert-key", folder / "key.pem"]
        code, _, err = loadtest("run", *told, *both, *SHORT, "--monitor", "vllm", "--out", tmp_path / "run")
        assert code in (0, 3), err
        assert loadtest("check", *told, "--cert", certificate)[0] == 0
        code, _, err = loadtest("check", *told)
        assert code == 2
        assert "asks for a client certificate that it trusts: give one with --cert" in err
        assert "is not trusted here" not in err
    ok(tmp_path / "run")


def test_wrong_files_and_contradictions_are_one_sentence(loadtest: Call, certificate: Path) -> None:
    folder = certificate.parent
    command = "openssl genrsa -aes128 -passout pass:x -out locked.pem 2048"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    url = "https://127.0.0.1:9"
    for options, words in (
        (["--cert", folder / "none.pem"], "no such file"),
        (["--cert", folder / "cert.pem"], "--cert-key"),
        (["--cert", folder / "cert.pem", "--cert-key", folder / "locked.pem"], "passphrase"),
        (["--cert-key", folder / "key.pem"], "--cert-key does nothing alone; add --cert."),
        (["--insecure", "--ca-file", certificate], "give one"),
        (["--ca-file", folder / "none.pem"], "cannot read certificates"),
        (["--proxy", "socks4a://h:1"], "not one that speaks socks4a"),
        (["--proxy", "SOCKS5h://us:pw@127.0.0.1:9"], "the proxy socks5h://127.0.0.1:9"),
        (["--proxy", "https://us:pw@h:3129/x"], "host and port alone"),
    ):
        for command_name in ("check", "run"):
            code, _, err = loadtest(command_name, "--url", url, *options)
            assert (code, words in err.lower() or words in err) == (2, True), err


def test_https_asked_of_a_port_that_speaks_http(loadtest: Call) -> None:
    with made({}) as server:
        url = server.url.replace("http:", "https:")
        code, _, err = loadtest("check", url)
    assert (code, err) == (2, f"loadtest: {url} speaks http, not https: give {server.url}.\n")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_speaks_https_itself(
    loadtest: Call,
    tmp_path: Path,
    certificate: Path,
    scheme: str,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    routes = {"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": OPENAI_STREAM}

    def speaks_http(peer: Peer) -> None:
        peer.sock.recv(100)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with (
        made(routes, tls=context if scheme == "https" else None) as server,
        proxying(tls=context) as proxy,
        serving(speaks_http) as plain,
    ):
        given = proxy.url.replace("://", f"://{LOGIN}@")
        known = ["--ca-file", certificate]
        code, out, err = loadtest("run", server.url, "--proxy", given, *known, *SHORT, "--out", tmp_path / "run")
        assert code in (0, 3), err
        assert any(b"Proxy-Authorization: Basic" in head for head in proxy.seen)
        unknown = loadtest("check", server.url, "--proxy", given)
        wrong = loadtest("check", server.url, "--proxy", plain.url.replace("http", "https"), *known)
        quiet = loadtest("check", server.url, "--proxy", proxy.url.replace("https", "http"), *known)
        page = ScrapedPage(f"{server.url}/v1/models", keys=ConnectionKeys(proxy=proxy.url, ca_file=str(certificate)))
        assert json.loads(page.read()) == routes["/v1/models"]
        page.close()
    who = f"the proxy {proxy.url}" + (f" or {server.url}" if scheme == "https" else "")
    assert f"{who} has a certificate that is not trusted here" in unknown[2]
    assert f"{plain.url.replace('http', 'https')}" in wrong[2]
    assert f"speaks http, not https: give --proxy {plain.url}" in wrong[2]
    assert scheme == "https" or f"If the proxy speaks https, give --proxy {proxy.url};" in quiet[2], quiet[2]
    assert [unknown[0], wrong[0], quiet[0]] == [2, 2, 2]
    assert "PLANTED" not in out + err + str(unknown)
    assert ok(tmp_path / "run")["comparability"]["proxy"] == proxy.url


def test_proxy_variables_are_not_used_and_check_says_so(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with made({"/v1/models": {"data": [{"id": "m"}]}}) as server, proxying() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("all_proxy", proxy.url)
        code, out, _ = loadtest("check", server.url)
        assert (code, "HTTP_PROXY and ALL_PROXY in the environment" in " ".join(out.split())) == (0, True)
        assert proxy.seen == []
        code, out, _ = loadtest("check", server.url, "--proxy", proxy.url)
        assert (code, "in the environment" in out) == (0, False)
        assert proxy.seen


def locust(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "chat.py").write_text(CHAT)
    command = [sys.executable, "-m", "locust", "--headless", "-f", "chat.py", "-u", "2", "-r", "2", "-t", "2s"]
    return subprocess.run(
        [*command, *options, "--out", "run"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )


@pytest.mark.usefixtures("locust_port")
def test_locust_by_proxy_and_by_unix_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEY", KEY)
    routes = {"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": OPENAI_STREAM}
    with made(routes) as server, proxying() as proxy:
        (tmp_path / "p").mkdir()
        given = proxy.url.replace("://", f"://{LOGIN}@")
        done = locust(
            tmp_path / "p", "--host", server.url, "--proxy", given, "--key-env", "GATEWAY_KEY", "--processes", "2"
        )
        assert headers_of(server, "authorization") == {f"Bearer {KEY}"}, done.stderr
        assert any(b"Proxy-Authorization: Basic" in head for head in proxy.seen)
        assert len(proxy.seen) >= 4
        assert "PLANTED" not in done.stdout + done.stderr
        assert ok_so_far(tmp_path / "p" / "run")["comparability"]["proxy"] == proxy.url
        (tmp_path / "u").mkdir()
        path = tmp_path / "u" / "x.sock"
        with on_socket(path, server.url):
            done = locust(tmp_path / "u", "--host", f"unix:{path}")
        facts = ok_so_far(tmp_path / "u" / "run")
        assert facts["target"]["url"] == f"unix:{path}", done.stderr


def ok_so_far(folder: Path) -> dict[str, Any]:
    """Return run.json of a Locust test whose requests were answered, but for those in flight that Locust stopped at its end."""
    outcomes = {record.outcome for record in RunFolder.open(folder).records()}
    assert Outcome.OK in outcomes
    assert outcomes <= {Outcome.OK, Outcome.CANCELLED}
    for path in folder.rglob("*"):
        assert path.is_dir() or b"PLANTED" not in path.read_bytes(), path
    return RunFolder.open(folder).read_run()


def test_the_keys_stand_in_the_table_of_the_request(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('ca_file = "ca.pem"\n[request]\nkey_env = "MY_KEY"\nproxy = "http://p:1"\ncert = "c.pem"\n')
    scenario = Scenario.load(file)
    assert (scenario.key_env, scenario.proxy, scenario.cert, scenario.insecure) == (
        "MY_KEY",
        "http://p:1",
        "c.pem",
        False,
    )
    with pytest.raises(ScenarioError, match="insecure must be true or false"):
        Scenario.from_dict({"insecure": "yes"})
    assert json.loads(json.dumps(scenario.to_dict()))["proxy"] == "http://p:1"


@pytest.mark.parametrize(
    ("keys", "url", "said"),
    [
        (
            {"insecure": True},
            "https://h:1",
            "--insecure: the certificate of https://h:1 is not checked, so anybody could answer",
        ),
        ({"insecure": True}, "http://h:1", "--insecure changes nothing: http://h:1 is not reached over https."),
        (
            {"ca_file": "a", "cert": "b"},
            "unix:/h",
            "--ca-file and --cert change nothing: unix:/h is not reached over https.",
        ),
        ({"insecure": True, "proxy": "https://p"}, "http://h:1", None),
        ({"ca_file": "a"}, "https://h:1", None),
        ({}, "http://h:1", None),
    ],
)
def test_options_of_https_do_nothing_in_silence_nowhere(keys: dict[str, Any], url: str, said: str | None) -> None:
    assert (reach.note_on_trust(ConnectionKeys(**keys), url) or "None").startswith(str(said))


def test_servers_that_other_tools_are_told_of_are_named_where_ours_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://secret:1/v1")
    monkeypatch.setenv("TRACE_ENDPOINT", "off")
    said = not_reached("http://127.0.0.1:11434", "connection refused", None)
    assert said.endswith("or give the server's URL (OPENAI_API_BASE in the environment: not read).")
    assert "OPENAI" not in not_reached("http://127.0.0.1:8000", "connection refused", None)
