"""Lines on a terminal: where they are broken, and how far the parts are indented."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from loadtest.cli.output.printing import LiveLine, at_work, print_lines, print_wrapped

LINE = "! Ollama does not say how many requests it handles in parallel; run with more users than that"


def test_a_terminal_gets_lines_broken_between_words_and_a_pipe_the_whole_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    print_wrapped(LINE, indent="  ")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_wrapped(LINE, indent="  ")
    whole, *broken = capsys.readouterr().out.splitlines()
    assert whole == LINE
    assert max(map(len, broken)) <= 40
    assert " ".join(part.strip() for part in broken) == LINE
    assert all(part.startswith("  ") for part in broken[1:])


def test_what_a_run_says_above_its_progress_line_is_broken_between_words_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    LiveLine().say(LINE)  # the terminal broke it in mid-word: "the server's own cou/nts"
    lines = capsys.readouterr().err.replace("\r\x1b[K", "").splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(lines) == LINE


def test_work_is_named_on_a_line_that_goes_again_and_in_a_pipe_not_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    with at_work("Reading the run"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with at_work("Reading the run") as tell:
        tell(LINE)
    assert capsys.readouterr().err.split("\r\x1b[K") == ["", "Reading the run", LINE[:39], ""]


def test_a_point_of_a_list_that_takes_several_lines_stands_beside_its_mark() -> None:
    out = io.StringIO()
    print_lines(Console(file=out, width=40), [LINE, "short"], before="• ")
    first, *others, last = out.getvalue().splitlines()
    assert first.startswith("• !")
    assert last == "• short"
    assert others
    assert all(line.startswith("  ") and not line.startswith("   ") for line in others)
    assert max(map(len, [first, *others])) <= 40
    assert not any(line.endswith(" ") for line in [first, *others])
