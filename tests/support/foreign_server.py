"""A server of another make: no batches, each sequence on a clock of its own, prefill unseen, first in first out.

Made after llm-d's vLLM emulator. It speaks OpenAI's chat API, says usage and no durations. Run as a program it serves until
it is ended: python -m support.foreign_server PORT SEQUENCES TTFT_S GAP_S TOKENS FACTOR.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from support.in_thread import listening

MODEL = "emulated"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass
class ForeignServer:
    """How it works: `sequences` or `budget` limit what is worked on at once, the rest waits in order of arrival."""

    sequences: int | None = 5
    budget: int | None = None  # prompt and answer tokens of all requests at work
    ttft_s: float = 0.060
    gap_s: float = 0.006
    spread: float = 0.1  # standard deviation of both, as a share
    tokens: tuple[int, int] = (10, 80)  # an answer, drawn evenly, whatever was asked for
    factor: float = 1.0  # of both with all sequences taken: grows evenly with the sequences at work
    port: int = 0
    peak: int = 0
    held: int = 0
    at_work: int = 0
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = next(
                    (
                        int(line.split(":")[1])
                        for line in head.split("\r\n")
                        if line.lower().startswith("content-length")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                if head.startswith("POST") and "chat/completions" in head.split("\r\n")[0]:
                    await self._answer(orjson.loads(body), writer)
                else:
                    _whole(writer, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})
                await writer.drain()
        writer.close()

    async def _answer(self, asked: dict[str, object], writer: asyncio.StreamWriter) -> None:
        prompt = len(str(asked["messages"]).split())
        most = asked.get("max_tokens") or asked.get("max_completion_tokens") or self.tokens[1]
        count = min(self.draw.randint(*self.tokens), int(str(most)))
        if asked.get("stream"):
            writer.write(HEAD)
        await self._admit(prompt + count)
        try:
            clock = asyncio.get_running_loop().time() + self._slowed(self.ttft_s)
            for number in range(count):
                await asyncio.sleep(clock - asyncio.get_running_loop().time())
                clock += self._slowed(self.gap_s)
                if asked.get("stream"):
                    delta = {"content": "word "} | ({"role": "assistant"} if not number else {})
                    _chunk(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        finally:
            self._leave(prompt + count)
        usage = {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
        reason = "length" if count == most else "stop"
        if asked.get("stream"):
            _chunk(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
            _chunk(writer, {"choices": [], "usage": usage})
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        else:
            message = {"role": "assistant", "content": "word " * count}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            _whole(writer, {"object": "chat.completion", "choices": [choice], "usage": usage})

    def _slowed(self, seconds: float) -> float:
        load = (self.at_work - 1) / (self.sequences - 1) if self.sequences and self.sequences > 1 else 0.0
        return seconds * (1 + (self.factor - 1) * load) * max(self.draw.gauss(1.0, self.spread), 0.3)

    def _room(self, tokens: int) -> bool:
        if self.sequences is not None and self.at_work >= self.sequences:
            return False
        return self.budget is None or self.at_work == 0 or self.held + tokens <= self.budget

    async def _admit(self, tokens: int) -> None:
        if self.waiting or not self._room(tokens):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append((tokens, turn))
            await turn
        else:
            self._take(tokens)

    def _take(self, tokens: int) -> None:
        self.at_work += 1
        self.held += tokens
        self.peak = max(self.peak, self.at_work)

    def _leave(self, tokens: int) -> None:
        self.at_work -= 1
        self.held -= tokens
        while self.waiting and self._room(self.waiting[0][0]):
            tokens, turn = self.waiting.popleft()
            if not turn.cancelled():
                self._take(tokens)
                turn.set_result(None)


def _chunk(writer: asyncio.StreamWriter, event: dict[str, object]) -> None:
    data = b"data: " + orjson.dumps({"object": "chat.completion.chunk", "model": MODEL, **event}) + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _whole(writer: asyncio.StreamWriter, found: dict[str, object]) -> None:
    body = orjson.dumps(found)
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


@contextlib.contextmanager
def foreign_server(server: ForeignServer) -> Iterator[ForeignServer]:
    """Run the server in a thread of its own."""
    with listening(server.listen):
        yield server


async def _forever(server: ForeignServer) -> None:
    listener = await server.listen()
    print(server.url, flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    port, sequences, ttft, gap, most, slowed = sys.argv[1:7]
    asyncio.run(
        _forever(
            ForeignServer(
                sequences=int(sequences) or None,
                ttft_s=float(ttft),
                gap_s=float(gap),
                tokens=(10, int(most)),
                factor=float(slowed),
                port=int(port),
            )
        )
    )
