"""Run folders that an older loadtest wrote are read for ever, and their figures stay what they were."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.places import FOLDERS

from loadtest.analyse.run.levels import shared_parts
from loadtest.analyse.summary import analyse

pytestmark = pytest.mark.usefixtures("short_predictions")

Call = Callable[..., tuple[int, str, str]]

NAMES = sorted(path.name for path in FOLDERS.iterdir() if path.is_dir())
# What may differ from the older summary.json, by the value's path, and why. CHANGELOG says each of them.
CHANGED = {
    r"levels\[\d+\]\..*ci95": "intervals are of whole rounds, and there is none from fewer than five",
    r"levels\[\d+\]\.(output_tokens|input_tokens|requests)_per_s": "rates are over whole rounds",
    r"levels\[\d+\]\.(window|little)\.": "rates are over whole rounds",
    r"knee\[\d+\]\.output_tokens_per_s": "rates are over whole rounds",
    r"knee\[\d+\]\.reason: ": "only levels that are not void count, and one level is, not are",
    r"levels\[\d+\]\.stall_s\.": "means of steps keep slow ones",
    r"step_law\.": "means of steps keep slow ones; a law takes three numbers of streams",
    r"levels\[\d+\]\.reasons\[\d+\]: (\d+ of \d+ requests failed|schedule lag|the client was)": "numbers are rounded by one rule",
    r"levels\[\d+\]\.batch_wait_s\.": "what a request waits while no other is in flight is no batch wait",
    r"verdict: valid → suspect": "a run that did not end as planned is suspect as a whole, in reports as for read_run",
    r"levels\[\d+\]\.\w+_reason: this server does not say": "each figure has the reason of its own",
    r"slots\.method: ": "what the slots are known from is worded anew",
}


def differences(then: Any, now: Any, at: str = "") -> Iterator[str]:
    """Yield where a value of the older summary is another one now, or is gone; keys may have been added."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, value in then.items():
            yield from differences(value, now.get(key, "gone"), f"{at}.{key}" if at else key)
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, (value, other) in enumerate(zip(then, now, strict=True)):
            yield from differences(value, other, f"{at}[{index}]")
    elif isinstance(then, float) and isinstance(now, int | float):
        if now != pytest.approx(then, rel=1e-9, abs=1e-12):
            yield f"{at}: {then} → {now}"
    elif then != now:
        yield f"{at}: {then} → {now}"


@pytest.fixture
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one folder, for reports are written into it."""
    return Path(shutil.copytree(FOLDERS / request.param, tmp_path / str(request.param)))


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_of_an_old_run_is_what_it_was(name: str) -> None:
    then = orjson.loads((FOLDERS / name / "summary.json").read_bytes())
    now = orjson.loads(orjson.dumps(analyse(FOLDERS / name).summary))
    now["levels"].sort(key=itemgetter("index"))  # a search's levels stand in the order of load now
    assert [one for one in differences(then, now) if not any(re.match(path, one) for path in CHANGED)] == []


def test_a_changed_figure_is_seen() -> None:
    then = {"levels": [{"ttft_s": {"p50": 1.0}, "label": "x"}], "state": "done"}
    now = {"levels": [{"ttft_s": {"p50": 1.1}, "label": "x", "added": 1}]}
    assert list(differences(then, now)) == ["levels[0].ttft_s.p50: 1.0 → 1.1", "state: done → gone"]


@pytest.mark.parametrize("old", ["closed", "faults", "killed", "locust-processes", "open"], indirect=True)
def test_every_command_reads_an_old_run(old: Path, loadtest: Call) -> None:
    before = {path.name: path.read_bytes() for path in old.glob("*.jsonl")}
    void = orjson.loads((old / "summary.json").read_bytes())["verdict"] == "void"
    code, _, err = loadtest("report", old)
    assert code == (3 if void else 0), err
    assert (old / "report.html").exists()
    other = shutil.copytree(FOLDERS / old.name, old.parent / "other")
    code, _, err = loadtest("compare", old, other)
    assert code == 0, err  # failures are judged where a level is void
    code, _, err = loadtest("advise", old)
    assert code in (0, 2), err
    assert "Traceback" not in err
    assert before == {path.name: path.read_bytes() for path in old.glob("*.jsonl")}


def test_a_comparability_key_that_an_old_run_lacks_is_its_default(tmp_path: Path, loadtest: Call) -> None:
    base = FOLDERS / "workers"
    new = Path(shutil.copytree(base, tmp_path / "new"))
    facts = orjson.loads((new / "run.json").read_bytes())
    del facts["comparability"]["warm_cache"], facts["comparability"]["arrivals"]
    (new / "run.json").write_bytes(orjson.dumps(facts))
    code, out, err = loadtest("compare", base, new, "--out", tmp_path / "out")
    assert code == 0, err
    assert "Differs" not in out


@pytest.mark.parametrize("old", ["closed"], indirect=True)
@pytest.mark.parametrize("left", [-1, -30, 0])
def test_a_finished_run_whose_file_was_cut_between_lines_lacks_records(old: Path, left: int) -> None:
    """A copy that broke off gave a level fewer requests, and the level was valid."""
    (path,) = old.glob("requests-*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    if left:
        path.write_bytes(b"".join(lines[:left]))
    else:
        path.unlink()
    analysis = analyse(old)
    said = [one for one in analysis.summary["trouble"] if "though the run is over" in one]
    assert len(said) == 1
    assert 0 < analysis.run.lost <= (-left or 42)  # warm-ups are not told
    assert analysis.summary["verdict"] == "void"
    (old / "run.json").write_bytes((old / "run.json").read_bytes().replace(b'"done"', b'"interrupted"', 1))
    assert not [one for one in analyse(old).summary["trouble"] if "though the run is over" in one]


def test_no_levels_have_no_parts_in_common() -> None:
    assert shared_parts([]) == ("", {})
