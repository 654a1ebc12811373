"""The odd server itself: what its scripts say is what happens, whatever else the process does."""

from __future__ import annotations

import os

import httpx
import pytest
from support.odd_server import OddServer, Then, odd_server

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_server_that_takes_no_more_connections_refuses_them_though_a_child_still_holds_its_socket() -> None:
    def leaving(_: object) -> list[bytes | Then]:
        held.append(os.dup(server._server.sockets[0].fileno()))  # as a child does between its fork and its exec
        return [Then.UNLISTEN, GOOD, Then.FIN]

    held: list[int] = []
    server: OddServer
    with odd_server({"/leave": leaving}) as server:
        assert httpx.get(f"{server.url}/leave", trust_env=False).text == "ok"
        with pytest.raises(httpx.ConnectError, match="Connection refused"):
            httpx.get(f"{server.url}/leave", trust_env=False)
        os.close(held[0])
