"""What the pool of idle connections knows of the server."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any

import pytest

from loadtest.wire import Origin, Received
from loadtest.wire.clock import now
from loadtest.wire.connection import Connection, Pool

S = 1_000_000_000
HERE = Origin("http", "h", 1)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    return ours, theirs


def read_to_its_end(sock: socket.socket) -> None:
    """Wait until the server's FIN is there, and leave it to be read."""
    select.select([sock], [], [])


@pytest.mark.parametrize(
    ("waited", "answered_after", "uses", "watched", "pair", "freed", "kept_out"),
    [
        (60 * S, 5_000_000, 1, True, tcp_pair, False, True),  # HAProxy with maxconn 2: waits of 60 and 119 s were valid
        (60 * S, 5_000_000, 2, True, tcp_pair, False, False),  # the server has this connection already
        (0, 5_000_000, 1, True, tcp_pair, False, False),  # it did not wait meanwhile
        (60 * S, 20 * S, 1, True, tcp_pair, False, False),  # something else let the answer begin
        (60 * S, -1 * S, 1, True, tcp_pair, False, False),  # it had begun before
        (60 * S, 5_000_000, 1, False, tcp_pair, False, True),  # nobody looked, as under Locust: the kernel knows
        (60 * S, 5_000_000, 1, False, socket.socketpair, False, False),  # of a unix socket it does not
        (
            60 * S,
            5_000_000,
            1,
            True,
            tcp_pair,
            True,
            False,
        ),  # uvicorn closes idle ones all the time: it waited for a slot
    ],
)
def test_a_request_that_an_idle_connection_kept_out(
    waited: int, answered_after: int, uses: int, watched: bool, pair: Callable[[], Any], freed: bool, kept_out: bool
) -> None:
    """The answer is judged at its end, when the server has closed another idle connection, too."""
    (ours, gone), (other, later), (mine, peer), (busy, there) = [pair() for _ in range(4)]
    idle, second, waiting = [Connection(each, HERE) for each in (ours, other, mine)]
    pool = Pool(lambda connection: connection.sock.close(), watched=watched)
    for each in (idle, second):
        each.uses = 1
        pool.park(each)
    idle.idle_since = now() - 60 * S
    received = waiting.received = Received()
    received.t_send, waiting.uses = now() - waited, uses
    if freed:
        pool.release(Connection(busy, HERE), reusable=False)  # an answer ends
    gone.close()
    read_to_its_end(idle.sock)
    if watched:
        idle.receive()
    received.t_headers = now() + answered_after
    later.close()
    read_to_its_end(second.sock)
    if watched:
        second.receive()
    pool.release(waiting, reusable=False)
    assert received.connection_wait is kept_out
    for each in (peer, busy, there):
        each.close()
    pool.close()
