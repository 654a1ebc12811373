"""From a scenario to what is ready to be measured: the server found, its model loaded, the prompts' lengths fitted.

All of it is synchronous: nothing is being measured yet, and both drivers use it.
"""

from __future__ import annotations

from collections.abc import Callable

import httpx

from loadtest import credentials
from loadtest.scenario import Scenario
from loadtest.target.context import check_lengths, not_granted
from loadtest.target.target import Target, find_target, located, reread
from loadtest.target.token_fit import fit_to_context, fit_token_counts
from loadtest.workloads.tokens import TokenFit, load_counter
from loadtest.workloads.workload import Workload


def prepare_target(client: httpx.Client, scenario: Scenario, say: Callable[[str], object]) -> tuple[Target, Workload]:
    """Find the scenario's server and model, load the model, and fit the prompts' lengths to the server's own counts.

    The workload's scenario is the one to run: with the lengths that fit the context where it asks for up_to_context, and
    without warm-up where it measures loads; then no request is sent here, and no model loaded. Raises TargetError or
    ScenarioError, one sentence each; nothing is left behind.
    """
    scenario = located(scenario)
    target = find_target(client, scenario)
    say(target.described)
    if warning := credentials.in_the_clear(target.server.url, target.dialect.api, key_env=scenario.key_env):
        say(warning)
    if scenario.insecure and target.server.url.startswith("https:"):
        say(f"--insecure: the certificate of {target.server.url} is not checked, so anybody could answer in its place.")
    counter = load_counter(target.model.name, fetch=target.server.simulated is None)
    if not counter.exact:
        say(f"Prompt tokens: {counter.source}; the server's own counts correct it.")
    if scenario.up_to_context:
        scenario, target = fit_to_context(client, scenario, target, counter, say)
    if scenario.unload:
        scenario = scenario.replace(warmup=0)  # a warm-up would be one more load
    workload = Workload(scenario, counter)
    check_lengths(workload.scenario, target.model, workload.trace)
    # Where loads are measured, nothing may be loaded before: the first load would find the file in the page cache.
    fit = TokenFit()
    if not scenario.unload:
        fit, target = fit_token_counts(client, target, workload)
        if sentence := not_granted(scenario, target.model):
            say(sentence)
    else:
        target = reread(client, target)
    check_lengths(workload.scenario, target.model, workload.trace, loaded=not scenario.unload)
    return target, workload.fitted(fit)
