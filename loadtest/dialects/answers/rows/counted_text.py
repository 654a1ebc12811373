"""What a server's count of output tokens tells of the text that came: whether it can be true, and which tokens had no text."""

from __future__ import annotations

import re

from loadtest.dialects.answers.rows.counts import MOST_LATER
from loadtest.dialects.base import ContentEvents, Note
from loadtest.workloads.tokens import estimate_tokens

# so many may have no text: marks of turns; the frame of a tool call or of thoughts
SILENT_TOKENS, FRAME_TOKENS = 16, 64
# bytes of a token, in answers of smaller pieces no more on average; pieces that say something of a count
LONGEST_TOKEN, FEWEST_PIECES = 16, 4
COALESCED = 1.5  # tokens a piece; below it each piece may be a token of any text
LETTERS_OF_TOKEN = 3  # of words, on average: hardly any vocabulary makes shorter ones
FEWEST_BYTES = LETTERS_OF_TOKEN + 1  # of a token that is a word and the blank before it
LONGEST_WORD = 30  # letters; more are what a model that repeats itself says, and each two may be a token
# share of an answer's tokens in its first piece: from here on it is left out; from here on what is left says little
FIRST_SHARE, MOST_FIRST_SHARE = 0.05, 0.5
TOO_FEW_TOKENS = "the server counts fewer tokens than the answer's text can have: their number is unknown"
TEXT_ALONE = "the server counts the tokens of the text without those of its reasoning: their number is unknown"
COUNTS_LETTERS = "the server counts the letters of the answer, not its tokens: their number is unknown"
UNSENT_REASONING = "the server counts reasoning tokens and sent no text of them: TTFT holds their time, the decode speed leaves them out"
UNSENT_TOKENS = "the server counts more tokens than a text like the answer's usually has: the decode speed is unknown"
BEFORE_TEXT = (
    "the server had counted tokens before it sent text: TTFT holds their time, the decode speed leaves them out"
)
AFTER_TEXT = "the server went on counting tokens after its last text: the decode speed leaves them out"
LONG_FIRST_PIECE = (
    "the first piece of text holds many tokens: TTFT holds their time, the decode speed leaves out about as many"
)
ALMOST_ALL_FIRST = (
    "the first piece of text holds most of the answer's tokens: TTFT is late, the decode speed is unknown"
)
_WORD = re.compile(r"[A-Za-z]+")


def misfit(events: ContentEvents, output: int, reasoning: int) -> str | None:
    """Say why a count cannot be that of the answer's pieces; None where it can."""
    pieces, hidden = len(events), len(events.hidden)
    is_long = _size(events) > LONGEST_TOKEN * output
    # a token of one sign again and again may be longer
    if is_long and (pieces > 2 * output or (pieces >= FEWEST_PIECES and len(set(events.said)) > LONGEST_TOKEN)):
        return TOO_FEW_TOKENS
    if hidden >= FEWEST_PIECES and 0 < 0.9 * (pieces - hidden) <= output <= pieces - hidden + 1:
        return TEXT_ALONE
    # a server that counts reasoning tokens counts tokens: as many as letters is chance
    said = events.said if output >= max(2 * pieces, LONGEST_TOKEN) and not reasoning else ""
    # of other alphabets, such as Chinese, each letter may be a token, and so may each digit, and each sign of a model that repeats one
    has_words = any(len(set(word)) > 1 for word in _WORD.findall(said))
    return COUNTS_LETTERS if output == len(said) and said.isascii() and has_words else None


def unsent(events: ContentEvents, output: int, reasoning: int, early: int, late: int, note: Note, doubt: Note) -> int:
    """Return how many counted tokens were not decoded between the first and the last text, and say why in a note or a doubt.

    Reasoning that was sent as text shows by its name, or by more pieces than there are other tokens. `early` tokens were
    counted when the first piece came, 0 where that is unknown: then its text tells; `late` ones after the last. A token has at least one byte of
    text, except for those that end an answer or call a tool; where few pieces came, and so each must hold several tokens,
    those of words have more.
    """
    pieces = len(events)
    if 0 < reasoning <= output and not events.hidden and pieces <= output - reasoning:
        note(UNSENT_REASONING)
        return reasoning
    silent = FRAME_TOKENS if events.hidden else SILENT_TOKENS
    after = late if late > silent else 0
    if after:
        note(AFTER_TEXT)
    if early > MOST_LATER and pieces > 1:
        note(BEFORE_TEXT)
        return early - 1 + after
    if after:
        return after
    with_text = output - silent
    if with_text > pieces and with_text > _most_tokens(
        events, with_text, each_may_be_one=with_text <= COALESCED * pieces
    ):
        doubt(UNSENT_TOKENS)
        return output
    share = _share_of_first(events) if not early and output > COALESCED * pieces > COALESCED else 0.0
    if share < FIRST_SHARE or share * output <= MOST_LATER:
        return 0
    if share > MOST_FIRST_SHARE:
        doubt(ALMOST_ALL_FIRST)
        return output
    note(LONG_FIRST_PIECE)
    return round(share * output) - 1


def _share_of_first(events: ContentEvents) -> float:
    """Return about which share of the answer's tokens its first piece holds; 0 where its letters are far fewer."""
    first, said = events.texts[0], events.said
    if len(first) <= MOST_LATER or 2 * len(first) <= FIRST_SHARE * len(said):
        return 0.0
    return estimate_tokens(first) / max(estimate_tokens(said), 1)


def _most_tokens(events: ContentEvents, counted: int, *, each_may_be_one: bool) -> int:
    """Return the most tokens that usual vocabularies make of the answer's text, or as many bytes as it has where those are enough.

    Of what is no word each byte may be a token, and where each piece may be one, of words as well.
    """
    said = events.said
    size = len(said.encode(errors="replace"))
    if each_may_be_one or FEWEST_BYTES * counted <= size:
        return size
    lengths = [length for length in map(len, _WORD.findall(said)) if length <= LONGEST_WORD]
    of_words = sum(1 + (letters - 1) // LETTERS_OF_TOKEN for letters in lengths)
    return of_words + size - sum(lengths) - len(lengths)  # the blank before a word belongs to it


def _size(events: ContentEvents) -> int:
    """Return how many bytes the answer's text has."""
    return len(events.said.encode(errors="replace"))
