"""A monitor's life: which sources are meant, the process of its own that samples them, and how it ends with its run.

A thread beside the driver would share the interpreter lock with it and make its stamps late; hence a child process, which
also serves the run's figures to Prometheus. It holds the reading end of a pipe whose writing end is the run's alone: when the run ends, however it does, the pipe closes.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtest import credentials
from loadtest.errors import RunFolderError, ScenarioError
from loadtest.monitor.sampler import Source, watch_all
from loadtest.urls import origin, userinfo_apart, without_secrets

SOURCE_KINDS = ("host", "nvidia", "ollama", "dcgm", "vllm", "llamacpp", "prometheus")
WITH_URL = ("ollama", "dcgm", "vllm", "llamacpp", "prometheus")
OF_THE_SERVER = ("ollama", "vllm", "llamacpp")  # beside a run these mean the measured server where no URL is given
END_S = 5.0  # for a monitor to end once told so; a source may be inside its 2 s limit
NICENESS = 10  # a sample may come late, a stamp of the driver's may not

START_S = 10.0  # for a monitor to come up before the run begins without it; it takes about 0.3 s
READY = "sampling"

_ENDPOINT = re.compile(r"(?P<url>https?://([^/@]*@)?(\[[^\]]*\]|[^/:]+)(:\d+)?(/[^:]*)?)(:(?P<metrics>.+))?")


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source as the user wrote it: `kind`, and where it needs them a URL and metric names."""

    kind: str
    url: str | None = None
    metrics: tuple[str, ...] = ()

    def __str__(self) -> str:
        metrics = ":" + ",".join(self.metrics) if self.metrics else ""
        return f"{self.kind}={self.url}{metrics}" if self.url else self.kind


def parse_sources(texts: Sequence[str], *, server: str | None = None) -> list[SourceSpec]:
    """Read sources like "host", "nvidia", "ollama=URL", "prometheus=URL:metric,metric", several in one text or in many.

    `server` is the URL that ollama, vllm and llamacpp stand for where they name none. Raises ScenarioError.
    """
    between = re.compile(rf",(?=(?:{'|'.join(SOURCE_KINDS)})(?:=|,|$))")  # metric names have commas between them too
    asked = [_parse_source(text.strip(), server) for group in texts for text in between.split(group) if text.strip()]
    if not asked:
        raise ScenarioError(f"name at least one source to monitor: {', '.join(SOURCE_KINDS)}.")
    return list(dict.fromkeys(asked))


def _parse_source(text: str, server: str | None) -> SourceSpec:
    kind, given, rest = text.partition("=")
    if kind not in SOURCE_KINDS:
        raise ScenarioError(f"{kind!r} is no source to monitor; there are {', '.join(SOURCE_KINDS)}.")
    if kind not in WITH_URL:
        if given:
            raise ScenarioError(f"{kind} samples this machine and takes no address; write just {kind}.")
        return SourceSpec(kind)
    if not given and kind in OF_THE_SERVER and server:
        rest = server.rstrip("/").removesuffix("/v1") + ("/metrics" if kind != "ollama" else "")
    found = _ENDPOINT.fullmatch(rest)
    if not found:
        raise ScenarioError(
            f"{kind} needs an address: {kind}=http://HOST:PORT{'/metrics' if kind != 'ollama' else ''}."
        )
    metrics = tuple(name.strip() for name in (found["metrics"] or "").split(",") if name.strip())
    if metrics and kind == "ollama":
        raise ScenarioError(f"ollama has no metrics to name; write ollama={without_secrets(found['url'])}.")
    url, userinfo = userinfo_apart(found["url"])
    if userinfo:
        credentials.keep_userinfo(
            url, userinfo
        )  # for this process and the one that samples, whose arguments anybody can read
    if kind != "ollama" and urlsplit(url).path in ("", "/"):
        url = url.rstrip("/") + "/metrics"
    return SourceSpec(kind, url, metrics)


def make_source(
    asked: SourceSpec, *, client: int | None = None, server: str | None = None, ca_file: str | None = None
) -> Source:
    """Return the source; its library is imported only now. `client` and `server` tell host whose CPU to keep apart.

    A page of the same origin as `server` is asked with the measured server's credentials, no other is.
    """
    if asked.kind == "host":
        from loadtest.monitor.host import Host

        return Host(client=client, server=server)
    if asked.kind == "nvidia":
        from loadtest.monitor.nvidia import Nvidia

        return Nvidia()
    assert asked.url is not None
    authorization = credentials.basic_auth(asked.url)
    if server is not None and origin(asked.url) == origin(server):
        authorization = credentials.headers(asked.url, "ollama" if asked.kind == "ollama" else "openai")
    if asked.kind == "ollama":
        from loadtest.monitor.ollama import Ollama

        return Ollama(asked.url, authorization, ca_file)
    from loadtest.monitor.prometheus import Prometheus

    return Prometheus(asked.kind, asked.url, asked.metrics, authorization, ca_file)


def run_monitor(
    sources: Sequence[Source],
    folder: Path,
    *,
    every: float,
    seconds: float | None,
    say: Callable[[str], None],
    with_parent: bool,
    metrics: socket.socket | None = None,
) -> None:
    """Sample until `seconds` have passed, a signal comes, or (`with_parent`) stdin closes.

    At `metrics`, where something listens, the figures of the run in `folder` are served meanwhile.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot write to {folder}: {error.strerror}; choose another --out.") from None
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: stop.set())
    if with_parent:
        os.nice(NICENESS)  # before the threads: on Linux each has its own, taken over from the one that starts it
    threads = watch_all(sources, folder, every=every, stop=stop, say=say)
    if metrics is not None:
        _serve_metrics(metrics, folder)
    if with_parent:
        threading.Thread(target=_until_alone, args=(stop,), daemon=True).start()
        print(READY, flush=True)
    stop.wait(seconds)
    stop.set()
    deadline = time.monotonic() + END_S
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))


def _serve_metrics(listener: socket.socket, folder: Path) -> None:
    """Answer Prometheus from now until this process ends."""
    from loadtest.monitor.endpoint import Endpoint
    from loadtest.monitor.export import families
    from loadtest.monitor.tail import Tail

    tail = Tail(folder)
    Endpoint(listener, lambda: families(tail.seen()))


def _until_alone(stop: threading.Event) -> None:
    """Set `stop` when the parent is gone: its end of the pipe has closed, or another process has adopted us.

    A child that the parent forked meanwhile may hold the pipe open, hence the second sign.
    """
    parent, pipe = os.getppid(), sys.stdin.fileno()
    while not stop.is_set():
        readable, _, _ = select.select([pipe], [], [], 0.5)
        if (readable and not os.read(pipe, 1024)) or os.getppid() != parent:
            stop.set()


@contextlib.contextmanager
def child_monitor(
    folder: Path,
    asked: Sequence[SourceSpec],
    *,
    every: float,
    server: str | None = None,
    ca_file: str | None = None,
    metrics: socket.socket | None = None,
) -> Iterator[int]:
    """Sample into `folder` while inside, from a child process that ends with this one; gives its pid.

    `metrics` is the socket at which the child serves the run's figures; only the child has it afterwards.
    """
    command = [sys.executable, "-m", "loadtest", "monitor", "--out", str(folder), "--every", str(every), "--with-run"]
    command += [part for source in asked for part in ("--source", str(source))]
    command += ["--client", str(os.getpid())]
    if server:
        command += ["--server", server]
    if ca_file:
        command += ["--ca-file", ca_file]
    inherited = [metrics.fileno()] if metrics is not None else []
    command += [part for number in inherited for part in ("--metrics-fd", str(number))]
    # A session of its own: Ctrl-C at the terminal is for the run, which ends its monitor when it has ended itself.
    own: dict[str, Any] = {"start_new_session": True} if sys.platform != "win32" else {}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=inherited, **own)
    if metrics is not None:
        metrics.close()  # else it would seem to listen after the child has ended
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        select.select([child.stdout], [], [], START_S)  # its start-up is over before the run's clock starts
        yield child.pid
    finally:
        child.stdin.close()
        child.stdout.close()
        try:
            child.wait(END_S + 1)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
