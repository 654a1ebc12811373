"""The tables of a report: every figure of a run with its formula beside it."""

from __future__ import annotations

from functools import partial
from typing import Any

from loadtest.analyse.figures import client_capacity
from loadtest.analyse.figures.stationarity import too_few_for_interval
from loadtest.analyse.run import LevelData, has_tokens
from loadtest.analyse.server.model_memory import memory_comparison
from loadtest.analyse.summary import Analysis
from loadtest.doubts import VOID, schedule_lag_limit
from loadtest.grid import Grid
from loadtest.metrics import FORMULAS, PERCENTILES, needed
from loadtest.records import Outcome
from loadtest.slo import judged_before
from loadtest.text import UNKNOWN, number, percent, seconds, some_of

# Every figure of a level in the order of summary.json: (key, name, unit).
LEVEL_FIGURES = (
    ("ttft_s", "TTFT", "ms"),
    ("ttft_sched_s", "TTFT from t_sched", "ms"),
    ("slot_wait_s", "slot wait", "ms"),
    ("batch_wait_s", "batch wait", "ms"),
    ("queue_wait_s", "queue wait", "ms"),
    ("load_s", "model load", "ms"),
    ("prefill_s", "prefill", "ms"),
    ("prefill_tokens_per_s", "prefill tokens/s", "1/s"),
    ("itl_s", "ITL", "ms"),
    ("tpot_s", "TPOT", "ms"),
    ("stall_s", "stall", "ms"),
    ("e2e_s", "E2E", "ms"),
    ("e2e_sched_s", "E2E from t_sched", "ms"),
    ("stream_tokens_per_s", "stream tokens/s", "1/s"),
    ("e2e_tokens_per_s", "e2e tokens/s", "1/s"),
    ("server_itl_s", "server ITL", "ms"),
    ("delivery_delay_s", "delivery delay", "ms"),
)
STATISTIC_HEADS = ("mean", "p5", "p50", "p90", "p95", "p99", "max")
WITH_INTERVAL = ("p50", "p95")


def headline(level: LevelData, *, tokens: bool = True) -> dict[str, str]:
    """Return a level's headline figures by their heads; without `tokens`, as of embeddings, E2E stands for TTFT."""
    key, name = ("ttft", "TTFT") if tokens else ("e2e", "E2E")
    cells = {f"{name} {part}": level.wait_in_words(f"{key}_s", part) for part in ("p50", "p95", "p99")}
    cells["p95 from t_sched"] = level.wait_in_words(f"{key}_sched_s", "p95")
    if not tokens:
        rates = {"requests/s": "requests_per_s", "input tokens/s": "input_tokens_per_s"}
        return cells | {head: number(level[rate]) for head, rate in rates.items()}
    return cells | {
        "queue wait p50": level.wait_in_words("queue_wait_s", "p50"),
        "tokens/s a stream": number(level.figure("stream_tokens_per_s", "p50")),
        "output tokens/s": number(level["output_tokens_per_s"]),
    }


def _told_or_needed(level: LevelData, *, tokens: bool) -> list[str]:
    """Return headline(), p95 with its 95 % interval; of a percentile that is not told, how many requests it would take."""
    cells = list(headline(level, tokens=tokens).values())
    name = "ttft" if tokens else "e2e"
    for place, (kind, part) in enumerate((("", "p50"), ("", "p95"), ("", "p99"), ("_sched", "p95"))):
        described = level.get(f"{name}{kind}_s")
        if described and _untold(described, part):
            cells[place] = f"too few ({described['n']} of {needed(PERCENTILES[part])})"
        elif part == "p95" and (ends := level.interval_in_words(f"{name}{kind}_s", part)):
            cells[place] += f" ({ends})"
        elif part == "p95" and (few := too_few_for_interval(level, f"{name}{kind}_s", part)):
            cells[place] += f" (none{few})"
    return cells


def overview(summary: dict[str, Any]) -> Grid:
    """Return a row a level: how it ended, headline figures, verdict; no wider than a page. `rest_of_levels` has the rest.

    Of answers without text, such as embeddings, E2E stands for TTFT.
    """
    levels = summary["levels"]
    tokens = has_tokens(*levels)
    of_all = (
        ("queue wait p50", "tokens/s a stream p50", "output tokens/s") if tokens else ("requests/s", "input tokens/s")
    )
    heads = (
        "level",
        "verdict",
        "ok",
        "failed",
        "left",
        "not sent",
        "TTFT p50" if tokens else "E2E p50",
        "p95 (95 % interval)",
        "p99",
        "p95 from t_sched",
        *of_all,
    )
    rows = tuple(
        (
            level["label"],
            level.verdict_said,
            str(level["outcomes"].get(Outcome.OK, 0)),
            str(level.failed),
            str(level["outcomes"].get(Outcome.LEFT, 0)),
            str(level.get("shed") or 0),
            *_told_or_needed(level, tokens=tokens),
        )
        for level in levels
    )
    spare = {
        "left": not any(level["outcomes"].get(Outcome.LEFT) for level in levels),
        "not sent": not any(level.get("shed") for level in levels),
        # A closed loop sends when its user is free: both are the same there.
        "p95 from t_sched": not any(level.is_open for level in levels),
    }
    return Grid(heads, rows, names=2).without(*(head for head, left_out in spare.items() if left_out))


def rest_of_levels(summary: dict[str, Any]) -> Grid:
    """Return what is seldom asked of each level: a row a level."""
    tokens = has_tokens(*summary["levels"])
    rate = "output_tokens_per_s_ci95" if tokens else "requests_per_s_ci95"
    heads = (
        "level",
        "TTFT p95 from t_sched" if tokens else "E2E p95 from t_sched",
        f"95 % interval of {'output tokens/s' if tokens else 'requests/s'}",
        "input tokens/s",
        "requests/s",
        "peak decoding",
        "warm-up requests",
        "rates over",
    )
    rows = tuple(
        (
            level["label"],
            _told_or_needed(level, tokens=tokens)[3],
            " to ".join(map(number, level.get(rate) or ())) or UNKNOWN,
            number(level["input_tokens_per_s"]),
            number(level["requests_per_s"]),
            str(level["peak_decoding"]),
            str(level["warmup_requests"]),
            level["window"]["throughput_over"] if level["window"] else UNKNOWN,
        )
        for level in summary["levels"]
    )
    return Grid(heads, rows)


def level_table(level: LevelData, summary: dict[str, Any]) -> Grid:
    """Return every figure of a level with its interval and its formula, or why it is unknown; p5 is the slow side of speeds."""
    target, server = summary.get("target") or {}, summary.get("server") or {}
    who = "Ollama" if str(target.get("dialect") or "").startswith("ollama") else str(server.get("kind") or "")
    rows = []
    for key, name, unit in LEVEL_FIGURES:
        formula = _formula_of(key, who)
        described = level.get(key)
        if not described and not has_tokens(level):
            continue  # answers without text have none of it
        if not described:
            reason = level.get(f"{key}_reason", "unknown")
            rows.append(
                (
                    name,
                    unit,
                    "0",
                    *[UNKNOWN] * (len(STATISTIC_HEADS) + len(WITH_INTERVAL)),
                    f"{formula} (unknown: {reason})",
                )
            )
            continue
        factor = 1e3 if unit == "ms" else 1.0
        cells = [
            _untold(described, part)
            or ("> " if part in described.get("at_least", ()) else "") + _in_unit(described[part], factor)
            for part in STATISTIC_HEADS
        ]
        write = partial(_in_unit, factor=factor)
        between = [level.interval_in_words(key, part, write) or UNKNOWN for part in WITH_INTERVAL]
        rows.append((name, unit, str(described["n"]), *cells, *between, formula))
    heads = (
        "figure",
        "unit",
        "n",
        *STATISTIC_HEADS,
        *(f"95 % interval of {part}" for part in WITH_INTERVAL),
        "formula",
    )
    return Grid(heads, tuple(rows), names=2, prose=True)


def _formula_of(key: str, who: str) -> str:
    """Return a figure's formula; where it differs from server to server the one of `who`, or all."""
    formula = FORMULAS.get(key, "")
    return dict(part.split(": ", 1) for part in formula.split("; ") if ": " in part).get(who, formula)


def step_time_table(analysis: Analysis) -> Grid:
    """Return the measured step times, a row a number of streams decoding, beside those of the line through them."""
    law, times = analysis.steps.law, analysis.steps.times
    two = any(len(entry.kinds) > 1 for entry in times)
    rows = []
    for entry in times:
        kinds = [f"{_in_unit(kind.centre_s, 1e3)} ({percent(kind.share)})" for kind in entry.kinds]
        rows.append(
            (
                str(entry.streams),
                str(entry.n),
                *(_in_unit(value, 1e3) for value in (entry.mean_s, entry.median_s, entry.p10_s, entry.p90_s)),
                *([" and ".join(kinds) if len(kinds) > 1 else "one kind"] if two else []),
                *([_in_unit(law.at(entry.streams), 1e3)] if law else []),
            )
        )
    heads = (
        "streams decoding",
        "gaps between tokens",
        *("step, mean ms", "median", "p10", "p90"),
        *(["two kinds of gap, median ms"] if two else []),
        *(
            [
                f"by the line {_in_unit(law.base_s, 1e3)} + {_in_unit(law.per_stream_s, 1e3)} n{'' if law.fits else ', which does not fit'}"
            ]
            if law
            else []
        ),
    )
    return Grid(heads, tuple(rows), names=0)


def memory_table(found: memory_comparison.MemoryComparison) -> Grid:
    """Return what the model should take in memory, part by part, beside what was measured."""
    rows = [tuple(cell or UNKNOWN for cell in row) for row in memory_comparison.comparison_rows(found)]
    head = "said by the simulated server" if all(each.simulated for each in found.readings) else "measured"
    return Grid(("", "estimate", head, "difference", "from"), tuple(rows), prose=True)


def client_table(summary: dict[str, Any]) -> Grid:
    calibrated = any("capacity_share" in level["client"] for level in summary["levels"])
    rows = []
    for level in summary["levels"]:
        said, tokens = level["client"], level["tokens"]
        achieved = tokens["achieved"]
        waited = level.figure("ttft_s" if has_tokens(level) else "e2e_s", "p50")
        rows.append(
            (
                level["label"],
                said["stamps"],
                _beside(said["lag_s"]["max"], level.figure("itl_s", "p50")),
                _beside(said["schedule_lag_p99_s"], None if waited is None else schedule_lag_limit(waited)),
                percent(said["cpu"]) if said["cpu"] is not None else UNKNOWN,
                *([client_capacity.capacity_cell(said)] if calibrated else []),
                f"{tokens['output'] or 0} of {tokens['asked'] or 'any'}"
                + (f" ({percent(achieved)})" if achieved else ""),
                str(tokens["prompt"] or UNKNOWN),
                tokens["source"] or UNKNOWN,
            )
        )
    heads = (
        "level",
        "stamps",
        "client lag max (token gap)",
        "schedule lag p99 (limit)",
        "CPU of one core",
        *(["of what it can measure"] if calibrated else []),
        "output tokens of asked",
        "prompt tokens",
        "counted by",
    )
    return Grid(heads, tuple(rows))


def failures_table(summary: dict[str, Any]) -> Grid | None:
    """Return how many requests of each level failed, and why; None where none did."""
    rows = tuple(
        (level["label"], f"{level.failed} of {level['requests']}", level.get("failures") or UNKNOWN)
        for level in summary["levels"]
        if level.failed
    )
    return Grid(("level", "failed", "how, and the commonest error"), rows, prose=True) if rows else None


def objectives_table(summary: dict[str, Any]) -> Grid | None:
    """Return what each level's objectives (--slo) came to, and its goodput; None where the report was given none."""
    rows: list[tuple[str, ...]] = []
    for level in summary["levels"]:
        found = judged_before(level)
        rows += [(level["label"], str(each.objective), each.word_in(level["verdict"]), each.amount) for each in found]
        if found and (met := level.get("goodput")) and level["verdict"] != VOID:
            share = some_of(met["good"], met["requests"], "request")
            rows.append((level["label"], "goodput", share, f"{number(met['requests_per_s'])} requests/s"))
    return Grid(("level", "objective", "outcome", "figure"), tuple(rows), names=3, prose=True) if rows else None


def sections(analysis: Analysis) -> list[tuple[str, Analysis]]:
    """Return what has tables and charts of its own: each model and server as (": name", its analysis), else ("", all)."""
    return [(f": {group.name}", one) for group, one in analysis.groups] or [("", analysis)]


def _beside(value: float | None, limit: float | None) -> str:
    """Return a lag, and in brackets what it is held against."""
    if value is None:
        return UNKNOWN
    return f"{seconds(value)} ({seconds(limit)})" if limit else seconds(value)


def _untold(described: dict[str, Any], part: str) -> str | None:
    """Say how many values a percentile would take that is not told; None where it is."""
    return f"needs {needed(PERCENTILES[part])}" if described[part] is None and part in PERCENTILES else None


def _in_unit(value: float | None, factor: float) -> str:
    return number(None if value is None else value * factor)
