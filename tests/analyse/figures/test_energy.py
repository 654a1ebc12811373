"""Joules a token: held to runs whose watts are known, and not measured where the samples do not carry it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import made_runs
from support.made_energy import IDLE_W, WATTS, Reading, by_watts, read
from support.made_samples import add
from support.two_models import two_models

from loadtest.analyse.findings.energy_findings import energy_findings
from loadtest.analyse.reports import energy_table
from loadtest.analyse.run import frames
from loadtest.analyse.summary import analyse

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A made-up run of 1, 4 and 8 streams, which starts when its samples are 10 s old."""
    path = tmp_path / "run"
    made_runs.make(path, users=(1, 4, 8))
    return path


def by_counter(_: float, joules: float) -> dict[str, Any]:
    return {"gpus": [{"gpu": 0, "power": 1.0, "energy": joules}]}  # the counter is believed before the watts


def levels(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = analyse(path).summary["levels"]
    return found


def said(path: Path) -> str:
    return "\n".join(f"{each} {each.evidence}" for each in energy_findings(analyse(path).summary))


@pytest.mark.parametrize(("reading", "by"), [(by_watts, "samples of watts"), (by_counter, "energy counters")])
def test_joules_are_watts_over_tokens_a_second(run: Path, reading: Reading, by: str) -> None:
    add(run, "nvidia", read(run, reading))
    for level in levels(run):
        energy, watts = level["energy"], WATTS[level["concurrency"]]
        rate = level["output_tokens_per_s"]
        assert energy["watts"] == pytest.approx(watts, rel=0.01)
        assert energy["idle_watts"] == pytest.approx(IDLE_W, rel=0.001)
        assert energy["idle_measured"] == "before the first request"
        assert energy["joules_per_output_token"] == pytest.approx(watts / rate, rel=0.01)
        assert energy["joules_per_output_token_above_idle"] == pytest.approx((watts - IDLE_W) / rate, rel=0.01)
        assert energy["joules_per_request"] == pytest.approx(watts / level["requests_per_s"], rel=0.01)
        assert energy["output_tokens_per_s_per_watt"] == pytest.approx(rate / watts, rel=0.01)
        assert (energy["by"], energy["simulated"]) == (by, False)
    text = said(run)
    assert "An output token takes 0.76 J at 4 streams, 0.57 J of it above idle, and 1.82 J at 1 stream." in text
    assert "idle was 60.0 W, before the first request" in text


def test_without_idle_samples_what_is_above_idle_is_unknown(run: Path) -> None:
    add(run, "nvidia", read(run, by_watts, before=0.5))
    energy = levels(run)[0]["energy"]
    assert energy["joules_per_output_token"] > 0
    assert energy["joules_per_output_token_above_idle"] is None
    assert "--monitor-idle 10" in energy["idle_reason"]
    assert "idle is unknown" in said(run)


def test_nothing_sampled_is_nothing_said_but_the_fact(run: Path) -> None:
    level = levels(run)[0]
    assert level["energy"] is None
    assert "--monitor nvidia" in level["energy_reason"]
    assert said(run) == ""
    summary = analyse(run).summary
    assert energy_table.energy_table(summary) is None
    assert energy_table.energy_fact(summary).startswith("not measured: watts were not sampled")


def test_an_exporter_that_repeats_its_last_reading_is_read_by_its_new_ones(run: Path) -> None:
    kept = {"joules": 0.0, "t": -100.0}

    def stale(_: float, joules: float) -> dict[str, Any]:
        kept["t"] += 0.1
        if kept["t"] % 0.5 < 0.1:
            kept["joules"] = joules
        return {"values": {'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0"}': kept["joules"] * 1000}}

    add(run, "dcgm", read(run, stale))
    for level in levels(run):
        assert level["energy"]["watts"] == pytest.approx(WATTS[level["concurrency"]], rel=0.03)


def test_a_counter_tells_what_was_used_while_it_was_not_read_and_watts_do_not(run: Path) -> None:
    start = frames.load(run).requests["send"][frames.load(run).requests["level"] == 1].min()
    for reading, known in ((by_counter, True), (by_watts, False)):
        rows = [row for row in read(run, reading) if not start + 0.3 < row["t"] < start + 1.6]
        add(run, "nvidia", rows)
        level = levels(run)[1]
        assert (level["energy"] is not None) is known, level
    assert "readings of nvidia" in level["energy_reason"]
    assert "--monitor-every" in level["energy_reason"]


def test_a_counter_that_began_again_loses_that_moment_alone(run: Path) -> None:
    rows = read(run, by_counter)
    for row in rows[len(rows) // 2 :]:
        row["gpus"][0]["energy"] -= 990.0
    add(run, "nvidia", rows)
    for level in levels(run):
        assert level["energy"]["watts"] == pytest.approx(WATTS[level["concurrency"]], rel=0.05)


def test_gpus_are_added_up_and_one_that_says_nothing_spoils_the_sum(run: Path) -> None:
    add(run, "nvidia", read(run, lambda watts, _: {"gpus": [{"gpu": 0, "power": watts}, {"gpu": 1, "power": 40.0}]}))
    energy = levels(run)[2]["energy"]
    assert energy["watts"] == pytest.approx(WATTS[8] + 40, rel=0.01)
    assert energy["of"] == "2 GPUs together"
    add(run, "nvidia", read(run, lambda watts, _: {"gpus": [{"gpu": 0, "power": watts}, {"gpu": 1}]}))
    assert levels(run)[2]["energy"] is None


def test_processors_count_beside_gpus(run: Path) -> None:
    add(run, "nvidia", read(run, by_watts))
    add(run, "rapl", read(run, lambda watts, joules: {"energy": joules / 2}))
    energy = levels(run)[2]["energy"]
    assert energy["watts_by_source"] == {
        "nvidia": pytest.approx(WATTS[8], rel=0.01),
        "rapl": pytest.approx(WATTS[8] / 2, rel=0.01),
    }
    assert energy["watts"] == pytest.approx(1.5 * WATTS[8], rel=0.01)
    assert "the GPU and processors and their memory" in said(run)


def test_a_level_shorter_than_its_samples_is_not_measured(run: Path) -> None:
    add(run, "nvidia", read(run, by_watts, every=2.0), every=2.0)
    assert all(level["energy"] is None for level in levels(run))
    assert "holds fewer than 3 readings of nvidia" in levels(run)[0]["energy_reason"]
    assert "Energy was not measured: the level's window of " in said(run)
    assert "not measured" in energy_table.energy_fact(analyse(run).summary)


def test_the_clients_own_gpu_is_not_the_remote_servers(tmp_path: Path) -> None:
    path = tmp_path / "run"
    away = {"url": "http://gpu-box:11434", "api": "ollama", "dialect": "ollama-chat", "model": "made"}
    made_runs.make(path, users=(1, 4, 8), target=away)
    add(path, "nvidia", read(path, by_watts), host="here")  # where made_runs' client ran
    assert "the server is elsewhere: run `loadtest monitor` there" in levels(path)[0]["energy_reason"]
    add(path, "nvidia", read(path, by_watts), host="gpu-box")
    assert levels(path)[0]["energy"]["watts"] == pytest.approx(WATTS[1], rel=0.01)


def test_simulated_watts_say_so_and_real_ones_are_no_simulated_servers(tmp_path: Path) -> None:
    path = tmp_path / "run"
    server = {
        "kind": "ollama",
        "version": "1",
        "context": 4096,
        "simulated": {"profile": "x", "speed": 1.0},
        "facts": {},
    }
    made_runs.make(path, users=(1, 4, 8), server=server)
    add(path, "nvidia", read(path, by_watts))
    assert "the server is simulated" in levels(path)[0]["energy_reason"]
    (path / "samples-nvidia.jsonl").unlink()
    facts = {"t": -10, "facts": {"url": "http://h/metrics", "simulated": "profile=x; speed=1"}}
    add(path, "dcgm", [facts, *read(path, lambda watts, _: {"values": {'DCGM_FI_DEV_POWER_USAGE{gpu="0"}': watts}})])
    assert levels(path)[0]["energy"]["simulated"]
    assert "J (simulated) at" in said(path)
    assert energy_table.energy_fact(analyse(path).summary).startswith("simulated; of the GPU")


def test_a_gpu_in_others_use_is_said(run: Path) -> None:
    busy = read(run, lambda watts, _: {"gpus": [{"gpu": 0, "power": watts, "utilisation": 0.4}]})
    add(run, "nvidia", busy)
    assert (
        "GPUs were at 40 % utilisation while this client asked nothing, so the joules may hold others' work."
        in said(run)
    )


def test_models_that_ran_beside_each_other_are_not_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "run"
    two_models(path)
    add(path, "nvidia", read(path, by_watts))
    found = levels(path)
    assert len(found) == 4
    assert all("cannot be told apart" in level["energy_reason"] for level in found)


def test_figures_of_void_levels_are_not_quoted(run: Path) -> None:
    add(run, "nvidia", read(run, by_watts))
    summary = analyse(run).summary
    for level in summary["levels"]:
        level["verdict"] = "void"
    assert list(energy_findings(summary)) == []


def test_the_table_has_a_row_a_level(run: Path) -> None:
    add(run, "nvidia", read(run, by_watts))
    grid = energy_table.energy_table(analyse(run).summary)
    assert grid is not None
    assert grid.heads == (
        "level",
        "watts",
        "idle watts",
        "J an output token",
        "of it above idle",
        "J a request",
        "output tokens/s a watt",
    )
    assert [row[1] for row in grid.rows] == ["150", "250", "300"]


def test_idle_is_sampled_before_the_first_request(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    watts = ("--monitor", f"dcgm={simulated_url}", "--monitor-every", "0.1", "--monitor-idle", "2.5")
    asked = ("--concurrency", "2", "--requests", "4", "--output-tokens", "5", *watts)
    code, _, err = loadtest("run", simulated_url, *asked, "--out", path, "--no-report")
    assert code in (0, 3), err
    run = frames.load(path)
    seen = run.machine.gpus
    assert seen is not None
    assert seen["t"].min() < float(run.requests["send"].min()) - 2.4
    assert set(seen["power"].dropna()[seen["t"] < -0.5]) == {60.0}
    code, _, err = loadtest("run", simulated_url, "--monitor-idle", "5", "--out", tmp_path / "other")
    assert code == 2
    assert "--monitor-idle does nothing without --monitor, which says what is sampled; leave it out." in err
    assert not (tmp_path / "other").exists()
