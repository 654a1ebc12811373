"""Step times, law and prefill held against the engine's own timing, and against recorded runs."""

from __future__ import annotations

import dataclasses
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import made_runs
from support.virtual_runs import Load, Played, play

from loadtest.analyse.run import frames
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.prompt_length import prefill_speed
from loadtest.analyse.server.queue import at_work, slots
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing import steps, token_gaps
from loadtest.analyse.server.timing.step_law import fit_law
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.summary import analyse
from loadtest.dialects.answers.rows.counts import MORE_IN_TOTAL
from loadtest.records import Outcome
from loadtest.simulate.model.timing import StepLaw, Timing

LINE = Timing(step=StepLaw(0.020, 0.005), prefill_s=0.001, jitter=0.05)


def known(number: int | None) -> Slots:
    return Slots(number, limit=number is not None, method="known")


def measured(path: Path, played: Played, number: int | None) -> Steps:
    return steps.measure_steps(frames.load(played.write(path)), known(number))


def recorded(path: Path, cell: str, users: tuple[int, ...] = (1, 2, 4)) -> RunData:
    return frames.load(made_runs.recorded(path, [f"ollama-{cell}-c{count}" for count in users]))


def drawn(seed: int) -> tuple[Timing, int, list[Load]]:
    """Return a random server and loads from one user to twice its slots."""
    draw = random.Random(seed)
    number = draw.choice([2, 3, 4, 6, 8])
    base = draw.uniform(0.005, 0.05)
    timing = Timing(
        step=StepLaw(base, base * draw.uniform(0.05, 0.6)),
        prefill_s=draw.uniform(0.0005, 0.003),
        jitter=draw.uniform(0, 0.1),
        handling_s=draw.uniform(0.0005, 0.005),
        handover_s=draw.uniform(0.0005, 0.005),
    )
    prompt, output = draw.choice([(100, 100), (100, 300), (400, 800)]), draw.choice([(50, 50), (20, 120)])
    users = sorted({1, number // 2, number, 2 * number})
    return timing, number, [Load(users=count, prompt=prompt, output=output) for count in users]


@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
@pytest.mark.parametrize("seed", range(3))
def test_law_and_prefill_are_the_engines(seed: int, says: str | None, tmp_path: Path) -> None:
    timing, number, loads = drawn(seed)
    found = measured(tmp_path / "run", play(timing, loads, slots=number, seed=seed, says=says), number)
    if len(found.times) < 3:  # no other number of streams was held, and a line through two is no law
        assert found.law is None
        assert found.slope_s == pytest.approx(timing.step.per_stream_s, rel=0.05)
        return
    assert found.law is not None
    assert found.law.fits
    assert json.loads(json.dumps(found.to_dict()))["per_stream_s"] == found.law.per_stream_s
    assert found.law.base_s == pytest.approx(timing.step.base_s, rel=0.05)
    assert found.law.per_stream_s == pytest.approx(timing.step.per_stream_s, rel=0.05)
    assert found.law.base_ci95[0] < found.law.base_s < found.law.base_ci95[1]
    assert found.prefill is not None
    assert found.prefill.per_token_s == pytest.approx(timing.prefill_s, rel=0.1 if says is None else 0.05)


def test_what_one_request_waited_alone_is_no_usual_wait(tmp_path: Path) -> None:
    """The first of a run waited behind another client's: "49.6 s of each TTFT pass before work begins", of a mean of 3.88 s."""
    loads = [Load(users=1, requests=3), Load(users=6, requests=40)]
    found = analyse(play(Timing(step=StepLaw(0.02, 0.004), prefill_s=0.001), loads, slots=2).write(tmp_path / "run"))
    found.run.requests.loc[at_work.lone(found.run), "queue_wait_s"] = 50.0
    assert steps.measure_steps(found.run, found.slots).handover_s == pytest.approx(0.002, abs=0.002)


def test_the_number_of_streams_is_counted_through_the_gap(tmp_path: Path) -> None:
    """Truth: a stream decodes from its first token to its last; a gap counts those that do so all through it."""
    played = play(LINE, [Load(users=3, output=(10, 60))], slots=3, seed=1)
    found = token_gaps.read_gaps(frames.load(played.write(tmp_path / "run")), known(3))
    truth = [(stream.first or 0, stream.last or 0) for stream in played.streams.values()]
    offset = min(stream.arrived for stream in played.streams.values())
    for left, right, streams in list(zip(found.left, found.right, found.streams, strict=True))[::7]:
        middle = (left + right) / 2 * 1e9 + offset
        if streams:
            assert streams == sum(first < middle < last for first, last in truth)
    assert (found.streams > 0).mean() > 0.95


def test_gaps_that_hold_a_prompt_are_kept_apart(tmp_path: Path) -> None:
    """A prompt of 400 tokens takes 0.4 s: no step of 30 ms may be as long."""
    found = token_gaps.read_gaps(
        frames.load(play(LINE, [Load(users=4, prompt=(400, 400))], slots=4).write(tmp_path / "run")), known(4)
    )
    longest = LINE.step.values(4)[0] * 1.3
    assert found.step_s[found.clean].max() < longest
    assert (found.step_s[found.held] > longest).any()


@pytest.mark.parametrize("how", [Outcome.LEFT, Outcome.TIMEOUT])
def test_prompts_of_requests_that_were_given_up_are_in_no_step(how: Outcome, tmp_path: Path) -> None:
    """Was "step times do not follow a straight line: with 3 streams a step takes 16.3 ms", of 14: the prompts of others were in it."""
    played = play(LINE, [Load(rate=5, requests=300, prompt=(400, 400), output=(1, 12))], slots=4)
    records = [
        made_runs.unanswered(one, how, t_end=(one.t_first_token or 0) - 10**6) if one.output_tokens == 1 else one
        for one in played.records
    ]
    run = frames.load(made_runs.write(tmp_path / "run", records, played.levels))
    found, of_any = (token_gaps.read_gaps(run, known(number)) for number in (4, None))
    longest = LINE.step.values(4)[0] * 1.3
    assert (found.step_s[~found.held & (found.begun > 0)] > longest).any()
    assert found.step_s[found.clean].max() < longest
    # With all slots taken there is no room for such a prompt.
    assert (found.streams == 4).sum() > (of_any.streams == 4).sum()


def test_tokens_read_together_do_not_bend_the_steps(tmp_path: Path) -> None:
    """Every second token arrives with the one after it, as when a proxy gathers them; the server stamps nothing."""
    played = play(LINE, [Load(users=users) for users in (1, 2, 4)], slots=4, says=None)
    for index, record in enumerate(played.records):
        chunks = list(record.chunks)
        for place in range(1, len(chunks) - 1, 2):
            chunks[place] = chunks[place + 1]
        played.records[index] = dataclasses.replace(record, chunks=chunks)
    law = measured(tmp_path / "run", played, 4).law
    assert law is not None
    assert (law.base_s, law.per_stream_s) == pytest.approx((0.020, 0.005), rel=0.05)


def test_one_number_of_streams_makes_no_law(tmp_path: Path) -> None:
    found = measured(tmp_path / "run", play(LINE, [Load(users=1)], slots=4), 4)
    assert found.law is None
    assert found.law_reason is not None
    assert "only steps with 1 stream decoding were seen" in found.law_reason
    assert [entry.streams for entry in found.times] == [1]
    assert found.to_dict()["fits"] is False


def test_two_numbers_of_streams_make_no_law_but_carry_on(tmp_path: Path) -> None:
    """A line through two points is always exact, so it says nothing of itself."""
    found = measured(tmp_path / "run", play(LINE, [Load(users=users) for users in (1, 2)], slots=4), 4)
    assert found.law is None
    assert found.law_reason is not None
    assert found.law_reason.startswith("only steps with 1 and 2 streams decoding were seen")
    assert found.slope_s == pytest.approx(0.005, rel=0.05)
    assert found.to_dict()["base_s"] is None


def test_two_models_in_one_run_make_no_law(tmp_path: Path) -> None:
    """A small model alone and a large one beside it: the line through both would start at −6 ms."""
    played = play(LINE, [Load(users=users) for users in (1, 2, 4)], slots=4)
    played.records[:] = [
        dataclasses.replace(record, model="small" if record.level == 0 else "large") for record in played.records
    ]
    found = measured(tmp_path / "run", played, 4)
    assert found.law is None
    assert found.times == ()
    assert found.law_reason == "the run measured 2 models (large, small): each has steps of its own"


@pytest.mark.parametrize("steps_ms", [(40.0, 30.0, 20.0, 10.0), (1.0, 25.0, 50.0, 75.0)], ids=["falls", "below zero"])
def test_a_line_that_falls_or_starts_below_zero_is_no_law(steps_ms: tuple[float, ...], tmp_path: Path) -> None:
    table = StepLaw(table=tuple((number, (step / 1e3,)) for number, step in enumerate(steps_ms, 1)))
    timing = dataclasses.replace(LINE, step=table)
    found = measured(tmp_path / "run", play(timing, [Load(users=users) for users in (1, 2, 3, 4)], slots=4), 4)
    assert found.law is None
    assert found.law_reason is not None
    assert "neither can be below zero" in found.law_reason


def test_slow_steps_stay_in_the_mean(tmp_path: Path) -> None:
    """2 % of the steps take ten times as long: the mean is 18 % above the usual step, and so is a token's time."""
    usual = 0.020
    timing = Timing(step=StepLaw(table=((1, (usual,) * 49 + (10 * usual,)),)), prefill_s=0.0005, jitter=0.0)
    played = play(timing, [Load(users=1, requests=40, output=(200, 200))], slots=1)
    found = measured(tmp_path / "run", played, 1)
    spans = [(record.chunks[-1] - record.chunks[0]) * 1e-6 for record in played.records]
    truth = sum(spans) / sum(len(record.chunks) - 1 for record in played.records)
    assert truth > 1.1 * usual
    assert found.times[0].mean_s == pytest.approx(truth, rel=0.02)
    assert found.times[0].median_s == pytest.approx(usual, rel=0.01)
    assert float(np.mean(found.timing().step.values(1))) == pytest.approx(truth, rel=0.02)


def test_a_step_time_that_is_no_line_says_so(tmp_path: Path) -> None:
    table = StepLaw(table=((1, (0.020,)), (2, (0.020,)), (3, (0.040,)), (4, (0.040,))))
    timing = dataclasses.replace(LINE, step=table)
    found = measured(tmp_path / "run", play(timing, [Load(users=users) for users in (1, 2, 3, 4)], slots=4), 4)
    assert found.law is not None
    assert not found.law.fits
    assert found.law_reason is not None
    assert found.law_reason.startswith("step times do not follow a straight line")


def test_two_kinds_of_step_only_where_there_are_two() -> None:
    draw = np.random.default_rng(0)
    one = np.sort(draw.normal(0.03, 0.003, 500))
    two = np.sort(np.concatenate((draw.normal(0.0235, 0.001, 100), draw.normal(0.040, 0.001, 300))))
    spread = np.sort(draw.uniform(0.02, 0.05, 500))
    skewed = np.sort(0.02 + draw.exponential(0.005, 500))
    at = 0.010 * np.arange(500) + np.where(draw.random(500) < 0.1, 0.0037, draw.normal(0, 1e-4, 500))
    late = np.sort(np.diff(at))  # was "10.0 ms (88 % of them) and 13.7 ms (12 % of them)"
    assert [len(steps.step_kinds(values)) for values in (one, two, spread, skewed, late)] == [1, 2, 1, 1, 1]
    low, high = steps.step_kinds(two)
    assert (low.centre_s, high.centre_s) == pytest.approx((0.0235, 0.040), rel=0.02)
    assert low.share == pytest.approx(0.25)


def test_real_ollama_on_four_slots_has_two_kinds_of_step_at_two_streams(tmp_path: Path) -> None:
    found = steps.measure_steps(recorded(tmp_path / "run", "0.33-mid-slots4"), known(4))
    by_streams = {entry.streams: entry for entry in found.times}
    centres = [kind.centre_s for kind in by_streams[2].kinds]
    assert centres == pytest.approx([0.023, 0.0405], rel=0.05)
    assert [len(by_streams[streams].kinds) for streams in (1, 4)] == [1, 1]
    assert found.neighbours
    assert found.law is not None
    assert not found.law.fits
    assert found.law_reason is not None
    assert "two kinds of gap between tokens, 22.9 ms and 40.5 ms" in found.law_reason
    assert found.prefill is not None
    assert found.prefill.per_token_s == pytest.approx(0.0028, rel=0.05)


@pytest.mark.parametrize(
    ("seen", "split"),
    [
        ({1: (10,), 2: (12,), 3: (14,), 4: (16,)}, False),
        ({1: (10,), 2: (14,), 3: (15,), 4: (16,)}, False),  # a law that is bent
        ({1: (10,), 2: (12, 20), 4: (16,)}, True),
        ({1: (10,), 2: (12,), 3: (14, 22), 4: (16,)}, True),  # pairs met in slots side by side
        ({1: (10,), 3: (22,), 4: (16,)}, True),
        ({1: (10,), 2: (12,)}, None),
        ({2: (12, 20), 3: (14,), 4: (16,)}, None),
    ],
)
def test_steps_longer_than_one_pass_show_slots_that_are_not_neighbours(
    seen: dict[int, tuple[int, ...]], split: bool | None
) -> None:
    dice = np.random.default_rng(0)
    times = tuple(
        steps.step_times(
            streams, np.repeat(ms, 60) * 1e-3 * dice.normal(1, 0.01, 60 * len(ms)), np.arange(60.0 * len(ms))
        )
        for streams, ms in seen.items()
    )
    assert steps.split_by_neighbours(times) is split
    for streams, values in steps.step_table(times, None, neighbours=bool(split)):
        if split:  # each pass alone
            assert np.mean(values) * 1e3 == pytest.approx(8 + 2 * streams, rel=0.02)


def test_real_ollama_with_two_slots_is_a_line(tmp_path: Path) -> None:
    found = steps.measure_steps(recorded(tmp_path / "run", "0.33-mid-slots2"), known(2))
    assert [entry.mean_s for entry in found.times] == pytest.approx([0.0203, 0.0233], rel=0.02)
    assert found.neighbours is None


def test_lengths_that_differ_show_a_prompts_fixed_part(tmp_path: Path) -> None:
    """Recorded: 28, 78 and 168 tokens took 83, 182 and 366 ms, which is no line through the origin."""
    found = steps.measure_steps(
        frames.load(made_runs.recorded(tmp_path / "r", ["ollama-0.33-mid-slots1-c8-mixed"])), known(1)
    )
    assert found.prefill is not None
    assert found.prefill.fixed_s == pytest.approx(0.027, rel=0.2)
    assert found.prefill.per_token_s == pytest.approx(0.0020, rel=0.05)


def test_that_short_prompts_seem_to_slow_down_says_nothing_of_one_that_shows_it_does_not(tmp_path: Path) -> None:
    """Prompts of 60 to 180 tokens on a busy machine: 122 tokens/s were said of one of 3,474, which took 9.3 s beside others."""
    timing = Timing(step=StepLaw(0.004, 0.001), prefill_s=0.001, context_prefill_s=5e-6)
    played = play(timing, [Load(users=1, requests=150, prompt=(60, 180), output=(20, 20))], slots=2)
    alone = measured(tmp_path / "alone", played, 2).prefill
    assert alone is not None
    assert alone.seconds(3474.0) > 25
    last = played.records[-1]
    sooner = 9_300_000_000 - (last.server or {})["prompt_eval_duration"]
    sent = {name: (getattr(last, name) or 0) - sooner for name in ("t_sched", "t_send")}
    server = {**(last.server or {}), "prompt_eval_duration": 9_300_000_000, "prompt_eval_count": 3474}
    chunks = [chunk + sooner // 1000 for chunk in last.chunks]
    played.records[-1] = dataclasses.replace(
        last, **sent, server=server, chunks=chunks, prompt_tokens=3474, server_us=None
    )
    found = measured(tmp_path / "run", played, 2).prefill
    assert found is not None
    assert found.seconds(3474.0) < 1.5 * 9.3
    assert found.seconds(120.0) == pytest.approx(alone.seconds(120.0), rel=0.1)


@pytest.mark.parametrize("n_batch", [128, 512, 2048])
def test_slices_of_long_prompts_are_seen_in_the_streams_beside(n_batch: int, tmp_path: Path) -> None:
    timing = dataclasses.replace(LINE, n_batch=n_batch)
    played = play(timing, [Load(users=users, prompt=(900, 1500), output=(60, 90)) for users in (1, 3)], slots=3)
    found = measured(tmp_path / "run", played, 3)
    assert found.prefill is not None
    assert found.prefill.n_batch == n_batch
    assert found.prefill.per_token_s == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize(("n_batch", "found_size"), [(512, 512), (2048, 2048), (None, 2048)])
@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
def test_prompts_that_end_together_show_that_a_batch_takes_more(
    says: str | None, n_batch: int | None, found_size: int, tmp_path: Path
) -> None:
    """No prompt is longer than 512 tokens, but eight of them are: one batch ended all of them, or it did not."""
    timing = dataclasses.replace(LINE, n_batch=n_batch)
    loads = [Load(users=users, prompt=(100, 100), output=(40, 40)) for users in (1, 8, 12)]
    found = measured(tmp_path / "run", play(timing, loads, slots=8, says=says), 8).prefill
    assert found is not None
    assert found.n_batch == found_size
    assert found.per_token_s == pytest.approx(0.001, rel=0.05)


def test_prompts_cheaper_than_a_token_are_bounded_not_guessed(tmp_path: Path) -> None:
    timing = dataclasses.replace(LINE, prefill_s=0.00001)
    found = measured(tmp_path / "run", play(timing, [Load(users=users) for users in (1, 2)], slots=2), 2).prefill
    assert found is not None
    assert found.ci95[0] == 0
    assert found.per_token_s * 100 < 0.020
    assert "no prompt took longer than a token" in found.method


@pytest.mark.parametrize(("says", "why"), [("ollama", "by its durations too few"), (None, "gives no durations")])
def test_prompts_as_short_as_a_step_are_told_by_pauses_and_why(tmp_path: Path, says: str | None, why: str) -> None:
    """Was "the server gives no durations" of one that does."""
    timing = Timing(step=LINE.step, prefill_s=0.00015)
    loads = [Load(users=users, prompt=(100, 100), output=(12, 20)) for users in (1, 2)]
    found = measured(tmp_path / "run", play(timing, loads, slots=2, says=says), 2).prefill
    assert found is not None
    assert f"less a step ({'' if says else 'the server '}{why}" in found.method


@pytest.mark.parametrize("told", [{"unsent_tokens": 20}, {"doubts": [MORE_IN_TOTAL]}], ids=["counted", "in the total"])
def test_ttft_that_may_hold_thoughts_says_no_speed_of_prefill(told: dict[str, Any], tmp_path: Path) -> None:
    """Was 180,000 prompt tokens/s of 1000, where only the total counted thoughts."""
    played = play(LINE, [Load(users=1, prompt=(200, 600), output=(30, 30))], slots=1, says=None)
    silent = Played(played.levels, [dataclasses.replace(record, **told) for record in played.records])
    for one, known_there in ((played, True), (silent, False)):
        run = frames.load(one.write(tmp_path / str(known_there)))
        found = steps.measure_steps(run, known(1))
        assert (found.prefill is not None) == known_there
        assert known_there or "TTFT that may hold more" in str(found.prefill_reason)
        assert np.isfinite(prefill_speed(run)).any() == known_there


def test_timing_gives_the_law_back(tmp_path: Path) -> None:
    found = measured(tmp_path / "run", play(LINE, [Load(users=users) for users in (1, 2, 4)], slots=4), 4)
    law = found.timing().step
    means = [float(np.mean(law.values(streams))) for streams in (1, 2, 3, 4, 6, 8)]
    assert means == pytest.approx([0.025, 0.030, 0.035, 0.040, 0.050, 0.060], rel=0.02)
    assert all(left < right for left, right in pairwise(means))


def test_nothing_decoded_says_why(tmp_path: Path) -> None:
    found = measured(tmp_path / "run", play(LINE, [Load(users=1, output=(1, 1))], slots=1), 1)
    assert found.times == ()
    assert found.law_reason == "no steps between tokens were seen"
    assert np.isnan(found.stall_s).all()
    with pytest.raises(ValueError, match="no step time"):
        found.timing()


def test_slots_may_be_unknown(tmp_path: Path) -> None:
    run = frames.load(
        play(LINE, [Load(users=users) for users in (1, 2, 4)], slots=None, says=None).write(tmp_path / "r")
    )
    found = steps.measure_steps(run, slots.estimate_slots(run))
    assert found.law is not None
    assert found.law.per_stream_s == pytest.approx(0.005, rel=0.05)


def test_a_sample_of_nothing_but_zeros_is_no_step_time() -> None:
    """Was "ValueError: cannot convert float NaN to integer" in `explain` and `predict`, behind a proxy that gathers tokens."""
    entry = dataclasses.replace(steps.step_times(1, np.array([0.0, 0.0, 0.3]), np.arange(3.0)), sample=(0.0, 0.0))
    ((streams, values),) = steps.step_table((entry,), None, neighbours=False)
    assert (streams, values) == (1, (entry.mean_s,))


def test_a_server_that_stood_still_once_is_not_one_whose_every_step_is_off_the_line() -> None:
    """Was "with 1 stream a step takes 23.7 ms, and the best line gives 13.7 ms" of one pause of 10 s."""
    found = {streams: np.full(1000, 0.012 + 0.002 * streams) for streams in (1, 2, 3, 4)}
    found[1][500] = 10.0
    law, reason = fit_law(tuple(steps.step_times(streams, each, np.arange(1000.0)) for streams, each in found.items()))
    assert law is not None
    assert not law.fits
    assert "with 1 stream a step takes 24.0 ms on average, as a few took far longer than 14.0 ms, and" in (reason or "")


def test_steps_that_scatter_are_off_the_line_only_by_more_than_chance() -> None:
    """Of 300 simulated servers on a line, 7 were said to follow none, all with steps that scatter by 30 %."""
    rng = np.random.default_rng(3)
    reasons = []
    for _ in range(50):
        numbers = ((1, 40), (2, 10), (3, 40), (4, 40))
        times = [(at, (0.012 + 0.002 * at) * np.maximum(0.1, rng.normal(1, 0.3, at * n))) for at, n in numbers]
        _, reason = fit_law(tuple(steps.step_times(at, each, np.arange(float(len(each)))) for at, each in times))
        reasons.append(reason)
    assert not any(reason and "straight" in reason for reason in reasons)


def test_prompts_of_no_token_have_no_speed(tmp_path: Path) -> None:
    """Prompts of 0 and 1 tokens of a server without durations: a ZeroDivisionError."""
    played = play(LINE, [Load(users=users, prompt=(1, 1)) for users in (1, 4)], slots=4, says=None)
    played.records[:] = [dataclasses.replace(one, prompt_tokens=one.id % 3 // 2) for one in played.records]
    found = measured(tmp_path / "run", played, 4)
    assert found.prefill is None or not found.prefill.holds
