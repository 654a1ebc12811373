"""What the pool of idle connections knows of the server."""

from __future__ import annotations

import socket

import pytest

from loadtest.wire import Origin, Received
from loadtest.wire.clock import now
from loadtest.wire.connection import Connection, Pool

S = 1_000_000_000
HERE = Origin("http", "h", 1)


@pytest.mark.parametrize(
    ("waited", "answered_after", "uses", "watched", "kept_out"),
    [
        (60 * S, 5_000_000, 1, True, True),  # HAProxy with maxconn 2: waits of 60 and 119 s were valid
        (60 * S, 5_000_000, 2, True, False),  # the server has this connection already
        (0, 5_000_000, 1, True, False),  # it did not wait meanwhile
        (60 * S, 20 * S, 1, True, False),  # something else let the answer begin
        (60 * S, 5_000_000, 1, False, False),  # nobody knows when the idle one was closed
    ],
)
def test_a_request_that_an_idle_connection_kept_out(
    waited: int, answered_after: int, uses: int, watched: bool, kept_out: bool
) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    (idle, gone), (waiting, peer) = [(Connection(ours, HERE), theirs) for ours, theirs in pairs]
    pool = Pool(lambda connection: connection.sock.close(), watched=watched)
    idle.uses = 1
    pool.park(idle)
    idle.idle_since = now() - 60 * S
    received = waiting.received = Received()
    received.t_send, waiting.uses = now() - waited, uses
    gone.close()
    if watched:
        idle.receive()
    received.t_first_byte = now() + answered_after
    pool.release(waiting, reusable=False)
    assert received.kept_out is kept_out
    peer.close()
    pool.close()
