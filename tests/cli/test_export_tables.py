"""`loadtest export`: each table comes back as `read_run` gives it, in each format."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import re
from collections.abc import Callable
from pathlib import Path

import orjson
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from support.made_runs import Made, grid, write
from support.places import FOLDERS, ROOT

import loadtest as library
from loadtest.analyse.dataframes import INTEGER_COLUMNS, TEXT_COLUMNS, typed
from loadtest.records import Outcome

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("name", ["closed", "faults", "open"])
@pytest.mark.parametrize("table", ["levels", "requests", "chunks"])
def test_a_table_comes_back_as_it_was(loadtest: Call, tmp_path: Path, name: str, table: str) -> None:
    read = typed(getattr(library.read_run(FOLDERS / name), table))
    code, out, err = loadtest("export", FOLDERS / name, "--what", table, "--out", tmp_path)
    assert (code, out) == (0, f"wrote {tmp_path / f'{table}.csv'}\n"), err
    back = pd.read_csv(tmp_path / f"{table}.csv", dtype=read.dtypes.to_dict(), keep_default_na=False, na_values=[""])
    text = [column for column in TEXT_COLUMNS if column in read]
    back[text], read[text] = back[text].fillna(""), read[text].fillna("")  # CSV has no other sign for what is unknown
    assert_frame_equal(back, read, check_exact=False, rtol=1e-12)
    code, out, _ = loadtest("export", FOLDERS / name, "--format", "json", "--what", table, "--out", "-")
    rows = orjson.loads(out)
    assert len(rows) == len(read)
    assert list(rows[0]) == list(read.columns)


def test_json_has_null_for_what_is_unknown_and_whole_numbers(loadtest: Call) -> None:
    _, out, _ = loadtest("export", FOLDERS / "faults", "--format", "json", "--what", "requests", "-o", "-")
    rows = orjson.loads(out)
    assert any(row["prompt_tokens"] is None for row in rows)
    assert {type(row["status"]) for row in rows} <= {int, type(None)}
    assert {type(row["ok"]) for row in rows} == {bool}


def test_every_column_is_documented_and_of_one_type(loadtest: Call) -> None:
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    kinds: dict[str, dict[str, str]] = {}
    for path in sorted(folder for folder in FOLDERS.iterdir() if folder.is_dir()):
        read = library.read_run(path)
        for table in ("levels", "requests", "chunks"):
            found = {str(name): str(kind) for name, kind in typed(getattr(read, table)).dtypes.items()}
            assert kinds.setdefault(table, found) == found, path
    assert not [name for table in kinds.values() for name in table if f"`{name}`" not in page]
    assert not {"object"} & {kind for table in kinds.values() for kind in table.values()}
    assert set(INTEGER_COLUMNS) | set(TEXT_COLUMNS) <= {name for table in kinds.values() for name in table}


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed")
def test_parquet_comes_back_as_it_was(loadtest: Call, tmp_path: Path) -> None:
    code, out, err = loadtest("export", FOLDERS / "closed", "--format", "parquet", "--out", tmp_path)
    assert code == 0, err
    assert re.findall(r"(\w+)\.parquet", out) == ["levels", "requests", "chunks"]
    read = typed(library.read_run(FOLDERS / "closed").requests)
    assert_frame_equal(pd.read_parquet(tmp_path / "requests.parquet"), read, check_dtype=False)
    assert io.BytesIO((tmp_path / "levels.parquet").read_bytes()).read(4) == b"PAR1"


def test_without_pyarrow_it_says_what_to_install(
    loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    code, out, err = loadtest("export", FOLDERS / "closed", "--format", "parquet", "--out", tmp_path / "new")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install pyarrow" in err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\n", "＝"])
def test_no_text_of_a_server_is_a_formula_in_csv(loadtest: Call, tmp_path: Path, begin: str) -> None:
    levels, truth = grid(Made(), (1,))
    error = f"{begin}HYPERLINK(1)"
    bad = [dataclasses.replace(one, outcome=Outcome.STREAM_ERROR, error=error) for one in truth.records]
    said = []
    for kind in ("csv", "json"):
        run = write(tmp_path / kind, bad, levels)
        code, out, err = loadtest("export", run, "--format", kind, "--what", "requests", "-o", "-")
        assert code == 0, err
        said.append(pd.read_csv(io.StringIO(out)).error[0] if kind == "csv" else orjson.loads(out)[0]["error"])
    assert said == [f"'{error}", error]


def test_no_text_of_a_server_ends_a_row_of_csv(loadtest: Call, tmp_path: Path) -> None:
    """A carriage return in an error made two rows of one."""
    levels, truth = grid(Made(), (1,))
    bad = [dataclasses.replace(one, outcome=Outcome.STREAM_ERROR, error='a\rb\n"c"') for one in truth.records]
    _, out, _ = loadtest("export", write(tmp_path / "run", bad, levels), "--what", "requests", "-o", "-")
    assert pd.read_csv(io.StringIO(out)).error.tolist() == ['a\\rb\n"c"'] * len(bad)


def test_numbers_are_numbers_also_where_none_is_known(tmp_path: Path) -> None:
    """Concurrency of an open loop, and every column of a run without levels, were objects: `> 2` of them raised."""
    empty = library.read_run(write(tmp_path / "empty", [], [])).levels
    open_loop = library.read_run(FOLDERS / "open").levels
    assert [str(empty[name].dtype) for name in ("level", "requests", "ttft_p50_s")] == ["int64", "int64", "float64"]
    assert not (open_loop.concurrency > 2).any()
    assert set(typed(empty).dtypes.astype(str)) == set(typed(open_loop).dtypes.astype(str))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--out", "-"), "stdout takes one table: name it with --what, e.g. --what levels"),
        (("--what", "levels,rows"), "'rows' is not a table; tables are levels, requests, chunks"),
        (("--what", ","), "is not a table"),
        (("--format", "xml"), "'xml' is not one of"),
        (("--out", "/dev/null/x"), "cannot write to /dev/null; choose another --out"),
    ],
)
def test_a_mistake_is_a_sentence(loadtest: Call, given: tuple[str, ...], words: str) -> None:
    code, out, err = loadtest("export", FOLDERS / "closed", *given)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_folder_without_a_run_is_said(loadtest: Call, tmp_path: Path) -> None:
    code, _, err = loadtest("export", tmp_path)
    assert code == 2
    assert "is not a run folder" in err
