"""What makes the text of an answer doubtful: pieces that repeat others, a beginning in its middle, an error said as text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from loadtest.dialects.answers.errors.server_errors import masked, quoted
from loadtest.dialects.base import ContentEvents

CUMULATIVE = "every piece of the answer repeats all text before it: its text, and tokens counted from it, are wrong"
DOUBLED = "every piece of the answer was sent twice: its gaps between tokens, and tokens counted by pieces, are wrong"
REPEATS_ALL = "a piece of the answer repeats all of it so far: its text, and tokens counted from it, are wrong"
ANEW = "the answer begins anew in its middle: somebody on the way asked again, and its figures are of both"
ROUGHLY = 2  # pieces by which a count may differ from those of an attempt, such as a token without text
FEWEST_BEFORE, FEWEST_LETTERS = 3, 8  # pieces and letters that are repeated; fewer may be repeated by chance
FEWEST_GROWING = 4  # pieces; fewer may grow by chance
MOST_BLANKS = 8  # around a text that repeats the others: some servers take them away
FEWEST_PAIRS = 4
FEWEST_TEXTS = 3  # different ones: a simulated server may say one word again and again
BEGINS_ALIKE = 0.9  # of the pieces: a character that is cut in one of them is another in the next
# "Internal error: …", "[Proxy Error] …", "**NETWORK ERROR DUE TO …", "Error code: 429 - …", "litellm.Timeout…Error: …",
# '{"error": {…'; a model's own words come in smaller pieces
_AN_ERROR = re.compile(
    r"""\W*(?:\w+\ ){0,2}[\w.]*(?:error|exception)(?:\ code|\ occurred)?(?:\s*[\]:*]|\s+due\ to)\W*\w+\W+\w+
    | \W*request\ failed\ with\ status
    | \s*\{\s*"error"\s*:\s*[{"]""",
    re.IGNORECASE | re.VERBOSE,
)


def doubts(events: ContentEvents, counted: int | None, began: Sequence[int]) -> list[str]:
    """Return what makes an answer's text doubtful, a sentence each.

    The server `counted` so many tokens, None where it counted none. Another id begins at the pieces with the indices `began`.
    For a usual answer this takes about as long as decoding one piece.
    """
    return list(filter(None, (_repetition(events, counted, began), _error_at_the_end(events))))


def _error_at_the_end(events: ContentEvents) -> str | None:
    """Say that the last piece reads like an error: some servers and gateways end such an answer with a reason of success."""
    last = next((i for i in range(len(events) - 1, -1, -1) if i not in events.hidden), None)
    if last is None or len(events.texts[last]) < FEWEST_LETTERS or _AN_ERROR.match(events.texts[last]) is None:
        return None
    return f"the answer's last piece reads like an error: {quoted(masked(events.texts[last]))}"


def _repetition(events: ContentEvents, counted: int | None, began: Sequence[int]) -> str | None:
    """Say which part of an answer came more than once.

    Where the server counted a token for each piece, no piece was sent twice: the model itself said it twice. Where a gateway
    asked again, the second attempt begins where another id `began`, or lies as many pieces before the end as were counted.
    """
    texts, hidden = events.texts, events.hidden
    kinds = [texts]
    if 0 < len(hidden) < len(texts):
        kinds += [[text for i, text in enumerate(texts) if (i in hidden) == unseen] for unseen in (False, True)]
    if any(map(_doubled, kinds)) and (counted is None or counted < len(texts) - 1):
        return DOUBLED
    if _loops(texts):
        return None
    if any(map(_cumulative, kinds)):
        return CUMULATIVE
    if any(map(_whole_again, kinds)):
        return REPEATS_ALL
    more = len(texts) - (counted or len(texts))
    at = (*began, *range(more - ROUGHLY, more + ROUGHLY + 1))
    return ANEW if any(_begins_anew(texts, i) for i in at) else None


def _loops(texts: Sequence[str]) -> bool:
    """Whether the model says its first piece again and again, and nothing else, so that pieces of several tokens grow by chance."""
    said = "".join(texts[:4])
    if len(texts) < 3 or not texts[0] or not said.startswith(texts[0] * 3):
        return False
    said = "".join(texts)
    return (texts[0] * (len(said) // len(texts[0]) + 1)).startswith(said)


def _begins_anew(texts: Sequence[str], at: int) -> bool:
    if at < FEWEST_BEFORE:
        return False
    begin = "".join(texts[:at]).strip()[: 2 * FEWEST_LETTERS]
    return len(begin) >= FEWEST_LETTERS and "".join(texts[at:]).lstrip().startswith(begin)


def _doubled(texts: Sequence[str]) -> bool:
    return texts[::2] == texts[1::2] and len(texts) >= 2 * FEWEST_PAIRS and len(set(texts)) >= FEWEST_TEXTS


def _cumulative(texts: Sequence[str]) -> bool:
    count = len(texts)
    if count < FEWEST_GROWING or len(texts[count // 2]) * 4 < count:
        return False
    pairs = list(pairwise(texts))
    longer = sum(len(after) > len(before) and after.startswith(before) for before, after in pairs)
    alike = longer + sum(after == before for before, after in pairs)
    return longer >= FEWEST_GROWING - 1 and 2 * longer >= len(pairs) and alike >= BEGINS_ALIKE * len(pairs)


def _whole_again(texts: Sequence[str]) -> bool:
    longest, before = max(map(len, texts), default=0), 0
    for i, text in enumerate(texts):
        if before > longest + MOST_BLANKS:
            break
        if i >= FEWEST_BEFORE and FEWEST_LETTERS <= before <= len(text) + MOST_BLANKS:
            said = "".join(texts[:i]).strip()
            begin = said[:FEWEST_LETTERS] if i == len(texts) - 1 else said  # RAGFlow's last piece has sources in it
            if len(said) >= FEWEST_LETTERS and text.strip().startswith(begin):
                return True
        before += len(text)
    return False
