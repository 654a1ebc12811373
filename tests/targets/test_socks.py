"""A SOCKS proxy before a model server: check, run with monitors, and what goes wrong on the way, as users see it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from support.gateways import free_port, microsocks
from support.made_servers import OPENAI_STREAM, made

from loadtest.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]

LOGIN = "me:PLANTEDsocks7"
ROUTES = {"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": OPENAI_STREAM}
SHORT = ["--concurrency", "1", "--requests", "3", "--output-tokens", "2", "--warmup", "0"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_behind_a_socks_proxy(
    loadtest: Call, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    trusted = ["--ca-file", certificate] if scheme == "https" else []
    with made(ROUTES, tls=context if trusted else None) as server, microsocks(tmp_path, LOGIN) as place:
        way = ["--proxy", f"socks5h://{LOGIN}@{place}", *trusted]
        said = [
            loadtest("check", server.url, *way),
            loadtest("run", "--url", server.url, *way, *SHORT, "--monitor", "vllm", "--out", tmp_path / "run"),
            loadtest("check", f"{scheme}://127.0.0.1:{free_port()}", *way),
            loadtest("check", server.url, *way[:2]),
        ]
        monkeypatch.delenv("LOADTEST_BASIC_AUTH")
        said.append(loadtest("check", server.url, "--proxy", f"socks5h://{place}", *trusted))
    codes = [code for code, *_ in said]
    assert codes in ([0, ran, 2, 2 if trusted else 0, 2] for ran in (0, 3)), said
    assert "models     m" in said[0][1]
    assert "opens no way to 127.0.0.1: connection refused." in said[2][2]
    words = "not trusted here: self-signed certificate; give its authority with --ca-file"
    assert (words in said[3][2]) == bool(trusted), said[3]
    assert f"the proxy socks5h://{place} wants user and password: write USER:PASSWORD@" in said[4][2]
    assert "PLANTED" not in str(said)
    assert RunFolder.open(tmp_path / "run").read_run()["scenario"]["proxy"] == f"socks5h://{place}"
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"PLANTED" in path.read_bytes()]


def test_a_socks_proxy_that_is_given_as_another_is_said(loadtest: Call, tmp_path: Path) -> None:
    with made(ROUTES) as server, microsocks(tmp_path) as place:
        code, _, err = loadtest("check", server.url, "--proxy", f"http://{place}")
    assert (code, f"if SOCKS, --proxy socks5h://{place}." in err) == (2, True), err
