"""The command line: wiring and printing. Nobody imports it.

Commands are loaded when they are called, so that `loadtest --help` opens neither pandas, matplotlib nor httpx.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import click

from loadtest import __version__
from loadtest.credentials import redacted
from loadtest.errors import LoadTestError
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
    "demo": ("loadtest.cli.demo", "Simulated server, a small grid, a report with charts: under a minute."),
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
                3 the run is void (its folder is complete) · 130 interrupted
    """


def main(args: list[str] | None = None) -> Any:
    """Run the command line and exit; a user's mistake is one sentence on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no "·" is no reason to lose a report
    try:
        sys.exit(cli.main(args=args, prog_name="loadtest", standalone_mode=False) or 0)
    except click.ClickException as error:
        vars(error)["message"] = without_passwords(error.message)  # it may quote an argument
        error.show()
        sys.exit(2)
    except click.exceptions.Abort:
        print("loadtest: interrupted.", file=sys.stderr)
        sys.exit(130)
    except LoadTestError as error:
        print(f"loadtest: {redacted(str(error))}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone: nothing left to say
        sys.exit(0)
    except OSError as error:
        print(f"loadtest: cannot write {error.filename or 'the output'}: {error.strerror}.", file=sys.stderr)
        sys.exit(2)
