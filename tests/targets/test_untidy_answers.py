"""What untidy HTTP the control plane is read from: what requests can be measured of can be looked at, too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.odd_server import Then, odd_server

Call = Callable[..., tuple[int, str, str]]

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
LISTED = b'{"object":"list","data":[{"id":"m"}]}'
LENGTH = b"Content-Length: %d\r\n" % len(LISTED)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LISTED), LISTED)
UNTIDY = {
    "tidy": OK + LENGTH + b"\r\n" + LISTED,
    "a line end before": b"\r\n" + OK + LENGTH + b"\r\n" + LISTED,
    "HTTP/2 in the first line": b"HTTP/2 200 OK\r\nConnection: close\r\n" + LENGTH + b"\r\n" + LISTED,
    "a blank before the colon": OK + LENGTH.replace(b":", b" :") + b"\r\n" + LISTED,
    "an odd name": OK + b"X(1)\xe9: a\r\n" + LENGTH + b"\r\n" + LISTED,
    "a control character": OK + b"X: a\x01\r\n" + LENGTH + b"\r\n" + LISTED,
    "a length with a sign": OK + LENGTH.replace(b": ", b": +") + b"\r\n" + LISTED,
    "a length beside chunks": OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS,
    "line feeds": (OK + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + LISTED,
    "early hints": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n" + OK + LENGTH + b"\r\n" + LISTED,
    "old, to the end": b"HTTP/1.0 200 OK\r\n\r\n" + LISTED,
    "a coding that is not used": OK + b"Content-Encoding: gzip\r\n" + LENGTH + b"\r\n" + LISTED,
    "a large header": OK + b"X: " + b"a" * 150_000 + b"\r\n" + LENGTH + b"\r\n" + LISTED,
}


@pytest.mark.parametrize("name", UNTIDY)
def test_models_are_read_from_untidy_answers(loadtest: Call, name: str) -> None:
    missing: list[bytes | Then] = [
        b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        Then.FIN,
    ]
    with odd_server({"/v1/models": [UNTIDY[name], Then.FIN]}, otherwise=lambda _: missing) as server:
        code, out, err = loadtest("check", server.url)
    assert code == 0, err
    assert "models     m" in out


def test_what_nobody_can_read_is_said(loadtest: Call) -> None:
    with odd_server(otherwise=lambda _: [b"SSH-2.0-OpenSSH_9.6\r\n", Then.FIN]) as server:
        code, _, err = loadtest("check", server.url)
    assert code == 2
    assert "no answer that can be read" in err
