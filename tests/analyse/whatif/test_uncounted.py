"""Predictions of servers that count no prompts: their lengths are those that were asked for."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner
from support.advised import play
from support.virtual_runs import Load

from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.predict import PROMPTS_AS_ASKED
from loadtest.analyse.whatif.predictions.predict_loads import predict_loads
from loadtest.cli import cli
from loadtest.errors import PredictionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1, 2, 4 and 8 users on four slots of the A100 profile."""
    loads = [Load(users=users, requests=24, prompt=(100, 100), output=(32, 32)) for users in (1, 2, 4, 8)]
    return play(tmp_path_factory.mktemp("uncounted") / "run", loads)


def uncounted(folder: Path, path: Path, *lacking: str) -> Path:
    """Return a run like that in `folder`, at a server like LitServe or FastChat, which counts no prompts."""
    path.mkdir()
    (path / "run.json").write_bytes((folder / "run.json").read_bytes())
    for file in folder.glob("requests-*.jsonl"):
        lines = [orjson.loads(line) for line in file.read_bytes().splitlines()]
        lines = [
            {key: value for key, value in line.items() if key not in ("prompt_tokens", "server", *lacking)}
            for line in lines
        ]
        (path / file.name).write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return path


@pytest.mark.usefixtures("short_predictions")
def test_prompts_that_the_server_does_not_count_are_as_long_as_asked_and_that_is_said(
    folder: Path, tmp_path: Path
) -> None:
    """Was refused, although the answers of such servers end for their length and the prompts' lengths were asked for."""
    run = uncounted(folder, tmp_path / "run")
    result = CliRunner().invoke(cli, ["advise", str(run)])
    assert result.exit_code == 0, result.output
    assert PROMPTS_AS_ASKED in (run / "advice.md").read_text()
    mine, counted = analyse(run), analyse(folder)
    said = predict_loads(mine.run, mine.slots, mine.steps, mine.summary["levels"], {}, concurrencies=(12,))
    like = predict_loads(counted.run, counted.slots, counted.steps, counted.summary["levels"], {}, concurrencies=(12,))
    assert PROMPTS_AS_ASKED in said.said
    assert PROMPTS_AS_ASKED not in like.said
    for figure in ("ttft_s.p50", "ttft_s.p95", "output_tokens_per_s.mean"):
        here, there = (each.loads[0].cases[0].figures[figure] for each in (said, like))
        assert here == pytest.approx(there, rel=0.1)
    assert "the server counts none" in mine.summary["step_law"]["prefill"]["method"]


def test_what_the_server_does_not_count_and_nobody_asked_for_is_named(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["advise", str(uncounted(folder, tmp_path / "run", "asked_input"))])
    assert isinstance(result.exception, PredictionError)
    assert str(result.exception) == "No advice: the server does not say how many tokens prompts have."
