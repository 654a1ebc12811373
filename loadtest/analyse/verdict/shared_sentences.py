"""What records say in words, told once for all that say it: how requests failed, and what was odd in answers."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from loadtest.analyse.run import RunData, grouped
from loadtest.metrics import S_PER_US
from loadtest.records import NO_FAILURES, Outcome
from loadtest.text import capitalised, counted, listed, seconds, shown, some_of

FILTERED = "content_filter"
MOST_KINDS = 5  # of notes, or of models, that are shown
LEAST_CONNECT_US = 1000  # below it nobody feels that a connection is opened
LONGEST_QUOTE = 200  # characters of a server's own words in one reason


@dataclass(frozen=True, slots=True)
class SharedSentence:
    """A sentence that several records carry; sentences that differ only in numbers count as the same."""

    sentence: str
    count: int
    alike: bool  # all of them are the same to the letter

    def __str__(self) -> str:
        return self.sentence if self.alike else f"for example, {self.sentence}"


def commonest(sentences: Iterable[Any]) -> list[SharedSentence]:
    """Return the kinds of sentences, the commonest first, without full stops and shortened where they are long."""
    said = (each for each in sentences if isinstance(each, str) and each.strip())
    kinds = grouped((re.sub(r"\d+", "0", each), each) for each in said)
    return [
        SharedSentence(
            textwrap.shorten(min(alike), LONGEST_QUOTE, placeholder=" …").rstrip("."),
            len(alike),
            len(set(alike)) == 1,
        )
        for alike in sorted(kinds.values(), key=len, reverse=True)
    ]


def list_outcomes(requests: pd.DataFrame) -> str:
    """List outcomes with their commonest error, the commonest outcome first: "4 http_error: HTTP 503"."""
    parts = []
    for name, count in requests["outcome"].value_counts().items():
        mine = requests[requests["outcome"] == name]
        said = commonest(mine["error"])
        most = "" if not said or said[0].count == count else f", {said[0].count} of them"
        parts.append(f"{count} {name}{_status(mine, said)}{most}" + (f": {said[0]}" if said else ""))
    return "; ".join(parts) if any(": " in part for part in parts) else ", ".join(parts)


def _status(requests: pd.DataFrame, said: list[Any]) -> str:
    """Return " (HTTP 500)" for http errors whose words do not name their status."""
    if requests["outcome"].iloc[0] != Outcome.HTTP_ERROR:
        return ""
    codes = sorted({int(status) for status in requests["status"].dropna() if not 200 <= status < 300})
    return f" (HTTP {listed(codes)})" if codes and not (said and str(codes[0]) in said[0].sentence) else ""


def answer_notes(run: RunData) -> Iterator[str]:
    """Yield sentences on what was odd in answers without spoiling figures, and on requests that were sent twice."""
    measured = run.requests[~run.requests["warmup"].astype(bool)]
    found = commonest(note for said in measured["notes"] for note in dict.fromkeys(said))[:MOST_KINDS]
    yield from (f"{said.count} of {len(measured)} requests: {said}." for said in found)
    if filtered := int((measured["finish_reason"] == FILTERED).sum()):
        answers = "answer" if filtered == 1 else "answers"
        whose = f"{filtered} of {counted(len(measured), 'request')}"
        yield f"A content filter or a refusal ended the {answers} of {whose}."
    for (asked, name), mine in measured.groupby(["model", "said_model"]):
        yield (
            f"{len(mine)} of {len(measured)} requests were answered by the model {shown(str(name))}, by its answers' word; "
            f"{shown(str(asked))} was asked for."
        )
    opened = measured["connect_us"][measured["connect_us"] >= LEAST_CONNECT_US]
    if 2 * len(opened) > len(measured):
        took = seconds(float(opened.median()) * S_PER_US)
        due = any(level.get("rate") is not None for level in run.levels)
        held = "only TTFT from t_sched holds" if due else "no TTFT holds"
        yield f"For {len(opened)} of {len(measured)} requests a connection was opened first, in {took} (p50), which {held}."
    warm = run.requests[run.requests["warmup"].astype(bool)]
    failed = warm[~warm["outcome"].isin(NO_FAILURES)]
    if len(failed) and measured["ok"].any():
        which = capitalised(some_of(len(failed), len(warm), "warm-up request"))
        yield f"{which} failed, which no figure counts ({list_outcomes(failed)})."
    if len(after := measured["resent_after_s"].dropna()):
        twice = f"{len(after)} of {len(measured)} requests {'was' if len(after) == 1 else 'were'} sent twice"
        died = "a kept connection died without a byte of answer. TTFT counts from the first send"
        yield f"{twice}: {died}, up to {seconds(max(float(after.max()), 0.0))} before the second."
