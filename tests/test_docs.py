"""The documentation is complete and true: every command, option, record field, outcome and metric is in it.

`python tests/test_docs.py` writes docs/cli.md anew.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import click
import yaml
from test_imports import ANALYSE, ORDER

from loadtest import metrics
from loadtest.cli import COMMANDS, cli
from loadtest.cli.options import make_scenario
from loadtest.records import Outcome, Record
from loadtest.scenario import Scenario, keys_of
from loadtest.urls import parse_url

ROOT = Path(__file__).parent.parent


def cli_page() -> str:
    """Return docs/cli.md: the help of every command, as printed 110 columns wide."""
    parts = ["# Command line\n", "Made from `--help`; `python tests/test_docs.py` writes it anew.\n"]
    for name in (None, *COMMANDS):
        title = f"loadtest {name}" if name else "loadtest"
        with click.Context(cli, info_name="loadtest", terminal_width=110, **cli.context_settings) as parent:
            command = cli.get_command(parent, name) if name else cli
            assert command is not None
            command._help_option = None  # click keeps the one that a test's lone call of the command made, without -h
            if name:
                with click.Context(command, info_name=name, parent=parent, terminal_width=110) as context:
                    text = command.get_help(context)
            else:
                text = cli.get_help(parent)
        parts.append(f"## {title}\n\n```\n{text}\n```\n")
    return "\n".join(parts)


def test_the_command_page_is_what_help_prints() -> None:
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == cli_page()


def test_every_record_field_and_outcome_is_documented() -> None:
    page = (ROOT / "docs/records.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(Record):
        assert f"`{field.name}`" in page, field.name
    for outcome in Outcome:
        assert f"| `{outcome}` |" in page


def test_every_metric_stands_beside_its_formula() -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    for name, formula in metrics.FORMULAS.items():
        assert f"| `{name}` | {formula.replace('|', chr(92) + '|')} |" in page, name


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_command_for_a_kind_of_server_is_one() -> None:
    page = (ROOT / "docs/servers.md").read_text(encoding="utf-8")
    commands = re.findall(r"\| `(loadtest .+?)` \|$", page, re.MULTILINE)
    assert len(commands) > 20
    for text in commands:
        name, *args = shlex.split(text)[1:]
        with click.Context(cli, info_name="loadtest", **cli.context_settings) as parent:
            command = cli.get_command(parent, name)
            assert command is not None
            with command.make_context(name, args, parent=parent) as context:
                values = context.params
        if values.get("url") is None and (argument := values.get("given") or values.get("place")):
            values["url"] = argument if isinstance(argument, str) else argument[0]
        make_scenario(None, {one.name: values[one.name] for one in keys_of(Scenario)})
        if values["url"] is not None:
            parse_url(values["url"])


def test_what_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:loadtest|tests|docs|scripts)/[\w/.]*)`", text)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []
    for module, name in (
        ("monitor/process.py", "SOURCE_KINDS"),
        ("monitor/process.py", "make_source"),
        ("cli/monitor.py", "SOURCE_HELP"),
    ):
        assert re.search(rf"^(def )?{name}\b", (ROOT / "loadtest" / module).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_picture_of_the_rooms_has_every_room_in_its_order() -> None:
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[3]
    firsts = [line[:31].strip() for line in picture.strip().splitlines()]
    rooms = [name.removesuffix("/") for line in firsts for name in line.split()]
    assert [room for room in rooms if room in ORDER] == ORDER
    inner = [name.removesuffix(".py") for name in rooms if name.removesuffix(".py") in ANALYSE]
    assert inner == ANALYSE


def test_pre_commit_runs_the_commands_of_scripts_check() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    commands = [line for line in (ROOT / "scripts/check").read_text().splitlines() if line.startswith(".venv/bin/")]
    assert [hook["entry"] for hook in hooks] == commands
    assert {hook["language"] for hook in hooks} == {"system"}
    assert not any(hook["pass_filenames"] for hook in hooks)


def test_the_changelog_names_the_version_or_what_is_unreleased() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in text


if __name__ == "__main__":
    (ROOT / "docs/cli.md").write_text(cli_page(), encoding="utf-8")
