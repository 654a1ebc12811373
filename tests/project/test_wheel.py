"""What is installed is what is here: the wheel holds every file of the package, and runs from where it lands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import loadtest

PACKAGE = Path(loadtest.__file__).parent


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--quiet", "--disable-pip-version-check", "--no-deps"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    place = tmp_path_factory.mktemp("wheel")
    built = pip("wheel", "--wheel-dir", place, PACKAGE.parent)
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("NO BUILD BACKEND: the wheel is not tested here; pip cannot get hatchling.")
    assert built.returncode == 0, built.stderr
    (found,) = place.glob("*.whl")
    return found


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    here = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    here = {name for name in here if "__pycache__" not in name}
    assert {"loadtest/demo.toml", "loadtest/py.typed", "loadtest/users/results/static/live.html"} <= here
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == here


def test_no_text_installs_the_other_project_of_our_name() -> None:
    """`loadtest` on PyPI is somebody else's; what is installed by name is `llm-loadtest`."""
    root = PACKAGE.parent
    texts = [*root.glob("*.md"), *(root / "docs").glob("*.md"), *root.rglob("loadtest/**/*.py")]
    texts += [path for name in ("scripts", "scenarios") for path in (root / name).rglob("*") if path.suffix != ".pyc"]
    wrong = re.compile(r"(pipx? install|uv (tool|pip) install|uv add|uvx)( -\S+)* [\"']?loadtest\b|[^-]loadtest\[\w+\]")
    assert wrong.search("pip install -U loadtest")
    assert wrong.search("`loadtest[parquet]`")
    for path in filter(Path.is_file, texts):
        found = wrong.search(path.read_text(encoding="utf-8", errors="replace"))
        assert found is None, f"{path}: {found}"


def test_it_runs_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    assert pip("install", "--target", tmp_path / "site", wheel).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    assert "demo" in run("-m", "loadtest", "--help")
    assert run("-c", "import loadtest; print(loadtest.__file__)").startswith(str(tmp_path / "site"))
    found = "from importlib.resources import files; print(files('loadtest') / 'demo.toml')"
    assert Path(run("-c", found).strip()).is_file()
    assert "a100-80g-llama3.1-70b-q4" in run("-m", "loadtest", "serve", "--help")
