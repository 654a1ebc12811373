"""A run as DataFrames for whoever analyses it further; docs/python.md describes every column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from loadtest.analyse.run import LevelData, RunData
from loadtest.metrics import S_PER_US
from loadtest.records import Outcome

# Column of `requests` -> column of the run as arrays.
REQUESTS = {
    "request_id": "id",
    "level": "level",
    "concurrency": "concurrency",
    "rate_per_s": "rate",
    "model": "model",
    "user": "user",
    "session": "session",
    "turn": "turn",
    "warmup": "warmup",
    "outcome": "outcome",
    "ok": "ok",
    "left": "left",
    "error": "error",
    "status": "status",
    "finish_reason": "finish_reason",
    "t_sched_s": "sched",
    "t_send_s": "send",
    "t_headers_s": "headers",
    "t_first_token_s": "first_token",
    "t_last_token_s": "last",
    "t_end_s": "end",
    "ttft_s": "ttft_s",
    "ttft_sched_s": "ttft_sched_s",
    "tpot_s": "tpot_s",
    "e2e_s": "e2e_s",
    "e2e_sched_s": "e2e_sched_s",
    "stream_tokens_per_s": "stream_tokens_per_s",
    "prompt_tokens": "prompt_tokens",
    "output_tokens": "output_tokens",
    "asked_input_tokens": "asked_input",
    "asked_output_tokens": "asked",
    "token_source": "token_source",
    "content_events": "chunks",
    "queue_wait_s": "queue_wait_s",
    "slot_wait_s": "slot_wait_s",
    "batch_wait_s": "batch_wait_s",
    "wait_source": "wait_source",
    "load_s": "load_s",
    "prefill_s": "prefill_s",
    "stall_s": "stall_s",
    "client_lag_s": "lag_s",
}
# Column of `levels` -> key of a level in summary.json.
FACTS = {
    "level": "index",
    "label": "label",
    "model": "model",
    "url": "url",
    "concurrency": "concurrency",
    "rate_per_s": "rate",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "words": "words",
    "requests": "requests",
    "requests_per_s": "requests_per_s",
    "input_tokens_per_s": "input_tokens_per_s",
    "output_tokens_per_s": "output_tokens_per_s",
    "verdict": "verdict",
}
# Column of `levels` -> figure of a level's requests in summary.json, and which part of its distribution.
FIGURE_COLUMNS = {
    "ttft_mean_s": ("ttft_s", "mean"),
    "ttft_p50_s": ("ttft_s", "p50"),
    "ttft_p95_s": ("ttft_s", "p95"),
    "ttft_p99_s": ("ttft_s", "p99"),
    "ttft_sched_p95_s": ("ttft_sched_s", "p95"),
    "itl_p50_s": ("itl_s", "p50"),
    "itl_p99_s": ("itl_s", "p99"),
    "tpot_p50_s": ("tpot_s", "p50"),
    "tpot_p95_s": ("tpot_s", "p95"),
    "e2e_p50_s": ("e2e_s", "p50"),
    "e2e_p95_s": ("e2e_s", "p95"),
    "stream_tokens_p50_per_s": ("stream_tokens_per_s", "p50"),
    "queue_wait_mean_s": ("queue_wait_s", "mean"),
    "slot_wait_mean_s": ("slot_wait_s", "mean"),
    "batch_wait_mean_s": ("batch_wait_s", "mean"),
    "load_mean_s": ("load_s", "mean"),
    "prefill_mean_s": ("prefill_s", "mean"),
    "stall_mean_s": ("stall_s", "mean"),
}
LEVELS = (*FACTS, *FIGURE_COLUMNS, "ok_requests", "failed_requests", "left_requests", "reasons")
NUMBERS = [name for name in LEVELS if name not in ("label", "model", "url", "verdict", "reasons")]

# Columns of whole numbers and of text, of which some values may be unknown.
INTEGER_COLUMNS = (
    "user",
    "session",
    "turn",
    "concurrency",
    "status",
    "prompt_tokens",
    "output_tokens",
    "input_tokens",
    "asked_input_tokens",
    "asked_output_tokens",
    "content_events",
    "words",
    "tokens",
)
TEXT_COLUMNS = (
    "model",
    "outcome",
    "error",
    "finish_reason",
    "token_source",
    "wait_source",
    "label",
    "url",
    "verdict",
    "reasons",
)


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for a file: a column has the same type in every run, whatever this run has of it."""
    kinds: dict[str, str] = {name: "Int64" for name in INTEGER_COLUMNS if name in table}
    kinds |= {name: "string" for name in TEXT_COLUMNS if name in table}
    return table.astype(kinds)


def requests(run: RunData) -> pd.DataFrame:
    return pd.DataFrame({name: run.requests[column] for name, column in REQUESTS.items()})


def levels(summary: dict[str, Any]) -> pd.DataFrame:
    """Return a row for each level; of a run of several models or servers, a row for each level and each of those."""
    rows = [_level(level, summary["target"]) for level in summary["levels"]]
    table = pd.DataFrame(rows, columns=list(LEVELS))
    numbers = table[NUMBERS].astype(np.float64)  # None becomes nan, also where a whole column is unknown
    whole = [name for name in NUMBERS if not name.endswith("_s") and numbers[name].notna().all()]
    table[NUMBERS] = numbers.astype(dict.fromkeys(whole, np.int64))
    return table


def _level(level: LevelData, target: dict[str, Any]) -> dict[str, Any]:
    facts = {"model": target.get("model"), "url": target.get("url"), **level}
    return {
        **{name: facts.get(key) for name, key in FACTS.items()},
        **{name: (level[key] or {}).get(part) for name, (key, part) in FIGURE_COLUMNS.items()},
        "ok_requests": level["outcomes"].get(Outcome.OK, 0),
        "failed_requests": level.failed,
        "left_requests": level["outcomes"].get(Outcome.LEFT, 0),
        "reasons": "; ".join(level["reasons"]),
    }


def chunks(run: RunData) -> pd.DataFrame:
    """Return a row for each content event of each answer, request after request."""
    counts, owner = run.chunks.counts, run.chunks.owner
    since_send = run.chunks.flat * S_PER_US
    gaps = np.diff(since_send, prepend=np.nan)
    gaps[run.chunks.starts[:-1][counts > 0]] = np.nan
    each = np.where(run.column("output_tokens") - run.column("unsent_tokens") == counts, 1.0, np.nan)
    return pd.DataFrame(
        {
            "request_id": run.requests["id"].to_numpy()[owner],
            "level": run.requests["level"].to_numpy()[owner],
            "event": np.arange(len(owner)) - run.chunks.starts[:-1][owner],
            "t_s": run.column("send")[owner] + since_send,
            "since_send_s": since_send,
            "gap_s": gaps,
            "tokens": each[owner],
        }
    )
