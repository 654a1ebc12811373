"""How many tokens a text has: tiktoken's count where its vocabulary can be had, else an estimate; and how the server counts.

tiktoken fetches a vocabulary that is not in its cache without a time limit, so it is given another way to fetch.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NoReturn, Self
from weakref import WeakValueDictionary

FETCH_S = 5.0  # for the whole fetch of 1.7 or 3.6 MB
CL100K, O200K = "cl100k_base", "o200k_base"  # vocabularies


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


def vocabulary_like(model: str) -> str:
    """Return the vocabulary nearest to a model's: o200k for OpenAI's recent models, else cl100k.

    Llama 3's is cl100k and 28k more tokens: English and code count nearly the same.
    """
    name = model.rpartition("/")[2].lower()
    return O200K if re.match(r"(gpt-(4o|4\.[1-9]|[5-9]|oss)|chatgpt-4o|o[1-9])", name) else CL100K


def load_counter(model: str = "", *, fetch: bool = True) -> Counter:
    """Return tiktoken's counter for `model` where its vocabulary is cached or can be fetched in time, else an estimate.

    The other vocabulary is preferred to a fetch where it is cached. `fetch=False` never touches the network: for simulated
    servers, and for worker processes. Loading takes 0.2 to 0.6 s, so it belongs before the clock.
    """
    wanted = vocabulary_like(model)
    try:
        for name in (wanted, CL100K, O200K):
            with contextlib.suppress(LookupError):
                return _tiktoken(name, _only_cached)
        if not fetch:
            return Counter("estimate: tiktoken's ranks are not in its cache")
        _tiktoken(wanted, fetched)
        return _tiktoken(wanted, _only_cached)  # workers, who never fetch, must count alike
    except LookupError:
        return Counter("estimate: tiktoken's cache keeps no ranks")
    except ValueError:
        return Counter("estimate: tiktoken's ranks do not match their checksum")
    except OSError as error:
        return Counter(f"estimate: tiktoken's ranks could not be fetched ({error})")


_loaded: WeakValueDictionary[str, Any] = WeakValueDictionary()  # encodings in use, so that none is loaded twice


def _tiktoken(name: str, read: Callable[[str], bytes]) -> Counter:
    """Return tiktoken's counter; `read` is given the URL of a vocabulary that is not in tiktoken's cache."""
    import tiktoken
    from tiktoken import load, registry

    encoding = _loaded.get(name)
    if encoding is None:
        usual, load.read_file = load.read_file, read  # type: ignore[assignment] # by position, as tiktoken calls it
        try:
            encoding = _loaded[name] = tiktoken.get_encoding(name)
        finally:
            load.read_file = usual
            # tiktoken's registry would keep 40 MB for good; ours are freed with the run
            registry.ENCODINGS.pop(name, None)
    return Counter(f"tiktoken {name}", encoding)


def _only_cached(_url: str) -> NoReturn:
    raise LookupError


def fetched(url: str, limit_s: float = FETCH_S) -> bytes:
    """Return what is at a URL, fetched within so many seconds in all; raise OSError, which says why not."""
    import httpx

    deadline = time.monotonic() + limit_s
    data = bytearray()
    try:
        with httpx.stream("GET", url, timeout=limit_s, follow_redirects=True) as response:
            if response.status_code != httpx.codes.OK:
                raise OSError(f"HTTP {response.status_code}")
            for piece in response.iter_bytes():
                data += piece
                if time.monotonic() > deadline:
                    raise OSError(f"not done after {limit_s:g} s")
    except httpx.TimeoutException:
        raise OSError(f"no answer within {limit_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:
        # the last three: a proxy of the environment that httpx cannot use, such as all_proxy=socks://…
        raise OSError(str(error) or type(error).__name__) from None
    return bytes(data)


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
