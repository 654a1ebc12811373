"""From a scenario to what is ready to be measured: the servers found, their models loaded, the prompts' lengths fitted.

The lengths are fitted by requests that are sent before the clock: they load the model, and show how the server counts tokens
and which context it granted. All of it is synchronous: nothing is being measured yet, and both drivers use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from loadtest import credentials
from loadtest.dialects.answers.errors.error_words import SIGN_IN
from loadtest.dialects.answers.errors.refusals import NO_CHAT
from loadtest.dialects.answers.errors.server_errors import shorten
from loadtest.errors import ScenarioError, TargetError
from loadtest.measure.request import Request
from loadtest.reach import note_on_trust
from loadtest.records import Clock, Outcome, Record
from loadtest.scenario import Scenario, rotation, whole_lengths
from loadtest.targets.context import check_lengths, context_of, lengths_left_out, lengths_within, not_granted
from loadtest.targets.server.hazards import not_listed, one_of_several
from loadtest.targets.server.not_reached import https_instead
from loadtest.targets.server.probe import lists_model, models_named
from loadtest.targets.server.unclear import key_advice
from loadtest.targets.target import Target, find_targets, reread
from loadtest.text import counted, listed, shown
from loadtest.urls import endpoint_url
from loadtest.wire import Origin, SyncWire, now
from loadtest.workloads.drawn_lengths import LARGER_CONTEXT
from loadtest.workloads.job import Job
from loadtest.workloads.tokens import Counter, TokenFit, load_counter, uncut
from loadtest.workloads.workload import FIT_SHORT, Workload, as_files_say

TRIED_ON = (400, 404, 405, 415, 422, 500, 501)  # statuses after which another request may be answered
ONE_MORE = "One more such request, for the longest prompt may have been cut, or had no answer."
SHORTEST_CONTEXT = 1024  # tokens: no server is known to cut prompts to fewer


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
    without warm-up where it measures model loads. Raises TargetError or ScenarioError, one sentence each; nothing is left behind.
    """
    if scenario.unload and scenario.several:
        raise ScenarioError("unload measures how long one model takes to load; name one server and one model.")
    found = find_targets(client, scenario, say)
    if len(found) > 1:
        say(_spread(found))
    ready = _prepared(client, scenario, found, say)
    scenario = ready[0].workload.scenario.replace(url=scenario.url, model=scenario.model)
    for sentence in _without_users(scenario, ready):
        say(sentence)
    return scenario, ready


def _prepared(
    client: httpx.Client, scenario: Scenario, found: Sequence[tuple[Target, int]], say: Callable[[str], object]
) -> tuple[ReadyTarget, ...]:
    counters = []
    for target, _ in found:
        say(target.described)
        url = target.server.url
        warnings = (
            credentials.in_the_clear(url, target.dialect.api, key_env=scenario.key_env),
            note_on_trust(scenario, url),
            not_listed(target.server, target.model.name),
            one_of_several(scenario, url),
        )
        for warning in filter(None, warnings):
            say(warning)
        counters.append(load_counter(target.model.name, fetch=target.server.simulated is None))
    targets = [target for target, _ in found]
    _say_counters(targets, counters, say, corrected=not scenario.sends_nothing_first)
    if scenario.up_to_context:
        pairs = zip(targets, counters, strict=True)
        fitted = [fit_to_context(client, scenario, target, counter, say) for target, counter in pairs]
        scenario = min((one for one, _ in fitted), key=lambda one: max(one.input_tokens))
        targets = [target for _, target in fitted]
    if scenario.unload:
        scenario = scenario.replace(warmup=0)  # a warm-up would load the model once more
    scenario = as_files_say(scenario)
    for target in targets:
        check_lengths(scenario, target.model, reloads=target.server.kind == "ollama")
    return tuple(
        _fitted(client, target, Workload(scenario, counter), weight, say)
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
    loaded = not scenario.sends_nothing_first
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
    total = sum(weight for _, weight in found)
    parts = [f"{weight} of {total} for {shown(target.model.name)} at {target.server.url}" for target, weight in found]
    return f"The load is shared: {', '.join(parts)}."


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


def fit_to_context(
    client: httpx.Client, scenario: Scenario, target: Target, counter: Counter, say: Callable[[str], object]
) -> tuple[Scenario, Target]:
    """Return the scenario with the prompt lengths that fit the model's context, and the target as it is once loaded.

    A short request is sent first: a server knows the context of loaded models only, and this request may load the model
    with another context than it had. Raises TargetError where the server does not say the context, and ScenarioError where
    no prompt fits.
    """
    seed = (scenario.seed or 0) + 1  # another text than the later jobs': a cached prompt may be counted short
    job, _ = Workload(scenario.replace(seed=seed), counter).fit_jobs()[0]
    loading = "; it loads the model" if first_request_loads(target) else ""
    say(f"Learning the context of {shown(target.model.name)}: one request first, which does not count{loading}.")
    with SyncWire.of(scenario) as wire:
        first_answer(wire, target, job)
    target = reread(client, target)
    context = target.model.context or scenario.num_ctx
    if context is None:
        raise TargetError(
            f"{target.server.url} does not say the context of {shown(target.model.name)}; leave up_to_context away and name "
            "lengths that fit with --input-tokens."
        )
    lengths, answer = whole_lengths(scenario.input_tokens), max(whole_lengths(scenario.output_tokens), default=0)
    fitted = lengths_within(context, lengths, answer)  # no answer to embeddings
    if not fitted:
        raise ScenarioError(
            f"{shown(target.model.name)} has a context of {context} tokens, which {answer} output tokens "
            f"leave no room in for a prompt; ask for fewer with --output-tokens or {LARGER_CONTEXT}."
        )
    if sentence := lengths_left_out(shown(target.model.name), context, lengths, fitted):
        say(sentence)
    return scenario.replace(input_tokens=fitted), target


def fit_token_counts(
    client: httpx.Client, target: Target, workload: Workload, say: Callable[[str], object]
) -> tuple[TokenFit, Target]:
    """Send requests one by one, fit our token counts to the server's, and return the fit and the target once loaded.

    The first request loads the model and proves that it answers: raises TargetError when it does not. A later request
    that fails is left out. Where the context cut a long prompt, prompts half as long follow until one is whole.
    """
    points: list[tuple[int, int]] = []
    jobs = workload.fit_jobs()
    longest = max(ours for _, ours in jobs)
    say(_announced(target, len(jobs)))
    with SyncWire.of(workload.scenario) as wire:

        def measure(job: Job, ours: int) -> None:
            try:
                points.append((ours, first_answer(wire, target, job)))
            except TargetError:
                if not points:
                    raise

        for job, ours in jobs:
            measure(job, ours)
        target = reread(client, target)
        context = target.model.context
        if context is None and max(server for _, server in points) >= SHORTEST_CONTEXT:
            say(ONE_MORE)
            measure(*workload.fit_job(len(jobs), longest // 2))  # a third length shows whether the longest was cut
        number, counts = len(jobs) + 1, any(server for _, server in points)
        while (
            counts
            and longest > 2 * FIT_SHORT
            and max((ours for ours, _ in uncut(points, context)), default=0) < longest
        ):
            longest //= 2
            if all(ours != longest for ours, _ in points):
                say(ONE_MORE)
                measure(*workload.fit_job(number, longest))
                number += 1
    return TokenFit.fit(points, context), target


def _announced(target: Target, requests: int) -> str:
    """Say what is sent before the first level: with a slow server it takes a while, and nothing else shows."""
    loading = (
        "; the first of them loads the model, unless it is loaded under another name"
        if first_request_loads(target)
        else ""
    )
    sent = counted(requests, "request")
    return f"Learning how {shown(target.model.name)} counts tokens: {sent} first, which do not count{loading}."


def first_request_loads(target: Target) -> bool:
    """Return whether the first request loads the model: it is not loaded, or is with another context than is asked for."""
    model, asked = target.model, getattr(target.dialect, "num_ctx", None)
    if model.loaded is False or not asked or model.context is None:
        return model.loaded is False
    return bool(min(asked, model.trained_context or asked) != model.context)


def first_answer(wire: SyncWire, target: Target, job: Job) -> int:
    """Send one short request and return the server's prompt_tokens, 0 where it says none; raise TargetError if it fails."""
    request = Request(job, target.dialect, Clock.now(), now(), posts=target.posts)
    try:
        wire.fetch(request.order)
    except httpx.HTTPError as error:
        sentence = (
            f"{endpoint_url(target.server.url, target.dialect.posted_to)} does not answer: {shorten(str(error))}."
        )
        raise TargetError(_https_instead(wire, target) or sentence) from None
    record = request.finish()
    _accept(record, wire, target)
    return record.prompt_tokens or 0


def _https_instead(wire: SyncWire, target: Target) -> str | None:
    """Return a sentence where the server's port speaks https; a server behind a proxy is not asked past it."""
    return None if wire.proxy_to(Origin.of(target.server.url)) is not None else https_instead(target.server.url)


def _around(target: Target, record: Record, words: str) -> str:
    """Say how to find out more about a refused request, after a blank; "" where `words` or the status says enough."""
    server, name = target.server, target.model.name
    if record.status not in TRIED_ON or " --" in words:
        return ""
    if server.models and not lists_model(server, name) and server.kind != "llama.cpp":
        present = models_named([shown(model.name) for model in server.models])
        return f" The server does not list {shown(name)}; it lists: {present}. Choose one with --model."
    if NO_CHAT.search(words) and target.dialect.streams:
        return " An embedding model is measured with --endpoint embeddings; `loadtest check --try` finds out what else it answers."
    return " `loadtest check --try` finds out what it answers."


def _accept(record: Record, wire: SyncWire, target: Target) -> None:
    if record.outcome is Outcome.OK or (record.outcome is Outcome.TRUNCATED and record.chunks):
        return
    where = f"{target.server.url} (model {shown(target.model.name)}, {target.dialect.name})"
    if record.status in (401, 403):
        is_advised = any(what in (record.error or "") for what in (" --", SIGN_IN))
        does = "" if is_advised else f"; {key_advice(target.dialect, target.server.url, record.status)}"
        raise TargetError(f"{where} refuses us with status {record.status} ({record.error}){does}.")
    if record.status in (None, 400) and (instead := _https_instead(wire, target)):
        raise TargetError(instead)
    failed = record.status is not None and not 200 <= record.status < 300
    status = f"HTTP {record.status}: " if failed and f"HTTP {record.status}" not in (record.error or "") else ""
    words = record.error or record.outcome
    around = _around(target, record, words)
    raise TargetError(f"{where} does not answer a first request: {status}{words.rstrip('.')}.{around}")
