"""Streams need descriptors: the limit is raised, or the run refused in one sentence before anything is sent."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys

import pytest

from loadtest import cli

CODE = """
import resource
from loadtest.errors import ScenarioError
from loadtest.measure.descriptors import room_for
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
try:
    room_for({streams})
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except ScenarioError as error:
    print(error)
"""


def told(soft: int, hard: int, streams: int | None) -> str:
    """Ask in a process of its own: a limit that was lowered cannot be raised again."""
    code = CODE.format(soft=soft, hard=hard, streams=streams)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096, reason="this system allows fewer files")
def test_the_limit_is_raised_as_far_as_needed_and_no_further() -> None:
    assert told(256, 4096, 1000) == "1064"
    assert told(2048, 4096, 1000) == "2048"
    assert told(256, 4096, None) == "4096"


def test_too_many_streams_are_refused_with_what_to_do() -> None:
    said = told(256, 512, 1000)
    assert "1000 streams need 1064 open files" in said
    assert "lets a process have 512" in said
    assert "ulimit" in said
    assert told(64, 64, 1).startswith("1 stream needs 65 open files")


def test_a_limit_of_processes_is_not_taken_for_one_of_the_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fork(**_: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")  # as os.fork() raises it

    monkeypatch.setattr(cli.cli, "main", fork)
    assert cli._exit_code_of(["demo"]) == 2
    assert "cannot start another process: Resource temporarily unavailable" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold a process to this limit")
def test_too_little_memory_for_the_libraries_is_a_mistake_and_no_failed_gate() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest", "report", "x"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (200 << 20,) * 2),
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "ulimit -v" in ended.stderr
