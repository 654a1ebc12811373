"""The command line: wiring and printing. Nobody imports it.

A command's module is imported when the command is called, so that `loadtest --help` imports neither pandas, matplotlib
nor httpx.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from loadtest import __version__
from loadtest.cli.options.typography import check_typography
from loadtest.cli.output.lasting_output import lasting_output
from loadtest.credentials import redacted
from loadtest.errors import LoadTestError, ScenarioError, StorageError, WorkerError
from loadtest.measure.interruption import NothingRecorded, interrupting
from loadtest.text import encodable
from loadtest.urls import without_passwords

# name -> (module, its one line in `loadtest --help`), in the order in which a newcomer needs them
COMMANDS = {
    "demo": ("loadtest.cli.demo", "Simulated server, a small grid, a report with charts: about a minute."),
    "check": ("loadtest.cli.check", "Say what server answers at a URL, and what could spoil a measurement."),
    "run": ("loadtest.cli.run", "Measure a server, level by level, into a run folder."),
    "report": ("loadtest.cli.report", "Make summary.json, report.md, report.html and PNG charts from run folders."),
    "plot": ("loadtest.cli.report", "Make the PNG charts alone."),
    "compare": (
        "loadtest.cli.compare",
        "Say what changed between two runs, or set more side by side; exit code 1 on a regression.",
    ),
    "advise": (
        "loadtest.cli.advise",
        "Say how many parallel slots the server should have, and what they would change.",
    ),
    "ls": ("loadtest.cli.ls", "List run folders: model, levels, verdict, most output tokens/s."),
    "export": ("loadtest.cli.export", "Write a run's levels, requests and chunks as CSV, JSON or Parquet."),
    "predict": (
        "loadtest.cli.predict",
        "Say beforehand what another load would give, with 95 % bands, into prediction.json.",
    ),
    "score": ("loadtest.cli.score", "Hold a prediction.json against a run: errors, bands, and the textbook beside it."),
    "explain": (
        "loadtest.cli.explain",
        "Say why one request took as long as it did, and what it would have been without.",
    ),
    "memory": ("loadtest.cli.memory", "Say what a model takes in memory, and whether it fits."),
    "monitor": ("loadtest.cli.monitor", "Sample host, GPU and servers into a run folder."),
    "calibrate": ("loadtest.cli.calibrate", "Find how many streams this machine can measure truthfully."),
    "serve": ("loadtest.cli.serve", "Run the simulated model server (Ollama and OpenAI wire)."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` names; raise ScenarioError for an unknown one, and for an option given twice."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0].lower(), COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}."
            raise ScenarioError(f"there is no command {args[0][:60]!r}; {hint}")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            _check_given(command, rest, ctx)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


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


QUOTED_MOST = 300  # characters without a blank that an error sentence quotes in full
NEVER_EMPTY = ("url", "model", "server", "profile", "metrics_address")  # options whose empty text means nothing


def _check_given(command: click.Command, args: Sequence[str], parent: click.Context) -> None:
    """Raise ScenarioError for an option given twice, of which click would take the last, and for an empty name.

    pathlib takes an empty path for the working folder, and an empty URL would mean the default server.
    """
    # click makes a command's help option once, from the first context: without the parent it would lack -h.
    with click.Context(command, parent=parent, resilient_parsing=True) as context:
        try:
            values, _, order = command.make_parser(context).parse_args(list(args))
        except click.UsageError:
            return  # click says it when the command is made
    given = Counter(param for param in order if isinstance(param, click.Option) and not param.multiple)
    for option, times in given.items():
        if times > 1 and not option.is_flag:
            flag = max(option.opts, key=len)
            many = f", with commas between: {flag} {option.metavar}" if option.metavar and "," in option.metavar else ""
            raise ScenarioError(f"{flag} is given {'twice' if times == 2 else f'{times} times'}; give it once{many}.")
    for param in set(order):
        value = values.get(param.name or "")
        named = isinstance(param.type, click.Path) or param.name in NEVER_EMPTY or isinstance(param, click.Argument)
        if named and "" in (value if isinstance(value, list | tuple) else (value,)):
            what = (
                max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name.strip("[].")
            )
            raise ScenarioError(f"{what} is empty; give it a value, or leave it out.")


def _check_bytes(args: Sequence[str]) -> None:
    """Raise ScenarioError for an argument that is not UTF-8 or holds a NUL byte: no page or JSON could hold it."""
    for before, arg in zip(("", *args), args, strict=False):
        option, equals, _ = arg.partition("=")
        named = option if arg.startswith("--") and equals else before if before.startswith("-") else "an argument"
        if not encodable(named + arg):
            raise ScenarioError(
                f"{ascii(named)[1:-1]} is not UTF-8 text ({arg[:60]!a}); write it in UTF-8, or rename the file."
            )
        if "\0" in arg:
            raise ScenarioError(f"{named} holds a NUL byte; take it out.")


def main(args: list[str] | None = None) -> Any:
    """Run the command line and exit; a user's mistake is one sentence on stderr and exit code 2.

    The exit code stays the same when the reader of the output goes away. Where output is lost for another reason, such as
    a full disk, 0 becomes 3.
    """
    interrupting()
    # A notebook may have set MPLBACKEND to a backend that is not installed here: importing Matplotlib would fail.
    os.environ["MPLBACKEND"] = "agg"
    # OpenBLAS takes 30 MiB a core at import, and ends the process where it cannot get them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with lasting_output() as lost:
        code = _exit_code_of(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
        if lost.errors:
            print(f"loadtest: cannot write the output: {lost.errors[0].strerror}.", file=sys.stderr)
            code = code or 3
    # An interrupt inside an exec(), such as the one that makes a dataclass at import, makes Python end as if SIGINT had
    # killed it, although the interrupt was caught; another exec() makes Python forget it.
    exec("")  # noqa: S102
    sys.exit(code)


def _exit_code_of(args: list[str]) -> int:
    try:
        _check_bytes(args)
        check_typography(args)
        return int(cli.main(args=args, prog_name="loadtest", standalone_mode=False) or 0)
    except click.ClickException as error:
        _print_usage_error(error)
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        early = isinstance(error.__cause__ or error, NothingRecorded)
        when = " before the first request counted; nothing was recorded" if early else ""
        print(f"loadtest: interrupted{when}.", file=sys.stderr)
        return 130
    except LoadTestError as error:
        _print_mistake(str(error))
        return 3 if isinstance(error, StorageError | WorkerError) else 2
    except (FileExistsError, NotADirectoryError) as error:
        _print_mistake(f"cannot write into {error.filename}: it is a file, not a folder; name another folder.")
    except OSError as error:
        _print_mistake(f"cannot write {error.filename or 'the output'}: {error.strerror}.")
    except MemoryError:
        _print_mistake("out of memory; what was on disk is kept.")
        return 3
    except Exception as error:  # noqa: BLE001 - uncaught, the exit code would be 1, which means that a gate failed
        traceback.print_exc()
        _print_mistake(f"loadtest itself failed ({type(error).__name__}); please report the lines above.")
        return 3
    return 2


def _print_usage_error(error: click.ClickException) -> None:
    """Print a mistake that click has found as one sentence; where no command was given, print the help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    sentence = _in_plain_words(_with_variable(error, error.format_message().strip()))
    path = context.command_path if context is not None else "loadtest"
    if context is not None and (isinstance(error, click.MissingParameter) or "unexpected extra" in sentence):
        usage = " ".join([path, *context.command.collect_usage_pieces(context)])
        sentence = f"{sentence.rstrip('.')}; write `{usage}`."
    elif not sentence.endswith(("?", "?)")):
        sentence = f"{sentence.rstrip('.')}; see `{path} --help`."
    _print_mistake(sentence)


def _in_plain_words(sentence: str) -> str:
    """Return a sentence of click's in the words of the other ones."""
    sentence = re.sub(r"is not a valid boolean\..*", "is neither yes nor no; write 1 or 0", sentence)
    return re.sub(r"is not a valid (integer|float)( range)?", lambda found: f"is not a {_NUMBERS[found[1]]}", sentence)


_NUMBERS = {"integer": "whole number", "float": "number"}


def _with_variable(error: click.ClickException, sentence: str) -> str:
    """Name the environment's variable in place of the option where a wrong value comes from there."""
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option) and error.ctx is not None:
        option = error.param
        if error.ctx.get_parameter_source(option.name or "") is ParameterSource.ENVIRONMENT and option.envvar:
            return sentence.replace(f"'{max(option.opts, key=len)}'", f"the variable {option.envvar}", 1)
    return sentence


def _print_mistake(sentence: str) -> None:
    """Print a mistake without secrets; what the user gave is quoted in it, so long words are shortened."""
    short = re.sub(
        rf"\S{{{QUOTED_MOST},}}",
        lambda found: f"{found[0][:60]}… ({len(found[0])} characters)",
        without_passwords(redacted(sentence)),
    )
    print(f"loadtest: {short}", file=sys.stderr)
