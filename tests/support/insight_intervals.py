"""How often 95 % intervals hold the truth.

Queues with Poisson arrivals and constant service (M/D/4 at 80 % load, 2000 requests), whose truth comes from long runs,
once in equilibrium from the start and once from empty; and closed loops of the simulated engine in virtual time, whose
truth is the mean of all runs. Short levels at a rate, even and in bursts, at three utilisations, have an interval where
their queue leaves them one. All of it is simulated.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.analyse.figures import rates, stats
from loadtest.analyse.figures.stationarity import queue_memory
from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.event_times import Ragged
from loadtest.analyse.run.frames import load as read
from loadtest.analyse.summary import analyse
from loadtest.simulate.model.timing import StepLaw, Timing
from support.virtual_runs import Load, Played, play

RUNS = 500
SERVERS, LOAD, SERVICE = 4, 0.8, 1.0
TOKENS = 10  # of an answer
SHARED_MOST = 6.1  # requests/s that the server of `shared_covers` can do
FIGURES = ("mean", "p50", "p90", "p95", "p99")
# Six times 300 runs of 30 000 requests; standard errors 0.0008, 0.0005, 0.002, 0.0035 and 0.008.
WAIT = {"mean": 0.3865, "p50": 0.1380, "p90": 1.1206, "p95": 1.5214, "p99": 2.4547}


@dataclass(frozen=True, slots=True)
class Cover:
    """How often intervals of one figure held."""

    name: str
    held: int
    given: int  # runs that had an interval at all
    runs: int
    half: float  # median half width, as a share of the truth

    @property
    def share(self) -> float:
        return self.held / self.given if self.given else float("nan")

    def __str__(self) -> str:
        if not self.given:
            return f"  {self.name:24s} no interval in any of {self.runs} runs"
        none = f", none in {self.runs - self.given} runs" if self.given < self.runs else ""
        return f"  {self.name:24s} held in {self.share * 100:5.1f} %{none}; median half width {self.half * 100:.1f} %"


def cover(name: str, intervals: Sequence[object], truth: float) -> Cover:
    """Count the intervals that hold `truth`; None is no interval."""
    known = np.array([interval for interval in intervals if interval is not None], dtype=np.float64).reshape(-1, 2)
    held = int(((known[:, 0] <= truth) & (truth <= known[:, 1])).sum())
    half = float(np.median(known[:, 1] - known[:, 0])) / 2 / truth if len(known) and truth else 0.0
    return Cover(name, held, len(known), len(intervals), half)


def queue(
    runs: int, requests: int, *, seed: int, before: int, load: float = LOAD, shape: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Return arrivals and waits of G/D/c queues, a row a run, after `before` requests that are not returned.

    Gaps between arrivals are gamma of this shape: 1 is Poisson, below it requests come in bursts.
    """
    rng = np.random.default_rng(seed)
    gaps = rng.gamma(shape, SERVICE / load / SERVERS / shape, (runs, before + requests))
    arrivals = np.cumsum(gaps, axis=1)
    waits = np.zeros_like(arrivals)
    for i in range(SERVERS, before + requests):  # constant service: whoever started c places earlier frees the server
        passed = arrivals[:, i] - arrivals[:, i - SERVERS]
        waits[:, i] = np.maximum(0.0, waits[:, i - SERVERS] + SERVICE - passed)
    return arrivals[:, before:], waits[:, before:]


def queue_covers(runs: int, *, seed: int, before: int) -> Iterator[Cover]:
    """Yield how often the intervals of an M/D/4 queue hold: wait, sojourn, throughput."""
    arrivals, waits = queue(runs, 2000, seed=seed, before=before)
    for name, shift in (("wait", 0.0), ("sojourn", SERVICE)):
        described = [stats.describe_values(row + shift) for row in waits]
        for figure in FIGURES:
            found = [one[f"ci95_{figure}"] for one in described]
            yield cover(f"{name} {figure}", found, WAIT[figure] + shift)
    outputs: list[object] = []
    for arrived, waited in zip(arrivals, waits, strict=True):
        send = arrived - arrived[0]
        end = send + waited + SERVICE
        window = rates.steady_window(send, end, 0.0)
        inside = window.holds(end) > 0
        rate = inside.sum() / window.seconds
        spread = rates.rate_spread(end[inside], np.ones(int(inside.sum())))
        outputs.append([rate * (1 + off) for off in spread.around(0.0)] if spread else None)
    yield cover("throughput", outputs, SERVERS * LOAD / SERVICE)


def rate_covers(runs: int, requests: int, load: float, shape: float) -> Iterator[Cover]:
    """Yield how often the intervals of TTFT hold in a level at a rate, in equilibrium; a prompt takes a tenth of an answer."""
    prompt = SERVICE / 10
    truth = queue(100, 6000, seed=99, before=4000, load=load, shape=shape)[1] + prompt
    described = []
    for sent, waits in zip(*queue(runs, requests, seed=7, before=3000, load=load, shape=shape), strict=True):
        first = waits + prompt
        level = {"sched": sent, "send": sent, "first_token": sent + first, "end": sent + waits + SERVICE}
        columns = {
            **level,
            "queue_wait_s": np.full(requests, np.nan),
            "output_tokens": np.full(requests, float(TOKENS)),
        }
        memory = queue_memory(_Columns(columns), {"index": 0, "rate": SERVERS * load / SERVICE})  # type: ignore[arg-type]
        described.append(stats.describe_values(first, queue=memory))
    for figure, true in (("mean", truth.mean()), ("p50", np.median(truth)), ("p95", np.quantile(truth, 0.95))):
        yield cover(f"TTFT {figure}", [one[f"ci95_{figure}"] for one in described], float(true))


def shared_covers(runs: int, requests: int, load: float) -> Iterator[Cover]:
    """Yield how often the intervals of a level at a rate hold where no slots limit who is at work, and all slow one another down."""
    timing = Timing(step=StepLaw(0.0005, 0.002), prefill_s=0.0002, jitter=0.03)
    asked = Load(requests=requests, rate=load * SHARED_MOST, prompt=(50, 400), output=(20, 100))
    described, seen = [], []
    for seed in range(runs):
        with tempfile.TemporaryDirectory() as place:
            one = analyse(play(timing, [asked], slots=None, seed=seed).write(Path(place, "run")))
        good = one.run.good(0)
        described.append(one.summary["levels"][0])
        seen.append({"e2e_s": one.run.column("e2e_s")[good], "itl_s": one.run.itl.of(good)})
    for name, figure in itertools.product(("e2e_s", "itl_s"), ("mean", "p50", "p95")):
        values = np.concatenate([one[name] for one in seen])
        truth = values.mean() if figure == "mean" else np.quantile(values, float(figure[1:]) / 100)
        yield cover(f"{name} {figure}", [one[name][f"ci95_{figure}"] for one in described], float(truth))


@dataclass(frozen=True, slots=True)
class _Columns:
    """A run of one level whose requests all ended well."""

    columns: dict[str, FloatArray]

    @property
    def chunks(self) -> Ragged:
        waits = self.columns["first_token"] - self.columns["send"]
        tokens = waits[:, None] + np.linspace(0, 0.9 * SERVICE, TOKENS)
        return Ragged.flattened((tokens.ravel() * 1e6).astype(np.int64), np.full(len(waits), TOKENS))

    def good(self, _: int) -> BoolArray:
        return np.ones(len(self.columns["send"]), dtype=np.bool_)

    def column(self, name: str) -> FloatArray:
        return self.columns[name]


@dataclass(frozen=True, slots=True)
class Seen:
    """A closed-loop level as the analysis sees it."""

    ttft: FloatArray
    speed: FloatArray
    gaps: FloatArray
    owner: IntArray  # of each gap
    output: rates.Throughput | None


def closed_covers(runs: int, load: Load) -> Iterator[Cover]:
    """Yield how often the intervals of a closed loop's level hold, on four slots."""
    timing = Timing(step=StepLaw(0.02, 0.003), prefill_s=0.0005, jitter=0.05)
    seen = [_see(play(timing, [load], slots=4, seed=seed)) for seed in range(runs)]
    ttft, speed, gaps = (np.concatenate([getattr(one, name) for one in seen]) for name in ("ttft", "speed", "gaps"))
    described = [stats.describe_values(one.ttft, block=load.users) for one in seen]
    truths = (("mean", ttft.mean()), ("p50", np.median(ttft)), ("p95", np.quantile(ttft, 0.95)))
    for figure, truth in truths:
        yield cover(f"TTFT {figure}", [one[f"ci95_{figure}"] for one in described], float(truth))
    found = [stats.describe_values(one.speed, block=load.users)["ci95_mean"] for one in seen]
    yield cover("tokens/s a stream mean", found, float(speed.mean()))
    described = [stats.describe_values(one.gaps, block=load.users, requests=one.owner) for one in seen]
    for figure, truth in (("mean", gaps.mean()), ("p50", np.median(gaps))):
        yield cover(f"ITL {figure}", [one[f"ci95_{figure}"] for one in described], float(truth))
    outputs = [one.output for one in seen if one.output is not None]
    mean = float(np.mean([rate.per_second for rate in outputs]))
    yield cover("output tokens/s", [rate.ci95 for rate in outputs], mean)


def _see(played: Played) -> Seen:
    with tempfile.TemporaryDirectory() as place:
        run = read(played.write(Path(place, "run")))
    found = rates.flow(run, run.levels[0])
    assert found is not None
    output = rates.weighted_rate(run, found, run.column("output_tokens"))
    records = sorted(played.records, key=lambda record: record.t_send or 0)
    mine = [record for record in records if not record.warmup]
    return Seen(
        np.array([record.chunks[0] * 1e-6 for record in mine]),
        np.array([(len(record.chunks) - 1) * 1e6 / (record.chunks[-1] - record.chunks[0]) for record in mine]),
        np.concatenate([np.diff(record.chunks) * 1e-6 for record in mine]),
        np.repeat(np.arange(len(mine)), [len(record.chunks) - 1 for record in mine]),
        output,
    )


def main(runs: int) -> None:
    for name, before in (("in equilibrium", 2000), ("from empty", 0)):
        print(f"M/D/4 at 80 % load, 2000 requests, {name}, {runs} runs:")
        for found in queue_covers(runs, seed=before + 1, before=before):
            print(found, flush=True)
    for shape, utilisation in itertools.product((1.0, 0.25), (0.5, 0.8, 0.95)):
        for requests in (100, 300, 1000):
            kind = "Poisson" if shape == 1 else f"gamma {shape:g}"
            print(f"{kind} at {utilisation * 100:g} % load, {requests} requests, {runs} runs:")
            for found in rate_covers(runs, requests, utilisation, shape):
                print(found, flush=True)
    for requests, utilisation in itertools.product((100, 300), (0.5, 0.8)):
        print(
            f"no slots, Poisson at {utilisation * 100:g} % load, {requests} requests, mixed lengths, {runs // 5} runs:"
        )
        for found in shared_covers(runs // 5, requests, utilisation):
            print(found, flush=True)
    for users, each in ((2, 5), (8, 5), (1, 8), (4, 8), (8, 8), (4, 16), (8, 16), (4, 25)):
        one = Load(users=users, requests=users * each)
        mixed = Load(users=users, requests=users * each, prompt=(50, 400), output=(20, 100))
        for kind, load in (("one length", one), ("mixed lengths", mixed)):
            print(f"closed loop of {users} on 4 slots, {users * each} requests, {kind}, {runs // 2} runs:")
            for found in closed_covers(runs // 2, load):
                print(found, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)
