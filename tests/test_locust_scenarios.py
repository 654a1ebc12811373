"""The locustfiles as people run them: `locust -f scenarios/X.py --headless`, against servers that know the truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from loadtest.cli.demo import simulated_server
from loadtest.measure.workload import nonce_of
from loadtest.records import Outcome, Record, RunFolder

SCENARIOS = Path(__file__).parent.parent / "scenarios"


def locust(name: str, url: str, out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(SCENARIOS / f"{name}.py"), "--headless", "--host", url]
    return subprocess.run(
        [*command, "--out", str(out), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        env={**os.environ, **environment},
    )


def records_of(out: Path) -> list[Record]:
    return list(RunFolder.open(out).records())


def counted_by_locust(output: str) -> int:
    """Return the request count of Locust's last table."""
    return int(re.findall(r"Aggregated +(\d+) +\d+\(", output)[-1])


def test_every_request_is_a_record_and_those_in_flight_at_the_end_are_cancelled(tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    with simulated_server("--slots", "4", "--speed", "20", "--warm", "--truth", str(truth)) as url:
        done = locust("chat", url, tmp_path / "run", "-u", "6", "-r", "100", "-t", "3s", "--output-tokens", "24")
    assert done.returncode == 0, done.stderr
    records = records_of(tmp_path / "run")
    ended = [record for record in records if record.outcome is Outcome.OK]
    assert len(ended) == counted_by_locust(done.stdout + done.stderr)
    assert {record.outcome for record in records} <= {Outcome.OK, Outcome.CANCELLED}
    assert {record.output_tokens for record in ended} == {24}
    rows = [orjson.loads(line) for line in truth.read_bytes().splitlines()]
    said = {row["prompt"].partition("]")[0] + "]": row["monotonic_ns"] for row in rows}
    header = next(iter(RunFolder.open(tmp_path / "run").requests()))[0]
    errors = sorted(
        abs((record.t_first_token or 0) + header.monotonic_ns - said[nonce_of(record.seed)]["first_token"])
        for record in ended
    )
    assert errors[len(errors) // 2] < 5_000_000  # the median: the machine may be busy, the stamps are not


def test_the_report_knows_the_driver_and_the_levels(tmp_path: Path) -> None:
    with simulated_server("--slots", "4", "--speed", "20", "--warm") as url:
        done = locust("queue_past_four", url, tmp_path / "run", "--output-tokens", "12", "-t", "12s", STEP="2")
    assert done.returncode == 0, done.stderr
    report = subprocess.run(
        [sys.executable, "-m", "loadtest", "report", str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert report.returncode in (0, 3), report.stderr
    summary: dict[str, Any] = orjson.loads((tmp_path / "run" / "summary.json").read_bytes())
    assert summary["driver"] == "locust"
    assert [level["concurrency"] for level in summary["levels"]][:4] == [1, 2, 4, 5]
    assert "locust" in (tmp_path / "run" / "report.md").read_text()
    assert len(list((tmp_path / "run").glob("*.png"))) >= 5


def test_past_four_users_wait_on_a_real_engine(llamacpp_url: str, tmp_path: Path) -> None:
    done = locust("chat", llamacpp_url, tmp_path / "run", "-u", "8", "-r", "100", "-t", "5s", "--output-tokens", "40")
    assert done.returncode == 0, done.stderr
    ended = [record for record in records_of(tmp_path / "run") if record.outcome is Outcome.OK]
    assert len(ended) >= 8
    assert {record.output_tokens for record in ended} == {40}
    waits = sorted(((record.t_headers or 0) - (record.t_send or 0)) / 1e9 for record in ended)
    decode = sorted((record.t_end - (record.t_first_token or 0)) / 1e9 for record in ended)
    assert waits[len(waits) // 2] > 0.5 * decode[len(decode) // 2]  # half an answer of somebody else's and more


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--model", "nope"], "has no model 'nope'"), (["--output-tokens", "0"], "must be a whole number above 0")],
)
def test_a_mistake_is_said_and_fails_the_run(tmp_path: Path, options: list[str], words: str) -> None:
    with simulated_server("--speed", "20", "--warm") as url:
        done = locust("chat", url, tmp_path / "run", "-u", "1", "-t", "2s", *options)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert words in output
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_server_that_is_not_there_is_said_and_fails_the_run(tmp_path: Path) -> None:
    done = locust("chat", "http://127.0.0.1:9", tmp_path / "run", "-u", "1", "-t", "2s")
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "cannot reach" in output
    assert "Traceback" not in output
