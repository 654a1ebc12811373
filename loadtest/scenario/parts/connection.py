"""The connection: which key goes with requests, what is trusted, and by which way the server is reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from loadtest.errors import ScenarioError
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key, request_key
from loadtest.scenario.values import Text, short_repr

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<host>\.?[\w-]+(?:\.[\w-]+)*))(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, kw_only=True)
class ConnectionKeys:
    """Keys that decide how a server is reached; the same for requests, for questions to the server and for samplers."""

    key_env: str | None = request_key(
        "Environment variable that holds the server's key; default: OPENAI_API_KEY, OLLAMA_API_KEY, or the API's own.",
        None,
        text=Text(200, "name a variable, or leave it out"),
        metavar="VARIABLE",
    )
    ca_file: str | None = key(
        "PEM file of the authority to trust over https; default: SSL_CERT_FILE, else the known ones.",
        None,
        text=Text(4096, "name a PEM file, or leave it out"),
        locust=(ATTRIBUTE, OPTION),
        file="",
        metavar="FILE",
    )
    insecure: bool = request_key(
        "Trust any certificate over https. For a test server of your own only: anybody could answer in its place.",
        default=False,
    )
    cert: str | None = request_key(
        "PEM file of your certificate, for a server that asks for one. It holds the key too, or --cert-key names it.",
        None,
        text=Text(4096, "name a PEM file, or leave it out"),
        file="",
        metavar="FILE",
    )
    cert_key: str | None = request_key(
        "PEM file of the key to --cert, without a passphrase.",
        None,
        text=Text(4096, "name a PEM file, or leave it out"),
        file="",
        metavar="FILE",
    )
    proxy: str | None = request_key(
        "Proxy to go through, like http://proxy:3128, https://proxy or socks5h://proxy:1080; proxy variables of the environment are "
        "not used.",
        None,
        text=Text(8000, "give the proxy's URL, or leave it out"),
        metavar="URL",
    )
    no_proxy: str | None = request_key(
        "Hosts that are asked directly, not through --proxy, like localhost,10.0.0.5:8000,.example.org.",
        None,
        text=Text(4000, "name hosts with commas between them, or leave it out"),
        joined=",",
        metavar="HOST,HOST",
    )

    def by_proxy(self, proxy: str | None) -> Self:
        return self if proxy == self.proxy else replace(self, proxy=proxy)


def hosts_without_proxy(keys: ConnectionKeys) -> Iterator[tuple[str, int | None]]:
    """Yield each host of no_proxy and its port, None for any; raise ScenarioError for one that is none."""
    for one in (keys.no_proxy or "").split(","):
        found = _HOST_AND_PORT.fullmatch(one.strip().lower())
        if found is None:
            raise ScenarioError(
                f"no_proxy: {short_repr(one.strip())} is not a host; write names without a scheme, like localhost or gpu-box:8000, "
                "with commas between them."
            )
        yield found["v6"] or found["host"], int(found["port"]) if found["port"] else None


def check_connection(keys: ConnectionKeys) -> None:
    """Raise ScenarioError where one of these keys makes no sense. No sentence quotes what may be a secret."""
    if keys.key_env is not None and not _VARIABLE.fullmatch(keys.key_env):
        raise ScenarioError(
            "key_env must be the name of an environment variable, not a key itself; set one, such as MY_KEY, and give "
            "--key-env MY_KEY."
        )
    if keys.no_proxy is not None:
        list(hosts_without_proxy(keys))
