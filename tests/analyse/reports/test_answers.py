"""What a report says first: four figures, never of a void level, and the verdict with what to do about each reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from support import report_pages
from support.made_runs import Made, grid, make, unanswered, write
from support.places import ROOT

from loadtest.analyse.charts import against_load, machine, ttft
from loadtest.analyse.findings.run_findings import saturation
from loadtest.analyse.findings.slot_findings import slots_finding
from loadtest.analyse.reports import answers, glossary, pages, tables
from loadtest.analyse.reports.run_again import command
from loadtest.analyse.run import frames, told_apart
from loadtest.analyse.run.levels import LevelData, Series
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.verdict import verdict
from loadtest.analyse.verdict.evidence import Evidence
from loadtest.analyse.verdict.remedies import REMEDIES
from loadtest.records import Outcome

ALONE = "every request of this level was a warm-up"


def told(path: Path) -> dict[str, answers.Tile]:
    return {tile.name: tile for tile in answers.tiles(analyse(path))}


def test_the_four_figures_are_those_of_the_tables(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(batch_ms=5), users=(1, 2, 4, 8), each=30)
    analysis = analyse(tmp_path / "run")
    tiles = told(tmp_path / "run")
    best = max(level["output_tokens_per_s"] for level in analysis.summary["levels"])
    assert float(tiles["Most output tokens/s"].value) == pytest.approx(best, rel=0.01)
    assert tiles["Levels off at"].value == "4 streams"
    assert tiles["Slots"].value == "4"
    assert "4 streams" in tiles["TTFT p95 there"].note


def test_the_tile_of_ttft_has_its_interval(tmp_path: Path) -> None:
    """A stranger took a prediction's band for it: none was printed beside the figure."""
    make(tmp_path / "run", Made(jitter_ms=lambda i: 7 * i % 23), users=(1, 2, 4, 8), each=30)
    levels = analyse(tmp_path / "run").summary["levels"]
    (note,) = (tile.note for name, tile in told(tmp_path / "run").items() if name.startswith("TTFT p95"))
    there = next(level for level in levels if note.endswith(level["label"].partition(" · ")[0]))
    assert there["ttft_s"]["ci95_p95"]
    assert note.startswith(f"95 % interval {there.interval_in_words('ttft_s', 'p95')}, at ")


def slots_drawn(analysis: Analysis) -> bool:
    """Return whether charts mark how many slots there are; they agree on it."""
    levels, drawn = Series("", tuple(analysis.summary["levels"])), set()
    draws: tuple[Callable[[Axes], None], ...] = (
        lambda axes: ttft.ttft_parts(axes, analysis, levels),
        lambda axes: against_load.all_streams(axes, analysis, [levels]),
        lambda axes: machine.streams(axes, analysis),
    )
    for draw in draws:
        axes = Figure().subplots()
        draw(axes)
        said = [text.get_text() for text in axes.texts] + list(axes.get_legend_handles_labels()[1])
        drawn.add("4 slots" in said)
    (agreed,) = drawn
    return agreed


def test_no_tile_is_of_a_void_level(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(), users=(1, 2, 4, 8), each=30, clock_steps=1)
    assert [tile.value for tile in told(tmp_path / "run").values()] == [""] * 4
    assert {tile.note for tile in told(tmp_path / "run").values()} == {answers.ALL_VOID}
    found = slots_finding(analyse(tmp_path / "run"))  # "handles 4" stood below "Slots: not known"
    assert found == "How many requests the server handles in parallel is not known: every level is void."
    assert found.evidence.endswith("All of that is from void levels: measure again before you rely on it.")


def test_a_limit_that_only_a_void_level_shows_is_no_limit(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(batch_ms=5), users=(1, 2, 4, 8), each=30)
    analysis = analyse(tmp_path / "run")
    assert analysis.slots.limit
    analysis.summary["levels"][-1]["verdict"] = "void"
    slots = next(tile for tile in answers.tiles(analysis) if tile.name == "Slots")
    assert (slots.value, slots.note) == ("≥ 4", "only a void level shows the limit")
    # … beside which the finding said that the server handles 4, and charts drew a line at 4 slots
    found = slots_finding(analysis)
    assert found == "The server handles at least 4 requests in parallel; only a void level shows its limit."
    assert found.evidence.endswith("Void levels are part of that: measure them again before you rely on it.")
    assert machine.streams_title(analysis).endswith(
        "at least 4 requests in parallel; only a void level shows its limit"
    )
    assert not slots_drawn(analysis)
    analysis.summary["levels"][-1]["verdict"] = "valid"
    assert slots_drawn(analysis)


def test_streams_that_only_a_void_level_had_are_said_to_be_its(tmp_path: Path) -> None:
    """Above "At most 4 requests decoding at the same time" stood "at least 2", without a word on the void level between."""
    make(tmp_path / "run", Made(slots=16), users=(1, 2, 4), each=30)
    analysis = analyse(tmp_path / "run")
    assert not slots_finding(analysis).evidence.endswith("rely on it.")
    analysis.summary["levels"][-1]["verdict"] = "void"
    found = slots_finding(analysis)
    assert found == "The server handles at least 2 requests in parallel; its limit was not seen."
    assert answers.tiles(analysis)[3].note == "its limit was not seen: measure longer, or with more load"
    assert found.evidence.endswith("Void levels are part of that: measure them again before you rely on it.")


def test_the_most_is_not_called_so_without_the_void_levels_above(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(batch_ms=5), users=(1, 2, 4, 8), each=30)
    analysis = analyse(tmp_path / "run")
    assert "void" not in answers.tiles(analysis)[0].note + against_load.tradeoff_title(analysis)
    for level in analysis.summary["levels"][1:]:
        level["verdict"] = "void"
    assert answers.tiles(analysis)[0].note == "at 1 stream; the 3 levels above it are void"
    assert against_load.tradeoff_title(analysis).endswith("; the 3 levels above it are void")


def test_a_void_rate_is_not_passed_over() -> None:
    """Was "the highest rate measured", although a higher one was, and is void."""
    kept = {"growing": False, "growth_per_s": 0.0, "in_flight_first": 1.0, "in_flight_last": 1.0}
    steady = LevelData(index=0, rate=4.0, concurrency=None, little=kept)
    void = LevelData(index=1, rate=8.0, concurrency=None, little=None, verdict="void")
    tile, _ = answers._levels_off(Series("", (steady, void)))
    assert str(tile) == "Kept up with: 4 requests/s (the highest rate measured; the level above it is void)"
    assert (saturation(Series("", (steady, void))) or "").endswith("; the level above it is void.")
    tile, _ = answers._levels_off(Series("", (steady,)))
    assert tile.note == "the highest rate measured"


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("m · 1 of 2 streams", "m · 1 of 2 streams"),  # was "m · m · 1 of 2 streams"
        ("m", "m"),  # was "m · m", where the table says what all levels have in common
        ("here:1 · 1 stream", "m · here:1 · 1 stream"),
        ("1 stream", "m · 1 stream"),
    ],
)
def test_a_level_of_one_of_several_models_is_named_after_it_once(label: str, said: str) -> None:
    seen = answers.Seen(LevelData(model="m", beside=[], label=label, verdict="suspect"), "suspect", "", label)
    assert seen.called == said
    assert answers.Reason("", (seen,)).where == f"Suspect at {said}"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(), users=(2,), each=4)
    tiles = told(tmp_path / "run")
    assert tiles["Levels off at"].note == "it takes 3 loads to tell, and here is 1"
    assert "p95 needs 20 requests" in tiles["TTFT p95 at the most output"].note
    write(tmp_path / "empty", [], [])
    assert {tile.value for tile in told(tmp_path / "empty").values()} == {""}


def test_of_levels_with_one_label_tables_say_the_number(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (2, 4, 2))
    summary = analyse(write(tmp_path / "run", truth.records, levels)).summary
    assert [row[0] for row in tables.overview({**summary, "levels": told_apart(summary["levels"])}).rows] == [
        "2 streams · 100 in · 20 out (level 1)",
        "4 streams · 100 in · 20 out",
        "2 streams · 100 in · 20 out (level 3)",
    ]


def test_a_tile_of_a_void_rate_has_the_name_that_it_has_of_a_rate(tmp_path: Path) -> None:
    """Was "Levels off at", which is of streams."""
    levels, truth = grid(Made(), (4,), each=4)
    failed = [unanswered(one, Outcome.TIMEOUT, error="no token") for one in truth.records]
    at_rate = [{**level, "concurrency": None, "rate": 2.0} for level in levels]
    assert told(write(tmp_path / "run", failed, at_rate))["Kept up with"].note == answers.ALL_VOID


def test_every_rule_has_a_remedy_and_every_remedy_a_rule() -> None:
    assert verdict.RULES.keys() == REMEDIES.keys()
    assert not [
        each for each in REMEDIES.values() if "Nothing is wrong" in each.advice
    ]  # another rule may doubt the level too


def test_the_page_on_void_levels_says_the_same_and_each_advice_once() -> None:
    page = (ROOT / "docs/void.md").read_text(encoding="utf-8")
    groups: dict[str, str] = {}
    for group in re.split(r"^## .+\n", page, flags=re.MULTILINE)[1:]:
        groups |= dict.fromkeys(re.findall(r"^### (.+)", group, flags=re.MULTILINE), " ".join(group.split()))
    assert groups.keys() == {remedy.wrong.rstrip(".") for remedy in REMEDIES.values()}
    for remedy in REMEDIES.values():
        asked = f"**What to do:** {remedy.advice}"
        assert " ".join(page.split()).count(asked) == groups[remedy.wrong.rstrip(".")].count(asked) == 1


def test_options_that_a_remedy_names_exist() -> None:
    known = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    for option in {name for remedy in REMEDIES.values() for name in re.findall(r"--[a-z-]+", remedy.advice)}:
        assert re.search(rf"{option}\b", known), option


def test_each_advice_is_given_once_with_all_that_asks_for_it(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(), users=(1, 2, 4), clock_steps=2)
    (todo,) = answers.to_do(analyse(tmp_path / "run").summary["levels"])
    (reason,) = todo.reasons
    assert reason.wrong == "A clock jumped."
    assert len(reason.seen) == 3
    assert reason.where.startswith("Void at ")
    assert reason.example.startswith("Void at 1, 2 and 4 streams. At 1 stream: a clock ")


def test_a_load_that_a_search_measured_again_is_told_from_the_first(tmp_path: Path) -> None:
    """Was "4 people is void; 4 people is suspect", of which one cannot tell that it is two levels."""
    make(tmp_path / "run", Made(), users=(2, 4, 4), clock_steps=2)
    (todo,) = answers.to_do(analyse(tmp_path / "run").summary["levels"])
    assert todo.reasons[0].where == "Void at 2 streams, 4 streams (level 2) and 4 streams (level 3)"


def test_two_reasons_of_one_level_are_not_two_levels() -> None:
    level = LevelData(label="2 streams", verdict="suspect")
    seen = [answers.Seen(level, "suspect", why, "2 streams") for why in ("answers are short", "prompts are long")]
    assert answers.Reason("Lengths.", tuple(seen)).example == (
        "Suspect at 2 streams: answers are short; prompts are long."
    )
    other = answers.Seen(LevelData(label="4 streams", verdict="suspect"), "suspect", "answers are short", "4 streams")
    assert answers.Reason("Lengths.", (*seen, other)).example == (
        "Suspect at 2 and 4 streams. At 2 streams: answers are short; prompts are long."
    )


def test_a_level_is_never_void_and_suspect_at_once() -> None:
    void, fine = LevelData(label="2 streams", verdict="void"), LevelData(label="4 streams", verdict="suspect")
    seen = [answers.Seen(level, "suspect", "answers are short", level["label"]) for level in (void, fine)]
    reason = answers.Reason("Lengths.", tuple(seen))
    assert reason.where == "Suspect at 4 streams; also at 2 streams, void already"
    assert reason.example == f"{reason.where}. At 2 streams: answers are short."
    alone = answers.Reason("Lengths.", tuple(seen[:1]))  # was "Also at 2 streams", with nothing before it
    assert alone.where == "At 2 streams, void already"
    assert alone.example == "At 2 streams, void already: answers are short."


def test_no_more_levels_are_called_void_than_are() -> None:
    """Was "2 streams is void: …. 2 more levels likewise", where one of the two was suspect."""
    seen = tuple(
        answers.Seen(LevelData(label=label, verdict=verdict), verdict, "tokens were read late", label)
        for label, verdict in (("2 streams", "void"), ("4 streams", "void"), ("1 stream", "suspect"))
    )
    assert answers.Reason("Late.", seen).example == (
        "Void at 2 and 4 streams; suspect at 1 stream. At 2 streams: tokens were read late."
    )


def test_no_finding_repeats_the_verdict(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(), users=(1, 2, 4), clock_steps=2)
    page = report_pages.markdown(analyse(tmp_path / "run"), [])
    assert "All 3 levels are void." in page
    assert "levels are void" not in page.partition("## What it shows")[2].partition("## Levels")[0]


@pytest.mark.parametrize("driver", ["asyncio", "locust"])
def test_a_level_of_warm_ups_alone_says_what_to_do(tmp_path: Path, driver: str) -> None:
    levels, truth = grid(Made(), (4,))
    levels[0]["requests"] = None
    write(
        tmp_path / "run", [dataclasses.replace(record, warmup=True) for record in truth.records], levels, driver=driver
    )
    (level,) = analyse(tmp_path / "run").summary["levels"]
    assert (level["verdict"], level["reasons"]) == ("void", [ALONE])
    (todo,) = answers.to_do([level])
    assert todo.advice.startswith("Let the level last beyond its warm-up")
    assert "error says" not in todo.advice


def test_warm_ups_that_failed_are_not_told_to_last_longer(tmp_path: Path) -> None:
    """Was "every request of this level was a warm-up" of a server that had gone."""
    levels, truth = grid(Made(), (4,))
    levels[0]["requests"] = None
    warmups = [unanswered(record, Outcome.CONNECT_ERROR) for record in truth.records if record.warmup]
    write(tmp_path / "run", warmups, levels)
    (level,) = analyse(tmp_path / "run").summary["levels"]
    assert level["reasons"] == [f"no request ended well ({len(warmups)} connect_error)"]


def test_of_answers_without_text_lag_is_held_against_e2e(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(gap_ms=200), users=(2,))
    run = frames.load(tmp_path / "run")
    run.requests["schedule_lag_s"] = 1.0
    limits = {}
    for of in ("TTFT", "E2E"):
        doubts = [doubt.reason for _, doubt in verdict.doubts_of(run, run.levels[0])]
        (reason,) = [said for said in doubts if said.startswith("schedule lag")]
        assert f"1 % of median {of} or 5 ms" in reason
        limits[of] = Evidence.of(run, run.levels[0]).lag_limit
        run.requests["ttft_s"] = float("nan")
    assert limits["E2E"] > limits["TTFT"]


SCENARIO: dict[str, Any] = {
    "url": "http://gpu:11434",
    "concurrency": [1, 2],
    "header": ["X-Team: ${TEAM}"],
    "prompt": "it's",
    "warm_cache": True,
    "think_time": 0.0,
}


def test_the_command_runs_the_same_again(tmp_path: Path) -> None:
    make(tmp_path / "run", users=(1, 2), scenario=SCENARIO)
    said = command(analyse(tmp_path / "run").run)
    assert said is not None
    assert said.startswith("loadtest run --url http://gpu:11434")
    assert "--concurrency 1,2 " in said
    assert "--warm-cache" in said
    assert "--header 'X-Team: ${TEAM}'" in said
    assert "think-time" not in said
    drawn = {"scenario": {**SCENARIO, "seed": 7}}
    for name, facts, kept in (("asked", drawn, True), ("drawn", {**drawn, "seed_drawn": True}, False)):
        make(tmp_path / name, users=(1,), **facts)  # the same texts again met the warm cache that a drawn seed avoids
        assert ("--seed 7" in str(command(analyse(tmp_path / name).run))) is kept
    make(tmp_path / "any", users=(1,), scenario={**SCENARIO, "output_tokens": []})
    assert "--output-tokens any" in str(command(analyse(tmp_path / "any").run))  # else it asked for 64
    make(tmp_path / "chosen", users=(1,), scenario=SCENARIO, target={"url": "http://gpu:11434", "model": "a:1b"})
    assert "--model a:1b" in str(command(analyse(tmp_path / "chosen").run))
    options = {"save_text": True, "header": ["X-A: ${A}"]}
    locust = {"files": ["tests/a b.py"], "user_classes": ["Chat"], "spawn_rate": 2.0, "options": options, "workers": 2}
    make(tmp_path / "locust", users=(1,), locust=locust)
    assert command(analyse(tmp_path / "locust").run) == (
        "locust -f 'tests/a b.py' Chat --headless --host http://127.0.0.1:11434 -u 1 -r 2 --processes 2 --save-text true --header 'X-A: ${A}'"
    )
    make(tmp_path / "by-hand", users=(1, 2), locust={"locustfile": "a.py", "user_classes": ["Chat"]})
    assert command(analyse(tmp_path / "by-hand").run) is None  # users were added in mid-test


def test_the_glossary_has_the_heads_of_the_tables() -> None:
    words = " ".join(word for word, _ in glossary.GLOSSARY)
    for word in ("TTFT", "ITL", "TPOT", "E2E", "slots", "slot wait", "batch wait", "void"):
        assert word in words


def test_every_chart_of_the_report_is_explained() -> None:
    page = (ROOT / "docs/charts.md").read_text(encoding="utf-8")
    assert set(pages.CAPTIONS) <= set(re.findall(r"^\| `([a-z0-9-]+\.png)`", page, flags=re.MULTILINE))


def test_a_tile_says_that_p95_has_no_interval(tmp_path: Path) -> None:
    """It had one in some reports and none in others, without a word."""
    make(tmp_path / "run", users=(8,), each=4)
    note = answers.tiles(analyse(tmp_path / "run"))[2].note
    assert note == "no 95 % interval below about 72 requests, at 8 streams"


@pytest.mark.parametrize("every", [4, 20])
def test_a_tile_of_a_tail_says_that_some_failed_and_are_left_out(tmp_path: Path, every: int) -> None:
    """Was "1.21 s (at 3 requests/s)" where 9 of 30, and 613 ms where 2 of 40, had waited longer without a token."""
    levels, truth = grid(Made(), (4,), each=10)
    records = [
        unanswered(one, Outcome.TIMEOUT, error="no token") if one.id % every == 5 % every else one
        for one in truth.records
    ]
    analysis = analyse(write(tmp_path / "run", records, levels))
    (level,) = analysis.summary["levels"]
    assert answers.tiles(analysis)[2].note.endswith(f"; {level.failed} of 40 requests failed and are left out")
    assert (": latencies and speeds are of the others" in level["reasons"][0]) is (every == 4)
