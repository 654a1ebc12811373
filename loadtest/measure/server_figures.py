"""What a server's own figures of an answer are worth: its counts of tokens, in whose place others stand, and its durations.

An answer's tokens are counted by the server, else known by its end, else counted by a tokenizer, else as its pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from loadtest.dialects.answers.rows.counts import SLACK, without_durations
from loadtest.dialects.base import ContentEvents, Ending
from loadtest.metrics import NS_PER_S, ServerSaid
from loadtest.workloads.job import Job
from loadtest.workloads.tokens import estimate_tokens

CHARACTERS = "the server counts the prompt's characters, not its tokens: their number is unknown"
LETTERS = "the answer came letter by letter, and the server counts no tokens: each letter was counted as one"
FEWEST_CHARACTERS = 12  # of a prompt, so that a count of tokens is no count of them by chance
SLACK_S = 0.05  # beyond the share SLACK: by so much a server's clock may say more than the answer took here
LEAST_S = 1e-6  # no server decodes a token or reads a prompt faster
OTHER_UNIT = 100  # a decode so many times shorter than its tokens took to come is in µs or ms, said as if it were in ns
TOO_SHORT = "the server's durations are too short for its tokens, as of another unit: unknown"
TOO_LONG = "the server's durations are longer than the whole answer took, as of another answer or unit: unknown"


def token_fields(
    events: ContentEvents, ending: Ending, job: Job, count: Callable[[str], int] | None, *, streams: bool
) -> dict[str, Any]:
    """Return the counts of an answer and their source; `count` is the model's own tokenizer, where it is known.

    An answer that ended for its length has the tokens that were asked for, however many of them a piece held. Where pieces
    are counted and each is a letter, that is a doubt of the `ending`.
    """
    pieces, prompt = len(events), ending.prompt_tokens
    if ending.output_tokens is not None:
        source, output = "server", ending.output_tokens
    elif not streams:
        return {"token_source": "server", "prompt_tokens": prompt}
    elif ending.finish_reason == "length" and (asked := asked_for(job.output_tokens, pieces, events)) is not None:
        source, output = "asked", asked
    elif count is not None:
        source, output = "tiktoken", count(events.said)
    else:
        source, output = "chunks", pieces
        if is_spelled(events):
            ending.doubts.append(LETTERS)
    # A later turn's prompt holds what was said before.
    if prompt is None and source != "server" and count is not None and not job.turn:
        prompt = count(job.prompt)
    return {
        "token_source": source,
        "output_tokens": output,
        "prompt_tokens": prompt,
        "unsent_tokens": ending.unsent_tokens,
    }


def hold_prompt_count(ending: Ending, job: Job) -> None:
    """Take what a server counted of the texts to be embedded for unknown where it is their characters.

    Infinity counts so unless told otherwise. Of texts without blanks, such as Chinese, the count may be true.
    """
    texts = job.inputs or (job.prompt,)
    size = sum(map(len, texts))
    if (
        size == ending.prompt_tokens
        and size >= FEWEST_CHARACTERS
        and sum(len(text.split()) for text in texts) > size / 20
    ):
        ending.prompt_tokens = None
        ending.notes.append(CHARACTERS)


def is_spelled(events: ContentEvents) -> bool:
    """Whether pieces are the letters of a text in our alphabet, of which a token holds several."""
    texts = events.texts
    if len(texts) < FEWEST_CHARACTERS or max(map(len, texts)) > 1:
        return False
    return 2 * sum(text.isascii() and text.isalpha() for text in texts) > len(texts)


def asked_for(asked: int | None, pieces: int, events: ContentEvents) -> int | None:
    """Return the tokens asked for of an answer that ended for its length; None where it may have been cut earlier.

    Where the context is full servers end a shorter answer for the same reason. The size of the text tells that from pieces
    of several tokens each, which FastChat and servers with a stream interval send.
    """
    if not asked or not 0 < pieces <= asked:
        return None
    nearer_to_asked = estimate_tokens(events.said) ** 2 > pieces * asked  # in ratio
    return asked if pieces == asked or nearer_to_asked else None


def hold_durations(ending: Ending, said: ServerSaid, sent: int | None, first: int, last: int, end: int) -> None:
    """Take what a server said of its durations for unknown where they cannot be.

    The request was `sent`, its text came from `first` to `last`, and the answer was over at the `end`: monotonic ns.
    """
    parts = (said.load_s, said.prefill_s, said.decode_s)
    worked_s = sum(part for part in parts if not math.isnan(part))
    least_s = max((last - first) / NS_PER_S / OTHER_UNIT, LEAST_S * ((ending.output_tokens or 1) - 1))
    if said.decode_s < least_s or said.prefill_s < LEAST_S:
        why = TOO_SHORT
    elif sent is not None and worked_s > (end - sent) / NS_PER_S * (1 + SLACK) + SLACK_S:
        why = TOO_LONG
    else:
        return
    ending.doubts.append(why)
    ending.server = without_durations(ending.server)
