"""The simulated server: an engine in real time behind Ollama's and OpenAI's APIs, on loopback.

Streams have no tasks or timers of their own: one turn of the loop writes every stream's token of a batch. Timers fire up to
1 ms early or late, so the server wakes before a batch is due and spins through call_soon until it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import orjson

from loadtest.errors import ScenarioError
from loadtest.simulate.api import control_plane
from loadtest.simulate.api.answer_formats import AnswerFormat, EmbeddingsFormat, OllamaFormat, OpenAIFormat
from loadtest.simulate.api.answer_writer import REFUSED_AT_ONCE, AnswerWriter, Fault, TruthLog, fault_place
from loadtest.simulate.api.event_formats import MessagesFormat, ResponsesFormat
from loadtest.simulate.api.http1 import LAST_CHUNK, ClientConnection, HTTPRequest, chunk, response_head
from loadtest.simulate.api.request_bodies import (
    BUSY_SENTENCE,
    RefusedError,
    check_model,
    parse_body,
    read_embedding_request,
    read_ollama_request,
    read_openai_request,
    refusal_body,
)
from loadtest.simulate.api.text import OPENINGS
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.prompts import of_pieces
from loadtest.simulate.model.stream import EngineRequest, Stream
from loadtest.simulate.profiles import Profile, load_profile

WAKE_EARLY_NS = 1_500_000  # timers may be off by this much; the rest is spent spinning
CHUNKED_ABOVE = 2048  # bytes: Go gives the length of bodies that fit its buffer, and sends longer ones in chunks
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GENERATION_PATHS = {
    "/api/chat": "chat",
    "/api/generate": "generate",
    "/v1/chat/completions": "v1-chat",
    "/v1/completions": "v1-completions",
    "/v1/responses": "v1-responses",
    "/v1/messages": "v1-messages",
    "/v1/embeddings": "v1-embeddings",
    "/api/embed": "embed",
}
FORMATS: dict[str, type[AnswerFormat]] = {  # by endpoint; Ollama's own are not here
    "v1-chat": OpenAIFormat,
    "v1-completions": OpenAIFormat,
    "v1-responses": ResponsesFormat,
    "v1-messages": MessagesFormat,
    "v1-embeddings": EmbeddingsFormat,
    "embed": EmbeddingsFormat,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What to simulate. `slots` None means the profile's, 0 no limit; `port` 0 means a free one."""

    profile: str = "quick"  # a built-in profile's name, or a JSON file
    slots: int | None = None  # OLLAMA_NUM_PARALLEL
    num_ctx: int | None = None  # OLLAMA_CONTEXT_LENGTH; None: the profile's
    port: int = 0
    speed: float = 1.0  # divides every time
    burst: Literal["fifo", "lifo"] = "fifo"
    jitter: float | None = None  # standard deviation of a batch's time, as a share of it; None: the profile's
    warm: bool = False  # the model is loaded from the start
    max_queue: int = 512  # requests that may wait for the model to load; further ones get a 503
    truth: Path | None = None
    faults: tuple[Fault, ...] = ()
    seed: int = 0

    def resolved(self) -> Profile:
        """Return the profile with these options applied and its times divided by speed; raise ScenarioError for no profile."""
        profile = load_profile(self.profile)
        timing = profile.timing if self.jitter is None else replace(profile.timing, jitter=self.jitter)
        slots = profile.slots if self.slots is None else self.slots or None
        return replace(
            profile, timing=timing.scaled(1 / self.speed), slots=slots, num_ctx=self.num_ctx or profile.num_ctx
        )


class SimulatedServer:
    """The server, an async context manager: `async with SimulatedServer(options) as server: server.url`."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.profile = options.resolved()
        self.engine = Engine(
            self.profile.timing,
            slots=self.profile.slots,
            seed=options.seed,
            lifo=options.burst == "lifo",
            loaded=self.profile.num_ctx if options.warm else None,
        )
        banner = f"Loadtest-Simulated: profile={self.profile.name}; speed={options.speed:g}\r\n"
        self._banner = banner.encode("latin-1", "replace")
        self._socket: socket.socket | None = None
        self._truth: TruthLog | None = None
        self._connections: set[ClientConnection] = set()
        self._answers: dict[Stream, AnswerWriter] = {}
        self._by_connection: dict[ClientConnection, AnswerWriter] = {}
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
        try:
            listener = socket.create_server(("127.0.0.1", self.options.port), backlog=4096)
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise ScenarioError(f"cannot listen on 127.0.0.1:{self.options.port}: {why}.") from None
        listener.setblocking(False)
        if self.options.truth is not None:
            try:
                self._truth = TruthLog(self.options.truth)
            except ScenarioError:
                listener.close()
                raise
        self._socket = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._socket is not None
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        for connection in list(self._connections):
            connection.abort()
        if self._wake is not None:
            self._wake.cancel()
        if self._truth is not None:
            self._truth.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                # Nobody waits; or a client is gone, or no descriptor is left: the loop's next turn tries again.
                return
            self._connections.add(ClientConnection(sock, self._requested, self._gone))

    # -- time -------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Write everything that is due by now, then have the loop wake for what is due next."""
        for emission in self.engine.advance(time.perf_counter_ns()):
            answer = self._answers.get(emission.stream)
            if answer is not None:
                answer.emit(emission)
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
            self._wake = loop.call_later(early / 1e9, self._tick, due) if early > 0 else loop.call_soon(self._tick, due)

    def _tick(self, due: int) -> None:
        if time.perf_counter_ns() < due:
            self._wake = asyncio.get_running_loop().call_soon(self._tick, due)  # so that sockets get their turn
            return
        self._wake = self._wake_due = None
        self._advance()

    # -- requests ---------------------------------------------------------------------------------------------------

    def _requested(self, connection: ClientConnection, http: HTTPRequest) -> None:
        try:
            if http.method == "POST" and http.path in GENERATION_PATHS:
                self._generate(connection, http)
                return
            status, content_type, body = self._control(http)
        except RefusedError as refusal:
            status, sentence = refusal.args
            content_type, body = refusal_body(http.path, status, sentence)
        self._send(connection, http, status, content_type, body)

    def _generate(self, connection: ClientConnection, http: HTTPRequest) -> None:
        self._count += 1
        rng = random.Random(f"{self.options.seed}:{self._count}")
        endpoint, fields = GENERATION_PATHS[http.path], parse_body(http.body)
        if "embed" in endpoint:
            request = read_embedding_request(endpoint, fields, self.profile)
        elif endpoint.startswith("v1"):
            request = read_openai_request(endpoint, fields, self.profile, rng)
        else:
            request = read_ollama_request(endpoint, fields, self.profile, rng)
        answer = AnswerWriter(
            ordinal=self._count,
            request=request,
            http=http,
            answer_format=FORMATS.get(endpoint, OllamaFormat)(request, rng),
            connection=connection,
            banner=self._banner,
            offset=rng.choice(OPENINGS),
            over=self._forget_answer,
            fault=next((fault for fault in self.options.faults if fault.hits(self._count, rng)), None),
            fault_at=fault_place(request.limit, request.natural, rng),
        )
        if request.unload:
            self.engine.unload()
            answer.whole([Stream(EngineRequest(self._count, (), 0), 0, reason="unload")])
        elif answer.fault is not None and (refusal := REFUSED_AT_ONCE.get(answer.fault.kind)):
            answer.refuse(*refusal, outcome=answer.fault.kind.value)
        else:
            self._submit(answer)

    def _submit(self, answer: AnswerWriter) -> None:
        self._advance()  # what was due before this request must not be affected by it
        request = answer.request
        if self.engine.pending() >= self.options.max_queue:
            answer.refuse(503, BUSY_SENTENCE, "busy")
            return
        for prompt in (request.prompt, *request.more_prompts):
            engine_request = EngineRequest(
                answer.ordinal,
                of_pieces(prompt),
                request.limit,
                request.natural,
                request.num_ctx,
                request.load_only,
                answer.answer_tokens,
            )
            stream = self.engine.submit(engine_request, time.perf_counter_ns())
            answer.streams.append(stream)
            self._answers[stream] = answer
        self._by_connection[answer.connection] = answer
        self._arm()

    def _control(self, http: HTTPRequest) -> tuple[int, str, bytes]:
        """Return status, content type and body of a request that generates nothing."""
        route = (http.method.replace("HEAD", "GET"), http.path)
        if route == ("GET", "/"):
            return 200, "text/plain; charset=utf-8", b"Ollama is running"
        if route == ("GET", "/metrics"):
            return 200, METRICS_TYPE, self._metrics().encode()
        answers: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
            ("GET", "/api/version"): lambda: {"version": control_plane.IMITATED_VERSION},
            ("GET", "/api/tags"): lambda: control_plane.api_tags(self.profile),
            ("GET", "/api/ps"): self._ps,
            ("POST", "/api/show"): lambda: self._show(http),
            ("GET", "/v1/models"): lambda: control_plane.v1_models(self.profile),
        }
        if route in answers:
            body = orjson.dumps(answers[route]())
            if http.path.startswith("/v1/"):
                return 200, "application/json", body + b"\n"
            return 200, "application/json; charset=utf-8", body
        if http.path in {path for _, path in answers} | set(GENERATION_PATHS):
            return 405, "text/plain", b"405 method not allowed"
        return 404, "text/plain", b"404 page not found"

    def _ps(self) -> dict[str, Any]:
        self._advance()
        return control_plane.api_ps(self.profile, num_ctx=self.engine.loaded, wall_ns=time.time_ns())

    def _metrics(self) -> str:
        self._advance()
        ctx, loading = self.engine.loaded, self.engine.loading(time.perf_counter_ns())
        return control_plane.metrics_page(self.profile, num_ctx=ctx, loading=loading, streams=self._answers)

    def _show(self, http: HTTPRequest) -> dict[str, Any]:
        fields = parse_body(http.body)
        check_model({"model": fields.get("model") or fields.get("name", "")}, self.profile, required=True)
        return control_plane.api_show(self.profile)

    def _send(
        self, connection: ClientConnection, http: HTTPRequest, status: int, content_type: str, body: bytes
    ) -> None:
        length = len(body) if len(body) <= CHUNKED_ABOVE else None
        start = response_head(status, content_type, banner=self._banner, length=length, close=http.close)
        rest = body if length is not None else chunk(body) + LAST_CHUNK
        connection.write(start + (b"" if http.method == "HEAD" else rest))
        connection.finish(close=http.close)

    # -- ends -------------------------------------------------------------------------------------------------------

    def _forget_answer(self, answer: AnswerWriter) -> None:
        """Forget an answer that has ended, drop what of it still runs, and log the truth."""
        self._by_connection.pop(answer.connection, None)
        for stream in answer.streams:
            self._answers.pop(stream, None)
            self.engine.cancel(stream, time.perf_counter_ns())
        if self._truth is not None:
            self._truth.write(*answer.truth())

    def _gone(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        answer = self._by_connection.get(connection)
        if answer is not None:
            answer.drop()
            self._arm()


def serve_forever(options: ServerOptions) -> None:
    """Run the server until SIGINT or SIGTERM; print one line with its address once it listens."""
    import uvloop

    _raise_file_limit()
    gc.collect()
    gc.freeze()  # so that later collections need not walk what exists now
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_until_told(options))


def _raise_file_limit() -> None:
    """Allow as many descriptors as the system does, for each stream needs one."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve_until_told(options: ServerOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves them
            loop.add_signal_handler(number, stop.set)
    async with SimulatedServer(options) as server:
        print(f"listening on {server.url}", flush=True)
        await stop.wait()
