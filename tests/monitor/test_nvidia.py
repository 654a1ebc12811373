"""NVIDIA's sampler against a libnvidia-ml compiled here, so that the real binding is crossed at its C boundary."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.places import TESTS

SOURCE = TESTS / "support/nvml_stub.c"
GIB = 2**30


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a libnvidia-ml.so.1 that answers as nvml.h documents."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("NO C COMPILER: sampling NVIDIA GPUs is not tested here; install gcc.")
    folder = tmp_path_factory.mktemp("nvml")
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)]
    subprocess.run(command, check=True)
    return folder


PROGRAM = """
import json, sys
from pathlib import Path
from loadtest.monitor.nvidia import Nvidia
from loadtest.monitor.sampler import Watch, writer_for
said = []
watch = Watch(Nvidia(), writer_for(Path(sys.argv[1]), "nvidia", 1.0), 1.0, said.append)
holds = [watch.beat() for _ in range(int(sys.argv[2]))]
print(json.dumps([said, holds]))
"""


def sampled(library: Path | None, folder: Path, state: str, beats: int) -> tuple[list[str], list[dict[str, Any]]]:
    """Sample `beats` times in a process of its own; return what was said and the lines after the header."""
    environment = {**os.environ, "NVML_STUB": state}
    if library is not None:
        environment["LD_LIBRARY_PATH"] = str(library)
    command = [sys.executable, "-c", PROGRAM, str(folder), str(beats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in (folder / "samples-nvidia.jsonl").read_text().splitlines()]
    assert lines[0]["source"] == "nvidia"
    said, _ = json.loads(done.stdout)
    return said, [{key: value for key, value in line.items() if key != "t"} for line in lines[1:]]


def test_every_gpu_is_sampled_in_bytes_shares_and_watts(library: Path, tmp_path: Path) -> None:
    said, lines = sampled(library, tmp_path, "", 2)
    assert said == []
    named = {"name": "NVIDIA Stub 80GB", "memory_total": 80 * GIB, "power_limit": 350.0}
    assert lines[0]["facts"] == {"driver": "570.133.20", "gpus": [{"gpu": 0, **named}, {"gpu": 1, **named}]}
    rest = {
        "memory_utilisation": 0.55,
        "power": 305.5,
        "temperature": 66,
        "clock_sm": 1410,
        "clock_memory": 1593,
    }
    first = {"gpu": 0, "memory_used": 40 * GIB, "utilisation": 0.97, "energy": 5000.0, **rest}
    second = {"gpu": 1, "memory_used": 41 * GIB, "utilisation": 0.96, "energy": 5001.5, **rest}
    assert lines[1:] == [{"gpus": [first, second]}] * 2


def test_what_a_gpu_does_not_tell_is_left_out(library: Path, tmp_path: Path) -> None:
    said, lines = sampled(library, tmp_path, "old", 1)
    assert said == []
    first = lines[1]["gpus"][0]
    assert first["memory_used"] == 41 * GIB  # by the first form of the call, which counts what the driver keeps
    assert "utilisation" not in first
    assert first["power"] == 305.5
    assert "energy" not in first
    assert "power_limit" not in lines[0]["facts"]["gpus"][0]


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("no-driver", "NVIDIA: the NVIDIA driver is not loaded."),
        ("no-permission", "NVIDIA: this user may not read the GPU; try as another user or with the device passed in."),
        ("no-gpu", "NVIDIA: the driver runs, but finds no GPU."),
    ],
)
def test_a_failure_is_one_sentence_and_one_gap(library: Path, tmp_path: Path, state: str, why: str) -> None:
    said, lines = sampled(library, tmp_path, state, 3)
    assert said == [why]
    assert lines == [{"gap": why}]


def test_a_gpu_lost_in_mid_run_leaves_a_gap_and_comes_back(library: Path, tmp_path: Path) -> None:
    said, lines = sampled(library, tmp_path, "lost", 3)
    why = "NVIDIA: a GPU has fallen off the bus."
    assert said == [why]
    assert [next(iter(line)) for line in lines] == ["facts", "gpus", "gap", "facts", "gpus"]
    assert lines[2] == {"gap": why}
    assert lines[4] == lines[1]


def test_without_the_library_it_says_so(tmp_path: Path) -> None:
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    said, _ = sampled(None, tmp_path, "", 2)
    assert said == ["NVIDIA: the driver's library libnvidia-ml is not on this machine."]
