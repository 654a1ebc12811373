"""What may spoil a measurement of a server: a sentence each, with what to do about it."""

from __future__ import annotations

import socket
from collections import Counter

from loadtest import credentials, reach
from loadtest.scenario import ConnectionKeys
from loadtest.targets.server.probe import ServedModel, Server, lists_model
from loadtest.text import shown
from loadtest.urls import deployment_of, loopback, origin


def hazards(
    server: Server,
    model: ServedModel | None,
    *,
    num_ctx: int | None = None,
    keys: ConnectionKeys | None = None,
    slots_found: bool = False,
) -> list[str]:
    """Return what may spoil a measurement of this server: a sentence each, with what to do about it.

    Where its slots were just found, nothing is said about how to find them.
    """
    found = []
    if server.unlisted and model is not None:
        found.append(
            f"The server does not list its models ({server.unlisted}): the model name that you give is used as it is."
        )
    elif model is not None and (unlisted := not_listed(server, model.name)):
        found.append(unlisted)
    if server.cached:
        old = "what it says of models and slots, and what monitors read, may be old; have it pass them on"
        found.append(f"A cache on the way answers questions in the server's place ({server.cached}): {old}.")
    keys = keys or ConnectionKeys()
    open_key = credentials.in_the_clear(server.url, server.native, key_env=keys.key_env)
    found += filter(None, (open_key, reach.note_on_trust(keys, server.url), one_of_several(keys, server.url)))
    if keys.proxy is None and (named := reach.ignored_proxies()) and not server.url.startswith("unix:"):
        found.append(f"{' and '.join(named)} in the environment: not used. Give --proxy URL to go through a proxy.")
    if server.kind == "ollama" and not slots_found:
        found.append(
            "Ollama does not say how many requests it handles in parallel (OLLAMA_NUM_PARALLEL; 1 by default since 0.10): "
            "`loadtest check --slots` finds it out, and so does a run with more users than that."
        )
    if server.kind == "ollama":
        found.append(
            "Ollama reloads the model whenever requests alternate between two values of num_ctx (those to /v1 have the server's "
            "own): let nothing else use this server while you measure."
        )
    if model is None:
        return found
    if model.loaded is False:
        again = " A llama.cpp that sleeps when idle (--sleep-idle-seconds) loads its model again after each pause."
        asleep = again * (server.kind == "llama.cpp")
        found.append(
            f"{shown(model.name)} is not loaded: the first request waits until it is. `run` loads it before it measures.{asleep}"
        )
    if model.size and model.size_vram is not None and 0 <= model.size_vram < model.size:
        share = 100 * (model.size - model.size_vram) / model.size
        found.append(f"{share:.0f} % of {shown(model.name)} is in host memory, not on a GPU.")
    if num_ctx is None and server.kind == "ollama" and model.context is None:
        found.append(
            "The context length is the server's default, or the model's own; set it with --num-ctx so that runs can be compared."
        )
    return found


def one_of_several(keys: ConnectionKeys, url: str) -> str | None:
    """Say that a server's name has several addresses, of which one is asked; None where it has one, or others resolve it."""
    place = origin(url)
    if place is None or loopback(url) or reach.proxy_to(keys, url) is not None:
        return None
    try:
        found = {entry[4] for entry in socket.getaddrinfo(*place[1:], type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return None
    addresses = max(Counter(map(len, found)).values(), default=0)  # of IPv4 or of IPv6: a machine may have one of each
    if addresses < 2:
        return None
    return (
        f"{shown(place[1])} has {addresses} addresses, and all requests go to the first that takes a connection: where each is a "
        "server of its own, one is measured."
    )


def not_listed(server: Server, name: str) -> str | None:
    """Say that a model asked for is not on the server's list, and which one there may be meant; None where it is."""
    ignores_names = server.kind == "llama.cpp" and len(server.models) == 1
    if not server.models or ignores_names or lists_model(server, name) or deployment_of(server.url) is not None:
        return None
    like = [
        model.name
        for model in server.models
        if model.name.rpartition("/")[2].lower() == name.rpartition("/")[2].lower()
    ]
    meant = f"; perhaps {shown(like[0])} is meant" if like else ""
    return f"The server does not list {shown(name)}{meant}: the name is sent as it is."
