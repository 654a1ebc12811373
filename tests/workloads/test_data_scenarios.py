"""The scenarios of people's work (rag, summarise, code_completion, batch), as TOML and for Locust, at a small size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.locust_runs import Start, starting
from support.places import SCENARIOS

from loadtest.records import Outcome
from loadtest.run_folder import RunFolder
from loadtest.workloads.data_source import data_file

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from loadtest.scenario import Scenario

SMALL = {
    "rag": ("--system-tokens", "100", "--prefixes", "3", "--output-tokens", "4"),
    "summarise": ("--input-tokens", "lognormal(200, 0.3)", "--output-tokens", "normal(5, 1)"),
    "code_completion": (
        "--system-tokens",
        "50",
        "--input-tokens",
        "lognormal(60, 0.3)",
        "--output-tokens",
        "3@60%+6@40%",
    ),
    "batch": ("--output-tokens", "6"),
    "chat_people": ("--output-tokens", "uniform(4, 8)", "--turns", "2", "--think-time", "0.05"),
    "agent_loop": ("--system-tokens", "100", "--follow-up-tokens", "lognormal(30, 0.5)", "--output-tokens", "5"),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory) as begin:
        yield begin


@pytest.mark.parametrize("name", SMALL)
def test_each_runs_from_its_toml_file(
    loadtest: Callable[..., tuple[int, str, str]], simulated_url: str, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "run"
    size: tuple[str, ...] = (
        () if name == "batch" else ("--concurrency", "2", "--requests", "4", "--warmup", "0", "--think-time", "0")
    )
    if name == "chat_people":  # ends by its duration
        size = ("--concurrency", "2", "--duration", "0.5", "--warmup", "0")
    context = ("--num-ctx", "4096") if name == "rag" else ()
    code, said, err = loadtest(
        *("run", SCENARIOS / f"{name}.toml", "--url", simulated_url, *SMALL[name], *size, *context, "--out", out)
    )
    assert code in (0, 3), err
    records = list(RunFolder.open(out).records())
    assert {record.outcome for record in records} == {Outcome.OK}
    if name != "chat_people":
        assert len(records) == (12 if name == "batch" else 4)
    if name in ("chat_people", "agent_loop"):
        assert {record.turn for record in records} >= {0, 1}
    if name == "batch" and code == 0:
        assert "12 rows of batch_prompts.jsonl took" in " ".join(said.split())
    if name == "batch":
        file = data_file(Scenario(data=str(SCENARIOS / "batch_prompts.jsonl")))
        assert file is not None
        assert [record.row for record in sorted(records, key=lambda one: one.id)] == [file.row(i).id for i in range(12)]


@pytest.mark.parametrize("name", SMALL)
def test_each_runs_under_locust(start: Start, simulated_url: str, name: str) -> None:
    locust = start(
        SCENARIOS / f"{name}.py",
        "--host",
        simulated_url,
        *SMALL[name],
        *("-u", "2", "-r", "2", *(() if name == "batch" else ("-t", "4"))),
        "--stop-timeout",
        "5",
    )
    assert locust.code in (0, 3), locust.said
    records = [record for record in locust.records if record.outcome is not Outcome.CANCELLED]
    assert records, locust.said
    assert {record.outcome for record in records} == {Outcome.OK}
    if name == "batch":
        assert len({record.row for record in records}) == 12
        assert len(records) == 12
    elif name in ("chat_people", "agent_loop"):
        assert {record.turn for record in records} >= {0, 1}
    elif name != "rag":
        assert len({record.asked_input for record in records}) > 1
