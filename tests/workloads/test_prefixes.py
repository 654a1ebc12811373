"""Shared prefixes: system prompts in front of every prompt, the nonce behind them, and what a prefix cache makes of it."""

from __future__ import annotations

import json
import math
from collections import Counter as Tally
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.jobs import first_job
from support.plans import counted

from loadtest.dialects import dialect_for
from loadtest.errors import ScenarioError
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.workloads.job import Job
from loadtest.workloads.tokens import Counter, TokenFit
from loadtest.workloads.workload import Workload, check_files

ESTIMATE = Counter("estimate")


def begun_alike(one: str, other: str) -> int:
    """Return how many tokens two prompts have in common at their beginning."""
    same = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return ESTIMATE.count(one[:same])


def jobs(count: int, fit: TokenFit | None = None, **keys: Any) -> list[Job]:
    scenario = Scenario.from_dict({"concurrency": [1], "seed": 3, **keys})
    workload = Workload(scenario, ESTIMATE, fit)
    return [first_job(workload, scenario.levels()[0], i) for i in range(count)]


def test_a_system_prompt_stands_in_front_and_the_nonce_behind_it() -> None:
    one, two = jobs(2, system="You are kind.", prompt="Hello")
    system, user = one.conversation
    assert system == {"role": "system", "content": "You are kind."}
    assert user["role"] == "user"
    assert user["content"].endswith("] Hello")
    assert user["content"] != two.conversation[1]["content"]
    assert one.prompt == f"You are kind.\n\n{user['content']}"
    for endpoint, key in (("chat", "messages"), ("completions", "prompt")):
        scenario = Scenario(api="openai", endpoint=endpoint)
        body = json.loads(dialect_for(scenario, api="openai", model="m").body(one))
        assert body[key] == (list(one.conversation) if key == "messages" else one.prompt)


def test_a_system_prompt_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("Be brief.\n")
    (job,) = jobs(1, system=f"@{tmp_path / 's.txt'}")
    assert job.conversation[0]["content"] == "Be brief.\n"
    (tmp_path / "a.toml").write_text('[data]\nsystem = "@s.txt"\n')
    assert Scenario.load(tmp_path / "a.toml").system_text() == "Be brief.\n"
    with pytest.raises(ScenarioError, match="cannot read the system prompt's file"):
        check_files(Scenario(system="@none.txt"))


def test_made_up_prefixes_have_their_length_and_are_drawn() -> None:
    many = jobs(2000, system_tokens=50, prefixes=4, input_tokens=30)
    texts = Tally(job.conversation[0]["content"] for job in many)
    assert len(texts) == 4
    assert {ESTIMATE.count(text) for text in texts} == {50}
    assert max(texts.values()) < 1.3 * min(texts.values())
    assert {job.input_tokens for job in many} == {80}
    assert len({job.conversation[1]["content"] for job in many}) == 2000
    zipf = Tally(job.conversation[0]["content"] for job in jobs(2000, system_tokens=50, prefixes=4, prefix_zipf=1.0))
    shares = [count / 2000 for _, count in zipf.most_common()]
    assert shares == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25], abs=0.03)
    assert {*zipf} == {*texts}


def test_another_seed_has_other_prefixes() -> None:
    assert jobs(1, system_tokens=50)[0].conversation[0] != jobs(1, system_tokens=50, seed=4)[0].conversation[0]


def test_lengths_are_the_servers() -> None:
    fit = TokenFit(overhead=20, ratio=2.0)
    (job,) = jobs(1, fit, system_tokens=200, input_tokens=100)
    system, user = (ESTIMATE.count(message["content"]) for message in job.conversation)
    assert (system, user) == (100, 40)
    assert job.input_tokens == 300


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"system": "a", "system_tokens": 5}, "exclude each other"),
        ({"prefixes": 5}, "prefixes does nothing alone; add system_tokens."),
        ({"system_tokens": 5, "prefix_zipf": 1}, "add prefixes"),
        ({"system": " "}, "write a system prompt"),
        ({"system_tokens": 0}, "system_tokens must be 1 or more"),
    ],
)
def test_a_mistake_is_one_sentence(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError) as error:
        Scenario.from_dict(keys)
    assert words in str(error.value)


def test_a_row_with_a_system_prompt_of_its_own_takes_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"prompt": "a"}\n{"messages": [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}]}'
    )
    with pytest.raises(ScenarioError, match=r"row 2 \(line 2\) of .* has a system prompt of its own"):
        check_files(Scenario(data=str(path), system="x"))
    path.write_text('{"prompt": "a"}\n')
    (job,) = jobs(1, data=str(path), system="x")
    assert [message["content"] for message in job.conversation] == ["x", "a"]


def test_the_simulated_server_has_the_prefix_cached_and_the_level_is_not_blamed_for_it(
    loadtest: Callable[..., tuple[int, str, str]], simulated_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, _, err = loadtest(
        *(
            "run",
            "--url",
            simulated_url,
            "--api",
            "openai",
            "--system-tokens",
            "400",
            "--input-tokens",
            "40",
            "--seed",
            "5",
        ),
        *("--output-tokens", "4", "--concurrency", "1", "--requests", "6", "--warmup", "1", "--out", out),
    )
    assert code in (0, 3), err
    records = counted(out)
    assert all(record.asked_input == 440 == record.prompt_tokens for record in records)
    for record in records:
        assert record.server is not None
        assert 400 <= record.server["usage"]["prompt_tokens_details"]["cached_tokens"] < 425
    facts = RunFolder.open(out).read_run()
    assert facts["comparability"]["shared_prefix"] == "1 × 400 tokens"
    assert facts["levels"][0]["label"] == "1 stream · 400 shared · 40 in · 4 out"
    (level,) = json.loads((out / "summary.json").read_text())["levels"]
    assert not any("unasked" in reason for reason in level["reasons"])


def test_a_real_llama_cpp_has_the_prefix_cached(
    loadtest: Callable[..., tuple[int, str, str]], llamacpp_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, _, err = loadtest(
        *("run", "--url", llamacpp_url, "--system-tokens", "600", "--input-tokens", "200", "--output-tokens", "4"),
        *("--concurrency", "1", "--requests", "4", "--warmup", "1", "--seed", "5", "--out", out),
    )
    assert code in (0, 3), err
    for record in counted(out):
        assert record.prompt_tokens == pytest.approx(800, rel=0.1)
        assert record.server is not None
        assert 500 < record.server["timings"]["cache_n"] < 720


@pytest.mark.parametrize("whole_blocks_alone", [False, True])
def test_blocks_of_a_trace_are_as_long_as_its_hashes_are_many(tmp_path: Path, *, whole_blocks_alone: bool) -> None:
    """Bailian's traces have 33 blocks of 16 tokens for 521 tokens; some servers hash no block that is not full."""
    trace, lengths = tmp_path / "bailian.jsonl", (521, 200, 521)
    blocks = [length // 16 if whole_blocks_alone else math.ceil(length / 16) for length in lengths]
    rows = [
        {
            "chat_id": i,
            "timestamp": i + 0.5,
            "input_length": length,
            "output_length": 3,
            "hash_ids": [*range(8), *range(100 * i, 100 * i + n - 8)],
        }
        for i, (length, n) in enumerate(zip(lengths, blocks, strict=True), 1)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unit, note = check_files(Scenario(trace=str(trace)))
    assert unit == f"The instants of the trace {trace} are read in seconds, as the file names no unit: it lasts 2.00 s."
    assert "has hashes of blocks of 16 tokens" in note
    one, two, _ = jobs(3, trace=str(trace), concurrency=[])
    assert 120 <= begun_alike(one.prompt, two.prompt) <= 136
    assert [ESTIMATE.count(job.prompt) for job in (one, two)] == pytest.approx([521, 200], abs=3)


def test_a_mooncake_trace_shares_the_blocks_that_its_hashes_say(tmp_path: Path) -> None:
    trace = tmp_path / "moon.jsonl"
    rows = [(0, 1100, [1, 2, 3]), (50, 1300, [1, 2, 4]), (90, 600, [5, 6])]
    trace.write_text(
        "".join(
            json.dumps({"timestamp": t, "input_length": n, "output_length": 3, "hash_ids": ids}) + "\n"
            for t, n, ids in rows
        )
    )
    unit, note = check_files(Scenario(trace=str(trace)))
    assert (
        unit
        == f"The instants of the trace {trace} are read in milliseconds, as Mooncake writes them: it lasts 90.0 ms."
    )
    assert "25 % of its prompts' blocks stand in an earlier request" in note
    one, two, three = jobs(3, trace=str(trace), concurrency=[])
    assert 1010 <= begun_alike(one.prompt, two.prompt) <= 1030
    assert [ESTIMATE.count(job.prompt) for job in (one, two, three)] == pytest.approx([1100, 1300, 600], abs=3)
    assert three.prompt[:10] != one.prompt[:10]
    assert (one.input_tokens, one.output_tokens) == (1100, 3)
    assert "has hashes of blocks of 512 tokens: 25 %" in note
    trace.write_text('{"timestamp": 0, "input_length": 9, "hash_ids": "x"}')
    with pytest.raises(ScenarioError, match="line 1, has 'x' for block hashes"):
        check_files(Scenario(trace=str(trace)))
