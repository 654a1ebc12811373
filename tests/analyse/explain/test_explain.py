"""`loadtest explain`: parts add up, the rest is printed, and words, table and JSON say no more than that."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console
from support import planted
from support.explained import TIMING, explained
from support.made_runs import write
from support.planted import Case, Playing, Sent
from support.scored import command
from support.two_models import target, two_models
from support.virtual_runs import Load, play

from loadtest.analyse.explain import time_parts as parts
from loadtest.analyse.explain.explanation import MODEL_LOAD, NOBODY, Explainer, Explanation, Slowness, Without, busiest
from loadtest.analyse.explain.timeline import WorkWindow, moments, shared_out
from loadtest.analyse.reports import explain_report as words
from loadtest.analyse.run import LevelData
from loadtest.analyse.summary import analyse
from loadtest.cli.explain import _show_table
from loadtest.doubts import VOID
from loadtest.records import Record
from loadtest.simulate.model.timing import StepLaw
from loadtest.text import seconds


@pytest.mark.usefixtures("no_what_ifs")
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


@pytest.mark.usefixtures("no_what_ifs")
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


@pytest.mark.usefixtures("no_what_ifs")
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


@pytest.mark.usefixtures("no_what_ifs")
def test_the_whole_time_is_counted_from_the_same_instant_as_the_first_token(tmp_path: Path) -> None:
    """It said "39.8 ms to the first token, 39.4 ms in all": E2E counts from the send, the parts from when it was due."""
    plan = tuple(Sent(number, 100, 1 + number % 2, at=number / 2) for number in range(10))
    found = explained(Playing(Case(planted.PROMPT, TIMING, 2, None, plan, None), 0).play().write(tmp_path / "run"), 8)
    late = dataclasses.replace(found, parts=dataclasses.replace(found.parts, total_s=found.ttft_s + 0.5))
    to_first = seconds(found.ttft_s + 0.5)
    assert words.heading(late).partition(": ")[2].startswith(to_first)
    assert words.heading(late).endswith(f", {to_first} in all")


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


@pytest.mark.usefixtures("no_what_ifs")
def test_the_load_is_named_only_where_neither_the_server_nor_one_request_is_to_blame(queued: Path) -> None:
    """A level in which each step took 1.4 times as long as in the others was said to be slow by its load."""
    found = explained(queued, 60)
    saves_nothing = Without(MODEL_LOAD, None, found.ttft_s, (found.ttft_s, found.ttft_s))
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


@pytest.mark.usefixtures("no_what_ifs")
def test_a_cause_that_may_count_is_not_said_to_make_nothing_faster(queued: Path) -> None:
    """Of two prompts of 3,005 tokens, read together, neither was said to make the other faster: a band of 313 ms to 2.95 s."""
    found = explained(queued, 60)
    perhaps = Without(MODEL_LOAD, None, 0.8 * found.ttft_s, (0.2 * found.ttft_s, 1.4 * found.ttft_s))
    found = dataclasses.replace(found, usual_s=found.ttft_s, slow=None, without=(perhaps,), no_replay=None)
    low, high = map(seconds, perhaps.band)
    assert words.without(found) == (
        "Of 1 cause left out in turn, none makes it clearly faster: without the model load it may have taken "
        f"{low} to {high}, and measured it took {seconds(found.ttft_s)}."
    )
    assert not any("rather than one request" in said for said in words.notes(found))


@pytest.mark.usefixtures("no_what_ifs")
def test_what_it_would_have_taken_counts_from_when_it_was_due(queued: Path) -> None:
    """Of a request that left 0.5 s late "1.70 s to the first token" was held against "without …: 0.60 s", from the send."""
    found = explained(queued, 60)
    parts = dataclasses.replace(found.parts, total_s=found.ttft_s + 0.5)
    half = Without(MODEL_LOAD, None, 0.5 * found.ttft_s, (0.4 * found.ttft_s, 0.6 * found.ttft_s))
    found = dataclasses.replace(found, parts=parts, without=(half,), no_replay=None)
    likely, low, high = (seconds(share * found.ttft_s + 0.5) for share in (0.5, 0.4, 0.6))
    assert words.without(found) == f"Without the model load: {likely} to the first token ({low} to {high})."


@pytest.mark.usefixtures("no_what_ifs")
@pytest.mark.parametrize("told", [1, 3])
def test_the_law_of_short_prompts_says_nothing_of_one_longer_than_most(told: int, queued: Path) -> None:
    """Two prompts of 3,005 tokens among short ones: 1.08 s of the second was "longer than such prompts take here"."""
    analysis = analyse(queued)
    splitter = Explainer.of(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"]).splitter
    timeline = splitter.timeline
    timeline.tokens[30 : 31 + told] = 10 * np.nanmax(timeline.tokens)
    assert math.isfinite(splitter._usual(30)) == (told == 3)


@pytest.mark.usefixtures("no_what_ifs")
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


@pytest.mark.usefixtures("no_what_ifs")
def test_a_request_does_not_decode_beside_itself(queued: Path) -> None:
    """Of two users of an Ollama, whose tokens are stamped before they come: "beside 2 streams that decoded"."""
    found = analyse(queued)
    splitter = Explainer.of(found.run, found.slots, found.steps, found.summary["levels"]).splitter
    later = dataclasses.replace(splitter.timeline, first=splitter.timeline.first + 0.01)
    parts_of_one = dataclasses.replace(splitter, timeline=later).split(5).first  # of the level of one stream
    assert [part.streams for part in parts_of_one if part.name == parts.OWN] == [0]


@pytest.mark.usefixtures("no_what_ifs")
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


@pytest.mark.usefixtures("no_what_ifs")
def test_nobody_is_said_of_waits_and_prompts_alone(queued: Path) -> None:
    """Of 167 ms, 60 of them for two streams that decoded: "No other request caused a part of it that counts"."""
    found = dataclasses.replace(explained(queued, 60), no_replay=NOBODY)
    assert words.without(found) == "Neither a wait for a slot nor another request's prompt is a part of it that counts."


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


@pytest.mark.usefixtures("no_what_ifs")
def test_a_table_of_a_void_level_says_that_it_is_void(queued: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the text of a single request said so, and its JSON did not."""
    found = explained(queued, 47)
    void = dataclasses.replace(found, level=LevelData(found.level, verdict=VOID))
    _show_table(Console(width=80), [void, void])
    assert "! The level is void, so these times may not be the server's" in capsys.readouterr().out
    assert (found.to_dict()["verdict"], void.to_dict()["verdict"]) == (found.level["verdict"], VOID)


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


def test_beside_embeddings_a_chat_is_explained_and_they_are_not(tmp_path: Path) -> None:
    """Was "measured embeddings" of a chat, where the run's first target embeds."""

    def embeds(record: Record) -> dict[str, Any]:
        nothing = dict.fromkeys(("t_first_token", "t_first_visible", "server_us", "output_tokens", "asked"))
        return {} if record.target else {**nothing, "chunks": []}

    first = target("made", dialect="ollama-embeddings")
    two_models(tmp_path / "run", embeds, target=first, targets=[first, target("other")])
    code, said = command("explain", tmp_path / "run", "--request", 21)
    assert (code, said.startswith("Request 21 of other")) == (0, True)
    code, said = command("explain", tmp_path / "run", "--request", 20)
    assert (code, said) == (
        2,
        "request 20: embeddings were measured, and an answer without tokens has no parts to explain.",
    )


@pytest.mark.usefixtures("no_what_ifs")
def test_steps_of_a_gateway_that_gathers_tokens_are_said_to_be_unsure(queued: Path) -> None:
    """Was "4.01 s steps of up to 2 streams" without a word behind Squid's delay pools, of a server that wrote for 0.5 s."""
    found = explained(queued, 47)
    gathered = LevelData({**found.level, "causes": [{"cause": "bundled", "verdict": "suspect"}]})
    said = [list(words.level_notes(dataclasses.replace(found, level=level))) for level in (found.level, gathered)]
    assert [any("gathers tokens" in note for note in notes) for notes in said] == [False, True]


def test_of_a_load_that_was_measured_again_the_level_that_is_not_void_is_explained() -> None:
    """find-max measured 4 people twice: requests of the void level were explained, those of the other were not."""
    seen = [(2, "valid"), (4, VOID), (4, "suspect"), (4, VOID)]
    levels = [
        LevelData(index=index, concurrency=users, verdict=verdict, outcomes={"ok": 9})
        for index, (users, verdict) in enumerate(seen)
    ]
    assert busiest(levels)["index"] == 2
