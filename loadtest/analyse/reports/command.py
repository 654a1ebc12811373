"""The command that runs a test again, made from the scenario in run.json, which holds no secrets."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from loadtest.analyse.run.frames import RunData
from loadtest.scenario import Key, Scenario, keys_of


def command(run: RunData) -> str | None:
    """Return `loadtest run` with every key that is not at its default; of Locust its locustfile; None where unknown."""
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
    words = [word for key in keys_of(Scenario) for word in _words(key, said.get(key.name))]
    return shlex.join(["loadtest", "run", *words, *_question(asked)])


def _question(asked: dict[str, Any]) -> Iterator[str]:
    """Yield --slo and --find-max as they were given."""
    if asked.get("slo"):
        yield from ("--slo", str(asked["slo"]))
    if asked.get("find_max"):
        yield from ("--find-max", str(asked["find_max"]))


def _words(key: Key, value: Any) -> Iterator[str]:
    plain = tuple(value) if isinstance(value, list) else value
    if plain is None or plain in (key.default, ()):
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
