"""Several models or servers in one run: each is worked out by itself, and nothing is pooled that differs."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import report_pages as pages
from support.made_runs import grid, make, write
from support.two_models import FAST, HERE, SLOW, THERE, USERS, mixed, target, two_models
from support.virtual_runs import Load, play

from loadtest.analyse import charts, report
from loadtest.analyse.charts import machine
from loadtest.analyse.charts.ttft import parts_of
from loadtest.analyse.figures import client_capacity
from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports import pages as report_pages
from loadtest.analyse.reports.answers import verdict_in_words
from loadtest.analyse.run import frames, groups
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.whatif.model.fit import levels_used
from loadtest.errors import PredictionError
from loadtest.records import Outcome, Record
from loadtest.simulate.model.timing import StepLaw, Timing

pytestmark = pytest.mark.usefixtures("short_reports")


def steps_of(group: dict[str, Any]) -> list[float]:
    """Return a group's mean step times, by number of streams."""
    return [entry["mean_s"] for entry in group["step_law"]["times"]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return two_models(tmp_path_factory.mktemp("groups") / "run")


def test_each_model_has_its_own_slots_law_and_lengths(both: Analysis) -> None:
    fast, slow = both.summary["groups"]
    assert [(one["model"], one["url"], one["dialect"]) for one in (fast, slow)] == [
        ("made", HERE, "ollama-chat"),
        ("other", HERE, "ollama-chat"),
    ]
    assert [(one["slots"]["estimate"], one["slots"]["limit"]) for one in (fast, slow)] == [(4, True), (2, True)]
    for one, gap in ((fast, 0.010), (slow, 0.040)):
        assert steps_of(one) == pytest.approx([gap] * len(steps_of(one)), rel=0.01)
    assert json.loads(json.dumps(both.summary, allow_nan=False)) == both.summary


@pytest.mark.parametrize(
    ("ends", "known"), [(({"size": 1}, None), False), (({"size": 1}, {"size": 1}), True), ((None, None), True)]
)
def test_two_names_of_one_file_share_the_slots_of_what_ollama_loaded(
    tmp_path: Path, ends: tuple[Any, Any], known: bool
) -> None:
    """A real Ollama loads one file once under two names: its 4 slots were "2 in parallel" of each name."""
    targets = [target(name, server_at_end=end) for name, end in zip(("made", "other"), ends, strict=True)]
    found = two_models(tmp_path / "run", targets=targets)
    assert [one["slots"]["limit"] for one in found.summary["groups"]] == [known, known]
    assert any("had to share" in one["slots"]["method"] for one in found.summary["groups"]) is not known


def test_a_row_is_a_level_of_one_model(both: Analysis) -> None:
    levels = both.summary["levels"]
    assert [level["label"] for level in levels] == [
        "made · 2 of 4 streams · 100 in · 20 out",
        "made · 6 of 12 streams · 100 in · 20 out",
        "other · 2 of 4 streams · 100 in · 20 out",
        "other · 6 of 12 streams · 100 in · 20 out",
    ]
    assert [(level["model"], level["concurrency"]) for level in levels] == [
        ("made", 2),
        ("made", 6),
        ("other", 2),
        ("other", 6),
    ]
    assert [level["tpot_s"]["p50"] for level in levels] == pytest.approx([0.010, 0.010, 0.040, 0.040])
    assert [level["requests"] for level in levels] == [16, 48, 16, 48]
    assert all(
        level in one["levels"]
        for one, level in zip([0, 0, 1, 1], levels, strict=True)
        for one in [both.summary["groups"][one]]
    )


def test_users_of_a_closed_loop_beside_an_open_one_are_told_apart(tmp_path: Path) -> None:
    """Three users and an open loop of 2 requests/s were "4 streams", and were predicted from as an open loop alone."""
    levels, records = mixed(FAST, SLOW)
    records = [dataclasses.replace(one, user=one.id if one.model == "made" else None) for one in records]
    levels = [level | {"concurrency": level["concurrency"] // 2, "rate": 4.0} for level in levels]
    apart = analyse(write(tmp_path / "apart", records, levels, targets=[target("made"), target("other")]))
    assert [(level["concurrency"], level["rate"]) for level in apart.summary["levels"][::2]] == [(2, None), (None, 4.0)]
    of_one = [dataclasses.replace(one, model="made", target=0) for one in records]
    together = analyse(write(tmp_path / "together", of_one, levels))
    assert together.summary["levels"][0]["label"] == "2 streams beside 4 requests/s"
    assert "several requests at once" not in " ".join(all_findings(together))
    with pytest.raises(PredictionError, match="neither a level of a closed loop nor one"):
        levels_used(together.run, together.summary["levels"])
    unknown = [level | {"rate": None, "by_schedule": 1} for level in levels]  # its workers were given different rates
    assert report_pages.grounds(together.summary, []) == {"advise": False, "predict": None, "explain": ""}
    assert not any(one.is_closed for one in analyse(write(tmp_path / "unknown", of_one, unknown)).levels)
    apart = analyse(write(tmp_path / "both", records, unknown, targets=[target("made"), target("other")]))
    assert [(one.is_closed, one.is_open) for one in apart.levels[::2]] == [(True, False), (False, True)]


def test_each_part_says_what_the_same_requests_alone_would(both: Analysis, tmp_path: Path) -> None:
    """The truth of a part is that of a run of its own: waits, gaps, delays and windows are the same."""
    levels, records = mixed(FAST, SLOW)
    own = [dataclasses.replace(record, target=0) for record in records if record.model == "other"]
    for level, streams in zip(levels, USERS, strict=True):
        sent = sum(record.level == level["index"] and not record.warmup for record in own)
        level |= {"concurrency": streams, "input_tokens": 100, "output_tokens": 20, "requests": sent}
    alone = analyse(write(tmp_path / "alone", own, levels, target=target("other"))).summary["levels"]
    for part, level in zip(both.summary["groups"][1]["levels"], alone, strict=True):
        for name in ("ttft_s", "slot_wait_s", "queue_wait_s", "itl_s", "stall_s", "e2e_s", "delivery_delay_s"):
            for key in ("n", "mean", "p50", "max"):
                assert part[name][key] == pytest.approx(level[name][key]), name
        assert part["output_tokens_per_s"] == pytest.approx(level["output_tokens_per_s"])
        assert (part["verdict"], part["peak_decoding"]) == (level["verdict"], level["peak_decoding"])


def test_nothing_is_inferred_of_all_together(both: Analysis) -> None:
    summary = both.summary
    assert (summary["slots"], summary["step_law"], summary["memory"]) == (None, None, None)
    assert (summary["knee"], summary["lengths"]) == ([], [])
    assert "several models or servers" in summary["step_law_reason"]
    assert summary["outcomes"] == {"ok": 128}
    assert {key: summary["target"].get(key) for key in ("url", "model")} == {"url": HERE, "model": None}
    said = all_findings(both)
    assert said[0] == "Figures are given apart for made (72 requests) and other (72 requests)."
    assert said[1].startswith(f"made and other were in use at the same time at {HERE}: ")
    assert "may run in step" not in " ".join(said)  # two models
    for sentence in said:
        if "step takes" in sentence or "in parallel" in sentence or "requests queue" in sentence:
            assert sentence.startswith(("made, ", "other, "))
    assert sum("the server handles" in sentence for sentence in said) == 2


def test_what_models_show_beside_each_other_says_so(both: Analysis) -> None:
    """Streams of both grow from level to level: what one's cost holds what the other's cost, and no prompt was alone."""
    for one, other in zip(both.summary["groups"], ("other", "made"), strict=True):
        assert one["beside"] == [other]
        assert one["step_law"]["prefill"] is None
        assert one["step_law"]["prefill_reason"].startswith(f"{other} loaded the same server meanwhile")
    for sentence in all_findings(both)[2:]:
        assert sentence.startswith(("made, beside other: ", "other, beside made: "))
        assert "Prefill runs" not in sentence


def test_models_at_servers_of_their_own_give_a_law_each(tmp_path: Path) -> None:
    levels, records = mixed(FAST, SLOW)
    one = analyse(write(tmp_path / "run", records, levels, targets=[target("made"), target("other", THERE)]))
    fast, slow = (each["step_law"] for each in one.summary["groups"])
    assert (fast["prefill"] is not None, slow["prefill"] is not None) == (True, True)
    assert any(
        sentence == "other: the server handles 2 requests in parallel; further requests queue."
        for sentence in all_findings(one)
    )
    assert not any("same time" in sentence for sentence in all_findings(one))


def test_a_prompt_beside_another_model_s_work_says_no_prefill_speed(both: Analysis) -> None:
    accompanied = both.run.requests["prefill_tokens_per_s"].notna()
    assert not accompanied.any()  # at every instant both models were in use


def test_the_verdict_is_the_group_s_own(tmp_path: Path) -> None:
    def broken(record: Record) -> dict[str, Any]:
        return {"outcome": Outcome.HTTP_ERROR, "error": "HTTP 500: no"} if record.model == "other" else {}

    one = two_models(tmp_path / "run", broken)
    verdicts = {level["label"].split(" · ")[0]: level["verdict"] for level in one.summary["levels"]}
    assert verdicts == {"made": "valid", "other": "void"}
    assert [each["verdict"] for each in one.summary["groups"]] == ["valid", "void"]
    assert one.summary["verdict"] == "void"
    assert "2 of 4 levels are void." in verdict_in_words(one.summary)


def test_slots_that_models_may_share_are_no_limit(tmp_path: Path) -> None:
    """llama.cpp's server takes any model name, and its slots are shared: what one was kept to says nothing."""
    server: dict[str, Any] = {"kind": "llama.cpp", "version": "1", "context": None, "simulated": None, "facts": {}}
    one = two_models(tmp_path / "run", server=server)
    assert [each["slots"]["limit"] for each in one.summary["groups"]] == [False, False]
    assert not any("further requests queue" in sentence for sentence in all_findings(one))


def test_a_run_of_a_real_and_a_simulated_server_names_the_simulated_one(tmp_path: Path) -> None:
    levels, records = mixed(FAST, SLOW)
    other = {"kind": "ollama", "version": "1", "simulated": {"profile": "quick", "speed": 1.0}}
    targets = [target("made"), target("other", THERE, server=other)]
    one = analyse(write(tmp_path / "run", records, levels, targets=targets))
    mark = "other alone is simulated: profile quick at 1× speed"
    page = pages.markdown(one, [])
    assert f"> **PARTLY SIMULATED** ({mark})" in page
    assert f"</strong> ({mark})" in pages.html(one, [])  # stood as "other alone is profile quick at 1× speed"
    assert "SIMULATED SERVER" not in page + pages.html(one, [])
    assert "the server is simulated" not in page
    assert mark in (report.console_table(one.summary, 100).title or "")
    assert "> **SIMULATED SERVER** (profile quick" in pages.markdown(one.groups[1][1], [])


def test_an_old_locust_folder_tells_groups_by_model(tmp_path: Path) -> None:
    """Two user classes, as before there were targets: records know their model, run.json the other server in words."""
    levels, records = mixed(FAST, SLOW)
    old = [dataclasses.replace(record, target=0) for record in records]
    others = [f"{THERE}: Ollama 0.24.0 (simulated: profile cpu-98m at 2× speed), model other, ollama-chat"]
    one = analyse(write(tmp_path / "run", old, levels, driver="locust", other_targets=others))
    assert [(each["model"], each["url"]) for each in one.summary["groups"]] == [("made", HERE), ("other", THERE)]
    server = one.summary["groups"][1]["server"]  # nothing of the first one's context and version is its
    assert server == {"kind": "ollama", "version": "0.24.0", "simulated": {"profile": "cpu-98m", "speed": 2.0}}
    assert [each.summary["simulated"] is not None for _, each in one.groups] == [False, True]
    assert "PARTLY SIMULATED" in pages.markdown(one, [])
    assert one.summary["groups"][1]["beside"] == []
    for each, gap in zip(one.summary["groups"], (0.010, 0.040), strict=True):
        assert steps_of(each) == pytest.approx([gap] * len(steps_of(each)), rel=0.01)


def test_an_old_folder_that_does_not_tell_servers_apart_is_suspect(tmp_path: Path) -> None:
    levels, truth = grid(FAST, (2,))
    others = [f"{THERE}: ollama 0.33.0, model made, ollama-chat"]
    one = analyse(write(tmp_path / "run", truth.records, levels, driver="locust", other_targets=others))
    assert one.summary["verdict"] == "suspect"
    assert f"requests went to {HERE} and {THERE}" in one.summary["levels"][0]["reasons"][0]


def test_one_model_at_two_servers_is_named_by_server(tmp_path: Path) -> None:
    levels, records = mixed(FAST, SLOW, names=("made", "made"))
    targets = [target("made"), target("made", THERE)]
    one = analyse(write(tmp_path / "run", records, levels, targets=targets))
    assert [each["name"] for each in one.summary["groups"]] == ["127.0.0.1:11434", "10.0.0.2:8000"]
    assert one.summary["levels"][0]["label"].startswith("127.0.0.1:11434 · 2 of 4 streams")


def test_two_models_at_two_servers_of_which_one_serves_both(tmp_path: Path) -> None:
    levels, records = mixed(FAST, SLOW, FAST, names=("made", "other", "made"))
    targets = [target("made"), target("other"), target("made", THERE)]
    one = analyse(write(tmp_path / "run", records, levels, targets=targets))
    assert [each["name"] for each in one.summary["groups"]] == [
        "made at 127.0.0.1:11434",
        "other at 127.0.0.1:11434",
        "made at 10.0.0.2:8000",
    ]
    assert [each["beside"] for each in one.summary["groups"]] == [
        ["other at 127.0.0.1:11434"],
        ["made at 127.0.0.1:11434"],
        [],
    ]


@pytest.mark.parametrize("targets", [None, [target("made")]])
def test_a_run_of_one_model_is_as_it_always_was(tmp_path: Path, targets: list[dict[str, Any]] | None) -> None:
    facts: dict[str, Any] = {"targets": targets} if targets else {}
    make(tmp_path / "run", users=(2, 6), **facts)
    one = analyse(tmp_path / "run")
    assert one.groups == ()
    assert "groups" not in one.summary
    assert one.summary["levels"][0]["label"] == "2 streams · 100 in · 20 out"
    assert one.summary["slots"]["estimate"] == 4


def test_a_target_without_a_request_is_said(tmp_path: Path) -> None:
    make(tmp_path / "run", users=(2,), targets=[target("made"), target("idle")])
    assert "No request was recorded for idle." in all_findings(analyse(tmp_path / "run"))


def test_the_rate_of_an_open_loop_is_shared_out(tmp_path: Path) -> None:
    levels, records = mixed(FAST, SLOW)
    for level in levels:
        level |= {"concurrency": None, "rate": 8.0, "rate_to": 16.0}
    one = analyse(write(tmp_path / "run", records, levels, targets=[target("made"), target("other")]))
    assert [(level["rate"], level["rate_to"]) for level in one.summary["levels"]] == [(4.0, 8.0)] * 4
    assert one.summary["levels"][0]["label"] == "made · 4 to 8 requests/s · 100 in · 20 out"


def test_what_loads_the_client_is_the_whole_run_s(both: Analysis) -> None:
    whole = client_capacity.peak_events(both.run, 1)
    assert [client_capacity.peak_events(group.run, 1) for group, _ in both.groups] == [whole, whole]


def test_levels_that_a_model_had_no_request_in_are_not_its(tmp_path: Path) -> None:
    levels, records = mixed(FAST, SLOW)
    kept = [record for record in records if record.model == "made" or record.level == 1]
    one = analyse(write(tmp_path / "run", kept, levels, targets=[target("made"), target("other")]))
    assert [len(each["levels"]) for each in one.summary["groups"]] == [2, 1]


def test_reports_and_charts_name_each_model(both: Analysis, tmp_path: Path) -> None:
    pictures = charts.draw_all(both, tmp_path / "out")
    named = [str(path.relative_to(tmp_path / "out")) for path in pictures]
    assert named[0] == "streams.png"
    assert machine.streams_title(both) == "Streams of made and other together"
    assert {"group-1-made/ttft.png", "group-2-other/ttft.png", "group-2-other/throughput.png"} <= set(named)
    assert not any("prediction" in name for name in named)  # the model of one knows no load of the other beside it
    markdown, html = pages.markdown(both, pictures), pages.html(both, pictures)
    for text in (markdown, html):
        assert "Step times: made" in text
        assert "Step times: other" in text
    assert "(group-2-other/ttft.png)" in markdown
    assert html.count("data:image/png") == len(pictures)


def test_the_console_names_each_model(both: Analysis) -> None:
    out = io.StringIO()
    report.console_report(report.Report(both, tuple(all_findings(both))), Console(file=out, width=200))
    text = out.getvalue()
    assert "made · ollama 0.33.0 · made, other · 100 in · 20 out" in text
    for row in ("made · 2 of 4 streams", "other · 6 of 12 streams"):
        assert row in text
    narrow = io.StringIO()
    Console(file=narrow, width=80).print(report.console_table(both.summary))
    assert "valid" in narrow.getvalue()


def test_advice_on_a_model_needs_its_server_to_itself(
    both: Analysis, tmp_path: Path, loadtest: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = loadtest("advise", both.run.path)
    assert (code, err.count("\n")) == (2, 1)
    assert "made: other loaded the same server meanwhile" in err
    assert not list(both.run.path.glob("**/advice*"))
    levels, records = mixed(FAST, SLOW)
    write(tmp_path / "run", records, levels, targets=[target("made"), target("other", THERE)])
    code, out, err = loadtest("advise", tmp_path / "run")
    assert code == 0, err
    assert not err
    written = sorted(path.parent.name for path in (tmp_path / "run").glob("**/advice.json"))
    assert written == ["group-1-made", "group-2-other"]
    assert "made · other · " in out


def test_a_model_beside_another_is_not_compared_with_itself_alone(
    both: Analysis, tmp_path: Path, loadtest: Callable[..., tuple[int, str, str]]
) -> None:
    make(tmp_path / "alone", users=(2, 6), targets=[target("made")])
    code, out, err = loadtest("compare", tmp_path / "alone", both.run.path, "--out", tmp_path)
    assert code == 2
    assert "the runs differ in shared_with (none → other)" in err
    assert "Only NEW has other: left out." in out
    code, _, err = loadtest("compare", tmp_path / "alone", both.run.path, "--across", "shared_with", "--out", tmp_path)
    assert code == 0, err


def test_memory_is_estimated_model_by_model(both: Analysis, loadtest: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = loadtest("memory", "--run", both.run.path)  # made records hold nothing to estimate from
    assert (code, err.count("\n")) == (2, 1)
    assert "made: " in err
    assert "other: " in err


def test_a_part_of_no_request_and_odd_targets_do_no_harm(tmp_path: Path) -> None:
    levels, truth = grid(FAST, (2,))
    odd: tuple[Any, ...] = ("x", [1, None], [{}], {"url": 1})
    for number, targets in enumerate(odd):
        run = frames.load(write(tmp_path / str(number), truth.records, levels, targets=targets))
        assert groups.groups_of(run) == []


def test_a_narrow_table_breaks_names_of_models_at_their_separators(tmp_path: Path) -> None:
    names = ("llama3.1:8b-instruct-q4_K_M", "hf.co/bartowski/Qwen2.5-7B-Instruct-GGUF:Q4_K_M")
    levels, records = mixed(FAST, SLOW, names=names)
    targets = [target(names[0]), target(names[1], THERE)]
    one = analyse(write(tmp_path / "run", records, levels, targets=targets))
    console = Console(width=80, file=io.StringIO())
    console.print(report.console_table(one.summary, 80))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    column = [line[1:16].strip() for line in lines if not line.startswith("made")]
    for piece in ("llama3.1:8b-", "instruct-", "hf.co/", "bartowski/", "Qwen2.5-7B-", "Instruct-GGUF:"):
        assert piece in column
    assert sum(line.rstrip().endswith("valid") for line in lines) == 4


def test_a_wait_for_a_model_that_is_swapped_in_is_no_batch_wait(tmp_path: Path) -> None:
    """Was "98 % of the mean TTFT (3.42 s) is batch wait" behind llama-swap, which started a server anew for each request."""
    played = play(
        Timing(step=StepLaw(0.02, 0.004), prefill_s=0.001), [Load(users=1, requests=40)], slots=4, says="llamacpp"
    )
    records = [played.records[0]]
    for before, one in itertools.pairwise(played.records):  # sent while the other model answers
        sent = before.t_send or 0
        chunks = [chunk + ((one.t_send or 0) - sent) // 1000 for chunk in one.chunks]
        records.append(dataclasses.replace(one, t_sched=sent, t_send=sent, chunks=chunks))
    records[-1] = played.records[-1]  # the last one is alone
    named = [dataclasses.replace(one, model=("made", "other")[one.id % 2], target=one.id % 2) for one in records]
    targets = [{**target(name), "api": "openai", "dialect": "openai-chat"} for name in ("made", "other")]
    both = analyse(write(tmp_path / "run", named, played.levels, targets=targets))
    for level in both.summary["levels"]:
        assert level["batch_wait_s"] is None
        assert level["queue_wait_s"]["mean"] > 0.8 * level["ttft_s"]["mean"]
        assert parts_of(level)["unsplit_wait_s"] == pytest.approx(level["queue_wait_s"]["mean"])
    assert "is queue wait." in " ".join(all_findings(both))
    assert "batch wait" not in " ".join(all_findings(both))
    assert "no other request of this run" not in " ".join(all_findings(both))
