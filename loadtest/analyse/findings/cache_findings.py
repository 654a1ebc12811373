"""What the run shows of the prefix cache: what it spares, how many conversations it keeps, and what lost ones cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run import BoolArray, LevelData, grouped, name_among
from loadtest.analyse.server.prompt_cache.cache import CacheUse
from loadtest.analyse.server.prompt_cache.cache_replay import CacheReplay, is_paged
from loadtest.analyse.server.queue.waits import INFERRED, UNKNOWN
from loadtest.analyse.summary import Analysis
from loadtest.text import capitalised, counted, listed, percent, seconds, shown

KEPT, LOST = 0.9, 0.1  # share of later turns that find their history cached: from KEPT on all do, up to LOST none does
KEPT_ALONE = 0.5  # share of later turns, from which on slots alone would have kept most
# Share of the history: up to NOTHING cached is none of it, up to LITTLE read again is little.
NOTHING, LITTLE = 0.1, 0.05
LEAST_SHARED = 64  # tokens; a chat template's own beginning is no text that conversations share
LEAST_CACHED = 0.1  # of the prompt tokens, or between two loads, from which on a share is worth a sentence
FEWEST_TURNS = 5  # later turns of a level, from which on a share of them is worth a sentence


def cache_findings(analysis: Analysis) -> list[Finding]:
    """Return what a run shows of the prefix cache, at most two findings; nothing where nothing was cached."""
    use, run = analysis.cache, analysis.run
    sent = run.fact("sent_before")
    if may_be_warm(analysis) and (sent or not run.has_turns):
        before = f"Prompts may begin alike or come again (--{'data' if run.fact('scenario', 'data') else 'warm-cache'})"
        before = f"Prompts of this seed were sent to this model before, by {shown(str(sent))}" if sent else before
        warm = "the server does not say what it had cached: TTFT may be that of a warm prefix cache"
        return [Finding(f"{before}, and {warm}.")]
    if use is None:
        return []
    if not run.has_turns:
        return _of_single_requests(analysis, use)
    if use.source == UNKNOWN:
        how = "vLLM says it where it is started with --enable-prompt-tokens-details." if is_paged(run) else ""
        return [Finding(f"How much of each conversation the server had cached is not known ({use.method}).", how)]
    shares, replayed = _kept_shares(analysis, use), analysis.replayed
    if not shares:
        return []
    found = [Finding(_claim(analysis, use, shares, replayed), _evidence(analysis, use, shares, replayed))]
    if replayed is not None and replayed.host_cache:
        restored = f" A restored turn waited {seconds(replayed.restore_s)} longer than one in its slot."
        found += [
            Finding(
                f"The server keeps more conversations than its {counted(replayed.slots, 'slot')} hold: it has a host cache, or one "
                "that is not of slots, whose size is not known.",
                f"{counted(int(replayed.restored.sum()), 'turn')} found their history cached although slots alone, replayed, had "
                f"given it up by then.{restored if replayed.restore_s else ''}",
            )
        ]
    return found


def may_be_warm(analysis: Analysis) -> bool:
    """Whether prompts were sent before or are not all new, so that a server that counts nothing may have held any in its prefix cache."""
    run = analysis.run
    if not (run.fact("sent_before") or run.fact("scenario", "data") or run.fact("scenario", "warm_cache")):
        return False
    inferred = analysis.cache is not None and analysis.cache.source != UNKNOWN
    has_ttft = np.isfinite(run.column("ttft_s")).any()  # embeddings have none
    return bool(has_ttft) and not inferred and not np.isfinite(run.column("cached_tokens")).any()


def _of_single_requests(analysis: Analysis, use: CacheUse) -> list[Finding]:
    """Say which share of the prompts was cached: prompts that begin alike or are sent again meet the cache too."""
    shares = [
        (level, float(level["cached_share"])) for level in analysis.believed if level.get("cached_share") is not None
    ]
    if not shares or max(share for _, share in shares) < LEAST_CACHED:
        return []
    least, most = (choose(shares, key=lambda one: one[1]) for choose in (min, max))
    levels = [level for level, _ in shares]
    said = f"The server had {percent(most[1])} of the prompt tokens cached at {name_among(most[0], levels)}"
    if most[1] - least[1] >= LEAST_CACHED:
        said += f", and {percent(least[1])} at {name_among(least[0], levels)}"
    elif len(shares) > 1:
        said += ", and about as much at the other loads"
    return [Finding(f"{said}: it did not read these again.", f"{capitalised(use.method)}.")]


def title(analysis: Analysis) -> str | None:
    """Return the finding without its full stop, for a chart."""
    found = cache_findings(analysis)
    return found[0].rstrip(".") if found and analysis.cache and analysis.cache.source != UNKNOWN else None


def _later(analysis: Analysis, level: LevelData, use: CacheUse) -> BoolArray:
    """Mark a level's judged later turns."""
    return np.asarray(analysis.run.good(level["index"]) & np.isfinite(use.kept), dtype=np.bool_)


def _kept_shares(analysis: Analysis, use: CacheUse) -> list[tuple[LevelData, float]]:
    """Return the believed levels, each with the share of its later turns that found their conversation cached."""
    levels = [level for level in analysis.believed if level.get("cached_share") is not None]
    rows = [(level, _later(analysis, level, use)) for level in levels]
    return [(level, float(use.kept[mine].mean())) for level, mine in rows if mine.sum() >= FEWEST_TURNS]


def _people(level: LevelData) -> str:
    users = level.get("concurrency")
    return counted(int(users), "person", "people") if users else level.load


def _claim(
    analysis: Analysis, use: CacheUse, shares: list[tuple[LevelData, float]], replayed: CacheReplay | None
) -> str:
    kept = [level for level, share in shares if share >= KEPT]
    worst, share = min(shares, key=lambda one: one[1])
    slots = f"with {counted(replayed.slots, 'slot')}" if replayed is not None else ""
    if replayed is not None and replayed.host_cache is False:
        slots += " and no host cache seen"
    if share >= KEPT:
        people = _people(max(kept, key=lambda level: level.amount))
        most = "" if len(shares) == 1 else "up to "
        told = f"{slots}{', ' if slots else ''}the conversations of {most}{people} are kept"
        return capitalised(f"{told}{_read_again(analysis, use, kept)}{_not_known_of(analysis, kept)}.")
    cost, who = _cost(analysis, use, worst), _people(worst)
    their, its = ("their whole history", "its whole history")
    if not _all_lost(analysis, use, worst):
        their, its = ("more than half of their history", "more than half of its history")
    if use.shared > LEAST_SHARED:
        cost = f" but for the {use.shared:.0f} tokens that all begin with{cost}"
    many = percent(1 - share) if use.source != INFERRED else "most" if share < 0.5 else "some"  # times tell no share
    some = f"{many} of the later turns of {who} read {their} again{cost}"
    lost = f"nearly every later turn of {who} reads {its} again{cost}" if share <= LOST else some
    if (
        replayed is not None
        and max(each for _, each in shares) <= LOST
        and (replayed.share_kept(_later(analysis, worst, use)) or 0) >= KEPT_ALONE
    ):
        though = f"though {counted(replayed.slots, 'slot')} that keep their last conversation would have kept most"
        return capitalised(f"{lost}, {though}: the server seems to keep no prompts (its prefix cache may be off).")
    before = [level for level in kept if level.amount < worst.amount]
    if not before:
        return capitalised(f"{slots}{', ' if slots else ''}{lost}.")
    people = _people(max(before, key=lambda level: level.amount))
    part = " in part" if _read_again(analysis, use, before).startswith(" in part") else ""
    return capitalised(f"{slots}{', ' if slots else ''}the conversations of {people} are kept{part}; {lost}.")


def _not_known_of(analysis: Analysis, kept: list[LevelData]) -> str:
    """Say of how many people it is not known, where there were more of them than at the levels that were judged."""
    most = max(level.amount for level in kept)
    more = sorted((level for level in analysis.believed if level.amount > most), key=lambda level: level.amount)
    if not more:
        return ""
    return f"; whether those of {_people(more[0])}{' or more' if len(more) > 1 else ''} are kept is not known"


def _read_again(analysis: Analysis, use: CacheUse, kept: list[LevelData]) -> str:
    """Say how much of what was kept turns read again all the same, such as answers that come back as other tokens.

    Of what is inferred from times nothing: a few tokens more are hidden behind a step.
    """
    if use.source == INFERRED:
        return ""
    rows = np.any([_later(analysis, level, use) for level in kept], axis=0)
    new, again, history = analysis.run.column("prompt_tokens") - use.history, use.reread, use.history
    little = (again <= np.maximum(LITTLE * history, new / 2))[rows]
    if little.mean() >= KEPT:
        return ": each turn reads little more than its new text"
    return (
        f" in part: later turns read {percent(float(again[rows].sum() / history[rows].sum()))} of their history again"
    )


def _all_lost(analysis: Analysis, use: CacheUse, level: LevelData) -> bool:
    """Whether the turns that did not find their conversation found hardly anything of it."""
    lost = _later(analysis, level, use) & (use.kept == 0)
    return bool((use.cached[lost] - use.shared <= NOTHING * (use.history[lost] - use.shared)).mean() >= KEPT)


def _cost(analysis: Analysis, use: CacheUse, worst: LevelData) -> str:
    """Say how long the turns that lost their history took, instead of those that found it."""
    run = analysis.run
    every = np.any([_later(analysis, level, use) for level in analysis.levels], axis=0)
    for column, name in (("prefill_s", "prefill"), ("ttft_s", "TTFT")):
        values = run.column(column)
        lost = values[_later(analysis, worst, use) & (use.kept == 0) & np.isfinite(values)]
        kept = values[every & (use.kept == 1) & np.isfinite(values)]
        if len(lost) >= FEWEST_TURNS and len(kept) >= FEWEST_TURNS and np.median(lost) > np.median(kept):
            return f" ({name} {seconds(float(np.median(lost)))} instead of {seconds(float(np.median(kept)))} in the median)"
    return ""


def _evidence(
    analysis: Analysis, use: CacheUse, shares: list[tuple[LevelData, float]], replayed: CacheReplay | None
) -> str:
    behind = f" behind the {use.shared:.0f} tokens that all begin with" if use.shared > LEAST_SHARED else ""
    said = f"{capitalised(use.method)}. Of the later turns {_by_people(shares)} found at least half of their history{behind} in the cache."
    if replayed is not None and replayed.host_cache is not True:
        alone = [(level, replayed.share_kept(_later(analysis, level, use))) for level, _ in shares]
        told = _by_people([(level, share) for level, share in alone if share is not None])
        if told:
            said += f" Slots that each keep their last conversation, replayed with these requests, keep {told}."
    if is_paged(analysis.run):
        said += " vLLM keeps prompts in pages of one cache and not by slot; that is not modelled."
    elif replayed is None:
        said += " How many slots the server has is not known, so nothing is said of how many conversations it can keep."
    return said


def _by_people(shares: Sequence[tuple[LevelData, float]]) -> str:
    """List shares by the number of people; a search measures some numbers twice."""
    in_order = sorted(shares, key=lambda one: one[0].amount)
    found = grouped((_people(level), percent(share)) for level, share in in_order)
    return listed([f"{listed(list(dict.fromkeys(each)))} with {people}" for people, each in found.items()])
