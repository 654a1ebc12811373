"""TLS: whom the connections to a server trust, and what a server's alert means for the user."""

from __future__ import annotations

import os
import re
import ssl
from typing import NoReturn

from loadtest.errors import ScenarioError
from loadtest.scenario import ConnectionKeys


def trust(keys: ConnectionKeys) -> ssl.SSLContext:
    """Return the TLS context of all connections to a server.

    It trusts the authorities in ca_file, else those in SSL_CERT_FILE, else the usual ones; with `insecure` everybody.
    Raises ScenarioError for a file that cannot be used.
    """
    import httpx

    path = keys.ca_file or os.environ.get("SSL_CERT_FILE")
    try:
        context = ssl.create_default_context(cafile=keys.ca_file) if keys.ca_file else httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        why = error if isinstance(error, ssl.SSLError) else error.strerror
        named = "" if keys.ca_file else ", which SSL_CERT_FILE names" if path else ""
        raise ScenarioError(f"cannot read certificates from {path}{named}: {why}; give a PEM file.") from None
    if keys.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if keys.cert is not None:
        _show_certificate(context, keys.cert, keys.cert_key)
    return context


def note_on_trust(keys: ConnectionKeys, url: str) -> str | None:
    """Return what a user should know of options of https at a server; None where all is as they say."""
    if url.startswith("https:"):
        unchecked = f"--insecure: the certificate of {url} is not checked, so anybody could answer in its place."
        return unchecked if keys.insecure else None
    given = [f"--{name.replace('_', '-')}" for name in ("insecure", "ca_file", "cert") if getattr(keys, name)]
    if not given or (keys.proxy or "").startswith("https:"):
        return None
    return (
        f"{' and '.join(given)} {'change' if len(given) > 1 else 'changes'} nothing: {url} is not reached over https."
    )


def _show_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    def ask() -> NoReturn:
        raise ScenarioError(f"the key in {key or cert} has a passphrase; give one without (openssl pkey -in … -out …).")

    try:
        context.load_cert_chain(cert, key, password=ask)
    except OSError as error:  # ssl.SSLError is one
        where = f"{cert} and {key}" if key else cert
        what = error.strerror if not isinstance(error, ssl.SSLError) else _why(error, key)
        raise ScenarioError(f"cannot use the certificate in {where}: {what}.") from None


def _why(error: ssl.SSLError, key: str | None) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    return f"{error.reason or error}; give PEM files" + ("" if key else ", and the key's with --cert-key")


_ALERTS = (  # what a server's last word in a TLS handshake means for us
    (
        re.compile(r"CERTIFICATE_REQUIRED|ALERT_(?:BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE_\w+|ACCESS_DENIED)"),
        "the server asks for a client certificate that it trusts: give one with --cert, and its key with --cert-key",
    ),
    (
        re.compile(r"NO_APPLICATION_PROTOCOL"),
        "the server speaks HTTP/2 alone there, and loadtest speaks HTTP/1.1: have the server or gateway take HTTP/1.1, too",
    ),
    (
        re.compile(r"UNRECOGNIZED_NAME|ALERT_INTERNAL_ERROR"),  # the latter is Caddy's, asked by an address
        "the server broke off the TLS handshake, as one without a certificate for that host does: give the URL with a name it serves",
    ),
    (
        re.compile(r"ALERT_HANDSHAKE_FAILURE"),
        "the server broke off the TLS handshake: it may ask for a client certificate (--cert, --cert-key), or for another cipher",
    ),
)


def alert_words(reason: str) -> str | None:
    """Return what to do about an alert that a server sent over TLS, by OpenSSL's name of it; None for any other error."""
    return next((words for alert, words in _ALERTS if alert.search(reason)), None)


def is_alert(words: str) -> bool:
    return any(said in words for _, said in _ALERTS)
