"""A loopback server that answers by script: bytes, pauses, and how the connection ends; it keeps a log of what it did."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import orjson

from support.in_thread import listening


class Then(Enum):
    """What happens to the connection, or to the whole server."""

    FIN = auto()
    RST = auto()
    HOLD = auto()  # nothing more comes; open until the client closes
    UNLISTEN = auto()  # the server takes no new connection from here on, and drops idle ones


@dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Every:
    """Send the same bytes again and again until the client closes."""

    data: bytes
    seconds: float


Step = bytes | Wait | Every | Then
Script = Sequence[Step]


@dataclass(slots=True)
class Request:
    """One request as it came, and what became of its answer; instants are on the monotonic clock, ns."""

    method: str
    target: str  # path and query
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int  # 0 for the server's first
    t_arrived: int
    t_over: int | None = None  # when the whole script had been carried out
    cut: bool = False  # the client closed the connection before that

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def asked(self) -> dict[str, Any]:
        """The JSON of the body, empty where it is none."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def prompt(self) -> str:
        """The text that was sent for an answer."""
        asked = self.asked
        messages = asked.get("messages")
        return str(messages[-1]["content"]) if messages else str(asked.get("prompt", asked.get("input", "")))

    @property
    def most_tokens(self) -> int | None:
        """The answer length that was asked for."""
        asked = self.asked
        given = asked.get("max_tokens") or asked.get("max_output_tokens")
        return given or (asked.get("options") or {}).get("num_predict")


Answer = Callable[[Request], Script]
Paths = Mapping[str, Script | Answer]  # by "/path", or by "GET /path"


@dataclass
class OddServer:
    """Answers by path, else by `otherwise`, else with 404."""

    paths: Paths = field(default_factory=dict)
    otherwise: Answer | None = None
    log: list[Request] = field(default_factory=list)
    port: int = 0
    connections: int = 0
    errors: list[Exception] = field(default_factory=list)  # of the scripts themselves

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, request: Request) -> Script:
        found = self.paths.get(f"{request.method} {request.path}", self.paths.get(request.path))
        if found is None:
            found = self.otherwise
        if found is None:
            return [b"HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n"]
        return found(request) if callable(found) else found

    async def listen(self) -> asyncio.Server:
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._busy: set[int] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self._server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self._writers[number] = writer
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while (request := await self._read(reader, number)) is not None:
                self._busy.add(number)
                going_on = await self._carry_out(self.of(request), request, reader, writer)
                self._busy.discard(number)
                if not going_on:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled: the server's end, which a stream's callback would print
        except Exception as error:  # noqa: BLE001 - a script that cannot be made; shown at the end
            self.errors.append(error)
        finally:
            self._busy.discard(number)
            self._writers.pop(number, None)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, number: int) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.rstrip().split("\r\n")
        method, target, *_ = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        request = Request(method, target, headers, body, number, time.perf_counter_ns())
        self.log.append(request)
        return request

    async def _carry_out(
        self, script: Script, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Do what the script says; return whether the connection can carry another request."""
        going_on = True
        try:
            for step in script:
                going_on = await self._do(step, reader, writer)
                if not going_on:
                    break
        except ConnectionError:
            request.cut = True
            return False
        request.t_over = time.perf_counter_ns()
        return going_on

    async def _do(self, step: Step, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if isinstance(step, bytes):
            writer.write(step)
            await writer.drain()
        elif isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
            if reader.at_eof():
                raise ConnectionResetError
        elif isinstance(step, Every):
            while not reader.at_eof():
                writer.write(step.data)
                await writer.drain()
                await asyncio.sleep(step.seconds)
            return False
        elif step is Then.HOLD:
            while not reader.at_eof():  # noqa: ASYNC110 - the reader has no event for it
                await asyncio.sleep(0.02)
            return False
        elif step is Then.RST:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        elif step is Then.UNLISTEN:
            for (
                one
            ) in self._server.sockets:  # a child that is just forked still holds them: closing alone leaves them open
                one.shutdown(socket.SHUT_RDWR)
            self._server.close()
            for number, idle in list(self._writers.items()):
                if number not in self._busy:
                    idle.transport.abort()
        return step is not Then.FIN


@contextmanager
def odd_server(paths: Paths | None = None, otherwise: Answer | None = None, *, port: int = 0) -> Iterator[OddServer]:
    """Run a server in a thread of its own."""
    server = OddServer(paths or {}, otherwise, port=port)
    with listening(server.listen):
        yield server
    assert not server.errors, server.errors
