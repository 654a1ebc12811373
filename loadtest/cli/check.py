"""`loadtest check`."""

from __future__ import annotations

import click

from loadtest.cli.connection import connection_options
from loadtest.credentials import withhold
from loadtest.errors import ScenarioError, TargetError
from loadtest.target.connect import control_client, trust
from loadtest.target.probe import ServedModel, Server, choose_model, hazards, probe, with_details
from loadtest.text import shown
from loadtest.urls import default_url, parse_url


@click.command()
@click.argument("url", required=False)
@click.option("--url", "named", metavar="URL", help="The same as URL.")
@click.option("--model", help="Model to look at.  [default: the loaded one, else the only one]")
@connection_options
def check(
    url: str | None, named: str | None, model: str | None, *, api: str, ca_file: str | None, connect_timeout: float
) -> None:
    """Say what server answers at URL, and what could spoil a measurement.

    Without URL: OLLAMA_HOST, OPENAI_BASE_URL (first with --api openai), else the local Ollama. No prompt is sent. Exit
    code 2 when no usable server answers.
    """
    if url is not None and named is not None:
        raise ScenarioError("URL and --url both name a server: give one.")
    given = next((one for one in (url, named) if one is not None), None)
    address = parse_url(withhold(default_url(api=api) if given is None else given))
    api = address.asks[0] or api if api == "auto" else api
    server, chosen, trouble = _look(address.base, model, api, ca_file, connect_timeout)
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
    for text in [*([trouble] if trouble else []), *hazards(server, chosen)]:
        print(f"! {text}")


def _look(
    url: str, asked: str | None, api: str, ca_file: str | None, connect_timeout: float
) -> tuple[Server, ServedModel | None, str | None]:
    with control_client(trust(ca_file), connect_timeout) as client:
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
