"""Run folders with known truths: from a closed-loop queue model, and from recorded runs of a real Ollama."""

from __future__ import annotations

import dataclasses
import heapq
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.records import Clock, Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from support.places import RECORDED_RUNS

MS = 1_000_000  # ns
WALL = 1_750_000_000_000_000_000
CLOCK = Clock(monotonic_ns=5_000_000_000, wall_ns=WALL)


@dataclass(frozen=True, slots=True)
class Made:
    """A server that is exactly this fast: FIFO, `slots`, prefill, then one token every `gap_ms`."""

    slots: int = 4
    load_ms: int = 2
    prefill_ms: int = 50
    gap_ms: int = 10
    batch_ms: int = 0  # waited after the slot was won
    tokens: int = 20
    prompt_tokens: int = 100
    jitter_ms: Callable[[int], int] = lambda _: 0  # added to the prefill of request i


@dataclass(slots=True)
class Truth:
    """What the model did, by request id."""

    slot_wait: dict[int, float] = field(default_factory=dict)
    batch_wait: dict[int, float] = field(default_factory=dict)
    ttft: dict[int, float] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)


def closed_loop(made: Made, *, level: int, users: int, requests: int, start_ns: int, first_id: int = 0) -> Truth:
    """Play `users` that each send when their last answer has ended; requests in all, and one warm-up each before."""
    truth = Truth()
    free = [(start_ns, user) for user in range(users)]  # when a user sends next
    slots = [start_ns] * made.slots  # when a slot is free next
    heapq.heapify(free)
    for ordinal in range(requests + users):
        sched, user = heapq.heappop(free)
        won = max(sched + made.load_ms * MS, heapq.heappop(slots))
        admitted = won + made.batch_ms * MS
        number = first_id + ordinal
        prefill = (made.prefill_ms + made.jitter_ms(number)) * MS
        first = admitted + prefill
        last = first + (made.tokens - 1) * made.gap_ms * MS
        heapq.heappush(slots, last)
        heapq.heappush(free, (last + MS // 10, user))
        record = _record(made, number, level, sched=sched, first=first, prefill=prefill)
        truth.records.append(dataclasses.replace(record, warmup=ordinal < users))
        truth.slot_wait[number] = (won - sched - made.load_ms * MS) / 1e9
        truth.batch_wait[number] = made.batch_ms / 1e3
        truth.ttft[number] = (first - sched) / 1e9
    return truth


def _record(made: Made, number: int, level: int, *, sched: int, first: int, prefill: int) -> Record:
    chunks = [(first - sched) // 1000 + i * made.gap_ms * 1000 for i in range(made.tokens)]
    last = sched + chunks[-1] * 1000
    return Record(
        id=number,
        level=level,
        seed=number,
        dialect="ollama-chat",
        model="made",
        outcome=Outcome.OK,
        t_sched=sched,
        t_send=sched,
        t_headers=first,
        t_first_byte=first,
        t_first_token=first,
        t_first_visible=first,
        t_end=last + MS // 10,
        chunks=chunks,
        reads=made.tokens,
        stamped=made.tokens,
        arrivals=made.tokens,
        asked=made.tokens,
        asked_input=made.prompt_tokens,
        prompt_tokens=made.prompt_tokens,
        output_tokens=made.tokens,
        token_source="server",
        server={
            "total_duration": last - sched,
            "load_duration": made.load_ms * MS,
            "prompt_eval_duration": prefill,
            "prompt_eval_count": made.prompt_tokens,
            "eval_duration": last - first,
            "eval_count": made.tokens,
        },
        server_us=[chunk - chunks[0] for chunk in chunks],
        server_first=WALL + first,
        status=200,
        finish_reason="length",
    )


def unanswered(record: Record, outcome: Outcome, **more: Any) -> Record:
    """Return the record as it is where no answer came."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("t_first_token", "t_first_visible", "server", "server_us", "server_first", "output_tokens")
    )
    return dataclasses.replace(record, outcome=outcome, chunks=[], **(nothing | more))


INSTANTS = ("t_sched", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")


def loading(records: Iterable[Record], ids: Iterable[int], *, load_ms: int) -> list[Record]:
    """Return the records as they are where these requests wait for one load of the model, and who is sent later is later."""
    waiting, records = set(ids), list(records)
    sent = [record.t_send or 0 for record in records if record.id in waiting]
    loaded = min(sent) + load_ms * MS
    found = []
    for record in records:
        changes: dict[str, Any] = {}
        if record.id in waiting:
            load = loaded - (record.t_send or 0)
            more = load - (record.server or {}).get("load_duration", 0)
            changes = {name: (getattr(record, name) or 0) + more for name in INSTANTS[2:]}
            changes |= {"server": {**(record.server or {}), "load_duration": load}}
            changes |= {"chunks": [chunk + more // 1000 for chunk in record.chunks]}
        elif (record.t_send or 0) > max(sent):
            changes = {name: (getattr(record, name) or 0) + load_ms * MS for name in INSTANTS}
        found.append(dataclasses.replace(record, **changes))
    return found


def grid(made: Made, users: Iterable[int], *, each: int = 8) -> tuple[list[dict[str, Any]], Truth]:
    """Play one level after another; return run.json's levels and the truth of all."""
    levels: list[dict[str, Any]] = []
    truth = Truth()
    start = 0
    for index, streams in enumerate(users):
        part = closed_loop(
            made, level=index, users=streams, requests=each * streams, start_ns=start, first_id=len(truth.records)
        )
        end = max(record.t_end for record in part.records)
        levels.append(
            {
                "index": index,
                "concurrency": streams,
                "input_tokens": made.prompt_tokens,
                "output_tokens": made.tokens,
                "words": None,
                "requests": each * streams,
                "rate": None,
                "started_ns": start,
                "ended_ns": end,
            }
        )
        truth.records += part.records
        truth.slot_wait |= part.slot_wait
        truth.batch_wait |= part.batch_wait
        truth.ttft |= part.ttft
        start = end + 50 * MS
    return levels, truth


def write(
    path: Path,
    records: Iterable[Record],
    levels: Sequence[dict[str, Any]],
    *,
    samples: Iterable[dict[str, Any]] = (),
    **facts: Any,
) -> Path:
    """Write a run folder of these records; `facts` are laid over a plausible run.json."""
    folder = RunFolder.create(path)
    writer = folder.record_writer(CLOCK)
    for record in records:
        writer.write(record)
    writer.close()
    sampler = folder.sample_writer(CLOCK, source="driver")
    for sample in samples:
        sampler.write(sample)
    sampler.close()
    folder.write_run(
        {
            "name": "made",
            "driver": "asyncio",
            "started": "2026-01-01T00:00:00Z",
            "state": "done",
            "scenario": Scenario(name="made").to_dict(),
            "target": {"url": "http://127.0.0.1:11434", "api": "ollama", "dialect": "ollama-chat", "model": "made"},
            "server": {"kind": "ollama", "version": "0.33.0", "context": 4096, "simulated": None, "facts": {}},
            "tokens": {"source": "tiktoken", "ratio": 1.0, "overhead": 0},
            "levels": levels,
            "client": {
                "host": "here",
                "cpus": 2,
                "kernel": "6.1",
                "python": "3.11",
                "stamps": "kernel",
                "clock_steps": [],
            },
            "versions": {"loadtest": "0"},
            "comparability": {},
            **facts,
        }
    )
    return path


def make(
    path: Path, made: Made | None = None, users: Iterable[int] = (1, 2, 4, 8), *, each: int = 8, **facts: Any
) -> Truth:
    """Write a whole made-up run folder and return its truth."""
    levels, truth = grid(made or Made(), users, each=each)
    write(path, truth.records, levels, **facts)
    return truth


def recorded(path: Path, names: Iterable[str]) -> Path:
    """Write a run folder from recorded runs, each file of tests/runs a level; first and last of it none are warm-up."""
    records: list[Record] = []
    levels: list[dict[str, Any]] = []
    start = 0
    model = server = ""
    for index, name in enumerate(names):
        head, *lines = [json.loads(line) for line in (RECORDED_RUNS / f"{name}.jsonl").read_text().splitlines()]
        facts = head["facts"]
        model, server = facts["model"], facts["server"].removeprefix("Ollama ")
        records += [_real(line, index, model, start, len(records) + n) for n, line in enumerate(lines)]
        end = max(record.t_end for record in records)
        mixed = "," in facts["tokens"]
        levels.append(
            {
                "index": index,
                "concurrency": facts["concurrency"],
                "input_tokens": None,
                "output_tokens": None if mixed else int(facts["tokens"]),
                "words": None if mixed else int(facts["words"]),
                "requests": facts["requests"],
                "rate": None,
                "started_ns": start,
                "ended_ns": end,
            }
        )
        start = end + 100 * MS
    return write(
        path,
        records,
        levels,
        name="recorded",
        target={"url": "http://127.0.0.1:11434", "api": "ollama", "dialect": "ollama-chat", "model": model},
        server={"kind": "ollama", "version": server, "context": 4096, "simulated": None, "facts": {}},
    )


def _real(line: dict[str, Any], level: int, model: str, start: int, number: int) -> Record:
    send = start + line["sent_us"] * 1000
    chunks = line["chunks_us"]
    first = send + chunks[0] * 1000
    return Record(
        id=number,
        level=level,
        seed=number,
        dialect="ollama-chat",
        model=model,
        outcome=Outcome(line["outcome"]),
        t_sched=send,
        t_send=send,
        t_headers=first,
        t_first_byte=first,
        t_first_token=first,
        t_first_visible=first,
        t_end=start + line["end_us"] * 1000,
        chunks=chunks,
        reads=len(set(chunks)),
        stamped=len(set(chunks)),
        arrivals=len(set(chunks)),
        first_coalesced=len(chunks) > 1 and chunks[0] == chunks[1],
        asked=line["asked"],
        prompt_tokens=line["prompt_tokens"],
        output_tokens=line["output_tokens"],
        token_source="server",
        server={
            "total_duration": line["total_ns"],
            "load_duration": line["load_ns"],
            "prompt_eval_duration": line["prompt_eval_ns"],
            "prompt_eval_count": line["prompt_tokens"],
            "eval_duration": line.get("eval_ns"),
            "eval_count": line["output_tokens"],
        },
        server_us=line["server_us"],
        server_first=WALL + start + line["server_first_us"] * 1000,
        status=200,
        finish_reason=line["why"],
    )
