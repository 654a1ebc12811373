"""The monitor: the sources that the user names, and the child process that samples them until its run ends.

A thread beside the driver would share the interpreter lock with it and make its stamps late. Hence the child process, which
also serves the run's figures to Prometheus. The child holds the reading end of a pipe whose writing end only the run has:
when the run ends, in whatever way, the pipe closes.
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
from urllib.parse import urlsplit

from loadtest import credentials, reach
from loadtest.errors import RunFolderError, ScenarioError, os_error_as
from loadtest.monitor.sampler import PLAIN, SampledSource, watch_all
from loadtest.scenario import ConnectionKeys, keys_of
from loadtest.urls import endpoint_url, origin, parse_url, userinfo_apart, without_secrets

SOURCE_KINDS = ("host", "nvidia", "rapl", "ollama", "dcgm", "vllm", "llamacpp", "prometheus")
WITH_URL = ("ollama", "dcgm", "vllm", "llamacpp", "prometheus")
OF_THE_SERVER = ("ollama", "vllm", "llamacpp")  # beside a run, without a URL, these stand for the measured server
END_S = 5.0  # for a monitor to end once it is told to; a source may take its 2 s limit
NICENESS = 10  # samples may be late, the driver's stamps may not

START_S = 10.0  # for a monitor to start, after which the run begins without it; starting takes about 0.3 s, and 0.3 s more to read pages
READY = "sampling"
METRICS_ADDRESS = "127.0.0.1"

_ENDPOINT = re.compile(
    r"(?P<url>unix:/[^:]*(?::/[^:]*)?|https?://([^/@]*@)?(\[[^\]]*\]|[^/:]+)(:\d+)?(/[^:]*)?)(:(?P<metrics>.+))?"
)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A source as the user wrote it: its kind, and where needed a URL and metric names."""

    kind: str
    url: str | None = None
    metrics: tuple[str, ...] = ()

    def __str__(self) -> str:
        metrics = ":" + ",".join(self.metrics) if self.metrics else ""
        return f"{self.kind}={self.url}{metrics}" if self.url else self.kind


def parse_sources(texts: Sequence[str], *, servers: Sequence[str] = ()) -> list[SourceSpec]:
    """Read sources like "host", "nvidia", "ollama=URL", "prometheus=URL:metric,metric", one or several in each text.

    Where ollama, vllm and llamacpp come without a URL they stand for each of `servers`. Raises ScenarioError.
    """
    between = re.compile(rf",\s*(?=(?:{'|'.join(SOURCE_KINDS)})(?:=|,|$))")  # commas separate metric names, too
    asked = [
        _parse_source(text.strip(" ,"), server)
        for group in texts
        for text in between.split(group)
        if text.strip(" ,")
        for server in servers or (None,)
    ]
    if not asked:
        raise ScenarioError(f"name at least one source to monitor: {', '.join(SOURCE_KINDS)}.")
    return list(dict.fromkeys(asked))


def _parse_source(text: str, server: str | None) -> SourceSpec:
    kind, given, rest = text.partition("=")
    unknown = next((part for part in map(str.strip, kind.split(",")) if part not in SOURCE_KINDS), None)
    if unknown is not None:
        raise ScenarioError(f"{unknown!r} is not a source to monitor; the sources are {', '.join(SOURCE_KINDS)}.")
    if kind not in WITH_URL:
        if given:
            raise ScenarioError(f"{kind} samples this machine and takes no address; write {kind} alone.")
        return SourceSpec(kind)
    if not given and kind in OF_THE_SERVER and server:
        base = parse_url(server).base
        rest = base if kind == "ollama" else endpoint_url(base, "/metrics")
    found = _ENDPOINT.fullmatch(rest)
    if not found or origin(found["url"]) is None:
        raise ScenarioError(
            f"{kind} needs an address: {kind}=http://HOST:PORT{'/metrics' if kind != 'ollama' else ''}."
        )
    metrics = tuple(name.strip() for name in (found["metrics"] or "").split(",") if name.strip())
    if metrics and kind == "ollama":
        raise ScenarioError(f"ollama has no metrics to name; write ollama={without_secrets(found['url'])}.")
    url, userinfo = userinfo_apart(found["url"])
    if userinfo:
        credentials.keep_userinfo(url, userinfo)  # for this process and its child: anybody can read arguments
    if kind != "ollama" and urlsplit(url).scheme != "unix" and urlsplit(url).path in ("", "/"):
        url = url.rstrip("/") + "/metrics"
    return SourceSpec(kind, url, metrics)


def make_source(
    asked: SourceSpec, *, client: int | None = None, servers: Sequence[str] = (), keys: ConnectionKeys = PLAIN
) -> SampledSource:
    """Return the source; its library is imported only now. `client` and `servers` tell `host` whose CPU use to report apart.

    Only a page of the same origin as one of `servers` is sent a measured server's credentials.
    """
    if asked.kind == "host":
        from loadtest.monitor.host import Host

        return Host(client=client, servers=servers)
    if asked.kind == "nvidia":
        from loadtest.monitor.nvidia import Nvidia

        return Nvidia()
    if asked.kind == "rapl":
        from loadtest.monitor.rapl import Rapl

        return Rapl()
    assert asked.url is not None
    authorization = credentials.basic_auth(asked.url)
    if origin(asked.url) in map(origin, servers):
        api = "ollama" if asked.kind == "ollama" else "openai"
        authorization = credentials.headers(asked.url, api, key_env=keys.key_env)
    from loadtest.monitor.scraped_page import ScrapedPage

    if asked.kind == "ollama":
        from loadtest.monitor.ollama import Ollama

        return Ollama(ScrapedPage(endpoint_url(asked.url.rstrip("/"), "/api/ps"), authorization, keys))
    from loadtest.monitor.prometheus import Prometheus

    return Prometheus(asked.kind, ScrapedPage(asked.url, authorization, keys), asked.metrics)


def run_monitor(
    sources: Sequence[SampledSource],
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
    with os_error_as(RunFolderError, f"cannot write to {folder}", "; choose another --out"):
        folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: stop.set())
    if with_parent:
        # before the threads start: on Linux each has a niceness of its own, copied from the thread that starts it
        os.nice(NICENESS)
    threads = watch_all(sources, folder, every=every, stop=stop, say=say)
    if metrics is not None:
        from loadtest.monitor.endpoint import serve_metrics
        from loadtest.monitor.export import families
        from loadtest.monitor.tail import Tail

        tail = Tail(folder)
        serve_metrics(metrics, lambda: families(tail.seen()))
    if with_parent:
        threading.Thread(target=_until_alone, args=(stop,), daemon=True).start()
        print(READY, flush=True)
    stop.wait(seconds)
    stop.set()
    deadline = time.monotonic() + END_S
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))


def _way_arguments(keys: ConnectionKeys) -> list[str]:
    """Return the options by which the child reaches the server as the run does; none of them holds a secret."""
    keys = keys.by_proxy(reach.proxy_named(keys))
    given = [(key.flag, getattr(keys, key.name)) for key in keys_of(ConnectionKeys)]
    return [part for flag, value in given if value for part in ((flag,) if value is True else (flag, str(value)))]


def _until_alone(stop: threading.Event) -> None:
    """Set `stop` when the parent is gone: its end of the pipe has closed, or this process has another parent.

    The second sign is needed because another child of the parent may hold the pipe open.
    """
    parent, pipe = os.getppid(), sys.stdin.fileno()
    while not stop.is_set():
        if (_readable(pipe, 0.5) and not os.read(pipe, 1024)) or os.getppid() != parent:
            stop.set()


def _readable(pipe: int, limit_s: float) -> bool:
    """Wait until something can be read, or the other end has closed; select() takes no descriptor above 1023."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))


@contextlib.contextmanager
def child_monitor(
    folder: Path,
    asked: Sequence[SourceSpec],
    *,
    every: float,
    servers: Sequence[str] = (),
    keys: ConnectionKeys = PLAIN,
    metrics: socket.socket | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Iterator[int]:
    """Sample into `folder` from a child process, while inside and no longer than this process lives; give its pid.

    `say` is told at the end where a signal had killed the child before. `metrics` is the socket at which the child serves
    the run's figures; it is closed in this process.
    """
    command = [sys.executable, "-m", "loadtest", "monitor", "--out", str(folder), "--with-run"]
    command += ["--every", str(every)] * bool(asked)
    command += [part for source in asked for part in ("--source", str(source))]
    command += ["--client", str(os.getpid())]
    command += [part for server in servers for part in ("--server", server)]
    command += _way_arguments(keys)
    inherited = [metrics.fileno()] if metrics is not None else []
    command += [part for number in inherited for part in ("--metrics-fd", str(number))]
    # In a session of its own the child does not get the terminal's Ctrl-C: the run ends first, then its monitor.
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=inherited, start_new_session=True
    )
    if metrics is not None:
        metrics.close()  # it would seem to listen after the child's end otherwise
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        _readable(child.stdout.fileno(), START_S)  # so that its start-up is over before the run's clock starts
        yield child.pid
    finally:
        if (code := child.poll()) is not None and code < 0:
            say(f"it was killed ({signal.Signals(-code).name}) before the run ended; nothing was sampled from then on.")
        child.stdin.close()
        child.stdout.close()
        try:
            child.wait(END_S + 1)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
