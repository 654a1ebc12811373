"""What a run shows of a server that has no steps: how soon each stream's next token comes, and what prompts take beside it.

Such servers are emulators, gateways that spread requests over machines, and servers that give each request a worker. How
long a stream waits for its next token depends on how many requests are at work, and not on when the others get theirs.
"""

from __future__ import annotations

import numpy as np

from loadtest.analyse.run import excerpts
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.overlaps import Depth
from loadtest.analyse.server.queue.at_work import RequestInstants
from loadtest.analyse.server.queue.kept_out import UnwaitedTtft
from loadtest.analyse.server.timing.step_law import FEWEST_STEPS, StepTimes, growth_per_stream
from loadtest.analyse.server.timing.steps import step_table, times_by_number
from loadtest.simulate.model.timing import BESIDE, StepLaw, Timing

MOST_JITTER = 0.5  # of a prompt's time, as a share of it


def own_clocks(run: RunData) -> tuple[Timing, tuple[StepTimes, ...]] | None:
    """Return the timing of such a server, and the time to the next token by requests at work; None where these were too few."""
    requests = RequestInstants.of(run)
    peak = requests.peak()
    if not peak:
        return None
    ttft = UnwaitedTtft.of(run, requests, peak)
    seen = np.isfinite(requests.first) & np.isfinite(ttft.seconds)
    begun = ttft.begun(requests)[seen]
    work = Depth.of(begun, np.maximum(requests.last[seen], begun))
    gaps, right = excerpts.events(run).gaps(run)
    known = np.isfinite(right) & (gaps >= 0)
    right, gaps = right[known], gaps[known]
    beside = work.at(right - gaps / 2).astype(np.int64)
    shown = beside > 0
    times = times_by_number(beside[shown], gaps[shown], right[shown], FEWEST_STEPS)
    if not times:
        return None
    middle = float(np.median(ttft.seconds[seen]))
    timing = Timing(
        step=StepLaw(table=step_table(times, growth_per_stream(times), neighbours=False)),
        prefill_s=ttft.per_token_s,
        prompt_s=ttft.fixed_s,
        prompt_jitter=min(0.5 * 1.48 * ttft.scatter_s / max(middle, 1e-9), MOST_JITTER),
        prefill_way=BESIDE,
        own_clocks=True,
        beside_s=ttft.beside_s,
        handling_s=0.0,
        handover_s=0.0,
    )
    return timing, times
