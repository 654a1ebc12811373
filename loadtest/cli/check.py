"""`loadtest check`."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import click

from loadtest.cli.connection import connection_of, connection_options
from loadtest.credentials import withhold
from loadtest.dialects import dialect_for
from loadtest.errors import ScenarioError, TargetError
from loadtest.scenario import ConnectionKeys, Scenario, keys_of
from loadtest.target.connect import control_client
from loadtest.target.probe import ServedModel, Server, choose_model, hazards, probe, with_details
from loadtest.target.target import Target
from loadtest.text import shown
from loadtest.urls import default_url, parse_url
from loadtest.workloads.tokens import load_counter
from loadtest.workloads.workload import Workload

if TYPE_CHECKING:
    from loadtest.target.slot_probe import SlotProbe


@click.command()
@click.argument("url", required=False)
@click.option("--url", "named", metavar="URL", help="The same as URL.")
@click.option("--model", help="Model to look at.  [default: the loaded one, else the only one]")
@click.option("--slots", is_flag=True, help="Find how many requests it handles in parallel: sends a few bursts.")
@connection_options
def check(
    url: str | None,
    named: str | None,
    model: str | None,
    *,
    slots: bool,
    api: str,
    connect_timeout: float,
    **values: Any,
) -> None:
    """Say what server answers at URL, and what could spoil a measurement.

    Without URL: OLLAMA_HOST, OPENAI_BASE_URL (first with --api openai), else the local Ollama. No prompt is sent. Exit
    code 2 when no usable server answers.

    With --slots bursts of 2, 4, 8 and 16 short requests follow until one of them has to wait for another to end: at most
    64 tokens each, and what they cost is said. A server that says its slots is asked for them instead.
    """
    if url is not None and named is not None:
        raise ScenarioError("URL and --url both name a server: give one.")
    given = next((one for one in (url, named) if one is not None), None)
    keys = connection_of(values)
    address = parse_url(withhold(default_url(api=api) if given is None else given))
    api = address.asks[0] or api if api == "auto" else api
    server, chosen, trouble = _look(address.base, model, api, keys, connect_timeout)
    rows = [("server", f"{server.kind} {server.version or ''}".strip()), ("url", server.url)]
    if server.simulated:
        profile = shown(server.simulated["profile"])
        rows.append(("simulated", f"profile {profile} at {server.simulated['speed']:g}× speed"))
    names = ", ".join(shown(item.name) + (" (loaded)" if item.loaded else "") for item in server.models)
    rows.append(("models", names or ("not listed by this server" if server.unlisted else "none")))
    if chosen is not None:
        rows.append(("model", " ".join(filter(None, [shown(chosen.name), _model_details(chosen)]))))
        rows.append(("context", _context_text(chosen)))
    unsaid = "not reported by this server; --slots finds them, or a run with more streams than slots"
    if slots and server.slots is None and chosen is not None:
        found = _probed(server, chosen, (api, address.asks[1] or "chat"), keys, connect_timeout)
        unsaid = "\n           ".join([found.how, *found.witnesses, f"cost: {found.cost}"])
    rows.append(("slots", str(server.slots) if server.slots else unsaid))
    for name, value in rows:
        print(f"{name:10} {value}")
    for text in [*([trouble] if trouble else []), *hazards(server, chosen)]:
        print(f"! {text}")


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


def _probed(
    server: Server, model: ServedModel, wire: tuple[str, str], keys: ConnectionKeys, connect_timeout: float
) -> SlotProbe:
    from loadtest.target.slot_probe import probe_slots

    given = {each.name: getattr(keys, each.name) for each in keys_of(ConnectionKeys)}
    api, endpoint = wire
    spoken = api if api != "auto" else server.native
    scenario = Scenario(
        name="check",
        url=server.url,
        api=spoken,
        endpoint=endpoint,
        model=model.name,
        connect_timeout=connect_timeout,
        seed=secrets.randbelow(2**31),
        **given,
    )
    dialect = dialect_for(scenario, api=spoken, model=model.name, kind=server.kind)
    counter = load_counter(model.name, fetch=False)
    return probe_slots(Target(server, model, dialect), Workload(scenario, counter))


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
