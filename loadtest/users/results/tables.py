"""Tables of the live figures, the same for console and page: their columns, and the notes below them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.analyse.figures.cost import Prices, by_hour
from loadtest.analyse.findings.measured_on import simulated_mark
from loadtest.doubts import VOID
from loadtest.grid import Grid
from loadtest.run_folder import RunFolder
from loadtest.text import UNKNOWN, counted, number

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
WITHOUT_TOKENS: Groups = (  # of answers without text, such as embeddings
    GROUPS[0],
    ("E2E ms", (("p50", "e2e_p50", 1000), ("p95", "e2e_p95", 1000), ("p99", "e2e_p99", 1000))),
    ("requests/s", (("all", "requests_per_s", 1),)),
    ("input tokens/s", (("all", "input_tokens_per_s", 1),)),
    GROUPS[-1],
)
NOW: Groups = (("streams now", (("decoding", "decoding", 0), ("waiting", "waiting", 0))),)  # while a test runs
WIDTH = 7  # of a number
BoardRows = list[dict[str, Any]]


def simulated_profile(facts: dict[str, Any]) -> str | None:
    """Return profile and speed of the simulated server of a run (its run.json), None for a real or unknown one.

    Of several servers that are not all simulated alike each simulated one is named.
    """
    servers = [{"name": one["url"], "server": one.get("server")} for one in facts.get("targets") or ()]
    mark = simulated_mark({"groups": servers, "simulated": (facts.get("server") or {}).get("simulated")})
    return mark and mark.removeprefix("simulated: ")


def board_cell(value: float | None, factor: int) -> str:
    """Return a number times `factor`, by the rule of rounding; 0 marks a count."""
    if value is None or factor:
        return number(None if value is None else value * factor)
    return str(value)


def columns_of(rows: BoardRows) -> Groups:
    """Return the columns that say something of these rows: of answers without text E2E and rates of input."""
    total = rows[-1]
    return WITHOUT_TOKENS if total["ttft_p50"] is None and total["e2e_p50"] is not None else GROUPS


def board_grid(rows: BoardRows) -> Grid:
    shown = columns_of(rows)
    columns = [column for _, group in shown for column in group]
    return Grid(
        heads=("Name", *(part for part, _, _ in columns), "verdict"),
        rows=tuple(
            (row["name"], *(board_cell(row[key], factor) for _, key, factor in columns), row["verdict"] or UNKNOWN)
            for row in rows
        ),
        groups=(("", 1), *((group, len(parts)) for group, parts in shown), ("", 1)),
    )


def board_lines(rows: BoardRows, mark: str | None = None) -> list[str]:
    """Return the rows of a board as lines of an aligned table like Locust's, with what they leave out and doubt."""
    table = board_grid(rows)
    names = max(20, *(len(row["name"]) for row in rows))
    spans = [(group, count, max((WIDTH + 1) * count, len(group) + 1)) for group, count in table.groups[1:-1]]

    def line(cells: Sequence[str]) -> str:
        rest = iter(cells[1:-1])
        parts = ["".join(f" {next(rest):>{WIDTH}}" for _ in range(count)).rjust(width) for _, count, width in spans]
        return " |".join([f"{cells[0]:{names}}", *parts]) + f" | {cells[-1]}"

    heads = " |".join([" " * names, *(f"{group:>{width}}" for group, _, width in spans)]) + " |"
    rule = "-|".join(["-" * names, *("-" * width for _, _, width in spans)]) + "-|--------"
    *own, total = map(line, table.rows)
    title = "Streaming figures" + (f" (SIMULATED SERVER: {mark})" if mark else "")
    return [title, heads, line(table.heads), rule, *own, rule, total, *notes(rows)]


def _left_out(total: dict[str, Any]) -> str:
    """Say how many requests count nowhere; a warm-up that was cancelled is one of the warm-ups, as in the verdict."""
    of_warmups = total["cancelled_warmup"]
    warmups, others = total["warmup"] + of_warmups, total["cancelled"] - of_warmups
    parts = [f"{others} cancelled"] if others else []
    if warmups:
        parts.append(f"{warmups} warm-up" + (f" ({of_warmups} of them cancelled)" if of_warmups else ""))
    return " and ".join(parts)


def notes(rows: BoardRows) -> Iterator[str]:
    """Yield what stands below a table: what was left out, and every reason for doubt once.

    The grade stands in the table alone: it may be that of the whole test, and these reasons be milder.
    """
    total = rows[-1]
    if total.get("left"):
        waiting = total["left_waiting"]
        where = (
            f", in {waiting} of them before the first token: TTFT percentiles count those as the slowest"
            if waiting
            else ""
        )
        yield f"In {total['left']} of {counted(total['requests'], 'request')} users hung up{where}."
    if total["cancelled"] or total["warmup"]:
        yield f"Left out: {_left_out(total)}."
    if total["warmup"] and not total["requests"] and total["cancelled"] == total["cancelled_warmup"]:
        yield (
            "Every request was a warm-up: so is all that is sent before the last user has started (-u divided by -r seconds), and each "
            "user's first request."
        )
    for row in rows if len(rows) > 2 else rows[:1]:  # with one name the total would repeat it
        if row["reasons"]:
            yield f"{row['name']}: {'; '.join(row['reasons'])}."


def cost_note(rows: BoardRows, facts: dict[str, Any]) -> Iterator[str]:
    """Yield what a million output tokens cost so far, where the test was given a price of an hour and can be believed."""
    total, price = rows[-1], Prices.of_run(facts).hour
    million = by_hour(total, price)["per_million_output_tokens"] if price is not None else None
    if price is not None and million is not None and total["verdict"] != VOID:
        mark = " (simulated)" if simulated_profile(facts) else ""
        yield (
            f"At {price.written(price.amount)} an hour, a million output tokens{mark} cost {price.written(million)} so far: "
            f"all requests of this test together make {number(total['output_tokens_per_s'])} tokens/s."
        )


def folder_note(run: RunFolder | None) -> Iterator[str]:
    if run is not None:
        yield f"Run folder: {run.path} (charts and report: loadtest report {shlex.quote(str(run.path))})"
