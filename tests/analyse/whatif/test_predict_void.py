"""A prediction of a run with void levels rests on none of them, and says so; of void levels alone there is none."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import orjson
import pytest
from support.made_runs import Made, make
from support.scored import command, measured, predicted

from loadtest.analyse.reports.prediction_report import notes
from loadtest.analyse.whatif.predictions.predict_loads import describe_basis, levels_in_words
from loadtest.analyse.whatif.predictions.prediction_file import read_document


def void_from(folder: Path, copy: Path, users: int) -> Path:
    """Copy a run folder whose levels from so many users on come to be void: their requests failed."""
    shutil.copytree(folder, copy)
    levels = {
        level["index"]
        for level in orjson.loads((copy / "run.json").read_bytes())["levels"]
        if level["concurrency"] >= users
    }
    for path in copy.glob("requests-*.jsonl"):
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        for row in rows:
            if row.get("level") in levels:
                row["outcome"] = "http_error"
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return copy


def test_a_run_of_void_levels_predicts_nothing(tmp_path: Path) -> None:
    run = void_from(measured(tmp_path / "fit", (1, 2)), tmp_path / "void", 1)
    code, said = command("predict", run, "--concurrency", 3, "--out", tmp_path / "p.json")
    assert code == 2
    assert "every level of" in said
    assert not (tmp_path / "p.json").exists()
    code, said = command("advise", run)  # it said "Keep …, as measured" of figures that must not be quoted
    assert (code, "No advice: every level of" in said) == (2, True)


def test_a_prediction_rests_on_no_request_of_a_void_level_and_names_it(tmp_path: Path) -> None:
    whole, fewer = measured(tmp_path / "whole", (1, 2, 4, 8)), measured(tmp_path / "fewer", (1, 2, 4))
    run = void_from(whole, tmp_path / "void", 8)
    assert command("predict", whole, "--concurrency", 6, "--out", tmp_path / "whole.json")[0] == 0
    code, said = command("predict", run, "--concurrency", 6, "--out", tmp_path / "p.json")
    assert code == 0, said
    document = read_document(tmp_path / "p.json")
    assert [label.split(" · ")[0] for label in document.rests_on["levels"]] == ["1 stream", "2 streams", "4 streams"]
    basis = describe_basis(document)
    assert basis.startswith("Rests on 1, 2 and 4 streams")
    assert "8 streams" not in basis
    assert document.said[-1].startswith("Void, so the prediction does not rest on it: 8 streams (")
    assert "does not rest on it: 8 streams" in " ".join(said.split())
    # Only the level of eight users shows that there are five slots, and what a step of five streams takes.
    assert document.rests_on["slots"]["limit"] is None
    assert "in parallel is not known from the levels that are not void: at least 4. " in document.said[0]
    assert "For one figure, measure void levels again, or with --probe-slots." in document.said[0]
    assert max(map(int, document.rests_on["step_errors"])) == 4
    assert max(map(int, predicted(fewer, concurrencies=(6,)).rests_on["step_errors"])) == 4
    assert read_document(tmp_path / "whole.json").rests_on["slots"]["limit"] == 5
    code, said = command("advise", run)  # it held the void level's figures to be the server's, with a warning above
    assert (code, "the advice does not rest on it: 8 streams" in " ".join(said.split())) == (0, True), said


def test_bands_are_said_to_hold_at_any_pace_only_where_levels_show_how_it_changes(tmp_path: Path) -> None:
    """One level of a busy machine: 85 tokens/s a stream were measured later, and the band was 131 to 219."""
    document = predicted(measured(tmp_path / "fit", (2,)), concurrencies=(2,))
    assert list(notes(document))[-1] == (
        "Below each figure: where 95 of 100 runs of this size should lie, if the server keeps the pace of this run, whose "
        "levels do not show how much it changes."
    )
    shown = dataclasses.replace(document, rests_on={**document.rests_on, "step_law": {"times": [], "pace_error": 0.1}})
    assert list(notes(shown))[-1] == "Below each figure: where 95 of 100 runs of this size should lie."
    shown.rests_on["step_law"]["pace_levels"] = 2
    assert (
        "as far as the only two levels with as many streams at once show how much the server's pace changes"
        in list(notes(shown))[-1]
    )


def test_what_many_levels_share_is_said_once() -> None:
    labels = [f"{users} streams · 100 in · 20 out" for users in (2, 4, 8, 16, 32, 64, 128)]
    assert levels_in_words(labels[:2]) == "2 and 4 streams (100 in · 20 out)"
    assert levels_in_words(labels) == "7 levels from 2 streams to 128 streams (100 in · 20 out)"
    assert levels_in_words(labels[:1]) == "2 streams (100 in · 20 out)"
    assert levels_in_words([]) == ""
    # was "2 streams · 100 in · 20 out and 2 streams · 100 in · 20 out (2 streams · 100 in · 20 out)"
    assert levels_in_words([labels[0]] * 2) == "2 levels at 2 streams (100 in · 20 out)"
    assert levels_in_words([labels[0], *labels[:2]]) == "2 levels at 2 streams and 4 streams (100 in · 20 out)"


@pytest.mark.parametrize("asked", [("predict", "--concurrency", 3), ("advise",)])
def test_cold_loads_tell_nothing_of_other_loads(tmp_path: Path, asked: tuple[object, ...]) -> None:
    """Was TTFT p50 1.31 s of 3 streams, most of it the load that no such run waits for."""
    run = measured(tmp_path / "run", (1, 2), slots=2)
    facts = json.loads((run / "run.json").read_text())
    facts["scenario"]["unload"] = True
    (run / "run.json").write_text(json.dumps(facts))
    out = ("--out", tmp_path / "p.json") if asked[0] == "predict" else ()
    code, said = command(asked[0], run, *asked[1:], *out)
    assert code == 2
    assert "measured cold model loads" in said


@pytest.mark.parametrize("asked", [("predict", "--concurrency", 3), ("advise",)])
def test_loads_in_each_request_tell_nothing_of_other_loads(tmp_path: Path, asked: tuple[object, ...]) -> None:
    """A real Ollama with --keep-alive 0: each request of one user waits for a load, those of three hardly ever do."""
    make(tmp_path / "run", Made(slots=2, load_ms=400), users=(1, 2, 4))
    out = ("--out", tmp_path / "p.json") if asked[0] == "predict" else ()
    code, said = command(asked[0], tmp_path / "run", *asked[1:], *out)
    assert code == 2
    assert "at 1 stream · 100 in · 20 out 89 % of the mean TTFT passed until the model was loaded" in " ".join(
        said.split()
    )
