"""Records and run folders: what is on disk is whole, and a reader survives what a crash leaves."""

from __future__ import annotations

import dataclasses
import os
from contextlib import suppress
from pathlib import Path

import orjson
import pytest

from loadtest.errors import RunFolderError
from loadtest.records import Clock, Outcome, Record
from loadtest.run_folder import RunFolder, opened_whole, write_whole


def a_record(number: int = 0) -> Record:
    return Record(
        id=number, level=1, seed=7, dialect="ollama-chat", model="m", outcome=Outcome.OK, t_sched=10, t_end=90, t_send=11,
        chunks=[5, 9], server={"eval_count": 2},
    )  # fmt: skip


def test_a_record_survives_the_disk(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    writer = folder.record_writer(Clock.now())
    records = [a_record(number) for number in range(3)]
    for record in records:
        writer.write(record)
    writer.close()
    assert list(folder.records()) == records


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    writer = folder.record_writer(Clock.now())
    writer.write(a_record(0))
    writer.write(a_record(1))
    writer.close()
    whole = writer.path.read_bytes()
    writer.path.write_bytes(whole[:-5])
    assert [record.id for record in folder.records()] == [0]


def test_absent_values_take_no_room() -> None:
    line = a_record().to_line()
    assert not any(word in line for word in (b"null", b"target", b"send_us", b"unsent_tokens"))


def test_keys_of_a_newer_schema_are_ignored() -> None:
    row = {
        "id": 1,
        "level": 0,
        "seed": 0,
        "dialect": "d",
        "model": "m",
        "outcome": "ok",
        "t_sched": 0,
        "t_end": 1,
        "later": 3,
    }
    assert Record.from_json(row).outcome is Outcome.OK


def test_a_folder_with_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_run({"name": "first"})
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(tmp_path / "run")
    assert folder.read_run()["name"] == "first"


def test_of_two_runs_that_begin_at_once_one_gets_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one took the folder between the look at it and the claim."""
    monkeypatch.setattr(RunFolder, "check_free", lambda _: None)
    RunFolder.create(tmp_path / "run")
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(tmp_path / "run")
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.check_free(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # a worker of several has a second thread
def test_two_processes_that_write_a_file_at_once_both_write_it_whole(tmp_path: Path) -> None:
    """Two reports of one run, say."""
    with opened_whole(tmp_path / "summary.json") as file:
        file.write(b"first")
        if (child := os.fork()) == 0:
            write_whole(tmp_path / "summary.json", b"second")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert (tmp_path / "summary.json").read_bytes() == b"second"
    assert (tmp_path / "summary.json").read_bytes() == b"first"
    with suppress(KeyError), opened_whole(tmp_path / "summary.json"):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder.create(tmp_path / "run")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        RunFolder.open(tmp_path)


def test_a_name_with_a_line_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"a\\nb' holds a control character; choose another --out"):
        RunFolder.check_free(tmp_path / "a\nb")


def test_a_newer_schema_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema": 99}')
    with pytest.raises(RunFolderError, match="newer loadtest"):
        RunFolder.open(tmp_path).read_run()


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write to .*file; choose another --out"):
        RunFolder.check_free(tmp_path / "file" / "run")


def test_a_pipe_or_a_link_is_written_to_and_no_file_takes_its_place(tmp_path: Path) -> None:
    """`--junit /dev/null`, as root, made a file of the device; a pipe stands for it here."""
    pipe, link, file = (tmp_path / name for name in ("pipe", "link", "file"))
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"whole")
        assert os.read(reader, 100) == b"whole"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    link.symlink_to(file)
    write_whole(link, b"whole")
    assert link.is_symlink()
    assert file.read_bytes() == b"whole"


def test_half_a_character_costs_no_record() -> None:
    line = dataclasses.replace(a_record(), server={"status": "\ud83d", "count": 7}).to_line()
    assert orjson.loads(line)["server"] == {"status": "?", "count": 7}
