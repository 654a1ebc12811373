"""Data files: each is read rightly, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.data_files import BATCH, HELLO, rows_of, write

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.workloads.tokens import Counter
from loadtest.workloads.workload import check_files

ESTIMATE = Counter("estimate")
SHAREGPT = [
    {
        "id": "s1",
        "conversations": [
            {"from": "gpt", "value": "Welcome"},
            {"from": "human", "value": 'a } ] , " b'},
            {"from": "human", "value": "c"},
            {"from": "gpt", "value": "d"},
            {"from": "human", "value": "e"},
        ],
    },
    {"id": "s2", "conversations": []},
    {"id": "s3", "conversations": [{"from": "system", "value": "Be kind"}, {"from": "human", "value": "河流 😀"}]},
]


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("plain.jsonl", '{"prompt": "one"}\n\n{"prompt": "two"}\n', ["one", "two"]),
        ("mark.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}', ["one", "two"]),
        ("words.jsonl", '{"question": "Was ist 河流? 😀\\ud83d\\ude00"}\n', ["Was ist 河流? 😀😀"]),
        ("mixed.jsonl", '{"prompt": "", "text": "one"}\n"two"\n{"input": "three"}\n', ["one", "two", "three"]),
        ("alpaca.json", '[{"instruction": "Add", "input": "1 2", "output": "3"}]', ["Add\n\n1 2"]),
        ("bench.jsonl", '{"question_id": 81, "prompt": ["first", "then"]}', ["first"]),
        ("texts.json", ' [ "one" ,\n "two, ]" ]\n', ["one", "two, ]"]),
        ("unnamed", '{"prompt": "one"}\n{"prompt": "two"}', ["one", "two"]),
        ("sharegpt.json", json.dumps(SHAREGPT), ['a } ] , " b\nc', "Be kind\n河流 😀"]),
        ("pretty.json", json.dumps(SHAREGPT, indent=2), ['a } ] , " b\nc', "Be kind\n河流 😀"]),
        ("sharegpt.jsonl", "\n".join(map(json.dumps, SHAREGPT)), ['a } ] , " b\nc', "Be kind\n河流 😀"]),
        ("batch.jsonl", json.dumps(BATCH), ["Hello"]),
        ("plain.csv", "id,prompt\n1,one\n2,two\n", ["one", "two"]),
        ("quoted.csv", 'Prompt;id\r\n"one; ""a""\r\nline";1\r\ntwo;2\r\n', ['one; "a"\r\nline', "two"]),
        ("mark.csv", b"\xef\xbb\xbfid\ttext\r\n7\t\xe6\xb2\xb3\r\n", ["河"]),
        ("one.csv", "text\none\n\ntwo", ["one", "two"]),
        ("turns.jsonl", '{"question_id": 1, "turns": ["first", "then"]}', ["first"]),
        ("bare.json", '[[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]', ["one", "two"]),
        ("orca.jsonl", '{"system_prompt": "Be brief", "question": "one", "response": "1"}', ["Be brief\none"]),
        ("system.csv", "System,prompt\nBe brief,one\n,two\n", ["Be brief\none", "two"]),
        (
            "anthropic.jsonl",
            json.dumps({"custom_id": "a", "params": {"messages": [HELLO], "system": "Be kind"}}),
            ["Be kind\nHello"],
        ),
        (
            "parts.jsonl",
            json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}]}]}),
            ["one"],
        ),
        ("notes.csv", "note,prompt,note\na,one,b\n", ["one"]),
        ("comma.json", '[{"prompt": "one"},\n]', ["one"]),
        ("all_quoted.csv", '"id","prompt"\n"1","one"\n', ["one"]),
        ("nan.jsonl", '{"prompt": "NaN, one", "score": NaN, "least": -Infinity}\n', ["NaN, one"]),
        ("human.jsonl", '{"messages": [{"role": "human", "content": "one"}]}', ["one"]),
        ("camel.jsonl", '{"userId": 5, "Prompt": "one", "maxTokens": 9}', ["one"]),
        ("talks.jsonl", f"{json.dumps([HELLO])}\n{json.dumps([HELLO])}\n", ["Hello", "Hello"]),
        ("embed.jsonl", '{"custom_id": "a", "body": {"input": ["one"]}}', ["one"]),
    ],
)
def test_each_good_file_is_read_rightly(tmp_path: Path, name: str, content: str | bytes, texts: list[str]) -> None:
    assert [row.text for row in rows_of(write(tmp_path, name, content))] == texts


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.jsonl", "\n \n", "is empty; give one prompt a row."),
        (
            "cut.jsonl",
            '{"prompt": "one"}\n{"prompt": "tw\n',
            "line 2, column 15, is not JSON: unexpected end of data; mend it, take the row out",
        ),
        (
            "gone.jsonl",
            "Entry not found",
            "line 1, column 1, is not JSON: unexpected character, expected a JSON value; mend it, take the row out, or see",
        ),
        ("bare.jsonl", "{prompt: 1}", "expected a string key; mend it"),
        (
            "names.jsonl",
            '{"prompt": "one"}\n{"say": "two"}\n',
            "line 2, has no column prompt, text, question or messages",
        ),
        (
            "blank.jsonl",
            '{"prompt": "one"}\n\n{"prompt": "  "}\n',
            "line 3, has an empty prompt (column prompt); take out the rows that have none.",
        ),
        (
            "blanks.csv",
            'prompt,max_tokens\none,1\n,2\nthree,3\n,4\n"",5\n',
            "line 3, has an empty prompt (column prompt); take out the rows that have none (3 in all).",
        ),
        ("number.jsonl", '{"prompt": 5}\n', "line 1, has a number for a prompt (column prompt), not a text."),
        ("length.jsonl", '{"prompt": "one", "max_tokens": -1}', "has -1 for a length (column max_tokens)"),
        ("half.jsonl", '{"prompt": "one\\ud83d"}\n', "line 1, column 16, is not JSON: no low surrogate"),
        ("glued.jsonl", '{"prompt": "one"}{"prompt": "two"}\n', "write each row on a line of its own (JSON lines)"),
        ("roles.jsonl", '{"messages": [{"content": "Hello"}]}', 'has no "role" and "content" in message 1 of messages'),
        ("open.json", '[{"prompt": "one"},\n{"prompt": "two"}\n', "line 2, begins a row that never ends"),
        ("more.json", '["one"]\n["two"]', "line 1, column 8, goes on behind the array's end"),
        ("silent.json", '[{"conversations": []}]', "no user speaks in its 1 conversation;"),
        ("latin.jsonl", b'{"prompt": "one"}\n{"prompt": "\xfc"}\n', "line 2, is not UTF-8 text"),
        ("latin.csv", b"prompt\none\n\xfc\n", "line 3, is not UTF-8 text"),
        ("wide.json", "\ufeff[]".encode("utf-16-le"), "is not UTF-8 text but UTF-16 or UTF-32"),
        ("packed.jsonl", b"\x1f\x8b\x08\x00", "is gzip, which loadtest does not read; unpack it first."),
        ("table.parquet", b"PAR1\x15\x04", "is Parquet, which loadtest does not read; convert it to JSON lines first."),
        ("names.csv", "id,what\n1,one\n", "it has 'id, what': name the prompt's with --data-column, or write"),
        (
            "few.csv",
            "id,prompt\n1\n",
            "line 2, has 1 cell and the file's first line 2; give it as many, empty ones where",
        ),
        (
            "inside.csv",
            'id,prompt\n1,"a \\"b\\""\n',
            "close every quote, and write one inside quotes twice",
        ),
        ("odd_nan.jsonl", '{"prompt": NaN, "a": \'b\'}', "line 1, column 12, is not JSON: "),
        (
            "nan_prompt.jsonl",
            '{"prompt": NaN}',
            "line 1, has an empty prompt (column prompt); take out the rows that have none.",
        ),
        (
            "wrapped.json",
            '{"data": [{"prompt": "one"}]}',
            "it has 'data': name the prompt's with --data-column (a.b is b in a), or write a row for each prompt.",
        ),
        (
            "joined.csv",
            "id,prompt\n1,one\nid,prompt\n2,two\n",
            "line 3, names the columns again, as where two files were",
        ),
        ("bars.csv", "id|prompt\n1|one\n", "above all rows, with commas, semicolons or tabs between."),
        (
            "commas.jsonl",
            '{"prompt": "one"},\n{"prompt": "two"},\n',
            "; write each row on a line of its own",
        ),
        (
            "value.json",
            '[{"conversations": [{"from": "human", "said": "one"}]}]',
            'has no "role" and "content" in message 1 of conversations; it has \'from, said\': write it like {"role": "user",',
        ),
        ("text.json", '["one", " "]', "line 1, column 9, has an empty prompt; take out the rows that have none."),
        ("cells.csv", "id,prompt\n1,one,two\n", "line 2, has 3 cells and the file's first line 2; put quotes around"),
        ("quote.csv", 'prompt,id\n"one,1\ntwo,2\n', "line 2, is not CSV: unexpected end of data; close every quote"),
        ("head.csv", "id,prompt\n", "has no row; give one prompt a row."),
        ("story.md", "Tell me, please, a story.\n", "one text for every request is given with --prompt-file.)"),
        ("azure.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n1,2,3\n", "give the file with --trace"),
        ("moon.jsonl", '{"timestamp": 0, "input_length": 9, "output_length": 1}', "give the file with --trace"),
        (
            "sheet.xlsx",
            b"PK\x03\x04\x14",
            "is a spreadsheet, which loadtest does not read; save the sheet as CSV first.",
        ),
        ("packed.xz", b"\xfd7zXZ\0\0", "is xz, which loadtest does not read; unpack it first."),
        ("table.arrow", b"ARROW1\0\0", "is Arrow, which loadtest does not read; convert it to JSON lines first."),
        ("paper.pdf", b"%PDF-1.7\n", "is PDF, which loadtest does not read; save its rows as CSV or JSON lines first."),
        (
            "bare.jsonl",
            '{"prompt": "one"}'.encode("utf-16-le"),
            "is not UTF-8 text but UTF-16 or UTF-32; save it as UTF-8.",
        ),
        (
            "lfs.jsonl",
            "version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
            "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`.",
        ),
        ("login.jsonl", "\n<!DOCTYPE html>\n<html>", "is a web page, not the data; download the file itself."),
        (
            "nul.jsonl",
            b'{"prompt": "one"}\n{"prompt": "\0"}\n',
            "line 2, holds a NUL byte; save the file as UTF-8 text.",
        ),
        (
            "mac.jsonl",
            '{"prompt": "one"}\r{"prompt": "two"}\r',
            "; write each row on a line of its own",
        ),
        (
            "mac.csv",
            "prompt\rone\rtwo\r",
            "line 1, is not CSV: it has lone carriage returns; if they are its line ends",
        ),
        ("twice.csv", "prompt,Prompt\na,b\n", "line 1, names the column 'prompt' twice; rename one of them."),
        ("excel.csv", "sep=;\nid;prompt\n1;a\n", "line 1, names no column prompt, text or question; it has 'sep="),
        ("late.csv", "\nprompt\na\n", "line 1, is blank; let the first line name the columns."),
        ("talk.json", '[{"role": "user", "content": "one"}]', "line 1, is one message, not a conversation; give each"),
        (
            "silent.jsonl",
            '{"messages": [{"role": "user", "content": " "}]}',
            "line 1, has an empty prompt (under messages); take out the rows that have none.",
        ),
        (
            "five.jsonl",
            '{"messages": [{"role": "user", "content": 5}]}',
            "has a number for the content of message 1 of messages",
        ),
    ],
)
def test_each_bad_file_is_refused_in_one_sentence(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(ScenarioError) as error:
        check_files(Scenario(data=str(path)))
    sentence = str(error.value)
    assert words in sentence
    assert str(path) in sentence
    assert sentence.endswith((".", ".)"))
    assert "?." not in sentence
    assert "\n" not in sentence


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path, "is a folder; name a file in it."),
        (Path("-"), "the data file - is standard input, which can be read only once; save it to a file first."),
        (tmp_path / "none.csv", "No such file"),
        (Path("/dev/zero"), "is not a regular file"),
        (Path("https://x/rows.jsonl"), "is a URL; save the file on this machine, and give its path."),
    ):
        with pytest.raises(ScenarioError, match=words):
            check_files(Scenario(data=str(path)))


def test_a_column_may_be_named(tmp_path: Path) -> None:
    table = write(tmp_path, "a.csv", "What,prompt\nx,y\n")
    assert [row.text for row in rows_of(table, "What")] == ["x"]
    lines = write(tmp_path, "a.jsonl", '{"What": "x", "prompt": "y"}')
    assert [row.text for row in rows_of(lines, "What")] == ["x"]
    with pytest.raises(ScenarioError, match="has no column 'who'; it has 'What, prompt'"):
        rows_of(table, "who")
    with pytest.raises(ScenarioError, match="line 1, has no column 'who'"):
        rows_of(lines, "who")


def test_a_row_says_its_name_its_length_and_its_messages(tmp_path: Path) -> None:
    asked, shared = [{"role": "system", "content": "Be brief"}, HELLO], json.dumps(BATCH)
    answered = {"messages": [HELLO, {"role": "assistant", "content": "Hi"}], "max_tokens": 3}
    lines = [json.dumps({"messages": asked, "id": 7}), shared, json.dumps(answered)]
    first, batch, last = rows_of(write(tmp_path, "a.jsonl", "\n".join(lines)))
    assert (first.messages, first.id, first.output_tokens) == (tuple(asked), "7", None)
    assert (batch.messages, batch.id, batch.output_tokens) == ((HELLO,), "b1", 9)
    assert batch.body == {"top_p": 0.5}
    assert (last.messages, last.output_tokens, last.answer) == ((HELLO,), 3, "Hi")
