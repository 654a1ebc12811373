"""Rules of the verdict on the run around a level: whether it failed, lost workers or users, and whose answers it holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from loadtest.analyse.run import groups
from loadtest.analyse.run.overlaps import peak_at_once
from loadtest.analyse.verdict.evidence import Evidence
from loadtest.analyse.verdict.shared_sentences import MOST_KINDS
from loadtest.doubts import SUSPECT, VOID, Doubt
from loadtest.metrics import S_PER_NS
from loadtest.text import counted, listed, seconds, shown


def _worker_died(e: Evidence) -> Iterator[Doubt]:
    """Void a level for each driver process that died in it or before it: part of its load is missing."""
    said, index = e.run.facts.get("workers"), e.level["index"]
    workers = said if isinstance(said, list) else []  # a Locust run has their number here
    # Workers share the streams of the whole level, also where these go to several models or servers.
    streams = next((one for one in e.run.entire.levels if one["index"] == index), e.level).get("concurrency")
    for worker in workers:
        died = worker.get("died")
        if not died or died["level"] > index:
            continue
        number, of = worker["worker"], len(workers)
        part = None if streams is None else len(range(number, int(streams), of))
        if part == 0:
            continue
        lacks = f"one request in every {of}" if part is None else f"{part} of {streams} streams"
        when = f" at {died['time'][11:19]} UTC" if died["level"] == index else " in an earlier level"
        missing = f"{lacks} {'is' if part in (None, 1) else 'are'} missing"
        yield Doubt(VOID, f"worker {number} died{when} ({died['why']}): {missing}")


def _worker_lost(e: Evidence) -> Iterator[Doubt]:
    """Void the levels of a Locust run that ran while a worker was lost, or all where that instant is unknown."""
    for worker in e.run.fact("locust", "lost_workers") or ():
        at, back, began = worker.get("t_ns"), worker.get("back_ns"), e.level.get("started_ns")
        if at is None or (_ran_until(e) >= at and (None in (back, began) or began <= back)):
            when = "" if at is None else f" at {seconds(at * S_PER_NS)} of the run"
            why = f" ({str(worker['why']).rstrip('.')})" if worker.get("why") else ""
            until = "from then on" if back is None else f"until {seconds(back * S_PER_NS)}"
            yield Doubt(
                VOID, f"worker {worker.get('worker')} was lost{when}{why}: {until} its users did not send as asked"
            )


def _ran_until(e: Evidence) -> float:
    """Return when a level ended, ns since the run's anchor: by run.json or its last record, whichever is later."""
    said = e.level.get("ended_ns")
    last = float(e.everyone["end"].max()) if len(e.everyone) else np.nan
    clock, zero = e.run.facts.get("clock") or {}, e.run.zero
    if zero.host is None:  # several hosts share no monotonic clock
        after = zero.wall_ns - clock.get("wall_ns", zero.wall_ns)
    else:
        after = zero.monotonic_ns - clock.get("monotonic_ns", zero.monotonic_ns)
    known = [float(value) for value in (said, last / S_PER_NS + after) if value is not None and np.isfinite(value)]
    return max(known, default=np.inf)


def _run_failed(e: Evidence) -> Iterator[Doubt]:
    failure = e.run.facts.get("failure")
    if e.run.facts.get("state") == "failed" and failure and _was_running(e):
        yield Doubt(VOID, f"the run failed while this level ran: {str(failure).rstrip('.')}")


def _was_running(e: Evidence) -> bool:
    """Return whether a level was running when its run failed: it has no end, or it holds the run's last record."""
    if e.level.get("started_ns") is not None and e.level.get("ended_ns") is None:
        return True
    return bool(len(e.everyone)) and float(e.everyone["end"].max()) >= float(e.run.entire.requests["end"].max())


def _stopped(e: Evidence) -> Iterator[Doubt]:
    if stopped := e.level.get("stopped"):
        yield Doubt(VOID, str(stopped).rstrip("."))


def _users_gone(e: Evidence) -> Iterator[Doubt]:
    gone, users = e.level.get("users_gone"), e.level.get("concurrency")
    if isinstance(gone, int) and isinstance(users, int) and gone > 0:
        said = f"{gone} of {users} users ended by themselves (by StopUser, or an exception)"
        yield Doubt(VOID if 2 * gone >= users else SUSPECT, f"{said}: fewer streams than that were sent")


def _more_than_users(e: Evidence) -> Iterator[Doubt]:
    """Doubt a level in which users had several requests in flight, as where a task of Locust's sends in greenlets of its own."""
    users, sent = e.level.get("concurrency"), e.measured[["send", "end"]].dropna()
    if e.run.facts.get("driver") != "locust" or not e.level.is_closed or not users or sent.empty:
        return
    most = peak_at_once(*sent.to_numpy(dtype=np.float64).T)
    if most > users:
        yield Doubt(SUSPECT, f"up to {most} requests were in flight at once, from {counted(users, 'user')}")


def _several_models(e: Evidence) -> Iterator[Doubt]:
    """Doubt a level whose answers say that they are of several models, though one was asked for."""
    for asked, mine in e.requests.groupby("model"):
        said = Counter(map(str, mine["said_model"].fillna(asked)))
        if len(said) > 1:
            each = listed([f"{shown(name)} in {count}" for name, count in said.most_common(MOST_KINDS)])
            what = f"answers name {counted(len(said), 'model')}, and {shown(str(asked))} was asked for ({each})"
            yield Doubt(SUSPECT, f"{what}: the figures may be of a mixture")


def _undistinguished(e: Evidence) -> Iterator[Doubt]:
    if said := groups.undistinguished_servers(e.run):
        yield Doubt(SUSPECT, said)


RUN_RULES: dict[str, Callable[[Evidence], Iterator[Doubt]]] = {
    "run_failed": _run_failed,
    "stopped": _stopped,
    "worker_died": _worker_died,
    "worker_lost": _worker_lost,
    "users_gone": _users_gone,
    "more_than_users": _more_than_users,
    "several_models": _several_models,
    "undistinguished": _undistinguished,
}
