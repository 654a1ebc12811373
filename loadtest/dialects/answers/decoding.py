"""An answer's bytes as rows of JSON: server-sent events, one object a line, or one object in all, whoever sends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import orjson

from loadtest.dialects.answers import doubtful_text, ends
from loadtest.dialects.answers.decoded import Decoded, Rows
from loadtest.dialects.answers.errors import error_rows, server_errors
from loadtest.dialects.answers.lines import framing
from loadtest.dialects.answers.lines.alike_lines import AlikeLines
from loadtest.dialects.answers.lines.lenient_json import objects_in, parse_json
from loadtest.dialects.answers.rows import event_rows
from loadtest.dialects.answers.rows.foreign_rows import ALL_FORMATS, ForeignRows, Formats
from loadtest.dialects.base import Ending

MOST_EVENTS = 1_000_000
BLANK = (b"", b"\r")  # lines
MOST_STRAY = 1000  # lines of an object outside of all events, in mid-answer
TOO_MANY = f"the answer has more than {MOST_EVENTS:,} events"
LONGEST_WORD, MOST_ODD = 40, 4096  # bytes


class StreamDecoder:
    """Decodes an answer in whatever format: `own` takes the rows of the one that was asked for, `others` all other rows.

    A data line that is a JSON object by itself is taken at once, without waiting for the blank line after it, which
    may come in a later read. Any other is held until that blank line, joined with its neighbours as the standard says;
    where it does not begin like JSON, a whole row behind it ends it too.
    """

    __slots__ = (
        *("_alike", "_answer", "_comment", "_events", "_foreign", "_held", "_kind", "_lines"),
        *("_names", "_newline", "_odd_line", "_own", "_row_seen", "_silent", "_stray", "_typed", "events"),
    )
    others: ClassVar[Formats] = ALL_FORMATS

    def __init__(self, own: Callable[[Decoded], Rows], names: tuple[bytes, ...] = ()) -> None:
        """`names` are how the names of this format's own events begin; such a name says nothing that the event's data does not."""
        self._names = names
        self._kind = ""  # the name of the latest event of this format
        # a row said its type; a server that says types by the events' names alone says none in the rows
        self._typed = False
        self._silent: tuple[bytes, ...] = BLANK  # lines that say nothing: blank ones, and the latest event's name
        self._answer = Decoded()
        self.events = self._answer.events
        self._alike = AlikeLines(self.events)
        self._own = own(self._answer)
        self._foreign = ForeignRows(self._answer, self._own, self.others)
        self._lines = framing.LineSplitter()
        self._held: list[bytes] = []  # data lines of an event not yet whole
        # lines that are no rows: before the first row, any; later, those of an object over many lines outside of all events
        self._stray: list[bytes] = []
        self._row_seen = False
        self._events = False  # a row came as an event
        self._newline = 1  # bytes behind the line at hand: 0 where the body's last line lacks its newline
        self._comment = b""  # comments in an event that is an error
        self._odd_line: bytes | None = None  # lines of an event stream that are no event's, at least one

    @property
    def failed(self) -> bool:
        error = self._answer.ending.error
        return error is not None and not server_errors.is_ours(error)

    def feed(self, data: bytes) -> None:
        lines, answer, at = self._lines.feed(data), self._answer, 0
        while at < len(lines) and not answer.over:
            idle = not (self._held or answer.kind)
            if idle and (taken := self._alike.take(lines, at, self._silent, answer.end)):
                at, answer.end = at + taken, self.events.ends[-1]
            else:
                line = lines[at]
                at += 1
                answer.end += len(line) + 1
                # most blank lines end an event that was taken already
                if not (idle and line in BLANK) and self.line(line):
                    self._alike.learn(line)
            if len(self.events.texts) > MOST_EVENTS:
                self.events.keep(0, MOST_EVENTS)
                self._stop(TOO_MANY)
        if at < len(lines):
            self._own.take_behind(lines[at:])
        elif self._lines.too_long and not answer.over:
            self._stop(framing.TOO_LONG)

    def _stop(self, why: str) -> None:
        self._answer.fail(why)
        self._over()

    def _over(self) -> None:
        self._answer.over = True
        self._held.clear()
        self._alike.forget()

    def close(self) -> Ending:
        answer = self._answer
        ending = answer.ending
        rest = self._lines.rest()
        answer.end += len(rest)
        self._newline = 0 if rest else 1
        if answer.over:
            self._own.take_behind((rest,))
        elif rest or self._held:
            self._rest(rest)
        if self._stray and not answer.over:
            self._end_stray()
        if answer.kind == b"error" and not self._held:
            answer.fail(server_errors.sentence_in(self._comment))
        answer.take_end()
        for rows in (self._own, *self._foreign.formats):
            if rows.seen:
                rows.close()
        answer.close()
        if not ending.done and self._odd_line is not None:
            answer.fail(server_errors.undecodable(self._odd_line))
        answer.blame_last()
        if ending.done and not (answer.marked or answer.over) and answer.finished_at is not None:
            ending.went_on = len(answer.events) > answer.finished_at
        answer.events.check_stamps(answer.note, unknown=answer.unstamped, sent=answer.stamped)
        answer.doubt(*doubtful_text.doubts(answer.events, ending.output_tokens, answer.began))
        if ending.done or not answer.end:
            ending.hint = None if ending.done else server_errors.EMPTY_ANSWER
        return ending

    def _rest(self, rest: bytes) -> None:
        """Take a last line without its newline."""
        ending = self._answer.ending
        bare = framing.plain_field(rest).removeprefix(framing.BOM)
        if bare.startswith(framing.EVENT_FIELDS) or ends.is_done(bare):
            self.line(rest)
        elif bare and any(field.startswith(bare) for field in framing.EVENT_FIELDS):
            ending.hint = server_errors.MID_LINE
        elif bare and self._row_seen:
            if isinstance(row := parse_json(bare), dict):
                self._row(row)
            elif not bare.startswith(b"{"):
                self._no_field(bare)
            elif not self._in_list(bare):
                ending.hint = server_errors.MID_LINE
        elif bare:
            self._stray.append(rest)
        if self._held and not self._end_event(whole=False):
            ending.hint = server_errors.MID_LINE

    def line(self, line: bytes) -> bool:
        """Parse a line; return whether the text of one event is all that the line says."""
        if line.endswith(b"\r"):
            line = line[:-1]
        if line.startswith(b"data:"):
            return self._data(line[5:])
        if line.startswith(b"{") and not self._stray:
            return self._object(line)
        if not line:
            self._blank()
        elif line.startswith(b"event:"):
            self._event(line)
        elif line.startswith(framing.BOM):  # allowed at the very start
            return self.line(line[3:])
        elif line.startswith(b"error:"):  # llama.cpp
            self._answer.fail(server_errors.sentence_in(line[6:]))
        elif line.startswith(b":"):
            if self._answer.kind == b"error":  # Dynamo says what went wrong in comments
                self._comment = (self._comment + line[1:] + b"\n")[:MOST_ODD]
            elif not framing.is_keepalive(line[1:]):
                self._answer.say_last(line[1:])
        elif not line.startswith(framing.EVENT_FIELDS):
            bare = framing.plain_field(line)
            if bare.startswith(framing.EVENT_FIELDS):
                return self.line(bare)
            if bare.startswith(b"{") and not (self._stray or self._held):
                return self._object(bare)
            if bare and bare not in framing.EMPTY_FIELDS:
                self._no_field(line)
        return False

    def _event(self, line: bytes) -> None:
        name = line[6:].strip()
        if name.startswith(self._names):
            self._answer.kind = b""
            if line not in self._silent:  # the same words under another name may be thoughts
                self._alike.forget()
            self._silent, self._kind = (*BLANK, line, line + b"\r"), name.decode(errors="replace")
            return
        name, data, said = name.partition(b" data:")  # in one line
        self._answer.kind = b"error" if ends.names_an_error(name) else b"" if name == b"message" else name
        self._alike.forget()
        if data:
            self._data(said)

    def _object(self, line: bytes) -> bool:
        """Take a line that begins like an object: one of NDJSON, or the first of an object that has many."""
        row = parse_json(line)
        if isinstance(row, dict):
            return self._row(row)
        if not (self._in_list(line) or self._rows(row, line)):
            self._stray.append(line)
            self._alike.forget()
        return False

    def _rows(self, value: Any, data: bytes) -> bool:
        """Take what is JSON of rows, though not of one row alone; return whether it is."""
        answer = self._answer
        rows, line_end = event_rows.rows_within(value, data, answer.note, self._own.knows), answer.end
        for row, end in rows:
            if len(rows) > 1:
                answer.end = line_end - self._newline - len(data) + end
            if not answer.over:
                self._row(row)
        answer.end = line_end
        return bool(rows)

    def _no_field(self, line: bytes) -> None:
        """Take a line that is neither a field of an event nor a row."""
        if ends.is_done(line) or (b"[DONE]" in line and len(line) < LONGEST_WORD):
            self._mark()
        elif line.lstrip().startswith(b"<!--") and line.rstrip().endswith(b"-->"):
            self._answer.note(event_rows.NO_EVENT)
        elif self._held:  # an object of many lines behind one "data:"
            self._held.append(line)
        elif self._in_list(line) or (b"{" in line and not self._stray and self._rows(None, line)):
            return
        elif self._row_seen and not self._stray:
            self._between(line)
        elif line.startswith(b"{") and isinstance(row := parse_json(line), dict) and self._ends_stray(row):
            self._row(row)
        else:
            self._stray.append(line)
            if self._row_seen and line.startswith((b"}", b"]")) and len(self._stray) < MOST_STRAY:
                self._end_stray(whole=False)

    def _in_list(self, line: bytes) -> bool:
        """Take a line of a list that is sent a row at a time; return whether it is one."""
        row = event_rows.row_in_list(line, self._stray, begun=self._row_seen)
        if row is None or (row and not (self._row_seen or self._own.knows(row))):
            return False
        if row:
            self._stray.clear()
            self._row(row)
        return True

    def _between(self, line: bytes) -> None:
        """Take a line in mid-answer that is neither a field of an event nor JSON: clients pass over it in an event stream."""
        if event_rows.is_chunk_size(line) or framing.is_keepalive(line):
            self._answer.note(event_rows.NO_EVENT)
        elif line.startswith(b"[" if self._events else b"<"):  # a list of many lines, a page in mid-answer
            self._stray.append(line)
            self._alike.forget()
        elif not self._events:
            self._answer.fail(server_errors.undecodable(line))
        else:
            self._answer.note(event_rows.NO_EVENT)
            self._odd_line = line if self._odd_line is None else (self._odd_line + b"\n" + line)[:MOST_ODD]

    def _ends_stray(self, row: dict[str, Any]) -> bool:
        """Whether a whole row shows that the stray lines before it are no part of an object; if so they are an error."""
        if not self._row_seen and not self._own.knows(row):
            return False
        odd = [line for line in self._stray if not (event_rows.is_chunk_size(line) or framing.is_keepalive(line))]
        if any(odd) and error_rows.error_in_row(row) is None:  # else the server itself says why it broke off
            self._answer.fail(server_errors.undecodable(b"\n".join(odd)))
        self._stray.clear()
        return True

    def _end_stray(self, *, whole: bool = True) -> None:
        """Take the stray lines as one object; `whole`: no more follow, so that an error is what is no object."""
        body = b"\n".join(self._stray)
        if not self._row_seen:
            self._whole(body)
            return
        rows = objects_in(parse_json(body))
        for row in rows:
            self._row(row)
        if rows or whole:
            self._stray.clear()
        if whole and not rows:
            self._answer.fail(server_errors.undecodable(body))

    def _data(self, data: bytes) -> bool:
        answer = self._answer
        if self._stray and self._row_seen:
            self._end_stray()
        if self._held and (ends.is_done(data) or self._begins_anew(data)):
            self._end_event(whole=True)  # without a blank line: some servers send none
        if not self._held:
            if data.lstrip().startswith(b"data:"):
                data = ends.bare_data(data)
                answer.note(event_rows.FRAMED_TWICE)
            if ends.is_done(data):
                self._mark()
                return False
            try:
                row, strict = orjson.loads(data), True
            except orjson.JSONDecodeError:
                row, strict = parse_json(data), False
            if isinstance(row, dict):
                self._events = True
                return self._row(row) and strict
            if self._rows(row, data):
                self._events = True
                return False
            if answer.kind in (b"", b"data") and (not data.strip() or framing.is_keepalive(data)):
                return False
        if answer.kind not in (b"", b"error", b"data"):
            if data.strip() and answer.kind != b"done":
                answer.say_named(answer.kind.decode(errors="replace"), data)
            return False
        self._held.append(data.removeprefix(b" "))
        self._alike.forget()
        return False

    def _begins_anew(self, data: bytes) -> bool:
        """Whether a data line is an event of its own behind held lines that are none: not a part of their object."""
        if self._held[0].lstrip().startswith((b"{", b"[")):
            return False
        row = parse_json(data)
        return isinstance(row, dict) and self._own.knows(row)

    def _blank(self) -> None:
        """End an event."""
        answer = self._answer
        if self._stray and not self._row_seen:
            self._stray.append(b"")
        if self._held:
            self._end_event(whole=True)
        elif answer.kind == b"error":
            comment, self._comment = self._comment, b""
            if framing.is_keepalive(comment):
                return  # a gateway put it into the event, whose data is still to come
            # without a comment: data that came before the event's name
            answer.fail(server_errors.sentence_in(comment or answer.last_words))
        if answer.kind == b"done":
            self._mark()
        answer.kind = b""

    def _mark(self) -> None:
        if self._stray and self._row_seen:
            self._end_stray()
        self._answer.marked = True
        self._over()

    def _end_event(self, *, whole: bool) -> bool:
        """Decode the held data lines as one event, else each for itself; return whether that is possible.

        `whole` says that the event ended: what cannot be read then is an error.
        """
        held, self._held = self._held, []
        data = b"\n".join(held)
        row = parse_json(data)
        if isinstance(row, dict):
            self._row(row)
            return True
        if self._answer.kind == b"error":
            self._answer.fail(server_errors.sentence_in(data))
        if self._answer.kind == b"error" or not data.strip():
            return True
        if whole:
            rows = [parse_json(line) for line in held]
            if len(rows) > 1 and any(isinstance(row, dict) for row in rows):
                is_said = any(isinstance(row, dict) and error_rows.error_in_row(row) for row in rows)
                for line, row in zip(held, rows, strict=True):
                    if self._answer.over:
                        break
                    if isinstance(row, dict):
                        self._row(row)
                    elif line.strip() and not is_said:
                        self._answer.fail(server_errors.undecodable(line))
            elif self._answer.ending.done and len(data) < LONGEST_WORD and b"error" not in data.lower():
                self._answer.note(event_rows.BEHIND_FINISH)
            else:
                self._answer.fail(server_errors.undecodable(data))
        return False

    def _whole(self, body: bytes) -> None:
        """Take a body that is no stream: a JSON answer, a JSON error, or a page of another program."""
        body = body.lstrip().removeprefix(framing.BOM)
        if self._rows(parse_json(body), body):  # Gemini's [{"error": …}] is one
            return
        if body.lstrip().startswith(b"{"):
            self._answer.ending.hint = server_errors.MID_LINE
        else:
            self._answer.fail(server_errors.not_a_stream(body))

    def _row(self, row: dict[str, Any]) -> bool:
        """Take a row; return whether it is of the format that was asked for and the text of one event is all that it says.

        It has its event's name for a type where it has none of its own, unless it is an error's.
        """
        self._typed = self._typed or "type" in row
        if self._kind and not (
            self._typed or "object" in row or error_rows.error_in_row(row) or error_rows.error_in_envelope(row)
        ):
            row = {"type": self._kind, **row}
        if not self._row_seen:
            self._row_seen = True
            self._stray.clear()
        rows: Rows | None = self._own
        is_own = self._own.knows(row)
        if not is_own:
            rows, row = self._foreign.known(row)
        alike = False
        if rows is not None:
            rows.seen = True
            alike = rows.take(row) and is_own
        if self._answer.ending.done:  # few lines come behind that, and none that is like those before
            self._alike.forget()
        if self._answer.over:
            self._over()
        return alike
