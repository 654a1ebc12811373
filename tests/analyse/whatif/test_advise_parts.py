"""Parts of the advice: the loads shown, memory, and the search for the highest number."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.advised import CONTEXT, LLAMA_70B, play
from support.virtual_runs import Load

from loadtest.analyse.server.model_memory.by_slots import MemoryBySlots, memory_by_slots
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.advice import slot_advice as work
from loadtest.analyse.whatif.advice.sustainable_load import SustainableLoad
from loadtest.analyse.whatif.model import predict
from loadtest.cli.advise import _advice_of
from loadtest.errors import ScenarioError
from loadtest.memory.estimate import cache_of, parse_size
from loadtest.metrics import highest
from loadtest.slo import parse_objectives

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _short_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a sixth of what a user gets: these tests ask for cells and sentences, not for percents."""
    monkeypatch.setattr(predict, "TOKENS_SIMULATED", 10_000)


@pytest.mark.parametrize(
    ("measured", "loads"),
    [
        ((1, 2, 4, 8), (1, 2, 4, 8, 16)),
        ((4,), (1, 2, 4, 8)),
        ((1,), (1, 2)),
        ((1, 2, 3, 4, 5, 6, 7, 8), (1, 3, 5, 6, 8, 16)),
    ],
)
def test_loads_are_those_measured_and_some_others(measured: tuple[int, ...], loads: tuple[int, ...]) -> None:
    shown = work.loads_for(measured)
    assert len(shown) <= work.MOST_SHOWN_LOADS
    assert {measured[0], measured[-1], 2 * measured[-1]} <= set(shown)
    assert shown == loads


def test_kv_cache_by_the_architecture() -> None:
    def of_token(**more: Any) -> int | None:
        cache = cache_of({**LLAMA_70B, **more})
        return None if cache is None else cache.of_token

    assert of_token() == 163_840
    assert of_token(**{"attention.key_length": 64}) == 81_920
    assert of_token(**{"attention.head_count_kv": [8] * 40 + [0] * 40}) == 81_920
    assert cache_of({}) is None
    assert of_token(**{"attention.head_count_kv": None}) is None


def test_slots_that_nobody_would_take_are_no_reason_for_fewer(tmp_path: Path) -> None:
    """A llama.cpp of 6 slots with 3 streams: "Try --parallel 3", for the model had the 3 streams 10 % slower than measured."""
    server = {"kind": "llama.cpp", "version": "1", "context": CONTEXT, "slots_said": 6, "facts": {}}
    loads = [Load(users=users, requests=24, output=(16, 16)) for users in (1, 3)]
    advice = _advice_of(analyse(play(tmp_path / "run", loads, slots=6, server=server)), (), None, print)
    assert advice.now == 6
    slower = {
        **advice.predicted_now.figures,
        "output_tokens_per_s.mean": 0.9 * advice.as_now(3).figure("output_tokens_per_s", "mean"),
    }
    doubtful = dataclasses.replace(advice, predicted_now=dataclasses.replace(advice.predicted_now, figures=slower))
    assert work._best(doubtful) == 6


def test_memory_is_unknown_rather_than_guessed(tmp_path: Path) -> None:
    loads = [Load(users=users, requests=24, output=(16, 16)) for users in (2, 8)]
    path = play(tmp_path / "run", loads, server_at_end=None)
    found = analyse(path)
    assert (
        memory_by_slots(found.run, found.slots)
        == "memory unknown: the server does not say what the loaded model takes."
    )
    light = analyse(play(tmp_path / "light", loads[:1]))
    assert "slots that share" in str(memory_by_slots(light.run, light.slots))
    bare = analyse(
        play(tmp_path / "bare", loads, server={"kind": "ollama", "version": "1", "context": 2048, "facts": {}})
    )
    assert "what a slot's KV cache takes" in str(memory_by_slots(bare.run, bare.slots))


def test_memory_by_slots_goes_by_windows_and_by_what_is_loaded(tmp_path: Path) -> None:
    """Of Gemma's layers a few keep the whole context; a cache of q8_0 takes half of what is computed for f16."""
    loads = [Load(users=users, requests=24, output=(16, 16)) for users in (2, 8)]
    gemma = LLAMA_70B | {"block_count": 48, "attention.sliding_window": 1024}

    def found(name: str, loaded: int, **details: Any) -> MemoryBySlots | str:
        server = {"kind": "ollama", "version": "1", "context": 8192, "facts": {"details": details}}
        at_end = {"size": loaded, "size_vram": loaded, "context_length": 8192}
        analysis = analyse(play(tmp_path / name, loads, server=server, server_at_end=at_end))
        return memory_by_slots(analysis.run, analysis.slots)

    windowed = found("windowed", 20 * 2**30, architecture=gemma, family="gemma3")
    assert isinstance(windowed, MemoryBySlots)
    assert windowed.slot_bytes == 2 * 2 * 8 * 128 * (8 * 8192 + 40 * 1536)  # was 2 * 2 * 8 * 128 * 48 * 8192
    weights = 40_000_000_000
    q8 = weights + 4 * 8192 * 327_680 * 17 // 32
    assert "its cache is of a smaller type" in str(found("q8", q8, architecture=LLAMA_70B, file_size=weights))
    for loaded in (weights, int(0.95 * weights)):  # a file's header is not loaded: of a tiny model it is a twentieth
        f16 = found(f"f16-{loaded}", loaded + 4 * 8192 * 327_680, architecture=LLAMA_70B, file_size=weights)
        assert isinstance(f16, MemoryBySlots)
    details = {
        "architecture": LLAMA_70B,
        "file_size": weights,
        "input_embedding": {"type": "F16", "values": 3_000_000_000, "shared": False},
    }
    bare = found("bare", weights - 6_000_000_000 + 4 * 8192 * 327_680, **details)
    assert isinstance(bare, MemoryBySlots)  # of which "its cache is of a smaller type" was said


@pytest.mark.parametrize(
    ("sure_concurrency", "sure_rate", "said"),
    [
        (
            0,
            0.0,
            "TTFT p95 ≤ 1 s holds up to 4 streams at once (though not surely), or 2 requests/s (though not surely)",
        ),
        (2, 1.0, "TTFT p95 ≤ 1 s holds up to 4 streams at once (surely to 2), or 2 requests/s (surely 1)"),
        (4, 1.99, "TTFT p95 ≤ 1 s holds up to 4 streams at once, or 2 requests/s"),
    ],
)
def test_what_no_load_surely_meets_is_not_called_surely_0(sure_concurrency: int, sure_rate: float, said: str) -> None:
    asked = parse_objectives("ttft_p95=1")
    found = SustainableLoad(asked, 4, 4, sure_concurrency, more=False, rate=2.0, sure_rate=sure_rate, extrapolates=None)
    assert found.sentence == said


@pytest.mark.parametrize(("text", "size"), [("80GB", 80e9), ("80", 80e9), ("24 GiB", 24 * 2**30), ("900mb", 9e8)])
def test_sizes(text: str, size: float) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "80XB", "0"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(ScenarioError, match="like 80GB or 24GiB"):
        parse_size(text)


@pytest.mark.parametrize("limit", [*range(20), 31, 32, 33])
def test_the_highest_number_that_holds(limit: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number <= limit

    assert highest(holds, 32) == min(limit, 32)
    assert max(asked) <= 32
    assert highest(lambda number: number <= limit, 6) == min(limit, 6)


def test_at_80_columns_no_cell_is_cut_and_both_figures_of_one_thing_say_why_they_differ(
    tmp_path: Path, loadtest: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = play(tmp_path / "run", [Load(users=users, requests=max(40, 8 * users)) for users in (1, 2, 4, 8)])
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = loadtest("advise", run, "--slo", "ttft_p95=3", "--gpu-memory", "80GB")
    assert code == 0
    rows = [line for line in out.splitlines() if line.startswith((" 1 ", " 2 ", " 16 "))]
    assert len(rows) == 3
    assert all(line.rstrip().endswith("GB") for line in rows)
    told = " ".join(out.split())
    assert "answers were all equally long" in told


def test_a_mark_that_no_cell_has_is_not_explained(tmp_path: Path, loadtest: Call) -> None:
    """The console shows the highest measured load alone, where nothing was extrapolated."""
    run = play(tmp_path / "run", [Load(users=users, requests=20) for users in (1, 2)])
    _, out, _ = loadtest("advise", run)
    assert "*" not in out
    assert "* extrapolated" in (run / "advice.md").read_text(encoding="utf-8").replace("\\*", "*")


def test_a_load_whose_p95_took_too_few_requests_decides_nothing(tmp_path: Path, loadtest: Call) -> None:
    loads = [
        Load(users=1, requests=6),
        Load(users=2, requests=12),
        Load(users=4, requests=24),
        Load(users=8, requests=48),
    ]
    run = play(tmp_path / "run", loads)
    code, out, err = loadtest("advise", run, "--slo", "ttft_p95=8", "--json")
    assert code == 0, err
    advice = json.loads(out)
    assert "Keep OLLAMA_NUM_PARALLEL at 4" in advice["sentences"][0]
    said = {(cell["slots"], cell["concurrency"]): cell["slo_met"] for cell in advice["predictions"]}
    assert (said[4, 1], said[4, 8]) == (None, True)


@pytest.mark.parametrize(("most", "best"), [(1.06, 4), (1.2, 6)])
def test_slots_that_gain_next_to_nothing_are_not_tried(tmp_path: Path, most: float, best: int) -> None:
    """For 2 % within a band of 30 % it said "Try": the slots as measured gave 94 % of the best output, the next ones 96 %."""
    loads = [Load(users=users, requests=24, output=(16, 16)) for users in (2, 8)]
    advice = _advice_of(analyse(play(tmp_path / "run", loads)), (), None, print)
    now = advice.predicted_now.figure("output_tokens_per_s", "mean")

    def output_of(slots: int) -> float:
        return now * (0.5 if slots < 4 else 0.96 * most if slots == 6 else most)

    cells = {
        (slots, load): dataclasses.replace(cell, figures={**cell.figures, "output_tokens_per_s.mean": output_of(slots)})
        for (slots, load), cell in advice.cells.items()
    }
    assert work._best(dataclasses.replace(advice, cells=cells)) == best
