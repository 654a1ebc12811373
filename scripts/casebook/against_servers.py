"""Rows of both drivers against a server that errs, answers at once or goes away, and Locust's command line."""

from __future__ import annotations

import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from book import DRIVERS
from commands import OLLAMA, OPENAI, Command, commands, ran
from drivers import (
    CHAT,
    WIRE,
    Held,
    calm,
    each_started,
    locust_words,
    measured,
    over,
    run_words,
    slow_server,
    until,
)
from replay import records
from specials import asked, special
from support.odd_answers import DIALECTS, MODEL, WIRES, control, is_trial, plain, streamed
from support.odd_answers import json as answer_json


@special("error with status 200")
def backed_off(place: Path) -> Held:
    """A server that errs with status 200 is backed off from"""
    found: Held = []
    page = plain(b"<html><head><title>Sign in</title></head></html>", b"Content-Type: text/html")
    for label, script in (("envelope", answer_json({"code": 50508, "message": "busy"})), ("page", page)):
        paths = {**OPENAI, WIRE.path: lambda request, script=script: WIRE.good(1) if is_trial(request) else script}
        for driver in DRIVERS:
            with each_started(place, driver, paths, name=f"{driver}-{label}") as (home, server, process):
                until(partial(asked, server, 0))
                before = len(measured(server))
                time.sleep(2.0)
                sent = len(measured(server)) - before
                process.send_signal(signal.SIGINT)
                code = over(process)
            got = records(home / "run")
            errors = {str(record.get("error")) for record in got if record["outcome"] != "cancelled"}
            word = "busy" if label == "envelope" else "Sign in"
            spoken = bool(errors) and all(word in error for error in errors)
            found += [
                (driver, f"{label}: at most 40 requests in 2 s by 4 streams", f"{sent}, exit {code}", sent <= 40),
                (driver, f"{label}: its words", str(errors)[:120], spoken),
            ]
    return found


@special("instants")
def order_of_instants(place: Path) -> Held:
    """No answer precedes its request, 4 streams against an instant server"""
    found: Held = []
    for dialect in DIALECTS[:1] + DIALECTS[2:3]:
        wire = WIRES[dialect]
        at_once = [b"".join(part for part in streamed(*wire.whole()) if isinstance(part, bytes))]
        home = place / dialect
        home.mkdir()
        words = (*run_words("{url}", "--concurrency", "4", "--requests", "1500"), "--api", wire.api)
        left = ran(Command("x", "x", words, paths={**control(wire), wire.path: at_once}, limit_s=60), home)
        instants = ("t_headers", "t_first_byte", "t_first_token")
        early = [one for one in left.records if any(one.get(key, one["t_send"]) < one["t_send"] for key in instants)]
        negative = [one for one in left.records if one.get("chunks") and one["chunks"][0] < 0]
        right = len(left.records) == 1500 and not early and not negative
        wanted = f"{dialect}: none of {len(left.records)} early"
        found.append(("run", wanted, f"{len(early)} early, {len(negative)} negative", right))
    return found


@special("the server goes away")
def refused(place: Path) -> Held:
    """Server gone in mid-run: each is recorded, the level is void, and it is said"""
    found: Held = []
    for driver in DRIVERS:
        with each_started(place, driver, slow_server(0.05), users=3) as (home, server, process):
            until(partial(asked, server, 6))
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        code = over(process)
        outcomes = Counter(record["outcome"] for record in records(home / "run"))
        right = outcomes["connect_error"] > 2 and outcomes["ok"] > 0
        found += [
            (driver, "connect_error for the rest", str(dict(outcomes)), right),
            (driver, "exit 130", f"exit {code}", code == 130),
            calm(driver, home),
        ]
    return found


cmd = commands("Locust's command line")
LOCUST = locust_words("{url}", users=2, seconds=2)


def locust(name: str, *words: str, text: str = CHAT, **how: Any) -> None:
    files = {"locustfile.py": text.encode()}
    cmd(name, (*LOCUST, *words), program="locust", files=files, **{"limit_s": 40, **how})


def outcomes(left: Any) -> set[str]:
    return {record["outcome"] for record in left.records if record["outcome"] != "cancelled"}


BEARER = "sk-planted-7f3a9c51"
locust("Locust: plain", paths=slow_server(), code=(0, 3), looks={"outcomes": (outcomes, {"ok"})})
locust("Locust: nothing there", "-H", "http://127.0.0.1:9", code=2, says="cannot reach")
locust(
    "Locust: llama-swap",
    "--api",
    "openai",
    "--model",
    MODEL,
    paths={**slow_server(), "/api/version": answer_json({"version": "165", "commit": "x"})},
    code=(0, 3),
    looks={"outcomes": (outcomes, {"ok"})},
)
locust(
    "Locust: no model list",
    "--api",
    "openai",
    "--model",
    MODEL,
    paths={**slow_server(), "/v1/models": plain(b"", status=b"405 Method Not Allowed")},
    code=(0, 3),
    looks={"outcomes": (outcomes, {"ok"})},
)
locust(
    "Locust: key with CR",
    env={"OPENAI_API_KEY": BEARER + "\r"},
    paths=slow_server(),
    code=(0, 2, 3),
    unsaid=BEARER,
    looks={
        "sent, or the variable named": (
            lambda left: (
                "OPENAI_API_KEY" in left.said
                or {one.headers.get("authorization") for one in left.measured} == {f"Bearer {BEARER}"}
            ),
            True,
        )
    },
)
locust(
    "Locust: user and password in --host",
    "-H",
    "http://user:pa-planted@{host}",
    paths=slow_server(),
    code=(0, 3),
    unsaid="pa-planted",
    looks={
        "sent": (
            lambda left: {one.headers.get("authorization") for one in left.measured},
            {"Basic dXNlcjpwYS1wbGFudGVk"},
        ),
        "not written": (lambda left: "pa-planted" in left.written(), False),
    },
)
locust(
    "Locust: Ollama behind OLLAMA_API_KEY",
    env={"OLLAMA_API_KEY": BEARER},
    paths=OLLAMA,
    code=(0, 3),
    unsaid=BEARER,
    looks={"sent": (lambda left: {one.headers.get("authorization") for one in left.measured}, {f"Bearer {BEARER}"})},
)
locust(
    "Locust: every answer an error",
    paths={
        **OPENAI,
        WIRE.path: lambda request: (
            WIRE.good(1)
            if is_trial(request)
            else answer_json({"error": {"message": "busy"}}, status=b"500 Internal Server Error")
        ),
    },
    code=(1, 3),
    says="busy",
)
locust(
    "Locust: zero time",
    paths={
        **OLLAMA,
        "/api/chat": lambda request: [
            step.replace(b"2026-01-01T00:00:00.", b"0001-01-01T00:00:00.") if isinstance(step, bytes) else step
            for step in WIRES["ollama-chat"].good(3)
        ],
    },
    code=(0, 3),
    looks={"outcomes": (outcomes, {"ok"}), "recorded": (lambda left: len(left.records) >= len(left.measured), True)},
)
locust(
    "Locust: void is exit 3",
    "--max-failure-ratio",
    "1",
    paths={
        **OPENAI,
        WIRE.path: lambda request: (
            WIRE.good(1) if is_trial(request) else answer_json({"error": "x"}, status=b"503 Service Unavailable")
        ),
    },
    code=3,
)
