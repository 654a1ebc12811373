"""Conversations: what each turn says, whom it is from, when it is sent, and when it counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from support import odd_answers
from support.odd_server import odd_server

from loadtest.dialects import DIALECTS
from loadtest.errors import ScenarioError
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.scenario import Scenario, times_of
from loadtest.workloads.job import Job
from loadtest.workloads.schedule import mean_think_time, think_time
from loadtest.workloads.source import Answered
from loadtest.workloads.tokens import Counter, TokenFit
from loadtest.workloads.workload import Workload

Call = Callable[..., tuple[int, str, str]]
PEOPLE: dict[str, Any] = {"turns": 4, "input_tokens": (60,), "follow_up_tokens": 20, "output_tokens": (10,), "seed": 11}


def workload(context: int | None = None, fit: TokenFit | None = None, **keys: Any) -> Workload:
    return Workload(Scenario(**{**PEOPLE, **keys}), Counter("words"), fit, context=context)


def played(work: Workload, i: int, answer: str = "well", *, prompt: int | None = None) -> Iterator[Job]:
    """Play session i of the first level against a server that always answers the same."""
    session = work.session(work.scenario.levels()[0], i)
    job = session.next(None)
    while job is not None:
        yield job
        job = session.next(Answered(answer, prompt, 10))


def said(job: Job) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in job.conversation]


def test_turn_3_of_session_6_follows_from_the_seed() -> None:
    (first, again), other = ([list(played(workload(), 6))[3] for _ in range(2)], list(played(workload(seed=12), 6))[3])
    assert first == again
    assert (first.session, first.turn) == (6, 3)
    heard_otherwise = list(played(workload(), 6, "no"))[3]
    assert (first.prompt, first.seed) == (heard_otherwise.prompt, heard_otherwise.seed)
    assert said(first) != said(heard_otherwise)
    assert first.prompt != other.prompt
    recorded = [list(played(workload(answers="recorded"), 6, answer))[3] for answer in ("well", "no")]
    assert recorded[0] == recorded[1]


def test_turns_lengths_and_think_times_are_drawn_for_each_session_anew() -> None:
    work = workload(turns="uniform(1, 5)", follow_up_tokens="uniform(9, 40)", think_time="exponential(2)")
    sessions = [list(played(work, i)) for i in range(40)]
    assert {len(jobs) for jobs in sessions} == {1, 2, 3, 4, 5}
    later = [job for jobs in sessions for job in jobs[1:]]
    assert len({len(job.prompt) for job in later}) > 20
    thought = [think_time(work.scenario, job) for job in later]
    assert len(set(thought)) == len(later)
    assert 1 < sum(thought) / len(thought) < 3
    assert [think_time(work.scenario, job) for job in later] == thought


def test_a_turn_says_all_that_was_said_before() -> None:
    *_, last = played(workload(system_tokens=30), 2)
    assert [role for role, _ in said(last)] == ["system", *["user", "assistant"] * 3, "user"]
    assert [text for role, text in said(last) if role == "assistant"] == ["well"] * 3
    assert [text.startswith("[") for role, text in said(last) if role == "user"] == [True, False, False, False]
    for before, after in itertools.pairwise(played(workload(), 2)):
        assert after.encoded is not None
        assert before.encoded is not None
        assert after.encoded.body.startswith(before.encoded.body.removesuffix(b"]"))


@pytest.mark.parametrize(
    ("api", "endpoint"),
    [("ollama", "chat"), ("openai", "chat"), ("openai", "responses"), ("anthropic", "messages")],
)
def test_every_endpoint_of_messages_says_the_conversation(api: str, endpoint: str) -> None:
    scenario = Scenario(api=api, endpoint=endpoint, **PEOPLE, system="Be brief.", concurrency=(1,))
    *_, last = played(Workload(scenario, Counter("words")), 0)
    body = orjson.loads(DIALECTS[api, endpoint].of(scenario, "m").body(last))
    messages = body["input"] if endpoint == "responses" else body["messages"]
    if api == "anthropic":
        assert body["system"] == "Be brief."
        messages = [{"role": "system", "content": body["system"]}, *messages]
    if endpoint == "responses":  # llama.cpp takes a former answer in no other form
        assert messages[2]["content"] == [{"type": "output_text", "text": "well", "annotations": []}]
        messages = [one if one["role"] != "assistant" else {**one, "content": "well"} for one in messages]
        assert [one["role"] for one in messages] == [role for role, _ in said(last)]
    else:
        assert [(one["role"], one["content"]) for one in messages] == said(last)
    assert len(messages) == 8


def test_a_conversation_ends_before_the_turn_that_would_pass_the_context() -> None:
    jobs = list(played(workload(context=130), 0, prompt=70))
    assert len(jobs) == 4
    session = (work := workload(context=130)).session(work.scenario.levels()[0], 0)
    assert session.next(None) is not None
    assert session.next(Answered("well", 95, 10)) is None
    assert session.passed == "the conversation ends here, for its next turn would pass the context of 130 tokens"  # type: ignore[attr-defined]


CHATS = [
    {
        "id": "a",
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
            {"role": "tool", "content": "42", "tool_call_id": "c"},
            {"role": "assistant", "content": "second"},
        ],
    },
    {
        "conversations": [
            {"from": "gpt", "value": "Hello."},
            {"from": "human", "value": "uno"},
            {"from": "gpt", "value": "primo"},
            {"from": "human", "value": "due"},
            {"from": "gpt", "value": "secondo"},
        ]
    },
    {"prompt": ["q1", "q2"], "id": 7},
    {"prompt": "alone"},
]


@pytest.fixture
def chats(tmp_path: Path) -> str:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, CHATS)))
    return str(path)


@pytest.mark.parametrize(("answers", "heard"), [("server", ("well", "well")), ("recorded", ("first", "primo"))])
def test_conversations_of_a_data_file_are_played_turn_by_turn(chats: str, answers: str, heard: tuple[str, str]) -> None:
    work = workload(data=chats, answers=answers, turns=None, follow_up_tokens=None, input_tokens=(1,))
    sessions = [list(played(work, i)) for i in range(5)]
    assert [len(jobs) for jobs in sessions] == [3, 2, 2, 1, 3]
    assert [jobs[0].row for jobs in sessions] == ["a", "2", "7", "4", "a"]
    first, second = sessions[0][-1], sessions[1][-1]
    assert [role for role, _ in said(first)] == ["system", "user", "assistant", "user", "assistant", "tool"]
    assert first.conversation[2]["content"] == heard[0]
    assert first.conversation[4]["tool_calls"] == [{"id": "c"}]  # what answers the call must follow it
    assert said(second) == [("user", "uno"), ("assistant", heard[1]), ("user", "due")]
    assert [text for _, text in said(sessions[2][1])][::2] == ["q1", "q2"]
    two = workload(data=chats, turns=1, follow_up_tokens=None, input_tokens=(1,))
    assert [len(list(played(two, i))) for i in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            {"answers": "server", "turns": None, "follow_up_tokens": None},
            "answers does nothing alone; add turns or data.",
        ),
        ({"turns": None}, "follow_up_tokens does nothing alone; add turns."),
        (
            {"endpoint": "generate"},
            "a conversation is made of messages, and generate takes none; use chat, responses or",
        ),
        ({"endpoint": "completions"}, "completions takes none"),
        (
            {"prompt": "Hi"},
            "turns and prompt exclude each other: a conversation begins with no prompt of yours; give one.",
        ),
        ({"turns": 0}, "turns must be 1 or more, not 0."),
        ({"turns": "uniform(0, 3)"}, "turns: 'uniform(0, 3)' cannot be: the least must be 1 or more, not 0.0"),
        (
            {"think_time": "lognormal(20)"},
            "think_time: 'lognormal(20)' must have two numbers, like lognormal(20, 0.8).",
        ),
        ({"think_time": "20"}, "think_time must be a number of seconds, not '20'; leave out the quotes."),
        ({"think_time": "poisson(3)"}, "names no distribution of times; there are lognormal"),
        ({"trace": "x"}, "turns and trace exclude each other: a turn is no request by itself; give one."),
    ],
)
def test_what_cannot_be_a_conversation_is_one_sentence(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError) as error:
        Scenario(**{**PEOPLE, **keys})
    assert words in str(error.value)


def test_think_times_have_distributions_and_stand_in_either_place(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('[sessions]\nturns = 2\nthink_time = "uniform(5, 30)"\n')
    (tmp_path / "b.toml").write_text('think_time = "lognormal(20, 0.5)"\n')
    assert mean_think_time(Scenario.load(tmp_path / "a.toml")) == 17.5
    assert 22 < mean_think_time(Scenario.load(tmp_path / "b.toml")) < 23
    assert times_of("2@50%+exponential(4)@50%").mean == 3
    assert Scenario().think_time == 0.0


# ------------------------------------------------------------------------------------------------------------ a run


def records_of(out: Path) -> list[Record]:
    return sorted(RunFolder.open(out).records(), key=lambda record: record.t_sched)


SMALL = ("--turns", "uniform(2, 3)", "--input-tokens", "60", "--follow-up-tokens", "20", "--output-tokens", "6")


@pytest.mark.parametrize("workers", [1, 2])
def test_people_hold_conversations(loadtest: Call, simulated_url: str, tmp_path: Path, workers: int) -> None:
    out = tmp_path / "run"
    think = ("--think-time", "uniform(0.02, 0.06)", "--workers", str(workers), "--seed", "3")
    options = (*SMALL, *think, "--concurrency", "3", "--requests", "18")
    code, _, err = loadtest("run", "--url", simulated_url, *options, "--out", out)
    assert code in (0, 3), err
    said = str(orjson.loads((out / "summary.json").read_bytes())["levels"][0]["label"])
    records = records_of(out)
    assert {record.outcome for record in records} == {Outcome.OK}
    assert sum(not record.warmup for record in records) == 18
    by_session: dict[int | None, list[Record]] = {}
    for record in records:
        by_session.setdefault(record.session, []).append(record)
    for turns in by_session.values():
        assert [turn.turn for turn in turns] == list(range(len(turns)))
        assert len({turn.user for turn in turns}) == 1
        for before, after in itertools.pairwise(turns):
            assert (after.t_sched - before.t_end) / 1e9 >= 0.02
            assert (after.prompt_tokens or 0) > (before.prompt_tokens or 0) + 15
    assert {record.user for record in records} == {0, 1, 2}
    first_ends = [max(turn.t_end for turn in by_session[i]) for i in range(3)]
    counted = [record for record in records if not record.warmup]
    assert min(record.t_send or 0 for record in counted) > max(first_ends)
    assert all(record.warmup for record in records if (record.t_send or 0) < max(first_ends))
    starts = sorted(by_session[i][0].t_sched for i in range(3))
    level = RunFolder.open(out).read_run()["levels"][0]
    assert (level["label"].partition(" · ")[0], level["turns"], level["sessions"]) == (
        "3 people",
        "uniform(2, 3)",
        True,
    )
    assert "3 people · uniform(2, 3) turns · 60 in · 6 out" in said  # not "in (60 asked)": later turns are longer
    assert [round((at - starts[0]) / 1e9 / 0.04 * 3) for at in starts] == [0, 1, 2]  # spread over a mean think time


def test_arrivals_begin_conversations(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = (*SMALL, "--rate", "20", "--requests", "5", "--think-time", "0.03", "--seed", "3")
    code, said, err = loadtest("run", "--url", simulated_url, *options, "--out", out)
    assert code in (0, 3), err
    records = [record for record in records_of(out) if not record.warmup]
    assert {record.user for record in records} == {None}
    assert len({record.session for record in records}) == 5
    assert len(records) > 10
    assert "sessions/s" in said


def test_a_conversation_that_ends_early_is_said_once(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--turns", "5", "--input-tokens", "60", "--follow-up-tokens", "20", "--output-tokens", "10")
    load = ("--num-ctx", "160", "--concurrency", "2", "--requests", "8")
    code, said, err = loadtest("run", "--url", simulated_url, *options, *load, "--out", out)
    assert code in (0, 3), err
    records = records_of(out)
    ends = [record for record in records if record.notes]
    assert {record.turn for record in ends} == {max(record.turn or 0 for record in records)}
    assert len(ends) >= 3
    assert "of the conversations end before their last turn, which would pass the context of 160 tokens." in err
    assert "requests: the conversation ends here, for its next turn would pass the context of 160" in " ".join(
        said.split()
    )


def test_a_server_that_cuts_what_was_said_is_suspect(loadtest: Call, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with odd_server(odd_answers.good_answers(odd_answers.Wire("openai-chat"))) as server:
        options = ("--turns", "2", "--warmup", "0", "--concurrency", "1", "--requests", "4", "--api", "openai")
        code, said, err = loadtest("run", "--url", server.url, *options, "--out", out)
    assert code in (0, 3), err
    doubted = [record.turn for record in records_of(out) if record.doubts]
    assert doubted == [1, 1]
    assert "it cut what was said before" in " ".join(said.split())
