"""Rows of formats that were not asked for, in which gateways answer all the same: those of other APIs, and a piece alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, cast

from loadtest.dialects.answers.decoded import ERROR_BESIDE, OF_ANOTHER, Decoded, Rows
from loadtest.dialects.answers.ends import kind_of, reason_name
from loadtest.dialects.answers.errors import error_rows, server_errors
from loadtest.dialects.answers.rows.counts import MOST_TOKENS, kind_of_count, known_number
from loadtest.dialects.answers.rows.event_rows import IN_AN_ENVELOPE, unwrapped
from loadtest.dialects.answers.rows.messages_rows import MessagesRows
from loadtest.dialects.answers.rows.ollama_rows import OllamaRows
from loadtest.dialects.answers.rows.openai_rows import OpenAIRows
from loadtest.dialects.answers.rows.responses_rows import ResponsesRows
from loadtest.dialects.answers.rows.text_shapes import NO_TEXTS, Texts, as_marked

DEEPEST = 12  # objects and lists in one another
_OF_COHERE = tuple(
    f"{what}-{end}" for what in ("message", "content", "tool-plan", "tool-call") for end in ("start", "delta", "end")
)
# where a row of a model behind Bedrock or watsonx has its text, and beside it why it ended: Titan's, Llama's, Mistral's and
# TGIS's, Claude's of old, watsonx's and Caikit's
_OF_MODELS = (
    ("output_text", "completion_reason"),
    *((name, "stop_reason") for name in ("generation", "text", "completion", "generated_text")),
)
_NAMED = frozenset(("id", "model", "object", "type"))  # which pieces with nothing but text lack
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def as_chunk(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row of another API, be it a piece of an answer or a whole one, as a chunk of OpenAI's; None for a row of none known."""
    if isinstance(row.get("Choices"), list):  # Tencent's
        return cast("dict[str, Any]", respelled(row))
    if not row.keys() & {"type", "object"} and (
        isinstance(row.get("delta"), dict) or ("finish_reason" in row and isinstance(row.get("message"), dict))
    ):
        return {**row, "choices": [row]}  # a choice that is no list's; Cohere's whole answers are such
    if isinstance(output := row.get("output"), dict) and {"text", "finish_reason"} <= output.keys():
        return {**row, "choices": [output]}  # DashScope's
    if isinstance(info := row.get("meta_info"), dict) and isinstance(text := row.get("text"), str):
        return {
            "choices": [{"text": text, "finish_reason": info.get("finish_reason")}],
            "usage": info,
        }  # SGLang's, LMDeploy's
    if row.get("type") in _OF_COHERE and isinstance(delta := row.get("delta"), dict):
        choice = {"delta": delta.get("message") or {}, "finish_reason": delta.get("finish_reason")}
        return {"choices": [choice], "usage": delta.get("usage")}
    found = _of_gemini(row) or _of_bedrock(row)
    return {**row, "choices": found} if found else _of_model(row)


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
    """Return the choice in Bedrock's Converse: a part, a reason, or the counts behind it, or all of it in one row."""
    if isinstance(whole := row.get("output"), dict) and isinstance(row.get("stopReason"), str):
        return [{"message": whole.get("message"), "finish_reason": row["stopReason"]}]
    part = row.get("contentBlockDelta") or row.get("contentBlockStart")
    stop, counts = row.get("messageStop"), row.get("metadata")
    if isinstance(part, dict):
        return [{"delta": {"content": [part.get("delta") or part.get("start")]}}]
    if isinstance(stop, dict):
        return [{"delta": {}, "finish_reason": stop.get("stopReason")}]
    return [{"delta": {}}] if isinstance(counts, dict) and "usage" in counts else []


def _of_model(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return a row of a model behind Bedrock, watsonx, Caikit or TGIS as a chunk of OpenAI's; None for any other row."""
    if isinstance(row.get("token"), dict):  # TGI's own
        return None
    row = respelled(row)
    pieces = row.get("outputs") or row.get("results") or row.get("responses") or [row]
    piece = pieces[0] if isinstance(pieces, list) and len(pieces) == 1 and isinstance(pieces[0], dict) else {}
    if "details" in piece:
        details = found if isinstance(found := row.pop("details", None), dict) else {}
        piece = {"stop_reason": details.get("finish_reason"), **details, **piece}
    named = next((each for each in _OF_MODELS if isinstance(piece.get(each[0]), str) and each[1] in piece), None)
    if named is None:
        return None
    text, reason = named
    counts = {name: count for name, count in (row | piece).items() if name != text and kind_of_count(name)}
    counts["output_tokens"] = piece.get("token_count")
    choice = {"text": piece[text], "finish_reason": piece[reason]}
    return {**row, "choices": [choice], "usage": row.get("usage") or counts}


def respelled(value: Any, depth: int = DEEPEST) -> Any:
    """Return a value with all names in it in small letters: finish_reason for FinishReason."""
    if isinstance(value, dict) and depth:
        return {_HUMP.sub("_", key).lower(): respelled(one, depth - 1) for key, one in value.items()}
    return [respelled(one, depth - 1) for one in value] if isinstance(value, list) and depth else value


_PIECES = frozenset(
    (
        *("token", "content", "text", "delta", "textDelta", "text_output", "completion", "answer", "value"),
        *("generated_text", "outputText", "generation"),
    )
)
_DEEPEST_PIECE = 5  # objects and lists in one another


def bare_piece(row: dict[str, Any]) -> Texts:
    """Return the one text that a row of no known format has under a name of _PIECES, however deep; none where it has several."""
    found = list(_texts_in(row, _DEEPEST_PIECE))
    return as_marked((found[0], ""), row) if len(found) == 1 else NO_TEXTS


def _texts_in(value: Any, depth: int) -> Iterator[str]:
    for name, inner in value.items() if depth and isinstance(value, dict) else ():
        if isinstance(inner, str) and name in _PIECES:
            yield inner
        for one in inner if isinstance(inner, list) else (inner,):
            yield from _texts_in(one, depth - 1)


class NativeRows(Rows):
    """Takes rows of llama.cpp's /completion and TGI's /generate_stream, which some builds and gateways send at /v1 as well.

    They have a piece of text, or a token, and say with it whether it is the last.
    """

    __slots__ = ("_counts",)

    def __init__(self, answer: Decoded) -> None:
        super().__init__(answer)
        self._counts: tuple[int | None, int | None] = (None, None)  # of the prompt, of the output

    def knows(self, row: dict[str, Any]) -> bool:
        token = row.get("token")
        if isinstance(token, dict):
            return isinstance(token.get("text"), str)
        return isinstance(row.get("content"), str) and isinstance(row.get("stop"), bool)

    def take(self, row: dict[str, Any]) -> bool:
        answer, token = self._answer, row.get("token")
        if isinstance(token, dict):
            answer.add(("" if token.get("special") is True else token["text"], ""))
            details = row["details"] if isinstance(row.get("details"), dict) else {}
            reason = details.get("finish_reason") or row.get("finish_reason")  # LightLLM's
            if isinstance(row.get("generated_text"), str) or reason:
                counted = details.get("generated_tokens") or token.get("count_output_tokens")
                self._last(reason, token.get("prompt_tokens"), counted)
        else:
            answer.add((row["content"], ""))
            if row["stop"]:
                older = "limit" if row.get("stopped_limit") else "eos"
                self._last(row.get("stop_type") or older, row.get("tokens_evaluated"), row.get("tokens_predicted"))
        if isinstance(timings := row.get("timings"), dict):
            answer.ending.server["timings"] = timings
        answer.take_error(row, error_rows.error_in_row(row))
        return False

    def _last(self, reason: Any, prompt: Any, output: Any) -> None:
        answer, name = self._answer, reason if isinstance(reason, str) else "eos"
        answer.finish(name, name)
        self._counts = (
            known_number(prompt, "tokens_evaluated", answer.note, MOST_TOKENS),
            known_number(output, "tokens_predicted", answer.note, MOST_TOKENS),
        )

    def close(self) -> None:
        prompt, output = self._counts
        if output is not None:
            self._answer.count(prompt, output)


class _SureMessagesRows(MessagesRows):
    """Takes what certainly is of /v1/messages: gateways send pings and rows of type "message" in streams of their own."""

    __slots__ = ()

    def knows(self, row: dict[str, Any]) -> bool:
        if kind_of(row).startswith(("message_", "content_block_")):
            return True
        return row.get("role") == "assistant" and "stop_reason" in row


Formats = tuple[Callable[[Decoded], Rows], ...]
ALL_FORMATS: Formats = (OpenAIRows, _SureMessagesRows, ResponsesRows, OllamaRows, NativeRows)


class ForeignRows:
    """Finds the format of rows that `own`, the format that was asked for, does not know: the first of `others` that knows a row."""

    __slots__ = ("_answer", "_others", "_own", "formats")

    def __init__(self, answer: Decoded, own: Rows, others: Formats) -> None:
        self._answer, self._own, self._others = answer, own, others
        self.formats: list[Rows] = []  # empty until such a row was seen

    def known(self, row: dict[str, Any]) -> tuple[Rows | None, dict[str, Any]]:
        """Return the rows that take this one, and the row in their format; None for a row that is an error, which is noted here."""
        # Code Assist, grpc-gateway
        inner = unwrapped(row, lambda one: self._own.knows(one) or as_chunk(one) is not None)
        if inner is not None:
            self._answer.note(IN_AN_ENVELOPE)
            row = inner
            if self._own.knows(row):
                return self._own, row
        self.formats = self.formats or [rows(self._answer) for rows in self._others]
        chunk = as_chunk(row) or row
        known = next((rows for rows in (self._own, *self.formats) if rows.knows(chunk)), None)
        if known is not None:
            self._answer.note(OF_ANOTHER)
            return known, self._behind_pieces(chunk)
        return None if self._is_error(row) else self._own, row

    def _behind_pieces(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Return a chunk; where it is the last of pieces that had nothing but text, those are the model's, and none comes twice."""
        (choice, *more), answer = chunk.get("choices") or [None], self._answer
        if more or not isinstance(choice, dict) or chunk.keys() & _NAMED:
            return chunk
        if reason_name(choice.get("finish_reason")) is None or not isinstance(text := choice.get("text"), str):
            return chunk
        if not answer.keep_aside():
            return chunk
        return {**chunk, "choices": [{**choice, "text": "" if answer.has_all((text, "")) else text}]}

    def _is_error(self, row: dict[str, Any]) -> bool:
        """Take a row of no known format for an error, or keep it, to be looked at when the answer has ended."""
        named = self._answer.kind == b"error"
        if (said := server_errors.error_sentence(row) if named else error_rows.error_in_foreign_row(row)) is not None:
            self._answer.fail(said)
            return True
        self._answer.say_last(server_errors.as_json(row))
        # a number, one word or a schema under the name of an error says nothing that went wrong
        said = error_rows.error_within(row) or ""
        if (" " in said or not said.isascii()) and not said.startswith("{"):
            self._answer.doubt(ERROR_BESIDE.format(server_errors.quoted(said, 160)))
        if any(texts := bare_piece(row)):
            self._answer.add_aside(texts)
        return False
