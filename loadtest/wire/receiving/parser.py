"""HTTP/1.1 answers without I/O: bytes of one read in, the body bytes of that read out.

Untidy answers are accepted as curl and httpx accept them: bare line feeds, folded headers, blanks around names and sizes, odd
reasons and versions, repeated equal lengths, and a length beside chunks, which then win.
"""

from __future__ import annotations

import re

HEAD_LIMIT = 256 << 10  # bytes of headers, including those of interim answers and trailers
LINE_LIMIT = 16 << 10  # bytes of the line that says how long a chunk is
BODY_LIMIT = 256 << 20

_SIZES = {b"%x" % size: size for size in range(1, 1024)}  # of chunks as tokens come in
_FRAMING = (b"transfer-encoding", b"content-length", b"content-encoding", b"connection", b"proxy-connection")
_HEAD_END = re.compile(rb"\n\r?\n")
IN_HTTP2 = "it is HTTP/2, and the server may speak nothing else"
IN_TLS = "it is TLS: the port speaks https"
_TLS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake
_HTTP2 = re.compile(rb"\0\0[\0-\xff][\4\7]\0\0\0\0\0")  # the frames that such a server begins or ends with
_STATUS = re.compile(rb"HTTP/(\d)(?:\.(\d))?[ \t]+(\d{3})(?:[ \t]|$)", re.IGNORECASE)
_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?\r?", re.DOTALL)
_LENGTH = re.compile(rb"\+?(\d{1,18})")


# What the next byte of an answer belongs to. Plain numbers, for looking up an Enum's member takes ten times as long.
_IN_HEAD = 0
_IN_LENGTH = 1  # a body of known length
_TO_CLOSE = 2  # a body that the connection's end ends
_AT_SIZE = 3  # the line before a chunk
_IN_CHUNK = 4
_AT_CHUNK_END = 5  # the line end behind a chunk
_IN_TRAILER = 6
_OVER = 7


class AnswerParser:
    """Parses one answer. Malformed bytes put a sentence into `error`; no method raises.

    Framing only: status, headers, de-chunked body, and whether the message is whole. Interim (1xx) answers are dropped.
    Each answer has a parser of its own.
    """

    __slots__ = (
        "_at",
        "_head_size",
        "_held",
        "_left",
        "_received",
        "chunked",
        "error",
        "excess",
        "excessive",
        "extra",
        "headers",
        "headers_done",
        "keep_alive",
        "length",
        "over",
        "packed",
        "reason",
        "status",
        "trailers",
    )

    def __init__(self) -> None:
        self.status: int | None = None
        self.reason = b""  # the words behind the status
        self.headers: list[tuple[bytes, bytes]] = []
        # headers behind the body: gRPC's gateways say there what went wrong
        self.trailers: tuple[tuple[bytes, bytes], ...] = ()
        self.headers_done = False
        self.over = False  # nothing more is parsed: complete, or an error
        # what the server allows; a connection is kept only if the answer is also complete and not `excess`
        self.keep_alive = False
        self.excess = False  # bytes came after the end: the connection cannot be used again
        self.chunked = False
        self.length: int | None = None  # Content-Length, where it counts
        self.packed: str | None = None  # how the body is compressed, by Content-Encoding or Transfer-Encoding
        self.error: str | None = None
        self.excessive = False  # the error is one of size
        self._at = _IN_HEAD
        self._held = bytearray()  # the part that came so far of the headers, or of a line between chunks
        self._left = 0  # bytes of the chunk, or of the body by its length, that are still to come
        self._received = self._head_size = 0
        self.extra = 0  # bytes of the read that ended the answer that lie behind its end

    @property
    def complete(self) -> bool:
        """Whether the whole answer came."""
        return self.over and self.error is None

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes in `data`, HTTP framing removed; bytes after the answer's end only set `excess`."""
        if self._at == _AT_SIZE and not self._held:  # most reads are one chunk, whole
            line, _, rest = data.partition(b"\r\n")
            size = _SIZES.get(line, -1)
            if size == len(rest) - 2 and rest[-2:] == b"\r\n":
                self._received += size
                return rest[:-2]
        return self._feed(data)

    def eof(self) -> None:
        """Take the connection's end, which completes an answer that has neither a length nor chunks."""
        if self._at == _TO_CLOSE and self.error is None:
            self._end()

    def _feed(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        if self._at == _IN_HEAD:
            data = self._head(data)
        if self._at in (_IN_LENGTH, _TO_CLOSE):
            parts.append(self._plain(data))
        elif self._at == _OVER or self.error is not None:
            self._after(data)
        elif self._at != _IN_HEAD:
            self._chunks(data, parts)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._received += len(body)
        if self._received > BODY_LIMIT:
            self._exceed(f"the answer's body is longer than {BODY_LIMIT >> 20} MiB")
        return body

    def _fail(self, why: str) -> None:
        self.error = f"the answer is not valid HTTP/1.1: {why}"
        self.over, self._at = True, _OVER

    def _exceed(self, why: str) -> None:
        if self.error is None and not self.complete:
            self.error, self.excessive = why, True
            self.over, self._at = True, _OVER

    def _end(self) -> None:
        self.over, self._at = True, _OVER

    def _after(self, data: bytes) -> None:
        """Take bytes behind the end; line ends there are untidy and do no harm."""
        self.extra = len(data)
        self.excess = self.excess or bool(data.strip(b"\r\n"))

    def _plain(self, data: bytes) -> bytes:
        """Return the body bytes in `data` where there are no chunks."""
        if self._at == _TO_CLOSE:
            return data
        body = data[: self._left]
        self._left -= len(body)
        if not self._left:
            self._end()
            self._after(data[len(body) :])
        return body

    def _chunks(self, data: bytes, parts: list[bytes]) -> None:
        """Take chunks, which may be cut anywhere, and add their body bytes to `parts`."""
        if self._held:
            data = bytes(self._held) + data
            self._held.clear()
        i, end = 0, len(data)
        while i < end and not self.over:
            if self._at == _IN_CHUNK:
                part = data[i : i + self._left]
                parts.append(part)
                i += len(part)
                self._left -= len(part)
                if not self._left:
                    self._at = _AT_CHUNK_END
                continue
            if at_size := self._at == _AT_SIZE:
                i = _whole_chunks(data, i, parts)
            cut = data.find(b"\n", i)
            if cut < 0:
                self._hold(data[i:])
                return
            line, i = data[i:cut], cut + 1
            if at_size:
                self._size(line)
            elif self._at == _IN_TRAILER:
                self._trailer(line)
            elif line in (b"", b"\r"):
                self._at = _AT_SIZE
            else:
                self._fail("a chunk is longer than it says")
        if self.over and self.error is None:
            self._after(data[i:])

    def _hold(self, part: bytes) -> None:
        """Keep the beginning of a line between chunks."""
        if self._at == _AT_CHUNK_END and part != b"\r":
            self._fail("a chunk is longer than it says")
        elif len(part) > (HEAD_LIMIT if self._at == _IN_TRAILER else LINE_LIMIT):
            self._exceed("the answer holds a line between its chunks that does not end")
        else:
            self._held += part

    def _size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            self._fail(f"{_quote_line(line)} is no length of a chunk")
            return
        self._left = int(found[1], 16)
        self._at = _IN_CHUNK if self._left else _IN_TRAILER

    def _trailer(self, line: bytes) -> None:
        self._head_size += len(line) + 1
        if line in (b"", b"\r"):
            self._end()
        elif self._head_size > HEAD_LIMIT:
            self._exceed(f"the answer's headers are longer than {HEAD_LIMIT >> 10} KiB")
        elif isinstance(said := _headers_of([line]), list):
            self.trailers += tuple(said)

    def _head(self, data: bytes) -> bytes:
        """Take bytes of the headers and return what lies behind them."""
        held = self._held
        while self._at == _IN_HEAD and (data or held):
            seen = max(len(held) - 2, 0)
            held += data
            data = b""
            if held[0] in b"\r\n":  # left over from the answer before
                blanks = len(held) - len(held.lstrip(b"\r\n"))
                self._head_size += blanks
                del held[:blanks]
                seen = 0
            if not b"HTTP/".startswith(bytes(held[:5]).upper()):
                in_words = IN_HTTP2 if _HTTP2.match(held) else IN_TLS if held.startswith(_TLS) else None
                self._fail(in_words or f"it begins with {_quote_line(bytes(held[:40]))}")
                return b""
            found = _HEAD_END.search(held, seen)
            if self._head_size + (len(held) if found is None else found.end()) > HEAD_LIMIT:
                self._exceed(f"the answer's headers are longer than {HEAD_LIMIT >> 10} KiB")
                return b""
            if found is None:
                return b""
            head, data = bytes(held[: found.start()]), bytes(held[found.end() :])
            held.clear()
            self._head_size += found.end()
            self._headers(head)
        return data

    def _headers(self, head: bytes) -> None:
        """Take the complete headers; those of an interim answer are dropped."""
        first, *lines = head.split(b"\n")
        found = _STATUS.match(first.rstrip(b"\r"))
        if found is None:
            self._fail(f"{_quote_line(first)} is no status")
            return
        status = int(found[3])
        if status == 101:
            self._fail("the server switched protocols unasked (status 101)")
            return
        if 100 <= status < 200:
            return
        self.reason = first[found.end() :].strip()
        headers = _headers_of(lines)
        if isinstance(headers, str) or b"\0" in head:
            self._fail(headers if isinstance(headers, str) else "a header holds a zero byte")
            return
        version = (int(found[1]), int(found[2] or 0))
        self._frame(status, version, headers)

    def _frame(self, status: int, version: tuple[int, int], headers: list[tuple[bytes, bytes]]) -> None:
        """Take what the headers say of the body."""
        said = _framing_values(headers)
        codings = [coding.partition(b";")[0].strip(b' \t"') for coding in said[b"transfer-encoding"]]
        codings = [coding for coding in codings if coding not in (b"", b"identity", b"none")]
        packing = [coding for coding in said[b"content-encoding"] if coding not in (b"", b"identity", b"none")]
        self.chunked = codings[-1:] == [b"chunked"]
        packing += [coding for coding in codings if coding != b"chunked"]
        self.packed = b", ".join(packing).decode("latin-1") or None
        without = status in (204, 304)
        if not self.chunked and not codings and not without:
            length = _body_length(said[b"content-length"])
            if isinstance(length, str):
                self._fail(length)
                return
            self.length = length
        self.status, self.headers, self.headers_done = status, headers, True
        self._left = self.length or 0
        if without or self.length == 0:
            self._end()
        else:
            self._at = _AT_SIZE if self.chunked else _TO_CLOSE if self.length is None else _IN_LENGTH
        wishes = said[b"connection"] + said[b"proxy-connection"]
        wished = b"close" not in wishes and (version == (1, 1) or b"keep-alive" in wishes)
        self.keep_alive = wished and self._at != _TO_CLOSE


def _whole_chunks(data: bytes, i: int, parts: list[bytes]) -> int:
    """Add the bodies of whole short chunks from `i` on to `parts`; return where the first other chunk begins."""
    while True:
        size, newline, _ = data[i : i + 6].partition(b"\r\n")
        begin = i + len(size) + 2
        end = begin + _SIZES.get(size, 0)
        if end == begin or not newline or data[end : end + 2] != b"\r\n":
            return i
        parts.append(data[begin:end])
        i = end + 2


def _headers_of(lines: list[bytes]) -> list[tuple[bytes, bytes]] | str:
    """Return names and values, or what is wrong with them."""
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t"):  # it continues the line before
            if not headers:
                return "its first header begins with a blank"
            name, value = headers[-1]
            headers[-1] = name, (value + b" " + line.strip(b" \t\r")).strip()
            continue
        name, colon, value = line.partition(b":")
        if not colon:
            return f"{_quote_line(line)} is no header"
        headers.append((name.strip(b" \t"), value.strip(b" \t\r")))
    return headers


def _framing_values(headers: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    """Return the values of each header that decides about framing, in small letters, from however many headers they come."""
    found: dict[bytes, list[bytes]] = {name: [] for name in _FRAMING}
    for name, value in headers:
        if (name := name.lower()) in found:
            found[name] += [part.strip(b" \t") for part in value.lower().split(b",")]
    return found


def _body_length(said: list[bytes]) -> int | str | None:
    """Return the body's length, None where no header gives one, or what is wrong with it."""
    lengths: set[int] = set()
    for value in said:
        found = _LENGTH.fullmatch(value)
        if found is None:
            return f"{_quote_line(value)} is no length"
        lengths.add(int(found[1]))
    if len(lengths) > 1:
        return "it says two lengths"
    return lengths.pop() if lengths else None


def _quote_line(data: bytes) -> str:
    """Quote the beginning of the first line, short and printable."""
    return ascii(data[:40].lstrip(b"\r\n").split(b"\n")[0].rstrip(b"\r").decode("latin-1"))
