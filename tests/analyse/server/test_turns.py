"""Models that take turns on a server: loads counted, time lost, and only where nothing else explains the waits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import MS, Made, closed_loop, write
from support.two_models import HERE, THERE, target

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.summary import Analysis, analyse
from loadtest.records import Record

LOAD_MS = 400


def moved(record: Record, by: int, **changes: Any) -> Record:
    names = [field.name for field in dataclasses.fields(record) if field.name.startswith("t_")]
    instants = {name: value + by for name in names if (value := getattr(record, name)) is not None}
    return dataclasses.replace(record, **instants, server_first=(record.server_first or 0) + by, **changes)


def with_load(record: Record, load_ns: int, **changes: Any) -> Record:
    """Send a request earlier by a load, which its server tells of."""
    server = {**(record.server or {}), "load_duration": load_ns}
    server["total_duration"] = server.get("total_duration", 0) + load_ns
    sent = (record.t_send or 0) - load_ns
    chunks = [chunk + load_ns // 1000 for chunk in record.chunks]  # since t_send
    return dataclasses.replace(record, t_sched=sent, t_send=sent, server=server, chunks=chunks, **changes)


def taking_turns(
    path: Path,
    rounds: int,
    *,
    apart: bool = True,
    room: bool = False,
    quick: tuple[int, ...] = (),
    urls: tuple[str, str] = (HERE, HERE),
    **facts: Any,
) -> Analysis:
    """One user of each of two models. With `apart` each waits for the other's answer and a load, else both answer at once.

    With `room` as well, loads go on beside the other's answer, as where each model is unloaded after its own. The loads of the
    numbers `quick` take a tenth of the time.
    """
    one = closed_loop(Made(gap_ms=10, slots=1), level=0, users=1, requests=1, start_ns=0).records[-1]
    one = moved(one, -(one.t_send or 0), warmup=False)
    length = one.t_end - one.t_sched
    records: list[Record] = []
    at = 10_000 * MS
    for number in range(2 * rounds):
        which = number % 2
        named: dict[str, Any] = {"id": number, "model": ("mid", "small")[which], "target": which}
        if apart and room:
            at += LOAD_MS * MS * (1 + number % 5) // 6  # the rest of it went on before the other's answer ended
            records.append(with_load(moved(one, at, **named), LOAD_MS * MS))
            at += length
        elif apart:
            took = LOAD_MS * MS // (10 if number in quick else 1)
            at += took  # nobody is worked on while a model loads
            others = length + LOAD_MS * MS * (number % 3) // 4  # load and answer
            waited = took + (others if number else 0)
            records.append(with_load(moved(one, at, **named), waited))
            at += length
        else:
            at += (length if which == 0 else 0) + (LOAD_MS * MS if which == 0 else 0)
            records.append(with_load(moved(one, at, **named), LOAD_MS * MS))
    records = sorted(records, key=lambda record: record.t_sched)
    level = {
        "index": 0,
        "label": "2 streams · 100 in · 20 out",
        "concurrency": 2,
        "input_tokens": 100,
        "output_tokens": 20,
        "started_ns": records[0].t_sched,
        "ended_ns": max(record.t_end for record in records),
    }
    targets = [target("mid", urls[0]), target("small", urls[1])]
    return analyse(write(path, records, [level], targets=targets, **facts))


def test_turns_are_counted_and_what_they_cost(tmp_path: Path) -> None:
    one = taking_turns(tmp_path / "run", 7)
    (turns,) = one.summary["turns"]
    assert (turns["models"], turns["loads"]) == ({"mid": 7, "small": 7}, 14)
    assert turns["loading_s"] == pytest.approx(14 * LOAD_MS / 1e3, rel=0.02)
    requests = one.run.requests
    length = float(requests["end"].max() - requests["send"].min())
    assert turns["share"] == pytest.approx(14 * LOAD_MS / 1e3 / length, rel=0.02)
    assert turns["waited"] == 14
    said = " ".join(all_findings(one))
    assert "mid and small took turns: 14 model loads (mid 7, small 7), 5.60 s" in said
    assert "OLLAMA_MAX_LOADED_MODELS" in said
    # was "in use at the same time …: the waits, step times and speeds of each include what the others cost it"
    assert "mid and small were asked for at the same time at http://127.0.0.1:11434: the waits of each include" in said
    assert "was reloaded" not in said  # once, and not fourteen times more
    for _, part in one.groups:
        assert not any(
            "reloaded in mid-run" in reason for level in part.summary["levels"] for reason in level["reasons"]
        )


def test_models_that_answer_at_the_same_time_take_no_turns(tmp_path: Path) -> None:
    one = taking_turns(tmp_path / "run", 7, apart=False)
    assert one.summary["turns"] == []
    assert "in use at the same time at http://127.0.0.1:11434: the waits, step times and speeds" in " ".join(
        all_findings(one)
    )


def test_models_that_load_beside_each_others_answers_take_no_turns(tmp_path: Path) -> None:
    """Was "mid and small took turns" where each had a place of its own, and was unloaded after every answer."""
    assert taking_turns(tmp_path / "run", 7, room=True).summary["turns"] == []


def test_models_in_turn_may_load_in_more_than_one_time(tmp_path: Path) -> None:
    """A real Ollama with OLLAMA_MAX_LOADED_MODELS=1 loaded 22 times in 0.28 s and 3 times in 0.03 s: no turns were seen."""
    (turns,) = taking_turns(tmp_path / "run", 12, quick=(5, 14, 21)).summary["turns"]
    assert turns["loads"] == 24


def test_a_run_that_had_models_unloaded_is_not_told_that_memory_lacked(tmp_path: Path) -> None:
    said = " ".join(all_findings(taking_turns(tmp_path / "run", 7, scenario={"keep_alive": "0"})))
    assert "mid and small took turns" in said
    assert "This run asked for keep_alive 0, with which a server unloads a model after its answers" in said
    assert "OLLAMA_MAX_LOADED_MODELS" not in said


def test_models_of_two_servers_take_no_turns(tmp_path: Path) -> None:
    assert taking_turns(tmp_path / "run", 7, urls=(HERE, THERE)).summary["turns"] == []
