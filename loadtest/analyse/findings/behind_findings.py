"""What a run shows of what stands behind its URL: more servers than the one that was asked, or a gateway that lets fewer through."""

from __future__ import annotations

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.summary import Analysis
from loadtest.text import counted, percent


def behind_the_url(analysis: Analysis) -> list[Finding]:
    """Say where the slots that a server says do not fit what was seen at work, else where streams share no steps."""
    found = _other_slots(analysis)
    if found or not analysis.steps.apart or not analysis.believed:
        return found
    return [
        Finding(
            "Streams that decode together do not get their tokens together: several servers stand behind this URL, each stream has a "
            "worker of its own, or the way delays each stream by itself.",
            f"{percent(analysis.steps.out_of_step or 0.0)} of the pairs of such streams got theirs at different moments. So a step time by the number of streams, a speed of prefill beside them and batch "
            "wait are not said; measure each server by its own URL as well.",
        )
    ]


def _other_slots(analysis: Analysis) -> list[Finding]:
    said, slots = (analysis.run.facts.get("server") or {}).get("slots_said"), analysis.slots
    levels = analysis.believed
    if not isinstance(said, int) or said < 1 or slots.estimate is None or not levels:
        return []
    if slots.estimate > said and max(int(level.get("peak_decoding") or 0) for level in levels) > said:
        return [
            Finding(
                f"More than one server stands behind this URL: at least {counted(slots.estimate, 'request')} were at work at once, "
                f"and the server that was asked has {counted(said, 'slot')}.",
                "What `loadtest check` and monitors read there is of one server at a time, each has a prefix cache of its own, and step "
                "times and predictions take all of them for one; measure each by its own URL as well.",
            )
        ]
    if slots.limit and slots.estimate < said:
        return [
            Finding(
                f"No more than {counted(slots.estimate, 'request')} at a time got through, though the server says that it has "
                f"{counted(said, 'slot')}.",
                "A gateway on the way may have a limit of its own (HAProxy: maxconn of the server), or others use this server.",
            )
        ]
    return []
