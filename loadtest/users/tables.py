"""Tables of the live figures, the same for console and page: their columns, and the notes below them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

NO_FIGURE = "–"
Groups = tuple[tuple[str, tuple[tuple[str, str, int], ...]], ...]
# The columns: a heading, then (part, key of Figures.row, factor) for each column; factor 1000 shows seconds as ms.
GROUPS: Groups = (
    ("requests", (("all", "requests", 0), ("failed", "failures", 0))),
    ("TTFT ms", (("p50", "ttft_p50", 1000), ("p95", "ttft_p95", 1000), ("p99", "ttft_p99", 1000))),
    ("ITL ms", (("p50", "itl_p50", 1000), ("p99", "itl_p99", 1000))),
    ("TPOT ms", (("p50", "tpot_p50", 1000),)),
    ("tokens/s", (("stream", "stream_tokens_per_s_p50", 1), ("output", "output_tokens_per_s", 1))),
    ("queue wait ms", (("p50", "queue_wait_p50", 1000), ("p95", "queue_wait_p95", 1000))),
    ("client lag ms", (("p99", "lag_p99", 1000),)),
)
NOW: Groups = (("streams now", (("decoding", "decoding", 0), ("waiting", "waiting", 0))),)  # while a test runs
WIDTH = 7  # of a number


def simulated_as(facts: dict[str, Any]) -> str | None:
    """Return profile and speed of a run's simulated server, from its run.json; None for a real or unknown server."""
    said = (facts.get("server") or {}).get("simulated")
    return f"profile {said['profile']} at {float(said['speed']):g}× speed" if said else None


def table_figure(value: float | None, factor: int) -> str:
    """Return `value` times `factor` with about three digits; factor 0 marks a count."""
    if value is None:
        return NO_FIGURE
    if factor == 0:
        return str(value)
    scaled = value * factor
    return f"{scaled:.0f}" if abs(scaled) >= 99.95 else f"{scaled:.1f}" if abs(scaled) >= 9.995 else f"{scaled:.2f}"


def table_lines(rows: list[dict[str, Any]], mark: str | None = None) -> list[str]:
    """Return a board's rows as lines of an aligned table like Locust's, followed by its notes."""
    names = max(20, *(len(row["name"]) for row in rows))
    heads, parts, rule = " " * names, f"{'Name':{names}}", "-" * names
    widths = {group: max((WIDTH + 1) * len(columns), len(group) + 1) for group, columns in GROUPS}
    for group, columns in GROUPS:
        heads += f" |{group:>{widths[group]}}"
        parts += f" |{''.join(f' {part:>{WIDTH}}' for part, _, _ in columns):>{widths[group]}}"
        rule += "-|" + "-" * widths[group]
    text = [
        "Streaming figures" + (f" (SIMULATED SERVER: {mark})" if mark else ""),
        f"{heads} |",
        f"{parts} | verdict",
        f"{rule}-|--------",
    ]
    for row in rows:
        if row is rows[-1]:
            text.append(text[3])
        cells = f"{row['name']:{names}}"
        for group, columns in GROUPS:
            figures = "".join(f" {table_figure(row[key], factor):>{WIDTH}}" for _, key, factor in columns)
            cells += f" |{figures:>{widths[group]}}"
        text.append(f"{cells} | {row['verdict'] or NO_FIGURE}")
    return [*text, *table_notes(rows)]


def table_notes(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the notes below a table: which requests it leaves out, and each reason for doubt once."""
    total = rows[-1]
    left_out = [
        f"{total[key]} {said}" for key, said in (("cancelled", "cancelled"), ("warmup", "warm-up")) if total[key]
    ]
    if left_out:
        yield f"Left out: {' and '.join(left_out)}."
    for row in rows if len(rows) > 2 else rows[:1]:  # with one name the total would repeat it
        if row["reasons"]:
            yield f"{row['name']} is {row['verdict']}: {'; '.join(row['reasons'])}."
