"""Lengths as distributions: read, drawn alike in every process, cut to the context, shown as asked and as achieved."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.jobs import first_job

from loadtest.cli.demo import simulated_server
from loadtest.cli.options.param_types import read_lengths
from loadtest.errors import ScenarioError
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.workloads.tokens import Counter, TokenFit
from loadtest.workloads.workload import Workload, check_files

ESTIMATE = Counter("estimate")
MANY = 4000


def drawn(context: int | None = None, count: int = MANY, **keys: Any) -> list[tuple[int, int]]:
    scenario = Scenario.from_dict({"concurrency": [1], "seed": 3, **keys})
    workload = Workload(scenario, ESTIMATE, context=context)
    level = scenario.levels()[0]
    at = [workload.lengths.at(level, i, warmup=False) for i in range(count)]
    return [(one.input_tokens or 0, one.output_tokens or 0) for one in at]


def test_commas_in_brackets_part_no_lengths() -> None:
    read = read_lengths("128,lognormal(800,0.6), 200@70%+normal(4000,10)@30%,1e3")
    assert list(read) == [128, "lognormal(800, 0.6)", "200@70%+normal(4000, 10)@30%", 1000]
    levels = Scenario.from_dict({"input_tokens": list(read), "concurrency": [1]}).levels()
    assert [level.input_tokens for level in levels] == [128, None, None, 1000]
    assert levels[1].label == "1 stream · lognormal(800, 0.6) in · 64 out"


def test_each_distribution_is_what_it_says() -> None:
    lengths = [prompt for prompt, _ in drawn(input_tokens="lognormal(800, 0.6)")]
    assert statistics.median(lengths) == pytest.approx(800, rel=0.05)
    assert statistics.stdev(map(math.log, lengths)) == pytest.approx(0.6, rel=0.05)
    lengths = [prompt for prompt, _ in drawn(input_tokens="normal(500, 50)")]
    assert statistics.mean(lengths) == pytest.approx(500, rel=0.01)
    assert statistics.stdev(lengths) == pytest.approx(50, rel=0.05)
    answers = [answer for _, answer in drawn(output_tokens="uniform(10, 12)")]
    assert set(answers) == {10, 11, 12}
    mixed = [prompt for prompt, _ in drawn(input_tokens="200@70%+4000@30%")]
    assert set(mixed) == {200, 4000}
    assert mixed.count(200) / MANY == pytest.approx(0.7, abs=0.03)


def test_lengths_follow_from_seed_level_and_number_alone() -> None:
    one, again = (drawn(input_tokens="lognormal(800, 0.6)", count=50) for _ in range(2))
    assert one == again
    assert one != drawn(input_tokens="lognormal(800, 0.6)", count=50, seed=4)
    scenario = Scenario(input_tokens=["lognormal(800, 0.6)"], concurrency=[1, 2], seed=3)
    workload = Workload(scenario, ESTIMATE)
    first, second = scenario.levels()
    assert first_job(workload, first, 7) == first_job(Workload(scenario, ESTIMATE), first, 7)
    assert first_job(workload, first, 7).input_tokens != first_job(workload, second, 7).input_tokens


def test_prompt_and_answer_of_one_row_come_together(tmp_path: Path) -> None:
    trace = tmp_path / "azure.csv"
    trace.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{i},{100 + i},{i}\n" for i in range(1, 90))
    )
    both = f"empirical({trace})"
    check_files(Scenario(input_tokens=[both], output_tokens=[both]))
    found = drawn(input_tokens=both, output_tokens=both)
    assert all(prompt == answer + 100 for prompt, answer in found)
    assert len(set(found)) > 80


def test_a_file_of_lengths_needs_no_instants(tmp_path: Path) -> None:
    """As the processed traces of Vidur have none."""
    for name, text in (
        ("a.csv", "num_prefill_tokens,num_decode_tokens\n9,3\n8,2\n"),
        ("b.jsonl", '{"isl": 9, "osl": 3}\n'),
    ):
        (tmp_path / name).write_text(text)
        both = f"empirical({tmp_path / name})"
        check_files(Scenario(input_tokens=[both], output_tokens=[both]))
        assert set(drawn(input_tokens=both, output_tokens=both)) <= {(9, 3), (8, 2)}
        with pytest.raises(ScenarioError, match="has no instant"):
            check_files(Scenario(trace=str(tmp_path / name)))


def test_lengths_of_a_data_file_are_those_of_its_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": "word " * n, "max_tokens": n}) + "\n" for n in (5, 50)))
    both = f"empirical({rows})"
    assert set(drawn(input_tokens=both, output_tokens=both)) == {(5, 5), (50, 50)}
    bare = tmp_path / "bare.csv"
    bare.write_text("prompt\none\ntwo\n")
    with pytest.raises(ScenarioError, match=r"output_tokens: .*bare.csv does not say the lengths of answers"):
        check_files(Scenario(output_tokens=[f"empirical({bare})"]))
    with pytest.raises(ScenarioError, match="cannot read"):
        check_files(Scenario(input_tokens=["empirical(none.csv)"]))


def test_a_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("t,input_tokens\n1,7\n")
    (tmp_path / "s.toml").write_text('input_tokens = [5, "empirical(t.csv)"]\nconcurrency = 1\n')
    scenario = Scenario.load(tmp_path / "s.toml")
    assert scenario.input_tokens == (5, f"empirical({tmp_path / 't.csv'})")
    assert Scenario.from_dict(scenario.to_dict()) == scenario


def test_lengths_are_cut_to_the_context_and_that_is_said() -> None:
    found = drawn(context=2048, input_tokens="lognormal(1500, 0.6)", output_tokens=[200])
    assert max(prompt + answer for prompt, answer in found) <= 2048 - 32
    assert max(prompt for prompt, _ in found) > 1700
    assert all(answer == 200 for _, answer in found)
    both = drawn(context=512, input_tokens="uniform(400, 900)", output_tokens="uniform(400, 900)")
    assert max(prompt + answer for prompt, answer in both) <= 512 - 32
    assert min(min(pair) for pair in both) >= 1
    scenario = Scenario(input_tokens=["200@70%+4000@30%", 100], concurrency=[1, 2], seed=1)
    (note,) = Workload(scenario, ESTIMATE).fitted(TokenFit(), 2048).notes()
    assert "200@70%+4000@30% in and 64 out: about 3" in note
    assert "would pass the context of 2048 tokens; their lengths are cut to fit." in note


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lognormal(800)", "must have two numbers, like lognormal(800, 0.6)."),
        ("lognorml(800, 1)", "did you mean lognormal?"),
        ("200@70%+4000@20%", "give each part its share, 100 % in all"),
        ("200+4000", "give each part its share"),
        ("200@50%", "leave the share out"),
        ("uniform(9, 3)", "the smaller one first"),
        ("normal(0, 1)", "the mean must be 1 or more, not 0.0."),
        ("lognormal(8, nan)", "the sigma must be a number"),
        ("empirical()", "names no file"),
        ("lognormal(8, 1", "lacks a closing bracket"),
        ("many", "is no length: give a whole number or a distribution like lognormal(800, 0.6)."),
        ("128", "must be a whole number, not '128'; leave out the quotes."),
    ],
)
def test_what_is_no_length_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ScenarioError) as error:
        Scenario(input_tokens=[text])
    assert words in str(error.value)
    assert str(error.value).startswith("input_tokens")


def test_a_distribution_has_no_place_among_lengths_up_to_the_context() -> None:
    with pytest.raises(ScenarioError, match="leave out the distributions"):
        Scenario(input_tokens=["lognormal(8, 1)"], up_to_context=True)


def test_asked_and_achieved_are_shown(loadtest: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    out = tmp_path / "run"
    with simulated_server("--speed", "2") as url:  # fast ones are read late on a busy machine: the level is void then
        code, said, err = loadtest(
            *("run", "--url", url, "--input-tokens", "normal(90, 20)", "--output-tokens", "4@50%+8@50%"),
            *("--concurrency", "2", "--requests", "12", "--warmup", "0", "--seed", "7", "--out", out),
        )
    assert code == 0, err
    records = list(RunFolder.open(out).records())
    assert len({record.asked_input for record in records}) > 5
    assert {record.asked for record in records} == {4, 8}
    assert all(record.asked_input == record.prompt_tokens for record in records)
    flat = " ".join(said.split())
    assert "Prompts: normal(90, 20) asked; median" in flat
    assert "Answers: 4@50%+8@50% asked; median" in flat
    (level,) = RunFolder.open(out).read_run()["levels"]
    assert (level["input_tokens"], level["input_lengths"]) == (None, "normal(90, 20)")
