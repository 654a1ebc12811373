"""Input length up to the model's context: which lengths are measured, and what the run says of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.drawn import labels_apart
from support.made_runs import Made, closed_loop, write
from support.made_samples import add

from loadtest.analyse.charts import lengths as chart
from loadtest.analyse.charts import sheet
from loadtest.analyse.findings import run_findings as findings
from loadtest.analyse.server import prompt_length
from loadtest.analyse.summary import Analysis, analyse
from loadtest.cli.demo import simulated_server
from loadtest.errors import ScenarioError
from loadtest.records import Record
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.targets.context import lengths_within

Call = Callable[..., tuple[int, str, str]]
GB = 10**9
MS = 1_000_000


def made(path: Path, shape: Sequence[tuple[int, int]], *, users: Sequence[int] = (1,), **facts: Any) -> Analysis:
    """Write a run of (prompt tokens, prefill in ms) levels for each number of users, and analyse it."""
    levels: list[dict[str, Any]] = []
    records: list[Record] = []
    for streams in users:
        for tokens, prefill in shape:
            start = max((record.t_end for record in records), default=0) + 50 * MS
            model = Made(prefill_ms=prefill, prompt_tokens=tokens)
            part = closed_loop(
                model, level=len(levels), users=streams, requests=5 * streams, start_ns=start, first_id=len(records)
            )
            said = {"concurrency": streams, "input_tokens": tokens, "output_tokens": 20, "words": None, "rate": None}
            levels.append({"index": len(levels), **said})
            records += part.records
    return analyse(write(path, records, levels, **facts))


# -- which lengths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "asked", "output", "fitted"),
    [
        (8192, (512, 4096, 16384), 64, (512, 4096, 8000)),  # one part in 64 of the context stays free
        (4096, (512, 4096), 64, (512, 3968)),  # the context itself leaves no room for the answer
        (4096, (512, 3900), 64, (512, 3900)),  # all but the longest: nothing is added
        (512, (1024,), 64, (416,)),  # at least 32 tokens stay free
        (96, (8,), 64, ()),
    ],
)
def test_lengths_fit_the_context_with_the_answer(
    context: int, asked: tuple[int, ...], output: int, fitted: tuple[int, ...]
) -> None:
    assert lengths_within(context, asked, output) == fitted


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            {"prompt": "hello"},
            "up_to_context and prompt exclude each other: up_to_context chooses the length of made-up prompts",
        ),
        ({"output_tokens": []}, "give output_tokens"),
    ],
)
def test_up_to_context_needs_lengths_of_its_own(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says):
        Scenario.from_dict({"up_to_context": True, **keys})


# -- on the wire ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_context() -> Iterator[str]:
    """A simulated Ollama that says its context of 1024 tokens only once the model is loaded, as a real one does."""
    with simulated_server("--profile", "quick", "--speed", "20", "--num-ctx", "1024") as url:
        yield url


@pytest.mark.parametrize("api", ["ollama", "openai"])
def test_a_run_reaches_the_context_and_cuts_no_prompt(
    loadtest: Call, small_context: str, tmp_path: Path, api: str
) -> None:
    out = tmp_path / "run"
    asked = ("--concurrency", "1", "--requests", "3", "--input-tokens", "64,256,4096", "--output-tokens", "16")
    code, _, err = loadtest("run", "--url", small_context, "--api", api, *asked, "--up-to-context", "--out", out)
    assert code in (0, 3), err
    assert "llama3.2:1b has a context of 1024 tokens: input_tokens 4096 left out, 976 added." in err
    assert "Learning the context of llama3.2:1b: one request first, which does not count" in err
    folder = RunFolder.open(out)
    assert folder.read_run()["scenario"]["input_tokens"] == [64, 256, 976]
    records = [record for record in folder.records() if not record.warmup]
    assert {record.asked_input for record in records} == {64, 256, 976}
    assert all(abs((record.prompt_tokens or 0) - (record.asked_input or 0)) <= 4 for record in records)
    assert all((record.prompt_tokens or 0) + (record.output_tokens or 0) < 1024 for record in records)
    (line,) = orjson.loads((out / "summary.json").read_bytes())["lengths"]
    assert [point["input_tokens"] for point in line["points"]] == [64, 256, 976]


def test_a_server_that_does_not_say_its_context_is_one_sentence(
    loadtest: Call, small_context: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loadtest.targets import prepare, target

    blind = target.reread
    monkeypatch.setattr(
        prepare,
        "reread",
        lambda client, at: dataclasses.replace(
            blind(client, at), model=dataclasses.replace(at.model, context=None, trained_context=None)
        ),
    )
    code, _, err = loadtest("run", "--url", small_context, "--up-to-context", "--out", tmp_path / "run")
    assert code == 2
    assert "does not say the context of llama3.2:1b; leave up_to_context away" in err
    assert not (tmp_path / "run").exists()


def test_a_context_that_the_answer_fills_is_one_sentence(loadtest: Call, small_context: str, tmp_path: Path) -> None:
    asked = ("--up-to-context", "--output-tokens", "1000", "--out", tmp_path / "run")
    code, _, err = loadtest("run", "--url", small_context, *asked)
    assert code == 2
    assert "has a context of 1024 tokens, which 1000 output tokens leave no room in for a prompt" in err


# -- what the run says ----------------------------------------------------------------------------------------------


def test_figures_against_length_are_the_runs_own(tmp_path: Path) -> None:
    analysis = made(tmp_path / "run", [(500, 250), (1000, 400), (4000, 2000)])
    (line,) = prompt_length.prompt_length_series(analysis.run, analysis.summary["levels"])
    assert line.label == "1 stream · 20 out"
    assert [point["prefill_tokens_per_s"] for point in line.points] == pytest.approx([2000, 2500, 2000])
    assert [point["ttft_p50_s"] for point in line.points] == pytest.approx([0.252, 0.402, 2.002])  # 2 ms of load
    assert line.ttft_per_token_s == pytest.approx(1.75 / 3500)
    assert analysis.summary["lengths"] == [line.to_dict()]
    said = findings.all_findings(analysis)
    assert (
        "Prefill: 2000 tokens/s at 500 prompt tokens, 2500 tokens/s at 1000 prompt tokens and 2000 tokens/s at 4000 prompt tokens."
        in said
    )
    assert (
        "TTFT p50 went from 252 ms at 500 prompt tokens to 2.00 s at 4000: 0.50 ms for each token (5 requests a length)."
        in said
    )


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (
            [(500, 250), (4000, 4000)],
            "Prefill: 2000 tokens/s at 500 prompt tokens and 1000 tokens/s at 4000 prompt tokens.",
        ),
        (
            [(500, 500), (4000, 2000)],
            "Prefill: 1000 tokens/s at 500 prompt tokens and 2000 tokens/s at 4000 prompt tokens.",
        ),
    ],
)
def test_the_sentence_on_prefill_goes_by_the_measured_speeds(
    tmp_path: Path, shape: list[tuple[int, int]], says: str
) -> None:
    assert says in findings.all_findings(made(tmp_path / "run", shape))


def test_ttft_in_place_of_a_prefill_is_said_to_be_that(tmp_path: Path) -> None:
    """Where the server gives no prefill time, a way of 100 ms made "prefill" of short prompts slow."""
    levels = [{"index": i, "concurrency": 1, "input_tokens": tokens} for i, tokens in enumerate((500, 4000))]
    records: list[Record] = []
    for level, (tokens, ttft) in enumerate(((500, 250), (4000, 2000))):
        start = max((record.t_end for record in records), default=0) + 50 * MS
        made = Made(prefill_ms=ttft, prompt_tokens=tokens)
        part = closed_loop(made, level=level, users=1, requests=5, start_ns=start, first_id=len(records))
        records += [dataclasses.replace(record, server=None) for record in part.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    said = lengths_said(analysis)
    assert any(sentence.startswith("Prompt tokens over TTFT: ") for sentence in said), said
    axes = sheet.new(1)[1][0]
    chart.prefill_panel(axes, analysis, prompt_length.prompt_length_series(analysis.run, analysis.summary["levels"]))
    assert axes.get_title() == "prompt tokens / TTFT, tokens/s"


def test_no_name_of_a_point_lies_on_another(tmp_path: Path) -> None:
    """Where a longer prompt was not slower, "10.9 ms" and "9.97 ms" were written over each other."""
    analysis = made(tmp_path / "run", [(128, 11), (256, 10), (512, 18)])
    figure, (axes,) = sheet.new(1)
    line = prompt_length.prompt_length_series(analysis.run, analysis.summary["levels"])
    names = chart.ttft_panel(axes, analysis, line)
    figure.draw_without_rendering()  # the panel has its place
    names.write()
    assert len(axes.texts) == 3
    labels_apart(axes)


def test_prompts_that_wait_for_each_other_tell_no_speed(tmp_path: Path) -> None:
    analysis = made(tmp_path / "run", [(500, 250), (1000, 500)], users=(4,))
    assert [level["prefill_tokens_per_s"] for level in analysis.summary["levels"]] == [None, None]
    assert not any(sentence.startswith("Prefill:") for sentence in lengths_said(analysis))


def lengths_said(analysis: Analysis) -> list[str]:
    return [
        sentence
        for line in prompt_length.prompt_length_series(analysis.run, analysis.summary["levels"])
        for sentence in prompt_length.prompt_length_sentences(line)
    ]


def test_a_warm_cache_tells_no_speed(tmp_path: Path) -> None:
    scenario = Scenario(warm_cache=True).to_dict()
    analysis = made(tmp_path / "run", [(500, 5), (1000, 5)], scenario=scenario)
    assert math.isnan(analysis.run.column("prefill_tokens_per_s").max())


def test_only_levels_that_differ_in_length_alone_make_a_line(tmp_path: Path) -> None:
    two = made(tmp_path / "two", [(500, 250), (1000, 500)], users=(1, 2))
    assert [line.label for line in prompt_length.prompt_length_series(two.run, two.summary["levels"])] == [
        "1 stream · 20 out",
        "2 streams · 20 out",
    ]
    assert any(sentence.startswith("2 streams · 20 out: TTFT p50 went") for sentence in findings.all_findings(two))
    same = made(tmp_path / "same", [(500, 250)], users=(1, 2))
    assert same.summary["lengths"] == []
    assert chart.draw_lengths(tmp_path / "lengths.png", same) is None


@pytest.mark.parametrize(("grows", "says"), [(0, "42 GB at 4000"), (2, "44 GB at 4000")])
def test_memory_stands_beside_length(tmp_path: Path, grows: int, says: str) -> None:
    made(tmp_path / "run", [(500, 250), (4000, 1000)])
    first = analyse(tmp_path / "run")
    later = float(first.run.requests[first.run.requests["level"] == 1]["send"].min())
    end = float(first.run.column("end").max())
    beats = [
        {"t": at / 10, "gpus": [{"gpu": 0, "memory_used": (42 + (grows if at / 10 > later else 0)) * GB}]}
        for at in range(int(end * 10) + 2)
    ]
    add(tmp_path / "run", "nvidia", beats)
    analysis = analyse(tmp_path / "run")
    assert any(
        sentence.startswith(f"GPU memory: 42 GB at 500 prompt tokens and {says}") for sentence in lengths_said(analysis)
    )
    points = analysis.summary["lengths"][0]["points"]
    assert [point["memory_bytes"] for point in points] == [42 * GB, (42 + grows) * GB]


def test_the_chart_is_drawn_for_every_shape(tmp_path: Path) -> None:
    shapes: dict[str, Analysis] = {
        "plain": made(tmp_path / "plain", [(500, 250), (1000, 400), (4000, 2000)]),
        "no speed": made(tmp_path / "slow", [(500, 250), (1000, 500)], users=(4, 8)),
        "many": made(tmp_path / "many", [(400 + 10 * i, 200 + i) for i in range(9)]),
    }
    for name, analysis in shapes.items():
        drawn = chart.draw_lengths(tmp_path / f"{name}.png", analysis)
        assert drawn is not None, name
        assert drawn.exists(), name
