"""What this machine does: its cores, memory, page cache and network, and the shares of client and server.

The kernel's counters come from psutil. To read /proc by hand would save 0.3 ms a sample (measured with one process), which is
0.3 % of a core at ten samples a second.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from loadtest.monitor.sampler import SourceError

TREE_S = 1.0  # how long a list of child processes is used before it is read again
SHORTEST_INTERVAL_S = 0.04  # the kernel counts CPU time in ticks of 10 ms, which say nothing of a shorter time
LOOK_AGAIN_S = 10.0  # between two searches for the server's process: each reads all of /proc


class ProcessTree:
    """The CPU and memory use of a process and its children: a child of Ollama's listening process does the work."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._members: dict[int, psutil.Process] = {}
        self._used: dict[int, float] = {}
        self._listed = -TREE_S
        self._at = time.perf_counter()

    def use(self) -> tuple[float, int] | None:
        """Return (cores used since the last call, resident bytes now); None once the process is gone."""
        now = time.perf_counter()
        if now - self._listed >= TREE_S:
            self._list(now)
        used: dict[int, float] = {}
        resident = 0
        for pid, member in self._members.items():
            if (seen := process_use(member)) is not None:
                used[pid] = seen[0]
                resident += seen[1]
        if self.pid not in used:
            return None
        seconds = sum(value - self._used.get(pid, value) for pid, value in used.items())
        elapsed, self._at, self._used = now - self._at, now, used
        return seconds / elapsed if elapsed > 0 else 0.0, resident

    def _list(self, now: float) -> None:
        self._listed = now
        # the monitor is a child of the run, and not part of it
        pids = {self.pid, *(set(_descendants(self.pid)) - {os.getpid()})}
        for pid in self._members.keys() - pids:
            del self._members[pid]
        for pid in pids - self._members.keys():
            with contextlib.suppress(psutil.Error):
                self._members[pid] = psutil.Process(pid)


def _descendants(pid: int) -> Iterable[int]:
    """Yield the processes below `pid`. Linux lists the children of each thread in a file; psutil would read all of /proc."""
    tasks = Path(f"/proc/{pid}/task")
    try:
        children = [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        with contextlib.suppress(psutil.Error):
            yield from (process.pid for process in psutil.Process(pid).children(recursive=True))
        return
    for child in children:
        yield child
        yield from _descendants(child)


def _processor() -> str | None:
    """Return the processor's name; None where the system says none, as Linux on some cores of ARM."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # macOS has no such file
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


class Host:
    """Samples this machine. `client` is the pid of the load generator, `servers` the URLs of what it measures."""

    name = "host"

    def __init__(self, *, client: int | None = None, servers: Sequence[str] = ()) -> None:
        self._pid = client
        self._client: ProcessTree | None = None
        self._urls = servers
        self._servers: dict[int, ProcessTree] = {}  # by pid, which may listen at several of the URLs
        self._looked = -LOOK_AGAIN_S
        self._at = 0.0

    def open(self) -> dict[str, Any]:
        try:
            psutil.cpu_percent(percpu=True)  # from when on the next call counts
            memory_total = psutil.virtual_memory().total
        except (psutil.Error, OSError, RuntimeError) as error:
            raise SourceError(f"this machine does not say how busy its cores are ({error}).") from None
        self._client = ProcessTree(self._pid) if self._pid else None
        missing = self._find_servers()
        for tree in (self._client, *self._servers.values()):
            if tree is not None:
                tree.use()  # what it used before belongs to no sample
        self._at = time.perf_counter()
        facts: dict[str, Any] = {
            "host": socket.gethostname(),
            "cores": psutil.cpu_count() or 1,
            "memory_total": memory_total,
        }
        if cpu := _processor():
            facts["cpu"] = cpu
        if missing:
            facts["server_process"] = (
                f"not seen: no process on this machine that this user may look at listens at {' or '.join(missing)}"
            )
        return facts

    def sample(self) -> dict[str, Any]:
        """Return shares of each core (0 to 1), bytes in use, and bytes counted since the machine started."""
        now = time.perf_counter()
        values: dict[str, Any] = {}
        try:
            if now - self._at >= SHORTEST_INTERVAL_S:
                self._at = now
                values["cores"] = [round(busy / 100, 3) for busy in psutil.cpu_percent(percpu=True)]
                values |= self._processes(now)
            memory, swap = psutil.virtual_memory(), psutil.swap_memory()
            networks = psutil.net_io_counters(pernic=True, nowrap=False)
        except (psutil.Error, OSError, LookupError, ValueError) as error:
            raise SourceError(f"this machine does not say what it does ({error}).") from None
        outside = [counted for name, counted in networks.items() if not name.startswith("lo")]
        return values | {
            "memory_used": memory.total - memory.available,
            "page_cache": int(getattr(memory, "cached", 0)) + int(getattr(memory, "buffers", 0)),
            "swap_used": swap.used,
            "net_sent": sum(counted.bytes_sent for counted in outside),
            "net_received": sum(counted.bytes_recv for counted in outside),
            "loopback": sum(counted.bytes_recv for name, counted in networks.items() if name.startswith("lo")),
        }

    def close(self) -> None:
        self._client, self._servers = None, {}

    def _processes(self, now: float) -> dict[str, Any]:
        if not self._servers and now - self._looked >= LOOK_AGAIN_S:
            self._find_servers()
        values: dict[str, Any] = {}
        if (used := self._client.use() if self._client is not None else None) is not None:
            values |= _used("client", [used])
        uses = {pid: tree.use() for pid, tree in self._servers.items()}
        if all(uses.values()) and uses:
            values |= _used("server", [use for use in uses.values() if use is not None])
        else:
            self._servers = {}  # one of them is gone: a sum without it would be another figure
        return values

    def _find_servers(self) -> list[str]:
        """Find the processes that listen at the servers' URLs; return the URLs at which none was seen."""
        self._looked = time.perf_counter()
        pids = {url: listening_pid(url) for url in self._urls}
        self._servers = {pid: ProcessTree(pid) for pid in pids.values() if pid is not None}
        return [url for url, pid in pids.items() if pid is None]


def _used(label: str, uses: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Return the cores and bytes that processes use together, under the names that samples have."""
    return {
        f"{label}_cpu": round(sum(cores for cores, _ in uses), 4),
        f"{label}_memory": sum(resident for _, resident in uses),
    }


def listening_pid(url: str) -> int | None:
    """Return the pid of the process on this machine that listens at `url`; None where there is none to be seen."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        there = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
        mine = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
        if not there & mine:
            return None
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port:
                return connection.pid  # None where the process belongs to another user
    except (OSError, psutil.Error):
        return None
    return None


def process_use(process: psutil.Process) -> tuple[float, int] | None:
    """Return a process's (CPU seconds so far, resident bytes); None once it has ended, whoever has its number now."""
    try:
        if not process.is_running():
            return None
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            times = process.cpu_times()
            return times.user + times.system, process.memory_info().rss
    except psutil.Error:
        return None
