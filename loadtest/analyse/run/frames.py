"""A run folder read into a RunData: a table of requests, whose durations come from loadtest.metrics, and every chunk's arrival."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loadtest import dialects, metrics
from loadtest.analyse.run import server_clock
from loadtest.analyse.run.arrays import IntArray
from loadtest.analyse.run.event_times import Delays, EventGaps, Ragged
from loadtest.analyse.run.files import reading
from loadtest.analyse.run.files.driver_samples import read_driver_samples
from loadtest.analyse.run.files.facts import know_simulated, read_facts
from loadtest.analyse.run.files.reading import INSTANT_FIELDS, Columns
from loadtest.analyse.run.files.samples import Zero, read_machine
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.run.overlaps import peak_at_once
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.run.uncounted import counted_alike
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder
from loadtest.text import counted, levels_are

OF_SERVER_STAMPS = ("stamped_by_server", "server_first")  # columns that delivery delays alone are read from


def load(path: Path) -> RunData:
    """Read a run folder; what cannot be read is left out and described in `trouble`.

    Raises RunFolderError where it is not a run folder, or was written by a newer loadtest.
    """
    folder = RunFolder.open(path)
    facts, trouble = read_facts(folder)
    found = reading.read_requests(path, facts)
    headers, lines, sources = found.headers, found.lines, found.sources
    know_simulated(facts, (header.simulated for header in headers))
    trouble += found.trouble
    columns = lines.columns
    anchor = Zero.of(headers or [reading.sampled_header(path)])
    offset = np.array([anchor.shift(header) for header in headers], dtype=np.float64)[sources]
    for name in INSTANT_FIELDS:
        columns[name] = columns[name] + offset
    order = np.argsort(np.where(np.isnan(columns["t_send"]), columns["t_sched"], columns["t_send"]), kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    columns["source"], columns["offset"] = sources[order], offset[order]
    chunks, server_chunks = lines.chunks.take(order), lines.server_chunks.take(order)
    lost = found.lost
    del lines, found
    anchors = np.array([header.wall_ns for header in headers], dtype=np.int64)
    delivery = _delivery(anchors, columns, chunks, server_chunks)
    start = float(columns["t_sched"].min()) if len(order) else 0.0
    levels = _all_levels(facts, columns)
    if (made := levels[len(facts["levels"]) :]) and facts.get("state") not in (None, "running"):
        trouble.append(
            f"{levels_are(len(made), len(levels))} known from the records alone, as run.json does not list {'it' if len(made) == 1 else 'them'}: "
            "as many streams are taken for each as it had requests at once, and what was asked of it is not known."
        )
    gone = max(_never_read(facts, columns, len(headers)) - lost, 0)
    if gone:
        trouble.append(
            f"{counted(gone, 'record')} {'is' if gone == 1 else 'are'} not there, though the run is over: a requests file was "
            "cut short, or left out when the folder was copied."
        )
    lost += gone
    zero = anchor.later(round(start))
    samples = read_driver_samples(folder, zero, trouble)
    machine, said = read_machine(path, zero)
    trouble += [sentence for sentence in said if sentence not in trouble]
    return RunData(
        path=path,
        facts=facts,
        levels=levels,
        requests=_request_frame(columns, chunks, start, levels),
        chunks=chunks,
        server_chunks=server_chunks,
        itl=EventGaps(chunks),
        server_itl=EventGaps(server_chunks),
        delivery=delivery,
        samples=samples,
        machine=machine,
        zero=zero,
        trouble=trouble,
        lost=lost,
    )


def _request_frame(columns: Columns, chunks: Ragged, start: float, levels: list[LevelData]) -> pd.DataFrame:
    c = columns
    c["output_tokens"], c["token_source"] = counted_alike(c, chunks.counts)
    last = c["t_send"] + chunks.last() * 1e3
    c["textless"] = np.array([not dialects.has_text(name) for name in c["dialect"]], dtype=np.bool_)
    one_piece = c["textless"] & (c["outcome"] == Outcome.OK)  # an answer without text comes in one piece
    last = np.where(one_piece, c["t_end"], last)
    sent = c["output_tokens"] - c["unsent_tokens"]
    tokens = np.where(sent > 1, sent, np.nan)
    c["chunks"] = chunks.counts
    c["ok"] = c["outcome"] == Outcome.OK
    c["left"] = c["outcome"] == Outcome.LEFT
    c["ttft_s"] = metrics.ttft(c["t_first_token"], c["t_send"])
    c["ttft_sched_s"] = metrics.ttft_sched(c["t_first_token"], c["t_sched"])
    c["e2e_s"] = metrics.e2e(last, c["t_send"])
    c["e2e_sched_s"] = metrics.e2e(last, c["t_sched"])
    spans = c["e2e_s"] - c["ttft_s"]
    of_each = (each.tolist() for each in (chunks.counts, tokens, c["ttft_s"], spans, c["decode_s"], c["lag_s"]))
    c["held_back"] = np.array(list(map(metrics.held_back, *of_each)), dtype=np.bool_)
    with np.errstate(divide="ignore", invalid="ignore"):
        c["tpot_s"] = metrics.tpot(c["e2e_s"], c["ttft_s"], tokens)
        # All tokens came in one chunk, or nearly, or once all were made: no decode speed was seen.
        at_once = metrics.shows_no_decoding(chunks.counts, c["reads"], c["tpot_s"], c["ttft_s"])
        c["tpot_s"][(c["tpot_s"] <= 0) | at_once | c["held_back"]] = np.nan
        c["stream_tokens_per_s"] = metrics.stream_tokens_per_s(c["tpot_s"])
        c["e2e_tokens_per_s"] = metrics.e2e_tokens_per_s(c["output_tokens"], c["e2e_s"])
    server_clock.distrust_durations(c, chunks.counts)
    early = map(metrics.made_before_s, chunks.counts, tokens, spans, c["decode_s"])
    together = c["first_coalesced"] | c["held_back"] | (chunks.counts < metrics.HELD_BACK_PIECES)
    c["made_before_s"] = np.where(together, np.array(list(early)), 0.0)
    c["whole"] = (c["output_tokens"] >= metrics.HELD_BACK_PIECES) & np.isnan(c["tpot_s"])
    c["schedule_lag_s"] = metrics.schedule_lag(c["t_send"], c["t_sched"], c["connect_us"])
    seconds = {name[2:]: (c[name] - start) * metrics.S_PER_NS for name in INSTANT_FIELDS}
    seconds["reached"] = seconds["send"] + np.nan_to_num(c["resent_after_s"])
    kept = {name: values for name, values in c.items() if name not in (*INSTANT_FIELDS, *OF_SERVER_STAMPS)}
    frame = pd.DataFrame({**kept, **seconds, "last": (last - start) * metrics.S_PER_NS})
    join_levels(frame, levels)
    return frame


def join_levels(frame: pd.DataFrame, levels: list[LevelData]) -> None:
    """Add the columns that hold facts of each request's level."""
    facts = {level["index"]: level for level in levels}
    for name in ("concurrency", "rate"):
        frame[name] = np.array([facts[index].get(name) for index in frame["level"]], dtype=np.float64)


def _delivery(anchors: IntArray, columns: Columns, chunks: Ragged, server: Ragged) -> Delays:
    """Return the delivery delays, whose zero is the smallest arrival − created_at among the requests of a file.

    They are unknown of a file in which the server's clock, or that of the anchor, was set anew.
    """
    source = columns["source"]
    usable = (chunks.counts == server.counts) & (chunks.counts > 0) & columns["stamped_by_server"]
    # Integers, since the anchor: as a float a wall instant in nanoseconds is rounded to 200 ns.
    first = np.where(usable, columns["server_first"] - anchors[source], 0) if len(anchors) else source
    sent = np.where(usable, columns["t_send"] - columns["offset"], 0.0).astype(np.int64)
    least = np.zeros(len(sent), dtype=np.int64)
    found = Delays(chunks, server, usable, sent - first, least)
    for file in np.unique(source[usable]):
        mine = source == file
        late = found.least_of_each(mine)
        least[mine] = late.min()
        rows = usable & mine
        if server_clock.was_set(late, columns["t_send"][rows], columns["t_end"][rows]):
            usable[rows] = False
    return found


def _never_read(facts: dict[str, Any], columns: Columns, files: int) -> int:
    """Return how many records fewer a finished run holds than it sent requests.

    A file that is missing is taken to have held as many as each other one. Beside that only levels of a closed loop with a
    number of requests say how many they sent; of Locust, and where a level was given up or a process died, nobody does.
    """
    if facts.get("state") != "done":
        return 0
    said = facts.get("workers")
    workers = said if isinstance(said, list) else []  # of Locust it is their number
    named = len(workers) or (facts.get("locust") or {}).get("workers") or 0
    missing = max(named - files, 0) * max(len(columns["id"]) // max(files, 1), 1)
    if facts.get("driver") != "asyncio" or any(one.get("died") for one in workers):
        return missing
    counts = ~columns["warmup"].astype(np.bool_)
    fewer = 0
    for level in facts["levels"]:
        asked, open_loop = level.get("requests"), level.get("rate") is not None or level.get("trace") is not None
        if asked and not open_loop and "stopped" not in level and level.get("ended_ns") is not None:
            fewer += max(asked - int((counts & (columns["level"] == level["index"])).sum()), 0)
    return max(fewer, missing)


def _all_levels(facts: dict[str, Any], columns: Columns) -> list[LevelData]:
    """Return the levels of run.json, and one made from the records for each level missing there (a run cut off)."""
    levels = [LevelData(level) for level in facts["levels"]]
    for index in sorted({int(value) for value in columns["level"]} - {level["index"] for level in levels}):
        mine = columns["level"] == index
        levels.append(
            LevelData(
                index=index,
                concurrency=peak_at_once(columns["t_sched"][mine], columns["t_end"][mine]),
                input_tokens=None,
                output_tokens=None,
                words=None,
                rate=None,
            )
        )
    return levels
