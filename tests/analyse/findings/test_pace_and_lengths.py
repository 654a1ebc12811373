"""What is said of prompts' lengths where the server's pace changed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from support.made_runs import MS, Made, grid, write

from loadtest.analyse.findings.run_findings import longer_prompts
from loadtest.analyse.server.timing.pace import PaceChange
from loadtest.analyse.summary import analyse
from loadtest.records import Record


def test_what_a_longer_prompt_costs_is_not_said_where_the_pace_changed(tmp_path: Path) -> None:
    """Was "prefill went from 86.9 to 123 tokens/s" of a real Ollama, below "its pace changed, so prefill is not said"."""
    levels: list[dict[str, Any]] = []
    records: list[Record] = []
    for index, made in enumerate((Made(prompt_tokens=100), Made(prompt_tokens=400, prefill_ms=200))):
        (level,), truth = grid(made, (1,))
        shift = dict.fromkeys(("t_sched", "t_send", "t_headers", "t_first_byte", "t_end"), index * 10000 * MS)
        shift |= dict.fromkeys(("t_first_token", "t_first_visible"), index * 10_000 * MS)
        levels.append(level | {"index": index})
        for record in truth.records:
            moved = {name: getattr(record, name) + more for name, more in shift.items()}
            records.append(dataclasses.replace(record, **moved, id=record.id + 100 * index, level=index))
    one = analyse(write(tmp_path / "run", records, levels))
    assert any("for each token" in said for said in longer_prompts(one))
    changed = dataclasses.replace(one.steps, change=PaceChange(level=0, factor=2.0, after_s=1.0))
    assert longer_prompts(dataclasses.replace(one, steps=changed)) == []
