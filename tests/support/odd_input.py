"""Command lines drawn at random from odd values, and what `loadtest` answers to them in this very process."""

from __future__ import annotations

import contextlib
import io
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click

from loadtest.cli import COMMANDS, cli, main
from loadtest.errors import TargetError

REFUSED = "http://127.0.0.1:9"  # nobody listens there: what is right up to here ends with this


def words(text: str) -> list[str]:
    return text.split()


NUMBERS = (
    *words("nan inf -inf -1 0 -0.0 1 1e3 16.0 1.5 1e-300 1e400 -1e400 1_000 0x10 10^30"),
    *("9" * 20, "9" * 400, "9" * 5000, "-" + "9" * 80),
    *words("１２ ٣ 1,2,4 1,,2 1,nan 2,2 1;2 , +3 65535 65536 100001 0.05 30 5% 5s true None"),
)
TEXTS = (
    *("", " ", "\t", "a", "x\udcffy", "\udc80", "\x00", "a\x00b", "\x1b[2J", "\u202egnp", "ü · 日本語", "😀", "a\nb"),
    *words(r"""' " \ - -- -x --help = a=b {words} {} %s $HOME ~"""),
    *("x" * 300, "x" * 10_000),
    *words("a/b/c ../.. . ttft_p95=2 ttft_p95=nan ttft_p95= ttft=1 x=1,x=2 itl_p50=1ms,itl_p50=2ms modle model 5%"),
    *words("host host,host ollama=x prometheus=http://x truncate=0.1 truncate=nan http-500=every:0 stall=every:x"),
    *words("chat ollama openai poisson gamma constant max_tokens fifo 80GB nanGB q4_0 f16"),
    *words("http:// :// http://[::1 http://x:99999 ftp://x http://127.0.0.1:9/v1 127.0.0.1:9 http://\udcff:9"),
)
FILES = {
    "empty": b"",
    "bom.toml": b"\xef\xbb\xbfconcurrency = [1]\r\n",
    "utf16.toml": "concurrency = [1]\n".encode("utf-16"),
    "deep.toml": b"a = " + b"[" * 5000,
    "digits.toml": b"requests = " + b"9" * 5000,
    "hex.toml": b"seed = 0x" + b"f" * 6000,
    "table.toml": b"[request]\nrequests = 3\n",
    "dates.toml": b"requests = 2024-01-01\nduration = [[]]\n",
    "nul.toml": b'model = "a\\u0000b"\n',
    "binary": bytes(range(256)) * 8,
    "words.txt": b"in {words} words\r\n",
    "prompts.jsonl": b'{"prompt": "a"}\n{"prompt": "b"}\n',
    "trace.csv": b"\xef\xbb\xbft,output_tokens\r\n0,16.0\r\n1,0\r\n",
    "packed.csv": b"\x1f\x8b\x08\0",
    "bad.csv": b"t,input_tokens\n0,nan\n",
    "far.txt": b"0\n1e30\n",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command line ended."""

    args: list[str]
    code: int
    out: str
    err: str

    @property
    def fault(self) -> str | None:
        """Say what is wrong with the answer itself, whatever was asked; None where nothing is."""
        if "Traceback" in self.err or "Error:" in self.err:
            return "a traceback"
        if self.code not in (0, 1, 2, 3):
            return f"exit code {self.code}"
        if self.code == 2 and not [line for line in self.err.splitlines() if line.strip()]:
            return "exit code 2 without a word"
        if self.code == 2 and max(map(len, self.err.splitlines())) > 2000:
            return "a sentence without end"
        return None


def answer(args: list[str]) -> Answer:
    """Call the command line; whatever it raises but SystemExit is raised."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(args)
        except SystemExit as end:
            code = end.code
    return Answer(args, int(code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def nothing_started(place: Path) -> Iterator[None]:
    """Be in `place`, with some odd files; what would serve, sample or measure for real raises a sentence instead."""

    def over(*_: object, **__: object) -> None:
        raise TargetError("all that was asked for is right.")

    before, limit = Path.cwd(), sys.getrecursionlimit()
    os.chdir(place)
    for name, body in FILES.items():
        Path(name).write_bytes(body)
    Path("folder").mkdir(exist_ok=True)
    if not Path("loop").is_symlink():
        Path("loop").symlink_to("loop")
    targets = (
        "cli.serve.serve_forever",
        "cli.demo.simulated_server",
        "cli.calibrate._search",
        "monitor.process.run_monitor",
    )
    with contextlib.ExitStack() as stack:
        for target in targets:
            stack.enter_context(mock.patch(f"loadtest.{target}", over))
        try:
            yield
        finally:
            os.chdir(before)
            sys.setrecursionlimit(limit)


def command_line(draw: random.Random, without: tuple[str, ...] = ()) -> list[str]:
    """Draw a command with some of its options, most of them with values that are odd or wrong."""
    name = draw.choice([*(name for name in COMMANDS if name not in without), *["run"] * 6])
    with click.Context(cli) as context:
        command = cli.get_command(context, name)
    assert command is not None
    places = [
        *FILES,
        "folder",
        "loop",
        "loop/x",
        "nowhere",
        "folder/new/run",
        "empty/x",
        "/",
        "/dev/null",
        "/proc/none/x",
    ]
    pool = [*NUMBERS, *NUMBERS, *TEXTS, *places]
    args = [name] if name != "run" else [name, "--url", REFUSED]
    params = [param for param in command.params if not getattr(param, "hidden", False)]
    for param in draw.sample(params, min(draw.randint(1, 4), len(params))):
        if isinstance(param, click.Argument):
            args += [draw.choice(places if draw.random() < 0.7 else pool) for _ in range(draw.randint(0, 2))]
            continue
        flag = draw.choice(param.opts)
        if isinstance(param, click.Option) and param.is_flag:
            args.append(flag)
        elif draw.random() < 0.3:
            args.append(f"{flag}={draw.choice(pool)}")
        else:
            args += [flag, draw.choice(pool)]
    if draw.random() < 0.05:
        args.insert(draw.randint(0, len(args)), draw.choice(pool))
    return args
