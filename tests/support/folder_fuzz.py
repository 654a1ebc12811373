"""Damaged run folders without end: `PYTHONPATH=.:tests python -m support.folder_fuzz CASES [SEED]` reads so many and stops at a traceback.

A case is a folder of tests/folders with some of its bytes, lines or JSON values changed. Report, compare and advise must
give figures or one sentence of it, whatever it holds.
"""

from __future__ import annotations

import collections
import io
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from loadtest.analyse.comparison import compare_report
from loadtest.analyse.comparison.compare import compare
from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.report import Report, console_report
from loadtest.analyse.summary import Analysis, analyse
from loadtest.errors import LoadTestError
from loadtest.grid import escaped
from support import report_pages as pages
from support.places import FOLDERS

BASES = ("closed", "faults", "killed", "locust-processes", "open", "text", "workers")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**53, 2**63, 2**64 - 1, 2**70, -(2**63), 1e-300, 1e300, 0.5, -7.25, "", "x",
    "7", "\x1b]0;x\x07", "2026-13-45T99:99:99Z", [], [None], [1, "x"], [[1]], {}, {"a": 1}, {"level": "x"}, [{}] * 3,
    "http://[", "http://h:x", "unix:/s",
)  # fmt: skip
BYTES = (b"\0" * 512, b"\xff\xfe", b"NaN", b"\n", b"{", b'"', b"1e999", b"[" * 2000, b"\r\n\r\n")


def places(value: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Return every place of a JSON value as (its container, key or index)."""
    found = [] if found is None else found
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in list(pairs):
        found.append((value, key))
        places(entry, found)
    return found


def odd(draw: random.Random, value: Any) -> None:
    """Change one place of a JSON value: another value, gone, doubled, or scaled."""
    known = places(value)
    if not known:
        return
    container, key = draw.choice(known)
    entry = container[key]
    how = draw.random()
    if how < 0.2:
        del container[key]
    elif how < 0.3 and isinstance(container, list):
        container.insert(draw.randrange(len(container) + 1), entry)
    elif how < 0.5 and isinstance(entry, int | float):
        container[key] = draw.choice(
            (-entry, entry * 1000, entry + draw.randrange(-(10**9), 10**9), entry / 7, str(entry))
        )
    else:
        container[key] = draw.choice(VALUES)


def in_run(draw: random.Random, path: Path) -> None:
    """Change values of run.json."""
    facts = json.loads((path / "run.json").read_bytes())
    if draw.random() < 0.2:
        facts[draw.choice(list(facts))] = draw.choice(VALUES)
    for _ in range(draw.choice((1, 1, 3, 10))):
        odd(draw, facts)
    (path / "run.json").write_text(json.dumps(facts))


def in_lines(draw: random.Random, path: Path) -> None:
    """Change values of some lines, or one key on all of them; headers too."""
    file = draw.choice(sorted(path.glob("*.jsonl")))
    rows = [json.loads(line) for line in file.read_bytes().splitlines()]
    if draw.random() < 0.3:
        key, value = draw.choice(list(rows[-1])), draw.choice((*VALUES, "gone", "gone"))
        for row in rows:
            if value == "gone":
                row.pop(key, None)
            elif key in row:
                row[key] = value
    else:
        for _ in range(draw.choice((1, 3, 20))):
            odd(draw, draw.choice(rows))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def in_order(draw: random.Random, path: Path) -> None:
    """Shuffle, double, drop or join lines, or give a folder a file twice."""
    file = draw.choice(sorted(path.glob("*.jsonl")))
    lines = file.read_bytes().splitlines(keepends=True)
    how = draw.randrange(6)
    if how == 0:
        draw.shuffle(lines)
    elif how == 1:
        lines += lines[1 : draw.randrange(2, len(lines) + 2)]
    elif how == 2:
        del lines[draw.randrange(len(lines)) :: draw.choice((1, 2, 5))]
    elif how == 3:
        del lines[0]
    elif how == 4:
        at = draw.randrange(len(lines))
        lines[at] = lines[at][: draw.randrange(len(lines[at]))]
    else:
        shutil.copy(file, file.with_name(file.stem + "-again.jsonl"))
    file.write_bytes(b"".join(lines))


def in_bytes(draw: random.Random, path: Path) -> None:
    """Cut, overwrite or insert bytes anywhere."""
    file = draw.choice(sorted([path / "run.json", *path.glob("*.jsonl")]))
    body = bytearray(file.read_bytes())
    for _ in range(draw.choice((1, 1, 5, 50))):
        at = draw.randrange(len(body) + 1)
        how = draw.randrange(5)
        if how == 0:
            del body[at : at + draw.choice((1, 7, 300, len(body)))]
        elif how == 1:
            body[at : at + 1] = bytes((draw.randrange(256),))
        elif how == 2:
            body[at:at] = draw.choice(BYTES)
        elif how == 3:
            body[at : at + 512] = bytes(min(512, len(body) - at))
        else:
            body[at : at + 1] = str(draw.randrange(10)).encode()
    file.write_bytes(body)


def gone(draw: random.Random, path: Path) -> None:
    """Take a file away, or empty it."""
    file = draw.choice(sorted([path / "run.json", *path.glob("*.jsonl")]))
    if draw.random() < 0.5:
        file.unlink()
    else:
        file.write_bytes(b"")


KINDS: tuple[Callable[[random.Random, Path], None], ...] = (
    *(in_run,) * 4, *(in_lines,) * 4, *(in_order,) * 2, *(in_bytes,) * 3, gone,
)  # fmt: skip


def damaged(seed: int, place: Path) -> Path:
    """Make the folder of a case."""
    draw = random.Random(seed)
    path = Path(shutil.copytree(FOLDERS / draw.choice(BASES), place / str(seed)))
    (path / "summary.json").unlink()
    for _ in range(draw.choice((1, 1, 1, 2))):
        if (path / "run.json").exists() and list(path.glob("*.jsonl")):
            try:
                draw.choice(KINDS)(draw, path)
            except (ValueError, IndexError, TypeError, AttributeError, RecursionError):
                pass  # the second change cannot be made in what the first one left
    return path


def read_all(path: Path, sound: Analysis, *, charts: bool = False, advise: bool = False) -> Analysis | None:
    """Do with a folder what the commands do, but for writing; None where it is refused with one sentence."""
    try:
        found = analyse(path)
    except LoadTestError:
        return None
    orjson.dumps(found.summary, option=orjson.OPT_INDENT_2)
    pictures: list[Path] = []
    if charts:
        from loadtest.analyse.charts import draw_all

        pictures = draw_all(found, path)
    text = pages.markdown(found, pictures)
    pages.html(found, pictures)
    assert all(escaped(sentence) in text for sentence in found.run.trouble)
    console_report(Report(found, tuple(all_findings(found))), Console(file=io.StringIO(), width=80))
    for base, new in ((sound, found), (found, sound)):
        try:
            compared = compare(base, new)
        except LoadTestError:
            continue
        compare_report.markdown(compared, "compare.png")
        orjson.dumps(compare_report.to_dict(compared))
    if advise:
        _advise(found, path, charts=charts)
    return found


def _advise(found: Analysis, path: Path, *, charts: bool) -> None:
    from loadtest.analyse.charts import prediction as chart
    from loadtest.analyse.reports import advice_report as words
    from loadtest.analyse.server.model_memory.by_slots import memory_by_slots
    from loadtest.analyse.whatif.advice import slot_advice as work
    from loadtest.analyse.whatif.model import self_check
    from loadtest.analyse.whatif.model.fit import longest_series
    from loadtest.analyse.whatif.model.lengths import with_lengths_of
    from loadtest.analyse.whatif.model.predict import ServerModel

    group = longest_series(found.run)
    if group is None:
        return
    kind = (found.run.facts.get("server") or {}).get("kind")
    try:
        work.require_slots(found.slots, group)
        model = ServerModel.of(found.run, found.slots, found.steps)
        model = with_lengths_of(model, found.run, group.levels)
        used = [level for level in found.summary["levels"] if level["index"] in group.levels]
        if self_check.worst_miss(lambda level: model.closed(int(level["concurrency"])), used):
            return
        said = work.advise_slots(
            model,
            group,
            found.summary["levels"],
            kind=kind,
            memory=memory_by_slots(found.run, found.slots),
            gpu_bytes=8e10,
        )
    except LoadTestError:
        return
    words.sentences(said), words.notes(said), words.console_table(said)
    orjson.dumps(words.to_dict(said, found), option=orjson.OPT_SERIALIZE_NUMPY)
    words.markdown(said, found, "advice.png")
    if charts:
        chart.draw_slots(path / "advice.png", found, said, words.title(said))


def main(cases: int, first: int) -> None:
    """Read so many cases; print each traceback with its seed, and what the cases came to."""
    came: collections.Counter[str] = collections.Counter()
    sound = analyse(FOLDERS / "closed")
    for seed in range(first, first + cases):
        if seed > first and (seed - first) % 1000 == 0:
            print(f"{seed - first} cases: {dict(came)}", flush=True)
        with tempfile.TemporaryDirectory() as place:
            path = damaged(seed, Path(place))
            try:
                found = read_all(path, sound, charts=seed % 100 == 0, advise=seed % 50 == 0)
                came["refused" if found is None else "with trouble" if found.run.trouble else "untroubled"] += 1
            except Exception as error:  # noqa: BLE001 — that is what is looked for
                frame = traceback.extract_tb(error.__traceback__)[-1]
                ours = [one for one in traceback.extract_tb(error.__traceback__) if "/loadtest/" in one.filename]
                came[f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"] += 1
                print(
                    f"seed {seed}: {error!r} {Path(frame.filename).name}:{frame.lineno}",
                    *(f"{Path(one.filename).name}:{one.lineno}" for one in ours[-4:]),
                    flush=True,
                )
    print(dict(came))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
