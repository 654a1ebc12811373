"""stdout and stderr that cannot fail: a closed pipe or terminal, or a full disk, ends no work."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO, cast

GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ECONNRESET)  # nobody reads the output any more, so nothing is lost


class _Outlet(io.FileIO):
    """A descriptor that drops everything from its first failed write on; `lost` gets the error, unless the reader went away."""

    def __init__(self, fd: int, lost: list[OSError]) -> None:
        super().__init__(fd, "wb", closefd=False)
        self._lost = lost
        self._over = False

    def write(self, data: bytes, /) -> int:  # type: ignore[override] # any buffer
        if self._over:
            return len(data)
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])  # another program left the terminal non-blocking
        except OSError as error:
            self._over = True
            if error.errno not in GONE:
                self._lost.append(error)
            return len(data)
        return written


def _open_descriptors() -> None:
    """Open descriptors 0 to 2 where they are closed: else a file or socket would get one, and with it what is printed."""
    with contextlib.suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)


def _lasting_stream(stream: TextIO | None, fd: int, lost: list[OSError]) -> TextIO:
    """Return a stream that writes where `stream` does, replaces what its encoding lacks, and never fails."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # `stream` is closed, or has no descriptor
        fd = stream.fileno() if stream is not None else fd
        encoding = getattr(stream, "encoding", None) or "utf-8"
        buffer = io.BufferedWriter(cast("io.RawIOBase", _Outlet(fd, lost)))
        # errors="replace": a terminal whose encoding lacks "·" is no reason to lose a report.
        return io.TextIOWrapper(buffer, encoding=encoding, errors="replace", line_buffering=fd == 2 or buffer.isatty())
    return stream or io.StringIO()


@contextlib.contextmanager
def lasting_output() -> Iterator[list[OSError]]:
    """Make prints succeed inside the context, whatever happens to stdout and stderr; yields why output to stdout was lost."""
    _open_descriptors()
    before = sys.stdout, sys.stderr
    for stream in before:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    lost: list[OSError] = []
    now = _lasting_stream(before[0], 1, lost), _lasting_stream(before[1], 2, [])
    sys.stdout, sys.stderr = now
    try:
        yield lost
    finally:
        for stream in now:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before
