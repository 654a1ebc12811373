"""Whether streams share steps: those of two servers behind one URL do not, and no sentence takes them for one server's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support import made_runs
from support.places import RECORDED_RUNS
from support.virtual_runs import Load, play

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.summary import analyse
from loadtest.records import Record
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.0005, jitter=0.05)
ONE_SERVERS = ("A step of the server", "Prefill runs", "is batch wait", "of two kinds")


@pytest.mark.parametrize("servers", [1, 2])
def test_several_servers_behind_one_url_are_seen_and_not_taken_for_one(tmp_path: Path, servers: int) -> None:
    """Was "a step takes 28.4 ms, and 3.68 ms more for each stream" of two servers of 20.7 and 11.9 ms, in 17 of 17 such runs."""
    loads = [Load(users=users, requests=12 * users, prompt=(50, 300)) for users in (1, 3)]
    each = [play(TIMING, loads, slots=3, seed=seed) for seed in range(servers)]
    records = [
        dataclasses.replace(record, id=1000 * place + record.id)
        for place, played in enumerate(each)
        for record in played.records
    ]
    levels = [level | {"concurrency": servers * level["concurrency"]} for level in each[0].levels]
    found = analyse(made_runs.write(tmp_path / "run", records, levels))
    said = "\n".join(all_findings(found))
    assert ("Streams that decode together do not get their tokens together" in said) is (servers == 2)
    assert found.steps.apart is (servers == 2)
    assert any(claim in said for claim in ONE_SERVERS) is (servers == 1)
    assert (found.summary["step_law"]["base_s"] is None) is (servers == 2)


@pytest.mark.parametrize("noise_s", [0.008, 0.05])
def test_a_way_that_delays_each_stream_by_itself_makes_no_several_servers(tmp_path: Path, noise_s: float) -> None:
    """Was "Several servers stand behind this URL", and that prompts which took 0.2 ms interrupt a stream for 9 % of its decode.

    Where tokens also come several at once (50 ms) nothing was said of that, and 22 % of the decode time.
    """
    timing = Timing(step=StepLaw(0.02), prefill_s=1e-6, jitter=0.02)
    loads = [Load(users=users, requests=80, prompt=(60, 240), output=(20, 60)) for users in (1, 8)]
    said = "\n".join(
        all_findings(analyse(play(timing, loads, slots=16, says=None, noise_s=noise_s).write(tmp_path / "run")))
    )
    assert "do not get their tokens together: several servers" in said
    assert "or the way or a busy machine delays each stream by itself" in said
    assert not any(claim in said for claim in ("interrupt", "A step of the server", "of two kinds"))


@pytest.mark.parametrize("flush_us", [7_000, 30_000, 100_000])
def test_a_proxy_that_lets_tokens_out_at_intervals_makes_no_steps(tmp_path: Path, flush_us: int) -> None:
    """Was "Steps at 2 streams are of two kinds: 15.0 ms (56 % of them) and 30.0 ms", and 28,100 prompt tokens/s instead of 5,000."""
    loads = [Load(users=users, requests=12 * users, prompt=(100, 300), output=(30, 80)) for users in (1, 4, 8)]
    played = play(Timing(step=StepLaw(0.02, 0.001), prefill_s=0.0002, jitter=0.02), loads, slots=4, says=None)
    records = [_flushed(each, flush_us) for each in played.records]
    said = "\n".join(all_findings(analyse(made_runs.write(tmp_path / "run", records, played.levels))))
    assert "Steps at" not in said
    assert ("Each token of a stream takes" in said) is (flush_us > 20_000)
    assert flush_us < 20_000 or "Prefill runs" not in said.replace(" or faster", "")


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_server_that_sends_several_tokens_of_a_stream_at_a_time_is_no_several_servers(
    tmp_path: Path, tokens: int
) -> None:
    """A real vLLM with --stream-interval 5 was "several servers", and nothing said that ITL is of five tokens each."""
    loads = [Load(users=users, requests=12 * users, output=(50, 80)) for users in (1, 3)]
    played = play(Timing(step=StepLaw(0.02, 0.004), prefill_s=0.002), loads, slots=4, says=None)
    records = [
        dataclasses.replace(each, chunks=[each.chunks[0], *each.chunks[tokens:-1:tokens], each.chunks[-1]])
        for each in played.records
    ]
    said = "\n".join(all_findings(analyse(made_runs.write(tmp_path / "run", records, played.levels))))
    assert ("together: the server or a gateway gathers several tokens of each stream" in said) is (tokens > 1)
    assert ("A piece of text holds 4.6" in said) is (tokens > 1)


def _flushed(record: Record, flush_us: int) -> Record:
    """Return the record where tokens arrive at multiples of an interval alone."""
    sent = (record.t_send or 0) // 1000
    chunks = [-(-(sent + chunk) // flush_us) * flush_us - sent for chunk in record.chunks]
    return dataclasses.replace(record, chunks=chunks, t_first_token=(record.t_send or 0) + chunks[0] * 1000)


@pytest.mark.parametrize("name", ["ollama-0.24-tiny-slots4", "ollama-0.33-mid-slots4"])
def test_the_streams_of_a_real_server_share_steps(tmp_path: Path, name: str) -> None:
    runs = sorted(path.stem for path in RECORDED_RUNS.glob(f"{name}*.jsonl"))
    assert analyse(made_runs.recorded(tmp_path / "run", runs)).steps.out_of_step == 0
