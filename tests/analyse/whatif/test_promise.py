"""What `loadtest advise` promises is a prediction: a run with the advised slots scores it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.virtual_runs import Load, play

from loadtest.analyse.whatif.model import predict
from loadtest.analyse.whatif.model.cases import AS_ASKED
from loadtest.analyse.whatif.predictions.prediction_file import read_document
from loadtest.cli import cli
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.text import number, seconds

TRUTH = Timing(step=StepLaw(0.020, 0.003), prefill_s=0.0005, jitter=0.03)
USERS = (1, 2, 4, 8)


@pytest.fixture(autouse=True)
def _short_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "TOKENS_SIMULATED", 8_000)


def measured(path: Path, slots: int, seed: int = 0, output: tuple[int, int] = (30, 90), **facts: object) -> Path:
    loads = [Load(users=users, requests=max(40, 16 * users), prompt=(60, 200), output=output) for users in USERS]
    return play(TRUTH, loads, slots=slots, seed=seed).write(path, **facts)


def run(*args: object) -> str:
    result = CliRunner().invoke(cli, list(map(str, args)), standalone_mode=False)
    assert result.exception is None, result.exception
    return result.output


@pytest.mark.parametrize("output", [(30, 90), (60, 60)])
def test_a_run_with_the_advised_slots_scores_what_was_promised(output: tuple[int, int], tmp_path: Path) -> None:
    folder = measured(tmp_path / "before", 3, output=output)
    said = run("advise", folder)
    document = read_document(folder / "prediction.json")
    advice = json.loads((folder / "advice.json").read_bytes())
    assert [load.concurrency for load in document.loads] == list(USERS)
    assert {load.slots_asked for load in document.loads} == {advice["slots"]["try"]} != {3}
    (case,) = document.loads[-1].cases
    assert case.name == AS_ASKED
    assert f"{seconds(case.figures['ttft_s.p95'])} (" in advice["sentences"][0]
    assert f"{number(case.figures['output_tokens_per_s.mean'])} (" in advice["sentences"][0]
    assert f"--prediction {folder / 'prediction.json'}" in said
    after = measured(tmp_path / "after", advice["slots"]["try"], seed=7, output=output)
    scored = json.loads(run("score", folder / "prediction.json", after, "--json"))
    inside = [each["inside"] for each in scored["figures"]]
    assert len(inside) >= 20
    assert sum(inside) >= 0.9 * len(inside), scored["sentence"]
    output_tokens = [each for each in scored["figures"] if each["figure"] == "output_tokens_per_s.mean"]
    assert all(abs(each["error"]) < 0.05 for each in output_tokens)


def test_on_a_terminal_advise_says_what_it_works_out_and_prints_a_command_that_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It worked for minutes without a word; and of a folder with a blank in its name the command named two."""
    folder = measured(tmp_path / "a run", 3)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cli.main(["advise", str(folder)], standalone_mode=False)
    said = capsys.readouterr()
    lines = said.err.split("\r\x1b[K")
    assert lines[:3] == ["", "Reading the run", ""]
    for each in ("Fitting a model to the run", "Predicting 8 streams on 6 slots", "Predicting 16 streams on 1 slot"):
        assert each in lines
    assert lines[-1] == ""
    assert f"--prediction '{folder}/prediction.json'" in said.out


def test_the_promise_of_a_locust_run_is_scored_by_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Was "locust … --prediction FILE", an option that Locust does not have."""
    folder = measured(tmp_path / "run", 3)
    facts = json.loads((folder / "run.json").read_text())
    locust = {"locustfile": "chat.py", "user_classes": ["Chat"], "shape": "Grows"}
    (folder / "run.json").write_text(json.dumps({**facts, "driver": "locust", "locust": locust}))
    cli.main(["advise", str(folder)], standalone_mode=False)
    said = capsys.readouterr().out
    assert "--prediction" not in said
    assert "  locust -f chat.py Chat --headless" in said
    assert said.endswith(f"\n  loadtest score {folder}/prediction.json RUN\n")


def test_other_slots_than_the_advised_ones_are_not_scored(tmp_path: Path) -> None:
    folder = measured(tmp_path / "before", 3)
    run("advise", folder)
    result = CliRunner().invoke(
        cli,
        ["score", str(folder / "prediction.json"), str(measured(tmp_path / "same", 3, seed=7))],
        standalone_mode=False,
    )
    assert result.return_value in (0, 2)
    assert "and the server has 3" in " ".join(result.output.split())


def test_a_prediction_that_the_run_keeps_stays(tmp_path: Path) -> None:
    kept = {"sha256": "0" * 64, "made": "2026-01-01", "kept": "2026-01-01"}
    folder = measured(tmp_path / "before", 3, prediction=kept)
    (folder / "prediction.json").write_text("what was said before this run")
    run("advise", folder)
    assert (folder / "prediction.json").read_text() == "what was said before this run"
    assert read_document(folder / "advice-prediction.json").loads


def test_where_nothing_is_to_be_set_nothing_is_promised(tmp_path: Path) -> None:
    folder = play(TRUTH, [Load(users=2, requests=40)], slots=8).write(tmp_path / "run")
    run("advise", folder)
    assert not (folder / "prediction.json").exists()
