"""The highest concurrency and the highest rate at which a server meets its objectives, by the model of a run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.model.prediction import Prediction
from loadtest.metrics import highest
from loadtest.slo import Objective
from loadtest.text import counted, rated

MOST_PREDICTED_STREAMS = 128  # where even these meet the objectives, the answer is "at least"
RATE_PRECISION = 0.03  # of the most requests/s that the server does
STREAMS_A_SLOT = 3  # so many users keep every slot busy: their requests/s are the most that the server does


@dataclass(frozen=True, slots=True)
class SustainableLoad:
    """The highest load that meets every objective; `sure_…` is the highest whose whole band meets them."""

    objectives: tuple[Objective, ...]
    slots: int | None
    concurrency: int  # 0: one stream misses an objective
    sure_concurrency: int
    more: bool  # True: every concurrency that was tried meets them
    rate: float  # requests/s, Poisson; 0: none
    sure_rate: float
    extrapolates: str | None
    people: bool = False  # whether the users hold conversations; then no rate of single requests is given

    @property
    def sentence(self) -> str:
        """Say up to which load the objectives hold: "TTFT p95 ≤ 2 s holds up to 6 streams at once, or 1.1 requests/s"."""
        asked = " and ".join(map(str, self.objectives))
        verb = "holds" if len(self.objectives) == 1 else "hold"
        one, *several = ("person", "people") if self.people else ("stream",)
        if not self.concurrency:
            return f"not even one {one} meets {asked}"
        least = "at least " if self.more else ""
        text = (
            f"{asked} {verb} up to {least}{counted(self.concurrency, one, *several)}{'' if self.people else ' at once'}"
        )
        if self.sure_concurrency < self.concurrency:
            text += f" (surely to {self.sure_concurrency})" if self.sure_concurrency else " (though not surely)"
        if self.rate:
            text += f", or {rated(self.rate, form='.3g')}"
            sure = f" (surely {self.sure_rate:.3g})" if self.sure_rate else " (though not surely)"
            text += sure if self.sure_rate < 0.95 * self.rate else ""
        return text

    def to_dict(self) -> dict[str, Any]:
        return {
            "slots": self.slots,
            "concurrency": self.concurrency,
            "sure_concurrency": self.sure_concurrency,
            "at_least": self.more,
            "rate": self.rate,
            "sure_rate": self.sure_rate,
            "extrapolates": self.extrapolates,
            "sentence": self.sentence,
        }


def sustainable_load(
    model: ServerModel,
    objectives: Sequence[Objective],
    *,
    slots: int | None = None,
    most: int = MOST_PREDICTED_STREAMS,
    known: Mapping[int, Prediction] | None = None,
) -> SustainableLoad:
    """Find the highest concurrency of a closed loop and the highest Poisson rate that meet every objective.

    Args:
        slots: parallel slots in place of the measured ones.
        most: the highest concurrency that is tried.
        known: measured figures by concurrency, which replace predictions where they tell every objective.
    """
    asked = tuple(objectives)
    totals = [each for each in asked if not each.a_request]
    told = {  # few measured requests have no p95
        users: found
        for users, found in (known or {}).items()
        if all(math.isfinite(found.figure(each.figure, each.statistic)) for each in asked)
    }

    @functools.cache
    def closed(users: int) -> Prediction:
        return told.get(users) or model.closed(users, slots=slots)

    found = highest(lambda users: meets(closed(users), asked), most)
    sure = highest(lambda users: meets(closed(users), asked, surely=True), found) if found else 0
    rate = sure_rate = 0.0
    people = model.sessions is not None
    if found and not totals and not people:  # an open loop's total is what is sent, so it cannot be searched for
        rate, sure_rate = _highest_rates(model, asked, closed, slots, most)
    return SustainableLoad(
        objectives=asked,
        slots=slots if slots is not None else model.slots,
        concurrency=found,
        sure_concurrency=sure,
        more=found >= most,
        rate=rate,
        sure_rate=sure_rate,
        extrapolates=closed(max(found, 1)).extrapolates,
        people=people,
    )


def meets(prediction: Prediction, objectives: Sequence[Objective], *, surely: bool = False) -> bool:
    """Return whether a prediction meets every objective; `surely`: with the worse end of its band."""
    for objective in objectives:
        value = prediction.figure(objective.figure, objective.statistic)
        band = prediction.bands.get(f"{objective.figure}.{objective.statistic}")
        if surely and band is not None:
            value = band[1] if objective.at_most else band[0]
        if not objective.met(value):
            return False
    return True


def _highest_rates(
    model: ServerModel, asked: Sequence[Objective], closed: Callable[[int], Prediction], slots: int | None, most: int
) -> tuple[float, float]:
    """Return the highest rate that meets the objectives, and the highest whose band does, requests/s."""
    limit = slots if slots is not None else model.slots
    users = min(most, STREAMS_A_SLOT * limit if limit is not None else 2 * model.streams)
    top = closed(users).figure("requests_per_s", "mean")
    sent = functools.cache(lambda rate: model.open(rate, slots=slots))

    def highest_rate(high: float, *, surely: bool) -> float:
        low = 0.0
        while high - low > RATE_PRECISION * top:
            middle = (low + high) / 2
            low, high = (middle, high) if meets(sent(middle), asked, surely=surely) else (low, middle)
        return low

    found = highest_rate(top, surely=False)
    return found, highest_rate(top, surely=True) if found else 0.0
