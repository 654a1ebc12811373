"""How many tokens a text has: tiktoken's count where its ranks are available, else an estimate; and how the server counts.

tiktoken fetches ranks that are not in its cache without a time limit. So loadtest looks into the cache first, fetches
missing ranks itself within a limit, and asks tiktoken only once they lie in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Self
from weakref import WeakValueDictionary

FETCH_TIMEOUT = 5.0  # seconds for the whole fetch of 1.7 or 3.6 MB


@dataclass(frozen=True, slots=True)
class Ranks:
    """One tokenizer's merge ranks: where tiktoken fetches them, and what they must hash to."""

    encoding: str
    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Name of the file in tiktoken's cache: the SHA-1 of the URL."""
        return hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()


_BLOBS = "https://openaipublic.blob.core.windows.net/encodings"
CL100K = Ranks(
    "cl100k_base",
    f"{_BLOBS}/cl100k_base.tiktoken",
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
)
O200K = Ranks(
    "o200k_base",
    f"{_BLOBS}/o200k_base.tiktoken",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
)


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts tokens. Picklable, so that worker processes can be given one."""

    source: str  # a fact for run.json: "tiktoken cl100k_base", or "estimate: …" and why
    encoder: Any = None  # a tiktoken.Encoding; None: counts are estimates

    @property
    def exact(self) -> bool:
        """Whether counts are a tokenizer's, not an estimate."""
        return self.encoder is not None

    def count(self, text: str) -> int:
        """Return the number of tokens in `text`; text that looks like a special token counts as text."""
        return estimate_tokens(text) if self.encoder is None else len(self.encoder.encode_ordinary(text))


_PIECES = re.compile(r"[^\W\d_]+|\d{1,3}|[^\w\s]+|_+|\n+")
LETTERS_PER_EXTRA_TOKEN = 8  # a word of up to eight letters is about one token, and each further eight one more


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a modern BPE vocabulary (100k entries and more) makes of `text`.

    English prose comes out within about a tenth of cl100k_base. Scripts without spaces between words, and letters
    outside ASCII, count at one token per two characters, which is rough.
    """
    total = 0
    for piece in _PIECES.findall(text):
        if piece.isascii():
            total += 1 + (len(piece) - 1) // LETTERS_PER_EXTRA_TOKEN
        else:
            total += (len(piece) + 1) // 2
    return total


def ranks_for(model: str) -> Ranks:
    """Return the ranks nearest to a model's vocabulary: o200k for OpenAI's recent models, else cl100k.

    Llama 3's vocabulary is about 100k tiktoken ranks and 28k more: English and code count nearly as in cl100k_base.
    """
    name = model.rpartition("/")[2].lower()
    return O200K if re.match(r"(gpt-(4o|4\.[1-9]|[5-9]|oss)|chatgpt-4o|o[1-9])", name) else CL100K


def load_counter(model: str = "", *, fetch: bool = True) -> Counter:
    """Return tiktoken's counter for `model` where its ranks are cached or can be fetched in time, else an estimate.

    The other vocabulary's cached ranks are preferred to a fetch. `fetch=False` never touches the network: for simulated
    servers, and for worker processes. Loading takes 0.2 to 0.6 s, so it belongs before the clock.
    """
    wanted = ranks_for(model)
    folder = cache_folder()
    if folder is None:
        return Counter("estimate: tiktoken has no folder for ranks; TIKTOKEN_CACHE_DIR names one")
    for ranks in (wanted, CL100K, O200K):
        if is_cached(ranks, folder):
            return _tiktoken(ranks)
    if not fetch:
        return Counter("estimate: tiktoken's ranks are not in its cache")
    if reason := fetch_ranks(wanted, folder, FETCH_TIMEOUT):
        return Counter(f"estimate: tiktoken's ranks could not be fetched ({reason})")
    return _tiktoken(wanted)


_loaded: WeakValueDictionary[str, Any] = WeakValueDictionary()  # encodings in use, so that none is loaded twice


def _tiktoken(ranks: Ranks) -> Counter:
    import tiktoken
    from tiktoken import registry

    encoding = _loaded.get(ranks.encoding)
    if encoding is None:
        encoding = _loaded[ranks.encoding] = tiktoken.get_encoding(ranks.encoding)
        # tiktoken's registry would keep 40 MB for good; ours are freed with the run
        registry.ENCODINGS.pop(ranks.encoding, None)
    return Counter(f"tiktoken {ranks.encoding}", encoding)


def cache_folder() -> Path | None:
    """Return the folder in which tiktoken looks for ranks; None where it has none."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if (value := os.environ.get(name)) is not None:
            return Path(value) if value else None
    try:
        return Path(tempfile.gettempdir()) / "data-gym-cache"
    except FileNotFoundError:  # no folder for temporary files can be written to
        return None


def is_cached(ranks: Ranks, folder: Path) -> bool:
    """Whether `folder` holds these ranks whole: tiktoken deletes a file with another hash, and fetches it anew."""
    try:
        data = (folder / ranks.file_name).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(data).hexdigest() == ranks.sha256


def fetch_ranks(ranks: Ranks, folder: Path, timeout: float) -> str | None:
    """Fetch ranks into `folder` within `timeout` seconds in all; return why not, or None. Nothing half-written stays."""
    import httpx

    deadline = time.monotonic() + timeout
    data = bytearray()
    try:
        with httpx.stream("GET", ranks.url, timeout=timeout, follow_redirects=True) as response:
            if response.status_code != httpx.codes.OK:
                return f"HTTP {response.status_code}"
            for piece in response.iter_bytes():
                data += piece
                if time.monotonic() > deadline:
                    return f"not done after {timeout:g} s"
    except httpx.TimeoutException:
        return f"no answer within {timeout:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        # the last four: a proxy or SSL_CERT_FILE of the environment that httpx cannot use, such as all_proxy=socks://…
        return str(error) or type(error).__name__
    if hashlib.sha256(data).hexdigest() != ranks.sha256:
        return "what came does not match its checksum"
    partial = folder / f"{ranks.file_name}.{uuid.uuid4()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(folder / ranks.file_name)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        return f"cannot write to {folder}: {error.strerror}"
    return None


CUT = 0.9  # of what shorter prompts promise: a longer one counted below it was cut
COUNTS_APART = 8  # tokens of ours: no vocabulary makes one count of texts that differ by more
MOST_TOKENS_PER_TOKEN = 16  # a vocabulary of little more than letters makes five or so of a word


@dataclass(frozen=True, slots=True)
class TokenFit:
    """How the server's prompt_tokens follow from our count of the text: overhead + ratio × ours.

    The overhead is the chat template with its BOS, the ratio the difference of the two vocabularies. Without a
    fit lengths are those of the text alone.
    """

    overhead: float = 0.0  # tokens
    ratio: float = 1.0  # server's tokens per token of ours

    @classmethod
    def fit(cls, points: Sequence[tuple[int, int]], context: int | None = None) -> Self:
        """Fit to (our count, server's prompt_tokens) pairs: a line through the mean of the shortest and of the longest.

        Pairs that the context cut are left out: see uncut. Pairs of one length cannot tell overhead from ratio: what is
        above our count is then taken for overhead. Pairs that make no line (a server that leaves cached tokens out) are
        refused: the result is TokenFit(), which changes nothing.
        """
        points = uncut(points, context)
        if not points:
            return cls()
        short, long = min(points)[0], max(points)[0]
        low, high = (fmean(server for ours, server in points if ours == length) for length in (short, long))
        if long == short:
            return cls(overhead=low - short) if low >= short else cls(ratio=low / short if low > 0 else 1.0)
        ratio = (high - low) / (long - short)
        return cls(low - ratio * short, ratio) if 0.25 <= ratio <= MOST_TOKENS_PER_TOKEN else cls()

    def server(self, ours: int) -> int:
        """Return the server's count to expect of a text with `ours` tokens of ours."""
        return round(self.overhead + self.ratio * ours)

    def ours(self, server: int) -> int:
        """Return how many tokens of ours give `server` tokens on the server; 1 or more, as no text is shorter."""
        return max(1, round((server - self.overhead) / self.ratio))

    def ours_added(self, server: int) -> int:
        """Return how many tokens of ours add `server` tokens to a prompt whose template is counted already; 1 or more."""
        return max(1, round(server / self.ratio))


def uncut(points: Sequence[tuple[int, int]], context: int | None = None) -> list[tuple[int, int]]:
    """Return the (our count, server's count) pairs whose prompts were not cut to the server's context.

    A prompt was cut if its count reaches the context or is one token below. Where the context is not known, prompts were cut
    if two lengths have one count, or if the longest of three or more lies well below the line through the shorter ones.
    """
    if context is None:
        most = max((server for _, server in points), default=0)
        reached = [ours for ours, server in points if server >= most - 1]
        if reached and max(reached) - min(reached) > COUNTS_APART:
            context = most
    kept = [(ours, server) for ours, server in points if context is None or server < context - 1]
    lengths = sorted({ours for ours, _ in kept})
    while len(lengths) > 2:
        first, last, longest = (
            fmean(server for ours, server in kept if ours == n) for n in (lengths[0], *lengths[-2:])
        )
        slope = (last - first) / (lengths[-2] - lengths[0])
        if longest >= CUT * (last + slope * (lengths[-1] - lengths[-2])):
            break
        kept = [(ours, server) for ours, server in kept if ours != lengths[-1]]
        lengths.pop()
    return kept
