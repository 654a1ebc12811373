"""What several tests share: real servers, started once, and the command line called in-process."""

from __future__ import annotations

import gc
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import llamacpp
from support.exporter import Exporter
from support.gateways import free_port
from support.places import PIXEL, ROOT, TESTS
from support.plans import MADE_UP, SHORT, Run

from loadtest.cli import main
from loadtest.cli.demo import simulated_server

os.environ["LOADTEST_NO_REPORT"] = "1"  # charts take seconds; tests of them ask for --report
os.environ["LOADTEST_CALIBRATION"] = os.devnull  # for fixtures of a module too, which the one below comes after

# Where tests only compute, but for those files that name one of SERVERS.
COMPUTING = ("analyse/", "dialects/", "memory/", "project/test_imports.py", "scenario/", "workloads/")
SERVERS = re.compile(
    r"\b(simulated_url|llamacpp_url|simulated_server|odd_server|plans|exporter|subprocess|locust_runs)\b"
)
# Where tests measure, or wait for what another part does in time: one worker has them, and the cores before all others.
# The rest may start processes and servers, too; how long each takes changes nothing of what they find.
MEASURING = ("drivers/", "measure/", "monitor/", "simulate/", "targets/test_slot_probe.py", "users/", "wire/")
UNTIMED = tuple(
    f"users/test_{name}.py"
    for name in ("figures", "gates", "input_locust", "locust_mistakes", "locust_options", "locust_tasks", "web")
)
NICE = 10  # of workers that do not measure


@cache
def _computes(path: Path) -> bool:
    """Tell whether the tests of a file only compute: what else runs on the machine cannot change what they find."""
    name = path.relative_to(TESTS).as_posix()
    return name.startswith(COMPUTING) and not SERVERS.search(path.read_text(encoding="utf-8"))


@cache
def _measures(path: Path) -> bool:
    name = path.relative_to(TESTS).as_posix()
    return name.startswith(MEASURING) and not name.startswith(UNTIMED)


def _turn(path: Path) -> int:
    """Return when the tests of a file have their turn, where several workers share them.

    Beside those that measure there is only computing, which disturbs them the least. Of the rest, which both workers share in
    the end, those come first whose files take a minute, so that neither waits for the other's last one.
    """
    if _measures(path):
        return 0
    if _computes(path):
        return 1
    return 2 if path.relative_to(TESTS).as_posix().startswith(("project/", "users/")) else 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _computes(item.path):
            item.add_marker("computes")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _turn(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give one worker all tests that measure, one after the other; the others get the rest, a file at a time."""
    from xdist.scheduler import LoadScopeScheduling

    class OneMeasures(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "measures" if _measures(ROOT / file) else file

    config.option.loadscopereorder = False  # by _turn, not by how many tests a file has
    return OneMeasures(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the others have what the worker that measures leaves of the cores.

    They get no test that measures afterwards: those are given away first, and all to one. With two workers, as in scripts/test;
    more of them are through with what computes before the measuring one is, and then start servers beside it.
    """
    if "PYTEST_XDIST_WORKER" in os.environ and not _measures(item.path) and os.nice(0) < NICE:
        os.nice(NICE)


@pytest.fixture(scope="module", autouse=True)
def _short_collections() -> None:
    """Spare full garbage collections, which a run makes before each level, the walk through all that pytest holds."""
    if not gc.get_freeze_count():  # at first, and after a test of Locust's users, whose recorder ends it
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _no_server_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests on their own servers, whatever the shell says."""
    for name in ("OLLAMA_HOST", "OPENAI_BASE_URL", "OPENAI_API_KEY", "OLLAMA_API_KEY", "LOADTEST_BASIC_AUTH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOADTEST_CALIBRATION", os.devnull)
    monkeypatch.setenv("LOADTEST_STAMPS", "kernel")  # calibrate leaves it as it was asked for


@pytest.fixture
def locust_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give Locust's masters of a test a port of their own: without a word of it each takes 5557, and then only one can run."""
    port = str(free_port())
    for name in ("LOCUST_MASTER_BIND_PORT", "LOCUST_MASTER_NODE_PORT"):
        monkeypatch.setenv(name, port)


@pytest.fixture
def short_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate as little as predictions ever do, for tests that do not ask how near a report's come."""
    monkeypatch.setattr("loadtest.analyse.whatif.model.predict.TOKENS_SIMULATED", 600)


@pytest.fixture
def short_reports(short_predictions: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare reports the painting too, for tests that look at no picture: a chart is laid out, and its file is one pixel."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write(PIXEL))


@pytest.fixture
def bare_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare reports charts and predictions, for tests of figures, pages and exit codes that hold neither."""
    monkeypatch.setattr("loadtest.analyse.charts.draw_all", lambda *_: [])
    monkeypatch.setattr("loadtest.analyse.summary.Analysis.curve", None)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-made certificate for localhost, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_bytes((folder / "cert.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return folder / "both.pem"


@pytest.fixture(scope="session")
def simulated_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A simulated Ollama with four slots, fast, in a process of its own."""
    with simulated_server("--slots", "4", "--speed", "20") as url:
        yield url


@pytest.fixture(scope="session")
def llamacpp_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights that llama.cpp's server can serve."""
    model = tmp_path_factory.mktemp("model") / "tiny.gguf"
    llamacpp.write_model(model)
    return model


@pytest.fixture(scope="session")
def llamacpp_url(llamacpp_model: Path) -> Iterator[str]:
    """llama.cpp's own server with four slots, in a process of its own."""
    with llamacpp.serving(llamacpp_model, slots=4) as url:
        yield url


@pytest.fixture
def loadtest(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line: call it with its arguments, get (exit code, stdout, stderr)."""

    def call(*args: str | os.PathLike[str]) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([os.fspath(arg) for arg in args])
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture
def run(loadtest: Callable[..., tuple[int, str, str]], simulated_url: str, tmp_path: Path) -> Run:
    """A short run with options against the simulated server; gives the folder."""

    def call(*options: str, url: str = simulated_url) -> Path:
        out = tmp_path / "run"
        texts = {"--prompt", "--prompt-file", "--data"} & {*options}
        code, _, err = loadtest("run", "--url", url, *(SHORT if texts else MADE_UP), *options, "--out", out)
        assert code in (0, 3), err  # 3: a busy test machine may void what it could not measure
        assert "died" not in err
        return out

    return call


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    """A server of one page, which can be told to misbehave."""
    server = Exporter()
    try:
        yield server
    finally:
        server.close()
