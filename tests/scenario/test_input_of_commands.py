"""What users write wrongly to commands other than run is one sentence and exit code 2 too."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.odd_input import answer

from loadtest.cli import COMMANDS
from loadtest.run_folder import RunFolder


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["serve", "--port", "99999"], "99999 is not a number from 0 to 65535"),
        (["serve", "--speed", "nan"], "nan is not a number from 0.001 to 1000"),
        (["serve", "--speed", "0"], "0.0 is not a number from 0.001 to 1000"),
        (["serve", "--slots", "-1"], "-1 is not a number from 1 to 100000"),
        (["serve", "--slots", "0"], "0 is not a number from 1 to 100000"),
        (["serve", "--jitter", "inf"], "inf is not a number from 0 to 1"),
        (["serve", "--num-ctx", "-1"], "-1 is not a number from 1 to 100000000"),
        (["serve", "--profile", ""], "--profile is empty; give it a value, or leave it out."),
        (["demo", "--speed", "nan"], "nan is not a number from 0.01 to 100"),
        (["monitor", "--out", "x", "--every", "nan"], "nan is not a number from 0.05 to 86400"),
        (
            ["monitor", "--out", "x", "--metrics-port", "0", "--every", "3"],
            "--every does nothing without --source, which",
        ),
        (
            ["monitor", "--out", "x", "--insecure"],
            "--insecure does nothing without a URL, for no server is asked; leave it",
        ),
        (["monitor", "--out", "x", "--client", "-5"], "-5 is not in the range x>=1"),
        (
            ["memory", "--model", "phi4", "--layers", "3"],
            "--layers does nothing without --parameters or --config; leave it out.",
        ),
        (["memory", "--model", "phi4", "--insecure"], "--insecure does nothing without --url; leave it out."),
        (
            ["memory", "--model", "phi4", "--training", "sgd", "--slots", "3"],
            "--slots does nothing beside --training and --table,",
        ),
        (
            ["memory", "--model", "phi4", "--buffers", "1GB", "--no-flash-attention"],
            "--no-flash-attention does nothing beside",
        ),
        (
            ["check", "mine.toml"],
            "it names a file; a scenario is given to `loadtest run`.",
        ),
        (["monitor", "--out", "x", "--for", "inf"], "inf is not a number from 0.001 to 2592000"),
        (["check", "http://a:1,http://b:1"], "check looks at one server; give one URL."),
        (["check", "--url", "http://exa mple"], "'http://exa mple' holds a blank; give one URL at a time; see"),
        (["check", ""], "URL is empty; give it a value, or leave it out."),
        (
            ["memory", "x.gguf"],
            "'x.gguf' is no URL, and there is no file of that name: name a file with --gguf or --config",
        ),
        (["memory", "plain.txt"], "'plain.txt' is no URL: name a file with --gguf"),
        (["plot", "a", "b"], "-o DIR says where the charts of several runs go"),
        (["report"], "write `loadtest report [OPTIONS] RUN...`."),
        (["report", ""], "RUN is empty; give it a value"),
        (["compare", "", "x"], "BASE or NEW or RUN is empty; give it a value"),
        (["export", "~nobody-here"], "~nobody-here is not a run folder: there is nothing of that name"),
        (["compare", "A"], "name two runs, BASE and NEW, or several of each"),
        (["compare", "folder", "./folder"], "are the same run: name two."),
        (["compare", "loop", "folder"], "is not a run folder"),
        (
            ["report", "nowhere"],
            "nowhere is not a run folder: there is nothing of that name; `loadtest ls` lists the runs.",
        ),
        (
            ["report", "plain.txt"],
            "is not a run folder: it is a file; unpack it where it holds a run, and give the folder.",
        ),
        (["score", "folder", "folder"], "folder is a folder, not a prediction; give the prediction.json"),
        (["explain", "folder", "--request", "x"], "'x' is not a whole number"),
        (["reprot", "x"], "there is no command 'reprot'; did you mean 'report'?"),
        (["plot", "x", "-o"], "Option '-o' requires an argument; see `loadtest plot --help`."),
        (["http://h:1"], "there is no command 'http://h:1'; write `loadtest run http://h:1`."),
        (["zzz"], "there is no command 'zzz'; `loadtest --help` says what there is: demo, check, run, report,"),
        (["advise", "folder", "--gpu-memory", "nan"], "--gpu-memory is a size like 80GB or 24GiB, not 'nan'."),
        (["advise", "folder", "--slo", "ttft_p95=-1"], "the limit of ttft_p95 is seconds"),
    ],
)
def test_a_mistake_of_another_command_is_one_sentence_too(place: Path, args: list[str], words: str) -> None:
    before = sorted(place.rglob("*"))
    said = answer(args)
    assert said.code == 2
    assert words in said.err
    assert len(said.err.splitlines()) == 1
    assert sorted(place.rglob("*")) == before


def test_what_stands_beside_run_folders_is_told_from_them(place: Path) -> None:
    RunFolder.create(place / "runs/a").write_run({})
    said = answer(["report", "runs"])
    assert said.err == "loadtest: runs is not a run folder: it holds some; give one of them, such as runs/a.\n"
    said = answer(["report", "runs/a/run.json"])
    assert said.err == "loadtest: runs/a/run.json is not a run folder: it is a file of one; give the folder, runs/a.\n"


def test_across_names_keys_that_runs_have(place: Path) -> None:
    for name in ("a", "b"):
        RunFolder.create(place / name).write_run({"comparability": {"new_key": 1}})
    assert (
        "--across: runs have no key 'modle'; did you mean 'model'?"
        in answer(["compare", "a", "b", "--across", "modle"]).err
    )
    assert (
        "runs have no key 'zzz'; keys are answers, arrivals, body, context,"
        in answer(["compare", "a", "b", "--across", "zzz"]).err
    )
    assert "--across" not in answer(["compare", "a", "b", "--across", "new_key,model"]).err


def test_the_short_help_option_is_one_of_every_command(place: Path) -> None:
    for name in COMMANDS:
        said = answer([name, "-h"])
        assert (said.code, said.err) == (0, "")
        assert said.out.startswith(f"Usage: loadtest {name}")
