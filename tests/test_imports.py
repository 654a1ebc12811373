"""The one direction of imports, and what may never be loaded by whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import loadtest

PACKAGE = Path(loadtest.__file__).parent

# each room may import those named; errors, text, urls, credentials, scenario, records, metrics, slo and streams are the ground
GROUND = {
    "loadtest.errors",
    "loadtest.text",
    "loadtest.urls",
    "loadtest.credentials",
    "loadtest.scenario",
    "loadtest.records",
    "loadtest.metrics",
    "loadtest.slo",
    "loadtest.streams",
}
ROOMS = {
    "measure": GROUND | {"loadtest.measure"},
    "monitor": GROUND | {"loadtest.monitor"},
    "analyse": GROUND | {"loadtest.analyse", "loadtest.simulate"},
    "simulate": {"loadtest.errors", "loadtest.simulate"},
}
FORBIDDEN = {
    "measure": {"pandas", "matplotlib", "locust", "gevent"},
    "monitor": {"pandas", "matplotlib", "locust", "gevent"},
    "analyse": {"httpx", "asyncio", "locust"},
    "simulate": {"httpx", "pandas", "matplotlib", "locust"},
}
DOWNWARD = {  # inside measure/ and analyse/: a module imports only those left of it
    "measure": [
        "tokens",
        "trace",
        "schedule",
        "workload",
        "dialects",
        "wire",
        "failure",
        "exchange",
        "backlog",
        "ledger",
        "release",
        "tally",
        "limits",
        "interruption",
        "driver",
        "control",
        "probe",
        "lengths",
        "capacity",
        "target",
        "search",
        "calibrate",
        "worker",
        "workers",
        "session",
    ],
    "monitor": [
        "sampler",
        "pages",
        "counters",
        "host",
        "nvidia",
        "ollama",
        "prometheus",
        "endpoint",
        "export",
        "tail",
        "process",
    ],
    "analyse": [
        "facts",
        "damage",
        "ragged",
        "reading",
        "frames",
        "stretches",
        "offered",
        "groups",
        "intervals",
        "stats",
        "rates",
        "series",
        "slots",
        "waits",
        "gaps",
        "prefill",
        "steps",
        "protocol",
        "predict",
        "fitted",
        "goodput",
        "objectives",
        "capacity",
        "gguf",
        "shapes",
        "weights",
        "estimate",
        "memory",
        "estimate_report",
        "advise",
        "forecast",
        "knee",
        "samples",
        "lengths",
        "load",
        "measured",
        "headroom",
        "evidence",
        "endings",
        "verdict",
        "summary",
        "machine",
        "findings",
        "differences",
        "comparable",
        "compare",
        "compare_report",
        "charts",
        "published",
        "pages",
        "advice",
        "report",
    ],
}


def imported(path: Path) -> set[str]:
    """Return every module that a file names, at its top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported(path):
            assert name.partition(".")[0] not in FORBIDDEN[room], f"{path} imports {name}"
            if name.startswith("loadtest.") and name != "loadtest.__version__":
                assert any(name == allowed or name.startswith(allowed + ".") for allowed in ROOMS[room]), (
                    f"{path}: {name}"
                )


@pytest.mark.parametrize("room", DOWNWARD)
def test_inside_a_room_imports_run_downward(room: str) -> None:
    order = DOWNWARD[room]
    for path in (PACKAGE / room).rglob("*.py"):
        own = path.relative_to(PACKAGE / room).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in order, f"{path}: say in DOWNWARD where this module stands"
        for name in imported(path):
            if name.startswith(f"loadtest.{room}."):
                other = name.split(".")[2]
                assert order.index(other) <= order.index(own), f"{path} imports upward: {name}"


def loaded_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    code = "from loadtest.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not loaded_by(code) & {"pandas", "matplotlib", "gevent", "httpx", "numpy", "tiktoken"}


def test_measuring_loads_neither_pandas_nor_matplotlib_nor_gevent() -> None:
    assert not loaded_by("import loadtest.measure.session") & {"pandas", "matplotlib", "gevent", "locust"}


def test_public_names_are_sorted_and_exist() -> None:
    assert list(loadtest.__all__) == sorted(loadtest.__all__)
    assert all(hasattr(loadtest, name) for name in loadtest.__all__)
