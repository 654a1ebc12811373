"""Servers that do not step in batches: their slots, found over real sockets without batches and without durations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.foreign_server import MODEL, ForeignServer, foreign_server

from loadtest.analyse.run import frames
from loadtest.analyse.server.queue import slots
from loadtest.analyse.server.queue.slots import Slots

Command = Callable[..., tuple[int, str, str]]


def measured(loadtest: Command, server: ForeignServer, users: str, path: Path, requests: int = 30) -> Slots:
    """Measure a server, and return what the run shows of its slots."""
    with foreign_server(server):
        options = ("--api", "openai", "--model", MODEL, "--output-tokens", "100", "--requests", str(requests))
        code, _, err = loadtest("run", server.url, *options, "--concurrency", users, "--out", path)
    assert code in (0, 3), err  # 3: void, where this machine is busy
    return slots.estimate_slots(frames.load(path))


@pytest.mark.parametrize("sequences", [2, 3, 5, 8])
def test_slots_of_a_server_whose_sequences_have_a_clock_each(sequences: int, loadtest: Command, tmp_path: Path) -> None:
    server = ForeignServer(sequences=sequences, ttft_s=0.080, gap_s=0.004, tokens=(10, 90))
    found = measured(loadtest, server, f"1,{2 * sequences + 1}", tmp_path / "run")
    assert server.peak == sequences
    assert (found.estimate, found.limit) == (sequences, True), found.method
    assert "of the time with more than" in found.method


def test_slots_of_a_server_whose_prefill_slows_down_under_load(loadtest: Command, tmp_path: Path) -> None:
    """Twice as slow with all sequences taken: an idle server's TTFT alone would not do.

    Of shorter answers a busy machine hardly ever shows four at once, and "at least 3" is all that is known.
    """
    server = ForeignServer(sequences=4, ttft_s=0.150, gap_s=0.003, tokens=(40, 120), factor=2.0)
    found = measured(loadtest, server, "1,2,4,9", tmp_path / "run")
    assert (found.estimate, found.limit) == (4, True), found.method


def test_a_server_that_takes_everybody_has_no_slots(loadtest: Command, tmp_path: Path) -> None:
    server = ForeignServer(sequences=None, ttft_s=0.080, gap_s=0.003, tokens=(10, 90))
    found = measured(loadtest, server, "1,6", tmp_path / "run")
    assert not found.limit
