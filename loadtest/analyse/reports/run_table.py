"""What was measured, from where and how: the table of the run, the last one of a report."""

from __future__ import annotations

from typing import Any

import numpy as np

from loadtest.analyse.findings.measured_on import ALL as SIMULATED
from loadtest.analyse.findings.measured_on import measured_on, simulated_badge, simulated_mark
from loadtest.analyse.reports.energy_table import energy_fact
from loadtest.analyse.reports.run_again import command
from loadtest.analyse.reports.tables import sections
from loadtest.analyse.run import LevelData, RunData, shared_parts
from loadtest.analyse.summary import Analysis
from loadtest.grid import Grid
from loadtest.metrics import S_PER_NS
from loadtest.records import Outcome
from loadtest.text import UNKNOWN, counted, instant, joined, listed, percent, seconds

MOST_LOADS = 6  # that are named one by one
TTFT_PARTS = (
    ("unsplit_wait_s", "queue wait"),
    ("slot_wait_s", "slot wait"),
    ("batch_wait_s", "batch wait"),
    ("load_s", "model load"),
    ("prefill_s", "prefill"),
)
LEAST_PART = 0.05  # of the slowest request's TTFT, from which on a part of it is named


def facts_table(analysis: Analysis) -> Grid:
    summary, run = analysis.summary, analysis.run.facts
    machine, server = run.get("client") or {}, summary["server"]
    cpus, kernel, python = (machine.get(name, "?") for name in ("cpus", "kernel", "python"))
    context = (run.get("server_at_end") or {}).get("context_length") or server.get("context")
    spoken = sorted(analysis.run.requests["dialect"].dropna().unique())
    versions = ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items())
    pairs = (
        (
            "run",
            f"{summary['name']} ({summary['state'] or 'state unknown'})",
        ),
        ("server", f"{measured_on(summary)} at {_urls(analysis)}"),
        ("model", "" if summary.get("groups") else _model(analysis.run)),
        ("took", _took(run)),
        ("simulated", (simulated_mark(summary) or "").removeprefix("simulated: ")),
        ("reached", _reached(run)),
        ("wire", listed(spoken) or str(summary["target"].get("dialect") or UNKNOWN)),
        ("context", f"{context} tokens" if context else UNKNOWN),
        *((f"slots{named}", _slots(one)) for named, one in sections(analysis)),
        ("driver", str(summary["driver"] or UNKNOWN)),
        ("load", _loop(summary["levels"])),
        ("prompts", _prompts(analysis)),
        *((f"slowest request{named}", _slowest(one)) for named, one in sections(analysis)),
        ("client", joined(", ", machine.get("host"), f"CPUs: {cpus}", f"kernel {kernel}", f"Python {python}")),
        ("hardware", _hardware(summary)),
        ("energy", energy_fact(summary)),
        ("run it again", command(analysis.run) or UNKNOWN),
        ("versions", versions or UNKNOWN),
    )
    return Grid(("", ""), tuple(pair for pair in pairs if pair[1]), prose=True)


def measured(analysis: Analysis) -> str:
    """Say in a line what was sent, when and for how long."""
    levels = analysis.levels
    if not levels:
        return ""
    shared, own = shared_parts([level["label"] for level in levels])
    names = list(dict.fromkeys(own[level["label"]] for level in sorted(levels, key=lambda level: level.amount or 0.0)))
    loads = listed(names) if len(names) <= MOST_LOADS else f"{len(names)} loads, {names[0]} to {names[-1]}"
    sent = f"{counted(sum(level['requests'] for level in levels), 'request')} at {joined(' · ', loads, shared)}"
    left = sum(level["outcomes"].get(Outcome.LEFT, 0) for level in levels)
    lost = f"{sum(level.failed for level in levels) or 'none'} failed"
    lost += f", users hung up in {left}" if left else ""
    took = _took(analysis.run.facts).partition(" from")[0]
    return joined("; ", f"{sent}, {lost}", instant(analysis.summary["started"]), took)


def _model(run: RunData) -> str:
    """Return how large the model is and how its weights are kept, as the server says; empty where it says neither."""
    size = run.fact("server", "facts", "details", "parameter_size")
    kept = run.fact("comparability", "quantization")
    return joined(", ", f"{size} parameters" if size else "", None if kept == "unknown" else kept)


def _slots(one: Analysis) -> str:
    """Return the slots with what they rest on; void levels that are part of it are named."""
    believed = one.believed_slots
    why = joined("; ", one.slots.method, "part of that is from void levels" if believed != one.slots else "")
    return f"{believed} ({why})"


def _loop(levels: list[LevelData]) -> str:
    """Say whether users waited for their answers before they sent again; empty where some did and some did not."""
    if levels and all(level.is_open for level in levels):
        return "open loop: requests were due by the clock, however many were unanswered"
    if not levels or not all(level.is_closed for level in levels):
        return ""
    paused = "a think time " * any(level.get("thinks") for level in levels)
    return f"closed loop: each user sent its next request {paused}after its last answer had ended"


def _prompts(analysis: Analysis) -> str:
    """Return what was asked, and what of it a prefix cache answered; empty where run.json does not say."""
    asked, cached = analysis.run.scenario, [level.get("cached_share") for level in analysis.levels]
    if not asked:
        return ""
    what = f"rows of {asked['data']}" if asked.get("data") else "made up"
    if asked.get("prompt") is not None or asked.get("prompt_file") is not None:
        what = "one text"
    alike = asked.get("data") or asked.get("warm_cache")
    requests = analysis.run.requests
    own = requests["asked_input"].isna()  # tasks of a locustfile send texts too, and lists of messages without a number
    if what == "made up" and analysis.run.facts.get("driver") == "locust" and own.any():
        few = f"{own.sum()} of {len(requests)} requests" if not own.all() else ""
        what, alike = joined("; ", "made up" if few else "", f"those of the locustfile{few and f' in {few}'}"), True
    who = "each conversation" if analysis.run.has_turns else "each"
    nonce = f"{who} behind a number of its own{', after what they share' if analysis.run.shares_prefix else ''}"
    answers = "answers its first prompt" if analysis.run.has_turns else "answers it"
    known = [share for share in cached if share is not None]
    told = "how many of their tokens the server had cached is not known"
    if known:
        most = percent(max(known))
        told = f"{'up to ' if len(known) > 1 and max(known) else ''}{most} of a level's prompt tokens came from the prefix cache"
    if any(known) and not (analysis.run.has_turns or analysis.run.shares_prefix):
        return joined(
            "; ",
            what if alike else f"{what}, {nonce}, against prefix caches",
            told if alike else f"{told} all the same",
        )
    why = "" if analysis.run.fact("sent_before") else f", so that no prefix cache {answers}"
    return joined("; ", what if alike else f"{what}, {nonce}{why}", told)


def _slowest(one: Analysis) -> str:
    """Return which request waited longest for its first token, and what for; empty where none had one."""
    run, levels = one.run, {level["index"]: level for level in one.believed}
    ttft = np.where(run.flag("ok") & ~run.flag("warmup") & run.one_of("level", *levels), run.column("ttft_s"), np.nan)
    if not np.isfinite(ttft).any():
        return ""
    row = int(np.nanargmax(ttft))
    parts = {words: float(run.column(name)[row]) for name, words in TTFT_PARTS if name in run.requests}
    said = [f"{words} {seconds(part)}" for words, part in parts.items() if part >= LEAST_PART * ttft[row]]
    which = (
        f"{run.requests['id'].iloc[row]}, at {levels[int(run.column('level')[row])].load}: TTFT {seconds(ttft[row])}"
    )
    gone = run.left(*levels) & ~np.isfinite(run.column("first_token"))
    more = "; not among these are users who hung up before their first token" if gone.any() else ""
    return f"{which}{f' ({listed(said)})' if said else ''}{more}; loadtest explain says more"


def _took(facts: dict[str, Any]) -> str:
    """Return how long it was from the start of the first level to the end of the last one; empty where that is not known."""
    ends = [(level.get("started_ns"), level.get("ended_ns")) for level in facts.get("levels") or []]
    if not ends or not all(isinstance(at, int) for pair in ends for at in pair):
        return ""
    span = seconds((max(end for _, end in ends) - min(start for start, _ in ends)) * S_PER_NS)
    return f"{span} from the start of the first level to the end of the last"


def _reached(facts: dict[str, Any]) -> str:
    """Return by which way the servers were reached, and what was not checked on it; empty for the plain way."""
    said, scenario = [], facts.get("scenario") or {}
    if scenario.get("proxy"):
        each = facts.get("targets") or [{**facts, **(facts.get("target") or {})}]
        straight = dict.fromkeys(
            str(one.get("url")) for one in each if not (one.get("comparability") or {}).get("proxy")
        )
        beside = f", but {listed(list(straight))} directly" if straight and scenario.get("no_proxy") else ""
        said.append(f"by the proxy {scenario['proxy']}{beside}: TTFT holds its share")
    if scenario.get("insecure"):
        said.append("with --insecure: whose certificate it was has not been checked")
    return "; ".join(said)


def _hardware(summary: dict[str, Any]) -> str:
    if found := summary.get("hardware"):
        return "; ".join(found)
    if simulated_badge(summary) == SIMULATED:
        return "none: the server is simulated"
    return "not recorded: loadtest run --monitor host,nvidia on the server's machine notes processors and GPUs"


def _urls(analysis: Analysis) -> str:
    urls = [group.url for group, _ in analysis.groups] or [analysis.summary["target"].get("url")]
    return ", ".join(map(str, dict.fromkeys(urls)))
