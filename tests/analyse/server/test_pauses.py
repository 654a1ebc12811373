"""Pauses: told where no token came, and where nothing of the run explains that."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import INSTANTS, MS, Made, grid, write
from support.two_models import mixed, target
from support.virtual_runs import Load, play

from loadtest.analyse.explain import time_parts
from loadtest.analyse.explain.explanation import Explainer, Explanation, row_of
from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports import explain_report
from loadtest.analyse.summary import analyse
from loadtest.doubts import CONNECTION_WAIT
from loadtest.records import Record
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.text import percent

MADE = Made(tokens=1000, prefill_ms=100)
SAMPLE = {"level": 1, "in_flight": 4, "decoding": 4, "waiting": 0, "cpu": 0.1, "loop_gap_us": 1000}


def paused(records: Iterable[Record], at: int, seconds: float) -> list[Record]:
    """Return the records as they are where nothing happens for so long from `at` on."""
    by = round(seconds * 1000) * MS
    found = []
    for record in records:
        moved: dict[str, Any] = {
            name: value + by for name in INSTANTS if (value := getattr(record, name)) is not None and value > at
        }
        sent = record.t_send or 0
        if sent <= at:
            moved["chunks"] = [chunk + by // 1000 * (sent + chunk * 1000 > at) for chunk in record.chunks]
        found.append(dataclasses.replace(record, **moved, server=None, server_us=None, server_first=None))
    return found


def said(
    path: Path, records: list[Record], levels: list[dict[str, Any]], *, sampled: bool = True, asleep_until: int = -1
) -> list[str]:
    """Return what is said of pauses; the client may have taken no samples, or slept for 10 s until this second."""
    seconds = range(max(each.t_end for each in records) // (1000 * MS) if sampled else 0)
    samples = [
        {**SAMPLE, "t": t * 1000 * MS, "loop_gap_us": 10_000_000 if t == asleep_until else 1000} for t in seconds
    ]
    found = all_findings(analyse(write(path, records, levels, samples=samples)))
    return [each for each in found if "no token came" in each]


def test_a_pause_is_told_with_when_and_how_long(tmp_path: Path) -> None:
    levels, truth = grid(MADE, (1, 4))
    at = levels[1]["started_ns"] + 1_000 * MS
    (sentence,) = said(tmp_path / "run", paused(truth.records, at, 10), levels)
    assert sentence.startswith(
        f"At 4 streams, no token came for 10.0 s, and 4 answers that had begun stood still, from {at / 1e9:.1f} s"
    )
    assert said(tmp_path / "twice", paused(paused(truth.records, at, 10), at + 12_000 * MS, 5), levels)[0].endswith(
        "with 1 shorter such pause it is 15.0 s in all."
    )


@pytest.mark.parametrize(
    "why",
    [
        "nothing",
        "a short one",
        "a prompt",
        "a slice of a prompt",
        "an unknown prompt",
        "the client",
        "no samples",
        "every token",
    ],
)
def test_what_the_run_explains_is_no_pause(tmp_path: Path, why: str) -> None:
    levels, truth = grid(MADE, (1, 4))
    at = levels[1]["started_ns"] + 1_000 * MS
    records = paused(truth.records, at, {"nothing": 0, "a short one": 0.9, "every token": 0}.get(why, 10))
    asleep_until = at // (1000 * MS) + 11 if why == "the client" else -1
    after = min((r for r in records if (r.t_first_token or 0) > at), key=lambda r: r.t_first_token or 0)
    if "prompt" in why:  # read from the pause's beginning to its end, or on for 3 s between the others' tokens
        length: dict[str, Any] = {"prompt_tokens": None if "unknown" in why else 20_000, "asked_input": None}
        chunks = [10_020_000 + 3_000_000 * (why == "a slice of a prompt") + i * 10_000 for i in range(MADE.tokens)]
        changed = arriving(dataclasses.replace(after, **length, t_sched=at - 10 * MS, t_send=at - 10 * MS), chunks)
        records = [changed if r is after else r for r in records]
    if why == "every token":  # comes in a flush every 1.5 s
        records = [arriving(r, [_flushed((r.t_send or 0) // 1000, chunk) for chunk in r.chunks]) for r in records]
    assert said(tmp_path / "run", records, levels, sampled=why != "no samples", asleep_until=asleep_until) == []


def test_a_pause_while_every_slot_reads_a_prompt_is_told(tmp_path: Path) -> None:
    """Only `explain` told it: no answer had begun that could stand still."""
    loads = [Load(users=users, requests=24, prompt=(1000, 1000), output=(10, 10)) for users in (1, 2)]
    played = play(Timing(step=StepLaw(0.02, 0.004), prefill_s=0.0005), loads, slots=1)
    at = (played.records[-5].t_first_token or 0) - 50 * MS
    moved = paused(played.records, at, 10)
    for number, (before, after) in enumerate(zip(played.records, moved, strict=True)):
        server = dict(before.server or {})
        server["prompt_eval_duration"] += 10_000 * MS * (before is played.records[-5])
        server["total_duration"] += 10_000 * MS * ((before.t_send or 0) <= at < before.t_end)
        moved[number] = dataclasses.replace(after, server=server)
    (sentence,) = said(tmp_path / "run", moved, played.levels)
    assert re.match(r"At 2 streams, no token came for 10\.\d s, while 1 prompt was read, from ", sentence)
    assert said(tmp_path / "plain", played.records, played.levels) == []


def test_a_pause_in_which_nothing_is_read_though_requests_wait_is_told(tmp_path: Path) -> None:
    """As of gunicorn, whose one worker starts anew after some requests: 1.4 s went by unsaid, in a valid level."""
    loads = [Load(users=users, requests=24, prompt=(1000, 1000), output=(10, 10)) for users in (1, 2)]
    played = play(Timing(step=StepLaw(0.02, 0.004), prefill_s=0.0005), loads, slots=1)
    last = played.records[-5]
    at = (last.t_first_token or 0) - (last.server or {})["prompt_eval_duration"]
    moved = paused(played.records, at, 10)
    for number, (before, after) in enumerate(zip(played.records, moved, strict=True)):
        total = (before.server or {})["total_duration"] + 10_000 * MS * ((before.t_send or 0) <= at < before.t_end)
        moved[number] = dataclasses.replace(after, server={**(before.server or {}), "total_duration": total})
    long = Load(users=1, requests=20, output=(100, 100))
    constant = play(Timing(step=StepLaw(0.02, 0.004), prefill_s=0.0002, handover_s=1.3), [long], slots=4)
    assert said(tmp_path / "constant", constant.records, constant.levels) == []  # each request waits so long on its way
    (sentence,) = said(tmp_path / "run", moved, played.levels)
    assert re.match(
        r"At 2 streams, no token came for 10\.\d s, while \d requests? waited and the server read no prompt, from ",
        sentence,
    )


def test_a_pause_is_laid_on_nobody_by_an_explanation(tmp_path: Path) -> None:
    """It said that slots were held by others for those 10 s, and of an answer that the rest was unexplained."""
    levels, truth = grid(MADE, (1, 6))
    at = levels[1]["started_ns"] + 15_000 * MS
    second = [record for record in truth.records if record.level == 1]
    waiting = next(r for r in second if (r.t_send or 0) < at - 3_000 * MS and (r.t_first_token or 0) > at + 100 * MS)
    decoding = next(r for r in second if (r.t_first_token or 0) < at < r.t_end - 100 * MS)
    samples = [{**SAMPLE, "t": t * 1000 * MS} for t in range(max(each.t_end for each in truth.records) // (1000 * MS))]
    found: list[list[Explanation]] = []
    cases: list[tuple[int, list[str]]] = [(0, []), (10, []), (10, [CONNECTION_WAIT])]
    for seconds, doubts in cases:
        records = [dataclasses.replace(one, doubts=doubts) for one in paused(truth.records, at, seconds)]
        one = analyse(write(tmp_path / f"{len(found)}", records, levels, samples=samples))
        explainer = Explainer.of(one.run, one.slots, one.steps, one.levels)
        found.append([explainer.explain(row_of(one.run, record.id)) for record in (waiting, decoding)])
    (before, _), (after, answer), (connecting, _) = found
    assert time_parts.PAUSE not in {each.name for each in connecting.parts.first}  # the server had not got it
    least, most = ({each.name: each for each in one.parts.first} for one in (before, after))
    for parts in (most, {each.name: each for each in answer.parts.decode}):
        assert parts.pop(time_parts.PAUSE).seconds == pytest.approx(10, abs=0.1)
        assert abs(parts[time_parts.REST].seconds) < 1
    with_it, without = ({name: each.seconds for name, each in one.items()} for one in (most, least))
    assert with_it == pytest.approx(without, abs=0.1)
    assert most[time_parts.SLOT].causes
    assert all(each.seconds < with_it[time_parts.SLOT] + 0.1 for each in most[time_parts.SLOT].causes)
    assert after.no_replay == (
        f"for {percent(10 / after.parts.total_s)} of it no stream of the run got a token, which none of its requests explains"
    )


def test_a_pause_of_one_model_is_not_said_of_the_others(tmp_path: Path) -> None:
    """Of one that stood still for 10 s while another got tokens: "no stream got a token, which no request of the run explains"."""
    levels, records = mixed(MADE, MADE)
    at = levels[1]["started_ns"] + 15_000 * MS
    mine, others = ([one for one in records if (one.model == "made") == own] for own in (True, False))
    mine = paused(mine, at, 10)
    waiting = next(r for r in mine if (r.t_send or 0) < at - 3_000 * MS and (r.t_first_token or 0) > at + 100 * MS)
    records = sorted([*mine, *others], key=lambda one: one.t_sched)
    samples = [{**SAMPLE, "t": t * 1000 * MS} for t in range(max(each.t_end for each in records) // (1000 * MS))]
    targets = [target("made"), target("other")]
    run = analyse(write(tmp_path / "run", records, levels, samples=samples, targets=targets))
    group, one = run.groups[0]
    found = Explainer.of(one.run, one.slots, one.steps, one.levels, group.beside).explain(row_of(one.run, waiting.id))
    said = [words for _, words in explain_report.rows(found, found.parts.first)]
    assert "while no stream of this model at this server got a token, which none of its requests explains" in said
    assert (found.no_replay or "").endswith(
        "% of it no stream of this model at this server got a token, which none of its requests explains"
    )


def arriving(record: Record, chunks: list[int]) -> Record:
    """Return a record whose content came at these instants."""
    sent = record.t_send or 0
    first: dict[str, Any] = dict.fromkeys(INSTANTS[2:6], sent + chunks[0] * 1000)
    server: dict[str, Any] = dict.fromkeys(("server", "server_us", "server_first"))
    return dataclasses.replace(record, chunks=chunks, **first, **server, t_end=sent + chunks[-1] * 1000 + MS)


def _flushed(sent_us: int, chunk: int) -> int:
    return -(-(sent_us + chunk) // 1_500_000) * 1_500_000 - sent_us
