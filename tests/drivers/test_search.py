"""Find-max: the search itself against servers of known capacity, and the command against the simulated server."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support import insight_search
from support.made_runs import Made, grid, write
from support.virtual_runs import Load, play

from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.summary import analyse
from loadtest.cli.run.find_max import PACE_CHANGED, Finder
from loadtest.errors import ScenarioError
from loadtest.measure.search import NOT_SURELY, Loads, Search, SearchResult, TriedLevel
from loadtest.run_folder import RunFolder
from loadtest.scenario import Level, Scenario
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.slo import parse_objectives

Call = Callable[..., tuple[int, str, str]]


def searched(answer: Callable[[int, int], bool | None], search: Search, *, void: bool = False) -> list[TriedLevel]:
    """Run a whole search; `answer` gets concurrency and attempt."""
    tried: list[TriedLevel] = []
    while (step := search.next_level(tried)) is not None:
        attempt = sum(one.concurrency == step.concurrency for one in tried)
        met = answer(step.concurrency, attempt)
        tried.append(TriedLevel(step.concurrency, step.requests, met, "", void and met is None))
        assert len(tried) < 60
    return tried


@pytest.mark.parametrize("limit", [*range(34), 63, 64, 100, 200, 255, 256, 300])
def test_the_highest_that_meets_is_found_by_doubling_and_halving(limit: int) -> None:
    tried = searched(lambda users, _: users <= limit, Search(least=20))
    found = SearchResult.of(tried)
    assert len({one.concurrency for one in tried}) == len(tried)
    if limit >= 256:
        assert (found.met, found.missed) == (256, None)
    elif limit == 0:
        assert (found.met, found.missed, len(tried)) == (None, 1, 1)
    else:
        assert found.met is not None
        assert found.missed is not None
        assert found.met <= limit < found.missed
        assert found.missed - found.met <= max(1, found.met // 16)
    assert len(tried) <= 14


def test_the_bound_is_kept_and_reached() -> None:
    tried = searched(lambda *_: True, Search(least=20, most=6))
    assert [one.concurrency for one in tried] == [1, 2, 4, 6]
    found, least = SearchResult.of(tried), "The server takes at least 6 streams within x; "
    assert found.sentence("x") == f"{least}no higher load was measured to its end."
    assert found.sentence("x", most=6) == f"{least}--find-max was to go no further."  # it was not cut short


@pytest.mark.parametrize(
    ("missed", "said"),
    [
        (
            False,
            "The server takes at least 2 streams within x (by its figures, though not surely); no higher load was measured to its end.",
        ),  # was "surely 0 streams"
        (True, "The server takes 2 streams (by its figures, though not surely) within x; 4 streams miss it."),
    ],
)
def test_where_no_load_surely_meets_that_is_said(*, missed: bool, said: str) -> None:
    found = SearchResult(None, None, answer=2, beyond=4 if missed else None)
    assert found.sentence("x") == said
    # was "Nothing is known about x" beside the figures of a level that was interrupted
    assert SearchResult.of(()).sentence("x") == "No level that tells of x was measured to its end."


def test_an_unclear_level_is_measured_again_with_more_requests() -> None:
    tried = searched(
        lambda users, attempt: None if users == 4 and attempt < 1 else users < 6, Search(least=20, a_stream=8)
    )
    assert [(one.concurrency, one.requests) for one in tried] == [
        (1, 20),
        (2, 20),
        (4, 32),
        (4, 64),
        (8, 64),
        (6, 48),
        (5, 40),
    ]
    assert SearchResult.of(tried).sentence("x") == "The server takes 5 streams within x; 6 streams miss it."


def test_on_the_way_up_a_level_that_meets_by_its_figures_is_not_measured_twice() -> None:
    """At 2 and 4 requests/s TTFT p95 was 25 ms against 300 ms, without an interval: each was measured for a minute more."""
    search, tried = Search(least=60, start=2), list[TriedLevel]()
    while (step := search.next_level(tried)) is not None:
        again = any(one.concurrency == step.concurrency for one in tried)
        met = False if step.concurrency > 9 else True if again else None
        tried.append(TriedLevel(step.concurrency, step.requests, met, "", leans=step.concurrency <= 9))
    assert [one.concurrency for one in tried] == [2, 4, 8, 16, 12, 10, 9, 9]
    assert SearchResult.of(tried).sentence("x") == "The server takes 9 streams within x; 10 streams miss it."


def test_what_stays_unclear_is_said() -> None:
    tried = searched(lambda users, _: None if 9 <= users <= 11 else users < 9, Search(least=20))
    found = SearchResult.of(tried)
    assert found.met == 8
    assert found.missed == 12
    said = found.sentence("TTFT p95 ≤ 2 s")
    assert said == "The server takes 8 streams (8 to 11) within TTFT p95 ≤ 2 s; 9 streams miss it."


def test_a_level_that_stays_void_ends_the_search() -> None:
    tried = searched(lambda users, _: None if users >= 4 else True, Search(least=20), void=True)
    assert [(one.concurrency, one.requests) for one in tried] == [(1, 20), (2, 20), (4, 32), (4, 32), (4, 32)]
    found = SearchResult.of(tried)
    assert found.void == 4
    assert "above 2 streams" in found.sentence("x")
    assert "so that this run cannot tell" in found.sentence("x")


def test_a_repeat_that_is_void_leaves_what_was_measured_before() -> None:
    """Was "Unresolved below 2 requests/s: at 1 request/s the level is void", of a rate that had been measured, and had missed."""
    search, loads = Search(least=40, start=16), Loads("requests/s", 1 / 16)
    tried = [TriedLevel(16, 60, None, "", leans=False), *[TriedLevel(16, 120, None, "", void=True)] * 2]
    step = search.next_level(tried)
    assert step is not None
    assert step.concurrency == 8
    tried += [TriedLevel(8, 60, None, "", leans=True)]
    tried += [TriedLevel(load, 60, False, "", leans=False) for load in (12, 10, 9)]
    while (step := search.next_level(tried)) is not None:  # the answer is measured again, and is void then
        tried.append(TriedLevel(step.concurrency, step.requests, None, "", void=step.concurrency == 8, leans=True))
        assert len(tried) < 20
    said = SearchResult.of(tried).sentence("x", loads=loads)
    assert (
        said
        == f"The server takes 0.5 requests/s ({NOT_SURELY}; 0.5625 requests/s surely miss) within x; 0.5625 requests/s miss it."
    )


@pytest.mark.parametrize(
    ("met", "missed", "said"),
    [
        (None, None, "Unresolved for x: no level surely meets it and at 6"),  # was "above 0 streams"
        (4, None, "Unresolved above 4 streams for x: 4 streams meet it and at 6"),  # was "no more were tried"
        (4, 8, "Unresolved between 4 and 8 streams for x: 4 streams meet it, 8 streams miss it and at 6"),
        (None, 8, "Unresolved below 8 streams for x: no level surely meets it, 8 streams miss it and at 6"),
    ],
)
def test_a_search_that_ends_in_a_void_level_says_what_is_known(met: int | None, missed: int | None, said: str) -> None:
    found = SearchResult(met, missed, void=6).sentence("x")
    assert found == f"{said} streams the level is void, so that this run cannot tell."


def test_noise_never_gives_a_wrong_order() -> None:
    draw = random.Random(1)
    for _ in range(300):
        limit, blur = draw.randint(0, 70), draw.randint(0, 3)

        def answer(users: int, _: int, at: int = limit, by: int = blur) -> bool | None:
            return None if abs(users - at) < by else users <= at

        found = SearchResult.of(searched(answer, Search(least=20, most=64)))
        assert found.met is None or found.met <= limit
        assert found.missed is None or found.missed > limit
        assert found.sentence("x").endswith(".")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--find-max"], "add --slo"),
        (["--find-max", "--slo", "ttft_p95=2", "--concurrency", "1,2"], "leave out --concurrency"),
        (["--find-max", "--slo", "ttft_p95=2", "--duration", "3"], "leave out --duration"),
        (["--find-max", "--slo", "ttft_p95=2", "--output-tokens", "4,8"], "begins with one level"),
        (["--find-max", "0", "--slo", "ttft_p95=2"], "0 is not in the range"),
        (["--slo", "ttft=2"], "needs a statistic"),
    ],
)
def test_a_mistake_is_said_before_anything_is_sent(
    loadtest: Call, options: list[str], words: str, tmp_path: Path
) -> None:
    code, _, err = loadtest("run", "--url", "http://127.0.0.1:9", "--out", tmp_path / "run", *options)
    assert code == 2
    assert words in " ".join(err.split())
    assert not (tmp_path / "run").exists()


def test_the_levels_of_a_search_are_long_enough_for_what_is_asked() -> None:
    def first(scenario: Scenario, slo: str) -> Scenario:
        return Finder(scenario, parse_objectives(slo), 64, print).first()

    assert first(Scenario(), "ttft_p95=2,tokens_per_s_mean=1").requests == 72
    assert first(Scenario(), "ttft_p99=2").requests == 368
    assert first(Scenario(duration=3.0), "ttft_p95=2").duration is None  # of a file; on the command line it is refused
    with pytest.raises(ScenarioError):
        first(Scenario.from_dict({"rate": [1, 2]}), "ttft_p95=2")
    with pytest.raises(ScenarioError, match="leave out --up-to-context"):
        first(Scenario(up_to_context=True), "ttft_p95=2")


@pytest.mark.parametrize("limit", [3, 7, 20, 50])
def test_a_search_takes_no_more_than_two_and_a_half_times_what_its_levels_need(limit: int) -> None:
    for blur in (0, 1, 2):

        def answer(users: int, _: int, at: int = limit, by: int = blur) -> bool | None:
            return None if abs(users - at) < by else users <= at

        tried = searched(answer, Search(least=60))
        needed = {one.concurrency: one.requests for one in reversed(tried)}
        assert sum(one.requests for one in tried) <= 2.5 * sum(needed.values())


def test_an_answer_that_is_not_sure_gets_a_lower_end() -> None:
    search = Search(least=60, start=4)
    tried = [TriedLevel(4, 60, None, "", leans=True), TriedLevel(4, 120, None, "", leans=True)]
    tried += [TriedLevel(8, 64, False, "", leans=False), TriedLevel(6, 60, False, "", leans=False)]
    tried += [TriedLevel(5, 60, False, "", leans=False)]
    step = search.next_level(tried)
    assert step is not None
    assert (step.concurrency, step.requests) == (2, 120)  # was 60, seldom sure, and then 120: a third of the search
    unclear = search.next_level([*tried, TriedLevel(2, 120, None, "", leans=True)])
    assert unclear is not None
    assert unclear.concurrency == 1
    found = SearchResult.of([*tried, TriedLevel(2, 60, True, "", leans=True)])
    assert search.next_level([*tried, TriedLevel(2, 60, True, "", leans=True)]) is None
    assert found.sentence("x") == "The server takes 4 streams (2 to 4) within x; 5 streams miss it."


def test_a_miss_by_far_is_clear_though_rounds_are_few() -> None:
    """Eight streams at p95 2.4 s against 1.5 s were measured three times, then sixteen: there was no interval."""
    tried = searched(lambda users, _: users < 6, Search(least=60))
    assert [one.concurrency for one in tried] == [1, 2, 4, 8, 6, 5]


@pytest.mark.parametrize(("seed", "at_a_rate"), [(3, False), (4, False), (0, True)])
def test_the_most_that_an_engine_carries_is_found(seed: int, at_a_rate: bool) -> None:
    """`scripts/bench search` does this for as many engines as asked for."""
    row = insight_search.examine(seed, at_a_rate=at_a_rate)
    assert row.near, row
    assert row.held, row
    assert row.seconds < 2.5 * row.needed_s, row


@pytest.mark.parametrize("turns", [{"turns": 4}, {}])
def test_people_who_think_are_searched_for_from_four_on_and_rates_in_sixteenths(turns: dict[str, int]) -> None:
    """Without conversations they were "streams", and a search for 20 s of thought began with one: 20 minutes for 60 requests."""
    people = Scenario.from_dict({**turns, "think_time": 20})
    finder = Finder(people, parse_objectives("ttft_p95=3"), 64, print)
    assert finder.first().levels()[0].load == "4 people"
    rate = Scenario.from_dict({"rate": 2.0})
    at_rates = Finder(rate, parse_objectives("ttft_p95=3"), 8, print)
    first = at_rates.first()
    assert (first.rate, first.duration, first.requests) == ((2.0,), None, 72)


def test_the_fewest_requests_may_be_few(loadtest: Call, tmp_path: Path) -> None:
    """They were said to be too few for eight streams, which nobody had asked for."""
    options = ("--slo", "ttft_p95=2", "--find-max", "4", "--requests", "5", "--out", tmp_path / "run")
    assert "cannot reach http://127.0.0.1:9" in loadtest("run", "--url", "http://127.0.0.1:9", *options)[2]


def test_a_run_searches_level_by_level_and_keeps_them_all(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--output-tokens", "6", "--requests-per-stream", "4", "--slo", "ttft_p50=60,output_tokens_per_s=0.1")
    code, said, err = loadtest("run", "--url", simulated_url, *options, "--find-max", "3", "--out", out)
    facts = RunFolder.open(out).read_run()
    found = facts["find_max"]
    last = said.splitlines()[-1]
    assert found["sentence"] == last
    assert [level["index"] for level in facts["levels"]] == list(range(len(found["tried"])))
    assert len({record.seed for record in RunFolder.open(out).records()}) == len(list(RunFolder.open(out).records()))
    if not any(one["void"] for one in found["tried"]):  # a busy test machine may void what it could not measure
        assert code == 0, err
        assert [level["concurrency"] for level in facts["levels"]][-1] == 3
        assert "simulated server takes at least 3 streams" in last


def test_when_not_even_one_stream_meets_it_the_exit_code_says_so(
    loadtest: Call, simulated_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ("--output-tokens", "4", "--slo", "ttft_p50=1ms", "--find-max", "8", "--out", out)
    code, said, _ = loadtest("run", "--url", simulated_url, *options)
    tried = RunFolder.open(out).read_run()["find_max"]["tried"]
    assert {one["concurrency"] for one in tried} == {1}
    if not tried[-1]["void"]:
        assert code == 1
        assert said.splitlines()[-1].startswith("Not even one stream meets TTFT p50 ≤ 1 ms")


def test_a_level_with_failures_misses_whatever_its_figures(tmp_path: Path) -> None:
    finder = Finder(Scenario(max_error_ratio=0.1), parse_objectives("ttft_p50=2"), 8, print)
    level = Level(index=0, concurrency=2, input_tokens=1, output_tokens=1, words=None, requests=20)
    good = {"n": 20, "p50": 1.0, "ci95_p50": [0.9, 1.1]}
    summary = {"verdict": "suspect", "reasons": [], "requests": 20, "ttft_s": good}
    judged = finder._judged(level, LevelData({**summary, "outcomes": {"ok": 17, "http_error": 3}}))
    assert (judged.met, judged.saw) == (False, "3 of 20 requests failed")
    assert finder._judged(level, LevelData({**summary, "outcomes": {"ok": 18, "http_error": 2}})).met is True
    void = finder._judged(level, LevelData({**summary, "verdict": "void", "reasons": ["late"], "outcomes": {"ok": 20}}))
    assert (void.met, void.void, void.saw) == (None, True, "void (late)")


def test_an_asked_share_of_errors_decides_over_failures() -> None:
    finder = Finder(Scenario(), parse_objectives("errors=0.1"), 8, print)
    level = Level(index=0, concurrency=2, input_tokens=1, output_tokens=1, words=None, requests=40)
    summary = {"verdict": "suspect", "reasons": [], "requests": 40}
    assert finder._judged(level, LevelData({**summary, "outcomes": {"ok": 36, "timeout": 4}})).met is True
    assert finder._judged(level, LevelData({**summary, "outcomes": {"ok": 35, "timeout": 5}})).met is False


def test_a_search_for_what_the_server_does_not_say_ends_at_once(tmp_path: Path) -> None:
    levels, truth = grid(Made(), [1], each=40)
    silent = [dataclasses.replace(record, server=None) for record in truth.records]
    folder = write(tmp_path / "run", silent, levels)
    finder = Finder(Scenario(), parse_objectives("queue_wait_p95=2"), 8, print)
    level = Level(index=0, concurrency=1, input_tokens=1, output_tokens=1, words=None, requests=40)
    assert finder(folder, [level]) is None
    found, sentence = finder.conclude(folder)
    assert found.met is None
    assert sentence.startswith("Nothing is known about queue wait p95 ≤ 2 s: queue wait p95 is unknown (this server")


def test_what_a_lower_load_showed_is_kept_where_the_next_one_tells_nothing(tmp_path: Path) -> None:
    """4 requests/s surely met it, and "nothing is known" stood there, with exit code 0."""
    levels, truth = grid(Made(), [1, 2], each=40)
    records = [dataclasses.replace(one, server=None) if one.level else one for one in truth.records]
    folder = write(tmp_path / "run", records, levels)
    finder = Finder(Scenario(), parse_objectives("queue_wait_p95=2"), 8, print)
    each = [
        Level(index=index, concurrency=users, input_tokens=1, output_tokens=1, words=None, requests=40)
        for index, users in enumerate((1, 2))
    ]
    assert finder(folder, each[:1]) is not None
    assert finder(folder, each) is None
    found, sentence = finder.conclude(folder)
    assert found.answer == 1
    assert sentence.startswith("The server takes at least 1 stream")
    assert "; of the next load nothing is known: queue wait p95 is unknown" in sentence


@pytest.mark.parametrize(("users", "said"), [((2, 4), "decode"), ((4, 8), None)])
def test_streams_that_wait_for_a_slot_are_not_why_steps_take_longer(
    users: tuple[int, ...], said: str | None, tmp_path: Path
) -> None:
    """On 4 slots: "takes 88 streams …; past that decoding takes too long: up to 4 answers share a step"."""
    levels, truth = grid(Made(slots=4), users, each=40)
    folder = write(tmp_path / "run", truth.records, levels)
    finder = Finder(Scenario(), parse_objectives("tokens_per_s_p5=1000"), 8, print)
    finder._indices = dict(zip(users, (0, 1), strict=True))
    binds = finder._binds(analyse(folder), SearchResult(users[0], users[1], answer=users[0], beyond=users[1]))
    assert (binds or {}).get("name") == said


@pytest.mark.parametrize("pace", [1.0, 1.7])
def test_an_answer_between_levels_of_different_paces_says_so(tmp_path: Path, pace: float) -> None:
    """Another program ran beside an Ollama: "takes 2 streams; 3 streams miss it", and a minute later 3 met it."""
    server = Timing(step=StepLaw(base_s=0.01, per_stream_s=0.002), prefill_s=0.0001)
    loads = [Load(users=users, requests=60, output=(20, 60), pace=then) for users, then in ((2, 1.0), (3, pace))]
    folder = play(server, loads, slots=2).write(tmp_path / "run")
    finder = Finder(Scenario(), parse_objectives("ttft_p95=0.9"), 8, print)
    finder.tried = [TriedLevel(2, 60, True, "met"), TriedLevel(3, 60, False, "missed")]
    finder._indices = {2: 0, 3: 1}
    _, sentence = finder.conclude(folder)
    assert sentence.endswith(PACE_CHANGED) is (pace > 1)


def test_without_find_max_an_slo_is_a_gate_on_every_level(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    options = ("--url", simulated_url, "--output-tokens", "4", "--concurrency", "1,2", "--requests", "20")
    code, said, _ = loadtest("run", *options, "--slo", "ttft_p50=1ms", "--out", tmp_path / "missed")
    assert code in (1, 3)
    assert said.count("TTFT p50 ≤ 1 ms") == 2
    code, said, _ = loadtest("run", *options, "--slo", "ttft_p50=60", "--out", tmp_path / "met")
    assert code in (0, 3)


@pytest.mark.parametrize(("limit_ms", "ends"), [(5, True), (40, False)])
def test_where_requests_alone_at_the_server_miss_no_lower_rate_is_tried(
    tmp_path: Path, limit_ms: int, *, ends: bool
) -> None:
    """A prompt takes 10 ms; of those that find no one there the others would be in time at any rate."""
    one_slot = Timing(step=StepLaw(base_s=0.01, per_stream_s=0.0), prefill_s=0.0001)
    played = play(one_slot, [Load(rate=1.2, requests=60)], slots=1)
    said: list[str] = []
    finder = Finder(Scenario.from_dict({"rate": 1.2}), parse_objectives(f"ttft_p95={limit_ms}ms"), 8, said.append)
    level = Level(index=0, concurrency=None, rate=1.2, requests=60, before=7)
    following = finder(played.write(tmp_path / "run"), [level])
    assert following is None or following.before == 67  # where a data file goes on
    _, sentence = finder.conclude(tmp_path / "run")
    assert (following is None) is ends, sentence
    assert ("1.2 requests/s miss TTFT p95 ≤ 5 ms, and a lower rate would not help" in sentence) is ends
