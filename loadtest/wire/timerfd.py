"""A timer of the Linux kernel with a descriptor that a loop can wait for; the loop's own timers count whole milliseconds."""

from __future__ import annotations

import os
import struct
import sys
from typing import Any, Self

from loadtest.metrics import NS_PER_S

_ITIMERSPEC = struct.Struct("@qqqq")  # interval and first instant, each as seconds and ns
_MONOTONIC, _ABSOLUTE = 1, 1  # CLOCK_MONOTONIC, which `now` reads; TFD_TIMER_ABSTIME


class Timerfd:
    """timerfd(2) by way of libc; Python itself has it from 3.13 on."""

    def __init__(self, libc: Any, fd: int) -> None:
        self._libc = libc
        self.fd = fd

    @classmethod
    def open(cls) -> Self | None:
        """Return a timer, None where the system has none."""
        if sys.platform != "linux":
            return None
        import ctypes  # a few ms that not every run needs to spend

        try:
            libc = ctypes.CDLL(None, use_errno=True)
            fd = int(libc.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
        except (OSError, AttributeError):
            return None
        return cls(libc, fd) if fd >= 0 else None

    def set(self, due: int) -> None:
        """Make the descriptor readable once, at `due` (monotonic ns)."""
        self._arm(_ABSOLUTE, (0, 0, *divmod(due, NS_PER_S)))

    def every(self, ns: int) -> None:
        """Make the descriptor readable every `ns` from now on; 0 stops it."""
        self._arm(0, divmod(ns, NS_PER_S) * 2)

    def clear(self) -> None:
        """Read what made the descriptor readable."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close the descriptor, for which no loop may wait any more."""
        os.close(self.fd)

    def _arm(self, flags: int, times: tuple[int, ...]) -> None:
        if self._libc.timerfd_settime(self.fd, flags, _ITIMERSPEC.pack(*times), None) != 0:
            raise OSError("the kernel refuses to set a timer that it has given")
