"""Rules of the verdict on how requests ended. The limits are in doubts.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd

from loadtest import doubts
from loadtest.analyse.run.overlaps import open_within
from loadtest.analyse.verdict.evidence import Evidence
from loadtest.analyse.verdict.run_rules import RUN_RULES
from loadtest.analyse.verdict.shared_sentences import commonest, list_outcomes
from loadtest.doubts import SUSPECT, VOID, Doubt
from loadtest.records import NO_FAILURES, Outcome
from loadtest.text import counted, seconds

FEWEST_LAST = 3  # failures in a row at the end of a level, from which on the level is said to have stopped answering …
ROW_BY_CHANCE = 0.01  # … if such a row is no more probable than this, given the share that failed before


def _ended_by_itself(e: Evidence) -> pd.DataFrame:
    """Return the measured requests that loadtest did not cancel."""
    return e.measured[e.measured["outcome"] != Outcome.CANCELLED]


def _nothing_succeeded(e: Evidence, how: str) -> Iterator[Doubt]:
    """Yield a doubt of a level without an answer, whose requests were "stopped", or failed as the server was "gone", or "else"."""
    if len(e.requests):
        return
    failed = e.everyone[~e.everyone["outcome"].isin(NO_FAILURES)]
    ways = Counter(map(_how_it_failed, failed["outcome"], failed["status"], _behind_broken_ones(failed)[failed.index]))
    most = ways.most_common(1)
    if how != ("stopped" if not most else "gone" if most[0][0] == "gone" else "else"):
        return
    if how == "stopped" and not len(e.measured) and e.run.facts.get("state") != "done":
        yield Doubt(VOID, "the run ended before a request of this level counted")
        return
    if _are_warmups(e):
        return  # _only_warmups says it
    if _most_left_waiting(e):
        return  # which users do where the server is too slow for them: that was measured
    these = e.measured if len(e.measured) else e.everyone
    # A server that dies ends all answers at one instant, and one that is gone is given up after a gateway's own tries.
    apart = (
        np.ptp(these["end"]) > SHORTEST_LIMIT_S and not these["status"].isin((502, 503)).any() if len(these) else False
    )
    limit = _time_limit(e, these) if apart else None
    yield Doubt(
        VOID,
        f"no request ended well ({list_outcomes(these) or 'none was recorded'}){f'; {limit}' if limit else ''}",
    )


def _server_gone(e: Evidence) -> Iterator[Doubt]:
    yield from _nothing_succeeded(e, how="gone")
    yield from _failed(e, how="gone")


def _are_warmups(e: Evidence) -> bool:
    """Whether a level lasted no longer than its warm-up, and that not because all of it failed."""
    failed = ~e.everyone["outcome"].isin(NO_FAILURES)
    return len(e.everyone) > 0 and not len(e.measured) and (not failed.any() or bool(e.everyone["ok"].any()))


def _only_warmups(e: Evidence) -> Iterator[Doubt]:
    """Doubt a level whose requests were all warm-ups; under Locust those are all until every user has started."""
    if _are_warmups(e) and e.run.facts.get("state") == "done":
        yield Doubt(VOID, "every request of this level was a warm-up")


def _failed(e: Evidence, how: str) -> Iterator[Doubt]:
    """Doubt a level for its failed requests, where most of these failed in this way: each way asks for another remedy."""
    ended = _ended_by_itself(e)
    bad = ended[~ended["outcome"].isin((Outcome.OK, Outcome.LEFT, Outcome.CLIENT_ERROR))]
    if not len(bad) or not (len(e.requests) or _most_left_waiting(e)):
        return
    stopped = _stopped_answering(e)
    gone = _behind_broken_ones(ended)[bad.index] | (stopped is not None)
    if Counter(map(_how_it_failed, bad["outcome"], bad["status"], gone)).most_common(1)[0][0] != how:
        return
    allowed = float(e.run.scenario.get("max_error_ratio") or 0.0)
    more = "".join(f"; {more}" for more in (stopped, _time_limit(e, bad)) if more)
    yield from doubts.doubt_failed(len(bad), len(ended), list_outcomes(bad), allowed=allowed, more=more)


def _behind_broken_ones(ended: pd.DataFrame) -> pd.Series[bool]:
    """Mark what ended behind an answer that broke off or a connection that failed, and before the next success.

    An answer that goes on beside the one that broke off shows that the server lives.
    """
    order = ended.sort_values("end", kind="stable")
    good, end = order["ok"].astype(bool), order["end"].to_numpy()
    began = order["first_token"][good].to_numpy()
    broke = order["outcome"].isin(_BROKE) & (open_within(began, np.maximum(end[good] - ALIKE_S, began), end, end) == 0)
    is_behind: pd.Series[bool] = broke.astype(float).where(good | broke).ffill() == 1
    return is_behind


_BROKE = (Outcome.CONNECT_ERROR, Outcome.TRUNCATED)


def _how_it_failed(outcome: str, status: float, gone: bool) -> str:
    """Return how a request failed: the server was gone, turned it away, or was too slow; else by what its error says.

    Behind a gateway a server is gone, too, where the gateway answers in its place (`gone`): for a while, or from an instant on.
    """
    if outcome in _BROKE or (gone and status in (500, 502, 503, 504)):
        return "gone"
    if outcome == Outcome.TIMEOUT or (outcome == Outcome.HTTP_ERROR and status in (408, 499, 504, 524)):
        return "slow"
    return "away" if outcome == Outcome.HTTP_ERROR and status in (429, 503, 529) else "else"


def _most_left(e: Evidence) -> Iterator[Doubt]:
    ended = _ended_by_itself(e)
    waiting = _left_waiting(e)
    if _most_left_waiting(e):
        yield Doubt(
            SUSPECT,
            f"in {len(waiting)} of {len(ended)} requests users hung up before their first token: "
            + (
                f"speeds and whole answers are of the {counted(len(e.requests), 'other')}"
                if len(e.requests)
                else "no speed and no whole answer was measured"
            ),
        )


def _most_left_waiting(e: Evidence) -> bool:
    return len(_left_waiting(e)) >= max(doubts.FAILED_SHARE * len(_ended_by_itself(e)), 1)


def _left_waiting(e: Evidence) -> pd.DataFrame:
    """Return the measured requests whose user hung up before the first token."""
    return e.measured[(e.measured["outcome"] == Outcome.LEFT) & e.measured["first_token"].isna()]


def _stopped_answering(e: Evidence) -> str | None:
    """Say from when on every request failed; None where as many failures in a row may be chance."""
    if e.run.facts.get("state") == "interrupted":
        return None  # what failed last may have failed for that
    known = e.everyone[~e.everyone["outcome"].isin((Outcome.CANCELLED, Outcome.LEFT)) & e.everyone["outcome"].notna()]
    good = known["ok"].astype(bool)
    since = float(known["end"][good].max())
    after = known["end"] > since
    before = int((~good & ~after).sum()) / int((~after).sum())
    count = int(after.sum())
    if count < FEWEST_LAST or before**count > ROW_BY_CHANCE:
        return None
    began = float(e.everyone["sched"].min())
    return f"no request succeeded after {seconds(since - began)} of this level, the last {count} all failed"


def _client_error(e: Evidence) -> Iterator[Doubt]:
    bad = e.everyone[e.everyone["outcome"] == Outcome.CLIENT_ERROR]
    if len(bad):
        said = commonest(bad["error"])
        words = f": {said[0]}" if said else ""
        yield Doubt(VOID, f"loadtest itself failed over {len(bad)} of {len(e.everyone)} requests{words}")


def _connection_wait(e: Evidence) -> Iterator[Doubt]:
    """Doubt a level in which requests waited for a place among the connections; see Pool."""
    count = sum(doubts.CONNECTION_WAIT in each for each in e.everyone["doubts"])
    if count:
        yield Doubt(SUSPECT, f"{count} of {len(e.everyone)} answers: {doubts.CONNECTION_WAIT}")


STUCK_SHARE = 0.5  # of the measurement, through which a user who was stuck waited …
STUCK_FACTOR = 2.0  # … and this many times the longest wait that counts


def _stuck(e: Evidence) -> Iterator[Doubt]:
    """Doubt a level through most of which users waited with a request that no figure counts: a warm-up, or one that we stopped."""
    until = e.everyone["first_token"].fillna(e.everyone["end"])
    uncounted = e.everyone["warmup"].astype(bool) | (e.everyone["outcome"] == Outcome.CANCELLED)
    begin, end = e.everyone["send"][~uncounted].min(), e.everyone["end"][~uncounted].max()
    waited = until - e.everyone["send"]
    longest = float(waited[~uncounted].max())
    inside = np.minimum(until, end) - np.maximum(e.everyone["send"], begin)
    stuck = uncounted & (inside > STUCK_SHARE * (end - begin)) & (waited > STUCK_FACTOR * longest)
    if stuck.any():
        count, streams = int(stuck.sum()), e.level.get("concurrency")
        yield Doubt(
            VOID if streams and 2 * count >= streams else SUSPECT,
            f"{counted(count, 'request')} that no figure counts (warm-up, or stopped) waited for a first token through most of the "
            f"measurement, up to {seconds(float(waited[stuck].max()))}, and no other longer than {seconds(longest)}: the figures are of "
            "the users who were let through",
        )


def _from_cache(e: Evidence) -> Iterator[Doubt]:
    """Doubt answers of a cache; where it gave half or more, the level's figures are none of the server's."""
    cached = [each for said in e.measured["doubts"] for each in said if each.startswith(doubts.FROM_CACHE)]
    if cached:
        severity = VOID if 2 * len(cached) >= len(e.measured) else SUSPECT
        yield Doubt(severity, f"{len(cached)} of {len(e.measured)} answers: {commonest(cached)[0]}")


def _doubted(e: Evidence) -> Iterator[Doubt]:
    apart = (doubts.CONNECTION_WAIT, doubts.FROM_CACHE)  # these have rules of their own
    said = [[doubt for doubt in dict.fromkeys(each) if not doubt.startswith(apart)] for each in e.measured["doubts"]]
    found = commonest(doubt for each in said for doubt in each)
    if found:
        odd = sum(map(bool, said))
        more = f" ({odd} are doubtful in all, for {len(found)} reasons)" if len(found) > 1 else ""
        yield Doubt(SUSPECT, f"{found[0].count} of {len(e.measured)} answers: {found[0]}{more}")


def _slow_send(e: Evidence) -> Iterator[Doubt]:
    took = e.values("send_s")
    if len(took):
        yield from doubts.doubt_send(float(np.quantile(took, 0.99)), e.lag_limit)


def _without_text(e: Evidence) -> Iterator[Doubt]:
    """Doubt answers without text, in dialects whose answers are text."""
    ended = _ended_by_itself(e)
    silent = ended[ended["ok"].astype(bool) & (ended["chunks"] == 0) & ~ended["textless"].astype(bool)]
    has_tokens = silent["output_tokens"] >= 2
    unread, empty = silent[has_tokens], silent[~has_tokens]
    if len(unread) > doubts.NOT_UNDERSTOOD_SHARE * len(ended):
        yield Doubt(
            VOID,
            f"in {len(unread)} of {len(ended)} answers the server counted {float(unread['output_tokens'].mean()):.3g} tokens "
            f"each on average, and loadtest understood no text of them{_finish_reason(unread)}",
        )
    if len(empty) > doubts.EMPTY_SHARE * len(ended):
        has_others = (ended["ok"].astype(bool) & (ended["chunks"] > 0)).any()
        known = "TTFT and speeds are of the others" if has_others else "there is no TTFT and no speed"
        yield Doubt(
            VOID if len(empty) >= doubts.EMPTY_VOID_SHARE * len(ended) else SUSPECT,
            f"{len(empty)} of {len(ended)} answers ended well without any text{_finish_reason(empty)}: {known}",
        )


def _finish_reason(requests: pd.DataFrame) -> str:
    said = commonest(requests["finish_reason"])
    return f" (finish_reason {said[0].sentence})" if said and said[0].count == len(requests) else ""


FEWEST_CUT = 3  # failed requests, from which on one time after which they ended is named
NEARLY_ALL = 0.9
SHORTEST_LIMIT_S = 0.9  # limits of gateways are of whole seconds; shorter ones look like any other failure
ALIKE_S, ALIKE_SHARE = 0.1, 0.02  # by which the times differ at most
GAVE_UP = (408, 499, 502, 503, 504, 524)  # statuses with which a gateway says that it waited long enough


def _time_limit(e: Evidence, bad: pd.DataFrame) -> str | None:
    """Say that nearly all of the failed requests ended after the same time, as a time limit of a gateway or proxy ends them.

    None where they did not, or others went on longer.
    """
    by_gateway = (bad["outcome"] == Outcome.HTTP_ERROR) & bad["status"].isin(GAVE_UP)
    cut = bad[((bad["outcome"] == Outcome.TRUNCATED) | by_gateway) & bad["send"].notna()]
    if len(cut) < max(FEWEST_CUT, NEARLY_ALL * len(bad)):
        return None
    found = []
    silent = "it was sent, without a token" if cut["last"].isna().all() else "its last token, or its sending"
    for since, others, what in (
        (cut["send"], e.requests["end"] - e.requests["send"], "it was sent"),
        (cut["last"].fillna(cut["send"]), e.requests["ttft_s"], silent),
    ):
        took = (cut["end"] - since).to_numpy(dtype=np.float64)
        limit = float(np.median(took))
        scatter, allowed = np.abs(took - limit), max(ALIKE_S, ALIKE_SHARE * limit)
        alike = limit >= SHORTEST_LIMIT_S and (scatter <= allowed).mean() >= NEARLY_ALL
        if alike and not (others > limit + allowed).any():
            found.append((float(scatter.mean()), limit, what, bool((scatter <= allowed).all())))
    if not found:
        return None
    _, limit, what, every = min(found)
    who = "each" if every and len(cut) == len(bad) else "nearly each"
    return f"{who} of these ended about {seconds(limit)} after {what}, as by a time limit of a gateway on the way or of the server"


OUTCOME_RULES: dict[str, Callable[[Evidence], Iterator[Doubt]]] = {
    "nothing_succeeded": partial(_nothing_succeeded, how="else"),
    "none_ended": partial(_nothing_succeeded, how="stopped"),
    "only_warmups": _only_warmups,
    "client_error": _client_error,
    "server_gone": _server_gone,
    "turned_away": partial(_failed, how="away"),
    "too_slow": partial(_failed, how="slow"),
    "too_many_failed": partial(_failed, how="else"),
    "most_left": _most_left,
    **RUN_RULES,
    "without_text": _without_text,
    "connection_wait": _connection_wait,
    "stuck": _stuck,
    "from_cache": _from_cache,
    "doubted": _doubted,
    "slow_send": _slow_send,
}
