"""Options and keys as bodies, libraries and other tools name them: each is answered with the name that it has here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario, keys_of
from loadtest.scenario.keys import KEY_OF
from loadtest.scenario.toml_tables import flat

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ("--max-tokens", "--output-tokens"),
        ("--max_completion_tokens", "--output-tokens"),
        ("--min-p", "--body"),
        ("--reasoning-effort", "--think"),
        ("--api-key", "--key-env"),
        ("--headers", "--header"),
        ("--base-url", "--url"),
        ("--server", "--url"),
        ("--users", "--concurrency"),
        ("--num-prompts", "--requests"),
        ("--timeout", "--total-timeout"),
        ("--socks5", "--proxy"),
        ("--output-dir", "--out"),
        ("--num_ctx", "--num-ctx"),
        ("--isl", "--input-tokens"),
        ("-rate", "--rate"),
        ("-header", "--header"),
        ("-max-workers", "--workers"),
    ],
)
def test_an_option_of_another_tool(loadtest: Call, tmp_path: Path, given: str, option: str) -> None:
    code, _, err = loadtest("run", "http://127.0.0.1:9", given, "1", "--out", tmp_path / "run")
    assert (code, f"No such option '{given}'; give it with {option}; see" in err) == (2, True), err


def test_a_name_behind_one_dash_is_named_whole(loadtest: Call) -> None:
    assert "No such option '-cpus'; see" in loadtest("run", "-cpus", "2")[2]


def test_a_command_without_it_names_none(loadtest: Call) -> None:
    code, _, err = loadtest("ls", "--max-tokens", "1")
    assert (code, "output-tokens" in err) == (2, False), err


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"request": {"max_tokens": 5}}, "has max_tokens, which is no key; write it as output_tokens."),
        ({"max-tokens": 5}, "has max-tokens, which is no key; write it as output_tokens."),
        ({"request": {"reasoning_effort": "low"}}, "write it as think."),
        ({"request": {"min_p": 0.1}}, "put it into body."),
        ({"request": {"top_a": 1}}, "did you mean 'top_p'? A field of the server's own goes into body."),
        (
            {"request": {"seed": 1}},
            "has seed in [request]; it belongs above all tables, and that of the server's sampling is sampling_seed.",
        ),
    ],
)
def test_a_key_of_a_body(table: dict[str, object], words: str) -> None:
    with pytest.raises(ScenarioError) as error:
        flat(table, keys_of(Scenario), "s.toml", placed=True)
    assert words in str(error.value)


def test_no_key_stands_for_itself_or_for_none() -> None:
    names = {key.name for key in keys_of(Scenario)}
    assert set(KEY_OF.values()) <= names
    assert not names & KEY_OF.keys()
