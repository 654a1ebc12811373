"""One record, whatever happens: a fault of one request costs that request, a fault of the disk ends the run cleanly."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from support import recorded
from support.received import feed
from support.recorded import ANCHOR, T_SEND, framed

from loadtest.dialects import OllamaChat
from loadtest.errors import StorageError
from loadtest.measure.backlog import Backlog
from loadtest.measure.failure import failure_of
from loadtest.measure.ledger import Ledger
from loadtest.measure.request import Request
from loadtest.records import Outcome, Record
from loadtest.run_folder import LineFile, RunFolder

CHAT = OllamaChat("m")
ANSWER = framed(
    [
        (T_SEND + 5_000_000, b'{"message":{"content":"a"},"done":false}\n'),
        (T_SEND + 7_000_000, b'{"done":true,"done_reason":"stop"}\n'),
    ]
)
STOPS = (asyncio.CancelledError,)


def ended() -> Request:
    made = recorded.request(CHAT)
    feed(made.received, ANSWER)
    return made


@contextmanager
def ledger_of(folder: RunFolder | None, told: list[Record], broken: Callable[[str], object] = bool) -> Iterator[Ledger]:
    with ExitStack() as stack:
        writers: list[Any] = [None, None]
        if folder is not None:
            writers = [folder.record_writer(ANCHOR), folder.sample_writer(ANCHOR, source="driver")]
            for writer in writers:
                stack.callback(writer.close)
        yield Ledger(
            Backlog(),
            records=writers[0],
            samples=writers[1],
            stops=STOPS,
            on_record=[lambda _, record: told.append(record)],
            on_broken=broken,
        )


@pytest.mark.parametrize(
    ("error", "outcome", "said"),
    [
        (httpx.ConnectError("refused"), Outcome.CONNECT_ERROR, "refused"),
        (httpx.ConnectTimeout("slow"), Outcome.CONNECT_ERROR, "slow"),
        (httpx.ReadTimeout("stood still"), Outcome.TIMEOUT, "stood still"),
        (httpx.ReadError("reset"), Outcome.TRUNCATED, "reset"),
        (asyncio.CancelledError(), Outcome.CANCELLED, "stopped by us"),
        (GeneratorExit("5 s"), Outcome.LEFT, "given up by the test's own code (GeneratorExit: 5 s)"),
        (KeyError("x"), Outcome.CLIENT_ERROR, "loadtest itself failed over this request (KeyError: 'x')"),
        (MemoryError(), Outcome.CLIENT_ERROR, "loadtest itself failed over this request (out of memory)"),
    ],
)
def test_every_exception_has_its_outcome(error: BaseException, outcome: Outcome, said: str) -> None:
    failure = failure_of(error, STOPS)
    assert (failure.outcome, failure.sentence) == (outcome, said)


def test_a_bug_over_one_answer_costs_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Record] = []

    async def main() -> None:
        one, other = ended(), ended()
        monkeypatch.setattr(one, "_reads", object())  # what the record is made from is no reads at all
        with ledger_of(None, told) as ledger:
            ledger.backlog.add(lambda: ledger.record(one))
            ledger.backlog.add(lambda: 1 / 0)
            ledger.backlog.add(lambda: ledger.record(other))
            ledger.backlog.flush()

    asyncio.run(main())
    assert [record.outcome for record in told] == [Outcome.CLIENT_ERROR, Outcome.OK]
    assert "loadtest itself failed over this request" in (told[0].error or "")
    assert told[0].id == 3


def test_a_listener_that_fails_costs_no_record(tmp_path: Path) -> None:
    told: list[Record] = []
    folder = RunFolder.create(tmp_path / "run")
    with ledger_of(folder, told) as ledger:
        ledger._on_record = [lambda *_: 1 / 0, *ledger._on_record]
        ledger.record(ended())
    assert len(told) == 1
    assert len(list(folder.records())) == 1


def test_a_removed_folder_is_seen_at_the_next_sample(tmp_path: Path) -> None:
    broken: list[str] = []
    with ledger_of(RunFolder.create(tmp_path / "run"), [], broken.append) as ledger:
        ledger.sample(0, 0)
        assert (ledger.failure, broken) == (None, [])
        shutil.rmtree(tmp_path / "run")
        ledger.sample(0, 0)
        ledger.sample(0, 0)
    assert broken == [f"{tmp_path / 'run'} was removed while the run wrote to it"]
    assert ledger.failure == f"{broken[0]}."


SHORT_DISK = """
import resource, sys
from pathlib import Path
from loadtest.errors import StorageError
from loadtest.run_folder import LineFile
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
file = LineFile(Path(sys.argv[1]), {"head": 1})
file.append(b'"' + b"x" * 40 + b'"\\n')
for _ in range(2):
    try:
        file.append(b'"' + b"y" * 80 + b'"\\n')
    except StorageError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.append(b'"z"\\n')
"""


def test_a_write_that_stops_short_is_cut_back_and_room_that_comes_back_is_used(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", SHORT_DISK, path], capture_output=True, text=True, check=True, env=os.environ
    )
    assert len(done.stdout.splitlines()) == 2
    assert str(path) in done.stdout
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert lines == [{"head": 1}, "x" * 40, "z"]


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError):
        LineFile(tmp_path / "file", {})
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(StorageError, match=r"cannot write .*nowhere.*: no such file or directory"):
        LineFile(tmp_path / "nowhere" / "file", {})


def test_run_json_finds_room_on_a_disk_that_filled_up(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_run({"state": "running"})
    reserve = tmp_path / "run" / "run.json.partial"
    inode, size = reserve.stat().st_ino, reserve.stat().st_blocks
    assert size > 0
    folder.write_run({"state": "failed"})
    assert (tmp_path / "run" / "run.json").stat().st_ino == inode
    assert not reserve.exists()
    assert folder.read_run()["state"] == "failed"
