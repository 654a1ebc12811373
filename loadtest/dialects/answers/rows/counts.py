"""Numbers that a server gives of an answer; one that is no number, or contradicts another, is unknown and said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from loadtest.dialects.answers.errors.server_errors import quoted, shorten
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.dialects.base import Note
from loadtest.metrics import CACHED_NAMES, CACHED_PLACES, MAY_BE_LATE

MOST_TOKENS = 2**24  # of a prompt or an answer: no model holds so many
MOST_NUMBER = 2**53 - 1  # above it a double cannot tell neighbours apart, and a duration in ns is longer than 100 days
WIDEST, _DEEPEST = 64, 4  # entries and levels kept of what a server says


def known_number(value: Any, name: str, note: Note, most: int = MOST_NUMBER) -> int | None:
    """Return a count or a duration, 0 to `most`; None, and a sentence to `note`, of anything else that was sent."""
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 12.0 is 12: some languages know one kind of number
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    note(f"{quoted(name, 40)} is {_kind_seen(value)}, which is no number of that kind: unknown")
    return None


def _kind_seen(value: Any) -> str:
    """Say what stands in place of a number, without its value, which differs from one answer to the next."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int | float):
        if value < 0:
            return "negative"
        return "a fraction" if value < MOST_NUMBER and value != int(value) else "beyond all bounds"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def storable(value: Any, name: str, note: Note, depth: int = _DEEPEST, *, longest: int = 80) -> Any:
    """Return a server's value as a file keeps it: numbers in range, texts of `longest` characters, objects and lists of those."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return value if 0 <= value <= MOST_NUMBER else known_number(value, name, note)
    if isinstance(value, str):
        return shorten(value, longest)
    if not depth:
        return None
    if isinstance(value, dict):
        entries = islice(value.items(), WIDEST)
        return {short_key(key): storable(item, key, note, depth - 1, longest=longest) for key, item in entries}
    return [storable(item, name, note, depth - 1, longest=longest) for item in value[:WIDEST]]


def durations_and_counts(row: dict[str, Any], note: Note) -> dict[str, int]:
    """Return the numbers that stand in Ollama's last line itself, as far as they are known."""
    found = {
        key: known_number(value, key, note, MOST_TOKENS if key.endswith("_count") else MOST_NUMBER)
        for key, value in islice(row.items(), WIDEST)
        if key.endswith(("_duration", "_count"))
    }
    return {short_key(key): number for key, number in found.items() if number is not None}


def short_key(key: str) -> str:
    """Return a key that the server sent, short and plain enough for a file."""
    return key if len(key) <= 80 and key.isascii() and key.isidentifier() else shorten(key, 80)


SLACK = 0.05  # by which what was rounded and measured apart may differ
FEWEST_USAGES, MOST_OF_CHUNK = 3, 8  # usages that came with text, and tokens in one chunk: see Usage.final_output
MOST_LATER = 8  # tokens without text behind the last piece, such as the one that ends an answer
LESS_IN_TOTAL = "the server's counts contradict each other: its total of tokens is less than prompt and output together"
MORE_IN_TOTAL = (
    "the server's counts contradict each other: its total of tokens is more than prompt and output together; the rest, such as thoughts "
    f"that it does not send (Gemini), is in no count, and {MAY_BE_LATE}"
)
BEDROCK = "amazon-bedrock-invocationMetrics"


# Words in the names of counts, in whatever spelling: prompt_tokens, promptTokenCount, InputTokens, num_generated_tokens.
_OF_PROMPT = frozenset(("prompt", "input", "evaluated"))
_OF_OUTPUT = frozenset(
    ("completion", "output", "generated", "generation", "response", "candidates", "predicted", "eval")
)
_OF_COUNTS = frozenset(
    ("tokens", "token", "text", "count", "num", "n", "number", "total", "length", "len", "used", "eval")
)
_BY_THEMSELVES = frozenset(("prompt", "input", "completion", "output", "total"))
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^A-Za-z_]+")
PROMPT, OUTPUT, TOTAL = "prompt", "output", "total"


@lru_cache(maxsize=256)
def kind_of_count(name: str) -> str | None:
    """Return what a count of this name counts, PROMPT, OUTPUT or TOTAL; None for any other name."""
    words = frozenset(word.lower() for word in _WORDS.findall(name))
    if len(words) == 1 and not words <= _BY_THEMSELVES:
        return None
    for kind, own in ((PROMPT, _OF_PROMPT), (OUTPUT, _OF_OUTPUT)):
        if words & own and words <= own | _OF_COUNTS:
            return kind
    return TOTAL if "total" in words and words <= _OF_COUNTS else None


REASONING_COUNTS = ("reasoning_tokens", "reasoningTokens", "thoughtsTokenCount", "thinking_tokens")
TOOL_PROMPTS = ("toolUsePromptTokenCount",)  # Gemini's, of what its own tools found, which the model reads, too
# Anthropic's and Bedrock's of a prompt's cached tokens; gateways count them in OpenAI's prompt_tokens or beside them
CACHE = (
    ("cache_read_input_tokens", "cacheReadInputTokens"),
    ("cache_creation_input_tokens", "cacheWriteInputTokens"),
)


@dataclass(slots=True)
class Usage:
    """The last usage of an answer that is not empty."""

    prompt: int | None = None
    output: int | None = None
    reasoning: int = 0  # of the output; known once final_output was called
    last: dict[str, Any] = field(default_factory=dict)  # as it was sent
    pieces: int = 0  # of the answer that had come by then
    with_text: int = 0  # how many came with more text than the one before
    rises: int = 0  # how often the output's count rose
    at_first: int = 0  # the output's count beside the first piece; 0 where none came with it
    at_last: int = 0  # the output's count beside the latest piece with which a usage came

    def after_text(self, reasoning: int) -> int:
        """Return how many output tokens, reasoning left out, were counted after the last text; 0 where counts do not follow the text."""
        along = self.rises >= 2 and 2 * self.rises > self.with_text and self.at_last
        return max((self.output or 0) - self.at_last - reasoning, 0) if along else 0

    def take(self, usage: dict[str, Any], note: Note, doubt: Note, *, pieces: int) -> bool:
        """Take a usage and return whether it says anything: Ollama's completions have one of zeros in every chunk.

        `pieces` is how many pieces of text had come by then.
        """
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not (type(prompt) is type(output) is int and 0 < prompt <= MOST_TOKENS and 0 < output <= MOST_TOKENS):
            usage = flat_usage(usage)
            prompt, output = first_count(usage, PROMPT, note), first_count(usage, OUTPUT, note)
        if not prompt and not output:
            return False
        for name, before, now in (("prompt", self.prompt, prompt), ("output", self.output, output)):
            # a prompt of none is unknown
            fell = before and now is not None and now < before and (now or name == "output")
            grew = before is not None and now and now > before + MOST_LATER and pieces == self.pieces
            if fell or (grew and (before if pieces else name == "output")):
                doubt(
                    f"the server's count of {name} tokens {'fell' if fell else 'grew, without text,'} from one chunk to the next"
                )
        self.rises += self.output is not None and output is not None and output > self.output
        if pieces > self.pieces:
            self.with_text += 1
            self.at_last = output or 0
        if pieces == 1 and not self.pieces:
            self.at_first = output or 0
        self.prompt = self.prompt if prompt is None or (not prompt and self.prompt) else prompt
        self.output = self.output if output is None else output
        self.last, self.pieces = usage, pieces
        return True

    def final_output(self, note: Note, doubt: Note, *, pieces: int) -> int | None:
        """Return the output tokens, reasoning included; each contradiction between counts is a doubt.

        `pieces` is how many pieces the answer had. A count that is not of the whole answer is unknown.
        """
        prompt, output, usage = self.prompt, self.output, self.last
        if output is None:
            return None
        if pieces > self.pieces and (output or not self.pieces):
            note("the server's last count came before the end of the text: the output's tokens are unknown")
            return None
        if output and self.with_text >= max(FEWEST_USAGES, 2 * self.rises + 1) and pieces > output <= MOST_OF_CHUNK:
            doubt("the server's counts do not grow with the text: they are of single chunks, and the whole is unknown")
            return None
        total = first_count(usage, TOTAL, note)
        self.reasoning = reasoning = reasoning_in(usage, note)
        cached = _detail(usage, CACHED_PLACES, CACHED_NAMES, note)
        read, written = (_detail(usage, (), names, note) or 0 for names in CACHE)
        tools = _detail(usage, (), TOOL_PROMPTS, note) or 0
        if total and prompt is not None and total >= prompt + tools + output:
            self.prompt = prompt = prompt + tools
        if total and prompt is not None and (rest := total - prompt - output):
            if rest == reasoning:
                return output + reasoning
            if rest == read + written:
                self.prompt = prompt + rest
                return output
            if -rest in (read, read + written):
                return output
            doubt(MORE_IN_TOTAL if rest > 0 else LESS_IN_TOTAL)
        if reasoning > output + 2:  # one that speculates counts some behind the end as reasoning
            doubt("the server's counts contradict each other: more reasoning tokens than output tokens")
        else:
            self.reasoning = min(reasoning, output)
        if prompt and max(cached or 0, read) > prompt:
            doubt("the server's counts contradict each other: more cached tokens than prompt tokens")
        return output


def flat_usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Return a usage with what lies in an object of its own: Cohere's has tokens, beside what it bills."""
    inner = [usage[name] for name in ("tokens", "usage") if isinstance(usage.get(name), dict)]
    return {**usage, **inner[0]} if inner else usage


def usage_in(value: Any) -> Any:
    """Return the usage in a list of one, or in a text of JSON; any other value as it is."""
    if isinstance(value, list):
        return value[-1]
    return parse_json(value.encode(errors="replace")) if isinstance(value, str) else value


def first_count(usage: dict[str, Any], kind: str, note: Note) -> int | None:
    """Return the largest count of this kind (see `kind_of_count`); None where there is none."""
    found = [known_number(usage[name], name, note, MOST_TOKENS) for name in usage if kind_of_count(name) == kind]
    return max((count for count in found if count is not None), default=None)


def reasoning_in(usage: dict[str, Any], note: Note) -> int:
    """Return how many of the output tokens a usage says were reasoning."""
    return _detail(usage, ("completion_tokens_details", "output_tokens_details"), REASONING_COUNTS, note) or 0


def _detail(usage: dict[str, Any], places: tuple[str, ...], names: tuple[str, ...], note: Note) -> int | None:
    """Return a count out of a usage's details, else out of the usage itself."""
    for place in (*map(usage.get, places), usage):
        for name in names:
            if isinstance(place, dict) and place.get(name) is not None:
                return known_number(place[name], name, note, MOST_TOKENS)
    return None


def without_durations(server: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a server said of an answer, but for how long anything took: durations of Ollama, llama.cpp and vLLM."""
    return {
        key: {name: one for name, one in said.items() if name.endswith("_n")} if key == "timings" else said
        for key, said in server.items()
        if not key.endswith("_duration") and key != "metrics"
    }


def timing_contradiction(timings: Mapping[str, Any], output: int | None) -> str | None:
    """Say that llama.cpp's timings are of another number of tokens than were counted; None where they are not."""
    made = timings.get("predicted_n")
    if output is not None and isinstance(made, int) and abs(made - output) > max(2, SLACK * output):
        return "the server's predicted_n is another number of tokens than it counts, so its timings are unknown"
    return None
