"""The documentation is complete and true: every command, option, record field, outcome and metric is in it."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from markdown.extensions.toc import slugify
from support.doc_pages import MADE
from support.places import ROOT
from support.rooms import ANALYSE, ORDER

from loadtest import metrics
from loadtest.cli import cli
from loadtest.cli.options.scenario_options import make_scenario
from loadtest.records import Outcome, Record
from loadtest.scenario import Scenario, keys_of
from loadtest.urls import parse_url


@pytest.mark.parametrize("page", MADE)
def test_a_page_that_is_made_is_as_the_code_makes_it(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == MADE[page](), "scripts/docs made writes it anew"


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
        for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            place = page.parent / target if target else page
            assert place.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors_of(place), f"{page.name}: {target}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {str(slugify(re.sub(r"[`*]", "", heading), "-")) for heading in headings}


def test_no_table_is_cut_by_a_blank_line() -> None:
    """Ten kinds of data files stood as text below one in docs/data.md."""
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for rows in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert re.match(r".+\n\|[-:| ]+\n", rows), f"{page.name}: {rows[:60]}"


def test_the_site_builds_and_every_link_of_it_leads_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.name for path in (tmp_path / "site").glob("*.html")}
    assert pages == {f"{page.stem}.html" for page in (ROOT / "docs").glob("*.md")} | {"404.html"}
    for page in (tmp_path / "site").glob("*.html"):
        for source in re.findall(r'<img[^>]+src="([^"]+)"', page.read_text(encoding="utf-8")):
            assert (page.parent / source).exists(), f"{page.name}: {source}"


def test_every_page_is_in_the_navigation() -> None:
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    named = re.findall(r": ([\w-]+\.md)$", lines, re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


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
        for url in (values["url"] or "").split():
            parse_url(url)


@pytest.mark.parametrize("page", ["docs/scenario.md", "docs/servers.md"])
def test_every_scenario_file_in_a_page_is_one(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for text in blocks:
        (tmp_path / "one.toml").write_text(text, encoding="utf-8")
        Scenario.load(tmp_path / "one.toml")


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
