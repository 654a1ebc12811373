"""The published scenarios on the A100 profile's engine, in virtual time."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from loadtest.records import Record
from loadtest.scenario import Scenario
from loadtest.simulate.api import text
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.prompts import of_pieces
from loadtest.simulate.model.stream import Emission, EngineRequest, Stream
from loadtest.simulate.model.timing import NS_PER_S
from loadtest.simulate.model.virtual import closed_loop
from loadtest.simulate.profiles import PROFILES
from loadtest.targets.run_facts import level_facts
from loadtest.workloads.source import nonce_of
from support import made_runs, virtual_runs
from support.places import SCENARIOS

A100 = PROFILES["a100-80g-llama3.1-70b-q4"]


class Machine:
    """The profile's engine in virtual time: runs scenario files one after another, its caches and answers as served."""

    def __init__(self, *, speed: float = 1.0, seed: int = 0) -> None:
        self.speed, self._seed = speed, seed
        self._engine = Engine(A100.timing.scaled(1 / speed), slots=4, loaded=A100.num_ctx)
        self._draw = random.Random(seed)
        self._now = self._asked = 0

    def run(self, name: str, path: Path, **changes: Any) -> Path:
        """Run a scenario file into a run folder."""
        scenario = Scenario.load(SCENARIOS / f"{name}.toml", **changes)
        levels, records = [], []
        for level in scenario.levels():
            start = self._now + NS_PER_S // 10
            plan, tokens = [], defaultdict[int, list[int]](list)
            assert level.concurrency is not None
            warmups = scenario.warmup * level.concurrency
            for _ in range(level.requests + warmups):
                nonce = "" if scenario.warm_cache else f"{nonce_of(self._asked)} "
                said = nonce + (scenario.prompt_text() or "").replace("{words}", str(level.words))
                plan.append(self._request(said, level.output_tokens))

            def see(emission: Emission, tokens: dict[int, list[int]] = tokens) -> None:
                if emission.text:
                    tokens[emission.stream.request.id].append(emission.at)

            starts = [start / NS_PER_S + user * 2e-4 / self.speed for user in range(level.concurrency)]
            streams = closed_loop(self._engine, plan, starts_s=starts, turnaround_s=1e-3 / self.speed, see=see)
            records += [
                _record(stream, tokens[stream.request.id], level.index, warmup=place < warmups)
                for place, stream in enumerate(streams)
            ]
            self._now = max(stream.ended or 0 for stream in streams)
            levels.append({**level_facts(level), "started_ns": start, "ended_ns": self._now})
        simulated = {"profile": A100.name, "speed": self.speed}
        server = {"kind": "ollama", "version": "0.24.0", "context": 2048, "simulated": simulated, "facts": {}}
        return made_runs.write(path, records, levels, scenario=scenario.to_dict(), server=server)

    def _request(self, said: str, limit: int | None) -> EngineRequest:
        self._asked += 1
        prompt = of_pieces(text.chat_pieces([("user", said)]))
        natural = text.natural_length(said, self._draw)
        return EngineRequest(self._asked, prompt, limit or 10 * A100.num_ctx, natural, A100.num_ctx)


def _record(stream: Stream, tokens: list[int], level: int, *, warmup: bool) -> Record:
    record = virtual_runs._record(stream, tokens, level, "ollama", 1e-9, random.Random(0), warmup=warmup)
    return dataclasses.replace(record, t_end=(stream.ended or 0) + 1000, finish_reason=stream.reason)
