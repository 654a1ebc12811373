"""Damaged run folders: the figures of what is there, what is missing said on top, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from support import folder_fuzz
from support import report_pages as pages
from support.made_runs import Made, make
from support.places import FOLDERS

from loadtest.analyse.run.files.damage import RECORD_KINDS
from loadtest.analyse.summary import Analysis, analyse
from loadtest.errors import RunFolderError
from loadtest.records import read_line

Call = Callable[..., tuple[int, str, str]]
Change = Callable[[dict[str, Any]], object]

LEFT_OUT = "of requests-0.jsonl are left out: "


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 24 requests and 4 warm-ups of 4 users."""
    make(tmp_path / "run", Made(), users=(4,), each=6)
    return tmp_path / "run"


def lines(run: Path) -> list[bytes]:
    return (run / "requests-0.jsonl").read_bytes().splitlines(keepends=True)


def put(run: Path, *parts: bytes) -> Analysis:
    (run / "requests-0.jsonl").write_bytes(b"".join(parts))
    return analyse(run)


def changed(run: Path, change: Change, *, rows: slice = slice(None)) -> Analysis:
    """Analyse a run in which some records are changed."""
    head, *rest = lines(run)
    records = [json.loads(line) for line in rest]
    for record in records[rows]:
        change(record)
    return put(run, head, *(json.dumps(record).encode() + b"\n" for record in records))


def level(found: Analysis) -> dict[str, Any]:
    one: dict[str, Any] = found.summary["levels"][0]
    return one


# -- lines ----------------------------------------------------------------------------------------------------------


def test_half_a_line_of_a_full_disk_costs_that_record_alone(run: Path) -> None:
    """The disk was full in mid-line, and free again: the next record stands right behind the half one."""
    head, *rest = lines(run)
    half = rest[9][: len(rest[9]) // 2]
    found = put(run, head, *rest[:9], half, *rest[10:])
    assert found.run.trouble == ["1 line of requests-0.jsonl could not be read and is left out."]
    assert sorted(found.run.requests["id"]) == [number for number in range(28) if number != 9]
    assert found.run.lost == 1
    assert level(found)["verdict"] == "void"
    assert level(found)["reasons"] == ["1 of the run's 28 records could not be read (3.6 %)"]


@pytest.mark.parametrize(
    ("bad", "read"),
    [
        (b"\0" * 4096 + b"\n", 28),
        (b"\xff\xfe{}\n", 28),
        (b"[1]\n", 28),
        (b"7\n", 28),
        (b"{" * 3000 + b"\n", 28),
        (b'{"id": NaN}\n', 28),
        (b"\0" * 512, 28),  # before a whole record on the same line
    ],
    ids=["NUL", "not UTF-8", "array", "number", "nested", "NaN", "NUL before a record"],
)
def test_a_line_that_cannot_be_read_is_counted(run: Path, bad: bytes, read: int) -> None:
    head, *rest = lines(run)
    found = put(run, head, *rest[:5], bad, *rest[5:])
    assert found.run.trouble == ["1 line of requests-0.jsonl could not be read and is left out."]
    assert len(found.run.requests) == read


def test_blank_lines_and_the_cut_last_line_of_a_run_that_goes_on_are_no_damage(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make(run, Made(), users=(4,), each=6, state="running")
    head, *rest = lines(run)
    found = put(run, head, b"\n", *rest[:-1], b" \r\n", rest[-1][:50])
    assert [said.partition(",")[0] for said in found.run.trouble] == ["The run has not ended"]
    assert found.run.lost == 0
    assert len(found.run.requests) == 27


def test_one_lost_record_of_many_makes_a_level_suspect(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(), users=(4,), each=50)
    head, *rest = lines(tmp_path / "run")
    found = put(tmp_path / "run", head, b"{\n", *rest)
    assert level(found)["verdict"] == "suspect"
    assert level(found)["reasons"] == ["1 of the run's 205 records could not be read (0.49 %)"]


def test_what_stands_at_the_end_of_a_broken_line_is_read() -> None:
    assert read_line(b'{"id":1,"a":{"b":2},"c{"id":2,"s":{"t":3}}') == ({"id": 2, "s": {"t": 3}}, True)
    assert read_line(b'{"id":1,"a":{"b":2},"c') == (None, True)
    assert read_line(b'"server":{"a":1},"status":200}') == (None, True)
    assert read_line(b"  ") == (None, False)


# -- records --------------------------------------------------------------------------------------------------------


def test_records_that_are_there_twice_count_once(run: Path) -> None:
    before = analyse(run).summary["levels"]
    head, *rest = lines(run)
    twice = put(run, head, *rest, *rest[3:10])
    assert twice.run.trouble == ["7 records are there twice; they count once."]
    (run / "requests-0.jsonl").write_bytes(b"".join((head, *rest)))
    shutil.copy(run / "requests-0.jsonl", run / "requests-1.jsonl")
    copied = analyse(run)
    assert copied.run.trouble == ["28 records are there twice; they count once."]
    for found in (twice, copied):
        assert level(found)["requests"] == before[0]["requests"] == 24
        assert level(found)["ttft_s"] == before[0]["ttft_s"]
        assert level(found)["output_tokens_per_s"] == before[0]["output_tokens_per_s"]
        assert level(found)["verdict"] == before[0]["verdict"]


def test_other_requests_under_ids_that_are_taken_are_missing(run: Path, tmp_path: Path) -> None:
    """A file of another run came into the folder."""
    before = level(analyse(run))
    make(tmp_path / "other", Made(prefill_ms=70), users=(4,), each=3)
    shutil.copy(tmp_path / "other" / "requests-0.jsonl", run / "requests-1.jsonl")
    found = analyse(run)
    assert found.run.trouble == ["16 records have the id of another request and are left out."]
    assert level(found)["ttft_s"] == before["ttft_s"]
    assert level(found)["verdict"] == "void"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda one: one.pop("t_send"), "no t_send, but an answer"),
        (lambda one: one.update(t_send=None), "no t_send, but an answer"),
        (lambda one: one.update(t_send="5"), "impossible t_send"),
        (lambda one: one.update(t_end=1e300), "impossible t_end"),
        (lambda one: one.update(t_sched=2**70), "impossible t_sched"),
        (lambda one: one.update(t_end=one["t_send"] - 2_000_000_000), "instants out of order"),
        (lambda one: one.pop("chunks"), "a first token, but no chunks"),
        (lambda one: one.update(chunks=[]), "a first token, but no chunks"),
        (lambda one: one.update(chunks="5,6"), "impossible chunks"),
        (lambda one: one.update(chunks=[5, "6"]), "impossible chunks"),
        (lambda one: one.update(chunks=[5, None]), "impossible chunks"),
        (lambda one: one.update(chunks=[5.5]), "impossible chunks"),
        (lambda one: one.update(chunks=[2**70]), "impossible chunks"),
        (lambda one: one.update(chunks=one["chunks"][::-1]), "chunks out of order"),
        (lambda one: one.update(chunks=[-900_000, *one["chunks"]]), "tokens before the request was sent"),
        (lambda one: one.pop("t_first_token"), "chunks, but no first token"),
        (lambda one: one.update(level="0"), "impossible level"),
        (lambda one: one.update(level=-1), "impossible level"),
        (lambda one: one.pop("level"), "no level"),
        (lambda one: one.update(outcome="great"), "impossible outcome"),
        (lambda one: one.update(outcome=["ok"]), "impossible outcome"),
        (lambda one: one.update(id=True), "impossible id"),
        (lambda one: one.update(warmup="false"), "impossible warmup"),
    ],
)
def test_a_record_without_what_figures_need_is_left_out(run: Path, change: Change, why: str) -> None:
    whole = (run / "requests-0.jsonl").read_bytes()
    for rows, count in ((slice(4, 9), 5), (slice(None), 28)):
        (run / "requests-0.jsonl").write_bytes(whole)
        found = changed(run, change, rows=rows)
        assert found.run.trouble == [f"{count} records {LEFT_OUT}{why}."]
        assert len(found.run.requests) == 28 - count
        assert found.run.lost == count
        assert found.summary["verdict"] == "void"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("output_tokens", 2**70),
        ("output_tokens", 2**64 - 1),
        ("output_tokens", -3),
        ("output_tokens", "20"),
        ("prompt_tokens", [1]),
        ("status", True),
        ("error", 5),
        ("model", {"a": 1}),
        ("server", "said"),
        ("server", {"total_duration": 5, "load_duration": "1 s"}),
        ("server", {"total_duration": 5, "prompt_eval_duration": -(10**12)}),
        ("server", {"usage": [1]}),
        ("server_us", [1, "x"]),
        ("server_first", 1.5),
        ("notes", "a"),
        ("seed", 2**77),
        ("lag_us", 1e6),
        ("t_headers", "x"),
    ],
)
def test_a_value_that_cannot_be_right_is_unknown_and_said(run: Path, name: str, value: object) -> None:
    found = changed(run, lambda one: one.update({name: value}), rows=slice(5, 7))
    assert found.run.trouble == [
        f"2 records of requests-0.jsonl have a {name} that cannot be right; it counts as unknown."
    ]
    assert len(found.run.requests) == 28
    assert level(found)["verdict"] != "void"
    if name == "output_tokens":
        assert level(found)["tokens"]["output"] == (24 - 2) * 20 or level(found)["tokens"]["output"] == (24 - 1) * 20


def test_nothing_asked_is_no_length_to_be_off(run: Path) -> None:
    found = changed(run, lambda one: one.update(asked=0, asked_input=0))
    assert level(found)["tokens"]["achieved"] is None
    assert level(found)["verdict"] == "valid"


def test_every_field_of_a_record_has_its_kind() -> None:
    from loadtest.records import _RECORD_FIELDS

    assert set(_RECORD_FIELDS) - set(RECORD_KINDS) <= {"prompt", "answer"}


# -- the folder -----------------------------------------------------------------------------------------------------


def test_a_header_that_is_gone_costs_no_record(run: Path) -> None:
    whole = level(analyse(run))
    for bad in (
        b"",
        b"{\n",
        b'{"schema":1,"worker":\n',
        b"\0" * 300 + b"\n",
        b'{"schema":1,"wall_ns":"x"}\n',
        b'{"sch',
    ):
        head, *rest = lines(run)
        found = put(run, bad, *rest)
        assert level(found)["ttft_s"] == whole["ttft_s"], bad
        assert any("does not begin with a header" in said for said in found.run.trouble), bad
        put(run, head, *rest)


@pytest.mark.usefixtures("bare_reports")
def test_records_without_a_run_json_are_reported(run: Path, loadtest: Call) -> None:
    whole = level(analyse(run))
    (run / "run.json").unlink()
    code, out, err = loadtest("report", run)
    assert (code, err) == (3, "")  # how the run ended is not known
    assert "run.json" in out.splitlines()[0]
    summary = orjson.loads((run / "summary.json").read_bytes())
    assert summary["trouble"][0] in (run / "report.html").read_text()
    for body in (b"", b"{", b"[]", b"5", b"\xff", b'"run"'):
        (run / "run.json").write_bytes(body)
        found = analyse(run)
        assert found.run.trouble[0].startswith("run.json ")
        assert level(found)["ttft_s"] == whole["ttft_s"] == summary["levels"][0]["ttft_s"]
        assert level(found)["concurrency"] == 4


@pytest.mark.parametrize("speed", [4.0, "fast"])
def test_a_simulated_run_stays_simulated_without_its_run_json(run: Path, speed: object) -> None:
    head, *rest = lines(run)
    simulated = {"profile": "quick", "speed": speed}
    put(run, orjson.dumps({**orjson.loads(head), "simulated": simulated}) + b"\n", *rest)
    (run / "run.json").unlink()
    found = analyse(run)
    assert found.summary["simulated"] == {"profile": "quick", "speed": 4.0 if speed == 4.0 else 1.0}
    assert "SIMULATED" in pages.markdown(found, [])


def test_a_folder_with_neither_is_refused(tmp_path: Path, loadtest: Call) -> None:
    code, _, err = loadtest("report", tmp_path)
    assert (code, err) == (
        2,
        f"loadtest: {tmp_path} is not a run folder: it has no run.json; give a folder that `loadtest run` made.\n",
    )


@pytest.mark.parametrize("state", ["running", "failed", "interrupted", None, "odd"])
def test_how_a_run_ended_stands_on_top(run: Path, state: str | None) -> None:
    facts = orjson.loads((run / "run.json").read_bytes())
    (run / "run.json").write_bytes(orjson.dumps({**facts, "state": state}))
    found = analyse(run)
    (said,) = found.summary["trouble"]
    assert (state or "does not say how it ended") in said
    top = pages.markdown(found, [])
    assert top.index(said) < top.index("Verdict:")
    assert level(found)["verdict"] == "valid"


def test_a_folder_that_cannot_be_read_is_one_sentence(run: Path) -> None:
    (run / "run.json").unlink()
    (run / "run.json").mkdir()
    with pytest.raises(RunFolderError, match=r"cannot read .*run\.json: Is a directory"):
        analyse(run)


def test_charts_of_a_damaged_folder_are_not_made_without_a_word(
    run: Path, loadtest: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.analyse.charts.draw_all", lambda *_: [])
    next(run.glob("requests-*.jsonl")).unlink()
    code, out, err = loadtest("plot", run)
    assert (code, out) == (0, "")
    assert err.startswith(f"loadtest: {run}: ")
    assert "records are not there" in err


@pytest.mark.usefixtures("bare_reports")
def test_other_folders_are_reported_beside_a_broken_one(run: Path, tmp_path: Path, loadtest: Call) -> None:
    make(tmp_path / "third", Made(), users=(2,))
    (tmp_path / "broken").mkdir()
    code, _, err = loadtest("report", run, tmp_path / "broken", tmp_path / "third")
    assert code == 2
    assert (
        err
        == f"loadtest: {tmp_path / 'broken'} is not a run folder: it has no run.json; give a folder that `loadtest run` made.\n"
    )
    assert (run / "report.html").exists()
    assert (tmp_path / "third" / "report.html").exists()
    assert not list((tmp_path / "broken").iterdir())


@pytest.mark.usefixtures("bare_reports")
def test_lost_records_end_a_report_with_3(tmp_path: Path, loadtest: Call) -> None:
    make(tmp_path / "run", Made(), users=(4,), each=50)
    head, *rest = lines(tmp_path / "run")
    (tmp_path / "run" / "requests-0.jsonl").write_bytes(b"".join((head, b"{\n", *rest)))
    code, out, _ = loadtest("report", tmp_path / "run")
    assert code == 3
    assert out.startswith("1 line of requests-0.jsonl could not be read and is left out.")


def test_samples_that_cannot_be_read_are_counted(run: Path) -> None:
    head = lines(run)[0]
    sample = b'{"t":500000000,"level":0,"in_flight":2,"decoding":1,"waiting":1,"loop_gap_us":2100,"cpu":0.1}\n'
    (run / "samples-driver.jsonl").write_bytes(head + sample + b"{\n" + b'{"t":"x"}\n' + b'{"t":5,"cpu":[]}\n')
    found = analyse(run)
    assert found.run.trouble == ["3 lines of samples-driver.jsonl hold no sample and are left out."]
    assert found.run.samples["cpu"].tolist() == [0.1]


# -- all kinds together -----------------------------------------------------------------------------------------------


def test_no_damage_is_a_traceback(tmp_path: Path) -> None:
    sound = analyse(FOLDERS / "text")
    for seed in range(60):
        folder_fuzz.read_all(folder_fuzz.damaged(seed, tmp_path), sound, charts=seed == 7)
