"""What users write wrongly on the command line is one sentence and exit code 2, before anything is sent or made; what is odd but right is taken."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support.odd_input import REFUSED, answer, command_line, nothing_started

from loadtest.cli.options.scenario_options import file_and_url
from loadtest.slo import parse_objectives

LONG = "x" * 300
WRONG = [
    (["--think-time", "nan"], "--think-time must be a number, not nan."),
    (["--duration", "inf"], "loadtest: --duration must be at most 2592000, not inf"),
    (["--price-per-hour", "1k"], "--price-per-hour must be a price above 0 like 2.49, 2.49EUR or $2.49, not '1k'."),
    (["--price-per-hour", "1.000EUR"], "--price-per-hour '1.000EUR' may be 1 or 1000; write one of these."),
    (["--rate", "1e-300"], "rate must be at least 1e-06, not 1e-300."),
    (["--rate", "4,nan"], "rate must be a number, not nan."),
    (["--rate", "1e6", "--duration", "1e6"], "makes 1000000000000 requests; ask for a duration of 10 s or less."),
    (["--rate", "1e-6", "--requests", "1000"], "would take 11574 days"),
    (["--rate", "4", "--rate-to", "inf"], "--rate-to must be at most 1000000, not inf."),
    (["--rate", "4", "--arrivals", "gamma", "--burstiness", "nan"], "burstiness must be a number"),
    (["--arrivals", "poisson"], "--arrivals poisson needs a rate; add --rate"),
    (["--requests", "1.000"], "'1.000' is not a whole number like 8: 1.000 may be 1 or 1000;"),
    (
        ["--concurrency", "1,2,1,024"],
        "'1,2,1,024' has a comma between two numbers, which makes two of them; write 1024 for one;",
    ),
    (
        ["--input-tokens", "128,2,048"],
        "'128,2,048' has a comma between two numbers, which makes two of them; write 2048 for",
    ),
    (["--input-tokens", "1,000,000"], "write 1000000 for one;"),
    (["--rate", "1,024.5"], "write 1024.5 for one;"),  # was 1 and 24.5 a second
    (["--output-tokens", "uniform(1,024)"], "write 1024 for one;"),  # was uniform(1, 24)
    (["--input-tokens", "normal(4.096, 100)"], "'normal(4.096, 100)' is no length"),
    (["--input-tokens", "4.000@30%+200@70%"], "'4.000@30%+200@70%' is no length"),
    (["--prediction", "nowhere"], "cannot read the prediction nowhere: No such file or directory."),
    (["--seed", "1" * 24], "seed must be at most 9223372036854775807"),
    (["--requests", "10^30"], "'10^30' is not a whole number like 8"),
    (["--requests", "1" + "0" * 30], "requests must be at most 10000000"),
    (["--requests", "9" * 4000], "a number of about 4000 digits"),
    (["--requests", "9" * 5000], "is not a whole number like 8"),
    (["--requests", "nan"], "'nan' is not a whole number like 8"),
    (
        ["--rate", "4", "--requests-per-stream", "2"],
        "--requests-per-stream does nothing where requests, duration, rate or trace say when a level ends; leave it out.",
    ),
    (["--requests-per-stream", "1000000", "--concurrency", "100"], "ask for 100000 or fewer, or give duration."),
    (
        ["--concurrency", "1000000000"],
        "concurrency must be at most 100000, not 1000000000; share more between several machines.",
    ),
    (["--concurrency", "1,x"], "not a list of whole numbers like 1,2,4,8"),
    (["--concurrency", " "], "is empty"),
    (["--warmup", "100000"], "ask for 12500 or fewer."),
    (["--input-tokens", "10000001"], "--input-tokens must be at most 10000000"),
    (["--max-error-ratio", "30"], "--max-error-ratio must be at most 1, not 30.0; 5 % is 0.05."),
    (["--max-error-ratio", "nan"], "--max-error-ratio must be a number, not nan."),
    (["--temperature", "nan"], "temperature must be a number, not nan."),
    (["--max-rate", "1e-300"], "--max-rate must be at least 1e-06"),
    (["--first-token-timeout", "inf"], "--first-token-timeout must be at most 2592000"),
    (["--first-token-timeout", "3", "--first-byte-timeout", "3"], "give --first-token-timeout alone."),
    (["--stop-after-errors", "0"], "--stop-after-errors must be 1 or more, not 0."),
    (["--workers", "1000000"], "workers must be at most 1024"),
    (["--monitor", "host", "--monitor-every", "nan"], "nan is not a number from 0.05"),
    (["--monitor", "host", "--monitor-every", "0"], "0.0 is not a number from 0.05"),
    (["--metrics-port", "99999"], "--metrics-port"),
    (
        ["--monitor-every", "5"],
        "--monitor-every does nothing without --monitor, which says what is sampled; leave it out.",
    ),
    (
        ["--monitor-idle", "0"],
        "--monitor-idle does nothing without --monitor, which says what is sampled; leave it out.",
    ),
    (["--metrics-address", "127.0.0.1"], "--metrics-address does nothing without --metrics-port; leave it out."),
    (["--find-max", "1000000000", "--slo", "ttft_p95=2"], "1<=x<=100000"),
    (["--slo", "ttft_p95=nan"], "the limit of ttft_p95 is seconds"),
    (["--slo", "tftt_p95=2"], "did you mean 'ttft_p95'"),
    (["--slo", "ttft_p95=2", "--slo", "itl_p95=2"], "--slo is given twice; give it once, with commas between"),
    (["--url", "http://127.0.0.1:9"], "url names http://127.0.0.1:9 twice; name each server once."),
    (["--model", "a,a"], "model names a twice; give it once"),
    (["--model", "a=0,b"], "the weight of a must be a whole number from 1 to 1000"),
    (["--api", "openai", "--api", "ollama"], "--api is given twice; give it once."),
    (
        ["--concurrency", "1", "--concurrency=2"],
        "--concurrency is given twice; give it once, with commas between: --concurrency N,N,…",
    ),
    (["--model", ""], "model is empty; give it a value, or leave it out."),
    (["--model", " "], "model is empty; give the model's name, or leave it out"),
    (["--name", ""], "name is empty; give the run a name, or leave it out."),
    (["--prompt", ""], "prompt is empty; write a prompt, or leave it out."),
    (["--prompt", "a\udcff"], "--prompt is not UTF-8 text ('a\\udcff'); write it in UTF-8"),
    (["--prompt=a\udcff"], "--prompt is not UTF-8 text"),
    (["--name", "\udcff"], "--name is not UTF-8 text"),
    (["--model", "\udcff"], "--model is not UTF-8 text"),
    (["--out", "\udcff"], "--out is not UTF-8 text"),
    (["\udcff.toml"], "an argument is not UTF-8 text"),
    (["--name", "a\x1b[2J"], "name holds a control character ('\\x1b'); take it out."),
    (["--name", "a\u202eb"], "name holds a control character ('\\u202e'); take it out."),
    (["--name", LONG], "name is 300 bytes long; make it 200 or fewer."),
    (["--prompt", "in {words} words"], "say which with --words, e.g. --words 25,100."),
    (["--prompt-file", "words.txt"], "the prompt file words.txt has {words} in it; say which with words"),
    (["--prompt", "plain.txt"], "prompt is the name of a file, 'plain.txt'; give it with --prompt-file (prompt_file)."),
    (
        ["--prompt", "-"],
        "prompt is -, which many programs take for standard input; that is the file /dev/stdin here: give it with",
    ),
    (["--prompt", "@plain.txt"], "prompt is the name of a file, 'plain.txt'"),
    (
        ["--prompt", "@missing.txt"],
        "prompt begins with @, as the name of a file does, 'missing.txt'; give it with --prompt-file",
    ),
    (["--system", "plain.txt"], "system is the name of a file, 'plain.txt'; a file's name follows an @: @plain.txt."),
    (
        ["--temperature", "0.7", "--body", '{"temperature": 0.1}'],
        "body sets temperature, which is set by --temperature;",
    ),
    (["--temperature", "0", "--body", '{"temperature": 1}'], "body sets temperature, which is set by --temperature;"),
    (["--sampling-seed", "7", "--body", '{"seed": 8}'], "body sets seed, which is set by --sampling-seed; take it out"),
    (["--think-time", "20d"], "'20d' is no time: give a number of seconds or a distribution like lognormal(20, 0.8)"),
    (["--prompt-file", "plain.txt", "--words", "10,20"], "the prompt file plain.txt has no {words} in it."),
    (["--prompt-file", "prompts.jsonl"], "looks like JSON lines, and would be sent whole, as one prompt"),
    (["--prompt-file", "utf16.toml"], "is not UTF-8 text but UTF-16 or UTF-32; save it as UTF-8."),
    (["--prompt-file", "binary"], "is binary, not text; name the right file."),
    (["--prompt-file", "folder"], "the prompt file folder is a folder; name a file."),
    (["--prompt-file", "-"], "cannot read the prompt file -: No such file or directory; standard input is /dev/stdin."),
    (["--trace", "packed.csv"], "the trace packed.csv is gzip, which loadtest does not read; unpack it first."),
    (["--trace", "bad.csv"], "line 2, has a length of 'nan' (column input_tokens)"),
    (["--trace", "far.txt"], "line 2, is due 1.16e+25 days after the first"),
    (["--trace", "empty"], "the trace empty is empty"),
    (["--trace", "nowhere"], "cannot read the trace nowhere: No such file or directory."),
    (["utf16.toml"], "UTF-16"),
    (["deep.toml"], "is not valid TOML"),
    (["digits.toml"], "is not valid TOML"),
    (["hex.toml"], "seed must be at most 9223372036854775807, not a number of about 7225 digits."),
    (
        ["table.toml"],
        "has requests in [request]; it belongs above all tables.",
    ),
    (["dates.toml"], "requests must be a whole number or nothing, not 2024-01-01."),
    (["nul.toml"], "model holds a NUL byte; take it out."),
    (["folder"], "the scenario folder is a folder; name a file."),
    (
        ["a_run"],
        "a_run is a run folder, not a scenario file: `loadtest report a_run` reads it, and its report.md has the command",
    ),
    (["--out", ""], "--out is empty; give it a value, or leave it out."),
    ([""], "SCENARIO.toml or URL is empty; give it a value, or leave it out."),
    (["--out", "/"], "is the root of the file system; choose another --out."),
    (["--out", "empty"], "empty is a file, not a folder; choose another --out."),
    (["--out", "empty/run"], "choose another --out."),
    (["--out", "loop"], "loop is a link that leads to no folder; choose another --out."),
    (
        ["--out=~/run"],
        "~/run begins with ~, which the shell left as it is; write $HOME, or --out and a blank before it.",
    ),
    (["--out", "loop/run"], "choose another --out."),
    (["--out", LONG], "File name too long; choose another --out."),
    (["--out", "/".join(["x" * 200] * 30)], "File name too long; choose another --out."),
    (["--concurency", "1"], "--concurrency"),
    (["--concurrency", "1", "#", "one", "user"], "'#' and what follows came as arguments, for zsh knows no comments"),
    (
        [" ", "--concurrency", "1"],
        "an argument is a blank (' '); a backslash that joins lines must be the last character",
    ),
    (
        ["--concurrency", "1", "2", "4"],
        "'2' is neither a scenario file nor a URL; several values of an option have commas",
    ),
    (["8000"], "blanks: --concurrency 1,2,4. A port of this machine is written :8000."),
    (["--slo", "ttft_p95=2", "errors=0"], "'errors=0' is neither a scenario file nor a URL"),
    (["\u2013concurrency", "4"], "begins with a dash that is not the keyboard's; write --concurrency."),
    (["\u2014slo=ttft_p95=2"], "begins with a dash that is not the keyboard's; write --slo=ttft_p95=2."),
    (
        ["--slo", "\u201cttft_p95=2\u201d"],
        "has typographic quotes, which the shell takes for letters; write straight ones: 'ttft_p95=2'.",
    ),
    (["--prompt", "\u201cTell", "a", "story\u201d"], "has typographic quotes, which the shell takes for letters"),
    (["--duration", "5d"], "'5d' is not a time like 0.5 (seconds), 500ms, 90s, 2m or 1h"),
    (
        ["--url", "https://h/a/chat/completions", "--path", "/b"],
        "the URL ends in /chat/completions, and --path /b was asked for",
    ),
]
RIGHT = [
    ["--concurrency", "1e1", "--requests", "16.0"],
    ["--concurrency", " 1, 2 ,,4 "],
    ["--duration", "1e3"],
    ["--duration", "2min", "--think-time", "500ms", "--connect-timeout", "5s", "--patience", "1m"],
    ["--first-byte-timeout", "5"],
    ["--stop-after-errors", "3"],
    ["--seed", "-5"],
    ["--name", "größe · 日本語 😀"],
    ["--slo", "errors=1%", "--max-error-ratio", "5%"],
    ["--api", "OpenAI", "--endpoint", "Chat"],
    ["--slo", "TTFT_P95=500ms,requests_per_s=1e-3"],
    ["--prompt-file", "plain.txt"],
    ["--prompt-file", "words.txt", "--words", "10,20"],
    ["--trace", "trace.csv"],
    ["--out", "folder/new/run"],
    ["bom.toml"],
    ["--stop", "#", "--stop", " "],
    ["--prompt", "folder"],
    ["--prompt", "plain.txt is my file"],
    ["--temperature", "0.7", "--body", '{"top_k": 5}'],
    ["--prompt", "\u2013 \u201cso it goes\u201d \u2013"],
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda value: None)
def test_a_mistake_is_one_sentence_before_anything_is_sent_or_made(place: Path, options: list[str], words: str) -> None:
    before = sorted(place.rglob("*"))
    said = answer(["run", "--url", REFUSED, *options])
    assert said.code == 2
    assert words in said.err
    assert "cannot reach" not in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize("options", RIGHT, ids=lambda value: None)
def test_what_is_odd_but_right_is_taken(place: Path, options: list[str]) -> None:
    before = sorted(place.rglob("*"))
    said = answer(["run", "--url", REFUSED, *options])
    assert said.code == 2
    assert f"cannot reach {REFUSED}" in said.err  # all else was right
    assert sorted(place.rglob("*")) == before


def test_what_an_old_name_is_called_now_is_said(place: Path) -> None:
    said = answer(["run", "--url", REFUSED, "--first-byte-timeout", "5"])
    assert said.err.count("has first_byte_timeout, which is called first_token_timeout now") == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.yaml", "; a scenario is written in TOML, like concurrency = [1, 2]."),
        ("a.jsonl", "; prompts are given with --data a.jsonl, recorded arrivals with --trace."),
        ("a.py", "; run a Locust file with `locust -f a.py`."),
    ],
)
def test_another_file_in_a_scenarios_place_is_answered_with_where_it_belongs(
    place: Path, name: str, words: str
) -> None:
    Path(name).write_text("concurrency: 1\n")
    assert answer(["run", name, "--url", REFUSED]).err.endswith(f"{words}\n")


def test_a_misspelt_variable_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_CONCURENCY", "4")
    monkeypatch.setenv("LOADTEST_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("LOADTEST_MAX_TOKENS", "5")
    said = answer(["run", "--url", REFUSED])
    assert (
        said.err.count("LOADTEST_CONCURENCY in the environment is not used; LOADTEST_CONCURRENCY is an option's.") == 1
    )
    assert "SERVICE_HOST" not in said.err
    assert "LOADTEST_MAX_TOKENS in the environment is not used; LOADTEST_OUTPUT_TOKENS is an option's." in said.err
    monkeypatch.setenv("LOADTEST_WARM_CACHE", "maybe")
    assert (
        "LOADTEST_WARM_CACHE: 'maybe' is neither yes nor no; write 1 or 0; see" in answer(["run", "--url", REFUSED]).err
    )


def test_any_command_line_ends_in_a_sentence_or_in_what_was_asked_for(place: Path) -> None:
    draw = random.Random(13)
    before = sorted(place.rglob("*"))
    for _ in range(120):
        said = answer(command_line(draw))
        assert said.fault is None, (said.args, said.fault, said.err)
    assert sorted(place.rglob("*")) == before


def test_an_objective_is_found_in_any_case() -> None:
    assert [one.name for one in parse_objectives("TTFT_p95=2,Requests_Per_S=1")] == ["ttft_p95", "requests_per_s"]


def test_text_that_the_locale_cannot_hold_is_not_called_wrong() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "loadtest", "run", "--out", "ä"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "--out is not ASCII text" in ended.stderr
    assert "PYTHONUTF8=1" in ended.stderr


@pytest.mark.parametrize("text", [":8000", "127.0.0.1", "127.0.0.1:8000", "localhost", "gpu-box:8000", "[::1]"])
def test_a_server_is_also_named_by_its_port_or_address_alone(text: str) -> None:
    assert file_and_url([text], None) == (None, text)


def test_an_option_takes_the_place_of_what_excludes_it_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADTEST_DURATION", "60")
    monkeypatch.setenv("LOADTEST_CONCURRENCY", "8")
    with nothing_started(tmp_path):
        for loop in (["--concurrency", "1"], ["--rate", "2"]):
            said = answer(["run", *loop, "--requests", "8", REFUSED]).err
            assert "cannot reach" in said, said
            assert "LOADTEST_DURATION" not in said
