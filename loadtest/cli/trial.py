"""What `loadtest check --try` prints: each request as it is answered, then what works and how the answer came."""

from __future__ import annotations

import shlex

from loadtest.scenario import Scenario
from loadtest.target.attempts import Attempt, command_changes
from loadtest.target.probe import ServedModel, Server
from loadtest.target.trial import OUTPUT_TOKENS, attempts, known_by
from loadtest.target.what_came import what_came
from loadtest.text import shown

PATIENCE_S = 600.0  # for a first token: the model may have to be loaded


def try_out(server: Server, model: ServedModel, asked: Scenario, scenario: Scenario) -> int:
    """Send requests until one is answered, and print each; return the exit code.

    `asked` is what the command's options say, `scenario` the same with URL and API found out.
    """
    known_by(server, model, scenario).dialect(scenario)  # raises for an option that it lacks
    print(
        f"Trying requests for {OUTPUT_TOKENS} tokens, one after another: they may load the model, and cost tokens.",
        flush=True,
    )
    limits = {"first_token_timeout": min(scenario.first_token_timeout or PATIENCE_S, PATIENCE_S)}
    last: Attempt | None = None
    for number, last in enumerate(attempts(server, model, scenario.replace(**limits)), 1):
        changes = _listed(command_changes(scenario, last.scenario))
        how = f" with {changes}" if changes else ""
        print(
            f"{number:2}. POST {shown(last.dialect.posted_to)} ({last.dialect.name}){how}: {_outcome(last)}", flush=True
        )
    assert last is not None, "the first request is always sent"
    if not last.works:
        print("works      nothing that was tried")
        return 1
    add = command_changes(asked.replace(url=scenario.url), last.scenario)
    print(f"works      {f'only with {_listed(add)}' if add else 'as asked: nothing has to be added'}")
    if add:
        print(f"command    loadtest run --url {shlex.quote(server.url)} {' '.join(_command(asked, add, model))}")
    for name, sentence in what_came(last):
        print(f"{name:10} {sentence}")
    for note in [*(last.record.doubts or []), *(last.record.notes or [])]:
        print(f"! {note}")
    return 0


def _outcome(attempt: Attempt) -> str:
    record = attempt.record
    if attempt.works:
        return "answered"
    if record.outcome == "ok":
        return "answered without a token"
    status = f"HTTP {record.status}: " if record.status and f"HTTP {record.status}" not in (record.error or "") else ""
    return f"{status}{record.error or record.outcome}"


def _listed(changes: list[str]) -> str:
    return " and ".join([", ".join(changes[:-1]), changes[-1]] if len(changes) > 1 else changes)


def _command(asked: Scenario, add: list[str], model: ServedModel) -> list[str]:
    named = [] if asked.model is None else ["--model", shlex.quote(shown(model.name))]
    return [*named, *(one for one in add if one.startswith("--"))]
