"""What several tests of workloads share: a cache of tiktoken's ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ranks import copy_ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("ranks")
    if not copy_ranks(folder):
        pytest.skip("tiktoken's ranks cannot be had: no package index, and none kept from before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        yield folder
