"""Requests files into columns: the same however a file is cut into pieces and however a line is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.made_runs import Made, closed_loop, write

from loadtest.analyse.run import frames
from loadtest.analyse.run.event_times import Ragged
from loadtest.analyse.run.files import reading
from loadtest.analyse.run.files.damage import Damage
from loadtest.records import Record

LEVEL = {"index": 0, "concurrency": 8, "input_tokens": 100, "output_tokens": 20, "words": None, "rate": None}


def records(requests: int) -> list[Record]:
    return closed_loop(Made(), level=0, users=8, requests=requests - 8, start_ns=0).records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3,000 requests, of unlike lengths."""
    path = tmp_path_factory.mktemp("reading") / "run"
    cut = [dataclasses.replace(one, chunks=one.chunks[: one.id % 21]) for one in records(3000)]
    cut = [one if one.chunks else dataclasses.replace(one, t_first_token=None) for one in cut]
    return write(path, cut, [LEVEL])


def same(one: reading.RequestColumns, other: reading.RequestColumns) -> bool:
    columns = all(
        np.array_equal(values, other.columns[name], equal_nan=values.dtype.kind == "f")
        for name, values in one.columns.items()
    )
    lists = ((one.chunks, other.chunks), (one.server_chunks, other.server_chunks))
    return columns and all(
        np.array_equal(ours.flat, theirs.flat) and np.array_equal(ours.starts, theirs.starts) for ours, theirs in lists
    )


def test_pieces_of_a_file_add_up_to_the_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = reading.read_requests(folder, {})
    assert len(whole.lines.columns["id"]) == len(whole.sources) == 3000
    monkeypatch.setattr(reading, "PIECE_BYTES", 100_000)
    pieces: list[list[bytes]] = []
    parse = reading.parse_lines

    def seen(lines: list[bytes], damage: Damage) -> reading.RequestColumns:
        pieces.append(lines)
        return parse(lines, damage)

    monkeypatch.setattr(reading, "parse_lines", seen)
    found = reading.read_requests(folder, {})
    assert len(pieces) > 5
    assert same(whole.lines, found.lines)
    assert np.array_equal(whole.sources, found.sources)


def test_what_cannot_be_read_is_counted_over_all_pieces(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE_BYTES", 100_000)
    path = tmp_path / "run"
    path.mkdir()
    body = (folder / "requests-0.jsonl").read_bytes()
    (path / "requests-0.jsonl").write_bytes(body + b'{"id": 1,\n')
    found = reading.read_requests(path, {})
    assert found.trouble == ["1 line of requests-0.jsonl could not be read and is left out."]
    assert (found.lost, len(found.sources)) == (1, 3000)


def as_written(path: Path) -> Iterator[bytes]:
    return iter(path.read_bytes().splitlines(keepends=True))


@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_lines_of_another_writer_are_read_alike(folder: Path, tmp_path: Path, separators: tuple[str, str]) -> None:
    path = tmp_path / "run"
    path.mkdir()
    head, *lines = as_written(folder / "requests-0.jsonl")
    rows = [json.loads(line) for line in lines]
    for row in rows:  # a server may use our words inside its own object
        row["server"]["extra"] = {"chunks": [1, 2, 3]}
    shuffled = [dict(sorted(row.items(), reverse=True)) for row in rows]
    body = "".join(json.dumps(row, separators=separators) + "\n" for row in shuffled)
    (path / "requests-0.jsonl").write_bytes(head + body.encode())
    assert same(reading.read_requests(folder, {}).lines, reading.read_requests(path, {}).lines)


def test_values_past_32_bits_are_kept(tmp_path: Path) -> None:
    one = records(16)[0]
    slow = dataclasses.replace(one, chunks=[1, 5_000_000_000], t_end=one.t_end + 5_000_000_000_000)
    run = frames.load(write(tmp_path / "run", [slow], [LEVEL]))
    assert list(run.chunks.flat) == [1, 5_000_000_000]
    assert run.itl.of(run.of_level(0)) == pytest.approx(4999.999999)


def test_rows_taken_in_another_order_bring_their_values() -> None:
    rows = Ragged.of([[1, 2], [], [3]])
    taken = rows.take(np.array([2, 1, 0]))
    assert [list(taken.row(i)) for i in range(3)] == [[3], [], [1, 2]]
    assert Ragged.joined([rows, taken]).counts.tolist() == [2, 0, 1, 1, 0, 2]
