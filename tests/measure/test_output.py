"""Where output goes: folders and disks are tried first, and what nobody reads or nothing can hold changes no result in silence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.cli.report import GateFiles
from loadtest.errors import LoadTestError
from loadtest.run_folder import RunFolder


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_is_tried_without_a_trace(tmp_path: Path, before: bool) -> None:
    if before:
        (tmp_path / "runs").mkdir()
    RunFolder.check_free(tmp_path / "runs/new/run")
    assert (tmp_path / "runs").exists() == before
    assert list(tmp_path.rglob("*")) == ([tmp_path / "runs"] if before else [])


def test_a_full_disk_is_seen_before_anything_is_sent(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # a file of 64 KiB cannot be written
    try:
        with pytest.raises(LoadTestError, match="File too large; choose another --out"):
            RunFolder.check_free(tmp_path / "run")
        with pytest.raises(LoadTestError, match="File too large; choose another --junit"):
            GateFiles.asked(tmp_path / "new/gate.xml", github_summary=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def shell(line: str, place: Path) -> tuple[int, str]:
    """Run a line of bash in which $LOADTEST is the command line; return its exit code, and what was said on stderr."""
    command = f"{sys.executable} -m loadtest"
    done = subprocess.run(
        ["bash", "-c", line],
        check=False,
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "LOADTEST": command},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("$LOADTEST run --help | head -1; exit ${PIPESTATUS[0]}", 0),
        ("$LOADTEST run --help | true; exit ${PIPESTATUS[0]}", 0),
        ("$LOADTEST run --help >&-", 0),
        ("$LOADTEST run --help >&- 2>&- <&-", 0),
        ("$LOADTEST nonsense 2>&-", 2),
        ("$LOADTEST nonsense 2>&1 >&- | true; exit ${PIPESTATUS[0]}", 2),
        ("$LOADTEST nonsense 2> /dev/full", 2),
    ],
)
def test_output_that_nobody_reads_changes_no_exit_code(tmp_path: Path, line: str, code: int) -> None:
    assert shell(line, tmp_path) == (code, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_is_lost_is_said(tmp_path: Path) -> None:
    assert shell("$LOADTEST run --help > /dev/full", tmp_path) == (
        3,
        "loadtest: cannot write the output: No space left on device.\n",
    )


def test_a_closed_reader_ends_no_report(tmp_path: Path, run: Callable[..., Path]) -> None:
    folder = run()
    twin = tmp_path / "twin"
    subprocess.run(["cp", "-r", str(folder), str(twin)], check=True)
    code, err = shell(f"$LOADTEST report {folder} {twin} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert code in (0, 3), err
    assert "Traceback" not in err
    assert (twin / "report.html").exists()


def test_a_disk_that_fills_up_while_a_report_is_written_leaves_whole_files(
    tmp_path: Path, run: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    code, err = shell(f"ulimit -f 66; $LOADTEST report {run()} --out {out}", tmp_path)  # KiB; a chart has more
    assert code == 3, err
    assert re.search(rf"^loadtest: cannot write {out}/[a-z-]+\.png: File too large\.$", err, re.MULTILINE), err
    assert {path.suffix for path in out.iterdir()} <= {".json", ".png"}
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in out.glob("*.png"))
