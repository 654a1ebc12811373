"""The public API: what `from loadtest import …` gives a script or a notebook, and docs/python.md about it."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from support.places import FOLDERS, ROOT

from loadtest import LoadTestError, Outcome, Run, Scenario, read_run, run
from loadtest.analyse.reports import answers
from loadtest.measure.progress import Progress
from loadtest.run_folder import RunFolder

PAGE = (ROOT / "docs/python.md").read_text(encoding="utf-8")
USER = """
from pathlib import Path

from typing_extensions import assert_type
import pandas as pd

from loadtest import LoadTestError, Outcome, Record, Run, Scenario, read_run, run


def measure(url: str) -> Run | None:
    scenario = Scenario(url=url, concurrency=[1, 4, 8], output_tokens=(64,), rate=[])
    try:
        return run(scenario, "runs/x", on_progress=lambda at: print(at.done, at.ttft_p50))
    except LoadTestError:
        return None


read = read_run(Path("runs/x"))
assert_type(read.requests, pd.DataFrame)
assert_type(read.levels, pd.DataFrame)
assert_type(read.chunks, pd.DataFrame)
assert_type(read.reasons, list[str])
assert_type(read.verdict, str)


def ended_well(record: Record) -> bool:
    return record.outcome is Outcome.OK
"""


def short(url: str, **keys: object) -> Scenario:
    return Scenario.from_dict(
        {"url": url, "concurrency": [1, 2], "requests": 4, "output_tokens": [8], "warmup": 0, **keys}
    )


def test_a_run_in_this_process_is_read_at_once(
    simulated_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Progress] = []
    scenario = Scenario(url=simulated_url, concurrency=[1, 2], requests=4, output_tokens=[8], warmup=0)
    measured = run(scenario, tmp_path / "run", on_progress=seen.append)
    assert (measured.path, measured.state) == (tmp_path / "run", "done")
    assert measured.requests.outcome.tolist() == ["ok"] * 8
    assert measured.levels.concurrency.tolist() == [1, 2]
    assert measured.levels.url.unique().tolist() == [simulated_url]
    assert len(measured.chunks) == measured.requests.content_events.sum() == 64
    assert seen
    assert capfd.readouterr() == ("", "")


def test_where_an_event_loop_runs_a_thread_measures(simulated_url: str, tmp_path: Path) -> None:
    threads: set[int] = set()

    async def cell() -> Run:
        return run(short(simulated_url), tmp_path / "run", on_progress=lambda _: threads.add(threading.get_ident()))

    measured = asyncio.run(cell())
    assert measured.state == "done"
    assert threads
    assert threading.get_ident() not in threads


def test_another_thread_measures_without_signals(simulated_url: str, tmp_path: Path) -> None:
    done: list[Run] = []
    thread = threading.Thread(
        target=lambda: done.append(run(short(simulated_url, workers=2, concurrency=2), tmp_path / "run"))
    )
    thread.start()
    thread.join()
    assert [one.state for one in done] == ["done"]


def interrupt_once() -> Callable[[Progress], None]:
    """Return an on_progress that sends this process SIGINT when a first request has ended."""
    sent = threading.Event()

    def look(at: Progress) -> None:
        if at.done and not sent.is_set():
            sent.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    return look


@pytest.fixture
def heeds_sigint() -> Iterator[None]:
    """Heed SIGINT, which a shell has its background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_sigint")
@pytest.mark.parametrize("where", ["script", "notebook", "coroutine"])
def test_an_interrupted_run_keeps_what_it_has_and_says_so(simulated_url: str, tmp_path: Path, where: str) -> None:
    scenario = short(simulated_url, concurrency=[1], requests=2_000)

    def measure() -> Run:
        return run(scenario, tmp_path / "run", on_progress=interrupt_once())

    async def cell() -> Run:
        return measure()

    if where == "coroutine":  # `asyncio.run` has a handler of its own, which a blocked coroutine does not hear of
        measured = asyncio.run(cell())
    elif where == "notebook":  # as a notebook has it: the kernel's own loop, and Python's own handler of Ctrl-C
        loop = asyncio.new_event_loop()
        measured = loop.run_until_complete(cell())
        loop.close()
    else:
        measured = measure()
    assert measured.state == "interrupted"
    assert measured.verdict in ("suspect", "void")
    assert "The run was interrupted: the figures are of what was recorded until then." in measured.reasons
    assert measured.requests.ok.any()


def test_a_folder_is_named_as_people_name_one(
    simulated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` was said to be left by a shell, and to be written as an option."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for out in ("~/a run", Path("~/another")):
        assert run(short(simulated_url), out).path == tmp_path / Path(out).name
        assert read_run(out).state == "done"


def test_a_mistake_raises_before_anything_is_measured(simulated_url: str, tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match="output_tokens: 'many' is no length"):
        Scenario(url=simulated_url, output_tokens=["many"])
    with pytest.raises(LoadTestError, match="cannot reach"):
        run(Scenario(url="http://127.0.0.1:9"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(LoadTestError, match="is not a run folder"):
        read_run(tmp_path)
    for wrong in ("", 3, b"runs", None):
        with pytest.raises(LoadTestError, match="path must be the path of a folder, not"):
            read_run(wrong)  # type: ignore[arg-type]
    with pytest.raises(LoadTestError, match="out must be the path of a folder, not ''"):
        run(short(simulated_url), "")
    (tmp_path / "held").mkdir()
    (tmp_path / "held/run.json").write_text("{}")
    with pytest.raises(LoadTestError, match="already holds a run"):
        run(short(simulated_url), tmp_path / "held")


def test_a_callback_that_raises_is_said_once_and_costs_no_sample(
    simulated_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was said, and the client's own lag was sampled no more."""

    def divided(at: Progress) -> float:
        return 1 / 0

    measured = run(short(simulated_url, requests=80, concurrency=[1]), tmp_path / "run", on_progress=divided)
    assert measured.state == "done"
    told = [(one.levelname, one.message) for one in caplog.records if one.name == "loadtest" and one.exc_info]
    assert told == [("ERROR", "on_progress raised; it is not called again, and the run goes on")]


def test_a_scenario_takes_what_a_notebook_has(tmp_path: Path) -> None:
    """Ranges, numpy's numbers and paths were refused, and the name of a file ended in a TypeError."""
    lists: list[Any] = [range(1, 4), np.arange(1, 4), pd.Series([1, 2, 3]), list(np.arange(1, 4))]
    for numbers in lists:
        assert Scenario(concurrency=numbers, output_tokens=numbers).concurrency == (1, 2, 3)
    keys: dict[str, Any] = {"requests": np.int64(8), "temperature": np.float32(0), "data": tmp_path / "a.jsonl"}
    given = Scenario(**keys)
    assert (given.requests, given.temperature, given.data) == (8, 0.0, str(tmp_path / "a.jsonl"))
    halves: Any = np.arange(0.5, 2)
    with pytest.raises(LoadTestError, match=r"concurrency must be a whole number, not 0\.5"):
        Scenario(concurrency=halves)
    file = tmp_path / "mine.toml"
    file.write_text("concurrency = 3")
    assert Scenario.load(str(file)) == Scenario.load(file) == Scenario(concurrency=[3], name="mine")
    with pytest.raises(LoadTestError, match=r"run takes a Scenario, not 'mine\.toml'; make one with"):
        run("mine.toml", tmp_path / "run")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["closed", "faults", "killed", "locust", "open", "workers"])
def test_tables_are_the_records_and_the_summary(name: str) -> None:
    read = read_run(str(FOLDERS / name))
    records = {record.id: record for record in RunFolder.open(FOLDERS / name).records()}
    table = read.requests.set_index("request_id")
    assert set(table.index) == set(records)
    for number, record in records.items():
        row = table.loc[number]
        assert (row.outcome, row.ok, row.warmup) == (record.outcome, record.outcome is Outcome.OK, record.warmup)
        if record.t_send is not None and record.t_first_token is not None:
            assert row.ttft_s == pytest.approx((record.t_first_token - record.t_send) / 1e9)
            assert row.t_first_token_s - row.t_send_s == pytest.approx(row.ttft_s)
    assert table.t_sched_s.min() == 0
    for _, events in read.chunks.groupby("request_id"):
        record = records[int(events.request_id.iloc[0])]
        assert (events.since_send_s * 1e6).round().astype(int).tolist() == record.chunks
        assert events.gap_s.isna().tolist() == [True] + [False] * (len(events) - 1)
        assert events.event.tolist() == list(range(len(events)))
        assert np.nansum(events.tokens) in (0, record.output_tokens)
    ok = table[table.ok & ~table.warmup]
    assert read.levels.ok_requests.sum() == len(ok)
    assert read.levels.ttft_p50_s.tolist() == pytest.approx(
        [ok[ok.level == level].ttft_s.median() for level in read.levels.level], nan_ok=True
    )
    assert list(read.levels.verdict) == [level["verdict"] for level in read.summary["levels"]]


def test_a_summary_needs_no_file_and_trusts_none(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (FOLDERS / "closed").glob("*.json*"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "summary.json").write_text('{"levels": []}')
    stale = read_run(folder).summary
    (folder / "summary.json").unlink()
    assert orjson.dumps(read_run(folder).summary) == orjson.dumps(stale)
    assert len(stale["levels"]) == 3


def test_how_a_run_ended_is_in_its_verdict(tmp_path: Path) -> None:
    killed = read_run(FOLDERS / "killed")
    assert (killed.state, killed.verdict, len(killed.reasons)) == ("running", "suspect", 1)
    assert killed.summary["verdict"] == "suspect"  # as reports and `loadtest ls` say
    said = answers.verdict_in_words(killed.summary)
    assert said.endswith("The run did not end as planned, or not yet, which makes it suspect as a whole.")
    (folder := tmp_path / "run").mkdir()
    for path in (FOLDERS / "killed").glob("*.json*"):
        (folder / path.name).write_bytes(path.read_bytes())
    facts = orjson.loads((folder / "run.json").read_bytes())
    (folder / "run.json").write_bytes(orjson.dumps({**facts, "state": "failed", "failure": "The disk is full."}))
    failed = read_run(folder)
    assert failed.verdict == "void"
    assert failed.reasons[0] == "The run failed: The disk is full. The figures are of what was recorded."


# -- docs/python.md --------------------------------------------------------------------------------------------------


def documented(table: str) -> list[str]:
    """Return the columns that the page describes under a table's heading."""
    return first_cells(PAGE.split(f"\n### {table}\n")[1].split("\n#")[0])


def first_cells(section: str) -> list[str]:
    """Return the names in the first cells of a section's table."""
    firsts = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    return [name for cell in firsts for name in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize("table", ["requests", "levels", "chunks"])
def test_every_column_is_documented_and_every_documented_column_exists(table: str) -> None:
    frame: pd.DataFrame = getattr(read_run(FOLDERS / "open"), table)
    assert sorted(documented(table)) == sorted(frame.columns)


def test_every_attribute_of_a_run_is_documented() -> None:
    section = PAGE.split("\n## Run\n")[1].split("\n#")[0]
    public = {name for name in dir(Run) if not name.startswith("_")} | {"path"}
    assert set(first_cells(section)) == public


def test_the_notebook_of_the_page_runs(simulated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block.replace("http://127.0.0.1:11434", simulated_url), "docs/python.md", "exec"), names)
    assert (tmp_path / "runs/notebook/requests.png").read_bytes().startswith(b"\x89PNG")


# -- types -----------------------------------------------------------------------------------------------------------


def test_a_users_code_type_checks(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache/user"), "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
