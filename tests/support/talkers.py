"""People in conversations over the wire, with a client of their own: run folders whose records carry session and turn.

Each person sends a text, waits for the answer, thinks, and sends the whole conversation with a next text. Records are made
from what httpx gives; stamps are the client's own, which is enough where counts are looked at.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from loadtest.records import Outcome, Record
from support import made_runs
from support.llamacpp import WORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What every conversation is like; lengths in words, which are about as many tokens."""

    turns: int = 4
    first: tuple[int, int] = (80, 240)  # drawn evenly
    later: tuple[int, int] = (20, 40)
    answer: int = 24
    think_s: float = 0.05
    shared: int = 0  # words at the beginning that are the same for all


@dataclass(slots=True)
class Level:
    """One level: so many people, and how many conversations they have in all."""

    people: int
    talks: int
    talk: Talk = field(default_factory=Talk)


def run(url: str, path: Path, levels: Sequence[Level], *, seed: int = 0, **facts: Any) -> Path:
    """Measure `levels` one after another and write the run folder."""
    records: list[Record] = []
    found: list[dict[str, Any]] = []
    zero = time.monotonic_ns()
    for index, level in enumerate(levels):
        start = time.monotonic_ns() - zero
        made = list(_level(url, index, level, zero, seed))
        records += [dataclasses.replace(one, id=len(records) + n) for n, one in enumerate(made)]
        found.append(_facts(index, level, start, time.monotonic_ns() - zero))
    target = {"url": url, "api": "openai", "dialect": "openai-chat", "model": "tiny"}
    server: dict[str, Any] = {"kind": "llamacpp", "version": None, "context": 4096, "simulated": None, "facts": {}}
    scenario = {"turns": levels[0].talk.turns, "answers": "server", "concurrency": [level.people for level in levels]}
    return made_runs.write(path, records, found, **{"target": target, "server": server, "scenario": scenario, **facts})


def hidden(path: Path, into: Path, *, timings: bool = True) -> Path:
    """Copy a run folder as of a server that says nothing of its prefix cache; `timings` False: nor of its durations."""
    shutil.copytree(path, into)
    for file in into.glob("requests-*.jsonl"):
        header, *lines = file.read_bytes().splitlines()
        rows = [_hide(orjson.loads(line), timings=timings) for line in lines]
        file.write_bytes(b"".join(line + b"\n" for line in (header, *map(orjson.dumps, rows))))
    return into


def _hide(row: dict[str, Any], *, timings: bool) -> dict[str, Any]:
    server = row.get("server") or {}
    usage = {key: value for key, value in server.get("usage", {}).items() if key != "prompt_tokens_details"}
    told = {key: value for key, value in server.get("timings", {}).items() if key not in ("cache_n", "prompt_n")}
    return {**row, "server": {"usage": usage, **({"timings": told} if timings and told else {})}}


def _facts(index: int, level: Level, start: int, end: int) -> dict[str, Any]:
    return {
        "index": index,
        "concurrency": level.people,
        "input_tokens": None,
        "output_tokens": level.talk.answer,
        "words": None,
        "requests": None,
        "rate": None,
        "sessions": True,
        "turns": str(level.talk.turns),
        "started_ns": start,
        "ended_ns": end,
    }


def _level(url: str, index: int, level: Level, zero: int, seed: int) -> Iterator[Record]:
    ready: list[Record] = []
    numbers = iter(range(level.talks))
    lock = threading.Lock()

    def person(user: int) -> None:
        time.sleep(user * level.talk.think_s / level.people)  # people join spread over a think time
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            ready.extend(_talk(url, index, user, number, level.talk, zero, seed))

    people = [threading.Thread(target=person, args=(user,)) for user in range(level.people)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    yield from sorted(ready, key=lambda record: record.t_send or 0)


def _talk(url: str, level: int, user: int, number: int, talk: Talk, zero: int, seed: int) -> Iterator[Record]:
    draw = random.Random(f"{seed}:{level}:{number}")
    shared = " ".join(random.Random(0).choices(WORDS, k=talk.shared))
    said: list[dict[str, str]] = [{"role": "system", "content": shared}] if talk.shared else []
    before = None
    for turn in range(talk.turns):
        words = draw.randint(*(talk.later if turn else talk.first))
        said.append({"role": "user", "content": " ".join(draw.choices(WORDS, k=words))})
        if before is not None:
            time.sleep(max(draw.expovariate(1 / talk.think_s), 0.0) if talk.think_s else 0.0)
        record, text = _ask(url, said, talk.answer, zero)
        said.append({"role": "assistant", "content": text})
        before = record.t_end
        yield dataclasses.replace(
            record, level=level, session=number, turn=turn, user=user, seed=number, asked=talk.answer
        )


def _ask(url: str, said: list[dict[str, str]], limit: int, zero: int) -> tuple[Record, str]:
    body = {"model": "tiny", "messages": said, "max_tokens": limit, "stream": True, "temperature": 0}
    body["stream_options"] = {"include_usage": True}
    send = time.monotonic_ns() - zero
    chunks: list[int] = []
    server: dict[str, Any] = {}
    text = ""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=300, trust_env=False) as answer:
        headers = time.monotonic_ns() - zero
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = orjson.loads(line[6:])
            server |= {key: event[key] for key in ("usage", "timings") if event.get(key)}
            piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if piece:
                chunks.append((time.monotonic_ns() - zero - send) // 1000)
                text += piece
    end = time.monotonic_ns() - zero
    first = send + chunks[0] * 1000
    record = Record(
        id=0,
        level=0,
        seed=0,
        dialect="openai-chat",
        model="tiny",
        outcome=Outcome.OK,
        t_sched=send,
        t_send=send,
        t_headers=headers,
        t_first_byte=headers,
        t_first_token=first,
        t_first_visible=first,
        t_end=end,
        chunks=chunks,
        reads=len(chunks),
        stamped=len(chunks),
        arrivals=len(chunks),
        prompt_tokens=server["usage"]["prompt_tokens"],
        output_tokens=server["usage"]["completion_tokens"],
        token_source="server",
        server=server,
        status=200,
        finish_reason="length",
    )
    return record, text
