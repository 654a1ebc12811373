"""What keeps a server from carrying more: slots, prefix cache, prefill, decode, memory or context, from one level that missed.

Only requests beyond the limit are looked at: what their time went into is what would have to shrink. Where that is waiting
for a slot, the slots may be taken because each of them does work that a larger cache or a faster prefill would spare; so
the server's own time is looked at as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadtest.text import counted, percent, seconds

BUSY = 0.6  # of the server's time: prefill that takes as much leaves no room for more, however many slots there are
# share of the slots' time in use; below it requests wait for a slot in bursts alone, and slots are not what lacks
SLOTS_TAKEN = 0.45
NEARLY_ALWAYS = 0.8  # utilisation from which on slots are taken, and below which they are so in bursts
# of the server's time, and of a request's: where reading takes less of both, it is steps that take long
LITTLE_READING = 0.3
FEW_STEPS = 4  # that a first token waits for, where it is steps alone
READ_AGAIN = 0.5  # of the prompt tokens evaluated: from there on it is the cache that makes prefill long


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFacts:
    """One level at which an objective was missed, as far as it tells what its requests' time went into."""

    figure: str  # key of the missed objective in summary.json, e.g. "ttft_s"; "" where all were met
    parts: Mapping[str, float] = field(default_factory=dict)  # mean seconds of the requests beyond the limit, by cause
    slots: int | None = None
    utilisation: float | None = None  # of the slots, over the level's window
    prefill_share: float | None = None  # of the server's time that evaluating prompts takes
    reread_share: float | None = None  # of the prompt tokens evaluated: history that a cache did not keep
    reading: float | None = None  # mean seconds that those requests' own prompts take to read, by the run's speed
    step: float | None = None  # mean seconds of the server's longest steps
    thinks: float | None = None  # share of the users' time
    context_refusals: int = 0  # requests that did not fit the context
    requests: int = 0
    failure: str | None = None  # what most failed requests said, where failures made the level miss
    decoding: int = 0  # most streams that decoded at once


@dataclass(frozen=True, slots=True)
class Binding:
    """The limit that a server meets first."""

    name: str  # "slots", "cache", "prefill", "decode", "memory", "context", "errors", "nothing" or "unknown"
    sentence: str  # what follows "past that …"; empty where nothing binds or nothing is known
    evidence: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "sentence": self.sentence, "evidence": self.evidence or None}


def what_binds(facts: LoadFacts) -> Binding:
    if facts.context_refusals:
        refused = f"{facts.context_refusals} of {facts.requests} requests were refused for it"
        return Binding("context", "requests do not fit the context", f"{refused}.")
    if facts.failure is not None:
        return Binding("errors", f"requests fail ({facts.failure})")
    if not facts.figure:
        thinks = facts.thinks or 0.0
        rest = f"People think for {percent(thinks)} of their time, so few of them ask at once."
        return Binding("nothing", "", rest if thinks >= 0.5 else "")
    known = {name: value for name, value in facts.parts.items() if value > 0}
    if not known:
        return Binding("unknown", "")
    evidence = _evidence(facts, known)
    rare = facts.utilisation is not None and facts.utilisation < SLOTS_TAKEN
    most = max(known, key=lambda name: known[name] if name != "slots" or not rare else 0.0)
    if rare and most in ("batch", "prefill") and _reads_little(facts, known):
        return _slots(facts, evidence)
    match most:
        case "slots":
            return _slots(facts, evidence)
        case "load":
            return Binding("memory", "requests wait for the model to be loaded", evidence)
        case "way":
            return Binding("unknown", "", evidence)
        case "before":
            late = "the first token takes too long, be it for reading prompts or for something in front of the server"
            return Binding("unknown", late, evidence)
        case "unsplit" if facts.prefill_share is None or facts.prefill_share < BUSY:
            return Binding("unknown", "", evidence)
        case "batch" | "prefill" if _only_steps(facts, known):
            many = f": up to {facts.decoding} answers share one" if facts.decoding > 1 else ""
            return Binding("decode", f"a step takes too long{many}", evidence)
        case "decode":
            many = f"up to {facts.decoding} answers share a step" if facts.decoding > 1 else "a step takes too long"
            return Binding("decode", f"decoding takes too long: {many}", evidence)
    return _prompts(facts, evidence)


def _reads_little(facts: LoadFacts, known: Mapping[str, float]) -> bool:
    """Whether little of the server's time goes to prompts, and little of the requests' to them."""
    if facts.prefill_share is None or "slots" not in known:
        return False
    waited = known.get("batch", 0.0) + known.get("prefill", 0.0)
    return facts.prefill_share < LITTLE_READING and waited < LITTLE_READING * sum(known.values())


def _only_steps(facts: LoadFacts, known: Mapping[str, float]) -> bool:
    """Whether first tokens wait for steps of the server alone: next to none of the time goes to prompts, their own or others'."""
    waited = known.get("batch", 0.0) + known.get("prefill", 0.0)
    if facts.prefill_share is None or facts.reading is None or facts.step is None:
        return False
    few = facts.prefill_share < LITTLE_READING and facts.reading < LITTLE_READING * waited
    return few and waited < FEW_STEPS * facts.step


def _slots(facts: LoadFacts, evidence: str) -> Binding:
    if facts.prefill_share is not None and facts.prefill_share >= BUSY:
        return _prompts(facts, evidence)
    used = "" if facts.utilisation is None else f" (utilisation {min(facts.utilisation, 1.0):.2f})"
    which = "the slots are" if facts.slots is None or facts.slots > 1 else "the only slot is"
    rare, often = (
        facts.utilisation is not None and facts.utilisation < share for share in (SLOTS_TAKEN, NEARLY_ALWAYS)
    )
    taken = "taken in bursts" if rare else "often taken" if often else "taken"
    return Binding("slots", f"{which} {taken}{used}", evidence)


def _prompts(facts: LoadFacts, evidence: str) -> Binding:
    again, busy = facts.reread_share, facts.prefill_share
    if again is not None and again >= READ_AGAIN:
        said = f"the prefix cache lacks what was read before: {percent(again)} of the prompt tokens read are read again"
        return Binding("cache", said, evidence)
    share = "" if busy is None or busy < LITTLE_READING else f" ({percent(min(busy, 1.0))} of the server's time)"
    return Binding("prefill", f"reading prompts takes too long{share}", evidence)


SPENT_ON = {
    "slots": "waiting for a slot",
    "batch": "waiting for the batch in flight",
    "unsplit": "waiting, for what is not known",
    "way": "on the way, or in a gateway",
    "before": "before the first token, for what is not known",
    "load": "loading the model",
    "prefill": "reading the prompt",
    "stall": "standing still for others' prompts",
    "decode": "decoding",
}


def _evidence(facts: LoadFacts, known: Mapping[str, float]) -> str:
    whole = sum(known.values())
    shares = sorted(known.items(), key=lambda item: -item[1])
    words = (
        SPENT_ON if facts.slots is None else SPENT_ON | {"slots": f"waiting for one of {counted(facts.slots, 'slot')}"}
    )
    said = ", ".join(f"{words[name]} {percent(value / whole)}" for name, value in shares if value >= 0.05 * whole)
    return f"Where the time of requests beyond the limit went ({seconds(whole)} each): {said}."
