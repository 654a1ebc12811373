"""Whom an explanation blames: planted causes are named, and nothing is laid on those who cannot have acted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support import planted
from support.explained import TIMING, explained, short_requests, text
from support.judged import stopped
from support.made_runs import unanswered, write
from support.planted import Case, Playing, Sent
from support.virtual_runs import Load, play

from loadtest.analyse.charts import explain as chart
from loadtest.analyse.explain import time_parts as parts
from loadtest.analyse.explain.explanation import Explainer, row_of
from loadtest.analyse.explain.replay import LevelReplay, Omission, _outputs, _predecessors
from loadtest.analyse.explain.timeline import Timeline
from loadtest.analyse.reports import explain_report as words
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.queue import slots
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.records import Outcome, Record
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.text import seconds


@pytest.mark.usefixtures("no_what_ifs")
def test_who_still_queued_when_the_run_was_stopped_is_not_blamed(tmp_path: Path) -> None:
    """It said "5.40 s while #6 and 35 others were at the server, which ended without a token": they waited behind all slots."""
    played = play(TIMING, [Load(users=8, requests=64)], slots=4)
    middle = sorted(record.t_end for record in played.records)[40]
    found = analyse(write(tmp_path / "run", stopped(played.records, middle), played.levels))
    slots = dataclasses.replace(found.slots, limit=False)  # as of a run that was stopped sooner
    explainer = Explainer.of(found.run, slots, found.steps, found.summary["levels"])
    last = int(np.nanargmax(found.run.column("first_token")))
    assert "ended without a token" not in text(explainer.explain(last))


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        (planted.PROMPT, 3),
        (planted.PROMPT, 7),  # its queue is older than the request
        (planted.ANSWER, 3),
        (planted.CANCELLED, 3),
        (planted.EVICTOR, 3),
        (planted.EVICTOR, 6),  # one conversation pushed the other out
        (planted.BUSY, 3),
        (planted.LOAD, 2),
    ],
)
def test_a_planted_cause_is_named_and_the_what_if_is_the_run_without_it(kind: str, seed: int) -> None:
    found = planted.examine(kind, seed)
    assert found is not None
    assert found.named, found
    if kind == planted.BUSY:
        assert (
            "replayed request by request, the model fitted to this run's levels misses what was measured: " in found.why
        )
    elif (kind, seed) != (planted.EVICTOR, 6):
        assert found.what_if is not None
        assert abs(found.what_if) <= 0.15, found


@pytest.mark.usefixtures("no_what_ifs")
@pytest.mark.parametrize("says", ["ollama", None])
def test_long_prompts_that_were_read_together_take_no_longer_than_the_wait(says: str | None, tmp_path: Path) -> None:
    """It said of a wait of 819 ms that three prompts were read for 2.08 s of it."""
    shorts = [(100, 2.0 * number + 0.01 * each) for number in range(8) for each in range(4)]
    arrivals = [*shorts, (1500, 18.0), (1500, 18.0), (100, 18.01)]
    plan = tuple(Sent(number, prompt, 10, at=at) for number, (prompt, at) in enumerate(arrivals))
    found = explained(Playing(Case(planted.PROMPT, TIMING, 2, says, plan, None), 0).play().write(tmp_path / "run"), 34)
    wait = next(part for part in found.parts.first if part.name == parts.SLOT)
    read = [cause for cause in wait.causes if cause.how == parts.PROMPTS]
    assert {cause.id for cause in read} == {32, 33}
    assert 0.9 * 3.0 < sum(cause.seconds for cause in read) <= wait.seconds


@pytest.mark.usefixtures("no_what_ifs")
def test_a_server_that_tells_nothing_leaves_what_cannot_be_known_unexplained(tmp_path: Path) -> None:
    plan = tuple(Sent(number, 100, 1, at=0.06 * number) for number in range(30))
    case = Case(planted.PROMPT, TIMING, 2, None, plan, None)
    found = explained(Playing(case, 0).play().write(tmp_path / "run"), 12)  # one token each, never idle
    assert [part.name for part in found.parts.first if part.seconds > 0] == [parts.REST]
    assert found.parts.first[-1].seconds == found.parts.total_s
    assert words.rows(found, found.parts.first) == [(seconds(found.parts.total_s), "unexplained")]
    assert found.no_replay == "what 100 % of it went into is not known"  # was "No other request caused a part of it"


def test_a_request_without_a_token_is_told_who_held_the_slots(tmp_path: Path) -> None:
    timing = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.001)
    plan = [Sent(number, 100, 30, at=0.9 * number) for number in range(40)]
    plan += [Sent(900, 100, 500, at=18.1), Sent(901, 100, 500, at=18.1), Sent(902, 100, 30, at=19.0, gone=3.0)]
    case = Case(planted.ANSWER, timing, 2, "ollama", tuple(plan), None)
    found = explained(Playing(case, 0).play().write(tmp_path / "run"), 902)
    assert words.heading(found).endswith("no token in 3.00 s, then timeout (no token in time)")
    assert "waiting for a slot, for which 2 others waited already; slots were held by #900 and #901 (inferred)" in text(
        found
    )
    assert "never got a token" in words.without(found)


@pytest.mark.usefixtures("no_what_ifs")
def test_what_a_long_prompt_costs_is_its_own_doing(tmp_path: Path) -> None:
    """One prompt of 1,301 tokens: a request that it held up was named, and what slowed steps beside it was said not to show."""
    timing = dataclasses.replace(TIMING, context_s=5e-5)  # a step beside 2,000 tokens takes five times as long
    plan = tuple(Sent(i, 2000 if i == 20 else 10, 20, at=0.3 * i) for i in range(40))
    path = Playing(Case(planted.PROMPT, timing, 2, "llamacpp", plan, 20), 0).play().write(tmp_path / "run")
    behind = [explained(path, request) for request in range(21, 25)]
    assert [each.slow for each in behind] == [None] * 4
    assert words.table(behind[:1]).rows[0][4].startswith("#20")


@pytest.mark.usefixtures("no_what_ifs")
def test_what_a_long_answer_costs_is_its_own_doing(tmp_path: Path) -> None:
    """Behind two answers of 2,500 tokens: steps took 2.58 times as long as usual, by "something that no request shows"."""
    timing = dataclasses.replace(TIMING, context_s=5e-5)
    plan = tuple(Sent(i, 10, 600 if i == 20 else 20, at=0.9 * i) for i in range(40))
    path = Playing(Case(planted.ANSWER, timing, 1, "llamacpp", plan, 20), 0).play().write(tmp_path / "run")
    assert explained(path, 21).slow is None


@pytest.mark.usefixtures("no_what_ifs")
def test_who_lost_its_own_cache_is_not_said_to_have_taken_anothers(queued: Path) -> None:
    """Two people evicted by another client: of the second, "since then #72 took a slot", which had lost its own likewise."""
    found = explained(queued, 60)
    before, other = (parts.Cause(row, row, 0.0, 1900, parts.REREAD, 1.0) for row in (71, 72))
    lost = parts.LostCache(1862, 1864, before, (other,), ())
    found = dataclasses.replace(found, parts=dataclasses.replace(found.parts, lost=lost))
    assert words._reread_words(found) == (
        "reading again 1,862 of the 1,864 tokens that #71 had left in the cache; since then #72 took a slot, having lost its own "
        "too, to whom is not known"
    )


@pytest.mark.usefixtures("no_what_ifs")
def test_of_a_request_that_was_refused_nothing_is_laid_on_others(tmp_path: Path) -> None:
    """Of one that ended with status 500: "529 ms while the prompts of #26, #28, #29 and 2 others were read"."""
    played = play(TIMING, [Load(users=6, requests=60)], slots=2)
    refused = {"status": 500, "error": "no", "t_headers": None, "t_first_byte": None}
    records = [unanswered(one, Outcome.HTTP_ERROR, **refused) if one.id == 30 else one for one in played.records]
    found = explained(write(tmp_path / "run", records, played.levels), 30)
    assert text(found) == f"{seconds(found.parts.total_s)} unexplained"


def test_a_wait_behind_the_slots_that_the_server_says_is_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that did not show the limit: "1.21 s waiting for a slot or a running step", and no what-if."""
    plan = short_requests(tuple(Sent(number, 100, 40, at=18.05) for number in (900, 901)))
    path = Playing(Case(planted.ANSWER, TIMING, 2, "llamacpp", plan, None), 0).play().write(tmp_path / "run")
    facts = json.loads((path / "run.json").read_bytes())
    (path / "run.json").write_text(json.dumps(facts | {"server": {"kind": "llama.cpp", "slots_said": 2}}))
    monkeypatch.setattr(slots, "estimate_slots", lambda _: Slots(2, limit=False, method="two were at work"))
    found = explained(path, 21)
    assert "waiting for a slot; slots were held by #900 and #901" in text(found)
    assert found.told is not None
    assert found.told.cause is not None
    assert found.told.cause.id in (900, 901)


@pytest.mark.usefixtures("no_what_ifs")
def test_what_no_request_shows_is_not_laid_on_those_that_it_held_up_too(tmp_path: Path) -> None:
    """A stranger's long prompt, which no record shows: "3.60 s while #28's 142 prompt tokens were read"."""
    plan = short_requests((Sent(900, 5000, 5, at=17.95), Sent(901, 120, 20, at=17.97)))
    played = Playing(Case(planted.PROMPT, TIMING, 4, "llamacpp", plan, None), 0).play()
    played.case = dataclasses.replace(played.case, plan=tuple(each for each in plan if each.id != 900))
    found = explained(played.write(tmp_path / "run"), 20)
    spent = {part.name: part.seconds for part in found.parts.first}
    assert found.ttft_s > 4
    assert spent.get(parts.PROMPTS, 0.0) < 0.5
    assert spent[parts.SLOW] + spent[parts.REST] > 0.8 * found.parts.total_s
    assert "longer than such prompts take here, which no request of the run explains" in text(found)
    assert found.told is None
    assert "is not known" in words.without(found)


@pytest.mark.usefixtures("no_what_ifs")
def test_work_on_a_request_whose_client_has_gone_lasts_until_its_batch_is_over(tmp_path: Path) -> None:
    """A prompt of 5,000 tokens was cancelled at 19.5 s, and read until 23 s: "2.28 s waiting for a slot or a step"."""
    timing = dataclasses.replace(TIMING, n_batch=8192)
    plan = short_requests((Sent(900, 5000, 5, at=17.95, gone=1.5),))
    path = Playing(Case(planted.CANCELLED, timing, 4, "llamacpp", plan, None), 0).play().write(tmp_path / "run")
    found = explained(path, 22)  # it came at 19.8 s
    assert "s while #900 (5,000 tokens) was at the server, which ended without a token" in text(found)
    spent = {part.name: part.seconds for part in found.parts.first}
    assert spent[parts.SILENT] > 0.8 * found.parts.total_s
    assert spent.get(parts.WAIT, 0.0) + spent[parts.REST] < 0.05 * found.parts.total_s
    run = analyse(path).run
    asked = _outputs(run)[row_of(run, 900)]
    assert asked == 5  # without what held it up it would have ended; it was taken to go on for ever


@pytest.mark.usefixtures("no_what_ifs")
@pytest.mark.parametrize("pieces", [1, 30])
@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
def test_no_prompt_is_named_where_answers_come_whole(says: str | None, pieces: int, tmp_path: Path) -> None:
    """Of answers that a gateway lets go at their end: "while #50's 1,900 prompt tokens were read", after they had been answered."""
    loads = [Load(users=users, requests=20, prompt=(100, 2000), output=(30, 30)) for users in (1, 4)]
    played = play(TIMING, loads, slots=4, says=says)

    def held(one: Record) -> Record:
        came = (one.t_send or 0) + one.chunks[-1] * 1000
        at: dict[str, Any] = dict.fromkeys(("t_first_token", "t_first_visible"), came)
        at |= dict.fromkeys(("reads", "stamped", "arrivals"), 1) | dict.fromkeys(("server_us", "server_first"))
        return dataclasses.replace(one, chunks=one.chunks[-1:] * pieces, first_coalesced=pieces > 1, **at)

    played.records[:] = list(map(held, played.records))
    path = played.write(tmp_path / "run")
    one = analyse(path)
    speed = one.steps.prefill
    assert (speed.per_token_s if speed else None) == (pytest.approx(TIMING.prefill_s, rel=0.1) if says else None)
    explainer = Explainer.of(one.run, one.slots, one.steps, one.levels)
    for number in (30, 36, 42):
        found = explainer.explain(row_of(one.run, number))
        first = {part.name: part.seconds for part in found.parts.first}
        assert not first.keys() & {parts.PROMPTS, parts.REREAD}
        read = one.run.column("prefill_s")[found.row]
        assert first.get(parts.OWN) == (pytest.approx(read) if says else None)
        assert not any(part.inferred for part in found.parts.first if part.name == parts.OWN)  # the server said it
        assert (
            found.parts.first[-1].seconds >= 29 * 0.024
        )  # its own decode, which is no wait: "before its prompt was read"
        assert words.without(found).endswith("of it went into is not known, as its answer came whole.")


@pytest.mark.usefixtures("no_what_ifs")
@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
def test_what_a_gateway_held_back_is_no_wait_for_slots(says: str | None, tmp_path: Path) -> None:
    """Held back for 4 s before a server of 2 slots: "4.20 s waiting for a slot, … held by #50, #51 and 8 others"."""
    plan = [Sent(number, 100, 30, at=0.55 * number) for number in range(80)]
    plan[40] = dataclasses.replace(plan[40], at=0.55 * 40 + 4, held=4.0)
    path = Playing(Case(planted.PROMPT, TIMING, 2, says, tuple(plan), None), 0).play().write(tmp_path / "run")
    found = explained(path, 40)
    spent = {part.name: part.seconds for part in found.parts.first}
    assert 3 < spent[parts.BEHIND] <= 4.01
    assert "held back on its way, or passed over" in text(found)
    analysis = analyse(path)
    explainer = Explainer.of(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"])
    drawn = {label: end - start for label, _, start, end in chart._bars(analysis.run, explainer.splitter.timeline, 40)}
    assert drawn["held back, or passed over"] == pytest.approx(spent[parts.BEHIND])
    assert "is not known" in words.without(found)


@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
def test_who_was_passed_by_one_is_not_said_to_wait_behind_a_long_prompt(says: str | None, tmp_path: Path) -> None:
    """Held back for 1 s beside a prompt of 2,000 tokens: "1.70 s waiting for a slot", and "Without #900: 103 ms"."""
    plan = [Sent(number, 100, 20, at=0.9 * number) for number in range(40)]
    plan[21] = dataclasses.replace(plan[21], at=0.9 * 21 + 1, held=1.0)
    plan.append(Sent(900, 2000, 20, at=17.95))
    path = Playing(Case(planted.PROMPT, TIMING, 2, says, tuple(plan), 900), 0).play().write(tmp_path / "run")
    found = explained(path, 21)
    assert next(part.seconds for part in found.parts.first if part.name == parts.BEHIND) > 1
    assert found.told is None


@pytest.mark.usefixtures("no_what_ifs")
@pytest.mark.parametrize("says", ["ollama", "llamacpp"])
def test_prompts_that_were_read_before_it_can_have_come_are_not_blamed(says: str, tmp_path: Path) -> None:
    """Behind a gateway that holds all back for 300 ms: "150 ms while #40's 150 prompt tokens were read; 141 ms waiting"."""
    plan = tuple(
        Sent(number, 150, 20, at=0.3 + 1.2 * (number // 2) + 0.3 * (number % 2), held=0.3) for number in range(80)
    )
    path = Playing(Case(planted.PROMPT, TIMING, 4, says, plan, None), 0).play().write(tmp_path / "run")
    spent = {part.name: part.seconds for part in explained(path, 41).parts.first}
    assert parts.PROMPTS not in spent
    assert spent.get(parts.WAIT, 0.0) + spent[parts.REST] == pytest.approx(0.3, abs=0.03)


def test_what_the_replay_misses_of_a_long_wait_is_not_laid_on_what_is_left_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind a prompt that the replay reads in 6 s and the server read in 5 s, 60 ms were left; 50 ms were said."""
    replay = LevelReplay(
        model=cast("ServerModel", None), row=1, ttft_s=5.0, sent=(), measured={}, handled=False, base=[{1: 6.0}] * 6
    )
    for left, said in ((0.06, 0.06), (6.0, 5.0)):
        monkeypatch.setattr(LevelReplay, "_play", lambda *_, left=left: {1: left})
        found = replay.what_if(Omission(without=2))
        assert found is not None
        likely, (low, high) = found
        assert likely == pytest.approx(said, rel=0.01)
        assert low <= said <= high


def test_a_request_of_an_open_loop_waits_for_nobody_s_answer() -> None:
    """Beside users of a closed loop it was taken to follow the last answer before it, as if its user had waited for that."""
    run = cast("RunData", SimpleNamespace(column=lambda _: np.array([1.0, np.nan, 2.0, 1.0, np.nan])))
    timeline = cast("Timeline", SimpleNamespace(freed=np.arange(5) + 0.5, send=np.arange(5) * 1.0))
    assert _predecessors(run, timeline, np.arange(5), alike=False) == {3: 0}
