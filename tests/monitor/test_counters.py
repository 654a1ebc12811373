"""What the kernel counts, on made-up files of /proc and on this machine, and processes that end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from loadtest.monitor import host
from loadtest.monitor.host import Host

linux = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")

STAT = """cpu  3000 30 900 70000 500 7 60 40 250 5
cpu0 1000 10 300 40000 300 4 20 30 250 5
cpu3 2000 20 600 30000 200 3 40 10 0 0
intr 12345 1 2 3
ctxt 999
btime 1700000000
"""
MEMINFO = """MemTotal:       16384000 kB
MemFree:         1024000 kB
MemAvailable:    9216000 kB
Buffers:          204800 kB
Cached:          6144000 kB
SwapCached:          512 kB
Active:          4096000 kB
Inactive:        3072000 kB
Shmem:            102400 kB
SReclaimable:     307200 kB
Slab:             409600 kB
SwapTotal:       2048000 kB
SwapFree:        1948000 kB
"""
NETWORKS = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1000 10 0 0 0 0 0 0 1000 10 0 0 0 0 0 0
eth0:123456789012 20 0 0 0 0 0 0 987654321 30 0 0 0 0 0 0
"""


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc of a machine with two cores on line, guests and two interfaces."""
    (tmp_path / "net").mkdir()
    (tmp_path / "stat").write_text(STAT)
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "net" / "dev").write_text(NETWORKS)
    (tmp_path / "vmstat").write_text("pswpin 0\npswpout 0\n")
    (tmp_path / "zoneinfo").write_text("")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    return tmp_path


@linux
def test_what_is_counted_is_what_the_kernel_says(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SHORTEST_INTERVAL_S", 0.0)
    source = Host()
    source.open()
    (proc / "stat").write_text(STAT.replace("cpu0 1000", "cpu0 1700").replace("40000", "40300"))
    seen = source.sample()
    assert seen["cores"] == [0.7, 0.0]
    assert seen["memory_used"] == (16_384_000 - 9_216_000) * 1024
    assert seen["page_cache"] == (204_800 + 6_144_000 + 307_200) * 1024
    assert (seen["net_sent"], seen["net_received"], seen["loopback"]) == (987_654_321, 123_456_789_012, 1000)


@pytest.mark.parametrize("reaped", [False, True])
def test_a_processs_use_is_read_until_it_is_gone(reaped: bool) -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(1, flush=True)\nimport sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        assert child.stdout is not None
        assert child.stdin is not None
        child.stdout.readline()
        seen = host.process_use(process)
        assert seen is not None
        times = psutil.Process(child.pid).cpu_times()
        assert 0.15 < seen[0] <= times.user + times.system
        assert seen[1] == pytest.approx(psutil.Process(child.pid).memory_info().rss, rel=0.2)
        child.stdin.close()
        if reaped:
            child.wait()
        else:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
        assert host.process_use(process) is None


def test_this_machine_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SHORTEST_INTERVAL_S", 0.0)
    source = Host(client=os.getpid())
    source.open()
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    seen = source.sample()
    assert max(seen["cores"]) > 0
    assert seen["client_cpu"] > 0
    assert {"memory_used", "page_cache", "swap_used", "net_sent", "net_received", "loopback"} < seen.keys()
    source.close()
    source.open()  # a monitor opens a source again after a failure
    assert source._client is not None
    assert source._client._members
    source.close()
