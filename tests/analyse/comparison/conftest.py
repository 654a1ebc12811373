"""What tests of `loadtest compare` share."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.compared import Folder, folder_maker


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_maker(tmp_path)
