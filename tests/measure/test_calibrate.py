"""Calibration: the file, what later runs say of it, and the command."""

from __future__ import annotations

import dataclasses
import platform
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from support import made_runs

from loadtest import metrics
from loadtest.analyse.figures import client_capacity
from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports import tables
from loadtest.analyse.summary import analyse
from loadtest.cli import calibrate as command
from loadtest.errors import RunFolderError, ScenarioError
from loadtest.measure import capacity_file
from loadtest.measure.capacity_file import KeptCapacity
from loadtest.run_folder import RunFolder, check_file_writable
from loadtest.wire.clock import ask_for_stamps

Call = Callable[..., tuple[int, str, str]]


# -- the file --------------------------------------------------------------------------------------------------------------

FOUND = KeptCapacity(
    chunks_per_s=31_000, streams=620, tokens_per_s=50.0, limit="client", measured_at="2026-01-01T00:00:00Z"
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state" / "calibration.json"
    monkeypatch.setenv("LOADTEST_CALIBRATION", str(path))
    return path


def test_a_capacity_applies_to_its_driver_on_its_machine(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert capacity_file.known_capacity("asyncio") is None
    check_file_writable(kept)
    capacity_file.store(kept, FOUND, driver="asyncio", arrivals="steps", stamps="kernel")
    capacity_file.store(kept, dataclasses.replace(FOUND, streams=2), driver="asyncio", arrivals="steps", stamps="user")
    known = capacity_file.known_capacity("asyncio")
    assert known is not None
    assert known["arrivals"]["steps"]["kernel"] == dataclasses.asdict(FOUND)
    assert known["arrivals"]["steps"]["user"]["streams"] == 2
    assert capacity_file.known_capacity("locust") is None
    monkeypatch.setattr(capacity_file, "usable_cores", lambda: 4711)
    assert capacity_file.known_capacity("asyncio") is None


def test_a_folder_that_the_environment_names_holds_the_file(kept: Path) -> None:
    kept.mkdir(parents=True)
    capacity_file.store(capacity_file.file_path(), FOUND, driver="asyncio", arrivals="steps", stamps="kernel")
    assert capacity_file.known_capacity("asyncio") is not None
    assert [path.name for path in kept.iterdir()] == ["calibration.json"]


def test_capacities_of_other_software_are_dropped(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_file_writable(kept)
    capacity_file.store(kept, FOUND, driver="asyncio", arrivals="steps", stamps="kernel")
    monkeypatch.setattr(capacity_file, "__version__", "another")
    capacity_file.store(kept, FOUND, driver="locust", arrivals="steps", stamps="kernel")
    assert set(orjson.loads(kept.read_bytes())["drivers"]) == {"locust"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99, "drivers": {}}', '{"schema": 1}'])
def test_a_file_that_makes_no_sense_is_as_none(kept: Path, text: str) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text(text)
    assert capacity_file.known_capacity("asyncio") is None


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOADTEST_CALIBRATION")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert capacity_file.file_path() == Path("/somewhere/loadtest/calibration.json")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert capacity_file.file_path() == Path.home() / ".local/state/loadtest/calibration.json"


def test_a_place_that_cannot_be_written_to_is_found_before_anything_runs(tmp_path: Path, loadtest: Call) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "calibration.json"):
        code, _, err = loadtest("calibrate", "--out", path)
        assert code == 2
        assert "--out" in err
        assert err.count("\n") == 1
    with pytest.raises(RunFolderError, match="is a folder"):
        check_file_writable(tmp_path)


# -- what later runs say ---------------------------------------------------------------------------------------------------


def calibrated(chunks_per_s: int, limit: str = "client", **kinds: int) -> dict[str, Any]:
    """What run.json holds: the same for steps, and other kinds of arrivals."""
    every = {"steps": chunks_per_s, **kinds}
    one = dataclasses.asdict(FOUND) | {"limit": limit}
    return {
        "host": platform.node(),
        "arrivals": {kind: {"kernel": one | {"chunks_per_s": count}} for kind, count in every.items()},
    }


def test_a_run_says_what_share_of_the_client_it_used(tmp_path: Path) -> None:
    made_runs.make(tmp_path / "run", users=(1, 4), calibration=calibrated(4000, independent=6000))
    analysis = analyse(tmp_path / "run")
    shares = []
    for level in analysis.summary["levels"]:
        client = level["client"]
        assert client["capacity"] == {
            "chunks_per_s": 4000.0,
            "arrivals": "steps",
            "at_least": False,
            "measured_at": FOUND.measured_at,
        }
        assert client["capacity_share"] == client["busiest_chunks_per_s"] / 4000
        shares.append(client["capacity_share"])
        assert not any("calibrate" in reason for reason in level["reasons"])
    assert 0 < shares[0] < shares[1] < 1
    label = analysis.summary["levels"][1]["label"]
    said = next(finding for finding in all_findings(analysis) if "this client can measure" in finding)
    assert said.startswith(
        f"{label} used {client_capacity.capacity_cell(analysis.summary['levels'][1]['client'])} of what"
    )
    grid = tables.client_table(analysis.summary)
    assert [row[grid.heads.index("of what it can measure")] for row in grid.rows] == [
        client_capacity.capacity_cell(level["client"]) for level in analysis.summary["levels"]
    ]


def test_a_run_past_the_capacity_is_suspect(tmp_path: Path) -> None:
    made_runs.make(tmp_path / "run", users=(4,), calibration=calibrated(100))
    analysis = analyse(tmp_path / "run")
    (level,) = analysis.summary["levels"]
    assert level["verdict"] == "suspect"
    assert any("that this client measures truthfully" in reason for reason in level["reasons"])


def test_past_what_the_server_could_offer_nothing_is_known(tmp_path: Path) -> None:
    made_runs.make(tmp_path / "run", users=(4,), calibration=calibrated(100, "server"))
    analysis = analyse(tmp_path / "run")
    (level,) = analysis.summary["levels"]
    assert level["verdict"] == "valid"
    assert any("beyond what the calibration of this client could offer" in said for said in all_findings(analysis))


ONLY_USER = {"host": platform.node(), "arrivals": {"steps": {"user": dataclasses.asdict(FOUND)}}}


@pytest.mark.parametrize(
    "facts", [{}, {"calibration": ONLY_USER}, {"calibration": calibrated(100) | {"host": "elsewhere"}}]
)
def test_never_calibrated_says_nothing(tmp_path: Path, facts: dict[str, Any]) -> None:
    made_runs.make(tmp_path / "run", users=(1,), **facts)
    analysis = analyse(tmp_path / "run")
    assert set(analysis.summary["levels"][0]["client"]) == {
        *("lag_s", "schedule_lag_s", "schedule_lag_p99_s", "cpu", "stamps")
    }
    assert "of what it can measure" not in tables.client_table(analysis.summary).heads
    assert not any("client can measure" in said for said in all_findings(analysis))


# -- the command -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short levels on which every figure is true enough: what is tested is not this machine."""
    monkeypatch.setattr(metrics, "TRUE_WITHIN_S", 60.0)
    monkeypatch.setattr(metrics, "TRUE_WITHIN_SHARE", 1e6)
    monkeypatch.setattr(command, "OUTPUT_TOKENS", 5)
    monkeypatch.setattr(command, "LOCUST_S", 2)


@pytest.mark.usefixtures("lenient")
def test_both_kinds_of_arrivals_are_measured_and_kept_for_later_runs(
    kept: Path, tmp_path: Path, loadtest: Call, simulated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.measure.calibrate.FIRST", 2)
    monkeypatch.setattr("loadtest.measure.calibrate.LATE_STEPS", 1e6)
    code, out, err = loadtest("calibrate", "--streams-most", "3")
    assert code == 0, err
    assert "simulated" in out
    assert "  2 streams, " in err
    assert "  3 streams, " in err
    assert "this client measures at least 3 streams" in err
    drivers = orjson.loads(kept.read_bytes())["drivers"]
    for kind in ("independent", "steps"):
        known = drivers["asyncio"][kind]["kernel"]
        assert (known["streams"], known["limit"]) == (3, "asked")
        assert known["chunks_per_s"] >= 15  # the last round's three answers of five tokens lie within a second
    ordinary = ("--url", simulated_url, "--concurrency", "1", "--requests", "2", "--output-tokens", "5")
    code, out, err = loadtest("run", *ordinary, "--out", tmp_path / "run")
    assert code in (0, 3), err
    assert RunFolder.open(tmp_path / "run").read_run()["calibration"]["arrivals"] == drivers["asyncio"]


@pytest.mark.usefixtures("lenient")
def test_the_locust_users_are_calibrated_too(kept: Path, loadtest: Call) -> None:
    asked = ("--driver", "locust", "--arrivals", "independent", "--stamps", "user", "--streams-most", "2")
    code, out, err = loadtest("calibrate", *asked)
    assert code == 0, err
    assert "locust driver can measure here, user stamps" in out
    known = orjson.loads(kept.read_bytes())["drivers"]["locust"]["independent"]
    assert set(known) == {"user"}
    assert known["user"]["streams"] == 2


def test_kinds_of_arrivals_are_named_right(loadtest: Call) -> None:
    code, _, err = loadtest("calibrate", "--arrivals", "waves")
    assert code == 2
    assert "independent or steps" in err


def test_kernel_stamps_can_be_left_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_STAMPS", "user")
    with socket.socket() as sock:
        assert not ask_for_stamps(sock)
        monkeypatch.setenv("LOADTEST_STAMPS", "off")
        with pytest.raises(ScenarioError, match="LOADTEST_STAMPS must be kernel or user, not 'off'"):
            ask_for_stamps(sock)


def test_a_user_without_a_home_measures_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container gives to a number of which no passwd file knows."""
    for name in ("LOADTEST_CALIBRATION", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert capacity_file.known_capacity("asyncio") is None
    with pytest.raises(ScenarioError, match="set HOME"):
        capacity_file.file_path()
