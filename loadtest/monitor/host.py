"""What the machine itself does: cores, memory, page cache, network, and the client's use apart from the server's."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from loadtest.monitor import counters
from loadtest.monitor.sampler import SourceError

FAMILY_S = 1.0  # how long a list of child processes is believed
SHORTEST_S = 0.04  # the kernel counts CPU in ticks of 10 ms: of a shorter time it tells nothing
LOOK_AGAIN_S = 10.0  # how long after a search for the server's process the next one may run: it reads all of /proc


class Family:
    """A process and its children, by what they have used: Ollama's work is done by a child of the one that listens."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._members: dict[int, psutil.Process] = {}
        self._used: dict[int, float] = {}
        self._listed = -FAMILY_S
        self._at = time.perf_counter()

    def use(self) -> tuple[float, int] | None:
        """Return (cores used since the last call, resident bytes now); None once the process is gone."""
        now = time.perf_counter()
        if now - self._listed >= FAMILY_S:
            self._list(now)
        used: dict[int, float] = {}
        resident = 0
        for pid, member in self._members.items():
            if (seen := counters.use(member)) is not None:
                used[pid] = seen[0]
                resident += seen[1]
        if self.pid not in used:
            return None
        seconds = sum(value - self._used.get(pid, value) for pid, value in used.items())
        elapsed, self._at, self._used = now - self._at, now, used
        return seconds / elapsed if elapsed > 0 else 0.0, resident

    def _list(self, now: float) -> None:
        self._listed = now
        pids = {self.pid, *(set(_descendants(self.pid)) - {os.getpid()})}  # a monitor is no part of its run
        for pid in self._members.keys() - pids:
            del self._members[pid]
        for pid in pids - self._members.keys():
            with contextlib.suppress(psutil.Error):
                self._members[pid] = psutil.Process(pid)


def _descendants(pid: int) -> Iterable[int]:
    """Yield the processes below `pid`. Linux lists each thread's children in a file; psutil would read all of /proc."""
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


class Host:
    """Samples this machine. `client` is the pid of the load generator, `server` the URL of what it measures."""

    name = "host"

    def __init__(self, *, client: int | None = None, server: str | None = None) -> None:
        self._pid = client
        self._client: Family | None = None
        self._url = server
        self._server: Family | None = None
        self._looked = -LOOK_AGAIN_S
        self._cores: list[tuple[float, float]] = []
        self._at = 0.0

    def open(self) -> dict[str, Any]:
        try:
            self._cores = counters.cores()
            memory_total = psutil.virtual_memory().total
        except (psutil.Error, OSError, RuntimeError) as error:
            raise SourceError(f"this machine does not say how busy its cores are ({error}).") from None
        self._client = Family(self._pid) if self._pid else None
        self._find_server()
        for family in (self._client, self._server):
            if family is not None:
                family.use()  # what it had used before is not of this sample
        self._at = time.perf_counter()
        facts: dict[str, Any] = {
            "host": socket.gethostname(),
            "cores": psutil.cpu_count() or 1,
            "memory_total": memory_total,
        }
        if self._url and self._server is None:
            facts["server_process"] = f"not seen: no process of this machine that we may look at listens at {self._url}"
        return facts

    def sample(self) -> dict[str, Any]:
        """Return shares of a core (0 to 1 each), bytes, and bytes a counter has seen since the machine started."""
        now = time.perf_counter()
        values: dict[str, Any] = {}
        try:
            if now - self._at >= SHORTEST_S:
                self._at, before, self._cores = now, self._cores, counters.cores()
                values["cores"] = _shares(before, self._cores)
                values |= self._processes(now)
            values |= counters.memory()
            networks = counters.networks()
        except (psutil.Error, OSError, LookupError, ValueError) as error:
            raise SourceError(f"this machine does not say what it does ({error}).") from None
        outside = [counted for name, counted in networks.items() if not name.startswith("lo")]
        return values | {
            "net_sent": sum(sent for sent, _ in outside),
            "net_received": sum(received for _, received in outside),
            "loopback": sum(counted[1] for name, counted in networks.items() if name.startswith("lo")),
        }

    def close(self) -> None:
        self._client = self._server = None

    def _processes(self, now: float) -> dict[str, Any]:
        if self._server is None and now - self._looked >= LOOK_AGAIN_S:
            self._find_server()
        values: dict[str, Any] = {}
        for label, family in (("client", self._client), ("server", self._server)):
            used = family.use() if family is not None else None
            if used is not None:
                values[f"{label}_cpu"], values[f"{label}_memory"] = round(used[0], 4), used[1]
            elif label == "server":
                self._server = None
        return values

    def _find_server(self) -> None:
        if not self._url:
            return
        self._looked = time.perf_counter()
        pid = listener(self._url)
        self._server = Family(pid) if pid is not None else None


def _shares(before: list[tuple[float, float]], now: list[tuple[float, float]]) -> list[float]:
    """Return the busy share of each core, 0 to 1; a core that has come meanwhile counts from its start."""
    shares = []
    for number, (busy, total) in enumerate(now):
        was, were = before[number] if number < len(before) else (0.0, 0.0)
        shares.append(round(min(max((busy - was) / (total - were), 0.0), 1.0), 3) if total > were else 0.0)
    return shares


def listener(url: str) -> int | None:
    """Return the pid of the process of this machine that listens where `url` points; None where it cannot be seen."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        there = {str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
        mine = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
        if not there & mine:
            return None
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr[1] == port:
                return connection.pid  # None where it is another user's
    except (OSError, psutil.Error):
        return None
    return None
