"""What is known of one answer while its rows are read: its events, its end, its counts, and what is odd in it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from loadtest.dialects.answers import ends
from loadtest.dialects.answers.errors import error_rows, server_errors
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.dialects.answers.rows import counted_text
from loadtest.dialects.answers.rows.counts import Usage, storable
from loadtest.dialects.answers.rows.text_shapes import NO_TEXTS, Texts
from loadtest.dialects.base import ContentEvents, Ending
from loadtest.metrics import VLLM_METRICS

FEW_PIECES = 8  # by which an answer may have more of them than tokens: a letter of several bytes that was cut
# A piece may be less than a token. Or a gateway had a second server go on with the answer, and that one counts its own part.
MORE_PIECES = "the answer came in more pieces than the server counts tokens: a piece may be less than a token, or the count of a part alone"
GATEWAYS_OWN = "a gateway wrote into the answer before the model did (llama-swap's loading state): that is left out, and TTFT is the model's"
_NOT_OF_MODEL = "the answer has text of a {}, not of the model: left out"
ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff\0"  # characters without width
_WITHOUT_ZERO_WIDTH = dict.fromkeys(map(ord, ZERO_WIDTH))
BLANK_FIRST = "the answer begins with pieces of characters without width: they are left out"
TWO_MODELS = "the answer's pieces name more than one model: its figures are of no one model"
BEGUN_TWICE = "the answer begins a second time behind text: a gateway asked again, and its figures are of both"
BEHIND_END = "the server went on with text behind the end that it had said: that text is left out"
ERROR_BEHIND = "the server says behind the end of the answer that something went wrong: {}"
ERROR_BESIDE = "the server says beside the answer that something went wrong: {}"
OF_ANOTHER = "the server answers in the format of another API"
_ODD_REASON = "the server ended the answer with finish_reason {}, which is not known"
_ENDED_BEHIND = "the answer ended behind {}, without saying that it is whole"
_UNREAD = (
    "the answer's events named {} hold no text that loadtest reads, like those of native APIs (Replicate, Gradio), and it ended behind "
    "{}: give the path of an OpenAI API"
)
_ASIDE = "the answer has text under the name {}: counted where no other comes"
LONGEST_NAME = 200  # characters kept of a model's name
MOST_SENTENCES = 8  # kept of an answer's notes


_OF_TOOLS = ("tool", "function")  # roles whose text the server's own tools wrote
OTHERS = (*_OF_TOOLS, "user", "human", "system", "developer")  # roles that are none of the model's


class Decoded:
    """What is known of one answer so far."""

    __slots__ = (
        "_aside",
        "_begun",
        "_echoed",
        "_echoes",
        "_last",
        "_named",
        "_of_another",
        "began",
        "end",
        "ending",
        "events",
        "finished_at",
        "kind",
        "marked",
        "model",
        "over",
        "stamped",
        "unstamped",
        "usage",
    )

    def __init__(self) -> None:
        self.events = ContentEvents()
        self.ending = Ending()
        self.usage = Usage()
        self.end = 0  # offset in the body behind the line at hand
        self.kind = b""  # the name of the event at hand, where it has one
        self.marked = False  # [DONE] was seen
        self.began: list[int] = []  # at which pieces another id began
        self.finished_at: int | None = None  # how many events had come at the first finish_reason
        self.stamped = False  # an instant of the server's was sent, or what should be one
        self.unstamped = False  # an event came without an instant of the server's
        self.over = False  # the end mark came: what follows is not part of the answer
        # how many events are text of which nothing says that it is the model's: all events so far, or none
        self._aside = 0
        self._begun: Any = None  # the id with which the answer began
        self.model = ""  # the model that the last piece of text was said to be of
        self._of_another = False  # some of the text aside came in rows of no known format
        self._named = ""  # the first name of an event whose words are no row, quoted
        self._last = b"", 0  # the last row of no known format, and how many events had come before it
        # how many events came first under a role that asks, such as user, and that role
        self._echoes, self._echoed = 0, ""

    def begin(self, said: Any) -> None:
        """Take the event that begins an answer; `said` is what the event says of the whole answer, its id among it.

        Some servers repeat that event, with the same id, before every piece.
        """
        name = said.get("id") if isinstance(said, dict) else None
        if self.events and not (name and name == self._begun):
            self.doubt(BEGUN_TWICE)
        self._begun = name

    def add(self, texts: Texts) -> None:
        """Take the text of one piece."""
        seen, hidden = texts
        if self._aside and any(texts):
            aside, self._aside = self._aside, 0
            if aside > 1 and self.has_all(texts):
                return  # the text aside is the model's, and said once more
            self.drop(aside)
        if hidden:
            self.events.add(hidden, self.end, hidden=True)
        if seen:
            self.events.add(seen, self.end)

    def add_aside(self, texts: Texts, name: str = "") -> None:
        """Take text of which nothing says that it is the model's; in a row of a known format it stands under `name`."""
        if name:
            self.note(_ASIDE.format(server_errors.quoted(name, 40)))
        if self._aside == len(self.events) and not (self._aside > 1 and self.has_all(texts)):
            self.events.add("".join(texts), self.end, hidden=not texts[0])
            self._aside, self._of_another = self._aside + 1, self._of_another or not name

    def keep_aside(self) -> bool:
        """Take the text aside for the model's, where all text so far came in rows of no known format; return whether it did."""
        if only := 0 < self._aside == len(self.events) and self._of_another:
            self._aside = 0
        return only

    def take_end(self) -> None:
        """Take the body's end: text aside counts as the model's where no other text came."""
        if (name := self.ending.finish_reason) and self.ending.error is None and ends.known_reason(name) is None:
            self.doubt(_ODD_REASON.format(server_errors.quoted(name, 40)))
        if self._aside and self._of_another:
            self.note(OF_ANOTHER)
            # most such servers have no other end
            self.ending.done = self.ending.done or self.marked or ends.names_an_end(self.last_words)

    def close(self) -> None:
        """Take the end of all rows: what a record keeps of the server's words, and Ollama's repeat guard."""
        ending = self.ending
        ending.server = {name: storable(said, name, self.note) for name, said in ending.server.items()}
        if not ending.done:
            ending.hint = server_errors.stopped_for_repeats(self.events.texts) or ending.hint

    def say_last(self, words: bytes) -> None:
        """Keep a row of no known format: where the answer breaks off behind it, it may say why."""
        self._last = words, len(self.events)

    def say_named(self, name: str, words: bytes) -> None:
        """Keep the words of an event of another name, which are no row."""
        self._named = self._named or server_errors.quoted(name, 40)
        self.note(f"the answer has events named {server_errors.quoted(name, 40)}")
        self.say_last(words)

    @property
    def last_words(self) -> bytes:
        """What was kept last, unless text came behind it."""
        return self._last[0] if self._last[1] == len(self.events) else b""

    def blame_last(self) -> None:
        """Take the last words for the reason of an answer that is not whole."""
        ending, words = self.ending, self.last_words
        if ending.done or not words:
            return
        row = parse_json(words)
        said = error_rows.error_within(row) or error_rows.message_alone(row) if isinstance(row, dict) else None
        if said is None and self._named and not self.events:
            said = _UNREAD.format(self._named, server_errors.quoted_beginning(words, 160))
        elif said is None and isinstance(row, dict) and not self.events:
            said = server_errors.not_a_stream(words)
        if said is not None:
            self.fail(said)
        elif ending.error is None and ending.hint != server_errors.MID_LINE:
            ending.hint = _ENDED_BEHIND.format(server_errors.quoted_beginning(words, 160))

    def has_all(self, texts: Texts) -> bool:
        """Whether these texts are all that came before, blanks around them aside."""
        events, (seen, hidden) = self.events, texts
        if 2 * (len(seen) + len(hidden)) < len(events):
            return False  # it is too short to be: joining all texts for each of 10,000 pieces takes seconds
        return (
            any(texts)
            and seen.strip() in ("", events.answer.strip())
            and hidden.strip() in ("", self.hidden_text.strip())
        )

    @property
    def hidden_text(self) -> str:
        """Return all hidden text so far."""
        return "".join(self.events.texts[i] for i in sorted(self.events.hidden))

    def of_another(self, role: str, texts: Texts) -> Texts:
        """Return the text to add where a piece has a role that is not the model's: none for a tool's, nor behind the model's text.

        Text that comes first under a role that asks is kept for now: it is an echo of the prompt (see `drop_echo`), unless the
        whole answer has that role.
        """
        if role not in _OF_TOOLS and self._echoes == len(self.events):
            self._echoes, self._echoed = self._echoes + sum(map(bool, texts)), role
            return texts
        self.note(_NOT_OF_MODEL.format(role))
        return NO_TEXTS

    def drop_echo(self) -> None:
        """Leave out an echo of the prompt before the model's text."""
        if 0 < self._echoes < len(self.events):
            self.drop(self._echoes)
            self.note(_NOT_OF_MODEL.format(self._echoed))

    def drop_foreign(self) -> None:
        """Leave out what came so far where it is hidden text alone: a gateway wrote it before the model's answer began."""
        if (count := len(self.events)) and len(self.events.hidden) == count:
            self.events.keep(count)
            self.note(GATEWAYS_OWN)

    def drop_blank(self) -> None:
        """Leave out the first pieces if they show nothing at all: they are signs of life, and no tokens."""
        texts = self.events.texts
        count = next((i for i, text in enumerate(texts) if text.strip(ZERO_WIDTH)), 0)
        if count:
            self.drop(count)
            self.note(BLANK_FIRST)

    def drop(self, count: int) -> None:
        """Leave out the first `count` events."""
        self.events.keep(count)
        self.finished_at = None if self.finished_at is None else max(self.finished_at - count, 0)

    def fail(self, why: str) -> None:
        if self.ending.error is None:  # the first one is the cause, the rest follow from it
            self.ending.error = why

    def fail_behind(self, why: str) -> None:
        """Take what went wrong by a row behind the end mark: it spoils no whole answer, and says why another is none."""
        known = self.ending.error
        if self.ending.done:
            self.doubt(ERROR_BEHIND.format(server_errors.quoted(why, 160)))
        elif known is None or (server_errors.is_ours(known) and why not in known):
            self.ending.error = why if known is None else f"{server_errors.shorten(known, 160)}: {why}"

    def take_error(self, row: dict[str, Any], said: str | None) -> None:
        """Fail the answer with what a row has `said` is wrong, or with the row where the event's name calls it an error."""
        if said is not None:
            self.fail(said)
        elif self.kind == b"error":
            self.fail(server_errors.error_sentence(row))

    def take_usage(self, said: Any) -> None:
        """Take a usage in OpenAI's words; anything else is none."""
        if isinstance(said, dict) and self.usage.take(said, self.note, self.doubt, pieces=len(self.events)):
            self.ending.server["usage"] = said

    def take_metrics(self, said: Any) -> None:
        """Take vLLM's durations of this answer; metrics of another shape are none."""
        if isinstance(said, dict) and said.keys() >= VLLM_METRICS:
            self.ending.server["metrics"] = said

    def take_final_usage(self) -> None:
        """Take the counts of the whole answer's usage."""
        usage = self.usage
        if usage.output is None:
            self.ending.prompt_tokens = usage.prompt or self.ending.prompt_tokens
        else:
            output = usage.final_output(self.note, self.doubt, pieces=len(self.events))
            self.count(usage.prompt, output, usage.reasoning)

    def take_model(self, name: Any) -> None:
        """Take which model a piece of text is said to be of."""
        if name != self.model and isinstance(name, str) and name:
            if self.model:
                self.doubt(TWO_MODELS)
            self.model = name

    def finish(self, name: str, value: Any, row: Any = None) -> None:
        """Take a finish_reason or done_reason by its name, as it was sent, and its row."""
        ending = self.ending
        known = ends.known_reason(name)
        ending.finish_reason = known or server_errors.shorten(name, 80)
        if (why := ends.ended_badly(name, value, row)) is not None:
            text = self.events.texts[-1] if self.events.ends[-1:] == [self.end] else ""
            in_words = "error" in name.lower() and " " in text.strip()  # exo's and LMDeploy's
            self.fail(f"{why}: {server_errors.error_sentence(text)}" if in_words else why)
            return
        ending.done = True
        if self.finished_at is None:
            self.finished_at = len(self.events)

    def count(self, prompt: int | None, output: int | None, reasoning: int = 0) -> None:
        """Take the server's final counts; a count of zero for an answer with text is unknown.

        `reasoning` is how many of the output tokens the server says were reasoning.
        """
        ending = self.ending
        if prompt == 0:
            self.note("the server counts no token of the prompt: unknown")
        if output == 0 and self.events:
            if prompt != 0:  # else the server counts nothing at all
                self.doubt("the server counts no token of an answer that has text: unknown")
            output = None
        if output and (why := counted_text.misfit(self.events, output, reasoning)) is not None:
            self.doubt(why)
            output = None
        elif output and len(self.events) > min(2 * output, 1.1 * output + FEW_PIECES):
            self.note(MORE_PIECES)
        ending.prompt_tokens, ending.output_tokens = prompt or None, output
        if output and self.events:
            early, late = self.usage.at_first, self.usage.after_text(reasoning)
            ending.unsent_tokens = counted_text.unsent(
                self.events, output, reasoning, early, late, self.note, self.doubt
            )

    def note(self, *sentences: str) -> None:
        _add_sentences(self.ending.notes, sentences)

    def doubt(self, *sentences: str) -> None:
        _add_sentences(self.ending.doubts, sentences)


def as_name(value: Any) -> str | None:
    """Return the model's name that an answer says, without our keys and escapes; None where it says none."""
    return _clean_name(value) if isinstance(value, str) else None


def other_model(said: str | None, asked: str) -> str | None:
    """Return the model that an answer says it is of (see as_name); None where that is the one that was asked for."""
    return None if said in (None, asked, f"{asked}:latest", as_name(asked)) else said


@lru_cache(maxsize=64)  # for the answers of a run say the same few names, and looking for our keys takes 30 µs
def _clean_name(name: str) -> str | None:
    return server_errors.shorten(name.translate(_WITHOUT_ZERO_WIDTH), LONGEST_NAME) or None


def _add_sentences(said: list[str], sentences: tuple[str, ...]) -> None:
    for sentence in sentences:
        if sentence not in said and len(said) < MOST_SENTENCES:
            said.append(sentence)


class Rows:
    """Takes the rows of one format's answers."""

    __slots__ = ("_answer", "seen")

    def __init__(self, answer: Decoded) -> None:
        self._answer = answer
        self.seen = False  # `take` was called, and so will `close` be

    def knows(self, row: dict[str, Any]) -> bool:
        """Whether a row is certainly one of this format's."""
        raise NotImplementedError

    def take(self, row: dict[str, Any]) -> bool:
        """Take a row; return whether the text of one event is all that the row says."""
        raise NotImplementedError

    def take_behind(self, lines: Iterable[bytes]) -> None:
        """Take lines behind the end mark: counts and errors, as some gateways send them, and text, which is none of the answer's."""
        for line in lines:
            if not line or (row := ends.row_of_line(line)) is None:
                continue
            if (why := error_rows.error_in_row(row)) is not None:
                self._answer.fail_behind(why)
            if b'"usage"' in line or b'_count"' in line:
                self.count_behind(row)
            rows = type(self)(other := Decoded())
            if rows.knows(row):
                rows.take(row)
            if other.events:
                self._answer.doubt(BEHIND_END)

    def count_behind(self, row: dict[str, Any]) -> None:
        """Take counts from a row that came behind the end mark."""

    def close(self) -> None:
        """Take the end of the answer."""
