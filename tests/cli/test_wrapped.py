"""Lines of `loadtest check` on a terminal."""

from __future__ import annotations

import sys

import pytest

from loadtest.cli.output.printing import print_wrapped

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
