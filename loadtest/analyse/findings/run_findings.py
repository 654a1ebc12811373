"""What a run shows, in sentences with their figures: one source for chart titles and reports.

No finding quotes a figure of a void level: such a level is named as void.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from loadtest.analyse.figures import client_capacity, rates
from loadtest.analyse.figures import kept_up as keeping_up
from loadtest.analyse.findings import (
    behind_findings,
    cache_findings,
    data_findings,
    energy_findings,
    leaving_findings,
    machine_findings,
    prompt_findings,
    step_findings,
)
from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run import groups, offered_load
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.series import Series, series_of
from loadtest.analyse.server import alternating_models, prompt_length
from loadtest.analyse.server.model_memory import by_slots as memory
from loadtest.analyse.server.model_memory import cold_load, memory_comparison
from loadtest.analyse.server.queue.passing import alone_share, passed_share
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import (
    Analysis,
    believed,
    believed_knee,
    figure,
    has_tokens,
    is_void,
    mean_ttft,
    wait_in_words,
)
from loadtest.analyse.verdict import outcome_rules
from loadtest.analyse.whatif.model.fit import known_slots
from loadtest.text import capitalised, counted, listed, number, percent, seconds

MOSTLY_ALONE = 0.5  # of batch wait that passed with nobody else there: it is none
LEAST_BATCH_WAIT = 0.1  # of the mean TTFT: less is not worth a sentence
LEAST_SLOT_WAIT = 0.05  # of the mean TTFT, from which on requests queue
LONG_WAIT = 0.3  # of the mean TTFT: a single request that waited so long did queue, however short the mean wait is
MOST_OF_A_WAIT = 0.8  # of a wait
FEWEST_ENDED = 10  # requests, from which on Little's law is held against a level
MOSTLY_PASSED = 0.5  # of a level's batch wait, from which on it is none: many batches passed meanwhile
SHORT_S = 0.005  # nobody calls that queueing
MOST_TOLD = 3  # series of levels; of more, the first and the last


def all_findings(analysis: Analysis) -> list[Finding]:
    """Return what the run shows, the most telling first; each names its model or server where there are several."""
    several, levels = bool(analysis.groups), analysis.summary["levels"]
    found: list[str | Finding | None] = [
        outcome_rules.end_sentence(analysis.run),
        _found_max(analysis.run.facts.get("find_max") or {}),
        *memory.context_sentences(analysis.run),
        *data_findings.batch_findings(analysis.run, levels),
        *_shared_servers(analysis),
    ]
    for group, one in analysis.groups:
        who = f"{group.name}, beside {listed(group.beside)}" if group.beside else group.name
        mine = _server_findings(one)
        found += [Finding(each.removeprefix(f"{group.name} · "), each.evidence).about(who) for each in mine]
    if not several:
        found += _server_findings(analysis)
    found += [_prediction(analysis.summary), client_capacity.capacity_sentence(levels)]
    if not several:
        found += memory_comparison.difference_sentences(analysis.memory)
    found += [*energy_findings.energy_findings(analysis.summary)]
    found += [
        *data_findings.length_findings(analysis.run, levels),
        data_findings.counting_finding(analysis.run, levels),
    ]
    found += [*machine_findings.machine_findings(analysis.run), *outcome_rules.answer_notes(analysis.run)]
    return [each if isinstance(each, Finding) else Finding(each) for each in found if each]


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


def _shared_servers(analysis: Analysis) -> list[str]:
    """Say which models and servers a run's requests went to where there are several, and which of them shared one."""
    found = []
    if analysis.groups:
        named = [f"{group.name} ({counted(len(group.run.requests), 'request')})" for group, _ in analysis.groups]
        found += [f"Figures are given apart for {listed(named)}.", *_in_step(analysis)]
    for url in dict.fromkeys(group.url for group, _ in analysis.groups if group.beside):
        names = [group.name for group, _ in analysis.groups if group.beside and group.url == url]
        found.append(
            f"{listed(names)} were in use at the same time at {url}: the waits, step times and speeds of each include what "
            "the others cost it."
        )
    found += [one.sentence for one in analysis.alternating]
    if analysis.alternating:
        found.append(alternating_models.what_helps(analysis.run))
    return found + [f"No request was recorded for {name}." for name in groups.unused(analysis.run)]


def _in_step(analysis: Analysis) -> list[str]:
    """Say what TTFT holds where streams of one run go to one model by several URLs, which may be ways to one server."""
    facts = [(group.model, group.url, group.run.facts.get("server") or {}) for group, _ in analysis.groups]
    alike = {(model, server.get("kind"), server.get("version")): set[str]() for model, _, server in facts}
    for model, url, server in facts:
        alike[model, server.get("kind"), server.get("version")].add(url)
    paced = (analysis.run.facts.get("scenario") or {}).get("think_time")
    closed = any(level.get("rate") is None for level in analysis.run.facts.get("levels") or [])
    if paced or not closed or max(map(len, alike.values())) < 2:
        return []
    why = "then the same ones come second each time, and their TTFT holds the others' prefill"
    return [
        f"If these URLs lead to one server, streams may run in step: {why}. Compare ways to one server at a --rate."
    ]


def _server_findings(analysis: Analysis) -> list[Finding]:
    """Return what the requests to one model at one server show of it."""
    summary = analysis.summary
    found: list[str] = [*cold_loads(analysis)]
    if not summary["levels"]:
        found.append("No request was recorded.")
    elif has_tokens(*summary["levels"]):
        found.append(slots_finding(analysis))
    found += [
        *behind_findings.behind_the_url(analysis),
        *cache_findings.cache_findings(analysis),
        *step_findings.steps_findings(analysis),
        *longer_prompts(analysis),
    ]
    every = series_of(summary["levels"])
    for series in every if len(every) <= MOST_TOLD else [every[0], every[-1]]:  # the tables have the rest
        who = series.label if len(every) > 1 else ""
        for each in (
            queueing(analysis, series),
            batching(analysis.run, series),
            prompt_findings.reading_together(analysis.run, series),
            prompt_findings.stalling(analysis.run, series),
            saturation(series),
            range_of_ttft(series),
            range_of_e2e(series),
        ):
            if each:
                found.append(each.about(who))
    found += leaving_findings.leaving_findings(summary["levels"])
    found += [*unsteady(summary["levels"])[:MOST_TOLD], *rates.drained(believed(summary["levels"]))[:MOST_TOLD]]
    return [each if isinstance(each, Finding) else Finding(each) for each in found]


def cold_loads(analysis: Analysis) -> list[str]:
    """Say what cold loads took, a level at a time; nothing where none was asked for."""
    cold = [level for level in analysis.summary["levels"] if level.get("cold_load")]
    levels = [level for level in cold if not is_void(level) or not level["cold_load"]["n"]]
    mark = " (simulated)" if analysis.run.simulated else ""
    return [
        f"{level['label']}: {sentence}" if len(levels) > 1 else sentence
        for level in levels[:MOST_TOLD]
        for sentence in cold_load.cold_load_sentences(level["cold_load"], mark)
    ]


def longer_prompts(analysis: Analysis) -> list[str]:
    """Say what a longer prompt costs, where levels differ in input length alone; of many such lines the first ones'."""
    every = prompt_length.prompt_length_series(analysis.run, believed(analysis.summary["levels"]))
    return [
        f"{line.label}: {sentence}" if len(every) > 1 else sentence
        for line in every[:MOST_TOLD]
        for sentence in prompt_length.prompt_length_sentences(line)
    ]


def as_title(analysis: Analysis, finding: Callable[[Series], Finding | None]) -> str | None:
    """Return the last series' finding without its full stop, for a title; named when there are several series."""
    every = series_of(analysis.summary["levels"])
    for series in reversed(every):
        if said := finding(series):
            return said.about(series.label if len(every) > 1 else "").rstrip(".")
    return None


def believed_slots(analysis: Analysis) -> Slots:
    """Return the slots as far as levels that are not void show them: a lower bound where only void ones show the limit."""
    slots, levels = analysis.slots, analysis.summary["levels"]
    good = believed(levels)
    if slots.estimate is None or len(good) == len(levels):
        return slots
    if not good:
        return Slots(None, limit=False, method=slots.method)
    seen = max(int(level["peak_decoding"]) for level in good)
    loaded = any(offered_load.is_open(level) or level["concurrency"] > slots.estimate for level in good)
    if slots.limit and loaded and seen >= slots.estimate:
        return slots
    return Slots(min(seen, slots.estimate), limit=False, method=slots.method)


def slot_limit(analysis: Analysis) -> int | None:
    """Return how many slots the server has where levels that are not void show it; None where they show none, or a lower bound."""
    slots = believed_slots(analysis)
    return slots.estimate if slots.limit else None


def slots_told(analysis: Analysis) -> str | None:
    """Return who knows the limit that the run did not reach, as "the server says 12"; None where it did, or nobody does."""
    known = known_slots(analysis.run, analysis.slots)
    if analysis.slots.limit or known.limit is None:
        return None
    who = "the server says" if (analysis.run.facts.get("server") or {}).get("slots_said") == known.limit else None
    return f"{who or 'bursts before the run showed'} {known.limit}"


def only_void(levels: Iterable[dict[str, Any]]) -> str:
    """Return "only a void level shows", "only void levels show": where a limit is known from."""
    void = sum(map(is_void, levels))
    return "only a void level shows" if void == 1 else "only void levels show"


def slots_finding(analysis: Analysis) -> Finding:
    """Say how many requests the server handles in parallel, and what that rests on."""
    slots, levels = believed_slots(analysis), analysis.summary["levels"]
    if analysis.slots.estimate is None:
        return Finding("No stream was seen decoding, so nothing is known about the server's slots.")
    evidence = f"{slots.method}." if slots.method else ""
    if slots.estimate is None:
        evidence += " All of that is from void levels: measure again before you rely on it."
        return Finding("How many requests the server handles in parallel is not known: every level is void.", evidence)
    if slots.limit:
        what = "one request at a time" if slots.estimate == 1 else f"{slots.estimate} requests in parallel"
        return Finding(f"The server handles {what}; further requests queue.", evidence)
    least = counted(slots.estimate, "request")
    unseen = slots_told(analysis) or "its limit was not seen"
    unseen = f"{only_void(levels)} its limit" if analysis.slots.limit else unseen
    if analysis.slots.limit or slots.estimate != analysis.slots.estimate:
        evidence += " Void levels are part of that: measure them again before you rely on it."
    return Finding(f"The server handles at least {least} in parallel; {unseen}.", evidence)


def heaviest(levels: Iterable[dict[str, Any]], name: str, part: str = "mean") -> dict[str, Any] | None:
    """Return the level of the highest load among those that are not void and have this figure."""
    known = [level for level in believed(levels) if figure(level, name, part) is not None]
    return max(reversed(known), key=offered_load.amount, default=None)


def queueing(analysis: Analysis, series: Series) -> Finding | None:
    """Say what share of TTFT waiting is at the highest concurrency; None where waits are unknown."""
    told = [
        level
        for level in believed(series.levels)
        if figure(level, "queue_wait_s") is not None or figure(level, "slot_wait_s")
    ]
    if not told:
        return None
    level = told[-1]
    wait, slot, batch = (figure(level, name) for name in ("queue_wait_s", "slot_wait_s", "batch_wait_s"))
    ttft = mean_ttft(level)
    if not ttft:
        return None
    at, of = f"at {offered_load.load_name(level)}", f"of the mean TTFT ({seconds(ttft)})"
    above = void_above(series, level)
    limit = slot_limit(analysis)
    if limit is not None and slot is not None and slot >= LEAST_SLOT_WAIT * ttft:
        past = f"Past {counted(limit, 'stream')} requests queue"
        inferred = (
            "Slot wait is inferred from when earlier streams ended: the server does not say how long requests wait."
        )
        return Finding(f"{past}: {at} {percent(slot / ttft)} {of} is slot wait.", inferred if wait is None else "")
    if wait is None:
        return None
    if slot is None or batch is None:
        unsplit = "Whether requests wait for a slot or for a batch is not known."
        return Finding(f"{capitalised(at)}, {percent(wait / ttft)} {of} is queue wait{above}.", unsplit)
    share = percent((slot + batch) / ttft)
    if slot + batch <= LEAST_BATCH_WAIT * ttft:
        if (load := figure(level, "load_s") or 0.0) > LEAST_BATCH_WAIT * ttft:
            loading = f"{percent(load / ttft)} {of} passes until the model is loaded, and {share} is waiting{above}"
            return Finding(f"{capitalised(at)}, {loading}.", "The server's own figures of how long each load took.")
        longest = figure(level, "queue_wait_s", "max") or 0.0
        if longest <= max(LONG_WAIT * ttft, SHORT_S):
            return Finding(f"No request queues {at}: waiting is {share} {of}{above}.")
        return Finding(f"{capitalised(at)}, waiting is {share} {of}, and {seconds(longest)} for one request{above}.")
    if slot < 0.1 * batch:
        return None  # batching says it
    mostly = (
        "nearly all of it batch wait"
        if batch >= MOST_OF_A_WAIT * (slot + batch)
        else f"{percent(batch / (slot + batch))} of that batch wait"
    )
    return Finding(f"{capitalised(at)}, {share} {of} is waiting, {mostly}{above}.")


def void_above(series: Series, level: dict[str, Any]) -> str:
    """Return the end of a sentence on a level that says how many higher ones are void; empty where none is."""
    load = offered_load.amount(level)
    void = sum(offered_load.amount(each) > load for each in filter(is_void, series.levels))
    many = f"{void} levels above it are" if void > 1 else "level above it is"
    return f"; the {many} void" if void else ""


def batching(run: RunData, series: Series) -> Finding | None:
    """Say where a wait is not queueing: the level without slot wait whose TTFT is batch wait for the largest part.

    Where many batches passed meanwhile, something else held what the request waited for.
    """
    found = None
    largest = LEAST_BATCH_WAIT
    for level in believed(series.levels):
        if alone_share(run, level["index"]) > MOSTLY_ALONE:
            continue  # no batch of others is in flight
        ttft, slot, batch = mean_ttft(level), figure(level, "slot_wait_s"), figure(level, "batch_wait_s")
        if ttft and batch and slot is not None and slot < 0.1 * batch and batch / ttft > largest:
            found, largest = level, batch / ttft
    if found is None:
        return None
    slot, ttft = figure(found, "slot_wait_s") or 0.0, mean_ttft(found) or 0.0
    if passed_share(run, found["index"]) >= MOSTLY_PASSED:
        return Finding(
            f"At {offered_load.load_name(found)}, {percent(largest)} of the mean TTFT ({seconds(figure(found, 'ttft_s'))}) is waiting "
            "through many steps of other streams, with no more of them than the server handles: others may use this server.",
            f"A request waited up to {seconds(figure(found, 'batch_wait_s', 'max'))} while another stream got token after token. "
            "A free slot would have taken it in.",
        )
    longest = figure(found, "slot_wait_s", "max") or 0.0
    few = longest > max(LEAST_BATCH_WAIT * ttft, SHORT_S)
    beside = f"and {percent(slot / ttft)} slot wait" if few else "although no request waits for a slot"
    return Finding(
        f"At {offered_load.load_name(found)}, {percent(largest)} of the mean TTFT ({seconds(figure(found, 'ttft_s'))}) is batch wait, "
        f"{beside}: a prompt starts only when the batch in flight has ended.",
        f"Batch wait is up to {seconds(figure(found, 'batch_wait_s', 'max'))}.",
    )


def saturation(series: Series) -> Finding | None:
    """Say from which load on more brings no more: streams, with three levels or more; or the rate that is kept up with."""
    levels = believed(series.levels)
    if levels and offered_load.is_open(levels[0]):
        said = keeping_up.kept_up(levels)
        grew = any((level["little"] or {}).get("growing") for level in levels)
        above = "" if grew else void_above(series, levels[-1])
        return Finding(f"{said.removesuffix('.')}{above}.") if said else None
    found, _ = believed_knee(series)
    return Finding(found.sentence) if found else None


def unsteady(levels: Iterable[dict[str, Any]]) -> list[Finding]:
    """Return a sentence for each level in which as many requests did not end as came, so that it was not stationary.

    Where its queue grew that is said already, as a reason for doubt; a few requests obey no law.
    """

    def ended(level: dict[str, Any]) -> float:
        window = level["window"]
        return float(level["little"]["ends_per_s"] * (window["end"] - window["start"]))

    return [
        Finding(
            f"{level['label']} was not stationary: {number(law['in_flight'])} requests were in flight on average, where Little's law "
            f"gives {number(law['ends_per_s'] * law['sojourn_s'])}.",
            f"{number(law['ends_per_s'])} requests/s ended, after {seconds(law['sojourn_s'])} each on average.",
        )
        for level in believed(levels)
        if (law := level["little"]) and not law["holds"] and not law["growing"] and ended(level) >= FEWEST_ENDED
    ]


def range_of_ttft(series: Series) -> Finding | None:
    """Say how TTFT and decode speed change from the lowest to the highest concurrency."""
    ends = [level for level in believed(series.levels) if figure(level, "ttft_s", "p50") is not None]
    if not ends:
        return None
    told = ends[:1] if len(ends) == 1 else [ends[0], ends[-1]]
    ttfts = [f"{wait_in_words(level, 'ttft_s', 'p50')} at {offered_load.load_name(level)}" for level in told]
    speeds = [figure(level, "stream_tokens_per_s", "p50") for level in told]
    said = f"The median TTFT is {listed(ttfts)}"
    if all(speeds):
        words = list(dict.fromkeys(number(speed) for speed in speeds))
        both = " at both" if len(words) < len(speeds) else ""
        said += f"; the median decode speed is {listed(words)} tokens/s a stream{both}"
    return Finding(f"{said}.")


def range_of_e2e(series: Series) -> Finding | None:
    """Say of answers without text how E2E and the rate of input tokens change from the lowest to the highest load."""
    ends = [level for level in believed(series.levels) if not has_tokens(level)]
    if not ends:
        return None
    told = ends[:1] if len(ends) == 1 else [ends[0], ends[-1]]
    e2es = [f"{seconds(figure(level, 'e2e_s', 'p50'))} at {offered_load.load_name(level)}" for level in told]
    rates_said = [level.get("input_tokens_per_s") for level in told]
    said = f"The median E2E is {listed(e2es)}"
    if all(rates_said):
        said += f"; the server takes {listed([number(rate) for rate in rates_said])} input tokens/s"
    return Finding(f"{said}.")
