"""Servers of a few routes in a thread, for tests of what answers where: each is a table of paths."""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
Route = Any  # JSON to answer with 200, an Answer, or a function of the request's headers that returns either

CHAT = b"".join(
    b"data: " + json.dumps(event).encode() + b"\n\n"
    for event in (
        {"choices": [{"delta": {"content": "Hi"}, "index": 0}]},
        {"choices": [{"delta": {"content": " you"}, "index": 0}]},
        {"choices": [{"delta": {}, "finish_reason": "length", "index": 0}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}},
    )
)
OPENAI_STREAM: Answer = (200, {"Content-Type": "text/event-stream"}, CHAT + b"data: [DONE]\n\n")


def refuse(status: int, body: object = None, **headers: str) -> Answer:
    """Return an answer with a status; `body` is sent as JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": "application/json", **named}, json.dumps(body).encode()


@dataclass
class Made:
    """A server of routes; `seen` are the requests as (path, headers)."""

    routes: dict[str, Route]
    default: Route = field(default_factory=lambda: refuse(404, {"detail": "Not Found"}))
    url: str = ""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    posted: list[tuple[str, bytes]] = field(default_factory=list)

    def answer(self, path: str, headers: dict[str, str]) -> Answer:
        route = self.routes.get(path, self.default)
        if callable(route):
            route = route(headers)
        if isinstance(route, tuple):
            return route
        return 200, {"Content-Type": "application/json"}, json.dumps(route).encode()


@contextlib.contextmanager
def made(routes: dict[str, Route], *, default: Route = None, tls: ssl.SSLContext | None = None) -> Iterator[Made]:
    """Serve the routes on loopback; every other path is answered with `default`, 404 unless given."""
    server = Made(routes) if default is None else Made(routes, default)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.seen.append((self.path, headers))
            if body:
                server.posted.append((self.path, body))
            status, said, reply = server.answer(self.path, headers)
            self.send_response(status)
            for name, value in said.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Stay quiet."""

    class Quiet(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Stay quiet: a client that closes in mid-answer is no fault."""

    with Quiet(("127.0.0.1", 0), Handler) as listener:
        if tls is not None:
            listener.socket = tls.wrap_socket(listener.socket, server_side=True)
        server.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
