"""report.md and report.html: findings on top, then charts, then every figure with its formula beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from loadtest.analyse.figures import client_capacity
from loadtest.analyse.figures.stats import PERCENTILES
from loadtest.analyse.reports import findings
from loadtest.analyse.reports.summary import Analysis, failed
from loadtest.analyse.run import groups
from loadtest.analyse.server import memory_parts
from loadtest.metrics import FORMULAS, needed

# Every figure of a level in the order of summary.json: (key, name, unit).
FIGURES = (
    ("ttft_s", "TTFT", "ms"),
    ("ttft_sched_s", "TTFT from t_sched", "ms"),
    ("slot_wait_s", "slot wait", "ms"),
    ("batch_wait_s", "batch wait", "ms"),
    ("queue_wait_s", "queue wait", "ms"),
    ("load_s", "load", "ms"),
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
PARTS = ("mean", "p50", "p90", "p95", "p99", "max")
NOTHING = "–"
CAPTIONS = {
    "ttft.png": "Mean TTFT by concurrency or rate, split into what the request waited for",
    "lengths.png": "TTFT, prefill speed and memory against input length",
    "load.png": "Cold loads: each request over time, and what memory did meanwhile",
    "throughput.png": "Tokens a second of one stream and of all together",
    "timeline.png": "One level, a row a request",
    "ttft-distribution.png": "Distribution of TTFT",
    "itl.png": "Distribution of the gaps between tokens",
    "streams.png": "Streams decoding and waiting over the run",
    "machine.png": "What the machine did beside the streams: cores, GPU, memory and the server's own counts",
    "prediction.png": "What the model of this run predicts over concurrency, beside what was measured",
}


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of a report: heads, rows of text, how many columns from the left are names, and if the last is prose."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    prose: bool = False


def headline(level: dict[str, Any]) -> list[str]:
    """Return a level's TTFT p50, p95, p99, p95 from t_sched, queue wait p50, tokens/s of a stream and in all."""
    ttft = [_duration(findings.figure(level, "ttft_s", part)) for part in ("p50", "p95", "p99")]
    ttft.append(_duration(findings.figure(level, "ttft_sched_s", "p95")))
    waited = _duration(findings.figure(level, "queue_wait_s", "p50"))
    return [
        *ttft,
        waited,
        _rate(findings.figure(level, "stream_tokens_per_s", "p50")),
        _rate(level["output_tokens_per_s"]),
    ]


def _told_or_needed(level: dict[str, Any]) -> list[str]:
    """Return headline(), with how many requests it would take where a TTFT percentile is not told."""
    cells = headline(level)
    for place, (key, part) in enumerate(
        (("ttft_s", "p50"), ("ttft_s", "p95"), ("ttft_s", "p99"), ("ttft_sched_s", "p95"))
    ):
        cells[place] = _untold(level.get(key), part) or cells[place]
    return cells


def overview(summary: dict[str, Any]) -> Grid:
    """Return a row a level: what was asked, how it ended, headline figures, verdict."""
    some_shed = any(level.get("shed") for level in summary["levels"])
    heads = (
        "level",
        "verdict",
        "ok",
        "failed",
        *(["not sent"] if some_shed else []),
        "TTFT p50",
        "p95",
        "p99",
        "p95 from t_sched",
        "queue wait p50",
        "tokens/s a stream p50",
        "output tokens/s",
        "input tokens/s",
        "requests/s",
        "peak decoding",
        "rates over",
    )
    rows = []
    for level in summary["levels"]:
        window = level["window"]
        rows.append(
            (
                level["label"],
                level["verdict"],
                str(level["outcomes"].get("ok", 0)),
                str(failed(level)),
                *([str(level.get("shed") or 0)] if some_shed else []),
                *_told_or_needed(level),
                _rate(level["input_tokens_per_s"]),
                _rate(level["requests_per_s"]),
                str(level["peak_decoding"]),
                window["throughput_over"] if window else NOTHING,
            )
        )
    return Grid(heads, tuple(rows), names=2)


def figures(level: dict[str, Any]) -> Grid:
    """Return every figure of a level with its interval and its formula, or why it is unknown."""
    rows = []
    for key, name, unit in FIGURES:
        formula = FORMULAS.get(key, "")
        described = level.get(key)
        if not described:
            reason = level.get(f"{key}_reason", "unknown")
            rows.append((name, unit, "0", *[NOTHING] * (len(PARTS) + 1), f"{formula} (unknown: {reason})"))
            continue
        factor = 1e3 if unit == "ms" else 1.0
        cells = [_untold(described, part) or _number(described[part], factor) for part in PARTS]
        interval = described["ci95_p50"]
        between = f"{_number(interval[0], factor)} to {_number(interval[1], factor)}" if interval else NOTHING
        rows.append((name, unit, str(described["n"]), *cells, between, formula))
    return Grid(("figure", "unit", "n", *PARTS, "95 % interval of p50", "formula"), tuple(rows), names=2, prose=True)


def steps(analysis: Analysis) -> Grid:
    """Return the measured step times, a row a number of streams decoding, beside the law's."""
    law = analysis.steps.law
    rows = []
    for entry in analysis.steps.times:
        kinds = [f"{_number(kind.centre_s, 1e3)} ({findings.percent(kind.share)})" for kind in entry.kinds]
        said = _number(law.at(entry.streams), 1e3) if law else NOTHING
        measured = (entry.mean_s, entry.median_s, entry.p10_s, entry.p90_s)
        cells = [_number(value, 1e3) for value in measured]
        rows.append((str(entry.streams), str(entry.n), *cells, " and ".join(kinds) if len(kinds) > 1 else "one", said))
    heads = ("streams decoding", "steps", "mean ms", "median", "p10", "p90", "kinds of step", "the law's")
    return Grid(heads, tuple(rows), names=0)


def memory(found: memory_parts.MemoryComparison) -> Grid:
    """Return what the model should take in memory, part by part, beside what was measured."""
    rows = [tuple(cell or NOTHING for cell in row) for row in memory_parts.comparison_rows(found)]
    return Grid(("", "estimate", "measured", "difference", "from"), tuple(rows), prose=True)


def client(summary: dict[str, Any]) -> Grid:
    """Return how well the client kept up, a row a level."""
    calibrated = any("capacity_share" in level["client"] for level in summary["levels"])
    rows = []
    for level in summary["levels"]:
        said, tokens = level["client"], level["tokens"]
        achieved = tokens["achieved"]
        rows.append(
            (
                level["label"],
                said["stamps"],
                _duration(_largest(said["lag_s"])),
                _duration(_largest(said["schedule_lag_s"])),
                findings.percent(said["cpu"]) if said["cpu"] is not None else NOTHING,
                *([client_capacity.capacity_cell(said)] if calibrated else []),
                f"{tokens['output'] or 0} of {tokens['asked'] or 'any'}"
                + (f" ({findings.percent(achieved)})" if achieved else ""),
                str(tokens["prompt"] or NOTHING),
                tokens["source"] or NOTHING,
            )
        )
    heads = (
        "level",
        "stamps",
        "client lag max",
        "schedule lag max",
        "CPU of a core",
        *(["of what it can measure"] if calibrated else []),
        "output tokens of asked",
        "prompt tokens",
        "counted by",
    )
    return Grid(heads, tuple(rows))


def facts(analysis: Analysis) -> Grid:
    """Return what was measured, from where and how."""
    summary, run = analysis.summary, analysis.run.facts
    machine, server = run.get("client") or {}, summary["server"]
    versions = ", ".join(f"{name} {version}" for name, version in (run.get("versions") or {}).items())
    pairs = (
        (
            "run",
            f"{summary['name']} ({summary['state'] or 'state unknown'}, started {summary['started'] or 'at an unknown time'})",
        ),
        ("server", f"{findings.measured_on(summary)} at {_urls(analysis)}"),
        *([("simulated", mark)] if (mark := findings.simulated(summary)) else []),
        *([("reached", way)] if (way := _way(run.get("scenario") or {})) else []),
        ("wire", str(summary["target"].get("dialect") or NOTHING)),
        ("context", f"{server.get('context') or 'unknown'} tokens"),
        *((f"slots{named}", f"{one.slots} ({one.slots.method})") for named, one in sections(analysis)),
        ("driver", str(summary["driver"] or NOTHING)),
        (
            "client",
            f"CPUs: {machine.get('cpus', '?')}, kernel {machine.get('kernel', '?')}, Python {machine.get('python', '?')}",
        ),
        ("versions", versions or NOTHING),
    )
    return Grid(("", ""), pairs, prose=True)


def _way(scenario: dict[str, Any]) -> str:
    """Return by which way the server was reached, and what was not checked on it; empty for the plain way."""
    said = []
    if scenario.get("proxy"):
        said.append(f"by the proxy {scenario['proxy']}: TTFT holds its share")
    if scenario.get("insecure"):
        said.append("with --insecure: whose certificate it was has not been checked")
    return "; ".join(said)


def _urls(analysis: Analysis) -> str:
    urls = [group.url for group, _ in analysis.groups] or [analysis.summary["target"].get("url")]
    return ", ".join(map(str, dict.fromkeys(urls)))


def sections(analysis: Analysis) -> list[tuple[str, Analysis]]:
    """Return what has tables and charts of its own: each model and server as (": name", its analysis), else ("", all)."""
    return [(f": {group.name}", one) for group, one in analysis.groups] or [("", analysis)]


def _pictures(analysis: Analysis, pictures: list[Path]) -> tuple[list[Path], list[list[Path]]]:
    """Return the charts of the whole run, and those of each model and server."""
    folders = [groups.chart_folder(number, group.name) for number, (group, _) in enumerate(analysis.groups, 1)]
    own = [[path for path in pictures if path.parent.name == folder] for folder in folders]
    return [path for path in pictures if path.parent.name not in folders], own or [[]]


def markdown(analysis: Analysis, pictures: list[Path]) -> str:
    """Return report.md; it names the PNGs beside it."""
    summary = analysis.summary
    mark = findings.simulated(summary)
    lines = [f"# {escaped(summary['name'])}: {escaped(findings.measured_on(summary))}", ""]
    if mark:
        lines += [
            f"> **SIMULATED SERVER** ({escaped(mark)}): these figures describe a model of a server, not a server.",
            "",
        ]
    lines += [line for sentence in summary["trouble"] for line in (f"> {escaped(sentence)}", "")]
    lines += [f"Verdict: **{summary['verdict']}**", ""]
    lines += [f"- {escaped(sentence)}" for sentence in findings.all_findings(analysis)]
    lines += [f"- {escaped(line)}" for line in findings.verdicts(summary["levels"])]
    lines += ["", "## Levels", "", *markdown_table(overview(summary)), ""]
    shared, own = _pictures(analysis, pictures)
    lines += [line for picture in shared for line in (_markdown_picture(picture, picture.name), "")]
    for (named, one), drawn in zip(sections(analysis), own, strict=True):
        for picture in drawn:
            lines += [_markdown_picture(picture, f"{picture.parent.name}/{picture.name}", named), ""]
        for level in one.summary["levels"]:
            lines += [f"## {escaped(level['label'])}", "", *markdown_table(figures(level)), ""]
        if one.steps.times:
            lines += [f"## Step times{escaped(named)}", "", *markdown_table(steps(one)), ""]
        if one.memory:
            lines += [f"## Memory{escaped(named)}", "", *markdown_table(memory(one.memory)), ""]
    lines += ["## Client and tokens", "", *markdown_table(client(summary)), ""]
    lines += ["## The run", "", *markdown_table(facts(analysis)), ""]
    return "\n".join(lines)


def _markdown_picture(picture: Path, path: str, named: str = "") -> str:
    return f"![{CAPTIONS.get(picture.name, picture.stem)}{escaped(named)}]({path})"


def markdown_table(grid: Grid) -> Iterator[str]:
    """Yield the lines of a table in Markdown, its text escaped."""
    yield "| " + " | ".join(map(escaped, grid.heads)) + " |"
    yield "|" + "".join(
        "---|" if i < grid.names or i == len(grid.heads) - 1 else "---:|" for i in range(len(grid.heads))
    )
    for row in grid.rows:
        yield "| " + " | ".join(map(escaped, row)) + " |"


def escaped(text: str) -> str:
    """Escape what a server or a user may have put into a name; a line break would end a table's row."""
    plain = " ".join(text.split())
    for sign in "\\`*_[]<>|#":
        plain = plain.replace(sign, f"&#{ord(sign)};" if sign in "<>" else f"\\{sign}")
    return plain


def html(analysis: Analysis, pictures: list[Path]) -> str:
    """Return report.html: one file, pictures inside, nothing fetched."""
    summary = analysis.summary
    mark = findings.simulated(summary)
    title = f"{summary['name']}: {findings.measured_on(summary)}"
    parts = [f"<h1>{escape(title)}</h1>"]
    if mark:
        sentence = "these figures describe a model of a server, not a server."
        parts.append(f'<p class="simulated"><strong>SIMULATED SERVER</strong> ({escape(mark)}): {sentence}</p>')
    parts += [f'<p class="trouble">{escape(sentence)}</p>' for sentence in summary["trouble"]]
    verdict = summary["verdict"]
    parts.append(f'<p>Verdict: <span class="verdict {verdict}">{verdict}</span></p>')
    parts.append(_html_list(findings.all_findings(analysis)))
    if doubts := findings.verdicts(summary["levels"]):
        parts.append(f"<h2>Reasons for doubt</h2>{_html_list(doubts)}")
    parts.append(f"<h2>Levels</h2>{_html_table(overview(summary))}")
    shared, own = _pictures(analysis, pictures)
    parts += [_html_picture(picture) for picture in shared]
    for (named, one), drawn in zip(sections(analysis), own, strict=True):
        parts += _html_section(named, one, drawn)
    parts.append(f"<h2>Client and tokens</h2>{_html_table(client(summary))}")
    parts.append(f"<h2>The run</h2>{_html_table(facts(analysis))}")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{CSS}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _html_section(named: str, one: Analysis, drawn: list[Path]) -> Iterator[str]:
    """Yield charts and figures of one model at one server; `named` is ": name" where a run has several."""
    levels = one.summary["levels"]
    yield f"<h2>Every figure{escape(named)}</h2>"
    yield from (_html_picture(picture, named) for picture in drawn)
    for i, level in enumerate(levels):
        opened = " open" if i == len(levels) - 1 else ""
        label = f"{escape(level['label'])} <span class='verdict {level['verdict']}'>{level['verdict']}</span>"
        yield f"<details{opened}><summary>{label}</summary>{_html_table(figures(level))}</details>"
    if one.steps.times:
        yield f"<h2>Step times{escape(named)}</h2>{_html_table(steps(one))}"
    if one.memory:
        yield f"<h2>Memory{escape(named)}</h2>{_html_table(memory(one.memory))}"


def _html_list(sentences: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _html_table(grid: Grid) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        kinds = ["name" if i < grid.names else "number" for i in range(len(cells))]
        kinds[-1] = "prose" if grid.prose else kinds[-1]
        return (
            "<tr>"
            + "".join(f'<{tag} class="{kind}">{escape(cell)}</{tag}>' for cell, kind in zip(cells, kinds, strict=True))
            + "</tr>"
        )

    head = f"<thead>{row(grid.heads, 'th')}</thead>" if any(grid.heads) else ""
    body = "".join(row(cells, "td") for cells in grid.rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _html_picture(path: Path, named: str = "") -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = escape(f"{CAPTIONS.get(path.name, path.stem)}{named}")
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _largest(described: dict[str, Any]) -> float | None:
    value: float | None = described["max"]
    return value


def _untold(described: dict[str, Any] | None, part: str) -> str | None:
    """Say how many values a percentile would take that is not told; None where it is, or where nothing is known."""
    if not described or described[part] is not None or part not in PERCENTILES:
        return None
    return f"needs {needed(PERCENTILES[part])}"


def _duration(value: float | None) -> str:
    return NOTHING if value is None else findings.seconds(value)


def _rate(value: float | None) -> str:
    return NOTHING if value is None else _number(value, 1.0)


def _number(value: float | None, factor: float) -> str:
    """Return about three significant digits without an exponent."""
    if value is None:
        return NOTHING
    scaled = value * factor
    size = abs(scaled)
    return f"{scaled:.0f}" if size >= 99.95 else f"{scaled:.1f}" if size >= 10 else f"{scaled:.2f}"


CSS = """
:root { color-scheme: light dark; --ink: #222; --dim: #666; --line: #ddd; --paper: #fff; --band: #f6f6f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --dim: #a0a0a0; --line: #444; --paper: #181818; --band: #222; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--dim); font-weight: 600; white-space: normal; vertical-align: bottom; }
.name, .prose { text-align: left; } td.prose { color: var(--dim); white-space: normal; min-width: 12rem; }
tbody tr:nth-child(even) { background: var(--band); }
figure { margin: 1.5rem 0; } img { max-width: 100%; border-radius: 4px; background: #fff; }
figcaption { color: var(--dim); font-size: .85rem; }
.verdict { font-weight: 700; padding: .05rem .45rem; border-radius: 3px; color: #fff; background: #00775a; }
.verdict.suspect { background: #9a6700; } .verdict.void { background: #b3400a; }
.trouble { border-left: 4px solid #b3400a; padding-left: .6rem; }
.simulated { background: #b3400a; color: #fff; padding: .6rem .9rem; border-radius: 4px; }
details { margin: .4rem 0; } summary { cursor: pointer; }
"""
