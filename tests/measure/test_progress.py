"""The live line: what it says, and what of it stays where the terminal is narrow."""

from __future__ import annotations

import pytest

from loadtest.cli.output.printing import live_sentence
from loadtest.measure.progress import Progress
from loadtest.scenario import Level


def progress(**more: object) -> Progress:
    level = Level(index=11, concurrency=128, input_tokens=16384, output_tokens=2048, words=None, requests=1024)
    facts = {
        "level": level,
        "levels": 16,
        "done": 700,
        "failed": 36,
        "planned": 1152,
        "in_flight": 128,
        "decoding": 4,
        "ttfts": (1.5, 2.5),
        "tokens_per_s": 1234.0,
        "elapsed": 60.0,
        "eta": 75.0,
    }
    return Progress(**{**facts, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [79, 59, 45])
@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({}, ["36 failed", "700/1152 done", "ETA 75 s"]),
        ({"due": 900, "released": 850, "shed": 20}, ["36 failed", "20 not sent", "50 late"]),
    ],
)
def test_failures_and_the_time_left_are_the_last_to_go(width: int, more: dict[str, int], kept: list[str]) -> None:
    line = live_sentence(progress(**more), width)
    assert len(line) <= width
    assert all(said in line for said in kept if width > 50 or "failed" in said), line
    assert line.startswith("[12/16]")


def test_where_there_is_room_all_is_said() -> None:
    assert (
        live_sentence(progress(), 200)
        == live_sentence(progress())
        == (
            "[12/16] 128 streams · 16384 in · 2048 out  700/1152 done  36 failed  4 decoding  124 waiting  TTFT p50 2.00 s  "
            "1234 tokens/s  ETA 75 s"
        )
    )


@pytest.mark.parametrize(
    ("eta", "said"), [(0.2, "1 s"), (89.0, "89 s"), (91.0, "2 min"), (5320.0, "89 min"), (7700.0, "2 h 9 min")]
)
def test_a_long_time_is_not_told_in_seconds(eta: float, said: str) -> None:
    assert live_sentence(progress(eta=eta)).endswith(f"ETA {said}")


def test_a_level_that_waits_for_its_last_answers_alone_has_no_eta() -> None:
    """It said "ETA 1 s" for as long as a server that had died held its connections open."""
    assert live_sentence(progress(eta=0.0, planned=0)).endswith("tokens/s  the last answers")
    assert live_sentence(progress(eta=0.0, planned=0, in_flight=0)).endswith("tokens/s")
    assert live_sentence(progress(eta=0.0, due=900, released=850)).endswith("tokens/s")  # an open loop that is behind
    assert live_sentence(progress(eta=0.0, done=1152)).endswith("tokens/s")  # people who end their conversations


def test_a_level_of_embeddings_speaks_of_no_token_from_its_beginning_on() -> None:
    line = live_sentence(progress(done=0, decoding=0, ttfts=(), tokens_per_s=0.0, textless=True))
    assert "128 in flight  E2E p50 –  0 input tokens/s" in line
    assert not [word for word in ("decoding", "waiting", "TTFT") if word in line]


def test_people_who_end_their_conversations_after_the_last_request_asked_for_are_no_share_of_it() -> None:
    assert "700 done" in live_sentence(progress(done=700, planned=688))
