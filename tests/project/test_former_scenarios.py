"""Locustfiles and names of commit a533ecb go on working: tests/scenarios_of_a533ecb are its scenarios, as they were."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator

import pytest
from support.locust_runs import Run, starting
from support.places import TESTS

from loadtest.records import Outcome

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    import loadtest.users
    from loadtest.users import Answer, Client, ModelUser
    from loadtest.users.options import OPTIONS

FORMER = TESTS / "scenarios_of_a533ecb"
NAMES = (
    "Answer",
    "Client",
    "ModelUser",
    "OllamaUser",
    "OpenAIUser",
    "OpenLoopUser",
    "RequestFailedError",
    "connect",
)
OF_A_USER = (
    "api",
    "ca_file",
    "first_byte_timeout",
    "host",
    "idle_timeout",
    "input_tokens",
    "max_tokens_key",
    "model",
    "num_ctx",
    "output_tokens",
    "prompt",
    "save_text",
    "scenario",
    "temperature",
    "total_timeout",
    "warm_cache",
    "warmup",
)
OF_AN_ANSWER = (
    "expect_verdict",
    "fail",
    "failed_on_the_wire",
    "failure",
    "ok",
    "record",
    "settle",
    "status",
    "status_code",
    "success",
    "text",
)
OF_A_CALL = ("prompt", "input_tokens", "output_tokens", "name", "catch_response", "t_sched")
KEYS = (
    "model",
    "api",
    "endpoint",
    "output_tokens",
    "input_tokens",
    "out",
    "max_failure_ratio",
    "max_ttft_p95",
    "min_tokens_per_s",
    "metrics_port",
    "metrics_address",
)
FILES = ("chat.py", "input_length.py", "open_loop.py", "output_length.py", "queue_past_four.py")


def test_every_name_is_still_there() -> None:
    assert set(NAMES) <= set(loadtest.users.__all__)
    assert [name for name in OF_A_USER if not hasattr(ModelUser, name)] == []
    assert [name for name in OF_AN_ANSWER if not hasattr(Answer, name)] == []
    assert {option.key for option in OPTIONS} >= set(KEYS)
    for method in ("chat", "generate", "completions"):
        assert set(OF_A_CALL) <= {*inspect.signature(getattr(Client, method)).parameters}
    assert {"ask", "seed"} <= {*vars(Client)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, simulated_url: str) -> Iterator[dict[str, Run]]:
    with starting(tmp_path_factory) as start:
        said = {"LOCUST_OUTPUT_TOKENS": "4", "LOCUST_INPUT_TOKENS": "16", "STEP": "0.2", "RATE": "8"}
        ended = ("-u", "2", "-r", "9", "-t", "4", "--stop-timeout", "20", "--host", simulated_url)
        yield {name: start(FORMER / name, *ended, env={**os.environ, **said}) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_former_scenario_runs_as_it_did(runs: dict[str, Run], name: str) -> None:
    run = runs[name]

    assert run.code in {0, 3}, run.said  # void on a busy machine
    outcomes = {record.outcome for record in run.records}
    assert Outcome.OK in outcomes
    assert outcomes <= {Outcome.OK, Outcome.CANCELLED}
    assert "Traceback" not in run.said
    assert run.facts["state"] == "done"
