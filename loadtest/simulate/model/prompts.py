"""Prompts as runs of tokens: a conversation of ten thousand tokens is a few entries, and what two share is found at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple


class TokenRun(NamedTuple):
    """So many tokens of one text: two runs of equal key begin with the same tokens, two of different keys share none."""

    key: Hashable
    length: int


Prompt = Sequence[TokenRun]
AnswerTokens = Callable[[int], Prompt]  # what an answer's first n tokens are


def token_count(prompt: Prompt) -> int:
    return sum(run.length for run in prompt)


def common_prefix(left: Prompt, right: Prompt) -> int:
    """Return with how many equal tokens both begin."""
    shared = 0
    for one, other in zip(left, right, strict=False):
        if one is other:
            shared += one.length
            continue
        if one.key != other.key:
            break
        shared += min(one.length, other.length)
        if one.length != other.length:
            break
    return shared


def first_tokens(prompt: Prompt, tokens: int) -> Prompt:
    kept: list[TokenRun] = []
    for run in prompt:
        if tokens < run.length:
            return [*kept, TokenRun(run.key, tokens)] if tokens > 0 else kept
        kept.append(run)
        tokens -= run.length
    return prompt


def of_pieces(pieces: Iterable[str]) -> list[TokenRun]:
    """Return a text that was split into tokens, each a run: texts that differ in the middle share what comes before."""
    return list(map(_of_piece, pieces))


@lru_cache(maxsize=65536)
def _of_piece(piece: str) -> TokenRun:
    return TokenRun(piece, 1)
