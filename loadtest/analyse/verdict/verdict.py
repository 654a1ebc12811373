"""The verdict on a level (valid, suspect or void) with its reasons. The limits are in doubts.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from loadtest import doubts, metrics
from loadtest.analyse.figures import client_capacity
from loadtest.analyse.figures.stationarity import growth
from loadtest.analyse.run import BoolArray, FloatArray, LevelData, RunData
from loadtest.analyse.run.files.samples import grown
from loadtest.analyse.server.alternating_models import work_spans
from loadtest.analyse.server.model_memory import by_slots, cold_load
from loadtest.analyse.verdict import outcome_rules
from loadtest.analyse.verdict.evidence import Evidence
from loadtest.doubts import SUSPECT, VALID, VOID, Doubt
from loadtest.metrics import S_PER_US
from loadtest.text import counted, percent, seconds

CACHED_TOKENS = 32  # up to so many cached tokens are the chat template, which comes before the nonce in each prompt
CACHE_HIT = 0.25  # of a prompt; with more of it cached the request counts as a cache hit
COLLAPSED_PREFILL = 0.1  # of the usual prefill time per token; a shorter one counts as a cache hit
CLEARLY_BELOW = 0.5  # of the time of a prompt that has the server to itself
ALIKE_LENGTHS = 1.5  # longest / shortest of prompts whose times a token are compared
HIT_SHARE = 0.01  # of the requests; with more cache hits the level is suspect
ALONE = 1.1  # times the level's own prompt tokens: a server that looked up more had other clients, too
RELOAD_FACTOR = 10  # a reload takes so many times the level's median load …
RELOAD_FLOOR_S = 0.2  # … and at least so much more: loaded models report 1-25 ms, a tiny one reloads in 280 ms


def doubts_of(run: RunData, level: LevelData) -> list[tuple[str, Doubt]]:
    """Hold a level against every rule; return its doubts, those for void first, each behind its cause in RULES and REMEDIES."""
    evidence = Evidence.of(run, level)
    found = [(cause, doubt) for cause, rule in RULES.items() for doubt in rule(evidence)]
    return sorted(found, key=lambda each: each[1].severity != VOID)


def worst(verdicts: list[str]) -> str:
    """Return the worst of several verdicts; void where there are none."""
    return max(verdicts, key=(VALID, SUSPECT, VOID).index, default=VOID)


ENDED = {"done": VALID, "failed": VOID}  # best verdict of a run that ended so; of every other state: suspect


def of_run(run: RunData, levels: Sequence[LevelData]) -> str:
    """Return the worst of the levels' verdicts and of how the run ended."""
    return worst([worst([level["verdict"] for level in levels]), ENDED.get(str(run.facts.get("state")), SUSPECT)])


def stamps_of(requests: pd.DataFrame) -> str:
    """Return what stamped the arrivals of these requests; see doubts.stamped_by."""
    return doubts.stamped_by(int(requests["arrivals"].sum()), int(requests["stamped"].sum()))


def _late_sends(e: Evidence) -> Iterator[Doubt]:
    lags = e.values("schedule_lag_s")
    if len(lags):
        p99 = schedule_lag_p99(lags)
        yield from doubts.doubt_schedule_lag(len(lags), float(np.median(lags)), p99, e.lag_limit, of=e.waited_for)


def schedule_lag_p99(lags: FloatArray) -> float:
    """Return what is held against the limit: of fewer than 100 requests nearly the longest."""
    return float(np.nanquantile(lags, 0.99))


def _client_lag(e: Evidence) -> Iterator[Doubt]:
    mine = e.requests[~e.requests["held_back"]]  # others' gaps are nobody's
    if 2 * len(mine) < len(e.requests):
        return  # nor are those of the few that the client read late: answers are held back here
    reads, tokens = mine["late"], mine["late_tokens"]
    old = (reads > 0) & tokens.isna()  # records of older versions do not count the tokens that late reads spoil
    yield from doubts.doubt_late(int(reads[old].sum()), int(mine["arrivals"].sum()))
    gaps = int(np.maximum(mine["chunks"].sum() - (mine["chunks"] > 0).sum(), 0))
    spoilt = int(mine["late_gaps"].sum())
    yield from doubts.doubt_lag(int(reads[~old & (tokens > 0)].sum()), int(tokens.sum()), spoilt, gaps)


def _stood_still(e: Evidence) -> Iterator[Doubt]:
    """Doubt a level in which a process of the client was stopped: its users sent nothing then, and felt nothing."""
    samples = e.run.samples[e.run.samples["level"] == e.level["index"]]
    begin, end = float(e.measured["sched"].min()), float(e.measured["end"].max())
    gaps = samples["loop_gap_us"].to_numpy(dtype=np.float64) * 1e-6
    since = samples["t"].to_numpy(dtype=np.float64) - gaps  # at the latest: a sample is of the second before it
    inside = gaps[(since >= begin) & (since <= end)]
    yield from doubts.doubt_stood_still(inside.tolist(), end - begin, samples["file"].nunique())


def _unstamped(e: Evidence) -> Iterator[Doubt]:
    arrivals, stamped = int(e.requests["arrivals"].sum()), int(e.requests["stamped"].sum())
    if arrivals:
        yield from doubts.doubt_stamps(arrivals, stamped, float(np.quantile(e.values("lag_s"), 0.99)), e.lag_limit)


def _clock_gap(e: Evidence) -> Iterator[Doubt]:
    steps = e.run.fact("client", "clock_steps") or e.run.fact("clock_steps") or 0
    count = steps if isinstance(steps, int) else len(steps)
    if count:
        yield Doubt(VOID, f"a clock of the client jumped {counted(count, 'time')} during the run")


def reloaded(run: RunData, rows: BoolArray) -> pd.DataFrame:
    """Return those of the marked requests of a level that waited for a reload of the model.

    A long load_duration alone is not enough: a server does not reload a model while it works on another request to it. So
    for that long no other request to the model may have been worked on.
    """
    requests = run.requests[rows]
    loads = requests["load_s"].dropna()
    if len(loads) < 2:
        return requests[:0]
    usual = float(loads.median())
    long = max(RELOAD_FACTOR * usual, usual + RELOAD_FLOOR_S / run.speed)
    slow = requests[requests["load_s"] > long]
    return slow[_unserved(run, slow) > long] if len(slow) else slow


def _unserved(run: RunData, slow: pd.DataFrame) -> FloatArray:
    """Return the longest time within each request's model load in which no other request to its model was worked on, seconds."""
    longest = np.zeros(len(slow))
    start = slow["reached"].to_numpy(dtype=np.float64)
    end = start + slow["load_s"].to_numpy(dtype=np.float64)
    key = ["target", "model"]
    served = {name: work_spans(requests) for name, requests in run.requests.groupby(key)}
    for name, waiting in slow.reset_index(drop=True).groupby(key):
        begun, over = served[name]
        order = np.argsort(begun, kind="stable")
        begun, over = begun[order], np.maximum.accumulate(over[order])
        for i in waiting.index:
            inside = (begun < end[i]) & (over > start[i])
            free_from = np.append(start[i], over[inside])
            free_to = np.append(begun[inside], end[i])
            longest[i] = float((free_to - free_from).max())
    return longest


def _reload(e: Evidence) -> Iterator[Doubt]:
    if cold_load.is_cold(e.run):
        return  # its model loads are what is measured
    slow = reloaded(e.run, e.run.good(e.level["index"]))
    if "loaded_in_turn" in slow:
        slow = slow[~slow["loaded_in_turn"]]  # model loads in turn with another of the run are what was measured
    if not len(slow):
        return
    loads = e.values("load_s")
    usual = float(np.median(loads))
    longest, count = float(slow["load_s"].max()), len(slow)
    figures = f"{count} of {len(loads)} requests waited up to {seconds(longest)} for the model to load, where {seconds(usual)} is the median"
    if (slow["send"] > e.run.requests["first_token"].min()).any():
        yield Doubt(VOID, f"the model was reloaded in mid-run: {figures}")
    else:
        yield Doubt(SUSPECT, f"the model was loaded inside the measurement: {figures}")


def _coalesced(e: Evidence) -> Iterator[Doubt]:
    # Tokens that the server itself made at once, by its own stamps, were not merged on the way.
    merged = int((e.requests["first_coalesced"] & ~e.requests["together"]).sum())
    held = e.requests["held_back"]
    yield from doubts.doubt_coalesced(
        merged,
        len(e.requests),
        pieces=int(e.requests["chunks"].sum()),
        reads=int(e.requests["reads"].sum()),
        held_back=int(held.sum()),
        held_back_s=float(e.requests["decode_s"][held].sum()),
    )


SLOWED_SHARE = (
    0.6  # of the time over which an answer came, by the server's word: below, something on the way slows it down
)
BUNDLED_PIECES = 18  # few servers make so many tokens in one step: drafts are of 16 or fewer as a rule


def _bundled(e: Evidence) -> Iterator[Doubt]:
    """Doubt answers whose first token came by itself and many others at once, or all by and by, more slowly than written.

    A stall leaves them one by one.
    """
    chunks, row = e.run.chunks, np.flatnonzero(e.run.good(e.level["index"]))
    row = row[
        (chunks.counts[row] > BUNDLED_PIECES) & ~e.run.flag("together")[row] & ~e.run.flag("first_coalesced")[row]
    ]
    begin, end = chunks.starts[row], chunks.starts[row + 1]
    over = np.append(chunks.flat[BUNDLED_PIECES - 1 :] - chunks.flat[: 1 - BUNDLED_PIECES], 0)
    least = (
        np.minimum.reduceat(over, np.column_stack((begin, end - BUNDLED_PIECES + 1)).ravel())[::2] if len(row) else row
    )
    took = (chunks.flat[end - 1] - chunks.flat[begin]) * S_PER_US
    usual = took * BUNDLED_PIECES / chunks.counts[row]  # so many pieces take that long on average
    at_once = (least * S_PER_US < metrics.HELD_BACK_SHARE * usual) & (took > metrics.HELD_BACK_S)
    reads = e.run.column("reads")[row]
    at_once &= (reads > 0) & (chunks.counts[row] >= metrics.BUFFERED_PIECES * reads)
    if 2 * at_once.sum() > len(e.requests):
        yield Doubt(
            SUSPECT,
            f"{BUNDLED_PIECES} or more tokens of an answer came together, though the first came by itself, in {at_once.sum()} of "
            f"{len(e.requests)} requests: a gateway on the way or the server itself gathers them, so token gaps are not "
            "those of its steps, unless it accepts drafts so long",
        )
        return
    span, said = e.requests["e2e_s"] - e.requests["ttft_s"], e.requests["decode_s"]
    slowed = (
        (2 * e.requests["reads"] <= e.requests["chunks"]) & (span >= metrics.HELD_BACK_S) & (said < SLOWED_SHARE * span)
    )
    if 2 * slowed.sum() > len(e.requests):
        yield Doubt(
            SUSPECT,
            f"several tokens came at a time, over {seconds(float(span[slowed].median()))}, although the server says that it wrote them "
            f"over {seconds(float(said[slowed].median()))}, in {slowed.sum()} of {len(e.requests)} requests: a gateway or the network "
            "slows answers down, so token gaps and decode speeds are not the model's",
        )


def _client_busy(e: Evidence) -> Iterator[Doubt]:
    cpu = client_cpu(e.run, e.level["index"])
    if cpu is not None and cpu > doubts.CLIENT_CPU_SHARE:
        who = "the client" if e.run.samples["file"].nunique() < 2 else "the busiest of the client's processes"
        yield Doubt(SUSPECT, f"{who} used {percent(cpu)} of a core, above {percent(doubts.CLIENT_CPU_SHARE)}")


def _beyond_capacity(e: Evidence) -> Iterator[Doubt]:
    used = client_capacity.capacity_used(e.run, e.level["index"], stamps_of(e.requests))
    if used and not used["capacity"]["at_least"] and used["capacity_share"] > 1:
        yield Doubt(
            SUSPECT,
            f"{used['busiest_chunks_per_s']} content events came in the busiest second, {percent(used['capacity_share'])} of the "
            f"{used['capacity']['chunks_per_s']:.0f} that this client measures truthfully (loadtest calibrate)",
        )


def client_cpu(run: RunData, level: int) -> float | None:
    """Return the share of a core that the client's busiest process used in a level on average; None where unknown."""
    cpu = run.samples[run.samples["level"] == level].dropna(subset=["cpu"]).groupby("file")["cpu"].mean()
    return float(cpu.max()) if len(cpu) else None


def _growing(e: Evidence) -> Iterator[Doubt]:
    if (e.level.is_open or e.level.get("rate")) and e.level.get("rate_to") is None:
        sent = e.everyone[e.everyone["send"].notna()]
        found = growth(*(sent[name].to_numpy(dtype=np.float64) for name in ("send", "end", "first_token")))
        if found is not None and found.growing:
            yield Doubt(SUSPECT, found.sentence)


def _records_lost(e: Evidence) -> Iterator[Doubt]:
    lost, read = e.run.entire.lost, len(e.run.entire.requests)
    if lost:
        share = lost / (lost + read)
        yield Doubt(
            VOID if share > doubts.LOST_RECORDS_SHARE else SUSPECT,
            f"{lost} of the run's {lost + read} records could not be read ({percent(share)})",
        )


def _not_sent(e: Evidence) -> Iterator[Doubt]:
    if count := e.run.shed(e.level["index"]):
        yield Doubt(
            SUSPECT,
            f"{count} of {len(e.measured)} requests were not sent (--max-in-flight): the figures leave out what these "
            "would have waited",
        )


def _unasked_lengths(e: Evidence) -> Iterator[Doubt]:
    literal = any(e.run.scenario.get(key) for key in ("prompt", "prompt_file", "data"))
    for said, asked_name, got_name in (("output", "asked", "output_tokens"), ("input", "asked_input", "prompt_tokens")):
        both = e.requests[[asked_name, got_name]].dropna()
        if not both[asked_name].any():
            continue
        asked, got = float(both[asked_name].mean()), float(both[got_name].mean())
        if said == "output" and literal and got < asked:
            continue  # the answer to a literal prompt has its own length; the length asked for is only a limit
        few = doubts.FEW_TOKENS * int(e.run.scenario.get("inputs_per_request") or 1) if said == "input" else 0
        if abs(got / asked - 1) > doubts.LENGTH_SHARE and abs(got - asked) > few:
            pieces = said == "output" and e.requests["token_source"].eq("chunks").all()
            unit, of = ("pieces of text", " tokens") if pieces else ("tokens", "")
            yield Doubt(
                SUSPECT, f"{said} length is not as asked: {got:.1f} {unit} a request instead of {asked:.1f}{of}"
            )


def _cut_prompt(e: Evidence) -> Iterator[Doubt]:
    context = by_slots.granted_context(e.run)
    if not context or int(e.run.scenario.get("inputs_per_request") or 1) > 1:  # the count is that of several prompts
        return
    filled = e.requests["prompt_tokens"] >= context - 1  # some servers keep one token free
    if filled.any():
        yield Doubt(
            SUSPECT,
            f"the prompt fills the context of {context} tokens in {filled.sum()} of {len(e.requests)} requests: it may be cut",
        )


def _past_context(e: Evidence) -> Iterator[Doubt]:
    context = by_slots.granted_context(e.run)
    if not context:
        return
    counted_ones = e.requests["token_source"].eq("server") & (e.requests["prompt_tokens"] < context - 1)
    # the last token of an answer need not be in the context
    passed = counted_ones & (e.requests["prompt_tokens"] + e.requests["output_tokens"] > context + 1)
    if passed.any():
        yield Doubt(
            SUSPECT,
            f"prompt and answer pass the context of {context} tokens in {passed.sum()} of {len(e.requests)} requests: the server may "
            "have dropped what was said first, to write on",
        )


def _cached(e: Evidence) -> Iterator[Doubt]:
    asked = e.run.scenario.get("warm_cache") or e.run.scenario.get("data") or e.run.shares_prefix
    if asked or e.run.has_turns or not len(e.requests):
        return  # asked for, the user's own prompts, or conversations, which are there to be cached
    prompt, cached = e.requests["prompt_tokens"], e.requests["cached_tokens"]
    said = int(((cached > CACHED_TOKENS) & (cached > CACHE_HIT * prompt)).sum())
    if said > HIT_SHARE * len(e.requests):
        yield Doubt(
            SUSPECT,
            f"the prefix cache answered unasked: in {said} of {len(e.requests)} requests the server took "
            f"{float(cached.max()):.0f} prompt tokens or fewer from it",
        )
    elif e.run.machine.server is not None and not cached.notna().any():
        span = float(e.measured["sched"].min()), float(e.measured["end"].max())
        hits, asked = (grown(e.run.machine.server, column, *span) for column in ("cached", "looked_up"))
        alone = asked <= ALONE * e.everyone["prompt_tokens"].sum()  # its counters are of everybody's requests
        if alone and hits - CACHED_TOKENS * len(e.measured) > HIT_SHARE * asked:
            yield Doubt(
                SUSPECT,
                f"the prefix cache answered unasked: the server itself counted {hits:.0f} of {asked:.0f} prompt tokens as cached",
            )
    collapsed, usual = _collapsed_prefill(e)
    if collapsed > HIT_SHARE * len(e.requests):
        yield Doubt(
            SUSPECT,
            f"prefill took less than a tenth of the usual {seconds(usual)} a token in {collapsed} of "
            f"{len(e.requests)} requests, as where a prefix cache answers, unasked",
        )


def _collapsed_prefill(e: Evidence) -> tuple[int, float]:
    """Return how many requests had a prefill per token far below the usual one, and the usual one.

    The usual one is the median or, where most are far below the first request's, the first's, which the level itself cannot
    have cached: one slow prompt among others is no measure. Both are of prompts of about the same length, for a short prompt
    takes a step at least and so far more a token. A prompt that was read beside others may have taken as long as all of
    them, so a collapsed one is also clearly below what their tokens took.
    """
    known = e.everyone[(e.everyone["llamacpp"] == 0) & (e.everyone["prompt_tokens"] > CACHED_TOKENS)]
    known = known[np.isfinite(known["prefill_s"]) & known["ok"]]
    took, tokens, end = (
        known[name].to_numpy(dtype=np.float64) for name in ("prefill_s", "prompt_tokens", "first_token")
    )
    a_token, begun = took / tokens, end - took
    opened, over = np.argsort(begun, kind="stable"), np.argsort(end, kind="stable")
    upto = [np.concatenate(([0.0], np.cumsum(tokens[order]))) for order in (opened, over)]
    beside = (
        upto[0][np.searchsorted(begun[opened], end, side="left")]
        - upto[1][np.searchsorted(end[over], begun, side="right")]
    )
    limit = np.minimum(COLLAPSED_PREFILL * a_token, CLEARLY_BELOW * took / np.maximum(beside, tokens))
    lengths = np.floor(np.log(tokens) / math.log(ALIKE_LENGTHS))
    usual, least = np.zeros(len(known)), np.zeros(len(known))
    for each in np.unique(lengths):
        mine = lengths == each
        most = np.median(a_token[mine]) < limit[mine][0]
        usual[mine], least[mine] = (one[mine][0] if most else np.median(one[mine]) for one in (a_token, limit))
    collapsed = (a_token < least) & ~known["warmup"].to_numpy(dtype=np.bool_)
    return int(collapsed.sum()), float(np.median(usual[collapsed])) if collapsed.any() else 0.0


# By cause; REMEDIES says what to do about each.
RULES: dict[str, Callable[[Evidence], Iterator[Doubt]]] = {
    **outcome_rules.OUTCOME_RULES,
    "late_sends": _late_sends,
    "client_lag": _client_lag,
    "stood_still": _stood_still,
    "unstamped": _unstamped,
    "clock_gap": _clock_gap,
    "reload": _reload,
    "coalesced": _coalesced,
    "bundled": _bundled,
    "client_busy": _client_busy,
    "beyond_capacity": _beyond_capacity,
    "growing": _growing,
    "records_lost": _records_lost,
    "not_sent": _not_sent,
    "unasked_lengths": _unasked_lengths,
    "cut_prompt": _cut_prompt,
    "past_context": _past_context,
    "cached": _cached,
}
