"""What a task may hand to its client or do around a call: each is right, or a sentence; none passes for another."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from support.recorded_users import recorded

from loadtest.errors import ScenarioError
from loadtest.measure import backlog
from loadtest.records import Outcome, Record

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust.env import Environment
    from locust.exception import LocustError
    from locust.runners import STATE_RUNNING

    from loadtest.users import ModelUser, channel
    from loadtest.users import answer as answers
    from loadtest.users.options import Settings
    from loadtest.users.processes import recording
    from loadtest.users.processes.levels import CurrentLevel
    from loadtest.users.processes.user_target import UserTarget, prepare_user_target
    from loadtest.users.task_mistakes import misuse
    from loadtest.workloads.messages import text_of

USER_SAYS_HI = [{"role": "user", "content": "hi"}]


class Mine(ModelUser):
    abstract = True
    save_text = True


@pytest.fixture(scope="module")
def settled(simulated_url: str) -> UserTarget:
    return prepare_user_target(
        Mine.scenario(Settings(keys={"output_tokens": 4}), host=simulated_url, name="x", seed=1), lambda _: None
    )


@pytest.fixture
def user(settled: UserTarget) -> Iterator[Mine]:
    """A user in a test that runs; its recorder writes no file."""
    environment = Environment(user_classes=[Mine])
    runner = environment.create_local_runner()
    runner.state = STATE_RUNNING
    with recorded("Mine", settled):
        yield Mine(environment)
    runner.greenlet.kill()


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    found: list[Record] = []
    monkeypatch.setattr(recording, "record_listeners", [lambda _, record: found.append(record)])
    return found


@pytest.mark.parametrize(
    "prompt", [5, b"text", {"role": "user", "content": "x"}, [1], ["x"], [{"role": "user"}], [], [{}], True, set("x")]
)
def test_what_is_no_prompt_is_refused_and_no_other_is_sent_for_it(
    user: Mine, records: list[Record], prompt: Any
) -> None:
    with pytest.raises(ScenarioError, match=r'like \[\{"role": "user", "content": "…"\}\], not '):
        user.client.chat(prompt)
    assert not records


@pytest.mark.parametrize("prompt", ["\ud83d", [{"role": "user", "content": "\ud83d"}], [{"content": object()}]])
def test_what_cannot_be_encoded_is_a_sentence(user: Mine, prompt: Any) -> None:
    with pytest.raises(ScenarioError, match="cannot be sent"):
        user.client.chat(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "{braces} {words} \U0001f600\n",
        "",
        tuple(USER_SAYS_HI),
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        [{"role": "assistant", "tool_calls": []}, *USER_SAYS_HI],
    ],
)
def test_whatever_is_a_prompt_is_sent_as_it_is(user: Mine, prompt: Any) -> None:
    record = user.client.chat(prompt).record
    assert record.outcome is Outcome.OK
    if isinstance(prompt, str):
        assert (record.prompt or "").endswith(prompt)


def test_messages_are_not_sent_to_an_endpoint_that_takes_a_text(user: Mine) -> None:
    messages: Any = USER_SAYS_HI
    with pytest.raises(ScenarioError, match=r"messages go to chat\(\)"):
        user.client.generate(messages)


@pytest.mark.parametrize("value", [0, -1, 1.5, "5", True, float("nan"), [3]])
@pytest.mark.parametrize("key", ["input_tokens", "output_tokens"])
def test_a_length_that_makes_no_sense_is_refused(user: Mine, key: str, value: Any) -> None:
    wrong: dict[str, Any] = {key: value}
    with pytest.raises(ScenarioError, match=rf"{key} must be a whole number above 0, not "):
        user.client.ask(**wrong)


def test_an_instant_that_is_none_is_refused(user: Mine) -> None:
    wrong: Any = 1.5
    with pytest.raises(ScenarioError, match="t_sched must be monotonic nanoseconds"):
        user.client.ask(t_sched=wrong)


def test_a_name_can_be_shown_and_sent_to_a_master(user: Mine) -> None:
    names: list[Any] = ["a\x1b[2J", "\ud83d", 5]
    assert [user.client.ask(name=name).name for name in names] == [r"a\x1b[2J", r"\ud83d", "5"]


def test_the_text_of_messages_is_what_they_say() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "b"},
    ]
    assert text_of([{"content": "x"}, {"content": parts}, {"content": None}, {"tool_calls": []}]) == "x\nab\n\n"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda client: client.get("/"), "Client has no get: a task sends with self.client.chat()"),
        (lambda client: client.chat("x", max_tokens=5), "keyword argument 'max_tokens'; write output_tokens"),
        (lambda client: client.ask("x", timeout=5), "'timeout'; total_timeout is an attribute of the class"),
        (lambda client: client.chat("x", top_p=1), "'top_p'; top_p is an attribute of the class"),
        (lambda client: client.ask("x", stream=True), "its client got an unexpected keyword argument 'stream'"),
        (lambda client: client.chat(5), "not 5"),
        (lambda client: client.ask().json(), "Answer has no json: an answer has text"),
        (lambda client: client.session().send(), "UserSession has no send: a conversation goes on with chat()"),
        (lambda client: client.ask().failure("bad"), "an answer is judged in a with block"),
    ],
)
def test_what_a_task_does_wrong_with_its_client_is_a_sentence(
    user: Mine, wrong: Callable[[Any], Any], words: str
) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        wrong(user.client)
    assert words in (misuse(caught.value) or "")
    assert misuse(AttributeError("x")) is misuse(TypeError("x")) is None


@pytest.mark.parametrize("judged", [True, False])
def test_a_request_to_be_judged_is_counted_with_and_without_its_with_block(
    user: Mine, caplog: pytest.LogCaptureFixture, judged: bool
) -> None:
    """Without the block its event was never fired, so Locust counted fewer requests than there are records."""
    answers.say_once.cache_clear()
    fired: list[Any] = []
    events: Any = user.environment.events
    events.request.add_listener(lambda exception, **_: fired.append(str(exception)))
    answer = user.client.ask(catch_response=True)
    if judged:
        with answer:
            user.client._recorder.backlog.flush()
            assert not fired
            answer.failure("bad")
    user.client._recorder.backlog.flush()
    assert fired == ["bad" if judged else "None"]
    assert ("judges in a with block alone" in caplog.text) is not judged


class TooSlowError(Exception):
    """A test's own word for a request that it gave up."""


@pytest.mark.parametrize(
    "thrown", [TooSlowError("too slow"), TimeoutError("too slow"), None, gevent.GreenletExit("bye")]
)
def test_a_request_that_the_task_gives_up_is_its_own_doing(
    user: Mine, records: list[Record], thrown: BaseException | None
) -> None:
    """Neither a fault of loadtest's, which voids the level, nor our stop: its user left. And what was thrown arrives."""
    expected = type(thrown) if thrown is not None else gevent.Timeout
    fired: list[Any] = []
    events: Any = user.environment.events
    events.request.add_listener(lambda **all_of_it: fired.append(all_of_it))
    with pytest.raises(expected), gevent.Timeout(0.02, thrown):
        user.client.ask(output_tokens=400)
    recording.close_recorder()
    (record,) = records
    assert record.outcome is Outcome.LEFT  # the slowest ones were in no figure
    assert (record.error or "").startswith(f"given up by the test's own code ({expected.__name__}")
    assert not fired


def test_a_turn_that_the_task_gives_up_ends_its_conversation(user: Mine, records: list[Record]) -> None:
    """It went on with a question that nobody had answered, and had 20 turns of 4."""
    session = user.client.session(turns=4, output_tokens=400)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.02):
        session.chat()
    assert session.over
    with pytest.raises(ScenarioError, match="the conversation is over"):
        session.chat()
    assert user.client._sessions == 1  # else each of the user's conversations would be a warm-up
    recording.close_recorder()
    assert [record.outcome for record in records] == [Outcome.LEFT]


@pytest.mark.parametrize(
    ("state", "said"), [(STATE_RUNNING, "given up by the test's own code"), ("cleanup", "stopped by us")]
)
def test_who_killed_a_request_is_told_apart(user: Mine, records: list[Record], state: str, said: str) -> None:
    request = gevent.spawn(user.client.ask, output_tokens=400)
    gevent.sleep(0.02)
    assert user.environment.runner is not None
    user.environment.runner.state = state
    request.kill()
    recording.close_recorder()
    assert [(record.error or "")[: len(said)] for record in records] == [said]


def test_what_a_task_left_in_flight_is_recorded(user: Mine, records: list[Record]) -> None:
    """A request in a greenlet that nobody ends was in no file."""
    left = gevent.spawn(user.client.ask, output_tokens=400)
    gevent.sleep(0.02)
    recording.close_recorder()
    assert [record.error for record in records] == ["stopped by us"]
    assert left.dead


def test_a_user_that_is_started_after_the_end_ends_without_a_word(user: Mine) -> None:
    recording.close_recorder()
    starting = gevent.spawn(Mine, user.environment)
    starting.join()
    assert starting.successful()
    assert isinstance(starting.value, gevent.GreenletExit)


def test_a_request_behind_the_end_is_a_sentence(user: Mine) -> None:
    """As one that a listener of test_stop sends; it waited for ever."""
    recording.close_recorder()
    with pytest.raises(LocustError, match="the test has ended"), gevent.Timeout(20):
        user.client.chat()


def test_a_user_whose_greenlet_is_killed_was_stopped_by_us(user: Mine, records: list[Record]) -> None:
    user._greenlet = gevent.spawn(user.client.ask, output_tokens=400)
    gevent.sleep(0.02)
    user._greenlet.kill()
    recording.close_recorder()
    assert [record.error for record in records] == ["stopped by us"]


def test_random_lengths_leave_no_requests_behind(user: Mine) -> None:
    for tokens in range(1, 3 * channel.MOST_KINDS):
        kind = channel.RequestKind("chat", 8, tokens)
        user.client._channel.restock(kind)
    made: dict[Any, Any] = user.client._channel._shelf
    assert len(made) == channel.MOST_KINDS
    assert kind in made


def test_requests_made_ahead_do_not_add_up(user: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no moment is quiet every call makes its own request, and what was to stand in for it comes on top later."""
    monkeypatch.setattr(backlog, "BUSY_SHARE", -1.0)
    for _ in range(8):
        user.client.chat(output_tokens=2)
    user.client._recorder.backlog.flush()
    made: dict[Any, Any] = user.client._channel._shelf
    assert sum(len(shelf) for ask, shelf in made.items() if ask.output_tokens == 2) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda answer: answer.exchange is not answer.request,
        lambda answer: answer.failed_on_the_wire,
        lambda answer: answer.fail(Outcome.TIMEOUT, "late"),
    ],
)
def test_former_attributes_of_an_answer_work_and_say_so_once(
    user: Mine, caplog: pytest.LogCaptureFixture, use: Callable[[Any], object]
) -> None:
    answers.say_once.cache_clear()
    answer = user.client.ask()
    with caplog.at_level(logging.WARNING):
        assert not use(answer)
        use(answer)
    assert [record.message for record in caplog.records if "former name" in record.message] == [
        caplog.records[0].message
    ]


@pytest.mark.parametrize(
    ("outcomes", "hopeless"),
    [
        ([(0, 0, False)] * 3, True),
        ([(0, 0, False), (1, 0, True)] * 3, True),  # another server's successes are no sign of life
        ([(1, 0, False)] * 9, False),  # that one's class does not ask for it
        ([(0, 0, False), (1, 0, False)] * 2, False),
        ([(0, 0, False), (0, 1, False)] * 2, False),  # of a level
        ([(0, 0, False), (0, 0, False), (0, 0, True), (0, 0, False)], False),
    ],
)
def test_failures_in_a_row_are_those_of_one_server_in_one_level(
    settled: UserTarget, outcomes: list[tuple[int, int, bool]], hopeless: bool
) -> None:
    said: list[str] = []
    strict = dataclasses.replace(settled, scenario=settled.scenario.replace(stop_after_errors=3))
    lax = dataclasses.replace(settled, index=1)
    recorder = recording.open_recorder(
        user_targets={"Mine": strict, "Lax": lax},
        folder=None,
        worker=0,
        users=1,
        source="x",
        current_level=lambda: CurrentLevel(0, steady=True),
        on_trouble=lambda _, why: said.append(why),
    )
    try:
        for target, level, ok in outcomes:
            outcome = Outcome.OK if ok else Outcome.HTTP_ERROR
            why = None if ok else "no GPU"
            record = Record(
                id=0,
                level=level,
                seed=0,
                dialect="ollama-chat",
                model="m",
                outcome=outcome,
                t_sched=0,
                t_end=1,
                target=target,
                error=why,
            )
            recorder._recorded("chat", record)
    finally:
        recording.close_recorder()
    assert said == (["3 requests in a row failed (--stop-after-errors); the last one: no GPU"] if hopeless else [])


@pytest.mark.parametrize(
    ("call", "path", "dialect"),
    [
        ("responses", "/v1/responses", "openai-responses"),
        ("messages", "/v1/messages", "anthropic-messages"),
        ("embed", "/api/embed", "ollama-embeddings"),
    ],
)
def test_one_user_asks_every_endpoint(user: Mine, records: list[Record], call: str, path: str, dialect: str) -> None:
    answer = getattr(user.client, call)("hi")
    assert (answer.ok, answer.url.endswith(path), answer.record.dialect) == (True, True, dialect)
    assert getattr(user.client, call)().ok  # a made-up text
    if call != "embed":
        assert answer.record.output_tokens == 4
        assert getattr(user.client, call)(USER_SAYS_HI, output_tokens=2).record.output_tokens == 2
        assert answer.text
    assert user.client.chat("hi").record.dialect == "ollama-chat"
    assert all(record.outcome is Outcome.OK for record in records)


def test_a_list_of_texts_is_embedded_in_one_request(user: Mine, records: list[Record]) -> None:
    one, two = user.client.embed(["a b c"]).record, user.client.embed(["a b c", "d e f"]).record
    assert one.prompt_tokens is not None
    assert two.prompt_tokens == 2 * one.prompt_tokens
    assert (two.output_tokens, two.chunks, two.t_first_token, two.asked) == (None, [], None, None)
    for wrong in ([], [1], 7, [["a"]]):
        with pytest.raises(ScenarioError, match="embed"):
            user.client.embed(wrong)  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="no output tokens"):
        user.client.embed("a", output_tokens=3)
    assert len(records) == 2


def test_a_class_of_embeddings(simulated_url: str) -> None:
    class Embeds(Mine):
        abstract = True
        endpoint = "embeddings"
        inputs_per_request = 3
        input_tokens = 24

    found = prepare_user_target(Embeds.scenario(Settings(), host=simulated_url, name="x", seed=1), lambda _: None)
    assert (found.scenario.endpoint, found.scenario.inputs_per_request, found.scenario.output_tokens) == (
        "embeddings",
        3,
        (),
    )
    environment = Environment(user_classes=[Embeds])
    with recorded("Embeds", found):
        mine = Embeds(environment).client
        asked, chatted = mine.ask().record, mine.chat("hi", output_tokens=2).record
    assert (asked.asked_input, asked.dialect) == (72, "ollama-embeddings")
    assert asked.prompt_tokens is not None
    assert 60 <= asked.prompt_tokens <= 90
    assert (chatted.dialect, chatted.output_tokens) == ("ollama-chat", 2)


def test_a_key_that_is_set_on_a_user_changes_no_request_and_says_so(
    user: Mine, caplog: pytest.LogCaptureFixture
) -> None:
    answers.say_once.cache_clear()
    for _ in range(2):
        for name in ("model", "topic"):
            setattr(user, name, "other")
    said = [record.message for record in caplog.records if "changes no request" in record.message]
    assert said == ["Mine sets self.model, which changes no request: what is sent was settled by its class."]
