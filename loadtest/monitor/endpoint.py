"""The page that Prometheus scrapes: its port, which is opened before anything is sent, and the server behind it."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from loadtest.errors import ScenarioError

PATH = "/metrics"
SCRAPER_TIMEOUT_S = 10.0  # after which a client that connects and sends nothing is dropped


def open_listener(address: str, port: int) -> socket.socket:
    """Return a listening socket, at any free port where `port` is 0; raise ScenarioError where the port cannot be had."""
    try:
        family, *_ = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # create_server adds its arguments
        raise ScenarioError(
            f"cannot serve metrics at {address} port {port} ({reason}); choose another --metrics-port (0 takes a "
            "free one) or --metrics-address."
        ) from None


def url_of(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


class _MetricsServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # an OSError means that the client has left
            super().handle_error(request, client_address)


def serve_metrics(listener: socket.socket, collect: Callable[[], Iterable[object]]) -> socketserver.TCPServer:
    """Answer every GET at `listener` from a daemon thread, which sleeps until it is asked and ends with the process.

    `collect` returns the metric families of an answer, and several threads may call it.
    """
    # imported now, for it takes a while, and later requests may be in flight
    from prometheus_client import MetricsHandler

    registry: Any = SimpleNamespace(collect=collect, restricted_registry=lambda _: registry)
    handler: Any = MetricsHandler.factory(registry)
    handler.timeout = SCRAPER_TIMEOUT_S
    server = _MetricsServer(listener.getsockname(), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
