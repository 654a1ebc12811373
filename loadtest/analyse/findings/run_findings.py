"""What a run shows, in sentences with their figures: one source for chart titles and reports.

No finding quotes a figure of a void level: such a level is named as void.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from loadtest.analyse.figures import client_capacity, rates
from loadtest.analyse.figures.keeping_up import kept_up
from loadtest.analyse.findings import (
    cache_findings,
    data_findings,
    energy_findings,
    machine_findings,
    step_findings,
)
from loadtest.analyse.findings.finding import Finding, as_findings
from loadtest.analyse.findings.slot_findings import behind_the_url, slots_finding
from loadtest.analyse.findings.waiting_findings import (
    batching,
    cut_off,
    leaving_findings,
    loading,
    queueing,
    void_above,
)
from loadtest.analyse.run import LevelData, Series, believed, grouped, groups, has_tokens
from loadtest.analyse.run.overlaps import peak_at_once
from loadtest.analyse.server import alternating_models, prompt_length
from loadtest.analyse.server.model_memory import by_slots, cold_load, memory_comparison
from loadtest.analyse.summary import Analysis, believed_knee
from loadtest.analyse.verdict import shared_sentences
from loadtest.text import counted, listed, number, seconds

MOST_TOLD = 3  # series of levels; of more, the first and the last


def all_findings(analysis: Analysis) -> list[Finding]:
    """Return what the run shows, the most telling first; each names its model or server where there are several."""
    run, levels = analysis.run, analysis.levels
    found = [
        cut_off(run),
        _found_max(run.facts.get("find_max") or {}),
        machine_findings.others_finding(run),
        by_slots.context_sentence(run),
        *data_findings.batch_findings(run, levels),
        *_shared_servers(analysis),
        *(_each_servers_findings(analysis) if analysis.groups else _server_findings(analysis)),
        # Of several models, one may have worked while another paused.
        None if analysis.groups else step_findings.pause_finding(analysis),
        _prediction(analysis.summary),
        several_at_once(analysis),
        client_capacity.capacity_sentence(levels),
        memory_comparison.difference_sentence(analysis.memory),
        *energy_findings.energy_findings(analysis.summary),
        *data_findings.length_findings(run, analysis.believed),
        data_findings.hidden_finding(run, analysis.believed),
        data_findings.counting_finding(run, levels),
        data_findings.piece_finding(run, analysis.believed),
        *machine_findings.machine_findings(run),
        *shared_sentences.answer_notes(run),
    ]
    return as_findings(found)


def _each_servers_findings(analysis: Analysis) -> Iterator[Finding]:
    for group, one in analysis.groups:
        who = f"{group.name}, beside {listed(group.beside)}" if group.beside else group.name
        for each in _server_findings(one):
            yield Finding(each.removeprefix(f"{group.name} · "), each.evidence).about(who)


def _prediction(summary: dict[str, Any]) -> Finding | None:
    """Say how the prediction fared that the run kept before its first request."""
    kept = summary.get("prediction")
    if not kept:
        return None
    if not kept.get("figures"):
        why = kept.get("reason") or " ".join(kept.get("not_scored") or ["no level of it was measured."])
        return Finding(f"The prediction that this run kept could not be scored: {why}")
    when = f"Predicted on {kept['made']}, kept before the first request."
    return Finding(kept["sentence"], " ".join([when, *kept["not_scored"]]))


def _found_max(found: dict[str, Any]) -> Finding | None:
    """Return the answer of --find-max, and how what binds is known."""
    if not found.get("sentence"):
        return None
    return Finding(found["sentence"], (found.get("binds") or {}).get("evidence") or "")


def _shared_servers(analysis: Analysis) -> Iterator[str]:
    """Say which models and servers a run's requests went to where there are several, and which of them shared one."""
    if analysis.groups:
        named = [f"{group.name} ({counted(len(group.run.requests), 'request')})" for group, _ in analysis.groups]
        yield f"Figures are given apart for {listed(named)}."
        yield from _in_step(analysis)
    in_turn = grouped((one.url, one.level) for one in analysis.alternating)
    for url, names in grouped((group.url, group.name) for group, _ in analysis.groups if group.beside).items():
        # Of models that are never loaded together none has a step beside another's.
        whole = len(in_turn.get(url, ())) < len(analysis.run.levels)
        if len(names) < 2:  # the others had next to no requests
            continue
        used, what = ("in use", "waits, step times and speeds") if whole else ("asked for", "waits")
        yield f"{listed(names)} were {used} at the same time at {url}: the {what} of each include what the others cost it."
    yield from (one.sentence for one in analysis.alternating)
    if analysis.alternating:
        yield alternating_models.what_helps(analysis.run)
    yield from (f"No request was recorded for {name}." for name in groups.unused(analysis.run))


def _in_step(analysis: Analysis) -> Iterator[str]:
    """Say what TTFT holds where streams of one run go to one model by several URLs, which may be ways to one server."""
    alike = grouped(
        ((group.model, group.run.fact("server", "kind"), group.run.fact("server", "version")), group.url)
        for group, _ in analysis.groups
    )
    paced = analysis.run.scenario.get("think_time")
    closed = any(level.get("concurrency") is not None for level in analysis.run.facts.get("levels") or [])
    if paced or not closed or max(len(set(urls)) for urls in alike.values()) < 2:
        return
    why = "then the same ones come second each time, and their TTFT holds the others' prefill"
    yield f"If these URLs lead to one server, streams may run in step: {why}. Compare ways to one server at a --rate."


def _server_findings(analysis: Analysis) -> list[Finding]:
    """Return what the requests to one model at one server show of it."""
    run, levels, every = analysis.run, analysis.levels, analysis.series
    told = every if len(every) <= MOST_TOLD else [every[0], every[-1]]  # the tables have the rest
    found = [
        data_findings.clock_finding(run),
        *cold_loads(analysis),
        None if levels else "No request was recorded.",
        slots_finding(analysis) if levels and has_tokens(*levels) else None,
        behind_the_url(analysis),
        *cache_findings.cache_findings(analysis),
        *step_findings.steps_findings(analysis),
        *longer_prompts(analysis),
        *(each.about(one.label if len(every) > 1 else "") for one in told for each in _of_series(analysis, one)),
        *leaving_findings(levels),
        rates.drained(analysis.believed),
        rates.understated(analysis.believed),
    ]
    return as_findings(found)


def _of_series(analysis: Analysis, series: Series) -> Iterator[Finding]:
    # Where the pace changed, no step time tells a stall from a step, nor what makes a prompt take longer.
    changed = step_findings.pace_finding(analysis.steps, analysis.believed)
    found = (
        loading(series),
        queueing(analysis, series),
        batching(analysis, series),
        None if changed else step_findings.reading_together(analysis.run, series),
        None if analysis.steps.apart or changed else step_findings.stalling(analysis.run, series),
        saturation(series),
        range_of_ttft(series),
        range_of_e2e(series),
    )
    yield from filter(None, found)


def several_at_once(analysis: Analysis) -> Finding | None:
    """Say in which level users of a closed loop had several requests in flight at once, as tasks of a locustfile may."""
    run = analysis.run
    for level in analysis.levels:
        rows = run.of_level(level["index"])
        sent = run.requests.loc[rows, ["user", "send", "end"]].dropna().sort_values(["user", "send"])
        before = sent.groupby("user")["end"].cummax().groupby(sent["user"]).shift(1)
        if not level.is_closed or not (sent["send"] < before).any():
            continue
        most = peak_at_once(sent["send"].to_numpy(), sent["end"].to_numpy())
        if most > level["concurrency"]:
            said = f"Users had several requests at once, up to {most} in flight: the level is one of more streams than it says."
            return Finding(said).about(level["label"])
    return None


def cold_loads(analysis: Analysis) -> list[Finding]:
    """Say what cold model loads took, a level at a time; nothing where none was asked for."""
    cold = [level for level in analysis.levels if level.get("cold_load")]
    levels = [level for level in cold if not level.is_void or not level["cold_load"]["n"]]
    mark = " (simulated)" if analysis.run.simulated else ""
    return [
        Finding(sentence).about(level["label"] if len(levels) > 1 else "")
        for level in levels[:MOST_TOLD]
        for sentence in cold_load.cold_load_sentences(level["cold_load"], mark)
    ]


def longer_prompts(analysis: Analysis) -> list[Finding]:
    """Say what a longer prompt costs, where levels differ in input length alone; of many such lines the first ones'."""
    if step_findings.pace_finding(analysis.steps, analysis.believed):
        return []  # what differs between levels is then not of their lengths alone
    every = prompt_length.prompt_length_series(analysis.run, analysis.believed)
    return [
        Finding(sentence).about(line.label if len(every) > 1 else "")
        for line in every[:MOST_TOLD]
        for sentence in prompt_length.prompt_length_sentences(line)
    ]


def as_title(analysis: Analysis, finding: Callable[[Series], Finding | None]) -> str | None:
    """Return the last series' finding without its full stop, for a title; named when there are several series."""
    every = analysis.series
    for series in reversed(every):
        if said := finding(series):
            return said.about(series.label if len(every) > 1 else "").rstrip(".")
    return None


def heaviest(levels: Iterable[LevelData], name: str, part: str = "mean") -> LevelData | None:
    """Return the level of the highest load among those that are not void and have this figure."""
    known = [level for level in believed(levels) if level.figure(name, part) is not None]
    return max(reversed(known), key=lambda level: level.amount, default=None)


def saturation(series: Series) -> Finding | None:
    """Say from which load on more brings no more: streams, with three levels or more; or the rate that is kept up with."""
    levels = series.believed
    if levels and levels[0].is_open:
        said = kept_up(levels)
        above = "" if any(level.queue_grew for level in levels) else void_above(series, levels[-1])
        return Finding(f"{said.removesuffix('.')}{above}.") if said else None
    found, _ = believed_knee(series)
    return Finding(found.sentence) if found else None


def range_of_ttft(series: Series) -> Finding | None:
    """Say how TTFT and decode speed change from the lowest to the highest concurrency."""
    told = _lowest_and_highest([level for level in series.believed if level.figure("ttft_s", "p50") is not None])
    if not told:
        return None
    ttfts = _at_loads(told, [level.wait_in_words("ttft_s", "p50") for level in told])
    speeds = [level.figure("stream_tokens_per_s", "p50") for level in told]
    said = f"The median TTFT is {ttfts}"
    if all(speeds):
        words = list(dict.fromkeys(number(speed) for speed in speeds))
        both = " at both" if len(words) < len(speeds) else ""
        said += f"; the median decode speed is {listed(words)} tokens/s a stream{both}"
    return Finding(f"{said}.")


def _lowest_and_highest(levels: Sequence[LevelData]) -> Sequence[LevelData]:
    return [levels[0], levels[-1]] if len(levels) > 1 else levels


def _at_loads(told: Sequence[LevelData], figures: Sequence[str]) -> str:
    """Return "1.2 s at 1 stream and 3 s at 8 streams"; a search may have measured one load alone, and that more than once."""
    left_out = [f" ({level.left_out_said})" if level.many_failed else "" for level in told]
    where = [f"{level.load}{mark}" for level, mark in zip(told, left_out, strict=True)]
    if len(told) > 1 and told[0].load == told[1].load:
        return f"{figures[0]} at {where[0]}, and {figures[1]} when that was measured again{left_out[1]}"
    return listed([f"{figure} at {one}" for figure, one in zip(figures, where, strict=True)])


def range_of_e2e(series: Series) -> Finding | None:
    """Say of answers without text how E2E and the rate of input tokens change from the lowest to the highest load."""
    told = _lowest_and_highest([level for level in series.believed if not has_tokens(level)])
    if not told:
        return None
    rates_said = [level.get("input_tokens_per_s") for level in told]
    said = f"The median E2E is {_at_loads(told, [seconds(level.figure('e2e_s', 'p50')) for level in told])}"
    if all(rates_said):
        said += f"; the server takes {listed([number(rate) for rate in rates_said])} input tokens/s"
    return Finding(f"{said}.")
