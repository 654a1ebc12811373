"""What the kernel counts of cores, memory, networks and processes, as psutil reads it.

Reading /proc by hand instead would save 0.3 ms a sample (measured with one process): 0.3 % of a core at ten a second.
"""

from __future__ import annotations

import psutil


def cores() -> list[tuple[float, float]]:
    """Return (busy, busy and idle) seconds of each core since the machine started."""
    found = []
    for times in psutil.cpu_times(percpu=True):
        # User time includes that of guests already.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        found.append((total - times.idle - getattr(times, "iowait", 0.0), total))
    return found


def memory() -> dict[str, int]:
    """Return memory_used, page_cache and swap_used, bytes."""
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return {
        "memory_used": memory.total - memory.available,
        "page_cache": int(getattr(memory, "cached", 0)) + int(getattr(memory, "buffers", 0)),
        "swap_used": swap.used,
    }


def networks() -> dict[str, tuple[int, int]]:
    """Return (sent, received) bytes by interface."""
    counted = psutil.net_io_counters(pernic=True, nowrap=False)
    return {name: (counter.bytes_sent, counter.bytes_recv) for name, counter in counted.items()}


def use(process: psutil.Process) -> tuple[float, int] | None:
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
