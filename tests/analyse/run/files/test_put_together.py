"""Run folders that were put together by hand: files of other runs, files left out, a mark that an editor writes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support.places import FOLDERS
from support.scored import command

from loadtest.analyse.summary import analyse
from loadtest.run_folder import RunFolder


def test_records_of_another_run_are_left_out(tmp_path: Path) -> None:
    """A run.json laid over another run's records gave those records its labels, and the levels were valid."""
    swapped, merged = (Path(shutil.copytree(FOLDERS / "closed", tmp_path / name)) for name in ("swapped", "merged"))
    shutil.copy(FOLDERS / "open/run.json", swapped)
    found = analyse(swapped)
    assert found.run.trouble[0] == (
        "requests-0.jsonl was begun at another time than the run of run.json: it is of another run and is left out."
    )
    assert not len(found.run.requests)
    shutil.copy(FOLDERS / "open/requests-0.jsonl", merged / "requests-1.jsonl")
    found, whole = analyse(merged), analyse(FOLDERS / "closed")
    assert [sentence.split()[0] for sentence in found.run.trouble] == ["requests-1.jsonl"]
    assert len(found.run.requests) == len(whole.run.requests)


@pytest.mark.parametrize("name", ["locust-processes", "workers"])
def test_a_file_that_was_left_out_when_a_folder_was_copied_is_missed(tmp_path: Path, name: str) -> None:
    """Half of what a Locust run sent was missing, and its level valid."""
    folder = Path(shutil.copytree(FOLDERS / name, tmp_path / name))
    assert analyse(folder).run.lost == 0
    (folder / "requests-1.jsonl").unlink()
    found = analyse(folder)
    assert found.run.trouble[-1].endswith("a requests file was cut short, or left out when the folder was copied.")
    assert found.run.lost >= 24
    assert found.summary["levels"][0]["verdict"] == "void"


def test_a_mark_that_an_editor_writes_spoils_no_run_json(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FOLDERS / "closed", tmp_path / "run"))
    (folder / "run.json").write_bytes(b"\xef\xbb\xbf" + (folder / "run.json").read_bytes())
    assert analyse(folder).run.trouble == []


def test_a_last_newline_that_an_editor_takes_away_costs_no_record(tmp_path: Path) -> None:
    """The whole run was void: "1 record is not there"."""
    folder = Path(shutil.copytree(FOLDERS / "closed", tmp_path / "run"))
    for path in (folder / "requests-0.jsonl", folder / "samples-driver.jsonl"):
        path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    found, whole = analyse(folder), analyse(FOLDERS / "closed")
    assert (found.run.trouble, found.run.lost) == ([], 0)
    assert len(found.run.requests) == len(whole.run.requests)
    assert len(found.run.samples) == len(whole.run.samples)
    assert [*RunFolder.open(folder).records()] == [*RunFolder.open(FOLDERS / "closed").records()]


@pytest.mark.parametrize("args", [(), ("--request", "3")])
def test_explain_says_the_state_of_a_folder_without_a_record_that_can_be_read(
    tmp_path: Path, args: tuple[str, ...]
) -> None:
    """Was "no request ended well; name one with --request", of which none could be named."""
    run = Path(shutil.copytree(FOLDERS / "closed", tmp_path / "run"))
    records = run / "requests-0.jsonl"
    records.write_bytes(records.read_bytes().replace(b'"id":', b'"no":'))
    code, said = command("explain", run, *args)
    assert code == 2
    assert re.search(r"run holds no requests to explain\. \d+ records of requests-0\.jsonl are left out: no id\.", said)
