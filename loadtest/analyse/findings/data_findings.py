"""What a run shows of its own data: how long all rows took, and which lengths distributions came to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run import RunData
from loadtest.doubts import VOID
from loadtest.metrics import SEVERAL_TOKENS, enough_for
from loadtest.text import counted, listed, number, seconds, some_of

ABOUT_ONE = 1.05  # tokens a piece, up to which a piece is said to count as one
SIDES = (("input_lengths", "Prompts", "prompt_tokens"), ("output_lengths", "Answers", "output_tokens"))


def batch_findings(run: RunData, levels: Sequence[dict[str, Any]]) -> list[Finding]:
    """Say how long all rows of a data file took, where each level sent every row once."""
    if not (run.scenario.get("data_once") and run.scenario.get("data")):
        return []
    name, found = Path(str(run.scenario["data"])).name, []
    asked = {level["index"]: level.get("requests") for level in run.levels}
    own = {level["index"]: level.get("label") for level in run.levels}  # without the names of models and servers
    for level in {level["index"]: level for level in levels}.values():  # of several servers, which share its rows, once
        verdicts = {each["verdict"] for each in levels if each["index"] == level["index"]}
        every, ended = run.requests[run.measured(level["index"])], run.requests[run.sent(level["index"])]
        span = float(every["end"].max() - every["sched"].min()) if len(ended) else 0.0
        if VOID in verdicts or not span > 0:
            continue
        load = str(own[level["index"]] or level["label"]).partition(" · ")[0]
        good, of = run.requests[run.good(level["index"])], asked.get(level["index"]) or 0
        speeds = [
            f"{number(float(good[column].sum()) / span)} {word} tokens/s"
            for column, word in (("prompt_tokens", "input"), ("output_tokens", "output"))
            if len(good) and good[column].notna().all()
        ]
        failed = len(ended) - len(good) - int(run.left(level["index"]).sum())
        took = f"{counted(len(ended), 'row')} of {name} took {seconds(span)} at {load}"
        if len(ended) < of:
            took = f"{len(ended)} of the {of} rows of {name} were over after {seconds(span)} at {load}, when the level ended"
        found.append(
            Finding(f"{took}{f': {listed(speeds)}' if speeds else ''}{f'; {failed} of them failed' if failed else ''}.")
        )
    return found


def length_findings(run: RunData, levels: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Say which lengths came of the distributions that were asked for."""
    for key, what, column in SIDES:
        for asked in dict.fromkeys(level[key] for level in levels if level.get(key)):
            asked_for = run.good(*(level["index"] for level in levels if level.get(key) == asked))
            if key == "input_lengths":  # later turns hold what was said before
                asked_for &= ~np.asarray(run.requests["turn"] > 0, dtype=np.bool_)
            else:  # pieces of text, and lengths that are taken to be as asked, are no counts of tokens
                asked_for &= run.requests["token_source"].isin(("server", "tiktoken")).to_numpy(dtype=np.bool_)
            got = run.requests[column][asked_for].dropna()
            if not len(got):
                continue
            middle, high, most = (f"{np.percentile(got, q):,.0f}" for q in (50, 95, 100))
            top = f"p95 {high}" if enough_for(0.95, len(got)) else f"at most {most}"
            shared = next((level["system_tokens"] for level in levels if level.get("system_tokens")), None)
            more = f", {shared} of them shared" if shared and key == "input_lengths" else ""
            yield f"{what}: {asked} asked; median {middle}, {top} tokens{more}."


def counting_finding(run: RunData, levels: Sequence[dict[str, Any]]) -> str | None:
    """Say that pieces of text stand for tokens where answers give no count of tokens."""
    good = run.good(*(level["index"] for level in levels))
    uncounted = good & run.one_of("token_source", "chunks")
    pieces, of = int(uncounted.sum()), int(good.sum())
    if not pieces:
        return None
    said = f"{pieces} of {of} answers did not say their tokens: there"
    if run.tokens_a_piece(uncounted) > ABOUT_ONE:
        return f"{said} a piece of text counts as many tokens as in answers that are as long as was asked for."
    if pieces == of:
        return "No answer said its tokens: each piece of text counts as one, so tokens/s are pieces/s."
    return f"{said} each piece of text counts as one."


def piece_finding(run: RunData, levels: Sequence[dict[str, Any]]) -> Finding | None:
    """Say how many tokens a piece of text holds where these are several: gaps are then between pieces, not between tokens."""
    counted_ones = run.good(*(level["index"] for level in levels)) & run.one_of(
        "token_source", "server", "asked", "tiktoken"
    )
    held = run.tokens_a_piece(counted_ones & (run.chunks.counts > 1))
    if not held >= SEVERAL_TOKENS:
        return None
    return Finding(
        f"A piece of text holds {number(held)} tokens on average: ITL is the gap between two pieces, not between two tokens.",
        "Servers that speculate or send several tokens at a time do so, and gateways that gather them. TTFT is the arrival of the first piece.",
    )


def hidden_finding(run: RunData, levels: Sequence[dict[str, Any]]) -> str | None:
    """Say in how many answers the first token is of hidden text, and how much later the text came that users read."""
    good = run.good(*(level["index"] for level in levels)) & (run.column("chunks") > 0)
    later = (run.column("first_visible") - run.column("first_token"))[good]
    silent = np.isnan(later)
    count, never = int((silent | (later > 0)).sum()), int(silent.sum())
    if not count:
        return None
    came = "never came"
    if never < count:
        came = f"came {seconds(float(np.median(later[later > 0])))} later in the median"
        came += f", and never in {never} of them" if never else ""
    which = some_of(count, len(later), "answer")
    return f"TTFT is that of hidden text, such as reasoning, in {which}: the text that users read {came}."


def clock_finding(run: RunData) -> Finding | None:
    """Say that a server's durations are left out, because it took them by another clock."""
    factors = run.requests["clock_factor"].dropna()
    if not len(factors):
        return None
    return Finding(
        f"The server's durations are left out: by them decoding took {number(float(factors.iloc[0]))} times as long as its tokens "
        "came.",
        "They are of another clock or unit, they count otherwise, or a gateway hands tokens on at a pace of its own. Waits and prefill are told as "
        "of a server that says none.",
    )
