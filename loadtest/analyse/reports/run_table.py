"""What was measured, from where and how: the last table of a report."""

from __future__ import annotations

from typing import Any

from loadtest.analyse.findings import slot_findings
from loadtest.analyse.findings.measured_on import ALL as SIMULATED
from loadtest.analyse.findings.measured_on import measured_on, simulated_badge, simulated_mark
from loadtest.analyse.reports import energy_report
from loadtest.analyse.reports.command import command, serve_command
from loadtest.analyse.reports.tables import sections
from loadtest.analyse.run.levels import LevelData, shared_parts
from loadtest.analyse.summary import Analysis
from loadtest.grid import Grid
from loadtest.metrics import S_PER_NS
from loadtest.text import UNKNOWN, counted, instant, joined, listed, seconds

MOST_LOADS = 6  # that are named one by one


def facts_table(analysis: Analysis) -> Grid:
    """Return what was measured, from where and how."""
    summary, run = analysis.summary, analysis.run.facts
    machine, server = run.get("client") or {}, summary["server"]
    context = (run.get("server_at_end") or {}).get("context_length") or server.get("context")
    versions = ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items())
    pairs = (
        (
            "run",
            f"{summary['name']} ({summary['state'] or 'state unknown'})",
        ),
        ("server", f"{measured_on(summary)} at {_urls(analysis)}"),
        ("took", _took(run)),
        ("simulated", (simulated_mark(summary) or "").removeprefix("simulated: ")),
        ("reached", _reached(run)),
        ("wire", str(summary["target"].get("dialect") or UNKNOWN)),
        ("context", f"{context} tokens" if context else UNKNOWN),
        *((f"slots{named}", _slots(one)) for named, one in sections(analysis)),
        ("driver", str(summary["driver"] or UNKNOWN)),
        ("load", _loop(summary["levels"])),
        ("client", _client(machine)),
        ("hardware", _hardware(summary)),
        ("energy", energy_report.fact(summary)),
        ("its server", _served(analysis)),
        ("run it again", command(analysis.run) or UNKNOWN),
        ("versions", versions or UNKNOWN),
    )
    return Grid(("", ""), tuple(pair for pair in pairs if pair[1]), prose=True)


def measured(analysis: Analysis) -> str:
    """Say in a line what was sent, when and for how long."""
    levels, started = analysis.levels, str(analysis.summary["started"] or "")
    if not levels:
        return ""
    same, names = shared_parts([level["label"] for level in levels])
    loads = listed(names) if len(names) <= MOST_LOADS else f"{len(names)} loads, {names[0]} to {names[-1]}"
    sent = f"{counted(sum(level['requests'] for level in levels), 'request')} at {joined(' · ', loads, *same)}"
    lost = f"{sum(level.failed for level in levels) or 'none'} failed"
    took = _took(analysis.run.facts).partition(" from")[0]
    return joined("; ", f"{sent}, {lost}", instant(started) if started else "start unknown", took)


def _slots(one: Analysis) -> str:
    """Return the slots with what they rest on; void levels that are part of it are named."""
    believed = slot_findings.believed_slots(one)
    why = joined("; ", one.slots.method, "part of that is from void levels" if believed != one.slots else "")
    return f"{believed} ({why})"


def _served(analysis: Analysis) -> str:
    """Return how the simulated server was started that a run measured; empty of real ones."""
    if not (said := serve_command(analysis.run, slot_findings.believed_slots(analysis))):
        return ""
    return f"{said} (a simulated one, as far as the run shows it: in another terminal, before the run)"


def _loop(levels: list[LevelData]) -> str:
    """Say whether users waited for their answers before they sent again; empty where some did and some did not."""
    due = [level.is_open for level in levels]
    if due and all(due):
        return "open loop: requests were due by the clock, however many were unanswered"
    return (
        "closed loop: each stream sent its next request after its last answer had ended" if due and not any(due) else ""
    )


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


def _client(machine: dict[str, Any]) -> str:
    return joined(
        ", ",
        machine.get("host"),
        f"CPUs: {machine.get('cpus', '?')}",
        f"kernel {machine.get('kernel', '?')}",
        f"Python {machine.get('python', '?')}",
    )


def _hardware(summary: dict[str, Any]) -> str:
    if found := summary.get("hardware"):
        return "; ".join(found)
    if simulated_badge(summary) == SIMULATED:
        return "none: the server is simulated"
    return "not recorded: loadtest run --monitor host,nvidia on the server's machine notes processors and GPUs"


def _urls(analysis: Analysis) -> str:
    urls = [group.url for group, _ in analysis.groups] or [analysis.summary["target"].get("url")]
    return ", ".join(map(str, dict.fromkeys(urls)))
