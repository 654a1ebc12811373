"""The scenario: one schema for files and options, and a sentence for every mistake."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.places import SCENARIOS

from loadtest.cli.options.scenario_options import make_scenario
from loadtest.errors import ScenarioError
from loadtest.scenario import ATTRIBUTE, OPTION, TIMES, ConnectionKeys, RequestKeys, Scenario, keys_of
from loadtest.scenario.keys import key
from loadtest.scenario.parts.data import DataKeys
from loadtest.scenario.parts.limits import LimitKeys
from loadtest.scenario.parts.load import LoadKeys
from loadtest.scenario.parts.prompts import PromptKeys, SessionKeys
from loadtest.scenario.price import PRICE_KEYS
from loadtest.scenario.values import Range, read_seconds


def test_grid_is_every_combination_and_concurrency_changes_fastest() -> None:
    scenario = Scenario(concurrency=(1, 4), input_tokens=(10, 20), output_tokens=(5,))
    cells = [(level.input_tokens, level.concurrency, level.requests) for level in scenario.levels()]
    assert cells == [(10, 1, 8), (10, 4, 32), (20, 1, 8), (20, 4, 32)]
    assert [level.index for level in scenario.levels()] == [0, 1, 2, 3]


def test_words_make_levels_of_a_literal_prompt() -> None:
    scenario = Scenario(prompt="tell a story in {words} words:", words=(25, 50), concurrency=(2,))
    assert [(level.words, level.input_tokens) for level in scenario.levels()] == [(25, None), (50, None)]


def test_a_duration_has_no_number_of_requests() -> None:
    assert [level.requests for level in Scenario(duration=3.0, concurrency=(1, 2)).levels()] == [0, 0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90 s", 90), ("500ms", 0.5), ("1.5m", 90), ("2min", 120), ("1h", 3600), ("1e3", 1e3)],
)
def test_a_time_may_have_its_unit(text: str, seconds: float) -> None:
    assert [read_seconds(text), TIMES.read(text)] == pytest.approx([seconds, seconds])


def test_dict_round_trip_is_the_same_scenario() -> None:
    scenario = Scenario(concurrency=(1, 3), prompt="x", max_rate=2.5, save_text=True)
    assert Scenario.from_dict(scenario.to_dict()) == scenario


def test_options_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("concurrency = [1, 2]\nduration = 3\n")
    scenario = Scenario.load(path, concurrency=(8,), model=None)
    assert (scenario.name, scenario.concurrency, scenario.duration) == ("mine", (8,), 3.0)


def test_rates_take_the_place_of_concurrency_and_make_a_level_each() -> None:
    scenario = Scenario(rate=(2.0, 0.5), input_tokens=(10, 20), output_tokens=(5,))
    assert scenario.concurrency == ()
    cells = [(level.input_tokens, level.rate, level.concurrency) for level in scenario.levels()]
    assert cells == [(10, 2.0, None), (10, 0.5, None), (20, 2.0, None), (20, 0.5, None)]
    assert scenario.levels()[1].label == "0.5 requests/s · 10 in · 5 out"
    assert scenario.duration == 60.0
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    assert Scenario(rate=(1.0,), rate_to=8.0, requests=9).levels()[0].load == "1 to 8 requests/s"


def test_a_loop_asked_for_wins_over_the_other_one_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("concurrency = [1, 2]\n")
    assert Scenario.load(path, rate=(3.0,)).concurrency == ()
    path.write_text('rate = [2]\narrivals = "gamma"\nburstiness = 0.5\n')
    assert [level.load for level in Scenario.load(path, concurrency=(3,)).levels()] == ["3 streams"]
    (tmp_path / "t.txt").write_text("1\n2\n")
    path.write_text('trace = "t.txt"\n')
    assert Scenario.load(path).trace == str(tmp_path / "t.txt")


def test_a_url_that_ends_in_embeddings_takes_several_inputs() -> None:
    for path in ("/v1/embeddings", "/embeddings", "/api/embed"):
        assert Scenario(url=f"http://h:1{path}", inputs_per_request=8).inputs_per_request == 8
    for path in ("/v1", "/v1/chat/completions", ":x"):
        with pytest.raises(ScenarioError, match="is for embeddings"):
            Scenario(url=f"http://h:1{path}", inputs_per_request=8)


def test_a_prompt_file_is_found_beside_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    path = tmp_path / "s.toml"
    path.write_text('prompt_file = "text.txt"\n')
    assert Scenario.load(path).prompt_text() == "hello"


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_scenario_loads(path: Path) -> None:
    scenario = Scenario.load(path)
    assert scenario.levels()
    assert scenario.url is None  # with no URL it goes to OLLAMA_HOST or the local Ollama
    scenario.prompt_text()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"concurency": [1]}, ["concurency", "did you mean 'concurrency'"]),
        ({"zzzz": 1}, ["zzzz", "known keys", "output_tokens"]),
        ({"concurrency": []}, ["concurrency is empty"]),
        ({"concurrency": [0]}, ["concurrency must be 1 or more, not 0"]),
        ({"concurrency": [2, 2]}, ["names a value twice"]),
        ({"concurrency": "many"}, ["concurrency must be a whole number, not 'many'"]),
        ({"concurrency": [1.5]}, ["whole number"]),
        ({"save_text": 1}, ["save_text must be true or false"]),
        ({"requests": True}, ["requests must be a whole number"]),
        ({"duration": -1}, ["duration must be above 0"]),
        ({"output_tokens": [-5]}, ["output_tokens must be 1 or more"]),
        ({"requests": 4, "duration": 3}, ["exclude each other"]),
        ({"rate": [4], "concurrency": [2]}, ["both concurrency (closed loop) and rate or trace (open loop)"]),
        ({"rate": [4, 4]}, ["rate names a value twice: 4, 4"]),
        ({"rate": [-1]}, ["rate must be above 0, not -1"]),
        ({"rate": [4], "trace": "x"}, ["rate and trace exclude each other"]),
        ({"rate": [4], "arrivals": "uniform"}, ["arrivals must be one of poisson, constant, gamma"]),
        ({"rate": [4], "arrivals": "gamma"}, ["gamma arrivals and burstiness go together"]),
        ({"rate": [4], "burstiness": 0.5}, ["gamma arrivals and burstiness go together"]),
        (
            {"rate": [4], "max_rate": 2},
            ["max_rate and rate exclude each other: max_rate slows the users of a closed loop; give one."],
        ),
        ({"rate": [4], "think_time": 2}, ["think_time slows the users of a closed loop"]),
        ({"rate": [4], "max_in_flight": 0}, ["max_in_flight must be above 0"]),
        ({"max_in_flight": 4}, ["max_in_flight does nothing alone; add rate or trace."]),
        ({"rate": [4], "max_in_flight": 1, "workers": 2}, ["ask for 1 worker or fewer"]),
        ({"body": {"until": date(2026, 1, 1)}}, ["JSON cannot hold, such as a date or nan"]),
        ({"rate_to": 4}, ["rate_to does nothing alone; add rate."]),
        ({"arrivals": "constant"}, ["needs a rate"]),
        ({"requests": 4, "concurrency": [8]}, ["cannot keep 8 streams busy"]),
        ({"prompt": "a", "prompt_file": "b"}, ["exclude each other"]),
        ({"words": [5]}, ["words does nothing alone; add prompt or prompt_file."]),
        ({"words": [5], "prompt": "no place"}, ["no {words} in it"]),
        ({"prompt": "in {words} words"}, ["say which with words"]),
        ({"prompt": "  "}, ["prompt is empty"]),
        ({"api": "grpc"}, ["auto, ollama, openai"]),
        ({"api": "openai", "endpoint": "generate"}, ["no endpoint 'generate'"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(table: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ScenarioError) as error:
        Scenario.from_dict(table)
    text = str(error.value)
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert text.endswith((".", "?"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"concurrency = [", "not valid TOML"), (b"\xff\xfe", "not UTF-8"), (None, "cannot read")],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "broken.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScenarioError, match=words):
        Scenario.load(path)


@dataclass(frozen=True, kw_only=True)
class Extended(Scenario):
    """A scenario with a key in a table of its own, as parts get them."""

    top_p: float | None = key("Share of the likeliest tokens.", None, bounds=Range(0, 1), table="request")
    stop: Sequence[str] = key("Texts that end an answer.", [], table="request", locust=(ATTRIBUTE, OPTION))


def test_no_two_parts_have_a_key_of_the_same_name() -> None:
    names = Counter(
        each.name
        for part in (LoadKeys, PromptKeys, DataKeys, SessionKeys, RequestKeys, ConnectionKeys, LimitKeys)
        for each in keys_of(part)
    )
    assert names.most_common(1)[0][1] == 1
    assert {*names} | {"name", "save_text", *PRICE_KEYS} == {each.name for each in keys_of(Scenario)}


def test_a_key_of_a_table_is_read_there_in_a_file_and_flat_everywhere_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("temperature = 0.5\n[request]\ntop_p = 0.9\n")
    scenario = Extended.load(path)
    assert (scenario.temperature, scenario.top_p, scenario.name) == (0.5, 0.9, "mine")
    assert Extended.load(path, top_p=0.2).top_p == 0.2
    assert scenario.to_dict()["top_p"] == 0.9
    assert Extended.from_dict(scenario.to_dict()) == scenario
    assert Extended.from_dict({"request": {"stop": "x"}}).stop == ("x",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("top_p = 0.9\n", "has top_p above all tables; it belongs in [request]."),
        ("[request]\ntemperature = 0.9\n", "has temperature in [request]; it belongs above all tables."),
        ("[request]\ntopp = 0.9\n", "table [request], has an unknown key 'topp'; did you mean 'top_p'?"),
        ("[request]\ntop_p = 2\n", "top_p must be at most 1, not 2.0."),
        (
            "think_time = 1\n[sessions]\nthink_time = 2\n",
            "has think_time twice, in [sessions] and elsewhere; give it once.",
        ),
        ("[people]\nturns = 2\n", "has a table [people], which no scenario has; write its keys (turns) in [sessions]."),
    ],
)
def test_a_key_in_the_wrong_place_is_one_sentence_that_says_where_it_belongs(
    tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(ScenarioError) as error:
        Extended.load(path)
    assert words in str(error.value)


def test_what_is_laid_over_a_file_is_read_as_the_file_is_and_blamed_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[request]\ntop_p = 0.5\n")
    assert Extended.load(path, request={"top_p": 0.2}).top_p == 0.2  # as top_p=0.2
    with pytest.raises(ScenarioError, match=r"^the command line has an unknown key 'topp'; did you mean 'top_p'\?$"):
        Extended.load(path, topp=0.2)


@pytest.mark.parametrize(
    ("file", "options", "named"),
    [
        ("", {"input_tokens": (800,), "prompt": "Hi"}, "the command line"),
        ("", {"input_tokens": (800,), "data": "rows.jsonl"}, "the command line"),
        ('prompt = "Hi"', {"input_tokens": (800,)}, "laid over"),
        ('[data]\ndata = "rows.jsonl"', {"input_tokens": (800,)}, "beside data"),
        ('input_tokens = [64]\nprompt = "Hi"', {}, "one.toml has input_tokens beside prompt"),
    ],
)
def test_lengths_of_made_up_prompts_beside_a_text_are_refused(
    tmp_path: Path, file: str, options: dict[str, Any], named: str
) -> None:
    path = tmp_path / "one.toml"
    path.write_text(file)
    with pytest.raises(ScenarioError, match=r"leave out (--input-tokens|input_tokens) or ") as error:
        make_scenario(path if file else None, options)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("file", "options", "words"),
    [
        (
            "",
            {"least_requests": 4, "trace": "t.csv"},
            "beside trace: that says how many requests a level has; leave out --least",
        ),
        (
            "",
            {"warm_cache": True, "data": "rows.jsonl"},
            "beside data: its rows are sent as they are, without a nonce;",
        ),
        ("least_requests = 4", {"requests": 40}, None),
        ('trace = "t.csv"', {"concurrency": (1,), "least_requests": 4}, None),
    ],
)
def test_a_key_that_another_leaves_nothing_to_say_is_refused_where_it_was_given(
    tmp_path: Path, file: str, options: dict[str, Any], words: str | None
) -> None:
    path = tmp_path / "one.toml"
    path.write_text(file)
    if words is None:
        assert make_scenario(path, options)
        return
    with pytest.raises(ScenarioError) as error:
        make_scenario(path if file else None, options)
    assert words in str(error.value)


def test_a_prompt_of_the_command_line_wins_over_a_file_s_lengths(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text("input_tokens = [64]")
    assert make_scenario(path, {"prompt": "Hi"}).prompt == "Hi"


@pytest.mark.parametrize(
    ("file", "options", "kept"),
    [
        ("requests = 50", {"duration": 9.0}, {"requests": None, "duration": 9.0}),
        ("duration = 60", {"requests": 8}, {"requests": 8, "duration": None}),
        ('prompt_file = "p.txt"', {"data": "rows.jsonl"}, {"prompt_file": None}),
        ('[data]\ndata = "rows.jsonl"\ndata_column = "text"', {"prompt": "Hi"}, {"data": None, "data_column": None}),
        (
            "[data]\nsystem_tokens = 900\nprefixes = 4",
            {"system": "Be kind."},
            {"system_tokens": None, "prefixes": None},
        ),
        ('rate = [2]\narrivals = "gamma"\nburstiness = 0.5', {"arrivals": "constant"}, {"burstiness": None}),
        ("max_rate = 3", {"rate": (2.0,)}, {"max_rate": None}),
        ('ca_file = "a.pem"', {"insecure": True}, {"ca_file": None}),
    ],
)
def test_an_option_takes_the_place_of_what_excludes_it_in_the_file(
    tmp_path: Path, file: str, options: dict[str, Any], kept: dict[str, Any]
) -> None:
    path = tmp_path / "one.toml"
    path.write_text(file)
    scenario = make_scenario(path, options)
    assert {name: getattr(scenario, name) for name in kept} == kept


def test_what_does_not_go_together_names_the_file_that_the_options_are_laid_over(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text("rate = [2]")
    with pytest.raises(ScenarioError, match=r"^the command line, laid over .*one\.toml: think_time slows"):
        make_scenario(path, {"think_time": 3.0})


@pytest.mark.parametrize("query", ["a", "a=1&b", "?a", ""])
def test_a_query_without_a_value_is_refused(query: str) -> None:
    with pytest.raises(ScenarioError, match="name=value"):
        Scenario(query=(query,))
