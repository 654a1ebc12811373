"""report.md and report.html: findings on top, then charts, then every figure with its formula beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loadtest.analyse.reports import findings, tables
from loadtest.analyse.reports.summary import Analysis
from loadtest.analyse.run import groups
from loadtest.grid import Grid, escaped
from loadtest.templates import render

CAPTIONS = {
    "ttft.png": "Mean TTFT by concurrency or rate, split into what the request waited for",
    "lengths.png": "TTFT, prefill speed and memory against input length",
    "load.png": "Cold loads: each request over time, and what memory did meanwhile",
    "throughput.png": "Tokens a second of one stream and of all together",
    "timeline.png": "One level, a row a request",
    "ttft-distribution.png": "Distribution of TTFT",
    "e2e.png": "E2E and input tokens a second by concurrency or rate",
    "e2e-distribution.png": "Distribution of E2E",
    "itl.png": "Distribution of the gaps between tokens",
    "streams.png": "Streams decoding and waiting over the run",
    "machine.png": "What the machine did beside the streams: cores, GPU, memory and the server's own counts",
    "prediction.png": "What the model of this run predicts over concurrency, beside what was measured",
}


def _sorted_pictures(analysis: Analysis, pictures: list[Path]) -> tuple[list[Path], list[list[Path]]]:
    """Return the charts of the whole run, and those of each model and server."""
    folders = [groups.chart_folder(number, group.name) for number, (group, _) in enumerate(analysis.groups, 1)]
    own = [[path for path in pictures if path.parent.name == folder] for folder in folders]
    return [path for path in pictures if path.parent.name not in folders], own or [[]]


def markdown(analysis: Analysis, pictures: list[Path]) -> str:
    """Return report.md; it names the PNGs beside it."""
    summary = analysis.summary
    mark = findings.simulated_mark(summary)
    lines = [f"# {escaped(summary['name'])}: {escaped(findings.measured_on(summary))}", ""]
    if mark:
        lines += [
            f"> **SIMULATED SERVER** ({escaped(mark)}): these figures describe a model of a server, not a server.",
            "",
        ]
    lines += [line for sentence in summary["trouble"] for line in (f"> {escaped(sentence)}", "")]
    lines += [f"Verdict: **{summary['verdict']}**", ""]
    for finding in (*findings.all_findings(analysis), *findings.verdicts(summary["levels"])):
        lines.append(f"- {escaped(finding)}")
        lines += [f"    - How we know: {escaped(finding.evidence)}"] if finding.evidence else []
    lines += ["", "## Levels", "", *tables.overview(summary).markdown(), ""]
    shared, own = _sorted_pictures(analysis, pictures)
    lines += [line for picture in shared for line in (_markdown_picture(picture, picture.name), "")]
    for (named, one), drawn in zip(tables.sections(analysis), own, strict=True):
        for picture in drawn:
            lines += [_markdown_picture(picture, f"{picture.parent.name}/{picture.name}", named), ""]
        for level in one.summary["levels"]:
            lines += [f"## {escaped(level['label'])}", "", *tables.level_table(level).markdown(), ""]
        if one.steps.times:
            lines += [f"## Step times{escaped(named)}", "", *tables.step_time_table(one).markdown(), ""]
        if one.memory:
            lines += [f"## Memory{escaped(named)}", "", *tables.memory_table(one.memory).markdown(), ""]
    lines += ["## Client and tokens", "", *tables.client_table(summary).markdown(), ""]
    lines += ["## The run", "", *tables.facts_table(analysis).markdown(), ""]
    return "\n".join(lines)


def _markdown_picture(picture: Path, path: str, named: str = "") -> str:
    return f"![{CAPTIONS.get(picture.name, picture.stem)}{escaped(named)}]({path})"


def html(analysis: Analysis, pictures: list[Path]) -> str:
    """Return report.html: one file, pictures inside, nothing fetched."""
    summary = analysis.summary
    shared, own = _sorted_pictures(analysis, pictures)
    return render(
        "report.html",
        title=f"{summary['name']}: {findings.measured_on(summary)}",
        simulated=findings.simulated_mark(summary),
        summary=summary,
        findings=findings.all_findings(analysis),
        doubts=findings.verdicts(summary["levels"]),
        levels=tables.overview(summary),
        pictures=[_captioned(path) for path in shared],
        sections=[
            {
                "name": named,
                "pictures": [_captioned(path, named) for path in drawn],
                "levels": [(level, tables.level_table(level)) for level in one.summary["levels"]],
                "tables": list(_server_tables(named, one)),
            }
            for (named, one), drawn in zip(tables.sections(analysis), own, strict=True)
        ],
        tables=_run_tables(analysis),
    )


def _server_tables(named: str, one: Analysis) -> Iterator[tuple[str, Grid]]:
    """Yield what tables say of one model at one server besides its levels; `named` is ": name" where a run has several."""
    if one.steps.times:
        yield f"Step times{named}", tables.step_time_table(one)
    if one.memory:
        yield f"Memory{named}", tables.memory_table(one.memory)


def _run_tables(analysis: Analysis) -> list[tuple[str, Grid]]:
    return [("Client and tokens", tables.client_table(analysis.summary)), ("The run", tables.facts_table(analysis))]


def _captioned(path: Path, named: str = "") -> tuple[str, bytes]:
    return f"{CAPTIONS.get(path.name, path.stem)}{named}", path.read_bytes()
