"""Why no connection was made to a server, or no answer in HTTP/1.1 came over it, and what to do, in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import ssl
from urllib.parse import urlsplit

from loadtest import reach
from loadtest.dialects.answers.errors.server_errors import shorten
from loadtest.urls import OLLAMA_PORT

HANDSHAKE_S = 2.0
SETTINGS = bytes((4, 0, 0, 0, 0, 0))  # of HTTP/2: kind, flags and stream of the first frame; its length stands before
RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake
LOCAL_OLLAMA = tuple(f"http://{host}:{OLLAMA_PORT}" for host in ("127.0.0.1", "localhost", "[::1]"))
_OF_OUR_WIRE = re.compile(r"^cannot connect to \S+?(?: by the proxy \S+)?: ")
_CERTIFICATE = re.compile(r"\b(?:certificate|cert|issuer)\b|CERTIFICATE", re.IGNORECASE)
_OUT_OF_DATE = re.compile(r"has expired|not yet valid")
_HANDSHAKE = re.compile(r"TLS not ready|during the TLS handshake|UNEXPECTED_EOF_WHILE_READING")
_NO_NAME = re.compile(r"does not resolve \(.*(?:not known|does not resolve)\)")
_REFUSED, _NO_FILE = (os.strerror(code).lower() for code in (errno.ECONNREFUSED, errno.ENOENT))
_OTHERS_URL = re.compile("(BASE_URL|API_BASE|ENDPOINT|_HOST)$")  # variables of other tools that name servers


def not_reached(url: str, why: str, proxy: str | None) -> str:
    """Return the sentence on a connection to `url` that was not made, by a proxy where one is named; `why` are the wire's words."""
    reason = shorten(_OF_OUR_WIRE.sub("", why).removeprefix("TLS failed: "))
    who, given = _of_tls(url, proxy)
    if "is not valid for" in reason:
        return (
            f"{who} has a certificate for another name: {reason.rstrip('.')}; give the URL with a name that it holds."
        )
    if "WRONG_VERSION_NUMBER" in reason:
        return f"{who} speaks http, not https: give {given}."
    if _HANDSHAKE.search(reason):
        return f"{who} does not answer as a server of TLS does, in time: see whether it speaks http, and give {given} then."
    if reach.is_alert(reason):
        return f"cannot measure {url}: {reason}."
    if _OUT_OF_DATE.search(reason):
        return (
            f"{who} has a certificate that is out of date by this machine's clock: {reason}; renew it, or trust it unseen with "
            "--insecure."
        )
    if _CERTIFICATE.search(reason):
        return (
            f"{who} has a certificate that is not trusted here: {reason}; give its authority with --ca-file, or trust it unseen "
            "with --insecure."
        )
    if reason.startswith("the proxy "):
        return f"cannot reach {url}: {reason}."
    if proxy is not None:
        return f"cannot reach the proxy {proxy}, or {url} by it: {reason}."
    return f"cannot reach {url}: {_what_to_do(url, reason)}."


def _of_tls(url: str, proxy: str | None) -> tuple[str, str]:
    """Return who may have failed in TLS: the server, its proxy, or one of the two; and the plain http URL to try instead."""
    plain = f"http://{url.partition('://')[2]}"
    if proxy is None or not proxy.startswith("https:"):
        return url, plain
    plain_proxy = f"--proxy http://{proxy.partition('://')[2]}"
    if url.startswith("https:"):
        return f"the proxy {proxy} or {url}", f"{plain_proxy} or {plain}"
    return f"the proxy {proxy}", plain_proxy


def _what_to_do(url: str, reason: str) -> str:
    if _REFUSED in reason:
        if url in LOCAL_OLLAMA:
            named = ", ".join(name for name, value in os.environ.items() if _OTHERS_URL.search(name) and "://" in value)
            unread = f" ({named} in the environment: not read)" if named else ""
            return f"nothing listens there, where Ollama is by default; start `ollama serve`, or give the server's URL{unread}"
        return "nothing listens there; start the server, or give another URL"
    if _NO_FILE in reason:
        return "there is no such socket; start the server, or give another path"
    if _NO_NAME.search(reason):
        bare = "." not in url and url.endswith(f":{OLLAMA_PORT}")  # a name alone, as people write models
        return f"no host of that name is known here; correct the URL{', or give a model with --model' if bare else ''}"
    return f"{reason}; see whether the server runs, the URL is right and no firewall is between"


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
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=host).do_handshake()
    return outgoing.read()


def _first_bytes(url: str, greeting: bytes, size: int) -> bytes:
    """Say these bytes to the port of a plain http URL; return up to `size` bytes of the answer, none where none comes."""
    parts, heard = urlsplit(url), b""
    if parts.scheme != "http" or not parts.hostname:
        return b""
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection((parts.hostname, parts.port or 80), timeout=HANDSHAKE_S) as sock,
    ):
        sock.sendall(greeting)
        while len(heard) < size and (part := sock.recv(size - len(heard))):
            heard += part
    return heard
