"""What of an answer is understood while it comes, for the wire; all else waits until the answer is over."""

from __future__ import annotations

from loadtest.dialects.answers.ends import row_of_line
from loadtest.dialects.base import Dialect, End


class AnswerReader:
    """Says of one answer, while it comes, whether its first content is there, whether it is over, and whether its user left."""

    __slots__ = ("_decoder", "_dialect", "_expected", "_held", "_lines", "_pieces", "began", "ends", "listens")

    def __init__(self, dialect: Dialect, pieces: int | None = None, expected: int = 0) -> None:
        """`pieces` of the answer are enough for its user (None: all are wanted), of so many `expected` tokens."""
        self.began = False  # the first content event came
        self.listens = True  # whether `take` wants further bytes
        self.ends = dialect.ends
        self._dialect, self._decoder = dialect, dialect.decoder()
        self._pieces, self._expected = pieces, expected
        self._held: list[bytes] = []  # bytes that are not decoded yet
        self._lines = 0  # how many they end

    def take(self, body: bytes) -> None:
        """Take body bytes as they come."""
        if self._pieces is not None and self.began:
            # decoding many lines at a time is cheaper; a line holds two pieces at most, a thought and a text
            self._held.append(body)
            self._lines += body.count(b"\n") + body.count(b"\r")
            if 2 * self._lines < self._pieces - len(self._decoder.events):
                return
            body = b"".join(self._held)
            self._held.clear()
            self._lines = 0
        self._decoder.feed(body)
        self.began = len(self._decoder.events) > 0
        self.listens = not self.began or self._pieces is not None

    def hung_up(self) -> str | None:
        """Say why the user has left in mid-answer; None while it reads on."""
        if self._pieces is None or len(self._decoder.events) < self._pieces:
            return None
        return f"the user hung up in mid-answer, after {self._pieces} of {self._expected} expected tokens (--leave)"

    def is_empty(self, line: bytes) -> bool:
        """Whether a line of the answer is one whole row without any text of the model's."""
        decoder = self._dialect.decoder()
        decoder.feed(line + b"\n")
        return row_of_line(line) is not None and not decoder.events

    def end_in(self, tail: bytes) -> End | None:
        """Return what the last lines of an answer say of its end; a reason with text behind it says nothing of it."""
        if not self.ends.needles:
            return None
        decoder = self._dialect.decoder()
        decoder.feed(tail)
        if decoder.failed:
            return End.FAILED
        ending = decoder.close()
        is_over = ending.done and not ending.went_on and not (ending.whole and ending.finish_reason is None)
        return End.FINISH if is_over else None
