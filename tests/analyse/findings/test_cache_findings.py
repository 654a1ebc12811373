"""What conversations show of the prefix cache, in sentences and charts: nothing that the run did not show."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support import talkers
from support.virtual_runs import Load, SessionLoad, play, play_sessions

from loadtest.analyse.charts import draw_all
from loadtest.analyse.comparison.compare import compare_part
from loadtest.analyse.comparison.estimates import METRICS
from loadtest.analyse.findings.cache_findings import cache_findings, may_be_warm
from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.run.levels import LevelData, axis_of
from loadtest.analyse.server.prompt_cache import cache_replay
from loadtest.analyse.summary import Analysis, analyse
from loadtest.simulate.model.prefix_cache import HostCache
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.02, 0.005), prefill_s=0.002, jitter=0.05)
SCENARIO = {"turns": 4, "answers": "server"}
LLAMA = {"kind": "llama.cpp", "context": 4096, "simulated": None}


def talked(
    path: Path, *users: int, slots: int | None = 2, server: dict[str, Any] | None = None, **more: Any
) -> Analysis:
    loads = [SessionLoad(users=each, sessions=5 * each) for each in users]
    made = play_sessions(TIMING, loads, slots=slots, **more)
    return analyse(made.write(path, scenario=SCENARIO, server=server or LLAMA))


@pytest.fixture(scope="module")
def few_slots(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return talked(tmp_path_factory.mktemp("cache") / "run", 1, 2, 6)


def test_prompts_that_were_sent_before_show_no_prefill_speed_where_nothing_is_counted(tmp_path: Path) -> None:
    """Of a real vLLM, at the second run of a seed: "Prefill runs at 7334 prompt tokens/s or faster", where it was 1347."""
    made = play(TIMING, [Load(users=1, requests=20, prompt=(100, 400))], slots=2)
    new = analyse(made.write(tmp_path / "a"))
    again = analyse(made.write(tmp_path / "b", sent_before="a"))
    assert any("Prefill runs at" in one for one in all_findings(new))
    assert not any("Prefill runs at" in one for one in all_findings(again))
    for scenario in ({"data": "rows.jsonl"}, {"warm_cache": True}):  # "40,000 tokens/s" of rows that begin alike
        own = analyse(made.write(tmp_path / "-".join(scenario), scenario=scenario))
        assert not any("Prefill runs at" in one for one in all_findings(own))
        assert cache_findings(own)[0].startswith(
            f"Prompts may begin alike or come again (--{next(iter(scenario)).replace('_', '-')}), and the server does"
        )
    [found] = cache_findings(again)
    assert found.startswith("Prompts of this seed were sent to this model before, by a, and the server does not say")
    for bases, news, side in (((new,), (again,), "NEW"), ((again,), (new,), "BASE")):  # of the same command run again
        said = [
            note for note in compare_part((bases, news), frozenset(), METRICS)[1] if "May differ: the prompts" in note
        ]
        assert [side in one for one in said] == [True]
    assert not any("May differ" in note for note in compare_part(((new,), (new,)), frozenset(), METRICS)[1])


def test_conversations_that_are_kept_and_those_that_are_not_are_told_with_their_price(few_slots: Analysis) -> None:
    [found] = cache_findings(few_slots)
    assert found.startswith("With 2 slots and no host cache seen, the conversation")
    assert "turn of 6 people read" in found or "turns of 6 people read" in found
    assert "whole history again (prefill" in found
    assert " instead of " in found
    assert "server says how many prompt tokens" in found.evidence
    assert "replayed" in found.evidence
    assert found in all_findings(few_slots)


def test_a_server_that_keeps_nothing_is_not_said_to_have_too_few_slots(tmp_path: Path) -> None:
    """llama.cpp with its prefix cache off: "with 2 slots and no host cache seen, nearly every turn of 2 people …"."""
    made = play_sessions(TIMING, [SessionLoad(users=2, sessions=10)], slots=2)
    for record in made.records:
        timings = (record.server or {})["timings"]
        timings |= {"cache_n": 0, "prompt_n": timings["cache_n"] + timings["prompt_n"]}
    server = {**LLAMA, "slots_said": 2}
    [found, *_] = cache_findings(analyse(made.write(tmp_path / "run", scenario=SCENARIO, server=server)))
    assert found == (
        "Nearly every later turn of 2 people reads its whole history again, though 2 slots that keep their last conversation would have "
        "kept most: the server seems to keep no prompts (its prefix cache may be off)."
    )
    loads = [SessionLoad(users=each, sessions=5 * each) for each in (2, 4)]
    made = play_sessions(TIMING, loads, slots=4)
    for record in made.records:
        timings = (record.server or {})["timings"]
        if record.level == 1:
            timings |= {"cache_n": 0, "prompt_n": timings["cache_n"] + timings["prompt_n"]}
    server = {**LLAMA, "slots_said": 4}
    [found, *_] = cache_findings(analyse(made.write(tmp_path / "both", scenario=SCENARIO, server=server)))
    assert "the conversations of 2 people are kept" in found


def test_a_history_that_is_kept_but_for_its_answers_is_kept_in_part(tmp_path: Path) -> None:
    """Was "each turn reads little more than its new text" where every turn read the answers before it again."""
    loads = [SessionLoad(users=1, sessions=5, first=(250, 300), answer=(150, 200), turns=3)]
    made = play_sessions(TIMING, loads, slots=2, answers_kept=False)
    [found, *_] = cache_findings(analyse(made.write(tmp_path / "run", scenario=SCENARIO, server=LLAMA)))
    assert "are kept in part: later turns read " in found


@pytest.mark.parametrize(("users", "who"), [((2, 4), "4 people"), ((2, 4, 6), "4 people or more")])
def test_of_more_people_than_were_judged_it_is_said_that_nothing_is_known(
    users: tuple[int, ...], who: str, tmp_path: Path
) -> None:
    """Was "with 4 slots the conversations of 2 people are kept" where 4 people shared every prefill, as if theirs were lost."""
    loads = [SessionLoad(users=each, sessions=5 * each, first=(250, 300), turns=3) for each in users]
    made = play_sessions(TIMING, loads, slots=4)
    analysis = analyse(made.write(tmp_path / "run", scenario=SCENARIO, server=LLAMA))
    for level in analysis.levels[1:]:
        level["cached_share"] = None
    [found, *_] = cache_findings(analysis)
    assert "he conversations of 2 people are kept: " in found
    assert found.endswith(f"; whether those of {who} are kept is not known.")


def test_a_text_that_all_begin_with_is_no_whole_history_lost(tmp_path: Path) -> None:
    """Was "read their whole history again" where a fifth of it, which all conversations share, was found each time."""
    made = play_sessions(TIMING, [SessionLoad(users=6, sessions=30, first=(250, 300), turns=3)], slots=2)
    for record in made.records:
        timings = (record.server or {})["timings"]
        more = max(60 - timings["cache_n"], 0) if record.turn else 0
        timings |= {"cache_n": timings["cache_n"] + more, "prompt_n": timings["prompt_n"] - more}
    [found, *_] = cache_findings(analyse(made.write(tmp_path / "run", scenario=SCENARIO, server=LLAMA)))
    assert "more than half of" in found
    assert "whole history" not in found


def test_a_text_that_all_begin_with_is_no_conversation_found(tmp_path: Path) -> None:
    """On llama.cpp without a host cache: "it has a host cache; 15 turns found their history cached", the 390 tokens of its system prompt."""
    loads = [SessionLoad(users=each, sessions=6 * each, first=(700, 720), turns=3) for each in (1, 6)]
    made = play_sessions(TIMING, loads, slots=2, shared=600)
    [found] = cache_findings(analyse(made.write(tmp_path / "run", scenario=SCENARIO, server=LLAMA)))
    assert found.startswith("With 2 slots and no host cache seen, the conversations of 1 person are kept; ")
    assert "whole history again but for the 600 tokens that all begin with (prefill" in found
    assert " behind the 600 tokens that all begin with in the cache." in found.evidence


def test_slots_alone_replayed_keep_what_the_engine_kept(few_slots: Analysis) -> None:
    use = few_slots.cache
    assert use is not None
    replayed = cache_replay.replay(few_slots.run, few_slots.slots, use)
    assert replayed is not None
    assert replayed.host_cache is False
    later = use.history > 0
    assert replayed.share_kept(later) == pytest.approx(float(use.kept[later].mean()), abs=0.02)


def test_a_host_cache_is_said_where_turns_hit_that_slots_alone_had_lost(tmp_path: Path) -> None:
    claim, host = cache_findings(talked(tmp_path / "run", 1, 2, 6, host=HostCache(None)))
    assert claim.startswith("With 2 slots, the conversations of up to 6 people are kept")
    assert "no host cache" not in claim
    assert host.startswith(
        "The server keeps more conversations than its 2 slots hold: it has a host cache, or one that is not of slots"
    )
    assert host.endswith(
        ", whose size is not known."
    )  # full of conversations that were over; was "a host cache" of vLLM behind a gateway
    assert "although slots alone, replayed, had given it up" in host.evidence


def test_where_only_too_many_people_were_measured_nothing_is_said_of_fewer(tmp_path: Path) -> None:
    [found] = cache_findings(talked(tmp_path / "run", 6))
    assert "kept" not in found
    assert found.startswith("With 2 slots and no host cache seen, ")
    assert " of 6 people " in found


def test_where_slots_are_unknown_nothing_is_said_of_them(tmp_path: Path) -> None:
    [found] = cache_findings(talked(tmp_path / "run", 1, 2, slots=4))
    assert found.startswith("The conversations of up to 2 people are kept")
    assert "slots the server has is not known" in found.evidence


def test_vllms_paged_cache_is_said_to_be_not_modelled(tmp_path: Path) -> None:
    [found] = cache_findings(talked(tmp_path / "run", 1, 2, 6, server={"kind": "vllm", "simulated": None}))
    assert "slot" not in found
    assert "pages of one cache and not by slot; that is not modelled" in found.evidence


def test_where_nothing_is_known_of_the_cache_that_is_said_with_its_reason(tmp_path: Path) -> None:
    loads = [SessionLoad(users=each, sessions=5 * each, first=(300, 300)) for each in (1, 6)]
    path = play_sessions(TIMING, loads, slots=2).write(tmp_path / "run", scenario=SCENARIO)
    [found] = cache_findings(analyse(talkers.hidden(path, tmp_path / "hidden")))
    assert found.startswith("How much of each conversation the server had cached is not known (the server does not say")
    assert found.endswith("give --input-tokens a distribution).")


def test_single_requests_say_nothing_of_conversations(tmp_path: Path) -> None:
    found = analyse(play(TIMING, [Load(users=2)], slots=2, says="llamacpp").write(tmp_path / "run"))
    assert cache_findings(found) == []


def test_what_single_requests_found_cached_is_said_by_load(tmp_path: Path) -> None:
    """Was silent where two shared beginnings no longer fitted into the slots at a higher load, and TTFT grew by that."""
    played = play(TIMING, [Load(users=1), Load(users=4)], slots=2, says="llamacpp")
    for record in played.records:
        part = 0.75 if record.level == 0 else 0.25
        record.server["timings"]["cache_n"] = int(part * record.prompt_tokens)  # type: ignore[index,operator]
        record.server["timings"]["prompt_n"] = record.prompt_tokens - int(part * record.prompt_tokens)  # type: ignore[index,operator]
    [found] = cache_findings(analyse(played.write(tmp_path / "run")))
    assert found == (
        "The server had 75 % of the prompt tokens cached at 1 stream, and 25 % at 4 streams: it did not read these again."
    )


@pytest.mark.usefixtures("short_reports")
def test_charts_of_turns_are_drawn_where_there_are_turns(few_slots: Analysis, tmp_path: Path) -> None:
    names = {path.name for path in draw_all(few_slots, tmp_path / "charts")}
    assert {"turns.png", "reread.png"} <= names
    assert axis_of(few_slots.levels) == "concurrency (people)"
    alone = analyse(play(TIMING, [Load(users=1), Load(users=2)], slots=2).write(tmp_path / "run"))
    assert not {"turns.png", "reread.png"} & {path.name for path in draw_all(alone, tmp_path / "others")}
    rate = LevelData(rate=1.0, concurrency=None)
    assert axis_of([*alone.levels, *few_slots.levels, rate]) == "streams at once or people, or requests/s"


def test_embeddings_have_no_ttft_that_a_warm_cache_could_shorten() -> None:
    run = SimpleNamespace(fact=lambda *_: "rows.jsonl", column=lambda _: np.array([np.nan]))
    assert not may_be_warm(cast("Analysis", SimpleNamespace(run=run, cache=None)))
