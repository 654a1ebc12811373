"""--json on every command that prints results: one document on stdout, nothing else, with the names of docs/ci.md."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from support.made_runs import Made, make
from support.places import FOLDERS, ROOT

from loadtest.cli import COMMANDS, calibrate, cli
from loadtest.measure.calibrate import CheckedLevel, ClientLimit, Errors

pytestmark = pytest.mark.usefixtures("bare_reports")

Call = Callable[..., tuple[int, str, str]]
SILENT = {"plot", "monitor", "serve", "demo", "export"}  # they print no results
QUICK = ("--concurrency", "1", "--requests", "2", "--warmup", "0", "--output-tokens", "3")


def documented(command: str) -> set[str]:
    """Return the names that docs/ci.md gives for a command's document, those outside of brackets."""
    page = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{command}` \| (.*) \|$", page, re.MULTILINE)
    assert row is not None, command
    first = re.sub(r"\([^()]*\)", "", row[1]).split("; with `--table`")[0]
    return (
        set(re.findall(r"`([a-z_]+)`", first)) - {"runs"}
        if command == "run"
        else set(re.findall(r"`([a-z_]+)`", first))
    )


def document(text: str) -> Any:
    """Return what stdout holds: one JSON document and the end of its last line."""
    body = orjson.loads(text)
    assert text.endswith("\n")
    return body


def test_every_command_that_prints_results_has_it_and_is_documented() -> None:
    for name in COMMANDS:
        with click.Context(cli, **cli.context_settings) as context:
            command = cli.get_command(context, name)
        assert command is not None
        assert any("--json" in param.opts for param in command.params) != (name in SILENT), name
        if name not in SILENT:
            assert f"| `{name}` |" in (ROOT / "docs/ci.md").read_text(encoding="utf-8"), name


def test_run(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    given = (simulated_url, *QUICK, "--slo", "ttft_mean=60", "--out", tmp_path / "run")
    code, out, err = loadtest("run", *given, "--json")
    found = document(out)
    assert code == found["exit_code"]
    assert found["summary"]["levels"][0]["requests"] == 2
    assert found["path"] == str(tmp_path / "run")
    assert [each["judged"].partition(",")[0] for each in found["objectives"]] == ["met"]  # not surely, or void
    assert {"find_max", "failure"} <= found.keys()
    assert err  # notes and progress, which a run shorter than a quarter of a second has none of


def test_report(loadtest: Call, tmp_path: Path) -> None:
    make(tmp_path / "a", Made(), users=(1, 4))
    make(tmp_path / "b", Made(), users=(2,))
    code, out, _ = loadtest(
        "report", tmp_path / "a", tmp_path / "b", tmp_path / "none", "--slo", "ttft_p50=1ms", "--json"
    )
    found = document(out)
    assert (code, found["exit_code"]) == (2, 2)
    assert documented("report") == {"runs", "exit_code"} | found["runs"][0].keys()
    assert [one["path"] for one in found["runs"]] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [each["met"] for each in found["runs"][0]["objectives"]] == [False, False]
    assert found["runs"][0]["findings"][0]["claim"]
    page = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in found["runs"][0]["objectives"][0])


def test_compare_and_advise(loadtest: Call, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, Made(), users=(1, 2, 4, 8))
    code, out, _ = loadtest("compare", tmp_path / "a", tmp_path / "b", "--json")
    found = document(out)
    assert code == 0
    assert documented("compare") <= found.keys()
    shutil.copytree(FOLDERS / "closed", tmp_path / "closed")
    code, out, err = loadtest("advise", tmp_path / "closed", "--json")
    assert code == 0, err
    assert documented("advise") <= document(out).keys()


def test_check(loadtest: Call, simulated_url: str) -> None:
    code, out, _ = loadtest("check", simulated_url, "--json")
    assert code == 0
    assert documented("check") == document(out).keys()
    code, out, err = loadtest("check", "http://127.0.0.1:9", "--json")
    assert (code, out) == (2, "")
    assert "cannot reach" in err


def test_memory(loadtest: Call) -> None:
    code, out, _ = loadtest("memory", "--model", "llama3.1:8b", "--gpu-memory", "24GB", "--json")
    assert code == 0
    assert documented("memory") - {"measured"} <= document(out).keys()
    _, out, _ = loadtest("memory", "--parameters", "7e9", "--table", "--json")
    assert document(out).keys() == {"model", "parameters", "rows"}


def test_calibrate(loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search itself takes a minute: what it finds is made up here."""
    best = CheckedLevel(Errors(streams=200, requests=400, lost=0, chunks_per_s=10_000), on_time=True)
    monkeypatch.setattr(calibrate, "_search", lambda *_: ClientLimit(best, None))
    code, out, err = loadtest("calibrate", "--out", tmp_path / "c.json", "--json")
    found = document(out)
    assert code == 0, err
    assert documented("calibrate") == found.keys()
    assert found["arrivals"]["steps"]["capacity"]["streams"] == 200


def test_ls(loadtest: Call, tmp_path: Path) -> None:
    make(tmp_path / "a", Made(), users=(1, 4))
    code, out, _ = loadtest("ls", tmp_path, "--json")
    found = document(out)
    assert code == 0
    assert documented("ls") == found.keys() | found["runs"][0].keys()
