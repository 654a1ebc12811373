"""A run folder as arrays: a table of requests, whose durations come from loadtest.metrics, and every chunk's arrival."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loadtest import dialects, metrics
from loadtest.analyse.run import server_clock
from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.event_times import Delays, EventGaps, Ragged
from loadtest.analyse.run.files import reading
from loadtest.analyse.run.files.damage import DAY_NS, lines_left_out, no_header
from loadtest.analyse.run.files.facts import know_simulated, read_facts
from loadtest.analyse.run.files.reading import INSTANT_FIELDS, Columns
from loadtest.analyse.run.files.samples import Machine, Zero, read_machine
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.run.overlaps import peak_at_once
from loadtest.analyse.run.uncounted import counted_alike
from loadtest.records import NOT_SENT, Outcome, read_lines
from loadtest.run_folder import RunFolder
from loadtest.text import counted, levels_are
from loadtest.urls import loopback, origin

MOST_SAMPLE_NS = 100 * DAY_NS  # an instant beyond it is of another boot's clock


@dataclass(frozen=True, slots=True)
class RunData:
    """A run folder that was read: what was run, and the outcome of every request.

    `requests` has one row per request in the order sent. It holds durations in seconds (`ttft_s`, …), instants in seconds
    since the run's first t_sched (`sched`, `send`, `headers`, `first_token`, `last`, `end`; nan where there was none; `reached`:
    the second send of a request that was sent twice, else `send`: the server cannot have had it before) and
    facts of the level (`concurrency`, `rate`). `notes` and `doubts` are tuples of sentences. loadtest.analyse.summary adds
    the columns that it names INFERRED.
    """

    path: Path
    facts: dict[str, Any]  # run.json
    levels: list[LevelData]  # of run.json, and those that appear in records alone
    requests: pd.DataFrame
    chunks: Ragged  # arrival of content events, µs since the request's t_send
    server_chunks: Ragged  # created_at of content events, where the server stamps them, µs since the first one's
    itl: EventGaps
    server_itl: EventGaps
    delivery: Delays
    samples: pd.DataFrame  # of the driver: `t` in seconds since the run's first t_sched, `file` the process
    machine: Machine  # what monitors sampled beside the run
    zero: Zero
    whole: RunData | None = None  # the whole run, where this is its part for one model at one server
    trouble: list[str] = field(default_factory=list)  # one sentence on each thing that could not be read
    lost: int = 0  # how many records are missing for that, at least

    @property
    def entire(self) -> RunData:
        """The whole run: all of its parts load the client and its machine."""
        return self.whole or self

    @property
    def name(self) -> str:
        return str(self.facts.get("name") or self.path.name)

    @property
    def simulated(self) -> dict[str, Any] | None:
        """Profile and speed of the simulated server; None for a real one."""
        found: dict[str, Any] | None = self.fact("server", "simulated")
        return found

    @property
    def speed(self) -> float:
        """By how much a simulated server goes faster than what it simulates; 1 for a real one."""
        return float((self.simulated or {}).get("speed") or 1)

    @property
    def scenario(self) -> dict[str, Any]:
        """What the run was asked to do; empty where run.json does not say."""
        return self.facts.get("scenario") or {}

    @property
    def has_turns(self) -> bool:
        """Whether requests follow one another in conversations."""
        return bool((np.nan_to_num(self.column("turn")) > 0).any())

    @property
    def shares_prefix(self) -> bool:
        """Whether prompts begin alike, as they were asked to."""
        return bool(self.fact("comparability", "shared_prefix"))

    @property
    def prompts_as_asked(self) -> bool:
        """Whether the server counts no prompts, so that what is known of their lengths is what was asked for."""
        known = np.isfinite(self.column("prompt_tokens")).any()
        return bool(not known and np.isfinite(self.column("asked_input")).any() and not self.has_turns)

    @property
    def uncached_tokens(self) -> FloatArray:
        """Each request's prompt tokens less those that the prefix cache held; nan unknown.

        Where the server never says how many were cached, they are none, unless prompts share a prefix or for later turns:
        nobody knows then. Where it counts no prompts, they are as long as was asked for.
        """
        cached = self.column("cached_tokens")
        if np.isfinite(cached).any() or not (self.shares_prefix or self.has_turns):
            cached = np.nan_to_num(cached)
        elif not self.shares_prefix:
            cached = np.where(np.nan_to_num(self.column("turn")) > 0, np.nan, 0.0)
        return self.column("asked_input" if self.prompts_as_asked else "prompt_tokens") - cached

    @property
    def last_end(self) -> float:
        """When the last request ended, seconds; 0 where none did."""
        end = self.requests["end"].max() if len(self.requests) else 0.0
        return float(end) if np.isfinite(end) else 0.0

    def fact(self, *keys: str) -> Any:
        """Return the value of run.json that these keys lead to, one inside the other; None where one is missing."""
        found: Any = self.facts
        for key in keys:
            found = (found or {}).get(key)
        return found

    def on_servers_machine(self, host: str) -> bool:
        """Whether what was sampled on `host` may be of the server's machine; the client's is not that of a remote server."""
        url, client = str(self.fact("target", "url") or ""), self.fact("client", "host")
        return host != client or loopback(url) or (origin(url) or ("", None))[1] == client

    def column(self, name: str) -> FloatArray:
        return self.requests[name].to_numpy(dtype=np.float64)

    def flag(self, name: str) -> BoolArray:
        """Return a column of `requests` that says yes or no: `ok`, `left`, `warmup`."""
        return self.requests[name].to_numpy(dtype=np.bool_)

    def one_of(self, name: str, *values: object) -> BoolArray:
        """Mark every request whose value in a column of `requests` is one of these."""
        return self.requests[name].isin(values).to_numpy(dtype=np.bool_)

    def shows_prefill(self) -> BoolArray:
        """Mark the requests of which nothing says that TTFT holds the decode of tokens that were not sent."""
        late = [any(metrics.MAY_BE_LATE in doubt for doubt in said) for said in self.requests["doubts"]]
        return ~(np.array(late, dtype=np.bool_) | (self.column("unsent_tokens") > 0))

    def made_at(self, row: IntArray, place: IntArray) -> FloatArray:
        """Return when the server made the events at `place` in `chunks.flat`, of requests `row`; by arrival where it does not say."""
        return self.column("send")[row] + self.chunks.flat[place] * metrics.S_PER_US - self.delivery.at(row, place)

    def of_level(self, *levels: int) -> BoolArray:
        """Mark every request of a level, or of any of several, warm-ups and failures included."""
        return self.one_of("level", *levels)

    def measured(self, *levels: int) -> BoolArray:
        """Mark the measured requests of a level: those that were not warm-ups."""
        return self.of_level(*levels) & ~self.flag("warmup")

    def sent(self, level: int) -> BoolArray:
        """Mark the measured requests of a level without those that loadtest cancelled; a failed one counts."""
        return self.measured(level) & ~self.one_of("outcome", Outcome.CANCELLED)

    def left(self, *levels: int) -> BoolArray:
        """Mark the measured requests of a level whose user hung up."""
        return self.measured(*levels) & self.flag("left")

    def good(self, *levels: int) -> BoolArray:
        """Mark the requests that figures come from: measured ones that ended well."""
        return self.measured(*levels) & self.flag("ok")

    def tokens_a_piece(self, rows: BoolArray) -> float:
        """Return how many tokens a piece of text holds in the median answer of these requests; nan where no answer tells it."""
        sent = (self.column("output_tokens") - self.column("unsent_tokens"))[rows]
        held = sent[sent > 0] / np.maximum(self.chunks.counts[rows][sent > 0], 1)
        return float(np.median(held)) if len(held) else float("nan")

    def shed(self, level: int) -> int:
        """Return how many requests of a level were not sent because of --max-in-flight."""
        stopped = self.requests["error"][self.measured(level) & self.one_of("outcome", Outcome.CANCELLED)]
        return sum(str(error).startswith(NOT_SENT) for error in stopped)

    def due_per_s(self, level: int) -> float | None:
        """Return the rate at which measured requests of a level were due; None for fewer than two."""
        due = self.column("sched")[self.measured(level)]
        seconds = float(np.ptp(due)) if len(due) > 1 else 0.0
        return (len(due) - 1) / seconds if seconds > 0 else None

    def only(self, rows: BoolArray) -> RunData:
        chunks, server_chunks = self.chunks.only(rows), self.server_chunks.only(rows)
        return replace(
            self,
            requests=self.requests[rows].reset_index(drop=True),
            chunks=chunks,
            server_chunks=server_chunks,
            itl=EventGaps(chunks),
            server_itl=EventGaps(server_chunks),
            delivery=self.delivery.only(rows, chunks, server_chunks),
        )

    def without_levels(self, levels: Collection[int]) -> RunData:
        """Return the run without levels of these numbers, as if they had not been measured."""
        rows = ~self.one_of("level", *levels)
        kept = [level for level in self.levels if level["index"] not in levels]
        return replace(self.only(rows), levels=kept)


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
    samples = _samples(folder, zero, trouble)
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
    whole = c["textless"] & (c["outcome"] == Outcome.OK)  # an answer without text comes in one piece
    last = np.where(whole, c["t_end"], last)
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
    # no token of it was seen when it was made
    c["whole"] = (c["output_tokens"] >= metrics.HELD_BACK_PIECES) & np.isnan(c["tpot_s"])
    c["schedule_lag_s"] = metrics.schedule_lag(c["t_send"], c["t_sched"], c["connect_us"])
    seconds = {name[2:]: (c.pop(name) - start) * metrics.S_PER_NS for name in INSTANT_FIELDS}
    seconds["reached"] = seconds["send"] + np.nan_to_num(c["resent_after_s"])
    frame = pd.DataFrame({**c, **seconds, "last": (last - start) * metrics.S_PER_NS})
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
    stamped, source = columns.pop("stamped_by_server"), columns["source"]
    usable = (chunks.counts == server.counts) & (chunks.counts > 0) & stamped
    # Integers, since the anchor: as a float a wall instant in nanoseconds is rounded to 200 ns.
    first = np.where(usable, columns.pop("server_first") - anchors[source], 0) if len(anchors) else source
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


def _samples(folder: RunFolder, zero: Zero, trouble: list[str]) -> pd.DataFrame:
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
