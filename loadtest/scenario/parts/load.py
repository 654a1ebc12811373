"""Load: how many requests are sent, when, and by how many processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.errors import ScenarioError
from loadtest.scenario.distributions import PAUSES
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key
from loadtest.scenario.values import BURSTINESS, MOST_REQUESTS, MOST_STREAMS, RATE, SECONDS, Range, Text
from loadtest.text import counted

ARRIVALS = ("poisson", "constant", "gamma")
OPEN_LOOP_S = 60.0  # length of a level at a rate, where neither requests nor duration is given
STREAM_COUNTS = Range(1, MOST_STREAMS, instead="share more between several machines")
REQUEST_COUNTS = Range(1, MOST_REQUESTS, above_zero=True, instead="run several levels, or give duration")
USUAL_STREAMS = (1, 2, 4, 8)  # levels where none are asked for


@dataclass(frozen=True, kw_only=True)
class LoadKeys:
    """Keys that decide how many requests are sent, and when."""

    concurrency: Sequence[int] = key(
        "Users at once (closed loop): each sends the next request when its last answer has ended. Each number of a list is a "
        "level.",
        [*USUAL_STREAMS],
        bounds=STREAM_COUNTS,
    )
    rate: Sequence[float] = key(
        "Requests a second, instead of --concurrency (open loop): each is sent when it is due, however many are still "
        "unanswered. Each number of a list is a level.",
        [],
        unit="requests/s",
        bounds=RATE,
    )
    rate_to: float | None = key(
        "Let the rate change evenly over each level, up or down to this.", None, unit="requests/s", bounds=RATE
    )
    arrivals: str = key(
        "How requests come at a rate: poisson (independent of each other), constant, or gamma (see --burstiness).",
        "poisson",
        choices=ARRIVALS,
    )
    burstiness: float | None = key(
        "Shape of gamma arrivals: 1 is Poisson, below 1 requests come in bursts, above 1 more and more evenly.",
        None,
        bounds=BURSTINESS,
    )
    trace: str | None = key(
        "Send requests when this file says (open loop): each line is an instant in seconds; or CSV or JSON lines, with "
        "lengths if it has them.",
        None,
        text=Text(4096, "name a file of arrivals, or leave it out"),
        file="",
        metavar="FILE",
    )
    max_in_flight: int | None = key(
        "Open loop: while this many requests are in flight, a request that is due is recorded and never sent.",
        None,
        bounds=replace(STREAM_COUNTS, above_zero=True),
    )
    requests: int | None = key(
        "Requests of a level in all; turns, where users hold conversations. Default: --requests-per-stream × --concurrency; at a "
        "rate, those of 60 s.",
        None,
        bounds=REQUEST_COUNTS,
    )
    requests_per_stream: int = key(
        "Requests of each user in a level, where neither --requests nor --duration is given.", 8, bounds=REQUEST_COUNTS
    )
    least_requests: int | None = key(
        "Fewest requests of a level, where --requests is not given; default: what --slo needs.",
        None,
        bounds=REQUEST_COUNTS,
    )
    duration: float | None = key(
        "Run each level this long, after its warm-up, instead of a number of requests.",
        None,
        unit="s",
        bounds=SECONDS,
    )
    warmup: int = key(
        "Warm-up requests of each user at the start of a level, kept but not counted. Open loop: so many in all, one after "
        "another. Conversations: how many each user ends before the level counts.",
        1,
        bounds=Range(0, 100_000),
        locust=(ATTRIBUTE,),
    )
    max_rate: float | None = key(
        "Closed loop: start requests no faster than this.", None, unit="requests/s", bounds=RATE
    )
    think_time: float | str = key(
        "Pause of a user between an answer and the next request: seconds, or a distribution such as lognormal(20, 0.8), "
        "uniform(5, 30) or exponential(20).",
        0.0,
        unit="s",
        bounds=PAUSES,
        span=True,
        also_in="sessions",
        locust=(ATTRIBUTE, OPTION),
    )
    workers: int = key(
        "Processes that send. They share the load, and each can use a core of its own.",
        1,
        bounds=Range(1, 1024),
    )
    unload: bool = key(
        "Unload the model before every request, so that each waits for a cold model load; one stream, no warm-up (Ollama).",
        default=False,
    )

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent when they are due, however many are still unanswered."""
        return bool(self.rate) or self.trace is not None

    @property
    def arrival_pattern(self) -> str | None:
        """Name how requests come, None in a closed loop: two runs that differ in it cannot be compared."""
        if not self.open_loop:
            return None
        if self.trace is not None:
            return f"trace {Path(self.trace).name}"
        pattern = self.arrivals if self.burstiness is None else f"{self.arrivals}, burstiness {self.burstiness:g}"
        return pattern if self.rate_to is None else f"{pattern}, rate to {self.rate_to:g}"

    def requests_at(self, streams: int) -> int:
        """Return how many requests a level sends; 0 where its duration decides."""
        if self.duration is not None:
            return 0
        least = math.ceil((self.least_requests or 0) / streams) if streams else 0
        return self.requests or max(self.requests_per_stream, least) * streams


def check_load(load: LoadKeys) -> None:
    if not load.concurrency and not load.open_loop:
        raise ScenarioError("concurrency is empty: name at least one number of streams.")
    if load.unload and load.concurrency != (1,):
        raise ScenarioError("unload measures one model load at a time; set concurrency = 1, and requests to how many.")
    streams = max(load.concurrency, default=0)
    if load.requests is not None and load.requests < streams:
        few = ",".join(str(each) for each in USUAL_STREAMS if each <= load.requests)
        fewer = f", or for fewer streams with --concurrency {few}" if tuple(load.concurrency) == USUAL_STREAMS else ""
        raise ScenarioError(
            f"requests = {load.requests} cannot keep {streams} streams busy; ask for {streams} or more{fewer}."
        )
    most = load.max_in_flight
    if most is not None and most < load.workers:
        raise ScenarioError(
            f"max_in_flight = {most} cannot be shared by {load.workers} workers; ask for {counted(most, 'worker')} or fewer."
        )
    if load.arrivals != "poisson" and not load.rate:
        raise ScenarioError(f"arrivals = {load.arrivals} needs a rate; add rate, e.g. rate = [4].")
    if load.open_loop and (load.arrivals == "gamma") != (load.burstiness is not None):
        raise ScenarioError("gamma arrivals and burstiness go together; give both, e.g. burstiness = 0.5, or neither.")
