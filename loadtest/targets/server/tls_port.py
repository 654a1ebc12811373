"""Whether a port that gave plain HTTP/1.1 no answer speaks TLS, or HTTP/2: some hang up, some send an alert, some a page."""

from __future__ import annotations

import contextlib
import socket
import ssl
from urllib.parse import urlsplit

HANDSHAKE_S = 2.0
SETTINGS = bytes((4, 0, 0, 0, 0, 0))  # of HTTP/2: kind, flags and stream of the first frame; its length stands before
RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake


def https_instead(url: str) -> str | None:
    """Return a sentence where a plain http URL leads to a port that answers in TLS; it is asked here and now."""
    parts = urlsplit(url)
    if _first_bytes(url, _client_hello(parts.hostname), 2) not in RECORDS:
        return None
    return f"{url} speaks https, not http: give {parts._replace(scheme='https').geturl()}."


def http2_instead(url: str) -> str | None:
    """Return a sentence where a plain http URL leads to a port that answers in HTTP/2 alone; it is asked here and now."""
    if _first_bytes(url, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + SETTINGS, 9)[3:] != SETTINGS:
        return None
    return (
        f"{url} speaks HTTP/2, and loadtest speaks HTTP/1.1: have the server or gateway take HTTP/1.1, too, or give a port of "
        "it that does."
    )


def _client_hello(host: str | None) -> bytes:
    """Return how a client begins TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing but the first bytes is looked at
    heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(heard, said, server_hostname=host).do_handshake()
    return said.read()


def _first_bytes(url: str, said: bytes, size: int) -> bytes:
    """Say these bytes to the port of a plain http URL; return up to `size` bytes of the answer, none where none comes."""
    parts, heard = urlsplit(url), b""
    if parts.scheme != "http" or not parts.hostname:
        return b""
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection((parts.hostname, parts.port or 80), timeout=HANDSHAKE_S) as sock,
    ):
        sock.sendall(said)
        while len(heard) < size and (part := sock.recv(size - len(heard))):
            heard += part
    return heard
