"""Seeds of jobs, and the nonce that each seed puts in front of a prompt."""

from __future__ import annotations

import hashlib

from loadtest.scenario import Level, Scenario


def seed_from(*parts: object) -> int:
    """Return 53 bits that depend on every part: enough against collisions, and exact in every JSON reader."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 11


def seed_of(scenario: Scenario, level: Level, i: int, *, warmup: bool) -> int:
    """Return the seed of a level's i-th session: with warm_cache the same for all sessions of one length."""
    if scenario.warm_cache:
        return seed_from(scenario.seed, "warm", level.input_tokens, level.words)
    return seed_from(scenario.seed, "warm-up" if warmup else "job", level.index, i)


def nonce_of(seed: int) -> str:
    """Return the nonce in front of the prompt with this seed, e.g. "[402718365129]".

    Vocabularies cut digits evenly (by threes, or one by one), so every nonce has the same number of tokens, 6 in
    cl100k_base and o200k_base. Eight hex digits would have 5 to 10.
    """
    return f"[{seed_from('nonce', seed) % 10**12:012d}]"


def behind_nonce(text: str, scenario: Scenario, seed: int) -> str:
    """Return a text behind its nonce, so that no server has its beginning cached; as it is with warm_cache."""
    return text if scenario.warm_cache else f"{nonce_of(seed)} {text}"
