"""Predictions that are said beforehand and scored afterwards, on runs of the engine in virtual time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import orjson
import pytest
from support import made_runs
from support.made_samples import add, beats
from support.scored import TRUTH, command, measured, predicted
from support.virtual_runs import Load, play

from loadtest.analyse.report import write_report
from loadtest.analyse.reports import score_report
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.cases import AS_KNOWN, LIMIT_SEEN, NO_LIMIT
from loadtest.analyse.whatif.predictions import score
from loadtest.analyse.whatif.predictions.prediction_file import parse_document, read_document
from loadtest.cli.run.beforehand import kept_prediction
from loadtest.errors import PredictionError
from loadtest.run_folder import RunFolder
from loadtest.text import instant


@pytest.mark.parametrize("says", ["ollama", "llamacpp"])
def test_what_was_said_of_6_and_12_users_is_what_they_get(says: str, tmp_path: Path) -> None:
    fit = measured(tmp_path / "fit", (1, 2, 4, 8), says=says)
    document = predicted(fit, concurrencies=(6, 12))
    assert document.slots == 5
    assert document.said == ()
    assert [[case.name for case in load.cases] for load in document.loads] == [[AS_KNOWN], [AS_KNOWN]]
    found = score_report.score(document, analyse(measured(tmp_path / "real", (6, 12), seed=7, says=says)))
    assert found.said == ()
    assert {each.load for each in found.figures} == {"6 streams", "12 streams"}
    assert len(found.figures) == 14
    assert sum(each.inside for each in found.figures) >= 13
    for each in found.figures:
        assert abs(each.error) < 0.10, each
        assert each.winkler < 0.3 or not each.inside
    ours = score.median_error(found.figures)
    assert ours is not None
    for model in score_report.MODELS:
        theirs = score.median_error(found.figures, model)
        assert theirs is not None
        assert ours < theirs


def test_a_textbook_model_is_held_against_ours_on_the_figures_that_it_predicts() -> None:
    def figure(said: float, **others: float) -> score.ScoredFigure:
        return score.ScoredFigure(
            load="6 streams",
            case=AS_KNOWN,
            figure="ttft_s.p50",
            said=said,
            band=(0.5, 2.0),
            measured=1.0,
            interval=None,
            others=others,
        )

    figures = (figure(1.02, USL=0.2), figure(1.04, USL=-0.4), figure(1.5))
    found = score_report.Score(made="2026-01-01", before=None, figures=figures, said=(), sha256="")
    assert score_report.sentence(found) == (
        "3 of 3 predicted figures lie inside their 95 % bands; the median error is 4 %. Textbook models, fitted to the same "
        "levels: USL 30 % of the 2 that it predicts, loadtest 3 % of these."
    )


def test_rows_of_two_cases_are_told_apart_on_a_narrow_terminal() -> None:
    """The column of cases was left out, so that one figure of one load stood there twice, with two values."""

    def figure(case: str, name: str, said: float) -> score.ScoredFigure:
        others = dict.fromkeys(score_report.MODELS, 0.1)
        return score.ScoredFigure(
            load="6 people",
            case=case,
            figure=name,
            said=said,
            band=(0.5, 2.0),
            measured=1.0,
            interval=None,
            others=others,
        )

    figures = [
        figure(case, name, said)
        for case, said in (("no host cache", 1.1), ("a host cache too small to show", 0.9), (AS_KNOWN, 1.0))
        for name in ("ttft_s.p50", "ttft_s.p95")
    ]
    table, left_out = score_report.table(figures).fitted(80, score_report.EXPENDABLE)
    assert left_out
    assert [(row[0], row[1]) for row in table.rows] == [
        ("6 people (no host cache)", "TTFT p50"),
        ("", "TTFT p95"),
        ("6 people (a host cache too small to show)", "TTFT p50"),
        ("", "TTFT p95"),
        ("6 people", "TTFT p50"),
        ("", "TTFT p95"),
    ]


def test_errors_are_signed_shares_of_the_measured_value(tmp_path: Path) -> None:
    """A server whose prompts cost twice as much: too little TTFT was said, and the band does not hold it."""
    document = predicted(measured(tmp_path / "fit", (1, 2, 4)), concurrencies=(3,))
    slower = dataclasses.replace(TRUTH, prefill_s=0.002)
    real = analyse(measured(tmp_path / "real", (3,), seed=3, truth=slower))
    found = score_report.score(document, real)
    ttft = next(each for each in found.figures if each.figure == "ttft_s.p50")
    assert ttft.measured == real.summary["levels"][0]["ttft_s"]["p50"]
    assert ttft.error == pytest.approx(ttft.said / ttft.measured - 1)
    assert -0.6 < ttft.error < -0.3
    assert not ttft.inside
    width = ttft.band[1] - ttft.band[0]
    assert ttft.winkler == pytest.approx((width + 40 * (ttft.measured - ttft.band[1])) / ttft.measured)


@pytest.mark.parametrize(("value", "expected"), [(1.0, 0.5), (0.8, 0.5), (0.7, 0.5 + 40 * 0.1), (1.4, 0.5 + 40 * 0.1)])
def test_the_winkler_score_is_the_width_and_forty_times_the_miss(value: float, expected: float) -> None:
    assert score.winkler_score((0.8, 1.3), value) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("slots", "scored", "said"),
    [
        (
            4,
            {LIMIT_SEEN},
            ["8 streams (no limit): not scored: predicted without a limit of slots, and the server has 4."],
        ),
        (
            None,
            {NO_LIMIT},
            [f"8 streams ({LIMIT_SEEN}): not scored: predicted for 4 slots, and the server has at least 8."],
        ),
        (
            6,
            set(),
            [
                "8 streams (no limit): not scored: predicted without a limit of slots, and the server has 6.",
                f"8 streams ({LIMIT_SEEN}): not scored: predicted for 4 slots, and the server has 6.",
            ],
        ),
    ],
)
def test_of_two_cases_that_of_the_slots_that_the_run_shows_is_scored(
    slots: int | None, scored: set[str], said: list[str], tmp_path: Path
) -> None:
    """Both were, and "7 of 14 figures lie inside their bands" counted those of a server that it was not."""
    document = predicted(measured(tmp_path / "fit", (1, 2, 4)), concurrencies=(8,))
    found = score_report.score(document, analyse(measured(tmp_path / "real", (8,), slots=slots, seed=3)))
    assert {each.case for each in found.figures} == scored
    assert list(found.said) == said


def test_other_slots_are_predicted_and_scored_only_where_the_server_had_as_many(tmp_path: Path) -> None:
    document = predicted(measured(tmp_path / "fit", (1, 2, 4, 8), slots=4), concurrencies=(8,), slots=(2, 4))
    assert [load.label for load in document.loads] == ["8 streams with 2 slots", "8 streams with 4 slots"]
    found = score_report.score(document, analyse(measured(tmp_path / "real", (8,), slots=2, seed=4)))
    assert {each.load for each in found.figures} == {"8 streams with 2 slots"}
    assert "8 streams with 4 slots: not scored: predicted for 4 slots, and the server has 2." in found.said


def test_what_cannot_be_scored_is_said(tmp_path: Path) -> None:
    document = predicted(measured(tmp_path / "fit", (1, 2, 4, 8)), concurrencies=(6, 12))
    other = score_report.score(document, analyse(measured(tmp_path / "other", (3, 6), seed=5)))
    assert "3 streams · 100 in · 50 out: not predicted." in other.said
    assert "Predicted, and not measured in made: 12 streams." in other.said
    beside = analyse(measured(tmp_path / "beside", (6,), seed=5))
    # Under Locust an open loop may stand beside the users.
    beside.run.levels[0]["rate"] = beside.levels[0]["rate"] = 4.0
    assert not score_report.score(document, beside).figures
    longer = analyse(measured(tmp_path / "long", (6,), load=Load(output=(100, 100))))
    assert (
        "its answers have 100 tokens on average, and the prediction is for 50"
        in score_report.score(document, longer).said[0]
    )
    differing: dict[str, dict[str, Any]] = {
        "model": {"comparability": {"model": "another"}},
        "server": {"comparability": {"server": "vllm 1.0"}},
        "simulated": {"server": {"kind": "ollama", "simulated": {"profile": "quick", "speed": 1.0}}},
    }
    for name, facts in differing.items():
        found = score_report.score(document, analyse(measured(tmp_path / name, (6,), **facts)))
        assert found.figures == ()
        assert found.said[0].startswith(f"Not scored: the run differs from the one predicted from in {name} (")


def test_lengths_of_another_spread_are_not_scored_unless_the_same_were_asked_for(tmp_path: Path) -> None:
    """Was scored, and p95 17 % too low: equal lengths were predicted, and spread ones of the same mean measured."""

    def run(name: str, prompt: tuple[int, int], seed: int) -> Path:
        loads = [Load(users=users, requests=40, prompt=prompt, output=(20, 20)) for users in (2, 4)]
        return play(TRUTH, loads, slots=5, seed=seed).write(tmp_path / name)

    document = predicted(run("fit", (100, 100), 1), concurrencies=(4,))
    found = score_report.score(document, analyse(run("spread", (60, 140), 2)))
    assert not found.figures
    assert "tokens (a standard deviation), and the prediction is for 100 ± 0" in " ".join(found.said)
    spread = predicted(run("spread fit", (60, 140), 1), concurrencies=(4,))
    assert score_report.score(spread, analyse(run("spread too", (60, 140), 3))).figures
    alike = dataclasses.replace(document, rests_on=document.rests_on | {"levels": ["2 streams · 20 out"]})
    assert score_report.score(alike, analyse(run("as asked", (60, 140), 2))).figures


def test_a_void_level_is_said_and_not_scored(tmp_path: Path) -> None:
    document = predicted(measured(tmp_path / "fit", (1, 2, 4, 8)), concurrencies=(6,))
    real = analyse(measured(tmp_path / "real", (6,), seed=5))
    real.summary["levels"][0]["verdict"] = "void"
    found = score_report.score(document, real)
    assert found.figures == ()
    assert found.said == ("6 streams · 100 in · 50 out: void, so not scored.",)


def test_a_file_reads_back_as_it_was_said(tmp_path: Path) -> None:
    document = predicted(measured(tmp_path / "fit", (1, 2, 4)), concurrencies=(3, 8), rates=(0.5,))
    (tmp_path / "p.json").write_bytes(document.to_bytes())
    again = read_document(tmp_path / "p.json")
    assert again.loads == document.loads
    assert again.made == document.made
    assert again.run["sha256"] == RunFolder(tmp_path / "fit").digest()
    assert again.slots is None


def _edited(found: dict[str, Any]) -> dict[str, Any]:
    found["loads"][0]["cases"][0]["figures"]["ttft_s.p50"] *= 1.01
    return found


def _signed_anew(*place: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Put a text in the place of what is there, and make the digest fit again."""

    def change(found: dict[str, Any]) -> dict[str, Any]:
        del found["sha256"]
        reduce(getitem, place[:-1], found)[place[-1]] = "x"
        digest = hashlib.sha256(orjson.dumps(found, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return {**found, "sha256": digest}

    return change


CASE = ("loads", 0, "cases", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_edited, "was changed after it was made"),
        (lambda found: {**found, "sha256": None}, "was changed after it was made"),
        *(
            (_signed_anew(*place), "lacks what a prediction holds")
            for place in (
                CASE[:-1],
                (*CASE, "figures", "ttft_s.p50"),
                (*CASE, "bands", "ttft_s.p50"),
                ("run", "facts"),
                ("run", "lengths", "prompt_tokens"),
                ("rests_on", "levels"),
                ("loads", 0, "concurrency"),
            )
        ),
        (lambda found: {**found, "kind": "x"}, "is not a prediction"),
        (lambda found: [found], "is not a prediction"),
        (lambda found: {**found, "schema": 99}, "was written by a newer loadtest"),
    ],
)
def test_a_tampered_prediction_is_one_sentence(change: Any, words: str, tmp_path: Path) -> None:
    fit = measured(tmp_path / "fit", (1, 2, 4))
    found = orjson.loads(predicted(fit, concurrencies=(3,)).to_bytes())
    path = tmp_path / "prediction.json"
    path.write_bytes(orjson.dumps(change(found)))
    for args in (("score", path, fit), ("run", "--prediction", path)):
        code, said = command(*args)
        assert code == 2
        assert words in said
        assert "\n" not in said.strip()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"kind": "loadtest prediction"}', b"\xff\x00"])
def test_no_prediction_at_all_is_one_sentence(body: bytes) -> None:
    with pytest.raises(PredictionError):
        parse_document(body, "x.json")


@pytest.mark.usefixtures("bare_reports")
def test_a_run_keeps_a_prediction_and_its_report_scores_it(tmp_path: Path) -> None:
    fit = measured(tmp_path / "fit", (1, 2, 4, 8))
    path = tmp_path / "before.json"
    path.write_bytes(predicted(fit, concurrencies=(6,)).to_bytes())
    facts = kept_prediction(path)(folder := RunFolder.create(tmp_path / "kept").path)
    assert (folder / "prediction.json").read_bytes() == path.read_bytes()
    real = measured(tmp_path / "real", (6,), seed=8, **facts)
    (real / "prediction.json").write_bytes(path.read_bytes())
    kept = write_report(real, charts=True).summary["prediction"]
    assert kept["kept_before_the_first_request"] == facts["prediction"]["kept"]
    assert len(kept["figures"]) == 7
    text = (real / "report.md").read_text()
    assert "predicted figures lie inside their 95 % bands" in text
    assert "## Prediction, scored" in text
    assert "Prediction, scored" in (real / "report.html").read_text()
    json.loads((real / "summary.json").read_text())
    code, said = command("score", path, real)  # the file itself, which the run kept: was "given afterwards"
    assert code == 0
    assert f"kept before the first request, {instant(facts['prediction']['kept'])}" in " ".join(said.split())


def test_a_prediction_that_was_exchanged_in_the_run_folder_is_not_scored(tmp_path: Path) -> None:
    fit = measured(tmp_path / "fit", (1, 2, 4, 8))
    one, other = (predicted(fit, concurrencies=(users,)).to_bytes() for users in (6, 7))
    facts: dict[str, Any] = {
        "prediction": {"sha256": hashlib.sha256(one).hexdigest(), "made": "", "kept": "2026-01-01T00:00:00Z"}
    }
    real = measured(tmp_path / "real", (6,), seed=8, **facts)
    said = write_report(real, charts=False).summary["prediction"]["reason"]
    assert "is not there any more" in said
    (real / "prediction.json").write_bytes(other)
    said = write_report(real, charts=False).summary["prediction"]["reason"]
    assert "run.json names another sha256" in said


def test_the_commands_from_a_run_to_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, real = measured(tmp_path / "fit", (1, 2, 4, 8)), measured(tmp_path / "real", (6, 12), seed=7)
    monkeypatch.chdir(tmp_path)
    code, said = command("predict", fit, "--concurrency", "6,12")
    assert code == 0, said
    assert (tmp_path / "prediction.png").read_bytes()[:4] == b"\x89PNG"
    assert "6 streams" in said
    code, said = command("score", "prediction.json", real)
    assert code == 0, said
    assert "14 of 14 predicted figures" in said
    assert "scored (the run did not keep it)" in said
    assert command("score", "prediction.json", fit)[1].endswith("score it on a run that was measured afterwards.")
    assert "is not written over" in command("predict", fit, "--concurrency", "6")[1]
    counts = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
    add(fit, "llamacpp", beats(fit, values=lambda n: dict(zip(counts, (n, 2), strict=True))))
    others = "Others used the server during the run"
    for said in (command("predict", fit, "--concurrency", "6", "--out", "other.json")[1], command("advise", fit)[1]):
        assert f"! {others}" in said
    for file in ("other.json", "fit/advice.json", "fit/advice.md"):  # only the terminal said it
        assert others in (tmp_path / file).read_text(), file


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "say which load to predict"),
        (("--concurrency", "0"), "0 is not a number from 1 to 1024"),
        (("--rate", "nan"), "nan is not a number from 0.0001 to 10000"),
        (("--slots", "100000"), "100000 is not a number from 1 to 1024"),
        (("--concurrency", ","), "the list is empty"),
        (("--concurrency", "6", "--out", "x.txt"), "does not end in .json"),
        (("--concurrency", "6", "--out", "no/x.json"), "there is no folder no"),
    ],
)
def test_a_mistake_is_said_before_anything_is_worked_out(args: Sequence[str], words: str, tmp_path: Path) -> None:
    code, said = command("predict", tmp_path / "no run", *args)
    assert code == 2
    assert words in said


def test_what_was_not_measured_is_not_called_a_percentile(tmp_path: Path) -> None:
    """Of a server that counts no tokens: "percentiles that take more requests than it has are not scored"."""
    document = predicted(measured(tmp_path / "fit", (1, 2, 4, 8)), concurrencies=(6,))
    real = analyse(measured(tmp_path / "real", (6,), seed=3))
    real.summary["levels"][0]["output_tokens_per_s"] = None
    (said,) = score_report.score(document, real).said
    assert said.endswith("too few requests, or none, show output tokens/s: not scored.")


def test_another_machine_or_version_is_named_beside_the_score(tmp_path: Path) -> None:
    """A prediction of one Ollama was scored on another at another place, without a word."""
    fit = measured(tmp_path / "fit", (1, 2, 4, 8), comparability={"server": "ollama 0.24.0"})
    there = {"url": "http://10.0.0.2:11434", "dialect": "ollama-chat", "model": "made"}
    real = measured(tmp_path / "real", (6,), seed=7, comparability={"server": "ollama 0.33.0"}, target=there)
    found = score_report.score(predicted(fit, concurrencies=(6,)), analyse(real))
    assert found.figures
    assert found.said[0] == "Differs: server (ollama 0.24.0 → ollama 0.33.0)."
    assert found.said[1].endswith("→ http://10.0.0.2:11434): a prediction is for one machine.")


def test_another_number_of_requests_warm_up_or_driver_is_named_beside_the_score(tmp_path: Path) -> None:
    """Bands for runs of 60 requests were held against one of 240, driven by Locust, without a word."""
    fit = measured(tmp_path / "fit", (1, 2, 4, 8))
    document = parse_document(predicted(fit, concurrencies=(6,)).to_bytes(), "prediction.json")
    more = play(TRUTH, [Load(users=6, requests=240)], slots=5, seed=7)
    cold = [dataclasses.replace(each, warmup=False) for each in more.records]
    other = made_runs.write(tmp_path / "other", cold, more.levels, driver="locust")
    found = score_report.score(document, analyse(other))
    assert found.figures
    assert found.said == (
        "Differs: driver (asyncio → locust).",
        "6 streams: 246 requests measured, and the prediction is for 60: its bands are for so many.",
        "6 streams: measured with no warm-up, and the prediction is for a run with it.",
    )


def test_another_memory_of_the_loaded_model_is_named_as_of_another_kv_cache(tmp_path: Path) -> None:
    """run.json does not know the type of the KV cache; compare names the memory that shows it, and score did not."""
    fit = measured(tmp_path / "fit", (1, 2, 4, 8), server_at_end={"size": 1_040_000_000})
    document = parse_document(predicted(fit, concurrencies=(6,)).to_bytes(), "prediction.json")
    same, other = (
        measured(tmp_path / str(taken), (6,), seed=7, server_at_end={"size": taken})
        for taken in (1_040_000_000, 900_000_000)
    )
    said = "Differs: memory of the loaded model (1.04 GB → 900 MB), as with other slots or another KV cache."
    assert said in score_report.score(document, analyse(other)).said
    assert not any("memory" in each for each in score_report.score(document, analyse(same)).said)
