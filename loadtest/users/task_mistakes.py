"""Mistakes of a task's own code: what it asked of its client that no client has or takes, and where in its file."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from types import TracebackType

from loadtest.errors import ScenarioError
from loadtest.scenario import ATTRIBUTE, Scenario, keys_of
from loadtest.scenario.keys import KEY_OF
from loadtest.users.answer import Answer
from loadtest.users.client import Client
from loadtest.users.session import UserSession

OUR_CODE = str(Path(__file__).parents[1])
SENDS = (
    "a task sends with self.client.chat(), generate(), responses(), messages(), embed(), ask() or session(); other HTTP "
    "requests are for a class of Locust's HttpUser beside this one"
)
HAS: dict[type, str] = {
    Client: SENDS,
    UserSession: "a conversation goes on with chat() until it is over",
    Answer: "an answer has text, ok, left, status, status_code, url and record",
}


def misuse(error: object) -> str | None:
    """Return what a task did wrong with its client; None for an exception that speaks of anything else.

    Every iteration of the task would repeat such a mistake, so it ends the test.
    """
    if isinstance(error, ScenarioError):
        return str(error).rstrip(".")
    if isinstance(error, AttributeError) and (known := HAS.get(type(error.obj))):
        return f"{type(error.obj).__name__} has no {error.name}: {known}"
    if isinstance(error, TypeError) and str(error).startswith(tuple(f"{ours.__name__}." for ours in HAS)):
        return str(error).replace("Client._send()", "its client") + _instead(str(error))
    return None


def _instead(wrong: str) -> str:
    """Return what to write for an argument that a call does not take, such as output_tokens for max_tokens; "" if unknown."""
    named = re.search(r"keyword argument '(\w+)'$", wrong)
    key = KEY_OF.get(named[1], named[1]) if named else ""
    if key in ("input_tokens", "output_tokens"):
        return f"; write {key}"
    given = next((one for one in keys_of(Scenario) if one.name == key and ATTRIBUTE in one.locust), None)
    return f"; {key} is an attribute of the class" if given is not None else ""


def place_in_test(trace: TracebackType | None) -> str:
    """Return the line of the test's own code where an exception came from."""
    theirs = [each for each in traceback.extract_tb(trace) if not each.filename.startswith(OUR_CODE)]
    return f"{Path(theirs[-1].filename).name}, line {theirs[-1].lineno}" if theirs else "a task"
