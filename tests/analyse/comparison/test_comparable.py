"""`loadtest compare`: what differs between two runs, whether it is named, and whether they are judged all the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.compared import HERE, PROFILE, Folder, run, verdicts
from support.made_runs import Made, grid, write

from loadtest.analyse.comparison import comparable
from loadtest.analyse.comparison.compare import NOT_COMPARABLE, SAME, compare
from loadtest.analyse.comparison.compare_report import outcome
from loadtest.analyse.comparison.many import compare_many
from loadtest.analyse.summary import Analysis, analyse
from loadtest.errors import LoadTestError, RunFolderError
from loadtest.records import Record


@pytest.mark.parametrize("key", ["model", "warm_cache", "dialect", "quantization"])
def test_runs_that_ask_for_other_things_are_not_judged(folder: Folder, key: str) -> None:
    base, new = folder("base"), folder("new", seed=1, comparability={**HERE, key: "other"})
    assert verdicts(base, new) == {NOT_COMPARABLE}
    result = run(base, new)
    assert isinstance(result.exception, LoadTestError)
    assert f"the runs differ in {key}" in str(result.exception)
    assert f"--across {key}" in " ".join(result.output.split())


def test_a_difference_made_on_purpose_is_judged_and_named(folder: Folder) -> None:
    base, new = folder("base"), folder("new", seed=1, comparability={**HERE, "model": "other"})
    result = run(base, new, "--across", "model")
    assert result.return_value == 0
    assert "Differs: model (made → other)." in result.output


def test_another_server_version_is_judged_and_named(folder: Folder) -> None:
    new = folder("new", seed=1, comparability={**HERE, "server": "ollama 0.34.0"})
    found = compare(analyse(folder("base")), analyse(new))
    assert found.verdict == SAME
    assert "Differs: server (ollama 0.33.0 → ollama 0.34.0)." in found.notes


def test_other_slots_are_named_where_both_sides_show_them(folder: Folder) -> None:
    base, new = analyse(folder("base")), analyse(folder("new", slots=2, seed=1))
    assert "Differs: slots (4 → 2)." in compare(base, new).notes
    alone = analyse(folder("alone", users=(1,)))  # one stream shows no slots
    again = analyse(folder("again", seed=2))
    for pair in ((base, again), (alone, analyse(folder("one", users=(1,), slots=2)))):
        assert not [note for note in compare(*pair).notes if "slots" in note]
    assert "Differs: slots (4 → 2 or 4)." in compare(base, [again, new]).notes
    probed = [analyse(folder(f"probed{n}", users=(1,), slots=n, slot_probe={"limit": n, "seen": n})) for n in (3, 6)]
    assert "Differs: slots (3 → 6)." in compare(*probed).notes  # bursts before the run found them


def test_another_type_of_kv_cache_shows_in_the_memory_of_the_model(folder: Folder) -> None:
    """OLLAMA_KV_CACHE_TYPE q8_0 after f16: nothing was said to differ."""
    sizes = (133_000_000, 95_277_056)
    pair = [analyse(folder(f"kv{i}", seed=i, server_at_end={"size": taken})) for i, taken in enumerate(sizes)]
    assert "Differs: memory of the loaded model (133 MB → 95.3 MB)." in compare(*pair).notes
    assert not [note for note in compare(pair[0], pair[0]).notes if "memory" in note]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"driver": "locust"}, "Differs: driver (asyncio → locust)."),
        ({"versions": {"loadtest": "0.2"}}, "Differs: loadtest (0.1 → 0.2)."),
        ({"target": {"url": "http://b:11434"}}, "Differs: host (a → b)."),
    ],
)
def test_what_measured_and_where_is_named_beside_the_figures(folder: Folder, facts: dict[str, Any], said: str) -> None:
    """A run of Locust on another machine was set against one of loadtest run without a word on it."""
    here: dict[str, Any] = {"driver": "asyncio", "versions": {"loadtest": "0.1"}, "target": {"url": "http://a:11434"}}
    base, new = analyse(folder("base", **here)), analyse(folder("new", seed=1, **{**here, **facts}))
    assert said in compare(base, new).notes


@pytest.mark.parametrize("asked", [{"think_time": 2.0}, {"prompt": "another text"}])
def test_another_pace_or_text_of_the_users_is_not_judged(folder: Folder, asked: dict[str, Any]) -> None:
    new = folder("new", seed=1, scenario={"prompt": "a text", **asked}, comparability={**HERE, "prompt": "literal"})
    base = folder("base", scenario={"prompt": "a text"}, comparability={**HERE, "prompt": "literal"})
    assert verdicts(base, new) == {NOT_COMPARABLE}


def test_a_data_file_of_the_same_name_with_other_rows_is_not_judged(folder: Folder) -> None:
    def run(name: str, seed: int, said: dict[str, Any]) -> Analysis:
        facts = {**HERE, "prompt": "data", "data": "rows.jsonl", **said}
        return analyse(folder(name, seed=seed, comparability=facts))

    base, new = (
        run(name, seed, {"files": [f"rows.jsonl {digest}"]})
        for seed, (name, digest) in enumerate((("base", "a1"), ("new", "b2")))
    )
    older = run("older", 2, {})
    assert "Differs: files (rows.jsonl a1 → rows.jsonl b2); no verdict" in " ".join(compare(base, new).notes)
    assert "files" not in " ".join(compare(older, new).notes)


def test_a_simulated_server_is_never_held_against_a_real_one(folder: Folder) -> None:
    server = {"kind": "ollama", "version": "0.33.0", "simulated": PROFILE}
    new = folder("new", seed=1, server=server, comparability={**HERE, "simulated": PROFILE})
    assert verdicts(folder("base"), new, across=frozenset({"simulated"})) == {NOT_COMPARABLE}


def test_longer_answers_are_other_work(folder: Folder) -> None:
    """The level asks for no length, and the new model says more."""
    found = compare(analyse(folder("base", output=(40, 60))), analyse(folder("new", seed=1, output=(80, 120))))
    assert found.verdict == NOT_COMPARABLE
    assert "answers differ in length" in outcome(found)


def test_runs_of_one_side_must_be_alike(folder: Folder) -> None:
    base = [folder("a"), folder("b", seed=1, comparability={**HERE, "model": "other"})]
    with pytest.raises(RunFolderError, match=r"the runs of BASE differ among themselves.* in model"):
        compare([analyse(path) for path in base], analyse(folder("new", seed=2)))


def test_one_command_run_twice_is_comparable_with_itself(folder: Folder) -> None:
    """Each run calibrated the model's tokens anew: prompts of 64 tokens came out as 67 and 63."""
    tokens = {"counter": "tiktoken cl100k_base", "ratio": 1.0}
    base = folder("base", prompt=(67, 67), tokens={**tokens, "overhead": 9.0})
    new = folder("new", prompt=(63, 63), seed=1, tokens={**tokens, "overhead": 13.0})
    for path in (base, new):
        said = json.loads((path / "run.json").read_text())
        said["levels"] = [{**level, "input_tokens": 64} for level in said["levels"]]
        (path / "run.json").write_text(json.dumps(said))
    found = compare(analyse(base), analyse(new))
    assert found.verdict == SAME
    (note,) = [note for note in found.notes if "calibrates" in note]
    assert "Prompts of 64 tokens came out as 67 → 63" in note
    assert (
        "another chat template or system prompt" in note
    )  # 30 → 33 beside a system prompt was blamed on the run alone
    assert "--words or --prompt" in note
    widths = {
        row.metric.id: (row.interval[1] / row.interval[0])
        for row in found.headline
        if row.interval and row.level["concurrency"] == 8
    }
    assert widths["ttft_s.mean"] > widths["stream_tokens_per_s.mean"] * 1.05
    said = json.loads((new / "run.json").read_text())
    said["tokens"]["overhead"] = 9.0  # the same calibration: then such prompts are other work
    (new / "run.json").write_text(json.dumps(said))
    assert "prompts differ in length" in outcome(compare(analyse(base), analyse(new)))


def test_prompts_that_scatter_are_named_once_for_all_levels() -> None:
    notes = comparable.scatter_notes([(60, (68.4, 61.6)), (60, (67.8, 61.6)), (60, (60.1, 60.2)), (90, (99.0, 90.0))])
    assert "Prompts of 60 tokens came out as 67.8 to 68.4 → 61.6: each" in notes[0]
    assert [note[:44] for note in notes[1:]] == ["Prompts of 90 tokens came out as 99 → 90: ea"]


def test_another_number_of_requests_a_user_is_not_judged_unless_asked_for(folder: Folder) -> None:
    """Ramp and drain are another part of such a level."""
    base, new = folder("base"), folder("new", seed=1, each=20)
    found = compare(analyse(base), analyse(new))
    assert found.verdict == NOT_COMPARABLE
    assert any(note.startswith("Differs: requests a user (8 → 20)") for note in found.notes)
    across = compare(analyse(base), analyse(new), across=frozenset({"requests_a_user"}))
    assert across.verdict == SAME
    said = run(base, new, "--across", "requests_a_user")  # was refused: "runs have no key 'requests_a_user'"
    assert said.return_value == 0, said.output


@pytest.mark.parametrize(("cached", "said"), [(90, "(0 % → 90 % at "), (None, ""), (3, "")])
def test_a_prefix_cache_on_one_side_alone_is_said(tmp_path: Path, cached: int | None, said: str) -> None:
    """A server whose cache had nine tenths of each prompt was "better", without a word on that."""
    levels, truth = grid(Made(jitter_ms=lambda i: i % 5), (1, 2, 4), each=8)

    def with_cached(count: int | None) -> list[Record]:
        more = {} if count is None else {"prompt_eval_cached_count": count}
        return [dataclasses.replace(one, server={**(one.server or {}), **more}) for one in truth.records]

    paths = [write(tmp_path / f"run{i}", with_cached(count), levels) for i, count in enumerate((0, cached, 0))]
    notes = [note for note in compare(*map(analyse, paths[:2])).notes if "prefix cache" in note]
    assert said in notes[0] if said else not notes, notes
    if cached == 90:
        unsaid = write(tmp_path / "unsaid", with_cached(None), levels)
        (note,) = (each for each in compare(analyse(paths[1]), analyse(unsaid)).notes if "prefix cache had" in each)
        assert note.startswith("May differ: prompt tokens that the prefix cache had (90 % → not known at ")
        assert note.endswith("; the server does not say how many it had cached).")
    many = list(compare_many([analyse(path) for path in paths]).named.sentences("ABC"))
    assert any("prompt tokens from the prefix cache (A, C: 0 %; B: 90 %)" in each for each in many) is bool(said)


def test_answers_that_are_counted_in_other_ways_are_not_called_shorter(tmp_path: Path) -> None:
    """A gateway that dropped the usage sent three tokens a piece: "answers differ in length (60 → 20 tokens)"."""
    levels, truth = grid(Made(tokens=60, jitter_ms=lambda i: i % 5), (2,), each=16)
    base = write(tmp_path / "base", truth.records, levels)
    pieces = [dataclasses.replace(one, output_tokens=20, token_source="chunks") for one in truth.records]
    found = compare(analyse(base), analyse(write(tmp_path / "new", pieces, levels)))
    assert "answers are counted in other ways, server → chunks (60 → 20 tokens on average)" in outcome(found)
