"""What binds: the limit that a server meets first, from what the time of requests beyond the objective went into."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import MS, Made, grid, unanswered, write
from support.virtual_runs import Load, SessionLoad, play, play_sessions

from loadtest.analyse.findings.binding_facts import cut_short, load_facts
from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports.run_again import command
from loadtest.analyse.run.frames import load
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.advice.binding import Binding, LoadFacts, what_binds
from loadtest.measure.search import Loads, SearchResult, TriedLevel
from loadtest.records import Outcome
from loadtest.simulate.model.prefix_cache import HostCache
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.slo import parse_objectives

TTFT: dict[str, Any] = {"figure": "ttft_s", "slots": 4, "utilisation": 0.93, "prefill_share": 0.2, "requests": 60}


@pytest.mark.parametrize(
    ("facts", "name", "words"),
    [
        (LoadFacts(**TTFT, parts={"slots": 4.0, "prefill": 0.5}), "slots", "the slots are taken (utilisation 0.93)"),
        (
            LoadFacts(**{**TTFT, "utilisation": 0.54}, parts={"slots": 4.0}),
            "slots",
            "the slots are often taken (utilisation 0.54)",
        ),
        (LoadFacts(**{**TTFT, "utilisation": 0.2}, parts={"slots": 4.0, "prefill": 2.0}), "prefill", "reading prompts"),
        (  # was "reading prompts takes too long (8 % of the server's time)"
            LoadFacts(**{**TTFT, "utilisation": 0.3, "prefill_share": 0.08}, parts={"slots": 4.2, "prefill": 0.5}),
            "slots",
            "the slots are taken in bursts (utilisation 0.30)",
        ),
        (LoadFacts(**{**TTFT, "slots": 1}, parts={"slots": 4.0}), "slots", "the only slot is taken"),
        (
            LoadFacts(**TTFT, parts={"prefill": 3.0, "slots": 0.5}, reread_share=0.8),
            "cache",
            "80 % of the prompt tokens",
        ),
        (
            LoadFacts(**{**TTFT, "prefill_share": 0.4}, parts={"prefill": 3.0, "slots": 0.5}, reread_share=0.1),
            "prefill",
            "(40 % of the server's",
        ),
        (LoadFacts(**TTFT, parts={"batch": 3.0, "prefill": 0.5}), "prefill", "reading prompts takes too long"),
        # was "reading prompts takes too long": a wait that nothing tells apart, and steps that take long by themselves
        (LoadFacts(**TTFT, parts={"unsplit": 3.0, "prefill": 0.5}), "unknown", ""),
        (LoadFacts(**{**TTFT, "prefill_share": 0.9}, parts={"unsplit": 3.0}), "prefill", "reading prompts"),
        (
            LoadFacts(
                **{**TTFT, "prefill_share": 0.1},
                parts={"batch": 0.3, "prefill": 0.3},
                reading=0.02,
                step=0.3,
                decoding=8,
            ),
            "decode",
            "a step takes too long: up to 8 answers share one",
        ),
        (
            LoadFacts(
                **{**TTFT, "prefill_share": 0.1},
                parts={"batch": 0.3, "prefill": 0.3},
                reading=0.3,
                step=0.3,
                decoding=8,
            ),
            "prefill",
            "reading prompts",
        ),
        (
            LoadFacts(**{**TTFT, "prefill_share": 0.9}, parts={"slots": 4.0}, reread_share=0.7),
            "cache",
            "lacks what was read before",
        ),
        (LoadFacts(**{**TTFT, "prefill_share": 0.9}, parts={"slots": 4.0}), "prefill", "(90 % of the server's time)"),
        (LoadFacts(**TTFT, parts={"load": 9.0, "slots": 2.0}), "memory", "wait for the model to be loaded"),
        (
            LoadFacts(figure="tpot_s", parts={"decode": 3.0, "stall": 1.0}, decoding=8),
            "decode",
            "up to 8 answers share a step",
        ),
        (LoadFacts(figure="tpot_s", parts={"decode": 1.0, "stall": 3.0}), "prefill", "reading prompts"),
        (LoadFacts(figure="errors", context_refusals=5, requests=60), "context", "do not fit the context"),
        (LoadFacts(figure="errors", failure="HTTP 503: busy", requests=60), "errors", "requests fail (HTTP 503: busy)"),
        (LoadFacts(figure="", thinks=0.9), "nothing", ""),
        (LoadFacts(figure="ttft_s"), "unknown", ""),
    ],
)
def test_each_cause_is_named(facts: LoadFacts, name: str, words: str) -> None:
    found = what_binds(facts)
    assert found.name == name
    assert words in found.sentence


def test_a_server_that_seldom_reads_is_not_named_as_the_proof_that_reading_takes_too_long() -> None:
    """Alone, too, each prompt took longer than was asked: "reading prompts takes too long (3.9 % of the server's time)"."""
    alone = what_binds(LoadFacts(**{**TTFT, "prefill_share": 0.039}, parts={"prefill": 3.0}))
    assert (alone.name, alone.sentence) == ("prefill", "reading prompts takes too long")


def test_the_evidence_says_where_the_time_went() -> None:
    found = what_binds(LoadFacts(**TTFT, parts={"slots": 4.0, "prefill": 1.0, "batch": 0.01}))
    assert "waiting for one of 4 slots 80 %, reading the prompt 20 %" in found.evidence
    assert "90 % of their time" in what_binds(LoadFacts(figure="", thinks=0.9)).evidence


# Twenty servers and kinds of people, and how many are beyond what the server carries. What binds is what gains the most people
# when it is relaxed: slots doubled, a host cache without limit, prefill or decode twice as fast.
SLOTS: dict[str, Any] = {"later": (20, 60), "think_s": 20.0}
GROWING: dict[str, Any] = {"turns": 8, "think_s": 30.0, "slo": "ttft_p95=3"}
DOCUMENTS: dict[str, Any] = {"host": HostCache(None), "think_s": 20.0}
CASES: list[tuple[str, int, dict[str, Any]]] = [
    ("slots", 7, {**SLOTS, "slots": 1}),
    ("slots", 16, {**SLOTS, "slots": 2}),
    ("slots", 24, {**SLOTS, "slots": 4}),
    ("slots", 25, {**SLOTS, "slots": 8, "think_s": 8.0}),
    ("slots", 17, {**SLOTS, "slots": 2, "host": HostCache(None)}),
    ("slots", 29, {**SLOTS, "slots": 4, "host": HostCache(None)}),
    ("slots", 11, {**SLOTS, "slots": 4, "think_s": 2.0, "host": HostCache(None)}),
    ("slots", 60, {**SLOTS, "slots": 4, "think_s": 60.0, "host": HostCache(None)}),
    ("slots", 8, {**SLOTS, "slots": 4, "answer": (60, 100), "host": HostCache(None)}),
    ("cache", 5, {**GROWING, "slots": 4, "first": (300, 400), "later": (700, 900), "prefill": 0.001}),
    ("cache", 5, {**GROWING, "slots": 4, "first": (300, 400), "later": (700, 900), "prefill": 0.001, "kept": 8000.0}),
    ("cache", 8, {**GROWING, "slots": 6, "first": (150, 200), "later": (300, 400), "prefill": 0.002}),
    (
        "cache",
        11,
        {**GROWING, "slots": 8, "first": (500, 600), "later": (900, 1200), "prefill": 0.0008, "think_s": 40.0},
    ),
    ("cache", 12, {**GROWING, "slots": 4, "first": (3000, 4000), "later": (20, 60), "think_s": 60.0}),
    ("prefill", 11, {**DOCUMENTS, "slots": 4, "first": (3000, 4000), "later": (20, 60)}),
    (
        "prefill",
        11,
        {**DOCUMENTS, "slots": 8, "first": (1500, 2500), "later": (1500, 2500), "turns": 3, "prefill": 0.001}
        | {"answer": (3, 4), "slo": "ttft_p95=6"},
    ),
    (
        "prefill",
        11,
        {**DOCUMENTS, "slots": 4, "first": (1000, 1500), "later": (1000, 1500), "turns": 2, "prefill": 0.0015}
        | {"answer": (2, 3), "slo": "ttft_p95=5"},
    ),
    (
        "prefill",
        11,
        {"slots": 8, "first": (3000, 3000), "turns": 1, "prefill": 0.001, "answer": (2, 3), "slo": "ttft_p95=6"}
        | {"think_s": 20.0},
    ),
    ("decode", 11, {"slots": 16, "think_s": 10.0, "each": 0.02, "slo": "tpot_p95=0.2", "host": HostCache(None)}),
    ("decode", 7, {"slots": 8, "think_s": 5.0, "each": 0.02, "slo": "tpot_p95=0.17", "host": HostCache(None)}),
]


def bound(place: Path, users: int, **case: Any) -> Binding:
    """Return what binds at a load beyond what the server carries."""
    timing = Timing(step=StepLaw(0.1, case.pop("each", 0.01)), prefill_s=case.pop("prefill", 0.0005))
    slots, host, slo = case.pop("slots"), case.pop("host", None), case.pop("slo", "ttft_p95=3")
    if (kept := case.pop("kept", None)) is not None:
        host = HostCache(kept)
    people = {"first": (200, 400), "later": (20, 60), "answer": (16, 24), **case}
    loads = [SessionLoad(users=many, sessions=max(2 * many, 15), **people) for many in (1, users)]
    played = play_sessions(timing, loads, slots=slots, host=host and HostCache(host.limit), seed=1)
    objectives = parse_objectives(slo)
    analysis = analyse(played.write(place / "run"), objectives)
    return what_binds(load_facts(analysis, 1, objectives))


@pytest.mark.parametrize(("name", "users", "case"), CASES)
def test_the_limit_that_was_changed_on_purpose_is_named(
    tmp_path: Path, name: str, users: int, case: dict[str, Any]
) -> None:
    found = bound(tmp_path, users, **case)
    assert found.name == name, (found.sentence, found.evidence)
    assert found.evidence


def test_where_all_is_met_nothing_binds(tmp_path: Path) -> None:
    found = bound(tmp_path, 4, slots=4, host=HostCache(None), think_s=60.0, slo="ttft_p95=30")
    assert (found.name, found.sentence) == ("nothing", "")
    assert "think for" in found.evidence


def tried(*levels: tuple[int, bool | None, bool]) -> list[TriedLevel]:
    return [TriedLevel(load, 60, met, "", leans=leans) for load, met, leans in levels]


def test_the_answer_names_people_their_interval_and_what_binds() -> None:
    found = SearchResult.of(
        tried((4, True, True), (8, True, True), (16, False, False), (12, None, False), (11, None, True))
    )
    assert (found.answer, found.beyond, found.interval) == (11, 12, (8, 15))
    said = found.sentence("TTFT p95 ≤ 3 s", loads=Loads("people"), binds="the slots are taken (utilisation 0.93)")
    assert said == (
        "The server carries 11 people of this kind (8 to 15) within TTFT p95 ≤ 3 s; past that the slots are taken "
        "(utilisation 0.93)."
    )
    none = SearchResult.of(tried((4, False, False), (2, False, False), (1, False, False)))
    assert none.sentence("x", loads=Loads("people")) == "Not even one person meets x."
    cut = SearchResult.of(tried((16, None, False)))  # was "not even 0.06 requests/s", of a search that ended after 1
    said = cut.sentence("x", loads=Loads("requests/s", 1 / 16), binds="why")
    assert said == "1 request/s misses x, as far as its figures show; no lower load was measured to its end: why."
    rates = SearchResult.of(
        tried((16, True, True), (32, False, False), (24, True, True), (28, False, False), (26, False, False))
    )
    assert rates.sentence("x", loads=Loads("requests/s", 0.125)).startswith(
        "The server takes 3 requests/s (3 to 3.25) within x"  # was "3.00 (3.00 to 3.12)": nothing tells of 3.2
    )
    assert Loads("sessions/s", 0.5).name(2) == "1 session/s"  # was "1.00 requests/s" of conversations


def test_the_answer_and_the_question_are_in_reports(tmp_path: Path) -> None:
    played = play_sessions(
        Timing(step=StepLaw(0.1, 0.01), prefill_s=0.0005), [SessionLoad(users=2, sessions=6)], slots=2
    )
    sentence = "The server carries 2 people of this kind within TTFT p95 ≤ 3 s; past that the slots are taken."
    facts = {
        "find_max": {
            "sentence": sentence,
            "answer": 2,
            "binds": {"name": "slots", "sentence": "…", "evidence": "Seen."},
        },
        "asked": {"slo": "ttft_p95=3", "find_max": 64, "requests": None},
    }
    analysis = analyse(played.write(tmp_path / "run", **facts))
    first = all_findings(analysis)[0]
    assert (str(first), first.evidence) == (sentence, "Seen.")
    assert analysis.summary["find_max"]["answer"] == 2
    said = command(analysis.run)
    assert (said or "").endswith("--slo ttft_p95=3 --find-max 64")


def test_levels_of_a_search_stand_by_load_and_not_in_the_order_of_measurement(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (4, 8, 6, 5), each=4)
    analysis = analyse(write(tmp_path / "run", truth.records, levels, find_max={"sentence": "…", "answer": 5}))
    assert [level["concurrency"] for level in analysis.summary["levels"]] == [4, 5, 6, 8]


def test_a_way_to_the_server_is_no_reading_of_prompts(tmp_path: Path) -> None:
    """Behind a gateway of 400 ms: "reading prompts takes too long", of prompts that the server read in 50 ms."""
    levels, truth = grid(Made(load_ms=0), (1,), each=20)
    answered = ("t_headers", "t_first_byte", "t_first_token", "t_first_visible")
    far = [
        dataclasses.replace(
            one,
            chunks=[chunk + 400_000 for chunk in one.chunks],
            **{name: at + 400 * MS for name in answered if (at := getattr(one, name))},
        )
        for one in truth.records
    ]
    found = what_binds(load_facts(analyse(write(tmp_path / "run", far, levels)), 0, parse_objectives("ttft_p95=0.2")))
    assert found.name == "unknown"
    assert "on the way, or in a gateway 89 %" in found.evidence


@pytest.mark.parametrize(
    ("users", "hold_s", "name"), [((1,), 2.0, "unknown"), ((1, 2, 4), 2.0, "unknown"), ((1, 2, 4), 0.0, "prefill")]
)
def test_what_a_silent_gateway_holds_is_no_reading_of_prompts(
    tmp_path: Path, users: tuple[int, ...], hold_s: float, name: str
) -> None:
    """Held for 2 s each, prompts took "64 % of the server's time" to read; of no durations only pauses of streams show reading."""
    timing = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.0005 if hold_s else 0.02, jitter=0.03, handling_s=hold_s)
    found = analyse(play(timing, [Load(users=each) for each in users], slots=4, says=None).write(tmp_path / "run"))
    assert what_binds(load_facts(found, 0, parse_objectives("ttft_p95=1"))).name == name


def test_who_hangs_up_where_nobody_else_asked_did_not_wait_behind_the_slots(tmp_path: Path) -> None:
    """One user behind another client: "the slots are taken in bursts (utilisation 0.00)"."""
    levels, truth = grid(Made(), (1,), each=20)
    left = [unanswered(one, Outcome.LEFT) for one in truth.records]
    path = write(tmp_path / "run", left, levels, server={"kind": "llama.cpp", "slots_said": 4})
    found = what_binds(load_facts(analyse(path), 0, parse_objectives("ttft_p95=0.2")))
    assert (found.name, found.sentence) == ("unknown", "")


@pytest.mark.parametrize(("refused", "left"), [(1, 0), (8, 0), (8, 6)])
def test_turns_that_are_refused_bind_where_the_others_are_in_time(tmp_path: Path, refused: int, left: int) -> None:
    """Was nothing: "8 people miss it", without a word of why. The others take 52 ms, in floats a little more."""
    levels, truth = grid(Made(), (2,), each=16)
    why = "the request exceeds the available context size"
    failed = [unanswered(one, Outcome.HTTP_ERROR, status=400, error=why) for one in truth.records[2 : 2 + refused]]
    gone = [unanswered(one, Outcome.LEFT) for one in truth.records[2 + refused : 2 + refused + left]]
    run = write(tmp_path / "run", [*failed, *gone, *truth.records[2 + refused + left :]], levels)
    found = what_binds(load_facts(analyse(run), 0, parse_objectives("ttft_p90=0.052")))
    assert (found.name, found.sentence) == ("context", "requests do not fit the context")


def test_a_search_says_how_many_conversations_the_context_cut_short(tmp_path: Path) -> None:
    played = play_sessions(
        Timing(step=StepLaw(0.1, 0.01), prefill_s=0.0005), [SessionLoad(users=2, sessions=6)], slots=2
    )
    note = "the conversation ends here, for its next turn would pass the context of 512 tokens"
    last = {one.session: one.id for one in played.records}
    cut = [dataclasses.replace(one, notes=[note]) if last[one.session] == one.id else one for one in played.records]
    run = dataclasses.replace(played, records=cut).write(tmp_path / "run")
    said = "6 of 6 conversations ended early, before a turn that would pass the context of 512 tokens."
    assert cut_short(load(run)) == said
    assert cut_short(load(played.write(tmp_path / "whole"))) == ""


def test_one_request_too_long_is_not_what_makes_most_fail(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (2,), each=16)
    said = ["exceed_context_size_error", *["out of memory"] * 8]
    failed = [
        unanswered(one, Outcome.HTTP_ERROR, status=500, error=words)
        for one, words in zip(truth.records[2:], said, strict=False)
    ]
    run = write(tmp_path / "run", [*failed, *truth.records[11:]], levels)
    found = what_binds(load_facts(analyse(run), 0, parse_objectives("errors=0.01")))
    assert (found.name, found.sentence) == ("errors", "requests fail (out of memory)")
