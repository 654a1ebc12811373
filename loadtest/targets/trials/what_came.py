"""What the answer to a trial request shows: what the server counts and times, and whether tokens came one by one."""

from __future__ import annotations

import math

from loadtest.metrics import S_PER_NS
from loadtest.targets.trials.attempts import Attempt
from loadtest.text import counted, seconds

FEWEST_PIECES = 6  # of an answer, to say how they came
SEVERAL_TOKENS = 1.5  # in a piece on average: they are then no single tokens


def what_came(attempt: Attempt) -> list[tuple[str, str]]:
    """Return what to say of a whole answer, a name and a sentence each."""
    record = attempt.record
    said = attempt.dialect.server_said(record.server or {})
    rows = []
    if record.t_first_token is not None and record.t_send is not None:
        first = (record.t_first_token - record.t_send) * S_PER_NS
        rows.append(
            ("first", f"token after {seconds(first)}; one request is no measurement, and it may have waited for a load")
        )
    rows.append(("counts", _counts(attempt)))
    if not attempt.dialect.streams:
        rows.append(("timings", "not read: of embeddings E2E is measured alone"))
        return rows
    if math.isnan(said.prefill_s):
        rows.append(("timings", "not sent: of what a request waits for, a report tells slot wait alone"))
    else:
        rows.append(("timings", f"sent by the server (prefill {seconds(said.prefill_s)})"))
    rows.append(("arrival", _arrival(attempt)))
    return rows


def _counts(attempt: Attempt) -> str:
    record = attempt.record
    counts = {"in": record.prompt_tokens, "out": record.output_tokens}
    sent = [f"{what}: {n}" for what, n in counts.items() if n is not None]
    if record.token_source == "server" and sent:  # noqa: S105
        return f"sent by the server (tokens {', '.join(sent)})"
    if not attempt.dialect.streams:
        return "not sent, or not to be used: how many tokens the texts have is unknown"
    return (
        "not sent: an answer that ends for its length has the tokens that were asked for; of any other they are counted by the "
        "model's own tokenizer where it is known, else pieces are counted; prompt lengths are estimates"
    )


def _arrival(attempt: Attempt) -> str:
    record = attempt.record
    pieces, reads, tokens = len(record.chunks), record.reads, record.output_tokens or 0
    if pieces < FEWEST_PIECES:
        if tokens >= 2 * FEWEST_PIECES:
            return f"{tokens} tokens in {counted(pieces, 'piece')}: ITL is of pieces, not of tokens"
        return f"{counted(pieces, 'piece')}: too few to say"
    if reads <= 2:
        return (
            f"all {pieces} pieces at once, {seconds(record.chunks[0] / 1e6)} after the request: a proxy that buffers answers "
            "(nginx: proxy_buffering off; HAProxy: option http-no-delay) stands before the server, or the server sends whole answers, or this machine was too busy to read them apart (try again); "
            "TTFT would be E2E"
        )
    if reads <= pieces / 2:
        return (
            f"{pieces} pieces in {reads} reads: they are sent several together, by the server or by a proxy that buffers "
            "(nginx: proxy_buffering off; HAProxy: option http-no-delay), or this machine was too busy to read them apart (try again); ITL would be wrong"
        )
    if tokens > SEVERAL_TOKENS * pieces:
        return f"{tokens} tokens in {pieces} pieces, which come one by one: ITL is of pieces, not of tokens"
    are_tokens = record.token_source == "server" and pieces <= SEVERAL_TOKENS * tokens  # noqa: S105
    return f"{pieces} pieces in {reads} reads: {'tokens' if are_tokens else 'pieces'} come one by one"
