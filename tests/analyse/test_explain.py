"""`loadtest explain`: planted causes are named, the what-if is what a run without the cause shows, and nothing else is said."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from support import planted
from support.judged import stopped
from support.made_runs import unanswered, write
from support.planted import Case, Playing, Sent
from support.virtual_runs import Load, play

from loadtest.analyse.charts import explain as chart
from loadtest.analyse.explain import time_parts as parts
from loadtest.analyse.explain.explanation import LOAD, NOBODY, Explainer, Explanation, Slowness, Without, row_of
from loadtest.analyse.explain.replay import LevelReplay, Omission, _outputs
from loadtest.analyse.explain.timeline import WorkWindow, moments, shared_out
from loadtest.analyse.reports import explain_report as words
from loadtest.analyse.server.queue import slots
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.cli import cli
from loadtest.cli.explain import _show_table
from loadtest.errors import LoadTestError
from loadtest.records import Outcome, Record
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.text import seconds

TIMING = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.001, jitter=0.02, handover_s=0.001)


def explained(path: Path, request: int) -> Explanation:
    found = analyse(path)
    explainer = Explainer.of(found.run, found.slots, found.steps, found.summary["levels"])
    return explainer.explain(row_of(found.run, request))


def test_who_still_queued_when_the_run_was_stopped_is_not_blamed(tmp_path: Path) -> None:
    """It said "5.40 s while #6 and 35 others were at the server, which ended without a token": they waited behind all slots."""
    played = play(TIMING, [Load(users=8, requests=64)], slots=4)
    middle = sorted(record.t_end for record in played.records)[40]
    found = analyse(write(tmp_path / "run", stopped(played.records, middle), played.levels))
    slots = dataclasses.replace(found.slots, limit=False)  # as of a run that was stopped sooner
    explainer = Explainer.of(found.run, slots, found.steps, found.summary["levels"])
    last = int(np.nanargmax(found.run.column("first_token")))
    assert "ended without a token" not in text(explainer.explain(last))


def command(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, list(map(str, args)), standalone_mode=False)
    if isinstance(result.exception, LoadTestError):
        return 2, str(result.exception)
    assert result.exception is None, result.exception
    return int(result.return_value or 0), result.output


def text(found: Explanation) -> str:
    return "\n".join(f"{took} {said}" for took, said in words.rows(found, found.parts.first))


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
        assert "does not give it back" in found.why
    elif (kind, seed) != (planted.EVICTOR, 6):
        assert found.what_if is not None
        assert abs(found.what_if) <= 0.15, found


@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
def test_parts_add_up_and_the_rest_is_printed(says: str | None, tmp_path: Path) -> None:
    run = play(TIMING, [Load(users=5, requests=40, prompt=(50, 400))], slots=2, says=says).write(tmp_path / "run")
    analysis = analyse(run)
    explainer = Explainer.of(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"])
    for row in range(5, 45, 7):
        found = explainer.explain(row)
        assert sum(part.seconds for part in found.parts.first) == pytest.approx(found.parts.total_s)
        assert sum(part.seconds for part in found.parts.decode) == pytest.approx(found.parts.decode_s)
        assert "unexplained" in words.rows(found, found.parts.first)[-1][1]
        assert "unexplained" in words.rows(found, found.parts.decode)[-1][1]
        assert abs(found.parts.first[-1].seconds) < 0.1 * found.parts.total_s + 0.06
        held = next(part for part in found.parts.first if part.name == parts.SLOT)
        assert held.inferred == (says is None)
        truth = found.parts.first
        assert all(each.id != found.id for part in truth for each in part.causes)


def test_steps_that_were_faster_than_usual_are_no_more_than_the_answer_took(tmp_path: Path) -> None:
    """Was "673 ms as up to 4 streams shared the steps; −415 ms unexplained" of an answer that took 513 ms."""
    run = play(TIMING, [Load(users=5, requests=40)], slots=2).write(tmp_path / "run")
    found = analyse(run)
    splitter = Explainer.of(found.run, found.slots, found.steps, found.summary["levels"]).splitter
    slow = tuple(dataclasses.replace(each, mean_s=2 * each.mean_s) for each in found.steps.times)
    slower = dataclasses.replace(splitter, steps=dataclasses.replace(found.steps, times=slow)).split(20)
    assert next(part.name for part in slower.decode) == parts.STEPS
    assert parts.SHARED not in [part.name for part in slower.decode]
    assert sum(part.seconds for part in slower.decode) == pytest.approx(slower.decode_s)
    assert slower.decode[-1].seconds == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("noise_ms", [0.001, 8])
def test_the_stalled_parts_are_the_stalls_where_tokens_scatter(noise_ms: float, tmp_path: Path) -> None:
    """They came out 3-5 % too long at 8 ms: of gaps that scatter only the longer half counted."""
    loads = [Load(users=users, requests=20 * users, prompt=(80, 160), output=(20, 60)) for users in (1, 2, 3)]
    timing = dataclasses.replace(TIMING, jitter=0.0)
    played = play(timing, loads, slots=3, says=None, noise_s=noise_ms / 1000)
    found = analyse(played.write(tmp_path / "run"))
    splitter = Explainer.of(found.run, found.slots, found.steps, found.summary["levels"]).splitter
    every = [part for row in range(len(found.run.requests)) for part in splitter.split(row).decode]
    first = {record.id: played.streams[record.id].first or 0 for record in played.records}
    truth = sum(
        0.001 * played.streams[other].prompt_tokens
        for one, stream in played.streams.items()
        for other, at in first.items()
        if first[one] < at <= (stream.last or 0)
    )
    assert sum(part.seconds for part in every if part.name == parts.STALL) == pytest.approx(truth, rel=0.02)


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


def test_a_server_that_tells_nothing_leaves_what_cannot_be_known_unexplained(tmp_path: Path) -> None:
    plan = tuple(Sent(number, 100, 1, at=0.06 * number) for number in range(30))
    case = Case(planted.PROMPT, TIMING, 2, None, plan, None)
    found = explained(Playing(case, 0).play().write(tmp_path / "run"), 12)  # one token each, never idle
    assert [part.name for part in found.parts.first if part.seconds > 0] == [parts.REST]
    assert found.parts.first[-1].seconds == found.parts.total_s
    assert words.rows(found, found.parts.first) == [(seconds(found.parts.total_s), "unexplained")]
    assert found.no_replay == "what 100 % of it went into is not known"  # was "No other request caused a part of it"


def test_the_whole_time_is_counted_from_the_same_instant_as_the_first_token(tmp_path: Path) -> None:
    """It said "39.8 ms to the first token, 39.4 ms in all": E2E counts from the send, the parts from when it was due."""
    plan = tuple(Sent(number, 100, 1 + number % 2, at=number / 2) for number in range(10))
    found = explained(Playing(Case(planted.PROMPT, TIMING, 2, None, plan, None), 0).play().write(tmp_path / "run"), 8)
    late = dataclasses.replace(found, parts=dataclasses.replace(found.parts, total_s=found.ttft_s + 0.5))
    to_first = seconds(found.ttft_s + 0.5)
    assert words.heading(late).partition(": ")[2].startswith(to_first)
    assert words.heading(late).endswith(f", {to_first} in all")


def test_a_request_without_a_token_is_told_who_held_the_slots(tmp_path: Path) -> None:
    timing = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.001)
    plan = [Sent(number, 100, 30, at=0.9 * number) for number in range(40)]
    plan += [Sent(900, 100, 500, at=18.1), Sent(901, 100, 500, at=18.1), Sent(902, 100, 30, at=19.0, gone=3.0)]
    case = Case(planted.ANSWER, timing, 2, "ollama", tuple(plan), None)
    found = explained(Playing(case, 0).play().write(tmp_path / "run"), 902)
    assert words.heading(found).endswith("no token in 3.00 s, then timeout")
    assert "waiting for a slot, for which 2 others waited already; slots were held by #900 and #901 (inferred)" in text(
        found
    )
    assert "never got a token" in words.without(found)


@pytest.mark.parametrize(
    ("name", "tokens", "said"),
    [
        (parts.PROMPTS, (None,), "while #7's prompt was read"),
        (parts.STALL, (1,), "while #7's 1 prompt token was read"),
        (parts.STALL, (205,), "while #7's 205 prompt tokens were read"),
        (parts.PROMPTS, (205, 300), "while the prompts of #7 and #8 were read"),
        (parts.SILENT, (None,), "while #7 was at the server, which ended without a token"),
        (parts.SILENT, (None, None), "while #7 and #8 were at the server, which ended without a token"),
    ],
)
def test_verbs_agree_with_what_was_read(name: str, tokens: tuple[int | None, ...], said: str) -> None:
    causes = tuple(parts.Cause(i, 7 + i, 1.0, count, parts.PROMPTS, 1.0) for i, count in enumerate(tokens))
    found = cast("Explanation", SimpleNamespace(usual_prompt=math.nan))
    assert words.rows(found, [parts.TimePart(name, 2.0, causes)]) == [("2.00 s", said)]


def test_moments_are_shared_by_rate_and_what_nobody_has_is_kept_apart() -> None:
    windows = [WorkWindow(1, 0.0, 2.0, 3.0), WorkWindow(2, 1.0, 3.0, 1.0)]
    shares, free = shared_out(0.5, 4.0, windows)
    assert shares == {1: pytest.approx(0.5 + 0.75), 2: pytest.approx(0.25 + 1.0)}
    assert free == pytest.approx(1.0)
    assert [piece[:2] for piece in moments(-1.0, 4.0, windows) if not piece[2]] == [(-1.0, 0.0), (3.0, 4.0)]
    assert shared_out(2.0, 1.0, windows) == ({}, 0.0)


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "run"
    return play(TIMING, [Load(users=1, requests=20), Load(users=5, requests=60)], slots=2).write(path)


def test_the_slowest_is_explained_and_drawn(queued: Path) -> None:
    code, said = command("explain", queued)
    assert code == 0
    assert "waiting for a slot, for which" in said
    assert "held by #" in " ".join(said.split())
    assert "unexplained" in said
    assert (queued / "explain.png").read_bytes().startswith(b"\x89PNG")


def test_json_names_parts_and_requests(queued: Path) -> None:
    code, said = command("explain", queued, "--percentile", "p50", "--level", "1", "--json")
    assert code == 0
    document = json.loads(said)
    (one,) = document["requests"]
    assert one["level"] == 1
    assert sum(part["seconds"] for part in one["parts"]) == pytest.approx(one["to_first_token_s"])
    assert one["parts"][-1]["part"] == "unexplained"
    assert document["files"] == [str(queued / "explain.png")]
    ttft = sorted(float(each) for each in analyse(queued).run.requests.query("level == 1 and not warmup")["ttft_s"])
    assert one["ttft_s"] == ttft[29]


def test_the_load_is_named_only_where_neither_the_server_nor_one_request_is_to_blame(queued: Path) -> None:
    """A level in which each step took 1.4 times as long as in the others was said to be slow by its load."""
    found = explained(queued, 60)
    saves_nothing = Without(LOAD, None, found.ttft_s, (found.ttft_s, found.ttft_s))
    found = dataclasses.replace(found, usual_s=found.ttft_s, slow=None, without=(saves_nothing,), no_replay=None)
    assert words.without(found) == "Of 1 cause left out in turn, none makes it clearly faster."
    assert any("this is the level's load rather than one request" in said for said in words.notes(found))
    slowed = dataclasses.replace(found, slow=Slowness(1.4, 70))
    untold = dataclasses.replace(
        found, without=(), no_replay="it never got a token"
    )  # then nothing rules a request out
    nothing = dataclasses.replace(found, without=())
    for one in slowed, untold, nothing:
        assert next(words.notes(one)) == "It took about as long to its first token as the others of its level."
    assert "is not said" in words.without(nothing)  # was "No single request made it slower"
    late = dataclasses.replace(found, parts=dataclasses.replace(found.parts, total_s=3 * found.ttft_s))
    assert not late.usual  # it was due long before it was sent


def test_a_cause_that_may_count_is_not_said_to_make_nothing_faster(queued: Path) -> None:
    """Of two prompts of 3,005 tokens, read together, neither was said to make the other faster: a band of 313 ms to 2.95 s."""
    found = explained(queued, 60)
    perhaps = Without(LOAD, None, 0.8 * found.ttft_s, (0.2 * found.ttft_s, 1.4 * found.ttft_s))
    found = dataclasses.replace(found, usual_s=found.ttft_s, slow=None, without=(perhaps,), no_replay=None)
    low, high = map(seconds, perhaps.band)
    assert words.without(found) == (
        "Of 1 cause left out in turn, none makes it clearly faster: without the load of the model it may have taken "
        f"{low} to {high}, and measured it took {seconds(found.ttft_s)}."
    )
    assert not any("rather than one request" in said for said in words.notes(found))


@pytest.mark.parametrize("told", [1, 3])
def test_the_law_of_short_prompts_says_nothing_of_one_longer_than_most(told: int, queued: Path) -> None:
    """Two prompts of 3,005 tokens among short ones: 1.08 s of the second was "longer than such prompts take here"."""
    analysis = analyse(queued)
    splitter = Explainer.of(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"]).splitter
    timeline = splitter.timeline
    timeline.tokens[30 : 31 + told] = 10 * np.nanmax(timeline.tokens)
    assert math.isfinite(splitter._usual(30)) == (told == 3)


def test_a_wait_that_cannot_be_split_may_be_others_doing(queued: Path) -> None:
    """Behind nginx, which buffers: "132 ms waiting for a slot or a step", and "No other request caused a part of it"."""
    analysis = analyse(queued)
    explainer = Explainer.of(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"])
    waited = (parts.TimePart(parts.WAIT, 0.8), parts.TimePart(parts.REST, 0.0))
    split = dataclasses.replace(explainer.splitter.split(1), total_s=1.0, first=waited, lost=None)
    assert explainer._without(1, split) == ((), "what 80 % of it went into is not known")
    found = explainer.explain(1)
    assert words.decode_heading(found) is not None
    at_once = dataclasses.replace(found, parts=dataclasses.replace(found.parts, decode_s=-4e-7))  # all in one read
    assert words.decode_heading(at_once) is None


def test_what_a_long_prompt_costs_is_its_own_doing(tmp_path: Path) -> None:
    """One prompt of 1,301 tokens: a request that it held up was named, and what slowed steps beside it was said not to show."""
    timing = dataclasses.replace(TIMING, context_s=5e-5)  # a step beside 2,000 tokens takes five times as long
    plan = tuple(Sent(i, 2000 if i == 20 else 10, 20, at=0.3 * i) for i in range(40))
    path = Playing(Case(planted.PROMPT, timing, 2, "llamacpp", plan, 20), 0).play().write(tmp_path / "run")
    behind = [explained(path, request) for request in range(21, 25)]
    assert [each.slow for each in behind] == [None] * 4
    assert words.table(behind[:1]).rows[0][4].startswith("#20")


def test_what_a_long_answer_costs_is_its_own_doing(tmp_path: Path) -> None:
    """Behind two answers of 2,500 tokens: steps took 2.58 times as long as usual, by "something that no request shows"."""
    timing = dataclasses.replace(TIMING, context_s=5e-5)
    plan = tuple(Sent(i, 10, 600 if i == 20 else 20, at=0.9 * i) for i in range(40))
    path = Playing(Case(planted.ANSWER, timing, 1, "llamacpp", plan, 20), 0).play().write(tmp_path / "run")
    assert explained(path, 21).slow is None


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


def test_a_request_does_not_decode_beside_itself(queued: Path) -> None:
    """Of two users of an Ollama, whose tokens are stamped before they come: "beside 2 streams that decoded"."""
    found = analyse(queued)
    splitter = Explainer.of(found.run, found.slots, found.steps, found.summary["levels"]).splitter
    later = dataclasses.replace(splitter.timeline, first=splitter.timeline.first + 0.01)
    parts_of_one = dataclasses.replace(splitter, timeline=later).split(5).first  # of the level of one stream
    assert [part.streams for part in parts_of_one if part.name == parts.OWN] == [0]


def test_of_a_request_that_was_refused_nothing_is_laid_on_others(tmp_path: Path) -> None:
    """Of one that ended with status 500: "529 ms while the prompts of #26, #28, #29 and 2 others were read"."""
    played = play(TIMING, [Load(users=6, requests=60)], slots=2)
    refused = {"status": 500, "error": "no", "t_headers": None, "t_first_byte": None}
    records = [unanswered(one, Outcome.HTTP_ERROR, **refused) if one.id == 30 else one for one in played.records]
    found = explained(write(tmp_path / "run", records, played.levels), 30)
    assert text(found) == f"{seconds(found.parts.total_s)} unexplained"


@pytest.mark.parametrize(("block_ms", "said"), [(0.001, False), (50, True)])
def test_tokens_that_come_in_blocks_leave_parts_unsure(block_ms: float, said: bool, tmp_path: Path) -> None:
    """Behind a proxy that sends text on each 50 ms: "88.4 ms reading its own 250 prompt tokens, 0 ms unexplained" of 74 ms."""
    block = round(block_ms * 1e6)
    fast = dataclasses.replace(TIMING, step=StepLaw(0.008, 0.001))
    played = play(fast, [Load(users=users, requests=20) for users in (1, 2)], slots=4, says=None)

    def blocked(one: Record) -> Record:
        assert one.t_send is not None
        sent = one.t_send
        at = [-(-(sent + each * 1000) // block) * block for each in one.chunks]
        more: dict[str, Any] = dict.fromkeys(("reads", "stamped", "arrivals"), len(set(at)))
        more |= dict.fromkeys(("t_first_token", "t_first_visible"), at[0]) | {"t_end": max(at[-1], one.t_end)}
        return dataclasses.replace(one, chunks=[(each - sent) // 1000 for each in at], **more)

    found = explained(write(tmp_path / "run", list(map(blocked, played.records)), played.levels), 30)
    notes = [each for each in words.notes(found) if each.startswith("Tokens came several at once, 50.0 ms apart")]
    assert bool(notes) == said
    assert (found.reads_apart_s is not None) == said


def test_nobody_is_said_of_waits_and_prompts_alone(queued: Path) -> None:
    """Of 167 ms, 60 of them for two streams that decoded: "No other request caused a part of it that counts"."""
    found = dataclasses.replace(explained(queued, 60), no_replay=NOBODY)
    assert words.without(found) == "Neither a wait for a slot nor another request's prompt is a part of it that counts."


def short_requests(more: tuple[Sent, ...] = ()) -> tuple[Sent, ...]:
    return (*(Sent(number, 100, 20, at=0.9 * number) for number in range(40)), *more)


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


def test_several_come_as_a_table_of_80_columns(queued: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, said = command("explain", queued, "--slowest", "4", "--by", "e2e")
    assert code == 0
    assert said.count("slot wait") == 4
    assert max(map(len, said.splitlines())) <= 80
    assert "unexplained" in said


def test_a_dash_for_causes_that_count_for_nothing_is_explained(
    queued: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explained(queued, 47)
    same = tuple(dataclasses.replace(each, seconds=found.ttft_s) for each in found.without)
    _show_table(Console(width=80), [found, dataclasses.replace(found, id=48, without=same)])
    assert "\nNo cause of #48, left out alone, makes it clearly faster." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--request", "9999"], "has no record of a request 9999; they go from 0 to 85."),
        (["--percentile", "huge"], "--percentile 'huge' is no percentile: write p50, p95 or p99.9."),
        (["--percentile", "p95", "--slowest", "3"], "give one of --request, --percentile and --slowest."),
        (["--request", "3", "--level", "1"], "--level goes with --percentile and --slowest"),
        (["--slowest", "2", "--level", "7"], "the run has no level '7'; it has 0 (1 stream"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(queued: Path, args: list[str], sentence: str) -> None:
    code, said = command("explain", queued, *args)
    assert code == 2
    assert sentence in said
