"""What a server's own figures of an answer are worth: its counts of tokens, in whose place others stand, and its durations.

An answer's tokens are counted by the server, else known by its end, else counted by a tokenizer, else as its pieces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from loadtest.dialects.answers.rows.counted_text import SILENT_TOKENS
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

# A decode of so many times the text's time, with as many times its pieces in tokens, made some tokens without text.
LONGER_FACTOR = 1.25
WITHOUT_TEXT = "the server decoded for longer than text came: some tokens had none, and the decode speed is unknown"
OF_UNSENT = "the server's durations hold those of tokens without text: waits are unknown"


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


def drop_character_count(ending: Ending, job: Job) -> None:
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


def drop_impossible_durations(ending: Ending, said: ServerSaid, sent: int | None, at: Sequence[int], end: int) -> None:
    """Take what a server said of its durations for unknown where they cannot be, or hold those of tokens without text.

    The request was `sent`, its pieces of text came `at` these instants, and the answer was over at the `end`: monotonic ns.
    """
    output, span_s = ending.output_tokens or 1, (at[-1] - at[0]) / NS_PER_S
    few = bool(ending.unsent_tokens) or len(at) * LONGER_FACTOR + SILENT_TOKENS < output
    parts = (said.load_s, said.prefill_s, said.decode_s)
    worked_s = sum(part for part in parts if not math.isnan(part))
    least_s = max(span_s / OTHER_UNIT, LEAST_S * (output - 1))
    if said.decode_s < least_s or said.prefill_s < LEAST_S:
        why = TOO_SHORT
    elif sent is not None and worked_s > (end - sent) / NS_PER_S * (1 + SLACK) + SLACK_S:
        why = TOO_LONG
    elif few and len(at) > 1 and said.decode_s > LONGER_FACTOR * span_s + SLACK_S:
        why = WITHOUT_TEXT
    else:
        return
    if why == WITHOUT_TEXT and ending.unsent_tokens:
        ending.notes.append(OF_UNSENT)
    else:
        ending.doubts.append(why)
        ending.unsent_tokens = output if why == WITHOUT_TEXT else ending.unsent_tokens
    ending.server = without_durations(ending.server)
