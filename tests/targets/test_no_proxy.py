"""Hosts that are asked directly beside a proxy: --no-proxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.hops import proxying
from support.made_servers import OPENAI_STREAM, made

from loadtest.reach import proxy_to
from loadtest.run_folder import RunFolder
from loadtest.scenario import ConnectionKeys

Call = Callable[..., tuple[int, str, str]]
PROXY = "http://proxy:3128"
SHORT = ("--concurrency", "2", "--requests", "4", "--output-tokens", "3", "--warmup", "0")


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("gpu-box", "http://gpu-box:8000", True),
        ("gpu-box:8000", "http://gpu-box:8000/v1", True),
        ("gpu-box:8000", "http://gpu-box:8001", False),
        ("GPU-Box:80", "http://gpu-box", True),
        ("gpu-box", "http://other-gpu-box", False),
        ("example.org", "https://api.example.org", True),
        (".example.org", "https://example.org", True),
        (".example.org:443", "https://api.example.org", True),
        ("example.org", "https://badexample.org", False),
        ("localhost, 127.0.0.1", "http://127.0.0.1:8000", True),
        ("127.0.0.1", "http://127.0.0.2:8000", False),
        ("[::1]", "http://[::1]:8000", True),
        ("[::1]:8001", "http://[::1]:8000", False),
        ("gpu-box", "unix:/run/ollama.sock", True),
    ],
)
def test_which_servers_are_asked_directly(no_proxy: str, url: str, direct: bool) -> None:
    assert (proxy_to(ConnectionKeys(proxy=PROXY, no_proxy=no_proxy), url) is None) is direct


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--no-proxy", "gpu-box"], "add --proxy"),
        (["--proxy", PROXY, "--no-proxy", "http://gpu-box"], "'http://gpu-box' is not a host"),
        (["--proxy", PROXY, "--no-proxy", "a,,b"], "'' is not a host"),
        (["--proxy", PROXY, "--no-proxy", "*"], "'*' is not a host"),
    ],
)
def test_what_names_no_host_is_refused(loadtest: Call, given: list[str], words: str) -> None:
    code, _, err = loadtest("check", "http://127.0.0.1:9", *given)
    assert (code, words in err) == (2, True), err


def test_check_says_which_way_it_asked(loadtest: Call) -> None:
    with made({"/v1/models": {"data": [{"id": "m"}]}}) as server, proxying() as proxy:
        for host, way in (
            ("127.0.0.1", "proxy      not for this host (--no-proxy)"),
            ("127.0.0.l", f"proxy      {proxy.url}"),
        ):
            code, out, err = loadtest("check", server.url, "--proxy", proxy.url, "--no-proxy", host)
            assert (code, way in out) == (0, True), out + err


def test_one_run_holds_the_direct_way_and_the_proxys(loadtest: Call, tmp_path: Path) -> None:
    routes = {"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": OPENAI_STREAM}
    with made(routes) as server, proxying() as proxy:
        named = server.url.replace("127.0.0.1", "localhost")
        way = ("--proxy", proxy.url, "--no-proxy", "127.0.0.1")
        code, _, err = loadtest("run", "--url", server.url, "--url", named, *way, *SHORT, "--out", tmp_path / "run")
        assert code in (0, 3), err
        asked = [head.split()[1].decode() for head in proxy.seen]
        assert asked.count(f"{named}/v1/chat/completions") >= 2
        assert all(url.startswith(named) for url in asked)
    facts = RunFolder.open(tmp_path / "run").read_run()
    assert [one["comparability"]["proxy"] for one in facts["targets"]] == [None, proxy.url]
    assert loadtest("report", tmp_path / "run")[0] in (0, 3)
    assert f"by the proxy {proxy.url}, but {server.url} directly" in (
        report := (tmp_path / "run" / "report.md").read_text()
    )
    assert "If these URLs lead to one server, streams may run in step" in report
    assert sorted(one.target or 0 for one in RunFolder.open(tmp_path / "run").records()) == [0, 0, 1, 1]
