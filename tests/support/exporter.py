"""A server of one page for monitors to read, and how a source is opened in a test."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from loadtest.monitor.sampler import SampledSource


class Exporter:
    """A server of one page, which can be told to misbehave."""

    def __init__(self) -> None:
        self.status, self.body = 200, b""
        self.headers: dict[str, str] = {}  # beside the length
        self.requests = self.connections = 0
        self.peers: list[socket.socket] = []  # of every connection
        self.authorization: str | None = None  # of the latest request
        self.hang = threading.Event()  # set: answers come; clear: they do not
        self.hang.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                outer.peers.append(self.request)
                super().setup()

            def do_GET(self) -> None:
                outer.requests += 1
                outer.authorization = self.headers.get("Authorization")
                outer.hang.wait(30)
                with contextlib.suppress(OSError):
                    self.send_response(outer.status)
                    for name, value in outer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(outer.body)))
                    self.end_headers()
                    self.wfile.write(outer.body)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # clients that leave are meant to

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def opened(source: SampledSource) -> Iterator[dict[str, Any]]:
    """Open a source; gives its facts."""
    try:
        yield source.open()
    finally:
        source.close()


def eventually(true: Callable[[], bool], every: float = 0.01) -> None:
    """Come back once `true`, asked every so many seconds, says so; fail after a time that no healthy machine needs."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(every)
