"""The law of what a prompt costs, fitted to prompts whose times are known.

A prompt costs fixed + per_token · tokens. Attention makes each token dearer by the tokens before it, so that a long prompt
costs more than its share: where prompts' lengths are far enough apart to show it, context · (pairs of tokens) is fitted, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from loadtest.analyse.figures.intervals import robust_deviation, t_quantile
from loadtest.analyse.run import FloatArray, evenly
from loadtest.metrics import Interval

Tokens = TypeVar("Tokens", float, FloatArray)

FEWEST_PROMPTS = 3  # that give a speed
FEWEST_TO_SPLIT = 8  # prompts of different lengths, from which on the fixed part is fitted too
LEAST_LENGTH_RATIO = 2.0  # longest / shortest prompt, for the fixed part to show
ABOVE_LEAST = 1.02  # of a step: a prompt that costs less is hidden behind the step, and tells nothing
HIDDEN = 1.3  # of a step: where the usual prompt takes less, times show the step rather than the prompt's speed
MOST_FITTED = 1500  # prompts; more do not change the fit
HOLDS_FACTOR, HOLDS_SHARE = 1.5, 2 / 3  # a law holds that gives back the times of so many prompts within such a factor
LEAST_PREFILL_ERROR = 0.005  # share of the speed that its error is never taken to be below
MOST_JITTER = 0.3
OUTLYING = 4.0  # times the median deviation, to which a larger one is cut
NARROWED = 3  # times that a further part of the law is searched for between the neighbours of the best value so far
LEAST_GAIN = 8.0  # F of a further part of the law, which has to improve the fit by more: by chance 1 in 100 does
FEWEST_FACTORS, MOST_FACTORS = 8, 400  # prompts that show how times scatter, and factors that are kept, evenly by rank
FARTHEST = 1.1  # logarithm of a factor: a prompt takes a third to three times of what the law says, at most
# by which a token may get dearer with each token before it, as shares of the first
GROWTHS = np.geomspace(1e-4, 1e-2, 10)


@dataclass(frozen=True, slots=True)
class Prefill:
    """A prompt costs fixed_s + per_token_s · uncached prompt tokens, as `n` prompts showed that overlapped no other.

    Where `context_s` is known, that holds for prompts of the usual lengths, and `seconds` says what others cost.
    """

    per_token_s: float
    ci95: Interval
    fixed_s: float
    n: int
    method: str
    jitter: float = 0.0  # standard deviation of prompts' times as a share of them
    n_batch: int | None = 512  # prompt tokens that a batch takes; None: no limit
    factors: tuple[float, ...] = ()  # prompts' times as shares of what the model says, where enough were seen
    # whether it gives back the prompts that had the server to themselves; None: there were none
    holds: bool | None = True
    least: bool = False  # whether no more is known than the least speed, of prompts that had the server to themselves
    context_s: float = 0.0  # by which each token costs more for each token before it, where prompts show that
    before: float = 0.0  # tokens before a token of these prompts, on average
    one_length: float | None = None  # uncached tokens of a prompt of the run, where all have about as many

    @property
    def bare_s(self) -> float:
        """What a token costs with none before it."""
        return self.per_token_s - self.context_s * self.before

    def seconds(self, tokens: Tokens) -> Tokens:
        """Return what prompts of so many uncached tokens cost."""
        return self.fixed_s + self.bare_s * tokens + self.context_s * pairs(tokens)

    def to_dict(self) -> dict[str, object]:
        found = {name: value for name, value in asdict(self).items() if name not in ("jitter", "factors")}
        return {**found, "ci95": list(self.ci95)}


def pairs(tokens: Tokens) -> Tokens:
    """Return how often a token of a prompt looks back at one before it."""
    return tokens * tokens / 2


@dataclass(frozen=True, slots=True)
class _Prompts:
    """What is fitted, one entry per prompt or group: seconds, and tokens evaluated."""

    tokens: FloatArray
    spent: FloatArray
    shared: FloatArray
    least: FloatArray

    def log_ratio(self, slope: float | FloatArray, fixed: float) -> FloatArray:
        """Return ln(spent / model): the error of a time is a share of it."""
        model = np.maximum(self.shared + fixed + slope * self.tokens, self.least)
        return np.log(self.spent / np.maximum(model, 1e-9))

    def best_slope(self, fixed: float) -> tuple[float, float]:
        """Return the seconds per token with the least loss, and that loss: a sum of squares, large deviations cut.

        The loss is flat where prompts are hidden behind `least`, so it is searched on a grid that narrows around its best.
        """
        high = 2 * float(np.max(self.spent / self.tokens))
        low, slope, loss = high * 1e-4, 0.0, 0.0
        for _ in range(4):
            grid = np.geomspace(low, high, 60)
            off = np.abs(self.log_ratio(grid[:, None], fixed))
            losses = (np.minimum(off, OUTLYING * np.median(off, axis=1, keepdims=True) + 1e-3) ** 2).sum(axis=1)
            index = int(np.argmin(losses))
            slope, loss = float(grid[index]), float(losses[index])
            low, high = grid[max(index - 1, 0)], grid[min(index + 1, 59)]
        return slope, loss

    def best_fixed(self) -> float:
        """Return what a prompt takes besides its tokens, where that is worth a part of the law."""
        usual = float(np.median(self.spent - self.shared))
        tries = usual * np.array([0.02, 0.04, 0.06, *np.linspace(0.1, 0.95, 18), 0.98])
        return self._worth_having(lambda fixed: self.best_slope(fixed)[1], tries, partial(np.linspace, num=9))

    def best_growth(self, looks: FloatArray) -> float:
        """Return by which share of a token's cost each look back costs, where that is worth a part of the law."""

        def loss(growth: float) -> float:
            return replace(self, tokens=self.tokens + growth * looks).best_slope(0.0)[1]

        return self._worth_having(loss, GROWTHS, partial(np.geomspace, num=7))

    def _worth_having(
        self, loss: Callable[[float], float], tries: FloatArray, between: Callable[[float, float], FloatArray]
    ) -> float:
        """Return the value of a further part of the law that has the least loss; 0 where the part is not worth having.

        The values tried are `tries`, then those `between` the neighbours of the best one. A part is not worth having where
        prompts are few or alike, or where it improves the fit by less than LEAST_GAIN.
        """
        if not tells_fixed(self.tokens):
            return 0.0
        losses = [loss(value) for value in tries.tolist()]
        for _ in range(NARROWED):
            index = int(np.argmin(losses))
            tries = between(tries[max(index - 1, 0)], tries[min(index + 1, len(tries) - 1)])
            losses = [loss(value) for value in tries.tolist()]
        index = int(np.argmin(losses))
        gained = loss(0.0) - losses[index]
        return float(tries[index]) if gained > LEAST_GAIN * losses[index] / max(len(self.tokens) - 2, 1) else 0.0


def tells_fixed(tokens: FloatArray) -> bool:
    """Whether prompts are many and different enough to tell what one takes besides its tokens."""
    return len(tokens) >= FEWEST_TO_SPLIT and bool(tokens.max() >= LEAST_LENGTH_RATIO * tokens.min())


def fit_prefill(
    tokens: FloatArray,
    spent: FloatArray,
    shared: FloatArray,
    least: FloatArray,
    method: str,
    n_batch: int | None,
    looks: FloatArray | None = None,
) -> Prefill:
    """Fit spent = max(shared + the law, least), all in seconds; see the module's docstring.

    `looks`: how often tokens look back at others before them; None where not all of those are known.
    """
    looks = np.zeros(len(tokens)) if looks is None else looks
    few = evenly(len(tokens), MOST_FITTED)
    tokens, spent, shared, least, looks = (each[few] for each in (tokens, spent, shared, least, looks))
    prompts = _Prompts(tokens, spent, shared, least)
    growth, counted = prompts.best_growth(looks) if looks.any() else 0.0, float(tokens.sum())
    tokens = tokens + growth * looks
    prompts = replace(prompts, tokens=tokens)
    fixed = prompts.best_fixed()
    slope, _ = prompts.best_slope(fixed)
    off = prompts.log_ratio(slope, fixed)
    model = spent * np.exp(-off)
    spread = robust_deviation(off)
    visible = shared + fixed + slope * tokens > least * ABOVE_LEAST
    n = int(visible.sum())
    if n < FEWEST_PROMPTS:
        bound = float(np.median((least - shared) / tokens))
        method = "no prompt took longer than a token: taken as half of what that allows"
        return Prefill(
            bound / 2, (0.0, bound), 0.0, n, method, jitter=min(spread, MOST_JITTER), n_batch=n_batch, least=True
        )
    seen = tokens[visible], spent[visible], shared[visible], model[visible]
    slope, fixed, half = _of_means(*seen, slope, fixed)
    off = prompts.log_ratio(slope, fixed)
    usual = float(tokens.sum()) / counted  # of the cost of a token with none before it
    return Prefill(
        per_token_s=slope * usual,
        ci95=(max(slope - half, 0.0) * usual, (slope + half) * usual),
        fixed_s=fixed,
        n=n,
        method=method,
        jitter=min(spread, MOST_JITTER),
        n_batch=n_batch,
        factors=_observed_factors(off[visible]),
        holds=bool((np.abs(off[visible]) <= math.log(HOLDS_FACTOR)).mean() >= HOLDS_SHARE),
        least=bool(np.median(shared + fixed + slope * tokens - HIDDEN * least) < 0),
        context_s=slope * growth,
        before=float(looks.sum()) / counted if growth else 0.0,
    )


def _of_means(
    tokens: FloatArray, spent: FloatArray, shared: FloatArray, model: FloatArray, slope: float, fixed: float
) -> tuple[float, float, float]:
    """Return the law that gives back mean times, and the half width of the 95 % interval of its seconds per token.

    The fit to logarithms, which cuts what lies far off, tells which times are no prompt's. Least squares of shares of all others
    are surer, and give back the mean: that of logarithms is too low by half the variance.
    """
    near = np.abs(np.log(spent / model)) <= FARTHEST
    design = np.column_stack((tokens, np.ones(len(tokens)))[: 2 if fixed else 1])[near] / model[near, None]
    freedom = int(near.sum()) - design.shape[1]
    found, square, rank, _ = np.linalg.lstsq(design, ((spent - shared) / model)[near], rcond=None)
    if freedom < 1 or rank < design.shape[1] or found.min() <= 0:
        return slope, fixed, slope
    error = math.sqrt(float(square[0]) / freedom * float(np.linalg.inv(design.T @ design)[0, 0]))
    slope = float(found[0])
    half = t_quantile(freedom) * math.hypot(error, LEAST_PREFILL_ERROR * slope)
    return slope, float(found[1]) if fixed else 0.0, half


def _observed_factors(off: FloatArray) -> tuple[float, ...]:
    """Return spent / model of prompts, given as logarithms, for predictions to draw from; () where they are few.

    What a normal distribution with their spread leaves out is the slow ones, which make p95.
    """
    if len(off) < FEWEST_FACTORS:
        return ()
    kept = np.sort(np.clip(off, -FARTHEST, FARTHEST))
    ranks = np.linspace(0, len(kept) - 1, min(MOST_FACTORS, len(kept))).round().astype(np.int64)
    return tuple(np.exp(kept[ranks]).tolist())
