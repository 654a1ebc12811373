"""Real gateways before a server: what is measured through them is whole, right, and says what they do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import gateways
from support.gateways import free_port

import loadtest as product
from loadtest.cli.demo import simulated_server
from loadtest.records import Record
from loadtest.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]

LOGIN, PROXY_LOGIN, KEY = "nginx-user:PLANTEDngx8", "proxy-user:PLANTEDprx9", "sk-PLANTED-gateway-4711"
SHORT = ["--concurrency", "2", "--requests", "6", "--input-tokens", "32", "--output-tokens", "12", "--warmup", "0"]


def measured(loadtest: Call, out: Path, *options: str | Path, tokens: int = 12) -> product.Run:
    """Run against a server and return the run; all records are good, and no file or output holds a secret."""
    code, *said = loadtest("run", *options, *SHORT, "--out", out)
    assert code in (0, 3), said  # 3: a busy test machine may void what it could not measure
    records = [record for record in RunFolder.open(out).records() if isinstance(record, Record)]
    assert [record.outcome for record in records] == ["ok"] * 6, [record.error for record in records]
    assert {record.output_tokens for record in records} == {tokens}
    assert {len(record.chunks) for record in records} == {tokens}
    assert len({record.prompt_tokens for record in records}) <= 3
    for text in (*said, *(path.read_text() for path in out.iterdir() if path.is_file())):
        assert "PLANTED" not in text
    return product.read_run(out)


def beside(name: str, run: product.Run, direct: product.Run) -> None:
    """Print TTFT by a gateway beside the direct one; how much later it is depends on the machine."""
    through, alone = (float(np.median(one.requests["ttft_s"])) * 1e3 for one in (run, direct))
    print(f"{name}: TTFT p50 {through:.1f} ms, direct {alone:.1f} ms")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A simulated Ollama at its own speed; gives host:port."""
    with simulated_server("--profile", "quick", "--slots", "4", "--warm") as url:
        yield url.partition("://")[2]


@pytest.fixture(scope="module")
def front(server: str, certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Nginx before the server: TLS, basic auth, a path prefix, a unix socket; gives the ports and the folder."""
    folder, plain, tls = tmp_path_factory.mktemp("nginx"), free_port(), free_port()
    user, _, password = LOGIN.partition(":")
    (folder / "users").write_text(f"{user}:{{PLAIN}}{password}\n")
    to = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;'
    servers = f"""
      upstream up {{ server {server}; keepalive 8; }}
      server {{ listen 127.0.0.1:{plain}; listen unix:{folder}/x.sock;
        location /llm/ {{ proxy_pass http://up/; {to} }}
        location /closed/ {{ auth_basic models; auth_basic_user_file {folder}/users; proxy_pass http://up/; {to} }} }}
      server {{ listen 127.0.0.1:{tls} ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};
        location / {{ proxy_pass http://up; {to} }} }}"""
    with gateways.nginx(folder, servers, plain):
        yield {"plain": f"127.0.0.1:{plain}", "tls": f"localhost:{tls}", "port": tls, "folder": folder}


@pytest.fixture(scope="module")
def direct(server: str, tmp_path_factory: pytest.TempPathFactory) -> product.Run:
    """A run without any gateway."""
    scenario = product.Scenario(
        url=server, concurrency=(2,), requests=6, input_tokens=(32,), output_tokens=(12,), warmup=0
    )
    return product.run(scenario, tmp_path_factory.mktemp("direct") / "run")


def test_nginx_with_a_prefix_basic_auth_tls_and_a_unix_socket(
    loadtest: Call,
    front: dict[str, Any],
    direct: product.Run,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways: dict[str, list[str | Path]] = {
        "prefix": ["--url", f"http://{front['plain']}/llm"],
        "basic auth": ["--url", f"http://{LOGIN}@{front['plain']}/closed/v1/chat/completions"],
        "tls": ["--url", f"https://{front['tls']}", "--ca-file", certificate],
        "insecure": ["--url", f"https://{front['tls']}", "--insecure", "--monitor", "ollama"],
        "unix socket": ["--url", f"unix:{front['folder']}/x.sock:/llm", "--monitor", "ollama"],
    }
    for name, options in ways.items():
        run = measured(loadtest, tmp_path / name, *options)
        beside(f"nginx, {name}", run, direct)
        stamped = {record.stamped > 0 for record in RunFolder.open(tmp_path / name).records()}
        assert stamped == {name != "unix socket"}
    for name in ("insecure", "unix socket"):
        assert "models" in (tmp_path / name / "samples-ollama.jsonl").read_text()
    code, _, err = loadtest("check", f"https://{front['tls']}")
    assert (code, "--insecure" in err) == (2, True)
    monkeypatch.delenv("LOADTEST_BASIC_AUTH")
    code, _, err = loadtest("check", f"http://{front['plain']}/closed")
    assert (code, "USER:PASSWORD@" in err) == (2, True)
    code, _, err = loadtest("report", tmp_path / "insecure", tmp_path / "unix socket")
    assert code in (0, 3), err
    assert "with --insecure: whose certificate" in (tmp_path / "insecure" / "report.md").read_text()
    assert "| user |" in (tmp_path / "unix socket" / "report.md").read_text()


def test_direct_and_through_stand_side_by_side_in_one_run(
    loadtest: Call, server: str, front: dict[str, Any], certificate: Path, tmp_path: Path
) -> None:
    urls = [f"http://{server}", f"https://{front['tls']}"]
    given = [word for url in urls for word in ("--url", url)]
    measured(loadtest, tmp_path / "run", *given, "--ca-file", certificate)
    assert sorted(record.target or 0 for record in RunFolder.open(tmp_path / "run").records()) == [0] * 3 + [1] * 3
    code, *said = loadtest("report", tmp_path / "run")
    assert code in (0, 3), said
    report = (tmp_path / "run" / "report.md").read_text()
    rows = [line for line in report.splitlines() if "| 3 | 0 |" in line]
    assert [url in row for url, row in zip(urls, rows, strict=True)] == [True, True]


def test_tinyproxy_for_http_and_for_tunnels(
    loadtest: Call,
    server: str,
    front: dict[str, Any],
    direct: product.Run,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, tls = f"http://{front['plain']}/llm", f"https://{front['tls']}"
    with gateways.tinyproxy(tmp_path, PROXY_LOGIN, front["port"]) as proxy:
        given = ["--proxy", f"http://{PROXY_LOGIN}@{proxy}"]
        by_http = measured(loadtest, tmp_path / "http", "--url", plain, *given, "--monitor", "ollama")
        by_tunnel = measured(
            loadtest, tmp_path / "tls", "--url", tls, "--ca-file", certificate, *given, "--workers", "2"
        )
        beside("tinyproxy, http", by_http, direct)
        urls = ["--url", f"http://{server}", "--url", f"http://{server}".replace("127.0.0.1", "localhost")]
        measured(loadtest, tmp_path / "both", *urls, *given, "--no-proxy", "127.0.0.1")
        beside("tinyproxy, CONNECT", by_tunnel, direct)
        asked = [
            loadtest("check", "https://localhost:1", *given),
            loadtest("check", "http://localhost:1", *given),
        ]
        monkeypatch.delenv("LOADTEST_BASIC_AUTH")
        asked.append(loadtest("check", plain, "--proxy", proxy))
        asked.append(loadtest("check", tls, "--proxy", proxy, "--ca-file", certificate))
    words = ("403 Access violation", "500 Unable to connect", "status 407", "refuses CONNECT with status 407")
    for (code, _, err), expected in zip(asked, words, strict=True):
        assert code == 2
        assert expected in err
        assert "PLANTED" not in err
    targets = RunFolder.open(tmp_path / "both").read_run()["targets"]
    assert [one["comparability"]["proxy"] for one in targets] == [None, f"http://{proxy}"]
    for folder in ("http", "tls"):
        facts = RunFolder.open(tmp_path / folder).read_run()
        assert facts["comparability"]["proxy"] == f"http://{proxy}"
        assert all(record.stamped for record in RunFolder.open(tmp_path / folder).records())
    code, out, _ = loadtest("compare", tmp_path / "http", tmp_path / "tls")
    assert "Differs: proxy" not in out
    code, out, _ = loadtest("compare", tmp_path / "http", direct.path)
    assert (code, f"Differs: proxy (http://{proxy} → none)" in " ".join(out.split())) == (2, True)


def test_nginx_as_it_comes_buffers_and_the_verdict_names_it(loadtest: Call, tmp_path: Path) -> None:
    port = free_port()
    with gateways.old_ollama(12, 0.02) as upstream:
        servers = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{upstream}; }} }}"
        with gateways.nginx(tmp_path, servers, port):
            run = measured(loadtest, tmp_path / "run", "--url", f"http://127.0.0.1:{port}")
    said = " ".join(run.reasons)
    assert "all tokens of an answer came together although the server says that it wrote them over 240 ms" in said
    assert "holds answers back until they are whole" in said
    assert "proxy_buffering off" in said
    assert float(run.requests["ttft_s"].min()) > 0.2
    assert float(run.requests["queue_wait_s"].median()) < 0.1  # the time that the proxy held the answer is no wait


def test_an_ollama_behind_a_bearer_key(loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_GATEWAY_KEY", KEY)
    port = free_port()
    with gateways.old_ollama(12, 0.005, key=KEY) as upstream:
        servers = (
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{upstream}; proxy_buffering off; }} }}"
        )
        with gateways.nginx(tmp_path, servers, port):
            url = f"http://127.0.0.1:{port}"
            code, _, err = loadtest("check", url)
            assert (code, "--key-env" in err) == (2, True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MY_GATEWAY_KEY", "wrong-one")
                code, _, err = loadtest("check", url, "--key-env", "MY_GATEWAY_KEY")
                assert (
                    code,
                    "the key in MY_GATEWAY_KEY is not accepted: set MY_GATEWAY_KEY to one that is" in err,
                ) == (2, True)
            measured(loadtest, tmp_path / "run", "--url", url, "--key-env", "MY_GATEWAY_KEY", "--monitor", "ollama")
    assert RunFolder.open(tmp_path / "run").read_run()["scenario"]["key_env"] == "MY_GATEWAY_KEY"
    assert "models" in (tmp_path / "run" / "samples-ollama.jsonl").read_text()


def test_litellm_with_a_key_before_llama_cpp(
    loadtest: Call,
    llamacpp_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    program = gateways.litellm_program(request.config.cache.mkdir("litellm"))
    with gateways.litellm(program, tmp_path, llamacpp_url, KEY) as url:
        code, _, err = loadtest("check", url)
        assert code == 2
        assert "A key may be missing: set OPENAI_API_KEY" in err
        monkeypatch.setenv("LITELLM_KEY", KEY)
        code, out, err = loadtest("check", url, "--key-env", "LITELLM_KEY")
        assert (code, err) == (0, "")
        assert "context    unknown, because the server does not say" in out
        through = measured(loadtest, tmp_path / "through", "--url", url, "--key-env", "LITELLM_KEY")
        straight = measured(loadtest, tmp_path / "straight", "--url", llamacpp_url)
    beside("LiteLLM", through, straight)
