"""The commands of docs/many-runs.md work as they are pasted, on simulated servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from support.gateways import free_port
from support.places import ROOT

PAGE = (ROOT / "docs/many-runs.md").read_text(encoding="utf-8")


def test_precisions_and_models_in_one_loop(tmp_path: Path) -> None:
    (block,) = re.findall(
        r"<!-- tests/project/test_many_docs.py runs this block -->\n```\n(.*?)```", PAGE, flags=re.DOTALL
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # each server on a port of its own: the last one is still ending
    script = block.replace("port=11501", f"port={free_port()}").replace("--output-tokens 24", "--output-tokens 12")
    assert "--output-tokens 12" in script
    script = f"trap 'kill $(jobs -p) 2> /dev/null' EXIT\n{script}"  # a server left behind would hold our pipes open
    done = subprocess.run(
        ["bash", "-u", "-c", script],  # as pasted: a run that a busy machine made void ends nothing
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "COLUMNS": "80", "LOADTEST_NO_REPORT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "table/compare.json").read_text())
    assert [one["traits"]["quantization"] for one in said["runs"]] == ["F16", "F32", "Q4_0"]
    assert [one["traits"]["model"] for one in said["runs"]] == ["mine:8b", "mine:8b", "llama3.2:1b"]
    assert {one["simulated"]["profile"] for one in said["runs"]} == {"fp16", "fp32", "quick"}
    judged = {
        (pair["first"] + pair["second"], row["metric"]): row["verdict"]
        for pair in said["pairs"]
        for row in pair["rows"]
        if row["p"] is not None
    }
    if judged:  # on a busy machine every level may be void
        assert {judged[key] for key in judged if key == ("AB", "stream_tokens_per_s.mean")} <= {"worse"}
    page = (tmp_path / "table/compare.md").read_text()
    assert "> **SIMULATED**: all of these runs measured a simulated server" in page


def test_every_command_of_the_page_has_options_that_exist() -> None:
    shown = re.findall(r"^\s*loadtest (?:run|compare|plot|serve|check) .*$", PAGE, re.MULTILINE)
    help_page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    options = {option for line in shown for option in re.findall(r"--[a-z-]+", line)}
    assert options
    assert [option for option in options if option not in help_page] == []
