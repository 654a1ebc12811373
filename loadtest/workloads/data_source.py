"""Prompts from a data file: its rows as they are, in their order, without a nonce."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from loadtest.errors import ScenarioError
from loadtest.scenario import ANY, DEFAULT_OUTPUT, Level, Scenario
from loadtest.text import counted, listed
from loadtest.workloads.drawn_lengths import LARGER_CONTEXT
from loadtest.workloads.files.data_file import DataFile
from loadtest.workloads.files.data_row import Row
from loadtest.workloads.job import Job
from loadtest.workloads.messages import rounds, system_apart, text_of
from loadtest.workloads.source import Session, SingleRequest, seed_of
from loadtest.workloads.tokens import Counter, TokenFit

WORKER_STRIDE = 10**9  # ordinals of one worker's requests; every worker counts in a stretch of its own
GOLDEN = (5**0.5 - 1) / 2  # the fractional parts of its multiples lie far apart
MOST_NAMED, MOST_NAME = 8, 40  # columns in a sentence, characters of each
MOST_COUNTED = 20_000  # rows whose tokens are counted to see whether they fit the context, the longest first


@dataclass(frozen=True, slots=True)
class DataSource:
    """Sends row after row; behind the last row follows the first."""

    scenario: Scenario
    file: DataFile

    @classmethod
    def of(cls, scenario: Scenario, counter: Counter, fit: TokenFit) -> Self | None:  # noqa: ARG003
        file = data_file(scenario)
        return None if file is None else cls(scenario, file)

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Session:
        number = self.number(level, i, warmup=warmup)
        row = self.file.row(number)
        seed = seed_of(self.scenario, level, i, warmup=warmup)
        length = row.output_tokens if row.output_tokens is not None else level.output_tokens
        return SingleRequest(
            Job(
                i,
                level.index,
                seed,
                row.text,
                None,
                length,
                warmup=warmup,
                messages=row.messages,
                row=row.id if row.id is not None else str(number + 1),
                body=row.body,
            )
        )

    def number(self, level: Level, i: int, *, warmup: bool) -> int:
        """Return which row a session sends; warm-ups take the last rows, which are sent last.

        A level goes on where the one before it ended. Where that is not known, as time ends levels, each begins at a place of its own.
        """
        if warmup:
            return -1 - i % len(self.file) + len(self.file)
        # each of Locust's workers begins at a row of its own, far from the others'
        worker, i = divmod(i, WORKER_STRIDE)
        apart = worker if level.requests else worker + level.index
        begin = 0 if self.scenario.data_once else level.before
        return (begin + i + int(apart * GOLDEN % 1 * len(self.file))) % len(self.file)


def data_file(scenario: Scenario) -> DataFile | None:
    """Return the file whose rows a scenario sends, read through; None where it has none. Raises ScenarioError."""
    if scenario.data is None:
        return None
    file = DataFile.read(Path(scenario.data), scenario.data_column)
    if scenario.shares_prefix and file.systems is not None:
        raise ScenarioError(
            f"{file.name(file.systems - 1)} of {scenario.data} has a system prompt of its own; leave out system and "
            "system_tokens."
        )
    return file


def data_notes(file: DataFile, scenario: Scenario) -> Iterator[str]:
    """Yield what a user should know of a data file before it is sent, a sentence each."""
    path, rows = file.path, counted(len(file), "row")
    if file.lines:
        yield f"{path}: each line is sent as a prompt; one text for every request is given with --prompt-file."
    if file.left_out:
        yield f"{path}: {counted(file.left_out, 'conversation')} without a word of a user left out, {rows} kept."
    if scenario.has_sessions:
        how = (
            "recorded answers stand in them"
            if scenario.answers == "recorded"
            else "the server's own answers stand in them"
        )
        yield f"{path}: {rows} played turn by turn; {how}. Where they run out the first follows again."
    else:
        yield from _left_out_notes(file)
    if file.unheard:
        yield f"{path}: messages of {_roles(file.unheard)} are left out of its conversations."
    if file.in_turn:
        yield (
            f"{path}: the texts in a list are taken for what a user says, one after another. Where the model's answers stand "
            "between them, name the column conversation."
        )
    if file.strange:
        yield f"{path}: messages of {_roles(file.strange)} are sent as they are; most servers know user, assistant, system and tool."
    if file.same_ids:
        apart = " Each is sent by itself: turns of a conversation belong in one row." if file.of_sessions else ""
        yield f"{path}: {counted(file.same_ids, 'row')} with the id of another row: records name them alike.{apart}"
    if file.own_lengths > 0:
        yield f"{path}: {file.own_lengths} of {rows} with a length of the answer, which wins over output_tokens."
    if file.own_lengths < len(file) and [*scenario.output_tokens] == DEFAULT_OUTPUT:
        most = DEFAULT_OUTPUT[0]
        yield f"{path}: answers end after {most} tokens at the latest; output_tokens takes another number, or {ANY}: the model ends them."
    if file.unsent and scenario.data != scenario.trace:  # which uses columns of its own
        names = [name[:MOST_NAME] for name in file.unsent]
        more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
        yield (
            f"{path}: columns that are not sent: {listed([*names[:MOST_NAMED], *more])}. What belongs to the prompt goes into "
            "its column, and what belongs to the request into an object named body (jq -c '.body += {tools}')."
        )
    if file.template is not None:
        yield f"{path}: {file.template} in a prompt is sent as it stands; loadtest fills nothing in."
    yield from _endpoint_notes(file, scenario)
    if file.with_body is not None:
        yield f"{path}: rows lay {file.with_body} over the request's body, as they are."
    if not scenario.has_sessions:
        yield from _repeat_notes(file, scenario)


def _endpoint_notes(file: DataFile, scenario: Scenario) -> Iterator[str]:
    """Yield which rows of a batch file are requests to another endpoint than the one measured."""
    to, rows = scenario.endpoint, counted(len(file), "row")
    for named, count in file.sent_to.items():
        alike = (to, named) == ("generate", "completions") or (scenario.api, named) == ("anthropic", "messages")
        if named == to or alike:  # the same thing under another API's name
            continue
        if count == len(file):
            said = f"its rows are requests to {named}, and go to the {to} endpoint; --endpoint {named} sends them there"
        else:
            said = (
                f"of its {rows} {count} {'is' if count == 1 else 'are'} for {named}, and the {to} endpoint gets all; split the file, "
                f"and send that part with --endpoint {named}"
            )
        yield f"{file.path}: {said}."


def _roles(names: Iterable[str]) -> str:
    known = [name[:MOST_NAME] for name in names]
    return f"the role{'s' * (len(known) > 1)} {listed(known)}"


def _repeat_notes(file: DataFile, scenario: Scenario) -> Iterator[str]:
    """Yield where rows are sent again, and the server may still hold them."""
    path, rows = file.path, counted(len(file), "row")
    if scenario.data_once:
        if len(scenario.concurrency) > 1:
            yield "Each level sends every row again: from the second on the server's prefix cache may hold the prompts."
        return
    if scenario.duration is not None or scenario.open_loop:
        others = " A level may also come to rows of another." if len(scenario.levels()) > 1 else ""
        yield f"{path} has {rows}. Where they run out the first follows again.{others} The server's prefix cache may hold what it has read."
        return
    levels = scenario.levels()
    warmups = max((level.concurrency or 1) for level in levels) * scenario.warmup
    sent = sum(level.requests for level in levels)
    if sent + warmups > len(file):
        yield (
            f"{path} has {rows}, and {sent} requests are sent besides warm-ups: rows are sent again, and the server's "
            "prefix cache may hold what it has read before."
        )


def _left_out_notes(file: DataFile) -> Iterator[str]:
    """Yield what rows hold and single requests do not send: recorded answers, and what follows them."""
    if file.recorded:
        yield f"{file.path}: {counted(file.recorded, 'row')} with a recorded answer, which is not sent."
    if file.goes_on:
        yield (
            f"{file.path}: {counted(file.goes_on, 'conversation')} of several turns; what follows the first is not sent. With "
            "--answers conversations are played turn by turn."
        )


def _first_prompt(row: Row, scenario: Scenario) -> str:
    """Return the text of a row's first request."""
    if not scenario.has_sessions:
        return row.text
    system, transcript = system_apart(row.transcript)
    return "\n".join(filter(None, (system, text_of(rounds(transcript, alone=row.questions)[0].said))))


def check_rows_fit(file: DataFile, scenario: Scenario, counter: Counter, fit: TokenFit, context: int) -> None:
    """Raise ScenarioError for a row that does not fit the context with its answer: the server would cut it.

    A token has one byte or more, so rows of no more bytes than the context has tokens need no counting. The fit comes from
    made-up words: where it says more tokens than we count, that may not hold of a row, whose own count is then taken.
    """
    least = replace(fit, ratio=min(fit.ratio, 1.0))
    asked = max((each for each in scenario.output_tokens if isinstance(each, int)), default=1)
    shared = scenario.system_tokens or 0
    columns = zip(file.starts, file.ends, file.answers, strict=True)
    sizes = ((end - start + (answer or asked), -i) for i, (start, end, answer) in enumerate(columns))
    long = heapq.nlargest(MOST_COUNTED, (each for each in sizes if each[0] + shared > context))
    too_long: list[tuple[int, int, int]] = []
    for _, negative in long:
        row = file.row(-negative)
        answer = row.output_tokens if row.output_tokens is not None else asked
        prompt = least.server(counter.count(_first_prompt(row, scenario))) + shared
        if prompt + answer > context:
            too_long.append((-negative, prompt, answer))
    if not too_long:
        return
    number, prompt, answer = min(too_long)
    more = f"; {len(too_long) - 1} more rows do not fit" if len(too_long) > 1 else ""
    raise ScenarioError(
        f"{file.name(number)} of {file.path} needs about {prompt + answer} tokens ({prompt} and an answer of {answer}), but "
        f"the context is {context}{more}; take them out, ask for less or {LARGER_CONTEXT}."
    )
