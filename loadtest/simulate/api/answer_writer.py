"""Writes one answer to its client: the engine's emissions as bytes, or a fault of real servers that is injected on purpose.

What really happened goes into a log.
"""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Self

import orjson

from loadtest.errors import ScenarioError, os_error_as
from loadtest.simulate.api.answer_formats import AnswerFormat
from loadtest.simulate.api.http1 import LAST_CHUNK, ClientConnection, HTTPRequest, chunk, response_head
from loadtest.simulate.api.request_bodies import BUSY_SENTENCE, DIED_SENTENCE, GenerationRequest, refusal_body
from loadtest.simulate.api.text import ANSWER, pieces
from loadtest.simulate.model.prompts import Prompt, of_pieces
from loadtest.simulate.model.stream import Emission, Stream

EVENT_END = b"\n\n"
EQUAL_PIECES = 31  # Ollama ends a stream after more than 30 equal ones
_ENCODED = tuple(orjson.dumps(token) for token in ANSWER)


class FaultKind(StrEnum):
    """A fault, named after what it does on the wire."""

    TRUNCATE = "truncate"  # the connection ends inside the chunked body
    ERROR_LINE = "error-line"  # an error object (on /v1 an empty chunk) inside a 200 stream
    HTTP_500 = "http-500"
    HTTP_503 = "http-503"
    RESET = "reset"  # RST in mid-stream
    STALL = "stall"  # nothing for stall_s, then everything held back
    SILENT_END = "silent-end"  # a clean end without done:true, finish_reason or [DONE]
    REPEAT_GUARD = "repeat-guard"  # 31 equal pieces, then a silent end


REFUSED_AT_ONCE = {FaultKind.HTTP_503: (503, BUSY_SENTENCE), FaultKind.HTTP_500: (500, DIED_SENTENCE)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault, and which requests get it: a share of them, or every nth."""

    kind: FaultKind
    share: float = 0.0
    every: int | None = None
    stall_s: float = 5.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `KIND=SHARE` or `KIND=every:N`, as in truncate=0.05 or http-503=every:10; ScenarioError otherwise."""
        name, _, amount = text.partition("=")
        try:
            kind = FaultKind(name)
            if amount.startswith("every:"):
                fault = cls(kind=kind, every=int(amount.removeprefix("every:")))
            else:
                fault = cls(kind=kind, share=float(amount or 1))
        except ValueError:
            raise ScenarioError(
                f"{text!r} is not a fault; write KIND=SHARE or KIND=every:N with one of {', '.join(FaultKind)}."
            ) from None
        if not 0 <= fault.share <= 1 or (fault.every is not None and fault.every < 1):
            raise ScenarioError(f"fault {text!r}: the share must lie between 0 and 1, every:N at 1 or above.")
        return fault

    def hits(self, ordinal: int, rng: random.Random) -> bool:
        """Whether the request with this ordinal, counted from 1, gets the fault."""
        if self.every is not None:
            return ordinal % self.every == 0
        return rng.random() < self.share


@dataclass(slots=True, eq=False, kw_only=True)
class AnswerWriter:
    """Writes one stream's tokens to its connection and notes when.

    `over` is called once, when the answer has ended in whatever way, and before the connection takes its next request.
    """

    ordinal: int
    request: GenerationRequest
    http: HTTPRequest
    answer_format: AnswerFormat
    connection: ClientConnection
    banner: bytes
    offset: int  # where in ANSWER this answer starts: one of OPENINGS
    over: Callable[[AnswerWriter], None]
    fault: Fault | None = None
    fault_at: int = 0  # tokens before the fault
    streams: list[Stream] = field(default_factory=list)  # one; of embeddings one for each input
    outcome: str = "ok"
    first_ns: int | None = None
    last_ns: int | None = None
    end_ns: int | None = None
    late: array[int] = field(default_factory=lambda: array("q"))  # behind the engine's schedule, ns, by emission
    _sent: int = 0  # tokens with text; of embeddings inputs that were read
    _headed: bool = False
    _held: list[Emission] | None = None  # while stalled

    def emit(self, emission: Emission) -> None:
        """Write a token or an end that the engine has made."""
        self.late.append(max(time.perf_counter_ns() - emission.at, 0))
        if emission.stream.request.load_only:
            self.whole([emission.stream])
        elif self.request.inputs:
            self._sent += emission.done
            if self._sent == len(self.streams):
                self.whole(self.streams)
        elif self._held is not None:
            self._held.append(emission)
        elif self.fault is None or not self._strike(self.fault, emission):
            self._write(emission)

    def whole(self, streams: list[Stream]) -> None:
        """Answer with one object, for a request that does not stream, only loads the model or asks for embeddings."""
        text = self._words(self._sent)
        total = time.perf_counter_ns() - self.http.arrived_ns
        body = self.answer_format.whole(text, streams, time.time_ns(), total)
        self._body(200, self.answer_format.content_type_whole, body)

    def refuse(self, status: int, sentence: str, outcome: str) -> None:
        """Answer with an error before anything was sent."""
        self.outcome = outcome
        content_type, body = refusal_body(self.http.path, status, sentence)
        self._body(status, content_type, body)

    def drop(self) -> None:
        self.outcome = "cancelled" if self.outcome == "ok" else self.outcome
        self._ended()

    def truth(self) -> tuple[dict[str, Any], dict[str, int | None]]:
        """Return what the truth log says of this request: facts, and monotonic instants."""
        facts: dict[str, Any] = {
            "id": self.ordinal,
            "endpoint": self.request.endpoint,
            "prompt": self.request.opening,
            "outcome": self.outcome,
            "stamped": self.http.stamped,
            "late_max_us": round(max(self.late, default=0) / 1e3, 1),
            "late_mean_us": round(sum(self.late) / max(len(self.late), 1) / 1e3, 1),
        }
        instants = {
            "arrived": self.http.arrived_ns,
            "first_token": self.first_ns,
            "last_token": self.last_ns,
            "end": self.end_ns,
        }
        if self.streams:
            stream = self.streams[0]
            facts |= {
                "reason": stream.reason,
                "slot": stream.slot,
                "prompt_tokens": stream.prompt_tokens,
                "cached_tokens": stream.cached,
                "output_tokens": stream.tokens,
            }
            instants |= {"slot_won": stream.slot_won, "prefill_start": stream.prefill_start, "slot_freed": stream.ended}
        return facts, instants

    def answer_tokens(self, tokens: int) -> Prompt:
        """Return the answer's first tokens as a later prompt would hold them, should its client send the answer back."""
        return of_pieces(pieces(self._words(tokens)))

    def _words(self, tokens: int) -> str:
        return "".join(ANSWER[(self.offset + index) % len(ANSWER)] for index in range(tokens))

    # -- writing ----------------------------------------------------------------------------------------------------

    def _write(self, emission: Emission) -> None:
        if emission.text:
            if self.request.stream:
                self._chunk(self.answer_format.token(self._text(), time.time_ns()))
            self._sent += 1
            self.last_ns = time.perf_counter_ns()
            if self.first_ns is None:
                self.first_ns = self.last_ns
        if emission.done and self.request.stream:
            total = time.perf_counter_ns() - self.http.arrived_ns
            self._chunk(self.answer_format.end(emission.stream, time.time_ns(), total))
            self._finish(LAST_CHUNK)
        elif emission.done:
            self.whole([emission.stream])

    def _text(self) -> bytes:
        repeating = self.fault is not None and self.fault.kind is FaultKind.REPEAT_GUARD
        place = min(self._sent, self.fault_at) if repeating else self._sent
        return _ENCODED[(self.offset + place) % len(ANSWER)]

    def _chunk(self, body: bytes) -> None:
        if body.startswith(b"event:") and body.count(EVENT_END) > 1:
            data = b"".join(chunk(event + EVENT_END) for event in body.split(EVENT_END)[:-1])  # named events: one each
        else:
            data = chunk(body)
        if not self._headed:  # as Ollama: nothing before the first token, then headers and token in one write
            self._headed = True
            data = response_head(200, self.answer_format.content_type, banner=self.banner, close=self.http.close) + data
        self.connection.write(data)

    def _body(self, status: int, content_type: str, body: bytes) -> None:
        start = response_head(status, content_type, banner=self.banner, length=len(body), close=self.http.close)
        self._finish(start + body)

    def _finish(self, last: bytes) -> None:
        self.connection.write(last)
        self._ended()
        self.connection.finish(close=self.http.close)

    def _ended(self) -> None:
        if self.end_ns is None:
            self.end_ns = time.perf_counter_ns()
            self.over(self)

    # -- faults -----------------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault, emission: Emission) -> bool:
        """Inject the fault if its time has come; True when the emission is not to be written."""
        if self._sent < self.fault_at + (EQUAL_PIECES if fault.kind is FaultKind.REPEAT_GUARD else 0):
            return False
        self.outcome = fault.kind.value
        if fault.kind is FaultKind.STALL:
            self._held = [emission]
            asyncio.get_running_loop().call_later(fault.stall_s, self._release)
        elif fault.kind is FaultKind.ERROR_LINE and not self.request.stream:
            self.refuse(500, DIED_SENTENCE, fault.kind.value)
        elif fault.kind in (FaultKind.RESET, FaultKind.TRUNCATE) or not self.request.stream:
            self._ended()
            self.connection.abort(reset=fault.kind is FaultKind.RESET)
        else:
            if fault.kind is FaultKind.ERROR_LINE and (line := self.answer_format.broken()):
                self._chunk(line)
            self._finish(LAST_CHUNK)
        return True

    def _release(self) -> None:
        held, self._held, self.fault = self._held or [], None, None
        for emission in held:
            if self.end_ns is None:
                self._write(emission)


def fault_place(limit: int, natural: int | None, rng: random.Random) -> int:
    """Draw after how many tokens a fault strikes: within the first half of the answer, at least one."""
    length = min(limit, natural or limit, 200)
    return rng.randint(1, max(length // 2, 1))


class TruthLog:
    """Appends one JSON line a request. Instants on both clocks: `monotonic_ns` (perf_counter) and `wall_ns`.

    first_token and last_token are taken just after the write to the kernel; arrived is the kernel's stamp of the request's
    last bytes, where `stamped`; slot_won, prefill_start and slot_freed are the engine's. late_*_us says how late the
    server wrote this request's tokens: where it is large, the server was the bottleneck.
    """

    def __init__(self, path: Path) -> None:
        with os_error_as(ScenarioError, f"cannot write the truth log {path}"):
            self._file: IO[bytes] = path.open("wb", buffering=0)

    def write(self, facts: dict[str, Any], instants: dict[str, int | None]) -> None:
        """Append one request: `facts` as they are, monotonic `instants` on both clocks."""
        offset = time.time_ns() - time.perf_counter_ns()
        known = {name: instant for name, instant in instants.items() if instant is not None}
        wall = {name: instant + offset for name, instant in known.items()}
        self._file.write(orjson.dumps({**facts, "monotonic_ns": known, "wall_ns": wall}) + b"\n")

    def close(self) -> None:
        self._file.close()
