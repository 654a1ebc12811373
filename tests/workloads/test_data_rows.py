"""The rows of a data file: what is sent of them and in which order, and what is said beforehand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from support.data_files import BATCH, HELLO, write
from support.jobs import first_job
from support.plans import Run

from loadtest.dialects import dialect_for
from loadtest.errors import ScenarioError
from loadtest.measure.request import Request
from loadtest.records import Clock
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario
from loadtest.wire import Posts
from loadtest.workloads.data_source import WORKER_STRIDE, data_file, data_notes
from loadtest.workloads.files.data_row import read_row
from loadtest.workloads.tokens import Counter, TokenFit
from loadtest.workloads.workload import Workload, as_files_say, check_files

ESTIMATE = Counter("estimate")


def test_a_job_is_its_row_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", "".join(json.dumps({"prompt": f"row {i}"}) + "\n" for i in range(10)))
    scenario = Scenario(data=str(path), seed=1, concurrency=[1, 2], requests=4)
    workload = Workload(scenario, ESTIMATE)
    one, two = workload.scenario.levels()
    assert [first_job(workload, one, i).prompt for i in range(4)] == ["row 0", "row 1", "row 2", "row 3"]
    assert [first_job(workload, two, i).prompt for i in range(4)] == ["row 4", "row 5", "row 6", "row 7"]
    assert first_job(workload, two, 6).prompt == "row 0"
    assert [first_job(workload, one, i, warmup=True).row for i in range(2)] == ["10", "9"]
    assert first_job(workload, one, 2).input_tokens is None
    assert first_job(workload, one, 2).output_tokens == 64
    searched = dataclasses.replace(two, index=9, before=13)  # of --find-max, whose levels are not known beforehand
    assert first_job(workload, searched, 0).prompt == "row 3"
    by_time = Workload(Scenario(data=str(path), seed=1, concurrency=[1, 2, 4], duration=5.0), ESTIMATE)
    begins = [first_job(by_time, level, 0).prompt for level in by_time.scenario.levels()]
    assert begins == [
        "row 0",
        "row 6",
        "row 2",
    ]  # from one row on they sent the same prompts, which a prefix cache held
    again = pickle.loads(pickle.dumps(workload))
    assert first_job(again, two, 3) == first_job(workload, two, 3)


def test_locusts_workers_begin_at_rows_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "prompt\n" + "".join(f"row {i}\n" for i in range(100)))
    workload = Workload(Scenario(data=str(path), seed=1), ESTIMATE)
    level = workload.scenario.levels()[0]
    firsts = [first_job(workload, level, worker * WORKER_STRIDE).row for worker in range(8)]
    assert firsts[0] == "1"
    assert len(set(firsts)) == 8
    assert first_job(workload, level, WORKER_STRIDE + 1).row == str(int(firsts[1] or 0) + 1)


def test_one_row_is_spoken_of_as_one(tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "max_tokens": 3}'
    path = write(tmp_path, "a.jsonl", row)
    once = check_files(Scenario(data=str(path), data_once=True, concurrency=[1]))
    assert once == [
        f"{path}: 1 row with a recorded answer, which is not sent.",
        f"{path}: 1 of 1 row with a length of the answer, which wins over output_tokens.",
    ]
    path = write(tmp_path, "b.jsonl", row + "\n" + '{"prompt": "c"}')
    assert any("1 of 2 rows with a length of the answer" in note for note in check_files(Scenario(data=str(path))))


@pytest.mark.parametrize("prompt", [{"prompt": "a"}, {"messages": [{"role": "user", "content": "a"}]}])
def test_a_body_does_not_change_the_length_behind_the_back_of_the_records(prompt: dict[str, Any]) -> None:
    row = read_row(
        {**prompt, "body": {"options": {"num_predict": 3, "num_ctx": 9, "top_k": 2}, "max_tokens": 3, "top_p": 1}}, None
    )
    assert row is not None
    assert row.body == {"options": {"top_k": 2}, "top_p": 1}
    row = read_row({**prompt, "body": {"options": {"num_predict": 3}}}, None)
    assert row is not None
    assert row.body is None


def test_every_row_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "prompt,max_tokens\na,1\nb,2\nc,3\n")
    scenario = as_files_say(Scenario(data=str(path), data_once=True, concurrency=[1, 3]))
    assert [level.requests for level in scenario.levels()] == [3, 3]
    assert scenario.output_tokens == ()
    assert [first_job(Workload(scenario, ESTIMATE), scenario.levels()[1], i).output_tokens for i in range(3)] == [
        1,
        2,
        3,
    ]
    with pytest.raises(ScenarioError, match=r"3 rows of .* cannot keep 4 streams busy; ask for 3 or fewer"):
        as_files_say(Scenario(data=str(path), data_once=True, concurrency=[4]))
    with pytest.raises(ScenarioError, match="leave out requests"):
        check_files(Scenario(data=str(path), data_once=True, requests=9))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"requests": 2, "concurrency": [1], "warmup": 0, "output_tokens": "any"}, None),
        ({"data_once": True, "concurrency": [1], "output_tokens": []}, None),
        ({"concurrency": [1]}, "answers end after 64 tokens at the latest; output_tokens takes another number, or any"),
        ({"requests": 3, "concurrency": [1], "warmup": 1}, "has 3 rows, and 3 requests are sent besides warm-ups"),
        ({"duration": 5.0, "concurrency": [1]}, "has 3 rows. Where they run out the first follows again. The server's"),
        (
            {"duration": 5.0},
            "has 3 rows. Where they run out the first follows again. A level may also come to rows of another. The server's",
        ),
        ({"data_once": True, "concurrency": [1, 2]}, "Each level sends every row again"),
    ],
)
def test_repeats_and_the_end_of_answers_are_said_beforehand(
    tmp_path: Path, keys: dict[str, Any], words: str | None
) -> None:
    path = write(tmp_path, "a.csv", "prompt\na\nb\nc\n")
    notes = check_files(Scenario(data=str(path), **keys))
    assert (words is None and not notes) or any(words in note for note in notes if words)


def test_a_row_that_does_not_fit_the_context_is_refused_with_its_number(tmp_path: Path) -> None:
    short, long = "word " * 20, "word " * 300
    path = write(tmp_path, "a.jsonl", "\n\n".join(json.dumps({"prompt": text}) for text in (short, long, short, long)))
    workload = Workload(Scenario(data=str(path)), ESTIMATE).fitted(TokenFit(overhead=10), 512)
    workload.check_context()
    with pytest.raises(
        ScenarioError, match=r"row 2 \(line 3\) of .* needs about 374 tokens \(310 and an answer of 64\), but"
    ):
        workload.fitted(TokenFit(overhead=10), 256).check_context()
    workload.fitted(
        TokenFit(overhead=10, ratio=4.0), 512
    ).check_context()  # was refused: made-up words took 4 tokens each
    asking = write(tmp_path, "b.jsonl", '{"prompt": "a"}\n{"prompt": "b", "max_tokens": 5000}')
    with pytest.raises(ScenarioError, match=r"row 2 \(line 2\)"):
        Workload(Scenario(data=str(asking)), ESTIMATE).fitted(TokenFit(), 2048).check_context()


def test_a_batch_files_body_is_laid_over_the_request(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", json.dumps(BATCH))
    scenario = Scenario(data=str(path), api="openai", seed=1)
    job = first_job(Workload(scenario, ESTIMATE), scenario.levels()[0], 0)
    dialect = dialect_for(scenario, api="openai", model="m")
    request = Request(job, dialect, Clock.now(), 0, posts=Posts("http://127.0.0.1:9", {}))
    body = json.loads(request.order.payload.partition(b"\r\n\r\n")[2])
    assert body["top_p"] == 0.5
    assert body["model"] == "m"
    assert body["max_tokens"] == 9
    assert body["messages"] == [HELLO]


@pytest.mark.parametrize(
    ("url", "endpoint", "told"),
    [
        (
            "/v1/embeddings",
            "chat",
            "are requests to embeddings, and go to the chat endpoint; --endpoint embeddings sends",
        ),
        ("/v1/responses/", "chat", "--endpoint responses"),
        ("/v1/completions", "chat", "--endpoint completions"),
        ("/v1/embeddings", "embeddings", ""),
        ("/v1/chat/completions", "chat", ""),
        ("/v1/chat/completions", "embeddings", "to the embeddings endpoint; --endpoint chat sends them"),
        ("/v1/chat/completions", "generate", "to the generate endpoint; --endpoint chat sends them"),
        ("/v1/completions", "generate", ""),
    ],
)
def test_a_batch_file_for_another_endpoint_is_told(tmp_path: Path, url: str, endpoint: str, told: str) -> None:
    """Texts to embed were asked as questions, valid, without a word."""
    path = write(tmp_path, "a.jsonl", json.dumps({"custom_id": "a", "url": url, "body": {"input": "Hello"}}))
    lengths: dict[str, Any] = {} if endpoint == "embeddings" else {"output_tokens": [9]}
    api = "ollama" if endpoint == "generate" else "openai"
    scenario = Scenario.from_dict({"data": str(path), "api": api, "endpoint": endpoint, **lengths})
    file = data_file(scenario)
    assert file is not None
    said = [note for note in data_notes(file, scenario) if "endpoint" in note]
    assert [told in note for note in said] == [True] * bool(told)


def test_rows_of_a_batch_file_for_several_endpoints_are_told(tmp_path: Path) -> None:
    """Only the first row's was looked at: a text to embed between chats was asked as a question without a word."""
    urls = ["/v1/chat/completions", "/v1/embeddings", "/v1/chat/completions"]
    rows = [{"custom_id": f"{i}", "url": url, "body": {"input": f"Hello {i}"}} for i, url in enumerate(urls)]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    scenario = Scenario.from_dict({"data": str(path), "api": "openai", "output_tokens": [9]})
    file = data_file(scenario)
    assert file is not None
    (said,) = (note for note in data_notes(file, scenario) if "endpoint" in note)
    assert said == (
        f"{path}: of its 3 rows 1 is for embeddings, and the chat endpoint gets all; split the file, and send that part "
        "with --endpoint embeddings."
    )


def test_a_prompt_file_of_rows_names_the_option_for_them(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"prompt": "one"}\n{"prompt": "two"}\n')
    with pytest.raises(ScenarioError, match=r"looks like JSON lines.*give it with --data"):
        Scenario(prompt_file=str(path)).prompt_text()


def test_rows_are_sent_and_recorded_by_all_workers(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "id,prompt\n" + "".join(f"q{i},Question {i}?\n" for i in range(8)))
    out = run(
        *("--data", str(path), "--data-once", "--concurrency", "2", "--workers", "2"),
        *("--warmup", "0", "--save-text"),
    )
    found = {record.row: record.prompt for record in RunFolder.open(out).records()}
    assert found == {f"q{i}": f"Question {i}?" for i in range(8)}
    facts = RunFolder.open(out).read_run()
    assert facts["comparability"]["prompt"] == "data"
    assert facts["comparability"]["data"] == "a.csv"
    assert facts["comparability"]["files"] == [f"a.csv {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"]
