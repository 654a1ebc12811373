"""What is predicted of other loads: cases where the slots are not known, bands, and what is said beside them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support import made_runs
from support.scored import TRUTH, measured, predicted
from support.virtual_runs import Load, play

from loadtest.analyse.reports import prediction_report
from loadtest.analyse.server.queue.slots import known_slots
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.cases import AS_KNOWN, LIMIT_SEEN, NO_LIMIT
from loadtest.errors import PredictionError


def test_a_limit_that_was_not_met_gives_two_cases_and_never_one_figure(tmp_path: Path) -> None:
    document = predicted(measured(tmp_path / "fit", (1, 2, 4)), concurrencies=(4, 8), rates=(1.0,))
    assert document.slots is None
    assert "is not known: at least 4" in document.said[0]
    below, past, rate = document.loads
    assert [case.name for case in below.cases] == [AS_KNOWN]
    for load in (past, rate):
        assert [(case.name, case.slots) for case in load.cases] == [(NO_LIMIT, None), (LIMIT_SEEN, 4)]
    free, limited = past.cases
    assert limited.figures["ttft_s.p50"] > 2 * free.figures["ttft_s.p50"]


def test_a_queue_is_said_to_grow_only_where_the_bands_leave_no_other(tmp_path: Path) -> None:
    """Of 3 requests/s on 8 slots, measured with 4, the band of what the server does went from 1.4 to 3.1."""
    document = predicted(measured(tmp_path / "fit", (1, 2, 4, 8), slots=4), rates=(3.0, 40.0), slots=(8,))
    grown = [said for said in prediction_report.notes(document) if "queue grows" in said]
    assert grown == [
        f"3 requests/s with 8 slots: {prediction_report.MAY_GROW}",
        f"40 requests/s with 8 slots: {prediction_report.GROWS}",
    ]


def test_past_the_streams_that_were_measured_bands_widen(tmp_path: Path) -> None:
    """Without a limit 4, 8 and 16 streams decode together: each doubling adds 40 %."""
    loads = predicted(measured(tmp_path / "fit", (1, 2, 4), slots=None), concurrencies=(4, 8, 16)).loads
    widths = []
    for load in loads:
        case = load.cases[0]
        low, high = case.bands["stream_tokens_per_s.p50"]
        widths.append((high - low) / case.figures["stream_tokens_per_s.p50"])
    assert widths[1] > 2 * widths[0]
    assert widths[2] > widths[1]
    assert loads[2].cases[0].extrapolates is not None


def test_slots_that_the_server_says_are_known(tmp_path: Path) -> None:
    server = {"kind": "llama.cpp", "version": "b1", "slots_said": 5, "simulated": None}
    fit = measured(tmp_path / "fit", (1, 2, 4), says="llamacpp", server=server)
    document = predicted(fit, concurrencies=(8,))
    assert document.slots == 5
    assert document.rests_on["slots"]["how"] == "the server says so"
    assert [case.slots for case in document.loads[0].cases] == [5]
    found = analyse(fit)
    fewer = {**found.run.facts, "server": {**server, "slots_said": 3}}
    found.run.facts.update(fewer)
    assert known_slots(found.run, found.slots).number is None  # four were seen at work


def test_slots_that_a_probe_found_are_known(tmp_path: Path) -> None:
    probe: dict[str, Any] = {"limit": 5, "seen": 5, "how": "", "witnesses": []}
    document = predicted(measured(tmp_path / "fit", (1, 2, 4), slot_probe=probe), concurrencies=(8,))
    assert document.slots == 5
    assert [case.slots for case in document.loads[0].cases] == [5]
    free = {**probe, "limit": None, "seen": 16}
    document = predicted(measured(tmp_path / "free", (1, 2, 4), slot_probe=free), concurrencies=(8, 20))
    assert "at least 16" in document.said[0]
    assert [[case.slots for case in load.cases] for load in document.loads] == [[None], [None, 16]]


def test_a_model_that_does_not_give_back_its_run_predicts_nothing(tmp_path: Path) -> None:
    """At the last level the server was twice as slow as at the others."""
    slow = dataclasses.replace(TRUTH, prefill_s=0.010)
    first = play(TRUTH, [Load(users=1, requests=20), Load(users=2, requests=20)], slots=4)
    other = play(slow, [Load(users=3, requests=30)], slots=4)
    instants = ("t_sched", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")
    shift = first.levels[-1]["ended_ns"] + 10**9
    moved = [
        dataclasses.replace(
            record,
            id=1000 + record.id,
            level=2,
            **dict[str, Any]({name: getattr(record, name) + shift for name in instants}),
            server_first=(record.server_first or 0) + shift,
        )
        for record in other.records
    ]
    level = {**other.levels[0], "index": 2, "started_ns": shift, "ended_ns": shift + other.levels[0]["ended_ns"]}
    run = made_runs.write(tmp_path / "fit", [*first.records, *moved], [*first.levels, level])
    with pytest.raises(
        PredictionError, match=r"^No prediction: the model .* does not give back what it measured: TTFT"
    ):
        predicted(run, concurrencies=(4,))


def test_two_cases_are_spoken_of_where_there_are_two(tmp_path: Path) -> None:
    """With --slots each load has one case, and "every load past that has two cases" stood above."""
    document = predicted(measured(tmp_path / "fit", (1, 2, 4)), concurrencies=(8,), slots=(2,))
    assert document.said[0].startswith(
        "How many requests the server handles in parallel is not known: at least 4. To know it"
    )
