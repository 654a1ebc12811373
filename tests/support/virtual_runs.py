"""Run folders of the simulated engine in virtual time: any server, any load, its whole truth, without waiting for it."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from loadtest.records import Outcome, Record
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.prefix_cache import HostCache
from loadtest.simulate.model.stream import Emission, EngineRequest, Stream
from loadtest.simulate.model.timing import NS_PER_S, Timing
from loadtest.simulate.model.virtual import EngineScript, EngineTurn, closed_loop, cold_prompt, open_loop, people
from support import made_runs

BREAK_NS = 100_000_000  # between levels


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One level: so many users in a closed loop, or requests at a rate; lengths drawn evenly from (least, most)."""

    users: int = 1
    requests: int = 40  # measured ones; one warm-up a user comes first
    prompt: tuple[int, int] = (100, 100)
    output: tuple[int, int] = (50, 50)
    rate: float | None = None  # requests/s, Poisson: an open loop
    pace: float = 1.0  # of the server meanwhile: all of its times are so many times as long


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLoad:
    """One level of people in conversations; lengths drawn evenly from (least, most), thinking exponentially."""

    users: int
    sessions: int = 0
    turns: int = 4
    first: tuple[int, int] = (200, 800)
    later: tuple[int, int] = (20, 60)
    answer: tuple[int, int] = (40, 60)
    think_s: float = 5.0
    warmup: bool = False  # the first conversation of each user
    scripts: tuple[EngineScript, ...] = ()  # the conversations themselves, in place of drawn ones


@dataclass(slots=True)
class Played:
    """What the engine did: records as the client would write them, and the engine's own streams, by request id."""

    levels: list[dict[str, Any]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    streams: dict[int, Stream] = field(default_factory=dict)

    def write(self, path: Path, **facts: Any) -> Path:
        """Write the run folder."""
        return made_runs.write(path, self.records, self.levels, **facts)


def play(
    timing: Timing,
    loads: Sequence[Load],
    *,
    slots: int | None,
    seed: int = 0,
    says: str | None = "ollama",
    noise_s: float = 30e-6,
    lifo: bool = False,
) -> Played:
    """Run `loads` one after another against one engine.

    Args:
        says: which durations come with an answer: "ollama" (native API), "llamacpp" (timings), "vllm" (metrics) or None (plain OpenAI).
        noise_s: mean of the exponential delay of each read of the client's.
    """
    draw = random.Random(seed)
    engine = Engine(timing, slots=slots, seed=seed, loaded=4096, lifo=lifo)
    played = Played()
    ids = count()
    start = 0
    for index, load in enumerate(loads):
        if load.pace != 1:
            engine = Engine(timing.scaled(load.pace), slots=slots, seed=seed, loaded=4096, lifo=lifo)
        warmups = 0 if load.rate else load.users
        plan = [_request(next(ids), load, draw) for _ in range(load.requests + warmups)]
        tokens: dict[int, list[int]] = defaultdict(list)

        def see(emission: Emission, tokens: dict[int, list[int]] = tokens) -> None:
            tokens[emission.stream.request.id].append(emission.at)

        if load.rate:
            instants = _poisson(load.rate, len(plan), start / NS_PER_S, draw)
            streams = open_loop(engine, plan, instants, see=see)
        else:
            starts = [start / NS_PER_S + user * 1e-4 for user in range(load.users)]
            streams = closed_loop(engine, plan, starts_s=starts, turnaround_s=0.001, see=see)
        for ordinal, stream in enumerate(streams):
            record = _record(stream, tokens[stream.request.id], index, says, noise_s, draw, warmup=ordinal < warmups)
            played.records.append(record)
            played.streams[stream.request.id] = stream
        end = max(stream.ended or 0 for stream in streams)
        played.levels.append(_level(index, load, start, end))
        start = end + BREAK_NS
    return played


def play_sessions(
    timing: Timing,
    loads: Sequence[SessionLoad],
    *,
    slots: int | None,
    seed: int = 0,
    says: str | None = "llamacpp",
    host: HostCache | None = None,
    answers_kept: bool = True,
    shared: int = 0,
) -> Played:
    """Run levels of people one after another against one engine; arguments as `play` has them, `host` is its host cache.

    All conversations begin with `shared` tokens.
    """
    draw = random.Random(seed)
    engine = Engine(timing, slots=slots, seed=seed, loaded=1 << 20, host=host)
    played = Played()
    start, number = 0, 0
    for index, load in enumerate(loads):
        tokens: dict[int, list[int]] = defaultdict(list)

        def see(emission: Emission, tokens: dict[int, list[int]] = tokens) -> None:
            tokens[id(emission.stream)].append(emission.at)

        starts = [start / NS_PER_S + user * load.think_s / load.users for user in range(load.users)]
        turns = people(
            engine,
            load.scripts or [_script(load, draw) for _ in range(load.sessions)],
            starts_s=starts,
            num_ctx=1 << 20,
            answers_kept=answers_kept,
            shared=shared,
            see=see,
            prefix=index,
        )
        for one in turns:
            warm = load.warmup and one.session < load.users
            record = _record(one.stream, tokens[id(one.stream)], index, says, 30e-6, draw, warmup=warm)
            record = dataclasses.replace(record, user=one.user, session=one.session, turn=one.turn, id=number)
            played.records.append(record)
            played.streams[number] = one.stream
            number += 1
        end = max(one.stream.ended or 0 for one in turns)
        level = _level(index, Load(users=load.users), start, end)
        played.levels.append({**level, "requests": None, "input_tokens": None, "output_tokens": None, "sessions": True})
        start = end + BREAK_NS
    return played


def _script(load: SessionLoad, draw: random.Random) -> list[EngineTurn]:
    turns: list[EngineTurn] = []
    for turn in range(load.turns):
        said = draw.randint(*(load.later if turn else load.first))
        before = turns[-1].prompt + turns[-1].answer if turns else 0
        turns.append(EngineTurn(before + said, draw.randint(*load.answer), draw.expovariate(1 / load.think_s)))
    return turns


def _request(number: int, load: Load, draw: random.Random) -> EngineRequest:
    return EngineRequest(number, cold_prompt(draw.randint(*load.prompt), number), draw.randint(*load.output))


def _poisson(rate: float, requests: int, start_s: float, draw: random.Random) -> list[float]:
    instants, at = [], start_s
    for _ in range(requests):
        at += draw.expovariate(rate)
        instants.append(at)
    return instants


def _record(
    stream: Stream,
    tokens: list[int],
    level: int,
    says: str | None,
    noise_s: float,
    draw: random.Random,
    *,
    warmup: bool,
) -> Record:
    send = stream.arrived
    # Reads come in order: a late one delays those behind it.
    chunks, latest = [], 0
    for token in tokens:
        latest = max(latest, (token - send) // 1000 + round(draw.expovariate(1 / noise_s) * 1e6))
        chunks.append(latest)
    first = send + chunks[0] * 1000
    assert stream.prefill_start is not None
    headers = (
        stream.prefill_start + 200_000 if says == "llamacpp" else send + 1_000_000 if says in (None, "vllm") else first
    )
    return Record(
        id=stream.request.id,
        level=level,
        seed=stream.request.id,
        dialect="ollama-chat" if says == "ollama" else "openai-chat",
        model="virtual",
        outcome=Outcome.OK,
        t_sched=send,
        t_send=send,
        t_headers=headers,
        t_first_byte=headers,
        t_first_token=first,
        t_first_visible=first,
        t_end=send + chunks[-1] * 1000 + 200_000,
        chunks=chunks,
        reads=len(chunks),
        stamped=len(chunks),
        arrivals=len(chunks),
        asked=stream.request.limit,
        asked_input=stream.prompt_tokens,
        prompt_tokens=stream.prompt_tokens,
        output_tokens=stream.tokens,
        token_source="server",
        server=_said(stream, says),
        server_us=[(token - tokens[0]) // 1000 for token in tokens] if says == "ollama" else None,
        server_first=made_runs.WALL + tokens[0] if says == "ollama" else None,
        status=200,
        finish_reason="length",
        warmup=warmup,
    )


def _said(stream: Stream, says: str | None) -> dict[str, Any]:
    usage = {"usage": {"prompt_tokens": stream.prompt_tokens, "completion_tokens": stream.tokens}}
    if says is None:
        return usage
    if says == "llamacpp":
        timings = {
            "prompt_n": stream.prompt_tokens - stream.cached,
            "cache_n": stream.cached,
            "prompt_ms": stream.prefill_ns / 1e6,
            "predicted_n": stream.tokens,
            "predicted_ms": stream.decode_ns / 1e6,
        }
        return usage | {"timings": timings}
    if says == "vllm":
        assert stream.prefill_start is not None, "it was begun"
        assert stream.scheduled is not None, "it was queued"
        return usage | {
            "metrics": {
                "queue_time_ms": (stream.prefill_start - stream.scheduled) / 1e6,
                "time_to_first_token_ms": stream.prefill_ns / 1e6,
                "generation_time_ms": stream.decode_ns / 1e6,
            }
        }
    return {
        "total_duration": (stream.ended or 0) - stream.arrived,
        "load_duration": stream.load_ns,
        "prompt_eval_count": stream.prompt_tokens,
        "prompt_eval_duration": stream.prefill_ns,
        "eval_count": stream.tokens,
        "eval_duration": stream.decode_ns,
    }


def _level(index: int, load: Load, start: int, end: int) -> dict[str, Any]:
    fixed_in, fixed_out = (pair[0] if pair[0] == pair[1] else None for pair in (load.prompt, load.output))
    return {
        "index": index,
        "concurrency": None if load.rate else load.users,
        "input_tokens": fixed_in,
        "output_tokens": fixed_out,
        "words": None,
        "requests": load.requests,
        "rate": load.rate,
        "started_ns": start,
        "ended_ns": end,
    }
