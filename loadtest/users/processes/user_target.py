"""What a user class asks of which server and model: tried out before the test begins, then sent to workers."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from loadtest.dialects import dialect_for
from loadtest.reach import secrets_apart
from loadtest.scenario import Scenario
from loadtest.scenario.request_additions import templates_of
from loadtest.targets.context import context_of
from loadtest.targets.prepare import ReadyTarget, prepare_targets
from loadtest.targets.server.control import control_client
from loadtest.targets.server.probe import ServedModel, Server
from loadtest.targets.target import Target
from loadtest.workloads.tokens import Counter, TokenFit, load_counter
from loadtest.workloads.workload import Workload, check_files


@dataclass(frozen=True, slots=True)
class UserTarget:
    """A server and model, and what users of a class ask of it."""

    scenario: Scenario
    target: Target
    fit: TokenFit
    index: int = 0  # place of the server and model among run.json's targets
    open_loop: bool = False  # some users send by a schedule, so the number of streams cannot be known

    @property
    def context(self) -> int | None:
        """The context of the model, to which drawn lengths are cut."""
        return context_of(self.scenario, self.target.model, loaded=True)

    def counter(self) -> Counter:
        """Return this process's token counter; its ranks were fetched in `prepare_user_target`, where possible."""
        return load_counter(self.target.model.name, fetch=False)

    def ready(self) -> ReadyTarget:
        return ReadyTarget(self.target, Workload(self.scenario, self.counter(), self.fit))

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario.to_dict(),
            "server": dataclasses.asdict(self.target.server),
            "model": dataclasses.asdict(self.target.model),
            "api": self.target.dialect.api,
            "fit": dataclasses.asdict(self.fit),
            "index": self.index,
            "open_loop": self.open_loop,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        scenario = secrets_apart(Scenario.from_dict(row["scenario"], where="the master's message"))
        templates_of(scenario.header, scenario.query, scenario.body)  # raises where this machine lacks a variable
        model = ServedModel(**row["model"])
        server = Server(**{**row["server"], "models": tuple(ServedModel(**one) for one in row["server"]["models"])})
        dialect = dialect_for(scenario, api=row["api"], model=model.name, kind=server.kind)
        return cls(scenario, Target(server, model, dialect), TokenFit(**row["fit"]), row["index"], row["open_loop"])


def prepare_user_target(scenario: Scenario, say: Callable[[str], object]) -> UserTarget:
    """Choose server and model of a scenario and make its workload ready; raises what prepare_targets raises."""
    # Given a duration, no note counts requests: a test ends when its users are told to.
    for note in check_files(scenario.replace(duration=scenario.duration or 1.0)):
        say(note)
    with control_client(scenario) as control:
        _, (ready,) = prepare_targets(control, scenario, say)
    return UserTarget(scenario, ready.target, ready.workload.fit)


def hashes_of_files(user_classes: Iterable[type]) -> dict[str, str]:
    """Return for each user class, by its name, a hash of the file that it is written in; a class without one is left out."""
    hashes = {}
    for one in user_classes:
        try:
            text = Path(inspect.getfile(one)).read_text(encoding="utf-8")
        except (TypeError, OSError, UnicodeError):  # TypeError: a class that was made without a file
            continue
        hashes[one.__name__] = hashlib.sha256(text.encode()).hexdigest()
    return hashes
