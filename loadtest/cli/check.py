"""`loadtest check`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import httpx

from loadtest.cli.options import make_scenario, option_of
from loadtest.cli.trial import try_out
from loadtest.credentials import withhold
from loadtest.errors import ScenarioError, TargetError
from loadtest.scenario import ConnectionKeys, RequestKeys, Scenario, keys_of
from loadtest.target.connect import control_client
from loadtest.target.probe import ServedModel, Server, choose_model, hazards, probe, with_details
from loadtest.target.target import located
from loadtest.text import shown
from loadtest.urls import base_url, default_url


def _request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `loadtest run` on how requests are sent and what they say beside the prompt."""
    known = {key.name: key for key in keys_of(Scenario)}
    names = [key.name for part in (RequestKeys, ConnectionKeys) for key in keys_of(part)]
    for name in reversed([*names, "connect_timeout"]):
        command = option_of(known[name])(command)
    return command


@click.command()
@click.argument("place", metavar="[URL]", required=False)
@click.option(
    "--try",
    "trying",
    is_flag=True,
    help="Also send requests, short ones, until one is answered, and say what to add to the command for it. This may load "
    "the model and cost tokens.",
)
@_request_options
def check(place: str | None, *, trying: bool, url: str | None, **values: Any) -> int:
    """Say what server answers at URL, and what could spoil a measurement.

    Without URL: OLLAMA_HOST, OPENAI_BASE_URL (first with --api openai), else the local Ollama. No prompt is sent, except
    with --try, which finds out what has to be said to this server. The other options are those of `loadtest run`. Exit code
    2 when no usable server answers; with --try 1 when no request is answered.

    \b
    Examples:
      loadtest check http://127.0.0.1:11434
      loadtest check --try https://gateway.example/v1 --model gpt-4o
    """
    if place is not None and url is not None:
        raise ScenarioError("URL and --url both name a server: give one.")
    given = next((one for one in (place, url) if one is not None), None)
    given = withhold(default_url(api=values["api"] or "auto") if given is None else given)
    asked = make_scenario(None, {**values, "url": given})
    with control_client((scenario := located(asked)), scenario.connect_timeout, scenario.header) as client:
        server, chosen, trouble, scenario = _look(client, scenario, trying=trying)
        _show(server, chosen, trouble, scenario)
    if not trying:
        return 0
    if chosen is None:
        raise TargetError(f"nothing can be tried without a model: {trouble}")
    return try_out(server, chosen, asked, scenario)


def _look(
    client: httpx.Client, scenario: Scenario, *, trying: bool
) -> tuple[Server, ServedModel | None, str | None, Scenario]:
    """Return the server, its model, what is wrong with the choice of it, and the scenario with the API to try.

    A server that does not say what it is, is tried as one of the OpenAI API where a model is named.
    """
    url = base_url(scenario.url or default_url(api=scenario.api))
    try:
        server = probe(client, url, api=scenario.api)
    except TargetError as error:
        if not trying or scenario.model is None or scenario.api != "auto" or "cannot reach" in str(error):
            raise
        print(f"! {error}")
        scenario = scenario.replace(api="openai")
        server = probe(client, url, api="openai")
    try:
        return server, with_details(client, server, choose_model(server, scenario.model)), None, scenario
    except TargetError as error:
        if scenario.model is not None:
            raise
        return server, None, str(error), scenario


def _show(server: Server, chosen: ServedModel | None, trouble: str | None, scenario: Scenario) -> None:
    rows = [("server", f"{server.kind} {server.version or ''}".strip()), ("url", server.url)]
    if server.simulated:
        profile = shown(server.simulated["profile"])
        rows.append(("simulated", f"profile {profile} at {server.simulated['speed']:g}× speed"))
    names = ", ".join(shown(item.name) + (" (loaded)" if item.loaded else "") for item in server.models)
    rows.append(("models", names or ("not listed by this server" if server.unlisted else "none")))
    if chosen is not None:
        rows.append(("model", " ".join(filter(None, [shown(chosen.name), _model_details(chosen)]))))
        rows.append(("context", _context_text(chosen)))
    rows.append(
        (
            "slots",
            str(server.slots)
            if server.slots
            else "not reported by this server; a run with more streams than slots can show them",
        )
    )
    for name, value in rows:
        print(f"{name:10} {value}")
    for text in [*([trouble] if trouble else []), *hazards(server, chosen, keys=scenario)]:
        print(f"! {text}")


def _model_details(model: ServedModel) -> str:
    parts = [
        shown(str(model.details.get(key))) for key in ("parameter_size", "quantization_level") if model.details.get(key)
    ]
    return f"({', '.join(parts)})" if parts else ""


def _context_text(model: ServedModel) -> str:
    trained = f"trained for {model.trained_context}" if model.trained_context else ""
    if model.context:
        return f"{model.context} tokens" + (f", {trained}" if trained else "")
    unknown = (
        "unknown until the model is loaded" if model.loaded is False else "unknown, because the server does not say"
    )
    return unknown + (f"; {trained}" if trained else "")
