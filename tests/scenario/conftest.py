"""A working folder with a text and a run folder in it, in which nothing may be left running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.odd_input import REFUSED, nothing_started


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OLLAMA_HOST", REFUSED)
    (tmp_path / "plain.txt").write_bytes(b"\xef\xbb\xbfTell me\r\na story.\r\n")
    (tmp_path / "a_run").mkdir()
    (tmp_path / "a_run" / "run.json").write_text("{}")
    with nothing_started(tmp_path):
        yield tmp_path
