"""Short runs against the simulated server, and what of them was planned and what is on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loadtest.records import Record
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.workloads.schedule import schedule_of

Run = Callable[..., Path]
SHORT = ("--output-tokens", "5", "--seed", "7")
MADE_UP = (*SHORT, "--input-tokens", "32")


def counted(out: Path, level: int = 0) -> list[Record]:
    records = [record for record in RunFolder.open(out).records() if record.level == level and not record.warmup]
    return sorted(records, key=lambda record: record.t_sched)


def planned(out: Path, level: int = 0) -> list[int]:
    scenario = Scenario.from_dict(RunFolder.open(out).read_run()["scenario"])
    return list(schedule_of(scenario, scenario.levels()[level]))
