"""Runs for `loadtest compare`, measured in virtual time, and what is said of two of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from loadtest.analyse.comparison.compare import compare
from loadtest.analyse.summary import analyse
from loadtest.cli import cli
from loadtest.simulate.model.timing import StepLaw, Timing
from support.virtual_runs import Load, play

TIMING = Timing(step=StepLaw(0.012, 0.002), prefill_s=0.001, jitter=0.05)
HERE = {"dialect": "ollama-chat", "model": "made", "server": "ollama 0.33.0", "warm_cache": False}
PROFILE = {"profile": "a100-80g-llama3.1-70b-q4", "speed": 10.0}
Folder = Callable[..., Path]


def folder_maker(place: Path) -> Folder:
    """Return a function that measures in virtual time: a name, how much slower, a seed, the run's facts."""

    def make(
        name: str,
        *,
        slower: float = 0.0,
        seed: int = 0,
        users: tuple[int, ...] = (2, 8),
        output: tuple[int, int] = (64, 64),
        prompt: tuple[int, int] = (128, 128),
        each: int = 8,
        slots: int = 4,
        **facts: Any,
    ) -> Path:
        loads = [Load(users=count, requests=each * count, prompt=prompt, output=output) for count in users]
        played = play(TIMING.scaled(1 + slower), loads, slots=slots, seed=seed)
        return played.write(place / name, name=name, **{"comparability": HERE, **facts})

    return make


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["compare", *(str(arg) for arg in args)], standalone_mode=False)


def verdicts(base: Path, new: Path, **options: Any) -> set[str | None]:
    return {row.verdict for row in compare(analyse(base), analyse(new), **options).headline}
