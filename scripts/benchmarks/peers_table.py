"""The comparison as a table: a row a client, the median of its repeats."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, fields

import numpy as np

HEADS = {
    "ok": "requests ok",
    "lost": "lost",
    "ttft_p50": "TTFT p50 error, ms",
    "ttft_p99": "TTFT p99 error, ms",
    "itl_p50": "ITL p50 error, ms",
    "itl_p99": "ITL p99 error, ms",
    "cpu_us": "CPU µs a chunk",
    "ratio": "× floor",
    "process_s": "CPU s, whole process",
    "rss_mb": "peak RSS MB",
    "wall_s": "wall s",
    "burst_ms": "burst on the wire within, ms",
    "late_ms": "server late p99, ms",
    "void": "runs void by its own verdict",
}
WHOLE = ("ok", "lost", "rss_mb", "void")
SIGNED = ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99")


@dataclass(frozen=True, slots=True)
class Row:
    """One client's line of the table; nan where there is nothing to say."""

    client: str
    ok: float
    lost: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    cpu_us: float
    ratio: float
    process_s: float
    rss_mb: float
    wall_s: float
    burst_ms: float
    late_ms: float
    void: float = float("nan")  # of a client that judges its own runs


def middle(rows: list[Row]) -> Row:
    """Return the median of each column over the repeats, and how many of them were void."""
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}
    name, void = columns.pop("client")[0], sum(columns.pop("void"))
    return Row(client=name, void=void, **{key: statistics.median(values) for key, values in columns.items()})


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| client | " + " | ".join(HEADS.values()) + " |", "|---|" + "---:|" * len(HEADS)]
    for row in rows:
        cells = [_cell(key, value) for key, value in asdict(row).items() if key != "client"]
        lines.append(f"| {row.client} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def read(text: str) -> dict[str, list[Row]]:
    """Return the rows of the first table in a page that holds clients by streams, as docs/other-tools.md has it."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip().replace("`", "") for cell in line] for line in lines]
    begin = next(i for i, row in enumerate(rows) if row[:2] == ["streams", "client"])
    keys = {head: key for key, head in HEADS.items()}
    found: dict[str, list[Row]] = {}
    for row in rows[begin + 2 :]:
        if len(row) != len(rows[begin]):
            break
        known = {keys[head]: _number(cell) for head, cell in zip(rows[begin], row, strict=True) if head in keys}
        values = {name: known.get(name, float("nan")) for name in HEADS}
        found.setdefault(f"{row[0]} streams", []).append(Row(client=row[1], **values))
    return found


def _number(cell: str) -> float:
    return float("nan") if cell == "–" else float(cell)


def _cell(key: str, value: float) -> str:
    if np.isnan(value):
        return "–"
    if key in SIGNED:
        return f"{value:+.2f}"
    return f"{value:.0f}" if key in WHOLE else f"{value:.2f}" if key == "ratio" else f"{value:.1f}"
