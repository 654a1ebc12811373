"""A dialect is one file and a source is one file: these two, made up here, run under both drivers."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import orjson
import pytest
from support import odd_answers
from support.odd_server import OddServer, Request, Script, Wait, odd_server
from support.places import TESTS
from support.recorded_users import recorded

from loadtest.asyncio_driver.run import measure
from loadtest.dialects import DIALECTS, ContentEvents, Decoder, Dialect, End, Ending, EndMarks, said_by_server
from loadtest.metrics import ServerSaid
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.scenario import Level, Scenario
from loadtest.workloads import workload
from loadtest.workloads.job import Job
from loadtest.workloads.source import Answered, Session
from loadtest.workloads.tokens import Counter, TokenFit

PATH = "/toy/answers"


# ---------------------------------------------------------------- a dialect


class ToyDecoder:
    """Lines: "+text" is a piece of the answer, "=prompt output" its end with both counts, "!" an error."""

    def __init__(self) -> None:
        self.events = ContentEvents()
        self._ending = Ending()
        self._rest = b""
        self._end = 0

    @property
    def failed(self) -> bool:
        return self._ending.error is not None

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._end += len(line) + 1
            kind, said = line[:1], line[1:].decode()
            if kind == b"+":
                self.events.add(said, self._end)
            elif kind == b"=":
                self._ending.prompt_tokens, self._ending.output_tokens = map(int, said.split())
                self._ending.done = True
                self._ending.server["work_ms"] = 250
            else:
                self._ending.error = said

    def close(self) -> Ending:
        return self._ending


@dataclass(frozen=True, slots=True)
class Toy(Dialect):
    name: ClassVar[str] = "openai-toy"
    api: ClassVar[str] = "openai"
    endpoint: ClassVar[str] = "chat"
    path: ClassVar[str] = PATH
    ends: ClassVar[EndMarks] = EndMarks((b"=",), lambda line: End.MARK if line.startswith(b"=") else None)

    def body(self, job: Job) -> bytes:
        said = [dict(message) for message in job.conversation]
        return orjson.dumps({"to": self.model, "said": said, "most": job.output_tokens})

    def decoder(self) -> Decoder:
        return ToyDecoder()

    @staticmethod
    def server_said(server: dict[str, Any]) -> ServerSaid:
        return ServerSaid(math.nan, server["work_ms"] / 1e3, math.nan, starts_with_headers=False)

    def auth(self, url: str) -> dict[str, str]:
        return {"X-Toy-Key": "open sesame"}


class Whole(ToyDecoder):
    """An answer that is no text: nothing of it is an event."""

    def feed(self, data: bytes) -> None:
        self._rest += data

    def close(self) -> Ending:
        self._ending.prompt_tokens = int(self._rest.split()[0])
        self._ending.done = True
        return self._ending


@dataclass(frozen=True, slots=True)
class ToyWithoutStream(Toy):
    name: ClassVar[str] = "openai-toy-whole"
    streams: ClassVar[bool] = False
    ends: ClassVar[EndMarks] = EndMarks()

    def decoder(self) -> Decoder:
        return Whole()


# ---------------------------------------------------------------- a source


class TwoTurns:
    """A question, then one that quotes the answer."""

    def __init__(self, level: Level, i: int, *, warmup: bool) -> None:
        self._level, self._i, self._warmup = level, i, warmup
        self._said: list[dict[str, str]] = []

    def next(self, answer: Answered | None) -> Job | None:
        turn = len(self._said) // 2
        if turn == 2 or (answer is None) != (turn == 0):
            return None
        if answer is not None:
            self._said[-1] = {"role": "assistant", "content": answer.text}
        text = f"session {self._i}, turn {turn}"
        self._said += [{"role": "user", "content": text}, {}]
        messages = tuple(self._said[:-1])
        tokens, level = self._level.output_tokens, self._level.index
        return Job(
            0,
            level,
            7,
            text,
            None,
            tokens,
            warmup=self._warmup,
            messages=messages,
            session=self._i,
            turn=turn,
            row="r1",
        )


@dataclass(frozen=True, slots=True)
class ToySource:
    @classmethod
    def of(cls, scenario: Scenario, counter: Counter, fit: TokenFit) -> Self | None:
        return cls()

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Session:
        return TwoTurns(level, i, warmup=warmup)


# ---------------------------------------------------------------- both drivers


def by_asyncio(url: str, place: Path, **load: Any) -> list[Record]:
    scenario = Scenario(url=url, api="openai", output_tokens=(3,), seed=1, warmup=0, save_text=True, **load)
    done = measure(scenario, place / "run", on_progress=lambda _: None, say=lambda _: None)
    assert done.state == "done"
    return list(RunFolder.open(done.folder).records())


def by_locust(url: str, ask: Callable[[Any], object]) -> list[Record]:
    from locust.env import Environment
    from locust.runners import STATE_RUNNING

    from loadtest.users import OpenAIUser
    from loadtest.users.options import Settings
    from loadtest.users.processes import recording
    from loadtest.users.processes.user_target import prepare_user_target

    class ToyUser(OpenAIUser):
        save_text = True
        output_tokens = 3
        warmup = 0

    settled = prepare_user_target(ToyUser.scenario(Settings(), host=url, name="x", seed=1), lambda _: None)
    environment = Environment(user_classes=[ToyUser])
    runner = environment.create_local_runner()
    runner.state = STATE_RUNNING
    found: list[Record] = []
    recording.record_listeners.append(lambda _, record: found.append(record))
    with recorded("ToyUser", settled, users=1):
        ask(ToyUser(environment))
    return found


DRIVERS: dict[str, Callable[[str, Path], list[Record]]] = {
    "a closed loop": lambda url, place: by_asyncio(url, place, concurrency=(2,), requests=4),
    "an open loop": lambda url, place: by_asyncio(url, place, rate=(200.0,), requests=4),
    "Locust's tasks": lambda url, _: by_locust(url, lambda user: [user.client.ask() for _ in range(8)]),
    "Locust's arrivals": lambda url, _: by_locust(url, lambda user: [user.client.ask(t_sched=1) for _ in range(4)]),
}


def child(driver: str, dialect: str, url: str, place: str) -> None:
    """Run a driver with the toys added; in a process of its own, for Locust patches the one that it is in."""
    DIALECTS["openai", "chat"] = {"Toy": Toy, "ToyWithoutStream": ToyWithoutStream}[dialect]
    workload.SOURCES.insert(0, ToySource)
    records = DRIVERS[driver](url, Path(place))
    (Path(place) / "records").write_bytes(b"".join(record.to_line() for record in records))


def drive(driver: str, server: OddServer, place: Path, dialect: str = "Toy") -> list[Record]:
    code = f"import test_extend; test_extend.child({driver!r}, {dialect!r}, {server.url!r}, {str(place)!r})"
    paths = os.pathsep.join((str(TESTS), str(Path(__file__).parent), *filter(None, (os.environ.get("PYTHONPATH"),))))
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [Record.from_json(orjson.loads(line)) for line in (place / "records").read_bytes().splitlines()]


def answered(request: Request) -> Script:
    """Answer with three pieces that tell how many messages were sent."""
    pieces = [f"+{word} \n".encode() for word in (str(len(request.asked["said"])), "messages", "came")]
    return odd_answers.streamed(*[step for piece in pieces for step in (piece, Wait(0.002))], b"=40 3\n")


@pytest.fixture
def server() -> Iterator[OddServer]:
    with odd_server({**odd_answers.OPENAI_CONTROL, PATH: answered}) as server:
        yield server


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_dialect_and_a_source_run_under_both_drivers(server: OddServer, tmp_path: Path, driver: str) -> None:
    records = drive(driver, server, tmp_path)
    assert {(record.outcome, record.error) for record in records} == {(Outcome.OK, None)}
    sessions = {record.session for record in records}
    assert len(sessions) == 4
    assert sorted((record.session, record.turn) for record in records) == sorted(
        (session, turn) for session in sessions for turn in (0, 1)
    )
    assert len({record.id for record in records}) == 8
    for record in records:
        assert (record.dialect, record.row) == ("openai-toy", "r1")
        assert (record.token_source, record.prompt_tokens, record.output_tokens) == ("server", 40, 3)
        assert len(record.chunks) == 3
        assert record.answer == f"{2 * (record.turn or 0) + 1} messages came "
    firsts = {record.session: record for record in records if record.turn == 0}
    for record in records:
        if record.turn == 1:
            assert record.t_sched >= firsts[record.session].t_end
    sent = [request for request in server.log if request.path == PATH and len(request.asked["said"]) == 3]
    assert {request.asked["said"][1]["content"] for request in sent} == {"1 messages came "}
    assert {request.headers["x-toy-key"] for request in server.log if request.path == PATH} == {"open sesame"}


def test_a_dialect_says_what_its_server_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DIALECTS, ("openai", "chat"), Toy)
    assert said_by_server("openai-toy", {"work_ms": 250}).prefill_s == 0.25
    assert said_by_server("unheard of", {"prompt_eval_duration": 5_000_000}).prefill_s == 0.005


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_failed_turn_ends_its_session(server: OddServer, tmp_path: Path, driver: str) -> None:
    def failing(request: Request) -> Script:
        """Answer the requests that come before the clock."""
        return answered(request) if request.asked["most"] == 1 else odd_answers.streamed(b"!no\n")

    server.paths = {**server.paths, PATH: failing}
    records = drive(driver, server, tmp_path)
    assert {(record.outcome, record.turn) for record in records} == {(Outcome.STREAM_ERROR, 0)}
    assert len({record.session for record in records}) == len(records)


def test_an_answer_that_is_no_stream_is_a_record_without_chunks(server: OddServer, tmp_path: Path) -> None:
    server.paths = {**server.paths, PATH: odd_answers.plain(b"9 " + b"0" * 50_000)}
    records = drive("a closed loop", server, tmp_path, "ToyWithoutStream")
    assert {record.outcome for record in records} == {Outcome.OK}
    assert {(record.prompt_tokens, record.output_tokens, len(record.chunks)) for record in records} == {(9, None, 0)}
    assert len(records) == 8
