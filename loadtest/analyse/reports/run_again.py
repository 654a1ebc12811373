"""The command that does a run again: `loadtest run` or Locust's."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from loadtest.analyse.run import RunData
from loadtest.analyse.whatif.predictions.prediction_file import FILE_NAME
from loadtest.scenario import Key, Scenario, keys_of
from loadtest.scenario.parts.prompts import ANY


def command(run: RunData, prediction: str | None = None) -> str | None:
    """Return `loadtest run` with every key that is not at its default, and how many streams; of Locust its own command.

    A prediction is the one named, else the one that the run kept. None where the command is unknown.
    """
    facts, scenario = run.facts, run.scenario
    if isinstance(locust := facts.get("locust"), dict):
        return _locust_command(run, locust)
    if not scenario:
        return None
    target = facts.get("target") or {}
    said = {**scenario, "url": scenario.get("url") or target.get("url")}
    if len(facts.get("targets") or [target]) == 1:  # which model a server chooses by itself may be another one tomorrow
        said["model"] = scenario.get("model") or target.get("model")
    asked = facts.get("asked") or {}
    if said.get("output_tokens") == [] and said.get("endpoint") != "embeddings":
        said["output_tokens"] = [ANY]
    if said.get("data_once"):  # which says how many by itself
        said["requests"] = None
    if facts.get("seed_drawn"):  # the same texts again would meet a warm cache
        said["seed"] = None
    if asked.get("find_max"):  # which chose both for its levels
        said |= {"concurrency": None, "duration": None, "requests": asked.get("requests")}
    # a closed loop: what it asks of a server is not left to a default
    streams = not (said.get("rate") or said.get("trace"))
    words = [
        word
        for key in keys_of(Scenario)
        for word in _words(key, said.get(key.name), always=streams and key.name == "concurrency")
    ]
    kept = run.path / FILE_NAME if facts.get("prediction") else None
    also = {"--slo": asked.get("slo"), "--find-max": asked.get("find_max"), "--prediction": prediction or kept}
    for flag, value in also.items():
        words += [flag, str(value)] if value else []
    return shlex.join(["loadtest", "run", *words, *(asked.get("options") or ())])


def _locust_command(run: RunData, locust: dict[str, Any]) -> str | None:
    """Return Locust's command, without its web UI; None where users were added or ended by hand meanwhile."""
    shaped, scenario = locust.get("shape"), run.scenario
    if not shaped and len(run.facts.get("levels") or []) > 1:
        return None
    files = locust.get("files") or [locust.get("locustfile") or "locustfile.py"]
    words = ["locust", "-f", ",".join(files), *(locust.get("user_classes") or ()), "--headless"]
    urls = {one.get("url") for one in run.facts.get("targets") or [run.facts.get("target") or {}]}
    known: dict[str, Any] = {"--host": urls.pop() if len(urls) == 1 else None}  # of several each class names its own
    if not shaped:
        known |= {"-u": next(iter(scenario.get("concurrency") or ()), None), "-r": locust.get("spawn_rate")}
        known |= {"-t": f"{_text(seconds)}s" if (seconds := scenario.get("duration")) else None}
    known |= {"--processes": workers if (workers := locust.get("workers") or 1) > 1 else None}
    known |= {f"--{name.replace('_', '-')}": value for name, value in (locust.get("options") or {}).items()}
    for flag, value in known.items():
        for one in value if isinstance(value, list) else [value] * (value is not None):
            words += [flag, _text(one).lower() if isinstance(one, bool) else _text(one)]
    for name in ("tags", "exclude_tags"):
        words += [f"--{name.replace('_', '-')}", *said] if (said := locust.get(name)) else []
    return shlex.join(words)


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
