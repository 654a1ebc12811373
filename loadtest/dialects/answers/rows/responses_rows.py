"""The events of /v1/responses, and its answers that are no stream, as text and counts."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate
from typing import Any

from loadtest.dialects.answers.decoded import Decoded, Rows, as_name
from loadtest.dialects.answers.ends import LAST_OF_RESPONSES, kind_of, reason_name
from loadtest.dialects.answers.errors import error_rows, server_errors
from loadtest.dialects.answers.lines.lenient_json import objects_in
from loadtest.dialects.answers.rows.text_shapes import NO_TEXTS, Texts, plain_text, texts_in, texts_of_bare, tool_text
from loadtest.dialects.base import Note
from loadtest.text import join_text

# in the words of the other formats
REASONS = {
    "completed": "stop",
    "max_output_tokens": "length",
    "max_tokens": "length",
    "incomplete": "length",
    "done": "stop",
}
_UNFINISHED = ("in_progress", "queued")  # that some servers leave in the whole response
_LAST_ITEMS = ("message", "function_call", "custom_tool_call")  # with which an answer may end
UNSAID_END = "the answer ended behind its last item without the event that says so: its counts are unknown"
NO_STATUS = "the server ended the answer without a status"
_TEXT_ITEMS = ("message", "text", None)  # types of items
_ACTS = ("action", "operation")  # what a call without a name has: of a shell, a computer, a patch
# Words in an event's kind: by them its text is the answer's, unless it is a thought's or a call's.
_SEEN = re.compile(r"text|content|message|output|refusal|transcript|chunk")
_HIDDEN = re.compile(r"reason|think|thought|summary|call|tool|argument|input|code")
_NO_TEXT = ("response.audio.delta", "response.output_audio.delta")


class ResponsesRows(Rows):
    """Takes the events of a response, and a whole one, from servers that ignore `stream`."""

    __slots__ = ("_ended", "_open", "_said", "_since")

    def __init__(self, answer: Decoded) -> None:
        super().__init__(answer)
        self._said: set[int | str] = set()  # items of the output whose text came
        self._open = 0  # items that have begun and not ended
        self._ended: tuple[Any, int] = (None, 0)  # the item that ended last, and behind how many events
        self._since = [0, 0]  # the event with which the last item that is over began: of visible and of hidden text

    def knows(self, row: dict[str, Any]) -> bool:
        return row.get("object") == "response" or kind_of(row).startswith("response.")

    def take(self, row: dict[str, Any]) -> bool:
        answer, kind = self._answer, kind_of(row)
        before = len(answer.events.texts)
        self._take_text(row, kind)
        if kind == "response.created":
            answer.begin(row.get("response"))
        elif kind == "response.output_item.added":
            self._open += 1
        elif kind == "response.output_item.done":
            self._open, self._ended = self._open - 1, (row.get("item"), len(answer.events))
        whole = bool(row.get("output")) or (row.get("object") == "response" and row.get("status") not in _UNFINISHED)
        response = row.get("response") if kind else row if whole else None
        if kind in LAST_OF_RESPONSES and not isinstance(response, dict):
            response = row  # some lay it flat into the event, or leave it out
        if isinstance(response, dict):
            if not kind or kind in LAST_OF_RESPONSES:
                self._last(response, kind)
            elif usage := response.get("usage"):
                answer.take_usage(usage)
            if kind in LAST_OF_RESPONSES and response is not row and (usage := row.get("usage")):
                answer.take_usage(usage)
        answer.take_error(row, error_rows.error_in_row(row))
        ending = answer.ending
        alike = kind.endswith(".delta") and len(answer.events.texts) == before + 1
        return alike and not (ending.done or ending.error)

    def _take_text(self, row: dict[str, Any], kind: str) -> None:
        """Take the text of one event; an item that came in pieces is said once more at its end, any other only there."""
        texts = _texts(row, kind, self._answer.note)
        if any(texts) or kind.endswith(".done"):
            item = row.get("item")
            item_id = row.get("item_id", item.get("id") if isinstance(item, dict) else None)
            places = [place for place in (item_id, row.get("output_index")) if isinstance(place, int | str)]
            if not places and (kind.endswith(".delta") or not self._answer.events):
                places = [0]  # there is one item, as a rule
            if kind.endswith(".done") and places and places[0] not in self._said:
                seen, hidden = _whole_text(row, kind)
                texts = self._unsaid(seen, hidden=False), self._unsaid(hidden, hidden=True)
            if texts[0] or (texts[1] and not kind.endswith(".added")):
                self._said.update(places)
        self._answer.add(texts)

    def _unsaid(self, text: str, *, hidden: bool) -> str:
        """Return the text of an item that is over, nothing if it came in pieces already, whichever item these named.

        Items end in their order, so only what came since the one before began is looked at: an item may be one piece.
        """
        events, bare = self._answer.events, text.strip()
        if not bare:
            return ""
        mine = [i for i in range(self._since[hidden], len(events)) if (i in events.hidden) == hidden]
        at = join_text(events.texts[i] for i in mine).find(bare)
        sizes = accumulate(len(events.texts[i]) for i in mine)
        self._since[hidden] = next((i for i, size in zip(mine, sizes, strict=True) if size > at >= 0), len(events))
        return text if at < 0 else ""

    def _last(self, response: dict[str, Any], kind: str) -> None:
        """Take the whole response, which ends an answer: its status, counts, and its text where no piece of that came."""
        answer = self._answer
        if len(answer.events) == len(answer.events.hidden):  # of the answer itself nothing came
            output = response.get("output")
            seen, hidden = _texts_in_output(output, response.get("output_text"))
            if not (seen or hidden or answer.events):
                hidden = "".join(plain_text(item.get(key)) for item in objects_in(output) for key in _ACTS)
            answer.add((seen, "" if answer.events else hidden))
        if usage := response.get("usage"):
            answer.take_usage(usage)
        answer.take_metrics(response.get("metrics"))
        answer.marked = answer.over = True
        answer.ending.model = as_name(response.get("model"))
        details = response.get("incomplete_details")
        why = reason_name(details.get("reason")) if isinstance(details, dict) else None
        status = why or reason_name(response.get("status"))
        if status is None or status in _UNFINISHED:
            status = kind.removeprefix("response.") or ("completed" if status is None and answer.events else "")
        error = _error_in(response)
        if error and not error_rows.is_no_error(error):
            answer.fail(server_errors.error_sentence(error))
        elif status:
            answer.finish(REASONS.get(status, status), status)

    def close(self) -> None:
        answer = self._answer
        item, count = self._ended
        if (
            self._open <= 0
            and count == len(answer.events)
            and isinstance(item, dict)
            and item.get("type") in _LAST_ITEMS
        ):
            self._end_with(item)
        answer.take_final_usage()
        if answer.marked:
            answer.ending.hint = NO_STATUS

    def _end_with(self, item: dict[str, Any]) -> None:
        """End an answer whose items have all ended, though no event says that it is whole (OpenRouter)."""
        answer = self._answer
        if not (answer.ending.done or answer.ending.error):
            status = reason_name(item.get("status")) or "completed"
            answer.finish(REASONS.get(status, status), status)
            answer.note(UNSAID_END)
            answer.finished_at = -1  # another item may have been due, so a connection that broke off has cut it


def _texts(row: dict[str, Any], kind: str, note: Note) -> Texts:
    """Return the text in one event: a piece, or what an item or a part begins with, such as a tool's name."""
    if kind in _NO_TEXT:
        return NO_TEXTS
    if kind.endswith(".delta") or (kind.startswith("response.") and row.get("delta")):
        return _sides(kind, texts_of_bare(row.get("delta") or row.get("text"), note))
    if kind == "response.output_item.added":
        return _texts_in_output([row.get("item")])
    if kind == "response.content_part.added" and isinstance(part := row.get("part"), dict):
        return texts_in(part)
    return NO_TEXTS


def _sides(kind: str, texts: Texts) -> Texts:
    """Return the text of an event as visible or hidden, by the kind of the event."""
    return texts if _is_visible(kind) else ("", texts[1] + texts[0])


@lru_cache(maxsize=64)
def _is_visible(kind: str) -> bool:
    return _SEEN.search(kind) is not None and _HIDDEN.search(kind) is None


def _whole_text(row: dict[str, Any], kind: str) -> Texts:
    """Return the text of an event that ends an item of the output, or a part of one."""
    if kind == "response.output_item.done":
        return _texts_in_output([row.get("item")])
    return _sides(kind, texts_in([row.get(key) for key in ("text", "refusal", "arguments", "part")]))


def _error_in(response: dict[str, Any]) -> Any:
    """Return the error of a response that failed, from wherever it is sent."""
    details = response.get("status_details")
    told = details.get("error") if isinstance(details, dict) else None
    return response.get("error") or response.get("last_error") or told


def _texts_in_output(output: Any, said: Any = None) -> Texts:
    """Return the text of a whole response's items: messages, reasoning and tool calls; else what is `said` beside them."""
    seen, hidden = "", ""
    for item in output if isinstance(output, list) else ():
        if not isinstance(item, dict):
            continue
        if item.get("type") in _TEXT_ITEMS:
            open_, secret = texts_in(item.get("content") or item.get("text"))
            seen, hidden = seen + open_, hidden + secret
        else:
            parts = (texts_in(item.get(key)) for key in ("summary", "content"))
            hidden += "".join(a + b for a, b in parts) + tool_text([item]) + plain_text(item.get("code"))
    return (seen, hidden) if seen or hidden else texts_in(output if isinstance(output, str) else said)
