"""Prompts: what each request asks, in a conversation turn after turn, and how long an answer it asks for."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.scenario.files import MOST_PROMPT, check_words, prompt_of, refuse_file_name
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key
from loadtest.scenario.values import TOKEN_COUNTS, Range, Text

DEFAULT_OUTPUT = [64]  # tokens
ANY = "any"  # as output_tokens: the model ends its answers, as an empty list says too
ANSWERS = ("server", "recorded")
MOST_TURNS = 10_000  # of a conversation


def _output_lengths(given: Any) -> Any:
    said = given[0] if isinstance(given, list | tuple) and len(given) == 1 else given
    return [] if isinstance(said, str) and said == ANY else given


_session_key = functools.partial(key, table="sessions", locust=(ATTRIBUTE, OPTION))


@dataclass(frozen=True, kw_only=True)
class PromptKeys:
    """Keys that decide the texts of a run and the lengths of its answers."""

    input_tokens: Sequence[int | str] = key(
        "Lengths of made-up prompts; each is a level, and one may be a distribution, such as lognormal(800, 0.6) or 200@70%+4000@30%.",
        [128],
        unit="tokens",
        bounds=TOKEN_COUNTS,
        length=True,
        locust=(ATTRIBUTE, OPTION),
    )
    up_to_context: bool = key(
        "Leave out prompt lengths that do not fit the model's context, and add the longest that does.", default=False
    )
    output_tokens: Sequence[int | str] = key(
        "Lengths of answers to ask for; each is a level, and one may be a distribution. any: the model ends them.",
        DEFAULT_OUTPUT,
        convert=_output_lengths,
        unit="tokens",
        bounds=TOKEN_COUNTS,
        length=True,
        locust=(ATTRIBUTE, OPTION),
    )
    prompt: str | None = key(
        "Send this text, behind a nonce (see --warm-cache), instead of made-up prompts. {words} in it stands for each of --words.",
        None,
        text=Text(MOST_PROMPT, "write a prompt, or leave it out", lines=True),
        locust=(ATTRIBUTE,),
    )
    prompt_file: str | None = key(
        "Send the text of this file, as --prompt sends its own: behind a nonce, with {words}.",
        None,
        text=Text(4096, "name a text file, or leave it out"),
        file="",
        metavar="FILE",
    )
    words: Sequence[int] = key(
        "Numbers that {words} in the prompt stands for. Each one is a level.", [], bounds=Range(1, 1e9)
    )
    seed: int | None = key(
        "Seed of every prompt. Default: a new one for each run (kept in run.json), because the same texts would meet a warm "
        "prefix cache.",
        None,
        bounds=Range(-(2**63) + 1, 2**63 - 1),
    )
    warm_cache: bool = key(
        "Leave out the nonce, a number in front of each prompt that makes it differ, so that the server's prefix cache may answer.",
        default=False,
        locust=(ATTRIBUTE,),
    )

    @property
    def literal(self) -> bool:
        """Whether the user wrote the prompt, rather than having one made up."""
        return self.prompt is not None or self.prompt_file is not None

    def prompt_text(self) -> str | None:
        """Return the literal prompt, read from its file where it has one; None when prompts are made up."""
        if self.prompt_file is None:
            return self.prompt
        return prompt_of(Path(self.prompt_file), has_words=bool(self.words))


@dataclass(frozen=True, kw_only=True)
class SessionKeys:
    """Keys that make requests the turns of conversations; `think_time` is a key of every closed loop."""

    turns: int | str | None = _session_key(
        "Let users hold made-up conversations of this many turns, one after another; a number or a distribution such as "
        "uniform(2, 6). With --data: at most this many turns of each conversation.",
        None,
        bounds=Range(1, MOST_TURNS),
        length=True,
    )
    follow_up_tokens: int | str | None = _session_key(
        "Length of what a user says in each later turn, or a distribution; default: --input-tokens.",
        None,
        unit="tokens",
        bounds=TOKEN_COUNTS,
        length=True,
    )
    answers: str | None = _session_key(
        "Which answers later turns of a conversation repeat: the server's own, or recorded ones (made up where nothing is "
        "recorded). With --data: play its conversations turn by turn.  [default: server]",
        None,
        choices=ANSWERS,
    )

    @property
    def has_sessions(self) -> bool:
        """Whether requests are turns of conversations, made up or from the data."""
        return self.turns is not None or self.answers is not None


def check_prompts(prompts: PromptKeys) -> None:
    if prompts.prompt is not None:
        refuse_file_name("prompt", prompts.prompt, "give it with --prompt-file (prompt_file)")
        check_words("the prompt", prompts.prompt, has_words=bool(prompts.words))
