"""Ollama's native API: one JSON object a line, each with the server's own stamp."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson

from loadtest.measure.dialects.base import Ending, EndMarks, Events
from loadtest.measure.dialects.faults import MID_LINE, repeated, sentence, undecodable
from loadtest.measure.dialects.framing import Lines, StampedMould, tool_text
from loadtest.measure.workload import Job

ENDS = EndMarks()


@dataclass(frozen=True, slots=True)
class OllamaChat:
    """POST /api/chat. Preferred: the last line of /api/generate repeats every token id and comes late for it.

    num_ctx must stay the same for a whole run, and no /v1 traffic may mix in: every change reloads the model.
    """

    model: str
    num_ctx: int | None = None
    temperature: float | None = None

    @property
    def name(self) -> str:
        return "ollama-chat"

    @property
    def ends(self) -> EndMarks:
        return ENDS

    def encode(self, job: Job) -> tuple[str, bytes]:
        messages = [{"role": "user", "content": job.prompt}]
        return "/api/chat", orjson.dumps(
            {"model": self.model, "messages": messages, "stream": True}
            | _options(job, num_ctx=self.num_ctx, temperature=self.temperature)
        )

    def decoder(self) -> OllamaDecoder:
        return OllamaDecoder(chat=True)


@dataclass(frozen=True, slots=True)
class OllamaGenerate:
    """POST /api/generate; the options are those of OllamaChat."""

    model: str
    num_ctx: int | None = None
    temperature: float | None = None

    @property
    def name(self) -> str:
        return "ollama-generate"

    @property
    def ends(self) -> EndMarks:
        return ENDS

    def encode(self, job: Job) -> tuple[str, bytes]:
        return "/api/generate", orjson.dumps(
            {"model": self.model, "prompt": job.prompt, "stream": True}
            | _options(job, num_ctx=self.num_ctx, temperature=self.temperature)
        )

    def decoder(self) -> OllamaDecoder:
        return OllamaDecoder(chat=False)


def _options(job: Job, **chosen: float | None) -> dict[str, Any]:
    """Return {"options": …} with what is set; what is not set stays the server's or the Modelfile's."""
    options = {"num_predict": job.output_tokens, **chosen}
    said = {key: value for key, value in options.items() if value is not None}
    return {"options": said} if said else {}


class OllamaDecoder:
    """Decodes NDJSON of /api/chat and /api/generate, streamed or not."""

    __slots__ = ("_chat", "_end", "_ending", "_key", "_lines", "_mould", "events")

    def __init__(self, *, chat: bool) -> None:
        self.events = Events()
        self._chat = chat
        self._key = "content" if chat else "response"
        self._lines = Lines()
        self._end = 0  # offset in the body behind the line at hand
        self._ending = Ending()
        self._mould = StampedMould()

    def feed(self, data: bytes) -> None:
        events = self.events
        for line in self._lines.feed(data):
            self._end += len(line) + 1
            if (found := self._mould.read(line)) is not None:
                text, created = found
                events.texts.append(text)
                events.ends.append(self._end)
                events.created.append(created)
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                row = None
            if isinstance(row, dict):
                before = len(events)
                self._row(row)
                if len(events) == before + 1:
                    self._shape(line, row)
            elif line.strip():
                self._fail(undecodable(line))

    def _shape(self, line: bytes, row: dict[str, Any]) -> None:
        """Shape the mould by a line with one event, if that is answer text and nothing else was said so far."""
        stamp, last = row.get("created_at"), len(self.events) - 1
        if self._ending.done or self._ending.error or last in self.events.hidden:
            return
        if isinstance(stamp, str) and len(stamp) == 30 and stamp[29] == "Z" and (nine := stamp[20:29]).isdecimal():
            created = self.events.created[last]
            if created is not None:
                self._mould.shape(line, self.events.texts[last], stamp[:20], created - int(nine))

    def close(self) -> Ending:
        rest = self._lines.rest()
        ending = self._ending
        self._end += len(rest)
        if rest.strip():
            try:
                row = orjson.loads(rest)
            except orjson.JSONDecodeError:
                row = None
            if isinstance(row, dict):
                self._row(row)
            elif rest.lstrip().startswith(b"{"):
                ending.hint = MID_LINE
            else:
                self._fail(undecodable(rest))
        ending.hint = None if ending.done else repeated(self.events.texts) or ending.hint
        return ending

    def _fail(self, why: str) -> None:
        if self._ending.error is None:  # the first one is the cause, the rest follow from it
            self._ending.error = why

    def _row(self, row: dict[str, Any]) -> None:
        holder = row.get("message") if self._chat else row
        if isinstance(holder, dict):
            text = holder.get(self._key)
            if "thinking" in holder or "tool_calls" in holder:
                self._unseen(holder, row)
            if text and isinstance(text, str):
                self._add(text, row)
        if row.get("done") is True:
            self._done(row)
        elif error := row.get("error"):
            self._fail(sentence(error))

    def _add(self, text: str, row: dict[str, Any], *, hidden: bool = False) -> None:
        self.events.add(text, self._end, hidden=hidden)
        self.events.created.append(nanoseconds(row.get("created_at")))

    def _unseen(self, holder: dict[str, Any], row: dict[str, Any]) -> None:
        """Add what a user does not see as answer text: thinking and tool calls."""
        thinking = holder.get("thinking")
        if thinking and isinstance(thinking, str):
            self._add(thinking, row, hidden=True)
        if calls := holder.get("tool_calls"):
            self._add(tool_text(calls), row, hidden=True)

    def _done(self, row: dict[str, Any]) -> None:
        """Take the last line's facts. A zero is left out by the server, so an absent count is not known to be zero."""
        ending = self._ending
        ending.done = True
        reason = row.get("done_reason")
        ending.finish_reason = reason if isinstance(reason, str) else None
        ending.server = {
            key: value for key, value in row.items() if key.endswith(("_duration", "_count")) and isinstance(value, int)
        }
        ending.prompt_tokens = ending.server.get("prompt_eval_count")
        ending.output_tokens = ending.server.get("eval_count")
        if error := row.get("error"):
            self._fail(sentence(error))


def nanoseconds(stamp: Any) -> int | None:
    """Return an RFC 3339 instant as nanoseconds since 1970, all nine decimals kept; None where it is not one.

    datetime keeps six decimals only, and takes several times as long: the second's prefix is parsed once for all the
    lines that share it.
    """
    if not isinstance(stamp, str):
        return None
    try:
        if len(stamp) == 30 and stamp[29] == "Z" and stamp[19] == "." and (nine := stamp[20:29]).isdecimal():
            return _second(stamp[:19]) * 1_000_000_000 + int(nine)  # by far the most frequent form
        if stamp[-1] == "Z":
            fraction = stamp[20:-1]
            offset = 0
        else:  # …+02:00
            fraction = stamp[20:-6]
            hours, minutes = stamp[-5:].split(":")
            offset = (int(hours) * 60 + int(minutes)) * {"+": 60, "-": -60}[stamp[-6]]
        if (stamp[19] == ".") != fraction.isdecimal():
            return None
        return (_second(stamp[:19]) - offset) * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError):
        return None


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (naive on both sides: only the difference counts)


@lru_cache(maxsize=64)
def _second(prefix: str) -> int:
    return (datetime.fromisoformat(prefix) - _EPOCH) // timedelta(seconds=1)
