"""The simulated server: the engine in real time behind Ollama's and OpenAI's wire, bound to loopback.

No task and no timer per stream: one loop turn an engine batch writes every stream's token. Timers fire up to 1 ms
early or late, so the server wakes before a batch is due and spins through call_soon for the last bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import orjson

from loadtest.errors import ScenarioError
from loadtest.simulate import control
from loadtest.simulate.answers import BUSY, OllamaAnswer, OpenAIAnswer, refusal_body
from loadtest.simulate.asks import Refusal, check_model, ollama_ask, openai_ask, parse_body
from loadtest.simulate.connection import Call, Connection, chunk, head
from loadtest.simulate.engine import Engine, Request, Server, Stream
from loadtest.simulate.faults import Fault
from loadtest.simulate.metronome import Metronome
from loadtest.simulate.profiles import Profile, load_profile
from loadtest.simulate.replies import Reply, fault_place, refusal_of
from loadtest.simulate.text import OPENINGS
from loadtest.simulate.truth import TruthLog

WAKE_EARLY_NS = 1_500_000  # timers are this coarse at worst; the rest is spun
CHUNKED_ABOVE = 2048  # Go announces the length of bodies that fit its buffer and sends longer ones chunked
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENDPOINTS = {
    "/api/chat": "chat",
    "/api/generate": "generate",
    "/v1/chat/completions": "v1-chat",
    "/v1/completions": "v1-completions",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What to simulate. `slots` None takes the profile's, 0 means no limit; `port` 0 takes a free one."""

    profile: str = "quick"  # a built-in profile's name, or a JSON file
    slots: int | None = None  # OLLAMA_NUM_PARALLEL
    num_ctx: int | None = None  # OLLAMA_CONTEXT_LENGTH; None: the profile's
    port: int = 0
    speed: float = 1.0  # divides every time
    burst: Literal["fifo", "lifo"] = "fifo"
    jitter: float | None = None  # standard deviation of a batch's time, as a share of it; None: the profile's
    warm: bool = False  # the model is loaded from the start
    max_queue: int = 512  # requests that may wait for a load; past it 503
    truth: Path | None = None
    faults: tuple[Fault, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ScenarioError(f"speed must be above 0, not {self.speed}.")
        if self.slots is not None and self.slots < 0:
            raise ScenarioError(f"slots must be 0 (no limit) or more, not {self.slots}.")

    def resolved(self) -> Profile:
        """Return the profile with these options in it, times divided by speed; ScenarioError where it makes no sense."""
        profile = load_profile(self.profile)
        timing = profile.timing if self.jitter is None else replace(profile.timing, jitter=self.jitter)
        slots = profile.slots if self.slots is None else self.slots or None
        return replace(
            profile, timing=timing.scaled(1 / self.speed), slots=slots, num_ctx=self.num_ctx or profile.num_ctx
        )


def make_engine(profile: Profile, options: ServerOptions) -> Server:
    """Return the engine, or the metronome where the profile asks for one."""
    if profile.timing.first_token_s is not None:
        return Metronome(profile.timing, seed=options.seed)
    loaded = profile.num_ctx if options.warm else None
    return Engine(profile.timing, slots=profile.slots, seed=options.seed, lifo=options.burst == "lifo", loaded=loaded)


class SimulatedServer:
    """The server as an async context manager: `async with SimulatedServer(options) as server: server.url`."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.profile = options.resolved()
        self.engine = make_engine(self.profile, options)
        banner = f"Loadtest-Simulated: profile={self.profile.name}; speed={options.speed:g}\r\n"
        self._banner = banner.encode("latin-1", "replace")
        self._socket: socket.socket | None = None
        self._truth: TruthLog | None = None
        self._connections: set[Connection] = set()
        self._replies: dict[Stream, Reply] = {}
        self._by_connection: dict[Connection, Reply] = {}
        self._count = 0
        self._wake: asyncio.Handle | None = None
        self._wake_due: int | None = None

    @property
    def port(self) -> int:
        assert self._socket is not None, "the server is not started"
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self.options.port))
        except OSError as error:
            listener.close()
            raise ScenarioError(f"cannot listen on 127.0.0.1:{self.options.port}: {error.strerror}.") from None
        listener.listen(4096)
        listener.setblocking(False)
        if self.options.truth is not None:
            try:
                self._truth = TruthLog(self.options.truth)
            except ScenarioError:
                listener.close()
                raise
        self._socket = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._socket is not None
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        for connection in list(self._connections):
            connection.abort()
        if self._wake is not None:
            self._wake.cancel()
        if self._truth is not None:
            self._truth.close()

    def _accept(self) -> None:
        assert self._socket is not None
        while True:
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError:  # the peer has gone again, or no descriptor is left: the next turn tries again
                return
            self._connections.add(Connection(sock, self._call, self._gone))

    # -- time -------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Write everything that is due by now, then see to it that the loop wakes for what comes next."""
        for emission in self.engine.advance(time.perf_counter_ns()):
            reply = self._replies.get(emission.stream)
            if reply is not None:
                reply.emit(emission)
        self._arm()

    def _arm(self) -> None:
        due = self.engine.due()
        if due == self._wake_due and self._wake is not None:
            return
        if self._wake is not None:
            self._wake.cancel()
        self._wake, self._wake_due = None, due
        if due is not None:
            loop = asyncio.get_running_loop()
            early = due - time.perf_counter_ns() - WAKE_EARLY_NS
            self._wake = loop.call_later(early / 1e9, self._tick) if early > 0 else loop.call_soon(self._tick)

    def _tick(self) -> None:
        assert self._wake_due is not None
        if time.perf_counter_ns() < self._wake_due:
            self._wake = asyncio.get_running_loop().call_soon(self._tick)  # sockets get their turn in between
            return
        self._wake = self._wake_due = None
        self._advance()

    # -- requests ---------------------------------------------------------------------------------------------------

    def _call(self, connection: Connection, call: Call) -> None:
        try:
            if call.method == "POST" and call.path in ENDPOINTS:
                self._generate(connection, call)
            else:
                self._control(connection, call)
        except Refusal as refusal:
            content_type, body = refusal_body(call.path, refusal.status, refusal.sentence)
            self._send(connection, call, refusal.status, content_type, body)

    def _generate(self, connection: Connection, call: Call) -> None:
        self._count += 1
        rng = random.Random(f"{self.options.seed}:{self._count}")
        endpoint, fields = ENDPOINTS[call.path], parse_body(call.body)
        if endpoint.startswith("v1"):
            ask = openai_ask(endpoint, fields, self.profile, rng)
        else:
            ask = ollama_ask(endpoint, fields, self.profile, rng)
        reply = Reply(
            ordinal=self._count,
            ask=ask,
            call=call,
            answer=OpenAIAnswer(ask, rng) if endpoint.startswith("v1") else OllamaAnswer(ask),
            connection=connection,
            banner=self._banner,
            offset=rng.choice(OPENINGS),
            over=self._over,
            fault=next((fault for fault in self.options.faults if fault.hits(self._count, rng)), None),
            fault_at=fault_place(ask.limit, ask.natural, rng),
        )
        if ask.unload:
            self.engine.unload()
            reply.whole(Stream(Request(self._count, (), 0), 0, reason="unload"))
        elif reply.fault is not None and (refusal := refusal_of(reply.fault.kind)) is not None:
            reply.refuse(*refusal, outcome=reply.fault.kind.value)
        else:
            self._submit(reply)

    def _submit(self, reply: Reply) -> None:
        self._advance()  # what was due before this request came must not see it
        ask = reply.ask
        if self.engine.pending() >= self.options.max_queue:
            reply.refuse(503, BUSY, "busy")
            return
        request = Request(reply.ordinal, ask.prompt, ask.limit, ask.natural, ask.num_ctx, ask.load_only)
        reply.stream = self.engine.submit(request, time.perf_counter_ns())
        self._replies[reply.stream] = reply
        self._by_connection[reply.connection] = reply
        self._arm()

    def _control(self, connection: Connection, call: Call) -> None:
        route = (call.method.replace("HEAD", "GET"), call.path)
        if route == ("GET", "/"):
            self._send(connection, call, 200, "text/plain; charset=utf-8", b"Ollama is running")
            return
        if route == ("GET", "/metrics"):
            self._send(connection, call, 200, METRICS_TYPE, self._metrics().encode())
            return
        answers: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
            ("GET", "/api/version"): control.version,
            ("GET", "/api/tags"): lambda: control.tags(self.profile),
            ("GET", "/api/ps"): self._ps,
            ("POST", "/api/show"): lambda: self._show(call),
            ("GET", "/v1/models"): lambda: control.v1_models(self.profile),
        }
        if route in answers:
            body = orjson.dumps(answers[route]())
            if call.path.startswith("/v1/"):
                self._send(connection, call, 200, "application/json", body + b"\n")
            else:
                self._send(connection, call, 200, "application/json; charset=utf-8", body)
        elif call.path in {path for _, path in answers} | set(ENDPOINTS):
            self._send(connection, call, 405, "text/plain", b"405 method not allowed")
        else:
            self._send(connection, call, 404, "text/plain", b"404 page not found")

    def _ps(self) -> dict[str, Any]:
        self._advance()
        return control.ps(self.profile, num_ctx=self.engine.loaded_ctx(), wall_ns=time.time_ns())

    def _metrics(self) -> str:
        self._advance()
        ctx, loading = self.engine.loaded_ctx(), self.engine.loading(time.perf_counter_ns())
        return control.metrics(self.profile, num_ctx=ctx, loading=loading, streams=self._replies)

    def _show(self, call: Call) -> dict[str, Any]:
        fields = parse_body(call.body)
        check_model({"model": fields.get("model") or fields.get("name", "")}, self.profile, required=True)
        return control.show(self.profile)

    def _send(self, connection: Connection, call: Call, status: int, content_type: str, body: bytes) -> None:
        length = len(body) if len(body) <= CHUNKED_ABOVE else None
        start = head(status, content_type, banner=self._banner, length=length, close=call.close)
        rest = body if length is not None else chunk(body) + b"0\r\n\r\n"
        connection.write(start + (b"" if call.method == "HEAD" else rest))
        connection.finish(close=call.close)

    # -- ends -------------------------------------------------------------------------------------------------------

    def _over(self, reply: Reply) -> None:
        """An answer has ended, however it did: forget it, drop its stream where it still runs, write the truth."""
        self._by_connection.pop(reply.connection, None)
        if reply.stream is not None:
            self._replies.pop(reply.stream, None)
            self.engine.cancel(reply.stream, time.perf_counter_ns())
        if self._truth is not None:
            self._truth.write(*reply.truth())

    def _gone(self, connection: Connection) -> None:
        self._connections.discard(connection)
        reply = self._by_connection.get(connection)
        if reply is not None:
            reply.drop()
            self._arm()


def serve(options: ServerOptions) -> None:
    """Run the server until SIGINT or SIGTERM; print one line with its address once it listens."""
    _raise_file_limit()
    gc.collect()
    gc.freeze()  # what is there now stays: later collections need not walk it
    with _runner() as runner:
        runner.run(_serve(options))


def _runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def _raise_file_limit() -> None:
    """A stream needs a descriptor: take as many as the system allows."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(options: ServerOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(name, stop.set)
    async with SimulatedServer(options) as server:
        print(f"listening on {server.url}", flush=True)
        await stop.wait()
