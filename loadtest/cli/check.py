"""`loadtest check`."""

from __future__ import annotations

import click

from loadtest.errors import TargetError
from loadtest.measure.probe import Model, Server, base_url, choose_model, default_url, describe, hazards, probe
from loadtest.measure.target import control_client, trust


def _look(url: str, asked: str | None) -> tuple[Server, Model | None, str | None]:
    with control_client(trust(None)) as client:
        server = probe(client, url)
        try:
            return server, describe(client, server, choose_model(server, asked)), None
        except TargetError as error:
            if asked is not None:
                raise
            return server, None, str(error)


@click.command()
@click.argument("url", required=False)
@click.option("--model", help="Model to look at.  [default: the loaded one, else the only one]")
def check(url: str | None, model: str | None) -> None:
    """Say what server answers at URL, and what could spoil a measurement.

    Without URL: OLLAMA_HOST, OPENAI_BASE_URL, else the local Ollama. Sends no prompt. Exit code 2 when nothing usable
    answers.
    """
    server, chosen, trouble = _look(base_url(url or default_url()), model)
    rows = [("server", f"{server.kind} {server.version or ''}".strip()), ("url", server.url)]
    if server.simulated:
        rows.append(("simulated", f"profile {server.simulated['profile']} at {server.simulated['speed']:g}× speed"))
    rows.append(
        ("models", ", ".join(item.name + (" (loaded)" if item.loaded else "") for item in server.models) or "none")
    )
    if chosen is not None:
        rows.append(("model", " ".join(filter(None, [chosen.name, _details(chosen)]))))
        rows.append(("context", _context(chosen)))
    rows.append(("slots", str(server.slots) if server.slots else "not said by this server; a run past them finds out"))
    for name, value in rows:
        print(f"{name:10} {value}")
    for text in [*([trouble] if trouble else []), *hazards(server, chosen)]:
        print(f"! {text}")


def _details(model: Model) -> str:
    parts = [str(model.details.get(key)) for key in ("parameter_size", "quantization_level") if model.details.get(key)]
    return f"({', '.join(parts)})" if parts else ""


def _context(model: Model) -> str:
    trained = f"trained for {model.trained_context}" if model.trained_context else ""
    if model.context:
        return f"{model.context} tokens" + (f", {trained}" if trained else "")
    return "not loaded, so not known yet" + (f"; {trained}" if trained else "")
