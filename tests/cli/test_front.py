"""What a person meets first: where the URL may stand, settings from the environment, help in groups, the report by default."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from support.places import ROOT

from loadtest.cli import COMMANDS, cli
from loadtest.cli.options.environment import PREFIX, RESERVED
from loadtest.cli.run import COMMON, MONITORING, RESULTS
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario, keys_of

Call = Callable[..., tuple[int, str, str]]
QUICK = ("--concurrency", "1", "--requests", "1", "--warmup", "0", "--output-tokens", "2")


def options_of(name: str) -> list[click.Option]:
    with click.Context(cli, **cli.context_settings) as parent:
        command = cli.get_command(parent, name)
    assert command is not None
    return [param for param in command.params if isinstance(param, click.Option)]


def test_a_run_writes_its_report_unless_told_not_to(
    loadtest: Call, simulated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOADTEST_NO_REPORT")
    loadtest("run", simulated_url, *QUICK, "--out", tmp_path / "a")
    assert (tmp_path / "a/report.html").exists()
    loadtest("run", simulated_url, *QUICK, "--no-report", "--out", tmp_path / "b")
    assert (tmp_path / "b/summary.json").exists()
    assert not (tmp_path / "b/report.html").exists()
    monkeypatch.setenv("LOADTEST_NO_REPORT", "1")
    loadtest("run", simulated_url, *QUICK, "--report", "--out", tmp_path / "c")
    assert (tmp_path / "c/report.html").exists()
    code, _, err = loadtest("run", simulated_url, *QUICK, "--report", "--no-report")
    assert code == 2
    assert "exclude each other" in err


@pytest.mark.parametrize("command", ["run", "check", "memory"])
def test_a_url_is_an_argument_or_an_option(loadtest: Call, simulated_url: str, tmp_path: Path, command: str) -> None:
    more = (*QUICK, "--out", tmp_path / "run") if command == "run" else ()
    code, _, err = loadtest(command, simulated_url, *more)
    assert code in (0, 3), err
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    code, _, err = loadtest(command, "--url", simulated_url, *more)
    assert code in (0, 3), err
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    code, out, err = loadtest(command, simulated_url, "--url", simulated_url, *more)
    assert (code, out) == (2, "")
    assert "give one" in err


def test_a_scenario_and_a_url_in_any_order(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    file = tmp_path / "short.toml"
    file.write_text("concurrency = [1]\nrequests = 1\nwarmup = 0\noutput_tokens = [2]\n")
    host = simulated_url.removeprefix("http://")
    for number, given in enumerate(((file, host), (simulated_url, file))):
        out = tmp_path / str(number)
        code, _, err = loadtest("run", *given, "--out", out)
        assert code in (0, 3), err
        assert RunFolder.open(out).read_run()["name"] == "short"
    code, _, err = loadtest("run", file, tmp_path / "other.toml")
    assert code == 2
    assert "both name a scenario file: give one, in quotes where its path holds a blank" in err


def test_a_monitor_takes_the_url_too(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    code, _, err = loadtest("monitor", simulated_url, "--server", simulated_url, "--out", tmp_path)
    assert code == 2
    assert "name each server once" in err
    code, _, err = loadtest("monitor", simulated_url, "--out", tmp_path / "m", "--source", "ollama", "--for", "0.1")
    assert code == 0, err
    assert list((tmp_path / "m").glob("samples-ollama*.jsonl"))


def test_the_environment_gives_options_which_win_over_the_file_and_lose_to_the_command_line(
    loadtest: Call, simulated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "short.toml"
    file.write_text("concurrency = [1]\nrequests = 3\nwarmup = 0\noutput_tokens = [5]\n")
    monkeypatch.setenv("LOADTEST_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LOADTEST_OUTPUT_TOKENS", "2")
    monkeypatch.setenv("LOADTEST_REQUESTS", "1")
    monkeypatch.setenv("LOADTEST_WARM_CACHE", "1")
    monkeypatch.setenv("LOADTEST_HEADER", "X-One: a b\nX-Two: c")
    code, _, err = loadtest("run", file, simulated_url, "--requests", "2", "--out", tmp_path / "run")
    assert code in (0, 3), err
    said = RunFolder.open(tmp_path / "run").read_run()["scenario"]
    assert [said[name] for name in ("url", "output_tokens", "requests", "warm_cache", "header")] == [
        simulated_url,
        [2],
        2,
        True,
        ["X-One: a b", "X-Two: c"],
    ]
    named = re.search(r"loadtest: from the environment: (.*)\.", err)
    assert named is not None
    assert named[1] == "LOADTEST_HEADER, LOADTEST_OUTPUT_TOKENS, LOADTEST_WARM_CACHE"
    code, _, err = loadtest("run", *QUICK)
    assert code == 2
    assert "127.0.0.1:9" in err


def test_check_takes_the_url_of_the_environment_and_others_take_none(
    loadtest: Call, simulated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADTEST_URL", simulated_url)
    code, out, _ = loadtest("check")
    assert code == 0
    assert simulated_url in out
    code, _, err = loadtest("check", "http://127.0.0.1:9")
    assert code == 2
    assert "127.0.0.1:9" in err
    assert loadtest("memory", "--model", "llama3.1:8b")[0] == 0


def test_a_wrong_value_of_a_variable_names_the_variable(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_CONCURRENCY", "many")
    code, _, err = loadtest("run", "http://127.0.0.1:9")
    assert code == 2
    assert "the variable LOADTEST_CONCURRENCY: 'many' is not a list of whole numbers" in err
    code, _, err = loadtest("run", "http://127.0.0.1:9", "--concurrency", "none")
    assert code == 2
    assert "'--concurrency': 'none'" in err


def test_a_variable_is_named_before_what_it_spoils(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LOADTEST_FIND_MAX that was left over was read as an option that nobody had given."""
    monkeypatch.setenv("LOADTEST_FIND_MAX", "4")
    code, _, err = loadtest("run", "http://127.0.0.1:9")
    assert code == 2
    assert "from the environment: LOADTEST_FIND_MAX.\n" in err
    assert "--find-max needs objectives" in err


def test_a_host_without_a_port_is_told_from_a_file(loadtest: Call) -> None:
    code, _, err = loadtest("run", "gpu-box")
    assert code == 2
    assert "a server is written like http://HOST:11434" in err


def test_the_names_are_one_an_option_and_clash_with_none_in_use() -> None:
    names = [option.envvar for option in options_of("run") if not option.hidden]
    assert all(isinstance(name, str) and name.startswith(PREFIX) for name in names)
    assert len(set(names)) == len(names)
    sources = [path.read_text() for path in (ROOT / "loadtest").rglob("*.py")]
    used = {name for text in sources for name in re.findall(r'"LOADTEST_([A-Z_]+)"', text)}
    assert used <= set(RESERVED)
    taken = {str(name).removeprefix(PREFIX) for name in names}
    assert not [name for name in taken if name.startswith(RESERVED)]
    page = (ROOT / "docs/ci.md").read_text()
    mentioned = set(re.findall(r"`LOADTEST_([A-Z_]+)(?:=1)?`", page))
    assert mentioned <= taken | set(RESERVED)


@pytest.mark.parametrize("command", [None, *sorted(cli.list_commands(click.Context(cli)))])
def test_help_is_no_wider_than_a_terminal_and_names_options_as_they_are_typed(
    loadtest: Call, monkeypatch: pytest.MonkeyPatch, command: str | None
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, text, _ = loadtest(*([command] if command else []), "--help")
    assert [line for line in text.splitlines() if len(line) > 80] == []
    keys = {key.name for key in keys_of(Scenario) if "_" in key.name}
    assert keys.isdisjoint(
        re.findall(r"\w+", text)
    )  # was "where neither requests_per_stream nor …", "cert_key names it"
    assert " RANGE" not in text  # click's own word for a number


def test_every_option_of_run_stands_once_under_a_heading(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, text, _ = loadtest("run", "--help")
    assert max(map(len, text.splitlines())) <= 80
    shown = re.findall(r"^  (?:-\w, )?(--[\w-]+)", text.partition("Most used:")[2], re.MULTILINE)
    flags = [max(option.opts, key=len) for option in options_of("run") if not option.hidden]
    assert sorted({*shown} - {"--help"}) == sorted({*flags} - {"--help"})
    assert len(shown) == len(set(shown))
    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert headings[0] == "Most used"
    assert headings[-3:] == ["Monitoring", "Results", "Help"]
    assert "Other options" not in headings
    names = {option.name for option in options_of("run")}
    assert {*COMMON, *RESULTS, *MONITORING} <= names


def test_the_shell_completes_commands_options_and_values() -> None:
    def completed(words: str, at: int) -> list[str]:
        command = [sys.executable, "-c", "from loadtest.cli import main; main()"]
        env = {
            "COMP_WORDS": words,
            "COMP_CWORD": str(at),
            "_LOADTEST_COMPLETE": "bash_complete",
            "PYTHONPATH": str(ROOT),
        }
        said = subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout
        return [line.partition(",")[2] for line in said.splitlines()]

    assert completed("loadtest expo", 1) == ["export"]
    assert completed("loadtest run --concur", 2) == ["--concurrency"]
    assert completed("loadtest run --api o", 3) == ["ollama", "openai"]


def test_help_says_what_a_command_does_without_docstrings() -> None:
    code = "from loadtest.cli import COMMANDS, cli; print([cli.get_command(None, name).help for name in COMMANDS])"
    said = subprocess.run(
        [sys.executable, "-OO", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert said == f"{list(COMMANDS.values())}\n"
