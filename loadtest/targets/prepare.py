"""From a scenario to what is ready to be measured: the servers found, their models loaded, the prompts' lengths fitted.

All of it is synchronous: nothing is being measured yet, and both drivers use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from loadtest import credentials
from loadtest.errors import refuse
from loadtest.reach import note_on_trust
from loadtest.scenario import Scenario, rotation
from loadtest.targets.context import check_lengths, context_of, not_granted
from loadtest.targets.server.hazards import not_listed
from loadtest.targets.target import Target, find_targets, reread
from loadtest.targets.token_fit import fit_to_context, fit_token_counts
from loadtest.text import counted, listed, shown
from loadtest.workloads.tokens import Counter, TokenFit, load_counter
from loadtest.workloads.workload import Workload


@dataclass(frozen=True, slots=True)
class ReadyTarget:
    """A server and one of its models, ready to be measured: what is sent there, and how many of the users send it."""

    target: Target
    workload: Workload
    weight: int = 1  # its turns in one round of all targets


def prepare_targets(
    client: httpx.Client, scenario: Scenario, say: Callable[[str], object]
) -> tuple[Scenario, tuple[ReadyTarget, ...]]:
    """Find every server and model of a located scenario, load the models, and fit prompts' lengths to each server's counts.

    Returns the scenario to run, too: with the lengths that fit the smallest context where it asks for up_to_context, and
    without warm-up where it measures loads. Raises TargetError or ScenarioError, one sentence each; nothing is left behind.
    """
    refuse(
        scenario.unload and scenario.several, "unload measures the loads of one model; name one server and one model."
    )
    found = find_targets(client, scenario, say)
    if len(found) > 1:
        say(_spread(found))
    ready = _prepared(client, scenario, found, say)
    scenario = ready[0].workload.scenario.replace(url=scenario.url, model=scenario.model)
    for sentence in _without_users(scenario, ready):
        say(sentence)
    return scenario, ready


def sends_nothing_first(scenario: Scenario) -> bool:
    """Whether no request is sent before the first level: where loads are measured, and all texts are the user's own.

    The first load may then read the file from disk, where a model that was loaded to fit lengths leaves it in the page cache.
    """
    own_texts = scenario.literal or scenario.data is not None
    return scenario.unload and own_texts and scenario.system_tokens is None


def _prepared(
    client: httpx.Client, scenario: Scenario, found: Sequence[tuple[Target, int]], say: Callable[[str], object]
) -> tuple[ReadyTarget, ...]:
    """Load every model and fit the prompts' lengths to each server's counts."""
    counters = []
    for target, _ in found:
        say(target.described)
        url = target.server.url
        warnings = (
            credentials.in_the_clear(url, target.dialect.api, key_env=scenario.key_env),
            note_on_trust(scenario, url),
            not_listed(target.server, target.model.name),
        )
        for warning in filter(None, warnings):
            say(warning)
        counters.append(load_counter(target.model.name, fetch=target.server.simulated is None))
    targets = [target for target, _ in found]
    _say_counters(targets, counters, say, corrected=not sends_nothing_first(scenario))
    if scenario.up_to_context:
        pairs = zip(targets, counters, strict=True)
        fitted = [fit_to_context(client, scenario, target, counter, say) for target, counter in pairs]
        scenario = min((one for one, _ in fitted), key=lambda one: max(one.input_tokens))
        targets = [target for _, target in fitted]
    if scenario.unload:
        scenario = scenario.replace(warmup=0)  # a warm-up would be one more load
    whole = Workload(scenario, counters[0])
    for target in targets:
        check_lengths(whole.scenario, target.model, reloads=target.server.kind == "ollama")
    return tuple(
        _fitted(client, target, Workload(whole.scenario, counter), weight, say)
        for target, counter, (_, weight) in zip(targets, counters, found, strict=True)
    )


def _say_counters(
    targets: Sequence[Target], counters: Sequence[Counter], say: Callable[[str], object], *, corrected: bool = True
) -> None:
    """Say whose prompts are made by an estimate, for which reason run.json says, and whether servers' counts follow."""
    models = [shown(target.model.name) for target, counter in zip(targets, counters, strict=True) if not counter.exact]
    if not models:
        return
    named = list(dict.fromkeys(models))
    who = "" if len(models) == len(targets) and len(named) == 1 else f" of {listed(named)}"
    theirs = "server's own counts, where it gives" if len(targets) == 1 else "servers' own counts, where they give"
    then = f"; the {theirs} them, set that right" if corrected else ""
    say(f"Prompt lengths{who} are estimated, as no tokenizer could be had{then}.")


def _fitted(
    client: httpx.Client, target: Target, workload: Workload, weight: int, say: Callable[[str], object]
) -> ReadyTarget:
    scenario, fit = workload.scenario, TokenFit()
    loaded = not sends_nothing_first(scenario)
    if loaded:
        fit, target = fit_token_counts(client, target, workload, say)
        if sentence := not_granted(scenario, target.model):
            say(sentence)
    else:
        target = reread(client, target)
    known = {"loaded": loaded, "reloads": target.server.kind == "ollama"}
    check_lengths(workload.scenario, target.model, **known)
    workload = workload.fitted(fit, context_of(scenario, target.model, **known))
    workload.check_context()
    for note in workload.notes():
        say(note)
    return ReadyTarget(target, workload, weight)


def _spread(found: Sequence[tuple[Target, int]]) -> str:
    """Say how users are spread over targets."""
    total = sum(weight for _, weight in found)
    parts = [f"{weight} for {shown(target.model.name)} at {target.server.url}" for target, weight in found]
    return f"Of every {total} users: {', '.join(parts)}."


def _without_users(scenario: Scenario, ready: Sequence[ReadyTarget]) -> list[str]:
    """Say which levels have too few users for every target."""
    turns = rotation([one.weight for one in ready])
    sentences = []
    for users in sorted({users for users in scenario.concurrency if users < len(turns)}):
        asked = set(turns[:users])
        left = [
            f"{shown(one.target.model.name)} at {one.target.server.url}"
            for index, one in enumerate(ready)
            if index not in asked
        ]
        if left:
            sentences.append(f"{counted(users, 'user')}: none is left for {listed(left)} in that level.")
    return sentences
