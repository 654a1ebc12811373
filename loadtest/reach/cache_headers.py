"""Whether a cache on the way answered in the server's place, by the headers of the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from loadtest import credentials
from loadtest.text import shown

Headers = Sequence[tuple[bytes, bytes]]

# Headers of caches. Those that speak of a model's own prefix cache, or of what may be cached, are none.
_OF_A_CACHE = re.compile(
    rb"(?=.*cache)(?!(?:.*-)?(?:control|lookup|kv|prefix|prompt|tokens?|key|ttl|tags?)(?:-|$))[a-z0-9-]+"
)
# nginx's and Cloudflare's words for an old answer, too; one with a = before it says why the server was asked
_HIT = re.compile(rb"(?:^|[^a-z=]|refresh)(?:hit|stale|updating|revalidated)(?:$|[^a-z=])")
_COUNTED = re.compile(rb"(?:true|yes|[1-9]\d*)\b")


def cached_by(headers: Headers, waited_s: float = 0.0) -> str | None:
    """Return the header by which an answer came out of a cache on the way; None where none says so.

    Apache Traffic Server gives fresh answers an age, too: the `waited_s` seconds until their headers, by a clock of whole seconds.
    """
    for name, value in headers:
        low, content = name.lower(), value.strip().lower()
        if low == b"age":
            hit = content.isdigit() and int(content[:9]) > waited_s + 1
        elif low == b"x-varnish":  # a second number is that of the request whose answer is given again
            hit = len(content.split()) > 1
        elif low == b"x-litellm-cache-key":  # sent with answers out of its cache alone
            hit = bool(content)
        elif b"cache" in low and _OF_A_CACHE.fullmatch(low):
            hit = _HIT.search(content) is not None or (b"hit" in low and _COUNTED.match(content) is not None)
        else:
            continue
        if hit:
            return header_quoted(name, value)
    return None


def header_quoted(name: bytes, value: bytes) -> str:
    """Return a header to be shown: short, and without our keys."""
    return shown(credentials.redacted(f"{name.decode('latin-1')}: {value.decode('latin-1').strip()}"))[:80]
