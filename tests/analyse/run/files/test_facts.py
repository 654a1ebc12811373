"""The facts of run.json: what is of a wrong kind is left out and said, and all that is right is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from support import report_pages as pages
from support.made_runs import Made, make
from support.places import FOLDERS

from loadtest.analyse.comparison.traits import names_of
from loadtest.analyse.run import frames
from loadtest.analyse.run.files import facts as facts_of
from loadtest.analyse.server.model_memory.by_slots import plan_of_run
from loadtest.analyse.summary import analyse
from loadtest.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make(tmp_path / "run", Made(), users=(4,), each=6)
    return tmp_path / "run"


@pytest.mark.parametrize(
    "key", ["levels", "scenario", "target", "server", "client", "calibration", "workers", "versions", "comparability",
            "server_at_end", "clock_steps", "name", "state", "targets"],
)  # fmt: skip
def test_a_fact_of_a_wrong_kind_is_left_out_and_said(run: Path, key: str) -> None:
    whole = frames.load(run).column("ttft_s")
    facts = json.loads((run / "run.json").read_bytes())
    values: tuple[Any, ...] = ("text", {"a": [1]}, [[]], [{"index": "x"}])
    for value in values:
        (run / "run.json").write_text(json.dumps({**facts, key: value}))
        found = analyse(run)
        assert found.run.column("ttft_s").tolist() == whole.tolist()
        if key == "levels":
            assert any("levels" in said for said in found.run.trouble)


@pytest.mark.parametrize(
    ("place", "key"),
    [("locust", "user_classes"), ("locust", "locustfile"), ("scenario", "url"), ("scenario", "model"),
     ("scenario", "num_ctx"), ("scenario", "inputs_per_request"), ("server", "context_asked")],
)  # fmt: skip
def test_a_fact_inside_another_of_a_wrong_kind_is_left_out_too(run: Path, place: str, key: str) -> None:
    facts = json.loads((run / "run.json").read_bytes())
    values: tuple[Any, ...] = (7, "text", {"a": [1]}, [[]], [{"index": "x"}], -1e300)
    for value in values:
        (run / "run.json").write_text(json.dumps({**facts, place: {**facts.get(place, {}), key: value}}))
        assert "Verdict:" in pages.markdown(analyse(run), [])


def test_a_simulated_server_stays_one_whatever_is_said_of_it(run: Path) -> None:
    facts = json.loads((run / "run.json").read_bytes())
    for said in ("yes", {}, {"profile": 5}, [1], {"speed": -1, "profile": "quick"}):
        facts["server"]["simulated"] = said or {"profile": None}
        (run / "run.json").write_text(json.dumps(facts))
        assert "SIMULATED" in pages.markdown(analyse(run), [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"levels": []}, "Both levels are known from the records alone, as run.json does not list them: "),
        ({"levels": None}, "Both levels are known from the records alone, as run.json does not list them: "),
        ({"levels": [{"index": 1, "concurrency": 4}]}, "1 of 2 levels is known from the records alone, as run.json does not list it: "),
        ({"levels": [{"index": 0, "concurrency": 2}, {"index": 1, "concurrency": 4}]}, ""),
        ({"scenario": None}, "run.json has no scenario: how prompts were made and users behaved is not known."),
    ],
)  # fmt: skip
def test_what_run_json_lost_is_said_once_on_top(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    run = tmp_path / "run"
    make(run, Made(), users=(2, 4), each=6)
    facts = json.loads((run / "run.json").read_bytes())
    (run / "run.json").write_text(json.dumps({**facts, **change}))
    trouble = analyse(run).run.trouble
    assert len(trouble) == bool(said)
    assert all(each.startswith(said) for each in trouble)


def test_values_of_the_right_kind_are_kept(tmp_path: Path) -> None:
    for path in sorted(FOLDERS.iterdir()):
        if path.is_dir():
            found, trouble = facts_of.read_facts(RunFolder.open(path))
            written = orjson.loads((path / "run.json").read_bytes())
            assert found == written
            assert len(trouble) == (path.name == "killed")


def test_a_model_without_a_name_is_not_called_none(tmp_path: Path) -> None:
    run = Path(shutil.copytree(FOLDERS / "closed", tmp_path / "run"))
    facts = json.loads((run / "run.json").read_bytes())
    facts["target"]["model"], facts["server"]["slots_said"] = None, 4
    (run / "run.json").write_text(json.dumps(facts))
    found = analyse(run)
    assert plan_of_run(found.run, found.slots).facts.name == "unknown model"


@pytest.mark.parametrize(
    "url", ["http://[", "http://h:99999999", "http://h:x", "unix:/s?key=$LOADTEST_URL_KEY_00000000"]
)
def test_a_damaged_url_costs_its_run_nothing_else(tmp_path: Path, url: str) -> None:
    run = Path(shutil.copytree(FOLDERS / "closed", tmp_path / "run"))
    facts = json.loads((run / "run.json").read_bytes())
    facts["target"]["url"] = url
    (run / "run.json").write_text(json.dumps(facts))
    found = analyse(run)
    assert "loadtest serve" not in pages.markdown(found, [])
    assert found.run.on_servers_machine(found.run.facts["client"]["host"]) is url.startswith("unix:")
    assert names_of([found, found]).names
