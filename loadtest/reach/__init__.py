"""How a server is reached: by which URL, what is trusted over https, and through which proxy. No sockets here."""

from loadtest.reach.cache_headers import Headers, cached_by, header_quoted
from loadtest.reach.proxy import (
    Place,
    Proxy,
    ignored_proxies,
    proxy_named,
    proxy_to,
    to_log_in,
    without_login,
)
from loadtest.reach.scenario_urls import located, secrets_apart
from loadtest.reach.tls import alert_words, is_alert, note_on_trust, trust

__all__ = [
    "Headers",
    "Place",
    "Proxy",
    "alert_words",
    "cached_by",
    "header_quoted",
    "ignored_proxies",
    "is_alert",
    "located",
    "note_on_trust",
    "proxy_named",
    "proxy_to",
    "secrets_apart",
    "to_log_in",
    "trust",
    "without_login",
]
