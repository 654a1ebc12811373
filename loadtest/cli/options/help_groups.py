"""Help whose options stand in groups, each under a heading, with those that most people need first."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from loadtest.scenario import Scenario, keys_of

# Options that most runs need, in the order in which they are needed.
COMMON = (
    "url",
    "model",
    "concurrency",
    "rate",
    "duration",
    "requests",
    "input_tokens",
    "output_tokens",
    "prompt",
    "slo",
    "find_max",
    "monitor",
    "out",
)
RESULTS = (
    "name",
    "save_text",
    "price_per_hour",
    "price_per_kwh",
    "prediction",
    "probe_slots",
    "no_report",
    "quiet",
    "as_json",
    "junit",
    "github_summary",
)
MONITORING = ("monitor_every", "monitor_idle", "metrics_port", "metrics_address")
# Headings of the parts of the scenario: these first, any other part after them, under its own name.
HEADINGS = {
    "LoadKeys": "Load",
    "PromptKeys": "Prompts and lengths",
    "DataKeys": "Own prompts and shared prefixes",
    "SessionKeys": "People and conversations",
    "RequestKeys": "Request",
    "ConnectionKeys": "Connection",
    "LimitKeys": "Limits",
}


def run_groups() -> dict[str, Sequence[str]]:
    """Return the groups of `loadtest run`, by heading: what is common, then each part of the scenario, then what is kept."""
    parts = {part.__name__: part for part in reversed(Scenario.__mro__) if part.__name__.endswith("Keys")}
    groups: dict[str, Sequence[str]] = {"Most used": COMMON}
    for name in dict.fromkeys((*HEADINGS, *parts)):
        heading = HEADINGS.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Keys"))
        groups[heading] = [key.name for key in keys_of(parts[name])]
    return {**groups, "Monitoring": MONITORING, "Results": RESULTS}


class RunCommand(click.Command):
    """`loadtest run`, whose help puts options under headings; an option stands in the first group that names it."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        rows = {param.name: row for param in options if (row := param.get_help_record(ctx)) is not None}
        for heading, names in run_groups().items():
            found = [rows.pop(name) for name in names if name in rows]
            if found:
                with formatter.section(heading):
                    formatter.write_dl(found)
        if rows:
            with formatter.section("Help" if len(rows) == 1 else "Other options"):
                formatter.write_dl(list(rows.values()))
