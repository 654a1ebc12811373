"""The page that Prometheus scrapes: a port taken before anything is sent, and what answers there."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any

from loadtest.errors import ScenarioError

PATH = "/metrics"
SCRAPER_TIMEOUT_S = 10.0  # with a client that connects and says nothing


def open_listener(address: str, port: int) -> socket.socket:
    """Return a socket that listens, on any free port where `port` is 0; raise ScenarioError."""
    try:
        family, *_ = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # create_server tells its arguments, too
        raise ScenarioError(
            f"cannot serve metrics at {address} port {port} ({reason}); choose another --metrics-port (0 takes a "
            "free one) or --metrics-address."
        ) from None


def url_of(listener: socket.socket) -> str:
    """Return the page's URL."""
    host, port, *_ = listener.getsockname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


class _Handler(BaseHTTPRequestHandler):
    timeout = SCRAPER_TIMEOUT_S
    collect: Callable[[], Iterable[object]]
    choose_encoder: Callable[[str], tuple[Callable[[object], bytes], str]]

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        encode, kind = self.choose_encoder(self.headers.get("Accept", ""))
        page = encode(self)  # which only calls its `collect`
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        pass


class _MetricsServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # else the client has left
            super().handle_error(request, client_address)


class Endpoint:
    """Answers GET /metrics from a daemon thread: nothing runs while nobody asks, and it ends with the process."""

    def __init__(self, listener: socket.socket, collect: Callable[[], Iterable[object]]) -> None:
        """Take over `listener`; `collect` gives the metric families of each answer, and may be called by several threads."""
        from prometheus_client.exposition import choose_encoder  # now: it takes a while, and requests may be under way

        own = {"collect": staticmethod(collect), "choose_encoder": staticmethod(choose_encoder)}
        handler = type("Handler", (_Handler,), own)
        self._server = _MetricsServer(listener.getsockname(), handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
