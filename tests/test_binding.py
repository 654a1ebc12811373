"""What binds: the limit that a server meets first, from what the time of requests beyond the objective went into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.virtual_runs import Talks, play_talks

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports.command import command
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.binding import Binding, LoadFacts, what_binds
from loadtest.analyse.whatif.binding_facts import load_facts
from loadtest.measure.search import Loads, SearchResult, TriedLevel
from loadtest.simulate.model.prefix_cache import HostCache
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.slo import parse_objectives

TTFT: dict[str, Any] = {"figure": "ttft_s", "slots": 4, "utilisation": 0.93, "prefill_share": 0.2, "requests": 60}


@pytest.mark.parametrize(
    ("facts", "name", "words"),
    [
        (LoadFacts(**TTFT, parts={"slots": 4.0, "prefill": 0.5}), "slots", "the slots are taken (utilisation 0.93)"),
        (LoadFacts(**{**TTFT, "utilisation": 0.2}, parts={"slots": 4.0, "prefill": 2.0}), "prefill", "reading prompts"),
        (LoadFacts(**{**TTFT, "slots": 1}, parts={"slots": 4.0}), "slots", "the only slot is taken"),
        (
            LoadFacts(**TTFT, parts={"prefill": 3.0, "slots": 0.5}, reread_share=0.8),
            "cache",
            "80 % of the prompt tokens",
        ),
        (LoadFacts(**TTFT, parts={"prefill": 3.0, "slots": 0.5}, reread_share=0.1), "prefill", "(20 % of the server's"),
        (LoadFacts(**TTFT, parts={"batch": 3.0, "prefill": 0.5}), "prefill", "reading prompts takes too long"),
        (
            LoadFacts(**{**TTFT, "prefill_share": 0.9}, parts={"slots": 4.0}, reread_share=0.7),
            "cache",
            "keeps too few conversations",
        ),
        (LoadFacts(**{**TTFT, "prefill_share": 0.9}, parts={"slots": 4.0}), "prefill", "(90 % of the server's time)"),
        (LoadFacts(**TTFT, parts={"load": 9.0, "slots": 2.0}), "memory", "does not stay loaded"),
        (
            LoadFacts(figure="tpot_s", parts={"decode": 3.0, "stall": 1.0}, decoding=8),
            "decode",
            "8 answers share each step",
        ),
        (LoadFacts(figure="tpot_s", parts={"decode": 1.0, "stall": 3.0}), "prefill", "reading prompts"),
        (LoadFacts(figure="errors", context_refusals=5, requests=60), "context", "no longer fit the context"),
        (LoadFacts(figure="errors", failure="HTTP 503: busy", requests=60), "errors", "requests fail (HTTP 503: busy)"),
        (LoadFacts(figure="", thinks=0.9), "nothing", ""),
        (LoadFacts(figure="ttft_s"), "unknown", ""),
    ],
)
def test_each_cause_is_named(facts: LoadFacts, name: str, words: str) -> None:
    found = what_binds(facts)
    assert found.name == name
    assert words in found.sentence


def test_the_evidence_says_where_the_time_went() -> None:
    found = what_binds(LoadFacts(**TTFT, parts={"slots": 4.0, "prefill": 1.0, "batch": 0.01}))
    assert "waiting for a slot 80 %, reading the prompt 20 %" in found.evidence
    assert "of 4 slots" in found.evidence
    assert "90 % of their time" in what_binds(LoadFacts(figure="", thinks=0.9)).evidence


TIMING = Timing(step=StepLaw(0.1, 0.01), prefill_s=0.0005)


def bound(
    place: Path, slo: str, timing: Timing = TIMING, *, slots: int, host: HostCache | None, **talks: Any
) -> Binding:
    """Return what binds at a load beyond what the server carries."""
    users = talks.pop("users")
    loads = [Talks(users=many, talks=2 * many, answer=(16, 24), **talks) for many in (1, users)]
    played = play_talks(timing, loads, slots=slots, host=host, seed=1)
    objectives = parse_objectives(slo)
    analysis = analyse(played.write(place / "run"), objectives)
    return what_binds(load_facts(analysis, 1, objectives))


def test_too_few_slots_are_named(tmp_path: Path) -> None:
    found = bound(tmp_path, "ttft_p95=3", slots=2, host=HostCache(None), users=24, think_s=20.0)
    assert found.name == "slots"
    assert "utilisation 0." in found.sentence or "utilisation 1." in found.sentence


def test_a_cache_that_keeps_no_conversation_is_named(tmp_path: Path) -> None:
    timing = Timing(step=StepLaw(0.02, 0.001), prefill_s=0.001)
    keys: dict[str, Any] = {"first": (3000, 4000), "later": (20, 60), "think_s": 30.0, "users": 16}
    assert bound(tmp_path / "a", "ttft_p95=3", timing, slots=8, host=None, **keys).name == "cache"


def test_long_prompts_are_named(tmp_path: Path) -> None:
    timing = Timing(step=StepLaw(0.02, 0.001), prefill_s=0.001)
    keys: dict[str, Any] = {"first": (1500, 2500), "later": (1500, 2500), "turns": 2, "think_s": 20.0, "users": 16}
    assert bound(tmp_path, "ttft_p95=4", timing, slots=8, host=HostCache(None), **keys).name == "prefill"


def test_a_speed_that_decoding_keeps_from_being_met_is_named(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"think_s": 4.0, "users": 16}
    found = bound(tmp_path, "tpot_p95=0.15", slots=16, host=HostCache(None), **keys)
    assert found.name == "decode"


def test_where_all_is_met_nothing_binds(tmp_path: Path) -> None:
    found = bound(tmp_path, "ttft_p95=30", slots=4, host=HostCache(None), users=4, think_s=60.0)
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
    rates = SearchResult.of(
        tried((16, True, True), (32, False, False), (24, True, True), (28, False, False), (26, False, False))
    )
    assert rates.sentence("x", loads=Loads("requests/s", 0.125)).startswith(
        "The server takes 3.00 requests/s (3.00 to 3.12) within x"
    )


def test_the_answer_and_the_question_are_in_reports(tmp_path: Path) -> None:
    played = play_talks(TIMING, [Talks(users=2, talks=6)], slots=2)
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
    assert said is None or said.endswith("--slo ttft_p95=3 --find-max 64")
