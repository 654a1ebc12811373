"""What is said of a data file's rows and of lengths: only of rows that were over, and of tokens that were counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest

from loadtest.analyse.findings import data_findings
from loadtest.analyse.run.run_data import RunData
from loadtest.records import Outcome

LEVEL = {"index": 0, "label": "8 streams", "concurrency": 8, "rate": None}


@pytest.mark.parametrize(
    ("sources", "answers"),
    [
        (("server",), True),
        (("tiktoken",), True),
        (("chunks",), False),  # pieces of text
        (("chunks", "server"), True),
        (("asked",), False),  # of servers that count nothing (llama-cpp-python, FastChat)
    ],
)
def test_lengths_are_said_of_tokens_that_were_counted(sources: tuple[str, ...], *, answers: bool) -> None:
    rows = pd.DataFrame({"prompt_tokens": 10.0, "output_tokens": 5.0, "turn": 0, "token_source": [*sources, *sources]})
    run = cast("RunData", SimpleNamespace(requests=rows, good=lambda _: np.ones(len(rows), dtype=np.bool_)))
    asked = [LEVEL | {"input_lengths": "a", "output_lengths": "b", "system_tokens": None}]
    told = ["Prompts: a asked; median 10, at most 10 tokens."]
    told += ["Answers: b asked; median 5, at most 5 tokens."] * answers
    assert list(data_findings.length_findings(run, asked)) == told


@pytest.mark.parametrize(
    ("outcomes", "counts", "said"),
    [
        ("oooo", (10, 10, 10, 10), "4 rows of rows.jsonl took 4.00 s at 8 streams: 10.0 output tokens/s."),
        (
            "ooof",
            (10, 10, 10, None),
            "4 rows of rows.jsonl took 4.00 s at 8 streams: 7.50 output tokens/s; 1 of them failed.",
        ),
        (  # was "4 rows took …; 2 of them failed" of a run that Ctrl-C ended
            "oocc",
            (10, 10, None, None),
            "2 of the 4 rows of rows.jsonl were over after 4.00 s at 8 streams, when the level ended: 5.00 output tokens/s.",
        ),
        (
            "oo",
            (10, 10),
            "2 of the 4 rows of rows.jsonl were over after 2.00 s at 8 streams, when the level ended: 10.0 output tokens/s.",
        ),
        (  # was "5.00 output tokens/s", the half that was counted
            "oooo",
            (10, None, 10, None),
            "4 rows of rows.jsonl took 4.00 s at 8 streams.",
        ),
    ],
)
def test_what_a_batch_took_is_said_of_the_rows_that_were_over(
    outcomes: str, counts: tuple[int | None, ...], said: str
) -> None:
    names = {"o": Outcome.OK, "f": Outcome.HTTP_ERROR, "c": Outcome.CANCELLED}
    rows = pd.DataFrame({"sched": np.arange(len(outcomes)), "end": np.arange(len(outcomes)) + 1.0})
    rows = rows.assign(outcome=[names[each] for each in outcomes], prompt_tokens=np.nan)
    rows["output_tokens"] = np.array([np.nan if count is None else count for count in counts])
    run = SimpleNamespace(
        requests=rows,
        levels=[{"index": 0, "requests": 4}],
        scenario={"data": "rows.jsonl", "data_once": True},
        measured=lambda _: np.ones(len(rows), dtype=np.bool_),
        sent=lambda _: rows["outcome"] != Outcome.CANCELLED,
        good=lambda _: rows["outcome"] == Outcome.OK,
        left=lambda _: np.zeros(len(rows), dtype=np.bool_),
    )
    found = data_findings.batch_findings(cast("RunData", run), [LEVEL | {"verdict": "valid"}])
    assert found == [said]
    # rows that two servers shared were all said of each, at its name
    run.levels[0]["label"] = "8 streams"
    apart = [
        LEVEL | {"verdict": verdict, "label": f"{name} · 8 streams"}
        for name, verdict in (("a", "valid"), ("b", "suspect"))
    ]
    assert data_findings.batch_findings(cast("RunData", run), apart) == [said]


@pytest.mark.parametrize(
    ("sources", "held", "said"),
    [
        (
            ("chunks", "chunks"),
            1.0,
            "No answer said its tokens: each piece of text counts as one, so tokens/s are pieces/s.",
        ),
        (
            ("chunks", "asked", "asked"),
            1.0,
            "1 of 3 answers did not say their tokens: there each piece of text counts as one.",
        ),
        (
            ("chunks", "asked", "asked"),
            1.88,
            (
                "1 of 3 answers did not say their tokens: there a piece of text counts as many tokens as in answers that are as long "
                "as was asked for."
            ),
        ),
        (("server", "tiktoken", "asked", None), 1.0, None),
    ],
)
def test_pieces_that_are_counted_as_tokens_are_said_to_be_pieces(
    sources: tuple[str, ...], held: float, said: str | None
) -> None:
    """Was "The server counts no tokens" of one that was not asked to, or whose counts a gateway drops."""
    rows = pd.DataFrame({"token_source": sources})
    run = SimpleNamespace(
        good=lambda _: np.ones(len(rows), dtype=np.bool_),
        one_of=lambda name, value: np.asarray(rows[name] == value),
        tokens_a_piece=lambda _: held,
    )
    assert data_findings.counting_finding(cast("RunData", run), [LEVEL]) == said


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ((0.0, 0.0, 0.0), None),
        ((0.0, 0.2, 0.4), "2 of 3 answers: the text that users read came 300 ms later in the median"),
        (
            (0.2, 0.2, np.nan),
            "all 3 answers: the text that users read came 200 ms later in the median, and never in 1 of them",
        ),
        ((np.nan, np.nan), "both answers: the text that users read never came"),
    ],
)
def test_where_the_first_token_is_a_thought_it_is_said_when_users_read_something(
    later: tuple[float, ...], said: str | None
) -> None:
    """A real Ollama's model that thinks: TTFT of its first thought, and not a word on when the text to read came."""
    columns = {
        "first_token": np.ones(len(later)),
        "first_visible": 1 + np.array(later),
        "chunks": np.full(len(later), 9),
    }
    run = cast("RunData", SimpleNamespace(column=columns.get, good=lambda *_: np.ones(len(later), dtype=np.bool_)))
    found = data_findings.hidden_finding(run, [LEVEL])
    assert found == (said and f"TTFT is that of hidden text, such as reasoning, in {said}.")
