"""The command line: wiring and printing. Nobody imports it.

Commands are loaded when they are called, so that `loadtest --help` opens neither pandas, matplotlib nor httpx.
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

from loadtest import __version__
from loadtest.cli.output import lasting_output
from loadtest.credentials import redacted
from loadtest.errors import LoadTestError, ScenarioError, StorageError, WorkerError
from loadtest.measure.interruption import interrupting
from loadtest.urls import without_passwords

# name -> (module, its one line in `loadtest --help`)
COMMANDS = {
    "run": ("loadtest.cli.run", "Measure a server, level by level, into a run folder."),
    "report": ("loadtest.cli.report", "Make summary.json, report.md, report.html and PNG charts from run folders."),
    "plot": ("loadtest.cli.report", "Make the PNG charts alone."),
    "compare": ("loadtest.cli.compare", "Say what changed between two runs; exit code 1 on a regression."),
    "advise": (
        "loadtest.cli.advise",
        "Say how many parallel slots the server should have, and what they would change.",
    ),
    "memory": ("loadtest.cli.memory", "Say what a model takes in memory, and whether it fits."),
    "check": ("loadtest.cli.check", "Say what server answers at a URL, and what could spoil a measurement."),
    "monitor": ("loadtest.cli.monitor", "Sample host, GPU and servers into a run folder."),
    "calibrate": ("loadtest.cli.calibrate", "Find how many streams this machine can measure truthfully."),
    "serve": ("loadtest.cli.serve", "Run the simulated model server (Ollama and OpenAI wire)."),
    "demo": ("loadtest.cli.demo", "Simulated server, a small grid, a report with charts: about a minute."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when called; listing them needs no import."""

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
        """Return the command that `args` names; a name that there is not, and an option given twice, are the user's mistakes."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0].lower(), COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}."
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

    Start with `loadtest demo`, then `loadtest run --url http://127.0.0.1:11434 --report`.

    \b
    Exit codes: 0 done · 1 a gate failed · 2 a mistake in what was asked for
                3 the run is void, or not all of it could be kept · 130 interrupted
                (`serve` and `monitor` run until they are: 0)
    """


LONGEST = 300  # characters without a blank that a sentence quotes
NAMES = ("url", "model", "server", "profile", "metrics_address")  # options whose empty text means nothing


def _check_given(command: click.Command, args: Sequence[str], parent: click.Context) -> None:
    """Raise ScenarioError for an option that is given twice, of which click takes the last, and for empty names.

    An empty path is the working folder to pathlib, and an empty URL another server than the one that was meant.
    """
    # The parent's settings must be there: click keeps the help option that it makes for the first context.
    with click.Context(command, parent=parent, resilient_parsing=True) as context:
        try:
            values, _, order = command.make_parser(context).parse_args(list(args))
        except click.UsageError:
            return  # said when the command is made
    given = Counter(param for param in order if isinstance(param, click.Option) and not param.multiple)
    for option, times in given.items():
        if times > 1 and not option.is_flag:
            flag = max(option.opts, key=len)
            many = f", with commas between: {flag} {option.metavar}" if option.metavar and "," in option.metavar else ""
            raise ScenarioError(f"{flag} is given {'twice' if times == 2 else f'{times} times'}; give it once{many}.")
    for param in set(order):
        value = values.get(param.name or "")
        named = isinstance(param.type, click.Path) or param.name in NAMES or isinstance(param, click.Argument)
        if named and "" in (value if isinstance(value, list | tuple) else (value,)):
            what = (
                max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name.rstrip(".")
            )
            raise ScenarioError(f"{what} is empty; give it a value, or leave it away.")


def _check_bytes(args: Sequence[str]) -> None:
    """Raise ScenarioError for an argument that no text, file name in a page or JSON could hold."""
    for before, arg in zip(("", *args), args, strict=False):
        option, equals, _ = arg.partition("=")
        named = option if arg.startswith("--") and equals else before if before.startswith("-") else "an argument"
        try:
            named.encode(), arg.encode()
        except UnicodeEncodeError:
            shown = ascii(arg[:60])
            raise ScenarioError(
                f"{ascii(named)[1:-1]} is not UTF-8 text ({shown}); write it in UTF-8, or rename the file."
            ) from None
        if "\0" in arg:
            raise ScenarioError(f"{named} holds a NUL byte; take it out.")


def main(args: list[str] | None = None) -> Any:
    """Run the command line and exit; a user's mistake is one sentence on stderr and exit code 2.

    A reader of our output that goes away changes nothing; output that is lost for another reason makes a good end a 3.
    """
    interrupting()
    # Matplotlib cannot be imported under the name of a backend that it does not know, such as a notebook sets.
    os.environ["MPLBACKEND"] = "agg"
    # NumPy else takes 30 MiB a core at import, and ends the process where it cannot have them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with lasting_output() as lost:
        code = _called(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
        if lost.errors:
            print(f"loadtest: cannot write the output: {lost.errors[0].strerror}.", file=sys.stderr)
            code = code or 3
    # An interrupt inside exec(), such as a dataclass's at import, has Python end as if killed by SIGINT, though it was
    # caught here; the next exec() forgets it.
    exec("")  # noqa: S102
    sys.exit(code)


def _called(args: list[str]) -> int:
    """Run the command line; return its exit code."""
    try:
        _check_bytes(args)
        return int(cli.main(args=args, prog_name="loadtest", standalone_mode=False) or 0)
    except click.ClickException as error:
        _show(error)
    except (click.exceptions.Abort, KeyboardInterrupt):
        print("loadtest: interrupted.", file=sys.stderr)
        return 130
    except LoadTestError as error:
        _say(str(error))
        return 3 if isinstance(error, StorageError | WorkerError) else 2
    except OSError as error:
        _say(f"cannot write {error.filename or 'the output'}: {error.strerror}.")
    except MemoryError:
        _say("out of memory; what was on disk is kept.")
        return 3
    except Exception as error:  # noqa: BLE001 - uncaught it would end as a 1, which says that a gate failed
        traceback.print_exc()
        _say(f"loadtest itself failed ({type(error).__name__}); please report the lines above.")
        return 3
    return 2


def _show(error: click.ClickException) -> None:
    """Print a mistake that click has found as one sentence; the help where nothing was asked for."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    sentence = error.format_message().strip()
    path = context.command_path if context is not None else "loadtest"
    if context is not None and (isinstance(error, click.MissingParameter) or "unexpected extra" in sentence):
        usage = " ".join([path, *context.command.collect_usage_pieces(context)])
        sentence = f"{sentence.rstrip('.')}; write `{usage}`."
    elif not sentence.endswith(("?", "?)")):
        sentence = f"{sentence.rstrip('.')}; see `{path} --help`."
    _say(sentence)


def _say(sentence: str) -> None:
    """Print a mistake; what was given is quoted in it, and may be of any length."""
    short = re.sub(
        rf"\S{{{LONGEST},}}",
        lambda found: f"{found[0][:60]}… ({len(found[0])} characters)",
        without_passwords(redacted(sentence)),
    )
    print(f"loadtest: {short}", file=sys.stderr)
