"""Gates for continuous integration: JUnit XML, the summary of a GitHub step, --quiet, and the workflow in docs/ci.md."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
import yaml
from support.made_runs import Made, make
from support.places import ROOT

from loadtest.analyse.reports import gate_report
from loadtest.analyse.summary import analyse
from loadtest.cli import cli
from loadtest.slo import parse_objectives

pytestmark = pytest.mark.usefixtures("bare_reports")

PAGE = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
Call = Callable[..., tuple[int, str, str]]
QUICK = ("--concurrency", "1,2", "--requests", "2", "--warmup", "0", "--output-tokens", "3")


def cases_in(path: Path) -> list[tuple[str, str, str]]:
    """Return (level, test, how it ended) of a JUnit file, whose counts must be right."""
    root = ElementTree.parse(path).getroot()
    found = [
        (
            str(case.get("classname")),
            str(case.get("name")),
            next((e.tag for e in case if e.tag != "system-out"), "passed"),
        )
        for case in root.iter("testcase")
    ]
    for element in (root, *root.iter("testsuite")):
        inside = list(element.iter("testcase"))
        counts = [len(inside), *(sum(case.find(tag) is not None for case in inside) for tag in ("failure", "error"))]
        assert [int(element.attrib[name]) for name in ("tests", "failures", "errors")] == counts
    return found


def test_junit_has_a_test_for_each_verdict_and_objective(loadtest: Call, tmp_path: Path) -> None:
    make(tmp_path / "run", Made(), users=(1, 8), name="<&\x1b>")
    slo = "ttft_p50=100ms,ttft_p99=10"
    code, _, _ = loadtest("report", tmp_path / "run", "--slo", slo, "--junit", tmp_path / "new" / "gate.xml")
    assert code == 1
    one, eight = "1 stream · 100 in · 20 out", "8 streams · 100 in · 20 out"
    assert cases_in(tmp_path / "new/gate.xml") == [
        (one, "can be believed", "passed"),
        (one, "TTFT p50 ≤ 100 ms", "passed"),
        (one, "TTFT p99 ≤ 10 s", "error"),  # too few requests
        (eight, "can be believed", "passed"),
        (eight, "TTFT p50 ≤ 100 ms", "failure"),
        (eight, "TTFT p99 ≤ 10 s", "error"),
    ]
    suite = next(ElementTree.parse(tmp_path / "new/gate.xml").getroot().iter("testsuite"))
    assert suite.get("name") == "<&\\x1b>"
    message = next(case.get("message") for case in suite.iter("failure"))
    assert message is not None
    assert message.startswith("TTFT p50 is ")


def test_a_void_level_and_a_run_cut_short_are_errors(loadtest: Call, tmp_path: Path) -> None:
    make(tmp_path / "void", Made(), users=(1,), clock_steps=1)
    make(tmp_path / "cut", Made(), users=(1,), state="interrupted")
    gate = tmp_path / "gate.xml"
    assert loadtest("report", tmp_path / "void", "--junit", gate)[0] == 3
    assert [ended for *_, ended in cases_in(gate)] == ["error"]
    loadtest("report", tmp_path / "cut", "--junit", gate)
    assert cases_in(gate)[0] == ("run", "the run ended by itself", "error")


@pytest.mark.parametrize(
    ("state", "said"), [("running", "has not ended, or was killed"), ("interrupted", "was interrupted")]
)
def test_a_gate_says_of_a_run_that_has_not_ended_what_its_report_says(state: str, said: str, tmp_path: Path) -> None:
    """Of a run in progress it said "did not end by itself", which is what an interrupted one did."""
    make(tmp_path / "run", Made(), users=(1,), state=state)
    summary = analyse(tmp_path / "run").summary
    assert f"**The run {said}" in gate_report.step_summary(summary, ())
    assert said in next(gate_report.cases(summary, ())).said


def test_the_step_summary_is_appended_where_it_is_asked_for(
    loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "run", Made(), users=(1, 8))
    place = tmp_path / "summary.md"
    place.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place))
    loadtest("report", tmp_path / "run", "--slo", "ttft_p50=100ms")
    assert place.read_text() == "before\n"
    loadtest("report", tmp_path / "run", "--slo", "ttft_p50=100ms", "--github-summary")
    text = place.read_text()
    assert text.startswith("before\n### loadtest: made")
    assert "| 1 stream · 100 in · 20 out | TTFT p50 ≤ 100 ms | ✅ met, but not surely |" in text
    assert "❌ missed" in text
    assert text.count("TTFT p50") == 3  # a head and two objectives: a figure does not repeat its objective


def test_nothing_of_a_void_level_has_passed(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(), users=(8,), clock_steps=2)
    text = gate_report.step_summary(analyse(tmp_path / "run").summary, parse_objectives("ttft_p50=10,itl_p50=0.001"))
    assert "| ❔ met, but void |" in text
    assert "| ❔ missed, but void |" in text
    assert "✅" not in text


def test_every_way_to_say_it_says_that_an_objective_of_a_void_level_was_not_judged(
    loadtest: Call, tmp_path: Path
) -> None:
    """JUnit called the one a failure and the other passed, and the terminal "missed", beside exit code 3."""
    make(tmp_path / "run", Made(), users=(8,), clock_steps=2)
    gate, slo = tmp_path / "gate.xml", "ttft_p50=10,itl_p50=0.001"
    code, out, _ = loadtest("report", tmp_path / "run", "--slo", slo, "--junit", gate)
    assert code == 3
    assert [ended for *_, ended in cases_in(gate)] == ["error"] * 3
    said = [line.rpartition(": ")[2] for line in out.splitlines() if "TTFT p50 is " in line or "ITL p50 is " in line]
    assert said == ["met, but void", "missed, but void"]
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert page.count(", but void |") == 2
    body = json.loads(loadtest("report", tmp_path / "run", "--slo", slo, "--json")[1])
    found = body["runs"][0]["objectives"]
    assert [each["judged"] for each in found] == said
    assert [each["sentence"].rpartition(": ")[2] for each in found] == said
    assert {each["verdict"] for each in found} == {"void"}


def test_the_step_summary_without_github_is_a_mistake_before_anything_is_sent(
    loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    code, out, err = loadtest("run", "http://127.0.0.1:9", "--github-summary", "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "GITHUB_STEP_SUMMARY" in err
    code, _, err = loadtest("run", "http://127.0.0.1:9", "--junit", "/dev/null/gate.xml")
    assert code == 2
    assert "/dev/null is a file, not a folder; choose another --junit." in err


def test_a_run_writes_both_and_quietly(
    loadtest: Call, simulated_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    gate, out_folder = tmp_path / "gate.xml", tmp_path / "run"
    given = (*QUICK, "--slo", "ttft_mean=1ms", "--junit", gate, "--github-summary")
    code, out, err = loadtest("run", simulated_url, *given, "--quiet", "--out", out_folder)
    assert code in (1, 3)  # void where this machine is busy
    assert out == f"{out_folder}\n"
    assert err.count("\n") == err.count("missed") + err.count(" is void: ")
    assert {ended for _, name, ended in cases_in(gate) if name.startswith("TTFT")} <= {"failure", "error"}
    assert "missed" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(("slo", "ended"), [("ttft_p50=60", "passed"), ("ttft_p50=0.1ms", "failure")])
def test_a_search_is_one_test_and_passes_as_the_exit_code_does(
    loadtest: Call, simulated_url: str, tmp_path: Path, slo: str, ended: str
) -> None:
    given = ("--find-max", "1", "--slo", slo, "--output-tokens", "2", "--input-tokens", "16", "--warmup", "0")
    gate = tmp_path / "gate.xml"
    code, out, err = loadtest("run", simulated_url, *given, "--junit", gate, "--out", tmp_path / "run")
    assert [(level, how) for level, _, how in cases_in(gate)] == [("find-max", {3: "error"}.get(code, ended))], (
        out + err
    )
    assert code in (3, int(ended == "failure"))


def test_no_secret_is_in_them(loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "sk-planted-0123456789"
    make(tmp_path / "run", Made(), users=(1,), name=f"as {secret} said")
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    _, out, _ = loadtest("report", tmp_path / "run", "--junit", tmp_path / "g.xml", "--github-summary", "--json")
    for text in (out, (tmp_path / "g.xml").read_text(), (tmp_path / "summary.md").read_text()):
        assert "planted" not in text
        assert "OPENAI_API_KEY" in text


def test_an_empty_run_does_not_pass() -> None:
    summary: dict[str, Any] = {"state": "done", "levels": []}
    assert [case.ended for case in gate_report.cases(summary, ())] == ["error"]


WORKFLOW, STEPS = (yaml.safe_load(found) for found in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each loadtest command in a shell script."""
    for found in re.finditer(r"\bloadtest ([^\n;&|'>]+)", text):
        yield shlex.split(found[1])


def test_the_workflow_parses_and_so_do_its_commands() -> None:
    steps = [*STEPS, *(step for job in WORKFLOW["jobs"].values() for step in job["steps"])]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    scripts = [step["run"] for step in steps if "run" in step and "pip install" not in step["run"]]
    blocks = re.findall(r"```\n(.*?)```", re.sub(r"```yaml\n.*?```", "", PAGE, flags=re.DOTALL), re.DOTALL)
    found = [words for text in (*scripts, *blocks) for words in commands(text)]
    assert {words[0] for words in found} == {"run", "serve", "check", "ls"}
    for name, *words in found:
        with click.Context(cli, **cli.context_settings) as parent:
            command = cli.get_command(parent, name)
            assert command is not None
            command.make_context(name, list(words), parent=parent)  # raises for what it does not know


def test_the_variables_of_the_workflow_are_options() -> None:
    with click.Context(cli, **cli.context_settings) as parent:
        run = cli.get_command(parent, "run")
    assert run is not None
    known = {param.envvar for param in run.params if isinstance(param, click.Option)}
    named = {name for job in WORKFLOW["jobs"].values() for step in job["steps"] for name in step.get("env", {})}
    assert named
    assert named <= known
