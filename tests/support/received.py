"""Recorded reads, handed to Received as a wire would hand them on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from loadtest.dialects.answers.answer_reader import AnswerReader
from loadtest.dialects.base import EndMarks
from loadtest.wire import Received


class Reader(AnswerReader):
    """Says of an answer what a test says; `is_content` is asked until it returns True for the first content."""

    def __init__(
        self,
        is_content: Callable[[bytes], bool] | None = None,
        ends: EndMarks | None = None,
        is_empty: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        self.ends, self.began, self.listens = ends or EndMarks(), is_content is None, is_content is not None
        self._is_content, self._is_empty = is_content, is_empty
        self._pieces = None

    def take(self, body: bytes) -> None:
        assert self._is_content is not None
        self.began = self._is_content(body)
        self.listens = not self.began

    def is_empty(self, line: bytes) -> bool:
        return self._is_empty(line)

    def end_in(self, tail: bytes) -> None:
        return None


def feed(received: Received, reads: Sequence[tuple[int, bytes]], t_eof: int | None = None) -> list[tuple[int, bytes]]:
    """Feed (ns, bytes), up to this answer's end, and return the reads of the next answer.

    A read that holds the end of this answer and the beginning of the next is cut in two. At `t_eof` the connection ends.
    """
    for i, (t, data) in enumerate(reads):
        if _expired(received, t):
            return list(reads[i:])
        received.add(data, [], t)
        if received.ended:
            parser = received._parser
            if not parser.excess:
                return list(reads[i + 1 :])
            parser.excess = False
            return [(t, data[-parser.extra :]), *reads[i + 1 :]]
    if t_eof is not None and not _expired(received, t_eof):
        received.eof(t_eof)
    return []


def fed(
    reads: Sequence[tuple[int, bytes]], t_eof: int | None = None, *, t_send: int = 0, **how: Any
) -> tuple[Received, list[tuple[int, bytes]]]:
    """Return what Received makes of these reads, and the reads left over."""
    received = Received(Reader(**how))
    received.t_send = t_send
    return received, feed(received, reads, t_eof)


def _expired(received: Received, t: int) -> bool:
    """Whether the answer was over, without an end of its framing, before `t`."""
    while not received.ended and received.until is not None and t >= received.until:
        received.expire(received.until)
    return received.ended
