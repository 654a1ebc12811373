"""The chunks of /v1/chat/completions and /v1/completions, and their answers that are no stream, as events and counts."""

from __future__ import annotations

from typing import Any

from loadtest.dialects.answers import ends
from loadtest.dialects.answers.decoded import OTHERS, Decoded, Rows, as_name
from loadtest.dialects.answers.errors import error_rows, server_errors
from loadtest.dialects.answers.rows.counts import (
    BEDROCK,
    MOST_TOKENS,
    OUTPUT,
    kind_of_count,
    known_number,
    timing_contradiction,
    usage_in,
    without_durations,
)
from loadtest.dialects.answers.rows.text_shapes import (
    NO_TEXTS,
    REASONING,
    TAKEN_FOR_REASONING,
    Texts,
    as_marked,
    by_number,
    said_with_signature,
    texts_in,
    texts_in_message,
    texts_of_bare,
    under_odd_names,
)
from loadtest.dialects.base import Note

ENGINE_DIED = "the last chunk names no model and holds no text: the engine died (Ollama's /v1 loses the error itself)"
NO_FINISH = (
    "the server said [DONE] without a finish_reason, so a whole answer looks like a cut one; some gateways never send one, and "
    "llama-cpp-python's does so where another request comes in mid-answer, unless started with --interrupt_requests false"
)
_OWN = frozenset(
    ("id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier", "timings")
)
# keys of a choice beside which no text stands but the delta's
_OF_CHOICES = frozenset(("index", "delta", "finish_reason", "logprobs", "stop_reason", "token_ids"))
MOST_INDICES = 64  # of choices, and of ids, that are kept
# the same under other servers' names
USAGES = frozenset(
    ("usage", "Usage", "usageMetadata", "usage_metadata", "token_usage", "tokenUsage", "tokens", BEDROCK)
)
# of a choice without finish_reason, the likeliest first
_REASONS = dict.fromkeys(
    ("finish_details", "finishReason", "finish_reasons", "native_finish_reason", "stop_reason", "stopReason")
)
_BESIDE = (*REASONING, "content", "refusal", "tool_calls", "function_call")
# that say in a choice that it is the last
_FLAGS = frozenset(("done", "is_finished", "is_end", "is_final", "is_last", "finished", "stop"))
SEVERAL_IDS = "the answer's pieces carry more than one id"
MIXED = "the answer's pieces carry two ids in turns: they are of two answers, and its figures are of both"
BEHIND_PIECES = "the answer has text in two places, its pieces and beside them: both are counted"
REPEATED = "the last chunk repeats the whole answer: counted once"
LABEL_NOTE = "one word, so no token: left out"
MOST_IDS = 3  # more than one, above which every chunk may have its own


class OpenAIRows(Rows):
    """Takes the chunks of chat and completions, and a whole answer, from servers that ignore `stream`."""

    __slots__ = (
        *("_bare", "_before", "_first", "_id", "_ids", "_index", "_indices", "_last"),
        *("_piecewise", "_strange", "_whole"),
    )

    def __init__(self, answer: Decoded) -> None:
        super().__init__(answer)
        self._first: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._index: int | str | None = None  # of the last choice
        self._indices: set[int | str] = set()  # of all choices so far
        self._piecewise = False  # text came in a piece of a stream
        self._bare = True  # all chunks so far are bare: they name neither answer nor model nor choice
        self._before = 0  # events before the last chunk that was like none before
        self._id = ""  # that the last piece of text was said to be of
        self._ids: set[str] = set()  # of all pieces so far
        self._whole = False  # a message came that is no piece of a stream
        # which events are text under a name that is not known, and whether a role is beside it
        self._strange: list[tuple[int, bool]] = []

    def knows(self, row: dict[str, Any]) -> bool:
        if isinstance(row.get("choices"), list | dict):
            return True
        kind = row.get("object")
        return isinstance(kind, str) and kind.startswith(("chat.completion", "text_completion"))

    def take(self, row: dict[str, Any]) -> bool:
        self._first, self._last = self._first or row, row
        events = self._answer.events
        if self._bare and not _is_bare(row):
            self._bare = False
            if row.get("choices") and (row.get("id") or row.get("model")):
                self._answer.drop_foreign()
        self._before = before = len(events.texts)
        alike = True
        choices = row.get("choices")
        if isinstance(choices, dict):
            choices = by_number(choices) or [choices]
        said = _error_in(row)
        self._answer.take_error(row, said)  # before a finish_reason that says no more than "error"
        if choices and isinstance(choices, list):
            for position, choice in enumerate(choices):
                if isinstance(choice, dict):
                    alike = self._choice(choice, position) and alike
                elif choice:
                    self._answer.doubt("the answer has choices that are no objects: what they say is left out")
        own = row.keys() <= _OWN  # and so it has no text beside its choices
        if len(events.texts) == before and not (own or said or self._answer.kind) and self.knows(row):
            holder = {name: row[name] for name in _BESIDE if name in row} if choices else row
            if any(texts := self._beside(holder, ("delta", "text", "result"), bool)):
                self._add(texts, again=True)
            elif not choices and (warnings := row.get("warnings")):  # of a guardrail that may let nothing through
                self._answer.say_last(server_errors.as_json({"warnings": warnings}))
        self._numbers(row)
        ending = self._answer.ending
        if not ending.done and (
            reason := row.get("finish_reason")
            or row.get("finishReason")
            or ((not choices or row.get("done")) and _flag(row))
        ):
            self._reason(reason)
        if len(events.texts) > before:
            self._take_names(row)
        return alike and len(events.texts) == before + 1 and not (ending.done or ending.server or ending.error)

    def _take_names(self, row: dict[str, Any]) -> None:
        """Take which model and which answer a piece is said to be of."""
        self._answer.take_model(row.get("model"))
        name = row.get("id")
        if name != self._id and isinstance(name, str) and name:
            if self._id and len(self._answer.began) <= MOST_IDS:
                self._answer.began.append(self._before)
            if name in self._ids:
                self._answer.doubt(MIXED)
            elif len(self._ids) < MOST_INDICES:
                self._ids.add(name)
            self._id = name

    def _choice(self, choice: dict[str, Any], position: int) -> bool:
        """Take one choice; return whether it is a piece of a stream."""
        answer = self._answer
        odd: list[str] = []
        delta = choice.get("delta")
        if delta is None and "messages" in choice:
            delta = _in_messages(choice["messages"])
        piece, own = delta is not None, True
        if delta is None:
            delta = choice.get("message")  # a whole answer, not streamed
            self._whole = delta is not None
        if isinstance(delta, dict):
            texts = texts_in_message(delta, odd.append)
            if odd and odd[-1].endswith(TAKEN_FOR_REASONING):
                if len(answer.events) > 1 and answer.has_all((texts[1], "")):
                    texts, odd = NO_TEXTS, [REPEATED]
                else:
                    self._strange.append((len(answer.events), "role" in delta))
            if texts[1] and said_with_signature(delta) and answer.hidden_text.endswith(texts[1]):
                texts = texts[0], ""  # LiteLLM says a block of thoughts again, whole, beside its signature
            if (role := str(delta.get("role")).lower()) in OTHERS and any(texts):
                own, odd, texts = False, [], answer.of_another(role, texts)
        else:
            texts = texts_of_bare(choice.get("text") if delta is None else delta, odd.append)
            piece = piece or choice.get("message") is None
        if (beside := not any(texts)) and not choice.keys() <= _OF_CHOICES:
            holder = {name: value for name, value in choice.items() if value is not delta}
            texts = self._beside(holder, ("text",), odd.append)
        texts = as_marked(texts, choice)
        if position == 0 or any(texts):
            self._take_index(choice.get("index", position), first=position == 0, has_text=any(texts))
        self._add(texts, again=beside or not piece, piece=piece)
        if odd:
            answer.note(*odd)
        self._finish(choice, delta if isinstance(delta, dict) else {})
        return piece and own and len(self._indices) < 2

    def _add(self, texts: Texts, *, again: bool, piece: bool = True) -> None:
        """Add text, which may be `again` all that came so far; `piece`: it is one of a stream."""
        answer = self._answer
        if again and any(texts) and (self._piecewise or len(answer.events) > 1) and answer.has_all(texts):
            answer.note(REPEATED)
            return
        if again and any(texts) and self._piecewise:
            answer.note(BEHIND_PIECES)
        answer.ending.whole = not (piece or answer.events)
        answer.add(texts)
        self._piecewise = self._piecewise or (piece and not again and any(texts))

    def _beside(self, holder: dict[str, Any], names: tuple[str, ...], note: Note) -> Texts:
        """Return text in a choice or row whose delta has none: a content or reasoning, a message, else under these names."""
        known = {name: holder[name] for name in _BESIDE if holder.get(name)}
        for value in (known, holder.get("delta"), holder.get("message")):
            if value and isinstance(value, dict) and any(texts := texts_in_message(value, note)):
                return texts
        if found := next((texts for name in names if any(texts := texts_in(holder.get(name)))), None):
            return found
        for name, text in under_odd_names(holder):
            self._answer.add_aside((text, ""), name)
        return NO_TEXTS

    def _take_index(self, index: Any, *, first: bool, has_text: bool) -> None:
        """Take a choice's index, and doubt an answer of several choices; an index new in every chunk only counts them (TGI)."""
        if not isinstance(index, int | str):
            return
        if self._index is None:
            again = False
        elif index == self._index:
            again = has_text and len(self._indices) > 1
        else:
            again = not first or index in self._indices or self._answer.ending.done
        if again:
            self._answer.doubt("the answer has more than one choice, and one was asked for: all are counted")
        self._index = index
        if len(self._indices) < MOST_INDICES:
            self._indices.add(index)

    def _finish(self, choice: dict[str, Any], delta: dict[str, Any]) -> None:
        """Take what a choice says of the end, be it in the choice or in its delta."""
        answer = self._answer
        wrong = choice.get("error") or choice.get("error_message") or delta.get("error") or delta.get("error_message")
        if wrong and (said := error_rows.error_in_row({"error": wrong})) is not None:
            answer.fail(said)
        # OpenRouter's provider may have failed though all is said to be well.
        native = choice.get("native_finish_reason")
        if isinstance(native, str) and (why := ends.ended_badly(native, native)) is not None:
            answer.fail(why)
        if usage := choice.get("usage") or delta.get("usage"):
            answer.take_usage(usage)
        value = choice.get("finish_reason")
        if value is None:
            value = delta.get("finish_reason")
            if not value and not _REASONS.keys().isdisjoint(choice):
                value = next(
                    (choice[name] for name in _REASONS if isinstance(choice.get(name), str | dict | list)), None
                )
            value = _flag(choice) if value is None else value
        if value is not None:
            self._reason(value)

    def _reason(self, value: Any) -> None:
        """Take a finish_reason, be it the number of a name that only the server knows; number 0 is none."""
        if isinstance(value, int) and value > 0:
            value = "stop" if value is True else str(value)
        if (name := ends.reason_name(value)) is not None:
            self._answer.finish(name, value, self._last)

    def _numbers(self, row: dict[str, Any]) -> None:
        """Take usage from wherever it is sent: the row, or an object of the row's, such as x_groq; and timings."""
        for name, value in row.items():
            if type(value) is dict:
                counts = (key for key in value if "token" in key.lower() and kind_of_count(key) == OUTPUT)
                if name in USAGES:
                    self._answer.take_usage(value)
                elif not row.get("usage") and any(counts):  # beside counts such an object may hold the prompt itself
                    self._answer.take_usage({key: one for key, one in value.items() if not isinstance(one, str)})
                elif usage := value.get("usage") or value.get("tokens"):
                    self._answer.take_usage(usage)
        if (usage := row.get("usage")) and isinstance(usage, list | str):
            self._answer.take_usage(usage_in(usage))
        if isinstance(timings := row.get("timings"), dict):
            self._answer.ending.server["timings"] = timings
        self._answer.take_metrics(row.get("metrics"))
        if "prompt_tokens" in row or "completion_tokens" in row:
            self._answer.take_usage(row)

    def count_behind(self, row: dict[str, Any]) -> None:
        if not row.get("choices") and self._answer.usage.output is None:  # none came before it
            self._numbers(row)

    def close(self) -> None:
        answer, ending = self._answer, self._answer.ending
        if self._whole and self._first is self._last and answer.events and ending.error is None:
            ending.done = True  # a whole answer is one, whether or not it says why it ended
        if 0 < len(answer.began) <= MOST_IDS and 4 * len(answer.began) < len(answer.events):
            answer.note(SEVERAL_IDS)
        else:
            answer.began.clear()
        answer.drop_echo()
        answer.drop_blank()
        self._drop_labels()
        # gateways that count themselves name what was asked for there, whatever model the text is of
        names = (answer.model, self._last.get("model"), self._first.get("model"))
        ending.model = next(filter(None, map(as_name, names)), None)
        timings = ending.server.get("timings")
        if timings and (why := timing_contradiction(timings, answer.usage.output)) is not None:
            answer.doubt(why)
            ending.server = without_durations(ending.server)
        answer.take_final_usage()
        if answer.usage.output is None:
            self._count_from_timings()
        ending.hint = self._silence() or ending.hint

    def _drop_labels(self) -> None:
        """Leave out a word beside the first role under a name that is not known, where no other text comes under such names.

        It is a label: the text of the model's differs from piece to piece.
        """
        answer, count = self._answer, len(self._strange)
        texts = answer.events.texts[:count]
        if not count or self._strange[-1][0] >= count or len(answer.events) == count or not self._strange[0][1]:
            return
        if len(set(texts)) == 1 and not any(blank in texts[0] for blank in " \n"):
            answer.drop(count)
            answer.ending.notes = [note.replace(TAKEN_FOR_REASONING, LABEL_NOTE) for note in answer.ending.notes]

    def _count_from_timings(self) -> None:
        """Take llama.cpp's own counts where `usage` was not sent: predicted_n; prompt_n without the cached cache_n."""
        timings, note = self._answer.ending.server.get("timings", {}), self._answer.note
        predicted, prompt, cached = (
            known_number(timings.get(name), name, note, MOST_TOKENS) for name in ("predicted_n", "prompt_n", "cache_n")
        )
        if predicted is not None:
            self._answer.count(None if prompt is None else prompt + (cached or 0), predicted)

    def _silence(self) -> str | None:
        """Say why a stream may have ended without a finish_reason."""
        last = self._last.get("model"), self._last.get("system_fingerprint")
        if self._first.get("model") and last == ("", "fp_ollama") and len(self._answer.events) == self._before:
            return ENGINE_DIED
        return NO_FINISH if self._answer.marked else None


def _error_in(row: dict[str, Any]) -> str | None:
    """Return the error that a chunk says under any name; one with names of the API's own alone is not searched."""
    if row.keys() <= _OWN and row.get("object") != "error":
        return None
    found = error_rows.error_beside_choices(row) if "choices" in row else error_rows.error_in_envelope(row)
    return error_rows.error_in_row(row) or found


def _is_bare(row: dict[str, Any]) -> bool:
    """Whether a chunk holds a choice's delta and nothing else, as llama-swap tells that it loads a model."""
    if row.keys() != {"choices"} or not isinstance(row["choices"], list) or len(row["choices"]) != 1:
        return False
    (choice,) = row["choices"]
    return isinstance(choice, dict) and choice.keys() == {"delta"}


def _flag(choice: dict[str, Any]) -> str | None:
    """Return the reason "stop" where a choice says by a flag that it is the last."""
    if _FLAGS.isdisjoint(choice):
        return None
    return "stop" if any(ends.is_true(choice.get(name)) for name in _FLAGS) else None


def _in_messages(messages: Any) -> Any:
    """Return the delta in a choice's list of messages, as Azure's chat over one's own data sends it."""
    found = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
    return found[-1].get("delta", found[-1]) if found else None
