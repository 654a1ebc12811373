"""What sentences on slots, waits and rates need to have seen; without it they are not said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from support.bare_analysis import LIMIT, NO_LIMIT, Run, of
from support.made_runs import Made, grid, write

from loadtest.analyse.figures import knee
from loadtest.analyse.findings import run_findings as findings
from loadtest.analyse.findings import slot_findings, waiting_findings
from loadtest.analyse.run.levels import LevelData, Series
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import analyse

NO_RUN = cast(
    "RunData",
    SimpleNamespace(of_level=lambda _: np.zeros(0, dtype=np.bool_), column=lambda _: np.zeros(0), requests={}),
)  # of which only levels are known


def level(**figures: float | None) -> LevelData:
    """Return a level of summary.json at 8 streams with these means, each of 8 requests."""
    named = {name: None if value is None else {"mean": value, "max": value, "n": 8} for name, value in figures.items()}
    return LevelData(index=0, label="8 streams", concurrency=8, rate=None, **named)


def queued(slots: Slots, *, wait: float | None, slot: float | None, batch: float | None) -> str | None:
    one = level(ttft_s=1.0, queue_wait_s=wait, slot_wait_s=slot, batch_wait_s=batch)
    return waiting_findings.queueing(of(slots), Series("", (one,)))


@pytest.mark.parametrize(
    ("slots", "wait", "slot", "batch", "said"),
    [
        (
            LIMIT,
            0.7,
            0.6,
            0.1,
            "Past 4 streams requests queue: at 8 streams 60 % of the mean TTFT (1.00 s) is slot wait.",
        ),
        (
            LIMIT,
            0.85,
            0.4,
            0.45,
            "Past 4 streams requests queue: at 8 streams 40 % of",
        ),  # was "No queue … waiting is 85 %"
        (
            LIMIT,
            0.03,
            0.0,
            0.03,
            "At 8 streams, 3 % of the mean TTFT (1.00 s) is waiting.",
        ),
        (NO_LIMIT, 0.6, 0.0, 0.6, None),  # was "No queue … waiting is 60 %"; batching says it
        (
            NO_LIMIT,
            0.3,
            0.04,
            0.26,
            "At 8 streams, 30 % of the mean TTFT (1.00 s) is waiting, 87 % of that batch wait.",
        ),
        (LIMIT, 0.05, 0.0, 0.0, "At 8 streams, 0 % of the mean TTFT (1.00 s) is waiting."),
        # Was "80 % … is waiting, 0.017 % of that batch wait".
        (NO_LIMIT, 0.8, 0.8, 0.001, "At 8 streams, 80 % of the mean TTFT (1.00 s) is slot wait."),
        # Was "68 % is slot wait" of a vLLM whose own queue times came to 38 %.
        (LIMIT, None, 0.5, None, "Past 4 streams requests queue: at 8 streams up to 50 % of"),
        (NO_LIMIT, None, 0.0, None, None),  # was "Past 8 streams requests queue: 0 %"
        (LIMIT, None, 0.0, None, None),
        (
            NO_LIMIT,
            0.5,
            None,
            None,
            "At 8 streams, 50 % of the mean TTFT (1.00 s) is queue wait.",
        ),
        (NO_LIMIT, None, None, None, None),
        (LIMIT, 0.9, 0.0, 0.0, None),  # behind another client: "waiting is 0 % of the mean TTFT (4.80 s)"
    ],
)
def test_requests_queue_where_a_limit_and_slot_wait_were_seen(
    slots: Slots, wait: float | None, slot: float | None, batch: float | None, said: str | None
) -> None:
    found = queued(slots, wait=wait, slot=slot, batch=batch)
    assert found == said or (said is not None and (found or "").startswith(said))


def test_a_share_of_ttft_counts_what_is_known_and_nothing_where_tokens_are_gathered() -> None:
    """Was "107 % of the mean TTFT (1.05 s) is waiting" behind Squid's delay pools: one answer of eight told no durations."""
    one = level(ttft_s=1.0, queue_wait_s=1.1, slot_wait_s=None, batch_wait_s=None)
    one["queue_wait_s"]["n"] = 7
    assert (waiting_findings.queueing(of(NO_LIMIT), Series("", (one,))) or "").startswith("At 8 streams, 96 % of")
    gathered = LevelData({**one, "causes": [{"cause": "bundled", "verdict": "suspect"}]})
    assert waiting_findings.queueing(of(NO_LIMIT), Series("", (gathered,))) is None


def test_a_request_that_waits_for_its_model_is_not_said_to_wait_for_nothing() -> None:
    """Was "No request queues at 8 streams: waiting is 0.2 % of the mean TTFT" where two models took turns."""
    one = level(ttft_s=1.9, queue_wait_s=0.004, slot_wait_s=0.0, batch_wait_s=0.004, load_s=1.2)
    said = "At 8 streams, 63 % of the mean TTFT (1.90 s) passes until the model is loaded."
    assert waiting_findings.loading(Series("", (one,))) == said
    # was said of the highest load alone: of a real Ollama with --keep-alive 0 not of one stream, the only one to wait for loads
    higher = LevelData({**level(ttft_s=0.6, load_s=0.03), "label": "9 streams", "concurrency": 9})
    assert waiting_findings.loading(Series("", (one, higher))) == said
    # of a loaded model it is what Ollama takes to find its runner, 26 ms on a busy processor
    assert waiting_findings.loading(Series("", (level(ttft_s=0.24, load_s=0.026),))) is None
    assert waiting_findings.loading(Series("", (higher,))) is None


def test_no_share_of_waiting_is_said_of_the_few_that_did_not_wait_to_the_end() -> None:
    """Was "0.064 % of the mean TTFT is queue wait" of the one answer of 14 that a real Ollama had given when the run was cut off."""
    one = level(ttft_s=1.0, queue_wait_s=0.5)
    for cut, said in ((6, True), (8, False)):
        cut_off = LevelData({**one, "requests": 14, "outcomes": {"ok": 14 - cut, "cancelled": cut}})
        assert (waiting_findings.queueing(of(NO_LIMIT), Series("", (cut_off,))) is not None) is said


@pytest.mark.parametrize(
    ("void_at", "end"),
    [
        ((), "is waiting."),
        ((16,), "; the level above it is void."),
        ((4, 16, 32), "; the 2 levels above it are void."),
    ],
)
def test_that_no_request_queues_is_not_all_where_higher_levels_are_void(void_at: tuple[int, ...], end: str) -> None:
    """Was the title "No request queues at 1 stream: waiting is 0.17 %" above bars of void levels that were all waiting."""
    one = level(ttft_s=1.0, queue_wait_s=0.03, slot_wait_s=0.0, batch_wait_s=0.03)
    void = [LevelData(level(), concurrency=users, verdict="void") for users in void_at]
    every = Series("", tuple(sorted([one, *void], key=lambda each: int(each["concurrency"]))))
    said = waiting_findings.queueing(of(LIMIT), every)
    assert said is not None
    assert said.startswith("At 8 streams, 3 % of the mean TTFT (1.00 s) is waiting")
    assert said.endswith(end)


@pytest.mark.parametrize(
    ("status", "warmups", "said"),
    [
        ([200.0, np.nan, 500.0], 0, "The server handles 4 requests in parallel; further requests queue."),
        ([429.0, 200.0], 1, "The server handles 4 requests in parallel; further requests queue."),
        (
            [429.0, 200.0, 429.0, 429.0, 503.0],
            1,
            "The server handles 4 requests in parallel; further requests queue (3 of 4 requests got HTTP 429 and 503).",
        ),
    ],
)
def test_requests_that_were_refused_are_not_said_to_queue(status: list[float], warmups: int, said: str) -> None:
    """Was "further requests queue" beside a third of them refused, and then that those past the slots were, by a limit of its own."""
    run = Run(facts={}, requests={"status": status, "warmup": [i < warmups for i in range(len(status))]})
    assert slot_findings.slots_finding(of(LIMIT, run=run)) == said


@pytest.mark.parametrize(
    ("slots", "said"),
    [
        (LIMIT, "The server handles 4 requests in parallel; further requests queue."),
        (Slots(1, limit=True, method=""), "The server handles one request at a time; further requests queue."),
        (NO_LIMIT, "The server handles at least 8 requests in parallel; its limit was not seen."),
        (
            Slots(None, limit=False, method=""),
            "No stream was seen decoding, so nothing is known about the server's slots.",
        ),
    ],
)
def test_a_limit_is_named_where_requests_were_kept_out(slots: Slots, said: str) -> None:
    assert slot_findings.slots_finding(of(slots)) == said
    assert slot_findings.slots_finding(of(LIMIT)).evidence == "Seen."


@pytest.mark.parametrize(
    ("said", "probed", "slots", "sentence"),
    [
        (12, None, NO_LIMIT, "The server handles at least 8 requests in parallel; the server says 12."),
        (8, None, NO_LIMIT, "The server handles at least 8 requests in parallel; the server says 8."),
        (4, None, NO_LIMIT, "The server handles at least 8 requests in parallel; its limit was not seen."),
        (8, None, LIMIT, "The server handles 4 requests in parallel; further requests queue."),
        (None, 8, NO_LIMIT, "The server handles at least 8 requests in parallel; bursts before the run showed 8."),
        (None, 4, NO_LIMIT, "The server handles at least 8 requests in parallel; its limit was not seen."),
    ],
)
def test_slots_that_a_server_says_or_bursts_showed_stand_beside_a_limit_not_seen(
    said: int | None, probed: int | None, slots: Slots, sentence: str
) -> None:
    """`check` printed "slots 12", `run --probe-slots` 8, and the report that the limit was not seen, without a word on it."""
    facts = {"server": {"slots_said": said}, "slot_probe": {"limit": probed, "seen": probed}}
    run = Run(facts=facts, requests={"status": []})
    assert slot_findings.slots_finding(of(slots, run=run)) == sentence


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        (
            [(30, 28, 32), (44, 43, 45), (56, 54, 58)],
            "Output still grows with concurrency: 56.0 tokens/s in all at 4 streams.",
        ),
        (
            [(30, 28, 32), (44, 40, 50), (56, 46, 66)],
            "whether it grows there is not known: the intervals are too wide to tell",
        ),
        (
            [(30, 28, 32), (44, None, None), (56, 54, 58)],
            "whether it grows there is not known: too few requests to tell",
        ),
        ([(30, 28, 32), (50, 49, 51), (50.5, 49, 52)], "Output stops growing at 2 streams"),
        (
            [(26, 25, 27), (17, 8, 40), (24, 15, 33)],
            "the intervals are too wide to tell",
        ),  # was "stops growing at 1 stream"
        (  # was "stops growing at 1 stream" of a machine that others had begun to use
            [(175, 170, 180), (98, 95, 101), (151, 148, 154)],
            "whether it grows there is not known: output goes from 175 to 98.0 and 151 tokens/s at 1, 2 and 4 streams.",
        ),
    ],
)
def test_output_grows_or_stops_where_intervals_part(rates: list[tuple[float, ...]], said: str) -> None:
    levels = [
        {
            "concurrency": 2**place,
            "rate": None,
            "output_tokens_per_s": rate[0],
            "output_tokens_per_s_ci95": None if rate[1] is None else list(rate[1:]),
        }
        for place, rate in enumerate(rates)
    ]
    found, _ = knee.knee(levels)
    assert found is not None
    assert said in found.sentence


def test_one_stream_is_not_said_to_wait_for_nothing() -> None:
    """Was "waiting is 0 % of the mean TTFT, and at most 0 ms for one request" beside a queue wait of 4 ms in the table."""
    one = level(ttft_s=1.0, queue_wait_s=0.09, slot_wait_s=0.0, batch_wait_s=0.0)
    assert waiting_findings.queueing(of(LIMIT), Series("", (LevelData(one, concurrency=1),))) is None


def test_a_mean_of_users_who_stayed_is_said_to_be_of_them() -> None:
    """Was "of the mean TTFT (335 ms)" beside a median of more than 400 ms."""
    one = level(ttft_s=1.0, queue_wait_s=0.5, slot_wait_s=0.5, batch_wait_s=0.0)
    one["ttft_s"] |= {"mean_stayed": 0.8, "at_least": ["mean"]}
    found = waiting_findings.queueing(of(LIMIT), Series("", (one,)))
    assert found == (
        "Past 4 streams requests queue: at 8 streams 62 % of the mean TTFT of users who stayed (800 ms) is slot wait."
    )


def test_a_mean_beside_many_failures_is_said_to_be_of_the_others() -> None:
    """Was "51 % of the mean TTFT (549 ms)" where 9 of 30 had waited for 2 s without a token."""
    one = level(ttft_s=1.0, queue_wait_s=0.5, slot_wait_s=0.5, batch_wait_s=0.0)
    found = waiting_findings.queueing(
        of(LIMIT), Series("", (LevelData(one, requests=30, outcomes={"ok": 21, "timeout": 9}),))
    )
    assert "50 % of the mean TTFT of requests that did not fail (1.00 s) is slot wait" in (found or "")


def test_a_few_slot_waits_are_said_beside_batch_wait() -> None:
    """Was "although no request waits for a slot" where one had waited for most of its TTFT."""
    one = level(ttft_s=1.0, slot_wait_s=0.03, batch_wait_s=0.4)
    one["slot_wait_s"] |= {"max": 0.8}
    found = waiting_findings.batching(of(LIMIT, run=NO_RUN), Series("", (one,)))
    assert found is not None
    assert found.startswith("At 8 streams, 40 % of the mean TTFT (1.00 s) is batch wait, and 3 % slot wait: a prompt")


@pytest.mark.parametrize(
    ("alone_s", "said"),
    [
        (0.05, "At 8 streams, 35 % of the mean TTFT (1.00 s) is batch wait"),
        (0.015, "At 8 streams, 38 % of the mean TTFT (1.00 s) is batch wait"),  # was 37 %, and 385 ms in the tables
        (
            0.38,
            "About 380 ms of each TTFT pass outside of prefill, also where no other request of this run is at the server: on ",
        ),
    ],
)
def test_what_a_request_waits_that_is_alone_is_no_batch_wait(alone_s: float, said: str) -> None:
    """Was "87 % of the mean TTFT is batch wait" behind a gateway that takes 0.3 s for each request, at one stream, too."""
    one = level(ttft_s=1.0, queue_wait_s=0.4, slot_wait_s=0.0, batch_wait_s=0.4 - alone_s)
    steps = SimpleNamespace(apart=False, handover_s=alone_s)
    found = waiting_findings.batching(of(LIMIT, run=NO_RUN, steps=steps), Series("", (one,)))
    assert (found or "").startswith(said)


@pytest.mark.parametrize(("slot", "said"), [(0.0, True), (0.1, False)])
def test_nobody_queues_for_a_slot_where_no_slot_wait_was_seen(slot: float, said: bool) -> None:
    one = level(ttft_s=1.0, slot_wait_s=slot, batch_wait_s=0.4)
    found = waiting_findings.batching(of(LIMIT, run=NO_RUN), Series("", (one,)))
    assert (found is not None) is said
    assert found is None or found.startswith(
        "At 8 streams, 40 % of the mean TTFT (1.00 s) is batch wait, although no request waits for a slot"
    )


@pytest.mark.parametrize(
    ("users", "worked_on", "said"),
    [
        # Was "stops working", as of three whose answers were nearly over.
        (1, False, "Whether the server works on for users who hang up is not known: only one did."),
        (
            3,
            None,
            "Whether the server works on for users who hang up is not known: the server had begun work for none of them, too little of their answers was left, or too few hung up.",
        ),
        (
            3,
            False,
            "The server stops working for a user who hangs up: others get the slot about as soon as after an answer that ended.",
        ),
    ],
)
def test_that_a_server_stops_for_who_left_takes_a_few_of_them(users: int, worked_on: bool | None, said: str) -> None:
    left = {"users": users, "share": 0.1, "waiting": 0, "in_answer": users, "worked_on": worked_on, "worked_on_s": 0.0}
    left |= {"worked_on_each_s": 0.0, "handover_s": 0.003, "handovers": 61}
    assert waiting_findings.leaving_findings([LevelData(level(), left=left, verdict="valid")])[1] == said


@pytest.mark.parametrize(
    ("said", "slots", "peak", "verdict", "claim"),
    [
        (
            4,
            NO_LIMIT,
            8,
            "valid",
            "More than one server stands behind this URL: at least 8 requests were at work at once",
        ),
        (4, NO_LIMIT, 4, "valid", None),  # prompts beside each other decode one after another
        (4, NO_LIMIT, 8, "void", None),
        (4, LIMIT, 4, "valid", None),
        (8, NO_LIMIT, 8, "valid", None),
        (
            8,
            LIMIT,
            4,
            "valid",
            "No more than 4 requests at a time got through, though the server says that it has 8 slots.",
        ),
        (16, NO_LIMIT, 8, "valid", None),
        (None, NO_LIMIT, 8, "valid", None),
    ],
)
def test_slots_that_a_server_says_and_others_that_were_seen_tell_what_stands_behind_a_url(
    said: int | None, slots: Slots, peak: int, verdict: str, claim: str | None
) -> None:
    run = Run(facts={"server": {"slots_said": said}})
    one = LevelData(verdict=verdict, peak_decoding=peak)
    found = slot_findings.behind_the_url(of(slots, one, run=run))
    assert (found and found[: len(claim or "")]) == claim


def test_a_speed_that_stays_is_said_once() -> None:
    """Was "the median decode speed is 100 and 100 tokens/s a stream"."""
    ends = [
        {"concurrency": users, "verdict": "valid", "ttft_s": {"p50": 1.0}, "stream_tokens_per_s": {"p50": speed}}
        for users, speed in ((1, 100.0), (8, 100.02))
    ]
    said = str(findings.range_of_ttft(Series("", tuple(LevelData(end, index=0, rate=None) for end in ends))))
    assert said.endswith("; the median decode speed is 100 tokens/s a stream at both.")


@pytest.mark.parametrize(
    ("loads", "failed", "said"),
    [
        # Was "911 ms at 1 request/s and 6.28 s at 1 request/s" of a search that measured one rate twice.
        ((1.0, 1.0), (0, 0), "1.00 s at 1 request/s, and 2.00 s when that was measured again"),
        ((1.0, 2.0), (0, 0), "1.00 s at 1 request/s and 2.00 s at 2 requests/s"),
        # Was "2.00 s at 2 requests/s" where 12 of 40 had no token within 5 s.
        ((1.0, 2.0), (1, 12), "and 2.00 s at 2 requests/s (12 of 40 requests failed and are left out)"),
        ((1.0, 1.0), (0, 12), "when that was measured again (12 of 40 requests failed and are left out)"),
    ],
)
def test_a_median_names_its_load_once_and_the_requests_that_it_leaves_out(
    loads: tuple[float, ...], failed: tuple[int, ...], said: str
) -> None:
    levels = [
        LevelData(level(), index=i, concurrency=None, rate=rate, ttft_s={"p50": i + 1.0}, requests=40)
        | {"outcomes": {"ok": 40 - bad, "timeout": bad}, "verdict": "suspect"}
        for i, (rate, bad) in enumerate(zip(loads, failed, strict=True))
    ]
    found = str(findings.range_of_ttft(Series("", tuple(map(LevelData, levels)))))
    assert said in found
    assert "at both" not in found


@pytest.mark.parametrize(("each", "said"), [(1, False), (2, True)])
def test_users_with_several_requests_at_once_are_more_streams_than_are_named(
    tmp_path: Path, each: int, said: bool
) -> None:
    """Tasks of a locustfile may send two at once: 2 users with 4 requests were "2 streams", and nothing told of it."""
    levels, truth = grid(Made(), (2 * each,))
    records = [replace(record, user=record.id % (2 * each) // each) for record in truth.records]
    one = analyse(write(tmp_path / "run", records, [levels[0] | {"concurrency": 2}]))
    found = findings.several_at_once(one)
    wanted = (
        "2 streams · 100 in · 20 out: users had several requests at once, up to 4 in flight: the level is one of more streams "
        "than it says."
    )
    assert found == (wanted if said else None)
