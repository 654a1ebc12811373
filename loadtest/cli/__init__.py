"""The command line: wiring and printing. Nobody imports it.

Each command is a file or a folder of its name. It is imported when the command is called, so that `loadtest --help`
imports neither pandas, matplotlib nor httpx.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from typing import Any

import click

from loadtest import __version__
from loadtest.cli.options.arguments import check_given, check_typed
from loadtest.cli.output.lasting_output import lasting_output
from loadtest.cli.output.mistakes import print_mistake, print_usage_error
from loadtest.errors import LoadTestError, ScenarioError, exit_code_of
from loadtest.measure.interruption import NothingRecorded, interrupting

LEAST_ADDRESS_SPACE = 1 << 30  # bytes; a run and its report take 0.7 GiB
NARROWEST = 20  # columns of a terminal that are believed

# name -> its one line in `loadtest --help`, in the order in which a newcomer needs them
COMMANDS = {
    "demo": "Measure a simulated server and draw the charts: about a minute.",
    "check": "Say which server answers at a URL, and what could spoil a measurement.",
    "run": "Measure a server, level by level, into a run folder.",
    "report": "Make summary.json, report.md, report.html and PNG charts from run folders.",
    "plot": "Make the PNG charts alone, of one run or of several over each other.",
    "compare": "Say what changed between two runs (exit code 1 on a regression), or set several side by side.",
    "advise": "Say how many parallel slots the server should have, and what they would change.",
    "ls": "List run folders: model, levels, verdict, most output tokens/s.",
    "export": "Write a run's levels, requests and chunks as CSV, JSON or Parquet.",
    "predict": "Say beforehand what another load would give, with 95 % bands; kept in prediction.json.",
    "score": "Compare a prediction.json with a run: errors and bands, beside the errors of textbook models.",
    "explain": "Say why one request took as long as it did, and what it would have taken without the cause.",
    "memory": "Say what a model takes in memory, and whether it fits.",
    "monitor": "Sample host, GPU and servers into a run folder.",
    "calibrate": "Find how many streams this machine can measure truthfully.",
    "serve": "Run the simulated model server, which speaks Ollama's API and OpenAI's.",
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{cmd_name}"), cmd_name)
        command.help = command.help or COMMANDS[cmd_name]  # python -OO has no docstrings
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` names; raise ScenarioError for an unknown one, and for an option given twice."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0].lower(), COMMANDS, n=1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"`loadtest --help` says what there is: {', '.join(COMMANDS)}."
            )
            if "://" in args[0] or args[0].endswith(".toml"):
                hint = f"write `loadtest run {args[0][:60]}`."
            raise ScenarioError(f"there is no command {args[0][:60]!r}; {hint}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            check_given(command, rest, ctx)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="loadtest %(version)s")
def cli() -> None:
    """Load-test a model server: TTFT and tokens/s of every stream, and why requests wait.

    Start with `loadtest demo`, then `loadtest run http://127.0.0.1:11434`.

    \b
    Exit codes: 0 done · 1 a gate failed · 2 a mistake in what was asked for
                3 the run is void, or not all could be kept · 130 interrupted
                (`serve` and `monitor` run until they are: 0)
    """


def main(args: list[str] | None = None) -> Any:
    """Run the command line and exit; a user's mistake is one sentence on stderr and exit code 2.

    The exit code stays the same when the reader of the output goes away. Where output is lost for another reason, such as
    a full disk, 0 becomes 3.
    """
    interrupting()
    # A notebook may have set MPLBACKEND to a backend that is not installed here: importing Matplotlib would fail.
    os.environ["MPLBACKEND"] = "agg"
    # Some shells and jobs set COLUMNS=0: Rich would then print nothing at all.
    if (columns := os.environ.get("COLUMNS", "")).isdecimal() and int(columns[:9]) < NARROWEST:
        del os.environ["COLUMNS"]
    # OpenBLAS takes 30 MiB a core at import, and ends the process where it cannot get them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with lasting_output() as lost:
        code = _exit_code_of(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
        if lost:
            print(f"loadtest: cannot write the output: {lost[0].strerror}.", file=sys.stderr)
            code = code or 3
    # An interrupt inside an exec(), such as the one that makes a dataclass at import, makes Python end as if SIGINT had
    # killed it, although the interrupt was caught; another exec() makes Python forget it.
    exec("")  # noqa: S102
    sys.exit(code)


def _check_address_space() -> None:
    """Raise LoadTestError where `ulimit -v` leaves so little that libraries would end the process, OpenBLAS with exit code 1."""
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
        if allowed != resource.RLIM_INFINITY and allowed < LEAST_ADDRESS_SPACE:
            raise LoadTestError(
                "this shell allows a process too little memory; run `ulimit -v unlimited` first, or allow 1 GiB."
            )


def _interrupted(error: BaseException | None) -> bool:
    """Say whether an exception is an interrupt in a wrapper, as Python 3.11 makes one in __set_name__."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__
    return error is not None


def _exit_code_of(args: list[str]) -> int:
    try:
        _check_address_space()
        check_typed(args)
        return int(cli.main(args=args, prog_name="loadtest", standalone_mode=False) or 0)
    except click.ClickException as error:
        print_usage_error(error, " ".join(["loadtest", *(each for each in args[:1] if each in COMMANDS)]), args)
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        early = isinstance(error.__cause__ or error, NothingRecorded)
        when = " before the first request counted; nothing was recorded" if early else ""
        print(f"loadtest: interrupted{when}.", file=sys.stderr)
        return 130
    except LoadTestError as error:
        print_mistake(str(error))
        return exit_code_of(error)
    except (FileExistsError, NotADirectoryError) as error:
        print_mistake(f"cannot write into {error.filename}: it is a file, not a folder; name another folder.")
    except BlockingIOError as error:  # fork() says so
        print_mistake(f"cannot start another process: {error.strerror}; allow more of them (`ulimit -u`).")
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)  # without a name, what is not found is the working directory
        where = error.filename or ("into the working directory" if gone else "the output")
        print_mistake(f"cannot write {where}: {error.strerror}.")
        return exit_code_of(error)
    except MemoryError:
        print_mistake("out of memory; what was on disk is kept.")
        return 3
    except Exception as error:  # noqa: BLE001 - uncaught, the exit code would be 1, which means that a gate failed
        if _interrupted(error):
            print("loadtest: interrupted.", file=sys.stderr)
            return 130
        traceback.print_exc()
        print_mistake(f"loadtest itself failed ({type(error).__name__}); please report the lines above.")
        return 3
    return 2
