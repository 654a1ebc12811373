"""Where things of the checkout are, wherever the test that wants them stands."""

from __future__ import annotations

import base64
from pathlib import Path

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
SCENARIOS = ROOT / "scenarios"
BENCHMARKS = ROOT / "scripts/benchmarks"
CASEBOOK = ROOT / "scripts/casebook"
FOLDERS = TESTS / "folders"  # run folders of an older loadtest
STREAMS = TESTS / "streams"  # answers of real servers, byte for byte
RECORDED_RUNS = TESTS / "runs"  # records of real runs
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)  # a PNG file
