"""What the kernel counts of cores, memory, networks and processes: from /proc on Linux, by psutil elsewhere.

psutil opens and splits the same files anew for each question: asked ten times a second that is three times the CPU.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Protocol

import psutil

_MEMORY = re.compile(rb"^(MemTotal|MemAvailable|Buffers|Cached|SReclaimable|SwapTotal|SwapFree): +(\d+)", re.MULTILINE)
_ENOUGH = 1 << 16  # bytes: all of a file here, or of /proc/stat the cores, which come first, of 700 at least
_MOST_CORES_BYTES = 100  # of a core's line in /proc/stat
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # of the numbers in a core's line; guests, behind them, are in user time already


class Counters(Protocol):
    """A machine's counters, as they stand when asked."""

    def cores(self) -> list[tuple[float, float]]:
        """Return (busy, busy and idle) of each core since the machine started, in a unit of its own."""

    def memory(self) -> dict[str, int]:
        """Return memory_used, page_cache and swap_used, bytes."""

    def networks(self) -> dict[str, tuple[int, int]]:
        """Return (sent, received) bytes by interface."""

    def close(self) -> None:
        """Let go of everything."""


class Process(Protocol):
    """One process."""

    def use(self) -> tuple[float, int] | None:
        """Return (CPU seconds so far, resident bytes); None once it is gone."""

    def close(self) -> None:
        """Let go of it."""


def counters() -> Counters:
    """Return this machine's counters; raise OSError, psutil.Error or RuntimeError where it has none to read."""
    with contextlib.suppress(OSError, LookupError, ValueError):
        return Proc()
    return Portable()


def process(pid: int) -> Process:
    """Return a process to be asked again and again; raise OSError or psutil.Error where there is none."""
    return ProcProcess(pid) if Path("/proc/self/stat").exists() else PortableProcess(pid)


class _File:
    """A file of /proc, kept open: read from its start it is written anew by the kernel each time."""

    def __init__(self, path: str, size: int = _ENOUGH) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = size

    def read(self) -> bytes:
        return os.pread(self._descriptor, self._size, 0)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Proc:
    """Counters of Linux."""

    def __init__(self, root: str = "/proc") -> None:
        cores = max(_ENOUGH, _MOST_CORES_BYTES * (os.cpu_count() or 1))
        self._open: list[_File] = []
        try:
            for path, size in ((f"{root}/stat", cores), (f"{root}/meminfo", _ENOUGH), (f"{root}/net/dev", _ENOUGH)):
                self._open.append(_File(path, size))
            self._stat, self._meminfo, self._networks = self._open
            self.cores()[0], self.memory(), self.networks()  # a kernel that lacks one of them is asked through psutil
        except BaseException:
            self.close()
            raise

    def cores(self) -> list[tuple[float, float]]:
        found = []
        for line in self._stat.read().split(b"\n")[1:]:
            if not line.startswith(b"cpu"):
                break
            ticks = [int(part) for part in line.split()[1 : _STEAL + 2]]
            total = sum(ticks)
            found.append((float(total - ticks[_IDLE] - ticks[_IOWAIT]), float(total)))
        return found

    def memory(self) -> dict[str, int]:
        kib = {name: int(value) for name, value in _MEMORY.findall(self._meminfo.read())}
        return {
            "memory_used": 1024 * (kib[b"MemTotal"] - kib[b"MemAvailable"]),
            "page_cache": 1024 * (kib[b"Cached"] + kib[b"SReclaimable"] + kib[b"Buffers"]),
            "swap_used": 1024 * (kib[b"SwapTotal"] - kib[b"SwapFree"]),
        }

    def networks(self) -> dict[str, tuple[int, int]]:
        found = {}
        for line in self._networks.read().split(b"\n")[2:-1]:
            name, _, rest = line.partition(b":")
            fields = rest.split()
            found[name.strip().decode()] = int(fields[8]), int(fields[0])
        return found

    def close(self) -> None:
        for file in self._open:
            file.close()


class ProcProcess:
    """A process of Linux. Its file stays that process's own, whoever gets its number later."""

    _TICK = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
    _PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

    def __init__(self, pid: int) -> None:
        self._file = _File(f"/proc/{pid}/stat", 4096)

    def use(self) -> tuple[float, int] | None:
        try:
            fields = self._file.read().rpartition(b")")[2].split()  # a name may hold spaces and brackets
        except OSError:
            return None
        if fields[0] in (b"Z", b"X"):
            return None
        return (int(fields[11]) + int(fields[12])) * self._TICK, int(fields[21]) * self._PAGE

    def close(self) -> None:
        self._file.close()


class Portable:
    """Counters of any other system."""

    def __init__(self) -> None:
        self.cores(), self.memory()

    def cores(self) -> list[tuple[float, float]]:
        found = []
        for times in psutil.cpu_times(percpu=True):
            total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
            found.append((total - times.idle - getattr(times, "iowait", 0.0), total))
        return found

    def memory(self) -> dict[str, int]:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        return {
            "memory_used": memory.total - memory.available,
            "page_cache": int(getattr(memory, "cached", 0)) + int(getattr(memory, "buffers", 0)),
            "swap_used": swap.used,
        }

    def networks(self) -> dict[str, tuple[int, int]]:
        counted = psutil.net_io_counters(pernic=True)
        return {name: (counter.bytes_sent, counter.bytes_recv) for name, counter in counted.items()}

    def close(self) -> None:
        pass


class PortableProcess:
    """A process of any other system."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def use(self) -> tuple[float, int] | None:
        try:
            with self._process.oneshot():
                times = self._process.cpu_times()
                return times.user + times.system, self._process.memory_info().rss
        except psutil.Error:
            return None

    def close(self) -> None:
        pass
