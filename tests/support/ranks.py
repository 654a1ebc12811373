"""tiktoken's real vocabularies for tests, from a package on the index: tokenizer hosts need not be reachable.

The wheel of llama-index-core carries cl100k_base and o200k_base as tiktoken caches them. It is fetched once with pip, and
the two files are kept under $XDG_CACHE_HOME/loadtest-tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

WHEEL = "llama-index-core"
INSIDE = "llama_index/core/_static/tiktoken_cache/"
CL100K, O200K = (
    "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "fb374d419588a4632f3f557e76b4b70aebbca790",
)  # files of the cache


@cache
def ranks_folder() -> Path | None:
    """Return a folder with both files, to be copied (tiktoken may delete from it); None where they cannot be had."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "loadtest-tests" / "tiktoken"
    if not _whole(folder):
        with tempfile.TemporaryDirectory() as download:
            _fetch(Path(download), folder)
    return folder if _whole(folder) else None


def copy_ranks(target: Path) -> bool:
    """Copy the ranks into `target`, a folder of the test's own; return whether there are any."""
    if (folder := ranks_folder()) is None:
        return False
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return True


def _whole(folder: Path) -> bool:
    return all((folder / name).exists() for name in (CL100K, O200K))


def _fetch(download: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(download), WHEEL]
    try:
        subprocess.run(command, check=True, timeout=100, capture_output=True)
    except (subprocess.SubprocessError, OSError):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in download.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in (CL100K, O200K):
                partial = folder / f"{name}.{os.getpid()}"
                partial.write_bytes(archive.read(INSIDE + name))
                partial.replace(folder / name)
