"""Data files of a test: written, read, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.workloads.data_source import data_file
from loadtest.workloads.files.data_row import Row
from loadtest.workloads.workload import check_files

HELLO = {"role": "user", "content": "Hello"}
BATCH = {
    "custom_id": "b1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "x", "messages": [HELLO], "max_tokens": 9, "top_p": 0.5},
}


def write(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    text = content if isinstance(content, str | bytes) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows_of(path: Path, column: str | None = None) -> list[Row]:
    file = data_file(Scenario(data=str(path), data_column=column))
    assert file is not None
    return [file.row(i) for i in range(len(file))]


def notes_of(path: Path, **keys: Any) -> list[str]:
    return check_files(Scenario(data=str(path), requests=1, concurrency=[1], warmup=0, output_tokens=[8], **keys))


def refusal(path: Path, column: str | None = None) -> str:
    with pytest.raises(ScenarioError) as error:
        check_files(Scenario(data=str(path), data_column=column))
    sentence = str(error.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert not sentence.endswith(("..", ".)."))
    return sentence
