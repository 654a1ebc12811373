"""The demo: its exit code, what it says of a busy machine, and that the commands it prints work as pasted."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.made_runs import Made, make
from support.places import ROOT

from loadtest.analyse import report
from loadtest.asyncio_driver.run import Finished
from loadtest.cli import demo
from loadtest.cli.run.results import show_ended


def test_the_demo_of_the_checkout_and_of_the_package_are_the_same() -> None:
    assert (ROOT / "scenarios/demo.toml").read_bytes() == (ROOT / "loadtest/demo.toml").read_bytes()


def printed(commands: str) -> list[str]:
    """Return the commands among the lines that the demo printed: those set in."""
    return [line.strip() for line in commands.splitlines() if re.match(r"  +\S*loadtest ", line)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with a .venv in it whose loadtest is this one, as scripts/setup makes it, and which no PATH has."""
    place = tmp_path / "a checkout"
    bin_ = place / ".venv" / "bin"
    bin_.mkdir(parents=True)
    script = f"""
import sys
sys.executable = {str(bin_ / "python")!r}
from loadtest.cli import main
if sys.argv[1] == "advise":  # a tenth of what a user gets: that the command works is asked
    from loadtest.analyse.whatif.model import predict
    predict.TOKENS_SIMULATED //= 10
main()
"""
    (bin_ / "loadtest").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(script)} "$@"\n')
    (bin_ / "loadtest").chmod(0o755)
    (bin_ / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (bin_ / "python").chmod(0o755)
    return place


def test_after_the_demo_the_commands_that_it_prints_work_as_pasted(checkout: Path, simulated_url: str) -> None:
    env = {**os.environ, "PATH": "/usr/bin:/bin", "OLLAMA_HOST": simulated_url, "PYTHONPATH": str(ROOT)}

    def shell(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-c", command], cwd=checkout, env=env, capture_output=True, text=True, check=False)

    done = shell(".venv/bin/loadtest demo --speed 20 --out 'runs/my demo'")
    assert done.returncode == 0, done.stderr  # void too: a busy test machine may void what it could not measure
    commands = printed(done.stdout)
    assert len(commands) == 2
    assert commands[1] == ".venv/bin/loadtest check"
    levels = json.loads((checkout / "runs/my demo/summary.json").read_bytes())["levels"]
    if any(level["verdict"] == "void" for level in levels):
        assert commands[0] == ".venv/bin/loadtest demo --speed 10"
        commands = commands[1:]
    for command in commands:
        said = shell(command)
        assert said.returncode == 0, (command, said.stderr)


@pytest.mark.parametrize("link", ["scripts", "scripts/demo"])
def test_scripts_are_called_through_links(checkout: Path, tmp_path: Path, link: str) -> None:
    (checkout / "scripts").mkdir()
    for name in ("setup", "demo"):
        shutil.copy(ROOT / "scripts" / name, checkout / "scripts")
    (checkout / ".venv/.ready").touch()
    (tmp_path / "link").symlink_to(checkout / link)
    command = tmp_path / "link" / ("demo" if link == "scripts" else "")
    called = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert (called.returncode, called.stderr) == (0, "")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("void", [False, True])
def test_a_demo_that_is_void_says_what_that_means_and_what_to_do(tmp_path: Path, void: bool) -> None:
    make(tmp_path / "run", Made(), users=(1, 2, 4, 8), **({"clock_steps": 1} if void else {}))
    written = report.write_report(tmp_path / "run", charts=False)
    said = " ".join(demo._afterwards(written, tmp_path / "run", 2))
    assert ("All 4 levels are void: this machine was too busy" in said) == void
    assert ("demo --speed 1" in said) == void
    assert ("advise" in said) != void


def test_a_demo_that_was_interrupted_ends_as_any_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "run", Made(), users=(1,), state="interrupted")
    assert show_ended(Finished(tmp_path / "run", "interrupted")) == 130
    assert show_ended(Finished(tmp_path / "run", "failed", "no space is left.")) == 3
    assert "no space is left." in capsys.readouterr().err
