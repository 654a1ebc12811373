"""Whether failed requests were all cut off after one time, as a time limit of a gateway on the way or of the server does it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from loadtest.analyse.verdict.evidence import Evidence
from loadtest.records import Outcome
from loadtest.text import seconds

FEWEST_CUT = 3
NEARLY_ALL = 0.9
SHORTEST_S = 0.9  # limits of gateways are of whole seconds; shorter ones look like any other failure
ALIKE_S, ALIKE_SHARE = 0.1, 0.02  # by which the times differ at most
LATER = (408, 499, 502, 503, 504, 524)  # statuses with which a gateway says that it waited long enough


def time_limit(e: Evidence, bad: pd.DataFrame) -> str | None:
    """Say that nearly all of the failed requests ended after the same time; None where they did not, or others went on longer."""
    cut = bad[
        (bad["outcome"] == Outcome.TRUNCATED) | ((bad["outcome"] == Outcome.HTTP_ERROR) & bad["status"].isin(LATER))
    ]
    cut = cut[cut["send"].notna()]
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
        alike = limit >= SHORTEST_S and (scatter <= allowed).mean() >= NEARLY_ALL
        if alike and not (others > limit + allowed).any():
            found.append((float(scatter.mean()), limit, what, bool((scatter <= allowed).all())))
    if not found:
        return None
    _, limit, what, every = min(found)
    who = "each" if every and len(cut) == len(bad) else "nearly each"
    return f"{who} of these ended about {seconds(limit)} after {what}, as by a time limit of a gateway on the way or of the server"
