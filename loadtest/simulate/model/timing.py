"""How long the modelled engine takes: its step law, its prefill speed and its fixed costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

NS_PER_S = 1_000_000_000
SLICED, BEFORE, BESIDE = "sliced", "before", "beside"


@dataclass(frozen=True, slots=True)
class StepLaw:
    """Seconds that one pass takes to give each of B streams its next token.

    Either the line base_s + per_stream_s · B, or a table of (B, values), of whose observed step times each step draws one.
    The table is there because the law of real engines is often not a line. Where its values stand in the order in which they
    were observed (`in_order`), steps take them in that order, from a place drawn anew now and then (the stationary bootstrap
    of Politis and Romano, 1994): slow steps come in spells, and an answer that falls into one is slow as a whole.
    """

    base_s: float = 0.0
    per_stream_s: float = 0.0
    table: tuple[tuple[int, tuple[float, ...]], ...] = ()
    in_order: bool = False

    def values(self, streams: int) -> tuple[float, ...]:
        """Return the step times to draw from while `streams` decode; (0.0,) without any.

        Between the table's entries their means are interpolated; past its end the last slope continues, unless it falls.
        """
        if streams == 0:
            return (0.0,)
        if not self.table:
            return (self.base_s + self.per_stream_s * streams,)
        for entry, values in self.table:
            if entry == streams:
                return values
        means = sorted((entry, sum(values) / len(values)) for entry, values in self.table)
        if len(means) == 1 or streams < means[0][0]:
            return (means[0][1],)
        right = next((index for index, (entry, _) in enumerate(means) if entry > streams), len(means) - 1)
        (low, low_s), (high, high_s) = means[right - 1], means[right]
        slope = (high_s - low_s) / (high - low)
        if streams > high:
            return (high_s + max(slope, 0.0) * (streams - high),)
        return (low_s + slope * (streams - low),)

    def scaled(self, factor: float) -> Self:
        table = tuple((entry, tuple(value * factor for value in values)) for entry, values in self.table)
        return replace(self, base_s=self.base_s * factor, per_stream_s=self.per_stream_s * factor, table=table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Everything that decides when a token comes. Durations in seconds.

    A batch of B decoding streams and n prompt tokens of P prompts, N of them new, takes
    max(T(B) + prompt_s · N + prefill_s · n + context_prefill_s · pairs, T(B + P)): even the shortest prompt takes as long as
    a decoding stream, for the weights are read in either case. A pair is a prompt token and one of the tokens before it.
    """

    step: StepLaw
    prefill_s: float  # per uncached prompt token
    context_prefill_s: float = 0.0  # added for each token before it, that attention looks back at
    prompt_s: float = 0.0  # added for each prompt, whatever its length, in its first batch
    prompt_jitter: float = 0.0  # standard deviation of the prompts' part of a batch, as a share of it
    prompt_factors: tuple[float, ...] = ()  # in its place: factors of that part as they were observed
    restore_s: float = 0.0  # added for each token that comes back from the host cache
    context_s: float = 0.0  # added for each token of context that the decoding streams hold in all
    n_batch: int | None = 512  # prompt tokens in a batch; None for all that wait (Ollama before 0.4 did not interleave)
    load_s: float = 0.0  # reading the model
    handling_s: float = 0.001  # request read → queued for a slot: load_duration of a warm model
    handover_s: float = 0.002  # slot won → seen by the batch loop
    handovers: tuple[float, ...] = ()  # in its place: such times as they were observed
    # from a batch's end to the next batch where a waiting stream got a slot meanwhile: times as observed, and all streams wait
    # so long; () for none known: such a stream is handed over as any other
    relays: tuple[float, ...] = ()
    caught: float = 0.0  # chance that a stream that gets a slot while others run is in the very next batch
    apart: float = 0.0  # chance that of streams ready at the same instant one misses the idle loop's first batch
    jitter: float = 0.0  # standard deviation of a batch's time, as a share of it
    neighbours: bool = False  # a pass for each run of neighbouring slots, as llama.cpp splits its batches
    prefill_way: str = SLICED  # how prompts are evaluated: SLICED into steps, BEFORE the next step, or BESIDE the steps
    # no steps: each stream gets its next token a step time after its last; prompts go on beside
    own_clocks: bool = False
    # with own_clocks: tokens come at whole step times, so that those of all streams come together
    aligned: bool = False
    beside_s: float = 0.0  # by which a prompt takes longer for each other request at work; with own_clocks alone
    # tokens of prompts and answers that all requests at work may hold; None: no such limit
    kv_tokens: int | None = None

    def scaled(self, factor: float) -> Self:
        """Return the same engine with every time multiplied by `factor` (1/speed)."""
        return replace(
            self,
            step=self.step.scaled(factor),
            prefill_s=self.prefill_s * factor,
            context_prefill_s=self.context_prefill_s * factor,
            prompt_s=self.prompt_s * factor,
            restore_s=self.restore_s * factor,
            beside_s=self.beside_s * factor,
            context_s=self.context_s * factor,
            load_s=self.load_s * factor,
            handling_s=self.handling_s * factor,
            handover_s=self.handover_s * factor,
            handovers=tuple(value * factor for value in self.handovers),
            relays=tuple(value * factor for value in self.relays),
        )


def pass_sizes(slots: Sequence[int]) -> list[int]:
    """Return how many streams each pass over a batch takes where a pass takes neighbouring slots alone.

    llama.cpp puts only consecutive slots into one pass: slots 0 and 2 take two passes of one stream, slots 0 and 1 one of
    two. Seen on Ollama 0.33: two streams at 23.5 or 40 ms a token, three at 25 or 45 ms.
    """
    # slots that follow one another are all as far from their place in the order
    return list(Counter(slot - place for place, slot in enumerate(sorted(slots))).values())
