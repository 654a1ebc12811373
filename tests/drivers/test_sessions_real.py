"""Conversations on llama.cpp's own server with two slots: every turn is answered, and its counts are the server's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import llamacpp

from loadtest.asyncio_driver.run import measure
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario

TOTALS = ("prompt_tokens_total", "prompt_tokens_cached_total")


@pytest.fixture(scope="module")
def two_slots(llamacpp_model: Path) -> Iterator[str]:
    with llamacpp.serving(llamacpp_model, slots=2) as url:
        yield url


def totals(url: str) -> float:
    """Return how many prompt tokens the server read and found in its caches."""
    page = httpx.get(f"{url}/metrics", trust_env=False).text
    found = [re.search(rf"^llamacpp:{name} (\S+)", page, re.MULTILINE) for name in TOTALS]
    return sum(float(one[1]) for one in found if one is not None)


def talked(url: str, place: Path, **keys: Any) -> tuple[list[Record], float]:
    """Let four people hold conversations of four turns; return the records, and the prompt tokens that the server counted."""
    before: list[float] = []

    def keep(*_: object) -> Callable[[Path], dict[str, Any]]:
        before.append(totals(url))
        return lambda _: {}

    asked = {"turns": 4, "input_tokens": (80,), "follow_up_tokens": 25, "output_tokens": (12,), "concurrency": (4,)}
    load = {"requests": 16, "warmup": 0, "think_time": "uniform(0.02, 0.1)", "seed": 5, "url": url}
    scenario = Scenario(**{**asked, **load, **keys})
    done = measure(scenario, place / "run", on_progress=lambda _: None, say=lambda _: None, beforehand=keep)
    assert done.state == "done"
    return list(RunFolder.open(done.folder).records()), totals(url) - before[0]


@pytest.mark.parametrize(
    "keys",
    [
        {"api": "openai", "workers": 2},
        {"api": "openai", "endpoint": "responses"},
        {"api": "anthropic", "endpoint": "messages", "system": "Be brief."},
        {"api": "openai", "answers": "recorded", "system_tokens": 40},
    ],
    ids=["chat, two workers", "responses", "messages", "recorded"],
)
def test_four_people_hold_conversations_of_four_turns(two_slots: str, tmp_path: Path, keys: dict[str, Any]) -> None:
    records, counted = talked(two_slots, tmp_path, **keys)
    assert {(record.outcome, record.error, tuple(record.doubts or ())) for record in records} == {
        (Outcome.OK, None, ())
    }
    turns: dict[int | None, list[int | None]] = {}
    for record in sorted(records, key=lambda record: record.t_sched):
        turns.setdefault(record.session, []).append(record.turn)
    assert all(found == list(range(len(found))) for found in turns.values())
    assert len(records) == 16
    assert set(turns) >= {0, 1, 2, 3}  # who is done first may begin another
    assert sum(record.prompt_tokens or 0 for record in records) == counted
    assert {record.user for record in records} == {0, 1, 2, 3}
