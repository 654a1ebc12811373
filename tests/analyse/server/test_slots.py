"""The number of slots: known from made runs, and from every recorded run of a real Ollama."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import insight_slots
from support.judged import stopped
from support.made_runs import Made, closed_loop, grid, make, recorded, write
from support.places import RECORDED_RUNS
from support.virtual_runs import Load, play

from loadtest.analyse.reports import answers
from loadtest.analyse.run import frames
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.queue import slots
from loadtest.analyse.summary import analyse
from loadtest.records import Outcome
from loadtest.simulate.model.timing import StepLaw, Timing

NAMES = sorted(path.stem for path in RECORDED_RUNS.glob("ollama-*.jsonl"))
SERVERS = sorted({name.rpartition("-c")[0] for name in NAMES})
TIMING = Timing(step=StepLaw(0.020, 0.004), prefill_s=0.0005)


def silent(run: RunData) -> RunData:
    """Forget all that the server said of its durations, as from a plain OpenAI-compatible one."""
    for column in ("load_s", "prefill_s", "queue_wait_s"):
        run.requests[column] = np.nan
    run.requests["llamacpp"] = 0
    return run


def facts_of(name: str) -> tuple[int, int]:
    """Return (slots, users) of a recorded run."""
    facts = json.loads((RECORDED_RUNS / f"{name}.jsonl").read_text().partition("\n")[0])["facts"]
    return int(facts["slots"]), int(facts["concurrency"])


@pytest.mark.parametrize("told", [True, False], ids=["told", "silent"])
@pytest.mark.parametrize("name", NAMES)
def test_slots_of_real_ollama_each_run_by_itself(tmp_path: Path, name: str, told: bool) -> None:
    run = frames.load(recorded(tmp_path / "run", [name]))
    found = slots.estimate_slots(run if told else silent(run))
    offered, taken = facts_of(name)
    if taken > offered:
        assert (found.estimate, found.limit) == (offered, True)
    else:
        assert (found.estimate, found.limit) == (taken, False)


@pytest.mark.parametrize("told", [True, False], ids=["told", "silent"])
@pytest.mark.parametrize("server", SERVERS)
def test_slots_of_real_ollama_all_levels_of_a_server_as_one_run(tmp_path: Path, server: str, told: bool) -> None:
    run = frames.load(recorded(tmp_path / "run", [name for name in NAMES if name.startswith(server)]))
    found = slots.estimate_slots(run if told else silent(run))
    assert (found.estimate, found.limit) == (int(server[-1]), True)
    assert found.agree
    assert {witness.name for witness in found.witnesses} >= {"peak", "passed_over"}


def test_random_servers_and_loads_never_get_a_wrong_limit_and_hardly_ever_none() -> None:
    """Simulated. `scripts/bench slots` does hundreds and prints the table."""
    rows = [insight_slots.examine(seed) for seed in range(32)]
    wrong = [(row.seed, row.drawn.slots, str(row.found)) for row in rows if row.verdict == "wrong"]
    assert not wrong
    clear = [row for row in rows if row.expected == "found"]
    assert len(clear) >= 10
    assert sum(row.verdict == "missed" for row in clear) <= 1


@pytest.mark.parametrize("users", [5, 12])
@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
def test_a_load_that_barely_passes_the_slots_is_enough(tmp_path: Path, says: str | None, users: int) -> None:
    played = play(TIMING, [Load(users=users, requests=4 * users, output=(20, 60))], slots=4, says=says)
    found = slots.estimate_slots(frames.load(played.write(tmp_path / "run")))
    assert (found.estimate, found.limit) == (4, True)


def test_a_server_that_only_budgets_prefill_has_no_slots(tmp_path: Path) -> None:
    """Sixteen users, long prompts, short answers: few decode at once because the others' prompts are in line."""
    loads = [Load(users=16, requests=96, prompt=(400, 2000), output=(5, 40))]
    run = frames.load(play(TIMING, loads, slots=None, says=None).write(tmp_path / "run"))
    found = slots.estimate_slots(run)
    assert not found.limit
    assert found.estimate is not None
    assert found.estimate < 16
    assert found.unknown == "up to 16 were in flight, and what held up the others is not known"


def test_a_queue_for_prefill_behind_few_slots_is_not_taken_for_slots(tmp_path: Path) -> None:
    """Forty users' prompts of 2000 tokens, in slices: fifteen decode for long, stretched by the sixteenth's prompt."""
    timing = Timing(step=StepLaw(0.015, 0.0058), prefill_s=0.00019, jitter=0.03)
    loads = [Load(users=40, requests=120, prompt=(2000, 2000), output=(10, 120))]
    found = slots.estimate_slots(frames.load(play(timing, loads, slots=16, says=None).write(tmp_path / "run")))
    assert (found.estimate, found.limit) == (16, True)


def test_headers_that_a_proxy_sends_at_once_are_no_start(tmp_path: Path) -> None:
    played = play(TIMING, [Load(users=8, requests=64, output=(20, 60))], slots=4, says="llamacpp")
    early = [dataclasses.replace(record, t_headers=(record.t_send or 0) + 1_000_000) for record in played.records]
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", early, played.levels)))
    assert (found.estimate, found.limit) == (4, True)


def test_witnesses_that_name_two_numbers_name_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = frames.load(recorded(tmp_path / "run", ["ollama-0.33-mid-slots4-c8"]))
    assert slots.estimate_slots(run).limit
    monkeypatch.setattr(slots, "_full_batches", lambda run, lives, near: slots.Witness("full_batches", 5, "five"))
    found = slots.estimate_slots(run)
    assert (found.estimate, found.limit, found.agree) == (4, False, False)


def test_failed_streams_whose_prefill_nobody_told_do_not_blur_the_slots(tmp_path: Path) -> None:
    """One answer in seven lost its durations: while such a one may be in prefill, others at work are no reading."""
    played = play(TIMING, [Load(users=5, requests=60, prompt=(1000, 2000), output=(5, 5))], slots=4)
    for index, record in enumerate(played.records):
        if index % 7 == 0:
            played.records[index] = dataclasses.replace(record, outcome=Outcome.STREAM_ERROR, server=None)
    found = slots.estimate_slots(frames.load(played.write(tmp_path / "run")))
    assert (found.estimate, found.limit) == (4, True)


@pytest.mark.parametrize("says", ["ollama", None])
def test_a_slot_that_is_empty_for_several_fast_steps_is_a_slot(tmp_path: Path, says: str | None) -> None:
    """Steps of 3 ms, and 12 ms until a slot that was given away is known to the batch loop."""
    timing = Timing(step=StepLaw(0.002, 0.0003), prefill_s=0.00002, handover_s=0.012)
    played = play(timing, [Load(users=12, requests=96, output=(10, 40))], slots=4, says=says)
    found = slots.estimate_slots(frames.load(played.write(tmp_path / "run")))
    assert (found.estimate, found.limit) == (4, True)


def test_a_last_token_read_late_is_no_second_slot(tmp_path: Path) -> None:
    """One slot; one stream's last token came 12 ms after its slot had been given to the next."""
    levels, truth = grid(Made(slots=1, load_ms=0, gap_ms=20), (3,))
    late = truth.records[5]
    moved = [*late.chunks[:-1], late.chunks[-1] + 12_000]
    truth.records[5] = dataclasses.replace(late, chunks=moved, t_end=late.t_end + 12_000_000)
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", truth.records, levels)))
    assert (found.estimate, found.limit) == (1, True)


def test_a_run_cut_off_under_load_has_no_quiet_step_to_compare_with(tmp_path: Path) -> None:
    """Somebody waits all the time. But fifty steps with nobody's first token are no prompt of a hundred tokens."""
    played = play(TIMING, [Load(users=8, requests=64, output=(60, 60))], slots=4, says=None)
    middle = sorted(record.t_end for record in played.records)[40]
    cut = stopped(played.records, middle)
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", cut, played.levels)))
    assert (found.estimate, found.limit) == (4, True)


def test_what_the_others_waited_for_is_not_said_where_too_few_steps_show_it(tmp_path: Path) -> None:
    """A run stopped soon, with eight requests sent: it said "no request was seen waiting for a slot" of the four that waited."""
    played = play(TIMING, [Load(users=8, requests=64, output=(60, 60))], slots=4)
    soon = sorted(record.t_first_token or 0 for record in played.records)[3] + 30_000_000
    cut = stopped(played.records, soon)
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", cut, played.levels)))
    assert str(found) == "at least 4"
    assert found.method.endswith("up to 8 were in flight, and what the others waited for was not seen")


def test_answers_of_one_token_show_the_slots_by_their_batches(tmp_path: Path) -> None:
    played = play(TIMING, [Load(users=12, requests=96, prompt=(50, 300), output=(1, 1))], slots=3)
    found = slots.estimate_slots(frames.load(played.write(tmp_path / "run")))
    assert (found.estimate, found.limit) == (3, True)
    assert re.search(r"while another one waited, .* batches$", found.method)


@pytest.mark.parametrize("number", [1, 2])
def test_a_slot_that_is_given_on_at_once_is_one_slot(tmp_path: Path, number: int) -> None:
    """Was a limit of 2 on one slot, and of 3 on two: who ended with a batch and who got the slot then were both counted."""
    timing = Timing(step=StepLaw(base_s=0.007, per_stream_s=0.0), prefill_s=0.003, jitter=0.1, handover_s=0.0)
    loads = [Load(users=users, requests=72, prompt=(20, 20), output=(2, 2)) for users in (1, 4, 8)]
    found = slots.estimate_slots(frames.load(play(timing, loads, slots=number).write(tmp_path / "run")))
    assert (found.estimate, found.limit) == (number, True)
    assert "100 % of" in found.method


# of a real Ollama with 3 slots on a busy processor, answers of one token to 4 users, 0.1 ms: sent, load, prefill, first token
TENTH = 10**5  # of a ms, in ns
STEPS_OF_HALF_A_SECOND = (
    *((0, 313, 3188, 3877), (0, 434, 5600, 9380), (0, 522, 5601, 9385), (0, 683, 2838, 12219)),
    *((3884, 16, 5609, 17699), (9390, 484, 5609, 17701), (9391, 183, 2691, 20441), (12226, 271, 4519, 24979)),
    *((17732, 327, 2678, 27780), (17733, 172, 4520, 24943), (20544, 329, 5197, 32946), (24953, 167, 2451, 35463)),
    *((24986, 158, 5197, 32941), (27824, 47, 5120, 40425), (32948, 121, 3038, 43622), (32951, 124, 5120, 40423)),
    *((35471, 305, 5316, 48984), (40465, 174, 4610, 53396), (40466, 42, 5317, 48981), (43631, 275, 8584, 62259)),
    *((48990, 290, 4230, 66539), (48994, 53, 8589, 62263), (53864, 268, 8265, 74664), (62269, 48, 8266, 74671)),
    *((62421, 365, 4157, 78902), (66821, 347, 7709, 86539), (74671, 346, 7710, 86536), (74675, 355, 4045, 90581)),
)


def test_who_begins_soon_after_a_long_step_was_not_kept_out_of_a_slot(tmp_path: Path) -> None:
    """Was "handles 2 requests in parallel" of 3: prompts with a slot in mid-step began 3 to 16 ms after it, unseen till then."""
    levels, truth = grid(Made(slots=3, tokens=1), (4,), each=6)
    for record, (sent, load, prefill, first) in zip(truth.records, STEPS_OF_HALF_A_SECOND, strict=True):
        record.t_sched = record.t_send = sent * TENTH
        record.t_headers = record.t_first_byte = record.t_first_token = record.t_first_visible = record.t_end = (
            first * TENTH
        )
        record.chunks, record.server_first = [(first - sent) * 100], None
        assert record.server is not None
        record.server |= {"load_duration": load * TENTH, "prompt_eval_duration": prefill * TENTH}
    assert not slots.estimate_slots(frames.load(write(tmp_path / "run", truth.records, levels))).limit


def test_a_server_restarted_with_other_slots_is_doubted(tmp_path: Path) -> None:
    """Two slots in the first level, four in the second: the witnesses see both, and no limit is named."""
    levels, truth = grid(Made(slots=2), (8,))
    end = max(record.t_end for record in truth.records)
    later = closed_loop(Made(slots=4), level=1, users=8, requests=200, start_ns=2 * end, first_id=1000)
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", truth.records + later.records, levels)))
    assert not found.limit
    assert not found.agree
    assert found.method.endswith("these disagree too much to name a limit")


@pytest.mark.parametrize("truth", [1, 2, 4, 7])
def test_slots_of_a_made_server(tmp_path: Path, truth: int) -> None:
    make(tmp_path / "run", Made(slots=truth, jitter_ms=lambda i: i * 7 % 23), users=(1, 2, 4, 8))
    found = slots.estimate_slots(frames.load(tmp_path / "run"))
    assert (found.estimate, found.limit) == (truth, True)
    assert found.to_dict()["ci"] == [truth, truth]


def test_a_load_that_never_exceeded_the_slots_says_at_least(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(slots=16), users=(1, 2, 4))
    found = slots.estimate_slots(frames.load(tmp_path / "run"))
    assert str(found) == "at least 4"
    assert found.method.endswith("never more were in flight than that")
    assert found.to_dict()["ci"] == [4, None]


def test_few_streams_decoding_because_the_others_prefill_is_no_limit(tmp_path: Path) -> None:
    """Eight users, answers of two tokens, long prefill: two or three decode at once, but nothing is full."""
    make(tmp_path / "run", Made(slots=8, prefill_ms=400, tokens=2, jitter_ms=lambda i: i * 37 % 211), users=(8,))
    run = frames.load(tmp_path / "run")
    assert slots.peak_decoding(run, np.ones(len(run.requests), dtype=np.bool_)) < 8
    assert str(slots.estimate_slots(run)) == "at least 8"
    run.requests["prefill_s"] = np.nan  # the same from a server that says nothing about prefill
    assert not slots.estimate_slots(run).limit


def test_a_slot_that_changes_hands_within_a_millisecond_is_one_slot(tmp_path: Path) -> None:
    """The next stream's first token may arrive before the last one of the stream whose slot it took."""
    made = Made(slots=2, prefill_ms=0, load_ms=0)
    levels, truth = grid(made, (4,))
    early = [dataclasses.replace(r, t_first_token=(r.t_first_token or 0) - 500_000, server=None) for r in truth.records]
    run = frames.load(write(tmp_path / "run", early, levels))
    assert slots.estimate_slots(run).estimate == 2


def test_an_answer_that_the_way_held_up_takes_no_second_slot(tmp_path: Path) -> None:
    """Was "at least 2" of a server of one slot: the end of an answer came 3 s late, and the next answer meanwhile."""
    played = play(Timing(step=StepLaw(0.02, 0.0), prefill_s=0.001), [Load(users=2, requests=12)], slots=1)
    early = played.records[4]
    tail = [chunk + 3_000_000 for chunk in early.chunks[25:]]
    late = dataclasses.replace(early, chunks=[*early.chunks[:25], *tail], t_end=early.t_end + 3 * 10**9)
    own = next(record for record in played.records if 0 < (record.t_send or 0) - early.t_end < 10**8)
    records = [late if record is early else record for record in played.records if record is not own]
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", records, played.levels)))
    assert (found.estimate, found.limit) == (1, True)


def test_prompts_that_are_read_beside_each_other_are_no_queue_for_one_slot(tmp_path: Path) -> None:
    """Was "handles one request at a time" of three slots: short answers are hardly ever decoded together."""
    timing = Timing(step=StepLaw(0.018, 0.0), prefill_s=0.003, prompt_s=0.09, own_clocks=True, jitter=0.03)
    for levels in ((1, 2, 3), (2,)):
        loads = [Load(users=users, requests=20 * users, prompt=(10, 2000), output=(1, 5)) for users in levels]
        played = play(timing, loads, slots=3, seed=8084, says=None)
        found = slots.estimate_slots(frames.load(played.write(tmp_path / str(len(levels)))))
        assert not found.limit or found.estimate == 3, levels


def test_answers_of_one_or_two_tokens_name_no_limit_by_their_steps(tmp_path: Path) -> None:
    """Was "handles one request at a time" of four slots, from five steps of a level that they were enough for."""
    timing = Timing(step=StepLaw(0.031, 0.0), prefill_s=0.003, prompt_s=0.15, own_clocks=True, jitter=0.03)
    loads = [Load(users=users, requests=3 * users, prompt=(40, 4000), output=(1, 3)) for users in (2, 6, 12)]
    found = slots.estimate_slots(frames.load(play(timing, loads, slots=4, says=None).write(tmp_path / "run")))
    assert not found.limit or found.estimate == 4


def test_nothing_decoded_is_unknown(tmp_path: Path) -> None:
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", [], [])))
    assert found.estimate is None
    assert str(found) == "unknown"
    assert found.to_dict()["ci"] is None


@pytest.mark.parametrize("says", ["ollama", None])
def test_a_gateway_that_lets_one_request_through_now_and_then_is_no_server_of_one_slot(
    tmp_path: Path, says: str | None
) -> None:
    """Was "handles one request at a time" of 4 slots behind a gateway that lets one request a second through."""
    played = play(TIMING, [Load(users=1, requests=40, output=(10, 20))], slots=4, says=says)
    records, ends = [], [0, 0, 0, 0]
    for number, record in enumerate(played.records):
        let_through, send = number * 1_000_000_000, min(ends) + 1_000_000
        ends[ends.index(min(ends))] = let_through + record.t_end - (record.t_send or 0)
        moved: dict[str, Any] = {
            name: let_through + value - (record.t_send or 0)
            for name in ("t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")
            if (value := getattr(record, name)) is not None
        }
        chunks = [chunk + (let_through - send) // 1000 for chunk in record.chunks]
        records.append(
            dataclasses.replace(
                record, t_sched=send, t_send=send, chunks=chunks, server_us=None, server_first=None, **moved
            )
        )
    level = played.levels[0] | {"concurrency": 4, "ended_ns": max(ends)}
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", records, [level])))
    assert (found.estimate, found.limit) == (1, False)


@pytest.mark.parametrize(("gathered_s", "has"), [(None, 1), (0.3, 3)])
def test_a_proxy_that_holds_tokens_back_adds_no_slots(tmp_path: Path, gathered_s: float | None, has: int) -> None:
    """Was "handles 2 requests in parallel" of one slot behind a proxy that buffers whole answers, and "at least 4" of three slots."""
    load = (
        Load(rate=0.6 * has, requests=60, output=(10, 100)) if gathered_s is None else Load(users=6, output=(10, 120))
    )
    timing = TIMING if gathered_s is None else Timing(step=StepLaw(0.007, 0.0016), prefill_s=0.0001)
    played = play(timing, [load], slots=has, seed=4, says="ollama" if gathered_s is None else "llamacpp")
    records = []
    for record in played.records:
        send = record.t_send or 0
        at = [send + 1000 * chunk for chunk in record.chunks]
        tick = round((gathered_s or 0) * 1e9)
        late = [-(-one // tick) * tick if tick else at[-1] for one in at]
        reads = len(set(late))
        changes: dict[str, Any] = dict.fromkeys(
            ("t_headers", "t_first_byte", "t_first_token", "t_first_visible"), late[0]
        )
        changes |= dict.fromkeys(("reads", "stamped", "arrivals"), reads)
        changes |= {"first_coalesced": len(late) > 1 and late[0] == late[1], "server_us": None, "server_first": None}
        changes |= {"chunks": [(one - send) // 1000 for one in late], "t_end": late[-1] + 200_000}
        records.append(dataclasses.replace(record, **changes))
    found = slots.estimate_slots(frames.load(write(tmp_path / "run", records, played.levels)))
    assert (found.estimate or 0) <= has


@pytest.mark.parametrize("users", [8, 12])
def test_answers_that_a_gateway_lets_go_together_show_no_slots(tmp_path: Path, users: int) -> None:
    """Was "at least 8" of four slots behind a gateway that gathers whole answers, and "more than one server stands behind"."""
    played = play(TIMING, [Load(users=1, requests=4, output=(40, 40))], slots=4, says="llamacpp")
    one = played.records[-1]
    took = one.t_end - (one.t_send or 0)
    records = []
    for number in range(8 * users):
        sent = number // users * 3 * took  # so many at once, of which four are worked on, and eight let go together
        free = sent + round((2.2 if number % users < 8 else 2.9) * took)
        instants = ("t_headers", "t_first_byte", "t_first_token", "t_first_visible")
        changes: dict[str, Any] = {
            "id": number,
            "user": number % users,
            "t_sched": sent,
            "t_send": sent,
            "t_end": free,
            "warmup": False,
        }
        changes |= dict.fromkeys(instants, free) | dict.fromkeys(("reads", "stamped", "arrivals"), 1)
        changes |= {"chunks": [(free - sent) // 1000] * len(one.chunks), "first_coalesced": True}
        records.append(dataclasses.replace(one, **changes))
    level = played.levels[0] | {"concurrency": users, "ended_ns": records[-1].t_end}
    says = {"kind": "llama.cpp", "slots_said": 4, "simulated": None}
    found = analyse(write(tmp_path / "run", records, [level], server=says))
    assert (found.slots.estimate, found.slots.limit) == (1, False)
    if users == 8:
        [tile] = [tile for tile in answers.tiles(found) if tile.name == "Slots"]
        assert (tile.value, tile.note) == ("≥ 1", "the server says 4")  # and not to measure with more load


@pytest.mark.parametrize("has", [2, 8])
@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
def test_reads_that_the_way_delays_add_no_slots(tmp_path: Path, says: str | None, has: int) -> None:
    """Was "handles 9 requests in parallel" of eight slots: tokens of 10 ms steps came 50 ms late on average, each by itself."""
    timing = Timing(step=StepLaw(0.010, 0.001), prefill_s=0.0002, jitter=0.03)
    loads = [Load(users=users, requests=10 * users, prompt=(60, 240), output=(20, 60)) for users in (1, 2 * has)]
    run = frames.load(play(timing, loads, slots=has, says=says, noise_s=0.05).write(tmp_path / "run"))
    found = slots.estimate_slots(run)
    assert (found.estimate or 0) <= has, found.method
    assert slots.peak_decoding(run, np.ones(len(run.requests), dtype=np.bool_)) <= has
    assert found.limit or says != "ollama"  # which says when it made each token


@pytest.mark.parametrize(("users", "output"), [(64, (2, 6)), (32, (1, 4))])
def test_slots_that_are_all_held_for_an_instant_alone_are_counted(
    tmp_path: Path, users: int, output: tuple[int, int]
) -> None:
    """Short answers on 16 slots: "handles 15 requests in parallel", where all 16 were at work for less than 2 % of the time."""
    loads = [Load(users=each, requests=4 * users, prompt=(20, 60), output=output) for each in (1, 16, users)]
    for seed in (0, 1):
        played = play(Timing(step=StepLaw(0.02, 0.004), prefill_s=0.0005, jitter=0.05), loads, slots=16, seed=seed)
        assert slots.estimate_slots(frames.load(played.write(tmp_path / str(seed)))).number == 16
