"""What headers say of gateways, proxies and caches on the way to the server: who answered, and after how many tries."""

from __future__ import annotations

import re
from collections.abc import Mapping

from loadtest.dialects.base import Ending
from loadtest.doubts import FROM_CACHE
from loadtest.reach import Headers, cached_by, header_quoted
from loadtest.text import shown

_TRIED_AGAIN = {  # headers that count tries, and the count of a request that went to a server once
    b"x-envoy-attempt-count": 1,
    b"x-litellm-attempted-retries": 0,
    b"x-portkey-retry-attempt-count": 0,
}
_FELL_BACK = {b"x-litellm-attempted-fallbacks": 0, b"cf-aig-step": 0}
# Cookies by which balancers of AWS, Azure, Google, Cloudflare, F5, HAProxy, Apache, nginx and Traefik keep a user at a server.
_AFFINITY = re.compile(
    rb"(?:AWSALB\w*|AWSELB\w*|ARRAffinity\w*|GCLB|GCILB|GAESA|__cflb|BIGipServer[^=]*|SERVERID|ROUTEID|INGRESSCOOKIE|route"
    rb"|sticky|lb)=",
    re.IGNORECASE,
)


def remark(ending: Ending, headers: Headers, waited_s: float) -> None:
    """Add to what is doubtful and what is odd in an answer what its headers, which took so many seconds, say of the way."""
    if (said := cached_by(headers, waited_s)) is not None:
        ending.doubts.append(f"{FROM_CACHE} ({said})")
    if (said := _more(headers, _FELL_BACK)) is not None:
        ending.doubts.append(f"the gateway fell back to another model or server ({said})")
    if (said := _more(headers, _TRIED_AGAIN)) is not None:
        ending.notes.append(f"the gateway sent the request to a server more than once ({said}): TTFT holds all of it")
    for name, value in headers:
        if name.lower() == b"set-cookie" and (found := _AFFINITY.match(value.strip())):
            cookie = found[0][:-1].decode("latin-1")
            ending.notes.append(
                f"a balancer's cookie ({shown(cookie)[:40]}) would keep a user at one server; it is not sent back, so each request may "
                "reach another"
            )
            break


def _more(headers: Headers, usual: Mapping[bytes, int]) -> str | None:
    """Return the first header whose count is above the usual one."""
    for name, value in headers:
        least = usual.get(name.lower())
        if least is not None and value.strip().isdigit() and int(value[:9]) > least:
            return header_quoted(name, value)
    return None
