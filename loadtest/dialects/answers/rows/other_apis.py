"""Rows of clouds' own APIs as chunks of chat: Gemini's, Cohere's, Bedrock's, Tencent's."""

from __future__ import annotations

import re
from typing import Any, cast

from loadtest.dialects.answers.rows.counts import counted

DEEPEST = 12  # objects and lists in one another
_OF_COHERE = tuple(f"{what}-{end}" for what in ("message", "content", "tool-call") for end in ("start", "delta", "end"))
# where a row of a model behind Bedrock has its text, and beside it why it ended: Titan's, Llama's, Mistral's, Claude's of old
_OF_MODELS = (
    ("outputText", "completionReason"),
    *((name, "stop_reason") for name in ("generation", "text", "completion")),
)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def as_chunk(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row of such an API, a piece of an answer or a whole one, as a chunk; None for any other row."""
    if isinstance(row.get("Choices"), list):  # Tencent's
        return cast("dict[str, Any]", respelled(row))
    if not row.keys() & {"type", "object"} and (
        isinstance(row.get("delta"), dict) or ("finish_reason" in row and isinstance(row.get("message"), dict))
    ):
        return {**row, "choices": [row]}  # a choice that is no list's; Cohere's whole answers are such
    if isinstance(output := row.get("output"), dict) and {"text", "finish_reason"} <= output.keys():
        return {**row, "choices": [output]}  # DashScope's
    if row.get("type") in _OF_COHERE and isinstance(delta := row.get("delta"), dict):
        choice = {"delta": delta.get("message") or {}, "finish_reason": delta.get("finish_reason")}
        return {"choices": [choice], "usage": delta.get("usage")}
    if found := _of_gemini(row) or _of_bedrock(row):
        return {**row, "choices": found}
    return _of_model(row)


def _of_gemini(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choices in a row of Gemini's: its candidates, or that the prompt was refused."""
    blocked = row.get("promptFeedback")
    if isinstance(blocked, dict) and blocked.get("blockReason"):
        return [{"delta": {}, "finish_reason": blocked["blockReason"]}]
    candidates = row.get("candidates")
    found = [one for one in candidates if isinstance(one, dict)] if isinstance(candidates, list) else []
    contents = [one.get("content") for one in found]
    parts = [content.get("parts") if isinstance(content, dict) else content for content in contents]
    return [{**one, "delta": {"content": content}} for one, content in zip(found, parts, strict=True)]


def _of_bedrock(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the choice in an event of Bedrock's Converse: a part, a reason, or the counts behind it."""
    part, stop, counts = (row.get(name) for name in ("contentBlockDelta", "messageStop", "metadata"))
    if isinstance(part, dict):
        return [{"delta": {"content": [part.get("delta")]}}]
    if isinstance(stop, dict):
        return [{"delta": {}, "finish_reason": stop.get("stopReason")}]
    return [{"delta": {}}] if isinstance(counts, dict) and "usage" in counts else []


def _of_model(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row as a model behind Bedrock writes it as a chunk: a piece of its text, why that ended, and counts beside it."""
    pieces = row.get("outputs") or row.get("results") or [row]
    piece = pieces[0] if isinstance(pieces, list) and len(pieces) == 1 and isinstance(pieces[0], dict) else {}
    named = next((each for each in _OF_MODELS if isinstance(piece.get(each[0]), str) and each[1] in piece), None)
    if named is None:
        return None
    text, reason = named
    counts = {name: count for name, count in row.items() if name != text and counted(name)}
    counts["output_tokens"] = piece.get("tokenCount")
    choice = {"text": piece[text], "finish_reason": piece[reason]}
    return {**row, "choices": [choice], "usage": row.get("usage") or counts}


def respelled(value: Any, depth: int = DEEPEST) -> Any:
    """Return a value with all names in it in small letters: finish_reason for FinishReason."""
    if isinstance(value, dict) and depth:
        return {_HUMP.sub("_", key).lower(): respelled(one, depth - 1) for key, one in value.items()}
    return [respelled(one, depth - 1) for one in value] if isinstance(value, list) and depth else value
