"""Messages of conversations as data sets and the exports of chat programs write them: read by their shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.data_files import notes_of, rows_of, write


def _node(parent: str | None, role: str | None, *parts: Any, kind: str = "text") -> dict[str, Any]:
    """Return a node of a tree of messages, as ChatGPT exports it."""
    message = {"author": {"role": role, "name": None}, "content": {"content_type": kind, "parts": list(parts)}}
    return {"parent": parent, "message": None if role is None else message, "children": []}


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
    ],
)  # fmt: skip
def test_conversations_of_exports_and_data_sets_are_read_by_their_shape(tmp_path: Path, row: dict[str, Any]) -> None:
    (found,) = rows_of(write(tmp_path, "a.json", [row]), "modelInput" if "modelInput" in row else None)
    assert found.messages == (SAID[0],)
    assert list(found.transcript[:3]) == SAID


def test_texts_under_turns_are_the_users_alone_with_notes_beside_them_too(tmp_path: Path) -> None:
    (found,) = rows_of(
        write(tmp_path, "a.jsonl", [{"turns": [{"text": "one", "delay": 0}, {"text": "two", "delay": 5}]}])
    )
    assert [one["content"] for one in found.transcript] == ["one", "two"]
    assert found.questions


def test_a_body_may_be_json_in_a_text_and_is_never_left_out_in_silence(tmp_path: Path) -> None:
    (found,) = rows_of(write(tmp_path, "a.csv", 'prompt,body\none,"{""top_k"": 3}"\n'))
    assert found.body == {"top_k": 3}
    said = notes_of(write(tmp_path, "b.jsonl", [{"prompt": "one", "body": "a mail"}]))
    assert any("its column body is not sent" in note for note in said)


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
