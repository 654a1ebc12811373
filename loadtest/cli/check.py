"""`loadtest check`: what server answers at a URL, what could spoil a measurement of it, and which request it answers."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from typing import Any
from urllib.parse import urlsplit

import click
import httpx

from loadtest import credentials, reach
from loadtest.cli.options.environment import named_in_environment, url_taken
from loadtest.cli.options.scenario_options import SERVER_OPTIONS, key_options, make_scenario, one_url
from loadtest.cli.output.printing import at_work, json_option, print_json, print_wrapped
from loadtest.dialects.answers.errors.error_words import SIGN_IN
from loadtest.dialects.answers.errors.refusals import key_header, wanted_header
from loadtest.errors import ScenarioError, TargetError
from loadtest.scenario import ConnectionKeys, RequestKeys, Scenario, keys_of
from loadtest.scenario.several_targets import urls_in
from loadtest.targets.server.control import control_client
from loadtest.targets.server.hazards import hazards
from loadtest.targets.server.probe import ServedModel, Server, choose_model, models_named, probe, with_details
from loadtest.targets.server.unclear import key_advice
from loadtest.targets.slot_probe import SlotProbe, probe_slots
from loadtest.targets.target import check_num_ctx, reread, target_of
from loadtest.targets.trials import COMPRESSED, PAGE, TRIAL_TOKENS, Attempt, attempts, changes, command_for, what_came
from loadtest.text import profile_at_speed, shown
from loadtest.urls import base_url, default_url, has_own_root, is_socket
from loadtest.workloads.tokens import load_counter
from loadtest.workloads.workload import Workload

FIRST_TOKEN_S = 600.0  # for a first token: the model may have to be loaded


@click.command()
@click.argument("place", metavar="[URL]", required=False)
@click.option(
    "--try",
    "trying",
    is_flag=True,
    help="Send short requests until one is answered, and print the command that works. This may load the model and cost tokens.",
)
@click.option(
    "--slots", is_flag=True, help="Send a few bursts to find how many requests the server handles in parallel."
)
@key_options(*(key.name for part in (RequestKeys, ConnectionKeys) for key in keys_of(part)), "connect_timeout")
@json_option
def check(place: str | None, *, trying: bool, slots: bool, url: str | None, as_json: bool, **values: Any) -> int:
    """Say which server answers at URL, and what could spoil a measurement.

    Without URL it asks the server at OLLAMA_HOST, else at OPENAI_BASE_URL (that first with --api openai), else the local
    Ollama. It sends no prompt, except with --try and --slots. Exit code 2 when no usable server answers; with --try 1 when no
    request is answered.

    --slots sends bursts of 2, 4, 8 and 16 short requests, until one request has to wait for another to end. Each asks for at
    most 64 tokens, and the command says what they cost in all. A server that says its slots is sent no bursts.

    \b
    Examples:
      loadtest check http://127.0.0.1:11434
      loadtest check --try https://gateway.example/v1 --model gpt-4o
    """
    if as_json and trying:
        raise ScenarioError("--try tells what it finds while it tries, and has no JSON: leave --try or --json out.")
    given = one_url(place, url_taken(url, argument=place is not None))
    if given is not None and len(urls_in(given)) > 1:
        raise ScenarioError("check looks at one server; give one URL.")
    given = credentials.withhold(default_url(api=values["api"] or "auto") if given is None else given)
    model = values["model"] if trying else values.pop("model")  # a plain check sends none, so any name may be looked up
    asked = reach.located(make_scenario(None, {**values, "url": given}))
    with control_client(asked) as client:
        server, chosen, trouble, scenario = _look(client, asked, model, trying=trying)
    probed = None
    if slots and server.slots is None:
        if chosen is None:
            raise TargetError(f"slots cannot be looked for without a model: {trouble}")
        probed, server, chosen = _probed(server, chosen, asked)
    found = probed is not None and probed.limit is not None
    warnings = [
        *([trouble] if trouble else []),
        *hazards(server, chosen, num_ctx=asked.num_ctx, keys=asked, slots_found=found),
    ]
    if as_json:
        print_json(_server_dict(server, chosen, warnings, probed) | {"proxy": reach.proxy_to(asked, server.url)})
        return 0
    not_so = "not for a unix socket" if is_socket(server.url) else "not for this host (--no-proxy)"
    way = None if asked.proxy is None else reach.proxy_to(asked, server.url) or not_so
    _print_server(server, chosen, probed, way)
    for text in warnings:
        print_wrapped(f"! {text}", indent="  ")
    if not trying:
        return 0
    if chosen is None:
        raise TargetError(f"nothing can be tried without a model: {trouble}")
    return try_server(server, chosen, asked, scenario)


def _look(
    client: httpx.Client, scenario: Scenario, model: str | None, *, trying: bool
) -> tuple[Server, ServedModel | None, str | None, Scenario]:
    """Return the server, its model, what is wrong with the choice of it, and the scenario with the API to try.

    A server that does not say what it is, is tried as one of the OpenAI API where a model is named.
    """
    url = base_url(scenario.url or default_url(api=scenario.api))
    try:
        server = probe(client, url, api=scenario.api, path=scenario.path)
    except TargetError as error:
        if not trying or model is None or scenario.api != "auto" or "cannot reach" in str(error):
            raise
        print(f"! {error}")
        scenario = scenario.replace(api="openai")
        server = probe(client, url, api="openai")
    try:
        chosen = choose_model(server, model, scenario.endpoint)
        return server, with_details(client, server, chosen), None, scenario
    except TargetError as error:
        if model is not None:
            raise
        return server, None, str(error), scenario


def _server_dict(
    server: Server, chosen: ServedModel | None, warnings: list[str], probed: SlotProbe | None
) -> dict[str, Any]:
    return {
        "url": server.url,
        "kind": server.kind,
        "version": server.version,
        "simulated": server.simulated,
        "slots": server.slots,
        "models": [{"name": item.name, "loaded": item.loaded} for item in server.models],
        "models_unlisted": server.unlisted,
        "model": None if chosen is None else dataclasses.asdict(chosen),
        "warnings": warnings,
        "slot_probe": None if probed is None else probed.to_dict(),
    }


def _print_server(server: Server, chosen: ServedModel | None, probed: SlotProbe | None, way: str | None) -> None:
    rows = [("server", f"{server.kind} {server.version or ''}".strip()), ("url", server.url)]
    if way is not None:
        rows.append(("proxy", way))
    if server.simulated:
        rows.append(("simulated", shown(profile_at_speed(server.simulated))))
    names = models_named([shown(item.name) + (" (loaded)" if item.loaded else "") for item in server.models])
    unnamed = "not listed by this server" if server.unlisted else "none" if server.kind == "ollama" else "none listed"
    rows.append(("models", names or unnamed))
    if chosen is not None:
        rows.append(("model", " ".join(filter(None, [chosen.called, _size_and_quantisation(chosen)]))))
        rows.append(("context", _context_text(chosen, refuses=server.refusal is not None)))
    refused = f"this server refuses to say them ({server.refusal})" if server.refusal else "not reported by this server"
    unsaid = f"{refused}; --slots looks for them, or a run with more streams than slots"
    if probed is not None:
        unsaid = "\n           ".join([probed.how, *probed.witnesses, f"cost: {probed.cost}"])
    rows.append(("slots", f"{server.slots}, as the server says" if server.slots else unsaid))
    for name, value in rows:
        for place, line in enumerate(value.split("\n")):
            print_wrapped(f"{'' if place else name:10} {line.strip()}", indent=" " * 11)


def _probed(server: Server, model: ServedModel, scenario: Scenario) -> tuple[SlotProbe, Server, ServedModel]:
    """Send bursts, as the scenario says, until the server's slots show; return server and model as they then are, too."""
    seed = secrets.randbelow(2**31) if scenario.seed is None else scenario.seed
    scenario = scenario.replace(api=server.api(scenario.api), model=model.name, seed=seed)
    target = target_of(server, model, scenario)
    with at_work("Sending bursts of short requests"):
        found = probe_slots(target, Workload(scenario, load_counter(model.name, fetch=False)))
    with (
        contextlib.suppress(TargetError),
        control_client(scenario) as client,
    ):
        target = reread(client, target)  # the bursts have loaded the model
    return found, target.server, target.model


def _size_and_quantisation(model: ServedModel) -> str:
    parts = [
        shown(str(value))
        for key in ("parameter_size", "quantization_level")
        if (value := model.details.get(key)) and value != "unknown"
    ]
    return f"({', '.join(parts)})" if parts else ""


def _context_text(model: ServedModel, *, refuses: bool) -> str:
    trained = f"trained for {model.trained_context}" if model.trained_context else ""
    if model.context:
        return f"{model.context} tokens" + (f", {trained}" if trained else "")
    does = "refuses to say it" if refuses else "does not say"
    unknown = "unknown until the model is loaded" if model.loaded is False else f"unknown, because the server {does}"
    return unknown + (f"; {trained}" if trained else "")


def try_server(server: Server, model: ServedModel, asked: Scenario, scenario: Scenario) -> int:
    """Send requests until one is answered, and print each; return the exit code.

    `asked` is what the command says, `scenario` the same with the API that was found out.
    """
    check_num_ctx(scenario, server.api(scenario.api), model.context)
    dialect = target_of(server, model, scenario).dialect  # raises for an option that it lacks
    length = f" for {TRIAL_TOKENS} tokens" if dialect.streams else ""
    print(f"Trying requests{length}, one after another: they may load the model, and cost tokens.", flush=True)
    limits = {"first_token_timeout": min(scenario.first_token_timeout or FIRST_TOKEN_S, FIRST_TOKEN_S)}
    last: Attempt | None = None
    for number, last in enumerate(attempts(server, model, scenario.replace(**limits)), 1):
        how = changes(scenario, last.scenario)
        path = last.dialect.posted_to
        path = f"…{path.removeprefix('/v1')}" if has_own_root(server.url) else path
        where = f"POST {shown(path)} ({last.dialect.name})"
        print(f"{number:2}. {' '.join(filter(None, [where, how]))}: {_outcome(last)}", flush=True)
    assert last is not None, "the first request is always sent"
    if not last.works:
        print(f"works      nothing that was tried{_missing(last, server.url)}")
        return 1
    add = changes(asked, last.scenario)
    print(f"works      {f'only {add}' if add else 'as asked: nothing has to be added'}")
    print(f"command    {command_for(last.scenario, server.url)}")
    for name, sentence in what_came(last):
        print(f"{name:10} {sentence}")
    for note in [*(last.record.doubts or []), *(last.record.notes or [])]:
        print(f"! {note}")
    return 0


def _outcome(attempt: Attempt) -> str:
    record = attempt.record
    if attempt.works:
        return "answered"
    if record.outcome == "ok":
        return "answered without a token"
    status = f"HTTP {record.status}: " if record.status and f"HTTP {record.status}" not in attempt.words else ""
    return f"{status}{record.error or record.outcome}"


def _missing(attempt: Attempt, url: str) -> str:
    """Say what may be missing where no other request could do better."""
    if attempt.no_model:
        return ": name a model that the server has with --model"
    if wanted_header(attempt.record.status, attempt.words) is not None:
        return ": the header that it names is missing"  # the sentence says how to give it
    if attempt.of_the_key and SIGN_IN not in attempt.words:
        of_key = key_advice(attempt.dialect, url, None)  # which request would be answered is not known yet
        return f": {of_key}, or give a header of the gateway's with --header '{key_header(attempt.words) or 'Name'}: ${{VARIABLE}}'"
    if COMPRESSED in attempt.words:
        return ": a compressed answer hides when its tokens came; have the server, or the gateway before it, send this path plain"
    if PAGE in attempt.words:
        return f": web pages are at {url}, not the API; its port, or a prefix such as /api, may be another"
    match attempt.record.status:
        case 402:
            return ": the server wants it to be paid for"
        case 404 if credentials.is_azure(url) and "api-version" not in url:
            return ": Azure wants its version in the URL, such as ?api-version=2024-10-21 at its end"
        case 413:
            return ": the server, or a gateway before it, takes no request of this size"
        case 429:
            return ": the server takes no more requests from us now; try again later"
        case 502 | 503 | 504:
            return ": the server, or the one behind a gateway, is not ready; try again once it is"
    if attempt.is_nowhere and (parts := urlsplit(url)).path:
        shorter = parts._replace(path=parts.path.rpartition("/")[0]).geturl()
        return f": the server has no such path below {url}; see whether its URL is {shorter}"
    return ""


named_in_environment(check, ["url", "model", *SERVER_OPTIONS])
