"""Pages of docs/ that are made from the code: the command line, a scenario's keys, the glossary."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from loadtest.analyse.reports.glossary import GLOSSARY
from loadtest.cli import COMMANDS, cli
from loadtest.cli.run import run_groups
from loadtest.scenario import Key, Scenario, keys_of
from loadtest.scenario.keys import ATTRIBUTE, OPTION
from support.places import ROOT

KEYS = {one.flag: f"`{one.name}`" for one in keys_of(Scenario)}  # help names them as options, a scenario file as keys
OPTION_HELP = re.compile(r"^  -.*\n(?: {6,}.*\n)*", re.MULTILINE)  # an option of --help, with what it does
HELP_OPTION = "-h, --help"
FOOT = "_Made from the code: `scripts/docs made` writes this page anew._\n"


def cli_page() -> str:
    """Return docs/cli.md: the help of every command, as printed 110 columns wide, but options of `run` once."""
    texts = _helps()
    of_run = {" ".join(option.split()) for option in OPTION_HELP.findall(texts["loadtest run"])}
    top = "Every command, as its `--help` prints it. What an option of `loadtest run` does is said there, and not again elsewhere.\n"
    parts = ["# Command line\n", top]
    for title, text in texts.items():
        shown = text if title in ("loadtest", "loadtest run") else _without(of_run, text)
        parts.append(f"## {title}\n\n```\n{shown}```\n")
    return "\n".join([*parts, FOOT])


def _without(of_run: set[str], text: str) -> str:
    """Return the help of a command with the options that it shares with `loadtest run` named in a line at the end."""
    shared = [option for option in OPTION_HELP.findall(text) if " ".join(option.split()) in of_run]
    for option in shared:
        text = text.replace(option, "")
    text = re.sub(r"\n[A-Z]\w+:\n(?=\n|$)", "", text)  # headings with nothing left below
    names = [found[0] for option in shared if HELP_OPTION not in option and (found := re.search(r"--[\w-]+", option))]
    as_there = click.formatting.wrap_text(f"As in loadtest run: {', '.join(names)}.", 110, "  ", "    ")
    return f"{text}\n{as_there}\n" if names else text


def _helps() -> dict[str, str]:
    """Return what `--help` prints of `loadtest` and of each command, each with a line's end."""
    found: dict[str, str] = {}
    for name in (None, *COMMANDS):
        title = f"loadtest {name}" if name else "loadtest"
        with click.Context(cli, info_name="loadtest", terminal_width=110, **cli.context_settings) as parent:
            command = cli.get_command(parent, name) if name else cli
            assert command is not None
            command._help_option = None  # click keeps the one that a test's lone call of the command made, without -h
            if name:
                with click.Context(command, info_name=name, parent=parent, terminal_width=110) as context:
                    text = command.get_help(context)
            else:
                text = cli.get_help(parent)
        found[title] = f"{text}\n"
    return found


SCENARIO_TOP = """# Scenario keys

A scenario file says what `loadtest run` measures. It is TOML: a key a line, and the keys of a table below its `[name]`.

```toml
concurrency = [1, 2, 4, 8]
output_tokens = [64]
requests_per_stream = 8
temperature = 0.0

[request]
ignore_eos = true
```

Every key is also an option of [`loadtest run`](cli.md#loadtest-run) (with `-` for `_`), which explains it in full. It is an environment
variable (`LOADTEST_` and the name in capitals), and a keyword of `Scenario` in Python. An option wins over the environment, and
the environment over the file, each also over a key there that excludes it: `--requests` takes the place of a file's `duration`. *Locust*
says where Locust's users take the key: as an attribute of the user class, as an option of the command line, or both.
"""


def scenario_page() -> str:
    """Return docs/scenario.md: every key with its table, type, unit and default, in the groups of `loadtest run --help`."""
    keys = {one.name: one for one in keys_of(Scenario)}
    homes = run_groups()
    parts = [SCENARIO_TOP]
    left = dict(keys)
    for heading, names in homes.items():
        if heading == "Most used":  # each of its keys stands in its own part as well
            continue
        found = [left.pop(name) for name in names if name in left]
        if found:
            parts.append(_keys_table(heading, found))
    if left:
        parts.append(_keys_table("Other", list(left.values())))
    return "\n".join([*parts, FOOT])


def _keys_table(heading: str, keys: list[Key]) -> str:
    rows = [f"| `{one.name}` | {_type(one)} | {_default(one)} | {_locust(one)} | {_what(one)} |" for one in keys]
    return "\n".join(
        [
            f"## {heading}",
            _place(keys),
            "| key | type | default | Locust | what it does |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _place(keys: list[Key]) -> str:
    """Return where in a scenario file the keys stand, in a sentence; empty where that is above all tables."""
    tables = sorted({one.table for one in keys if one.table is not None})
    if not tables:
        return ""
    (table,) = tables  # a group of two would need a column for it
    above = ", ".join(f"`{one.name}`" for one in keys if one.table is None)
    rest = f" These stand above all tables: {above}." if above else ""
    return f"\nIn the table `[{table}]`.{rest}\n"


def _type(key: Key) -> str:
    kind = {int: "integer", float: "number", str: "string", bool: "boolean"}[key.kind]  # in TOML's words
    if key.choices:
        kind = ", ".join(f"`{one}`" for one in key.choices)
    if key.length or key.span:
        kind += " or distribution"
        return f"list of {kind.replace(' or', 's or')}s" if key.listed else kind
    return f"list of {kind}s" if key.listed else kind


def _default(key: Key) -> str:
    if key.default in (None, "", False, ()):
        return "–"
    value = list(key.default) if isinstance(key.default, tuple) else key.default
    return f"`{value}`"


def _locust(key: Key) -> str:
    words = {ATTRIBUTE: "attribute", OPTION: "option"}
    return ", ".join(words[one] for one in key.locust) or "–"


def _what(key: Key) -> str:
    unit = f" [{key.unit}]" if key.unit else ""
    first = re.split(r"(?<!e\.g)(?<! loop)(?<!Name)[.;:] ", key.help.rstrip("."))[0]  # docs/cli.md has the rest
    text = re.sub(r"--[a-z-]+", lambda flag: KEYS.get(flag[0], flag[0]), f"{first}.{unit}")
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def glossary_page() -> str:
    """Return docs/glossary.md: the words that a report explains at its end, in the order of the alphabet."""
    lines = [
        "# Glossary\n",
        "The words of reports and of these pages. Every report ends with the same list.\n",
    ]
    lines += [f"**{word}**\n: {text}\n" for word, text in sorted(GLOSSARY, key=lambda entry: entry[0].casefold())]
    lines.append(
        "[Metrics](metrics.md) has the formula of every figure, [Files of a run](records.md) the fields of a record.\n"
    )
    return "\n".join([*lines, FOOT])


MADE: dict[str, Callable[[], str]] = {
    "docs/cli.md": cli_page,
    "docs/scenario.md": scenario_page,
    "docs/glossary.md": glossary_page,
}


if __name__ == "__main__":
    for path, make in MADE.items():
        (ROOT / path).write_text(make(), encoding="utf-8")
