"""What a program loads: nothing heavy before there is use for it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy() -> None:
    code = "from loadtest.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert not loaded_by(code) & {"pandas", "matplotlib", "gevent", "httpx", "numpy", "tiktoken"}


@pytest.mark.parametrize(
    "code", ["import loadtest", "from loadtest import run, read_run, Scenario, Record, Outcome, Run"]
)
def test_the_library_loads_nothing_heavy_before_it_is_used(code: str) -> None:
    loaded = loaded_by(code)
    assert not loaded & {"pandas", "matplotlib", "gevent", "locust", "httpx", "numpy", "tiktoken", "uvloop"}
    assert code != "import loadtest" or [name for name in loaded if name.startswith("loadtest")] == ["loadtest"]


def test_measuring_loads_neither_pandas_nor_matplotlib_nor_gevent() -> None:
    assert not loaded_by("import loadtest.asyncio_driver.run") & {"pandas", "matplotlib", "gevent", "locust"}
