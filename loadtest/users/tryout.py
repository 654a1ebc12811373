"""What a user class is about to ask, tried out before the clock: by the process that decides, and told to its workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from loadtest.dialects import dialect_for
from loadtest.scenario import Scenario
from loadtest.target import settle as measured
from loadtest.target.probe import Model, Server
from loadtest.target.settle import Target, control_client, trust
from loadtest.workloads.tokens import Counter, TokenFit, load_counter


@dataclass(frozen=True, slots=True)
class Settled:
    """One server and model with what is asked of it."""

    scenario: Scenario
    target: Target
    fit: TokenFit
    index: int = 0  # of its server and model among run.json's targets
    open_loop: bool = False  # some of its users send by a schedule: nobody knows how many streams that will be

    @property
    def api(self) -> str:
        return self.target.dialect.api

    def counter(self) -> Counter:
        """Return what counts tokens in this process; the ranks were fetched when this was settled, if they could be."""
        return load_counter(self.target.model.name, fetch=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario.to_dict(),
            "server": dataclasses.asdict(self.target.server),
            "model": dataclasses.asdict(self.target.model),
            "api": self.api,
            "fit": dataclasses.asdict(self.fit),
            "index": self.index,
            "open_loop": self.open_loop,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        scenario = Scenario.from_dict(row["scenario"], where="the master's message")
        model = Model(**row["model"])
        server = Server(**{**row["server"], "models": tuple(Model(**one) for one in row["server"]["models"])})
        dialect = dialect_for(scenario, api=row["api"], model=model.name)
        return cls(scenario, Target(server, model, dialect), TokenFit(**row["fit"]), row["index"], row["open_loop"])


def settle(scenario: Scenario, say: Callable[[str], object]) -> Settled:
    """Settle a scenario as measure.target.settle does, its errors included."""
    with control_client(trust(scenario.ca_file), scenario.connect_timeout) as control:
        target, workload = measured.settle(control, scenario, say)
    return Settled(scenario, target, workload.fit)
