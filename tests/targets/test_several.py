"""Several servers and several models in one run: who is sent where, what is settled before, and what the rows say."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.made_runs import Made, grid, write
from support.made_samples import add
from support.made_servers import OPENAI_STREAM, made

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.summary import analyse
from loadtest.asyncio_driver.session_plan import SessionPlan
from loadtest.cli.demo import simulated_server
from loadtest.errors import ScenarioError
from loadtest.run_folder import RunFolder
from loadtest.scenario import ModelShare, Scenario, even_weights, rotation
from loadtest.scenario.several_targets import models_in, urls_in
from loadtest.targets.prepare import _say_counters
from loadtest.urls import default_url
from loadtest.workloads.schedule import PlanShare
from loadtest.workloads.tokens import Counter as TokenCounter
from loadtest.workloads.workload import Workload

Call = Callable[..., tuple[int, str, str]]
SHORT = ("--input-tokens", "32", "--output-tokens", "4", "--seed", "7")


# -- how it is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "turns"),
    [((1,), (0,)), ((1, 1), (0, 1)), ((3, 1), (0, 0, 1, 0)), ((2, 1, 1), (0, 1, 2, 0)), ((1, 5), (1, 1, 0, 1, 1, 1))],
)
def test_a_round_has_the_weights_exactly_and_spread(weights: tuple[int, ...], turns: tuple[int, ...]) -> None:
    assert rotation(weights) == turns
    assert tuple(Counter(rotation(weights))[index] for index in range(len(weights))) == weights


def test_servers_have_as_many_users_each_whatever_their_models_weigh() -> None:
    assert even_weights([[3, 1], [1]]) == (3, 1, 4)
    assert even_weights([[1], [1]]) == (1, 1)
    assert even_weights([[2, 4]]) == (1, 2)


def test_of_several_models_it_is_said_whose_tokens_are_estimated() -> None:
    targets: list[Any] = [SimpleNamespace(model=SimpleNamespace(name=name)) for name in ("a", "b", "c")]
    estimate, exact = TokenCounter("estimate: no ranks"), TokenCounter("a tokenizer", encoder=cast("Any", object()))
    said: list[str] = []
    _say_counters(targets, [estimate, exact, estimate], said.append)
    assert said == [
        (
            "Prompt lengths of a and c are estimated, as no tokenizer could be had; the servers' own counts, where they give "
            "them, set that right."
        )
    ]
    said.clear()
    _say_counters(targets[:1], [estimate], said.append)
    assert said == [
        (
            "Prompt lengths are estimated, as no tokenizer could be had; the server's own counts, where it gives them, set "
            "that right."
        )
    ]
    said.clear()
    _say_counters(targets[:1], [estimate], said.append, corrected=False)
    assert said == ["Prompt lengths are estimated, as no tokenizer could be had."]
    said.clear()
    _say_counters(targets[1:2], [exact], said.append)
    assert said == []


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("' http://a:1 '", ("http://a:1",)),
        ('" http://a:1 "', ("http://a:1",)),
        ("  'a:1'  ", ("a:1",)),
        ("' http://a:1, http://b:2 '", ("http://a:1", "http://b:2")),
        ('"http://a:1" "http://b:2"', ("http://a:1", "http://b:2")),
    ],
)
def test_quotes_and_blanks_around_addresses_are_no_addresses(text: str, urls: tuple[str, ...]) -> None:
    assert urls_in(text) == urls
    assert Scenario(url=text).urls == urls
    assert default_url({"OLLAMA_HOST": text, "OPENAI_BASE_URL": "http://c"}) == text.strip(" \"'")


def test_models_are_named_with_weights_or_without() -> None:
    assert models_in("a, b=2") == (ModelShare("a"), ModelShare("b", 2))
    assert models_in("org/x=v2,hf.co/a:Q4_K_M=3") == (ModelShare("org/x=v2"), ModelShare("hf.co/a:Q4_K_M", 3))
    assert models_in("a=3") == (ModelShare("a=3"),)  # one name, whatever it holds
    assert models_in(None) == (ModelShare(None),)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"model": "a,a"}, "model names a twice"),
        ({"model": "a,,b"}, "lacks a name beside a comma"),
        ({"model": "a=0,b"}, "the weight of a must be a whole number from 1 to 1000"),
        ({"model": "a=1.5,b"}, "the weight of a must be a whole number"),
        ({"url": ["http://h", "http://h"]}, "url names http://h twice"),
        ({"url": []}, "url must be a text or a list of texts"),
        ({"url": ["http://h", 3]}, "url must be a text or a list of texts"),
        ({"url": [f"http://h{i}" for i in range(65)]}, "65 pairs of a server and a model"),
    ],
)
def test_what_makes_no_list_is_one_sentence(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ScenarioError, match=says) as refused:
        Scenario.from_dict(keys)
    assert str(refused.value).count("\n") == 0


def test_a_scenario_file_takes_a_list_or_one_text(tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text('url = ["http://a:1", "http://b:2"]\nmodel = ["x=3", "y"]\n')
    scenario = Scenario.load(file)
    assert scenario.urls == ("http://a:1", "http://b:2")
    assert scenario.models == (ModelShare("x", 3), ModelShare("y"))
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    assert Scenario(url="http://a:1,http://b:2/v1?x=1,2").urls == ("http://a:1", "http://b:2/v1?x=1,2")
    # of eight users one is the other model's at either server
    assert scenario.requests_per_rarest_target == 8


# -- who is sent where ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [1, 2, 3])
def test_users_and_arrivals_keep_their_proportion_in_any_number_of_processes(of: int) -> None:
    scenario = Scenario(concurrency=(8,), requests_per_stream=3, input_tokens=(16,), seed=1)
    workload = Workload(scenario, TokenCounter("x"))
    (level,) = scenario.levels()
    plans = [SessionPlan((workload, workload), rotation((3, 1)), PlanShare(worker, of)) for worker in range(of)]
    assert Counter(target for plan in plans for target in plan.targets(8)) == {0: 6, 1: 2}
    numbers = range(level.requests)
    sent = [
        one for plan in plans for target in set(plan.targets(8)) for one in plan.of_users(level, 8, target, numbers)
    ]
    assert Counter(target for target, _ in sent) == {0: 18, 1: 6}
    jobs = [session.next(None) for _, session in sent]
    assert sorted(job.id for job in jobs if job) == list(range(24))
    assert Counter(target for plan in plans for target, _ in plan.arrivals(level, 16)) == {0: 12, 1: 4}
    warm = [target for plan in plans for target, _ in plan.warm_arrivals(level)]
    assert sorted(warm) == [0, 1]  # at a rate each target is warmed up


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    """Two simulated servers, one three times as fast as the other."""
    plain = ("--profile", "quick", "--speed")
    with simulated_server(*plain, "10") as slow, simulated_server(*plain, "30") as fast:
        yield slow, fast


def measured(loadtest: Call, out: Path, *options: str) -> Path:
    code, _, err = loadtest("run", *SHORT, *options, "--out", out)
    assert code in (0, 3), err  # 3: a busy test machine may void what it could not measure
    return out


@pytest.mark.parametrize("workers", ["1", "2"])
def test_each_row_is_that_of_a_run_against_its_server_alone(
    loadtest: Call, servers: tuple[str, str], tmp_path: Path, workers: str
) -> None:
    load = ("--requests-per-stream", "5", "--workers", workers)
    both = measured(
        loadtest, tmp_path / "both", "--url", servers[0], "--url", servers[1], "--concurrency", "4,6", *load
    )
    alone = measured(loadtest, tmp_path / "alone", "--url", servers[1], "--concurrency", "2,3", *load)
    facts = RunFolder.open(both).read_run()
    assert [one["url"] for one in facts["targets"]] == list(servers)
    assert facts["target"]["url"] == servers[0]
    assert [one["server_at_end"]["name"] for one in facts["targets"]] == ["llama3.2:1b"] * 2
    records = list(RunFolder.open(both).records())
    assert Counter((record.target, record.level, record.warmup) for record in records) == {
        (target, level, warm): users * (1 if warm else 5)
        for target in (0, 1)
        for level, users in ((0, 2), (1, 3))
        for warm in (False, True)
    }
    assert len({record.id for record in records}) == len(records)
    parts = analyse(both).summary["groups"]
    assert [group["url"] for group in parts] == list(servers)
    known = ("concurrency", "requests", "warmup_requests", "input_tokens", "output_tokens", "outcomes", "tokens")
    for row, other in zip(parts[1]["levels"], analyse(alone).summary["levels"], strict=True):
        assert {key: row[key] for key in known} == {key: other[key] for key in known}
    for key in ("tokens", "comparability"):
        assert facts["targets"][1][key] == RunFolder.open(alone).read_run()[key]


def test_models_get_users_by_weight(loadtest: Call, llamacpp_url: str, tmp_path: Path) -> None:
    out = measured(
        loadtest,
        tmp_path / "run",
        "--url",
        llamacpp_url,
        "--model",
        "a=3,b=1",
        "--concurrency",
        "4",
        "--requests",
        "16",
    )
    records = [record for record in RunFolder.open(out).records() if not record.warmup]
    assert Counter((record.target, record.model) for record in records) == {(0, "a"): 12, (1, "b"): 4}
    assert [one["model"] for one in analyse(out).summary["groups"]] == ["a", "b"]


def test_arrivals_take_turns(loadtest: Call, servers: tuple[str, str], tmp_path: Path) -> None:
    urls = ("--url", servers[0], "--url", servers[1])
    out = measured(loadtest, tmp_path / "run", *urls, "--rate", "60", "--requests", "31", "--workers", "2")
    records = list(RunFolder.open(out).records())
    due = sorted((record.t_sched, record.target) for record in records if not record.warmup)
    assert [target for _, target in due] == [i % 2 for i in range(31)]
    assert sorted(record.target for record in records if record.warmup) == [0, 1]


def test_monitors_sample_every_measured_server(loadtest: Call, servers: tuple[str, str], tmp_path: Path) -> None:
    urls = ("--url", servers[0], "--url", servers[1])
    out = measured(loadtest, tmp_path / "run", *urls, "--concurrency", "2", "--requests", "4", "--monitor", "ollama")
    lines = [json.loads(line) for path in out.glob("samples-ollama*") for line in path.read_text().splitlines()]
    seen = {line["facts"]["url"].removesuffix("/api/ps") for line in lines if "facts" in line}
    assert seen == set(servers)


# -- what is settled before ------------------------------------------------------------------------------------------


def test_a_server_that_does_not_answer_ends_it_before_anything_is_measured(
    loadtest: Call, servers: tuple[str, str], tmp_path: Path
) -> None:
    code, _, err = loadtest(
        "run", *SHORT, "--url", servers[0], "--url", "http://127.0.0.1:9", "--out", tmp_path / "run"
    )
    assert code == 2
    assert "http://127.0.0.1:9" in err
    assert not (tmp_path / "run").exists()


def openai(*models: str) -> dict[str, Any]:
    return {"/v1/models": {"data": [{"id": name} for name in models]}, "/v1/chat/completions": OPENAI_STREAM}


def test_a_server_is_asked_for_the_models_that_it_lists(loadtest: Call, tmp_path: Path) -> None:
    with made(openai("a", "b")) as one, made(openai("b")) as other:
        urls = ("--url", one.url, "--url", other.url)
        code, _, err = loadtest(
            "run", *SHORT, *urls, "--model", "a,b", "--concurrency", "4", "--requests", "8", "--out", tmp_path / "run"
        )
    assert code in (0, 3), err
    assert f"{other.url} does not list a: its users ask for b alone." in err
    sent = Counter(
        (one["url"], one["model"], one["weight"]) for one in RunFolder.open(tmp_path / "run").read_run()["targets"]
    )
    assert set(sent) == {(one.url, "a", 1), (one.url, "b", 1), (other.url, "b", 2)}


def test_a_model_that_no_server_lists_is_refused(loadtest: Call, tmp_path: Path) -> None:
    with made(openai("a")) as one, made(openai("a")) as other:
        urls = ("--url", one.url, "--url", other.url)
        code, _, err = loadtest("run", *SHORT, *urls, "--model", "a,c", "--out", tmp_path / "run")
    assert (code, err.count("none of the 2 servers lists the model c")) == (2, 1), err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--unload", "--concurrency", "1"), "unload measures how long one model takes to load"),
        (("--model", ""), "--model is empty"),
    ],
)
def test_what_works_on_one_is_said(
    loadtest: Call, servers: tuple[str, str], tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    urls = ("--url", servers[0], "--url", servers[1])
    code, _, err = loadtest("run", *SHORT, *urls, *options, "--out", tmp_path / "run")
    assert (code, says in err) == (2, True), err


def test_too_few_users_for_every_server_are_said(loadtest: Call, servers: tuple[str, str], tmp_path: Path) -> None:
    urls = ("--url", servers[0], "--url", servers[1])
    _, _, err = loadtest("run", *SHORT, *urls, "--concurrency", "1", "--requests", "2", "--out", tmp_path / "run")
    assert f"1 user: none is left for llama3.2:1b at {servers[1]} in that level." in err


# -- what works on several --------------------------------------------------------------------------------------------


def test_find_max_holds_every_server_to_the_objectives(
    loadtest: Call, servers: tuple[str, str], tmp_path: Path
) -> None:
    urls = ("--url", servers[0], "--url", servers[1])
    asked = ("--slo", "e2e_p50=0.0001", "--find-max", "2")
    code, out, err = loadtest("run", *SHORT, *urls, *asked, "--out", tmp_path / "run")
    assert code in (1, 3), err
    found = RunFolder.open(tmp_path / "run").read_run()["find_max"]
    assert found["tried"][0]["requests"] == 80  # forty for each server
    assert "Not even one stream" in out or code == 3


def test_two_runs_of_two_servers_are_compared_server_by_server(
    loadtest: Call, servers: tuple[str, str], tmp_path: Path
) -> None:
    urls = ("--url", servers[0], "--url", servers[1])
    load = ("--concurrency", "4", "--requests-per-stream", "6")
    paths = [measured(loadtest, tmp_path / name, *urls, *load) for name in ("one", "two")]
    loadtest("compare", *paths)
    rows = json.loads((paths[1] / "compare.json").read_text())["rows"]
    names = {url.removeprefix("http://") for url in servers}
    assert {row["level"].partition(" · ")[0] for row in rows} == names
    alone = measured(
        loadtest, tmp_path / "alone", "--url", servers[1], "--concurrency", "2", "--requests-per-stream", "6"
    )
    loadtest("compare", paths[0], alone)
    said = json.loads((alone / "compare.json").read_text())
    assert f"Only BASE has {servers[0].removeprefix('http://')}: left out." in said["notes"]
    assert {row["level"].partition(" · ")[0] for row in said["rows"]} == {servers[1].removeprefix("http://")}
    code, out, err = loadtest("memory", "--run", paths[0])
    assert code == 0, err
    assert all(f"{name}:" in out for name in names)


def test_what_two_servers_have_loaded_is_told_apart(tmp_path: Path) -> None:
    """Samples of one come between those of the other: neither model was gone meanwhile."""
    levels, truth = grid(Made(), (2,))
    records = [dataclasses.replace(one, target=one.id % 2, model="ab"[one.id % 2]) for one in truth.records]
    targets = [{"url": f"http://{host}:1", "model": name, "dialect": "ollama-chat"} for host, name in ("xa", "yb")]
    path = write(tmp_path / "run", records, levels, targets=targets)
    for number, one in enumerate(targets):
        rows = [
            {"t": i * 0.1 + number * 0.05, "models": [{"name": one["model"], "size": 5 + number}]} for i in range(9)
        ]
        add(path, "ollama", [{"t": 0, "facts": {"url": f"{one['url']}/api/ps"}}, *rows], name=f"ollama-{number}")
    found = analyse(path)
    assert set(found.run.machine.loaded) == {"http://x:1/api/ps", "http://y:1/api/ps"}
    assert not any("reloaded" in sentence for sentence in all_findings(found))
    (_, second) = found.groups
    assert {row["name"] for _, rows in second[1].run.machine.models for row in rows} == {"b"}
