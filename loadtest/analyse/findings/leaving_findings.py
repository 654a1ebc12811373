"""What a run shows of users who hung up: how many, what they cost, and whether the server stopped working for them."""

from __future__ import annotations

from collections.abc import Sequence

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run.levels import LevelData, believed
from loadtest.text import capitalised, counted, listed, number, percent, seconds

LEAST_S = 0.001  # less than this is no time
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
        short = "too little of their answers was left, or too few hung up"
        return Finding(f"Whether the server works on for users who hang up is not known: {short}.", how)
    if not seen:
        soon = f"within {each}" if left["worked_on_each_s"] >= LEAST_S else "at once"
        return Finding(f"The server stops working for a user who hangs up: others get the slot {soon}.", how)
    share = f", {percent(left['worked_on_share'])} of its slots' time" if left["worked_on_share"] else ""
    return Finding(
        f"The server works on for users who hung up: for {seconds(left['worked_on_each_s'])} each{share}, for which others "
        f"wait (at {level.load}).",
        how + " A proxy on the way may keep the connection to the server open.",
    )
