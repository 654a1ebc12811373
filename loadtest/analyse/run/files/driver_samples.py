"""What a driver's processes saw of themselves as they ran: requests in flight, the lag of their loops, CPU time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from loadtest import metrics
from loadtest.analyse.run.files import reading
from loadtest.analyse.run.files.damage import DAY_NS, lines_left_out, no_header
from loadtest.analyse.run.files.samples import Zero
from loadtest.records import read_lines
from loadtest.run_folder import RunFolder

MOST_SAMPLE_NS = 100 * DAY_NS  # an instant beyond it is of another boot's clock


def read_driver_samples(folder: RunFolder, zero: Zero, trouble: list[str]) -> pd.DataFrame:
    """Return a row a sample, `t` in seconds since the run's first t_sched, `file` the process; say in `trouble` what is no sample."""
    names = ("t", "level", "in_flight", "decoding", "waiting", "loop_gap_us", "cpu")
    frames = []
    for file, path in enumerate(sorted(folder.path.glob("samples-driver*.jsonl"))):
        lines, wrong = read_lines(path)
        header = reading.samples_header(lines)
        rows = [values for line in lines[1:] if (values := _driver_sample(line, names)) is not None]
        wrong += len(lines[1:]) - len(rows)
        if header is None:
            trouble += [no_header(path.name)] if lines or wrong else []
            continue
        if wrong:
            trouble.append(lines_left_out(wrong, path.name))
        if rows:
            frame = pd.DataFrame(np.array(rows, dtype=np.float64), columns=list(names)).assign(file=file)
            frame["t"] = (frame["t"] + zero.shift(header)) * metrics.S_PER_NS
            # a sample further away was stamped by the clock of another boot
            frames.append(frame[frame["t"].abs() < MOST_SAMPLE_NS * metrics.S_PER_NS])
    return pd.concat(frames) if frames else pd.DataFrame({name: np.zeros(0) for name in (*names, "file")})


def _driver_sample(line: dict[str, Any], names: tuple[str, ...]) -> list[float] | None:
    """Return the values of a driver's sample; None where one of them is not a possible number."""
    values = [line.get(name) for name in names]
    known = [value for value in values if value is not None]
    if values[0] is None or any(type(value) not in (int, float) or not abs(value) < MOST_SAMPLE_NS for value in known):
        return None
    return [np.nan if value is None else float(value) for value in values]
