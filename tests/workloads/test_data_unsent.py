"""What of a data file's rows is not sent, or not as it stands, is said before any of it is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from support.data_files import notes_of, write
from support.jobs import first_job

from loadtest.scenario import Scenario
from loadtest.workloads.tokens import Counter
from loadtest.workloads.workload import Workload

SYSTEM, ONE = {"role": "system", "content": "S"}, {"role": "user", "content": "one"}
PAIR = [{"from": "human", "value": "one"}, {"from": "gpt", "value": "A"}]


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([{"question": "q", "context": "c"}], "columns that are not sent: context."),
        ([{"question": "q", "choices": ["a"], "subject": "s"}], "columns that are not sent: choices and subject."),
        ([{"messages": [ONE], "tools": [{}], "temperature": 0}], "columns that are not sent: tools and temperature."),
        (
            [{"instruction": "a", "context": ""}, {"instruction": "b", "context": "c"}],
            "columns that are not sent: context.",
        ),
        ([{"prompt": "a"}, {"prompt": "b", "images": ["x"]}], "columns that are not sent: images."),
        ([{"messages": [ONE], "prompt": "one"}], "columns that are not sent: prompt."),
        ([{"prompt": "a", **{f"c{i}": 1 for i in range(12)}}], "c6, c7 and 4 more."),
        (
            [{"input": {"messages": [ONE]}}, {"input": {"messages": [ONE], "tools": [{}]}}],
            "columns that are not sent: input.tools.",
        ),
        ([{"id": 1, "input": json.dumps({"messages": [ONE], "top_p": 1})}], "columns that are not sent: input.top_p."),
        ([{"system": "T", "messages": [SYSTEM, ONE]}], "columns that are not sent: system."),
    ],
)
def test_columns_that_are_not_sent_are_said(tmp_path: Path, rows: list[dict[str, Any]], columns: str) -> None:
    path = write(tmp_path, "a.jsonl", rows)
    assert any(columns in note for note in notes_of(path))
    if "prompt" in rows[0]:  # named by the user, who then knows
        assert not any(columns in note for note in notes_of(path, data_column="prompt"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "id": 1, "max_tokens": 3, "system": "S", "body": {"top_p": 1}, "answer": "x"},
        {"instruction": "a", "input": "b", "output": "c"},
        {"prompt": "a", "generation": "b"},
        {"prompt": "a", "outputText": "b"},
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [ONE], "model": "m"}},
        {"custom_id": "a", "params": {"messages": [ONE]}},
        {"": "0", "prompt": "a", "note": "", "tags": []},
    ],
)
def test_nothing_is_said_of_what_is_read_or_empty(tmp_path: Path, row: dict[str, Any]) -> None:
    assert not [note for note in notes_of(write(tmp_path, "a.jsonl", [row])) if "columns that are not sent" in note]


@pytest.mark.parametrize(
    "row",
    ["Tell {{ topic }} and {{name}}", {"prompt": "{{ topic }}"}, {"messages": [{**ONE, "content": "a {{ topic }}"}]}],
)
def test_names_that_nothing_fills_in_are_said_once(tmp_path: Path, row: Any) -> None:
    said = "{{ topic }} in a prompt is sent as it stands; loadtest fills nothing in."
    assert [note.endswith(said) for note in notes_of(write(tmp_path, "a.jsonl", [row, row]))].count(True) == 1
    path = write(tmp_path, "b.jsonl", ["{topic} of \\frac{{1}}{2}: {{}} {{a: 1}}"])
    assert not any("fills" in note for note in notes_of(path))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"conversations": [*PAIR, *PAIR]},
            "1 conversation of several turns; what follows the first is not sent",
        ),
        ({"turns": ["one", "two"]}, "1 conversation of several turns"),
        (
            {"conversations": [*PAIR, {"from": "observation", "value": "x"}]},
            "messages of the role observation are left out of its conversations",
        ),
    ],
)
def test_turns_that_are_not_sent_are_said(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = write(tmp_path, "a.jsonl", [row])
    assert any(words in note for note in notes_of(path))
    if "goes on" in words:
        assert not any(words in note for note in notes_of(path, answers="recorded"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}, {"id": 2, "prompt": "c"}],
            "1 row with the id of another row: records",
        ),
        ([{"id": "a", "messages": [ONE]}] * 3, "2 rows with the id of another row: records name them alike."),
        (  # GenAI-Perf's sessions; were sent as single prompts without a word of it
            [{"session_id": "a", "text": "one"}, {"session_id": "a", "text": "two"}],
            "records name them alike. Each is sent by itself: turns of a conversation belong in one row.",
        ),
        ([{"id": 1, "prompt": "a"}, {"id": "1", "prompt": "b"}], "1 row with the id of another row: records"),
        (
            [
                {"id": 1, "prompt": "a"},
                {"id": -2, "prompt": "b"},
                {"id": "", "prompt": "c"},
                {"id": "", "prompt": "d"},
            ],
            None,
        ),
        ([{"id": {"x": 1}, "prompt": "a"}, {"id": [], "prompt": "b"}], None),
    ],
)
def test_rows_of_one_id_are_said(tmp_path: Path, rows: list[dict[str, Any]], said: str | None) -> None:
    """With --save-text the id says which answer is whose."""
    notes = [note for note in notes_of(write(tmp_path, "a.jsonl", rows)) if "the id of" in note]
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


def test_what_an_object_holds_beside_the_prompt_is_said_of_a_named_column_too(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"n": 1, "request": {"messages": [ONE], "seed": 1}}])
    assert any("columns that are not sent: request.seed." in note for note in notes_of(path, data_column="request"))


def test_lines_of_a_text_are_said_to_be_prompts(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "one\ntwo\n")
    assert notes_of(path) == [
        f"{path}: each line is sent as a prompt; one text for every request is given with --prompt-file."
    ]
    workload = pickle.loads(
        pickle.dumps(Workload(Scenario(data=str(path), seed=1, concurrency=[1]), Counter("estimate")))
    )
    level = workload.scenario.levels()[0]
    assert [first_job(workload, level, i).prompt for i in range(2)] == ["one", "two"]
