"""Ask a simulated server in this process, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from loadtest.simulate.server import ServerOptions, SimulatedServer
from support.places import STREAMS

T = TypeVar("T")
STEP_MS = 2
PROFILE = {
    "name": "test",
    "timing": {"step": {"base_s": STEP_MS / 1e3}, "prefill_s": 0.0001, "load_s": 0.05},
    "model": {"name": "tiny:latest", "layers": 2},
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer taken apart: status line, headers in order, chunks (one entry with a Content-Length)."""

    status: str
    headers: list[tuple[str, str]]
    chunks: list[bytes]
    whole: bool  # ended as HTTP says it should
    rest: bytes = b""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def events(self) -> list[dict[str, Any]]:
        events = [event.removeprefix(b"data: ") for event in self.body.split(b"\n\n") if event]
        return [json.loads(event) for event in events if event != b"[DONE]"]


def take_apart(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    length = dict(headers).get("Content-Length")
    if length is not None:
        return Answer(status, headers, [body[: int(length)]], len(body) >= int(length), body[int(length) :])
    chunks: list[bytes] = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        count = int(size, 16)
        if count == 0:
            return Answer(status, headers, chunks, rest.startswith(b"\r\n"), rest[2:])
        if len(rest) < count + 2:
            break
        chunks.append(rest[:count])
        body = rest[count + 2 :]
    return Answer(status, headers, chunks, whole=False)


def request(method: str, path: str, body: str = "", *, close: bool = True) -> bytes:
    connection = "Connection: close\r\n" if close else ""
    sent = body.encode()
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{connection}Content-Length: {len(sent)}\r\n\r\n".encode() + sent


async def raw(server: SimulatedServer, data: bytes) -> bytes:
    """Send bytes, return all that comes until the server closes (or resets: then what came before)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    received = bytearray()
    try:
        while piece := await reader.read(65536):
            received += piece
    except ConnectionResetError:
        received += b"!RESET"
    writer.close()
    return bytes(received)


async def ask(server: SimulatedServer, path: str, **fields: Any) -> Answer:
    return take_apart(await raw(server, request("POST", path, json.dumps({"model": "tiny", **fields}))))


def chat(tokens: int | None = 5, content: str = "hello", **fields: Any) -> dict[str, Any]:
    options = {} if tokens is None else {"num_predict": tokens}
    return {"messages": [{"role": "user", "content": content}], "options": options, **fields}


def write_profile(folder: Path) -> str:
    path = folder / "profile.json"
    path.write_text(json.dumps(PROFILE))
    return str(path)


def run(profile: str, work: Callable[[SimulatedServer], Awaitable[T]], **options: Any) -> T:
    async def main() -> T:
        async with SimulatedServer(ServerOptions(**{"profile": profile, "warm": True, **options})) as server:
            return await work(server)

    return asyncio.run(asyncio.wait_for(main(), 20))


def recorded(name: str) -> tuple[dict[str, Any], Answer]:
    stream = json.loads((STREAMS / f"{name}.json").read_text())
    data = "".join(text for _, text in stream["reads"] if text != "!EOF")
    return stream, take_apart(data.encode("latin-1"))


def shape(value: Any) -> Any:
    """Keys in order and types, lists by their first element."""
    if isinstance(value, dict):
        return [(key, shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__
