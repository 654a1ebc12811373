"""Whether a port that gave plain HTTP/1.1 no answer speaks TLS, or HTTP/2: some hang up, some send an alert, some a page."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

PATIENCE_S = 2.0
SETTINGS = (
    4,
    0,
    0,
    0,
    0,
    0,
)  # of HTTP/2: kind, flags and stream of the frame that comes first; its length stands before
RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake


def https_instead(url: str) -> str | None:
    """Return a sentence where a plain http URL leads to a port that answers in TLS; it is asked here and now."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not _answers(parts.hostname, parts.port or 80):
        return None
    return f"{url} speaks https, not http: give {parts._replace(scheme='https').geturl()}."


def http2_instead(url: str) -> str | None:
    """Return a sentence where a plain http URL leads to a port that answers in HTTP/2 alone; it is asked here and now."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return None
    try:
        with socket.create_connection((parts.hostname, parts.port or 80), timeout=PATIENCE_S) as sock:
            sock.settimeout(PATIENCE_S)
            sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, *SETTINGS)))
            first = sock.recv(9, socket.MSG_WAITALL)
    except (OSError, ValueError):
        return None
    if first[3:] != bytes(SETTINGS):
        return None
    return (
        f"{url} speaks HTTP/2, and loadtest speaks HTTP/1.1: have the server or gateway take HTTP/1.1, too, or give a port of "
        "it that does."
    )


def _answers(host: str, port: int) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing but its first bytes is looked at
    heard, said = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context.wrap_bio(heard, said, server_hostname=host).do_handshake()
    except ssl.SSLWantReadError:
        pass
    try:
        with socket.create_connection((host, port), timeout=PATIENCE_S) as sock:
            sock.settimeout(PATIENCE_S)
            sock.sendall(said.read())
            first = sock.recv(2)
            return (first if len(first) == 2 else first + sock.recv(1)) in RECORDS
    except (OSError, ValueError):
        return False
