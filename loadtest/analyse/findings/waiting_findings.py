"""What requests wait for before their first token, and what users who hung up cost, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run import LevelData, RunData, Series, believed
from loadtest.analyse.server.alternating_models import loading_share
from loadtest.analyse.server.queue.at_work import mostly_held_back
from loadtest.analyse.server.queue.waits import LEAST_BATCH_WAIT, begin_after_all, held_by_others
from loadtest.analyse.summary import Analysis
from loadtest.records import Outcome
from loadtest.text import capitalised, counted, listed, number, percent, seconds, some_of

LEAST_SLOT_WAIT = 0.05  # of the mean TTFT, from which on requests queue
SHORT_S = 0.005  # nobody calls that queueing


def queueing(analysis: Analysis, series: Series) -> Finding | None:
    """Say what share of TTFT waiting is at the highest concurrency; None where waits are unknown."""
    told = [
        level
        for level in series.believed
        if (level.figure("queue_wait_s") is not None or level.figure("slot_wait_s"))
        and not level.gathered
        and 2 * _left_waiting(level) <= level.get("requests", 0)
    ]
    if not told:
        return None
    level = told[-1]
    wait, slot, batch = (level.figure(name) for name in ("queue_wait_s", "slot_wait_s", "batch_wait_s"))
    ttft = level.mean_ttft
    if not ttft:
        return None
    at, of = f"at {level.load}", f"of {level.mean_ttft_said}"
    above = void_above(series, level)
    limit = analysis.believed_slots.number
    if limit is not None and slot is not None and slot >= LEAST_SLOT_WAIT * ttft:
        past, waited = f"Past {counted(limit, 'stream')} requests queue", percent(level.share_of_ttft("slot_wait_s"))
        inferred = (
            "Slot wait is inferred from when earlier streams ended, and holds the way there and back: the server does not say how "
            "long requests wait. Prompts that are read more slowly beside others lengthen it."
        )
        if wait is None:
            return Finding(f"{past}: {at} up to {waited} {of} is slot wait.", inferred)
        return Finding(f"{past}: {at} {waited} {of} is slot wait.")
    if wait is None:
        return None
    prefill = level.figure("prefill_s")
    rest = 0.0 if prefill is None else ttft - prefill - wait - (level.figure("load_s") or 0.0)
    if rest > max(wait, LEAST_BATCH_WAIT * ttft):
        return Finding(
            f"{capitalised(at)}, {percent(rest / ttft)} {of} is neither prefill nor a wait that the server tells of: it passes on the way, "
            "in a gateway, in the server before it queues a request, or while an answer is held back.",
            f"{percent(level.share_of_ttft('queue_wait_s'))} is queue wait.",
        )
    if slot is None or batch is None or analysis.steps.apart:
        unsplit = "Whether requests wait for a slot, for a batch or for another model is not known."
        queued = percent(level.share_of_ttft("queue_wait_s"))
        return Finding(f"{capitalised(at)}, {queued} {of} is queue wait{above}.", unsplit)
    if not slot + batch and level.get("concurrency") == 1:
        return None  # what queue wait it has all the same is no wait for others
    share = level.share_of_ttft("slot_wait_s", "batch_wait_s")
    if share <= LEAST_BATCH_WAIT < (wait - slot - batch) / ttft:
        return None  # before_work says it
    if share > LEAST_BATCH_WAIT and slot < 0.1 * batch:
        return None  # batching says it
    kind = "slot wait" if batch < 0.01 * slot else "waiting"
    if kind == "waiting" and share > LEAST_BATCH_WAIT:
        kind += f", {percent(batch / (slot + batch))} of that batch wait"
    return Finding(f"{capitalised(at)}, {percent(share)} {of} is {kind}{above}.")


def loading(series: Series) -> Finding | None:
    """Say where loading the model is a large part of TTFT, as where each request finds it unloaded (--keep-alive 0)."""
    share, level = max(
        ((loading_share(each), each) for each in series.believed), key=lambda each: each[0], default=(0.0, None)
    )
    if level is None or share <= LEAST_BATCH_WAIT:
        return None
    said = f"At {level.load}, {percent(share)} of {level.mean_ttft_said} passes until the model is loaded."
    return Finding(said, "The server's own figures of how long each model load took.")


def _left_waiting(level: LevelData) -> int:
    """Return how many users hung up before their first token, or were cut off: what they waited for is in no mean."""
    return int((level.get("left") or {}).get("waiting", 0) + (level.get("outcomes") or {}).get(Outcome.CANCELLED, 0))


def void_above(series: Series, level: LevelData) -> str:
    """Return the end of a sentence on a level that says how many higher ones are void; empty where none is."""
    load = level.amount
    void = sum(each.amount > load for each in series.void)
    many = f"{void} levels above it are" if void > 1 else "level above it is"
    return f"; the {many} void" if void else ""


def batching(analysis: Analysis, series: Series) -> Finding | None:
    """Say where a wait is not queueing: the level without slot wait whose TTFT is batch wait for the largest part.

    Where many batches passed meanwhile, something else held what the request waited for; and streams of several servers have
    no batch in common.
    """
    if analysis.steps.apart:
        return None
    found, largest = None, LEAST_BATCH_WAIT
    for level in series.believed:
        ttft, slot, batch = level.mean_ttft, level.figure("slot_wait_s"), level.figure("batch_wait_s")
        whole = mostly_held_back(analysis.run, analysis.run.of_level(level["index"]))
        if level.gathered or whole or not (ttft and batch) or slot is None:
            continue
        if slot < 0.1 * batch and batch / ttft > largest:
            found, largest = level, batch / ttft
    if found is None:
        # beside another model of the run no request was alone there
        return (
            None
            if np.any(analysis.run.requests.get("accompanied", False))
            else before_work(series, analysis.steps.handover_s)
        )
    slot, ttft = found.figure("slot_wait_s") or 0.0, found.mean_ttft or 0.0
    share = percent(found.share_of_ttft("batch_wait_s"))  # as in the tables
    if held_by_others(analysis.run, found):
        shows = next((level for level in series.believed if begin_after_all(analysis.run, level)), None)
        if shows is not None:
            return Finding(
                f"At {found.load}, {share} of {found.mean_ttft_said} is waiting until all streams at work have ended: the server seems "
                "to start prompts only then (no continuous batching), or it takes no more of them at once.",
                f"At {shows.load} hardly any other stream was in mid-answer when requests that waited began, though up to "
                f"{shows['peak_decoding']} decoded at once.",
            )
        return Finding(
            f"At {found.load}, {share} of {found.mean_ttft_said} is waiting "
            "through many steps of other streams, with no more of them than the server handles: others may use this server, or it takes "
            "fewer connections at once.",
            f"A request waited up to {seconds(found.figure('batch_wait_s', 'max'))} while another stream got token after token. "
            "A free slot would have taken it in.",
        )
    longest = found.figure("slot_wait_s", "max") or 0.0
    few = longest > max(LEAST_BATCH_WAIT * ttft, SHORT_S)
    beside = (
        f"and {percent(found.share_of_ttft('slot_wait_s'))} slot wait"
        if few
        else "although no request waits for a slot"
    )
    return Finding(
        f"At {found.load}, {share} of {found.mean_ttft_said} is batch wait, "
        f"{beside}: a prompt starts only when the batch in flight has ended, with the prompts in it.",
        f"Batch wait is up to {seconds(found.figure('batch_wait_s', 'max'))}.",
    )


def before_work(series: Series, alone_s: float) -> Finding | None:
    """Say where a large part of TTFT is what a request waits beside no other of the run, at the lowest load."""
    level = next((one for one in series.believed if one.figure("queue_wait_s") and one.mean_ttft), None)
    if level is None or alone_s < max(LEAST_BATCH_WAIT * (level.mean_ttft or 0.0), SHORT_S):
        return None
    return Finding(
        f"About {seconds(alone_s)} of each TTFT pass outside of prefill, also where no other request of this run is at the "
        "server: on the way, in a gateway, in the server, or behind others who use it.",
        f"The median of requests with no other of this run beside them; the mean TTFT at {level.load} is {seconds(level.figure('ttft_s'))}.",
    )


MANY_CUT_OFF = 0.1  # of a level's requests


def cut_off(run: RunData) -> str | None:
    """Return a sentence on the last level of which many requests still waited for a token when it was stopped."""
    silent = np.isfinite(run.column("send")) & np.isnan(run.column("first_token"))
    cut = silent & run.one_of("outcome", Outcome.CANCELLED)
    for level in reversed(run.levels):  # of the whole run: of several models each has but a part of the streams
        rows = run.of_level(level["index"])
        count, whole = int(cut[rows].sum()), int(rows.sum())
        if count > MANY_CUT_OFF * whole:
            which = capitalised(some_of(count, whole, "request"))
            when = "the run ended" if level is run.levels[-1] else "the level was stopped"
            return f"{which} at {level.load} had no token yet when {when}: its figures leave out what these waited."
    return None


FEWEST_LEFT = 3  # users who hung up, from which on it is said that the server stops working for them
LEAST_SHARE = 0.01  # of the slots' time: less is not worth a sentence


def leaving_findings(levels: Sequence[LevelData]) -> list[Finding]:
    """Return what levels show of users who hung up; nothing where nobody did."""
    told = [level for level in believed(levels) if level.get("left")]
    if not told:
        return []
    found = [_who_left(max(told, key=lambda level: float(level["left"]["share"])), several=len(levels) > 1)]
    known = [level for level in told if level["left"].get("worked_on_s") is not None]
    if known:
        found.append(_worked_on(known))
    else:
        why = told[-1]["left"].get("worked_on_s_reason")
        found.append(Finding(f"Whether the server works on for users who hung up is not known: {why}."))
    return found


def _who_left(level: LevelData, *, several: bool) -> Finding:
    left = level["left"]
    parts = []
    if left["waiting"]:
        parts.append(f"{left['waiting']} before the first token (after {seconds(left['waited_p50_s'])} at the median)")
    if left["in_answer"]:
        parts.append(f"{left['in_answer']} in mid-answer")
    at = f"At {level.load} " if several else ""
    said = f"{at}users hung up in {percent(left['share'])} of the requests: {listed(parts)}."
    how = [
        "TTFT percentiles count who left before the first token as slower than everybody who stayed, and a percentile that "
        "falls on one of them is marked with >"
        if left["waiting"]
        else "",
        "E2E, waits and speeds are of those who stayed",
    ]
    cost = left.get("held_share")
    if cost is not None and cost >= LEAST_SHARE:
        got = number(left["output_tokens"])
        how.append(f"who left held the slots for {percent(cost)} of the time at work, and got {got} tokens")
    return Finding(capitalised(said), f"{'; '.join(filter(None, how))}.")


def _worked_on(levels: Sequence[LevelData]) -> Finding:
    """Say whether the server worked on for nobody, from the level that shows it best."""
    seen = [level for level in levels if level["left"]["worked_on"]]
    level = max(seen or levels, key=lambda one: int(one["left"]["users"]))
    left = level["left"]
    each = seconds(left["worked_on_each_s"])
    if not seen and left["users"] < FEWEST_LEFT:
        who = "one did" if left["users"] == 1 else f"{left['users']} did"
        return Finding(f"Whether the server works on for users who hang up is not known: only {who}.")
    how = (
        f"While requests waited, slots stood without a visible stream for {each} a user who left ({left['users']}), beyond a "
        f"usual handover ({seconds(left['handover_s'])}, the mean of {counted(left['handovers'], 'answer')} that ended)."
    )
    if left["worked_on"] is None:
        short = "the server had begun work for none of them, too little of their answers was left, or too few hung up"
        return Finding(f"Whether the server works on for users who hang up is not known: {short}.", how)
    if not seen:
        soon = "others get the slot about as soon as after an answer that ended"
        return Finding(f"The server stops working for a user who hangs up: {soon}.", how)
    share = f", {percent(left['worked_on_share'])} of its slots' time" if left["worked_on_share"] else ""
    return Finding(
        f"The server works on for users who hung up: for {seconds(left['worked_on_each_s'])} each{share}, for which others "
        f"wait (at {level.load}).",
        how + " A proxy on the way may keep the connection to the server open.",
    )
