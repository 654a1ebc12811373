"""What Locust's request event says of a record."""

from __future__ import annotations

from typing import Any

from loadtest import metrics
from loadtest.records import Record


def response_time(record: Record) -> float:
    """E2E in ms, as Locust wants it; to the end of the attempt where no content came."""
    start = record.t_send if record.t_send is not None else record.t_sched
    last = start + record.chunks[-1] * 1000 if record.chunks else record.t_end
    return float(metrics.e2e(last, start) * 1000)


def event_context(record: Record) -> dict[str, Any]:
    """Return what listeners of the request event may want of a record; durations in seconds, None where unknown."""
    found: dict[str, Any] = {"ttft_s": None, "tpot_s": None, "stream_tokens_per_s": None}
    if record.t_send is not None and record.t_first_token is not None:
        found["ttft_s"] = metrics.ttft(record.t_first_token, record.t_send)
        tokens = record.sent_tokens
        at_once = metrics.shows_no_decoding(len(record.chunks), record.reads)
        if record.chunks and tokens > 1 and record.chunks[-1] > record.chunks[0] and not at_once:
            e2e = metrics.e2e(record.t_send + record.chunks[-1] * 1000, record.t_send)
            found["tpot_s"] = metrics.tpot(e2e, found["ttft_s"], tokens)
            found["stream_tokens_per_s"] = metrics.stream_tokens_per_s(found["tpot_s"])
    return found | {
        "outcome": str(record.outcome),
        "prompt_tokens": record.prompt_tokens,
        "output_tokens": record.output_tokens,
        "token_source": record.token_source,
        "level": record.level,
        "warmup": record.warmup,
        "lag_s": record.lag_us * 1e-6,
        "model": record.model,
        "dialect": record.dialect,
    }
