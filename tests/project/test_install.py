"""Installed as people install it: wheel and sdist, with pip, pipx and uv, into environments that hold nothing else.

Needs the package index. `uv` and `pipx` are in the test extra; a Python that is not on this machine is skipped, and said.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

import loadtest

pytestmark = pytest.mark.slow

ROOT = Path(loadtest.__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-apple-darwin")
MOST_PACKAGES = 65
MOST_BYTES = 350e6
OF_THE_INSTALLER = ("pip", "setuptools", "wheel")
# What an environment holds, and its size on the disk of files as they are, bytecode too.
CENSUS = f"""
import importlib.metadata, json, pathlib, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
there = [found for found in importlib.metadata.distributions(path=[str(site)]) if found.name not in {OF_THE_INSTALLER}]
own = {{pathlib.Path(found.locate_file("")).resolve() / file.parts[0]
        for found in there for file in found.files if ".." not in file.parts}}
files = [file for path in own for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
print(json.dumps({{"names": sorted(found.name for found in there), "bytes": sum(file.stat().st_size for file in files)}}))
"""
# A server and a client, both as installed.
RUN = """
import subprocess, sys
from loadtest.cli.demo import simulated_server
with simulated_server("--speed", "20", "--warm") as url:
    asked = "--concurrency", "2", "--requests", "4", "--output-tokens", "5", "--out", "run", "--no-report"
    sys.exit(subprocess.call([sys.executable, "-m", "loadtest", "run", url, *asked]))
"""


def environment() -> dict[str, str]:
    """The environment without what would bring this checkout in."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LOADTEST_NO_REPORT")
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    return {**kept, "UV_PYTHON_DOWNLOADS": "never", "UV_LINK_MODE": "copy"}


def call(
    *command: str | Path, cwd: Path | None = None, fine: tuple[int, ...] = (0,), more: dict[str, str] | None = None
) -> str:
    """Run a command, return what it said; fail with all of it where the exit code is not one of `fine`."""
    own = {**environment(), **(more or {})}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=own, capture_output=True, text=True, check=False)
    assert done.returncode in fine, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"NO {name.upper()}: installing with it is not tested here; pip install {name}.")
    return found


def python_of(version: str) -> Path:
    """A Python of this version on the PATH or of pyenv."""
    on_path = shutil.which(f"python{version}")
    of_pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in [*([Path(on_path)] if on_path else []), *of_pyenv.glob(f"{version}.*/bin/python")]:
        said = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout.startswith(f"Python {version}."):
            return candidate
    pytest.skip(f"NO PYTHON {version}: installing for it is not tested here.")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this checkout, and the wheel that is built from the sdist."""
    place = tmp_path_factory.mktemp("dist")
    command = [tool("uv"), "build", "--quiet", "--out-dir", str(place), str(ROOT)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("NO BUILD BACKEND: installing is not tested here; uv cannot get hatchling.")
    assert done.returncode == 0, done.stderr
    (sdist,), (wheel,) = place.glob("*.tar.gz"), place.glob("*.whl")
    return sdist, wheel


def test_the_sdist_makes_the_wheel_and_both_have_the_name_that_is_free(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    version = loadtest.__version__
    assert (sdist.name, wheel.name) == (
        f"llm_loadtest-{version}.tar.gz",
        f"llm_loadtest-{version}-py3-none-any.whl",
    )
    package = {path.relative_to(ROOT).as_posix() for path in _package_files()}
    assert package == {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert package < held
    named = set(re.findall(r"\]\(([\w/.]+)|^(scripts/\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {link or script for link, script in named if (ROOT / (link or script)).is_file()} | {
        "scripts/setup",
        "tests/conftest.py",
    } < held


def _package_files() -> Iterator[Path]:
    for path in (ROOT / "loadtest").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def test_pip_installs_few_packages_of_bearable_size_and_the_demo_runs(built: tuple[Path, Path], tmp_path: Path) -> None:
    _, wheel = built
    call(sys.executable, "-m", "venv", tmp_path / "env")
    scripts = tmp_path / "env/bin"
    call(scripts / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel)
    census = orjson.loads(call(scripts / "python", "-c", CENSUS))
    assert {"llm-loadtest", "numpy", "locust"} <= set(census["names"])
    print(f"{len(census['names'])} packages, {census['bytes'] / 1e6:.0f} MB")
    assert len(census["names"]) <= MOST_PACKAGES, census["names"]
    assert census["bytes"] <= MOST_BYTES, census["bytes"]
    assert call(scripts / "loadtest", "--version") == f"loadtest {loadtest.__version__}\n"
    out = call(scripts / "loadtest", "demo", "--speed", "20", "--out", "demo", cwd=tmp_path)
    assert "imulated" in out
    made = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"report.html", "report.md", "summary.json", "timeline.png", "run.json"} <= made


@pytest.mark.parametrize("version", PYTHONS)
def test_uv_installs_the_sdist_for_this_python(built: tuple[Path, Path], tmp_path: Path, version: str) -> None:
    sdist, _ = built
    call(tool("uv"), "venv", "--quiet", "--python", python_of(version), tmp_path / "env")
    python = tmp_path / "env/bin/python"
    call(tool("uv"), "pip", "install", "--quiet", "--python", python, sdist)
    assert "demo" in call(tmp_path / "env/bin/loadtest", "--help")
    call(python, "-c", RUN, cwd=tmp_path, fine=(0, 3))  # 3: this machine is too busy to measure on
    assert (tmp_path / "run/run.json").is_file()


def test_uv_and_pipx_install_it_as_a_command(built: tuple[Path, Path], tmp_path: Path) -> None:
    _, wheel = built
    places = {
        "UV_TOOL_DIR": str(tmp_path / "uv"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "uv-bin"),
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(tmp_path / "pipx-bin"),
        "PIPX_MAN_DIR": str(tmp_path / "pipx-man"),
        "PATH": f"{Path(tool('uv')).parent}{os.pathsep}{os.environ['PATH']}",
    }
    call(tool("uv"), "tool", "install", "--quiet", "--python", sys.executable, wheel, more=places)
    call(tool("pipx"), "install", "--quiet", "--python", sys.executable, wheel, more=places)
    for bin_dir in ("uv-bin", "pipx-bin"):
        command = tmp_path / bin_dir / "loadtest"
        assert call(command, "--version") == f"loadtest {loadtest.__version__}\n"
        assert "a100-80g-llama3.1-70b-q4" in call(command, "serve", "--help")


@pytest.mark.parametrize("platform", [*PLATFORMS, "windows"])
@pytest.mark.parametrize("version", [PYTHONS[0], PYTHONS[-1]])
def test_every_dependency_comes_as_a_wheel(platform: str, version: str, tmp_path: Path) -> None:
    """Nobody needs a compiler; whether it runs there this test does not say."""
    asked = (ROOT / "pyproject.toml", "--python-platform", platform, "--python-version", version)
    pinned = call(
        tool("uv"), "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:", *asked
    )
    assert re.search(r"^numpy==", pinned, re.MULTILINE)
    assert len(pinned.splitlines()) < MOST_PACKAGES + 3  # Windows has three of its own
