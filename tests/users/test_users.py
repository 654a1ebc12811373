"""The parts of the Locust users, each alone: levels, options, schedules, what workers are told."""

from __future__ import annotations

import argparse
import inspect
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from support.recorded_users import recorded

from loadtest.dialects import OllamaChat
from loadtest.errors import LoadTestError, ScenarioError
from loadtest.scenario import Level, Scenario
from loadtest.targets.server.probe import ServedModel, Server
from loadtest.targets.target import Target
from loadtest.workloads.tokens import TokenFit

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from locust import HttpUser, User, argument_parser
    from locust.env import Environment
    from locust.event import Events
    from locust.exception import LocustError
    from locust.rpc import Message
    from locust.runners import MasterRunner, WorkerNode, WorkerNodes

    from loadtest.users import ModelUser, OllamaUser, OpenAIUser
    from loadtest.users.client import Client
    from loadtest.users.options import OPTIONS, Settings, add_options
    from loadtest.users.processes import coordinator, lifecycle, recording
    from loadtest.users.processes.coordinator import Coordinator
    from loadtest.users.processes.levels import ReachedLevels
    from loadtest.users.processes.run import free_path
    from loadtest.users.processes.user_target import UserTarget, prepare_user_target
    from loadtest.users.user import USER_KEYS
    from loadtest.workloads.schedule import instants


def test_each_change_of_the_user_count_begins_a_level_with_instants_of_its_own() -> None:
    """A number that came back shared a level with its first time: a rate of both counted the time in between, too."""
    levels = ReachedLevels()
    # Users, how many of them send to models, and how many of these by a schedule.
    asked = [(1, 1, 0), (0, 0, 0), (4, 4, 0), (8, 8, 2), (4, 3, 0), (0, 0, 0)]
    for users, ours, by_schedule in asked:
        levels.reached(users, ours, by_schedule)
    assert levels.index(0) == 3
    levels.seen |= {(1, "input_tokens", 128), (1, "output_tokens", 64), (1, "output_tokens", 32)}
    levels.seen |= {(1, "rate of Chat", 2.0), (1, "rate of Code", 3.0)}
    levels.seen |= {(2, "rate of Chat", 2.0), (2, "rate of Chat", 4.0)}
    levels.seen |= {(2, "input_tokens", 128), (2, "input_tokens", 256), (2, "output_tokens", 64)}
    facts = levels.facts(0)
    assert [level["concurrency"] for level in facts] == [1, 4, 6, 3]
    assert [level.get("by_schedule") for level in facts] == [None, None, 2, None]  # of whom the rate may be unknown
    assert [level["input_tokens"] for level in facts] == [None, 128, None, None]
    assert [level["output_tokens"] for level in facts] == [None, None, 64, None]
    assert [level["rate"] for level in facts] == [None, 5.0, None, None]  # unknown where workers have different ones
    assert [level["index"] for level in facts] == [0, 1, 2, 3]
    instants = [(level["started_ns"], level["ended_ns"]) for level in facts]
    assert sorted(sum(instants, ())) == list(sum(instants, ()))


@pytest.mark.parametrize(
    ("state", "then", "begun"),
    [
        ("running", {1000: "reports"}, [(1000, 20)]),
        ("spawning", {1000: "reports", 8000: "running"}, [(8000, 20)]),
        ("running", {}, [(7050, 20)]),
        ("running", {1000: 40, 2000: "reports", 3000: "all spawned", 4000: "reports"}, [(4000, 40)]),
        ("running", {1000: 20, 2000: "reports"}, []),
    ],
    ids=["short stage", "late", "unheard", "more asked for", "as many asked for again"],
)
def test_a_level_begins_once_its_workers_have_said_how_many_users_are_left(
    monkeypatch: pytest.MonkeyPatch, state: str, then: dict[int, str | int], begun: list[tuple[int, int]]
) -> None:
    """One of 20 users ended by itself. A fixed wait of 7 s was longer than a stage, or let the next one begin early."""
    clock, levels = 0, []  # ms
    runner: Any = object.__new__(MasterRunner)
    worker: Any = WorkerNode("w", state)
    worker.user_classes_count = {"Chat": 19}
    runner.greenlet, runner.clients, runner.state = None, WorkerNodes(), "running"
    runner.clients["w"] = worker
    runner.target_user_count, runner.target_user_classes_count = 20, {"Chat": 20}
    one: Any = Coordinator(Environment(), runner)
    one._announced = 20
    one._run = SimpleNamespace(
        user_targets={"Chat": None},
        by_schedule={},
        levels=SimpleNamespace(reached=lambda users, *_: levels.append((clock, users))),
    )

    def pass_time(_: float) -> None:
        nonlocal clock
        clock += 50
        match then.get(clock):
            case int(users):
                runner.target_user_count, runner.state = users, "spawning"
            case "reports":
                one._take_report("w", {"user_count": 19})
            case "all spawned":
                runner.state = "running"
                one._reached()
            case "running":
                worker.state = "running"
        if clock == 9000:
            one._run = None

    monkeypatch.setattr(coordinator, "now", lambda: 1 + clock * 1_000_000)
    monkeypatch.setattr(coordinator, "gevent", SimpleNamespace(sleep=pass_time))
    monkeypatch.setattr(one, "_announce", lambda *_, **__: setattr(one, "_announced", runner.target_user_count))
    one._reached()
    one._follow(runner, one._run)
    assert levels == begun


def test_a_level_whose_load_is_unknown_is_not_one_without_streams() -> None:
    assert Level(index=0, concurrency=None, input_tokens=128, requests=0).label == "an unknown load · 128 in"


def test_an_option_of_the_locustfile_takes_the_place_of_ours() -> None:
    """It was lost to a traceback, and ours, of another default, stayed."""
    parser: Any = argument_parser.get_empty_argument_parser(default_config_files=[])
    add_options(parser)
    parser.add_argument("--output-tokens", type=int, default=7)
    assert Settings.of(parser.parse_args([])).keys["output_tokens"] == 7
    assert Settings.of(parser.parse_args(["--output-tokens", "9"])).keys["output_tokens"] == 9


def sent(data: Any) -> Any:
    """Return what a worker gets of what its master sends."""
    message: Any = Message  # untyped in Locust
    return message.unserialize(message("x", data, "node").serialize()).data


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**given)


def test_options_are_read_alike_from_the_command_line_and_from_the_web_form() -> None:
    for given in ({"output_tokens": "32", "max_ttft_p95": "0.5"}, {"output_tokens": 32, "max_ttft_p95": 0.5}):
        read = options(**given, model="", input_tokens="", api="auto")
        settings = Settings.of(read)
        assert (settings.keys, settings.max_ttft_p95) == ({"output_tokens": 32}, 0.5)
        assert (read.output_tokens, read.max_ttft_p95, read.model, read.endpoint) == (32, 0.5, None, "chat")
    assert Settings.of(None) == Settings()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("output_tokens", "many"),
        ("output_tokens", "0"),
        ("input_tokens", "-5"),
        ("max_failure_ratio", "1.5"),
        ("max_failure_ratio", "nan"),
        ("max_ttft_p95", "0"),
        ("min_tokens_per_s", "inf"),
        ("api", "soap"),
        ("endpoint", "embed"),
    ],
)
def test_a_value_that_makes_no_sense_is_a_sentence_that_names_the_option(key: str, value: str) -> None:
    with pytest.raises(ScenarioError, match=f"--{key.replace('_', '-')} must be .*{value}"):
        Settings.of(options(**{key: value}))


def test_every_option_has_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argument_parser.get_empty_argument_parser(default_config_files=[])
    add_options(parser)
    monkeypatch.setenv("LOCUST_MODEL", "from-the-environment")
    parsed = vars(parser.parse_args(["--output-tokens", "7"]))
    assert (parsed["model"], parsed["output_tokens"]) == ("from-the-environment", "7")
    variables = {action.dest: getattr(action, "env_var", None) for action in parser._actions}
    assert [variables[option.key] for option in OPTIONS] == [f"LOCUST_{option.key.upper()}" for option in OPTIONS]


def test_options_win_over_the_user_class_and_it_over_the_defaults() -> None:
    class Mine(OllamaUser):
        abstract = True
        model = "mine"
        output_tokens = 10

    plain = Mine.scenario(Settings(), host=None, name="x", seed=1)
    assert (plain.model, plain.output_tokens, plain.input_tokens, plain.api) == ("mine", (10,), (128,), "ollama")
    asked = Mine.scenario(
        Settings(keys={"model": "other", "output_tokens": 20, "input_tokens": 30}),
        host="example.com:81",
        name="x",
        seed=1,
    )
    assert (asked.model, asked.output_tokens, asked.input_tokens) == ("other", (20,), (30,))
    assert asked.url == "http://example.com:81"


def test_generate_takes_what_chat_takes() -> None:
    assert [*inspect.signature(Client.generate).parameters] == [*inspect.signature(Client.chat).parameters]


def test_a_user_of_one_api_refuses_another() -> None:
    with pytest.raises(ScenarioError, match="OpenAIUser speaks the openai API only"):
        OpenAIUser.scenario(Settings(keys={"api": "ollama"}), host=None, name="x", seed=1)
    assert ModelUser.scenario(Settings(keys={"api": "openai"}), host=None, name="x", seed=1).api == "openai"


def test_a_class_that_makes_no_sense_is_named() -> None:
    class Wrong(ModelUser):
        abstract = True
        temperature = "hot"

    with pytest.raises(LoadTestError, match="user class Wrong: temperature must be a number"):
        Wrong.scenario(Settings(), host=None, name="x", seed=1)


def test_a_user_outside_a_test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    # A test of Locust that ran before in this process would have left word that it is over.
    monkeypatch.setattr(recording, "current_test", recording.CurrentTest())

    class Lonely(ModelUser):
        pass

    with pytest.raises(LocustError, match=r"loadtest.users.connect\(environment.events\)"):
        Lonely(Environment(user_classes=[Lonely]))


@pytest.mark.parametrize(
    ("api", "endpoint", "path"),
    [
        ("ollama", "chat", "/api/chat"),
        ("ollama", "generate", "/api/generate"),
        ("openai", "completions", "/v1/completions"),
        ("auto", "responses", "/v1/responses"),
        ("auto", "messages", "/v1/messages"),
        ("anthropic", "chat", "/v1/messages"),
        ("auto", "embeddings", "/api/embed"),
        ("openai", "embeddings", "/v1/embeddings"),
    ],
)
def test_a_plain_ask_sends_what_was_made_ahead_and_its_event_says_where_it_went(
    simulated_url: str, api: str, endpoint: str, path: str
) -> None:
    class Mine(ModelUser):
        abstract = True

    said: list[tuple[str, str]] = []
    environment = Environment()
    events: Any = environment.events
    events.request.add_listener(lambda name, url, **_: said.append((name, url)))
    asked = Settings(
        keys={"api": api, "endpoint": endpoint} | ({} if endpoint == "embeddings" else {"output_tokens": 2})
    )
    one = prepare_user_target(Mine.scenario(asked, host=simulated_url, name="x", seed=1), lambda _: None)
    with recorded("Mine", one):
        client = Mine(environment).client
        answers = [client.ask(name="mine") for _ in range(2)]
    assert [answer.record.id for answer in answers] == [0, 1]
    assert [answer.request.order.in_burst for answer in answers] == [True, False]  # users begin together
    assert said == [("mine", f"{simulated_url}{path}")] * 2


def test_workers_are_told_all_that_was_settled() -> None:
    scenario = Scenario(url="http://127.0.0.1:1", concurrency=(1,), output_tokens=(9,), temperature=0.5, seed=3)
    model = ServedModel("m", loaded=True, context=4096, details={"quantization_level": "Q4_0"})
    server = Server("http://127.0.0.1:1", "ollama", "0.24.0", (model,), None, {"profile": "quick", "speed": 2.0})
    settled = UserTarget(
        scenario, Target(server, model, OllamaChat("m", options={"options": {"temperature": 0.5}})), TokenFit(20.0, 1.1)
    )
    assert UserTarget.from_json(sent(settled.to_json())) == settled


def test_a_schedule_is_the_same_in_every_process_and_keeps_its_rate() -> None:
    one, other = (list(itertools.islice(instants(50.0, "poisson", 7), 2000)) for _ in range(2))
    assert one == other
    assert one != list(itertools.islice(instants(50.0, "poisson", 8), 2000))
    assert one == sorted(one)
    assert one[-1] / 1e9 == pytest.approx(2000 / 50, rel=0.1)
    gaps = [(after - before) / 1e9 for before, after in itertools.pairwise(one)]
    assert sum(gap > 1 / 50 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.05)  # exp(−1)
    assert list(itertools.islice(instants(4.0, "constant", None), 3)) == [0, 250_000_000, 500_000_000]


@pytest.mark.parametrize(("rate", "arrivals"), [(0.0, "poisson"), (-1.0, "constant"), (1.0, "gamma")])
def test_a_schedule_that_makes_no_sense_is_a_sentence(rate: float, arrivals: str) -> None:
    with pytest.raises(ScenarioError, match="must be"):
        next(instants(rate, arrivals, 1))


def test_each_test_of_one_process_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    first = free_path(str(tmp_path / "out"), "x.py", set())
    assert first == tmp_path / "out"
    assert free_path(str(tmp_path / "out"), "x.py", {first}) == tmp_path / "out-2"
    assert free_path(str(tmp_path / "out"), "x.py", {first, tmp_path / "out-2"}) == tmp_path / "out-3"
    assert free_path(None, "chat.py", set()).name.endswith("-chat")


def test_who_begins_to_listen_at_init_hears_of_a_start_that_came_before_it() -> None:
    """A worker that joins a running test is asked for users while its runner is being made."""
    kind: Any = Events
    events = kind()
    lifecycle.listen_to(events)
    environment = Environment(events=events, parsed_options=argparse.Namespace(worker=True))
    heard: list[Environment] = []

    def hear(environment: Environment) -> None:
        heard.append(environment)

    events.init.add_listener(lambda **_: events.test_start.add_listener(hear))
    start = gevent.spawn(events.test_start.fire, environment=environment)
    gevent.sleep(0)
    assert not heard
    events.init.fire(environment=environment, runner=None, web_ui=None)
    start.join(5)
    assert heard == [environment]
    events.test_start.fire(environment=environment)
    assert heard == [environment] * 2


def test_a_truth_that_was_read_is_read_again() -> None:
    """A test that begins twice in one process reads the values that the first beginning wrote back."""
    options = argparse.Namespace(ignore_eos="true", header=["X-A: 1"], stop=None)
    for _ in range(2):
        keys = Settings.of(options).keys
        assert (keys["ignore_eos"], keys["header"]) == (True, ["X-A: 1"])
        assert "stop" not in keys


def test_no_attribute_of_our_users_hides_one_of_locusts() -> None:
    assert not {key.name for key in USER_KEYS} & set(dir(User))

    class Chat(ModelUser):
        stop = "x"  # type: ignore[assignment]

    with pytest.raises(ScenarioError, match="stop is a method of Locust's users; give --stop"):
        Chat.scenario(Settings(), host=None, name="x", seed=1)


def test_a_user_of_http_and_of_a_model_is_a_sentence() -> None:
    """HttpUser's client took the place of ours: each task ended in an AttributeError."""

    class Both(HttpUser, ModelUser):  # type: ignore[misc]
        pass

    with pytest.raises(ScenarioError, match="it is also Locust's HttpUser"):
        Both.scenario(Settings(), host=None, name="x", seed=1)
