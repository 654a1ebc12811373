"""Messages of conversations as data sets and the exports of chat programs write them: read by their shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.data_files import notes_of, rows_of, write


def _node(parent: str | None, role: str | None, *parts: Any, kind: str = "text") -> dict[str, Any]:
    """Return a node of a tree of messages, as ChatGPT exports it."""
    message = {"author": {"role": role, "name": None}, "content": {"content_type": kind, "parts": list(parts)}}
    return {"parent": parent, "message": None if role is None else message, "children": []}


def _libre(number: int, before: int, text: str, sender: str) -> dict[str, Any]:
    """Return a message as LibreChat exports it, whose models send under their own names."""
    return {
        "messageId": str(number),
        "parentMessageId": str(number - before),
        "text": text,
        "sender": sender,
        "isCreatedByUser": sender == "user",
    }


LEFT = _libre(7, 7, "of another branch", "user")
CHATGPT = {
    "title": "T",
    "current_node": "a2",
    "mapping": {
        "root": _node(None, None),
        "s": _node("root", "system", ""),
        "u": _node("s", "user", "one", {"content_type": "image_asset_pointer"}),
        "left": _node("u", "assistant", "not shown"),
        "code": {
            "parent": "u",
            "message": {"author": {"role": "assistant"}, "content": {"content_type": "code", "text": "x"}},
        },
        "a": _node("code", "assistant", "A"),
        "u2": _node("a", "user", "two"),
        "a2": _node("u2", "assistant", "B"),
        "later": _node("left", "user", "of another branch"),
    },
}
SAID = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "A"}, {"role": "user", "content": "two"}]
THREAD = [  # of OpenAI's Assistants, which lists the newest message first
    {"object": "thread.message", "created_at": at, "role": said["role"], "content": [{"type": "text", "text": {"value": said["content"], "annotations": []}}]}
    for at, said in enumerate(SAID)
][::-1]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"conversation": [{"input": "one", "output": "A"}, {"input": "two", "output": "B"}]},
        {"conversations": [{"human": "one", "assistant": "A"}, {"human": "two", "assistant": "B"}]},
        {"conversations": [{"content": "one"}, {"content": "A"}, {"content": "two"}]},
        {"name": "n", "chat_messages": [{"text": t, "content": [], "sender": s} for t, s in (("one", "human"), ("A", "assistant"), ("two", "human"))]},
        {"contents": [{"role": r, "parts": [{"text": t}]} for t, r in (("one", "user"), ("A", "model"), ("two", "user"))]},
        {"items": [{"from": "human", "value": "one"}, {"from": "gpt", "value": "A"}, {"from": "human", "value": "two"}]},
        {"messages": [{"sender": s, "text": t, "isCreatedByUser": s == "User"} for t, s in (("one", "User"), ("A", "GPT"), ("two", "User"))]},
        {"key": "k", "modelInput": {"contents": [{"author": "user", "content": "one"}, {"author": "bot", "content": "A"}, {"author": "user", "content": "two"}]}},
        {"messages": [{"type": t, "content": c} for c, t in (("one", "human"), ("A", "ai"), ("two", "human"))]},
        CHATGPT,
        {"history": {"a": {"parentId": None, **SAID[0]}, "b": {"parentId": "a", **SAID[1]}, "c": {"parentId": "b", **SAID[2]}}},
        {"messages": [LEFT, *(_libre(i, 1, t, s) for i, (t, s) in enumerate((("one", "user"), ("A", "GPT-4"), ("two", "user")), 1))]},
        {"messagesTree": [{**_libre(1, 1, "one", "user"), "children": [{**_libre(2, 1, "A", "o3"), "children": [_libre(3, 1, "two", "user")]}]}]},
        {"messages": [{"id": str(i), "parent": str(i - 1), "children": [], **each} for i, each in enumerate(SAID)]},
        {"chat_messages": [{"uuid": str(i), "parent_message_uuid": str(i - 1 if i < 9 else 0), "text": t, "sender": s} for i, t, s in ((1, "one", "human"), (2, "A", "assistant"), (3, "two", "human"), (9, "B", "assistant"))], "current_leaf_message_uuid": "3"},
        {"id": "t", "messages": {"object": "list", "data": THREAD}},
        {"id": "t", "messages": THREAD[::-1]},
        {"prompt": {"text": "one", "role": "prompter", "replies": [{"text": "A", "role": "assistant", "replies": [{"text": "two", "role": "prompter"}]}]}},
    ],
)  # fmt: skip
def test_conversations_of_exports_and_data_sets_are_read_by_their_shape(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = rows_of(write(tmp_path, "a.json", [row]), "modelInput" if "modelInput" in row else None)
    assert found.messages == (SAID[0],)
    assert list(found.transcript[:3]) == SAID


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"input": json.dumps(SAID[:1])}, SAID[:1]),
        ({"input": json.dumps({"messages": SAID[:1]})}, SAID[:1]),
        ({"prompt": json.dumps(["one", "two"])}, None),
        ({"question": [SAID[:1]]}, SAID[:1]),
        ({"prompt": [["one", "two"]]}, None),
        ({"input": SAID[0]}, SAID[:1]),
        ({"messages": [{"role": "user", "content": [{"text": "one"}]}]}, SAID[:1]),  # Bedrock's Converse
    ],
)
def test_a_conversation_in_a_text_or_in_a_list_is_one(tmp_path: Path, row: dict[str, Any], said: Any) -> None:
    """Tables keep it as JSON in a cell, which was sent as the prompt."""
    (found,) = rows_of(write(tmp_path, "a.jsonl", [row]))
    assert (found.text, found.messages) == ("one", said and tuple(said))


@pytest.mark.parametrize("text", ['{"task": "sum"}', "[1, 2] is a list. Sum it.", "[INST] one [/INST]", "[" * 2000])
def test_a_prompt_that_begins_like_json_stays_a_text(tmp_path: Path, text: str) -> None:
    (found,) = rows_of(write(tmp_path, "a.jsonl", [{"prompt": text}]))
    assert (found.text, found.messages) == (text, None)
    (found,) = rows_of(write(tmp_path, "b.jsonl", [{"author": "x", "body": "[deleted]"}]))
    assert found.text == "[deleted]"


def test_a_system_prompt_beside_a_pair_is_heard(tmp_path: Path) -> None:
    (found,) = rows_of(write(tmp_path, "a.jsonl", [{"conversation": [{"system": "S", "input": "one", "output": "A"}]}]))
    assert found.messages == ({"role": "system", "content": "S"}, SAID[0])


@pytest.mark.parametrize("role", [{}, {"role": "user"}])
def test_texts_under_turns_are_the_users_alone_with_notes_beside_them_too(tmp_path: Path, role: dict[str, str]) -> None:
    """As AIPerf writes its sessions."""
    turns = [{"text": "one", "delay": 0, **role}, {"text": "two", "delay": 5, "image": "a.png", **role}]
    (found,) = rows_of(path := write(tmp_path, "a.jsonl", [{"session_id": "s", "turns": turns}]))
    assert ([one["content"] for one in found.transcript], found.id) == (["one", "two"], "s")
    assert found.questions
    assert any("columns that are not sent: turns[].delay and turns[].image." in note for note in notes_of(path))


def test_a_body_may_be_json_in_a_text_and_is_never_left_out_in_silence(tmp_path: Path) -> None:
    (found,) = rows_of(write(tmp_path, "a.csv", 'prompt,body\none,"{""top_k"": 3}"\n'))
    assert found.body == {"top_k": 3}
    said = notes_of(write(tmp_path, "b.jsonl", [{"prompt": "one", "body": "a mail"}]))
    assert any("columns that are not sent: body." in note for note in said)


def test_roles_that_servers_do_not_know_are_said(tmp_path: Path) -> None:
    said = notes_of(write(tmp_path, "a.jsonl", [{"messages": [SAID[0], {"role": "critic", "content": "no"}]}]))
    assert any("messages of the role critic are sent as they are; most servers know" in note for note in said)
    said = notes_of(write(tmp_path, "b.jsonl", [{"messages": [{"role": "User", "content": "a"}]}]))
    assert not any("role" in note for note in said)


def test_a_list_of_texts_under_another_name_is_said_to_be_one_users(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"data": ["one", "A", "two", "B"]}])
    said = notes_of(path, data_column="data")
    assert any("the texts in a list are taken for what a user says, one after another." in note for note in said)
    said = notes_of(write(tmp_path, "b.jsonl", [{"turns": ["one", "two"]}]))
    assert not any("taken for what a user says" in note for note in said)
