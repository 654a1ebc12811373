"""What a run says, in sentences with their figures: one source for chart titles and reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.summary import Analysis

KNEE_SHARE = 0.95  # of the best throughput: the first level that reaches it is the knee
MOST_TOLD = 3  # series of levels; of more, the first and the last


@dataclass(frozen=True, slots=True)
class Series:
    """Levels that differ in nothing but concurrency, in its order."""

    label: str  # what they share, e.g. "128 in · 64 out"; empty where nothing is said
    levels: tuple[dict[str, Any], ...]  # of summary.json


def series_of(summary: dict[str, Any]) -> list[Series]:
    """Group a summary's levels by prompt length, answer length, words and rate."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for level in summary["levels"]:
        key = (level["words"], level["input_tokens"], level["output_tokens"], level["rate"])
        groups.setdefault(key, []).append(level)
    found = []
    for (words, asked_in, asked_out, rate), levels in groups.items():
        parts = (
            (asked_in, "{} in"),
            (asked_out, "{} out"),
            (words, "{} words"),
            (rate, "{:g} requests/s"),
        )
        label = " · ".join(form.format(value) for value, form in parts if value is not None)
        found.append(Series(label, tuple(sorted(levels, key=lambda level: level["concurrency"] or 0))))
    return found


def simulated(summary: dict[str, Any]) -> str | None:
    """Return "simulated: profile X at N× speed", None for a real server."""
    said = summary["simulated"]
    return f"simulated: profile {said['profile']} at {float(said['speed']):g}× speed" if said else None


def measured_on(summary: dict[str, Any]) -> str:
    """Return server and model in words, e.g. "ollama 0.33.0 · llama3.1:70b"."""
    server, target = summary["server"], summary["target"]
    parts = (f"{server.get('kind') or 'server'} {server.get('version') or ''}".strip(), target.get("model"))
    return " · ".join(str(part) for part in parts if part)


def seconds(value: float | None) -> str:
    """Return a duration for people: ms below a second, s above; "unknown" for None."""
    if value is None:
        return "unknown"
    milliseconds = value * 1e3
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{value:.2f} s"


def percent(share: float) -> str:
    """Return a share as whole percent, e.g. "82 %"."""
    return f"{share * 100:.0f} %"


def streams(count: int) -> str:
    return f"{count} stream{'s' if count != 1 else ''}"


def figure(level: dict[str, Any], name: str, part: str = "mean") -> float | None:
    """Return one figure of a level, None where it is unknown."""
    described = level.get(name)
    value: float | None = described.get(part) if described else None
    return value


def all_findings(analysis: Analysis) -> list[str]:
    """Return what the run shows, the most telling first; each sentence holds its figures."""
    summary = analysis.summary
    found = [slots_finding(analysis)] if summary["levels"] else ["No request was recorded."]
    void = sum(level["verdict"] == "void" for level in summary["levels"])
    if void:
        found.append(f"{void} of {len(summary['levels'])} levels are void: do not quote their figures, here neither.")
    every = series_of(summary)
    told = every if len(every) <= MOST_TOLD else [every[0], every[-1]]  # the tables have the rest
    for series in told:
        prefix = f"{series.label}: " if len(every) > 1 and series.label else ""
        sentences = (queueing(analysis, series), knee(series), range_of_ttft(series))
        found += [f"{prefix}{sentence}" for sentence in sentences if sentence]
    return found


def telling(analysis: Analysis, finding: Callable[[Series], str | None]) -> str | None:
    """Return the last series' finding without its full stop, for a title; named when there are several series."""
    every = series_of(analysis.summary)
    for series in reversed(every):
        if said := finding(series):
            return (f"{series.label}: {said}" if len(every) > 1 and series.label else said).rstrip(".")
    return None


def slots_finding(analysis: Analysis) -> str:
    """Say how many streams the server works on at once, and how sure that is."""
    slots = analysis.slots
    if slots.estimate is None:
        return "No stream was seen decoding, so nothing is known about the server's slots."
    if slots.limit:
        return f"The server works on {streams(slots.estimate)} at once; further requests wait ({slots.method})."
    return f"The server works on at least {streams(slots.estimate)} at once; its limit was not seen ({slots.method})."


def queueing(analysis: Analysis, series: Series) -> str | None:
    """Say what share of TTFT waiting is at the highest concurrency; None where waits are unknown."""
    level = next((level for level in reversed(series.levels) if figure(level, "queue_wait_s") is not None), None)
    if level is None:
        return None
    names = ("ttft_s", "queue_wait_s", "slot_wait_s", "batch_wait_s")
    ttft, wait, slot, batch = (figure(level, name) for name in names)
    if not ttft or wait is None:
        return None
    at = f"at {streams(level['concurrency'])}"
    if slot is None or batch is None:
        share = percent(wait / ttft)
        return f"{at.capitalize()} {share} of the mean TTFT ({seconds(ttft)}) is queue wait (for a slot or a batch: not known)."
    if analysis.slots.limit and slot > batch:
        past = streams(analysis.slots.estimate or 0)
        return (
            f"Past {past} requests queue: {at} {percent(slot / ttft)} of the mean TTFT ({seconds(ttft)}) is slot wait."
        )
    if batch > 0.1 * ttft:
        share = percent(batch / ttft)
        return f"No queue for slots {at}, yet {share} of the mean TTFT ({seconds(ttft)}) waits for the batch in flight."
    return f"No queue {at}: waiting is {percent((slot + batch) / ttft)} of the mean TTFT ({seconds(ttft)})."


def knee(series: Series) -> str | None:
    """Say from which concurrency on more streams bring no more output; None with fewer than two levels."""
    known = [(level["concurrency"], level["output_tokens_per_s"]) for level in series.levels]
    known = [(users, rate) for users, rate in known if users and rate]
    if len(known) < 2:
        return None
    best = max(rate for _, rate in known)
    users, rate = next((users, rate) for users, rate in known if rate >= KNEE_SHARE * best)
    last_users, last_rate = known[-1]
    if users == last_users:
        return f"Output still grows with concurrency: {last_rate:.1f} tokens/s in all at {streams(users)}."
    return f"Output stops growing at {streams(users)}: {rate:.1f} tokens/s in all there, {last_rate:.1f} at {streams(last_users)}."


def range_of_ttft(series: Series) -> str | None:
    """Say how TTFT and decode speed change from the lowest to the highest concurrency."""
    ends = [level for level in series.levels if figure(level, "ttft_s", "p50") is not None]
    if not ends:
        return None
    said = []
    for level in ends[:1] if len(ends) == 1 else (ends[0], ends[-1]):
        speed = figure(level, "stream_tokens_per_s", "p50")
        said.append(
            f"{seconds(figure(level, 'ttft_s', 'p50'))} TTFT"
            + (f" and {speed:.1f} tokens/s a stream" if speed else "")
            + f" at {streams(level['concurrency'])}"
        )
    return "Median: " + ", ".join(said) + "."


def verdicts(levels: Iterable[dict[str, Any]]) -> list[str]:
    """Return one line a level that is not valid, with its reasons."""
    return [
        f"{level['label']}: {level['verdict']}: " + "; ".join(level["reasons"]) + "."
        for level in levels
        if level["reasons"]
    ]
