"""The command that runs a test again, made from the scenario in run.json, which holds no secrets."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from loadtest.analyse.run.frames import RunData
from loadtest.analyse.server.queue.slots import Slots
from loadtest.scenario import Key, Scenario, keys_of
from loadtest.simulate.profiles import PROFILES
from loadtest.urls import origin


def command(run: RunData) -> str | None:
    """Return `loadtest run` with every key that is not at its default, and how many streams; of Locust its locustfile.

    None where it is unknown.
    """
    facts = run.facts
    locust = facts.get("locust")
    if isinstance(locust, dict):
        classes = [str(name) for name in locust.get("user_classes") or []]
        return shlex.join(["locust", "-f", str(locust.get("locustfile") or "locustfile.py"), *classes])
    scenario = facts.get("scenario") or {}
    if not scenario:
        return None
    target = facts.get("target") or {}
    said = {**scenario, "url": scenario.get("url") or target.get("url")}
    if len(facts.get("targets") or [target]) == 1:  # which model a server chooses by itself may be another one tomorrow
        said["model"] = scenario.get("model") or target.get("model")
    asked = facts.get("asked") or {}
    if asked.get("find_max"):  # which chose both for its levels
        said |= {"concurrency": None, "duration": None, "requests": asked.get("requests")}
    # a closed loop: what it asks of a server is not left to a default
    streams = not (said.get("rate") or said.get("trace"))
    words = [
        word
        for key in keys_of(Scenario)
        for word in _words(key, said.get(key.name), always=streams and key.name == "concurrency")
    ]
    return shlex.join(["loadtest", "run", *words, *_question(asked)])


def serve_command(run: RunData, slots: Slots) -> str | None:
    """Return the `loadtest serve` that brings a run's simulated server back, as far as the run shows it.

    None of a real server, or of one whose profile is in a file.
    """
    said, where = run.simulated, origin(str((run.facts.get("target") or {}).get("url") or ""))
    profile = PROFILES.get(str(said.get("profile"))) if said else None
    if said is None or profile is None or not (where and where[2]) or len(run.facts.get("targets") or [where]) != 1:
        return None
    context = (run.facts.get("server") or {}).get("context")
    words = ["--profile", profile.name, "--speed", f"{float(said['speed']):g}", "--port", str(where[2])]
    words += ["--slots", str(slots.estimate)] if slots.limit else []
    words += ["--num-ctx", str(context)] if context and context != profile.num_ctx else []
    return shlex.join(["loadtest", "serve", *words])


def _question(asked: dict[str, Any]) -> Iterator[str]:
    """Yield --slo and --find-max as they were given."""
    if asked.get("slo"):
        yield from ("--slo", str(asked["slo"]))
    if asked.get("find_max"):
        yield from ("--find-max", str(asked["find_max"]))


def _words(key: Key, value: Any, *, always: bool = False) -> Iterator[str]:
    plain = tuple(value) if isinstance(value, list) else value
    if plain is None or plain == () or (plain == key.default and not always):
        return
    if isinstance(plain, bool):
        yield key.flag if plain else f"--no-{key.flag.removeprefix('--')}"
    elif isinstance(plain, tuple) and key.many:
        yield from (key.flag, ",".join(map(_text, plain)))
    else:
        for one in plain if isinstance(plain, tuple) else (plain,):
            yield from (key.flag, _text(one))


def _text(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
