"""TLS without I/O: the ciphertext of one read in, its plaintext out, so that each read keeps its stamp."""

from __future__ import annotations

import ssl


class Tls:
    """One client session on memory buffers; ssl.SSLError comes out of any method.

    With `outer`, the session with a proxy, this one goes inside it.
    """

    __slots__ = ("_incoming", "_object", "_outer", "_outgoing", "closed", "error", "ready")

    def __init__(self, context: ssl.SSLContext, host: str, outer: Tls | None = None) -> None:
        self._outer = outer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # certificates hold names without the dot that ends the root's
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host.removesuffix("."))
        self.ready = False  # the handshake is over
        self.closed = False  # the server has sent close_notify
        self.error: ssl.SSLError | None = None  # raised behind the plaintext that `receive` returned last
        self._shake()

    def receive(self, data: bytes) -> bytes:
        """Return the plaintext that `data` completes, if any; `outgoing` then has what is to be sent in reply."""
        if self._outer is not None:
            data = self._outer.receive(data)
            self.closed, self.error = self.closed or self._outer.closed, self.error or self._outer.error
        self._incoming.write(data)
        if not self.ready:
            self._shake()
            if not self.ready:
                return b""
        parts: list[bytes] = []
        while True:
            try:
                part = self._object.read(1 << 16)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                part = b""
            except ssl.SSLError as error:
                if not parts:
                    raise
                self.error = error
                break
            if not part:
                self.closed = True
                break
            parts.append(part)
        return b"".join(parts)

    def send(self, data: bytes) -> None:
        """Encrypt `data`; `outgoing` has the ciphertext."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._object.write(rest) :]

    def outgoing(self) -> bytes:
        """Return and forget the bytes to be sent."""
        if self._outer is None:
            return self._outgoing.read()
        self._outer.send(self._outgoing.read())
        return self._outer.outgoing()

    def _shake(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.ready = True
