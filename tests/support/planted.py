"""Runs in virtual time with one planted cause, and the same runs without it: does an explanation name it?

`PYTHONPATH=.:tests python -m support.planted [SEEDS]` prints how many it names, and how far the what-if is off.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtest.analyse.explain import time_parts as parts
from loadtest.analyse.explain.explanation import Explainer, Explanation, blame, row_of
from loadtest.analyse.summary import analyse
from loadtest.records import Outcome, Record
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.stream import EngineRequest, Stream
from loadtest.simulate.model.timing import NS_PER_S, StepLaw, Timing
from loadtest.simulate.model.virtual import cold_prompt
from support import made_runs, virtual_runs

PROMPT, ANSWER, CANCELLED, EVICTOR, BUSY, LOAD = (
    "giant prompt",
    "giant answer",
    "cancelled giant",
    "cache evictor",
    "busy core",
    "model load",
)
KINDS = (PROMPT, ANSWER, CANCELLED, EVICTOR, BUSY, LOAD)
RESIDENT = 4096


@dataclass(frozen=True, slots=True)
class Sent:
    """A request of the plan: an arrival of its own, or a turn that follows the one before it."""

    id: int
    prompt: int
    output: int
    at: float | None = None  # seconds; None: `pause` after the answer to `after`
    after: int | None = None
    pause: float = 0.0
    gone: float | None = None  # seconds after its send, when its client hangs up
    session: int | None = None
    turn: int | None = None
    prefix: int = 0  # key whose tokens its prompt begins with, all of it
    held: float = 0.0  # seconds before `at` that it was sent: a gateway held it back meanwhile


@dataclass(frozen=True, slots=True)
class Case:
    """One server and plan, with and without what was planted."""

    kind: str
    timing: Timing
    slots: int
    says: str | None
    plan: tuple[Sent, ...]
    planted: int | None  # id of the request that is the cause
    busy: tuple[float, float, float] | None = None  # from, to, how many times slower
    unload: float | None = None  # when the model is dropped

    def without(self) -> Case:
        """Return the case without its cause."""
        plan = tuple(each for each in self.plan if each.id != self.planted)
        return dataclasses.replace(self, plan=plan, planted=None, busy=None, unload=None)


@dataclass(slots=True)
class Playing:
    """Plays a case on an engine."""

    case: Case
    seed: int
    streams: dict[int, Stream] = field(default_factory=dict)
    tokens: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    left: dict[int, int] = field(default_factory=dict)

    def play(self) -> Playing:
        case, order = self.case, itertools.count()
        engine = Engine(case.timing, slots=case.slots, seed=self.seed, loaded=RESIDENT)
        due: list[tuple[int, int, str, Sent | None]] = []
        behind: dict[int, list[Sent]] = defaultdict(list)

        def at(instant: float, what: str, one: Sent | None = None) -> None:
            heapq.heappush(due, (round(instant * NS_PER_S), next(order), what, one))

        for one in case.plan:
            if one.at is not None:
                at(one.at, "send", one)
            else:
                behind[one.after or 0].append(one)
        if case.busy:
            at(case.busy[0], "busy")
            at(case.busy[1], "calm")
        if case.unload is not None:
            at(case.unload, "unload")
        while True:
            soon = engine.due()
            if due and (soon is None or due[0][0] <= soon):
                now, _, what, who = heapq.heappop(due)
                if what == "send" and who is not None:
                    self.streams[who.id] = engine.submit(self._request(who), now)
                    if who.gone is not None:
                        at(now / NS_PER_S + who.gone, "leave", who)
                elif what == "leave" and who is not None and self.streams[who.id].ended is None:
                    engine.cancel(self.streams[who.id], now)
                    self.left[who.id] = now
                elif what == "busy" and case.busy:
                    engine.timing = case.timing.scaled(case.busy[2])
                    engine._step_values.clear()
                elif what == "calm":
                    engine.timing = case.timing
                    engine._step_values.clear()
                elif what == "unload":
                    engine.unload()
                    if engine.loaded is not None:
                        at(now / NS_PER_S + 0.01, "unload")
            elif soon is None:
                return self
            else:
                for emission in engine.advance(soon):
                    number = emission.stream.request.id
                    self.tokens[number].append(emission.at)
                    if emission.done:
                        for one in behind.pop(number, []):
                            at(emission.at / NS_PER_S + one.pause, "send", one)

    def _request(self, one: Sent) -> EngineRequest:
        return EngineRequest(one.id, cold_prompt(one.prompt, one.prefix or one.id), one.output, num_ctx=RESIDENT)

    def ttft(self, number: int) -> float:
        stream = self.streams[number]
        assert stream.first is not None
        return (stream.first - stream.arrived) / NS_PER_S

    def write(self, path: Path) -> Path:
        """Write the run folder."""
        draw = random.Random(self.seed)
        records = [self._record(one, draw) for one in self.case.plan if one.id in self.streams]
        records.sort(key=lambda record: record.t_sched)
        end = max(record.t_end for record in records)
        level = virtual_runs._level(0, virtual_runs.Load(rate=1.0, prompt=(1, 2), output=(1, 2)), 0, end)
        return made_runs.write(path, records, [level])

    def _record(self, one: Sent, draw: random.Random) -> Record:
        stream, says = self.streams[one.id], self.case.says
        more: dict[str, Any] = {"session": one.session, "turn": one.turn}
        if one.id in self.left:
            return self._cancelled(one, stream)
        found = virtual_runs._record(stream, self.tokens[one.id], 0, says, 30e-6, draw, warmup=False)
        server = dict(found.server or {})
        if says == "llamacpp":
            server["timings"] = {
                **server["timings"],
                "cache_n": stream.cached,
                "prompt_n": stream.prompt_tokens - stream.cached,
            }
        if says == "ollama" and one.session is not None:
            server["usage"] = {"prompt_tokens_details": {"cached_tokens": stream.cached}}
        held = round(one.held * NS_PER_S)
        return dataclasses.replace(
            found,
            server=server,
            t_sched=found.t_sched - held,
            t_send=stream.arrived - held,
            chunks=[each + held // 1000 for each in found.chunks],
            **more,
        )

    def _cancelled(self, one: Sent, stream: Stream) -> Record:
        gone = self.left[one.id]
        return Record(
            id=one.id,
            level=0,
            seed=one.id,
            dialect="ollama-chat" if self.case.says == "ollama" else "openai-chat",
            model="virtual",
            outcome=Outcome.TIMEOUT,
            t_sched=stream.arrived,
            t_send=stream.arrived,
            t_end=gone,
            asked=one.output,
            asked_input=one.prompt,
            error="no token in time",
        )


def make(kind: str, seed: int) -> Case:
    """Draw a case of a kind."""
    dice = random.Random(f"{kind} {seed}")
    base = 10 ** dice.uniform(-2.1, -1.4)
    slots = dice.choice((1, 2, 2, 3, 4))
    timing = Timing(
        step=StepLaw(base, base * dice.uniform(0.05, 0.4)),
        prefill_s=base * 10 ** dice.uniform(-1.8, -1.1),
        jitter=dice.choice((0.0, 0.03, 0.08)),
        handover_s=0.001,
        load_s=dice.uniform(2.0, 6.0),
    )
    says: str | None = dice.choice(("ollama", "ollama", "llamacpp", None))
    if kind == EVICTOR:
        return _evicting(dice, timing, dice.choice(("ollama", "llamacpp")))
    if kind in (PROMPT, CANCELLED):
        slots = max(slots, 2)
    count, output = 120, (20, 80)
    prompt = (60, 300)
    work = 50 * timing.step.values(slots)[0] / slots + 180 * timing.prefill_s
    rate = dice.uniform(0.35, 0.6) / work
    plan, now = [], 0.0
    for number in range(count):
        now += dice.expovariate(rate)
        plan.append(Sent(number, dice.randint(*prompt), dice.randint(*output), at=now))
    middle = plan[count // 2].at or 0.0
    case = Case(kind, timing, slots, says if kind != LOAD else "ollama", tuple(plan), None)
    if kind == PROMPT:
        giant = Sent(1000, dice.randint(2500, 4000), 30, at=middle - 1e-4)
    elif kind == ANSWER:
        giant = Sent(1000, 150, dice.randint(600, 1200), at=middle - 1e-4)
    elif kind == CANCELLED:
        length = dice.randint(3000, 4000)
        giant = Sent(1000, length, 30, at=middle - 1e-4, gone=0.7 * length * timing.prefill_s)
    elif kind == BUSY:
        span = 12 / rate
        return dataclasses.replace(case, busy=(middle, middle + span, dice.uniform(2.0, 4.0)))
    else:
        return dataclasses.replace(case, unload=middle)
    return dataclasses.replace(case, plan=(*case.plan, giant), planted=1000)


def _evicting(dice: random.Random, timing: Timing, says: str) -> Case:
    """Two people on two slots, and one request by a third that takes the slot of one of them."""
    plan, number = [], 0
    for person in range(2):
        length, before = 0, None
        for turn in range(14):
            length += dice.randint(120, 250)
            key = 900 + person
            first = before is None
            plan.append(
                Sent(
                    number,
                    length,
                    dice.randint(15, 40),
                    at=0.1 * person if first else None,
                    after=before,
                    pause=dice.uniform(0.5, 1.5),
                    session=person,
                    turn=turn,
                    prefix=key,
                )
            )
            before, number = number, number + 1
    # behind one of the turns in the middle, while its person reads the answer
    victim = dice.randint(18, 24)
    giant = Sent(1000, dice.randint(300, 900), 10, after=victim, pause=0.05)
    return Case(EVICTOR, timing, 2, says, (*plan, giant), 1000)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an explanation did."""

    kind: str
    seed: int
    says: str | None
    named: bool
    what_if: float | None  # estimate / truth − 1
    inside: bool | None
    why: str


def victim(case: Case, played: Playing, calm: Sequence[Playing]) -> int | None:
    """Return the request that the cause made slowest: by 30 % and by more than anything else did."""
    if case.kind == LOAD:
        pass
    best, most = None, 0.0
    for one in case.plan:
        if one.id == case.planted or one.id not in played.tokens or one.id in played.left:
            continue
        before = statistics.median(each.ttft(one.id) for each in calm)
        now = played.ttft(one.id)
        if now > 1.4 * before and now - before > most:
            best, most = one.id, now - before
    return best


def named_right(case: Case, found: Explanation, slots: int) -> bool:
    """Whether the explanation puts the planted cause first."""
    names = {part.name: part.seconds for part in found.parts.first}
    if case.kind == LOAD:
        return found.told.what == "load" if found.told else max(names, key=lambda name: names[name]) == parts.MODEL_LOAD
    if case.kind == BUSY:
        return found.slow is not None or names.get(parts.SLOW, 0.0) > 0.2 * found.parts.total_s
    if case.kind == EVICTOR:
        lost = found.parts.lost
        return lost is not None and [each.id for each in lost.newcomers] == [case.planted]
    if found.told is not None:
        return found.told.cause is not None and found.told.cause.id == case.planted
    ranked = blame(found.parts, slots)
    return bool(ranked) and next(iter(ranked.values())).id == case.planted


def examine(kind: str, seed: int) -> Verdict | None:
    """Play a case, explain its victim, and hold that against the truth; None where nobody suffered."""
    case = make(kind, seed)
    played = Playing(case, seed).play()
    calm = [Playing(case.without(), seed + 1000 * again).play() for again in range(3)]
    one = victim(case, played, calm)
    if one is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        analysis = analyse(played.write(Path(folder, "run")))
    found = Explainer.of(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"]).explain(
        row_of(analysis.run, one)
    )
    truth = statistics.median(each.ttft(one) for each in calm)
    wanted = {EVICTOR: "cache", LOAD: "load"}.get(kind, "request")
    said = next(
        (each for each in found.without if each.what == wanted and (not each.cause or each.cause.id == case.planted)),
        None,
    )
    error = said.seconds / truth - 1 if said else None
    inside = said.band[0] <= truth <= said.band[1] if said else None
    why = found.no_replay or ""
    return Verdict(kind, seed, case.says, named_right(case, found, case.slots), error, inside, why)


def main(arguments: Sequence[str]) -> None:
    seeds = int(arguments[0]) if arguments else 20
    kinds = arguments[1:] or KINDS
    for kind in kinds:
        rows = [row for seed in range(seeds) if (row := examine(kind, seed)) is not None]
        named = sum(row.named for row in rows)
        errors = [row.what_if for row in rows if row.what_if is not None]
        within = sum(abs(error) <= 0.15 for error in errors)
        held = sum(bool(row.inside) for row in rows)
        middle = statistics.median(map(abs, errors)) if errors else float("nan")
        print(
            f"{kind:16} named {named}/{len(rows)}  what-if: {within}/{len(errors)} within 15 %, median {middle:.1%}, in band {held}"
        )
        for row in rows:
            if not row.named or (row.what_if is not None and abs(row.what_if) > 0.15) or row.why:
                print("   ", row.seed, row.says, "named" if row.named else "MISSED", row.what_if, row.why)


if __name__ == "__main__":
    main(sys.argv[1:])
