"""Rows on what people type and keep in files: numbers, bytes, prompts, traces, run folders."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from commands import OLLAMA, QUICK, RUN, Command, Ran, commands, ran
from drivers import run_words

cmd = commands("numbers that make no sense")
BIG = str(10**30)
for words in (
    ("--think-time", "nan"),
    ("--think-time", "inf"),
    ("--duration", "inf"),
    ("--duration", "nan"),
    ("--rate", "1e-300"),
    ("--rate", "nan"),
    ("--seed", str(2**77)),
    ("--requests", BIG),
    ("--warmup", BIG),
    ("--concurrency", BIG),
    ("--words", BIG, "--prompt", "a {words}"),
    ("--output-tokens", BIG),
    ("--input-tokens", BIG),
    ("--num-ctx", BIG, "--api", "ollama"),
    ("--max-rate", "nan"),
    ("--max-rate", "1e-300"),
    ("--temperature", "nan"),
    ("--temperature", "inf"),
    ("--idle-timeout", "nan"),
    ("--connect-timeout", "nan"),
    ("--first-byte-timeout", "nan"),
    ("--total-timeout", "nan"),
    ("--workers", BIG),
    ("--max-error-ratio", "30"),
    ("--max-error-ratio", "nan"),
    ("--max-error-ratio", "-0.1"),
):
    base = ["--concurrency", "1", "--requests", "2"]
    drop = {
        "--duration": "--requests",
        "--rate": "--concurrency",
        "--requests": "--requests",
        "--concurrency": "--concurrency",
    }
    if words[0] in drop:
        at = base.index(drop[words[0]])
        del base[at : at + 2]
    label = " ".join(word if len(word) < 12 else word[:4] + "…" for word in words)
    cmd(
        label,
        ("run", "--url", "{url}", "--warmup", "0", "--out", "run", *base, *words),
        paths=OLLAMA,
        code=2,
        says=r"\w",
        limit_s=15,
    )

cmd = commands("texts that make no sense")
for flag in ("--model", "--prompt", "--name", "--prompt-file", "--out"):
    cmd(f"empty {flag}", (*RUN, flag, ""), code=2, says=flag.strip("-").replace("-", "."))
for flag in ("--prompt", "--name", "--model", "--out", "--url", "--prompt-file", "--trace"):
    cmd(
        f"bytes that are no UTF-8 in {flag}",
        (*RUN, flag, "a\udcffb"),
        code=2,
        says=flag.strip("-").replace("-", ".") + "|UTF-8|utf-8",
        limit_s=15,
    )


def scenario_file(name: str, body: bytes, **how: Any) -> None:
    """Add a run of this scenario file."""
    cmd(name, ("run", "s.toml", "--url", "{url}", *QUICK), files={"s.toml": body}, **how)


scenario_file("NUL in a scenario file", b'name = "a\\u0000b"\n', code=(0, 2, 3))
scenario_file("scenario file with a byte order mark", b'\xef\xbb\xbfname = "marked"\n')
scenario_file("scenario file in UTF-16", 'name = "x"\n'.encode("utf-16"), code=2, says="UTF-8")
scenario_file("scenario with a nan", b"max_error_ratio = nan\n", code=2, says="max_error_ratio")
scenario_file("scenario with 30 for 30 %", b"max_error_ratio = 30\n", code=2, says="max_error_ratio.*(0 (to|and) 1|1)")

cmd = commands("prompt files")
LINES = b"".join(b'{"prompt": "question %d"}\n' % i for i in range(20))


def prompt_file(name: str, file: str, body: bytes, *more: str, **how: Any) -> None:
    """Add a run of the prompt in this file."""
    cmd(name, (*RUN, "--prompt-file", file, *more), files={file: body}, **how)


prompt_file("JSON lines for one prompt", "prompts.jsonl", LINES, code=2, says="JSON")
prompt_file("JSON lines under another name", "prompts.txt", LINES, code=2, says="JSON")
prompt_file("a JSON array of prompts", "prompts.json", b'[{"prompt":"a"},{"prompt":"b"}]', code=2, says="JSON")
prompt_file(
    "a prompt that is plain text",
    "p.txt",
    b"Tell me a story.\nA long one, please.\n",
    looks={"records": (lambda ran: len(ran.records), 2)},
)
prompt_file("{words} in a file without --words", "p.txt", b"Write {words} words.", code=2, says="words")
prompt_file(
    "--words with a file that has none", "p.txt", b"Write some words.", "--words", "10,20", code=2, says="words"
)
prompt_file(
    "a prompt file with a byte order mark",
    "p.txt",
    b"\xef\xbb\xbfTell me.",
    "--save-text",
    looks={"mark not sent": (lambda ran: any("\ufeff" in one.prompt for one in ran.measured), False)},
)

cmd = commands("traces")
HEAD = b"t,input_tokens,output_tokens\n"


def trace(name: str, body: bytes, *more: str, **how: Any) -> None:
    """Add a run of this trace."""
    words = ("run", "--url", "{url}", "--warmup", "0", "--out", "run", "--trace", "t.csv", *more)
    cmd(name, words, files={"t.csv": body}, **how)


trace(
    "trace lengths as 16.0",
    HEAD + b"0,16.0,3.0\n0.1,16.0,3.0\n",
    looks={"records": (lambda ran: len(ran.records), 2)},
)
trace("trace lengths as 16.5", HEAD + b"0,16.5,3\n", code=2, says="line 2")
trace(
    "trace row with no answer",
    HEAD + b"0,16,3\n0.1,16,0\n0.2,16,3\n",
    says=r"\b0\b|no answer|without",
    looks={"records": (lambda ran: len(ran.records) in (2, 3), True)},
)
trace(
    "ten requests of a trace of three",
    b"t\n0\n0.1\n0.2\n",
    "--requests",
    "10",
    says=r"\b3\b.*\b10\b|\b10\b.*\b3\b|three",
    code=(0, 2, 3),
)
for label, instant in (("1e30", b"1e30"), ("inf", b"inf"), ("nan", b"nan"), ("minus", b"-1"), ("words", b"soon")):
    trace(f"trace instant of {label}", b"t\n0\n" + instant + b"\n", code=2, says="line 3", limit_s=15)
trace("trace of JSON lines with odd rows", b'{"t": 0}\n[1]\n', code=2, says="line 2")


@functools.cache
def made_once() -> Path:
    """Return a run folder that was made once, of 12 requests by two streams."""
    place = Path(tempfile.mkdtemp(prefix="casebook-made-"))
    words = run_words("{url}", "--concurrency", "2", "--requests", "12", "--seed", "5")
    made = ran(Command("made", "made", words, paths=OLLAMA), place)
    if made.code not in (0, 3):
        raise AssertionError(made.said)
    return place / "run"


def with_runs(*names: str, damage: Callable[[Path], object] | None = None) -> Callable[[Path], None]:
    """Put copies of a made run into the command's folder, the one called run or BROKEN damaged."""

    def prepare(place: Path) -> None:
        for name in names:
            shutil.copytree(made_once(), place / name)
            for old in ("summary.json", "report.md", "report.html"):
                (place / name / old).unlink(missing_ok=True)
        if damage is not None:
            damage(place / ("BROKEN" if "BROKEN" in names else names[0]))

    return prepare


def lines_of(folder: Path, change: Callable[[list[bytes]], Sequence[bytes]]) -> None:
    """Change the record lines of a run, the header left as it is."""
    path = next(folder.glob("requests-*.jsonl"))
    head, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([head, *change(rest)]))


def rows_of(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    def one(line: bytes) -> bytes:
        row = json.loads(line)
        change(row)
        return json.dumps(row).encode() + b"\n"

    lines_of(folder, lambda lines: list(map(one, lines)))


def facts_of(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((folder / "run.json").read_bytes())
    change(facts)
    (folder / "run.json").write_text(json.dumps(facts))


def counted(left: Ran) -> Any:
    return left.summary["levels"][0]["requests"]


cmd = commands("run folders")
REPORT = ("report", "run")


def damaged(
    name: str, damage: Callable[[Path], object], *, requests: int | None = None, says: str = r"\w", **how: Any
) -> None:
    looks = {"requests": (counted, requests)} if requests is not None else {}
    how = {"code": (0, 2, 3), "looks": looks, "limit_s": 60, **how}
    cmd(name, REPORT, prepare=with_runs("run", damage=damage), says=says, **how)


damaged("an untouched folder", lambda folder: None, requests=12, code=(0, 3))
damaged("levels a word", lambda folder: facts_of(folder, lambda facts: facts.update(levels="many")))
damaged("levels of words", lambda folder: facts_of(folder, lambda facts: facts.update(levels=["one", None, 3])))
damaged("scenario a list", lambda folder: facts_of(folder, lambda facts: facts.update(scenario=[1])))
damaged("target a word", lambda folder: facts_of(folder, lambda facts: facts.update(target="there", server=7)))
damaged("no levels at all", lambda folder: facts_of(folder, lambda facts: facts.pop("levels")))
damaged(
    "run.json cut off",
    lambda folder: (folder / "run.json").write_bytes((folder / "run.json").read_bytes()[:200]),
    says=r"run\.json",
)
damaged("run.json of nothing", lambda folder: (folder / "run.json").write_bytes(b""), says=r"run\.json")
damaged("run.json of NULs", lambda folder: (folder / "run.json").write_bytes(bytes(4096)), says=r"run\.json")
damaged("tokens without chunks", lambda folder: rows_of(folder, lambda row: row.pop("chunks")))
damaged("t_send nowhere", lambda folder: rows_of(folder, lambda row: row.pop("t_send")))
damaged("t_send a word", lambda folder: rows_of(folder, lambda row: row.update(t_send="then")))
damaged("output_tokens of 2^70", lambda folder: rows_of(folder, lambda row: row.update(output_tokens=2**70)))
damaged("output_tokens minus one", lambda folder: rows_of(folder, lambda row: row.update(output_tokens=-1)))
damaged("chunks a word", lambda folder: rows_of(folder, lambda row: row.update(chunks="abc")))
damaged("server a list", lambda folder: rows_of(folder, lambda row: row.update(server=[1])))
damaged("outcome of another age", lambda folder: rows_of(folder, lambda row: row.update(outcome="lucky")))
damaged("level nowhere", lambda folder: rows_of(folder, lambda row: row.pop("level")))
damaged("level of 10^12", lambda folder: rows_of(folder, lambda row: row.update(level=10**12)))
damaged(
    "records twice",
    lambda folder: lines_of(folder, lambda lines: lines * 2),
    requests=12,
    says=r"twice|doubl|same id|12|duplicate",
)
damaged(
    "records file twice",
    lambda folder: shutil.copy(next(folder.glob("requests-*.jsonl")), folder / "requests-9.jsonl"),
    requests=12,
    says=r"twice|doubl|same id|duplicate",
)
damaged(
    "a line of garbage",
    lambda folder: lines_of(folder, lambda lines: [*lines[:5], b"\x00\xff{garbage\n", *lines[5:]]),
    requests=12,
    says=r"\b1\b.*line|line.*pars|unread|skip|left out",
)
damaged(
    "half a line in the middle",
    lambda folder: lines_of(folder, lambda lines: [*lines[:5], lines[5][:60], *lines[6:]]),
    requests=11,  # what stands behind the half line is whole
    says=r"line|record",
)
damaged("a page of NULs at the end", lambda folder: lines_of(folder, lambda lines: [*lines, bytes(4096)]), requests=12)
damaged(
    "lines that are no objects",
    lambda folder: lines_of(folder, lambda lines: [*lines, b"[1,2]\n", b"7\n", b"null\n"]),
    requests=12,
    says=r"line|skip|left out",
)
damaged("a header of words", lambda folder: next(folder.glob("requests-*.jsonl")).write_bytes(b'{"schema":"x"}\n'))
damaged("an empty records file", lambda folder: next(folder.glob("requests-*.jsonl")).write_bytes(b""))
damaged(
    "a state of failed",
    lambda folder: facts_of(folder, lambda facts: facts.update(state="failed")),
    requests=12,
    says="failed",
)
damaged(
    "samples of garbage",
    lambda folder: (folder / "samples-driver.jsonl").write_bytes(b'{"schema":1}\n{"t":"x","cpu":[]}\n[1]\n'),
    requests=12,
)


def both_reported(left: Ran) -> bool:
    return all((left.place / name / "report.md").exists() for name in ("A", "C"))


cmd(
    "report of three, one broken",
    ("report", "A", "BROKEN", "C"),
    prepare=with_runs("A", "BROKEN", "C", damage=lambda folder: (folder / "run.json").write_bytes(b"{")),
    code=(1, 2, 3),
    says="BROKEN",
    looks={"A and C reported": (both_reported, True)},
    limit_s=60,
)
cmd(
    "compare --across modle",
    ("compare", "A", "B", "--across", "modle"),
    prepare=with_runs("A", "B"),
    code=2,
    says="model",
)
cmd(
    "compare --across of nothing known",
    ("compare", "A", "B", "--across", "zzz"),
    prepare=with_runs("A", "B"),
    code=2,
    says="zzz",
)
cmd(
    "compare of a run with a broken one",
    ("compare", "A", "BROKEN"),
    prepare=with_runs("A", "BROKEN", damage=lambda folder: lines_of(folder, lambda lines: [b"{bad\n", *lines])),
    code=(0, 1, 2),
)
