"""What was measured, from where and how, what energy it took, and the commands that do it again: the last tables of a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import numpy as np

from loadtest.analyse.findings.measured_on import ALL as SIMULATED
from loadtest.analyse.findings.measured_on import measured_on, simulated_badge, simulated_mark
from loadtest.analyse.reports.tables import sections
from loadtest.analyse.run import LevelData, RunData, shared_parts
from loadtest.analyse.server.energy import NOT_SAMPLED
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.predictions.prediction_file import FILE_NAME
from loadtest.grid import Grid
from loadtest.metrics import S_PER_NS
from loadtest.records import Outcome
from loadtest.scenario import Key, Scenario, keys_of
from loadtest.scenario.parts.prompts import ANY
from loadtest.scenario.price import Price
from loadtest.simulate.profiles import PROFILES
from loadtest.text import UNKNOWN, counted, instant, joined, listed, number, percent, seconds
from loadtest.urls import origin

MOST_LOADS = 6  # that are named one by one
TTFT_PARTS = (
    ("unsplit_wait_s", "queue wait"),
    ("slot_wait_s", "slot wait"),
    ("batch_wait_s", "batch wait"),
    ("load_s", "load"),
    ("prefill_s", "prefill"),
)
LEAST_PART = 0.05  # of the slowest request's TTFT, from which on a part of it is named
ENERGY_FIGURES = (
    ("joules_per_output_token", "J an output token"),
    ("joules_per_output_token_above_idle", "of it above idle"),
    ("joules_per_input_token", "J an input token"),
    ("joules_per_request", "J a request"),
    ("output_tokens_per_s_per_watt", "output tokens/s a watt"),
)
COSTS = (
    ("cost_by_hour", "price_per_hour", "per_million_output_tokens", "1 M output tokens, at {} an hour"),
    ("cost_by_hour", "price_per_hour", "per_million_tokens", "1 M tokens in and out"),
    ("cost_by_kwh", "price_per_kwh", "per_million_output_tokens", "electricity of 1 M output tokens, at {} a kWh"),
    ("cost_by_hour", "price_per_hour", "per_1000_requests", "1000 requests"),
)


def facts_table(analysis: Analysis) -> Grid:
    summary, run = analysis.summary, analysis.run.facts
    machine, server = run.get("client") or {}, summary["server"]
    cpus, kernel, python = (machine.get(name, "?") for name in ("cpus", "kernel", "python"))
    context = (run.get("server_at_end") or {}).get("context_length") or server.get("context")
    spoken = sorted(analysis.run.requests["dialect"].dropna().unique())
    versions = ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items())
    pairs = (
        (
            "run",
            f"{summary['name']} ({summary['state'] or 'state unknown'})",
        ),
        ("server", f"{measured_on(summary)} at {_urls(analysis)}"),
        ("model", "" if summary.get("groups") else _model(analysis.run)),
        ("took", _took(run)),
        ("simulated", (simulated_mark(summary) or "").removeprefix("simulated: ")),
        ("reached", _reached(run)),
        ("wire", listed(spoken) or str(summary["target"].get("dialect") or UNKNOWN)),
        ("context", f"{context} tokens" if context else UNKNOWN),
        *((f"slots{named}", _slots(one)) for named, one in sections(analysis)),
        ("driver", str(summary["driver"] or UNKNOWN)),
        ("load", _loop(summary["levels"])),
        ("prompts", _prompts(analysis)),
        *((f"slowest request{named}", _slowest(one)) for named, one in sections(analysis)),
        ("client", joined(", ", machine.get("host"), f"CPUs: {cpus}", f"kernel {kernel}", f"Python {python}")),
        ("hardware", _hardware(summary)),
        ("energy", energy_fact(summary)),
        ("its server", _served(analysis)),
        ("run it again", command(analysis.run) or UNKNOWN),
        ("versions", versions or UNKNOWN),
    )
    return Grid(("", ""), tuple(pair for pair in pairs if pair[1]), prose=True)


def measured(analysis: Analysis) -> str:
    """Say in a line what was sent, when and for how long."""
    levels = analysis.levels
    if not levels:
        return ""
    shared, own = shared_parts([level["label"] for level in levels])
    names = list(dict.fromkeys(own[level["label"]] for level in sorted(levels, key=lambda level: level.amount or 0.0)))
    loads = listed(names) if len(names) <= MOST_LOADS else f"{len(names)} loads, {names[0]} to {names[-1]}"
    sent = f"{counted(sum(level['requests'] for level in levels), 'request')} at {joined(' · ', loads, shared)}"
    left = sum(level["outcomes"].get(Outcome.LEFT, 0) for level in levels)
    lost = f"{sum(level.failed for level in levels) or 'none'} failed"
    lost += f", users hung up in {left}" if left else ""
    took = _took(analysis.run.facts).partition(" from")[0]
    return joined("; ", f"{sent}, {lost}", instant(analysis.summary["started"]), took)


def _model(run: RunData) -> str:
    """Return how large the model is and how its weights are kept, as the server says; empty where it says neither."""
    size = run.fact("server", "facts", "details", "parameter_size")
    kept = run.fact("comparability", "quantization")
    return joined(", ", f"{size} parameters" if size else "", None if kept == "unknown" else kept)


def _slots(one: Analysis) -> str:
    """Return the slots with what they rest on; void levels that are part of it are named."""
    believed = one.believed_slots
    why = joined("; ", one.slots.method, "part of that is from void levels" if believed != one.slots else "")
    return f"{believed} ({why})"


def _served(analysis: Analysis) -> str:
    """Return how the simulated server was started that a run measured; empty of real ones."""
    if not (said := serve_command(analysis.run, analysis.believed_slots)):
        return ""
    return f"{said} (a simulated one, as far as the run shows it: in another terminal, before the run)"


def _loop(levels: list[LevelData]) -> str:
    """Say whether users waited for their answers before they sent again; empty where some did and some did not."""
    due = [level.is_open for level in levels]
    if due and all(due):
        return "open loop: requests were due by the clock, however many were unanswered"
    if not due or any(due):
        return ""
    paused = "a think time " * any(level.get("thinks") for level in levels)
    return f"closed loop: each user sent its next request {paused}after its last answer had ended"


def _prompts(analysis: Analysis) -> str:
    """Return what was asked, and what of it a prefix cache answered; empty where run.json does not say."""
    asked, cached = analysis.run.scenario, [level.get("cached_share") for level in analysis.levels]
    if not asked:
        return ""
    what = f"rows of {asked['data']}" if asked.get("data") else "made up"
    if asked.get("prompt") is not None or asked.get("prompt_file") is not None:
        what = "one text"
    alike = asked.get("data") or asked.get("warm_cache")
    requests = analysis.run.requests
    own = requests["asked_input"].isna()  # tasks of a locustfile send texts too, and lists of messages without a number
    if what == "made up" and analysis.run.facts.get("driver") == "locust" and own.any():
        few = f"{own.sum()} of {len(requests)} requests" if not own.all() else ""
        what, alike = joined("; ", "made up" if few else "", f"those of the locustfile{few and f' in {few}'}"), True
    who = "each conversation" if analysis.run.has_turns else "each"
    nonce = f"{who} behind a number of its own{', after what they share' if analysis.run.shares_prefix else ''}"
    answers = "answers its first prompt" if analysis.run.has_turns else "answers it"
    known = [share for share in cached if share is not None]
    told = "how many of their tokens the server had cached is not known"
    if known:
        most = percent(max(known))
        told = f"{'up to ' if len(known) > 1 and max(known) else ''}{most} of a level's prompt tokens came from the prefix cache"
    if any(known) and not (analysis.run.has_turns or analysis.run.shares_prefix):
        return joined(
            "; ",
            what if alike else f"{what}, {nonce}, against prefix caches",
            told if alike else f"{told} all the same",
        )
    return joined("; ", what if alike else f"{what}, {nonce}, so that no prefix cache {answers}", told)


def _slowest(one: Analysis) -> str:
    """Return which request waited longest for its first token, and what for; empty where none had one."""
    run, levels = one.run, {level["index"]: level for level in one.believed}
    ttft = np.where(run.flag("ok") & ~run.flag("warmup") & run.one_of("level", *levels), run.column("ttft_s"), np.nan)
    if not np.isfinite(ttft).any():
        return ""
    row = int(np.nanargmax(ttft))
    parts = {words: float(run.column(name)[row]) for name, words in TTFT_PARTS if name in run.requests}
    said = [f"{words} {seconds(part)}" for words, part in parts.items() if part >= LEAST_PART * ttft[row]]
    which = (
        f"{run.requests['id'].iloc[row]}, at {levels[int(run.column('level')[row])].load}: TTFT {seconds(ttft[row])}"
    )
    gone = run.left(*levels) & ~np.isfinite(run.column("first_token"))
    more = "; not among these are users who hung up before their first token" if gone.any() else ""
    return f"{which}{f' ({listed(said)})' if said else ''}{more}; loadtest explain says more"


def _took(facts: dict[str, Any]) -> str:
    """Return how long it was from the start of the first level to the end of the last one; empty where that is not known."""
    ends = [(level.get("started_ns"), level.get("ended_ns")) for level in facts.get("levels") or []]
    if not ends or not all(isinstance(at, int) for pair in ends for at in pair):
        return ""
    span = seconds((max(end for _, end in ends) - min(start for start, _ in ends)) * S_PER_NS)
    return f"{span} from the start of the first level to the end of the last"


def _reached(facts: dict[str, Any]) -> str:
    """Return by which way the servers were reached, and what was not checked on it; empty for the plain way."""
    said, scenario = [], facts.get("scenario") or {}
    if scenario.get("proxy"):
        each = facts.get("targets") or [{**facts, **(facts.get("target") or {})}]
        straight = dict.fromkeys(
            str(one.get("url")) for one in each if not (one.get("comparability") or {}).get("proxy")
        )
        beside = f", but {listed(list(straight))} directly" if straight and scenario.get("no_proxy") else ""
        said.append(f"by the proxy {scenario['proxy']}{beside}: TTFT holds its share")
    if scenario.get("insecure"):
        said.append("with --insecure: whose certificate it was has not been checked")
    return "; ".join(said)


def _hardware(summary: dict[str, Any]) -> str:
    if found := summary.get("hardware"):
        return "; ".join(found)
    if simulated_badge(summary) == SIMULATED:
        return "none: the server is simulated"
    return "not recorded: loadtest run --monitor host,nvidia on the server's machine notes processors and GPUs"


def _urls(analysis: Analysis) -> str:
    urls = [group.url for group, _ in analysis.groups] or [analysis.summary["target"].get("url")]
    return ", ".join(map(str, dict.fromkeys(urls)))


def energy_table(summary: dict[str, Any]) -> Grid | None:
    """Return a row a level; None where no watts were sampled and no price was named."""
    levels = summary["levels"]
    sampled = any(level.get("energy") or level.get("energy_reason") not in (None, NOT_SAMPLED) for level in levels)
    if not sampled and not any("cost_by_hour" in level or "cost_by_kwh" in level for level in levels):
        return None
    costs = [(key, part, _cost_head(levels, key, price, head)) for key, price, part, head in COSTS]
    costs = [(key, part, head) for key, part, head in costs if any(key in level for level in levels)]
    wanted = sampled or not any("cost_by_hour" in level for level in levels)  # else the table of the run says it, once
    missing = wanted and any(level.get("energy_reason") for level in levels)
    rows = tuple(_energy_row(level, costs, missing=missing) for level in levels)
    heads = (
        "level",
        "watts",
        "idle watts",
        *(head for _, head in ENERGY_FIGURES),
        *(head for *_, head in costs),
        *(["energy not measured because"] if missing else []),
    )
    return Grid(heads, rows, prose=missing).without_unknown()


def _energy_row(level: dict[str, Any], costs: list[tuple[str, str, str]], *, missing: bool) -> tuple[str, ...]:
    energy = level.get("energy") or {}
    cells = [number(energy.get(name)) for name in ("watts", "idle_watts", *(name for name, _ in ENERGY_FIGURES))]
    for key, part, _ in costs:
        cost = level.get(key) or {}
        amount = cost.get(part)
        cells.append(Price(1.0, cost["currency"]).written(amount) if amount is not None else UNKNOWN)
    return level["label"], *cells, *([level.get("energy_reason") or UNKNOWN] if missing else [])


def _cost_head(levels: list[dict[str, Any]], key: str, price: str, head: str) -> str:
    named = next((level[key] for level in levels if level.get(key)), None)
    return head.format(Price(named[price], named["currency"]).written(named[price]) if named else "the price")


def energy_fact(summary: dict[str, Any]) -> str:
    energy = next((level["energy"] for level in summary["levels"] if level.get("energy")), None)
    if energy:
        mark = "simulated; " if energy["simulated"] else ""
        return f"{mark}of {energy['of']}, by {energy['by']} ({', '.join(energy['watts_by_source'])})"
    reasons = dict.fromkeys(level.get("energy_reason") or NOT_SAMPLED for level in summary["levels"])
    return f"not measured: {'; '.join(reasons) or NOT_SAMPLED}"


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


def serve_command(run: RunData, slots: Slots) -> str | None:
    """Return the `loadtest serve` that brings a run's simulated server back, as far as the run shows it.

    None of a real server, or of one whose profile is in a file.
    """
    said, where = run.simulated, origin(str(run.fact("target", "url") or ""))
    profile = PROFILES.get(str(said.get("profile"))) if said else None
    if said is None or profile is None or not (where and where[2]) or len(run.facts.get("targets") or [where]) != 1:
        return None
    context = run.fact("server", "context")
    words = ["--profile", profile.name, "--speed", f"{float(said['speed']):g}", "--port", str(where[2])]
    words += ["--slots", str(slots.estimate)] if slots.limit else []
    words += ["--num-ctx", str(context)] if context and context != profile.num_ctx else []
    return shlex.join(["loadtest", "serve", *words])


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
