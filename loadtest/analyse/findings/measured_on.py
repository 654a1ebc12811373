"""What a run measured, in words: server and model, and which of several servers are simulated."""

from __future__ import annotations

from typing import Any

from loadtest.text import joined, profile_at_speed

MOST_NAMED = 4  # simulated servers that a line names one by one
ALL, SOME = "SIMULATED SERVER", "PARTLY SIMULATED"


def measured_on(summary: dict[str, Any]) -> str:
    """Return server and model in words, e.g. "ollama 0.33.0 · llama3.1:70b"."""
    server, several = summary["server"], summary.get("groups")
    kind = server.get("kind") or ("" if several else "server")
    models = ", ".join(group["name"] for group in several) if several else summary["target"].get("model")
    return joined(" · ", joined(" ", kind, server.get("version")), models)


def marked(title: str, summary: dict[str, Any]) -> str:
    """Return a title, and behind it in brackets what is simulated."""
    mark = simulated_mark(summary)
    return f"{title} ({mark})" if mark else title


def simulated_mark(summary: dict[str, Any]) -> str | None:
    """Return "simulated: profile X at N× speed", None for a real server.

    Of several servers that are not all simulated alike each simulated one is named: "A alone is simulated: profile X at
    1× speed".
    """
    profiles = _profiles(summary)
    said = {name: profile for name, profile in profiles.items() if profile}
    if not said:
        return None
    if len(said) == len(profiles):
        if len(set(said.values())) == 1:
            return f"simulated: {next(iter(said.values()))}"
        if len(said) > MOST_NAMED:
            return f"all simulated: {len(set(said.values()))} profiles"
        return "all simulated: " + "; ".join(f"{name}: {profile}" for name, profile in said.items())
    alone = " alone is simulated" if len(said) == 1 else " is simulated"
    return "; ".join(f"{name}{alone}: {profile}" for name, profile in said.items())


def simulated_badge(summary: dict[str, Any]) -> str | None:
    """Return the mark of charts and pages in a word or two; None for real servers alone."""
    found = list(_profiles(summary).values())
    return None if not any(found) else ALL if all(found) else SOME


def simulated_warning(summary: dict[str, Any]) -> str:
    """Say what the mark means for the figures, and what a speed does to them."""
    whose = "the figures of what is simulated" if simulated_badge(summary) == SOME else "these figures"
    return f"{whose} describe a model of a server, not a server.{_sped_up(summary)}"


def _sped_up(summary: dict[str, Any]) -> str:
    """Say what the speed does to times where it is not 1: of several servers only where it is the same for all that are simulated."""
    servers = [(one.get("server") or {}).get("simulated") for one in summary.get("groups") or ()]
    speeds = {float(said["speed"]) for said in servers or [summary["simulated"]] if said}
    if len(speeds) != 1 or (speed := speeds.pop()) == 1:
        return ""
    part = {2.0: "half of", 0.5: "twice"}.get(speed) or (f"1/{speed:g} of" if speed > 1 else f"{1 / speed:.3g} times")
    return f" At {speed:g}× speed every time of the server is {part} the profile's, and every rate {speed:g} times as high."


def _profiles(summary: dict[str, Any]) -> dict[str, str | None]:
    """Return the profile and speed of each model or server by its name, None of a real one; "" names the only one."""
    groups = summary.get("groups")
    servers = {one["name"]: (one.get("server") or {}).get("simulated") for one in groups or ()}
    servers = servers or {"": summary["simulated"]}
    return {name: profile_at_speed(said) if said else None for name, said in servers.items()}
