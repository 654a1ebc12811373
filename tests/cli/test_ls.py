"""`loadtest ls`: a line a run folder at 80 columns, whatever is broken in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from support.made_runs import Made, make, write

pytestmark = pytest.mark.usefixtures("bare_reports")

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _at_80_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def line_of(text: str, name: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    assert len(lines) == 1, text
    return lines[0]


def test_the_headline_of_each_run_the_newest_first(loadtest: Call) -> None:
    make(Path("runs/old"), Made(), users=(1, 2), started="2026-01-01T12:00:00Z")
    make(Path("runs/new"), Made(), users=(1, 2, 4, 8, 16, 32), started="2026-02-01T12:00:00Z")
    for name in ("old", "new"):
        loadtest("report", f"runs/{name}")
    code, out, _ = loadtest("ls")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.index("\nnew ") < out.index("\nold ")
    most = max(
        level["output_tokens_per_s"] for level in orjson.loads(Path("runs/old/summary.json").read_bytes())["levels"]
    )
    assert line_of(out, "old").split()[:5] == ["old", "2026-01-01", "made", "1,", "2"]
    assert f"{most:.0f}" in line_of(out, "old")
    assert "1 to 32" in line_of(out, "new")


@pytest.mark.parametrize(
    ("ends", "said"), [((0.5, 3.0), "0.5 to 3/s"), ((10.0, 1.0), "10 to 1/s"), ((2.0, None), "2/s")]
)
def test_a_ramp_is_shown_by_both_of_its_ends(
    loadtest: Call, monkeypatch: pytest.MonkeyPatch, ends: tuple[float, float | None], said: str
) -> None:
    """Was "0.5/s" of a run that ended at 3 requests/s."""
    monkeypatch.setenv("COLUMNS", "120")
    level = {"index": 0, "concurrency": None, "rate": ends[0], "rate_to": ends[1], "requests": 30}
    write(Path("runs/a"), [], [level])
    assert said in loadtest("ls")[1]


def test_the_verdict_stays_and_the_name_is_never_cut(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "20260101-120000-a-long-name-of-a-run"
    made = {"url": "http://127.0.0.1:11434", "api": "ollama", "model": "meta-llama/Llama-3.1-70B-Instruct-AWQ-INT4"}
    make(Path("runs", name), Made(), users=(1, 2), target=made)
    loadtest("report", f"runs/{name}")
    for width in (30, 50, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        _, out, _ = loadtest("ls")
        assert max(map(len, out.splitlines())) <= width
        assert name in "".join(line.split(" ")[0] for line in out.splitlines()[2:]), width
        assert "verdict" in out or width < 50
        assert "valid" in out, width
        left_out = [column for column in ("when", "model", "levels") if column not in out.splitlines()[0].split()]
        said = out.partition("Not shown for lack of room:")[2]
        assert left_out == [column for column in ("when", "model", "levels") if column in said], width


def test_a_run_of_two_models_is_shown_whole(loadtest: Call, simulated_url: str) -> None:
    """Was "–" for its models, and the streams and tokens/s of one of them."""
    targets = ("--url", simulated_url, "--url", simulated_url.replace("127.0.0.1", "localhost"))
    asked = ("--concurrency", "3", "--requests", "30", "--output-tokens", "8", "--input-tokens", "8")
    loadtest("run", *targets, *asked, "--out", "runs/a")
    parts = orjson.loads(Path("runs/a/summary.json").read_bytes())["levels"]
    found = orjson.loads(loadtest("ls", "--json")[1])["runs"][0]
    assert (len(parts), found["levels"], found["concurrency"]) == (2, 1, [3])
    assert found["model"] is not None
    speeds = [one["output_tokens_per_s"] for one in parts]
    believed = all(one["verdict"] != "void" for one in parts)
    assert found["max_output_tokens_per_s"] == (sum(speeds) if believed and None not in speeds else None)


def test_a_void_level_gives_no_headline(loadtest: Call) -> None:
    make(Path("runs/a"), Made(), users=(1, 2), clock_steps=1)
    loadtest("report", "runs/a")
    _, out, _ = loadtest("ls", "--json")
    found = orjson.loads(out)["runs"][0]
    assert (found["verdict"], found["void_levels"], found["max_output_tokens_per_s"]) == ("void", 2, None)


@pytest.mark.parametrize("state", ["done", "interrupted", "failed"])
def test_a_copied_folder_keeps_its_headline(loadtest: Call, state: str) -> None:
    """A copy, an archive and a download give files the time at which they came, in any order."""
    make(Path("runs/a"), Made(), users=(1, 2), state=state)
    loadtest("report", "runs/a")
    later = Path("runs/a/summary.json").stat().st_mtime_ns + 10**9
    os.utime("runs/a/requests-0.jsonl", ns=(later, later))
    assert orjson.loads(loadtest("ls", "--json")[1])["runs"][0]["reported"]


def test_the_summary_of_a_run_that_went_on_is_none(loadtest: Call) -> None:
    make(Path("runs/a"), Made(), users=(1, 2), state="running")
    make(Path("runs/b"), Made(), users=(1, 2))
    assert "no report" in line_of(loadtest("ls")[1], "b")
    loadtest("report", "runs/a", "runs/b")

    def reported() -> list[bool]:
        return [each["reported"] for each in orjson.loads(loadtest("ls", "--json")[1])["runs"]]

    assert reported() == [True, True]
    later = Path("runs/a/summary.json").stat().st_mtime_ns + 10**9
    os.utime("runs/a/requests-0.jsonl", ns=(later, later))
    assert sorted(reported()) == [False, True]
    assert "1, 2" in line_of(loadtest("ls")[1], "a")  # of run.json


def test_what_is_broken_is_a_line_with_the_reason(loadtest: Call) -> None:
    make(Path("runs/good"), Made(), users=(1,))
    for name, file, body in (
        ("a", "run.json", b"{"),
        ("b", "run.json", b'{"schema": 99}'),
        ("c", "run.json", b'{"levels": [3]}'),
        ("d", "run.json.partial", b""),
        ("e", "summary.json", b'{"levels": {}, "verdict": 3}'),
        ("f", "summary.json", b'{"levels": [{"verdict": "valid"}]}'),
        ("g", "run.json", b'{"levels": [{"rate": "x"}], "started": 7, "targets": 3}'),
    ):
        Path("runs", name).mkdir()
        Path("runs", name, file).write_bytes(body)
    Path("runs/plots").mkdir()  # no run
    Path("runs/a file").write_text("")
    code, out, _ = loadtest("ls")
    assert code == 0
    assert line_of(out, "a").endswith("does not parse as JSON.")
    assert "newer loadtest" in out
    for name in "cefg":
        assert line_of(out, name).endswith("is damaged; `loadtest report` says how.")
    assert "has no run.json" in line_of(out, "d")
    assert "good" in out
    assert "plots" not in out


def test_no_runs_and_no_folder(loadtest: Call) -> None:
    assert loadtest("ls") == (0, "runs holds no run folders; `loadtest run` makes them.\n", "")
    code, out, err = loadtest("ls", "nowhere")
    assert (code, out) == (2, "")
    assert "nowhere is not a folder" in err
    code, out, _ = loadtest("ls", "--json")
    assert (code, orjson.loads(out)) == (0, {"folder": "runs", "runs": []})


def test_a_run_folder_is_a_list_of_one(loadtest: Call) -> None:
    make(Path("runs/a"), Made(), users=(1,))
    code, out, _ = loadtest("ls", "runs/a")
    assert code == 0
    assert line_of(out, "a")


def test_it_reads_no_records_and_imports_no_pandas(loadtest: Call) -> None:
    """What makes 200 folders fast: one small file each."""
    make(Path("runs/a"), Made(), users=(1,))
    Path("runs/a/requests-0.jsonl").chmod(0)
    code, out, _ = loadtest("ls")
    assert code == 0
    assert line_of(out, "a")
    import subprocess
    import sys

    lines = "import sys; from loadtest.cli import ls; sys.exit(bool({'pandas', 'numpy', 'matplotlib', 'httpx'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", lines], check=False).returncode == 0


def test_short_names_leave_room_for_the_verdict(loadtest: Call) -> None:
    """Was "no repo…": the column of names was as wide as its least width for long ones."""
    made = {"url": "http://127.0.0.1:11434", "api": "ollama", "model": "hf.co/some-organisation/a-long-model:Q4_K_M"}
    for name, users in (("one", (1, 2)), ("two", (1, 2, 4, 8, 16, 32))):
        make(Path("runs", name), Made(), users=users, target=made)
    _, out, _ = loadtest("ls")
    assert max(map(len, out.splitlines())) <= 80
    assert line_of(out, "one").endswith("no report")
    assert "2026-01-01" in line_of(out, "two")
    assert "tokens/s" in out


def test_a_load_beyond_all_bounds_is_damage(loadtest: Call) -> None:
    make(Path("runs/a"), Made(), users=(1, 2))
    loadtest("report", "runs/a")
    file = Path("runs/a/summary.json")
    file.write_bytes(file.read_bytes().replace(b'"concurrency": 2,', b'"concurrency": 1180591620717411303424,'))
    code, out, _ = loadtest("ls", "--json")
    (found,) = orjson.loads(out)["runs"]
    assert (code, found["trouble"]) == (0, "is damaged; `loadtest report` says how.")
