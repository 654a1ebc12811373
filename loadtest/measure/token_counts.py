"""How many tokens an answer has, and who says so: the server, else its end, else a tokenizer, else its pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadtest.dialects.base import ContentEvents, Ending
from loadtest.workloads.job import Job
from loadtest.workloads.tokens import estimate_tokens

CHARACTERS = "the server counts the prompt's characters, not its tokens: their number is unknown"
LETTERS = "the answer came letter by letter, and the server counts no tokens: each letter was counted as one"
FEWEST_CHARACTERS = 12  # of a prompt, so that a count of tokens is no count of them by chance


def token_fields(
    events: ContentEvents, ending: Ending, job: Job, count: Callable[[str], int] | None, *, streams: bool
) -> dict[str, Any]:
    """Return the counts of an answer and their source; `count` is the model's own tokenizer, where it is known.

    An answer that ended for its length has the tokens that were asked for, however many of them a piece held.
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
    # A later turn's prompt holds what was said before.
    if prompt is None and source != "server" and count is not None and not job.turn:
        prompt = count(job.prompt)
    return {
        "token_source": source,
        "output_tokens": output,
        "prompt_tokens": prompt,
        "unsent_tokens": ending.unsent_tokens,
    }


def counts_characters(prompt_tokens: int | None, job: Job) -> bool:
    """Whether a count of the tokens to be embedded is that of their characters, as Infinity counts unless told otherwise.

    Of a chat it may be so by chance, for its template adds tokens; of texts without blanks, such as Chinese, it may be true.
    """
    if prompt_tokens is None or job.messages is not None or job.encoded is not None:
        return False
    texts = job.inputs or (job.prompt,)
    size = sum(map(len, texts))
    return size == prompt_tokens >= FEWEST_CHARACTERS and sum(len(text.split()) for text in texts) > size / 20


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
