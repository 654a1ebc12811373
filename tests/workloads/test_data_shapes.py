"""Shapes that data sets, other tools and exports of chats have: what is sent of each, what is said of the rest."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.data_files import refusal, rows_of, write
from support.jobs import first_job

from loadtest.dialects import dialect_for
from loadtest.measure.request import Request
from loadtest.records import Clock
from loadtest.scenario import Scenario
from loadtest.wire import Posts
from loadtest.workloads.files import data_file as rows_of_file
from loadtest.workloads.files.trace import Trace
from loadtest.workloads.tokens import Counter
from loadtest.workloads.workload import Workload

SYSTEM, ONE, TWO = (
    {"role": role, "content": text} for role, text in (("system", "S"), ("user", "one"), ("user", "two"))
)
ANSWER = {"role": "assistant", "content": "A"}
TOLD = [ONE, ANSWER, TWO]
PAIR = [{"from": "human", "value": "one"}, {"from": "gpt", "value": "A"}]


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("batch.jsonl", [{"custom_id": "a", "body": {"messages": [SYSTEM, *TOLD]}}], ["S\none\nA\ntwo"]),
        ("items.jsonl", [{"custom_id": "a", "body": {"input": TOLD}}], ["one\nA\ntwo"]),
        ("anthropic.jsonl", [{"custom_id": "a", "params": {"messages": TOLD}}], ["one\nA\ntwo"]),
        ("trl.jsonl", [{"prompt": TOLD, "completion": [ANSWER]}], ["one\nA\ntwo"]),
        ("langfuse.jsonl", [{"id": "t", "input": [SYSTEM, ONE], "output": ANSWER}], ["S\none"]),
        ("nested.jsonl", [{"id": "t", "input": {"messages": [ONE]}}], ["one"]),
        ("tree.jsonl", [{"prompt": {"text": "one", "role": "prompter", "replies": []}}], ["one"]),
        ("alpaca.json", [{"instruction": "Add", "input": "1 2", "output": "3", "text": "Add 1 2: 3"}], ["Add\n\n1 2"]),
        ("upper.jsonl", [{"Question": "one"}, {"PROMPT": "two"}], ["one", "two"]),
        ("spread.json", '{\n  "prompt": "one"\n}\n', ["one"]),
        ("jq.json", '{\n "prompt": "a {\\" [",\n "n": [1,\n 2]\n}\n{\n "prompt": "two"\n}\n', ['a {" [', "two"]),
        ("marked.json", '\ufeff{\r\n "prompt": "one"\r\n}', ["one"]),
        ("table.csv", 'id,messages\n1,"[{""role"": ""user"", ""content"": ""one""}]"\n', ["one"]),
        ("packed.jsonl", [{"body": json.dumps({"messages": [ONE]})}], ["one"]),
        ("lines.txt", "Tell me, please.\r\n\n  two \n{x}", ["Tell me, please.", "  two ", "{x}"]),
        ("head.txt", "prompt\none\n", ["one"]),
        ("parts.jsonl", [{"system": [{"type": "text", "text": "S"}], "prompt": "one"}], ["S\none"]),
        ("turns.jsonl", [{"system": "S", "turns": ["one", "two"]}], ["S\none"]),
        (
            "glm.jsonl",
            [{"messages": [{"role": "User", "content": "one"}, {"role": "Assistant", "content": "A"}]}],
            ["one"],
        ),
        ("marks.txt", "[INST] one [/INST]\n{name}: two\n", ["[INST] one [/INST]", "{name}: two"]),
        ("rows.txt", '[\n"one",\n"two"]', ["one", "two"]),
        ("rows_too.txt", [{"prompt": "one"}], ["one"]),
        ("head.csv", 'prompt,"a name\nof two lines"\n"one","x"\n', ["one"]),
        ("gemini.jsonl", [{"messages": [ONE, {"role": "model", "content": "A"}]}], ["one"]),
        (
            "parts.json",
            [{"systemInstruction": {"parts": [{"text": "S"}]}, "contents": [{"parts": [{"text": "one"}]}]}],
            ["S\none"],
        ),
        ("otel.jsonl", [{"messages": [{"role": "user", "parts": [{"type": "text", "content": "one"}]}]}], ["one"]),
        (
            "value.jsonl",
            [{"messages": [{"role": "user", "content": [{"type": "text", "value": "one"}, {"type": "image"}]}]}],
            ["one"],
        ),
    ],
)
def test_what_is_asked_is_sent_whole(tmp_path: Path, name: str, content: Any, texts: list[str]) -> None:
    assert [row.text for row in rows_of(write(tmp_path, name, content))] == texts


def test_a_batchs_history_arrives_as_messages(tmp_path: Path) -> None:
    (row,) = rows_of(write(tmp_path, "a.jsonl", [{"custom_id": "a", "body": {"messages": [SYSTEM, *TOLD]}}]))
    assert row.messages == (SYSTEM, *TOLD)
    assert row.answer is None


def test_texts_of_a_conversation_are_said_in_turn(tmp_path: Path) -> None:
    """The model's answers of LIMA were played as the user's turns."""
    rows = rows_of(
        write(tmp_path, "a.jsonl", [{"conversations": ["one", "A", "two"]}, {"messages": ["one", "A", "two"]}])
    )
    assert [row.messages for row in rows] == [(ONE,), (ONE, ANSWER, TWO)]
    assert [row.transcript for row in rows] == [(ONE, ANSWER, TWO)] * 2
    assert not any(row.questions for row in rows)


def test_notes_of_a_data_set_beside_a_message_are_not_sent(tmp_path: Path) -> None:
    wildchat = {"conversation": [{**ONE, "country": "US", "timestamp": None}, {**ANSWER, "toxic": False}, TWO]}
    (row,) = rows_of(write(tmp_path, "a.jsonl", [wildchat]))
    assert (row.messages, row.transcript) == ((ONE,), (ONE, ANSWER, TWO))
    own = {**ONE, "name": "Eve", "cache_control": {"type": "ephemeral"}}
    (row,) = rows_of(write(tmp_path, "b.jsonl", [{"messages": [own]}]))
    assert row.messages == (own,)


@pytest.mark.parametrize("column", ["prompt", "messages", "chat"])
@pytest.mark.parametrize("kept_as", [list, np.array])
def test_a_conversation_that_pandas_wrote_into_a_cell_is_one(tmp_path: Path, kept_as: Any, column: str) -> None:
    """It stands there as Python or numpy writes it, and was sent as a text."""
    said = {"role": "user", "content": "It's {'role': 'user'} {'a'} \"b\"\nof two\t\\lines", "name": None}
    path = tmp_path / "a.csv"
    pd.DataFrame({column: [kept_as([said, ANSWER, TWO])] * 2}).to_csv(path)
    assert [row.messages for row in rows_of(path, column)] == [(said, ANSWER, TWO)] * 2


@pytest.mark.parametrize(
    "text", ["['\\d', 'a' b]", "{{topic}}", "[{'a': 1}]", "[{'role': 'user', 'content': 'one", "['é'] * 9", "{'a'}"]
)
def test_a_text_that_only_begins_like_pythons_is_a_prompt(tmp_path: Path, text: str) -> None:
    assert [row.text for row in rows_of(write(tmp_path, "a.jsonl", [{"prompt": text}]))] == [text]


@pytest.mark.parametrize(
    ("column", "row", "text"),
    [
        ("request.body", {"request": {"body": {"messages": [ONE], "max_tokens": 3}}}, "one"),
        ("request.body.messages", {"request": {"body": {"messages": [ONE]}}}, "one"),
        ("row.text", {"row": {"text": "one", "label": 1}}, "one"),
        ("a.b", {"a.b": "one", "a": {"b": "two"}}, "one"),
        ("Prompt", {"Prompt": "one", "Id": 1}, "one"),
        ("Input.Text", {"Input": {"Text": "one"}}, "one"),
        ("items", {"items": PAIR}, "one"),
        ("chat", {"chat": TOLD}, "one\nA\ntwo"),
    ],
)
def test_a_column_may_be_deeper(tmp_path: Path, column: str, row: dict[str, Any], text: str) -> None:
    assert [one.text for one in rows_of(write(tmp_path, "a.jsonl", [row]), column)] == [text]


@pytest.mark.parametrize(
    ("api", "body", "said"),
    [
        ("ollama", {"temperature": 0.5, "seed": 1, "tools": []}, {"tools": [], "options": {"num_predict": 9, "temperature": 0.5, "seed": 1}}),
        ("ollama", {"temperature": 0.5, "options": {"temperature": 0.1, "top_k": 3}}, {"options": {"num_predict": 9, "temperature": 0.1, "top_k": 3}}),
        ("openai", {"temperature": 0.5, "seed": 1}, {"temperature": 0.5, "seed": 1, "max_tokens": 9}),
    ],
)  # fmt: skip
def test_sampling_of_a_batch_reaches_ollama_too(
    tmp_path: Path, api: str, body: dict[str, Any], said: dict[str, Any]
) -> None:
    """Ollama's native API, the default of an Ollama, ignores a temperature beside `options`."""
    rows = [{"custom_id": "a", "body": {"messages": [ONE], "max_tokens": 9, **body}}]
    scenario = Scenario(data=str(write(tmp_path, "a.jsonl", rows)), api=api, seed=1)
    job = first_job(Workload(scenario, Counter("estimate")), scenario.levels()[0], 0)
    request = Request(job, dialect_for(scenario, api=api, model="m"), Clock.now(), 0, posts=Posts("http://x:9", {}))
    sent = json.loads(request.order.payload.partition(b"\r\n\r\n")[2])
    assert {key: sent.get(key) for key in said} == said
    assert ("temperature" in sent) is (api == "openai")


def test_an_inner_row_keeps_the_outer_ones_id_and_its_own_length(tmp_path: Path) -> None:
    row = {"id": "outer", "input": {"id": "inner", "messages": [ONE], "max_tokens": 3}}
    (found,) = rows_of(write(tmp_path, "a.jsonl", [row]))
    assert (found.id, found.output_tokens) == ("outer", 3)


@pytest.mark.parametrize(
    ("row", "name", "length"),
    [
        ({"prompt": "a", "output_len": 7}, None, 7),
        ({"prompt": "a", "expected_output_len": 7.0}, None, 7),
        ({"prompt": "a", "output_tokens_count": "7"}, None, 7),
        ({"prompt": "a", "max_new_tokens": 7}, None, 7),
        ({"prompt": "a", "n_predict": 7}, None, 7),
        ({"prompt": "a", "max_tokens": " "}, None, None),
        ({"Prompt": "a", "Max Tokens": 7, "ID": "x"}, "x", 7),
        ({"id": 3, "max_tokens": 7, "Prompt": "a"}, "3", 7),
        ({"id": "x", "ID": "y", "Prompt": "a"}, "x", None),
        ({"prompt": "a", "conversation_id": "c"}, "c", None),
        ({"prompt": "a", "_id": "c"}, "c", None),
        ({"prompt": "a", "id": True}, None, None),
        ({"prompt": "a", "id": " ", "task_id": 3}, "3", None),
    ],
)
def test_lengths_and_ids_have_many_names(
    tmp_path: Path, row: dict[str, Any], name: str | None, length: int | None
) -> None:
    (found,) = rows_of(write(tmp_path, "a.jsonl", [row]))
    assert (found.id, found.output_tokens) == (name, length)


def test_columns_of_a_spreadsheet_are_known_with_blanks(tmp_path: Path) -> None:
    (row,) = rows_of(write(tmp_path, "a.csv", "ID;Prompt;Max Tokens\r\n7;one;5\r\n"))
    assert (row.text, row.id, row.output_tokens) == ("one", "7", 5)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("talk.jsonl", [{"text": "one", "role": "prompter"}], "line 1, is one message, not a conversation; give each"),
        ("graph.jsonl", [{"messages": [{"type": "HumanMessage", "n": "a"}]}], "in message 1 of messages; it has 'type, n': write it"),
        ("system.jsonl", [{"messages": [SYSTEM]}], "line 1, has no message of a user under messages."),
        ("blank.jsonl", [{"messages": [SYSTEM, {"role": "user", "content": ""}]}], "has an empty prompt (under messages); take out the rows that have none."),
        ("part.jsonl", [{"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}], "has an empty prompt (under"),
        ("object.jsonl", [{"prompt": "a", "system": {"content": "S"}}], "has an object for a system prompt (column system), not"),
        ("list.jsonl", [{"custom_id": "a", "body": {"input": ["a", "b"]}}], "has a list of texts under body.input; give each"),
        ("text.jsonl", [{"messages": "[{'role': user}]"}], "has a text that begins like JSON under messages and is none"),
        ("deep.jsonl", [{"request": {"body": {"messages": [ONE]}}}], "it has 'request': name the prompt's with --data-column (a.b is b in a), or write"),
        ("empty.har", '{"log": {"version": "1.2"}}', "it has 'log': name the prompt's with --data-column (a.b is b in a), or write a row for each prompt."),
        ("columns.json", '{"prompt": ["one", "two"], "id": [1, 2]}', "line 1, holds columns, not rows; write an object for"),
        ("of.json", '{"conversations": [{"id": 1, "messages": [{"role": "user", "content": "a"}]}]}', "it has 'conversations': name"),
        ("sides.json", [{"model_a": "x", "chat_a": [ONE], "chat_b": [ONE]}], "it has 'model_a, chat_a, chat_b': name the"),
        ("far.jsonl", [{f"c{i}": "x" for i in range(20)}], "'c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11' and 8 more: name"),
        ("lines.md", "Write a poem\nTell a joke\n", "(A file with a prompt a line has a name in .txt; one text for every"),
        ("null.json", '[{"prompt": "one"}, null]', "line 1, column 21, is nothing, not an object"),
        ("second.json", '[{"prompt": "one"},\n {"prompt": 2}]', "line 2, has a number for a prompt"),
        ("python.json", "[{'prompt': 'one'}]", "line 1, column 3, is not JSON: unexpected character, expected a string key; mend it"),
        ("typed.jsonl", [{"type": "post", "text": "one"}, {"type": "human", "text": "one"}], "line 2, is one message, not a"),
        ("beside.json", '[\n {"prompt": "one", // mine\n  "n": 1}]', "line 2, column 20, is not JSON: unexpected character, expected a string key; mend it"),
        ("python.jsonl", '{"prompt": "one", "stream": True}', "expected a JSON value; mend it, take the row out, or see whether it is the right file."),
        ("comma.jsonl", '{"prompt": "one",}', "trailing comma is not allowed; mend it"),
        ("slash.jsonl", '{"prompt": "C:\\dir"}', "invalid escaped sequence in string; mend it"),
        ("answers.jsonl", [{"id": 1, "choices": [{"turns": ["one"]}]}], "it has 'id, choices': name the"),
        ("comment.jsonl", '# mine\n{"prompt": "one"}\n', "line 1, column 1, is not JSON: unexpected character, expected a JSON value; mend it"),
        ("open.json", '{\n "prompt": "one",\n "a": [\n', "line 1, begins a row that never ends."),
        ("between.json", '{\n "prompt": "one"\n},\n{\n "prompt": "two"\n}', "line 3, column 2, has something between two rows; put"),
        ("behind.json", '{\n "prompt": "one"\n}\nend\n', "line 4, has something between two rows"),
        ("list.yaml", "- prompt: one\n", "is YAML, which loadtest does not read; convert it to JSON lines first."),
        ("a.toml", "[[rows]]\n", "is TOML, which loadtest does not read; convert it to JSON lines first."),
        ("feed.json", "<?xml version='1.0'?>", "is XML, which loadtest does not read; convert it to JSON lines first."),
        ("a.arrow", b"\xff\xff\xff\xff\x78\0\0\0\x10\0", "is Arrow, which loadtest does not read; convert it to JSON lines first."),
        ("rows.pkl", pickle.dumps([{"prompt": "one"}], 2), "is a pickle of Python, which loadtest does not read; save its"),
        ("a.tar", b"a.jsonl".ljust(257, b"\0") + b"ustar\0", "is tar, which loadtest does not read; unpack it first."),
        ("a.bin", bytes(range(48)) * 4, "is binary, not text; name the right file."),
        ("ids.jsonl", [{"prompt": [1, 2]}], "line 1, has a number in message 1 of prompt, not an object; give texts, or messages in one"),
        ("sides.jsonl", [{"question": [[ONE], [TWO]]}], "line 1, has a list in message 1 of question, not an object; give texts"),
        ("one.jsonl", [{"messages": {"n": 1}}], "line 1, has an object under messages, not a list of messages."),
        ("stem.jsonl", [{"question": {"stem": "one", "choices": []}}], "not a text: name what is in it, like --data-column question.stem."),
        ("split.json", '{"columns": ["prompt"], "data": [["one"]]}', "line 1, holds columns, not rows; write an object for"),
        ("batch.jsonl", [{"custom_id": "a", "response": {"body": {}}}], "line 1, is an answer of a batch, not a request; give"),
        ("frame.json", '{"prompt": {"0": "one", "1": "two"}}', "line 1, holds columns, not rows; write an object for"),
        ("eng.dev", '"one," he added.\n', 'twice, as "". (A file with a prompt a line has a name in .txt; one text for every'),
        ("wiki.tokens", " \n = one = \n", "is blank; let the first line name the columns. (A file with a prompt a line has"),
        ("nested.jsonl", '{"prompt": ' * 900 + '"one"' + "}" * 900, "has a row that is nested hundreds deep; make it flatter."),
        ("much.jsonl", [{"prompt": "a", "max_tokens": 10**12}], "(column max_tokens); give a whole number from 1 to 10000000."),
        ("open.jsonl", '{"prompt": "a"}\n{"prompt": "b"\n{"prompt": "c"}\n', "line 2, column 15, is not JSON: unexpected end"),
        ("word.rtf", "{\\rtf1 one}", "is RTF, which loadtest does not read; save its rows as CSV or JSON lines first."),
        ("word.docx", b"PK\x03\x04", "is a document, which loadtest does not read; save its rows as"),
        ("chart.png", b"\x89PNG\r\n\x1a\n\0\0\0", "is binary, not text; name the right file."),
        ("mac.txt", "one\rtwo", "line 1, has lone carriage returns; if they are its line ends, save the file anew"),
        ("smart.jsonl", "{\u201cprompt\u201d: 1}", "expected a string key; mend it"),
        ("joined.csv", "\ufeffid,prompt\n1,one\n\ufeffid,prompt\n2,two\n", "line 3, begins with a byte order mark, as where two"),
        ("joined.txt", "one\n\ufefftwo\n", "line 2, begins with a byte order mark, as where two files were joined"),
        ("said.jsonl", [{"messages": [{"role": "user", "content": {"text": "one"}}]}], "an object for the content of message 1"),
        ("true.jsonl", [{"prompt": "a", "max_tokens": True}], "line 1, has a truth value for a length (column max_tokens)"),
        ("vidur.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.1,9,5\n", "line 1, is a row of a trace"),
    ],
)  # fmt: skip
def test_what_no_prompt_is_in_is_refused_in_one_sentence(tmp_path: Path, name: str, content: Any, words: str) -> None:
    assert words in refusal(write(tmp_path, name, content))


def test_an_array_of_one_line_is_named_by_its_column_in_characters(tmp_path: Path) -> None:
    path = write(tmp_path, "a.json", '["ü", "河", 3]'.encode())
    assert "line 1, column 12, is a number, not an object" in refusal(path)


def test_traces_of_simulators_are_read(tmp_path: Path) -> None:
    vidur = Trace.read(write(tmp_path, "a.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,9,5\n2,8,4\n"))
    assert (list(vidur.offsets), list(vidur.input_tokens or ()), list(vidur.output_tokens or ())) == (
        [0, 500_000_000],
        [9, 8],
        [5, 4],
    )
    head = "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    splitwise = Trace.read(write(tmp_path, "b.csv", head + "0,2,0,0.25,1,100,20\n"))
    assert (list(splitwise.input_tokens or ()), list(splitwise.output_tokens or ())) == ([100], [20])


@pytest.mark.parametrize("row", [{"prompt": "one"}, {"messages": [ONE]}, {"prompt": "one", "max_tokens": 3}])
def test_a_long_file_is_read_with_pauses_whatever_its_rows_are(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Locust worker tells its master in them that it lives; conversations were read without any."""
    pauses: list[float] = []
    monkeypatch.setattr(rows_of_file, "YIELD_EVERY", 4)
    monkeypatch.setattr("loadtest.workloads.files.data_file.time.sleep", pauses.append)
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 10)
    assert len(rows_of_file.DataFile.read(path, None)) == 10
    assert len(pauses) == 2
