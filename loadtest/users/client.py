"""What a user sends with: `self.client.chat(...)` waits for the whole streamed answer and returns it as an Answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gevent
from gevent import GreenletExit
from locust.exception import LocustError
from locust.runners import STATE_RUNNING, STATE_SPAWNING
from locust.user.task import LOCUST_STATE_STOPPING

from loadtest import metrics
from loadtest.measure.failure import GivenUpError
from loadtest.measure.pacing import back_off
from loadtest.measure.request import Request
from loadtest.records import Record
from loadtest.scenario import EMBEDDINGS, Scenario
from loadtest.text import shown
from loadtest.users.answer import CONTROL, Answer, event_context, response_time
from loadtest.users.arguments import (
    Messages,
    checked_instant,
    checked_length,
    checked_prompt,
    checked_texts,
)
from loadtest.users.channel import Channel, Endpoint, RequestKind
from loadtest.users.processes import recording
from loadtest.users.processes.gevent_hub import sleep_until
from loadtest.users.session import UserSession
from loadtest.wire import now
from loadtest.workloads.data_source import data_file
from loadtest.workloads.schedule import think_time
from loadtest.workloads.source import Answered

if TYPE_CHECKING:
    from locust import User

GivenPrompt = str | Messages | None


class Client:
    """Sends one user's requests, one at a time unless told when each was due.

    Every request becomes one record on disk, then one `request` event; a request stopped by us a record only. Failures
    are never raised: see Answer.ok. Both are made in the next quiet moment, so that other users' requests leave first.
    """

    def __init__(self, user: User) -> None:
        recorder = recording.current_test.recorder
        if recorder is None:
            if recording.current_test.over:  # Locust was still starting users when the test ended
                raise recording.Stopped
            raise LocustError(
                "no test has begun to record: where Locust is used as a library, call loadtest.users.connect("
                "environment.events) and fire environment.events.init before the test starts (docs/locust.md)."
            )
        self._user = user
        self._number = next(recorder.user_numbers)
        self._recorder = recorder
        self._channel: Channel = recorder.channel(type(user).__name__)
        self._lag = 0  # ns from the last answer's end to its return from here: not the user's doing
        self._level, self._sent = -1, 0  # requests of this user in this level
        self._failures = 0  # on the wire, in a row
        self._ended = 0  # when the last answer was over, monotonic ns; 0: none was
        self._sessions = 0  # that this user ended in this level
        self._in_session = False  # in a UserSession that is not over
        self._pending: BaseException | None = None  # what a listener of the request event raised
        self._turn: tuple[RequestKind, Request] | None = None  # the next one of the session that this user is in

    @property
    def seed(self) -> int | None:
        """The run's seed, the same in every worker."""
        return self._channel.scenario.seed

    @property
    def rows(self) -> int:
        """How many rows --data has; 0 without one."""
        file = data_file(self._channel.scenario)
        return 0 if file is None else len(file)

    def chat(
        self,
        prompt: GivenPrompt = None,
        *,
        input_tokens: int | str | None = None,
        output_tokens: int | str | None = None,
        name: str | None = None,
        catch_response: bool = False,
        t_sched: int | None = None,
    ) -> Answer:
        """Send one chat request and return its answer once the stream is over.

        Args:
            prompt: a text (sent behind a nonce, so that no prefix cache answers, unless the user has warm_cache), or
                messages, sent as they are. Default: the user's own prompt, else a made-up one of input_tokens.
            input_tokens, output_tokens: lengths asked for, or distributions such as "lognormal(800, 0.6)". Default:
                --input-tokens and --output-tokens, else the user's.
            name: of the row in Locust's tables. Default: the request's path.
            catch_response: use the answer in a `with` block that judges it, as with Locust's own clients.
            t_sched: when the request was due, monotonic ns, in an open loop. Default: when this user was free.
        """
        return self._send("chat", prompt, input_tokens, output_tokens, name, catch_response, t_sched)

    def generate(
        self,
        prompt: str | None = None,
        *,
        input_tokens: int | str | None = None,
        output_tokens: int | str | None = None,
        name: str | None = None,
        catch_response: bool = False,
        t_sched: int | None = None,
    ) -> Answer:
        """Send one request without a chat template: /api/generate on Ollama, /v1/completions elsewhere; as `chat`."""
        return self._send("generate", prompt, input_tokens, output_tokens, name, catch_response, t_sched)

    completions = generate

    def responses(self, prompt: GivenPrompt = None, **how: Any) -> Answer:
        """Send one request to OpenAI's /v1/responses; with the arguments of `chat`."""
        return self._send("responses", prompt, **how)

    def messages(self, prompt: GivenPrompt = None, **how: Any) -> Answer:
        """Send one request to Anthropic's /v1/messages; with the arguments of `chat`."""
        return self._send("messages", prompt, **how)

    def embed(self, texts: str | Sequence[str] | None = None, **how: Any) -> Answer:
        """Ask for the embeddings of a text, or of a list of texts, which is sent as it is; as `chat`, without output_tokens.

        /api/embed on Ollama, /v1/embeddings elsewhere. Default: as many made-up texts as inputs_per_request says where
        `endpoint` is embeddings, else one.
        """
        return self._send("embeddings", texts, **how)

    def ask(self, prompt: str | None = None, **how: Any) -> Answer:
        """Send what `endpoint` or --endpoint says: a `chat`, `generate`, `responses`, `messages` or `embed`."""
        return self._send(self._channel.endpoint, prompt, **how)

    def session(self, **how: Any) -> UserSession:
        """Begin a conversation: each `session.chat()` is its next turn, with all that was said before; see UserSession."""
        self._sessions += self._in_session  # the one before ends where another begins
        self._in_session = False
        return UserSession(self, self._channel, **how)

    def _send(
        self,
        endpoint: Endpoint,
        prompt: GivenPrompt | Sequence[str],
        input_tokens: int | str | None = None,
        output_tokens: int | str | None = None,
        name: str | None = None,
        catch_response: bool = False,
        t_sched: int | None = None,
    ) -> Answer:
        self._raise_pending()
        embedded = endpoint == EMBEDDINGS
        checked: str | Sequence[Any] | None = (
            checked_texts(prompt)
            if embedded and not isinstance(prompt, str | None)
            else checked_prompt(prompt, messages_allowed=not embedded and endpoint != "generate")
        )
        due = checked_instant(t_sched)
        free = now() - self._lag
        kind = self._channel.kind(
            endpoint,
            checked_length("input_tokens", input_tokens),
            checked_length("output_tokens", output_tokens, answered=not embedded),
            checked if isinstance(checked, str) else None,
        )
        request = (
            self._channel.as_given(kind, checked)
            if isinstance(checked, list)
            else self._take(kind, in_session=t_sched is None)
        )
        if in_turn := due is None:
            due = self._thought(request, self._channel.scenario, free)
        answer = self._attempt(request, due, name, in_turn=in_turn)
        maker = self._channel.maker(endpoint)
        turn = maker.following(request)
        while turn is not None and t_sched is not None:  # an arrival of an open loop sends the whole of its session
            self._recorder.backlog.add(answer.settle)
            due = (answer.request.received.t_over or now()) + self._pause(turn, self._channel.scenario)
            sleep_until(due)
            answer = self._attempt(turn, due, name, in_turn=False)
            turn = maker.following(turn)
        if turn is not None:
            self._turn = kind, turn
        if checked is None and turn is None:
            self._recorder.backlog.add(lambda: self._channel.restock(kind, self._recorder.ledger.peak))
        self._take_end(answer, over=turn is None, catch_response=catch_response)
        return answer

    def send_turn(self, request: Request, scenario: Scenario, name: str | None) -> tuple[Answer, Answered | None]:
        """Send a turn of a UserSession; return its answer, and that as the session takes it, None where the turn failed.

        The session calls `take_turn_end` next.
        """
        self._raise_pending()
        due = self._thought(request, scenario, now() - self._lag)
        answer = self._attempt(request, due, name, in_turn=True)
        return answer, request.answered()

    def take_turn_end(self, answer: Answer, *, over: bool, catch_response: bool) -> None:
        """Take the end of a turn of a UserSession; `over` says that this turn was the conversation's last."""
        self._in_session = not over
        self._take_end(answer, over=over, catch_response=catch_response)

    def _take_end(self, answer: Answer, *, over: bool, catch_response: bool) -> None:
        self._ended = answer.request.received.t_over or now()
        self._sessions += over and answer.request.job.session is not None
        self._recorder.backlog.add(answer.settle)
        if catch_response:
            answer.expect_verdict()
        self._lag = max(now() - self._ended, 0)
        self._back_off(answer)
        if catch_response:
            self._recorder.backlog.add(answer.lapse)

    def _raise_pending(self) -> None:
        # The heartbeat of an ended test has stopped: a request would wait for ever.
        if recording.current_test.recorder is not self._recorder:
            raise LocustError(
                "the test has ended, and nothing is recorded any more; send a user's last requests in on_stop."
            )
        if self._pending is not None:
            pending, self._pending = self._pending, None
            raise pending

    @staticmethod
    def _pause(request: Request, scenario: Scenario) -> int:
        return int(think_time(scenario, request.job) * metrics.NS_PER_S)

    def _thought(self, request: Request, scenario: Scenario, free: int) -> int:
        """Wait for the end of the user's think time, which begins with the end of its last answer; return when a request is due.

        `free` is when the user is ready where it has no think time, or no answer yet.
        """
        if not scenario.think_time or not self._ended:
            return free
        due = max(self._ended + self._pause(request, scenario), free)
        sleep_until(due)
        return due

    def _take(self, kind: RequestKind, *, in_session: bool) -> Request:
        """Return the next turn of the user's session where it is of this kind, else a new session's first."""
        turn, self._turn = (self._turn, None) if in_session else (None, self._turn)
        return turn[1] if turn is not None and turn[0] == kind else self._channel.take(kind)

    def _attempt(self, request: Request, due: int, name: str | None, *, in_turn: bool) -> Answer:
        """Send one request and wait for the end of its answer; however it ends, it will be recorded."""
        recorder, channel = self._recorder, self._channel
        name = shown(str(name)) if name else request.dialect.posted_to
        request.t_sched, request.user = due, self._number if in_turn else None
        request.order.in_burst = in_turn and not self._ended
        answer = Answer(request, name, f"{channel.url}{request.dialect.posted_to}", recorder, self._fire)
        try:
            current_level = recorder.begin(request, name)
            warmup = self._warming_up(current_level.level, request) or not current_level.steady
            request.job = dataclasses.replace(request.job, level=current_level.level, warmup=warmup)
            channel.wire.fetch(request.order)
        except GivenUpError as error:  # a stop, a timeout around this call, a task that kills what it has spawned
            recorder.ledger.end(request, error.thrown if self._stopped_by_us(error.thrown) else error)
            recorder.backlog.add(lambda: answer.record)  # without an event, as with Locust's own clients
            self._sessions += request.job.session is not None  # which ends with it
            self._in_session = False
            raise error.thrown from None
        except BaseException as error:
            recorder.ledger.end(request, error)
            if not isinstance(error, Exception):
                recorder.backlog.add(answer.settle)
                raise
        else:
            recorder.ledger.end(request)
        return answer

    def _stopped_by_us(self, thrown: BaseException) -> bool:
        """Whether the test or this user is being stopped; a task may kill greenlets of its own in the same way."""
        if not isinstance(thrown, GreenletExit) or isinstance(thrown, recording.Stopped):
            return isinstance(thrown, recording.Stopped | KeyboardInterrupt | SystemExit)
        runner, user = self._user.environment.runner, self._user
        if runner is None or runner.state not in (STATE_SPAWNING, STATE_RUNNING):
            return True
        return gevent.getcurrent() is user.greenlet or user._state == LOCUST_STATE_STOPPING  # noqa: SLF001

    def _warming_up(self, level: int, request: Request) -> bool:
        """Count a request of this user; return whether it is a warm-up: one of a level's first requests, or first sessions."""
        if level != self._level:
            self._level, self._sent, self._sessions = level, 0, 0
        self._sent += 1
        done = self._sent - 1 if request.job.session is None else self._sessions
        return done < self._channel.scenario.warmup

    def _back_off(self, answer: Answer) -> None:
        """Pause after a request that the wire could not carry, so that a dead server is not hammered."""
        self._failures = self._failures + 1 if answer.request.plainly_failed else 0
        if self._failures:
            gevent.sleep(back_off(self._failures))

    def _fire(self, answer: Answer, record: Record, exception: Exception | None) -> None:
        """Fire the one event of a request; what its listeners raise to steer the user waits for the user's next call."""
        try:
            self._user.environment.events.request.fire(
                request_type=record.dialect.partition("-")[2].upper(),
                name=answer.name,
                response_time=response_time(record),
                response_length=record.bytes,
                exception=exception,
                context={**self._user.context(), **event_context(record)},
                response=answer,
                start_time=(self._recorder.clock.wall_ns + (record.t_send or record.t_sched)) * metrics.S_PER_NS,
                url=answer.url,
            )
        except CONTROL as control:
            self._pending = control
