"""HTTP/1.1 answers without I/O: bytes of one read in, the body bytes of that read out."""

from __future__ import annotations

import httptools


class AnswerParser:
    """Parses one answer; malformed bytes end up in `error` as a sentence and are never raised.

    Framing only: status, headers, de-chunked body, and whether the message is whole. Interim (1xx) answers are skipped
    and trailers dropped. One parser an answer; `head` tells it that the request was a HEAD.
    """

    __slots__ = (
        "_parser",
        "_received",
        "_segments",
        "chunked",
        "complete",
        "error",
        "excess",
        "head",
        "headers",
        "headers_done",
        "keep_alive",
        "length",
        "packed",
        "status",
    )

    def __init__(self, *, head: bool = False) -> None:
        self.head = head
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.headers_done = False
        self.complete = False
        self.keep_alive = False  # what the server allows; the shell also asks for complete and not excess
        self.excess = False  # bytes came after the end: the connection cannot be used again
        self.chunked = False
        self.length: int | None = None  # Content-Length
        self.packed: str | None = None  # Content-Encoding, where it changes anything
        self.error: str | None = None
        self._received = 0
        self._segments: list[bytes] = []
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes in `data`, HTTP framing removed; bytes after the answer's end only set `excess`."""
        if self._parser is None:
            self.excess = self.excess or bool(data)
            return b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.error = "the server switched protocols unasked (status 101)"
        except httptools.HttpParserError as error:
            if self.complete:
                self.excess = True  # bytes after the end of a `Connection: close` answer
            else:
                self.error = f"the answer is not valid HTTP/1.1: {error}"
        if self.complete or self.error:
            self.stop()
        segments = self._segments
        if not segments:
            return b""
        body = segments[0] if len(segments) == 1 else b"".join(segments)
        segments.clear()
        return body

    @property
    def left(self) -> int | None:
        """Body bytes still to come by Content-Length; None where the answer has none."""
        return None if self.length is None else self.length - self._received

    def eof(self) -> None:
        """Take the connection's end, which is what completes an answer with neither length nor chunks."""
        if self.headers_done and not self.chunked and self.length is None and self.error is None:
            self.complete = True  # httptools has no call for EOF
        self.stop()

    def stop(self) -> None:
        """Take note that no more will be fed, and let go of the parser: it holds our bound methods, which is a reference cycle."""
        self._parser = None

    # Callbacks of httptools, by its names.

    def on_message_begin(self) -> None:
        if self.complete:
            self.excess = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headers_done:
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.complete or self._parser is None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            self.headers.clear()  # interim: the answer proper follows in the same stream
            return
        self.status = status
        self.headers_done = True
        self.keep_alive = self._parser.should_keep_alive()
        for name, value in self.headers:
            match name.lower():
                case b"content-length":
                    self.length = int(value)  # httptools has refused anything but digits
                case b"transfer-encoding":
                    self.chunked = value.lower().rstrip().endswith(b"chunked")
                case b"content-encoding" if value != b"identity":
                    self.packed = value.decode("latin-1")
        if self.head:
            self.complete = True
            self.keep_alive = self.keep_alive or not _says_close(self.headers)

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._received += len(data)
            self._segments.append(data)

    def on_message_complete(self) -> None:
        if self.headers_done:
            self.complete = True


def _says_close(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"connection" and b"close" in value.lower() for name, value in headers)


def end_of_answer(before: bytes, data: bytes) -> int:
    """Return how many bytes of `data` belong to the answer begun in `before` (slow: meant for recorded streams)."""
    parser = AnswerParser()
    parser.feed(before)
    for i in range(len(data)):
        parser.feed(data[i : i + 1])
        if parser.complete:
            return i + 1
    return len(data)
