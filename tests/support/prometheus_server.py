"""A page of metrics as a test reads it, and Debian's Prometheus: started with a config, asked over its API, ended by pid."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from loadtest.monitor.endpoint import PATH
from support.exporter import eventually

INSTALLED = shutil.which("prometheus") is not None and shutil.which("promtool") is not None
CONFIG = """
global:
  scrape_interval: {interval}
scrape_configs:
{jobs}
"""
JOB = """
  - job_name: {name}
    static_configs:
      - targets: ["{target}"]
"""

Samples = dict[tuple[str, str, str], float]  # by (name, label `name`, label `le` or `outcome`)


def samples(text: bytes) -> Samples:
    """Return the values of a page."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for one in family.samples:
            labels = one.labels
            found[one.name, labels.get("name", ""), labels.get("le", labels.get("outcome", ""))] = one.value
    return found


def get(url: str, path: str = PATH, method: str = "GET", *, patience: float = 30) -> tuple[int, bytes]:
    """Return status and body of what is asked of the server at a URL."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=patience)
    connection.request(method, path)
    answer = connection.getresponse()
    try:
        return answer.status, answer.read()
    finally:
        connection.close()


def config(interval: str = "250ms", **targets: str) -> str:
    """Return a prometheus.yml that scrapes each job=host:port."""
    jobs = "".join(JOB.format(name=name, target=target) for name, target in targets.items())
    return CONFIG.format(interval=interval, jobs=jobs)


def promtool(*arguments: str, page: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run promtool, with `page` on its standard input."""
    return subprocess.run(["promtool", *arguments], input=page, capture_output=True, check=False)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that is ready."""

    url: str

    def query(self, expr: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the result of an instant query at a wall time in seconds (now); a wrong one fails."""
        asked = {"query": expr} | ({"time": f"{at:.3f}"} if at is not None else {})
        answer = json.loads(get(self.url, f"/api/v1/query?{urlencode(asked)}")[1])
        assert answer["status"] == "success", (expr, answer)
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expr: str, at: float | None = None) -> float | None:
        """Return the one value of a query, None where there is no data."""
        found = self.query(expr, at)
        assert len(found) < 2, (expr, found)
        return float(found[0]["value"][1]) if found else None


@contextlib.contextmanager
def prometheus(place: Path, text: str) -> Iterator[Prometheus]:
    """Run a Prometheus with this config and its data in `place`, on loopback, while inside."""
    place.mkdir(parents=True, exist_ok=True)
    file = place / "prometheus.yml"
    file.write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as one:
        address = f"127.0.0.1:{one.getsockname()[1]}"
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={place / 'data'}"]
    command += [f"--web.listen-address={address}", "--log.level=warn"]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)

    def ready() -> bool:
        assert process.poll() is None, (place / "log").read_text()
        with contextlib.suppress(OSError):
            return get(f"http://{address}", "/-/ready")[0] == 200
        return False

    try:
        eventually(ready, every=0.05)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)
