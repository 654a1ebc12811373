"""A run folder that cannot be written into: each command that puts files there says so before its work, and takes --out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.made_runs import make

from loadtest.cli import main

COMMANDS = (["report"], ["plot"], ["export", "--what", "levels"], ["advise"], ["explain"])


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run folder that os.access says is read-only: whoever may write anywhere, as root, has no other one."""
    run, may = tmp_path / "run", os.access
    make(run, users=(1, 2, 4))
    monkeypatch.setattr(os, "access", lambda path, mode: may(path, mode) and not (mode & os.W_OK and Path(path) == run))
    return run


def _called(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(args))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_that_cannot_be_written_is_a_mistake_in_a_sentence(
    command: list[str], locked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(locked.iterdir())
    assert _called(*command, str(locked)) == 2
    assert capsys.readouterr().err == f"loadtest: cannot write to {locked}; choose another --out.\n"
    assert sorted(locked.iterdir()) == before


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_out_takes_what_the_run_folder_cannot(command: list[str], locked: Path, tmp_path: Path) -> None:
    before = sorted(locked.iterdir())
    assert _called(*command, str(locked), "-o", str(tmp_path / "elsewhere")) == 0
    assert list((tmp_path / "elsewhere").iterdir())
    assert sorted(locked.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["run", "--out", "r"], "cannot write to r: No such file or directory; choose another --out."),
        (["run", "--junit", "a.xml"], "cannot write into the working directory: No such file or directory."),
    ],
)
def test_a_working_directory_that_is_gone_is_named(
    command: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert _called(*command) == 2
    assert capsys.readouterr().err == f"loadtest: {said}\n"


@pytest.mark.usefixtures("bare_reports")
def test_reports_of_several_runs_have_a_folder_each(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / name, users=(1, 2))
    assert _called("report", str(tmp_path / "one"), str(tmp_path / "two"), "-o", str(tmp_path / "out")) == 0
    assert [(tmp_path / "out" / name / "report.html").is_file() for name in ("one", "two")] == [True, True]
    assert not (tmp_path / "one" / "report.html").exists()
