"""Context asked and granted, and prompts whose length the server's own count decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from support.made_runs import Made, grid, write

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.level_summary import level_label
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.summary import analyse
from loadtest.dialects.ollama import OllamaChat
from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.targets import prepare
from loadtest.targets.context import check_lengths, not_granted
from loadtest.targets.prepare import ReadyTarget, first_request_loads, fit_token_counts
from loadtest.targets.run_facts import initial_facts
from loadtest.targets.server.probe import ServedModel, Server
from loadtest.targets.target import Target, check_num_ctx
from loadtest.workloads.tokens import Counter, TokenFit
from loadtest.workloads.workload import Workload

SERVER = Server("http://x", "ollama", "0.24.0", models=())
OVERHEAD, RATIO = 10, 3  # of a vocabulary of little more than letters


def served(monkeypatch: pytest.MonkeyPatch, context: int | None, *, cut_to: int) -> list[int]:
    """Let a server answer that cuts prompts and says `context`; return the lengths of what it is sent, our count."""
    sent: list[int] = []
    counter = Counter("estimate")

    def answer(_wire: object, _target: object, job: Any) -> int:
        sent.append(counter.count(job.prompt))
        return min(OVERHEAD + RATIO * sent[-1], cut_to)

    monkeypatch.setattr(prepare, "first_answer", answer)
    monkeypatch.setattr(
        prepare, "reread", lambda _, one: dataclasses.replace(one, model=ServedModel("m", context=context))
    )
    return sent


def calibrated(scenario: Scenario, say: Callable[[str], object] = lambda _: None) -> TokenFit:
    target = Target(SERVER, ServedModel("m"), OllamaChat("m"))
    with httpx.Client() as client:
        return fit_token_counts(client, target, Workload(scenario, Counter("estimate")), say)[0]


def test_what_is_sent_before_the_first_level_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    sent = served(monkeypatch, 4096, cut_to=4096)
    calibrated(Scenario(input_tokens=(128,)), said.append)
    assert said == ["Learning how m counts tokens: 8 requests first, which do not count."]
    assert len(sent) == 8


def test_requests_beyond_those_are_said_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    sent = served(monkeypatch, None, cut_to=2048)
    calibrated(Scenario(input_tokens=(512, 2008)), said.append)
    first = int(said[0].partition(": ")[2].split()[0])
    assert len(sent) == first + said.count(prepare.ONE_MORE) > first


def test_a_server_that_counts_nothing_is_not_said_to_have_cut_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    served(monkeypatch, None, cut_to=0)
    calibrated(Scenario(input_tokens=(128,)), said.append)
    assert prepare.ONE_MORE not in said


@pytest.mark.parametrize("said", [2048, None])
def test_a_long_prompt_that_was_cut_gives_way_to_shorter_ones(
    monkeypatch: pytest.MonkeyPatch, said: int | None
) -> None:
    """2008 tokens were "the longest that fits" 2048, and "512 in" was 1513: the long prompt was itself cut."""
    sent = served(monkeypatch, said, cut_to=2048)
    found = calibrated(Scenario(input_tokens=(512, 2008)))
    assert found.ratio == pytest.approx(RATIO, rel=0.03)
    assert found.server(found.ours(512)) == pytest.approx(512, abs=3)
    assert len(sent) <= 5


def test_prompts_that_fit_are_sent_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = served(monkeypatch, 4096, cut_to=4096)
    assert calibrated(Scenario(input_tokens=(256,))).ratio == pytest.approx(RATIO, rel=0.01)
    assert sent == [32, 256, 32, 256]


@pytest.mark.parametrize(("prompt", "requests"), [(None, 8), ("Say hello.", 0)])
def test_made_up_prompts_have_their_length_where_the_model_is_unloaded_too(
    monkeypatch: pytest.MonkeyPatch, prompt: str | None, requests: int
) -> None:
    """128 tokens came out as 545; before a text of the user's own still nothing is sent, so that the first load is cold."""
    sent = served(monkeypatch, 4096, cut_to=4096)
    monkeypatch.setattr(prepare, "reread", lambda _, one: one)
    asked = {"input_tokens": (128,)} if prompt is None else {"prompt": prompt}
    workload = Workload(Scenario(unload=True, concurrency=(1,), **asked), Counter("estimate"))
    with httpx.Client() as client:
        target = Target(SERVER, ServedModel("m"), OllamaChat("m"))
        fit = prepare._fitted(client, target, workload, 1, lambda _: None).workload.fit
    assert len(sent) == requests
    assert fit.server(fit.ours(128)) == pytest.approx(128, abs=3)


def test_lengths_are_checked_against_what_was_asked_before_the_load_and_against_what_was_granted_after_it() -> None:
    scenario = Scenario(num_ctx=65536, input_tokens=(40_000,), output_tokens=(64,))
    small = ServedModel("m", context=4096, trained_context=131_072)  # loaded by somebody else
    check_lengths(scenario, small)
    with pytest.raises(ScenarioError, match="has a context of 32768"):
        check_lengths(scenario, ServedModel("m", trained_context=32768))
    with pytest.raises(ScenarioError, match=r"needs 40064 tokens, but m has a context of 32768; ask for less\."):
        check_lengths(scenario, ServedModel("m", context=32768, trained_context=131_072), loaded=True)
    # Was "or set --num-ctx", which is refused for a server of the OpenAI API.
    with pytest.raises(ScenarioError, match=r"or give the model a larger context \(on Ollama with --num-ctx\)\."):
        check_lengths(Scenario(input_tokens=(4000,)), ServedModel("m", context=2048, trained_context=65536))
    # Another client's 2048 is no limit of an Ollama: it loads the model anew for requests that do not ask for it.
    check_lengths(Scenario(input_tokens=(4000,)), ServedModel("m", context=2048, trained_context=65536), reloads=True)


@pytest.mark.parametrize(
    ("loaded", "context", "asked", "loading"),
    [
        (False, None, None, True),
        (True, 4096, None, False),
        (True, 4096, 4096, False),
        (True, 4096, 65536, True),  # was not said, and the first request took as long as a load
        (True, 32768, 65536, False),  # all that the model is trained for, which was granted before
        (None, None, 4096, False),
    ],
)
def test_another_context_than_the_loaded_one_is_a_load(
    loaded: bool | None, context: int | None, asked: int | None, loading: bool
) -> None:
    model = ServedModel("m", loaded=loaded, context=context, trained_context=32768)
    target = Target(SERVER, model, OllamaChat("m", num_ctx=asked))
    assert first_request_loads(target) is loading


def test_what_was_granted_is_said_and_kept_beside_what_was_asked() -> None:
    scenario, model = Scenario(num_ctx=65536), ServedModel("m", context=32768, trained_context=32768)
    said = "m (trained for 32768) has a context of 32768 tokens, not the 65536 asked for with --num-ctx."
    assert not_granted(scenario, model) == said
    assert not_granted(scenario, ServedModel("m", context=65536)) is None
    ready = ReadyTarget(Target(SERVER, model, OllamaChat("m")), Workload(scenario, Counter("x")))
    facts = initial_facts(scenario, [ready], driver="x", loop="x")
    assert (facts["server"]["context"], facts["server"]["context_asked"]) == (32768, 65536)
    assert facts["comparability"]["context"] == 32768


def test_a_report_says_what_was_granted(tmp_path: Path) -> None:
    """Old folders hold what was asked for as the context; what the server said at the end of the run is what it was."""
    levels, truth = grid(Made(prompt_tokens=2048), (1,))
    facts: dict[str, Any] = {
        "server": {"kind": "ollama", "context": 65536},
        "server_at_end": {"name": "made", "context_length": 2048},
        "scenario": Scenario(num_ctx=65536).to_dict(),
    }
    analysis = analyse(write(tmp_path / "run", truth.records, levels, **facts))
    said = "The model has a context of 2048 tokens, by the server's word; --num-ctx asked for 65536."
    assert said in all_findings(analysis)
    assert "fills the context of 2048 tokens in 8 of 8" in analysis.summary["levels"][0]["reasons"][0]


def test_a_level_is_named_by_the_length_that_its_prompts_had(tmp_path: Path) -> None:
    levels, truth = grid(Made(prompt_tokens=512), (1,))
    long = [dataclasses.replace(record, prompt_tokens=1513) for record in truth.records]
    label = "1 stream · 512 in · 20 out"
    named = [{**level, "label": label} for level in levels]
    assert analyse(write(tmp_path / "as-asked", truth.records, named)).summary["levels"][0]["label"] == label
    found = analyse(write(tmp_path / "longer", long, named)).summary["levels"][0]
    assert found["label"] == "1 stream · 1513 in (512 asked) · 20 out"


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        (181, "1 stream · 300 shared · 40 in (181 in all, 340 asked) · 20 out"),  # was "-119 in (40 asked)"
        (380, "1 stream · 300 shared · 40 in (380 in all, 340 asked) · 20 out"),  # was "80 in (40 asked)"
        (345, "1 stream · 300 shared · 40 in · 20 out"),
    ],
)
def test_of_a_shared_prompt_of_another_length_the_whole_is_said(counted: int, said: str) -> None:
    level = LevelData(index=0, concurrency=1, system_tokens=300, input_tokens=40, output_tokens=20)
    assert level_label(level, np.full(5, float(counted))) == said


@pytest.mark.parametrize(
    ("asked", "api", "endpoint", "context", "words"),
    [
        (8192, "openai", "chat", 8192, None),
        (8192, "openai", "chat", 16384, None),
        (8192, "ollama", "chat", 2048, None),
        (None, "openai", "chat", 2048, None),
        (8192, "openai", "chat", 4096, "the model has a context of 4096 tokens, not 8192, and num_ctx cannot be set through the OpenAI"),
        (8192, "openai", "chat", None, "num_ctx cannot be set through the OpenAI API; on an Ollama use --api ollama, elsewhere set the"),
        (8192, "anthropic", "messages", None, "num_ctx cannot be set through messages; on an Ollama use --endpoint chat, elsewhere"),
    ],
)  # fmt: skip
def test_a_scenarios_context_may_be_the_one_that_another_server_has(
    asked: int | None, api: str, endpoint: str, context: int | None, words: str | None
) -> None:
    """scenarios/rag.toml and agent_loop.toml were refused by every llama.cpp and vLLM, however large its context."""
    scenario = Scenario(num_ctx=asked, api=api, endpoint=endpoint)
    if words is None:
        check_num_ctx(scenario, api, context)
    else:
        with pytest.raises(ScenarioError, match=words):
            check_num_ctx(scenario, api, context)
