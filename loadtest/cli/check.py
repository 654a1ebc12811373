"""`loadtest check`."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from loadtest.cli.connection import connection_of, connection_options
from loadtest.cli.environment import is_from_environment, named_in_environment, say_what_is_taken
from loadtest.cli.options import one_url
from loadtest.cli.results import json_option, print_json
from loadtest.credentials import withhold
from loadtest.errors import TargetError
from loadtest.scenario import ConnectionKeys, keys_of
from loadtest.target.connect import control_client
from loadtest.target.probe import ServedModel, Server, choose_model, hazards, probe, with_details
from loadtest.text import shown
from loadtest.urls import default_url, parse_url


@click.command()
@click.argument("url", required=False)
@click.option("--url", "named", metavar="URL", help="The same as URL.")
@click.option("--model", help="Model to look at.  [default: the loaded one, else the only one]")
@connection_options
@json_option
def check(
    url: str | None,
    named: str | None,
    model: str | None,
    *,
    api: str,
    connect_timeout: float,
    as_json: bool,
    **values: Any,
) -> None:
    """Say what server answers at URL, and what could spoil a measurement.

    Without URL: OLLAMA_HOST, OPENAI_BASE_URL (first with --api openai), else the local Ollama. No prompt is sent. Exit
    code 2 when no usable server answers.
    """
    beaten = url is not None and is_from_environment("named")
    say_what_is_taken(["named"] if beaten else [])
    named = None if beaten else named
    given = one_url(url, named)
    keys = connection_of(values)
    address = parse_url(withhold(default_url(api=api) if given is None else given))
    api = address.asks[0] or api if api == "auto" else api
    server, chosen, trouble = _look(address.base, model, api, keys, connect_timeout)
    warnings = [*([trouble] if trouble else []), *hazards(server, chosen)]
    if as_json:
        print_json(_server_dict(server, chosen, warnings))
        return
    _print_server(server, chosen)
    for text in warnings:
        print(f"! {text}")


def _server_dict(server: Server, chosen: ServedModel | None, warnings: list[str]) -> dict[str, Any]:
    """Return what `check --json` prints."""
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
    }


def _print_server(server: Server, chosen: ServedModel | None) -> None:
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


def _look(
    url: str, asked: str | None, api: str, keys: ConnectionKeys, connect_timeout: float
) -> tuple[Server, ServedModel | None, str | None]:
    with control_client(keys, connect_timeout) as client:
        server = probe(client, url, api=api)
        try:
            return server, with_details(client, server, choose_model(server, asked)), None
        except TargetError as error:
            if asked is not None:
                raise
            return server, None, str(error)


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


named_in_environment(
    check, ["named", "model", "api", "connect_timeout", *(key.name for key in keys_of(ConnectionKeys))]
)
